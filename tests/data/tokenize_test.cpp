#include "data/tokenize.h"

#include <bzlib.h>
#include <gtest/gtest.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <map>
#include <thread>

#include "data/shard.h"
#include "shard_files.h"

namespace t6::data {
namespace {

using testing::contains;
using testing::error_of;
using testing::read_file;
using testing::TempFolder;
using testing::write_file;

// The 256 bytes and a few words; end-of-text is 260.
Tokenizer small_tokenizer() {
  std::vector<std::string> tokens;
  for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
  for (const char* word : {" t", "th", " th", "he"}) tokens.emplace_back(word);
  return Tokenizer::from_tokens(tokens, "small");
}

std::string gzip(const std::string& text) {
  z_stream stream{};
  deflateInit2(&stream, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY);
  std::string out(deflateBound(&stream, text.size()) + 64, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  deflate(&stream, Z_FINISH);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

std::string zstd(const std::string& text) {
  std::string out(ZSTD_compressBound(text.size()), '\0');
  out.resize(ZSTD_compress(out.data(), out.size(), text.data(), text.size(), 3));
  return out;
}

std::string bzip2(std::string text) {
  auto size = static_cast<unsigned int>(text.size() + text.size() / 100 + 600);
  std::string out(size, '\0');
  EXPECT_EQ(BZ2_bzBuffToBuffCompress(out.data(), &size, text.data(), static_cast<unsigned int>(text.size()), 9, 0, 0),
            BZ_OK);
  out.resize(size);
  return out;
}

// Documents of 0 to some hundred words, different each.
std::vector<std::string> some_documents(size_t n) {
  std::vector<std::string> documents;
  uint32_t state = 99;
  const auto draw = [&](uint32_t bound) {
    state = state * 1664525 + 1013904223;
    return static_cast<uint32_t>((uint64_t{state} * bound) >> 32);
  };
  for (size_t i = 0; i < n; ++i) {
    std::string document = fmt::format("document {}", i);
    for (uint32_t words = draw(300); words > 0; --words) {
      document += draw(9) == 0 ? "\n" : " ";
      for (uint32_t letters = 1 + draw(9); letters > 0; --letters) document += static_cast<char>('a' + draw(26));
      if (draw(40) == 0) document += " \"quoted\\\" \xc3\xa9\xe2\x82\xac";
    }
    documents.push_back(document);
  }
  return documents;
}

std::string json_string(const std::string& text) {
  std::string out = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    if (c == '\n') {
      out += "\\n";
    } else {
      out += c;
    }
  }
  return out + "\"";
}

std::string jsonl(const std::vector<std::string>& documents, const std::string& field = "text") {
  std::string out;
  for (size_t i = 0; i < documents.size(); ++i) {
    out += fmt::format("{{\"id\": {}, \"{}\": {}, \"score\": 0.5}}\n", i, field, json_string(documents[i]));
  }
  return out;
}

std::string join(const std::vector<std::string>& documents, const std::string& separator) {
  std::string out;
  for (size_t i = 0; i < documents.size(); ++i) out += (i > 0 ? separator : "") + documents[i];
  return out;
}

// What the shards of these documents hold, end to end.
std::vector<uint32_t> expected_ids(const std::vector<std::string>& documents) {
  const Tokenizer tokenizer = small_tokenizer();
  std::vector<uint32_t> ids;
  for (const std::string& document : documents) {
    ids.push_back(tokenizer.end_of_text());
    tokenizer.encode(document, ids);
  }
  return ids;
}

std::vector<uint32_t> ids_of(const ShardSummary& summary) {
  std::vector<uint32_t> ids;
  for (const WrittenShard& written : summary.shards) {
    const TokenShard shard = TokenShard::open(written.path, small_tokenizer().vocab_size());
    EXPECT_EQ(shard.size(), written.tokens);
    ids.resize(ids.size() + shard.size());
    shard.read(std::span(ids).last(shard.size()), 0);
  }
  return ids;
}

// Tokenizes one file into a folder of its own.
struct Task {
  TempFolder folder;
  ShardWriterOptions output{.folder = folder / "out", .prefix = "test"};
  TokenizeOptions options;
  TokenizeResult result;

  std::vector<uint32_t> ids(const std::string& name, const std::string& content) {
    write_file(folder / name, content);
    return ids(std::vector<std::string>{(folder / name).string()});
  }
  std::vector<uint32_t> ids(const std::vector<std::string>& inputs) {
    result = tokenize(inputs, small_tokenizer(), output, options);
    return ids_of(result.shards);
  }
  Error error(const std::string& name, const std::string& content) {
    return error_of([&] { ids(name, content); });
  }
};

TEST(Tokenize, TextFileIsOneDocument) {
  Task run;
  const std::string text = "the first line\n\nthe second\n";
  EXPECT_EQ(run.ids("a.txt", text), expected_ids({text}));
  EXPECT_EQ(run.result.totals.documents, 1u);
  EXPECT_EQ(run.result.totals.text_bytes, text.size());
  EXPECT_EQ(run.result.totals.bytes_read, text.size());
  EXPECT_EQ(run.result.totals.bytes_total, text.size());
}

TEST(Tokenize, SeveralFilesInTheirOrder) {
  Task run;
  const std::vector<std::string> documents = some_documents(3);
  write_file(run.folder / "b.txt", documents[0]);
  write_file(run.folder / "a.jsonl", jsonl({documents[1]}));
  write_file(run.folder / "c.txt.gz", gzip(documents[2]));
  EXPECT_EQ(run.ids(std::vector<std::string>{run.folder / "b.txt", run.folder / "a.jsonl", run.folder / "c.txt.gz"}),
            expected_ids(documents));
}

TEST(Tokenize, EveryCompressionAndFormatGivesTheSameShards) {
  const std::vector<std::string> documents = some_documents(3000);  // several blocks
  const std::vector<uint32_t> expected = expected_ids(documents);
  const std::string lines = jsonl(documents), text = join(documents, "\f");
  ASSERT_GT(text.size(), size_t{2} << 20);
  const std::string half = lines.substr(0, lines.size() / 2), rest = lines.substr(lines.size() / 2);
  const std::vector<std::pair<std::string, std::string>> files{
      {"a.jsonl", lines},
      {"a.ndjson", lines.substr(0, lines.size() - 1)},  // no newline at the end
      {"bom.jsonl", "\xef\xbb\xbf" + lines},
      {"a.jsonl.gz", gzip(lines)},
      {"members.jsonl.gz", gzip(half) + gzip(rest) + std::string(512, '\0')},
      {"a.jsonl.zst", zstd(lines)},
      {"frames.jsonl.zst", zstd(half) + zstd(rest)},
      {"a.jsonl.bz2", bzip2(lines)},
      {"streams.jsonl.bz2", bzip2(half) + bzip2("") + bzip2(rest)},
      {"a.txt", text},
      {"a.txt.gz", gzip(text)},
      {"no_ending_zst", zstd(text)},
      {"no_ending_bz2", bzip2(text)},
  };
  for (const auto& [name, content] : files) {
    Task run;
    run.options.workers = 2;
    if (!contains(name, "json")) run.options.corpus.separator = "\f";
    EXPECT_TRUE(run.ids(name, content) == expected) << name;
    EXPECT_EQ(run.result.totals.documents, documents.size()) << name;
    EXPECT_EQ(run.result.totals.bytes_read, content.size()) << name;
  }
}

TEST(Tokenize, SameBytesForAnyNumberOfWorkers) {
  const std::string lines = jsonl(some_documents(4000));
  std::map<std::string, std::string> first;
  for (int workers : {1, 4, 7}) {
    Task run;
    run.output.shard_tokens = 200'000;
    run.options.workers = workers;
    run.ids("a.jsonl", lines);
    std::map<std::string, std::string> files;
    for (const auto& entry : fs::directory_iterator(run.output.folder)) {
      files[entry.path().filename().string()] = read_file(entry.path());
    }
    EXPECT_GT(files.size(), 10u);
    if (first.empty()) first = files;
    EXPECT_TRUE(files == first) << workers << " workers";
  }
}

TEST(Tokenize, StandardInput) {
  const std::vector<std::string> documents = some_documents(50);
  const std::string lines = jsonl(documents);
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  const int saved = ::dup(STDIN_FILENO);
  ::dup2(ends[0], STDIN_FILENO);
  ::close(ends[0]);
  std::thread feeder([&] {
    for (size_t i = 0; i < lines.size(); i += 1000) {
      const std::string part = lines.substr(i, 1000);
      ASSERT_EQ(::write(ends[1], part.data(), part.size()), static_cast<ssize_t>(part.size()));
    }
    ::close(ends[1]);
  });
  Task run;
  run.options.corpus.format = CorpusFormat::jsonl;
  const std::vector<uint32_t> ids = run.ids(std::vector<std::string>{"-"});
  feeder.join();
  ::dup2(saved, STDIN_FILENO);
  ::close(saved);
  EXPECT_EQ(ids, expected_ids(documents));
  EXPECT_FALSE(run.result.totals.bytes_total.has_value());
}

TEST(Tokenize, SeparatorsAreFoundFromLeftToRight) {
  Task run;
  run.options.corpus.separator = "\n\n";
  run.output.overwrite = true;
  EXPECT_EQ(run.ids("a.txt", "one\n\n\ntwo\n\n\n\n  \n\nthree\n"), expected_ids({"one", "\ntwo", "three\n"}));
  EXPECT_EQ(run.result.totals.empty_documents, 2u);
  run.options.corpus.separator = "<|endoftext|>";
  EXPECT_EQ(run.ids("a.txt", "<|endoftext|>one<|endoftext|>two<|endoftext|>"), expected_ids({"one", "two"}));
}

// Overlapping occurrences across the edges of blocks are cut as if the text were in one piece.
TEST(Tokenize, SeparatorsAcrossBlocks) {
  std::string text;
  for (size_t i = 0; text.size() < (size_t{5} << 20); ++i) text.append("x").append(i % 7, '\n');
  std::vector<std::string> documents;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find("\n\n", begin), text.size());
    if (text.find_first_not_of('\n', begin) < end) documents.push_back(text.substr(begin, end - begin));
    begin = end + 2;
  }
  Task run;
  run.options.corpus.separator = "\n\n";
  EXPECT_TRUE(run.ids("a.txt", text) == expected_ids(documents));
}

TEST(Tokenize, ATextMayBeginAsBzip2Does) {
  Task run;
  run.output.overwrite = true;
  for (const std::string text : {"BZh9 is how it begins", "BZh91AY", "BZh01AY&SY text"}) {
    EXPECT_EQ(run.ids("a.txt", text), expected_ids({text})) << text;
  }
}

TEST(Tokenize, FieldCanBeChosen) {
  Task run;
  run.options.corpus.field = "content";
  run.output.overwrite = true;
  EXPECT_EQ(run.ids("a.json", jsonl({"one", "two"}, "content")), expected_ids({"one", "two"}));
  EXPECT_EQ(run.ids("b.jsonl", "\n{\"content\":\"\"}\r\n   \n{\"content\":\"a\\u0000\\u20ac\"}\n"),
            expected_ids({std::string("a\0\xe2\x82\xac", 5)}));
  EXPECT_EQ(run.result.totals.empty_documents, 1u);
}

TEST(Tokenize, MalformedInputsNameFileAndPlace) {
  const std::string good = jsonl(some_documents(10));
  const std::string text = join(some_documents(200), " ");
  struct Case {
    std::string name, content, reason;
  };
  const auto flipped = [](std::string bytes) {
    bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 0x55);
    return bytes;
  };
  const std::vector<Case> cases{
      {"a.jsonl", good + "{\"text\": \"never ends\n" + good, "a.jsonl:11: this line is not valid JSON"},
      {"a.jsonl", good + "\n\nnull\n", "a.jsonl:13: this line is not a JSON object"},
      {"a.jsonl", "[\"text\"]\n", "a.jsonl:1: this line is not a JSON object"},
      {"a.jsonl", "just text\n", "a.jsonl:1: this line is not valid JSON"},
      {"a.jsonl", "{\"text\": \"one\"} {\"text\": \"two\"}\n", "a.jsonl:1: this line is not valid JSON"},
      {"a.jsonl", "{\"text\": \"bad \xff byte\"}\n", "a.jsonl:1: this line is not valid JSON"},
      {"a.jsonl", "{\"text\": \"lone \\ud800 surrogate\"}\n", "a.jsonl:1: this line is not valid JSON"},
      {"a.jsonl", std::string(3000, '['), "a.jsonl:1: this line is not valid JSON"},
      {"a.jsonl", "{\"text\": 5}\n", "field \"text\" is not a string"},
      {"a.jsonl", "{\"text\": null}\n", "field \"text\" is not a string"},
      {"a.jsonl", "{\"body\": \"x\", \"url\": \"y\"}\n", "no field \"text\" among \"body\", \"url\""},
      {"a.jsonl", "{}\n", "no field \"text\" among none"},
      {"a.jsonl", "{\n  \"text\": \"over several lines\"\n}\n", "a.jsonl:1: "},
      {"a.jsonl.gz", gzip(good + "oops\n"), "a.jsonl.gz:11: "},
      {"cut.gz", gzip(text).substr(0, 1000), "cut.gz: the gzip data is cut off"},
      {"end.gz", gzip(text).substr(0, gzip(text).size() - 1), "end.gz: the gzip data is cut off"},
      {"bad.gz", flipped(gzip(text)), "bad.gz: the gzip data is damaged"},
      {"more.gz", gzip(text) + "more", "more.gz: the gzip data is damaged"},
      {"cut.zst", zstd(text).substr(0, 1000), "cut.zst: the zstd data is cut off"},
      {"end.zst", zstd(text).substr(0, zstd(text).size() - 1), "end.zst: the zstd data is cut off"},
      {"more.zst", zstd(text) + "more", "more.zst: the zstd data is damaged"},
      {"a.jsonl.bz2", bzip2(good + "oops\n"), "a.jsonl.bz2:11: "},
      {"cut.bz2", bzip2(text).substr(0, 1000), "cut.bz2: the bzip2 data is cut off"},
      {"end.bz2", bzip2(text).substr(0, bzip2(text).size() - 1), "end.bz2: the bzip2 data is cut off"},
      {"bad.bz2", flipped(bzip2(text)), "bad.bz2: the bzip2 data is damaged"},
      {"more.bz2", bzip2(text) + "more", "more.bz2: the bzip2 data is damaged"},
      {"half.bz2", bzip2(text) + bzip2(text).substr(0, 3), "half.bz2: the bzip2 data is cut off"},
      {"a.parquet", "PAR1....", "Parquet"},
      {"utf16.txt", std::string("\xff\xfeh\0i\0", 6), "UTF-16"},
      {"empty.txt", "", "no document with text"},
      {"blank.txt", "\n \t\n", "no document with text"},
      {"empty.jsonl", "\n\n", "no document with text"},
      {"blank.jsonl", "{\"text\": \" \"}\n", "no document with text"},
      {"empty.gz", gzip(""), "no document with text"},
      {"empty.bz2", bzip2(""), "no document with text"},
  };
  for (const Case& bad : cases) {
    SCOPED_TRACE(bad.reason);
    Task run;
    run.options.workers = 2;
    const Error error = run.error(bad.name, bad.content);
    EXPECT_EQ(error.code(), ExitCode::data);
    EXPECT_TRUE(contains(error.what(), bad.reason)) << error.what();
    EXPECT_TRUE(!fs::exists(run.output.folder) || fs::is_empty(run.output.folder)) << "something was left behind";
  }
}

