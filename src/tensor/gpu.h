// The GPUs of this machine: discovery, memory, order of work. Usable from any folder, also in a build without CUDA
// (there, and where no driver is, count() is zero and everything else is Error(internal)).
//
// All work of a device runs on one stream of its own, in the order it was asked for; the host runs ahead of it and
// waits only where a function here says so.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <new>
#include <string>

#include "base/profile.h"
#include "tensor/device.h"

namespace t6::gpu {

// GPUs that can be used; 0 in a build without CUDA, without a driver or without a device. Never throws.
int count();
// Why count() is zero, as a clause for messages: "this build has no CUDA kernels", "no CUDA driver was found", ...
std::string why_none();

struct Info {
  std::string name;        // "NVIDIA H100 80GB HBM3"
  int compute_capability;  // 90: sm_90
  int multiprocessors;
  size_t memory_bytes;  // of the device
  std::string driver;   // highest CUDA version the driver takes: "13.0"
  std::string runtime;  // CUDA version of this program
};
Info info(int index);

// Makes a device the current one of this thread: tensors, kernels and everything below use it. Device 0 is the current
// one at first.
void use(int index);

struct Memory {
  size_t in_use = 0;  // bytes in live tensors
  size_t peak = 0;    // highest in_use since start or reset_peak
  size_t held = 0;    // bytes the pool holds, freed ones kept for reuse included
  // Since start or reset_peak, by the driver: most the pool held, and most that captured graphs held beside it, with
  // what neither had in tensors. At least what the device gave up for them; more where the two were not at one time.
  size_t reserved_peak = 0;
  size_t free = 0;  // bytes the driver still has, of `total`
  size_t total = 0;
};
Memory memory();
size_t peak_bytes();  // memory().peak, without asking the driver
void reset_peak();
// Gives freed memory back to the driver. Waits.
void release_cached();

// Waits until all work asked for so far is done. Errors of kernels show here, or at any later call.
void synchronize();

// Thrown when a tensor does not fit.
struct OutOfMemory : std::bad_alloc {
  OutOfMemory(size_t bytes, const Memory& memory);
  const char* what() const noexcept override { return text.c_str(); }
  size_t asked;
  Memory memory;
  std::string text;  // what was asked, what is used, held and free
};

// A point in the order of work.
class Event {
 public:
  Event();
  ~Event();
  Event(Event&&) noexcept;
  Event& operator=(Event&&) noexcept;

  void record();      // the point is here
  void wait() const;  // the host waits until it is reached; at once when never recorded
  // Milliseconds of device time from `start` to this point. Waits for this point.
  double milliseconds_since(const Event& start) const;

 private:
  friend class Stream;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Names what is asked for while it lives, for profilers (NVTX). Next to free where none listens.
class Range {
 public:
  explicit Range(const char* name);  // a literal
  ~Range();
  Range(const Range&) = delete;
  Range& operator=(const Range&) = delete;
};

// Times scopes of profile.h on the device's stream.
profile::DeviceClock& clock();

// Page-locked host memory: the one kind that copies run from and to beside the host's own work.
class HostBuffer {
 public:
  explicit HostBuffer(size_t bytes);
  ~HostBuffer();
  HostBuffer(const HostBuffer&) = delete;
  HostBuffer& operator=(const HostBuffer&) = delete;

  std::byte* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  size_t bytes_;
};

// Copies that are asked for and not waited for. The host side is a HostBuffer that stays untouched until an Event
// recorded behind the copy was waited for.
void copy_to_device(void* device, const HostBuffer& host, size_t bytes);
void copy_to_host(const HostBuffer& host, const void* device, size_t bytes);

// A second order of work beside the device's own, for exchanges with other ranks. Every copy runs in the order it was
// asked for; the host side of one is untouched until wait() was called behind it. May be used by one thread at a time.
class Stream {
 public:
  Stream();  // of the current device
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  void follow(const Event& point);  // what is asked of it next runs behind what the device was asked before `point`
  void lead() const;                // what is asked of the device next runs behind all that was asked of this stream
  void wait() const;                // the host waits for all of it
  void copy_to_device(void* device, const HostBuffer& host, size_t bytes);
  void copy_to_host(const HostBuffer& host, const void* device, size_t bytes);
  void* handle() const;  // the cudaStream_t

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Work captured once and run again by one call. What runs must be the same each time: same addresses, no waiting, no
// tensor that lives on after capture() or was freed in it without being made in it.
class Graph {
 public:
  Graph();
  ~Graph();
  Graph(Graph&&) noexcept;
  Graph& operator=(Graph&&) noexcept;

  // Records what `work` asks for, without running it.
  void capture(const std::function<void()>& work);
  bool captured() const;
  void launch();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace t6::gpu
