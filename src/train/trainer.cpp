#include "train/trainer.h"

#include <algorithm>
#include <cmath>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/progress.h"
#include "dist/agree.h"
#include "ops/global_norm.h"
#include "ops/matmul.h"
#include "train/memory_advice.h"
#include "train/replicas.h"
#include "train/schedule.h"

namespace t6::train {
namespace {

// Stop wishes of a vote beside the numbers of signals.
constexpr int kOutOfTime = 1000;

}  // namespace

int exit_code(const TrainResult& result) {
  return result.reason == StopReason::signal ? 128 + result.signal : 0;
}

// A GPU that is too small gets advice.
void Trainer::advised(const std::function<void()>& work) const {
  try {
    work();
  } catch (const gpu::OutOfMemory& error) {
    fail(ExitCode::io, "{}", out_of_memory(error));
  }
}

// What ends a run stands in its log too; the terminal hears of it from main.
void Trainer::logged(const std::function<void()>& work) const {
  try {
    advised(work);
  } catch (const std::exception& error) {
    log::error_in_files(error.what());
    throw;
  }
}

// What each rank does on its own; where one fails all do.
void Trainer::together(const std::function<void()>& work) const {
  dist::agree(*ranks_.communicator, [&] { advised(work); });
}

checkpoint::State Trainer::state() const {
  checkpoint::State state = training_state(model_.parameters(), *optimizer_, *parallel_);
  state.scalars = to_scalars(position_);
  state.scalars["spikes"] = detector_.state();
  return state;
}

MicroBatch Trainer::next_batch() {
  progress("forward and backward of a micro-batch");
  const data::Batch& batch = loader_->next();
  const Shape shape{config_.train.micro_batch, config_.model.context};
  return {Tensor::from<int32_t>(shape, batch.tokens), Tensor::from<int32_t>(shape, batch.targets)};
}

uint64_t Trainer::tokens_seen() const {
  return static_cast<uint64_t>(position_.step * config_.train.global_batch * config_.model.context);
}

double Trainer::seconds_since_start() const {
  return steady_seconds() - started_;
}

void Trainer::progress(const char* phase) const {
  if (ranks_.control) ranks_.control->progress(begun_step_, phase);
}

// What this rank would stop for: a signal's number, kOutOfTime, or 0.
int Trainer::stop_wish() const {
  if (const int signal = signals_.received(); signal != 0) return signal;
  const auto& limit = config_.train.max_runtime;
  const bool late = limit && seconds_since_start() + seconds_to_keep() >= static_cast<double>(limit->count());
  return late ? kOutOfTime : 0;
}

Vote Trainer::vote() const {
  progress("waiting for the gradients of all ranks");
  return {.stop = stop_wish(), .saving = static_cast<int32_t>(saves_->status()), .consumed = loader_->consumed()};
}

void Trainer::begin_step() {
  begun_step_ = position_.step + 1;
  Unfinished step{.step = begun_step_, .lr = 0, .began = steady_seconds(), .tokens = 0};
  step.lr = learning_rate(config_.optimizer, config_.schedule, config_.train.steps, position_.step);
  const SpikeLimits limits = detector_.hard_limits();
  training_step_->run(step.step, step.lr, [this] { return next_batch(); },
                      {.limits = {.norm = limits.norm, .loss = limits.loss}, .vote = [this] { return vote(); }});
  position_.step = step.step;
  position_.tokens = step.tokens = tokens_seen();
  unfinished_.push_back(step);
}

// Every rank has the same result of a step, and so the same verdict.
SpikeVerdict Trainer::judge(int64_t step, const StepResult& result) {
  const SpikeVerdict verdict =
      detector_.judge(step, result.loss, result.grad_norm, /*applied=*/std::isfinite(result.clip));
  if (verdict.ends) {
    dist::alike(*ranks_.communicator, [&] {
      fail(ExitCode::numeric,
           "{}. The checkpoints in {} are intact: resume with a lower optimizer.lr, a smaller optimizer.clip_norm, or "
           "another section `spikes`",
           verdict.text, paths_.checkpoints().string());
    });
  }
  if (verdict.spike) log::warn("{}", verdict.text);
  return verdict;
}

StepMetrics Trainer::finish_step() {
  const Unfinished step = unfinished_.front();
  unfinished_.pop_front();
  const StepResult result = training_step_->finish();
  votes_ = result.votes;
  votes_step_ = step.step;
  position_.consumed = {};
  for (const Vote& vote : votes_) position_.consumed.add(vote.consumed);
  const SpikeVerdict verdict = judge(step.step, result);
  if (!verdict.skipped) position_.loss = result_.loss = result.loss;

  // On a GPU a step begins while the one before is under way.
  const double seconds = steady_seconds() - std::max(step.began, last_finish_);
  last_finish_ = steady_seconds();
  StepMetrics metrics;
  metrics.step = step.step;
  metrics.steps = config_.train.steps;
  metrics.loss = result.loss;
  metrics.lr = step.lr;
  metrics.grad_norm = result.grad_norm;
  metrics.clip = result.clip;
  metrics.tokens_seen = step.tokens;
  metrics.data_hash = position_.consumed.hex();
  metrics.spike = verdict.spike;
  metrics.skipped = verdict.skipped;
  metrics.step_ms = seconds * 1000;
  metrics.tokens_per_second = static_cast<double>(config_.train.global_batch * config_.model.context) / seconds;
  if (peak_) metrics.mfu = utilisation_below_peak(*peak_, flops_per_token_, *metrics.tokens_per_second / world());
  metrics.memory_bytes = device_.is_cuda() ? gpu::peak_bytes() : memory::usage().peak;
  const double pace = (steady_seconds() - loop_started_) / static_cast<double>(step.step - resumed_from_.value_or(0));
  metrics.eta_seconds = pace * static_cast<double>(config_.train.steps - step.step);
  slowest_step_ = std::max(slowest_step_, seconds);
  return metrics;
}

// Reports steps until at most `keep` are unfinished.
void Trainer::finish_steps(size_t keep) {
  while (unfinished_.size() > keep) report(finish_step());
}

// After the first step every product of a step has its algorithm.
void Trainer::record_algorithms() {
  if (!device_.is_cuda()) return;
  Json& list = environment_["matmul_algorithms"] = Json::array();
  for (const MatmulAlgorithm& algorithm : matmul_algorithms()) list.push_back(to_string(algorithm));
  try {
    folder_->write_environment(environment_);
  } catch (const Error& error) {
    log::warn("the algorithms of products are not recorded: {}", error.what());
  }
}

void Trainer::report(const StepMetrics& metrics) {
  const bool first = metrics.step == resumed_from_.value_or(0) + 1, last = metrics.step == config_.train.steps;
  if (first && is_root()) record_algorithms();
  logs_.step(metrics, /*on_terminal=*/due(config_.logging.every, metrics.step) || first || last);
}

// Before the first step, as often as the config says, and after the last step. Always before the checkpoint of the same
// step, so that a checkpoint says that all of its step is done.
bool Trainer::evaluation_due(int64_t step) const {
  if (!validation_shards_) return false;
  return step == 0 || step == config_.train.steps || due(config_.evaluation.every, step);
}

void Trainer::evaluate() {
  const double begin = steady_seconds();
  const Evaluation evaluation =
      train::evaluate(model_, *validation_shards_, validation_windows_, config_.train.micro_batch, *ranks_.communicator,
                      [this](const char* phase) { progress(phase); });
  if (!std::isfinite(evaluation.loss)) {
    dist::alike(*ranks_.communicator, [&] {
      fail(ExitCode::numeric, "the validation loss after step {} is {}; the checkpoints in {} are intact",
           position_.step, evaluation.loss, paths_.checkpoints().string());
    });
  }
  const double seconds = steady_seconds() - begin;
  const ValidationMetrics metrics{.step = position_.step,
                                  .loss = evaluation.loss,
                                  .tokens_seen = position_.tokens,
                                  .validation_tokens = evaluation.tokens,
                                  .ms = seconds * 1000};
  logs_.validation(metrics);
  slowest_evaluation_ = std::max(slowest_evaluation_, seconds);
  position_.validation = {.step = position_.step, .loss = evaluation.loss};
  result_.validation_loss = evaluation.loss;
  if (position_.step == 0) result_.first_validation_loss = evaluation.loss;
}

bool Trainer::scores_due(int64_t step) const {
  return scores_.any() && (step == config_.train.steps || due(config_.scores.every, step));
}

// As an evaluation, before the checkpoint of the same step.
void Trainer::score() {
  const double begin = steady_seconds();
  scores_.run(
      model_, position_.step, *ranks_.communicator, [this](const char* phase) { progress(phase); },
      [this](const ScoreMetrics& metrics) { logs_.score(metrics); });
  slowest_scores_ = std::max(slowest_scores_, steady_seconds() - begin);
}

void Trainer::require_finite_parameters() {
  const bool finite = std::isfinite(sum_of_squares({model_.parameters().master()}).item());
  for (const std::string& each : ranks_.communicator->all_gather_text(finite ? "finite" : "")) {
    if (!each.empty()) continue;
    dist::alike(*ranks_.communicator, [&] {
      fail(ExitCode::numeric,
           "parameters after step {} are not finite, so they are not saved. The checkpoints in {} are intact: resume "
           "with a lower optimizer.lr or a smaller optimizer.clip_norm",
           position_.step, paths_.checkpoints().string());
    });
  }
}

void Trainer::save(bool last) {
  saves_->save(position_.step, last, [this] {
    require_finite_parameters();
    return state();
  });
}

// What one more step and a save may take, with as much to spare. What was not measured yet is guessed on the safe side:
// windows of an evaluation and tokens of scores cost no more than a step's, and a disk takes 100 MB/s.
double Trainer::seconds_to_keep() const {
  const auto windows = static_cast<double>(validation_windows_.size());
  const double guess = slowest_step_ * windows / static_cast<double>(config_.train.global_batch);
  const double evaluation = slowest_evaluation_ > 0 ? slowest_evaluation_ : guess;
  const auto step_tokens = static_cast<double>(config_.train.global_batch * config_.model.context);
  const double scores =
      slowest_scores_ > 0 ? slowest_scores_ : slowest_step_ * static_cast<double>(scores_.tokens()) / step_tokens;
  const double save = saves_->slowest() > 0 ? saves_->slowest() : static_cast<double>(bytes_to_save_) / 1e8;
  const int64_t next = position_.step + 1;
  return 2 * (slowest_step_ + save + (evaluation_due(next) ? evaluation : 0) + (scores_due(next) ? scores : 0));
}

// On several ranks what all of them voted with the last step, so that all stop after the same one: a signal before the
// lack of time.
int Trainer::agreed_wish() const {
  if (world() == 1) return stop_wish();
  int wish = 0;
  for (const Vote& vote : votes_) {
    if (vote.stop != 0 && (wish == 0 || vote.stop < wish)) wish = vote.stop;
  }
  return wish;
}

std::optional<StopReason> Trainer::stop_reason() const {
  const int wish = agreed_wish();
  if (wish != 0 && wish != kOutOfTime) return StopReason::signal;
  if (position_.step >= config_.train.steps) return StopReason::completed;
  const auto& validation = position_.validation;
  if (config_.train.target_loss && validation && validation->step == position_.step &&
      validation->loss <= *config_.train.target_loss) {
    return StopReason::target_loss;
  }
  if (wish == kOutOfTime) return StopReason::max_runtime;
  return std::nullopt;
}

std::string Trainer::out_of_memory(const gpu::OutOfMemory& error) const {
  // Some is left to what the estimate does not know: gaps between blocks, other processes.
  const auto usable = static_cast<int64_t>(static_cast<double>(error.memory.total) * 0.95);
  return fmt::format("{}; {}", error.what(), what_would_fit(model_, config_, device_, usable, world()));
}

// Of a run that ends for another reason, which a save that fails does not take the place of.
void Trainer::complete_last_save() {
  try {
    saves_->complete();
  } catch (const Error& error) {
    if (error.code() != ExitCode::io) throw;
    if (is_root()) log::error("{}", error.what());
  }
}

TrainResult Trainer::run() {
  logged([this] {
    try {
      train();
    } catch (const Error& error) {
      // All ranks have such an error, and what they were saving is of an earlier step, which is whole.
      if (error.code() == ExitCode::numeric) complete_last_save();
      throw;
    }
  });
  return result_;
}

void Trainer::train() {
  Progress progress({.label = "train",
                     .unit = "step",
                     .total = static_cast<uint64_t>(config_.train.steps),
                     .start = static_cast<uint64_t>(position_.step),
                     .plain_lines = false,
                     .summary = false});
  begun_step_ = position_.step;
  logs_.event(position_.step, resumed_from_ ? "resume" : "start", Json::object());
  if (!resumed_from_ && evaluation_due(0)) evaluate();
  loop_started_ = steady_seconds();

  std::optional<StopReason> reason;
  while (!(reason = stop_reason())) {
    begin_step();
    // A GPU always has its next step before it ends one, except where the host wants to look at what was reached, or
    // the next step depends on it.
    const bool check = world() > 1 && due(config_.run.check_replicas, position_.step);
    const bool look = check || evaluation_due(position_.step) || scores_due(position_.step) ||
                      due(config_.checkpoint.every, position_.step);
    finish_steps(look || detector_.decides() || device_.is_cpu() ? 0 : 1);
    saves_->complete_if_written(votes_step_, votes_);
    if (check) require_equal_replicas(model_.parameters(), *optimizer_, *parallel_, position_.step);
    if (evaluation_due(position_.step)) evaluate();
    if (scores_due(position_.step)) score();
    if (due(config_.checkpoint.every, position_.step)) save(/*last=*/false);
    progress.set(static_cast<uint64_t>(position_.step));
    progress.note(fmt::format("loss {:.4f}", position_.loss));
  }
  const int wish = agreed_wish();
  finish_steps(0);
  progress.finish();
  save(/*last=*/true);
  logs_.sync_curves();
  if (saves_->newest()) result_.checkpoint = saves_->newest();
  result_.reason = *reason;
  result_.signal = *reason == StopReason::signal ? wish : 0;
  result_.steps = position_.step;
}

}  // namespace t6::train