// Of two bad lines in different blocks the first is reported, whichever worker is faster.
TEST(Tokenize, TheFirstErrorIsReported) {
  const std::string good = jsonl(some_documents(4000));
  for (int i = 0; i < 5; ++i) {
    Task run;
    run.options.workers = 4;
    const Error error = run.error("a.jsonl", good + "{\n" + good + "}\n");
    EXPECT_TRUE(contains(error.what(), "a.jsonl:4001: ")) << error.what();
  }
}

TEST(Tokenize, MissingInputsAndBadOptions) {
  Task run;
  const auto code = [&](const std::vector<std::string>& inputs) { return error_of([&] { run.ids(inputs); }).code(); };
  EXPECT_EQ(code({(run.folder / "none.txt").string()}), ExitCode::data);
  EXPECT_EQ(code({run.folder.path().string()}), ExitCode::data);
  EXPECT_EQ(code({}), ExitCode::usage);
  EXPECT_EQ(code({"-", "-"}), ExitCode::usage);
  EXPECT_FALSE(fs::exists(run.output.folder));
  run.options.corpus = {.format = CorpusFormat::jsonl, .separator = "x"};
  write_file(run.folder / "a.txt", "x");
  EXPECT_EQ(code({run.folder / "a.txt"}), ExitCode::usage);
}

