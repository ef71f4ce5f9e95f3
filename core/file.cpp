#include "core/file.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>

#include "core/check.h"
#include "core/job.h"
#include "core/sha256.h"

namespace flare {
namespace fs = std::filesystem;
namespace {

constexpr size_t kBufferBytes = size_t{1} << 20;

const char* advice(int error) {
  switch (error) {
    case ENOSPC: return "; free space on that disk, or choose another folder";
    case EDQUOT: return "; the quota is used up: free space, or choose another folder";
    case EFBIG: return "; the file is larger than allowed: raise the limit (ulimit -f)";
    case EACCES:
    case EPERM: return "; check the permissions of the file and its folder";
    case EROFS: return "; choose a folder on a writable disk";
    case ENOENT: return "; check the path";
    case ENOTDIR: return "; a part of the path is a file, not a folder";
    case ENAMETOOLONG: return "; choose a shorter name";
    case EMFILE:
    case ENFILE: return "; raise the limit of open files (ulimit -n)";
    case EXDEV: return "; both must lie on one disk";
    default: return "";
  }
}
[[noreturn]] void fail_with(const std::string& path, const char* action, int error) {
  throw DataError(cat(path, ": cannot ", action, ": ", std::generic_category().message(error), advice(error)));
}

/// A file descriptor closed at the end of its scope.
struct Descriptor {
  int fd;
  explicit Descriptor(int fd) : fd(fd) {}
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
};

int open_retrying(const std::string& path, int flags, mode_t mode = 0) {
  int fd;
  do fd = ::open(path.c_str(), flags | O_CLOEXEC, mode);
  while (fd < 0 && errno == EINTR);
  return fd;
}

/// Opens for reading and refuses what is neither a regular file nor, when allowed, a pipe.
int open_for_reading(const std::string& path, bool allow_pipe, struct stat* info) {
  check<DataError>(path.find('\0') == std::string::npos, quoted(path), ": a path cannot contain a NUL byte");
  if (::stat(path.c_str(), info) != 0) fail_with(path, "read", errno);  // before open, which would wait for a pipe's writer
  check<DataError>(!S_ISDIR(info->st_mode), path, ": is a folder, but a file is needed");
  check<DataError>(S_ISREG(info->st_mode) || (allow_pipe && S_ISFIFO(info->st_mode)), path, ": is not a regular file");
  const int fd = open_retrying(path, O_RDONLY);
  if (fd < 0) fail_with(path, "open", errno);
  if (::fstat(fd, info) != 0) {
    const int error = errno;
    ::close(fd);
    fail_with(path, "read", error);
  }
  return fd;
}

size_t read_some(int fd, void* data, size_t n, const std::string& path) {
  for (;;) {
    const ssize_t got = ::read(fd, data, n);
    if (got >= 0) return static_cast<size_t>(got);
    if (errno != EINTR) fail_with(path, "read", errno);
  }
}

/// fsync; file systems that do not support it on this kind of file (EINVAL) have nothing to flush.
bool synchronise(int fd) {
  int result;
  do result = ::fsync(fd);
  while (result != 0 && errno == EINTR);
  return result == 0 || errno == EINVAL;
}
void synchronise_path(const std::string& path, int flags) {
  const Descriptor file(open_retrying(path, O_RDONLY | flags));
  if (file.fd < 0 && errno == EACCES && (flags & O_DIRECTORY)) return;  // a folder one may write to but not list
  if (file.fd < 0) fail_with(path, "open", errno);
  if (!synchronise(file.fd)) fail_with(path, "flush to disk", errno);
}
std::string parent_of(const std::string& path) {
  const std::string parent = fs::path(path).parent_path().string();
  return parent.empty() ? "." : parent;
}
void synchronise_tree(const std::string& folder) {
  std::error_code error;
  for (auto it = fs::recursive_directory_iterator(folder, error); !error && it != fs::recursive_directory_iterator();
       it.increment(error)) {
    const fs::file_status status = it->symlink_status(error);
    if (error) break;
    if (fs::is_regular_file(status)) synchronise_path(it->path().string(), 0);
    if (fs::is_directory(status)) synchronise_path(it->path().string(), O_DIRECTORY);
  }
  if (error) fail_with(folder, "list", error.value());
  synchronise_path(folder, O_DIRECTORY);
}

/// The path without trailing slashes, so that suffixes can be appended.
std::string trimmed(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}
/// Deletes a folder no longer needed. Failure leaves garbage, not damage, so it is not an error.
void remove_quietly(const std::string& folder) {
  std::error_code ignored;
  fs::remove_all(folder, ignored);
}

}  // namespace

std::string Quoted::operator()(std::string_view text, size_t limit) const {
  std::string out = "\"";
  for (char c : text.substr(0, limit)) {
    const unsigned char u = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      (out += '\\') += c;
    } else if (u < 0x20 || u >= 0x7f) {
      ((out += "\\x") += "0123456789abcdef"[u >> 4]) += "0123456789abcdef"[u & 15];
    } else {
      out += c;
    }
  }
  return out += text.size() > limit ? "...\"" : "\"";
}

