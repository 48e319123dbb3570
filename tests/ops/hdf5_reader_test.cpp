#include "support/hdf5_reader.h"

#include <gtest/gtest.h>

#include <stdexcept>

namespace t6::test {
namespace {

TEST(Hdf5Reader, ReadsDatasetsAndNames) {
  const Hdf5Reader file(golden_path("factor_decode"));
  EXPECT_EQ(file.datasets("/").size(), 32U);
  EXPECT_EQ(file.datasets("h34_rq6_rk2_rv2_d64").front(), "ak");
  const Hdf5Dataset lengths = file.read("h34_rq6_rk2_rv2_d64/lengths");
  EXPECT_EQ(lengths.shape, (std::vector<int64_t>{3}));
  EXPECT_EQ(lengths.values, (std::vector<double>{1, 130, 67}));
  EXPECT_TRUE(file.has("h34_rq6_rk2_rv2_d64/ak"));
  EXPECT_FALSE(file.has("h34_rq6_rk2_rv2_d64/none"));
  EXPECT_FALSE(file.has("none/ak"));
}

TEST(Hdf5Reader, ReadsStringAttributes) {
  const Hdf5Reader file(golden_path("mha"));
  EXPECT_EQ(file.attribute("/", "config").substr(0, 13), "{\"n_layer\": 2");
}

TEST(Hdf5Reader, SaysWhatIsMissing) {
  EXPECT_THROW(Hdf5Reader("no_such_file.h5"), std::runtime_error);
  const Hdf5Reader file(golden_path("factor_decode"));
  EXPECT_THROW(file.read("none"), std::runtime_error);
  EXPECT_THROW(file.attribute("/", "none"), std::runtime_error);
}

}  // namespace
}  // namespace t6::test
