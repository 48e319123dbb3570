// Token shards and the patterns that name them: refused with exit code 3, or every id is what lies in the file.
#include <cstring>

#include "base/child.h"
#include "base/io.h"
#include "data/hdf5_tokens.h"
#include "data/shard.h"
#include "fuzz/fuzz_target.h"

namespace t6::fuzz {
namespace {

using data::TokenShard;
constexpr uint32_t kVocabulary = 50257;
constexpr uint64_t kMostRead = 65536;  // tokens of a shard

void read_all(const TokenShard& shard, std::string_view bytes, bool is_bin) {
  const uint64_t count = std::min(shard.size(), kMostRead);
  std::vector<uint32_t> ids(count);
  if (!accepts({ExitCode::data}, [&] { shard.read(std::span(ids), 0); })) return;
  for (size_t i = 0; i < count; ++i) require(ids[i] < kVocabulary, "id {} came through", ids[i]);
  if (is_bin) {
    require(data::kBinHeaderBytes + shard.size() * shard.width() == bytes.size(), "{} tokens in {} bytes", shard.size(),
            bytes.size());
    for (size_t i = 0; i < count; ++i) {
      uint32_t id = 0;
      std::memcpy(&id, bytes.data() + data::kBinHeaderBytes + i * shard.width(), shard.width());
      require(id == ids[i], "token {} is {}, the file has {}", i, ids[i], id);
    }
  }
  std::vector<int32_t> last(1);
  accepts({ExitCode::data}, [&] { shard.read(std::span(last), shard.size() - 1); });
  accepts({ExitCode::data}, [&] {
    for (const uint64_t start : shard.document_offsets()) require(start < shard.size(), "a document at {}", start);
  });
}

// 'r': the input as it is. Otherwise the first 13 bytes are a flag and the header's start, and what follows are ids;
// with an even flag the header is made right.
void run_bin(std::string_view input) {
  static MemoryFile file;
  std::string bytes(input);
  if (input.size() > 13 && input[0] != 'r') {
    bytes.assign(data::kBinHeaderBytes, '\0');
    std::memcpy(bytes.data(), input.data() + 1, 12);
    bytes += input.substr(13);
    if (input[0] % 2 == 0) {
      const bool narrow = input[0] % 4 == 0;
      const std::array<int32_t, 3> header{narrow ? data::kBin16Magic : data::kBin32Magic,
                                          narrow ? data::kBin16Version : data::kBin32Version,
                                          static_cast<int32_t>((input.size() - 13) / (narrow ? 2 : 4))};
      std::memcpy(bytes.data(), header.data(), sizeof(header));
    }
  }
  std::optional<TokenShard> shard;
  if (accepts({ExitCode::data}, [&] { shard = TokenShard::open(file.hold(bytes), kVocabulary); })) {
    read_all(*shard, bytes, true);
  }
}

void run_hdf5(std::string_view input) {
  static MemoryFile file;
  static uint64_t ended = 0;
  std::optional<TokenShard> shard;
  try {
    shard = TokenShard::open(file.hold(input), kVocabulary);
  } catch (const Error& error) {
    require(error.code() == ExitCode::data, "exit code {}: {}", static_cast<int>(error.code()), error.what());
    if (std::string_view(error.what()).find("in a process of its own") != std::string_view::npos) {
      find("shard_hdf5")->summary = fmt::format("{} inputs ended the child process, and nothing else", ++ended);
    }
    return;
  }
  read_all(*shard, input, false);
}

// What a child may say of a file of this size that was taken over: nothing outside the file is taken from it.
void run_hdf5_told(std::string_view input) {
  constexpr uint64_t kFileBytes = 100'000;
  const std::optional<data::Hdf5Tokens> told = data::parse_told(std::string(input), kFileBytes);
  if (!told) return;
  const auto require_inside = [](const char* what, uint64_t offset, uint64_t count, uint64_t width) {
    require(offset <= kFileBytes && count <= (kFileBytes - offset) / width, "{}: {} of {} bytes at {}", what, count,
            width, offset);
  };
  require(told->width == 2 || told->width == 4, "tokens of {} bytes", told->width);
  require_inside("tokens", told->tokens_offset, told->token_count, told->width);
  require_inside("documents", told->documents_offset, told->document_count, 8);
  const std::optional<data::Hdf5Tokens> again = data::parse_told(data::to_told(*told), kFileBytes);
  require(again && again->token_count == told->token_count && again->vocabulary == told->vocabulary &&
              again->source == told->source,
          "told again it is something else");
}

std::vector<std::string> hdf5_told_seeds() {
  return {data::to_told({.tokens_offset = 2048,
                         .token_count = 9,
                         .documents_offset = 4096,
                         .document_count = 2,
                         .vocabulary = 50257,
                         .end_of_text = 50256,
                         .tokenizer_hash = "0123456789abcdef",
                         .source = "a"}),
          R"({"tokens":[99990,5,2],"documents":[0,0],"tokenizer_hash":"","source":""})",
          R"({"tokens":[99991,5,2],"documents":[0,0],"tokenizer_hash":"","source":""})",
          R"({"tokens":[1,18446744073709551615,4],"documents":[-1,1e30],"tokenizer_hash":5,"source":[]})"};
}

void run_patterns(std::string_view input) {
  static const std::filesystem::path folder = [] {
    const std::filesystem::path made = scratch_folder() / "shards";
    for (const char* name : {"a_000000.bin", "a_000001.bin", "b.h5", "[x].bin", "sub/c.bin", "sub/deep/d.bin"}) {
      std::filesystem::create_directories((made / name).parent_path());
      io::File::create(made / name).write_all(std::string_view("x"));
    }
    return made;
  }();
  // Dots would lead out of the folder, to whatever the machine has.
  if (input.find('.') != std::string_view::npos || input.find('\0') != std::string_view::npos) return;
  std::vector<std::string> patterns;
  for (const std::string_view piece : pieces_of(input, 1))
    patterns.push_back((folder / "").string() + std::string(piece));
  accepts({ExitCode::data}, [&] {
    for (const auto& path : data::expand_globs(patterns)) {
      require(path.string().starts_with(folder.string()), "{} is elsewhere", path.string());
    }
  });
}

std::string header(char flag, int32_t magic, int32_t version, int32_t count, std::string_view ids) {
  std::string text(13, flag);
  std::memcpy(text.data() + 1, &magic, 4);
  std::memcpy(text.data() + 5, &version, 4);
  std::memcpy(text.data() + 9, &count, 4);
  return text + std::string(ids);
}

std::vector<std::string> bin_seeds() {
  using namespace std::string_view_literals;
  constexpr std::string_view kIds = "\1\0\2\0\0\0\0\0\3\0\0\0"sv;
  std::vector<std::string> seeds = {header(1, data::kBin16Magic, 1, 6, kIds),
                                    header(1, data::kBin32Magic, 7, 3, kIds),
                                    header(0, 0, 0, 0, kIds),
                                    header(2, 0, 0, 0, kIds),
                                    header(1, data::kBin16Magic, 2, 6, kIds),
                                    header(1, data::kBin32Magic, 7, -1, kIds),
                                    "r",
                                    "r\x1f\x8b",
                                    "rPAR1",
                                    "{\"text\": 1}"};
  std::string whole(data::kBinHeaderBytes + 4, '\0');
  std::memcpy(whole.data(), header('r', data::kBin16Magic, 1, 2, "").data() + 1, 12);
  seeds.push_back(whole);
  return seeds;
}

std::string hdf5_file(data::Hdf5Tokens layout, uint32_t first_id) {
  const std::filesystem::path path = scratch_folder() / "seed.h5";
  std::filesystem::remove(path);
  {
    const io::File file = data::create_hdf5_tokens(path, layout);
    io::File writer = file.duplicate();
    std::vector<uint16_t> ids(layout.token_count * layout.width / 2,
                              static_cast<uint16_t>(layout.width == 2 ? first_id : 0));
    writer.write_at(std::as_bytes(std::span(ids)), layout.tokens_offset);
    std::vector<uint64_t> starts(layout.document_count);
    for (size_t i = 0; i < starts.size(); ++i) starts[i] = i * 3;
    if (!starts.empty()) writer.write_at(std::as_bytes(std::span(starts)), layout.documents_offset);
  }
  return io::read_text(path);
}

std::vector<std::string> hdf5_seeds() {
  return {hdf5_file({.token_count = 9,
                     .width = 2,
                     .document_count = 3,
                     .vocabulary = 50257,
                     .end_of_text = 50256,
                     .tokenizer_hash = "0123456789abcdef",
                     .source = "seed"},
                    7),
          hdf5_file({.token_count = 5, .width = 4, .document_count = 0, .vocabulary = {}, .end_of_text = {}}, 7),
          hdf5_file({.token_count = 5, .width = 2, .document_count = 0, .vocabulary = 70000, .end_of_text = {}}, 65000),
          source_file("tests/data/hostile/crash.h5")};
}

std::vector<std::string> pattern_seeds() {
  return {"*",   "a_00000?*", "[[]x]*",       "{a_,b}*",    "sub/*/d*", "**/*", "*\x1e*",
          "\\*", "[!a]*",     "[[:alpha:]]*", "{a,{b,c}}*", "~root",    "sub",  "{a,b}{a,b}{a,b}{a,b}{a,b}"};
}

Registered bin_target({"shard_bin", "token shards, .bin", &run_bin, &bin_seeds, 2048});
Registered hdf5_told_target({"shard_hdf5_told", "what that child tells", &run_hdf5_told, &hdf5_told_seeds, 2048});
Registered hdf5_target({"shard_hdf5", "token shards, .h5, in their child process", &run_hdf5, &hdf5_seeds, 8192, true});
Registered patterns_target({"shard_patterns", "patterns of shard files", &run_patterns, &pattern_seeds, 256});

}  // namespace
}  // namespace t6::fuzz
