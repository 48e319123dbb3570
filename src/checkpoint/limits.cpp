#include "checkpoint/limits.h"

#include <algorithm>
#include <charconv>

#include "base/error.h"
#include "base/format.h"
#include "checkpoint/agreement.h"
#include "checkpoint/manifest.h"

namespace t6::checkpoint {
namespace {

// For config, data hash, environment and whatever else it says once.
constexpr uint64_t kBytesBesideParts = uint64_t{1} << 20;
constexpr uint64_t kValuesBesideParts = 10'000;

struct Size {
  uint64_t parts = 0, bytes = 0, values = 0;
};

uint64_t digits(int64_t number) {
  uint64_t count = 1;
  for (; number >= 10; number /= 10) ++count;
  return count;
}

// What a rank adds to the manifest (manifest.h); a tensor's own entry is counted by rank 0.
Size size_of_share(const State& state, int rank) {
  constexpr uint64_t kPartBytes = std::string_view(R"([,,,""],)").size() + 32, kPartValues = 6;
  constexpr uint64_t kTensorBytes = 64, kTensorValues = 16, kFileBytes = 96, kFileValues = 8;
  Size size{.parts = 0, .bytes = kFileBytes, .values = kFileValues};
  const std::string* last = nullptr;
  for (const TensorRef& ref : state.tensors) {
    if (rank == 0 && (last == nullptr || ref.name != *last)) {
      size.bytes += kTensorBytes + ref.name.size() + 20 * ref.shape.rank();
      size.values += kTensorValues + ref.shape.rank();
    }
    last = &ref.name;
    if (ref.size() == 0) continue;
    ++size.parts;
    size.bytes += kPartBytes + digits(rank) + digits(ref.begin) + digits(ref.size());
    size.values += kPartValues;
  }
  return size;
}

std::string to_text(const Size& size) {
  return fmt::format("{} {} {}", size.parts, size.bytes, size.values);
}

void add(Size& sum, const std::string& text) {
  const char* at = text.data();
  for (uint64_t* number : {&sum.parts, &sum.bytes, &sum.values}) {
    uint64_t value = 0;
    const auto read = std::from_chars(at, text.data() + text.size(), value);
    T6_CHECK(read.ec == std::errc(), "[checkpoint] expected three numbers of a rank, got \"{}\"", text);
    *number += value;
    at = std::min(read.ptr + 1, text.data() + text.size());
  }
}

}  // namespace

void require_manifest_fits(const State& state, const std::function<std::string(double times)>& advice,
                           const Peers& peers) {
  Size all{.parts = 0, .bytes = kBytesBesideParts, .values = kValuesBesideParts};
  for (const std::string& text : gather(peers, to_text(size_of_share(state, peers.rank)))) add(all, text);
  const double times = std::max(static_cast<double>(all.bytes) / static_cast<double>(kMaxManifestBytes),
                                static_cast<double>(all.values) / static_cast<double>(kMaxManifestValues));
  if (times <= 1) return;
  fail(ExitCode::usage,
       "a checkpoint of {} ranks would be cut into {} parts, whose manifest is {:.1f} times as large as one may be: {}",
       peers.world, format_grouped(all.parts), times, advice(times));
}

}  // namespace t6::checkpoint
