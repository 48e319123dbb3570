// R25: what determinism depends on is recorded in the checkpoint, and a start elsewhere says what is different.
#include <nlohmann/json.hpp>

#include "run_support.h"
#include "support/promise.h"

namespace t6::test {
namespace {

using data::testing::read_file;

class RunEnvironment : public RunTest {
 protected:
  // Saves the newest checkpoint again with other facts.
  void change_facts(const std::string& run, const std::function<void(nlohmann::json&)>& change) const {
    rewrite_newest(
        run, [](auto&, auto&) {}, [&](nlohmann::json& facts) { change(facts["environment"]); });
  }
};

TEST_F(RunEnvironment, IsRecordedAndADifferenceIsSaid) {
  ASSERT_EQ(train("run", {"train.steps=5"}).code, 0);
  const nlohmann::json recorded = checkpoint::inspect(checkpoints("run")).facts.at("environment");
  for (const char* name : {"t6/commit", "t6/compiler", "t6/flags", "cpu/model", "cpu/instruction_sets",
                           "libraries/oneDNN", "libraries/openmp", "threads/omp_max_threads"}) {
    EXPECT_TRUE(recorded.contains(name)) << name;
  }
  int said = 0;
  for (const auto& [name, value] : recorded.items()) {
    const nlohmann::json old = value;
    change_facts("run", [&](nlohmann::json& facts) { facts[name] = "another one"; });
    const Outcome outcome = train("run", {"train.steps=5"});
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_TRUE(contains(outcome.err, name + ": \"another one\" -> " + old.dump()));
    ++said;
    change_facts("run", [&](nlohmann::json& facts) { facts[name] = old; });
  }
  // Control: nothing is said where nothing differs.
  const Outcome outcome = train("run", {"train.steps=5"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.err.find("was made elsewhere"), std::string::npos) << outcome.err;
  // Threads are what a user changes most easily.
  EXPECT_TRUE(contains(train("run", {"train.steps=10", "run.threads=1"}).err, "omp_max_threads"));
  measured("R25", "{0} facts of build, processor, libraries and threads in every checkpoint; {1} of {0} changes said",
           recorded.size(), said);
}

}  // namespace
}  // namespace t6::test
