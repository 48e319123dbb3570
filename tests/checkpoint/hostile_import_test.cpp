// What import refuses: safetensors, indices and configs that break a rule, each with exit code 4 and a reason.
#include <functional>

#include "checkpoint/export_support.h"
#include "checkpoint/model_json.h"
#include "checkpoint/weights_folder.h"

namespace t6::checkpoint {
namespace {

using nlohmann::json;

std::string safetensors(const std::string& header, size_t data_bytes) {
  std::string text(8, '\0');
  const uint64_t size = header.size();
  std::memcpy(text.data(), &size, 8);
  return text + header + std::string(data_bytes, '\0');
}

class HostileImport : public ScratchTest {
 protected:
  HostileImport() : ScratchTest(Place::memory) {}

  // Import of the folder ends with code 4, and says `reason`.
  void expect_refused(const fs::path& folder, const std::string& reason) {
    const Error error = error_of([&] { ImportedModel model(folder); });
    EXPECT_EQ(error.code(), ExitCode::checkpoint) << error.what();
    EXPECT_TRUE(contains(error.what(), reason)) << "expected \"" << reason << "\" in: " << error.what();
    ++refused_;
  }
  // A good export of `kind` in `folder_`/good.
  fs::path good(ModelFormat format, AttentionKind kind, uint64_t shard_bytes = 5'000'000'000) {
    io::remove_all(folder_ / "good");
    io::remove_all(folder_ / "steps");
    const ModelConfig config = test::small_model_config(kind);
    const fs::path step = save_random(folder_ / "steps", config, 1);
    export_model(step, config, folder_ / "good",
                 {.format = format, .shard_bytes = shard_bytes, .approximate = true, .run = some_run()});
    (void)ImportedModel(folder_ / "good");
    return folder_ / "good";
  }
  void with_config(ModelFormat format, AttentionKind kind, const std::function<void(json&)>& change,
                   const std::string& reason) {
    const fs::path folder = good(format, kind);
    json config = json::parse(read_bytes(folder / "config.json"));
    change(config);
    write_bytes(folder / "config.json", config.dump());
    expect_refused(folder, reason);
  }
  int refused_ = 0;
};

TEST_F(HostileImport, SafetensorsThatBreakARule) {
  const auto refused = [&](const std::string& bytes, const std::string& reason) {
    write_bytes(folder_ / "x.safetensors", bytes);
    const Error error = error_of([&] { SafetensorsReader reader(folder_ / "x.safetensors"); });
    EXPECT_EQ(error.code(), ExitCode::checkpoint) << error.what();
    EXPECT_TRUE(contains(error.what(), reason)) << "expected \"" << reason << "\" in: " << error.what();
  };
  const auto header = [&](const std::string& text, const std::string& reason, size_t data = 8) {
    refused(safetensors(text, data), reason);
  };
  const auto tensor = [](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return R"({"a":{"dtype":)" + dtype + R"(,"shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}";
  };
  write_bytes(folder_ / "x.safetensors", safetensors(tensor("\"F32\"", "[2]", "[0,8]"), 8));
  EXPECT_EQ(SafetensorsReader(folder_ / "x.safetensors").tensors().size(), 1u);

