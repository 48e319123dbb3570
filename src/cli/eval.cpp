// t6 eval: validation loss and perplexity of a checkpoint.
#include <algorithm>

#include "base/error.h"
#include "base/format.h"
#include "cli/arguments.h"
#include "cli/command.h"
#include "cli/loaded_model.h"
#include "cli/output.h"
#include "train/evaluation.h"

namespace t6::cli {
namespace {

struct Options {
  std::string run;
  std::vector<std::string> data;
  int64_t windows = -1;  // -1: as the config says
  int64_t batch = 0;     // 0: as the config says
  Precision precision = Precision::f32;
  DeviceChoice device = DeviceChoice::automatic;
  bool json = false;
};

int run(const Options& options) {
  const LoadedModel loaded = load_model(options.run, options.precision, options.device);
  const RunConfig& config = loaded.config;
  const std::vector<std::string>& globs = options.data.empty() ? config.data.validation : options.data;
  if (globs.empty()) {
    fail(ExitCode::usage, "the run {} has no data.validation; give the shards with --data 'data/book_val_*.bin'",
         options.run);
  }
  const auto shards = data::ShardSet::open(std::span(globs), static_cast<uint32_t>(config.model.vocab_size));
  EvaluationSection section = config.evaluation;
  if (options.windows >= 0) section.windows = options.windows;
  if (section.windows == 0) section.sampling = EvaluationSampling::fixed;
  const std::vector<data::Window> windows = train::evaluation_windows(
      shards, section, static_cast<uint64_t>(config.model.context), static_cast<uint64_t>(config.run.seed));
  const int64_t batch = options.batch > 0 ? options.batch : config.train.micro_batch;
  const train::Evaluation result = train::evaluate(*loaded.model, shards, windows, batch);

  if (options.json) {
    print_json({{"checkpoint", loaded.path.string()},
                {"step", loaded.step},
                {"loss", result.loss},
                {"perplexity", result.perplexity()},
                {"windows", windows.size()},
                {"tokens", result.tokens},
                {"data", globs}});
    return 0;
  }
  print(label_lines({{"checkpoint", loaded.path.string()},
                     {"step", std::to_string(loaded.step)},
                     {"validation loss", fmt::format("{:.4f} nats a token", result.loss)},
                     {"perplexity", fmt::format("{:.2f}", result.perplexity())},
                     {"measured on", fmt::format("{} tokens in {} windows of {}", format_grouped(result.tokens),
                                                 format_grouped(windows.size()), config.model.context)}}));
  return 0;
}

}  // namespace

void add_eval(CLI::App& root, Context& context) {
  CLI::App* command = add_command(root, "eval", "validation loss and perplexity of a checkpoint",
                                  "  t6 eval runs/demo_tpa\n"
                                  "  t6 eval runs/demo_tpa --data 'data/other_val_*.bin' --windows 200 --json");
  auto options = options_for<Options>(command, context, &run);
  command
      ->add_option("RUN", options->run,
                   "run folder or folder of checkpoints, whose newest intact one is taken, or one checkpoint")
      ->required();
  command->add_option("--data", options->data, "globs of token shards, in quotes; without it the run's data.validation")
      ->type_name("GLOB...");
  command->add_option("--windows", options->windows, "windows to evaluate; 0: all; without it the run's number")
      ->type_name("N")
      ->transform(integer_between(0, 1'000'000'000));
  command->add_option("--batch", options->batch, "windows computed at a time; without it the run's micro_batch")
      ->type_name("B")
      ->transform(integer_between(1, 65536));
  command->add_option("--precision", options->precision, "of products and attention")
      ->type_name("TYPE")
      ->transform(one_of({"f32", "bf16"}))
      ->default_str("f32");
  add_device(command, options->device);
  command->add_flag("--json", options->json, "print one JSON document");
  add_quiet(command, context);
}

}  // namespace t6::cli
