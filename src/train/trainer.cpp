#include "train/trainer.h"

#include <omp.h>

#include <algorithm>
#include <cmath>

#include "base/clock.h"
#include "base/error.h"
#include "base/format.h"
#include "base/io.h"
#include "base/log.h"
#include "base/progress.h"
#include "data/tokenizer.h"
#include "dist/agree.h"
#include "model/counts.h"
#include "ops/global_norm.h"
#include "ops/matmul.h"
#include "train/checkpoint_path.h"
#include "train/device.h"
#include "train/environment.h"
#include "train/memory_advice.h"
#include "train/replicas.h"
#include "train/schedule.h"

namespace t6::train {
namespace {

// Stop wishes of a vote beside the numbers of signals.
constexpr int kOutOfTime = 1000;

RunConfig checked(const RunConfig& config, const dist::Communicator& communicator) {
  dist::alike(communicator, [&] { check_trainable(config, communicator.world()); });
  return config;
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

// A GPU that is too small gets advice.
template <class Work>
auto Trainer::advised(Work&& work) {
  try {
    return work();
  } catch (const gpu::OutOfMemory& error) {
    fail(ExitCode::io, "{}", out_of_memory(error));
  }
}

// What ends a run stands in its log too; the terminal hears of it from main.
template <class Work>
auto Trainer::logged(Work&& work) {
  try {
    return advised(work);
  } catch (const std::exception& error) {
    log::error_in_files(error.what());
    throw;
  }
}

Trainer::Trainer(const RunConfig& config, std::span<const std::string> arguments)
    : Trainer(config, arguments, {.communicator = &dist::one_rank()}) {}

Trainer::Trainer(const RunConfig& config, std::span<const std::string> arguments, const Together& ranks)
    : config_(checked(config, *ranks.communicator)),
      ranks_(ranks),
      paths_{config.run.dir},
      started_(steady_seconds()),
      loop_started_(started_),
      model_(config.model),
      detector_(config.spikes) {
  if (config_.run.threads > 0) omp_set_num_threads(static_cast<int>(config_.run.threads));
  set_determinism(config_.run.determinism);
  together([&] {
    device_ = choose_device(config.run.device, "run.device: cuda", ranks_.gpu);
    if (!is_root()) return log::leave_the_word();
    folder_ = RunFolder::open(config.run.dir);
    folder_->start_log();
  });
  logged([&] { prepare(arguments); });
}

// What each rank does on its own; where one fails all do.
void Trainer::together(const std::function<void()>& work) {
  dist::agree(*ranks_.communicator, [&] { advised(work); });
}

void Trainer::prepare(std::span<const std::string> arguments) {
  const DType compute = dtype_for(config_.train.precision);
  Json& environment = environment_;
  together([&] {
    open_data();
    // While the machine is idle: before the loader's threads, and before memory is counted.
    if (is_root()) peak_ = device_peak(device_, compute);
    device_.is_cuda() ? gpu::reset_peak() : memory::reset_peak();
    const ModelCounts counts = count(model_);
    flops_per_token_ = counts.flops_causal;
    const MemoryEstimate memory = estimate_memory(model_, memory_options(config_, device_, world()));
    log::info("{} with {} parameters, {} FLOPs a token, about {} of memory{}", config_.model.kind_name(),
              counts.parameters, format_count(counts.flops_causal),
              format_memory(static_cast<uint64_t>(memory.total())),
              world() > 1 ? fmt::format(" on each of {} ranks", world()) : "");
    environment = describe_environment(arguments, {{"oneDNN", matmul_library_version()}});
    require_memory(environment.at("memory"), memory);
    build_step(compute);
  });

  if (peak_) environment["peak"] = to_json(*peak_);
  if (device_.is_cuda()) environment["gpu"] = describe_gpu(device_);
  environment["ranks"] = {{"world", world()}, {"communicator", ranks_.communicator->name()}};
  together([&] {
    facts_ = run_facts(config_, *train_shards_, environment);
    if (is_root()) checkpoint::open_folder(paths_.checkpoints());
  });
  resume();
  bytes_to_save_ = checkpoint::bytes_needed(state());
  dist::alike(*ranks_.communicator, [&] {
    const checkpoint::Peers peers = peers_of(*ranks_.communicator);
    require_manifest_fits(state(), *parallel_, peers);
    checkpoint::require_space(paths_.checkpoints(), state(), peers);
  });
  saves_.emplace(*ranks_.communicator, logs_,
                 RunSaves::Options{.folder = paths_.checkpoints(),
                                   .save = {.retention = {.keep_last = static_cast<int>(config_.checkpoint.keep_last),
                                                          .keep_every = config_.checkpoint.keep_every},
                                            .facts = facts_},
                                   .async = config_.checkpoint.async,
                                   .resumed_step = resumed_from_,
                                   .progress = [this](const char* phase) { progress(phase); }});

  // From here on the run is changed.
  together([&] {
    if (is_root()) open_logs(environment);
  });
  result_.folder = paths_.root;
}

void Trainer::build_step(DType compute) {
  model_.allocate(compute, device_, Partition::granularity(world()));
  parallel_.emplace(
      DataParallel{.communicator = ranks_.communicator,
                   .partition = Partition(model_.parameters().storage_size(), world(), config_.train.bucket_mb << 20),
                   .reduction = config_.train.reduction,
                   .zero = config_.optimizer.zero});
  optimizer_.emplace(model_.parameters(), config_.optimizer, parallel_->updated());
  training_step_.emplace(model_, *optimizer_,
                         StepOptions{.micro_steps = config_.train.global_batch / (config_.train.micro_batch * world()),
                                     .accumulation = config_.train.accumulation,
                                     .recompute = config_.train.recompute,
                                     .clip_norm = config_.optimizer.clip_norm,
                                     .cuda_graph = config_.train.cuda_graph,
                                     .skip_bad = detector_.decides()},
                         *parallel_);
}

void Trainer::open_logs(const Json& environment) {
  folder_->write_config(to_yaml(config_));
  folder_->write_environment(environment);
  logs_ = RunLogs(paths_, config_, resumed_from_);
}

// A run that cannot fit is refused: the system would kill it without a word. `memory` is that of describe_environment.
void Trainer::require_memory(const Json& memory, const MemoryEstimate& needed) const {
  if (!memory.contains("total")) return;
  const HostMemory host{.bytes = memory.value("limit", memory.at("total").get<int64_t>()),
                        .ranks = ranks_.communicator->ranks().local_world,
                        .world = world()};
  const std::string why = why_no_room(model_, config_, needed, host);
  if (!why.empty()) fail(ExitCode::io, "out of memory: {}", why);
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
  scores_ = TrainingScores(config_);
}

checkpoint::State Trainer::state() const {
  checkpoint::State state = training_state(model_.parameters(), *optimizer_, *parallel_);
  state.scalars = to_scalars(position_);
  state.scalars["spikes"] = detector_.state();
  return state;
}

void Trainer::resume() {
  const ResumePolicy policy = config_.checkpoint.resume;
  const std::filesystem::path folder = paths_.checkpoints();
  together([&] {
    if (io::exists(paths_.root / kImportedFile)) {
      fail(
          ExitCode::checkpoint,
          "{} holds an imported model, which has no optimizer state to go on with; train it under another run.dir with "
          "train.weights={}",
          paths_.root.string(), paths_.root.string());
    }
    if (policy == ResumePolicy::never && !checkpoint::list(folder).empty()) {
      fail(ExitCode::checkpoint, "checkpoint.resume is `never`, but {} holds checkpoints; choose another run.dir",
           folder.string());
    }
  });
  const std::optional<checkpoint::Loaded> loaded = dist::alike(
      *ranks_.communicator, [&] { return checkpoint::load(folder, state(), {}, peers_of(*ranks_.communicator)); });
  together([&] { loaded ? go_on_from(*loaded) : start_anew(); });
  if (loaded) {
    spread_loaded(model_.parameters(), *optimizer_, *parallel_);
  } else if (config_.train.weights) {
    begin_with_weights();
  }
  const data::BatchPlan plan{.global_batch = static_cast<uint64_t>(config_.train.global_batch),
                             .micro_batch = static_cast<uint64_t>(config_.train.micro_batch),
                             .rank = static_cast<uint32_t>(ranks_.communicator->rank()),
                             .world = static_cast<uint32_t>(world())};
  // The hash of the run is the sum of its ranks'.
  loader_ = std::make_unique<data::Loader>(
      *train_shards_,
      data::Sampler(config_.data.sampling, static_cast<uint64_t>(config_.run.seed),
                    static_cast<uint64_t>(config_.model.context), train_shards_->token_counts()),
      plan, static_cast<uint64_t>(position_.step), is_root() ? position_.consumed : data::TokenHash(),
      data::LoaderOptions{.depth = static_cast<uint32_t>(config_.data.prefetch),
                          .threads = static_cast<uint32_t>(config_.data.readers)});
}

void Trainer::go_on_from(const checkpoint::Loaded& loaded) {
  require_same_run(config_, facts_, loaded);
  if (loaded.facts.contains("weights")) facts_["weights"] = loaded.facts["weights"];
  position_ = position_of(loaded);
  resumed_from_ = position_.step;
  result_.checkpoint = loaded.path;
  result_.loss = position_.loss;
  if (position_.validation) result_.validation_loss = position_.validation->loss;
  if (const auto state = loaded.scalars.find("spikes"); state != loaded.scalars.end()) {
    detector_.restore(*state, loaded.path.string());
  } else {
    log::info("{} holds no state of the spike detector, which starts anew", loaded.path.string());
  }
  log::info("resumed from {}", loaded.path.string());
}

// Without a checkpoint: right for a new run and for one that was killed before its first save, but not for one whose
// checkpoints are gone.
void Trainer::start_anew() {
  if (config_.checkpoint.resume == ResumePolicy::required) {
    fail(ExitCode::checkpoint, "checkpoint.resume is `require`, but {} holds no checkpoint",
         paths_.checkpoints().string());
  }
  const LoggedRun logged = read_logged_run(paths_.root);
  if (logged.saved_step) {
    fail(ExitCode::checkpoint,
         "{} says that a checkpoint of step {} was saved, but {} holds none. Put the checkpoints back; to start anew, "
         "delete the run {} or choose another run.dir",
         paths_.timing().string(), *logged.saved_step, paths_.checkpoints().string(), paths_.root.string());
  }
  if (logged.last_step > 0) {
    log::warn("the run ended before its first checkpoint: the {} steps logged in {} are done again", logged.last_step,
              paths_.metrics().string());
  }
  if (!config_.train.weights) model_.parameters().initialise(static_cast<uint64_t>(config_.run.seed));
}

// Of train.weights the parameters alone, whole on every rank: optimizer, data and step begin anew. A resumed run has
// its own, so where they came from is kept with its checkpoints and not looked at again.
void Trainer::begin_with_weights() {
  CheckpointPath where;
  together([&] {
    where = find_checkpoints(*config_.train.weights);
    require_attention(where, config_.model.kind_name());
  });
  const checkpoint::State state = model_state(model_.parameters());
  const checkpoint::Loaded loaded = dist::alike(*ranks_.communicator, [&] {
    return load_from(where, state, {.prefix = "params/"}, peers_of(*ranks_.communicator));
  });
  model_.parameters().refresh_compute();
  facts_["weights"] = {{"path", loaded.path.string()}, {"step", loaded.step}};
  for (const char* fact : {"run", "imported", "weights"}) {
    if (loaded.facts.contains(fact)) facts_["weights"][fact] = loaded.facts[fact];
  }
  log::info("begins with the weights of {}, step {}", loaded.path.string(), loaded.step);
  for (const std::string& key : changed_model_keys(config_of(loaded.facts, loaded.path), config_)) {
    log::warn("the weights of {} are of a model that computes otherwise: {}", loaded.path.string(), key);
  }
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
    saves_->complete();  // of an earlier step, which is whole
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
  folder_->write_environment(environment_);
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
           "with "
           "a lower optimizer.lr or a smaller optimizer.clip_norm",
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

TrainResult Trainer::run() {
  return logged([this] { return train(); });
}

TrainResult Trainer::train() {
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
    saves_->complete_if_written(votes_);
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
  return result_;
}

}  // namespace t6::train
