// R6: a checkpoint is verified without a model, a config or a network, as fast as it can be read.
#include <algorithm>

#include "checkpoint/checkpoint.h"
#include "checkpoint/checkpoint_support.h"
#include "support/promise.h"

namespace t6::checkpoint {
namespace {

class CheckpointVerifySpeed : public ScratchTest {
 protected:
  CheckpointVerifySpeed() : ScratchTest(Place::memory) {}
};

TEST_F(CheckpointVerifySpeed, IsThatOfReading) {
  const int64_t mebibytes = test::figure(32, 512);
  const Tensor tensor = random_bits(1, {mebibytes << 18}, DType::f32);
  State state;
  state.tensors = {tensor_ref("params/x", tensor)};
  save(folder_, 1, state);
  double best = 1e9;
  uint64_t bytes = 0;
  for (int i = 0; i < 3; ++i) {
    const std::vector<Verified> all = verify(folder_);
    ASSERT_EQ(all.size(), 1u);
    EXPECT_EQ(all[0].damage, "");
    best = std::min(best, all[0].seconds);
    bytes = all[0].bytes;
  }
  const double speed = static_cast<double>(bytes) / best / 1e9;
  if (test::full_figures()) {
    EXPECT_GE(speed, 1);
  }
  flip_bit(folder_ / "step-00000001/rank-00000.h5", bytes / 2, 3);
  EXPECT_NE(verify(folder_)[0].damage, "");
  test::measured("R6", "{:.1f} GB/s for a checkpoint of {} MiB", speed, bytes >> 20);
}

}  // namespace
}  // namespace t6::checkpoint
