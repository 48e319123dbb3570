#include "base/io.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include <xxhash.h>

#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "base/error.h"

namespace t6::io {
namespace {

[[noreturn]] void fail_system(const char* what, const fs::path& path) {
  const int code = errno;
  fail(ExitCode::io, "cannot {} {}: {}", what, path.string(), std::strerror(code));
}

int open_or_fail(const fs::path& path, int flags, const char* what) {
  const int fd = ::open(path.c_str(), flags | O_CLOEXEC, 0644);
  if (fd < 0) fail_system(what, path);
  return fd;
}

std::string hex(XXH128_hash_t hash) {
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

}  // namespace

File File::open_read(const fs::path& path) {
  return {open_or_fail(path, O_RDONLY, "open"), path};
}
File File::create(const fs::path& path) {
  return {open_or_fail(path, O_WRONLY | O_CREAT | O_TRUNC, "create"), path};
}
File File::open_append(const fs::path& path) {
  return {open_or_fail(path, O_WRONLY | O_CREAT | O_APPEND, "open for appending"), path};
}

File::File(File&& other) noexcept : fd_(std::exchange(other.fd_, -1)), path_(std::move(other.path_)) {}

File& File::operator=(File&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(path_, other.path_);
  return *this;
}

File::~File() {
  if (fd_ >= 0) ::close(fd_);
}

uint64_t File::size() const {
  struct stat status {};
  if (::fstat(fd_, &status) != 0) fail_system("get the size of", path_);
  return static_cast<uint64_t>(status.st_size);
}

size_t File::read_some(std::span<std::byte> bytes) {
  while (true) {
    const ssize_t n = ::read(fd_, bytes.data(), bytes.size());
    if (n >= 0) return static_cast<size_t>(n);
    if (errno != EINTR) fail_system("read", path_);
  }
}

void File::read_at(std::span<std::byte> bytes, uint64_t offset) const {
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t n = ::pread(fd_, bytes.data() + done, bytes.size() - done, static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_system("read", path_);
    if (n == 0) {
      fail(ExitCode::io, "{} is too short: expected {} bytes at offset {}, got {}", path_.string(), bytes.size(),
           offset, done);
    }
    done += static_cast<size_t>(n);
  }
}

void File::write_all(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd_, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_system("write", path_);
    bytes = bytes.subspan(static_cast<size_t>(n));
  }
}

void File::write_all(std::string_view text) {
  write_all(std::as_bytes(std::span(text.data(), text.size())));
}

void File::truncate(uint64_t size) {
  if (::ftruncate(fd_, static_cast<off_t>(size)) != 0) fail_system("truncate", path_);
}

void File::sync() {
  if (::fsync(fd_) != 0) fail_system("fsync", path_);
}

void File::close() {
  if (::close(std::exchange(fd_, -1)) != 0) fail_system("close", path_);
}

std::string read_text(const fs::path& path, uint64_t max_bytes) {
  File file = File::open_read(path);
  std::error_code ignored;
  if (fs::is_directory(path, ignored)) fail(ExitCode::io, "cannot read {}: it is a directory", path.string());
  // Read to the end rather than to size(): a pipe or /proc file has none.
  std::string text;
  std::vector<std::byte> block(size_t{1} << 16);
  while (size_t n = file.read_some(block)) {
    if (text.size() + n > max_bytes) fail(ExitCode::io, "{} is larger than {} bytes", path.string(), max_bytes);
    text.append(reinterpret_cast<const char*>(block.data()), n);
  }
  return text;
}

void write_text_atomically(const fs::path& path, std::string_view text) {
  fs::path temporary = path;
  temporary += ".tmp";
  File file = File::create(temporary);
  file.write_all(text);
  file.sync();
  file.close();
  io::rename(temporary, path);
  sync_directory(path.has_parent_path() ? path.parent_path() : fs::path("."));
}

void make_directories(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) fail(ExitCode::io, "cannot create the folder {}: {}", path.string(), error.message());
}

void rename(const fs::path& from, const fs::path& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) {
    const int code = errno;
    fail(ExitCode::io, "cannot rename {} to {}: {}", from.string(), to.string(), std::strerror(code));
  }
}

void remove_all(const fs::path& path) {
  std::error_code error;
  fs::remove_all(path, error);
  if (error) fail(ExitCode::io, "cannot remove {}: {}", path.string(), error.message());
}

void sync_file(const fs::path& path) {
  File file = File::open_read(path);
  file.sync();
}

void sync_directory(const fs::path& path) {
  const int fd = open_or_fail(path, O_RDONLY | O_DIRECTORY, "open the folder");
  const int result = ::fsync(fd);
  const int code = errno;
  ::close(fd);
  errno = code;
  if (result != 0) fail_system("fsync the folder", path);
}

uint64_t free_bytes(const fs::path& path) {
  struct statvfs status {};
  if (::statvfs(path.c_str(), &status) != 0) fail_system("get the free space of", path);
  return uint64_t{status.f_bavail} * status.f_frsize;
}

std::string hash_bytes(std::span<const std::byte> bytes) {
  return hex(XXH3_128bits(bytes.data(), bytes.size()));
}

std::string hash_file(const fs::path& path) {
  File file = File::open_read(path);
  XXH3_state_t* state = XXH3_createState();
  if (state == nullptr) throw std::bad_alloc();
  XXH3_128bits_reset(state);
  std::vector<std::byte> block(size_t{1} << 20);
  try {
    while (size_t n = file.read_some(block)) XXH3_128bits_update(state, block.data(), n);
  } catch (...) {
    XXH3_freeState(state);
    throw;
  }
  const XXH128_hash_t hash = XXH3_128bits_digest(state);
  XXH3_freeState(state);
  return hex(hash);
}

std::optional<Lock> Lock::try_acquire(const fs::path& path) {
  File file = File::open_append(path);
  if (::flock(file.descriptor(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK) return std::nullopt;
    fail_system("lock", path);
  }
  return Lock(std::move(file));
}

}  // namespace t6::io
