#include "data/corpus_reader.h"

#include <simdjson.h>

#include <algorithm>
#include <filesystem>
#include <utility>

#include "base/error.h"
#include "base/log.h"

namespace t6::data {
namespace {

namespace fs = std::filesystem;

bool is_blank(std::string_view text) {
  return text.find_first_not_of(" \t\r\n\f\v") == std::string_view::npos;
}

// Whether the first line is a whole JSON object with that field.
bool begins_with_json(std::string_view text, const std::string& field) {
  const size_t begin = std::min(text.find_first_not_of(" \t\r\n"), text.size());
  const size_t end = std::min(text.find('\n', begin), text.size());
  if (begin == end || text[begin] != '{') return false;
  simdjson::dom::parser parser;
  const simdjson::padded_string line(text.substr(begin, end - begin));
  simdjson::dom::element object;
  std::string_view value;
  return parser.parse(line).get(object) == simdjson::SUCCESS && object[field].get(value) == simdjson::SUCCESS;
}

}  // namespace

CorpusReader::CorpusReader(std::vector<std::string> inputs, CorpusOptions options)
    : inputs_(std::move(inputs)), options_(std::move(options)) {
  if (inputs_.empty())
    fail(ExitCode::usage, "no input text was given; name at least one file, or - for standard input");
  if (std::count(inputs_.begin(), inputs_.end(), "-") > 1) {
    fail(ExitCode::usage, "standard input (-) was named more than once");
  }
  if (options_.format == CorpusFormat::jsonl && !options_.separator.empty()) {
    fail(ExitCode::usage,
         "a document separator has no meaning for JSON lines; leave it out or say that the input is text");
  }
  total_ = 0;
  for (const std::string& input : inputs_) {
    std::error_code error;
    if (input == "-" || fs::is_other(input, error)) {
      total_.reset();
      continue;
    }
    // Opening finds a missing or unreadable file now rather than after hours.
    const TextSource source(input, nullptr, std::min(options_.block_bytes, TextSource::kBufferBytes));
    if (total_) *total_ += source.size().value_or(0);
  }
}

bool CorpusReader::is_jsonl(const TextSource& source, bool standard_input) const {
  if (options_.format != CorpusFormat::automatic) return options_.format == CorpusFormat::jsonl;
  if (!standard_input) {
    fs::path path(source.name());
    if (const fs::path end = path.extension(); end == ".gz" || end == ".zst" || end == ".bz2") path.replace_extension();
    if (path.extension() == ".jsonl" || path.extension() == ".ndjson" || path.extension() == ".json") return true;
  }
  if (!options_.separator.empty() || !begins_with_json(source.start(), options_.field)) return false;
  if (standard_input) {
    log::info(
        "standard input is read as JSON lines, as its first line is a JSON object with \"{}\"; --format text takes "
        "it as it stands",
        options_.field);
    return true;
  }
  log::warn(
      "{} looks like JSON lines and is read as text, as its name does not say so; --format jsonl reads the field "
      "\"{}\" of each line",
      source.name(), options_.field);
  return false;
}

bool CorpusReader::open_next() {
  if (source_) {
    bytes_before_ += source_->consumed();
    source_.reset();
  }
  if (next_input_ == inputs_.size()) return false;
  const std::string& name = inputs_[next_input_++];
  source_.emplace(name, &interrupt_, std::min(options_.block_bytes, TextSource::kBufferBytes));
  jsonl_ = is_jsonl(*source_, name == "-");
  delimiter_ = jsonl_ ? "\n" : options_.separator;
  carry_.clear();
  cut_ = 0;
  line_ = 1;
  return true;
}

// Moves cut_ behind the last delimiter of carry_, whose bytes from old_size on are new.
size_t CorpusReader::find_cut(size_t old_size) {
  if (delimiter_.empty()) return 0;
  if (jsonl_) {
    const size_t last = std::string_view(carry_).substr(old_size).rfind('\n');
    if (last != std::string_view::npos) cut_ = old_size + last + 1;
    return cut_;
  }
  // From left to right, as the splitter does: where occurrences overlap, the first one counts.
  size_t from = std::max(cut_, old_size - std::min(old_size, delimiter_.size() - 1));
  for (size_t at; (at = carry_.find(delimiter_, from)) != std::string::npos; from = cut_) cut_ = at + delimiter_.size();
  return cut_;
}

std::optional<CorpusBlock> CorpusReader::next() {
  while (true) {
    if (!source_ && !open_next()) return std::nullopt;
    bool at_end = false;
    size_t cut = cut_;
    for (size_t want = options_.block_bytes; !at_end && (carry_.size() < options_.block_bytes || cut == 0);) {
      const size_t old_size = carry_.size();
      carry_.resize(old_size + want);
      const size_t n = source_->read(std::span(carry_).subspan(old_size));
      carry_.resize(old_size + n);
      at_end = n < want;
      cut = find_cut(old_size);
      if (carry_.size() - cut > options_.max_document_bytes) {
        fail(ExitCode::data, "{}: a {} is longer than {} bytes; {}", source_->name(), jsonl_ ? "line" : "document",
             options_.max_document_bytes,
             jsonl_ ? "JSON lines need one object on each line" : "give a separator that ends documents");
      }
      want = std::max(options_.block_bytes, carry_.size() / 2);
    }
    if (at_end) cut = carry_.size();
    CorpusBlock block{source_->name(), jsonl_, line_, {}, cut};
    block.text.reserve(cut + simdjson::SIMDJSON_PADDING);
    block.text.assign(carry_, 0, cut);
    block.text.append(simdjson::SIMDJSON_PADDING, '\0');
    carry_.erase(0, cut);
    cut_ = 0;
    if (jsonl_) line_ += static_cast<uint64_t>(std::count(block.text.begin(), block.text.end(), '\n'));
    if (at_end) {
      bytes_before_ += source_->consumed();
      source_.reset();
    }
    if (cut > 0) return block;
  }
}

uint64_t CorpusReader::bytes_read() const {
  return bytes_before_ + (source_ ? source_->consumed() : 0);
}

struct DocumentSplitter::Parser {
  simdjson::dom::parser json;
};

DocumentSplitter::DocumentSplitter(const CorpusOptions& options)
    : field_(options.field), separator_(options.separator), parser_(std::make_unique<Parser>()) {}
DocumentSplitter::~DocumentSplitter() = default;

uint64_t DocumentSplitter::for_each(const CorpusBlock& block, const std::function<void(std::string_view)>& visit) {
  uint64_t empty = 0;
  const auto hand_out = [&](std::string_view document) {
    if (is_blank(document)) {
      ++empty;
    } else {
      visit(document);
    }
  };
  const std::string_view text = block.view();
  if (!block.jsonl) {
    if (separator_.empty()) {
      hand_out(text);
      return empty;
    }
    for (size_t begin = 0; begin < text.size();) {
      const size_t end = std::min(text.find(separator_, begin), text.size());
      hand_out(text.substr(begin, end - begin));
      begin = end + separator_.size();
    }
    return empty;
  }
  uint64_t number = block.first_line;
  for (size_t begin = 0; begin < text.size(); ++number) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line = text.substr(begin, end - begin);
    begin = end + 1;
    if (is_blank(line)) continue;
    const auto bad = [&](std::string_view reason) {
      fail(ExitCode::data, "{}:{}: {}; expected one JSON object a line with its text in the string field \"{}\"",
           block.source, number, reason, field_);
    };
    simdjson::dom::element element;
    // The padding the parser needs is there: the lines that follow, then the block's own.
    simdjson::error_code error = parser_->json.parse(line.data(), line.size(), false).get(element);
    if (error) bad(fmt::format("this line is not valid JSON ({})", simdjson::error_message(error)));
    simdjson::dom::object object;
    if (element.get(object)) bad("this line is not a JSON object");
    simdjson::dom::element value;
    if (object.at_key(field_).get(value)) {
      std::string names;
      size_t shown = 0;
      for (const auto& [name, ignored] : object) {
        if (++shown > 8) break;
        names += fmt::format("{}\"{}\"", names.empty() ? "" : ", ", name.substr(0, 40));
      }
      bad(fmt::format("no field \"{}\" among {}", field_, names.empty() ? "none" : names));
    }
    std::string_view document;
    if (value.get(document)) bad(fmt::format("field \"{}\" is not a string", field_));
    hand_out(document);
  }
  return empty;
}

}  // namespace t6::data
