// Where the time of profiled steps went: kernels by category, held against measured rates.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/profile.h"
#include "tensor/device.h"
#include "tensor/dtype.h"

namespace t6::cli {

// What a device reaches on work that it does best.
struct Yardsticks {
  double gflops = 0;     // GFLOP/s of a large product
  double gigabytes = 0;  // GB/s of copies in its memory, read and written
};
// Takes a second; on the CPU with all threads.
Yardsticks measure_yardsticks(Device device, DType precision);

std::string product_rate(double gflops);  // "518 GFLOP/s", "790.1 TFLOP/s"
std::string describe(const Yardsticks& yardsticks);

class ProfileTable {
 public:
  // `entries` of `steps` steps that took `seconds` together; what no kernel took has a category of its own.
  ProfileTable(const std::vector<profile::Entry>& entries, double seconds, int64_t steps, const Yardsticks& yardsticks);

  std::string text() const;
  nlohmann::ordered_json to_json() const;

 private:
  struct Category {
    profile::Entry sum;  // of its kernels
    std::vector<profile::Entry> kernels;
  };
  double per_step(double amount) const { return amount / steps_; }
  double share(const profile::Entry& e) const { return e.seconds / seconds_; }

  std::vector<Category> categories_;
  double seconds_;
  double steps_;
  Yardsticks yardsticks_;
};

}  // namespace t6::cli
