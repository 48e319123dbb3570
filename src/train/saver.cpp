#include "train/saver.h"

#include "base/error.h"

namespace t6::train {
namespace {

// The state as it is now, in host memory, one tensor after the other.
checkpoint::State snapshot(const checkpoint::State& state) {
  checkpoint::State copy = state;
  for (checkpoint::TensorRef& ref : copy.tensors) {
    ref.set = {};
    if (ref.size() == 0) continue;
    const Tensor now = ref.get();
    const Tensor tensor = now.device().is_cuda() ? now.to(kCpu) : now.sole_owner() ? now : now.clone();
    ref.get = [tensor] { return tensor; };
  }
  return copy;
}

}  // namespace

Saver::Saver(std::filesystem::path folder, checkpoint::SaveOptions options, checkpoint::Peers peers, bool asynchronous)
    : folder_(std::move(folder)), options_(std::move(options)), peers_(std::move(peers)), asynchronous_(asynchronous) {}

Saver::~Saver() {
  if (thread_.joinable()) thread_.join();
}

void Saver::start(int64_t step, const checkpoint::State& state) {
  T6_CHECK(!step_, "[saver] step {} is still being saved", *step_);
  checkpoint::begin(folder_, step, state, peers_);
  step_ = step;
  status_ = Status::writing;
  auto write = [this, step](const checkpoint::State& what) {
    report_ = checkpoint::write_part(folder_, step, what, peers_.rank, peers_.world);
    status_ = Status::written;
  };
  if (!asynchronous_) return write(state);
  try {
    thread_ = std::thread([write, copy = snapshot(state)] { write(copy); });
  } catch (...) {
    // No memory for the copy, or no thread: of this rank alone, perhaps. complete() tells the others.
    report_ = checkpoint::report_failure(step, state, peers_.rank, peers_.world);
    status_ = Status::written;
  }
}

checkpoint::Saved Saver::complete() {
  T6_CHECK(step_, "[saver] nothing is being saved");
  if (thread_.joinable()) thread_.join();
  const int64_t step = *step_;
  step_.reset();
  status_ = Status::idle;
  return checkpoint::complete(folder_, step, report_, options_, peers_);
}

}  // namespace t6::train
