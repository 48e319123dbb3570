#include "train/step.h"

#include <array>
#include <cstring>
#include <limits>
#include <optional>

#include "base/error.h"

namespace t6::train {
namespace {

constexpr int64_t kVoteWords = 6;

std::array<int32_t, kVoteWords> words_of(const Vote& vote) {
  std::array<int32_t, kVoteWords> words{vote.stop, vote.saving};
  const std::array<uint64_t, 2> hash{vote.consumed.low(), vote.consumed.high()};
  std::memcpy(&words[2], hash.data(), sizeof hash);
  return words;
}

Vote vote_of(const int32_t* words) {
  std::array<uint64_t, 2> hash;
  std::memcpy(hash.data(), words + 2, sizeof hash);
  return {.stop = words[0], .saving = words[1], .consumed = data::TokenHash(hash[0], hash[1])};
}

}  // namespace

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

// What the host wants to know of one step, on its way there.
struct TrainingStep::Result {
  void fetch(const Tensor& loss_sum, const Tensor& norm_and_clip, const Tensor& all_votes) {
    on_gpu = loss_sum.device().is_cuda();
    words.resize(static_cast<size_t>(all_votes.numel()));
    if (!on_gpu) {
      loss = loss_sum.item();
      const std::vector<double> both = norm_and_clip.to_doubles();
      norm = both[0];
      clip = both[1];
      std::memcpy(words.data(), all_votes.raw(), all_votes.bytes());
      return;
    }
    if (!arrival) arrival.emplace(all_votes.bytes());
    gpu::copy_to_host(arrival->loss, loss_sum.raw(), sizeof(double));
    gpu::copy_to_host(arrival->norm, norm_and_clip.raw(), 2 * sizeof(float));
    gpu::copy_to_host(arrival->votes, all_votes.raw(), all_votes.bytes());
    arrival->done.record();
  }

  void wait() {
    if (!on_gpu) return;
    arrival->done.wait();
    float both[2];
    std::memcpy(&loss, arrival->loss.data(), sizeof loss);
    std::memcpy(both, arrival->norm.data(), sizeof both);
    std::memcpy(words.data(), arrival->votes.data(), arrival->votes.bytes());
    norm = static_cast<double>(both[0]);
    clip = static_cast<double>(both[1]);
  }

  std::vector<Vote> votes() const {
    std::vector<Vote> all;
    for (size_t at = 0; at < words.size(); at += kVoteWords) all.push_back(vote_of(&words[at]));
    return all;
  }

  // What stays untouched until this result arrived.
  const gpu::HostBuffer& outgoing(size_t bytes) {
    if (!sent) sent.emplace(bytes);
    return *sent;
  }

