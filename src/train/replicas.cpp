#include "train/replicas.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <map>

#include "base/io.h"
#include "dist/agree.h"

namespace t6::train {
namespace {

struct Replicated {
  std::string prefix;
  Tensor flat;
};

std::string hash_of(const Tensor& values) {
  const auto* bytes = static_cast<const std::byte*>(values.raw());
  return io::hash_bytes({bytes, values.bytes()});
}

// Ranks whose text is not that of most ranks; of the first of them where several are as many.
std::vector<size_t> odd_ones(const std::vector<std::string>& texts) {
  std::map<std::string, size_t> votes;
  for (const std::string& text : texts) ++votes[text];
  const std::string* most = &texts.front();
  for (const std::string& text : texts) {
    if (votes[text] > votes[*most]) most = &text;
  }
  std::vector<size_t> odd;
  for (size_t rank = 0; rank < texts.size(); ++rank) {
    if (texts[rank] != *most) odd.push_back(rank);
  }
  return odd;
}

}  // namespace

void require_equal_replicas(const ParameterStore& store, const AdamW& optimizer, const DataParallel& parallel,
                            int64_t step) {
  std::vector<Replicated> all{{"params/", store.compute()}};
  if (!parallel.zero) {
    if (!store.master().shares_storage_with(store.compute())) all.push_back({"masters/", store.master()});
    all.push_back({"adamw/m/", optimizer.first_moment()});
    all.push_back({"adamw/v/", optimizer.second_moment()});
  }
  std::vector<std::string> names, hashes;
  for (const Replicated& each : all) {
    store.for_each_view([&](const Parameter& p, const ParameterView& v) {
      names.push_back(each.prefix + v.name);
      hashes.push_back(hash_of(store.gather(each.flat, p, v)));
    });
  }
  dist::Communicator& communicator = *parallel.communicator;
  const std::vector<std::string> texts = communicator.all_gather_text(fmt::format("{}", fmt::join(hashes, "")));
  const std::vector<size_t> odd = odd_ones(texts);
  if (odd.empty()) return;
  size_t usual = 0;
  while (std::find(odd.begin(), odd.end(), usual) != odd.end()) ++usual;
  const std::string &one = texts[odd.front()], &other = texts[usual];
  const auto first = std::mismatch(one.begin(), one.end(), other.begin()).first - one.begin();
  const size_t at = static_cast<size_t>(first) / hashes.front().size();
  dist::alike(communicator, [&] {
    fail(ExitCode::numeric,
         "after step {} the ranks no longer hold the same numbers: {} of rank {} differs. A rank's memory or its GPU "
         "may be faulty; go on from an older checkpoint without that machine (t6 checkpoint verify tells which are "
         "intact)",
         step, names[at], fmt::join(odd, ", "));
  });
}

}  // namespace t6::train
