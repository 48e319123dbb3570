#include "train/trainer.h"

#include <omp.h>

#include <chrono>
#include <cmath>

#include "base/error.h"
#include "base/format.h"
#include "base/log.h"
#include "base/progress.h"
#include "data/tokenizer.h"
#include "model/counts.h"
#include "ops/matmul.h"
#include "train/environment.h"
#include "train/schedule.h"
#include "train/training_state.h"

namespace t6::train {
namespace {

constexpr int kMaxFailedSaves = 3;

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

RunConfig checked(const RunConfig& config) {
  check_trainable(config, 1);
  if (config.run.device == DeviceChoice::cuda) {
    fail(ExitCode::usage,
         "run.device: cuda asks for a GPU, but this program trains on the CPU only; write `run.device: cpu` or auto");
  }
  return config;
}

DType compute_dtype(const RunConfig& config) {
  return config.train.precision == Precision::bf16 ? DType::bf16 : DType::f32;
}

// The tokenizer a config names must fit the model's vocabulary and have made the shards.
void check_tokenizer(const RunConfig& config, const data::ShardSet& shards) {
  if (!config.data.tokenizer) return;
  const data::Tokenizer tokenizer = data::Tokenizer::load(*config.data.tokenizer);
  if (static_cast<int64_t>(tokenizer.vocab_size()) > config.model.vocab_size) {
    fail(ExitCode::data, "model.vocab_size is {}, but the tokenizer {} has {} ids; raise it to at least that",
         config.model.vocab_size, *config.data.tokenizer, tokenizer.vocab_size());
  }
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string& made_by = shards[i].tokenizer_hash();
    if (!made_by.empty() && made_by != tokenizer.hash_text()) {
      fail(ExitCode::data, "{} was made with another tokenizer than {}: hash {} against {}", shards[i].path().string(),
           *config.data.tokenizer, made_by, tokenizer.hash_text());
    }
  }
}

}  // namespace

int exit_code(const TrainResult& result) {
  return result.reason == StopReason::signal ? 128 + result.signal : 0;
}

Trainer::Trainer(const RunConfig& config, std::span<const std::string> arguments)
    : config_(checked(config)), folder_(RunFolder::open(config.run.dir)), started_(now()), model_(config.model) {
  if (config_.run.threads > 0) omp_set_num_threads(static_cast<int>(config_.run.threads));
  folder_.start_log();
  open_data();

  const DType compute = compute_dtype(config_);
  const ModelCounts counts = count(model_);
  flops_per_token_ = counts.flops_causal;
  const MemoryEstimate memory = estimate_memory(model_, config_.train.micro_batch, compute, config_.train.recompute);
  log::info("{} with {} parameters, {} FLOPs a token, about {} of memory", config_.model.kind_name(), counts.parameters,
            format_count(counts.flops_causal), format_memory(static_cast<uint64_t>(memory.total())));
  model_.allocate(compute);
  optimizer_.emplace(model_.parameters(), config_.optimizer);

  checkpoint::open_folder(folder_.paths().checkpoints());
  resume();
  checkpoint::require_space(folder_.paths().checkpoints(), state());

  // From here on the run is changed.
  folder_.write_config(to_yaml(config_));
  folder_.write_environment(describe_environment(arguments, {{"oneDNN", matmul_library_version()}}));
  const auto resumed = resumed_from_ > 0 ? std::optional(resumed_from_) : std::nullopt;
  metrics_.emplace(folder_.paths().root, resumed);
  if (config_.logging.tensorboard) tensorboard_.emplace(folder_.paths().tensorboard(), resumed);
  result_.folder = folder_.paths().root;
}

void Trainer::open_data() {
  const auto vocabulary = static_cast<uint32_t>(config_.model.vocab_size);
  const auto window = static_cast<uint64_t>(config_.model.context);
  train_shards_ = data::ShardSet::open(config_.data.train, vocabulary);
  check_tokenizer(config_, *train_shards_);
  if (!config_.data.validation.empty()) {
    validation_shards_ = data::ShardSet::open(config_.data.validation, vocabulary);
    check_tokenizer(config_, *validation_shards_);
    validation_windows_ =
        evaluation_windows(*validation_shards_, config_.evaluation, window, static_cast<uint64_t>(config_.run.seed));
  }
}