  struct Arrival {
    explicit Arrival(size_t vote_bytes) : loss(sizeof(double)), norm(2 * sizeof(float)), votes(vote_bytes) {}
    gpu::HostBuffer loss, norm, votes;
    gpu::Event done;
  };
  bool on_gpu = false;
  std::optional<Arrival> arrival;
  std::optional<gpu::HostBuffer> sent;
  double loss = 0, norm = 0, clip = 0;
  std::vector<int32_t> words;
};

TrainingStep::TrainingStep(const Transformer& model, AdamW& optimizer, const StepOptions& options)
    : TrainingStep(model, optimizer, options, DataParallel::alone(model.parameters())) {}

// The mean is over all micro-batches. The authors' sum is over those of a rank, and the mean over ranks.
TrainingStep::TrainingStep(const Transformer& model, AdamW& optimizer, const StepOptions& options,
                           DataParallel parallel)
    : model_(model),
      optimizer_(optimizer),
      options_(options),
      parallel_(std::move(parallel)),
      exchange_(model.parameters(), parallel_),
      scale_(1.0 / static_cast<double>(parallel_.world() *
                                       (options.accumulation == Accumulation::mean ? options.micro_steps : 1))) {
  const Device device = model.parameters().master().device();
  loss_ = Tensor::zeros({1}, DType::f64, device);
  losses_ = Tensor::zeros({parallel_.world() * options.micro_steps}, DType::f64, device);
  votes_ = Tensor::zeros({parallel_.world(), kVoteWords}, DType::i32, device);
  for (auto& result : results_) result = std::make_unique<Result>();
}

TrainingStep::~TrainingStep() = default;

void TrainingStep::forward_backward(const MicroBatch& batch) {
  const Variable loss = [&] {
    const gpu::Range range("forward");
    return model_.loss(batch.tokens, batch.targets, scale_, options_.recompute);
  }();
  loss_.copy_from(loss.value());
  const gpu::Range range("backward");
  backward(loss);
}

// The first micro-step runs as it is: products choose their algorithms, buffers grow. From then on all are the same,
// but for the last one where others wait for its gradients.
void TrainingStep::micro_step(int64_t index, const MicroBatch& batch) {
  const gpu::Range range("micro-step");
  const bool last = index == options_.micro_steps - 1;
  if (last) exchange_.begin();
  const Device device = loss_.device();
  if (device.is_cpu()) {
    forward_backward(batch);
  } else {
    if (!batches_) batches_ = std::make_unique<Batches>(batch.tokens.shape(), device);
    model_.check_ids(batch.tokens);
    model_.check_ids(batch.targets);
    batches_->upload(batch);
    const MicroBatch on_device{batches_->tokens, batches_->targets};
    if (!options_.cuda_graph || !warm_ || (last && parallel_.world() > 1)) {
      forward_backward(on_device);
      warm_ = true;
    } else {
      if (!graph_.captured()) {
        gpu::release_cached();  // the graph's memory is its own: what the first micro-step used would be held twice
        graph_.capture([&] { forward_backward(on_device); });
      }
      graph_.launch();
    }
  }
  losses_.slice(parallel_.rank() * options_.micro_steps + index, {1}).copy_from(loss_);
}

// Leaves the sum over this rank's micro-steps in the gradient.
void TrainingStep::accumulate(const NextBatch& next) {
  if (parallel_.reduction == Reduction::tree) {
    accumulate_tree(0, options_.micro_steps, 0, next);
    return;
  }
  model_.parameters().zero_gradient();
  for (int64_t i = 0; i < options_.micro_steps; ++i) micro_step(i, next());
}

// As a tree that halves: so that the micro-steps of 2, 4, ... ranks are whole branches of the tree of one rank.
void TrainingStep::accumulate_tree(int64_t first, int64_t count, size_t depth, const NextBatch& next) {
  const Tensor& gradient = model_.parameters().gradient();
  if (count == 1) {
    model_.parameters().zero_gradient();
    micro_step(first, next());
    return;
  }
  accumulate_tree(first, count / 2, depth + 1, next);
  const Tensor left = held(depth);
  left.copy_from(gradient);
  accumulate_tree(first + count / 2, count - count / 2, depth + 1, next);
  gradient.add_from(left);
}

Tensor TrainingStep::held(size_t depth) {
  const Tensor& gradient = model_.parameters().gradient();
  while (held_.size() <= depth) held_.push_back(Tensor::empty(gradient.shape(), gradient.dtype(), gradient.device()));
  return held_[depth];
}

// Of the scaled losses of all micro-steps of all ranks, in an order that the number of ranks does not change.
Tensor TrainingStep::sum_of_losses() {
  parallel_.communicator->all_gather(losses_);
  parallel_.communicator->wait();
  return sum(losses_);
}

void TrainingStep::exchange_votes(const Vote& vote) {
  const auto words = words_of(vote);
  const Tensor mine = votes_.rows(parallel_.rank(), 1);
  if (mine.device().is_cuda()) {
    const gpu::HostBuffer& buffer = results_[static_cast<size_t>(run_ % kMaxUnfinished)]->outgoing(mine.bytes());
    std::memcpy(buffer.data(), words.data(), sizeof words);
    gpu::copy_to_device(mine.raw(), buffer, mine.bytes());
  } else {
    std::memcpy(mine.raw(), words.data(), sizeof words);
  }
  parallel_.communicator->all_gather(votes_);
  parallel_.communicator->wait();
}

void TrainingStep::run(int64_t step, double lr, const NextBatch& next, const StepRequest& request) {
  T6_CHECK(unfinished() < kMaxUnfinished, "[step] {} steps are unfinished; finish() one first", unfinished());
  accumulate(next);
  const Vote vote = request.vote ? request.vote() : Vote{};
  exchange_.finish();
  const Tensor losses = sum_of_losses();
  exchange_votes(vote);
  const double limit = options_.clip_norm > 0 ? options_.clip_norm : std::numeric_limits<double>::infinity();
  const double sum_per_mean = scale_ * static_cast<double>(losses_.numel());
  norm_and_clip_ = norm_and_clip(exchange_.sum_of_squares(), limit, options_.skip_bad ? Tensor() : norm_and_clip_,
                                 losses, {.norm = request.limits.norm, .loss = request.limits.loss * sum_per_mean});
  {
    const gpu::Range range("optimizer");
    optimizer_.step(step, lr, norm_and_clip_);
  }
  if (parallel_.zero) parallel_.all_gather(model_.parameters().compute());
  results_[static_cast<size_t>(run_++ % kMaxUnfinished)]->fetch(losses, norm_and_clip_, votes_);
}

StepResult TrainingStep::finish() {
  T6_CHECK(unfinished() > 0, "[step] no step is unfinished");
  Result& result = *results_[static_cast<size_t>(finished_++ % kMaxUnfinished)];
  result.wait();
  return {.loss = result.loss / scale_ / static_cast<double>(losses_.numel()),
          .grad_norm = result.norm,
          .clip = result.clip,
          .votes = result.votes()};
}

}  // namespace t6::train
