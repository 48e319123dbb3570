// t6 plan: what training on many ranks would take, from what one rank was measured to take.
#include <algorithm>
#include <cmath>

#include "base/config_scalar.h"
#include "base/error.h"
#include "base/format.h"
#include "base/io.h"
#include "cli/arguments.h"
#include "cli/command.h"
#include "cli/config_arguments.h"
#include "cli/model_facts.h"
#include "cli/output.h"
#include "train/memory_advice.h"
#include "train/peak.h"
#include "train/scaling.h"

namespace t6::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kAssumedMfu = 0.4;

struct Options {
  ConfigArguments config;
  std::vector<int64_t> ranks{8};  // a node
  std::vector<int64_t> nodes{1};
  bool cpu = false;
  std::string measured;  // file
  std::optional<double> micro_ms, tokens_per_second, mfu;
  std::string card = "NVIDIA H100";
  std::optional<double> bus_gigabytes;
  double node_gigabytes = 400;
  std::optional<double> overlap;
  bool zero = false;  // also where the config says so
  std::optional<int64_t> micro_batch, bucket_mb;
  bool json = false;
};

// How fast one rank is, and who says so.
struct Pace {
  double micro_seconds = 0;      // of a micro-batch as large as the config's
  double optimizer_seconds = 0;  // 0: within micro_seconds
  std::string source;
  bool assumed = false;
};

struct Row {
  train::Links links;
  train::Batches batches{};
  train::StepWork work;
  train::StepPrediction step;
  MemoryEstimate memory;
  double tokens_per_second = 0;
};

struct Plan {
  ModelFacts facts;
  Options options;
  RunConfig config;
  Pace pace;
  double gradient_bytes = 0, tail_bytes = 0;
  std::vector<Row> rows;
};

// Seconds of a step that its optimizer took, by the profile of the bench; 0 where it has none.
double optimizer_seconds(const Json& bench, double step_seconds) {
  if (!bench.contains("time")) return 0;
  for (const Json& part : bench.at("time")) {
    if (part.at("part") == "optimizer") return part.at("share").get<double>() * step_seconds;
  }
  return 0;
}

// Of a document that t6 bench train --json printed, for this model at this precision.
Pace pace_of_bench(const std::string& path, const ModelFacts& facts) {
  const std::string text = io::read_text(path, uint64_t{1} << 26);
  const auto refuse = [&](const char* what) {
    fail(ExitCode::usage, "--measured {}: expected what `t6 bench train --config CONFIG --json > FILE` writes, got {}",
         path, what);
  };
  const Json bench = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (bench.is_discarded()) refuse(text.empty() ? "an empty file" : "text that is not one JSON document");
  try {
    const Json& model = bench.at("model");
    const auto same = [&](const char* what, const Json& theirs, const Json& ours) {
      if (theirs != ours) {
        fail(ExitCode::usage, "--measured {}: it was measured with {} {}, the config has {}", path, what, theirs.dump(),
             ours.dump());
      }
    };
    same("attention", model.at("attention"), facts.model.kind_name());
    same("parameters:", model.at("parameters"), facts.counts.parameters);
    same("windows of", bench.at("context"), facts.model.context);
    same("precision", bench.at("precision"), config::name_of(facts.precision));
    const auto batch = bench.at("batch").get<double>();
    const double seconds = bench.at("ms_per_step").get<double>() / 1e3;
    const double optimizer = optimizer_seconds(bench, seconds);
    const auto micro_steps = bench.value("micro_steps", 1.0);  // 1 where an earlier version wrote the file
    if (!(batch > 0) || !(micro_steps > 0) || !(seconds > optimizer)) {
      fail(ExitCode::usage, "--measured {}: expected a batch and a time above zero, got {} and {} s", path, batch,
           seconds);
    }
    return {
        .micro_seconds = (seconds - optimizer) * static_cast<double>(facts.micro_batch) / (batch * micro_steps),
        .optimizer_seconds = optimizer,
        .source = fmt::format("measured on {}: {:.1f} ms for {} windows ({})",
                              bench.at("device_name").get<std::string>(), seconds * 1e3, batch * micro_steps, path)};
  } catch (const nlohmann::json::exception&) {
    refuse("JSON of something else");
  }
  return {};
}

