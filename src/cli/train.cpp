// t6 train: trains what a config says, or says what it would train.
#include <unistd.h>

#include <csignal>
#include <cstdio>

#include "base/error.h"
#include "base/format.h"
#include "base/log.h"
#include "checkpoint/checkpoint.h"
#include "cli/command.h"
#include "cli/config_arguments.h"
#include "cli/model_facts.h"
#include "cli/output.h"
#include "data/shard.h"
#include "tensor/gpu.h"
#include "train/trainer.h"

namespace t6::cli {
namespace {

struct Options {
  ConfigArguments config;
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

// The resolved config as YAML and the facts as comments: what is printed is itself a config.
void print_dry_run(const RunConfig& config) {
  std::vector<std::pair<std::string, std::string>> lines =
      describe(model_facts(config, "config", dry_run_device(config)));
  const auto tokens = static_cast<double>(config.train.global_batch * config.model.context);
  lines.emplace_back("a step", fmt::format("{} windows of {}: {} tokens", config.train.global_batch,
                                           config.model.context, format_grouped(static_cast<uint64_t>(tokens))));
  lines.emplace_back("the run",
                     fmt::format("{} steps, {} tokens", format_grouped(static_cast<uint64_t>(config.train.steps)),
                                 format_count(tokens * static_cast<double>(config.train.steps))));
  lines.emplace_back("this machine", fmt::format("{} of memory, {} cores",
                                                 format_memory(static_cast<uint64_t>(::sysconf(_SC_PHYS_PAGES)) *
                                                               static_cast<uint64_t>(::sysconf(_SC_PAGESIZE))),
                                                 ::sysconf(_SC_NPROCESSORS_ONLN)));
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
                                              ? fmt::format("{:.4f} before, {:.4f} after",
                                                            *result.first_validation_loss, *result.validation_loss)
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

int run(const Options& options) {
  const RunConfig config = options.config.load();
  if (options.dry_run) {
    print_dry_run(config);
    return 0;
  }
  check_trainable(config, 1);
  // A reader of our output that goes away ends no training.
  std::signal(SIGPIPE, SIG_IGN);
  train::Trainer trainer(config, options.context->arguments);  // takes signals until the result is said
  const train::TrainResult result = trainer.run();
  const std::string text = describe_result(result, config);
  std::fputs(text.c_str(), stdout);
  std::fflush(stdout);
  return train::exit_code(result);
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
  command->add_flag("--dry-run", options->dry_run,
                    "print the resolved config, parameters, FLOPs, cache and memory; train and write nothing");
  add_quiet(command, context);
}

}  // namespace t6::cli
