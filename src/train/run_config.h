// Everything a run is configured by: the sections of its YAML file.
//
// Defaults are the corrected protocol; `preset: official` exchanges those of the authors' code for them together (see
// official_config), keys that are written keep their values.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/config.h"
#include "data/sampler.h"
#include "model/model_config.h"
#include "model/recompute.h"
#include "train/spikes.h"
#include "train/tasks/task.h"

namespace t6::data {
constexpr std::array<std::string_view, 2> config_names(SampleOrder) {
  return {"shuffled", "random_window"};
}
}  // namespace t6::data

namespace t6 {

enum class Preset { corrected, official };
constexpr std::array<std::string_view, 2> config_names(Preset) {
  return {"default", "official"};
}

enum class DeviceChoice { automatic, cpu, cuda };
constexpr std::array<std::string_view, 3> config_names(DeviceChoice) {
  return {"auto", "cpu", "cuda"};
}

enum class Determinism { standard, strict };
constexpr std::array<std::string_view, 2> config_names(Determinism) {
  return {"default", "strict"};
}

struct RunSection {
  std::string dir = "runs/run";
  int64_t seed = 0;
  DeviceChoice device = DeviceChoice::automatic;
  int64_t threads = 0;
  Determinism determinism = Determinism::standard;
  std::optional<std::chrono::seconds> watchdog;
  int64_t check_replicas = 1000;

  template <class V>
  void fields(V& v) {
    v.field("dir", dir, "run folder; not written: runs/ and the names of the config files");
    v.field("seed", seed, "of initial weights, data order and sampling", config::range(0, 9e15));
    v.field("device", device, "where to compute; auto: a GPU when there is one");
    v.field("threads", threads, "CPU threads a rank; 0: all it may use", config::range(0, 4096));
    v.field("determinism", determinism,
            "strict: steps on a GPU repeat bit for bit, without algorithms chosen by the clock; a CPU always does");
    v.field("watchdog", watchdog,
            "end the run, and say where it hangs, when a rank makes no progress for this time; 0: never; not written: "
            "10m on several ranks, never on one",
            config::at_least(0));
    v.field("check_replicas", check_replicas,
            "steps between comparisons of all ranks' weights, which must be equal bit for bit; 0: never",
            config::range(0, 1e9));
  }
  bool operator==(const RunSection&) const = default;
};

struct DataSection {
  std::vector<std::string> train;
  std::vector<std::string> validation;
  std::optional<std::string> tokenizer;
  data::SampleOrder sampling = data::SampleOrder::shuffled;
  int64_t prefetch = 4;
  int64_t readers = 1;

  template <class V>
  void fields(V& v) {
    v.field("train", train, "globs of the token shards to train on");
    v.field("validation", validation, "globs of the token shards to evaluate on; empty: no evaluation");
    v.field("tokenizer", tokenizer, "tokenizer file, for generating text and checking the vocabulary");
    v.field("sampling", sampling, "each window once an epoch in a seeded order, or random with replacement");
    v.field("prefetch", prefetch, "micro-batches read ahead", config::range(1, 1024));
    v.field("readers", readers, "threads reading ahead", config::range(1, 64));
  }
  bool operator==(const DataSection&) const = default;
};

enum class Accumulation { mean, sum };
constexpr std::array<std::string_view, 2> config_names(Accumulation) {
  return {"mean", "sum"};
}

// How gradients of micro-batches and ranks are added up.
enum class Reduction { fast, tree };
constexpr std::array<std::string_view, 2> config_names(Reduction) {
  return {"fast", "tree"};
}

enum class Precision { f32, bf16 };
constexpr std::array<std::string_view, 2> config_names(Precision) {
  return {"f32", "bf16"};
}
// What products read and attention computes in.
constexpr DType dtype_for(Precision precision) {
  return precision == Precision::bf16 ? DType::bf16 : DType::f32;
}

constexpr std::array<std::string_view, 4> config_names(Recompute) {
  return {"none", "qkv", "attention", "block"};
}

struct TrainSection {
  int64_t steps = 100000;
  int64_t global_batch = 480;
  int64_t micro_batch = 24;
  Accumulation accumulation = Accumulation::mean;
  Reduction reduction = Reduction::fast;
  int64_t bucket_mb = 32;
  Precision precision = Precision::f32;
  Recompute recompute = Recompute::none;
  bool cuda_graph = true;
  std::optional<std::chrono::seconds> max_runtime;
  std::optional<double> target_loss;
  std::optional<std::string> weights;

