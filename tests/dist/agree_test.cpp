// Errors that all ranks have alike, and those that are none.
#include "dist/agree.h"

#include <gtest/gtest.h>

#include "support/thread_ranks.h"

namespace t6::dist {
namespace {

// What was thrown on each of two ranks: "agreed" on rank 0, "said" on the others, "as it was".
std::string thrown_by(int rank, ExitCode code) {
  std::string thrown;
  test::on_ranks(2, [&](const std::shared_ptr<Communicator>& communicator) {
    if (communicator->rank() != rank) return;
    try {
      alike(*communicator, [&] { fail(code, "it failed"); });
    } catch (const AgreedError&) {
      thrown = "agreed";
    } catch (const SaidElsewhere&) {
      thrown = "said";
    } catch (const Error&) {
      thrown = "as it was";
    }
  });
  return thrown;
}

TEST(Agree, AnOperationThatFailedBecauseARankIsGoneIsNoErrorOfAll) {
  EXPECT_EQ(thrown_by(0, ExitCode::data), "agreed");
  EXPECT_EQ(thrown_by(1, ExitCode::data), "said");
  EXPECT_EQ(thrown_by(0, ExitCode::peer), "as it was");
  EXPECT_EQ(thrown_by(1, ExitCode::peer), "as it was");
}

}  // namespace
}  // namespace t6::dist
