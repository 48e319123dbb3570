// t6 tokenize: turns text and JSON lines into token shards.
#include "data/tokenize.h"

#include "base/error.h"
#include "base/format.h"
#include "base/log.h"
#include "base/progress.h"
#include "cli/arguments.h"
#include "cli/command.h"
#include "cli/output.h"

namespace t6::cli {
namespace {

struct Options {
  std::vector<std::string> inputs;
  std::string tokenizer;
  std::string out;
  data::CorpusFormat format = data::CorpusFormat::automatic;
  std::string field = "text";
  std::string separator;
  data::ShardForm form = data::ShardForm::bin;
  int64_t shard_tokens = 100'000'000;
  int64_t val_tokens = 100'000'000;
  double val_fraction = 0.05;
  int64_t workers = 0;
  bool overwrite = false;
};

// "data/book" is prefix book in folder data.
data::ShardWriterOptions writer_options(const Options& options) {
  const std::filesystem::path out(options.out);
  const std::string prefix = out.filename().string();
  if (prefix.empty() || prefix == "." || prefix == "..") {
    fail(ExitCode::usage, "--out: expected a folder and the first part of the shards' names, such as data/book; got {}",
         options.out);
  }
  data::ShardWriterOptions writer;
  writer.folder = io::parent_of(out);
  writer.prefix = prefix;
  writer.form = options.form;
  writer.shard_tokens = static_cast<uint64_t>(options.shard_tokens);
  writer.val_tokens = static_cast<uint64_t>(options.val_tokens);
  writer.val_fraction = options.val_fraction;
  writer.overwrite = options.overwrite;
  return writer;
}

int run(const Options& options) {
  const data::ShardWriterOptions writer = writer_options(options);
  const data::Tokenizer tokenizer = data::Tokenizer::load(options.tokenizer);
  const data::CorpusOptions corpus{
      .format = options.format, .field = options.field, .separator = unescape(options.separator, "--separator")};
  std::unique_ptr<Progress> progress;  // made when the size of the input is known
  const auto show = [&](const data::TokenizeProgress& now) {
    if (!progress) {
      progress = std::make_unique<Progress>(
          ProgressOptions{.label = "tokenize", .unit = "B", .total = now.bytes_total.value_or(0), .summary = false});
    }
    progress->set(now.bytes_read);
    progress->note(fmt::format("{} tokens", format_count(static_cast<double>(now.tokens))));
  };
  const data::TokenizeResult result =
      data::tokenize(options.inputs, tokenizer, writer,
                     {.corpus = corpus, .workers = static_cast<int>(options.workers), .progress = show});
  if (progress) progress->finish();

  const data::TokenizeProgress& totals = result.totals;
  Table table;
  table.column("shard", Table::Align::left);
  table.column("tokens");
  for (const data::WrittenShard& shard : result.shards.shards) {
    table.row({shard.path.string(), format_grouped(shard.tokens)});
  }
  log::info("{} document{} ({} empty ones left out), {} of text, {} tokens in {}: {:.1f} MB/s", totals.documents,
            totals.documents == 1 ? "" : "s", totals.empty_documents,
            format_bytes(static_cast<double>(totals.text_bytes)), format_grouped(totals.tokens),
            format_duration(totals.seconds), totals.text_mb_per_second());
  print(table.text());
  return 0;
}

}  // namespace

void add_tokenize(CLI::App& root, Context& context) {
  CLI::App* command = add_command(root, "tokenize", "turn text into token shards, for training and for validation",
                                  "  t6 tokenize --tokenizer tokenizer.tiktoken --out data/book book.txt\n"
                                  "  zcat corpus.jsonl.gz | t6 tokenize --tokenizer gpt2.tiktoken --out data/web "
                                  "--format jsonl -");
  auto options = options_for<Options>(command, context, &run);
  command->add_option("INPUT", options->inputs, "text or JSONL files, also .gz, .zst and .bz2; - for standard input")
      ->required();
  command->add_option("--tokenizer", options->tokenizer, ".tiktoken, tokenizer.json, or vocab.json beside merges.txt")
      ->type_name("FILE")
      ->required();
  command->add_option("--out", options->out, "folder and first part of the shards' names: data/book")
      ->type_name("PREFIX")
      ->required();
  command
      ->add_option("--format", options->format,
                   "what the inputs are; auto: as their names say, and standard input as it begins")
      ->type_name("FORMAT")
      ->transform(one_of({"auto", "text", "jsonl"}))
      ->default_str("auto");
  command->add_option("--jsonl-field", options->field, "field of a JSON line that holds the text")
      ->type_name("NAME")
      ->capture_default_str();
  command
      ->add_option("--separator", options->separator,
                   "what stands between documents of a text file, such as \\f; without it a file is one document")
      ->type_name("TEXT");
  command->add_option("--shard-form", options->form, "form of the shards")
      ->type_name("FORM")
      ->transform(one_of({"bin", "h5"}))
      ->default_str("bin");
  command->add_option("--shard-tokens", options->shard_tokens, "tokens of a shard")
      ->type_name("N")
      ->transform(integer_between(1, (int64_t{1} << 31) - 1))
      ->capture_default_str();
  command->add_option("--val-tokens", options->val_tokens, "at most this many of the first tokens are for validation")
      ->type_name("N")
      ->transform(integer_between(0, (int64_t{1} << 31) - 1))
      ->capture_default_str();
  command->add_option("--val-fraction", options->val_fraction, "and at most this part of all")
      ->type_name("X")
      ->transform(number_between(0, 1))
      ->capture_default_str();
  command->add_option("--workers", options->workers, "threads that encode; 0: as many as there are cores")
      ->type_name("N")
      ->transform(integer_between(0, 1024))
      ->capture_default_str();
  command->add_flag("--overwrite", options->overwrite, "replace shards of this prefix");
  add_quiet(command, context);
}

}  // namespace t6::cli