  template <class V>
  void fields(V& v) {
    v.field("steps", steps, "optimizer steps", config::range(1, 1e9));
    v.field("global_batch", global_batch, "windows a step over all ranks; a multiple of micro_batch x ranks",
            config::range(1, 1e6));
    v.field("micro_batch", micro_batch, "windows computed at a time on a rank", config::range(1, 65536));
    v.field("accumulation", accumulation, "gradients of micro-batches: averaged, or summed as the authors' code does");
    v.field(
        "reduction", reduction,
        "order of that sum over micro-batches and ranks; tree: one for 1, 2, 4, ... ranks, so bitwise equal, slower");
    v.field("bucket_mb", bucket_mb, "gradients are sent to the other ranks in pieces of this size, while backward runs",
            config::range(1, 4096));
    v.field("precision", precision, "of matrix products and attention; weights and statistics stay f32");
    v.field("recompute", recompute,
            "activations computed again in the backward pass, to save memory; qkv: of tpa and tpa_kvonly");
    v.field("cuda_graph", cuda_graph, "on a GPU: micro-steps run as one captured graph; the losses are the same");
    v.field("max_runtime", max_runtime, "save and exit after this time", config::at_least(1));
    v.field("target_loss", target_loss, "stop once the validation loss is at or below", config::positive());
    v.field(
        "weights", weights,
        "run or checkpoint whose weights a new run begins with, of t6 train or t6 import; not written: random ones");
  }
  bool operator==(const TrainSection&) const = default;
};

enum class DecayScope { matrices, all };
constexpr std::array<std::string_view, 2> config_names(DecayScope) {
  return {"matrices", "all"};
}

struct OptimizerSection {
  double lr = 6e-4;
  double min_lr = 3e-5;
  std::array<double, 2> betas{0.9, 0.95};
  double eps = 1e-8;
  double weight_decay = 0.1;
  DecayScope decay = DecayScope::matrices;
  double clip_norm = 1.0;
  bool zero = false;

  template <class V>
  void fields(V& v) {
    v.field("lr", lr, "peak learning rate", config::positive(10));
    v.field("min_lr", min_lr, "learning rate at the end of the decay", config::range(0, 10));
    v.field("betas", betas, "decay of the first and second moment", config::range_below(0, 1));
    v.field("eps", eps, "added to the root of the second moment", config::positive(1));
    v.field("weight_decay", weight_decay, "decoupled weight decay", config::range(0, 10));
    v.field("decay", decay, "what decays: matrices only, or norm weights too");
    v.field("clip_norm", clip_norm, "gradients are scaled down to this global norm; 0: never", config::range(0, 1e6));
    v.field("zero", zero,
            "on several ranks: each keeps and updates its part of the f32 masters and AdamW's moments alone (ZeRO-1)");
  }
  bool operator==(const OptimizerSection&) const = default;
};

enum class ScheduleKind { cosine, linear, constant, wsd };
constexpr std::array<std::string_view, 4> config_names(ScheduleKind) {
  return {"cosine", "linear", "constant", "wsd"};
}

struct ScheduleSection {
  ScheduleKind kind = ScheduleKind::cosine;
  int64_t warmup_steps = 2000;
  int64_t decay_steps = 0;

  // Length of the decay in a run of `steps`. cosine, linear: it follows the warm-up; wsd: it ends the run; constant: 0.
  int64_t decay_length(int64_t steps) const;

  template <class V>
  void fields(V& v) {
    v.field("kind", kind, "how lr falls to min_lr after the warm-up; wsd: stable, then a linear decay at the end");
    v.field("warmup_steps", warmup_steps, "steps in which lr rises linearly from 0", config::range(0, 1e9));
    v.field("decay_steps", decay_steps, "length of the decay; 0: all steps after the warm-up, wsd: a tenth of the run",
            config::range(0, 1e9));
  }
  bool operator==(const ScheduleSection&) const = default;
};

enum class EvaluationSampling { fixed, random };
constexpr std::array<std::string_view, 2> config_names(EvaluationSampling) {
  return {"fixed", "random"};
}

struct EvaluationSection {
  int64_t every = 1000;
  int64_t windows = 4800;
  EvaluationSampling sampling = EvaluationSampling::fixed;

