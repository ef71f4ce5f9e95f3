#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace flare {

class Job;  // core/job.h

// Files and folders. Every failure is a DataError of one line: the path, the system's reason and, where known, what to do.

/// The whole content of a regular file (or a pipe).
std::string read_file(const std::string& path);
bool file_exists(const std::string& path);  // a regular file
bool directory_exists(const std::string& path);
/// Creates the folder and its parents; an existing folder is fine.
void make_directories(const std::string& path);
/// Lower-case hexadecimal SHA-256 of a file's content.
std::string sha256_of_file(const std::string& path);
/// The same as part of a job that counts bytes; Interrupted when that is stopped.
std::string sha256_of_file(const std::string& path, Job& job);
/// quoted(text, limit = 80): text from a file or user made safe inside a one-line message: in quotes, control characters escaped,
/// cut after `limit` bytes. An object, not a function, so that std::quoted is never found in its place.
struct Quoted {
  std::string operator()(std::string_view text, size_t limit = 80) const;
};
inline constexpr Quoted quoted;

/// A regular file mapped read-only for the life of the object. An empty file has an empty span.
class MappedFile {
 public:
  MappedFile() = default;
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::byte* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

/// Writes a file beside its final place and renames it there in commit(), after fsync: readers see the old content or the new,
/// never a mixture. Without commit() the old file stays as it was and nothing is left behind. Follows a symbolic link to its
/// target; refuses targets that are not regular files. Writes are buffered.
class AtomicFile {
 public:
  explicit AtomicFile(const std::string& path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  void write(const void* data, size_t n);
  void write(std::string_view text) { write(text.data(), text.size()); }
  /// Overwrites bytes already written, such as a header that holds a count.
  void rewrite(int64_t offset, const void* data, size_t n);
  void commit();

 private:
  void flush();
  void put(int64_t offset, const void* data, size_t n);
  void discard() noexcept;
  [[noreturn]] void fail(const char* action, int error);
  std::string path_, target_, temporary_;  // as given; links resolved; beside the target
  std::vector<char> buffer_;
  int64_t flushed_ = 0;
  int fd_ = -1;
};

/// Replaces the content of a file in one step (AtomicFile).
void write_file_atomically(const std::string& path, std::string_view bytes);

/// Puts the complete folder `temp_dir` in the place of `final_dir` and deletes the one that was there; both lie in one file
/// system, best side by side. After a kill at any moment final_dir, once recover_directory has run, is the old or the new
/// folder, whole and on disk. Where the file system can exchange two folders, final_dir never disappears, not even for an
/// instant; `use_exchange` false takes the portable way (final -> final.old, temp -> final) regardless.
void replace_directory(const std::string& temp_dir, const std::string& final_dir, bool use_exchange = true);
/// Readers call this first: brings final_dir back from final_dir.old when replace_directory was killed between its renames.
/// True when there was something to restore. Deletes nothing.
bool recover_directory(const std::string& final_dir);

}  // namespace flare
