#include "base/io.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/exchange.h"

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

FaultHook& fault_hook() {
  static FaultHook hook;
  return hook;
}

// False when the fault hook wants this call to fail; errno says why.
bool allowed(DiskCall call, const fs::path& path, size_t& bytes) {
  const FaultHook& hook = fault_hook();
  if (!hook) return true;
  errno = hook(call, path, bytes);
  return errno == 0;
}
bool allowed(DiskCall call, const fs::path& path) {
  size_t bytes = 0;
  return allowed(call, path, bytes);
}

int create_or_fail(const fs::path& path, int flags, const char* what) {
  if (!allowed(DiskCall::create, path)) fail_system(what, path);
  // A link in a folder that came from elsewhere must not lead out of it.
  const int fd = ::open(path.c_str(), flags | O_CLOEXEC | O_NOFOLLOW, 0644);
  if (fd < 0 && errno == ELOOP) {
    fail(ExitCode::io, "cannot {} {}: it is a symbolic link, which is not written through; remove it", what,
         path.string());
  }
  if (fd < 0) fail_system(what, path);
  return fd;
}

std::string hex(XXH128_hash_t hash) {
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

void remove_directory(const fs::path& path) {
  for (const std::string& name : list_folder(path)) io::remove_all(path / name);
  if (!allowed(DiskCall::unlink, path) || ::rmdir(path.c_str()) != 0) fail_system("remove the folder", path);
}

}  // namespace

const char* name_of(DiskCall call) {
  static constexpr const char* kNames[] = {"create", "write",          "truncate", "sync",          "close",
                                           "rename", "make_directory", "unlink",   "sync_directory"};
  return kNames[static_cast<int>(call)];
}

void set_fault_hook(FaultHook hook) {
  fault_hook() = std::move(hook);
}

Interrupt::Interrupt() : fd_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (fd_ < 0) fail_system("make", "an event descriptor");
}
Interrupt::~Interrupt() {
  ::close(fd_);
}
void Interrupt::raise() noexcept {
  ::eventfd_write(fd_, 1);
}

File File::open_read(const fs::path& path) {
  return {open_or_fail(path, O_RDONLY, "open"), path};
}
File File::create(const fs::path& path) {
  return {create_or_fail(path, O_WRONLY | O_CREAT | O_TRUNC, "create"), path};
}
File File::create_new(const fs::path& path) {
  return {create_or_fail(path, O_RDWR | O_CREAT | O_EXCL, "create"), path};
}
File File::open_append(const fs::path& path) {
  return {create_or_fail(path, O_WRONLY | O_CREAT | O_APPEND, "open for appending"), path};
}
File File::standard_input() {
  const int fd = ::fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 0);
  if (fd < 0) fail_system("read", "standard input");
  return {fd, "standard input"};
}
File File::duplicate() const {
  const int fd = ::fcntl(fd_, F_DUPFD_CLOEXEC, 0);
  if (fd < 0) fail_system("open once more", path_);
  return {fd, path_};
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

bool File::wait_readable(const Interrupt& interrupt) const {
  while (true) {
    std::array<pollfd, 2> waiting{pollfd{interrupt.fd_, POLLIN, 0}, pollfd{fd_, POLLIN, 0}};
    if (::poll(waiting.data(), waiting.size(), -1) >= 0) return waiting[0].revents == 0;
    if (errno != EINTR) fail_system("wait for", path_);
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
    size_t want = bytes.size();
    if (!allowed(DiskCall::write, path_, want)) fail_system("write", path_);
    const ssize_t n = ::write(fd_, bytes.data(), want);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_system("write", path_);
    bytes = bytes.subspan(static_cast<size_t>(n));
  }
}

void File::write_at(std::span<const std::byte> bytes, uint64_t offset) {
  while (!bytes.empty()) {
    size_t want = bytes.size();
    if (!allowed(DiskCall::write, path_, want)) fail_system("write", path_);
    const ssize_t n = ::pwrite(fd_, bytes.data(), want, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_system("write", path_);
    bytes = bytes.subspan(static_cast<size_t>(n));
    offset += static_cast<uint64_t>(n);
  }
}

void File::write_all(std::string_view text) {
  write_all(std::as_bytes(std::span(text.data(), text.size())));
}

void File::truncate(uint64_t size) {
  if (!allowed(DiskCall::truncate, path_) || ::ftruncate(fd_, static_cast<off_t>(size)) != 0) {
    fail_system("truncate", path_);
  }
}

void File::sync() {
  if (!allowed(DiskCall::sync, path_) || ::fsync(fd_) != 0) fail_system("fsync", path_);
}

void File::close() {
  if (!allowed(DiskCall::close, path_) || ::close(std::exchange(fd_, -1)) != 0) fail_system("close", path_);
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
  sync_directory(parent_of(path));
}

bool exists(const fs::path& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) == 0) return true;
  if (errno != ENOENT && errno != ENOTDIR) fail_system("look at", path);
  return false;
}

