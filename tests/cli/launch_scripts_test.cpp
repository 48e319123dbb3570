// scripts/launch: what slurm.sh does when the job's time is over or it is pre-empted, with an srun and an scontrol of
// the test.
#include <gtest/gtest.h>

#include <csignal>
#include <thread>

#include "cli/program.h"

namespace t6::test {
namespace {

class SlurmScript : public Program {
 protected:
  void SetUp() override {
    Program::SetUp();
    // Ranks that save after a signal.
    program("bin/srun",
            "trap 'exit 138' USR1\ntrap 'exit 143' TERM\n[ -z \"${ENDS_WITH:-}\" ] || exit \"$ENDS_WITH\"\n"
            "echo $$ > srun.pid\nwhile :; do sleep 0.02; done\n");
    program("bin/scontrol",
            "echo \"$*\" >> scontrol.log\n[ \"$1\" = show ] || exit 0\n"
            "echo \"   PreemptEligibleTime=2026-01-02T03:04:05 PreemptTime=$PREEMPTED\"\n");
  }
  void program(const std::string& name, const std::string& text) const {
    write(name, "#!/usr/bin/env bash\n" + text);
    std::filesystem::permissions(folder() / name, std::filesystem::perms::owner_all);
  }
  // Sends `signal` to the job's script, or with `to_ranks` to the ranks alone; 0: the ranks end with `ends_with`.
  Outcome job(const std::string& preempted, int signal, bool to_ranks = false,
              const std::string& ends_with = "") const {
    for (const char* name : {"srun.pid", "scontrol.log"}) std::filesystem::remove(folder() / name);
    const std::string path = (folder() / "bin").string() + ":" + std::getenv("PATH");
    const double started = seconds_now();
    const pid_t script =
        start_program(T6_SOURCE_DIR "/scripts/launch/slurm.sh", {"--config", "x.yaml"}, folder(),
                      {{"PATH", path}, {"SLURM_JOB_ID", "77"}, {"PREEMPTED", preempted}, {"ENDS_WITH", ends_with}});
    if (signal != 0) {
      while (read("srun.pid").empty() && seconds_now() < started + 60) {
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
      }
      const int ranks = std::atoi(read("srun.pid").c_str());
      EXPECT_GT(ranks, 0);
      ::kill(to_ranks ? ranks : script, signal);
      // Slurm's own SIGTERM comes to the ranks as well, a little later.
      if (signal == SIGTERM && !to_ranks) {
        std::this_thread::sleep_for(std::chrono::milliseconds(300));
        EXPECT_EQ(::kill(ranks, SIGTERM), 0) << "the script passed it on: the ranks would get it twice";
      }
    }
    return finish_program(script, folder(), started);
  }
  bool requeued() const { return read("scontrol.log").find("requeue 77") != std::string::npos; }
};

constexpr const char* kNever = "None";
constexpr const char* kNow = "2026-11-22T10:00:00";

TEST_F(SlurmScript, TheEndOfTheTimeRequeuesTheJob) {
  EXPECT_EQ(job(kNever, SIGUSR1).code, 138);
  EXPECT_TRUE(requeued());
}

TEST_F(SlurmScript, PreemptionRequeuesTheJob) {
  EXPECT_EQ(job(kNow, SIGTERM, /*to_ranks=*/true).code, 143);
  EXPECT_TRUE(requeued());
  EXPECT_EQ(job(kNow, SIGTERM).code, 143);
  EXPECT_TRUE(requeued());
}

TEST_F(SlurmScript, NoOtherEndDoes) {
  EXPECT_EQ(job(kNever, SIGTERM, /*to_ranks=*/true).code, 143);
  EXPECT_FALSE(requeued()) << "it was cancelled";
  EXPECT_EQ(job(kNever, SIGTERM).code, 143);
  EXPECT_FALSE(requeued()) << "it was cancelled";
  for (const char* code : {"0", "7", "138"}) {
    EXPECT_EQ(job(kNow, 0, false, code).code, std::atoi(code));
    EXPECT_FALSE(requeued()) << code;
  }
}

}  // namespace
}  // namespace t6::test
