#include "base/format.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace t6 {
namespace {

TEST(Format, CountKeepsThreeDigits) {
  EXPECT_EQ(format_count(0), "0");
  EXPECT_EQ(format_count(7), "7");
  EXPECT_EQ(format_count(0.5), "0.50");
  EXPECT_EQ(format_count(12.34), "12.3");
  EXPECT_EQ(format_count(999), "999");
  EXPECT_EQ(format_count(1000), "1.00k");
  EXPECT_EQ(format_count(9994), "9.99k");
  EXPECT_EQ(format_count(9996), "10.0k");
  EXPECT_EQ(format_count(958'900), "959k");
  EXPECT_EQ(format_count(999'600), "1.00M");
  EXPECT_EQ(format_count(123.4e6), "123M");
  EXPECT_EQ(format_count(4.56e9), "4.56B");
  EXPECT_EQ(format_count(1.5e15), "1500T");
  EXPECT_EQ(format_count(-12'300), "-12.3k");
}

TEST(Format, BillionsFromATenthOn) {
  EXPECT_EQ(format_billions(820e3), "820k");
  EXPECT_EQ(format_billions(99.1e6), "99.1M");
  EXPECT_EQ(format_billions(99.6e6), "0.10B");
  EXPECT_EQ(format_billions(590e6), "0.59B");
  EXPECT_EQ(format_billions(999e6), "1.00B");
  EXPECT_EQ(format_billions(12.34e9), "12.3B");
}

TEST(Format, MemoryInMultiplesOf1024) {
  EXPECT_EQ(format_memory(0), "0");
  EXPECT_EQ(format_memory(999), "999");
  EXPECT_EQ(format_memory(1000), "0.98K");
  EXPECT_EQ(format_memory(1024), "1.00K");
  EXPECT_EQ(format_memory(33'500'000'000), "31.2G");
  EXPECT_EQ(format_memory(~uint64_t{0}), "16.0E");
}

TEST(Format, BytesInMultiplesOf1000) {
  EXPECT_EQ(format_bytes(512), "512 B");
  EXPECT_EQ(format_bytes(999.7), "1.00 kB");
  EXPECT_EQ(format_bytes(104e6), "104 MB");
  EXPECT_EQ(format_bytes(1.234e9), "1.23 GB");
}

TEST(Format, DurationsHaveTwoUnits) {
  EXPECT_EQ(format_duration(0), "0 ms");
  EXPECT_EQ(format_duration(0.512), "512 ms");
  EXPECT_EQ(format_duration(0.9996), "1.0s");
  EXPECT_EQ(format_duration(12.34), "12.3s");
  EXPECT_EQ(format_duration(59.97), "1m00s");
  EXPECT_EQ(format_duration(247), "4m07s");
  EXPECT_EQ(format_duration(3599.4), "59m59s");
  EXPECT_EQ(format_duration(3599.6), "1h00m");
  EXPECT_EQ(format_duration(13 * 3600 + 42 * 60 + 20), "13h42m");
  EXPECT_EQ(format_duration(24 * 3600 - 10), "1d00h");
  EXPECT_EQ(format_duration(76 * 3600), "3d04h");
  EXPECT_EQ(format_duration(-1), "?");
  EXPECT_EQ(format_duration(std::numeric_limits<double>::infinity()), "?");
}

TEST(Format, RatesGroupsAndWhatIsNoNumber) {
  EXPECT_EQ(format_rate(6e-4), "6.0e-04");
  EXPECT_EQ(format_rate(0), "0.0e+00");
  EXPECT_EQ(format_grouped(0), "0");
  EXPECT_EQ(format_grouped(999), "999");
  EXPECT_EQ(format_grouped(1000), "1,000");
  EXPECT_EQ(format_grouped(1'234'567), "1,234,567");
  EXPECT_EQ(format_count(std::nan("")), "nan");
  EXPECT_EQ(format_count(-std::numeric_limits<double>::infinity()), "-inf");
}

}  // namespace
}  // namespace t6
