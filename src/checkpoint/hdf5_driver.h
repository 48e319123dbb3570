// The HDF5 file driver of this room: every read and write of libhdf5 goes through base/io, so that faults can be
// injected and the first failure ends the file's life.
//
// Why not libhdf5's own drivers: sec2 hides its system calls and keeps writing after a full disk (and then crashes at
// exit); core holds the whole file in memory. Here the first failing write is kept and later ones are swallowed, while
// the library is told that all is well (its own error paths leak): it closes in good order the file it believes
// complete. The caller looks at `error` after each call, rethrows it and unlinks the file.
#pragma once

#include <hdf5.h>

#include <cstdint>
#include <exception>
#include <string>
#include <utility>

#include "base/io.h"

namespace t6::checkpoint {

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
  bool close() { return id_ < 0 || closer_(std::exchange(id_, -1)) >= 0; }

 private:
  hid_t id_ = -1;
  Closer closer_ = nullptr;
};

// Starts libhdf5: no exit handler, no plugins, no messages of its own. Before every use; cheap. Debian's and Ubuntu's
// libraries are built thread-safe; with another build only one thread may use HDF5 at a time.
void start_hdf5();

// A file access list that opens `state` whatever the name: format of HDF5 1.10, which every later release reads.
Handle driver_access(DriverState& state);

// The innermost message of the library's error stack, which is cleared.
std::string last_hdf5_error();

}  // namespace t6::checkpoint
