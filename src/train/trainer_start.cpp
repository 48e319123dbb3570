// How a run begins: what it needs is checked, opened and built, then it goes on from a checkpoint or anew.
#include <omp.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/format.h"
#include "base/io.h"
#include "base/log.h"
#include "data/tokenizer.h"
#include "dist/agree.h"
#include "model/counts.h"
#include "ops/matmul.h"
#include "train/checkpoint_path.h"
#include "train/device.h"
#include "train/environment.h"
#include "train/memory_advice.h"
#include "train/trainer.h"

namespace t6::train {
namespace {

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

Trainer::Trainer(const RunConfig& config, std::span<const std::string> arguments)
    : Trainer(config, arguments, {.communicator = &dist::one_rank()}) {}

Trainer::Trainer(const RunConfig& config, std::span<const std::string> arguments, const Together& ranks)
    : config_(checked(config, *ranks.communicator)),
      ranks_(ranks),
      paths_{config.run.dir},
      started_(ranks.started),
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

void Trainer::prepare(std::span<const std::string> arguments) {
  const DType compute = dtype_for(config_.train.precision);
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
    environment_ = describe_environment(arguments, {{"oneDNN", matmul_library_version()}});
    require_memory(environment_.at("memory"), memory);
    build_step(compute);
  });

  require_same_data();
  if (peak_) environment_["peak"] = to_json(*peak_);
  if (device_.is_cuda()) environment_["gpu"] = describe_gpu(device_);
  environment_["ranks"] = {{"world", world()}, {"communicator", ranks_.communicator->name()}};
  together([&] {
    facts_ = run_facts(config_, *train_shards_, environment_);
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
    if (is_root()) open_logs();
  });
  result_.folder = paths_.root;
}

void Trainer::build_step(DType compute) {
  const int64_t granularity = Partition::granularity(world());
  parallel_.emplace(DataParallel{.communicator = ranks_.communicator,
                                 .partition = Partition(padded(model_.parameters().storage_size(), granularity),
                                                        world(), config_.train.bucket_mb << 20),
                                 .reduction = config_.train.reduction,
                                 .zero = config_.optimizer.zero});
  model_.allocate(compute, device_, granularity, parallel_->updated());
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

void Trainer::open_logs() {
  folder_->write_config(to_yaml(config_));
  folder_->write_environment(environment_);
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

// Ranks may have found other files under the same names, in other folders or as copies that were not renewed.
void Trainer::require_same_data() {
  if (world() == 1) return;
  const auto require = [&](const char* what, const std::string& text) {
    dist::require_alike(*ranks_.communicator, ExitCode::data, what, text,
                        "give every rank the same files, in a folder of its host or one that all share");
  };
  require("training tokens", describe_shards(*train_shards_));
  require("validation tokens", validation_shards_ ? describe_shards(*validation_shards_) : "");
  require("files of tasks", scores_.files());
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
  facts_["weights"] = {{"path", loaded.path.string()}, {"step", loaded.step}};
  for (const char* fact : {"run", "imported", "weights"}) {
    if (loaded.facts.contains(fact)) facts_["weights"][fact] = loaded.facts[fact];
  }
  log::info("begins with the weights of {}, step {}", loaded.path.string(), loaded.step);
  for (const std::string& key : changed_model_keys(config_of(loaded.facts, loaded.path), config_)) {
    log::warn("the weights of {} are of a model that computes otherwise: {}", loaded.path.string(), key);
  }
}

}  // namespace t6::train