  refused("", "too short");
  refused("1234567", "too short");
  refused(std::string(8, '\xff'), "header would have 18446744073709551615 bytes");
  refused(std::string("\x00\xe1\xf5\x05\0\0\0\0", 8) + "{}", "at most 2");  // 100,000,000
  refused(std::string("\x05\0\0\0\0\0\0\0", 8) + "{}", "header would have 5 bytes");
  header("", "not valid JSON");
  header("[]", "expected the header to be an object");
  header("{}", "holds no tensors");
  header("{\"a\":1}", "expected dtype, shape and data_offsets");
  header("{\"a\":{}} trailing", "not valid JSON");
  header(R"({"__metadata__":[],"a":{}})", "__metadata__");
  header(R"({"__metadata__":{"format":1}})", "expected a string");
  header(tensor("\"F64\"", "[1]", "[0,8]"), "dtype");
  header(tensor("\"f32\"", "[2]", "[0,8]"), "dtype");
  header(tensor("7", "[2]", "[0,8]"), "dtype");
  header(tensor("\"F32\"", "2", "[0,8]"), "shape");
  header(tensor("\"F32\"", "[2.0]", "[0,8]"), "shape");
  header(tensor("\"F32\"", "[-2]", "[0,8]"), "shape");
  header(tensor("\"F32\"", "[0]", "[0,0]"), "extent of 0");
  header(tensor("\"F32\"", "[1,1,1,1,1,2]", "[0,8]"), "dimensions");
  header(tensor("\"F32\"", "[1099511627776,1099511627776]", "[0,8]"), "more bytes than the file");
  header(tensor("\"F32\"", "[4294967296,1073741824]", "[0,8]"), "more bytes than the file");
  header(tensor("\"F32\"", "[3]", "[0,8]"), "more bytes than the file");
  header(tensor("\"F32\"", "[1]", "[0,8]"), "expected 4 bytes");
  header(tensor("\"F32\"", "[2]", "[8,0]"), "expected 8 bytes");
  header(tensor("\"F32\"", "[2]", "[0]"), "data_offsets");
  header(tensor("\"F32\"", "[2]", "[0,8,8]"), "data_offsets");
  header(tensor("\"F32\"", "[2]", "[0,18446744073709551615]"), "data_offsets");
  header(tensor("\"F32\"", "[2]", "[-8,0]"), "data_offsets");
  header(tensor("\"F32\"", "[2]", "[0,8]"), "expected 8 bytes of data", 12);
  header(tensor("\"F32\"", "[2]", "[0,8]"), "more bytes than the file", 7);
  header(tensor("\"F32\"", "[1]", "[4,8]"), "leave a gap");
  const auto two = [](const std::string& first, const std::string& second, const std::string& name) {
    return R"({"a":{"dtype":"F32","shape":[1],"data_offsets":)" + first + "},\"" + name +
           R"(":{"dtype":"F32","shape":[1],"data_offsets":)" + second + "}}";
  };
  header(two("[0,4]", "[0,4]", "b"), "overlap");
  header(two("[0,4]", "[2,6]", "b"), "overlap");
  header(two("[0,4]", "[8,12]", "b"), "leave a gap", 12);
  header(two("[0,4]", "[4,8]", "a"), "comes twice");
  header(two("[0,4]", "[4,8]", "\\u0000"), "no name of a tensor");
  header(two("[0,4]", "[4,8]", ""), "no name of a tensor");
  header(R"({"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}})", "comes twice");
  header(two("[0,4]", "[4,8]", std::string(5000, 'n')), "string of more than");
  header(std::string(60, '['), "nested deeper");
  header("{\"a\":\"\xff\"}", "not valid JSON");
  header(tensor("\"F32\"", "[2]", "[0,8]") + std::string(1, '\0') + "and more", "holds a zero byte");
  std::string many = "{\"a\":[0";
  for (int i = 0; i < 500'000; ++i) many += ",0";
  header(many + "]}", "more than 400000 values");
}

