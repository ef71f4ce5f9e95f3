#include "core/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <optional>
#include <utility>

#include <nlohmann/json.hpp>

#include "core/file.h"
#include "core/half.h"

namespace flare {
namespace {

static_assert(std::endian::native == std::endian::little, "element bytes are copied from little-endian files as they are");

constexpr uint64_t kMaxHeaderBytes = 100'000'000;
constexpr const char* kRemedy = "; the file is corrupt: download or write it again";

struct StoredType {
  std::string_view name;
  int size;     // bytes of one stored element
  DType dtype;  // in memory
};
constexpr StoredType kStoredTypes[] = {
    {"F64", 8, DType::f64}, {"F32", 4, DType::f32}, {"BF16", 2, DType::bf16}, {"F16", 2, DType::f32}, {"I64", 8, DType::i64},
    {"I32", 4, DType::i32}, {"I16", 2, DType::i32}, {"I8", 1, DType::i32},    {"U8", 1, DType::u8},   {"BOOL", 1, DType::u8}};

struct Entry {
  std::string name;
  const StoredType* type = nullptr;
  Shape shape;
  uint64_t begin = 0, end = 0;
};

/// Receives the header as parser events. It accepts the one structure the format has, level by level, so nesting or size can
/// cost no more than the header's own bytes, and a key given twice is seen. Returning false stops the parser; `error` says why.
class HeaderReader final : public nlohmann::json_sax<nlohmann::json> {
 public:
  std::vector<Entry> entries;
  std::map<std::string, std::string> metadata;
  std::string error;

  bool start_object(size_t) override {
    if (place_ == Place::start) return enter(Place::root);
    if (place_ == Place::root) return enter(is_metadata_ ? Place::metadata : Place::entry);
    return wrong("an object");
  }
  bool end_object() override {
    if (place_ == Place::entry && fields_ != 7) return stop(cat(where(), " lacks one of dtype, shape, data_offsets"));
    return enter(place_ == Place::root ? Place::end : Place::root);
  }
  bool start_array(size_t) override {
    if (place_ != Place::entry || (field_ != kShape && field_ != kOffsets)) return wrong("an array");
    n_offsets_ = 0;
    return enter(Place::numbers);
  }
  bool end_array() override {
    if (field_ == kOffsets && n_offsets_ != 2) return stop(cat(where(), " has ", n_offsets_, " data_offsets instead of 2"));
    return enter(Place::entry);
  }
  bool key(string_t& text) override {
    if (place_ == Place::root) {
      is_metadata_ = text == "__metadata__";
      if (is_metadata_) {
        if (std::exchange(has_metadata_, true)) return stop("the header has \"__metadata__\" twice");
      } else {
        entries.emplace_back().name = std::move(text);
        fields_ = 0;
      }
      return true;
    }
    if (place_ == Place::metadata) {
      metadata_key_ = std::move(text);
      return !metadata.contains(metadata_key_) || stop(cat("the header has the metadata key ", quoted(metadata_key_), " twice"));
    }
    field_ = text == "dtype" ? kDtype : text == "shape" ? kShape : text == "data_offsets" ? kOffsets : 0;
    if (field_ == 0) return stop(cat(where(), " has the unknown field ", quoted(text)));
    if (fields_ & field_) return stop(cat(where(), " has the field ", quoted(text), " twice"));
    fields_ |= field_;
    return true;
  }
  bool string(string_t& text) override {
    if (place_ == Place::metadata) {
      metadata.emplace(metadata_key_, std::move(text));
      return true;
    }
    if (place_ != Place::entry || field_ != kDtype) return wrong("a string");
    for (const StoredType& type : kStoredTypes)
      if (type.name == text) entries.back().type = &type;
    return entries.back().type ||
           stop(cat(where(), " has dtype ", quoted(text), ", which is not supported; convert it to one of F64 F32 ",
                    "BF16 F16 I64 I32 I16 I8 U8 BOOL"),
                "");
  }
  bool number_unsigned(number_unsigned_t value) override {
    if (place_ != Place::numbers) return wrong("a number");
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
      return stop(cat(where(), " has a number that overflows"));
    if (field_ == kShape) {
      Shape& shape = entries.back().shape;
      if (shape.ndim() == kMaxDims) return stop(cat(where(), " has more than ", kMaxDims, " axes"), "; reshape it before saving");
      shape.push_back(static_cast<int64_t>(value));
    } else if (++n_offsets_ <= 2) {
      (n_offsets_ == 1 ? entries.back().begin : entries.back().end) = value;
    } else {
      return stop(cat(where(), " has more than 2 data_offsets"));
    }
    return true;
  }
  bool number_integer(number_integer_t) override { return wrong("a negative number"); }
  bool number_float(number_float_t, const string_t&) override { return wrong("a number that is no integer"); }
  bool boolean(bool) override { return wrong("a boolean"); }
  bool null() override { return wrong("null"); }
  bool binary(binary_t&) override { return wrong("binary data"); }
  bool parse_error(size_t position, const std::string&, const nlohmann::json::exception&) override {
    return stop(cat("the header is not valid JSON at byte ", position));
  }