checkpoint::State Trainer::state() {
  checkpoint::State state = training_state(model_.parameters(), *optimizer_);
  state.scalars = {{"step", step_},
                   {"tokens", tokens_seen()},
                   {"data_hash", {consumed_.low(), consumed_.high()}},
                   {"loss", result_.loss}};
  return state;
}

void Trainer::resume() {
  const ResumePolicy policy = config_.checkpoint.resume;
  const std::filesystem::path folder = folder_.paths().checkpoints();
  if (policy == ResumePolicy::never && !checkpoint::list(folder).empty()) {
    fail(ExitCode::checkpoint, "checkpoint.resume is `never`, but {} holds checkpoints; choose another run.dir",
         folder.string());
  }
  const std::optional<checkpoint::Loaded> loaded = checkpoint::load(folder, state());
  if (loaded) {
    require_same_run(config_, loaded->facts, loaded->path);
    step_ = resumed_from_ = last_saved_ = last_evaluated_ = loaded->step;
    const auto& hash = loaded->scalars.at("data_hash");
    consumed_ = data::TokenHash(hash.at(0), hash.at(1));
    result_.loss = loaded->scalars.at("loss");
    model_.parameters().refresh_compute();
    log::info("resumed from {}", loaded->path.string());
  } else {
    if (policy == ResumePolicy::required) {
      fail(ExitCode::checkpoint, "checkpoint.resume is `require`, but {} holds no checkpoint", folder.string());
    }
    model_.parameters().initialise(static_cast<uint64_t>(config_.run.seed));
  }
  const data::BatchPlan plan{.global_batch = static_cast<uint64_t>(config_.train.global_batch),
                             .micro_batch = static_cast<uint64_t>(config_.train.micro_batch)};
  loader_ = std::make_unique<data::Loader>(
      *train_shards_,
      data::Sampler(config_.data.sampling, static_cast<uint64_t>(config_.run.seed),
                    static_cast<uint64_t>(config_.model.context), train_shards_->token_counts()),
      plan, static_cast<uint64_t>(step_), consumed_,
      data::LoaderOptions{.depth = static_cast<uint32_t>(config_.data.prefetch),
                          .threads = static_cast<uint32_t>(config_.data.readers)});
}

MicroBatch Trainer::next_batch() {
  const data::Batch& batch = loader_->next();
  const Shape shape{config_.train.micro_batch, config_.model.context};
  return {Tensor::from<int32_t>(shape, batch.tokens), Tensor::from<int32_t>(shape, batch.targets)};
}

uint64_t Trainer::tokens_seen() const {
  return static_cast<uint64_t>(step_) * static_cast<uint64_t>(config_.train.global_batch * config_.model.context);
}

double Trainer::seconds_since_start() const {
  return now() - started_;
}

StepMetrics Trainer::step() {
  const double begin = now();
  const StepOptions options{.micro_steps = config_.train.global_batch / config_.train.micro_batch,
                            .accumulation = config_.train.accumulation,
                            .recompute = config_.train.recompute,
                            .clip_norm = config_.optimizer.clip_norm};
  const StepResult gradient = accumulate_gradient(
      model_, [this] { return next_batch(); }, options);
  if (!std::isfinite(gradient.loss) || !std::isfinite(gradient.grad_norm)) {
    fail(ExitCode::numeric,
         "step {}: loss {} and gradient norm {} are not both finite; nothing of it was applied. The checkpoints in {} "
         "are "
         "intact: resume with a lower optimizer.lr or a smaller optimizer.clip_norm",
         step_ + 1, gradient.loss, gradient.grad_norm, folder_.paths().checkpoints().string());
  }
  const double lr = learning_rate(config_.optimizer, config_.schedule, config_.train.steps, step_);
  optimizer_->step(step_ + 1, lr, gradient.clip);
  ++step_;
  consumed_ = loader_->consumed();
  result_.loss = gradient.loss;

  const double seconds = now() - begin;
  const double rate = static_cast<double>(config_.train.global_batch * config_.model.context) / seconds;
  StepMetrics metrics;
  metrics.step = step_;
  metrics.steps = config_.train.steps;
  metrics.loss = gradient.loss;
  metrics.lr = lr;
  metrics.grad_norm = gradient.grad_norm;
  metrics.clip = gradient.clip;
  metrics.tokens_seen = tokens_seen();
  metrics.data_hash = consumed_.hex();
  metrics.step_ms = seconds * 1000;
  metrics.tokens_per_second = rate;
  metrics.memory_bytes = memory::usage().peak;
  const double pace = seconds_since_start() / static_cast<double>(step_ - resumed_from_);
  metrics.eta_seconds = pace * static_cast<double>(config_.train.steps - step_);
  return metrics;
}