TEST(Tokenize, LongDocumentsAreRefused) {
  Task run;
  run.options.corpus.max_document_bytes = 1000;
  run.options.corpus.separator = "\f";
  const Error error = run.error("a.txt", std::string(500, 'x') + "\f" + std::string(1001, 'y'));
  EXPECT_EQ(error.code(), ExitCode::data);
  EXPECT_TRUE(contains(error.what(), "longer than 1000")) << error.what();
  EXPECT_EQ(run.ids("b.txt", std::string(999, 'x') + "\f" + std::string(999, 'y')).size(), 2000u);
}

TEST(Tokenize, ReportsProgress) {
  Task run;
  std::vector<TokenizeProgress> seen;
  run.options.progress_seconds = 0;
  run.options.progress = [&](const TokenizeProgress& progress) { seen.push_back(progress); };
  const std::string lines = jsonl(some_documents(4000));
  run.ids("a.jsonl", lines);
  ASSERT_GE(seen.size(), 3u);
  for (size_t i = 1; i < seen.size(); ++i) {
    EXPECT_GE(seen[i].bytes_read, seen[i - 1].bytes_read);
    EXPECT_GE(seen[i].tokens, seen[i - 1].tokens);
  }
  EXPECT_LT(seen.front().bytes_read, lines.size());
  EXPECT_EQ(seen.back().bytes_read, lines.size());
  EXPECT_EQ(seen.back().documents, 4000u);
  EXPECT_EQ(seen.back().tokens, run.result.shards.tokens);
}

}  // namespace
}  // namespace t6::data