 private:
  enum class Place { start, root, metadata, entry, numbers, end };
  static constexpr int kDtype = 1, kShape = 2, kOffsets = 4;

  bool enter(Place place) {
    place_ = place;
    return true;
  }
  bool stop(std::string what, const char* remedy = kRemedy) {
    error = std::move(what) + remedy;
    return false;
  }
  bool wrong(const char* what) { return stop(cat(where(), " has ", what, " in the wrong place")); }
  std::string where() const {
    if (place_ == Place::metadata || (place_ == Place::root && is_metadata_)) return "the header's __metadata__ (string to string)";
    return place_ == Place::start || entries.empty() ? "the header" : cat("tensor ", quoted(entries.back().name));
  }

  Place place_ = Place::start;
  bool is_metadata_ = false, has_metadata_ = false;
  int field_ = 0, fields_ = 0, n_offsets_ = 0;
  std::string metadata_key_;
};

/// Bytes of a tensor, or nothing on overflow. A zero extent does not hide an absurd neighbour: strides are products as well.
std::optional<uint64_t> checked_bytes(const Shape& shape, uint64_t item_size) {
  uint64_t product = 8;  // bounds the size in memory, where an element may be wider than in the file
  bool is_empty = false;
  for (int64_t d : shape) {
    const uint64_t extent = static_cast<uint64_t>(std::max<int64_t>(d, 1));
    if (product > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()) / extent) return std::nullopt;
    product *= extent;
    is_empty |= d == 0;
  }
  return is_empty ? 0 : product / 8 * item_size;
}

/// The data must tile the data area exactly: in order of offset, each begins where the last ended, from 0 to the end.
void check_layout(std::vector<Entry>& entries, uint64_t data_size, const std::string& name) {
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) { return a.name < b.name; });
  for (size_t i = 1; i < entries.size(); ++i) {
    check<DataError>(entries[i - 1].name != entries[i].name, name, ": tensor ", quoted(entries[i].name), " appears twice", kRemedy);
  }
  std::stable_sort(entries.begin(), entries.end(),
                   [](const Entry& a, const Entry& b) { return std::pair(a.begin, a.end) < std::pair(b.begin, b.end); });
  uint64_t at = 0;
  for (const Entry& e : entries) {
    const std::string who = cat(name, ": tensor ", quoted(e.name));
    check<DataError>(e.begin <= e.end, who, ": data_offsets [", e.begin, ',', e.end, "] run backwards", kRemedy);
    check<DataError>(e.begin >= at, who, ": data_offsets [", e.begin, ',', e.end, "] overlap the tensor before, which ends at ", at,
                     kRemedy);
    check<DataError>(e.begin == at, who, ": data_offsets [", e.begin, ',', e.end, "] leave a hole after byte ", at, kRemedy);
    const std::optional<uint64_t> needed = checked_bytes(e.shape, static_cast<uint64_t>(e.type->size));
    check<DataError>(needed.has_value(), who, ": the size of shape ", e.shape, " overflows", kRemedy);
    check<DataError>(*needed == e.end - e.begin, who, ": shape ", e.shape, " of ", e.type->name, " needs ", *needed,
                     " bytes, data_offsets [", e.begin, ',', e.end, "] hold ", e.end - e.begin, kRemedy);
    at = e.end;
  }
  check<DataError>(at <= data_size, name, ": is truncated: the tensors need ", at, " bytes of data, the file has ", data_size,
                   "; download or write it again");
  check<DataError>(at == data_size, name, ": has ", data_size - at, " bytes after the last tensor", kRemedy);
}

template <class Stored, class Out, class Decode> void decode_elements(const std::byte* source, Out* out, int64_t n, Decode decode) {
  for (int64_t i = 0; i < n; ++i) {
    Stored value;  // the data of files with unpadded headers lie on any byte
    std::memcpy(&value, source + i * static_cast<int64_t>(sizeof value), sizeof value);
    out[i] = decode(value);
  }
}
Tensor load_tensor(const Entry& e, const std::byte* source) {
  const Tensor out = Tensor::empty(e.shape, e.type->dtype);
  const int64_t n = out.numel();
  if (n == 0) return out;
  if (e.type->name == "F16") {
    decode_elements<uint16_t>(source, out.data<float>(), n, half_to_float);
  } else if (e.type->name == "I16") {
    decode_elements<int16_t>(source, out.data<int32_t>(), n, [](int16_t v) { return int32_t{v}; });
  } else if (e.type->name == "I8") {
    decode_elements<int8_t>(source, out.data<int32_t>(), n, [](int8_t v) { return int32_t{v}; });
  } else if (e.type->name == "BOOL") {
    decode_elements<uint8_t>(source, out.data<uint8_t>(), n, [](uint8_t v) { return static_cast<uint8_t>(v != 0); });
  } else {
    std::memcpy(out.raw(), source, static_cast<size_t>(out.bytes()));
  }
  return out;
}

