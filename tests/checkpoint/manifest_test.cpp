#include "checkpoint/manifest.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <span>

#include "base/error.h"
#include "base/io.h"

namespace t6::checkpoint {
namespace {

using nlohmann::json;

const std::string kHash = "0123456789abcdef0123456789abcdef";

Manifest example() {
  Manifest manifest;
  manifest.step = 1200;
  manifest.world = 2;
  manifest.files = {{"rank-00000.h5", 5000, kHash}, {"rank-00001.h5", 70, kHash}};
  manifest.tensors = {{"params/a", DType::f32, Shape{2, 3}, {{0, 0, 2, kHash}, {1, 2, 1, kHash}, {0, 3, 3, kHash}}},
                      {"params/b", DType::bf16, Shape{}, {{1, 0, 1, kHash}}}};
  manifest.scalars = {{"tokens", 18446744073709551615ull}, {"loss", 0.1}, {"tiny", 5e-324}};
  manifest.facts = {{"config", "abc"}, {"cpu", {{"name", "x"}}}};
  return manifest;
}

// The text with its hash made right again, as a hostile hand would.
std::string sign(std::string body) {
  const std::string hash = io::hash_bytes(std::as_bytes(std::span(body)));
  return body + "\"manifest_xxh3\": \"" + hash + "\"\n}\n";
}

// A well-signed manifest of the example after a change of its JSON.
std::string changed(const std::function<void(json&)>& change) {
  json root = json::parse(to_text(example()));
  root.erase("manifest_xxh3");
  change(root);
  std::string body = root.dump();
  body.back() = ',';
  return sign(body);
}

std::string complaint(const std::string& text) {
  try {
    parse_manifest(text, "DIR/manifest.json");
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::checkpoint);
    EXPECT_EQ(std::string(error.what()).rfind("DIR/manifest.json: ", 0), 0u) << error.what();
    return error.what();
  }
  return "";
}

TEST(Manifest, ComesBackAsItWas) {
  const Manifest manifest = example();
  const std::string text = to_text(manifest);
  const Manifest back = parse_manifest(text, "x");
  EXPECT_EQ(back.step, 1200);
  EXPECT_EQ(back.world, 2);
  EXPECT_EQ(back.files[1].name, "rank-00001.h5");
  EXPECT_EQ(back.bytes(), 5070u);
  EXPECT_EQ(back.tensors[0].shape, (Shape{2, 3}));
  ASSERT_EQ(back.tensors[0].parts.size(), 3u);
  EXPECT_EQ(back.tensors[0].parts[1].rank, 1);
  EXPECT_EQ(back.tensors[0].parts[2].begin, 3);
  EXPECT_EQ(back.tensors[0].parts[2].count, 3);
  EXPECT_EQ(back.tensors[0].parts[2].xxh3, kHash);
  EXPECT_EQ(back.xxh3, json::parse(text)["manifest_xxh3"]);
  EXPECT_EQ(back.tensors[1].dtype, DType::bf16);
  EXPECT_EQ(back.tensors[1].shape, Shape{});
  EXPECT_EQ(back.scalars, manifest.scalars);
  EXPECT_EQ(back.facts, manifest.facts);
  EXPECT_EQ(to_text(back), text);
  EXPECT_TRUE(json::accept(text));
  EXPECT_EQ(complaint(changed([](json&) {})), "") << "the control of the tests below";
}

TEST(Manifest, EveryFlippedBitAndEveryCutIsFound) {
  const std::string text = to_text(example());
  for (size_t i = 0; i < text.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string bad = text;
      bad[i] = static_cast<char>(bad[i] ^ (1 << bit));
      EXPECT_NE(complaint(bad), "") << "byte " << i << " bit " << bit;
    }
    EXPECT_NE(complaint(text.substr(0, i)), "") << "cut at " << i;
  }
  EXPECT_NE(complaint(text + "\n"), "");
}

