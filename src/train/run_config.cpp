#include "train/run_config.h"

#include <algorithm>

#include "base/error.h"

namespace t6 {
namespace {

constexpr int64_t kOfficialValidationBatches = 200;

RunConfig read_run_config(config::Tree& tree, const std::optional<std::string>& default_dir) {
  Preset preset = Preset::corrected;
  // A bad value is reported by the full reading below.
  if (const config::Entry* entry = tree.root().find("preset")) config::Type<Preset>::read(entry->value, preset, {});
  RunConfig config = preset == Preset::official ? official_config() : default_config();
  config::Checks checks = config::read(tree, config);
  if (!checks.was_written("run.dir") && default_dir) config.run.dir = *default_dir;
  if (preset == Preset::official && !checks.was_written("evaluation.windows")) {
    config.evaluation.windows = kOfficialValidationBatches * config.train.micro_batch;
  }
  config.check(checks);
  tree.fail_on_problems();
  return config;
}

}  // namespace

int64_t ScheduleSection::decay_length(int64_t steps) const {
  if (kind == ScheduleKind::constant) return 0;
  if (decay_steps > 0) return decay_steps;
  return kind == ScheduleKind::wsd ? std::max<int64_t>(1, steps / 10) : std::max<int64_t>(0, steps - warmup_steps);
}

void RunConfig::check(config::Checks& checks) const {
  model.check(checks);
  checks.require(train.global_batch % train.micro_batch == 0, {"train.global_batch", "train.micro_batch"},
                 "expected train.global_batch to be a multiple of train.micro_batch, got {} and {}", train.global_batch,
                 train.micro_batch);
  checks.require(train.recompute != Recompute::qkv || model.has_factors(), {"train.recompute", "model.attention"},
                 "expected train.recompute none, attention or block under model.attention {}, got qkv, which makes "
                 "queries, keys and values again of their factors, as tpa and tpa_kvonly have them",
                 model.kind_name());
  checks.require(optimizer.min_lr <= optimizer.lr, {"optimizer.min_lr", "optimizer.lr"},
                 "expected optimizer.min_lr to be at most optimizer.lr, got {} and {}", optimizer.min_lr, optimizer.lr);
  const int64_t decay = schedule.decay_length(train.steps);
  checks.require(schedule.warmup_steps <= train.steps, {"schedule.warmup_steps", "train.steps"},
                 "expected schedule.warmup_steps to be at most train.steps, got {} and {}", schedule.warmup_steps,
                 train.steps);
  checks.require(schedule.warmup_steps > train.steps || schedule.warmup_steps + decay <= train.steps,
                 {"schedule.decay_steps", "schedule.warmup_steps", "train.steps", "schedule.kind"},
                 "expected warm-up and decay to fit in train.steps, got {} + {} in {} steps", schedule.warmup_steps,
                 decay, train.steps);
  checks.require(
      schedule.kind != ScheduleKind::constant || schedule.decay_steps == 0, {"schedule.decay_steps", "schedule.kind"},
      "expected no decay_steps under schedule.kind: constant, got {}; remove it or choose wsd", schedule.decay_steps);
  checks.require(evaluation.sampling == EvaluationSampling::fixed || evaluation.windows > 0,
                 {"evaluation.windows", "evaluation.sampling"},
                 "expected a number of windows above 0 under evaluation.sampling: random");
  checks.require(scores.tasks.empty() || scores.data, {"scores.tasks", "scores.data"},
                 "expected scores.data, the folder with the files of scores.tasks, got none");
  checks.require(!scores.tasks.empty() || !scores.data, {"scores.data", "scores.tasks"},
                 "expected scores.tasks, the tasks to score out of the folder scores.data, got none");
  checks.require(scores.tasks.empty() || data.tokenizer, {"scores.tasks", "data.tokenizer"},
                 "expected data.tokenizer, which encodes the text of scores.tasks, got none");
  for (size_t i = 0; i < scores.tasks.size(); ++i) {
    const bool twice = std::count(scores.tasks.begin(), scores.tasks.end(), scores.tasks[i]) > 1;
    checks.require(!twice, {"scores.tasks"}, "expected each task once, got {} twice", name_of(scores.tasks[i]));
  }
  checks.require(checkpoint.keep_every == 0 || (checkpoint.every > 0 && checkpoint.keep_every % checkpoint.every == 0),
                 {"checkpoint.keep_every", "checkpoint.every"},
                 "expected checkpoint.keep_every to be a multiple of checkpoint.every, got {} and {}",
                 checkpoint.keep_every, checkpoint.every);
}

RunConfig default_config() {
  return {};
}

RunConfig official_config() {
  RunConfig config;
  config.preset = Preset::official;
  config.model.rope_table = RopeRounding::bf16;
  config.data.sampling = data::SampleOrder::random_window;
  config.train.accumulation = Accumulation::sum;
  config.optimizer.decay = DecayScope::all;
  config.evaluation.sampling = EvaluationSampling::random;
  config.evaluation.windows = kOfficialValidationBatches * config.train.micro_batch;
  return config;
}

RunConfig load_run_config(std::span<const std::filesystem::path> files, std::span<const std::string> overrides) {
  config::Tree tree;
  std::optional<std::string> dir;
  for (const std::filesystem::path& file : files) {
    tree.add_file(file);
    dir = dir ? *dir + "-" + file.stem().string() : "runs/" + file.stem().string();
  }
  for (const std::string& assignment : overrides) tree.add_override(assignment);
  return read_run_config(tree, dir);
}

RunConfig run_config_from_yaml(std::string_view text, const std::string& name) {
  config::Tree tree;
  tree.add_text(text, name);
  return read_run_config(tree, std::nullopt);
}

std::string to_yaml(const RunConfig& config) {
  return config::to_yaml(config);
}

void check_trainable(const RunConfig& config, int64_t world) {
  if (config.data.train.empty()) {
    fail(ExitCode::usage,
         "data.train: expected globs of token shards to train on, got none; add for example "
         "data.train=data/fineweb-edu/fineweb_train_*.bin");
  }
  const TrainSection& train = config.train;
  if (train.target_loss && config.data.validation.empty()) {
    fail(ExitCode::usage,
         "train.target_loss: expected data.validation to measure it on, got none; add shards to evaluate on");
  }
  if (train.global_batch % (train.micro_batch * world) == 0) return;
  const int64_t share = train.global_batch / world;
  fail(ExitCode::usage, "train.global_batch: expected a multiple of train.micro_batch x ranks = {} x {}, got {}; {}",
       train.micro_batch, world, train.global_batch,
       share * world == train.global_batch ? fmt::format("choose a micro_batch that divides {}", share)
                                           : fmt::format("choose a global_batch that is a multiple of {}", world));
}

std::string config_help() {
  const config::Catalogue normal = config::catalogue(default_config());
  const config::Catalogue official = config::catalogue(official_config());
  std::string out =
      "A run's config is YAML: sections with keys below them. Several --config files merge in order, later ones win; "
      "then come\n"
      "overrides section.key=value. A key, its type and range, its default, its meaning:\n\n";
  out += config::help_table(normal);
  out += "\npreset: official changes these defaults to what the authors' code does:\n";
  for (size_t i = 0; i < normal.size(); ++i) {
    if (normal[i].value != official[i].value && normal[i].name != "preset") {
      out += fmt::format("  {}: {}\n", official[i].path(), official[i].value);
    }
  }
  out +=
      "\nExample:\n  t6 train --config configs/t6_tpa_small.yaml preset=official train.max_runtime=23h30m "
      "'data.train=data/*.bin'\n";
  return out;
}

}  // namespace t6