std::vector<std::string> list_folder(const fs::path& path) {
  std::vector<std::string> names;
  std::error_code error;
  fs::directory_iterator entry(path, error);
  for (; !error && entry != fs::directory_iterator(); entry.increment(error)) {
    names.push_back(entry->path().filename().string());
  }
  if (error) fail(ExitCode::io, "cannot read the folder {}: {}", path.string(), error.message());
  std::sort(names.begin(), names.end());
  return names;
}

fs::path parent_of(const fs::path& path) {
  return path.has_parent_path() ? path.parent_path() : fs::path(".");
}

void make_directories(const fs::path& path) {
  std::error_code ignored;
  if (path.empty() || fs::is_directory(path, ignored)) return;
  make_directories(path.parent_path());
  if (!allowed(DiskCall::make_directory, path)) fail_system("create the folder", path);
  if (::mkdir(path.c_str(), 0777) != 0) {
    if (errno != EEXIST) fail_system("create the folder", path);
    if (fs::is_directory(path, ignored)) return;  // someone else was faster, or "a/b/" after "a/b"
    fail(ExitCode::io, "cannot create the folder {}: a file of that name exists", path.string());
  }
  sync_directory(parent_of(path));
}

void rename(const fs::path& from, const fs::path& to) {
  if (!allowed(DiskCall::rename, from) || ::rename(from.c_str(), to.c_str()) != 0) {
    const int code = errno;
    fail(ExitCode::io, "cannot rename {} to {}: {}", from.string(), to.string(), std::strerror(code));
  }
}

bool exchange(const fs::path& one, const fs::path& other) {
  if (allowed(DiskCall::rename, one) &&
      ::renameat2(AT_FDCWD, one.c_str(), AT_FDCWD, other.c_str(), RENAME_EXCHANGE) == 0) {
    return true;
  }
  const int code = errno;
  if (code == EINVAL || code == ENOSYS) return false;
  fail(ExitCode::io, "cannot swap {} and {}: {}", one.string(), other.string(), std::strerror(code));
}

void remove_all(const fs::path& path) {
  struct stat status {};
  if (::lstat(path.c_str(), &status) != 0) {
    if (errno == ENOENT) return;
    fail_system("remove", path);
  }
  if (S_ISDIR(status.st_mode)) {
    remove_directory(path);
  } else if (!allowed(DiskCall::unlink, path) || (::unlink(path.c_str()) != 0 && errno != ENOENT)) {
    fail_system("remove", path);
  }
}

void sync_directory(const fs::path& path) {
  const int fd = open_or_fail(path, O_RDONLY | O_DIRECTORY, "open the folder");
  const int result = allowed(DiskCall::sync_directory, path) ? ::fsync(fd) : -1;
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
  return hash_file(File::open_read(path));
}

std::string hash_file(const File& file) {
  Hasher hasher;
  std::vector<std::byte> block(size_t{1} << 20);
  for (uint64_t offset = 0;;) {
    const ssize_t n = ::pread(file.descriptor(), block.data(), block.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_system("read", file.path());
    if (n == 0) return hasher.hex();
    hasher.update(std::span(block).first(static_cast<size_t>(n)));
    offset += static_cast<uint64_t>(n);
  }
}

struct Hasher::State {
  XXH3_state_t* xxh3 = XXH3_createState();
  ~State() { XXH3_freeState(xxh3); }
};

Hasher::Hasher() : state_(std::make_unique<State>()) {
  if (state_->xxh3 == nullptr) throw std::bad_alloc();
  XXH3_128bits_reset(state_->xxh3);
}
Hasher::~Hasher() = default;

void Hasher::update(std::span<const std::byte> bytes) {
  XXH3_128bits_update(state_->xxh3, bytes.data(), bytes.size());
}

std::string Hasher::hex() const {
  return t6::io::hex(XXH3_128bits_digest(state_->xxh3));
}

std::optional<Lock> Lock::try_acquire(const fs::path& path) {
  while (true) {
    File file = File::open_append(path);
    if (::flock(file.descriptor(), LOCK_EX | LOCK_NB) != 0) {
      if (errno == EWOULDBLOCK) return std::nullopt;
      fail_system("lock", path);
    }
    // The holder before may have removed the file between the two calls: then this is the lock of nothing.
    struct stat named {
    }, held{};
    if (::fstat(file.descriptor(), &held) != 0) fail_system("lock", path);
    if (::stat(path.c_str(), &named) == 0 && named.st_ino == held.st_ino && named.st_dev == held.st_dev) {
      return Lock(std::move(file));
    }
  }
}

}  // namespace t6::io
