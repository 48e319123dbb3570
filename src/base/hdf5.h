// HDF5 for the rooms that read and write it: handles, the library's start and its errors, and a file driver whose every
// read and write goes through base/io, so that faults can be injected and the first failure ends the file's life.
//
// Why not libhdf5's own drivers: sec2 hides its system calls and keeps writing after a full disk (and then crashes at
// exit); core holds the whole file in memory. Here the first failing write is kept and later ones are swallowed, while
// the library is told that all is well (its own error paths leak): it closes in good order the file it believes
// complete. The caller looks at `error` after each call, rethrows it and unlinks the file.
#pragma once

#include <hdf5.h>

#include <cstdint>
#include <exception>
#include <mutex>
#include <string>
#include <utility>

#include "base/error.h"
#include "base/io.h"

namespace t6::hdf5 {

// What the driver works on; must outlive the HDF5 file opened with it.
struct DriverState {
  io::File file;
  bool writable = false;
  bool abandoned = false;    // swallow writes from now on
  std::exception_ptr error;  // the first failure

  // Keeps the exception being handled, if it is the first.
  void give_up() noexcept;
};

// An HDF5 identifier with the function that closes it.
class Handle {
 public:
  using Closer = herr_t (*)(hid_t);
  Handle() = default;
  Handle(hid_t id, Closer closer) : id_(id), closer_(closer) {}
  Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, -1)), closer_(other.closer_) {}
  Handle& operator=(Handle&& other) noexcept {
    std::swap(id_, other.id_);
    std::swap(closer_, other.closer_);
    return *this;
  }
  ~Handle() { close(); }
  operator hid_t() const { return id_; }
  bool valid() const { return id_ >= 0; }
  // For a written file, closing is what writes it.
  bool close() { return id_ < 0 || closer_(std::exchange(id_, -1)) >= 0; }

 private:
  hid_t id_ = -1;
  Closer closer_ = nullptr;
};

// Starts libhdf5: no exit handler, no plugins, no messages of its own. Before every use; cheap.
void start();

// One thread at a time uses libhdf5, which not every build of it sees to, and none while the process forks a child that
// will use it: held around uses, recursive. A Session holds it.
using Guard = std::unique_lock<std::recursive_mutex>;
Guard guard();

// A file access list that opens `state` whatever the name. What is written has the format of HDF5 1.10, which every
// later release reads.
Handle driver_access(DriverState& state);

// The innermost message of the library's error stack, which is cleared.
std::string last_error();

// An open file; its messages about the object being worked on name what the driver met first, or the library's reason.
// Begins and ends on one thread.
struct Session {
  // reading: of errors when the file is not one being written.
  Session(io::File opened, bool writable, ExitCode reading_code)
      : driver{std::move(opened), writable, false, {}}, reading(reading_code) {}

  const Guard guarded = guard();  // released last
  DriverState driver;
  ExitCode reading;
  Handle file = {};

  // Error(io) for a file being written, Error(reading) otherwise: "cannot <what> <object> in <path>: <reason>".
  [[noreturn]] void failed(const char* what, const std::string& object);
  void check(bool ok, const char* what, const std::string& object) {
    if (!ok || driver.error) failed(what, object);
  }
  // Ends the HDF5 side; with `keep` false nothing more is written.
  void finish(bool keep);
};

}  // namespace t6::hdf5
