// t6 tokenizer: learn a byte-level BPE vocabulary from text, or say what a tokenizer file holds.
#include <algorithm>

#include "base/config_tree.h"
#include "base/error.h"
#include "base/format.h"
#include "base/io.h"
#include "base/log.h"
#include "base/progress.h"
#include "cli/arguments.h"
#include "cli/command.h"
#include "cli/output.h"
#include "data/bpe_trainer.h"
#include "data/corpus_reader.h"

namespace t6::cli {
namespace {

struct TrainOptions {
  std::vector<std::string> inputs;
  std::string out;
  int64_t vocab = 0;
  data::CorpusFormat format = data::CorpusFormat::automatic;
  std::string field = "text";
  std::string separator;
  int64_t min_pair_count = 2;
  bool overwrite = false;
};

void read_corpus(const TrainOptions& options, data::BpeTrainer& trainer) {
  data::CorpusReader reader(
      options.inputs,
      {.format = options.format, .field = options.field, .separator = unescape(options.separator, "--separator")});
  data::DocumentSplitter splitter(reader.options());
  Progress progress({.label = "read", .unit = "B", .total = reader.bytes_total().value_or(0)});
  while (const auto block = reader.next()) {
    splitter.for_each(*block, [&](std::string_view document) { trainer.add(document); });
    progress.set(reader.bytes_read());
  }
  progress.finish();
}

int train(const TrainOptions& options) {
  // What the end would refuse is refused before the work.
  std::error_code ignored;
  if (std::filesystem::is_directory(options.out, ignored)) {
    fail(ExitCode::usage, "--out: expected the name of a file to write, got the folder {}", options.out);
  }
  if (!options.overwrite && io::exists(options.out)) {
    fail(ExitCode::usage, "--out: {} is there already; choose another name, or add --overwrite", options.out);
  }
  const std::filesystem::path folder = std::filesystem::path(options.out).parent_path();
  if (!folder.empty()) io::make_directories(folder);

  data::BpeTrainer trainer;
  read_corpus(options, trainer);

  const auto merges = static_cast<uint64_t>(options.vocab) - data::BpeTrainer::kMinVocabSize;
  Progress progress({.label = "learn", .unit = "merges", .total = merges});
  const data::Tokenizer tokenizer =
      trainer.train({.vocab_size = static_cast<uint32_t>(options.vocab),
                     .min_pair_count = static_cast<uint64_t>(options.min_pair_count),
                     .progress = [&](uint32_t learnt, uint32_t) { progress.set(learnt); }});
  progress.finish();
  tokenizer.save(options.out);
  print(fmt::format("{}: {} ids learnt from {} of text, hash {}\n", options.out, tokenizer.vocab_size(),
                    format_bytes(static_cast<double>(trainer.bytes())), tokenizer.hash_text()));
  return 0;
}

struct InfoOptions {
  std::string file;
  bool json = false;
};

int info(const InfoOptions& options) {
  const data::Tokenizer tokenizer = data::Tokenizer::load(options.file);
  std::vector<uint32_t> by_length(tokenizer.rank_count());
  for (uint32_t id = 0; id < tokenizer.rank_count(); ++id) by_length[id] = id;
  const size_t shown = std::min<size_t>(8, by_length.size());
  std::partial_sort(by_length.begin(), by_length.begin() + static_cast<ptrdiff_t>(shown), by_length.end(),
                    [&](uint32_t a, uint32_t b) {
                      const size_t x = tokenizer.token(a).size(), y = tokenizer.token(b).size();
                      return x != y ? x > y : a < b;
                    });
  nlohmann::ordered_json longest = nlohmann::ordered_json::array();
  std::string words;
  for (size_t i = 0; i < shown; ++i) {
    const std::string_view token = tokenizer.token(by_length[i]);
    longest.push_back(std::string(token));
    words += (i == 0 ? "" : ", ") + config::quote(token);
  }
  if (options.json) {
    print_json({{"file", options.file},
                {"vocab_size", tokenizer.vocab_size()},
                {"end_of_text", tokenizer.end_of_text()},
                {"hash", tokenizer.hash_text()},
                {"max_token_bytes", tokenizer.max_token_bytes()},
                {"longest", longest}});
    return 0;
  }
  print(label_lines({{"file", options.file},
                     {"ids", format_grouped(tokenizer.vocab_size())},
                     {"end of text", std::to_string(tokenizer.end_of_text())},
                     {"hash", tokenizer.hash_text()},
                     {"longest", words}}));
  return 0;
}

}  // namespace

void add_tokenizer(CLI::App& root, Context& context) {
  CLI::App* group = add_command(root, "tokenizer", "learn a vocabulary from text, or look at one",
                                "  t6 tokenizer train --input book.txt --vocab 4096 --out tokenizer.tiktoken");
  {
    CLI::App* command = add_command(*group, "train", "learn a byte-level BPE vocabulary from text",
                                    "  t6 tokenizer train --input book.txt --vocab 4096 --out tokenizer.tiktoken");
    auto options = options_for<TrainOptions>(command, context, &train);
    command
        ->add_option("--input", options->inputs,
                     "text or JSONL files, also .gz, .zst and .bz2; - for standard input; several may follow")
        ->type_name("FILE...")
        ->required();
    command->add_option("--vocab", options->vocab, "ids in all: 256 bytes, the merges, end-of-text")
        ->type_name("N")
        ->transform(integer_between(data::BpeTrainer::kMinVocabSize, data::BpeTrainer::kMaxVocabSize))
        ->required();
    command->add_option("--out", options->out, "rank file to write, in .tiktoken form")->type_name("FILE")->required();
    command
        ->add_option("--format", options->format,
                     "what the inputs are; auto: as their names say, and standard input as it begins")
        ->type_name("FORMAT")
        ->transform(one_of({"auto", "text", "jsonl"}))
        ->default_str("auto");
    command->add_option("--jsonl-field", options->field, "field of a JSON line that holds the text")
        ->type_name("NAME")
        ->capture_default_str();
    command->add_option("--separator", options->separator, "what stands between documents of a text file, such as \\f")
        ->type_name("TEXT");
    command->add_option("--min-pair-count", options->min_pair_count, "pairs rarer than this are not merged")
        ->type_name("N")
        ->transform(integer_from(1))
        ->capture_default_str();
    command->add_flag("--overwrite", options->overwrite, "replace the file of --out");
    add_quiet(command, context);
  }
  {
    CLI::App* command =
        add_command(*group, "info", "what a tokenizer file holds", "  t6 tokenizer info tokenizer.tiktoken");
    auto options = options_for<InfoOptions>(command, context, &info);
    command->add_option("FILE", options->file, ".tiktoken, tokenizer.json, or vocab.json beside merges.txt")
        ->required();
    command->add_flag("--json", options->json, "print one JSON document");
  }
}

}  // namespace t6::cli
