// R20: nothing is written outside the run or output folder, nothing is loaded or started as code, no network is used.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/io.h"
#include "confined.h"
#include "run_support.h"
#include "support/promise.h"

namespace t6::test {
namespace {

using data::testing::read_file;
using data::testing::write_file;

class RunConfined : public RunTest {
 protected:
  void SetUp() override {
    fs::create_directories(folder() / "out");
    fs::create_directories(outside());
    write_file(outside() / "victim", "precious\n");
    write_file(folder() / "text.txt", std::string(3000, 'a') + " b c d\n");
    std::string ranks;
    const char* digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (int byte = 0; byte < 256; ++byte) {
      ranks += std::string{digits[byte >> 2], digits[(byte & 3) << 4], '=', '='} + " " + std::to_string(byte) + "\n";
    }
    write_file(folder() / "bytes.tiktoken", ranks);
  }
  fs::path outside() const { return folder() / "outside"; }

  ConfinedOutcome confined_driver(const std::string& misbehaviour) {
    fs::remove_all(run_folder("out/run"));
    return run_confined(T6_DRIVER, {"train", "--config", "config.yaml", "run.dir=out/run", "train.steps=6"}, folder(),
                        folder() / "out", {{"T6_MISBEHAVE", misbehaviour}});
  }
  // The program, which makes none of the calls that are refused.
  Outcome confined(const std::vector<std::string>& arguments) {
    ++commands_;
    const ConfinedOutcome outcome = run_confined(T6_PROGRAM, arguments, folder(), folder() / "out");
    EXPECT_EQ(outcome.refused, std::vector<std::string>()) << arguments[0] << "\n" << outcome.err;
    return outcome;
  }
  // What lies in the folder but below out/ and the outputs of programs.
  std::map<std::string, std::string> surroundings() const {
    auto tree = tree_of(folder());
    std::erase_if(tree, [](const auto& entry) {
      return entry.first.starts_with("out") ? !entry.first.starts_with("outside")
                                            : entry.first == kStandardOutput || entry.first == kStandardError;
    });
    return tree;
  }
  void copy(const fs::path& from, const fs::path& to) const {
    fs::remove_all(to);
    fs::copy(from, to, fs::copy_options::recursive | fs::copy_options::copy_symlinks);
  }
  // Changes the newest manifest and gives it the hash that it should have then, as somebody with bad intent can.
  void forge(const std::string& run, const std::function<void(nlohmann::json&)>& change) const {
    const fs::path path = manifest(run, kSteps);
    auto json = nlohmann::ordered_json::parse(read_file(path));
    nlohmann::json plain = json;
    change(plain);
    nlohmann::ordered_json changed;
    for (const auto& [key, value] : json.items()) {
      if (key != "manifest_xxh3" && plain.contains(key)) changed[key] = nlohmann::ordered_json(plain[key]);
    }
    std::string body = changed.dump(1);
    body = body.substr(0, body.rfind('\n')) + ",\n ";
    write_file(path, body + "\"manifest_xxh3\": \"" + io::hash_bytes(std::as_bytes(std::span(body))) + "\"\n}\n");
  }
  int commands_ = 0;
};

// ---- Controls: what the confinement is for, it finds.

TEST_F(RunConfined, ControlNetworkProgramsAndWritesAreFound) {
  using Calls = std::vector<std::string>;
  const ConfinedOutcome good = confined_driver("");
  ASSERT_EQ(good.code, 0) << good.err;
  EXPECT_EQ(good.refused, Calls());
  EXPECT_EQ(confined_driver("socket").refused, Calls{"socket"});
  // By a child that the program does not wait for, and that takes its time.
  EXPECT_EQ(confined_driver("exec").refused, (Calls{"execve", "execveat"}));
  const auto before = surroundings();
  confined_driver((outside() / "new").string());
  if (kernel_has_landlock()) {
    EXPECT_EQ(surroundings(), before);
  } else {
    EXPECT_NE(surroundings(), before);
  }
  // Without the kernel's help the comparison of files sees it.
  drive("out/run", {{"T6_MISBEHAVE", (outside() / "new").string()}}, {"run.dir=out/run"});
  EXPECT_NE(surroundings(), before);
}

// ---- What a user does every day needs nothing else.

TEST_F(RunConfined, OrdinaryCommandsStayInTheirFolder) {
#ifndef T6_HAVE_PROGRAM
  GTEST_SKIP() << "needs the program";
#endif
  const auto before = surroundings();
  const std::vector<std::vector<std::string>> commands = {
      {"train", "--config", "config.yaml", "run.dir=out/run", "model.vocab_size=300", "train.steps=20"},
      {"train", "--config", "config.yaml", "run.dir=out/run", "model.vocab_size=300"},
      {"train", "--config", "config.yaml", "run.dir=out/run", "model.vocab_size=300", "--dry-run"},
      {"eval", "out/run"},
      {"generate", "out/run", "--tokenizer", "bytes.tiktoken", "--prompt", "abc", "--tokens", "5"},
      {"checkpoint", "list", "out/run"},
      {"checkpoint", "verify", "out/run", "--deep"},
      {"checkpoint", "inspect", "out/run"},
      {"plot", "out/run", "--out", "out/curves.svg"},
      {"tokenizer", "train", "--input", "text.txt", "--vocab", "260", "--out", "out/t.tiktoken"},
      {"tokenizer", "info", "bytes.tiktoken"},
      {"tokenize", "--tokenizer", "bytes.tiktoken", "--out", "out/text", "text.txt"},
      {"tokenize", "--tokenizer", "bytes.tiktoken", "--out", "out/text5", "--shard-form", "h5", "text.txt"},
      {"shards", "out/text_*.bin"},
      {"shards", "out/text5_*.h5"},
      {"info", "config.yaml"},
      {"help", "config"},
      {"--version"},
  };
  for (const auto& command : commands) {
    const Outcome outcome = confined(command);
    EXPECT_EQ(outcome.code, 0) << command[0] << "\n" << outcome.err;
  }
  EXPECT_EQ(surroundings(), before);
  measured("R20", "{} ordinary commands under seccomp{}: no socket, no program, no write outside", commands_,
           kernel_has_landlock() ? " and Landlock" : "");
}

// ---- Material of an enemy.

TEST_F(RunConfined, ForgedManifestsLeadNowhere) {
  const Outcome made = train("out/good", {"run.dir=out/good"});
  ASSERT_EQ(made.code, 0) << made.err;
  const std::string victim = (outside() / "victim").string();
  using Change = std::function<void(nlohmann::json&)>;
  std::vector<Change> changes;
  for (const std::string& name :
       {std::string("../rank-00000.h5"), std::string("../../../../outside/victim"), victim, std::string("/dev/zero"),
        std::string("/etc/passwd"), std::string(".."), std::string("."), std::string(""), std::string("rank-00000.h5/"),
        std::string("./rank-00000.h5"), std::string("rank-00001.h5"), std::string("rank-00000.h5\0x", 15),
        std::string("~/victim"), std::string("$(touch outside/victim)"), std::string("|touch outside/victim"),
        std::string("..\\..\\victim"), std::string("file://") + victim, std::string(5000, 'a')}) {
    changes.emplace_back([name](nlohmann::json& json) { json["files"][0]["name"] = name; });
    changes.emplace_back([name](nlohmann::json& json) { json["tensors"][0]["name"] = name; });
  }
  for (const std::string name : {"params/../../victim", "/params/x", "params//x", "params/x/..", "params/\x01"}) {
    changes.emplace_back([name](nlohmann::json& json) { json["tensors"][0]["name"] = name; });
  }
  for (const char* key : {"run.dir", "data.train"}) {
    changes.emplace_back([key, victim](nlohmann::json& json) {
      std::string yaml = json["facts"]["config"];
      const std::string name = std::string(key).substr(std::string(key).find('.') + 1) + ": ";
      const size_t at = yaml.find("  " + name) + 2 + name.size();
      const std::string wanted = name == "dir: " ? victim : "[" + victim + "]";
      json["facts"]["config"] = yaml.replace(at, yaml.find('\n', at) - at, wanted);
    });
  }
  const auto before = surroundings();
  int refused = 0;
  const size_t stride = static_cast<size_t>(figure(4, 1));
  int forged = 0;
  for (size_t i = 0; i < changes.size(); i += stride, ++forged) {
    copy(folder() / "out" / "good", folder() / "out" / "run");
    for (const char* older : {"step-00000050", "step-00000055"}) fs::remove_all(checkpoints("out/run") / older);
    forge("out/run", changes[i]);
    for (const std::vector<std::string>& command :
         std::vector<std::vector<std::string>>{{"train", "--config", "config.yaml", "run.dir=out/run"},
                                               {"checkpoint", "verify", "out/run"},
                                               {"eval", "out/run"}}) {
      const Outcome outcome = confined(command);
      EXPECT_EQ(outcome.signal, 0) << outcome.err;
      EXPECT_TRUE(outcome.code == 4 || outcome.code == 3 || outcome.code == 0) << outcome.code << outcome.err;
      refused += outcome.code != 0 ? 1 : 0;
    }
    EXPECT_EQ(surroundings(), before);
    if (HasFailure()) break;
  }
  EXPECT_GE(refused, forged * 2);
  measured("R20", "{} forged manifests, 3 commands each: nothing read or written by their paths", forged);
}

TEST_F(RunConfined, LinksWithinARunLeadNowhere) {
  ASSERT_EQ(train("out/good", {"run.dir=out/good", "train.steps=30"}).code, 0);
  fs::create_directories(outside() / "folder" / "step-00000001");
  write_file(outside() / "folder" / "step-00000001" / "manifest.json", "precious\n");
  const std::vector<std::string> files = {"metrics.jsonl",
                                          "timing.jsonl",
                                          "resolved.yaml",
                                          "resolved.yaml.tmp",
                                          "resolved.yaml.1.tmp",
                                          "resolved.yaml.1",
                                          "env.json",
                                          "env.json.tmp",
                                          "train.log",
                                          "run.lock",
                                          "metrics.jsonl.tmp",
                                          "timing.jsonl.tmp",
                                          "checkpoints",
                                          "tensorboard",
                                          "checkpoints/step-00000035",
                                          "checkpoints/step-00000010",
                                          "checkpoints/.tmp-step-00000035",
                                          "checkpoints/.trash-step-00000020",
                                          "checkpoints/.old-step-00000035",
                                          "checkpoints/step-00000030"};
  const auto before = surroundings();
  const std::vector<fs::path> targets{outside() / "victim", outside() / "folder", outside() / "nothing"};
  int links = 0;
  for (const std::string& file : files) {
    // Each file to one of the three, or to all.
    for (int i = 0; i < figure(1, 3); ++i) {
      const fs::path& target = targets[static_cast<size_t>(links) % targets.size()];
      copy(folder() / "out" / "good", folder() / "out" / "run");
      const fs::path link = run_folder("out/run") / file;
      fs::remove_all(link);
      fs::create_symlink(target, link);
      const Outcome outcome = confined({"train", "--config", "config.yaml", "run.dir=out/run", "train.steps=45"});
      EXPECT_EQ(outcome.signal, 0) << file << outcome.err;
      EXPECT_TRUE(outcome.code == 0 || outcome.code == 4 || outcome.code == 6) << file << outcome.err;
      // Not by the kernel's refusal: the program itself does not follow.
      EXPECT_EQ(outcome.err.find("Permission denied"), std::string::npos) << file << "\n" << outcome.err;
      EXPECT_EQ(surroundings(), before) << file << " -> " << target;
      ++links;
    }
  }
  measured("R20", "{} links planted in a run folder: none followed", links);
}

TEST_F(RunConfined, PathsInConfigsAreOnlyRead) {
  const std::string victim = (outside() / "victim").string();
  const std::vector<Overrides> cases = {
      {"data.tokenizer=" + victim},
      {"data.tokenizer=outside/../outside/victim"},
      {"data.tokenizer=/dev/null"},
      {"data.tokenizer=/proc/self/exe"},
      {"data.tokenizer=$(touch outside/new)"},
      {"data.tokenizer='; touch outside/new'"},
      {"data.tokenizer=`touch outside/new`"},
      {"data.tokenizer=|touch outside/new"},
      {"data.train=['$(touch outside/new)']"},
      {"data.train=['`touch outside/new`*.bin']"},
      {"data.train=[outside/../outside/*]"},
      {"data.train=[../../../../../../../../etc/pass*]"},
      {"data.train=[/proc/self/maps]"},
      {"data.train=[/dev/zero]"},
      {"data.train=[/]"},
      {"data.train=['|touch outside/new']"},
      {"data.train=['http://localhost:1/x.bin']"},
      {"data.train=['s3://bucket/x.bin']"},
      {"data.train=['file://" + victim + "']"},
      {"data.validation=['\\\\server\\share\\x.bin']"},
      {"data.validation=[~/x.bin]"},
      {"data.validation=['${HOME}/x.bin']"},
  };
  const auto before = surroundings();
  for (const Overrides& overrides : cases) {
    std::vector<std::string> command{"train", "--config", "config.yaml", "run.dir=out/run"};
    command.insert(command.end(), overrides.begin(), overrides.end());
    const Outcome outcome = confined(command);
    EXPECT_EQ(outcome.signal, 0) << overrides[0] << outcome.err;
    EXPECT_TRUE(outcome.code == 3 || outcome.code == 2) << overrides[0] << outcome.code << outcome.err;
    EXPECT_EQ(surroundings(), before) << overrides[0];
  }
  measured("R20", "{} paths of a config that point elsewhere, at devices, at the network or at a shell: refused",
           cases.size());
}

}  // namespace
}  // namespace t6::test