/// The dtype's name in the file and its place in the reference writer's order, which sorts by it downwards.
struct WrittenType {
  const char* name;
  int rank;
};
WrittenType written_type(DType dtype) {
  switch (dtype) {
    case DType::i64: return {"I64", 5};
    case DType::f64: return {"F64", 4};
    case DType::f32: return {"F32", 3};
    case DType::i32: return {"I32", 2};
    case DType::bf16: return {"BF16", 1};
    case DType::u8: return {"U8", 0};
  }
  return {"?", -1};
}

std::string json_string(const std::string& text, const std::string& path) {
  try {
    return nlohmann::json(text).dump();
  } catch (const nlohmann::json::exception&) { throw DataError(cat(path, ": cannot write ", quoted(text), ": it is not UTF-8")); }
}

}  // namespace

const Tensor* SafeTensors::find(std::string_view name) const {
  for (const NamedTensor& t : tensors)
    if (t.name == name) return &t.value;
  return nullptr;
}

SafeTensors parse_safetensors(std::span<const std::byte> file, const std::string& name) {
  check<DataError>(file.size() >= 8, name, ": is not a safetensors file: it has only ", file.size(), " bytes");
  uint64_t length;
  std::memcpy(&length, file.data(), 8);
  check<DataError>(length <= kMaxHeaderBytes, name, ": is not a safetensors file: its header would have ", length,
                   " bytes, more than ", kMaxHeaderBytes);
  check<DataError>(length <= file.size() - 8, name, ": is truncated: the header has ", length, " bytes, the file ", file.size(),
                   "; download or write it again");
  const char* header = reinterpret_cast<const char*>(file.data()) + 8;
  check<DataError>(length > 0 && header[0] == '{', name, ": is not a safetensors file: its header does not begin with '{'");
  // The JSON parser would take a NUL for the end of the text and ignore the rest.
  check<DataError>(!std::memchr(header, 0, length), name, ": the header contains a NUL byte", kRemedy);

  HeaderReader reader;
  if (!nlohmann::json::sax_parse(header, header + length, &reader)) throw DataError(cat(name, ": ", reader.error));
  check_layout(reader.entries, file.size() - 8 - length, name);

  SafeTensors result;
  result.metadata = std::move(reader.metadata);
  result.tensors.reserve(reader.entries.size());
  const std::byte* data = file.data() + 8 + length;
  for (Entry& e : reader.entries) {
    Tensor value = load_tensor(e, data + e.begin);
    result.tensors.push_back({std::move(e.name), std::move(value)});
  }
  return result;
}

SafeTensors read_safetensors(const std::string& path) {
  const MappedFile file(path);
  return parse_safetensors(file.bytes(), path);
}

void write_safetensors(const std::string& path, const std::vector<NamedTensor>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  std::vector<const NamedTensor*> order;
  for (const NamedTensor& t : tensors) {
    check<DataError>(t.value.defined(), path, ": cannot write tensor ", quoted(t.name), ": it is undefined");
    check<DataError>(t.name != "__metadata__", path, ": a tensor cannot be named \"__metadata__\"");
    order.push_back(&t);
  }
  std::sort(order.begin(), order.end(), [](const NamedTensor* a, const NamedTensor* b) {
    const int rank_a = written_type(a->value.dtype()).rank, rank_b = written_type(b->value.dtype()).rank;
    return rank_a != rank_b ? rank_a > rank_b : a->name < b->name;
  });

  std::string header = "{";
  if (!metadata.empty()) {
    header += "\"__metadata__\":{";
    for (const auto& [key, value] : metadata) {
      if (header.back() != '{') header += ',';
      ((header += json_string(key, path)) += ':') += json_string(value, path);
    }
    header += '}';
  }
  int64_t at = 0;
  for (const NamedTensor* t : order) {
    std::string dims;
    for (int64_t d : t->value.shape()) dims += cat(dims.empty() ? "" : ",", d);
    if (header.size() > 1) header += ',';
    header += cat(json_string(t->name, path), ":{\"dtype\":\"", written_type(t->value.dtype()).name, "\",\"shape\":[", dims,
                  "],\"data_offsets\":[", at, ',', at + t->value.bytes(), "]}");
    at += t->value.bytes();
  }
  header += '}';
  header.resize((header.size() + 7) / 8 * 8, ' ');
  check<DataError>(header.size() <= kMaxHeaderBytes, path, ": the header would have ", header.size(), " bytes, more than ",
                   kMaxHeaderBytes, "; write fewer tensors or shorter names");
  std::vector<std::string_view> names;
  for (const NamedTensor& t : tensors) names.push_back(t.name);
  std::sort(names.begin(), names.end());
  const auto twin = std::adjacent_find(names.begin(), names.end());
  check<DataError>(twin == names.end(), path, ": cannot write two tensors named ", quoted(twin == names.end() ? "" : *twin));

  AtomicFile file(path);
  const uint64_t length = header.size();
  file.write(&length, sizeof length);
  file.write(header);
  for (const NamedTensor* t : order) {
    const Tensor host = to_device(contiguous(t->value), Device::cpu);
    file.write(host.raw(), static_cast<size_t>(host.bytes()));
  }
  file.commit();
}

}  // namespace flare