TEST_F(HostileImport, IndicesThatBreakARule) {
  const fs::path folder = good(ModelFormat::mistral, AttentionKind::mqa, 4000);
  const json right = json::parse(read_bytes(folder / kWeightsIndex));
  const auto refused = [&](const std::string& text, const std::string& reason) {
    write_bytes(folder / kWeightsIndex, text);
    expect_refused(folder, reason);
  };
  const auto changed = [&](const std::function<void(json&)>& change) {
    json index = right;
    change(index);
    return index.dump();
  };
  refused("", "not valid JSON");
  refused("[]", "expected an object");
  refused("{}", "weight_map");
  refused(R"({"weight_map":{}})", "weight_map");
  refused(R"({"weight_map":[]})", "weight_map");
  refused(R"({"weight_map":{"a":1}})", "bare name");
  for (const char* name : {"../model.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", ".hidden.safetensors",
                           "model.safetensors\\u0000", "pytorch_model.bin", "..safetensors", "~/x.safetensors"}) {
    refused(R"({"weight_map":{"a":")" + std::string(name) + "\"}}", "bare name");
  }
  refused(R"({"weight_map":{"a":"nowhere.safetensors"}})", "no such file");
  refused(changed([](json& index) { index["weight_map"]["model.norm.weight"] = "model-00001-of-99999.safetensors"; }),
          "no such file");
  refused(changed([](json& index) { index["weight_map"]["more"] = index["weight_map"]["model.norm.weight"]; }),
          "tensor more is not in");
  refused(changed([](json& index) { index["weight_map"].erase("model.norm.weight"); }), "is not in the weight_map");
  refused(changed([](json& index) { index["code"] = "print(1)"; }), "unknown key");
  const std::string first = right.at("weight_map").begin().value();
  fs::copy_file(folder / first, folder / "twice.safetensors");
  refused(changed([](json& index) { index["weight_map"]["more"] = "twice.safetensors"; }), "is in two files");
  write_bytes(folder / kWeightsIndex, right.dump());
  EXPECT_EQ(ImportedModel(folder).config().kind(), AttentionKind::mqa)
      << "a file that the index does not name is no matter";
  write_bytes(folder / kWeightsFile, "x");
  refused(right.dump(), "left over");
}

// What a terminal could take for a command, in each place of the files that a message quotes.
TEST_F(HostileImport, MessagesArePrintable) {
  const fs::path folder = good(ModelFormat::mistral, AttentionKind::mqa, 4000);
  const std::string config = read_bytes(folder / "config.json");
  const auto refused = [&](const char* file, const std::string& text, const std::string& reason) {
    write_bytes(folder / file, text);
    const Error error = error_of([&] { ImportedModel model(folder); });
    EXPECT_EQ(error.code(), ExitCode::checkpoint);
    const std::string message = error.what();
    EXPECT_TRUE(contains(message, reason)) << message;
    for (const char c : message) EXPECT_TRUE(c == '\n' || (c >= ' ' && c <= '~')) << int{c} << " in: " << message;
    EXPECT_LT(message.size(), folder.string().size() + 500) << message;
  };
  // ESC, and CSI as one character, as JSON escapes and as they are; DEL.
  const std::vector<std::string> words{"\\u001b[2J", "\\u009b", "\xc2\x9b", "\x7f"};
  for (const std::string& word : words) {
    const std::string name = word + std::string(300, 'n'), quoted = "\"" + name + "\"";
    refused(kWeightsIndex, "{\"weight_map\":{" + quoted + ":\"model.safetensors\"}}", "is no name of a tensor");
    refused(kWeightsIndex, "{\"weight_map\":{" + quoted + ":1}}", "is no name of a tensor");
    refused(kWeightsIndex, "{\"weight_map\":{\"a\":" + quoted + "}}", "bare name");
    refused(kWeightsIndex, "{\"weight_map\":{\"a\":\"b.safetensors\"}," + quoted + ":1}", "unknown key");
    refused(kWeightsIndex, "{" + quoted + ":1," + quoted + ":1}", "comes twice");
    refused(kWeightsIndex, "{\"a\":" + quoted + "..", "not valid JSON");
    fs::remove(folder / kWeightsIndex);
    for (const std::string& header :
         {"{\"__metadata__\":{" + quoted + ":1}}", "{" + quoted + ":{}}",
          "{\"a\":{\"dtype\":" + quoted + ",\"shape\":[2],\"data_offsets\":[0,8]}}",
          "{\"a\":{\"dtype\":\"F32\",\"shape\":[" + quoted + "],\"data_offsets\":[0,8]}}"}) {
      refused(kWeightsFile, safetensors(header, 8), "");
    }
    fs::remove(folder / kWeightsFile);
  }
  const fs::path model = good(ModelFormat::mistral, AttentionKind::mqa);
  for (const std::string& word : words) {
    const std::string quoted = "\"" + word + std::string(300, 'n') + "\"";
    refused("config.json", "{\"model_type\":" + quoted + "}", "model_type");
    refused("config.json", config.substr(0, config.rfind('}')) + "," + quoted + ":1}", "is not known to t6");
  }
}