  template <class V>
  void fields(V& v) {
    v.field("every", every, "steps between evaluations; 0: only after the last step", config::range(0, 1e9));
    v.field("windows", windows, "validation windows; 0: all; preset official: 200 x train.micro_batch",
            config::range(0, 1e9));
    v.field("sampling", sampling, "the same evenly spaced windows over all ranks, or random ones on rank 0");
  }
  bool operator==(const EvaluationSection&) const = default;
};

struct ScoresSection {
  std::vector<TaskName> tasks;
  std::optional<std::string> data;
  int64_t every = 0;
  int64_t shots = 0;
  int64_t limit = 0;

  template <class V>
  void fields(V& v) {
    v.field("tasks", tasks, "downstream tasks to score while training; none: nothing is scored");
    v.field("data", data, "folder with the files of these tasks (docs/scores.md)");
    v.field("every", every, "steps between scores; 0: only after the last step", config::range(0, 1e9));
    v.field("shots", shots, "examples before each question", config::range(0, 64));
    v.field("limit", limit, "only the first items of each task; 0: all", config::range(0, 1e9));
  }
  bool operator==(const ScoresSection&) const = default;
};

enum class ResumePolicy { automatic, never, required };
constexpr std::array<std::string_view, 3> config_names(ResumePolicy) {
  return {"auto", "never", "require"};
}

struct CheckpointSection {
  int64_t every = 1000;
  int64_t keep_last = 3;
  int64_t keep_every = 0;
  ResumePolicy resume = ResumePolicy::automatic;
  bool async = true;

  template <class V>
  void fields(V& v) {
    v.field("every", every, "steps between checkpoints; 0: only at the end", config::range(0, 1e9));
    v.field("keep_last", keep_last, "newest checkpoints kept", config::range(1, 1e6));
    v.field("keep_every", keep_every, "also keep those of steps that are multiples of this; 0: none",
            config::range(0, 1e9));
    v.field("resume", resume,
            "auto: from the newest intact one; never: the run folder must hold none; require: one must be there");
    v.field("async", async,
            "written while training goes on, from a copy in host memory; a kill may then cost up to two intervals");
  }
  bool operator==(const CheckpointSection&) const = default;
};

struct LoggingSection {
  int64_t every = 10;
  bool tensorboard = true;

  template <class V>
  void fields(V& v) {
    v.field("every", every, "steps between lines of the console and train.log; the files have every step",
            config::range(1, 1e9));
    v.field("tensorboard", tensorboard, "write TensorBoard event files to the run folder");
  }
  bool operator==(const LoggingSection&) const = default;
};

struct RunConfig {
  Preset preset = Preset::corrected;
  RunSection run;
  ModelConfig model;
  DataSection data;
  TrainSection train;
  OptimizerSection optimizer;
  ScheduleSection schedule;
  EvaluationSection evaluation;
  ScoresSection scores;
  SpikeSection spikes;
  CheckpointSection checkpoint;
  LoggingSection logging;

  template <class V>
  void fields(V& v) {
    v.field("preset", preset, "protocol that keys not written follow");
    v.section("run", run, "the run as a whole");
    v.section("model", model, "the model");
    v.section("data", data, "tokens");
    v.section("train", train, "the training loop");
    v.section("optimizer", optimizer, "AdamW");
    v.section("schedule", schedule, "learning rate over the run");
    v.section("evaluation", evaluation, "validation loss");
    v.section("scores", scores, "scores on downstream tasks while training");
    v.section("spikes", spikes, "steps that must not spoil the run");
    v.section("checkpoint", checkpoint, "saving and resuming");
    v.section("logging", logging, "what is reported while training");
  }
  void check(config::Checks& checks) const;  // rules across fields
  bool operator==(const RunConfig&) const = default;
};

RunConfig default_config();
RunConfig official_config();  // the default one under `preset: official`

// Files merge in order, then overrides "section.key=value". Throws one Error(usage) with every problem on a line of its
// own: "file:line:column: section.key: reason". Looks at no file but these.
RunConfig load_run_config(std::span<const std::filesystem::path> files, std::span<const std::string> overrides);
RunConfig run_config_from_yaml(std::string_view text, const std::string& name);

// Every key with its value: what resolved.yaml holds and --dry-run prints. Reading it gives an equal config.
std::string to_yaml(const RunConfig& config);

// What only a training run needs: training data, validation data for a target loss, a global batch that divides among
// `world` ranks. Error(usage).
void check_trainable(const RunConfig& config, int64_t world);

// Every key: type, range, default, meaning; then what preset official changes.
std::string config_help();

}  // namespace t6