void Trainer::report(const StepMetrics& metrics) {
  metrics_->train(metrics);
  if (!due(config_.logging.every) && step_ != resumed_from_ + 1 && step_ != config_.train.steps) return;
  log::info("{}", console_line(metrics));
  if (tensorboard_) tensorboard_->train(metrics);
}

void Trainer::evaluate() {
  if (!validation_shards_ || last_evaluated_ == step_) return;
  const double begin = now();
  const Evaluation evaluation =
      train::evaluate(model_, *validation_shards_, validation_windows_, config_.train.micro_batch);
  if (!std::isfinite(evaluation.loss)) {
    fail(ExitCode::numeric, "the validation loss after step {} is {}", step_, evaluation.loss);
  }
  const ValidationMetrics metrics{.step = step_,
                                  .loss = evaluation.loss,
                                  .tokens_seen = tokens_seen(),
                                  .validation_tokens = evaluation.tokens,
                                  .ms = (now() - begin) * 1000};
  metrics_->validation(metrics);
  log::info("{}", console_line(metrics));
  if (tensorboard_) tensorboard_->validation(metrics);
  last_evaluated_ = step_;
  result_.validation_loss = evaluation.loss;
  if (step_ == 0) result_.first_validation_loss = evaluation.loss;
}

// A save that fails leaves the older checkpoints and lets the run go on; three in a row end it.
void Trainer::save() {
  if (last_saved_ == step_) return;
  metrics_->sync();
  try {
    const checkpoint::SaveOptions options{.retention = {.keep_last = static_cast<int>(config_.checkpoint.keep_last),
                                                        .keep_every = config_.checkpoint.keep_every},
                                          .facts = run_facts(config_)};
    const checkpoint::Saved saved = checkpoint::save(folder_.paths().checkpoints(), step_, state(), options);
    for (const std::string& warning : saved.warnings) log::warn("{}", warning);
    metrics_->process_event(step_, "checkpoint", {{"bytes", saved.bytes}});
    last_saved_ = step_;
    failed_saves_ = 0;
  } catch (const Error& error) {
    if (error.code() != ExitCode::io || ++failed_saves_ >= kMaxFailedSaves) throw;
    log::error("step {} was not saved ({} of {} failures in a row end the run): {}", step_, failed_saves_,
               kMaxFailedSaves, error.what());
  }
}

std::optional<StopReason> Trainer::stop_reason() const {
  if (signals_.received() != 0) return StopReason::signal;
  if (step_ >= config_.train.steps) return StopReason::completed;
  if (config_.train.target_loss && last_evaluated_ == step_ && result_.validation_loss &&
      *result_.validation_loss <= *config_.train.target_loss) {
    return StopReason::target_loss;
  }
  const auto& limit = config_.train.max_runtime;
  if (limit && seconds_since_start() + 2 * slowest_step_ >= static_cast<double>(limit->count())) {
    return StopReason::max_runtime;
  }
  return std::nullopt;
}

TrainResult Trainer::run() {
  Progress progress({.label = "train",
                     .unit = "step",
                     .total = static_cast<uint64_t>(config_.train.steps),
                     .start = static_cast<uint64_t>(step_),
                     .plain_lines = false,
                     .summary = false});
  metrics_->process_event(step_, resumed_from_ > 0 ? "resume" : "start", Json::object());
  if (step_ == 0) evaluate();

  std::optional<StopReason> reason;
  while (!(reason = stop_reason())) {
    const double begin = now();
    report(step());
    if (due(config_.evaluation.every)) evaluate();
    if (due(config_.checkpoint.every)) save();
    slowest_step_ = std::max(slowest_step_, now() - begin);
    progress.set(static_cast<uint64_t>(step_));
    progress.note(fmt::format("loss {:.4f}", result_.loss));
  }
  progress.finish();

  if (*reason == StopReason::completed) evaluate();
  save();
  if (last_saved_ != step_) {
    fail(ExitCode::io,
         "the run ended at step {}, but its last checkpoint could not be saved; the newest one is of step {}", step_,
         last_saved_);
  }
  metrics_->sync();
  result_.reason = *reason;
  result_.signal = signals_.received();
  result_.steps = step_;
  return result_;
}

}  // namespace t6::train
