#include "checkpoint/checkpoint.h"

#include <algorithm>
#include <cmath>

#include "checkpoint/checkpoint_support.h"

namespace t6::checkpoint {
namespace {

using Checkpoint = ScratchTest;

std::vector<int64_t> steps(const fs::path& dir) {
  std::vector<int64_t> found;
  for (const Entry& entry : list(dir)) {
    EXPECT_EQ(entry.damage, "") << entry.path;
    found.push_back(entry.step);
  }
  return found;
}

std::vector<std::string> names_in(const fs::path& dir) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(dir)) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

TEST_F(Checkpoint, ComesBackBitForBitInTwoSizes) {
  for (const int64_t rows : {3, 60'000}) {
    const fs::path dir = folder_ / std::to_string(rows);
    const Model saved(1, rows), loaded(100, rows);
    SaveOptions options;
    options.facts = {{"config", "hash"}};
    const Saved result = save(dir, 1200, saved.state(1200), options);
    EXPECT_EQ(result.path, dir / "step-00001200");
    EXPECT_TRUE(result.warnings.empty());
    EXPECT_LE(result.bytes, bytes_needed(saved.state()));
    const std::optional<Loaded> back = load(dir, loaded.state());
    ASSERT_TRUE(back);
    EXPECT_EQ(back->step, 1200);
    EXPECT_EQ(back->scalars, saved.state(1200).scalars);
    EXPECT_EQ(back->facts, options.facts);
    EXPECT_TRUE(back->warnings.empty());
    EXPECT_TRUE(loaded.equals(saved));
  }
}

TEST_F(Checkpoint, TheSameStateIsTheSameBytes) {
  const Model model(1);
  save(folder_ / "a", 7, model.state());
  ::usleep(1'100'000);  // HDF5 keeps times in seconds
  save(folder_ / "b", 7, model.state());
  for (const char* name : {"rank-00000.h5", "manifest.json"}) {
    EXPECT_EQ(io::hash_file(folder_ / "a/step-00000007" / name), io::hash_file(folder_ / "b/step-00000007" / name));
  }
}

TEST_F(Checkpoint, NothingThereIsAFreshStart) {
  const Model model(1);
  EXPECT_FALSE(load(folder_ / "missing", model.state()));
  EXPECT_FALSE(load(folder_, model.state()));
  EXPECT_TRUE(list(folder_ / "missing").empty());
  write_bytes(folder_ / "step-1", "");  // not a name of ours
  write_bytes(folder_ / "step-000000012", "");
  io::make_directories(folder_ / ".tmp-step-00000001");
  EXPECT_FALSE(load(folder_, model.state()));
  write_bytes(folder_ / "step-00000001", "");  // ours, and not what it should be
  EXPECT_EQ(error_of([&] { load(folder_, model.state()); }).code(), ExitCode::checkpoint);
}

TEST_F(Checkpoint, OneTensorAtATimeIsHeld) {
  State state;
  int calls = 0;
  size_t most = 0;  // bytes of tensors in use when the next one is asked for
  const size_t before = memory::usage().in_use;
  for (int i = 0; i < 20; ++i) {
    const auto get = [&calls, &most] {
      most = std::max(most, memory::usage().in_use);
      ++calls;
      return Tensor::zeros({1000, 100}, DType::f32);
    };
    state.tensors.push_back({fmt::format("params/{}", i), DType::f32, Shape{1000, 100}, get, [](const Tensor&) {}});
  }
  save(folder_, 1, state);
  EXPECT_EQ(calls, 20);
  EXPECT_LE(most, before + 400'000);
}

// As earlier builds saved them: the same files, and each tensor in one line of the manifest.
TEST_F(Checkpoint, FormatVersionOneIsRead) {
  const Model model(1), loaded(50);
  save(folder_, 5, model.state(5));
  const fs::path path = folder_ / "step-00000005/manifest.json";
  nlohmann::json manifest = nlohmann::json::parse(read_bytes(path));
  manifest["version"] = 1;
  manifest.erase("manifest_xxh3");
  for (nlohmann::json& tensor : manifest["tensors"]) {
    tensor["rank"] = 0;
    tensor["xxh3"] = tensor["parts"][0][3];
    tensor.erase("parts");
  }
  std::string body = manifest.dump();
  body.back() = ',';
  write_bytes(path, body + "\"manifest_xxh3\": \"" + io::hash_bytes(std::as_bytes(std::span(body))) + "\"\n}\n");
  ASSERT_EQ(load(folder_, loaded.state())->scalars, model.state(5).scalars);
  EXPECT_TRUE(loaded.equals(model));
  EXPECT_EQ(verify(folder_, true).at(0).damage, "");
}

TEST_F(Checkpoint, DifferencesFromTheModelAreNamed) {
  const Model model(1);
  save(folder_, 1, model.state());
  Model other(1);
  other.tensors[0] = random_bits(1, {64, 32}, DType::f32);
  other.tensors[1] = random_bits(1, {24}, DType::f32);
  other.names[2] = "params/unknown";
  const Error error = error_of([&] { load(folder_, other.state()); });
  EXPECT_EQ(error.code(), ExitCode::checkpoint);
  const std::string text = error.what();
  for (const char* part : {"4 differences", "params/embedding.weight is f32 [64, 24] there, expected f32 [64, 32]",
                           "params/blocks.0.norm.weight is bf16 [24] there, expected f32 [24]",
                           "params/unknown is not in the checkpoint", "params/scale is not in the model"}) {
    EXPECT_TRUE(contains(text, part)) << text;
  }
  for (int i = 0; i < 20; ++i) other.add(fmt::format("params/new.{}", i), Tensor::zeros({1}, DType::f32));
  EXPECT_TRUE(contains(error_of([&] { load(folder_, other.state()); }).what(), "and 16 more"));
}

TEST_F(Checkpoint, APartCanBeLoadedAlone) {
  const Model model(1);
  save(folder_, 5, model.state());
  State params;
  Tensor embedding = Tensor::zeros({64, 24}, DType::f32), scale = Tensor::zeros({}, DType::f32),
         norm = Tensor::zeros({24}, DType::bf16);
  params.tensors = {tensor_ref("params/scale", scale), tensor_ref("params/embedding.weight", embedding),
                    tensor_ref("params/blocks.0.norm.weight", norm)};
  EXPECT_EQ(error_of([&] { load(folder_, params); }).code(), ExitCode::checkpoint);
  LoadOptions options;
  options.prefix = "params/";
  EXPECT_EQ(load_one(folder_ / "step-00000005", params, options).step, 5);
  EXPECT_TRUE(same_bits(embedding, model.tensors[0]));
  EXPECT_TRUE(same_bits(norm, model.tensors[1]));
  EXPECT_TRUE(same_bits(scale, model.tensors[2]));
}

// What the model is, the checkpoint itself says: it is asked of one that is intact, and read once.
TEST_F(Checkpoint, AStateMayDependOnItsFacts) {
  const Model saved(1, 2), other(2, 2);
  save(folder_, 5, saved.state(5), {.retention = {}, .facts = {{"rows", 2}}});
  save(folder_, 6, other.state(6), {.retention = {}, .facts = {{"rows", 3}}});
  flip_bit(folder_ / "step-00000006/rank-00000.h5", 4000, 0);
  std::vector<int64_t> asked;
  std::optional<Model> loaded;
  const StateOf state_of = [&](const Loaded& about) {
    asked.push_back(about.step);
    EXPECT_EQ(about.path, folder_ / "step-00000005");
    EXPECT_EQ(about.scalars, saved.state(5).scalars);
    loaded.emplace(99, about.facts.at("rows"));
    return loaded->state();
  };
  const std::optional<Loaded> found = load(folder_, state_of);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->step, 5);
  EXPECT_EQ(found->warnings.size(), 1u);
  EXPECT_EQ(asked, std::vector<int64_t>{5});
  EXPECT_TRUE(loaded->equals(saved));
  EXPECT_EQ(load_one(folder_ / "step-00000005", state_of).facts, (nlohmann::json{{"rows", 2}}));
  EXPECT_EQ(error_of([&] { load_one(folder_ / "step-00000006", state_of); }).code(), ExitCode::checkpoint);
  EXPECT_EQ(asked.size(), 2u);
}

TEST_F(Checkpoint, RetentionKeepsTheLastAndTheMultiples) {
  const Model model(1, 2);
  SaveOptions options;
  options.retention = {2, 50};
  for (int64_t step = 10; step <= 130; step += 10) save(folder_, step, model.state(), options);
  EXPECT_EQ(steps(folder_), (std::vector<int64_t>{50, 100, 120, 130}));
  EXPECT_EQ(names_in(folder_).size(), 4u);
  // After a return to an earlier step, what is later stays and what was just saved is kept.
  options.retention = {1, 0};
  save(folder_, 110, model.state(), options);
  EXPECT_EQ(steps(folder_), (std::vector<int64_t>{110, 120, 130}));
}

// R5 and retention: what cannot be loaded again may not push out what can.
TEST_F(Checkpoint, RetentionDoesNotCountDamagedOnes) {
  const Model model(1, 2);
  SaveOptions options;
  options.retention = {100, 0};
  for (int64_t step = 10; step <= 60; step += 10) save(folder_, step, model.state(step), options);
  flip_bit(folder_ / "step-00000050/rank-00000.h5", 4000, 0);  // only reading it shows
  fs::remove(folder_ / "step-00000040/rank-00000.h5");
  fs::remove(folder_ / "step-00000010/manifest.json");  // beyond those that are counted
  options.retention = {3, 0};
  const Saved saved = save(folder_, 70, model.state(70), options);
  EXPECT_EQ(names_in(folder_), (std::vector<std::string>{"step-00000010", "step-00000030", "step-00000040",
                                                         "step-00000050", "step-00000060", "step-00000070"}));
  ASSERT_EQ(saved.warnings.size(), 3u);
  EXPECT_TRUE(contains(saved.warnings[0], "step 50 is damaged") && contains(saved.warnings[0], "not counted"))
      << saved.warnings[0];
  // Said once; and what was repaired counts again.
  flip_bit(folder_ / "step-00000050/rank-00000.h5", 4000, 0);
  options.retention = {2, 0};
  EXPECT_TRUE(save(folder_, 55, model.state(55), options).warnings.empty());
  EXPECT_EQ(names_in(folder_), (std::vector<std::string>{"step-00000010", "step-00000040", "step-00000050",
                                                         "step-00000055", "step-00000060", "step-00000070"}));
}

TEST_F(Checkpoint, LeftoversAreRemovedAndForeignFilesAreNot) {
  const Model model(1, 2);
  save(folder_, 1, model.state());
  for (const char* name :
       {".tmp-step-00000002", ".trash-step-00000000", ".tmp-other", "step-notes", ".old-step-00000001"}) {
    io::make_directories(folder_ / name);
    write_bytes(folder_ / name / "file", "x");
  }
  fs::rename(folder_ / "step-00000001", folder_ / "moved");
  fs::copy(folder_ / "moved", folder_ / ".old-step-00000003", fs::copy_options::recursive);
  fs::rename(folder_ / "moved", folder_ / "step-00000001");
  EXPECT_EQ(steps(folder_), (std::vector<int64_t>{1}));
  open_folder(folder_);
  EXPECT_EQ(names_in(folder_),
            (std::vector<std::string>{".tmp-other", "step-00000001", "step-00000003", "step-notes"}));
  open_folder(folder_ / "new/folder");
  EXPECT_TRUE(fs::is_directory(folder_ / "new/folder"));
}

TEST_F(Checkpoint, ASecondSaveOfAStepReplacesTheFirst) {
  const Model first(1), second(2), loaded(3);
  save(folder_, 1, first.state());
  flip_bit(folder_ / "step-00000001/rank-00000.h5", 5000, 1);
  save(folder_, 1, second.state());
  EXPECT_EQ(names_in(folder_), (std::vector<std::string>{"step-00000001"}));
  ASSERT_TRUE(load(folder_, loaded.state()));
  EXPECT_TRUE(loaded.equals(second));
}

TEST_F(Checkpoint, VerifyListAndInspectSayWhatIsThere) {
  Model model(1);
  const float values[] = {3, -4, NAN, INFINITY, -INFINITY};
  model.add("params/probe", Tensor::from<float>({5}, std::span<const float>(values)));
  save(folder_, 1, model.state(1));
  save(folder_, 2, model.state(2));
  flip_bit(folder_ / "step-00000001/rank-00000.h5", 4000, 0);
  for (const bool deep : {false, true}) {
    const std::vector<Verified> verified = verify(folder_, deep);
    ASSERT_EQ(verified.size(), 2u);
    EXPECT_TRUE(contains(verified[0].damage, "step-00000001/rank-00000.h5"));
    EXPECT_EQ(verified[1].damage, "");
    EXPECT_EQ(verified[1].step, 2);
    EXPECT_EQ(verified[1].bytes, fs::file_size(folder_ / "step-00000002/rank-00000.h5"));
    EXPECT_EQ(to_json(verified[1])["intact"], true);
  }
  EXPECT_EQ(verify(folder_ / "step-00000002/").size(), 1u);
  fs::copy(folder_ / "step-00000002", folder_ / "best", fs::copy_options::recursive);
  EXPECT_EQ(verify(folder_ / "best").at(0).damage, "");
  EXPECT_EQ(error_of([&] { verify(folder_ / "nothing"); }).code(), ExitCode::checkpoint);
  EXPECT_EQ(error_of([&] { inspect(folder_ / "step-00000001"); }).code(), ExitCode::checkpoint);
  const Inspected inspected = inspect(folder_);
  EXPECT_EQ(inspected.step, 2);
  EXPECT_EQ(inspected.scalars["tokens"], 2000);
  ASSERT_EQ(inspected.tensors.size(), 7u);
  const TensorFacts& probe = inspected.tensors.back();
  EXPECT_EQ(probe.name, "params/probe");
  EXPECT_EQ(probe.norm, 5);
  EXPECT_EQ(probe.min, -4);
  EXPECT_EQ(probe.max, 3);
  EXPECT_EQ(probe.nan_count, 1);
  EXPECT_EQ(probe.infinite_count, 2);
  EXPECT_EQ(to_json(inspected)["tensors"][6]["shape"], nlohmann::json({5}));
  EXPECT_EQ(to_json(list(folder_)[0])["tensors"], 7);
}

TEST_F(Checkpoint, MistakesOfTheCallerAreRefusedBeforeAnythingIsWritten) {
  Model model(1);
  const auto refused = [&](const State& state, int64_t step = 1) {
    EXPECT_EQ(error_of([&] { save(folder_ / "dir", step, state); }).code(), ExitCode::internal);
    EXPECT_TRUE(steps(folder_ / "dir").empty());
    EXPECT_TRUE(!fs::exists(folder_ / "dir") || names_in(folder_ / "dir").empty());
  };
  State state = model.state();
  refused(state, -1);
  state.tensors.push_back(state.tensors[0]);
  refused(state);
  state = model.state();
  state.tensors[0].name = "../x";
  refused(state);
  state = model.state();
  state.tensors[0].shape = Shape{1};
  refused(state);
  state = model.state();
  state.scalars["loss"] = NAN;
  refused(state);
}

}  // namespace
}  // namespace t6::checkpoint