Pace pace_of(const Options& options, const ModelFacts& facts) {
  const int given = !options.measured.empty() + options.micro_ms.has_value() + options.tokens_per_second.has_value() +
                    options.mfu.has_value();
  if (given > 1) {
    fail(ExitCode::usage, "plan: expected one of --measured, --micro-ms, --tokens-per-second and --mfu, got {}", given);
  }
  const auto tokens = static_cast<double>(facts.micro_batch * facts.model.context);
  if (!options.measured.empty()) return pace_of_bench(options.measured, facts);
  if (options.micro_ms) {
    return {.micro_seconds = *options.micro_ms / 1e3,
            .source = fmt::format("given: {} ms a micro-batch of {} windows", *options.micro_ms, facts.micro_batch)};
  }
  if (options.tokens_per_second) {
    return {.micro_seconds = tokens / *options.tokens_per_second,
            .source = fmt::format("given: {} tokens/s on one", *options.tokens_per_second)};
  }
  if (options.cpu) {
    fail(ExitCode::usage,
         "plan: a CPU has no datasheet to assume a pace from; give --measured FILE of t6 bench train --json, "
         "--micro-ms or "
         "--tokens-per-second");
  }
  const DType precision = dtype_for(facts.precision);
  const auto peak = train::datasheet_flops(options.card, precision);
  if (!peak) {
    fail(ExitCode::usage, "--card: no datasheet is known for '{}'; give --micro-ms or --tokens-per-second",
         options.card);
  }
  const double mfu = options.mfu.value_or(kAssumedMfu);
  return {.micro_seconds = tokens * facts.counts.flops_causal / (mfu * *peak),
          .source = fmt::format("ASSUMED, not measured: {:.0f}% of the {:.0f} TFLOP/s of {}'s datasheet", mfu * 100,
                                *peak * 1e-12, options.card),
          .assumed = true};
}

Row plan_row(const Plan& plan, const Transformer& model, int64_t ranks, int64_t nodes) {
  const Options& options = plan.options;
  Row row;
  row.links = {.ranks_per_node = ranks,
               .nodes = nodes,
               .node_bandwidth = options.bus_gigabytes.value_or(475) * 1e9,
               .network_bandwidth = options.node_gigabytes * 1e9};
  const int64_t world = row.links.world();
  row.batches = train::divide_batch(plan.config.train.global_batch, plan.config.train.micro_batch, world);
  const double smaller =
      static_cast<double>(row.batches.micro_batch) / static_cast<double>(plan.config.train.micro_batch);
  row.work = {.micro_steps = row.batches.micro_steps,
              .micro_seconds = plan.pace.micro_seconds * smaller,
              .optimizer_seconds = plan.pace.optimizer_seconds,
              .gradient_bytes = plan.gradient_bytes,
              .tail_bytes = plan.tail_bytes,
              .overlap = options.overlap.value_or(options.cpu ? 0 : 0.8),
              .zero = options.zero};
  row.step = train::predict_step(row.links, row.work);
  const auto tokens = static_cast<double>(row.batches.global_batch * plan.facts.model.context);
  row.tokens_per_second = tokens / row.step.step;
  RunConfig planned = plan.config;
  planned.train.global_batch = row.batches.global_batch;
  planned.train.micro_batch = row.batches.micro_batch;
  planned.optimizer.zero = options.zero;
  const Device device = options.cpu ? kCpu : Device{Device::Kind::cuda, 0};
  row.memory = estimate_memory(model, train::memory_options(planned, device, world, /*assume_cudnn=*/!options.cpu));
  return row;
}

Plan make_plan(const Options& options) {
  if (options.cpu && !options.bus_gigabytes) {
    fail(ExitCode::usage,
         "plan --cpu: expected --bus-gbs, the measured bandwidth of an all-reduce among the ranks of a node (MPI in "
         "shared memory: bench/scaling.sh measures it)");
  }
  Plan plan;
  plan.options = options;
  plan.config = options.config.load();
  if (options.micro_batch) plan.config.train.micro_batch = *options.micro_batch;
  plan.options.zero = options.zero || plan.config.optimizer.zero;
  plan.facts = model_facts(plan.config, options.config.paths().back().stem().string());
  plan.pace = pace_of(options, plan.facts);
  const Transformer model(plan.config.model);
  const int64_t bucket = options.bucket_mb.value_or(plan.config.train.bucket_mb) << 20;
  plan.gradient_bytes = static_cast<double>(model.parameters().storage_size()) * sizeof(float);
  plan.tail_bytes = train::tail_bytes(model.parameters(), bucket);
  for (const int64_t nodes : options.nodes) {
    for (const int64_t ranks : options.ranks) {
      plan.rows.push_back(plan_row(plan, model, ranks, nodes));
    }
  }
  return plan;
}

const char* name_of(train::Bound bound) {
  switch (bound) {
    case train::Bound::compute:
      return "compute";
    case train::Bound::tail:
      return "embedding's gradient";
    case train::Bound::node:
      return "links in a node";
    case train::Bound::network:
      return "network";
    case train::Bound::gather:
      return "gathering parameters";
  }
  return "";
}

// The efficiency to reach: 97 % within a node, 95 % over several.
double goal_of(const Row& row) {
  return row.links.nodes > 1 ? 0.95 : 0.97;
}

