#include "datasets/import/npz.h"

#include <zlib.h>

#include <algorithm>
#include <cstring>

namespace flare {
namespace {

constexpr uint32_t kLocal = 0x04034b50, kCentral = 0x02014b50, kEnd = 0x06054b50, kEnd64 = 0x06064b50, kEnd64Locator = 0x07064b50;
constexpr uint64_t kEverything = UINT64_MAX;
constexpr uint64_t kDeflateGrowth = 1040;  // deflate makes data at most 1032 times smaller

uint64_t little(const std::byte* p, int size) {
  uint64_t value = 0;
  for (int i = size - 1; i >= 0; --i) value = value << 8 | std::to_integer<uint64_t>(p[i]);
  return value;
}

}  // namespace

NpzFile::NpzFile(const std::string& path) : path_(path), file_(path) {
  const std::byte* data = file_.data();
  const uint64_t size = file_.size();
  constexpr uint64_t kEndSize = 22, kCommentLimit = 65535;
  check<DataError>(size >= kEndSize && (little(data, 4) == kLocal || little(data, 4) == kEnd), path_,
                   ": is not a .npz archive (it does not begin like a zip file)");
  uint64_t end = size - kEndSize;
  const uint64_t lowest = end > kCommentLimit ? end - kCommentLimit : 0;
  while (end > lowest && little(data + end, 4) != kEnd) --end;
  check<DataError>(little(data + end, 4) == kEnd, path_, ": is truncated: it has no zip directory at its end; copy it again");
  uint64_t count = little(data + end + 10, 2), start = little(data + end + 16, 4);
  if (end >= 20 && little(data + end - 20, 4) == kEnd64Locator) {
    const uint64_t end64 = little(data + end - 12, 8);
    check<DataError>(end64 <= size - 56 && little(data + end64, 4) == kEnd64, path_,
                     ": its zip64 directory is damaged; copy it again");
    count = little(data + end64 + 32, 8);
    start = little(data + end64 + 48, 8);
  }
  for (uint64_t i = 0; i < count; ++i) {
    check<DataError>(start <= size && size - start >= 46 && little(data + start, 4) == kCentral, path_,
                     ": its zip directory breaks off at entry ", i, " of ", count, "; copy it again");
    const std::byte* entry = data + start;
    const uint64_t name_length = little(entry + 28, 2), extra = little(entry + 30, 2), comment = little(entry + 32, 2);
    check<DataError>(size - start - 46 >= name_length + extra + comment, path_, ": its zip directory breaks off at entry ", i,
                     " of ", count, "; copy it again");
    Member m;
    m.flags = static_cast<int>(little(entry + 8, 2));
    m.method = static_cast<int>(little(entry + 10, 2));
    m.crc = static_cast<uint32_t>(little(entry + 16, 4));
    m.packed = little(entry + 20, 4);
    m.size = little(entry + 24, 4);
    m.offset = little(entry + 42, 4);
    // Sizes of 4 GiB and more stand in the zip64 extra field, in this order, each only where its field above is full.
    for (uint64_t at = 46 + name_length; at + 4 <= 46 + name_length + extra;) {
      const uint64_t id = little(entry + at, 2), length = little(entry + at + 2, 2);
      uint64_t value = at + 4;
      const uint64_t value_end = std::min(value + length, 46 + name_length + extra);
      for (uint64_t* field : {&m.size, &m.packed, &m.offset})
        if (id == 1 && *field == 0xffffffff && value + 8 <= value_end) {
          *field = little(entry + value, 8);
          value += 8;
        }
      at += 4 + length;
    }
    std::string name(reinterpret_cast<const char*>(entry) + 46, name_length);
    if (name.ends_with(".npy")) name.resize(name.size() - 4);
    check<DataError>(members_.emplace(name, m).second, path_, ": has the member ", quoted(name), " twice");
    start += 46 + name_length + extra + comment;
  }
}

std::vector<std::string> NpzFile::names() const {
  std::vector<std::string> out;
  for (const auto& [name, member] : members_) out.push_back(name);
  return out;
}

std::vector<std::byte> NpzFile::unpack(const std::string& name, const Member& m, uint64_t limit) const {
  const std::string where = cat(path_, ": member ", quoted(name));
  check<DataError>((m.flags & 1) == 0, where, " is encrypted");
  check<DataError>(m.method == 0 || m.method == 8, where, " uses zip method ", m.method,
                   "; only stored and deflated members can be read (numpy.savez and savez_compressed)");
  const uint64_t size = file_.size();
  check<DataError>(m.offset <= size && size - m.offset >= 30 && little(file_.data() + m.offset, 4) == kLocal, where,
                   " does not begin where the zip directory says; copy the file again");
  // The local header repeats the name, and may carry another extra field than the directory.
  const uint64_t begin = m.offset + 30 + little(file_.data() + m.offset + 26, 2) + little(file_.data() + m.offset + 28, 2);
  check<DataError>(begin <= size && size - begin >= m.packed, where, " is truncated; copy the file again");
  check<DataError>(m.method == 0 ? m.size == m.packed : m.size / kDeflateGrowth <= m.packed, where, " states the impossible size ",
                   m.size, "; the zip directory is damaged");
  const uint64_t wanted = std::min(limit, m.size);
  std::vector<std::byte> out(wanted);
  if (m.method == 0) {
    if (wanted) std::memcpy(out.data(), file_.data() + begin, wanted);
  } else {
    z_stream stream{};
    check<DataError>(inflateInit2(&stream, -MAX_WBITS) == Z_OK, where, ": zlib could not start");
    uint64_t in_left = m.packed, out_left = wanted;
    stream.next_in = const_cast<Bytef*>(reinterpret_cast<const Bytef*>(file_.data() + begin));
    stream.next_out = reinterpret_cast<Bytef*>(out.data());
    int status = Z_OK;
    while (status == Z_OK && out_left > 0) {  // zlib counts in 32 bits
      stream.avail_in = static_cast<uInt>(std::min<uint64_t>(in_left, 1u << 30));
      stream.avail_out = static_cast<uInt>(std::min<uint64_t>(out_left, 1u << 30));
      const uInt in_before = stream.avail_in, out_before = stream.avail_out;
      status = inflate(&stream, Z_NO_FLUSH);
      in_left -= in_before - stream.avail_in;
      out_left -= out_before - stream.avail_out;
      if (status == Z_OK && in_before == stream.avail_in && out_before == stream.avail_out) break;
    }
    inflateEnd(&stream);
    check<DataError>((status == Z_OK || status == Z_STREAM_END) && out_left == 0, where,
                     " cannot be inflated; the file is damaged");
  }
  if (wanted < m.size) return out;
  uLong crc = crc32(0, nullptr, 0);
  for (uint64_t at = 0; at < wanted; at += 1u << 30)
    crc = crc32(crc, reinterpret_cast<const Bytef*>(out.data() + at), static_cast<uInt>(std::min<uint64_t>(wanted - at, 1u << 30)));
  check<DataError>(crc == m.crc, where, " fails its CRC-32; copy the file again");
  return out;
}

Tensor NpzFile::read(const std::string& name) const {
  const auto found = members_.find(name);
  if (found == members_.end()) {
    std::string known;
    for (const auto& [member, m] : members_) known += (known.empty() ? "" : ", ") + quoted(member, 40);
    throw DataError(cat(path_, ": has no member ", quoted(name), "; it has ", known.empty() ? "none" : known));
  }
  return parse_npy(unpack(name, found->second, kEverything), cat(path_, ": member ", quoted(name)));
}

bool NpzFile::is_pickled(const std::string& name) const {
  const auto found = members_.find(name);
  if (found == members_.end()) return false;
  const std::vector<std::byte> head = unpack(name, found->second, 256);
  const std::string_view text(reinterpret_cast<const char*>(head.data()), head.size());
  return text.starts_with("\x93NUMPY") && text.find("'|O'") != std::string_view::npos;
}

Tensor read_array(const std::string& path) {
  if (!path.ends_with(".npz")) return read_npy(path);
  const NpzFile archive(path);
  std::string only;
  for (const std::string& name : archive.names()) {
    if (archive.is_pickled(name)) continue;
    check<DataError>(only.empty(), path, ": holds several arrays; keep the one that is wanted in a file of its own");
    only = name;
  }
  check<DataError>(!only.empty(), path, ": holds no numeric array");
  return archive.read(only);
}

}  // namespace flare