TEST(Manifest, WellSignedNonsenseIsRefused) {
  const auto refused = [](const std::function<void(json&)>& change, const char* reason) {
    const std::string text = complaint(changed(change));
    EXPECT_NE(text.find(reason), std::string::npos) << "expected \"" << reason << "\", got \"" << text << "\"";
  };
  refused([](json& j) { j["extra"] = 1; }, "unknown key \"extra\"");
  refused([](json& j) { j.erase("step"); }, "step is missing");
  refused([](json& j) { j["version"] = 3; }, "version 3 is not known to this program, which reads 1 to 2");
  refused([](json& j) { j["version"] = 0; }, "version 0");
  refused([](json& j) { j["format"] = "other"; }, "format");
  for (const json& step : {json(-1), json(1.5), json("1"), json(18446744073709551615ull), json(nullptr)}) {
    refused([&](json& j) { j["step"] = step; }, "step: expected an integer");
  }
  refused([](json& j) { j["world"] = 0; }, "world");
  refused([](json& j) { j["world"] = 1 << 20; }, "world");
  refused([](json& j) { j["world"] = 3; }, "expected 3 files");
  refused([](json& j) { j["scalars"] = 1; }, "scalars: expected an object");
  refused([](json& j) { j["facts"] = json::array(); }, "facts: expected an object");
  refused([](json& j) { j["files"] = json::object(); }, "files: expected a list");
  for (const char* name : {"../rank-00000.h5", "/etc/passwd", "rank-00001.h5", "rank-0.h5", "", "rank-00000.h5/"}) {
    refused([&](json& j) { j["files"][0]["name"] = name; }, "expected the name rank-00000.h5");
  }
  refused([](json& j) { j["files"][0]["bytes"] = 0; }, "bytes");
  refused([](json& j) { j["files"][0]["xxh3"] = "0123"; }, "xxh3");
  refused([](json& j) { j["files"][0]["xxh3"] = std::string(32, 'G'); }, "xxh3");
  refused([](json& j) { j["files"][0] = 7; }, "expected an object");
  for (const char* name : {"../a", "/a", "a/", "a//b", "a/../../b", "", "a b", "a\tb", "a@0", "@"}) {
    refused([&](json& j) { j["tensors"][0]["name"] = name; }, "not a valid tensor name");
  }
  refused([](json& j) { j["tensors"][1]["name"] = "params/a"; }, "comes twice");
  refused([](json& j) { j["tensors"][0]["dtype"] = "f16"; }, "dtype \"f16\"");
  refused([](json& j) { j["tensors"][0]["name"] = std::string(231, 'a'); }, "not a valid tensor name");
  refused([](json& j) { j["tensors"][0]["parts"][1][0] = 2; }, "rank: expected an integer from 0 to 1");
  refused([](json& j) { j["tensors"][0]["shape"] = {2, 0}; }, "shape: expected an integer from 1");
  refused([](json& j) { j["tensors"][0]["shape"] = {1, 1, 1, 1, 1, 1}; }, "dimensions");
  refused([](json& j) { j["tensors"][0]["shape"] = {1ull << 40, 1ull << 40, 1ull << 40}; }, "larger than its file");
  refused([](json& j) { j["tensors"][0]["shape"] = {1251 + 17}; }, "larger than its files");  // together 5070 bytes
  refused([](json& j) { j["tensors"][0]["parts"][1][2] = 18; }, "larger than its file");      // 70 bytes
  refused([](json& j) { j["tensors"][0]["parts"][1][2] = int64_t{1} << 60; }, "larger than its file");
  refused([](json& j) { j["tensors"][0]["shape"] = 3; }, "shape: expected a list");
}

