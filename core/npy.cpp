#include "core/npy.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <cstring>
#include <limits>
#include <string_view>
#include <vector>

#include "core/half.h"

namespace flare {
namespace {

static_assert(std::endian::native == std::endian::little, "element bytes are copied from little-endian files as they are");

constexpr int64_t kMaxHeaderBytes = 1'000'000;

/// Reads the Python literal of a header, {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }, and nothing more general.
class HeaderParser {
 public:
  HeaderParser(std::string_view text, const std::string& name) : text_(text), name_(name) {}

  NpyHeader parse() {
    NpyHeader header;
    bool has_descr = false, has_order = false, has_shape = false;
    expect('{');
    while (!accept('}')) {
      const std::string key = string();
      bool* seen = key == "descr" ? &has_descr : key == "fortran_order" ? &has_order : key == "shape" ? &has_shape : nullptr;
      if (!seen) fail(cat("has the unknown key ", quoted(key)));
      if (*seen) fail(cat("has the key ", quoted(key), " twice"));
      *seen = true;
      expect(':');
      if (key == "descr") header.descr = descr();
      if (key == "fortran_order") header.fortran_order = boolean();
      if (key == "shape") header.shape = shape();
      if (!accept(',')) {
        expect('}');
        break;
      }
    }
    skip_space();
    if (at_ != text_.size()) fail("has something after the dictionary");
    if (!has_descr || !has_order || !has_shape) fail("lacks one of 'descr', 'fortran_order', 'shape'");
    return header;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw DataError(cat(name_, ": the .npy header ", what, " (at byte ", at_, "); save the array again with numpy.save"));
  }
  void skip_space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || (text_[at_] >= '\t' && text_[at_] <= '\r'))) ++at_;
  }
  bool accept(char c) {
    skip_space();
    if (at_ == text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  void expect(char c) {
    if (!accept(c)) fail(cat("should have '", c, "'"));
  }
  bool accept_word(std::string_view word) {
    skip_space();
    if (!text_.substr(at_).starts_with(word)) return false;
    at_ += word.size();
    return true;
  }
  std::string string() {
    const char quote = accept('\'') ? '\'' : accept('"') ? '"' : '\0';
    if (!quote) fail("should have a string");
    const size_t end = text_.find(quote, at_);
    if (end == std::string_view::npos) fail("has a string without end");
    const std::string_view content = text_.substr(at_, end - at_);
    if (content.find('\\') != std::string_view::npos) fail("has an escape in a string");
    at_ = end + 1;
    return std::string(content);
  }
  std::string descr() {
    skip_space();
    if (at_ < text_.size() && (text_[at_] == '[' || text_[at_] == '(')) {
      throw DataError(cat(name_, ": structured arrays are not supported; save each field as its own array"));
    }
    return string();
  }
  bool boolean() {
    if (accept_word("True")) return true;
    if (!accept_word("False")) fail("should have True or False");
    return false;
  }
  Shape shape() {
    Shape dims;
    bool has_comma = true;
    expect('(');
    while (!accept(')')) {
      if (!has_comma) fail("lacks a comma in 'shape'");
      skip_space();
      int64_t extent = 0;
      const auto [end, error] = std::from_chars(text_.data() + at_, text_.data() + text_.size(), extent);
      if (error == std::errc::result_out_of_range) fail("has an extent in 'shape' that is too large");
      if (error != std::errc() || extent < 0) fail("should have extents >= 0 in 'shape'");
      at_ = static_cast<size_t>(end - text_.data());
      if (at_ < text_.size() && text_[at_] == 'L') ++at_;  // long integers of Python 2
      check<DataError>(dims.ndim() < kMaxDims, name_, ": the array has more than ", kMaxDims, " axes; reshape it");
      dims.push_back(extent);
      has_comma = accept(',');
    }
    if (dims.ndim() == 1 && !has_comma) fail("has a number in parentheses, not a tuple, as 'shape'");
    return dims;
  }

  std::string_view text_;
  const std::string& name_;
  size_t at_ = 0;
};

/// Fills in what descr means.
void interpret_descr(NpyHeader& h, const std::string& name) {
  std::string_view code = h.descr;
  const char order = !code.empty() && std::string_view("<>|=").find(code[0]) != std::string_view::npos ? code[0] : '=';
  if (!code.empty() && code[0] == order) code.remove_prefix(1);
  check<DataError>(!code.starts_with('O'), name,
                   ": holds Python objects, which would need unpickling; save it with a numeric dtype");
  struct Known {
    std::string_view code;
    DType dtype;
  };
  constexpr Known kKnown[] = {{"f2", DType::f32}, {"f4", DType::f32}, {"f8", DType::f64}, {"i4", DType::i32},
                              {"i8", DType::i64}, {"u1", DType::u8},  {"b1", DType::u8}};
  for (const Known& known : kKnown) {
    if (code != known.code) continue;
    h.kind = code[0];
    h.item_size = code[1] - '0';
    h.dtype = known.dtype;
    h.big_endian = order == '>' && h.item_size > 1;
    check<DataError>(order != '|' || h.item_size == 1, name, ": dtype ", quoted(h.descr), " states no byte order");
    return;
  }
  throw DataError(cat(name, ": dtype ", quoted(h.descr),
                      " is not supported; convert with .astype() to float16, float32, float64, int32, ", "int64, uint8 or bool"));
}

/// Product of the extents in bytes, or -1 when it overflows. Zero extents do not hide an absurd neighbour, because strides are
/// products as well.
int64_t checked_bytes(const Shape& shape, int64_t item_size) {
  int64_t product = item_size;
  bool is_empty = false;
  for (int64_t d : shape) {
    if (d > 0 && product > std::numeric_limits<int64_t>::max() / d) return -1;
    product *= std::max<int64_t>(d, 1);
    is_empty |= d == 0;
  }
  return is_empty ? 0 : product;
}

template <class U> U load(const std::byte* p, bool swap) {
  U value;
  std::memcpy(&value, p, sizeof value);
  if (swap) {
    std::byte* bytes = reinterpret_cast<std::byte*>(&value);
    std::reverse(bytes, bytes + sizeof value);
  }
  return value;
}
float decode_half(uint16_t bits) { return half_to_float(bits); }
uint8_t decode_bool(uint8_t value) { return value != 0; }
template <class U> U keep_bits(U bits) { return bits; }

/// Writes all elements in row-major order; Stored is an unsigned integer as wide as a stored element.
template <class Stored, class Out, class Decode>
void decode_elements(const std::byte* source, const NpyHeader& h, Out* out, Decode decode) {
  const int64_t n = h.shape.numel();
  if (!h.fortran_order) {
    for (int64_t i = 0; i < n; ++i) out[i] = decode(load<Stored>(source + i * static_cast<int64_t>(sizeof(Stored)), h.big_endian));
    return;
  }
  Shape step = h.shape, index = h.shape;  // the first axis is contiguous
  int64_t stride = 1;
  for (int a = 0; a < h.shape.ndim(); ++a) {
    step[a] = stride;
    stride *= h.shape[a];
    index[a] = 0;
  }
  int64_t at = 0;
  for (int64_t i = 0; i < n; ++i) {
    out[i] = decode(load<Stored>(source + at * static_cast<int64_t>(sizeof(Stored)), h.big_endian));
    for (int a = h.shape.ndim() - 1; a >= 0; --a) {
      at += step[a];
      if (++index[a] < h.shape[a]) break;
      at -= step[a] * h.shape[a];
      index[a] = 0;
    }
  }
}

const char* descr_of(DType dtype) {
  switch (dtype) {
    case DType::f64: return "<f8";
    case DType::f32:
    case DType::bf16: return "<f4";
    case DType::i64: return "<i8";
    case DType::i32: return "<i4";
    case DType::u8: return "|u1";
  }
  return "?";
}

/// A version 1.0 header of a multiple of 64 bytes, at least min_size.
std::string make_header(DType dtype, const Shape& shape, size_t min_size = 0) {
  std::string dims;
  for (int64_t d : shape) dims += cat(d, shape.ndim() == 1 ? "," : ", ");
  if (shape.ndim() > 1) dims.resize(dims.size() - 2);
  const std::string dict = cat("{'descr': '", descr_of(dtype), "', 'fortran_order': False, 'shape': (", dims, "), }");
  const size_t size = std::max((10 + dict.size() + 1 + 63) / 64 * 64, min_size), length = size - 10;
  std::string header("\x93NUMPY\x01\x00", 8);
  header += static_cast<char>(length & 255);
  header += static_cast<char>(length >> 8);
  header += dict;
  header.append(size - header.size() - 1, ' ');
  return header += '\n';
}

Shape with_rows(int64_t rows, const Shape& row_shape) {
  Shape shape{rows};
  for (int64_t d : row_shape) shape.push_back(d);
  return shape;
}

}  // namespace

