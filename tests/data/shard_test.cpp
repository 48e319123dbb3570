#include "data/shard.h"

#include <gtest/gtest.h>
#include <hdf5.h>
#include <sys/stat.h>

#include <algorithm>

#include "shard_files.h"

namespace t6::data {
namespace {

using testing::bin16;
using testing::bin32;
using testing::bin_bytes;
using testing::contains;
using testing::error_of;
using testing::some_ids;
using testing::TempFolder;
using testing::write_file;

constexpr uint32_t kVocabulary = 50000;

// An HDF5 shard written by the library itself, with every choice a foreign writer may make.
struct Hdf5Spec {
  std::vector<uint32_t> ids = some_ids(100, kVocabulary);
  std::vector<uint64_t> documents{0, 10, 50};
  hid_t type = H5T_STD_U16LE;
  hid_t documents_type = H5T_STD_U64LE;
  std::string tokens_name = "tokens";
  enum { contiguous, chunked, compact, gzip, external } layout = contiguous;
  bool two_dimensional = false;
  bool scalar = false;
  bool write_tokens = true;
  bool with_documents = true;
  hsize_t user_block = 0;
  std::vector<std::pair<std::string, int64_t>> integers = {};
  std::vector<std::pair<std::string, std::string>> strings = {};
  bool variable_strings = false;
  enum { none, soft, outside } link = none;
  bool tokens_is_group = false;
};

void write_hdf5(const fs::path& path, const Hdf5Spec& spec) {
  const hid_t creation = H5Pcreate(H5P_FILE_CREATE);
  if (spec.user_block > 0) H5Pset_userblock(creation, spec.user_block);
  const hid_t file = H5Fcreate(path.c_str(), H5F_ACC_TRUNC, creation, H5P_DEFAULT);
  ASSERT_GE(file, 0);
  H5Pclose(creation);
  if (spec.tokens_is_group) {
    H5Gclose(H5Gcreate2(file, spec.tokens_name.c_str(), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
  } else {
    hsize_t size[2]{spec.ids.size(), 1};
    const hid_t space =
        spec.scalar ? H5Screate(H5S_SCALAR) : H5Screate_simple(spec.two_dimensional ? 2 : 1, size, nullptr);
    const hid_t properties = H5Pcreate(H5P_DATASET_CREATE);
    const hsize_t chunk[2]{std::max<hsize_t>(1, spec.ids.size() / 4), 1};
    if (spec.layout == Hdf5Spec::chunked || spec.layout == Hdf5Spec::gzip) H5Pset_chunk(properties, 1, chunk);
    if (spec.layout == Hdf5Spec::gzip) H5Pset_deflate(properties, 6);
    if (spec.layout == Hdf5Spec::compact) H5Pset_layout(properties, H5D_COMPACT);
    if (spec.layout == Hdf5Spec::external)
      H5Pset_external(properties, (path.string() + ".raw").c_str(), 0, H5F_UNLIMITED);
    const std::string name = spec.link == Hdf5Spec::none ? spec.tokens_name : "elsewhere";
    const hid_t data = H5Dcreate2(file, name.c_str(), spec.type, space, H5P_DEFAULT, properties, H5P_DEFAULT);
    ASSERT_GE(data, 0);
    if (spec.write_tokens && !spec.ids.empty()) {
      ASSERT_GE(H5Dwrite(data, H5T_NATIVE_UINT32, H5S_ALL, H5S_ALL, H5P_DEFAULT, spec.ids.data()), 0);
    }
    H5Dclose(data);
    H5Pclose(properties);
    H5Sclose(space);
  }
  if (spec.link == Hdf5Spec::soft) H5Lcreate_soft("/elsewhere", file, "tokens", H5P_DEFAULT, H5P_DEFAULT);
  if (spec.link == Hdf5Spec::outside)
    H5Lcreate_external("/etc/hostname", "/x", file, "tokens", H5P_DEFAULT, H5P_DEFAULT);
  if (spec.with_documents) {
    const hsize_t n = spec.documents.size();
    const hid_t space = H5Screate_simple(1, &n, nullptr);
    const hid_t data =
        H5Dcreate2(file, "doc_offsets", spec.documents_type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    if (n > 0) H5Dwrite(data, H5T_NATIVE_UINT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, spec.documents.data());
    H5Dclose(data);
    H5Sclose(space);
  }
  const hid_t scalar = H5Screate(H5S_SCALAR);
  for (const auto& [name, value] : spec.integers) {
    const hid_t attribute = H5Acreate2(file, name.c_str(), H5T_STD_I64LE, scalar, H5P_DEFAULT, H5P_DEFAULT);
    H5Awrite(attribute, H5T_NATIVE_INT64, &value);
    H5Aclose(attribute);
  }
  for (const auto& [name, value] : spec.strings) {
    const hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, spec.variable_strings ? H5T_VARIABLE : value.size() + 1);
    const hid_t attribute = H5Acreate2(file, name.c_str(), type, scalar, H5P_DEFAULT, H5P_DEFAULT);
    const char* text = value.c_str();
    H5Awrite(attribute, type, spec.variable_strings ? static_cast<const void*>(&text) : text);
    H5Aclose(attribute);
    H5Tclose(type);
  }
  H5Sclose(scalar);
  ASSERT_GE(H5Fclose(file), 0);
}

void expect_reads_back(const fs::path& path, const std::vector<uint32_t>& ids, uint32_t vocabulary) {
  const TokenShard shard = TokenShard::open(path, vocabulary);
  ASSERT_EQ(shard.size(), ids.size());
  std::vector<uint32_t> unsigned_ids(ids.size());
  shard.read(unsigned_ids, 0);
  EXPECT_EQ(unsigned_ids, ids);
  std::vector<int32_t> middle(ids.size() / 2);
  shard.read(middle, ids.size() / 4);
  EXPECT_TRUE(std::equal(middle.begin(), middle.end(), ids.begin() + static_cast<ptrdiff_t>(ids.size() / 4),
                         [](int32_t a, uint32_t b) { return static_cast<uint32_t>(a) == b; }));
  shard.read(std::span<int32_t>(), ids.size());
}

TEST(TokenShard, ReadsEveryForm) {
  TempFolder folder;
  const std::vector<uint32_t> small = some_ids(30001, 65536), large = some_ids(30001, 128256);
  write_file(folder / "a.bin", bin16(small));
  expect_reads_back(folder / "a.bin", small, 65536);
  write_file(folder / "b.bin", bin32(large));
  expect_reads_back(folder / "b.bin", large, 128256);
  for (hsize_t user_block : {0, 512}) {
    write_hdf5(folder / "c.h5", {.ids = small, .user_block = user_block});
    expect_reads_back(folder / "c.h5", small, 65536);
  }
  write_hdf5(folder / "d.h5", {.ids = large, .type = H5T_STD_U32LE, .with_documents = false});
  expect_reads_back(folder / "d.h5", large, 128256);
  write_file(folder / "one.bin", bin16({7}));
  expect_reads_back(folder / "one.bin", {7}, 8);
}

// Files that crash the HDF5 library, or keep it busy for ever, cost an error and not the process.
TEST(TokenShard, SurvivesFilesThatTheHdf5LibraryDoesNot) {
  for (const char* name : {"crash.h5", "endless.h5"}) {
    const fs::path path = fs::path(T6_SOURCE_DIR) / "tests/data/hostile" / name;
    const Error error = error_of([&] { TokenShard::open(path, kVocabulary); });
    EXPECT_EQ(error.code(), ExitCode::data);
    EXPECT_TRUE(contains(error.what(), path.string())) << error.what();
#if H5_VERS_MAJOR == 1 && H5_VERS_MINOR == 10 && H5_VERS_RELEASE == 8 && !defined(__SANITIZE_ADDRESS__)
    EXPECT_TRUE(contains(error.what(), name[0] == 'c' ? "it crashed (Segmentation fault)" : "its processor time"))
        << error.what();
#endif
  }
}

TEST(TokenShard, KnowsWhatAnHdf5ShardSays) {
  TempFolder folder;
  for (bool variable : {false, true}) {
    write_hdf5(folder / "a.h5",
               {.integers = {{"vocabulary", 50000}, {"end_of_text", 3}, {"token_count", 100}, {"document_count", 3}},
                .strings = {{"tokenizer_hash", "abc123"}, {"source", "a test"}},
                .variable_strings = variable});
    const TokenShard shard = TokenShard::open(folder / "a.h5", kVocabulary);
    EXPECT_EQ(shard.tokenizer_hash(), "abc123");
    EXPECT_EQ(shard.document_offsets(), (std::vector<uint64_t>{0, 10, 50}));
    EXPECT_EQ(shard.width(), 2u);
  }
}

struct BadShard {
  std::string name;
  std::function<void(const fs::path&)> make;
  std::string reason;  // part of the message
};

std::string with(std::string bytes, size_t position, const std::string& part) {
  return bytes.replace(position, part.size(), part);
}

std::vector<BadShard> bad_shards() {
  const std::vector<uint32_t> ids = some_ids(20000, kVocabulary);
  const std::string good = bin16(ids), wide = bin32(ids);
  std::vector<BadShard> all;
  const auto bytes = [&](const std::string& name, const std::string& content, const std::string& reason) {
    all.push_back({name, [content](const fs::path& path) { write_file(path, content); }, reason});
  };
  const auto hdf5 = [&](const std::string& name, Hdf5Spec spec, const std::string& reason) {
    all.push_back({name, [spec](const fs::path& path) { write_hdf5(path, spec); }, reason});
  };
  const auto bad_id = [&](size_t position, uint32_t id, bool is_wide) {
    std::vector<uint32_t> changed = ids;
    changed[position] = id;
    return is_wide ? bin32(changed) : bin16(changed);
  };

  all.push_back({"missing", [](const fs::path&) {}, "no such file"});
  all.push_back({"folder", [](const fs::path& path) { fs::create_directory(path); }, "a folder"});
  all.push_back({"device", [](const fs::path& path) { fs::create_symlink("/dev/zero", path); }, "a device"});
  all.push_back({"pipe", [](const fs::path& path) { ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0); }, "a device"});
  all.push_back(
      {"dangling link", [](const fs::path& path) { fs::create_symlink("/nowhere/x", path); }, "no such file"});
  bytes("empty", "", "empty");
  bytes("one byte", "x", "header is cut off");
  bytes("three bytes", good.substr(0, 3), "header is cut off");
  bytes("magic alone", good.substr(0, 4), "header is cut off");
  bytes("half a header", good.substr(0, 512), "header is cut off");
  bytes("header less one byte", good.substr(0, 1023), "header is cut off");
  bytes("header alone", good.substr(0, 1024), "cut off");
  bytes("last byte missing", good.substr(0, good.size() - 1), "cut off");
  bytes("last token missing", good.substr(0, good.size() - 2), "cut off");
  bytes("half the tokens", good.substr(0, good.size() / 2), "cut off");
  bytes("wide, last byte missing", wide.substr(0, wide.size() - 1), "cut off");
  bytes("one byte more", good + "x", "left over");
  bytes("a shard twice", good + good, "left over");
  bytes("zeros", std::string(4096, '\0'), "magic number");
  bytes("ones", std::string(4096, '\xff'), "magic number");
  bytes("wrong magic", with(good, 0, "\x09"), "magic number");
  bytes("big-endian magic", with(good, 0, std::string("\x01\x34\xd7\x08", 4)), "big-endian");
  bytes("no header", good.substr(1024), "magic number");
  bytes("gzip", with(good, 0, "\x1f\x8b"), "compressed");
  bytes("zstd", with(good, 0, "\x28\xb5\x2f\xfd"), "compressed");
  bytes("parquet", with(good, 0, "PAR1"), "Parquet");
  bytes("json", "{\"text\": \"not tokens\"}", "JSON");
  bytes("version 0", bin_bytes(20240520, 0, 20000, 2, ids), "version 1");
  bytes("version 2", bin_bytes(20240520, 2, 20000, 2, ids), "version 1");
  bytes("version 7 with uint16", bin_bytes(20240520, 7, 20000, 2, ids), "version 1");
  bytes("version 1 with uint32", bin_bytes(20240801, 1, 20000, 4, ids), "version 7");
  bytes("version negative", bin_bytes(20240801, -7, 20000, 4, ids), "version 7");
  bytes("count 0", bin_bytes(20240520, 1, 0, 2, {}), "token count");
  bytes("count 0 with tokens", bin_bytes(20240520, 1, 0, 2, ids), "token count");
  bytes("count -1", bin_bytes(20240520, 1, -1, 2, ids), "token count");
  bytes("count smallest", bin_bytes(20240520, 1, INT32_MIN, 2, ids), "token count");
  bytes("count largest", bin_bytes(20240801, 7, INT32_MAX, 4, ids), "cut off");
  bytes("count one more", bin_bytes(20240520, 1, 20001, 2, ids), "cut off");
  bytes("count one less", bin_bytes(20240520, 1, 19999, 2, ids), "left over");
  bytes("uint32 tokens under the uint16 header", bin_bytes(20240520, 1, 20000, 4, ids), "left over");
  bytes("uint16 tokens under the uint32 header", bin_bytes(20240801, 7, 20000, 2, ids), "cut off");
  bytes("first id too large", bad_id(0, 50000, false), "token 0 (byte 1024) has id 50000");
  bytes("last id too large", bad_id(19999, 65535, false), "token 19999 (byte 41022) has id 65535");
  bytes("wide id too large", bad_id(19999, 0xffffffff, true), "token 19999 (byte 81020) has id 4294967295");
  bytes("wide id with the sign bit", bad_id(0, 0x80000001, true), "id 2147483649");

  hdf5("h5 without tokens", {.tokens_name = "ids"}, "no dataset /tokens");
  hdf5("h5 tokens is a group", {.tokens_is_group = true}, "/tokens is not a readable dataset");
  hdf5("h5 signed", {.type = H5T_STD_I32LE}, "wrong type");
  hdf5("h5 big-endian", {.type = H5T_STD_U16BE}, "wrong type");
  hdf5("h5 64 bits", {.type = H5T_STD_U64LE}, "wrong type");
  hdf5("h5 8 bits", {.ids = {1, 2, 3}, .type = H5T_STD_U8LE}, "wrong type");
  hdf5("h5 floats", {.type = H5T_IEEE_F32LE}, "wrong type");
  hdf5("h5 chunked", {.layout = Hdf5Spec::chunked}, "not stored contiguously");
  hdf5("h5 gzip", {.layout = Hdf5Spec::gzip}, "not stored contiguously");
  hdf5("h5 compact", {.layout = Hdf5Spec::compact}, "not stored contiguously");
  hdf5("h5 external data", {.layout = Hdf5Spec::external}, "not stored contiguously");
  hdf5("h5 two-dimensional", {.two_dimensional = true}, "not one-dimensional");
  hdf5("h5 scalar", {.ids = {1}, .scalar = true}, "not one-dimensional");
  hdf5("h5 empty", {.ids = {}, .documents = {}}, "/tokens is empty");
  hdf5("h5 never written", {.write_tokens = false}, "never written");
  hdf5("h5 soft link", {.link = Hdf5Spec::soft}, "link to another place");
  hdf5("h5 external link", {.link = Hdf5Spec::outside}, "link to another place");
  hdf5("h5 id too large", {.ids = {1, 2, 60000}, .documents = {0}}, "token 2 (byte");
  hdf5("h5 more documents than tokens", {.ids = {1, 2}, .documents = {0, 1, 2}}, "3 documents for 2 tokens");
  hdf5("h5 documents of 32 bits", {.documents_type = H5T_STD_U32LE}, "/doc_offsets has the wrong type");
  hdf5("h5 vocabulary larger than the model's", {.integers = {{"vocabulary", 50001}}}, "tokenizer has 50001 ids");
  hdf5("h5 vocabulary negative", {.integers = {{"vocabulary", -1}}}, "attribute vocabulary");
  hdf5("h5 vocabulary a string", {.strings = {{"vocabulary", "50000"}}}, "attribute vocabulary");
  hdf5("h5 wrong token count", {.integers = {{"token_count", 99}}}, "token_count says 99");
  hdf5("h5 wrong document count", {.integers = {{"document_count", 4}}}, "document_count says 4");
  hdf5("h5 hash a number", {.integers = {{"tokenizer_hash", 5}}}, "attribute tokenizer_hash");
  hdf5("h5 endless source", {.strings = {{"source", std::string(5000, 'x')}}}, "longer than 4096");
  hdf5("h5 endless variable source", {.strings = {{"source", std::string(5000, 'x')}}, .variable_strings = true},
       "longer than 4096");
  for (double part : {0.02, 0.3, 0.9}) {
    all.push_back({fmt::format("h5 cut to {}", part),
                   [part, ids](const fs::path& path) {
                     write_hdf5(path, {.ids = ids});
                     fs::resize_file(path, static_cast<uintmax_t>(static_cast<double>(fs::file_size(path)) * part));
                   },
                   "cannot be opened as HDF5"});
  }
  bytes("h5 signature alone", std::string("\x89HDF\r\n\x1a\n", 8), "cannot be opened as HDF5");
  bytes("h5 signature and zeros", std::string("\x89HDF\r\n\x1a\n", 8) + std::string(5000, '\0'),
        "cannot be opened as HDF5");
  return all;
}

TEST(TokenShard, RejectsEveryBadShardWithFileAndReason) {
  const std::vector<BadShard> all = bad_shards();
  ASSERT_GE(all.size(), 60u);
  for (const BadShard& bad : all) {
    SCOPED_TRACE(bad.name);
    TempFolder folder;
    const fs::path path = folder / "some_shard_000042.bin";
    bad.make(path);
    const Error error = error_of([&] { TokenShard::open(path, kVocabulary); });
    EXPECT_EQ(error.code(), ExitCode::data);
    EXPECT_TRUE(contains(error.what(), path.string())) << error.what();
    EXPECT_TRUE(contains(error.what(), bad.reason)) << error.what();
    EXPECT_TRUE(contains(error.what(), "; ")) << "no hint: " << error.what();
  }
}

TEST(TokenShard, ChecksEveryIdWhenRead) {
  TempFolder folder;
  constexpr size_t kBad = 123456;  // between the blocks sampled on opening
  for (bool wide : {false, true}) {
    std::vector<uint32_t> ids = some_ids(1'000'000, kVocabulary);
    ids[kBad] = kVocabulary;
    write_file(folder / "a.bin", wide ? bin32(ids) : bin16(ids));
    const TokenShard shard = TokenShard::open(folder / "a.bin", kVocabulary);
    std::vector<int32_t> out(1025);
    shard.read(out, kBad - 1025);
    shard.read(out, kBad + 1);
    for (size_t offset : {kBad - 1024, kBad - 500, kBad}) {
      const Error error = error_of([&] { shard.read(out, offset); });
      EXPECT_EQ(error.code(), ExitCode::data);
      EXPECT_TRUE(contains(
          error.what(), fmt::format("token {} (byte {}) has id {}", kBad, 1024 + kBad * (wide ? 4 : 2), kVocabulary)))
          << error.what();
      EXPECT_TRUE(contains(error.what(), "a.bin")) << error.what();
    }
  }
}

TEST(TokenShard, AFileCutWhileInUseIsAnError) {
  TempFolder folder;
  const std::vector<uint32_t> ids = some_ids(100000, kVocabulary);
  write_file(folder / "a.bin", bin16(ids));
  const TokenShard shard = TokenShard::open(folder / "a.bin", kVocabulary);
  fs::resize_file(folder / "a.bin", 5000);
  std::vector<int32_t> out(1000);
  shard.read(out, 0);
  const Error error = error_of([&] { shard.read(out, 50000); });
  EXPECT_EQ(error.code(), ExitCode::data);
  EXPECT_TRUE(contains(error.what(), "now has 5000")) << error.what();
}

TEST(TokenShard, ReadingOutOfRangeIsACallersError) {
  TempFolder folder;
  write_file(folder / "a.bin", bin16(some_ids(100, 10)));
  const TokenShard shard = TokenShard::open(folder / "a.bin", 10);
  std::vector<int32_t> out(10);
  shard.read(out, 90);
  EXPECT_EQ(error_of([&] { shard.read(out, 91); }).code(), ExitCode::internal);
  EXPECT_EQ(error_of([&] { shard.read(out, ~uint64_t{0} - 3); }).code(), ExitCode::internal);
}

TEST(TokenShard, BadDocumentOffsetsAreNamed) {
  TempFolder folder;
  for (const std::vector<uint64_t>& documents : {std::vector<uint64_t>{0, 100}, {5, 5}, {7, 3}}) {
    write_hdf5(folder / "a.h5", {.documents = documents});
    const Error error = error_of([&] { TokenShard::open(folder / "a.h5", kVocabulary).document_offsets(); });
    EXPECT_EQ(error.code(), ExitCode::data);
    EXPECT_TRUE(contains(error.what(), "/doc_offsets[1]")) << error.what();
  }
}

TEST(ExpandGlobs, SortsAndInsistsOnMatches) {
  TempFolder folder;
  for (const char* name : {"b_2.bin", "b_10.bin", "b_1.bin", "a.bin"}) write_file(folder / name, bin16({1}));
  const auto expand = [&](std::vector<std::string> patterns) {
    for (std::string& pattern : patterns) pattern = (folder / pattern).string();
    return expand_globs(patterns);
  };
  EXPECT_EQ(expand({"b_*.bin", "a.bin"}),
            (std::vector<fs::path>{folder / "b_1.bin", folder / "b_10.bin", folder / "b_2.bin", folder / "a.bin"}));
  EXPECT_EQ(expand({"{a,b_2}.bin"}), (std::vector<fs::path>{folder / "a.bin", folder / "b_2.bin"}));
  Error error = error_of([&] { expand({"a.bin", "c_*.bin"}); });
  EXPECT_EQ(error.code(), ExitCode::data);
  EXPECT_TRUE(contains(error.what(), "c_*.bin")) << error.what();
  error = error_of([&] { expand({"no_such_folder/c_*.bin"}); });
  EXPECT_TRUE(contains(error.what(), "no file matches the data pattern")) << error.what();
  error = error_of([&] { expand({"b_*.bin", "b_1.bin"}); });
  EXPECT_EQ(error.code(), ExitCode::data);
  EXPECT_TRUE(contains(error.what(), "matches both")) << error.what();
  // 2^9 alternatives are expanded, 2^10 refused before the time that they take.
  std::string braces = "a.bin";
  for (int i = 0; i < 9; ++i) braces += "{,x}";
  EXPECT_EQ(expand({braces}), (std::vector<fs::path>{folder / "a.bin"}));
  error = error_of([&] { expand({braces + "{,x}"}); });
  EXPECT_EQ(error.code(), ExitCode::data);
  EXPECT_TRUE(contains(error.what(), "alternatives in braces")) << error.what();
}

TEST(ShardSet, OpensAllAndRefusesMixedTokenizers) {
  TempFolder folder;
  write_file(folder / "s_0.bin", bin16(some_ids(10, 100)));
  write_hdf5(folder / "s_1.h5", {.strings = {{"tokenizer_hash", "aaa"}}});
  write_hdf5(folder / "s_2.h5", {.strings = {{"tokenizer_hash", "aaa"}}});
  const std::vector<std::string> patterns{(folder / "s_*").string()};
  const ShardSet set = ShardSet::open(patterns, kVocabulary);
  EXPECT_EQ(set.size(), 3u);
  EXPECT_EQ(set.token_counts(), (std::vector<uint64_t>{10, 100, 100}));
  EXPECT_EQ(set.total_tokens(), 210u);
  write_hdf5(folder / "s_3.h5", {.strings = {{"tokenizer_hash", "bbb"}}});
  const Error error = error_of([&] { ShardSet::open(patterns, kVocabulary); });
  EXPECT_EQ(error.code(), ExitCode::data);
  EXPECT_TRUE(contains(error.what(), "bbb") && contains(error.what(), "aaa")) << error.what();
  EXPECT_EQ(error_of([] { ShardSet::open(std::vector<fs::path>{}, 10); }).code(), ExitCode::data);
}

}  // namespace
}  // namespace t6::data
