// t6 train: trains what a config says, or says what it would train.
#include <unistd.h>

#include <csignal>
#include <cstdio>

#include "base/clock.h"
#include "base/error.h"
#include "base/format.h"
#include "base/io.h"
#include "base/log.h"
#include "checkpoint/checkpoint.h"
#include "cli/command.h"
#include "cli/config_arguments.h"
#include "cli/model_facts.h"
#include "cli/output.h"
#include "cli/rank_arguments.h"
#include "cli/tokenizer_fit.h"
#include "data/shard.h"
#include "dist/connect.h"
#include "tensor/gpu.h"
#include "train/device.h"
#include "train/environment.h"
#include "train/memory_advice.h"
#include "train/trainer.h"

namespace t6::cli {
namespace {

struct Options {
  ConfigArguments config;
  dist::RankFlags ranks;
  bool dry_run = false;
  const Context* context = nullptr;
};

// Which files the globs match now; a dry run may come before the data.
std::string describe_data(const std::vector<std::string>& globs) {
  if (globs.empty()) return "none";
  try {
    const size_t count = data::expand_globs(std::span(globs)).size();
    return fmt::format("{} shard{}", count, count == 1 ? "" : "s");
  } catch (const Error& error) {
    return fmt::format("not there yet: {}", error.what());
  }
}

// Where the run would compute; a dry run may come before the GPU.
Device dry_run_device(const RunConfig& config) {
  const bool gpu =
      config.run.device == DeviceChoice::cuda || (config.run.device == DeviceChoice::automatic && gpu::count() > 0);
  return gpu ? Device{Device::Kind::cuda, 0} : kCpu;
}

// Whether the estimate is within what a run may have of this machine: the run itself would be refused.
std::string describe_fit(const RunConfig& config, const MemoryEstimate& needed, const dist::Ranks& ranks) {
  const nlohmann::ordered_json environment = train::describe_environment({}, {});
  const nlohmann::ordered_json& memory = environment.at("memory");
  if (!memory.contains("total")) return "not known";
  const auto total = memory.value("limit", memory.at("total").get<int64_t>());
  const auto text = [](int64_t bytes) { return format_memory(static_cast<uint64_t>(bytes)); };
  const std::string why = train::why_no_room(Transformer(config.model), config, needed,
                                             {.bytes = total, .ranks = ranks.local_world, .world = ranks.world});
  if (why.empty()) return fmt::format("{} of memory, {} cores", text(total), ::sysconf(_SC_NPROCESSORS_ONLN));
  return fmt::format("{} of memory, DOES NOT FIT: {}", text(total), why);
}

// The resolved config as YAML and the facts as comments: what is printed is itself a config.
void print_dry_run(const RunConfig& config, const dist::Ranks& ranks) {
  const Device device = dry_run_device(config);
  const ModelFacts facts = model_facts(config, "config", device, ranks.world);
  std::vector<std::pair<std::string, std::string>> lines = describe(facts);
  const auto tokens = static_cast<double>(config.train.global_batch * config.model.context);
  lines.emplace_back("a step", fmt::format("{} windows of {}: {} tokens", config.train.global_batch,
                                           config.model.context, format_grouped(static_cast<uint64_t>(tokens))));
  lines.emplace_back("the run",
                     fmt::format("{} steps, {} tokens", format_grouped(static_cast<uint64_t>(config.train.steps)),
                                 format_count(tokens * static_cast<double>(config.train.steps))));
  const bool no_gpu = device.is_cuda() && gpu::count() == 0;
  lines.emplace_back("this machine",
                     no_gpu ? fmt::format("has no GPU to use ({}): the run would be REFUSED here", gpu::why_none())
                            : describe_fit(config, facts.memory, ranks));
  lines.emplace_back("training data", describe_data(config.data.train));
  lines.emplace_back("validation data", describe_data(config.data.validation));
  lines.emplace_back("run folder", config.run.dir);

  std::string text = to_yaml(config) + "\n# Dry run: nothing was trained or written.\n";
  const std::string table = label_lines(lines);
  for (size_t at = 0; at < table.size();) {
    const size_t end = table.find('\n', at);
    text += "# " + table.substr(at, end - at) + "\n";
    at = end + 1;
  }
  print(text);
}

// The last evaluation is the first one in a run that stopped before its next; no two others are equal to the last bit.
std::string before_and_after(double first, double last) {
  return first == last ? fmt::format("{:.4f} before the first step, not measured since", first)
                       : fmt::format("{:.4f} before, {:.4f} after", first, last);
}

std::string describe_result(const train::TrainResult& result, const RunConfig& config) {
  const char* how = "finished";
  if (result.reason == train::StopReason::target_loss) how = "stopped at train.target_loss";
  if (result.reason == train::StopReason::max_runtime) how = "stopped by train.max_runtime, saved";
  if (result.reason == train::StopReason::signal) how = "stopped by a signal, saved";
  std::string state =
      fmt::format("{} after step {} of {}, loss {:.4f}", how, result.steps, config.train.steps, result.loss);
  std::vector<std::pair<std::string, std::string>> lines;
  if (result.validation_loss) {
    lines.emplace_back("validation loss", result.first_validation_loss
                                              ? before_and_after(*result.first_validation_loss, *result.validation_loss)
                                              : fmt::format("{:.4f}", *result.validation_loss));
  }
  const train::RunPaths paths{result.folder};
  lines.emplace_back("run folder", result.folder.string());
  if (result.checkpoint) lines.emplace_back("checkpoint", result.checkpoint->string());
  lines.emplace_back("curves",
                     fmt::format("{}; t6 plot {} --out curves.svg", paths.metrics().string(), result.folder.string()));
  if (config.logging.tensorboard) {
    lines.emplace_back("", fmt::format("tensorboard --logdir {}", paths.tensorboard().string()));
  }
  if (result.reason == train::StopReason::signal || result.reason == train::StopReason::max_runtime) {
    lines.emplace_back("next", "the same command goes on from here");
  } else {
    lines.emplace_back("next", fmt::format("t6 generate {} --prompt \"...\"", result.folder.string()));
  }
  return state + "\n" + label_lines(lines);
}

// A run folder keeps its model: what differs is said by the config's own words, before any tensor is compared.
void require_same_model(const RunConfig& config) {
  const train::RunPaths paths{config.run.dir};
  std::error_code ignored;
  if (!std::filesystem::exists(paths.config(), ignored)) return;
  if (!std::filesystem::is_directory(paths.checkpoints(), ignored) || checkpoint::list(paths.checkpoints()).empty())
    return;
  RunConfig before;
  try {
    before = run_config_from_yaml(io::read_text(paths.config()), paths.config().string());
  } catch (const Error&) {
    return;  // the checkpoint itself says what it was made with
  }
  if (before.model == config.model) return;
  const std::string_view kind = before.model.kind_name();
  std::string what = fmt::format("it is of another attention kind, {} and not {}", kind, config.model.kind_name());
  if (kind == config.model.kind_name()) {
    what.clear();
    const config::Catalogue old_values = config::catalogue(before), values = config::catalogue(config);
    for (size_t i = 0; i < std::min(values.size(), old_values.size()); ++i) {
      if (!values[i].path().starts_with("model.") || values[i].value == old_values[i].value) continue;
      what += fmt::format("{}{} is {} there and {} here", what.empty() ? "" : ", ", values[i].path(),
                          old_values[i].value, values[i].value);
    }
  }
  fail(ExitCode::checkpoint,
       "the run in {} does not fit the model of this config: {}; choose another run.dir, or use {}", config.run.dir,
       what, paths.config().string());
}

// What can be said of a config before ranks meet or anything large is allocated.
RunConfig checked_config(const Options& options, const dist::Ranks& ranks) {
  RunConfig config = options.config.load();
  check_trainable(config, ranks.world);
  require_same_model(config);
  if (config.data.tokenizer) {
    const data::Tokenizer tokenizer = data::Tokenizer::load(*config.data.tokenizer);
    for (const auto* globs : {&config.data.train, &config.data.validation}) {
      require_ids_of(tokenizer, *config.data.tokenizer, *globs, config.model.vocab_size, SIZE_MAX);
    }
  }
  return config;
}

dist::ConnectOptions connect_options(const RunConfig& config, const dist::Ranks& ranks) {
  constexpr double kDefaultWatchdog = 600;  // on several ranks
  dist::ConnectOptions options;
  options.repeatable = config.run.determinism == Determinism::strict;
  if (config.run.watchdog) {
    options.control.watchdog = static_cast<double>(config.run.watchdog->count());
  } else if (ranks.world > 1) {
    options.control.watchdog = kDefaultWatchdog;
  }
  return options;
}

int train_rank(const Options& options, const RunConfig& config, dist::Connection& ranks, Device device,
               double started) {
  ranks.require_same("config", to_yaml(config), "give every rank the same files and overrides");
  require_same_build(ranks);
  train::Trainer trainer(
      config, options.context->arguments,  // takes signals until the result is said
      {.communicator = &ranks.communicator(), .control = &ranks.control(), .gpu = device.index, .started = started});
  const train::TrainResult result = trainer.run();
  if (ranks.ranks().rank == 0) {
    const std::string text = describe_result(result, config);
    std::fputs(text.c_str(), stdout);
    std::fflush(stdout);
  }
  return train::exit_code(result);
}

int run(const Options& options) {
  const double started = steady_seconds();
  const dist::Found found = dist::discover(options.ranks);
  if (options.dry_run) {
    if (found.ranks.rank == 0) print_dry_run(options.config.load(), found.ranks);
    return 0;
  }
  // A reader of our output that goes away ends no training.
  std::signal(SIGPIPE, SIG_IGN);
  RunConfig config;
  Device device;
  dist::Connection ranks = dist::connect(found, [&]() -> dist::Beginning {
    config = checked_config(options, found.ranks);
    device = train::choose_device(config.run.device, "run.device: cuda", found.ranks);
    return {device, connect_options(config, found.ranks)};
  });
  return ranks.run([&] { return train_rank(options, config, ranks, device, started); });
}

}  // namespace

void add_train(CLI::App& root, Context& context) {
  CLI::App* command =
      add_command(root, "train", "train a model as a config says; the same command again resumes the run",
                  "  t6 train --config configs/demo_tpa.yaml train.steps=500 run.dir=runs/first\n"
                  "  t6 train --config configs/t6_tpa_small.yaml --dry-run");
  auto options = options_for<Options>(command, context, &run);
  options->context = &context;
  add_config_arguments(command, options->config);
  add_rank_arguments(command, options->ranks);
  command->add_flag("--dry-run", options->dry_run,
                    "print the resolved config, parameters, FLOPs, cache and memory; train and write nothing");
  add_quiet(command, context);
}

}  // namespace t6::cli
