// Export and import: the same bytes again, the same model again, and nothing half written.
#include <sys/wait.h>

#include <cerrno>

#include "checkpoint/export_support.h"
#include "checkpoint/model_json.h"
#include "checkpoint/output_folder.h"
#include "checkpoint/weights_folder.h"
#include "support/promise.h"

namespace t6::checkpoint {
namespace {

using test::measured;
using test::small_model_config;

constexpr OwnEntries kOwn{"config.json", [](const fs::directory_entry&) { return true; }, "t6 export"};

class Export : public ScratchTest {
 protected:
  Export() : ScratchTest(Place::memory) {}

  // Export, import, export: compares both exports byte by byte, and the weights in f32 bit by bit. Returns the first.
  std::map<std::string, std::string> round_trip(const ModelConfig& config, ModelFormat format, StoredType type,
                                                uint64_t seed) {
    for (const char* name : {"a", "b", "c", "d"}) io::remove_all(folder_ / name);
    const fs::path step = save_random(folder_ / "a", config, seed);
    ExportOptions options{.format = format, .type = type, .approximate = true, .run = some_run(), .tokens = {{3, 5}}};
    export_model(step, config, folder_ / "b", options);
    const ImportedModel imported(folder_ / "b");
    EXPECT_EQ(imported.format(), format);
    EXPECT_EQ(imported.type(), type);
    EXPECT_EQ(imported.run(), some_run());
    ModelConfig expected = config;  // which initial weights it had is not part of a model that is there
    expected.init = InitKind::official;
    EXPECT_EQ(to_yaml(imported.config()), to_yaml(expected));
    const fs::path again = save_imported(folder_ / "c", imported);
    options.run = imported.run();
    options.tokens = imported.tokens();
    export_model(again, imported.config(), folder_ / "d", options);
    EXPECT_EQ(files_of(folder_ / "b"), files_of(folder_ / "d")) << name_of(format);
    if (type == StoredType::f32) {
      EXPECT_EQ(differing(config, step, again), "");
    }
    return files_of(folder_ / "b");
  }

