// The same interface in a build without CUDA: no device, and an error for whoever asks anything of one.
#include "tensor/gpu.h"

#include "base/error.h"
#include "base/format.h"
#include "tensor/gpu_identity.h"

namespace t6::gpu {

OutOfMemory::OutOfMemory(size_t bytes, const Memory& state)
    : asked(bytes),
      memory(state),
      text("out of GPU memory: " + format_memory(bytes) + " were asked for, " + format_memory(state.in_use) +
           " are in use, " + format_memory(state.held) + " held, " + format_memory(state.free) + " of " +
           format_memory(state.total) + " free") {}

#if !defined(T6_HAVE_CUDA)

namespace {
[[noreturn]] void none() {
  fail(ExitCode::internal, "[gpu] {}", why_none());
}
}  // namespace

int count() {
  return 0;
}
std::string why_none() {
  return "this build has no CUDA kernels (cmake --preset cuda builds them)";
}
Info info(int) {
  none();
}
std::string identity(int) {
  none();
}
void use(int) {
  none();
}
Memory memory() {
  none();
}
size_t peak_bytes() {
  none();
}
void reset_peak() {
  none();
}
void release_cached() {
  none();
}
void synchronize() {
  none();
}

struct Event::Impl {};
Event::Event() {
  none();
}
Event::~Event() = default;
Event::Event(Event&&) noexcept = default;
Event& Event::operator=(Event&&) noexcept = default;
void Event::record() {
  none();
}
void Event::wait() const {
  none();
}
double Event::milliseconds_since(const Event&) const {
  none();
}

Range::Range(const char*) {}
Range::~Range() = default;
profile::DeviceClock& clock() {
  none();
}

HostBuffer::HostBuffer(size_t) {
  none();
}
HostBuffer::~HostBuffer() = default;
void copy_to_device(void*, const HostBuffer&, size_t) {
  none();
}
void copy_to_host(const HostBuffer&, const void*, size_t) {
  none();
}

struct Stream::Impl {};
Stream::Stream() {
  none();
}
Stream::~Stream() = default;
void Stream::follow(const Event&) {
  none();
}
void Stream::lead() const {
  none();
}
void Stream::wait() const {
  none();
}
void Stream::copy_to_device(void*, const HostBuffer&, size_t) {
  none();
}
void Stream::copy_to_host(const HostBuffer&, const void*, size_t) {
  none();
}
void* Stream::handle() const {
  none();
}

struct Graph::Impl {};
Graph::Graph() = default;
Graph::~Graph() = default;
Graph::Graph(Graph&&) noexcept = default;
Graph& Graph::operator=(Graph&&) noexcept = default;
void Graph::capture(const std::function<void()>&) {
  none();
}
bool Graph::captured() const {
  return false;
}
void Graph::launch() {
  none();
}

#endif

}  // namespace t6::gpu
