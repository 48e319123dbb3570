// Corpora: compressed sources and JSON lines. Refused with exit code 3, or documents that are in the file.
#include <bzlib.h>
#include <zlib.h>
#include <zstd.h>

#include <nlohmann/json.hpp>

#include "data/corpus_reader.h"
#include "fuzz/fuzz_target.h"

namespace t6::fuzz {
namespace {

constexpr size_t kMostRead = size_t{4} << 20;  // bytes of decompressed text

bool is_plain(std::string_view bytes) {
  return !bytes.starts_with("\x1f\x8b") && !bytes.starts_with("\x28\xb5\x2f\xfd") && !bytes.starts_with("BZh");
}

// The first byte says how much is asked for at once.
void run_source(std::string_view input) {
  if (input.empty()) return;
  static MemoryFile file;
  const std::string_view bytes = input.substr(1);
  const size_t step = input[0] == 0 ? size_t{1} << 16 : static_cast<uint8_t>(input[0]) * size_t{7};
  std::string text;
  const bool whole = accepts({ExitCode::data}, [&] {
    data::TextSource source(file.hold(bytes).string(), nullptr, input[0] % 2 == 0 ? 64 : 4096);
    std::string part(step, '\0');
    for (size_t n = step; n == step && text.size() < kMostRead;) {
      n = source.read(part);
      require(n <= step, "{} bytes into room for {}", n, step);
      text.append(part, 0, n);
    }
    require(source.consumed() <= bytes.size(), "consumed {} of {} bytes", source.consumed(), bytes.size());
  });
  if (whole && is_plain(bytes)) {
    require(text == (bytes.starts_with("\xef\xbb\xbf") ? bytes.substr(3) : bytes), "other text than the file's");
  }
}

// The first byte: JSON lines or text, and which separator.
void run_corpus(std::string_view input) {
  if (input.empty()) return;
  static MemoryFile file;
  const std::string_view bytes = input.substr(1);
  constexpr std::array<std::string_view, 4> kSeparators{"", "\n\n", "aab", "<|endoftext|>"};
  data::CorpusOptions options;
  options.format = input[0] & 1 ? data::CorpusFormat::jsonl : data::CorpusFormat::text;
  if (!(input[0] & 1)) options.separator = kSeparators[static_cast<size_t>(input[0] >> 1 & 3)];
  options.max_document_bytes = input[0] & 8 ? 64 : 1 << 20;
  options.block_bytes = input[0] & 16 ? 4096 : 64;
  std::vector<std::string> documents;
  std::string text;
  if (!accepts({ExitCode::data}, [&] {
        data::CorpusReader reader({file.hold(bytes).string()}, options);
        data::DocumentSplitter splitter(options);
        while (const auto block = reader.next()) {
          text += block->view();
          splitter.for_each(*block, [&](std::string_view document) { documents.emplace_back(document); });
          if (text.size() > kMostRead) return;
        }
      })) {
    return;
  }
  size_t total = 0;
  for (const std::string& document : documents) {
    require(document.find_first_not_of(" \t\r\n\v\f") != std::string::npos, "a document without text");
    total += document.size();
  }
  if (is_plain(bytes))
    require(text == (bytes.starts_with("\xef\xbb\xbf") ? bytes.substr(3) : bytes), "blocks lose text");
  if (options.format == data::CorpusFormat::text) {
    size_t at = 0;
    for (const std::string& document : documents) {
      at = text.find(document, at);
      require(at != std::string::npos, "a document that is not in the text");
      at += document.size();
    }
    return;
  }
  require(total <= text.size() * 3, "documents of {} bytes from {}", total, text.size());
  // Every line is JSON by another parser, too.
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string line = text.substr(begin, end - begin);
    begin = end + 1;
    if (line.find_first_not_of(" \t\r\n\v\f") == std::string::npos) continue;
    require(nlohmann::json::accept(line), "took a line that is no JSON");
  }
}

std::string gzip(std::string_view text) {
  z_stream stream{};
  require(deflateInit2(&stream, 9, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY) == Z_OK, "zlib");
  std::string out(text.size() + 100, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  require(deflate(&stream, Z_FINISH) == Z_STREAM_END, "zlib");
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

std::string zstd(std::string_view text) {
  std::string out(ZSTD_compressBound(text.size()), '\0');
  out.resize(ZSTD_compress(out.data(), out.size(), text.data(), text.size(), 19));
  return out;
}

std::string bzip2(std::string text) {
  auto size = static_cast<unsigned int>(text.size() * 2 + 600);
  std::string out(size, '\0');
  require(BZ2_bzBuffToBuffCompress(out.data(), &size, text.data(), static_cast<unsigned int>(text.size()), 1, 0, 0) ==
              BZ_OK,
          "bzip2");
  out.resize(size);
  return out;
}

// What is asked for, before the file's bytes.
std::string seed(int first, std::string_view bytes) {
  std::string text(1, static_cast<char>(first));
  text += bytes;
  return text;
}

std::vector<std::string> source_seeds() {
  const std::string text = "some text, some more text, some more text of more text\n", many(5000, 'a');
  return {seed(1, text),
          seed(7, gzip(text)),
          seed(7, gzip(text) + gzip("second member") + std::string(4, '\0')),
          seed(8, gzip(many)),
          seed(0, gzip(many)),
          seed(7, zstd(text)),
          seed(8, zstd(text) + zstd("second frame")),
          seed(9, zstd(many)),
          seed(7, bzip2(text)),
          seed(8, bzip2(text) + bzip2("") + bzip2("third stream")),
          seed(0, bzip2(many)),
          seed(1, "PAR1"),
          seed(1, "\xff\xfe\x61"),
          seed(2, "\xef\xbb\xbfx")};
}

std::vector<std::string> corpus_seeds() {
  const std::string lines =
      "{\"text\": \"a \\u00e9 \\ud83d\\ude00\"}\n\n{\"id\": 1, \"text\": \"b\\n\", \"n\": [1, -2.5e3, null, true]}\n";
  const std::string digits(100, '5');
  return {seed(1, lines),
          seed(17, lines),
          seed(1, gzip(lines)),
          seed(17, zstd(lines)),
          seed(1, bzip2(lines)),
          seed(1, "{\"text\": 1}\n"),
          seed(1, "[]\n"),
          seed(1, "{\"txt\": \"\"}"),
          seed(1, "{\"text\":\"\"}\r\n"),
          seed(2, "one\n\ntwo\n\n\nthree"),
          seed(4, "aabaaab aab"),
          seed(6, "one<|endoftext|>two<|endoftext|>"),
          seed(0, "one"),
          seed(9, fmt::format("{{\"text\": \"{}\"}}", digits))};
}

Registered source_target({"text_source", "plain, gzip, zstd and bzip2 text", &run_source, &source_seeds, 2048});
Registered corpus_target({"corpus", "JSON lines and separated text", &run_corpus, &corpus_seeds, 1024});

}  // namespace
}  // namespace t6::fuzz