int64_t global_batch_for_goal(const Row& row) {
  const int64_t micro_steps = train::micro_steps_for(row.step, row.work, goal_of(row));
  return micro_steps * row.batches.micro_batch * row.links.world();
}

// 0: nothing larger hides more.
int64_t hiding_micro_batch(const Row& row) {
  const double growth = train::growth_that_hides(row.links, row.work);
  if (growth <= 1) return 0;
  return static_cast<int64_t>(std::ceil(growth * static_cast<double>(row.batches.micro_batch)));
}

std::string advice_for(const Row& row, const RunConfig& config) {
  std::string text = fmt::format("{} ranks: ", row.links.world());
  if (row.batches.global_batch != config.train.global_batch) {
    text += fmt::format("train.global_batch={} does not divide among them, planned with {}; ",
                        config.train.global_batch, row.batches.global_batch);
  }
  if (row.batches.micro_batch != config.train.micro_batch) {
    text += fmt::format("micro-batches of {} in place of {}, at the same tokens/s; ", row.batches.micro_batch,
                        config.train.micro_batch);
  }
  text += fmt::format("{} decides", name_of(row.step.bound));
  if (row.step.efficiency >= goal_of(row))
    return text + fmt::format(", {:.0f}% or more are reached", goal_of(row) * 100);
  text += fmt::format("; {:.0f}% needs train.global_batch={}", goal_of(row) * 100, global_batch_for_goal(row));
  if (const int64_t batch = hiding_micro_batch(row)) {
    text += fmt::format(", or a micro-batch of {} hides all but the last part of the exchange", batch);
  }
  return text;
}

std::string to_text(const Plan& plan) {
  const Options& options = plan.options;
  const auto memory = [](double bytes) { return format_memory(static_cast<uint64_t>(bytes)); };
  const Row& first = plan.rows.front();
  std::string text = label_lines(
      {{"model", fmt::format("{} ({}), {} parameters, {}", plan.facts.name, plan.facts.model.kind_name(),
                             format_grouped(static_cast<uint64_t>(plan.facts.counts.parameters)),
                             config::name_of(plan.facts.precision))},
       {"pace", plan.pace.source},
       {"exchange",
        fmt::format("{} of gradients, {} of them only at the end of backward; {:g} GB/s in a node, {:g} GB/s "
                    "between nodes; {:.0f}% of backward hides it{}",
                    memory(plan.gradient_bytes), memory(plan.tail_bytes), first.links.node_bandwidth * 1e-9,
                    first.links.network_bandwidth * 1e-9, first.work.overlap * 100,
                    options.zero ? "; sharded optimizer" : "")}});
  Table table;
  for (const char* heading : {"ranks", "nodes", "windows", "micro-batch", "step", "exchange", "exposed", "efficiency",
                              "tokens/s", "state/rank", "activations", "memory/rank", "host/node"}) {
    table.column(heading);
  }
  std::string notes;
  for (const Row& row : plan.rows) {
    const auto ms = [](double seconds) { return fmt::format("{:.2f} ms", seconds * 1e3); };
    table.row(
        {std::to_string(row.links.world()), std::to_string(row.links.nodes), std::to_string(row.batches.global_batch),
         fmt::format("{} x {}", row.batches.micro_steps, row.batches.micro_batch), ms(row.step.step),
         ms(row.step.communication), fmt::format("{} ({:.1f}%)", ms(row.step.exposed), row.step.exposed_share() * 100),
         fmt::format("{:.1f}%", row.step.efficiency * 100),
         format_grouped(static_cast<uint64_t>(row.tokens_per_second)),
         memory(static_cast<double>(row.memory.parameters + row.memory.held)),
         memory(static_cast<double>(row.memory.activations)), memory(static_cast<double>(row.memory.on_device())),
         memory(static_cast<double>(row.memory.on_host() * row.links.ranks_per_node))});
    notes += advice_for(row, plan.config) + "\n";
  }
  return text + "\n" + table.text() + "\n" + notes;
}

