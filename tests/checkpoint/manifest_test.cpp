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
  manifest.tensors = {{0, "params/a", DType::f32, Shape{2, 3}, kHash}, {1, "params/b", DType::bf16, Shape{}, kHash}};
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
  refused([](json& j) { j["version"] = 2; }, "version 2");
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
  for (const char* name : {"../a", "/a", "a/", "a//b", "a/../../b", "", "a b", "a\tb"}) {
    refused([&](json& j) { j["tensors"][0]["name"] = name; }, "not a valid tensor name");
  }
  refused([](json& j) { j["tensors"][1]["name"] = "params/a"; }, "comes twice");
  refused([](json& j) { j["tensors"][0]["dtype"] = "f16"; }, "dtype \"f16\"");
  refused([](json& j) { j["tensors"][0]["rank"] = 2; }, "rank: expected an integer from 0 to 1");
  refused([](json& j) { j["tensors"][0]["shape"] = {2, 0}; }, "shape: expected an integer from 1");
  refused([](json& j) { j["tensors"][0]["shape"] = {1, 1, 1, 1, 1, 1}; }, "dimensions");
  refused([](json& j) { j["tensors"][0]["shape"] = {1ull << 40, 1ull << 40, 1ull << 40}; }, "larger than its file");
  refused([](json& j) { j["tensors"][0]["shape"] = {1251}; }, "larger than its file");
  refused([](json& j) { j["tensors"][0]["shape"] = 3; }, "shape: expected a list");
}

TEST(Manifest, HostileJsonIsRefusedWithinBounds) {
  const std::string good = to_text(example());
  const std::string body = good.substr(0, good.find("\"manifest_xxh3\""));
  EXPECT_NE(complaint(sign(body + "\"step\": 3,")).find("comes twice"), std::string::npos);
  EXPECT_NE(complaint(sign("{\"a\":" + std::string(1'000'000, '['))).find("nested deeper"), std::string::npos);
  std::string many = "{\"a\":[";
  for (int i = 0; i < 1'100'000; ++i) many += "0,";
  EXPECT_NE(complaint(sign(many)).find("more than 1000000 values"), std::string::npos);
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
