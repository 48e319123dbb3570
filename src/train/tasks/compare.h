// Two models on the same items, pair by pair: far sharper than two scores with their own errors.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "train/tasks/results.h"

namespace t6::train {

struct Comparison {
  TaskName task{};
  std::string metric;  // "acc", "acc_norm"; lambada also "log_probability" of the word, nats
  size_t items = 0;    // in both
  double first = 0, second = 0;
  double difference = 0;    // second - first
  double stderr_of_it = 0;  // sample standard deviation of the pairs' differences over the root of their number
  size_t only_first = 0, only_second = 0;  // right in one alone; both 0 for log_probability
  double p = 1;  // exact McNemar test, two-sided: that these two numbers differ as they do, or more, by chance
};

// Of each task that both folders hold results of, in the tasks' order: acc_norm where there is one, and acc. Of results
// of unequally many items, by --limit, the first ones that both have. Error(data) when there is none, when one is
// unfinished, or when an item was asked another way in one than in the other.
std::vector<Comparison> compare(const std::filesystem::path& first, const std::filesystem::path& second);
std::vector<Comparison> compare(const SavedResults& first, const SavedResults& second, const std::string& first_name,
                                const std::string& second_name);

// Two-sided probability of a split of a + b fair coins at least as uneven as a to b.
double sign_test(size_t a, size_t b);

}  // namespace t6::train