Json to_json(const Plan& plan) {
  const Row& first = plan.rows.front();
  Json rows = Json::array();
  for (const Row& row : plan.rows) {
    rows.push_back({{"ranks", row.links.world()},
                    {"nodes", row.links.nodes},
                    {"global_batch", row.batches.global_batch},
                    {"micro_batch", row.batches.micro_batch},
                    {"micro_steps", row.batches.micro_steps},
                    {"step_ms", row.step.step * 1e3},
                    {"compute_ms", row.step.compute * 1e3},
                    {"exchange_ms", row.step.communication * 1e3},
                    {"exposed_ms", row.step.exposed * 1e3},
                    {"exposed_share", row.step.exposed_share()},
                    {"efficiency", row.step.efficiency},
                    {"bound", name_of(row.step.bound)},
                    {"tokens_per_second", row.tokens_per_second},
                    {"goal", goal_of(row)},
                    {"global_batch_for_goal", global_batch_for_goal(row)},
                    {"hiding_micro_batch", hiding_micro_batch(row)},
                    {"memory_bytes",
                     {{"parameters", row.memory.parameters},
                      {"held_gradients", row.memory.held},
                      {"save_copy", row.memory.save_copy},
                      {"activations", row.memory.activations},
                      {"workspace", row.memory.workspace},
                      {"beside", row.memory.beside},
                      {"on_device", row.memory.on_device()},
                      {"host_of_node", row.memory.on_host() * row.links.ranks_per_node}}}});
  }
  return {{"model", to_json(plan.facts)},
          {"device", plan.options.cpu ? "cpu" : "cuda"},
          {"zero", plan.options.zero},
          {"pace",
           {{"source", plan.pace.source},
            {"assumed", plan.pace.assumed},
            {"micro_ms", plan.pace.micro_seconds * 1e3},
            {"optimizer_ms", plan.pace.optimizer_seconds * 1e3}}},
          {"gradient_bytes", plan.gradient_bytes},
          {"tail_bytes", plan.tail_bytes},
          {"node_bytes_per_second", first.links.node_bandwidth},
          {"network_bytes_per_second", first.links.network_bandwidth},
          {"overlap", first.work.overlap},
          {"rows", rows}};
}

int run(const Options& options) {
  const Plan plan = make_plan(options);
  if (options.json) {
    print_json(to_json(plan));
  } else {
    print(to_text(plan));
  }
  return 0;
}

}  // namespace

void add_plan(CLI::App& root, Context& context) {
  CLI::App* command =
      add_command(root, "plan", "predict step time, exposed communication and memory on many ranks",
                  "  t6 bench train --config configs/t6_tpa_small.yaml --device cuda --json > one.json\n"
                  "  t6 plan --config configs/t6_tpa_small.yaml --gpus 8 --nodes 1,2,4,8 --measured one.json\n"
                  "  t6 plan --config configs/t6_tpa_xl.yaml --gpus 1,2,4,8 --mfu 0.45 --zero");
  auto options = options_for<Options>(command, context, &run);
  add_config_arguments(command, options->config);
  add_list(command, "--gpus,--ranks", options->ranks, "ranks a node", "N", integer_between(1, 65536))->default_str("8");
  add_list(command, "--nodes", options->nodes, "nodes", "N", integer_between(1, 65536))->default_str("1");
  command->add_option("--measured", options->measured, "pace of one rank: a file that t6 bench train --json wrote")
      ->type_name("FILE");
  command->add_option("--micro-ms", options->micro_ms, "pace of one rank: forward and backward of a micro-batch")
      ->type_name("MS")
      ->transform(number_between(1e-3, 1e9));
  command->add_option("--tokens-per-second", options->tokens_per_second, "pace of one rank")
      ->type_name("X")
      ->transform(number_between(1e-3, 1e12));
  command
      ->add_option("--mfu", options->mfu, "pace assumed: this part of the card's datasheet; 0.4 where no pace is given")
      ->type_name("X")
      ->transform(number_between(1e-4, 1));
  command->add_option("--card", options->card, "whose datasheet")->type_name("NAME")->capture_default_str();
  command->add_option("--bus-gbs", options->bus_gigabytes, "GB/s of an all-reduce in a node (busbw); 475 on GPUs")
      ->type_name("X")
      ->transform(number_between(1e-3, 1e6));
  command->add_option("--node-gbs", options->node_gigabytes, "GB/s a node sends to others; 400 is 8 cards of 400 Gb/s")
      ->type_name("X")
      ->transform(number_between(1e-3, 1e6))
      ->capture_default_str();
  command->add_option("--overlap", options->overlap, "part of backward that hides exchanges; 0.8 on GPUs, 0 on CPUs")
      ->type_name("X")
      ->transform(number_between(0, 1));
  command->add_flag("--zero", options->zero,
                    "optimizer state sharded over the ranks, also where the config does not say so");
  command->add_option("--micro-batch", options->micro_batch, "windows computed at a time; without it the config's")
      ->type_name("B")
      ->transform(integer_between(1, 65536));
  command->add_option("--bucket-mb", options->bucket_mb, "MiB exchanged at a time; without it the config's")
      ->type_name("N")
      ->transform(integer_between(1, 4096));
  command->add_flag("--cpu", options->cpu, "ranks are processes on CPU cores");
  command->add_flag("--json", options->json, "print one JSON document");
  add_quiet(command, context);
}

}  // namespace t6::cli
