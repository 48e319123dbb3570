#include "train/step.h"

#include <array>
#include <cstring>
#include <limits>
#include <optional>

#include "base/error.h"
#include "ops/global_norm.h"

namespace t6::train {

// The micro-batch on the device, at one address, and the page-locked buffers it arrives from: filled in turns, so that
// the host prepares one while the other is copied.
struct TrainingStep::Batches {
  struct Slot {
    gpu::HostBuffer tokens, targets;
    gpu::Event copied;
    explicit Slot(size_t bytes) : tokens(bytes), targets(bytes) {}
  };

  Batches(const Shape& shape, Device device)
      : tokens(Tensor::empty(shape, DType::i32, device)),
        targets(Tensor::empty(shape, DType::i32, device)),
        slots{Slot(tokens.bytes()), Slot(tokens.bytes())} {}

  void upload(const MicroBatch& batch) {
    T6_CHECK(batch.tokens.shape() == tokens.shape() && batch.targets.shape() == tokens.shape(),
             "[step] expected micro-batches of {}, got {} and {}", to_string(tokens.shape()),
             to_string(batch.tokens.shape()), to_string(batch.targets.shape()));
    Slot& slot = slots[next++ % slots.size()];
    slot.copied.wait();
    std::memcpy(slot.tokens.data(), batch.tokens.raw(), tokens.bytes());
    std::memcpy(slot.targets.data(), batch.targets.raw(), targets.bytes());
    gpu::copy_to_device(tokens.raw(), slot.tokens, tokens.bytes());
    gpu::copy_to_device(targets.raw(), slot.targets, targets.bytes());
    slot.copied.record();
  }

  Tensor tokens, targets;
  std::array<Slot, 2> slots;
  size_t next = 0;
};

// Loss sum, norm and clip factor of one step, on their way to the host.
struct TrainingStep::Result {
  void fetch(const Tensor& loss_sum, const Tensor& norm_and_clip) {
    on_gpu = loss_sum.device().is_cuda();
    if (!on_gpu) {
      loss = loss_sum.item();
      const std::vector<double> both = norm_and_clip.to_doubles();
      norm = both[0];
      clip = both[1];
      return;
    }
    if (!arrival) arrival.emplace();
    gpu::copy_to_host(arrival->loss, loss_sum.raw(), sizeof(double));
    gpu::copy_to_host(arrival->norm, norm_and_clip.raw(), 2 * sizeof(float));
    arrival->done.record();
  }

  void wait() {
    if (!on_gpu) return;
    arrival->done.wait();
    float both[2];
    std::memcpy(&loss, arrival->loss.data(), sizeof loss);
    std::memcpy(both, arrival->norm.data(), sizeof both);
    norm = static_cast<double>(both[0]);
    clip = static_cast<double>(both[1]);
  }

  struct Arrival {
    Arrival() : loss(sizeof(double)), norm(2 * sizeof(float)) {}  // said, as clang 14 cannot tell it for a nested one
    gpu::HostBuffer loss, norm;
    gpu::Event done;
  };
  bool on_gpu = false;
  std::optional<Arrival> arrival;
  double loss = 0, norm = 0, clip = 0;
};

TrainingStep::TrainingStep(const Transformer& model, AdamW& optimizer, const StepOptions& options)
    : model_(model),
      optimizer_(optimizer),
      options_(options),
      scale_(options.accumulation == Accumulation::mean ? 1.0 / static_cast<double>(options.micro_steps) : 1.0),
      loss_sum_(Tensor::zeros({1}, DType::f64, model.parameters().master().device())) {
  for (auto& result : results_) result = std::make_unique<Result>();
}

TrainingStep::~TrainingStep() = default;

void TrainingStep::forward_backward(const MicroBatch& batch) {
  const Variable loss = model_.loss(batch.tokens, batch.targets, scale_, options_.recompute);
  loss_sum_.add_from(loss.value());
  backward(loss);
}

// The first micro-step runs as it is: products choose their algorithms, buffers grow. From then on all are the same.
void TrainingStep::accumulate(const MicroBatch& batch) {
  const Device device = loss_sum_.device();
  if (device.is_cpu()) {
    forward_backward(batch);
    return;
  }
  if (!batches_) batches_ = std::make_unique<Batches>(batch.tokens.shape(), device);
  model_.check_ids(batch.tokens);
  model_.check_ids(batch.targets);
  batches_->upload(batch);
  const MicroBatch on_device{batches_->tokens, batches_->targets};
  if (!options_.cuda_graph || !warm_) {
    forward_backward(on_device);
    warm_ = true;
    return;
  }
  if (!graph_.captured()) {
    gpu::release_cached();  // the graph's memory is its own: what the first micro-step used would be held twice
    graph_.capture([&] { forward_backward(on_device); });
  }
  graph_.launch();
}

void TrainingStep::run(int64_t step, double lr, const std::function<MicroBatch()>& next) {
  T6_CHECK(unfinished() < kMaxUnfinished, "[step] {} steps are unfinished; finish() one first", unfinished());
  const ParameterStore& store = model_.parameters();
  store.zero_gradient();
  loss_sum_.fill(0);
  for (int64_t i = 0; i < options_.micro_steps; ++i) accumulate(next());
  const double limit = options_.clip_norm > 0 ? options_.clip_norm : std::numeric_limits<double>::infinity();
  norm_and_clip_ = norm_and_clip(sum_of_squares({store.gradient()}), limit, norm_and_clip_, loss_sum_);
  optimizer_.step(step, lr, norm_and_clip_);
  results_[static_cast<size_t>(run_++ % kMaxUnfinished)]->fetch(loss_sum_, norm_and_clip_);
}

StepResult TrainingStep::finish() {
  T6_CHECK(unfinished() > 0, "[step] no step is unfinished");
  Result& result = *results_[static_cast<size_t>(finished_++ % kMaxUnfinished)];
  result.wait();
  const double micro_steps = static_cast<double>(options_.micro_steps);
  return {.loss = result.loss / scale_ / micro_steps, .grad_norm = result.norm, .clip = result.clip};
}

}  // namespace t6::train