TEST_F(HostileImport, ConfigsThatMeanAnotherModel) {
  const auto mistral = [&](const std::function<void(json&)>& change, const std::string& reason) {
    with_config(ModelFormat::mistral, AttentionKind::gqa, change, reason);
  };
  mistral([](json& c) { c["model_type"] = "qwen2"; }, "expected a model_type");
  mistral([](json& c) { c.erase("model_type"); }, "expected a model_type");
  mistral([](json& c) { c = json::array(); }, "expected an object");
  mistral([](json& c) { c["sliding_window"] = 4096; }, "sliding_window");
  mistral([](json& c) { c.erase("sliding_window"); }, "sliding_window: is missing");
  mistral([](json& c) { c["tie_word_embeddings"] = false; }, "tie_word_embeddings");
  mistral([](json& c) { c["hidden_act"] = "gelu"; }, "hidden_act");
  mistral([](json& c) { c["architectures"] = {"MistralForSequenceClassification"}; }, "architectures");
  mistral([](json& c) { c["rope_scaling"] = {{"rope_type", "linear"}, {"factor", 2.0}}; }, "plain angles");
  mistral([](json& c) { c["rope_parameters"]["rope_type"] = "yarn"; }, "plain angles");
  mistral([](json& c) { c["rope_parameters"]["rope_theta"] = 500.0; }, "differs from the theta");
  mistral([](json& c) { c["rope_theta"] = "10000"; }, "rope_theta");
  mistral([](json& c) { c["rms_norm_eps"] = 0.0; }, "rms_norm_eps");
  mistral([](json& c) { c["rms_norm_eps"] = -1; }, "rms_norm_eps");
  mistral([](json& c) { c["hidden_size"] = 10.0; }, "hidden_size: expected an integer");
  mistral([](json& c) { c["hidden_size"] = -10; }, "hidden_size");
  mistral([](json& c) { c["hidden_size"] = 18446744073709551615ull; }, "hidden_size");
  mistral([](json& c) { c["num_hidden_layers"] = 1'000'000; }, "num_hidden_layers");
  mistral([](json& c) { c["num_hidden_layers"] = 3; }, "is missing");
  mistral([](json& c) { c["num_hidden_layers"] = 1024; }, "says 1024 layers");
  mistral([](json& c) { c["num_hidden_layers"] = 1; }, "is not in such a model");
  mistral([](json& c) { c["vocab_size"] = 38; }, "expected [38, 10], got [37, 10]");
  mistral([](json& c) { c["num_key_value_heads"] = 4; }, "divides model.heads");
  mistral([](json& c) { c["head_dim"] = 7; }, "even width");
  mistral([](json& c) { c["quantization_config"] = {{"bits", 4}}; }, "is not known to t6");
  mistral([](json& c) { c["attention_bias"] = true; }, "is not known to t6");
  const auto llama = [&](const std::function<void(json&)>& change, const std::string& reason) {
    const fs::path folder = good(ModelFormat::mistral, AttentionKind::mha);
    json config = json::parse(read_bytes(folder / "config.json"));
    config["model_type"] = "llama";
    config["architectures"] = {"LlamaForCausalLM"};
    config.erase("sliding_window");
    write_bytes(folder / "config.json", config.dump());
    EXPECT_EQ(ImportedModel(folder).config().kind(), AttentionKind::mha);
    change(config);
    write_bytes(folder / "config.json", config.dump());
    expect_refused(folder, reason);
  };
  llama([](json& c) { c["attention_bias"] = true; }, "attention_bias");
  llama([](json& c) { c["mlp_bias"] = 1; }, "mlp_bias");
  const auto deepseek = [&](const std::function<void(json&)>& change, const std::string& reason) {
    with_config(ModelFormat::deepseek_v3, AttentionKind::mla, change, reason);
  };
  deepseek([](json& c) { c["first_k_dense_replace"] = 1; }, "no experts");
  deepseek([](json& c) { c["v_head_dim"] = 4; }, "v_head_dim");
  deepseek([](json& c) { c["rope_interleave"] = false; }, "rope_interleave");
  deepseek([](json& c) { c["q_lora_rank"] = nullptr; }, "q_lora_rank");
  deepseek([](json& c) { c["num_nextn_predict_layers"] = 1; }, "one token");
  deepseek([](json& c) { c["qk_rope_head_dim"] = 5; }, "even width");
  const auto t6 = [&](const std::function<void(json&)>& change, const std::string& reason) {
    with_config(ModelFormat::t6, AttentionKind::tpa, change, reason);
  };
  t6([](json& c) { c["attention_kind"] = "mha"; }, "attention_kind");
  t6([](json& c) { c["rank_q"] = 0; }, "rank_q");
  t6([](json& c) { c["rank_k"] = 5000; }, "rank_k");
  t6([](json& c) { c["rope_table"] = "f16"; }, "rope_table");
  const auto official = [&](AttentionKind kind, const std::function<void(json&)>& change, const std::string& reason) {
    with_config(ModelFormat::official, kind, change, reason);
  };
  official(
      AttentionKind::tpa, [](json& c) { c["using_groupnorm"] = true; }, "using_groupnorm");
  official(
      AttentionKind::tpa, [](json& c) { c["bias"] = true; }, "no biases");
  official(
      AttentionKind::tpa, [](json& c) { c.erase("rank"); }, "rank: is missing");
  official(
      AttentionKind::tpa, [](json& c) { c["rank"] = 3; }, "expected [18, 10], got [12, 10]");
  official(
      AttentionKind::gqa, [](json& c) { c["group_size"] = 4; }, "group_size");
  official(
      AttentionKind::mla, [](json& c) { c["v_head_dim"] = 6; }, "v_head_dim");
  official(
      AttentionKind::mha, [](json& c) { c.erase("head_dim"); }, "OpenAI's GPT-2");
  official(
      AttentionKind::mla, [](json& c) { c.erase("v_head_dim"); },
      "v_head_dim: is missing; the authors' default is 64, expected head_dim 8");
  EXPECT_GE(refused_, 40);
}