std::string read_file(const std::string& path) {
  struct stat info;
  const Descriptor file(open_for_reading(path, true, &info));
  std::string content(S_ISREG(info.st_mode) ? static_cast<size_t>(info.st_size) : 0, '\0');
  size_t done = 0;
  for (;;) {  // to the end of the file, which may have grown since, and for a pipe is not known before
    if (done == content.size()) {
      char extra[4096];
      const size_t n = read_some(file.fd, extra, sizeof extra, path);
      if (n == 0) return content;
      content.append(extra, n);
      done += n;
    } else {
      const size_t n = read_some(file.fd, content.data() + done, content.size() - done, path);
      done += n;
      if (n == 0) content.resize(done);
    }
  }
}

bool file_exists(const std::string& path) {
  std::error_code ignored;
  return fs::is_regular_file(path, ignored);
}
bool directory_exists(const std::string& path) {
  std::error_code ignored;
  return fs::is_directory(path, ignored);
}

void make_directories(const std::string& path) {
  std::error_code error;
  check<DataError>(directory_exists(path) || !fs::exists(path, error), path,
                   ": cannot create the folder: a file of this name exists");
  fs::create_directories(trimmed(path), error);
  if (error) fail_with(path, "create the folder", error.value());
}

static std::string hash_file(const std::string& path, Job* job) {
  struct stat info;
  const Descriptor file(open_for_reading(path, true, &info));
  std::vector<char> buffer(kBufferBytes);
  Sha256 hash;
  while (const size_t n = read_some(file.fd, buffer.data(), buffer.size(), path)) {
    if (job) job->check_stop();
    hash.update(buffer.data(), n);
    if (job) job->advance(static_cast<int64_t>(n));
  }
  return hash.hex();
}
std::string sha256_of_file(const std::string& path) { return hash_file(path, nullptr); }
std::string sha256_of_file(const std::string& path, Job& job) { return hash_file(path, &job); }

MappedFile::MappedFile(const std::string& path) {
  struct stat info;
  const Descriptor file(open_for_reading(path, false, &info));
  if (info.st_size == 0) return;  // mmap refuses length 0
  void* address = ::mmap(nullptr, static_cast<size_t>(info.st_size), PROT_READ, MAP_PRIVATE, file.fd, 0);
  if (address == MAP_FAILED) fail_with(path, "map", errno);
  data_ = static_cast<const std::byte*>(address);
  size_ = static_cast<size_t>(info.st_size);
}
MappedFile::~MappedFile() {
  if (data_) ::munmap(const_cast<std::byte*>(data_), size_);
}
MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

AtomicFile::AtomicFile(const std::string& path) : path_(path), target_(path) {
  check<DataError>(!path.empty() && path.find('\0') == std::string::npos, quoted(path), ": is not a file name");
  std::error_code error;
  if (fs::is_symlink(path, error)) target_ = fs::weakly_canonical(path, error).string();
  if (error && error != std::errc::no_such_file_or_directory) fail_with(path, "write", error.value());
  struct stat info;
  if (::stat(target_.c_str(), &info) == 0) {
    check<DataError>(!S_ISDIR(info.st_mode), path, ": cannot write: is a folder");
    // A rename would replace the device itself, such as /dev/null.
    check<DataError>(S_ISREG(info.st_mode), path, ": cannot write: is not a regular file");
  }
  static std::atomic<uint64_t> counter{0};
  const std::string name = fs::path(target_).filename().string().substr(0, 200);  // leaves room within the usual 255 bytes
  for (int attempt = 0; fd_ < 0; ++attempt) {
    temporary_ = cat(parent_of(target_), "/.", name, ".tmp.", ::getpid(), '.', counter++);
    fd_ = open_retrying(temporary_, O_WRONLY | O_CREAT | O_EXCL, 0666);
    if (fd_ < 0 && (errno != EEXIST || attempt == 100)) fail_with(path, "create", errno);
  }
  try {
    buffer_.reserve(kBufferBytes);
  } catch (...) {
    discard();
    throw;
  }
}
AtomicFile::~AtomicFile() { discard(); }

void AtomicFile::discard() noexcept {
  if (fd_ < 0) return;
  ::close(fd_);
  fd_ = -1;
  ::unlink(temporary_.c_str());
}
void AtomicFile::fail(const char* action, int error) {
  discard();
  fail_with(path_, action, error);
}