NpyHeader parse_npy_header(std::span<const std::byte> file, const std::string& name) {
  const auto* bytes = reinterpret_cast<const unsigned char*>(file.data());
  const int64_t size = static_cast<int64_t>(file.size());
  check<DataError>(size >= 10 && std::memcmp(bytes, "\x93NUMPY", 6) == 0, name,
                   ": is not a .npy file (it does not begin with \\x93NUMPY)");
  const int major = bytes[6], minor = bytes[7];
  check<DataError>(major >= 1 && major <= 3 && minor == 0, name, ": .npy version ", major, '.', minor,
                   " is unknown; known are 1.0, 2.0, 3.0");
  const int64_t start = major == 1 ? 10 : 12;
  check<DataError>(size >= start, name, ": is truncated within the .npy header; copy or create it again");
  int64_t length = bytes[8] | bytes[9] << 8;
  if (major > 1) length |= static_cast<int64_t>(bytes[10]) << 16 | static_cast<int64_t>(bytes[11]) << 24;
  check<DataError>(length <= size - start, name, ": is truncated: the .npy header has ", length, " bytes, the file ", size,
                   "; copy or create it again");
  check<DataError>(length <= kMaxHeaderBytes, name, ": the .npy header has ", length, " bytes, more than ", kMaxHeaderBytes);

  NpyHeader h = HeaderParser({reinterpret_cast<const char*>(bytes) + start, static_cast<size_t>(length)}, name).parse();
  interpret_descr(h, name);
  h.data_offset = start + length;
  // In memory an element takes up to twice its stored size (f2); 8 bytes bounds them all.
  check<DataError>(checked_bytes(h.shape, 8) >= 0, name, ": shape ", h.shape, " overflows; the header is corrupt");
  const int64_t needed = checked_bytes(h.shape, h.item_size), present = size - h.data_offset;
  check<DataError>(present >= needed, name, ": is truncated: shape ", h.shape, " of ", quoted(h.descr), " needs ", needed,
                   " bytes of data, the file has ", present, "; copy or create it again");
  check<DataError>(present == needed, name, ": has ", present - needed, " bytes after the data of shape ", h.shape, " of ",
                   quoted(h.descr), "; save the array again");
  return h;
}

