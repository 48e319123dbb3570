// t6 shards: reads every token of shards, which checks them, and says what they hold.
#include "data/shard.h"

#include <fmt/format.h>

#include "base/format.h"
#include "base/progress.h"
#include "cli/arguments.h"
#include "cli/command.h"
#include "cli/output.h"
#include "data/unigram.h"

namespace t6::cli {
namespace {

constexpr int64_t kMaxVocabulary = int64_t{1} << 24;  // as model.vocab_size

struct Options {
  std::vector<std::string> shards;
  int64_t vocab = kMaxVocabulary;
  bool json = false;
};

struct Line {
  std::string path;
  uint32_t width;  // bytes a token
  data::UnigramCounts counts;
};

nlohmann::ordered_json to_json(const data::UnigramCounts& counts) {
  return {{"tokens", counts.total()},
          {"distinct", counts.distinct()},
          {"highest_id", counts.highest()},
          {"unigram_entropy", counts.entropy()}};
}

std::vector<std::string> cells(const std::string& name, const std::string& width, const data::UnigramCounts& counts) {
  return {name,
          width,
          format_grouped(counts.total()),
          format_grouped(counts.distinct()),
          std::to_string(counts.highest()),
          fmt::format("{:.4f}", counts.entropy())};
}

int run(const Options& options) {
  const auto shards = data::ShardSet::open(std::span(options.shards), static_cast<uint32_t>(options.vocab));
  std::vector<Line> lines;
  data::UnigramCounts all;
  Progress progress({.label = "read", .unit = "token", .total = shards.total_tokens(), .summary = false});
  for (size_t i = 0; i < shards.size(); ++i) {
    Line line{shards[i].path().string(), shards[i].width(), {}};
    line.counts.add(shards[i], [&](uint64_t tokens) { progress.advance(tokens); });
    all.add(line.counts);
    lines.push_back(std::move(line));
  }
  progress.finish();

  if (options.json) {
    nlohmann::ordered_json list = nlohmann::ordered_json::array();
    for (const Line& line : lines) {
      nlohmann::ordered_json entry{{"path", line.path}, {"bytes_per_token", line.width}};
      entry.update(to_json(line.counts));
      list.push_back(entry);
    }
    print_json({{"shards", list}, {"all", to_json(all)}});
    return 0;
  }
  Table table;
  table.column("shard", Table::Align::left);
  for (const char* heading : {"type", "tokens", "distinct", "highest id", "entropy"}) table.column(heading);
  for (const Line& line : lines) table.row(cells(line.path, line.width == 2 ? "u16" : "u32", line.counts));
  if (lines.size() > 1) {
    table.line();
    table.row(cells("all", "", all));
  }
  print(table.text() +
        "\nEvery token was read and is a valid id. Entropy: of the token frequencies, in nats a token; no prediction "
        "without\ncontext has a lower loss over these tokens.\n");
  return 0;
}

}  // namespace

void add_shards(CLI::App& root, Context& context) {
  CLI::App* command = add_command(root, "shards", "check every token of shards; count them, and their unigram entropy",
                                  "  t6 shards 'data/book_*.bin'\n"
                                  "  t6 shards 'data/book_val_*.bin' --vocab 4096 --json");
  auto options = options_for<Options>(command, context, &run);
  command->add_option("GLOB", options->shards, "globs of token shards, in quotes")->required();
  command->add_option("--vocab", options->vocab, "every id must be below this: a model's vocab_size")
      ->type_name("N")
      ->check(integer_between(2, kMaxVocabulary))
      ->capture_default_str();
  command->add_flag("--json", options->json, "print one JSON document");
  add_quiet(command, context);
}

}  // namespace t6::cli