void AtomicFile::put(int64_t offset, const void* data, size_t n) {
  const char* p = static_cast<const char*>(data);
  while (n > 0) {
    const ssize_t done = ::pwrite(fd_, p, n, offset);
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) fail("write", done < 0 ? errno : ENOSPC);
    p += done, n -= static_cast<size_t>(done), offset += done;
  }
}
void AtomicFile::flush() {
  put(flushed_, buffer_.data(), buffer_.size());
  flushed_ += static_cast<int64_t>(buffer_.size());
  buffer_.clear();
}
void AtomicFile::write(const void* data, size_t n) {
  check<DataError>(fd_ >= 0, path_, ": written to after it was committed or failed");
  if (n == 0) return;
  if (buffer_.size() + n > kBufferBytes) flush();
  if (n > kBufferBytes) {
    put(flushed_, data, n);
    flushed_ += static_cast<int64_t>(n);
  } else {
    buffer_.insert(buffer_.end(), static_cast<const char*>(data), static_cast<const char*>(data) + n);
  }
}
void AtomicFile::rewrite(int64_t offset, const void* data, size_t n) {
  check<DataError>(fd_ >= 0, path_, ": written to after it was committed or failed");
  flush();
  check<DataError>(offset >= 0 && offset <= flushed_ && n <= static_cast<size_t>(flushed_ - offset), path_,
                   ": rewrite of bytes that were not written");
  put(offset, data, n);
}
void AtomicFile::commit() {
  check<DataError>(fd_ >= 0, path_, ": committed twice, or after a failure");
  flush();
  if (!synchronise(fd_)) fail("flush to disk", errno);
  const int result = ::close(std::exchange(fd_, -1));
  if ((result != 0 && errno != EINTR) || ::rename(temporary_.c_str(), target_.c_str()) != 0) {
    const int error = errno;
    ::unlink(temporary_.c_str());
    fail_with(path_, "write", error);
  }
  synchronise_path(parent_of(target_), O_DIRECTORY);
}

void write_file_atomically(const std::string& path, std::string_view bytes) {
  AtomicFile file(path);
  file.write(bytes);
  file.commit();
}

bool recover_directory(const std::string& final_dir) {
  const std::string target = trimmed(final_dir), old = target + ".old";
  // A writer at work may take either folder away between any two lines here: look again until what is seen holds together.
  for (int attempt = 0;; ++attempt) {
    std::error_code error;
    if (fs::exists(fs::symlink_status(target, error)) || !directory_exists(old)) return false;
    if (::rename(old.c_str(), target.c_str()) == 0) break;
    const int reason = errno;
    if (reason != ENOENT && reason != ENOTEMPTY && reason != EEXIST) fail_with(target, "restore from its .old folder", reason);
    if (attempt == 1000) fail_with(target, "restore from its .old folder", reason);
  }
  synchronise_path(parent_of(target), O_DIRECTORY);
  return true;
}

void replace_directory(const std::string& temp_dir, const std::string& final_dir, bool use_exchange) {
  const std::string temp = trimmed(temp_dir), target = trimmed(final_dir), parent = parent_of(target);
  const std::string old = target + ".old", trash = target + ".trash";
  check<DataError>(directory_exists(temp), temp, ": cannot be moved to ", target, ": is not a folder");
  check<DataError>(temp != target && temp != old && temp != trash, temp, ": cannot be moved to ", target,
                   ": choose another temporary name");
  check<DataError>(directory_exists(target) || !fs::exists(fs::symlink_status(target)), target,
                   ": cannot be replaced: is not a folder");
  synchronise_tree(temp);
  recover_directory(target);
  remove_quietly(trash);
  // Everything is deleted under the name .trash, so that a folder named .old is always whole.
  if (directory_exists(old)) {
    if (::rename(old.c_str(), trash.c_str()) != 0) fail_with(old, "remove", errno);
    remove_quietly(trash);
  }
  if (directory_exists(target) && use_exchange) {
    if (::renameat2(AT_FDCWD, temp.c_str(), AT_FDCWD, target.c_str(), RENAME_EXCHANGE) == 0) {
      synchronise_path(parent, O_DIRECTORY);
      remove_quietly(::rename(temp.c_str(), trash.c_str()) == 0 ? trash : temp);
      return;
    }
  }
  // Not every file system can exchange. A reader that recovers between the two renames puts the old folder back: go round again.
  for (int attempt = 0;; ++attempt) {
    const bool had_target = ::rename(target.c_str(), old.c_str()) == 0;
    if (!had_target && errno != ENOENT) fail_with(target, "move aside", errno);
    if (had_target && attempt == 0) synchronise_path(parent, O_DIRECTORY);  // later rounds keep the gap as short as they can
    if (::rename(temp.c_str(), target.c_str()) == 0) break;
    const int error = errno;
    const bool restored_by_reader = error == ENOTEMPTY || error == EEXIST;
    if (restored_by_reader && attempt < 100) continue;
    if (had_target && ::rename(old.c_str(), target.c_str()) != 0) {
      throw DataError(
          cat(target, ": cannot be replaced: ", std::generic_category().message(error), "; the old folder is kept as ", old));
    }
    fail_with(target, "replace", error);
  }
  synchronise_path(parent, O_DIRECTORY);
  if (directory_exists(old)) remove_quietly(::rename(old.c_str(), trash.c_str()) == 0 ? trash : old);
}

}  // namespace flare