  // What of two checkpoints is not the same, bit by bit: "weights", "logits", both or nothing.
  static std::string differing(const ModelConfig& config, const fs::path& a, const fs::path& b) {
    Transformer first(config), second(config);
    const Tensor tokens = test::random_tokens(1, std::min<int64_t>(config.context, 5), config.vocab_size);
    std::vector<Tensor> logits;
    for (auto [model, path] : {std::pair(&first, a), std::pair(&second, b)}) {
      model->allocate(DType::f32);
      load_one(path, parameters_of(model->parameters()), {.prefix = "params/"});
      model->parameters().refresh_compute();
      logits.push_back(model->logits(tokens));
    }
    return std::string(same_bits(first.parameters().master(), second.parameters().master()) ? "" : "weights ") +
           (same_bits(logits[0], logits[1]) ? "" : "logits");
  }
};

TEST_F(Export, EveryKindFormatAndTypeComesBackByteByByte) {
  for (const AttentionKind kind : kAttentionKinds) {
    ModelConfig config = small_model_config(kind);
    if (kind == AttentionKind::mha) config.width = 12;  // a multiple of the heads, for --llama
    for (const ModelFormat format : formats_of(config)) {
      for (const StoredType type : {StoredType::f32, StoredType::bf16}) {
        SCOPED_TRACE(fmt::format("{} {} {}", config.kind_name(), name_of(format), name_of(type)));
        const auto files = round_trip(config, format, type, 3);
        EXPECT_EQ(
            files.count("config.json") + files.count("README.md") + files.count(kRunFile) + files.count(kWeightsFile),
            4u);
        EXPECT_EQ(files.count("modeling_t6.py"), format == ModelFormat::t6 ? 1u : 0u);
      }
    }
  }
}

// R26: one byte of the weights that is another on the way is seen in the files and in the model.
TEST_F(Export, ControlOneChangedByteIsADifference) {
  const ModelConfig config = small_model_config(AttentionKind::tpa);
  const fs::path step = save_random(folder_ / "a", config, 3);
  export_model(step, config, folder_ / "b", {.approximate = true, .run = some_run()});
  const auto before = files_of(folder_ / "b");
  const fs::path weights = folder_ / "b" / kWeightsFile;
  // The last bit of a number in the middle, where no weight is written twice.
  flip_bit(weights, fs::file_size(weights) - 4 * (fs::file_size(weights) / 8), 0);
  const ImportedModel imported(folder_ / "b");
  const fs::path again = save_imported(folder_ / "c", imported);
  EXPECT_EQ(differing(config, step, again).substr(0, 7), "weights");
  export_model(again, imported.config(), folder_ / "d", {.approximate = true, .run = some_run()});
  EXPECT_NE(files_of(folder_ / "d"), before);
}

ModelConfig random_config(const Philox& random) {
  uint64_t draw = 0;
  const auto below = [&](uint64_t n) { return static_cast<int64_t>(random.below(draw++, n)); };
  const auto kind = kAttentionKinds[static_cast<size_t>(below(kAttentionKinds.size()))];
  ModelConfig config;
  config.attention = default_options(kind);
  config.layers = 1 + below(3);
  config.heads = 1 + below(6);
  config.head_width = 2 * (1 + below(8));
  config.width = 1 + below(24);
  config.vocab_size = 2 + below(300);
  config.context = 5 + below(40);
  config.rope_table = below(2) == 0 ? RopeRounding::f32 : RopeRounding::bf16;
  if (auto* o = std::get_if<gqa::Options>(&config.attention)) {
    o->kv_heads = 2 + below(2);
    config.heads = o->kv_heads * (2 + below(2));
  }
  if (kind == AttentionKind::mqa) config.heads += 1;  // mqa of one head is mha
  if (auto* o = std::get_if<mla::Options>(&config.attention)) *o = {1 + below(9), 1 + below(9), 2 * (1 + below(4))};
  if (auto* o = std::get_if<tpa::Options>(&config.attention)) {
    o->rank_q = 1 + below(6);
    o->rank_k = o->rank_v = 1 + below(3);
  }
  if (auto* o = std::get_if<tpa_kvonly::Options>(&config.attention)) o->rank_k = o->rank_v = 1 + below(3);
  return config;
}

TEST_F(Export, RandomModelsComeBackBitByBit) {
  const int kModels = test::figure(25, 100);
  std::map<std::string, int> formats;
  for (int i = 0; i < kModels && !HasFailure(); ++i) {
    const Philox random(26, RngPurpose::test, static_cast<uint64_t>(i));
    const ModelConfig config = random_config(random);
    const std::vector<ModelFormat> possible = formats_of(config);
    const ModelFormat format = possible[random.below(1000, possible.size())];
    const StoredType type = random.below(1001, 3) == 0 ? StoredType::bf16 : StoredType::f32;
    SCOPED_TRACE(fmt::format("model {}: {}\n{}", i, name_of(format), to_yaml(config)));
    round_trip(config, format, type, static_cast<uint64_t>(i));
    ++formats[std::string(name_of(format))];
  }
  std::string counts;
  for (const auto& [format, count] : formats)
    counts += fmt::format("{}{} {}", counts.empty() ? "" : ", ", count, format);
  measured("R26",
           "{} random models ({}): export, import, export gave the same bytes of every file, f32 the same "
           "weights and logits",
           kModels, counts);
}

TEST_F(Export, ShardsHoldTheSameTensors) {
  const ModelConfig config = small_model_config(AttentionKind::gqa);
  const fs::path step = save_random(folder_ / "a", config, 1);
  export_model(step, config, folder_ / "one", {.format = ModelFormat::mistral});
  export_model(step, config, folder_ / "many", {.format = ModelFormat::mistral, .shard_bytes = 2500});
  const WeightsReader one(folder_ / "one"), many(folder_ / "many");
  EXPECT_GT(many.files().size(), 3u);
  EXPECT_EQ(many.files().front().path().filename(),
            fmt::format("model-00001-of-{:05}.safetensors", many.files().size()));
  EXPECT_TRUE(fs::exists(folder_ / "many" / kWeightsIndex));
  EXPECT_EQ(one.names(), many.names());
  for (const std::string& name : one.names()) EXPECT_TRUE(same_bits(one.read(name), many.read(name))) << name;
  for (const SafetensorsReader& file : many.files()) {
    EXPECT_TRUE(file.tensors().size() == 1 || file.tensors().back().end <= 2500u);
  }
  EXPECT_EQ(WeightsWriter::files({one.files().front().tensors()}, 2500), many.files().size());
  for (const std::string& name : io::list_folder(folder_ / "many")) {
    EXPECT_EQ(is_export_weights(name), name.starts_with("model")) << name;
  }
  const ImportedModel imported(folder_ / "many");
  EXPECT_EQ(differing(config, step, save_imported(folder_ / "c", imported)), "");
}

// Programs that keep one name of tensors that are the same: safetensors.torch.save_model the first by the alphabet.
TEST_F(Export, EitherNameOfTheTiedPairIsEnough) {
  for (const AttentionKind kind : kAttentionKinds) {
    const ModelConfig config = small_model_config(kind);
    const fs::path step = save_random(folder_ / config.kind_name(), config, 1);
    for (const ModelFormat format : formats_of(config)) {
      SCOPED_TRACE(fmt::format("{} {}", config.kind_name(), name_of(format)));
      const fs::path folder = folder_ / fmt::format("{}-{}", config.kind_name(), name_of(format));
      export_model(step, config, folder, {.format = format, .type = StoredType::bf16, .approximate = true});
      const ImportedModel both(folder);
      const State whole = both.state();
      const bool own = format == ModelFormat::official || format == ModelFormat::t6;
      const std::string embedding = own ? "transformer.wte.weight" : "model.embed_tokens.weight";
      const std::string head = "lm_head.weight";
      for (const std::string& kept : {embedding, head}) {
        const fs::path one = folder_ / "one";
        io::remove_all(one);
        io::make_directories(one);
        fs::copy_file(folder / "config.json", one / "config.json");
        const WeightsReader reader(folder);
        std::vector<StoredTensor> tensors;
        std::vector<std::string> sources;
        for (const std::string& name : reader.names()) {
          const bool tied = name == embedding || name == head;
          if (name == head && reader.find(embedding) != nullptr) continue;
          tensors.push_back(*reader.find(name));
          if (tied) tensors.back().name = kept;
          sources.push_back(name);
        }
        WeightsWriter writer(one, tensors, 1'000'000'000);
        for (size_t i = 0; i < sources.size(); ++i) writer.write(i, reader.read(sources[i]));
        writer.finish();

        const ImportedModel imported(one);
        EXPECT_EQ(imported.type(), StoredType::bf16);
        const State state = imported.state();
        ASSERT_EQ(state.tensors.size(), whole.tensors.size());
        for (size_t i = 0; i < state.tensors.size(); ++i) {
          EXPECT_EQ(state.tensors[i].name, whole.tensors[i].name);
          EXPECT_TRUE(same_bits(state.tensors[i].get(), whole.tensors[i].get())) << state.tensors[i].name;
        }
      }
    }
  }
}

TEST_F(Export, TheCardLoadsEveryFileOfWeights) {
  const ModelConfig config = small_model_config(AttentionKind::tpa);
  const std::string one = model_card(config, {});
  EXPECT_TRUE(contains(one, "load_file(\"model.safetensors\")"));
  const std::string many = model_card(config, {.weights_files = 12});
  EXPECT_FALSE(contains(many, "\"model.safetensors\"")) << many;
  EXPECT_TRUE(contains(many,
                       "for i in range(1, 12 + 1):\n"
                       "    weights.update(load_file(f\"model-{i:05}-of-00012.safetensors\"))\n"))
      << many;
  EXPECT_FALSE(contains(many, "[t6](https://arxiv")) << "the paper is not t6's";
}

TEST_F(Export, TheCardReadsTheSameOfARunThatWasImported) {
  const ModelConfig config = small_model_config(AttentionKind::tpa);
  const nlohmann::json counted = {{"steps", 3499}, {"shift", -3499}, {"config", {{"train.steps", int64_t{1000000}}}}};
  const nlohmann::json read = parse_run_json(counted.dump(), "run.json");
  const std::string card = model_card(config, {.run = counted});
  EXPECT_TRUE(contains(card, "| steps | 3,499 |\n"));
  EXPECT_TRUE(contains(card, "| config: train.steps | 1,000,000 |\n"));
  EXPECT_TRUE(contains(card, "| shift | -3499 |\n"));
  EXPECT_EQ(card, model_card(config, {.run = read}));
}

TEST_F(Export, TheCardImportsWhatItUses) {
  const ModelConfig config = small_model_config(AttentionKind::tpa);
  const std::string without = model_card(config, {.format = ModelFormat::t6});
  EXPECT_TRUE(contains(without, "import AutoModelForCausalLM\n"));
  EXPECT_FALSE(contains(without, "AutoTokenizer"));
  const std::string with = model_card(config, {.format = ModelFormat::t6, .tokenizer_hash = "0123"});
  EXPECT_TRUE(contains(with, "import AutoModelForCausalLM, AutoTokenizer\n"));
  EXPECT_TRUE(contains(with, "tokenizer = AutoTokenizer.from_pretrained"));
}

// Their files for llama's kinds have names that no import statement can say; that of mha takes the width of a head from
// the model's.
TEST_F(Export, TheCardNamesTheAuthorsFileOfTheKind) {
  const auto expect_module = [](const ModelConfig& config, const std::string& module) {
    const std::string card = model_card(config, {.format = ModelFormat::official});
    EXPECT_TRUE(contains(card, fmt::format("importlib.import_module(\"model.{}\")", module))) << card;
    EXPECT_TRUE(contains(card, "model.load_state_dict(weights)  # strict: every name must be there")) << card;
  };
  expect_module(small_model_config(AttentionKind::tpa), "T6");
  expect_module(small_model_config(AttentionKind::tpa_kvonly), "T6_kvonly");
  expect_module(small_model_config(AttentionKind::mla), "llama-mla");
  expect_module(small_model_config(AttentionKind::gqa), "llama-gqa");
  expect_module(small_model_config(AttentionKind::mqa), "llama-gqa");
  ModelConfig mha = small_model_config(AttentionKind::mha);
  mha.width = mha.heads * mha.head_width;
  expect_module(mha, "llama-mha");
  mha.width += mha.heads;
  expect_module(mha, "llama-gqa");
}

TEST_F(Export, RowsOfRopeAreThoseOfTheOtherConvention) {
  // A head of 8 rows whose last 4 are turned, as S = (s0, s1, -s2, -s3) and T[2 j] = S[j], T[2 j + 1] = S[j + 2].
  const RowOrder interleave{RowOrder::Rule::interleave, 8, 4};
  const std::vector<std::pair<int64_t, bool>> expected{{8, false},  {9, false}, {10, false}, {11, false},
                                                       {12, false}, {14, true}, {13, false}, {15, true}};
  for (int64_t row = 0; row < 8; ++row) {
    const RowOrder::Row source = interleave.source(8 + row);
    EXPECT_EQ(std::pair(source.index, source.negated), expected[static_cast<size_t>(row)]) << row;
  }
  const RowOrder negate{RowOrder::Rule::negate, 6, 6};
  for (int64_t row = 0; row < 12; ++row) {
    EXPECT_EQ(negate.source(row).index, row);
    EXPECT_EQ(negate.source(row).negated, row % 6 >= 3) << row;
  }
}

TEST_F(Export, ConfigSaysWhatTransformersAsksFor) {
  ModelConfig config;
  config.attention = mqa::Options{};
  config.heads = 23;
  const auto json = nlohmann::json::parse(model_json(config, ModelFormat::mistral, StoredType::f32, std::nullopt));
  EXPECT_EQ(json.at("sliding_window"), nlohmann::json());
  EXPECT_EQ(json.at("rms_norm_eps"), 1.1920928955078125e-07);
  EXPECT_EQ(json.at("head_dim"), 64);
  EXPECT_EQ(json.at("num_key_value_heads"), 1);
  EXPECT_EQ(json.at("bos_token_id"), 50256);
  EXPECT_EQ(json.at("tie_word_embeddings"), true);
  EXPECT_EQ(json.at("max_position_embeddings"), 1024);
  EXPECT_EQ(json.at("rope_parameters").at("rope_theta"), 10000.0);
  config.attention = mla::Options{};
  const auto mla = nlohmann::json::parse(model_json(config, ModelFormat::deepseek_v3, StoredType::bf16, {{5, 5}}));
  EXPECT_EQ(mla.at("first_k_dense_replace"), config.layers);
  EXPECT_EQ(mla.at("num_nextn_predict_layers"), 0);
  EXPECT_EQ(mla.at("rope_interleave"), true);
  EXPECT_EQ(mla.at("torch_dtype"), "bfloat16");
  EXPECT_EQ(mla.at("eos_token_id"), 5);
  const auto official = nlohmann::json::parse(model_json(config, ModelFormat::official, StoredType::f32, {{5, 5}}));
  for (const char* key : {"vocab_size", "n_layer", "n_head", "head_dim", "n_embd", "rank", "q_rank", "block_size",
                          "bias", "dropout", "scale_attn_by_inverse_layer_idx", "using_groupnorm", "q_lora_rank",
                          "kv_lora_rank", "qk_rope_head_dim", "v_head_dim", "model_type"}) {
    EXPECT_TRUE(official.contains(key)) << key;
  }
}

TEST_F(Export, WhatAFormatCannotSayIsRefusedWithTheReason) {
  const auto refused = [&](ModelConfig config, ModelFormat format, const std::string& reason) {
    const fs::path step = save_random(folder_ / config.kind_name(), config, 1);
    const Error error = error_of([&] { export_model(step, config, folder_ / "out", {.format = format}); });
    EXPECT_EQ(error.code(), ExitCode::usage);
    EXPECT_TRUE(contains(error.what(), reason)) << error.what();
    EXPECT_FALSE(fs::exists(folder_ / "out"));
  };
  ModelConfig config = small_model_config(AttentionKind::tpa);
  refused(config, ModelFormat::official, "--approximate");
  config.rope_table = RopeRounding::bf16;
  config.rope_theta = 500000;
  refused(config, ModelFormat::official, "rope_theta 10000, this model 500000");
  config.rope_theta = 10000;
  config.norm_eps = 1e-5;
  refused(config, ModelFormat::official, "norm_eps");
  config = small_model_config(AttentionKind::tpa_kvonly);
  config.rope_table = RopeRounding::bf16;
  std::get<tpa_kvonly::Options>(config.attention).rank_v = 3;
  refused(config, ModelFormat::official, "one rank for keys and values");
  config = small_model_config(AttentionKind::mqa);
  config.rope_table = RopeRounding::bf16;
  refused(config, ModelFormat::mistral, "transformers has RoPE tables in f32");
  EXPECT_EQ(error_of([&] { (void)hf_format(config, true); }).code(), ExitCode::usage);
}

TEST_F(Export, ATargetIsReplacedOnlyWhenItIsAnOlderExport) {
  const ModelConfig config = small_model_config(AttentionKind::mha);
  const fs::path step = save_random(folder_ / "a", config, 1), out = folder_ / "out";
  const ExportOptions plain{.format = ModelFormat::mistral}, force{.format = ModelFormat::mistral, .replace = true};
  io::make_directories(out);
  export_model(step, config, out, plain);  // an empty folder is no obstacle
  const auto first = files_of(out);
  EXPECT_TRUE(contains(error_of([&] { export_model(step, config, out, plain); }).what(), "--force"));
  write_bytes(out / "generation_config.json", "{}");
  export_model(step, config, out, force);
  EXPECT_EQ(files_of(out), first);
  // Folders of others with a config.json: a cloned repository, a project, a link of that name.
  const auto kept = [&](const char* name) {
    const Error error = error_of([&] { export_model(step, config, out, force); });
    EXPECT_EQ(error.code(), ExitCode::usage);
    EXPECT_TRUE(contains(error.what(), fmt::format("holds '{}'", name))) << error.what();
    EXPECT_TRUE(fs::exists(out / name) && fs::exists(out / "config.json")) << name;
    io::remove_all(out / name);
  };
  io::make_directories(out / ".git/objects");
  kept(".git");
  write_bytes(out / "package.json", "{}");
  kept("package.json");
  write_bytes(out / "model-of-my-thesis.safetensors", "x");
  kept("model-of-my-thesis.safetensors");
  io::make_directories(out / "merges.txt");
  kept("merges.txt");
  fs::create_symlink(folder_, out / "vocab.json");
  kept("vocab.json");
  export_model(step, config, out, force);
  io::make_directories(folder_ / "precious");
  write_bytes(folder_ / "precious/thesis.tex", "x");
  EXPECT_EQ(error_of([&] { export_model(step, config, folder_ / "precious", force); }).code(), ExitCode::usage);
  fs::create_symlink(out, folder_ / "link");
  EXPECT_EQ(error_of([&] { export_model(step, config, folder_ / "link", force); }).code(), ExitCode::usage);
  write_bytes(folder_ / "file", "x");
  EXPECT_EQ(error_of([&] { export_model(step, config, folder_ / "file", force); }).code(), ExitCode::usage);
}

// A file system that cannot swap names.
class NoExchange {
 public:
  int operator()(io::DiskCall call, const fs::path& path) {
    return call == io::DiskCall::rename && path.filename() == ".out.t6-new" && !asked_++ ? EINVAL : 0;
  }

 private:
  int asked_ = 0;
};

// Every call that changes the disk, failing as on a full one, and ending the process.
TEST_F(Export, AFullDiskOrAKillLeavesTheOldExportOrTheNewOne) {
  const ModelConfig config = small_model_config(AttentionKind::tpa);
  const fs::path before = save_random(folder_ / "a", config, 1), after = save_random(folder_ / "b", config, 2);
  const fs::path out = folder_ / "place/out";
  const ExportOptions options{.format = ModelFormat::t6, .shard_bytes = 4000, .replace = true};
  export_model(after, config, out, options);
  const auto new_files = files_of(out);
  export_model(before, config, out, options);
  const auto old_files = files_of(out);
  ASSERT_NE(old_files, new_files);

  bool all = false;
  int calls = 0, failed = 0, killed = 0;
  for (int n = 0; !all; ++n) {
    int call = 0;
    io::set_fault_hook([&](io::DiskCall, const fs::path&, size_t&) { return call++ == n ? ENOSPC : 0; });
    try {
      export_model(after, config, out, options);
      all = call <= n;
    } catch (const Error& error) {
      ++failed;
      EXPECT_EQ(error.code(), ExitCode::io);
    }
    io::set_fault_hook({});
    const auto files = files_of(out);
    EXPECT_TRUE(files == old_files || files == new_files) << "call " << n;
    calls = call;
    export_model(before, config, out, options);
    EXPECT_EQ(io::list_folder(folder_ / "place"), std::vector<std::string>{"out"}) << "call " << n;
  }
  for (int n = 0; n < calls + 1; ++n) {
    const bool swaps = n % 2 == 0;
    const pid_t child = ::fork();
    if (child == 0) {
      int call = 0;
      NoExchange cannot;
      io::set_fault_hook([&](io::DiskCall what, const fs::path& path, size_t&) {
        if (call++ == n) ::_exit(0);
        return swaps ? 0 : cannot(what, path);
      });
      export_model(after, config, out, options);
      ::_exit(1);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    killed += WIFEXITED(status) && WEXITSTATUS(status) == 0;
    // Without swapping, between the two renames the old one carries another name; the next start puts it back.
    if (swaps || fs::exists(out)) {
      const auto files = files_of(out);
      EXPECT_TRUE(files == old_files || files == new_files) << "killed at call " << n;
    } else {
      EXPECT_EQ(files_of(folder_ / "place/.out.t6-old"), old_files) << "killed at call " << n;
    }
    export_model(before, config, out, options);
    EXPECT_EQ(files_of(out), old_files);
    EXPECT_EQ(io::list_folder(folder_ / "place"), std::vector<std::string>{"out"}) << "killed at call " << n;
  }
  EXPECT_GT(failed, 20);
  EXPECT_GT(killed, 7);
  measured("R26",
           "a full disk at each of {} disk calls of an export and {} kills: the old export or the new one, whole",
           calls, killed);
}

TEST_F(Export, ReplacesWhereNamesCannotBeSwapped) {
  const ModelConfig config = small_model_config(AttentionKind::tpa);
  const fs::path before = save_random(folder_ / "a", config, 1), after = save_random(folder_ / "b", config, 2);
  const ExportOptions options{.format = ModelFormat::t6, .replace = true};
  export_model(after, config, folder_ / "new", options);
  export_model(before, config, folder_ / "place/out", options);
  NoExchange cannot;
  io::set_fault_hook([&](io::DiskCall what, const fs::path& path, size_t&) { return cannot(what, path); });
  export_model(after, config, folder_ / "place/out", options);
  io::set_fault_hook({});
  EXPECT_EQ(files_of(folder_ / "place/out"), files_of(folder_ / "new"));
  EXPECT_EQ(io::list_folder(folder_ / "place"), std::vector<std::string>{"out"});
}

TEST_F(Export, RefusesWhereNotEnoughIsFree) {
  const Error error = error_of([&] { OutputFolder(folder_ / "out", false, kOwn, uint64_t{1} << 60); });
  EXPECT_EQ(error.code(), ExitCode::io);
  EXPECT_TRUE(contains(error.what(), "are free")) << error.what();
  EXPECT_TRUE(io::list_folder(folder_).empty());
}

TEST_F(Export, TwoAtATimeDoNotMix) {
  const OutputFolder first(folder_ / "out", false, kOwn, 0);
  EXPECT_TRUE(
      contains(error_of([&] { OutputFolder(folder_ / "out", false, kOwn, 0); }).what(), "another process is writing"));
}

TEST_F(Export, ADamagedCheckpointIsNotExported) {
  const ModelConfig config = small_model_config(AttentionKind::mla);
  const fs::path step = save_random(folder_ / "a", config, 1);
  flip_bit(step / "rank-00000.h5", 5000, 3);
  EXPECT_EQ(error_of([&] { export_model(step, config, folder_ / "out", {.format = ModelFormat::deepseek_v3}); }).code(),
            ExitCode::checkpoint);
  EXPECT_FALSE(fs::exists(folder_ / "out"));
}

}  // namespace
}  // namespace t6::checkpoint
