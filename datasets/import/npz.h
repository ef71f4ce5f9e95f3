#pragma once
#include <map>
#include <string>
#include <vector>

#include "core/file.h"
#include "core/npy.h"

namespace flare {

/// A NumPy archive: a zip file of .npy members, stored or deflated. Members that are not .npy, or hold pickled objects, are listed
/// but cannot be read. Source: PKWARE APPNOTE 6.3, sections 4.3.7 to 4.3.16. Every failure is a DataError naming file and member.
class NpzFile {
 public:
  /// Reads the directory. DataError for what is not a complete zip file.
  explicit NpzFile(const std::string& path);
  /// Names without .npy, sorted.
  std::vector<std::string> names() const;
  bool has(const std::string& name) const { return members_.contains(name); }
  /// The array, row-major. DataError naming the members there are when it is missing; for encryption, other compression than
  /// deflate, a size or CRC-32 that is not the directory's; and as parse_npy.
  Tensor read(const std::string& name) const;
  /// Whether the member is an array of Python objects, which only unpickling could read.
  bool is_pickled(const std::string& name) const;

 private:
  struct Member {
    uint64_t offset = 0, packed = 0, size = 0;
    uint32_t crc = 0;
    int method = 0, flags = 0;
  };
  std::vector<std::byte> unpack(const std::string& name, const Member& member, uint64_t limit) const;
  std::string path_;
  MappedFile file_;
  std::map<std::string, Member> members_;
};

/// An array from FILE.npy, or from the only numeric member of FILE.npz.
Tensor read_array(const std::string& path);

}  // namespace flare