// What transformers leaves out of a config.json because it is a default, and what it adds that t6 does not write.
TEST_F(HostileImport, ConfigsThatTransformersSavesAgainAreRead) {
  const auto reads = [&](ModelFormat format, AttentionKind kind, const std::function<void(json&)>& change) {
    const fs::path folder = good(format, kind);
    const std::string before = to_yaml(ImportedModel(folder).config());
    json config = json::parse(read_bytes(folder / "config.json"));
    change(config);
    write_bytes(folder / "config.json", config.dump());
    EXPECT_EQ(to_yaml(ImportedModel(folder).config()), before);
  };
  reads(ModelFormat::t6, AttentionKind::tpa, [](json& c) { c.erase("tie_word_embeddings"); });
  reads(ModelFormat::deepseek_v3, AttentionKind::mla, [](json& c) { c["output_router_logits"] = false; });
  with_config(
      ModelFormat::t6, AttentionKind::tpa, [](json& c) { c["tie_word_embeddings"] = false; }, "tie_word_embeddings");
  with_config(
      ModelFormat::mistral, AttentionKind::gqa, [](json& c) { c.erase("tie_word_embeddings"); },
      "tie_word_embeddings: is missing");
}

TEST_F(HostileImport, WeightsThatMeanAnotherModel) {
  const fs::path folder = good(ModelFormat::mistral, AttentionKind::mha);
  const std::string bytes = read_bytes(folder / kWeightsFile);
  const WeightsReader weights(folder);
  uint64_t header = 0;
  std::memcpy(&header, bytes.data(), 8);
  const auto with_number = [&](const std::string& name, float number, const std::string& reason) {
    std::string changed = bytes;
    std::memcpy(changed.data() + 8 + header + weights.find(name)->begin, &number, 4);
    write_bytes(folder / kWeightsFile, changed);
    const Error error = error_of([&] { (void)save_imported(folder_ / "c", ImportedModel(folder)); });
    EXPECT_EQ(error.code(), ExitCode::checkpoint);
    EXPECT_TRUE(contains(error.what(), reason)) << error.what();
    EXPECT_FALSE(fs::exists(folder_ / "c/step-00000000"));
  };
  with_number("model.norm.weight", 1.5f, "learned weights (number 0 is 1.5)");
  with_number("model.layers.1.input_layernorm.weight", 0.0f, "learned weights");
  with_number("model.embed_tokens.weight", std::numeric_limits<float>::quiet_NaN(), "not finite");
  with_number("model.layers.0.mlp.up_proj.weight", std::numeric_limits<float>::infinity(), "not finite");

  const fs::path official = good(ModelFormat::official, AttentionKind::mha);
  std::string untied = read_bytes(official / kWeightsFile);
  untied.back() = static_cast<char>(untied.back() ^ 1);  // the head comes last
  write_bytes(official / kWeightsFile, untied);
  expect_refused(official, "head is tied");
  io::remove_all(official / kWeightsFile);
  expect_refused(official, "holds no weights");
  write_bytes(official / "pytorch_model.bin", "x");
  expect_refused(official, "pickle");
  expect_refused(official, "save_model(model, \"model.safetensors\")");
  expect_refused(folder_ / "nowhere", "no such folder");

  const fs::path run = good(ModelFormat::mistral, AttentionKind::mha);
  for (const char* text : {"[]", "{\"a\":[1]}", "{\"a\":\"<script>\"}", "{\"a\":{\"b\":{\"c\":1}}}", "{\"a|b\":1}"}) {
    write_bytes(run / kRunFile, text);
    expect_refused(run, kRunFile);
  }
  fs::remove(run / kRunFile);
  EXPECT_TRUE(ImportedModel(run).run().empty());
  fs::remove(run / "config.json");
  expect_refused(run, "no such file");
  fs::create_directory(run / "config.json");
  expect_refused(run, "is no file");
}

// Half precision of other programs: every one of its 65,536 numbers that is finite, exactly.
TEST_F(HostileImport, HalfPrecisionIsReadExactly) {
  std::string data;
  std::vector<double> expected;
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const int exponent = static_cast<int>(bits >> 10 & 31);
    if (exponent == 31) continue;
    const double fraction = bits & 1023, sign = bits & 0x8000 ? -1 : 1;
    expected.push_back(sign * (exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25)));
    data += static_cast<char>(bits & 255);
    data += static_cast<char>(bits >> 8);
  }
  const std::string header =
      fmt::format(R"({{"a":{{"dtype":"F16","shape":[{}],"data_offsets":[0,{}]}}}})", expected.size(), data.size());
  std::string file = safetensors(header, 0);
  write_bytes(folder_ / "x.safetensors", file + data);
  const SafetensorsReader reader(folder_ / "x.safetensors");
  EXPECT_EQ(reader.read(reader.tensors().front()).to_doubles(), expected);
}

}  // namespace
}  // namespace t6::checkpoint
