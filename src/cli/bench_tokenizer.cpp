// t6 bench tokenizer: how fast a tokenizer encodes on one core.
#include "base/error.h"
#include "base/format.h"
#include "base/io.h"
#include "cli/arguments.h"
#include "cli/bench.h"
#include "cli/output.h"
#include "cli/prose.h"
#include "data/bpe_trainer.h"
#include "data/text_source.h"
#include "data/tokenizer_bench.h"

namespace t6::cli {
namespace {

constexpr size_t kProseBytes = size_t{8} << 20;
constexpr size_t kMaxTextBytes = size_t{1} << 30;
constexpr size_t kLearnBytes = size_t{4} << 20;

struct Options {
  std::string text;
  std::string tokenizer;
  int64_t vocab = 8192;
  double seconds = 2;
  bool json = false;
};

std::string read_whole(const std::string& path) {
  data::TextSource source(path);
  std::string text;
  for (std::string block(size_t{1} << 20, '\0'); text.size() < kMaxTextBytes;) {
    const size_t got = source.read(block);
    if (got == 0) break;
    text.append(block, 0, got);
  }
  if (text.empty()) fail(ExitCode::data, "{} is empty; the bench needs some text", path);
  return text;
}

int run(const Options& options) {
  const std::string text = options.text.empty() ? make_prose(kProseBytes, 1) : read_whole(options.text);
  const auto tokenizer = [&] {
    if (!options.tokenizer.empty()) return data::Tokenizer::load(options.tokenizer);
    data::BpeTrainer trainer;
    trainer.add(std::string_view(text).substr(0, kLearnBytes));
    return trainer.train({.vocab_size = static_cast<uint32_t>(options.vocab), .progress = {}});
  }();
  const data::TokenizerBench result = data::bench_tokenizer(tokenizer, text, options.seconds);
  const std::string text_name = options.text.empty() ? "generated prose" : options.text;
  const std::string tokenizer_name = options.tokenizer.empty() ? "learnt from this text" : options.tokenizer;
  if (options.json) {
    print_json({{"text", text_name},
                {"tokenizer", tokenizer_name},
                {"vocab_size", tokenizer.vocab_size()},
                {"bytes", result.bytes},
                {"tokens", result.tokens},
                {"bytes_per_token", result.bytes_per_token},
                {"passes", result.passes},
                {"mb_per_second", result.mb_per_second},
                {"cold_mb_per_second", result.cold_mb_per_second}});
    return 0;
  }
  print(label_lines(
      {{"text", fmt::format("{}, {}", text_name, format_bytes(static_cast<double>(result.bytes)))},
       {"tokenizer", fmt::format("{}, {} ids", tokenizer_name, format_grouped(tokenizer.vocab_size()))},
       {"tokens", fmt::format("{}, {:.2f} bytes each", format_grouped(result.tokens), result.bytes_per_token)},
       {"first pass", fmt::format("{:.1f} MB/s on one core", result.cold_mb_per_second)},
       {"best pass", fmt::format("{:.1f} MB/s on one core, of {}", result.mb_per_second, result.passes)}}));
  return 0;
}

}  // namespace

void add_bench_tokenizer(CLI::App& group, Context& context) {
  CLI::App* command = add_command(group, "tokenizer", "how fast a tokenizer encodes on one core",
                                  "  t6 bench tokenizer book.txt --tokenizer tokenizer.tiktoken\n  t6 bench tokenizer");
  auto options = options_for<Options>(command, context, &run);
  command->add_option("TEXT", options->text, "text file, also .gz, .zst and .bz2; without it prose is made up");
  command
      ->add_option("--tokenizer", options->tokenizer,
                   "tokenizer file; without it one is learnt from the text's beginning")
      ->type_name("FILE");
  command->add_option("--vocab", options->vocab, "ids of the one that is learnt")
      ->type_name("N")
      ->transform(integer_between(data::BpeTrainer::kMinVocabSize, data::BpeTrainer::kMaxVocabSize))
      ->capture_default_str();
  command->add_option("--seconds", options->seconds, "time to measure")
      ->type_name("X")
      ->transform(number_between(0, 3600, true))
      ->capture_default_str();
  command->add_flag("--json", options->json, "print one JSON document");
}

}  // namespace t6::cli
