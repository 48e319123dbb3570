// Files: whole reads and writes, fsync, atomic replacement, free space, locks. Every failure is Error(io) naming the
// path, the operation and the system's reason. All durable writes of the program go through here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace t6::io {

namespace fs = std::filesystem;

// Ends the waiting of reads in other threads, now and from now on.
class Interrupt {
 public:
  Interrupt();
  ~Interrupt();
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;
  void raise() noexcept;

 private:
  friend class File;
  int fd_;
};

// An open file descriptor, closed on destruction.
class File {
 public:
  static File open_read(const fs::path& path);
  static File create(const fs::path& path);       // write only, truncates
  static File create_new(const fs::path& path);   // read and write, refuses an existing file
  static File open_append(const fs::path& path);  // write only, creates when missing
  static File standard_input();                   // a duplicate of descriptor 0, named "standard input"
  File duplicate() const;                         // another descriptor of the same open file

  File(File&& other) noexcept;
  File& operator=(File&& other) noexcept;
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File();

  uint64_t size() const;
  // Reads up to bytes.size() bytes at the file position; 0 at the end.
  size_t read_some(std::span<std::byte> bytes);
  // Waits until read_some() would not: a pipe's next bytes or end. False when `interrupt` was raised.
  bool wait_readable(const Interrupt& interrupt) const;
  // Fills `bytes` from `offset`; a short file is an Error that says how many bytes were there.
  void read_at(std::span<std::byte> bytes, uint64_t offset) const;
  void write_all(std::span<const std::byte> bytes);
  void write_all(std::string_view text);
  void write_at(std::span<const std::byte> bytes, uint64_t offset);
  void truncate(uint64_t size);
  void sync();   // fsync
  void close();  // reports what the destructor could not

  const fs::path& path() const { return path_; }
  int descriptor() const { return fd_; }

 private:
  File(int fd, fs::path path) : fd_(fd), path_(std::move(path)) {}
  int fd_ = -1;
  fs::path path_;
};

// Whole file as text; refuses files over max_bytes.
std::string read_text(const fs::path& path, uint64_t max_bytes = uint64_t{1} << 30);

// Writes beside the target, fsyncs, renames over it and fsyncs the directory: readers see the old text or the new,
// never a part.
void write_text_atomically(const fs::path& path, std::string_view text);

// True for whatever carries this name, links followed; false when nothing does. Error(io) when that cannot be said: a
// name that is too long, a folder that may not be searched.
bool exists(const fs::path& path);
// The names in a folder, sorted by bytes.
std::vector<std::string> list_folder(const fs::path& path);

// Makes the missing folders of `path`, each of them durably: its parent is fsynced.
void make_directories(const fs::path& path);
fs::path parent_of(const fs::path& path);  // "." for a bare name
void rename(const fs::path& from, const fs::path& to);
void remove_all(const fs::path& path);      // a link is removed, not followed; a missing path is fine
void sync_directory(const fs::path& path);  // makes names created or renamed in it durable
uint64_t free_bytes(const fs::path& path);  // what an ordinary user can still write there

// XXH3-128 of a whole file as 32 hex digits.
std::string hash_file(const fs::path& path);
std::string hash_file(const File& file);  // from its start; the file position stays
std::string hash_bytes(std::span<const std::byte> bytes);

// XXH3-128 of bytes that come in pieces.
class Hasher {
 public:
  Hasher();
  ~Hasher();
  void update(std::span<const std::byte> bytes);
  std::string hex() const;  // 32 digits, of all bytes so far

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// An exclusive advisory lock on `path` (created when missing), held until destruction or process end.
class Lock {
 public:
  // Empty when another process holds it.
  static std::optional<Lock> try_acquire(const fs::path& path);

 private:
  explicit Lock(File file) : file_(std::move(file)) {}
  File file_;
};

// The system calls of this file that change the disk or make a change durable.
enum class DiskCall : uint8_t { create, write, truncate, sync, close, rename, make_directory, unlink, sync_directory };
const char* name_of(DiskCall call);

// Called before each of them with the path it is for (the old one of a rename). Returns 0 to let it happen or an errno
// to make it fail with; `bytes` of a write may be lowered for a short one. Tests record call orders, inject faults and
// end the process here. Not to be set while another thread writes; empty ends it.
using FaultHook = std::function<int(DiskCall call, const fs::path& path, size_t& bytes)>;
void set_fault_hook(FaultHook hook);

}  // namespace t6::io