TEST(Manifest, PartsMakeUpTheirTensorExactly) {
  const auto refused = [](const std::function<void(json&)>& change, const char* reason) {
    const std::string text = complaint(changed([&](json& j) { change(j["tensors"][0]["parts"]); }));
    EXPECT_NE(text.find(reason), std::string::npos) << "expected \"" << reason << "\", got \"" << text << "\"";
  };
  refused([](json& parts) { parts.erase(0); }, "params/a: elements [0, 2) are in no part");
  refused([](json& parts) { parts.erase(1); }, "params/a: elements [2, 3) are in no part");
  refused([](json& parts) { parts.erase(2); }, "params/a: elements [3, 6) are in no part");
  refused([](json& parts) { parts.clear(); }, "params/a: elements [0, 6) are in no part");
  refused([](json& parts) { parts.push_back(parts[2]); }, "elements from 3 are in more than one part");
  refused([](json& parts) { parts[0][2] = 3; }, "elements from 2 are in more than one part");
  refused([](json& parts) { parts[1][1] = 1; }, "elements from 1 are in more than one part");
  refused([](json& parts) { parts[2][2] = 4; }, "has 6 elements, and its parts go up to 7");
  refused([](json& parts) { parts[2][2] = 2; }, "params/a: elements [5, 6) are in no part");
  refused([](json& parts) { parts[1][2] = 0; }, "count: expected an integer from 1");
  refused([](json& parts) { parts[1][1] = -1; }, "begin: expected an integer from 0");
  refused([](json& parts) { std::swap(parts[0], parts[1]); }, "elements [0, 2) are in no part");
  refused([](json& parts) { parts[0].erase(3); }, "expected [rank, begin, count, xxh3]");
  refused([](json& parts) { parts[0] = 3; }, "expected [rank, begin, count, xxh3]");
  refused([](json& parts) { parts[0][3] = "abc"; }, "xxh3");
  refused([](json& parts) { parts[0][3] = 7; }, "xxh3");
  refused([](json& parts) { parts = json::object(); }, "parts: expected a list");
}

// As the first format version had them.
TEST(Manifest, OnePartATensorIsReadFromVersionOne) {
  const std::string text = changed([](json& j) {
    j["version"] = 1;
    for (json& tensor : j["tensors"]) {
      tensor.erase("parts");
      tensor["rank"] = 1;
      tensor["xxh3"] = kHash;
    }
  });
  const Manifest manifest = parse_manifest(text, "x");
  ASSERT_EQ(manifest.tensors.size(), 2u);
  ASSERT_EQ(manifest.tensors[0].parts.size(), 1u);
  EXPECT_EQ(manifest.tensors[0].parts[0].rank, 1);
  EXPECT_EQ(manifest.tensors[0].parts[0].begin, 0);
  EXPECT_EQ(manifest.tensors[0].parts[0].count, 6);
  EXPECT_EQ(manifest.tensors[0].parts[0].xxh3, kHash);
  EXPECT_NE(complaint(changed([](json& j) { j["version"] = 1; })), "") << "the keys are those of the version";
}

TEST(Manifest, HostileJsonIsRefusedWithinBounds) {
  const std::string good = to_text(example());
  const std::string body = good.substr(0, good.find("\"manifest_xxh3\""));
  EXPECT_NE(complaint(sign(body + "\"step\": 3,")).find("comes twice"), std::string::npos);
  EXPECT_NE(complaint(sign("{\"a\":" + std::string(1'000'000, '['))).find("nested deeper"), std::string::npos);
  std::string many = "{\"a\":[";
  for (int i = 0; i < 2'100'000; ++i) many += "0,";
  EXPECT_NE(complaint(sign(many)).find("more than 2000000 values"), std::string::npos);
  EXPECT_NE(complaint(sign(std::string(kMaxManifestBytes, ' '))).find("larger than"), std::string::npos);
  EXPECT_NE(complaint(sign("{\"a\": 1e999,")).find("not valid JSON"), std::string::npos);
  EXPECT_NE(complaint(sign("{\"a\": \"\xff\",")).find("not valid JSON"), std::string::npos);
  EXPECT_NE(complaint(sign("")).find("not valid JSON"), std::string::npos);
  EXPECT_NE(complaint(sign("[")).find("not valid JSON"), std::string::npos);
}

TEST(Manifest, WhatJsonWouldLoseIsRefusedWhenWriting) {
  const auto refused = [](const json& value) {
    Manifest manifest = example();
    manifest.scalars["x"] = value;
    try {
      to_text(manifest);
      return false;
    } catch (const Error& error) {
      return error.code() == ExitCode::internal;
    }
  };
  EXPECT_FALSE(refused(1.5));
  EXPECT_TRUE(refused(std::nan("")));
  EXPECT_TRUE(refused(std::numeric_limits<double>::infinity()));
  EXPECT_TRUE(refused("\xff"));
  json deep = 1;
  for (int i = 0; i < 20; ++i) deep = json::array({deep});
  EXPECT_TRUE(refused(deep));
}

}  // namespace
}  // namespace t6::checkpoint
