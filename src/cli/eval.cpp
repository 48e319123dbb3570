// t6 eval: validation loss and perplexity of a checkpoint, or its scores on downstream tasks.
#include "cli/eval.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <optional>

#include "base/error.h"
#include "base/format.h"
#include "base/log.h"
#include "cli/arguments.h"
#include "cli/command.h"
#include "cli/output.h"
#include "cli/rank_arguments.h"
#include "tensor/gpu.h"
#include "train/device.h"
#include "train/evaluation.h"
#include "train/training_state.h"

namespace t6::cli {
namespace {

constexpr double kWatchdog = 600;  // on several ranks

void eval_loss(const EvalOptions& options, const LoadedModel& loaded, dist::Connection& ranks) {
  const RunConfig& config = loaded.config;
  const std::vector<std::string>& globs = options.data.empty() ? config.data.validation : options.data;
  std::optional<data::ShardSet> shards;
  std::vector<data::Window> windows;
  dist::agree(ranks.communicator(), [&] {
    if (globs.empty()) {
      fail(ExitCode::usage, "the run {} has no data.validation; give the shards with --data 'data/book_val_*.bin'",
           options.run);
    }
    shards = data::ShardSet::open(std::span(globs), static_cast<uint32_t>(config.model.vocab_size));
    EvaluationSection section = config.evaluation;
    if (options.windows >= 0) section.windows = options.windows;
    if (section.windows == 0) section.sampling = EvaluationSampling::fixed;
    windows = train::evaluation_windows(*shards, section, static_cast<uint64_t>(config.model.context),
                                        static_cast<uint64_t>(config.run.seed));
  });
  dist::require_alike(ranks.communicator(), ExitCode::data, "validation tokens", train::describe_shards(*shards),
                      "give every rank the same shards");
  const int64_t batch = options.batch > 0 ? options.batch : config.train.micro_batch;
  const train::Evaluation result = train::evaluate(*loaded.model, *shards, windows, batch, ranks.communicator(),
                                                   [&](const char* phase) { ranks.control().progress(0, phase); });
  if (!ranks.communicator().is_root()) return;
  if (options.json) {
    print_json({{"checkpoint", loaded.path.string()},
                {"step", loaded.step},
                {"loss", result.loss},
                {"perplexity", result.perplexity()},
                {"windows", windows.size()},
                {"tokens", result.tokens},
                {"data", globs}});
    return;
  }
  print(label_lines({{"checkpoint", loaded.path.string()},
                     {"step", std::to_string(loaded.step)},
                     {"validation loss", fmt::format("{:.4f} nats a token", result.loss)},
                     {"perplexity", fmt::format("{:.2f}", result.perplexity())},
                     {"measured on", fmt::format("{} tokens in {} windows of {}", format_grouped(result.tokens),
                                                 format_grouped(windows.size()), config.model.context)}}));
}

// A line for everything that decides what is computed.
std::string to_text(const EvalOptions& o) {
  std::string tasks;
  for (const TaskName task : o.tasks) tasks += fmt::format(" {}", name_of(task));
  return fmt::format(
      "RUN {}\n--data {}\n--windows {}\n--batch {}\n--precision {}\n--tasks{}\n--tokenizer {}\n--shots {}\n--limit "
      "{}\n--seed {}\n--out {}",
      o.run, fmt::join(o.data, " "), o.windows, o.batch, o.precision == Precision::bf16 ? "bf16" : "f32", tasks,
      o.tokenizer, o.shots, o.limit, o.seed, o.out);
}

int run(const EvalOptions& options) {
  const dist::Found found = dist::discover(options.ranks);
  if (found.ranks.rank > 0) log::leave_the_word();
  Device device;
  dist::Connection ranks = dist::connect(found, [&] {
    dist::Beginning beginning{.device = train::choose_device(options.device, "--device cuda", found.ranks),
                              .options = {}};
    if (found.ranks.world > 1) beginning.options.control.watchdog = kWatchdog;
    device = beginning.device;
    return beginning;
  });
  ranks.run([&] {
    ranks.require_same("command", to_text(options), "give every rank the same");
    require_same_build(ranks);
    // Scores come out of the same products each time.
    if (!options.tasks.empty()) train::set_determinism(Determinism::strict);
    LoadedModel loaded;
    dist::agree(ranks.communicator(), [&] {
      if (!options.tasks.empty()) check_tasks(options);
      loaded = load_model(options.run, options.precision, options.device, device.index);
    });
    // Of a run that goes on the newest may have become another one in between.
    dist::require_alike(ranks.communicator(), ExitCode::checkpoint, "weights",
                        fmt::format("{} (manifest {})", loaded.path.string(), manifest_hash(loaded)),
                        "name one by its step: RUN/checkpoints/step-...");
    options.tasks.empty() ? eval_loss(options, loaded, ranks) : eval_tasks(options, loaded, ranks);
  });
  return 0;
}

void add_task_options(CLI::App* command, EvalOptions& options) {
  CLI::Option* tasks = add_list(command, "--tasks", options.tasks,
                                "downstream tasks; --data is then the folder of their files (docs/scores.md)", "NAME",
                                one_of({kTaskNames.begin(), kTaskNames.end()}));
  command->add_option("--shots", options.shots, "examples before each question")
      ->type_name("N")
      ->transform(integer_between(0, 64))
      ->capture_default_str()
      ->needs(tasks);
  command->add_option("--limit", options.limit, "only the first items of each task; 0: all")
      ->type_name("N")
      ->transform(integer_between(0, 1'000'000'000))
      ->capture_default_str()
      ->needs(tasks);
  command->add_option("--seed", options.seed, "another seed, other examples")
      ->type_name("N")
      ->transform(integer_from(0))
      ->capture_default_str()
      ->needs(tasks);
  command
      ->add_option(
          "--out", options.out,
          "folder for the result of every item; the same command goes on there, t6 scores compares two of them")
      ->type_name("DIR")
      ->needs(tasks);
  command->add_option("--tokenizer", options.tokenizer, "tokenizer file; without it the run's data.tokenizer")
      ->type_name("FILE")
      ->needs(tasks);
}

}  // namespace

void add_eval(CLI::App& root, Context& context) {
  CLI::App* command =
      add_command(root, "eval", "validation loss and perplexity of a checkpoint, or its scores on downstream tasks",
                  "  t6 eval runs/demo_tpa\n"
                  "  t6 eval runs/demo_tpa --data 'data/other_val_*.bin' --windows 200 --json\n"
                  "  t6 eval runs/demo_tpa --tasks arc_easy,lambada --data tasks --out scores/demo_tpa\n"
                  "  t6 eval runs/demo_tpa --tasks hellaswag --data tasks --shots 2 --limit 100\n"
                  "  t6 launch --nproc 2 eval runs/demo_tpa --tasks arc_easy --data tasks");
  auto options = options_for<EvalOptions>(command, context, &run);
  add_run(command, options->run);
  command
      ->add_option("--data", options->data,
                   "globs of token shards, in quotes; without it the run's data.validation. With --tasks: their folder")
      ->type_name("GLOB...");
  command->add_option("--windows", options->windows, "windows to evaluate; 0: all; without it the run's number")
      ->type_name("N")
      ->transform(integer_between(0, 1'000'000'000));
  command
      ->add_option("--batch", options->batch,
                   "windows computed at a time; without it the run's micro_batch. With --tasks: tokens of as many; "
                   "without it 4")
      ->type_name("B")
      ->transform(integer_between(1, 65536));
  add_task_options(command, *options);
  add_precision(command, options->precision);
  add_device(command, options->device);
  command->add_flag("--json", options->json, "print one JSON document");
  add_rank_arguments(command, options->ranks);
  add_quiet(command, context);
}

}  // namespace t6::cli