Tensor parse_npy(std::span<const std::byte> file, const std::string& name) {
  const NpyHeader h = parse_npy_header(file, name);
  const Tensor out = Tensor::empty(h.shape, h.dtype);
  const std::byte* source = file.data() + h.data_offset;
  const bool is_plain = !h.fortran_order && !h.big_endian && h.item_size == size_of(h.dtype) && h.kind != 'b';
  if (out.numel() == 0) return out;
  if (is_plain) {
    std::memcpy(out.raw(), source, static_cast<size_t>(out.bytes()));
  } else if (h.kind == 'b') {
    decode_elements<uint8_t>(source, h, out.data<uint8_t>(), decode_bool);
  } else if (h.item_size == 1) {
    decode_elements<uint8_t>(source, h, out.data<uint8_t>(), keep_bits<uint8_t>);
  } else if (h.item_size == 2) {
    decode_elements<uint16_t>(source, h, out.data<float>(), decode_half);
  } else if (h.dtype == DType::f32) {
    decode_elements<uint32_t>(source, h, out.data<float>(), std::bit_cast<float, uint32_t>);
  } else if (h.dtype == DType::f64) {
    decode_elements<uint64_t>(source, h, out.data<double>(), std::bit_cast<double, uint64_t>);
  } else if (h.dtype == DType::i32) {
    decode_elements<uint32_t>(source, h, out.data<int32_t>(), std::bit_cast<int32_t, uint32_t>);
  } else {
    decode_elements<uint64_t>(source, h, out.data<int64_t>(), std::bit_cast<int64_t, uint64_t>);
  }
  return out;
}

Tensor read_npy(const std::string& path) {
  const MappedFile file(path);
  return parse_npy(file.bytes(), path);
}

void write_npy(const std::string& path, const Tensor& x) {
  check<DataError>(x.defined(), path, ": cannot write an undefined tensor");
  Tensor host = to_device(contiguous(x), Device::cpu);
  if (host.dtype() == DType::bf16) host = cast_to(host, DType::f32);
  AtomicFile file(path);
  file.write(make_header(host.dtype(), host.shape()));
  file.write(host.raw(), static_cast<size_t>(host.bytes()));
  file.commit();
}

MappedNpy::MappedNpy(const std::string& path) : path_(path), file_(path), header_(parse_npy_header(file_.bytes(), path)) {
  const char* remedy = "; read it with read_npy, or save it again with numpy.save(path, numpy.ascontiguousarray(a))";
  check<DataError>(!header_.big_endian, path, ": is big-endian and cannot be used in place", remedy);
  check<DataError>(!header_.fortran_order || header_.shape.ndim() < 2, path, ": is in Fortran order and cannot be used in place",
                   remedy);
  check<DataError>(header_.item_size == size_of(header_.dtype), path, ": ", quoted(header_.descr), " cannot be used in place",
                   remedy);
  check<DataError>(header_.data_offset % header_.item_size == 0, path, ": its data begin at byte ", header_.data_offset,
                   ", not on a multiple of ", header_.item_size, remedy);
}

NpyWriter::NpyWriter(const std::string& path, DType dtype, const Shape& row_shape)
    : path_(path), dtype_(dtype), row_shape_(row_shape), row_numel_(row_shape.numel()), file_(path) {
  check<DataError>(dtype != DType::bf16, path, ": .npy has no bf16; write f32");
  check<DataError>(row_shape.ndim() < kMaxDims, path, ": rows of shape ", row_shape, " have too many axes");
  const std::string header = make_header(dtype, with_rows(std::numeric_limits<int64_t>::max(), row_shape));  // the longest count
  header_size_ = header.size();
  file_.write(header);
}
void NpyWriter::append(const void* rows, int64_t n_rows) {
  check<DataError>(n_rows >= 0, path_, ": cannot append ", n_rows, " rows");
  file_.write(rows, static_cast<size_t>(n_rows * row_numel_ * size_of(dtype_)));
  rows_ += n_rows;
}
void NpyWriter::commit() {
  const std::string header = make_header(dtype_, with_rows(rows_, row_shape_), header_size_);
  file_.rewrite(0, header.data(), header.size());
  file_.commit();
}

}  // namespace flare
