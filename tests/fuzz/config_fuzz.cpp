// Configs as YAML files and as overrides: refused with exit code 2, or read into a config that its own YAML gives
// again.
#include <filesystem>

#include "base/io.h"
#include "fuzz/fuzz_target.h"
#include "train/run_config.h"

namespace t6::fuzz {
namespace {

constexpr std::array<std::string_view, 3> kColours{"red", "green", "blue-green"};
enum class Colour { red, green, blue_green };
constexpr std::array<std::string_view, 3> config_names(Colour) {
  return kColours;
}

// Every type of field that there is.
struct EveryType {
  int64_t whole = 1;
  double number = 0.5;
  bool flag = false;
  std::string text = "a";
  std::chrono::seconds time{60};
  Colour colour = Colour::red;
  std::optional<int64_t> maybe_whole;
  std::optional<std::string> maybe_text;
  std::optional<std::chrono::seconds> maybe_time;
  std::vector<std::string> texts{"a", "b"};
  std::vector<int64_t> wholes;
  std::vector<Colour> colours;
  std::array<double, 2> pair{0.9, 0.95};

  template <class V>
  void fields(V& v) {
    v.field("whole", whole, "");
    v.field("number", number, "");
    v.field("flag", flag, "");
    v.field("text", text, "");
    v.field("time", time, "");
    v.field("colour", colour, "");
    v.field("maybe_whole", maybe_whole, "", config::range(-5, 1e15));
    v.field("maybe_text", maybe_text, "");
    v.field("maybe_time", maybe_time, "");
    v.field("texts", texts, "");
    v.field("wholes", wholes, "");
    v.field("colours", colours, "");
    v.field("pair", pair, "", config::range_below(0, 1));
  }
  bool operator==(const EveryType&) const = default;
};

EveryType every_type_of(std::string_view text) {
  config::Tree tree;
  tree.add_text(text, "fuzz.yaml");
  EveryType value;
  config::read(tree, value);
  tree.fail_on_problems();
  return value;
}

void run_every_type(std::string_view input) {
  EveryType value;
  if (!accepts({ExitCode::usage}, [&] { value = every_type_of(input); })) return;
  const std::string printed = config::to_yaml(value);
  require(every_type_of(printed) == value, "reads back as something else:\n{}", printed);
}

void require_same_again(const RunConfig& config) {
  const std::string printed = to_yaml(config);
  RunConfig again;
  require(accepts({ExitCode::usage}, [&] { again = run_config_from_yaml(printed, "printed"); }),
          "refuses what it printed:\n{}", printed);
  require(again == config, "reads back as something else:\n{}", printed);
}

void run_config(std::string_view input) {
  RunConfig config;
  if (accepts({ExitCode::usage}, [&] { config = run_config_from_yaml(input, "fuzz.yaml"); }))
    require_same_again(config);
}

void run_overrides(std::string_view input) {
  std::vector<std::string> overrides;
  for (const std::string_view piece : pieces_of(input, 1)) overrides.emplace_back(piece);
  RunConfig config;
  if (accepts({ExitCode::usage}, [&] { config = load_run_config({}, overrides); })) require_same_again(config);
}

std::vector<std::string> config_seeds() {
  std::vector<std::string> seeds = {"",
                                    "preset: official\n",
                                    "train:\n  steps: 5\n  max_runtime: 2h30m\n",
                                    "a: &x 1\nb: *x\n<<: *x\n",
                                    "train: {steps: 1e5, steps: 600_000}\n---\nb\n",
                                    "data:\n  train: [\"a*.bin\", 'b.bin', |\n    c\n  ]\n",
                                    "run: !tag {seed: 010}\n",
                                    "model:\n  attention: mla\n  mla: {latent_width: 4}\n",
                                    "? [a]\n: b\n",
                                    "train: \"\\u00e9\\x41\"\n",
                                    "\xEF\xBB\xBFpreset: corrected\n"};
  for (const char* name : {"demo_tpa", "t6_mla_small", "t6_gqa_xl"}) {
    seeds.push_back(source_file(fmt::format("configs/{}.yaml", name)));
  }
  seeds.push_back(to_yaml(default_config()));
  seeds.push_back(to_yaml(official_config()));
  return seeds;
}

std::vector<std::string> every_type_seeds() {
  EveryType other;
  other.maybe_whole = 5;
  other.maybe_text = "'x\"\\";
  other.maybe_time = std::chrono::seconds(90);
  other.wholes = {1, -2};
  other.colours = {Colour::blue_green};
  return {config::to_yaml(EveryType{}),
          config::to_yaml(other),
          "wholes: [1, 600_000, 1e5, -0]\n",
          "number: 2.5e-3\ntexts: lone\n",
          "time: 1d2h3m4s\nmaybe_text: ~\n",
          "text: |\n  block\n  of text\n",
          "pair: [0.1, .2]\ncolours: [red, blue-green]\n"};
}

std::vector<std::string> override_seeds() {
  return {"train.steps=1000",
          "train.steps=5\x1eoptimizer.betas=[0.9, 0.99]",
          "data.train={a,b}*.bin\x1emodel.attention=mha",
          "data.train=[\"a\", 'b']",
          "train.max_runtime=90s\x1etrain.target_loss=null",
          "model.tpa.rank_q=3",
          "run.dir=\"x\"",
          "model={attention: mqa}",
          "a.b.c.d.e=1",
          "train.steps"};
}

Registered config_target({"config", "run configs (YAML)", &run_config, &config_seeds, 4096});
Registered every_type_target({"config_types", "typed values of a config (YAML)", &run_every_type, &every_type_seeds,
                              1024});
Registered overrides_target({"overrides", "section.key=value", &run_overrides, &override_seeds, 1024});

}  // namespace
}  // namespace t6::fuzz
