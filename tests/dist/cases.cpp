#include "cases.h"

#include <sys/resource.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <thread>

#include "base/error.h"
#include "dist/mpi.h"
#include "dist/nccl.h"
#include "dist/tree.h"
#include "tensor/gpu.h"

namespace t6::test {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Small whole numbers: their sums are exact in every dtype and order.
double whole(int64_t i, int rank) {
  return static_cast<double>((i * 7 + rank * 13 + 5) % 31) - 15;
}
// Numbers in [-1, 1) with all bits of an f32 in use.
float fraction(int64_t i, int leaf) {
  auto x = static_cast<uint32_t>(i) * 2654435761u + static_cast<uint32_t>(leaf) * 40503u + 12345u;
  x ^= x >> 15;
  x *= 2246822519u;
  x ^= x >> 13;
  return static_cast<float>(static_cast<int32_t>(x)) * 0x1p-31f;
}

using Value = std::function<double(int64_t)>;

Tensor tensor_of(int64_t n, DType dtype, Device device, const Value& value) {
  const auto fill = [&]<class T>(T) {
    const Tensor x = Tensor::empty({n}, dtype);
    for (int64_t i = 0; i < n; ++i) {
      if constexpr (std::is_same_v<T, int32_t>) {
        x.data<T>()[i] = static_cast<T>(value(i));
      } else {
        x.data<T>()[i] = T(static_cast<Accumulate<T>>(value(i)));
      }
    }
    return x.to(device);
  };
  return dtype == DType::i32 ? fill(int32_t{}) : dispatch_float(dtype, fill);
}

void require_values(const std::string& what, const Tensor& x, int64_t begin, int64_t count, const Value& expected) {
  const std::vector<double> got = x.slice(begin, {count}).to_doubles();
  for (int64_t i = 0; i < count; ++i) {
    const double want = expected(begin + i);
    T6_CHECK(got[static_cast<size_t>(i)] == want, "{}: element {} of {}: expected {}, got {}", what, begin + i,
             x.numel(), want, got[static_cast<size_t>(i)]);
  }
}

uint64_t hash_of(const Tensor& x) {
  const Tensor host = x.to(kCpu);
  uint64_t hash = 14695981039346656037ull;
  for (size_t i = 0; i < host.bytes(); ++i) {
    hash = (hash ^ static_cast<const unsigned char*>(host.raw())[i]) * 1099511628211ull;
  }
  return hash;
}

void require_same_everywhere(const Rank& r, const std::string& what, const Tensor& x) {
  const std::string mine = std::to_string(hash_of(x));
  for (const std::string& other : r.c.all_gather_text(mine)) {
    T6_CHECK(other == mine, "{}: the ranks got different bits", what);
  }
}

void operations_of(const Rank& r, DType dtype, int64_t slice) {
  const int world = r.c.world(), rank = r.c.rank();
  const int64_t n = slice * world;
  const std::string about = fmt::format(" of {} {} on rank {} of {}", n, name_of(dtype), rank, world);
  const Value mine = [&](int64_t i) { return whole(i, rank); };
  const Value sum = [&](int64_t i) {
    double total = 0;
    for (int k = 0; k < world; ++k) total += whole(i, k);
    return total;
  };

  const Tensor all = tensor_of(n, dtype, r.device, mine);
  r.c.all_reduce(all);
  r.c.wait();
  require_values("all_reduce" + about, all, 0, n, sum);

  const Tensor scattered = tensor_of(n, dtype, r.device, mine);
  r.c.reduce_scatter(scattered);
  r.c.wait();
  require_values("reduce_scatter" + about, scattered, rank * slice, slice, sum);

  // What other ranks' slices hold before must not matter.
  const Tensor gathered =
      tensor_of(n, dtype, r.device, [&](int64_t i) { return i / slice == rank ? whole(i, rank) : 99; });
  r.c.all_gather(gathered);
  r.c.wait();
  require_values("all_gather" + about, gathered, 0, n,
                 [&](int64_t i) { return whole(i, static_cast<int>(i / slice)); });

  for (int root = 0; root < world; ++root) {
    const Tensor x = tensor_of(n, dtype, r.device, mine);
    r.c.broadcast(x, root);
    r.c.wait();
    require_values(fmt::format("broadcast from {}", root) + about, x, 0, n, [&](int64_t i) { return whole(i, root); });
  }

  const int peer = rank ^ 1;
  if (peer < world) {
    const Tensor x = tensor_of(n, dtype, r.device, mine), y = tensor_of(n, dtype, r.device, [](int64_t) { return 99; });
    r.c.exchange(peer, x, y);
    r.c.wait();
    require_values("exchange" + about, y, 0, n, [&](int64_t i) { return whole(i, peer); });
    require_values("what exchange sent" + about, x, 0, n, mine);
  }
  // Round the ring, one direction at a time.
  if (world > 1) {
    const int next = (rank + 1) % world, before = (rank + world - 1) % world;
    const Tensor x = tensor_of(n, dtype, r.device, mine), y = tensor_of(n, dtype, r.device, [](int64_t) { return 99; });
    if (rank == 0) {
      r.c.send(next, x);
      r.c.receive(before, y);
    } else {
      r.c.receive(before, y);
      r.c.send(next, x);
    }
    r.c.wait();
    require_values("send and receive" + about, y, 0, n, [&](int64_t i) { return whole(i, before); });
  }
}

// Sums that are not exact: near the true one, and the same bits on all ranks.
void rounding_sums(const Rank& r, DType dtype) {
  const int64_t n = 300007 * r.c.world();
  const int world = r.c.world();
  const auto input = [&](int64_t i, int rank) {
    return dtype == DType::bf16 ? static_cast<double>(static_cast<float>(bfloat16(fraction(i, rank))))
                                : static_cast<double>(fraction(i, rank));
  };
  const Tensor x = tensor_of(n, dtype, r.device, [&](int64_t i) { return input(i, r.c.rank()); });
  r.c.all_reduce(x);
  r.c.wait();
  require_same_everywhere(r, fmt::format("all_reduce of {}", name_of(dtype)), x);
  const std::vector<double> got = x.to_doubles();
  for (int64_t i = 0; i < n; ++i) {
    double want = 0, most = 0;
    for (int k = 0; k < world; ++k) {
      want += input(i, k);
      most += std::abs(input(i, k));
    }
    // NCCL rounds at every rank.
    const double roundings = std::string(r.c.name()) == "nccl" ? world : 1;
    // f32 sums are off by a few roundings of partial sums, a bf16 one is that and one rounding more.
    const double slack = dtype == DType::f64 ? most * 1e-15 : most * world * 0x1p-24;
    const double near =
        slack + (dtype == DType::bf16 ? (roundings > 1 ? most * roundings : std::abs(want)) * 0x1p-8 * 1.001 : 0);
    T6_CHECK(std::abs(got[static_cast<size_t>(i)] - want) <= near, "all_reduce of {}: element {}: expected {}, got {}",
             name_of(dtype), i, want, got[static_cast<size_t>(i)]);
  }
}

// 256 + 1 is 256 in bf16: added one by one the ones would be lost.
void sums_of_bf16_are_rounded_once(const Rank& r) {
  const int world = r.c.world();
  const Tensor x =
      tensor_of(4 * world, DType::bf16, r.device, [&](int64_t i) { return i % world == r.c.rank() ? 256 : 1; });
  const Tensor y = x.clone();
  const auto want = static_cast<double>(static_cast<float>(bfloat16(static_cast<float>(255 + world))));
  r.c.all_reduce(x);
  r.c.reduce_scatter(y);
  r.c.wait();
  require_values("all_reduce of bf16", x, 0, x.numel(), [&](int64_t) { return want; });
  require_values("reduce_scatter of bf16", y, 4 * r.c.rank(), 4, [&](int64_t) { return want; });
}

}  // namespace

std::unique_ptr<dist::Communicator> connect(const std::string& kind, const dist::Ranks& ranks, Device device) {
  if (kind == "mpi") return dist::mpi(ranks, device);
  T6_CHECK(kind == "nccl", "no communicator {}", kind);
  const std::shared_ptr<dist::Communicator> texts = dist::mpi(ranks, kCpu);
  return dist::nccl(
      ranks, device, [texts](std::string_view text) { return texts->all_gather_text(text); }, true);
}

void operations(const Rank& r) {
  for (const DType dtype : {DType::f32, DType::f64, DType::bf16, DType::i32}) {
    for (const int64_t slice : {1, 1027, 1000003 / r.c.world()}) operations_of(r, dtype, slice);
  }
  operations_of(r, DType::f32, 0);
  for (const DType dtype : {DType::f32, DType::f64, DType::bf16}) rounding_sums(r, dtype);
  if (std::string(r.c.name()) == "mpi") sums_of_bf16_are_rounded_once(r);
}

void many(const Rank& r) {
  constexpr int kTensors = 24, kRounds = 12;
  const int world = r.c.world(), rank = r.c.rank();
  const auto size = [&](int t) { return int64_t{world} * (t % 3 == 0 ? 1 : 100 * t + 1); };
  std::vector<Tensor> xs;
  for (int t = 0; t < kTensors; ++t) {
    xs.push_back(tensor_of(size(t), DType::f64, r.device, [&](int64_t i) { return whole(i + t, rank); }));
  }
  // Each round multiplies by the world what is already the same on all ranks; roots overwrite each other's marks.
  for (int round = 0; round < kRounds; ++round) {
    for (int t = 0; t < kTensors; ++t) {
      r.c.all_reduce(xs[static_cast<size_t>(t)]);
      r.c.broadcast(xs[static_cast<size_t>(t)], (t + round) % world);
      r.c.all_gather(xs[static_cast<size_t>(t)]);
    }
    if (round == 5) r.c.all_gather_text("between");
  }
  r.c.wait();
  for (int t = 0; t < kTensors; ++t) {
    require_values(fmt::format("tensor {}", t), xs[static_cast<size_t>(t)], 0, size(t), [&](int64_t i) {
      double sum = 0;
      for (int k = 0; k < world; ++k) sum += whole(i + t, k);
      return sum * std::pow(world, kRounds - 1);
    });
  }
}

void texts(const Rank& r) {
  const auto text_of = [](int rank) {
    std::string text = "rank " + std::to_string(rank);
    if (rank == 1) return std::string();
    if (rank == 2) text.push_back('\0');
    if (rank == 0) text.append(3000000, '\xFF');
    return text + "end";
  };
  for (int repeat = 0; repeat < 3; ++repeat) {
    const std::vector<std::string> got = r.c.all_gather_text(text_of(r.c.rank()));
    T6_CHECK(static_cast<int>(got.size()) == r.c.world(), "expected {} texts, got {}", r.c.world(), got.size());
    for (int k = 0; k < r.c.world(); ++k) {
      T6_CHECK(got[static_cast<size_t>(k)] == text_of(k), "the text of rank {} arrived otherwise", k);
    }
  }
  for (const std::string& text : r.c.all_gather_text("")) T6_CHECK(text.empty(), "an empty text arrived otherwise");
}

void tree(const Rank& r) {
  const int world = r.c.world(), rank = r.c.rank();
  // One more than fits the scratch memory.
  for (const int64_t n : {int64_t{1}, int64_t{1001}, dist::kTreeScratch / 4 + 1}) {
    const Tensor x =
        tensor_of(n, DType::f32, r.device, [&](int64_t i) { return static_cast<double>(fraction(i, rank)); });
    dist::tree_all_reduce(r.c, x);
    require_same_everywhere(r, "tree_all_reduce", x);
    // Ranks beyond the largest power of two come first, then pairs, then pairs of pairs.
    const int even = static_cast<int>(std::bit_floor(static_cast<unsigned>(world)));
    require_values(fmt::format("tree_all_reduce of {} ranks", world), x, 0, n, [&](int64_t i) {
      std::vector<float> sums;
      for (int k = 0; k < even; ++k) {
        sums.push_back(fraction(i, k));
        if (k + even < world) sums.back() += fraction(i, k + even);
      }
      for (; sums.size() > 1; sums.resize(sums.size() / 2)) {
        for (size_t k = 0; 2 * k < sums.size(); ++k) sums[k] = sums[2 * k] + sums[2 * k + 1];
      }
      return static_cast<double>(sums[0]);
    });
  }
  if (8 % world != 0) return;
  // Eight leaves: this rank's part of them summed as a tree first.
  const int leaves = 8 / world;
  std::vector<Tensor> parts;
  for (int leaf = rank * leaves; leaf < (rank + 1) * leaves; ++leaf) {
    parts.push_back(
        tensor_of(4099, DType::f32, r.device, [&](int64_t i) { return static_cast<double>(fraction(i, leaf)); }));
  }
  for (size_t distance = 1; distance < parts.size(); distance *= 2) {
    for (size_t k = 0; k < parts.size(); k += 2 * distance) parts[k].add_from(parts[k + distance]);
  }
  dist::tree_all_reduce(r.c, parts[0]);
  if (r.c.is_root()) std::printf("tree %016lx\n", hash_of(parts[0]));
}

void waiting(const Rank& r) {
  const Tensor x = Tensor::full({1}, DType::f32, 1, r.device);
  r.c.all_reduce(x);
  r.c.wait();
  const auto processor_seconds = [] {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    double seconds = 0;
    for (const timeval& time : {usage.ru_utime, usage.ru_stime}) {
      seconds += static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
    }
    return seconds;
  };
  const double before = processor_seconds();
  const auto start = Clock::now();
  if (r.c.rank() == 1) std::this_thread::sleep_for(std::chrono::seconds(1));
  r.c.all_reduce(x);
  r.c.wait();
  const double waited = seconds_since(start), used = processor_seconds() - before;
  if (r.c.is_root()) std::printf("waited %.3f s with %.3f s of processor time\n", waited, used);
  T6_CHECK(waited > 0.5, "rank {} waited {} s for rank 1", r.c.rank(), waited);
  T6_CHECK(used < 0.2 * waited, "rank {} used {} s of processor time in {} s of waiting", r.c.rank(), used, waited);
}

void speed(const Rank& r) {
  const auto timed = [&](const char* what, int64_t n, int repeats, const std::function<void(const Tensor&)>& call) {
    const Tensor x = Tensor::full({n}, DType::f32, 0, r.device);
    double best = 1e9, total = 0;
    for (int i = 0; i < repeats; ++i) {
      r.c.all_gather_text("");
      const auto start = Clock::now();
      call(x);
      r.c.wait();
      if (r.device.is_cuda()) gpu::synchronize();
      const double seconds = seconds_since(start);
      best = std::min(best, seconds);
      total += seconds;
    }
    if (!r.c.is_root()) return;
    std::printf("%s %s, %d ranks, %ld bytes: mean %.1f us, best %.1f us, best %.3f GB/s\n", r.c.name(), what,
                r.c.world(), n * 4, total / repeats * 1e6, best * 1e6, static_cast<double>(n) * 4e-9 / best);
  };
  for (const int64_t n : {int64_t{12}, int64_t{3} << 14, int64_t{12} << 20}) {
    const int repeats = n > 1000000 ? 8 : 200;
    timed("all_reduce", n, repeats, [&](const Tensor& x) { r.c.all_reduce(x); });
    timed("reduce_scatter", n, repeats, [&](const Tensor& x) { r.c.reduce_scatter(x); });
    timed("all_gather", n, repeats, [&](const Tensor& x) { r.c.all_gather(x); });
    timed("tree_all_reduce", n, repeats, [&](const Tensor& x) { dist::tree_all_reduce(r.c, x); });
  }
}

void short_message(const Rank& r) {
  const Tensor x = Tensor::full({100}, DType::f32, 0, r.device);
  if (r.c.rank() == 0) r.c.send(1, x.slice(0, {99}));
  if (r.c.rank() == 1) r.c.receive(0, x);
  r.c.wait();
  // Rank 0 ends in a moment at which rank 1 is gone.
}

void unequal(const Rank& r) {
  const Tensor x = Tensor::full({1000}, DType::f32, 1, r.device);
  r.c.all_reduce(x);
  r.c.all_reduce(r.c.rank() == 1 ? x.slice(0, {999}) : x);
  r.c.wait();
}

void aborted(const Rank& r) {
  const Tensor x = Tensor::full({100}, DType::f32, 0, r.device);
  if (r.c.rank() != 0) {
    std::this_thread::sleep_for(std::chrono::seconds(20));
    return;
  }
  std::thread watchdog([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    r.c.abort();
  });
  try {
    r.c.receive(1, x);
    r.c.wait();
    if (r.device.is_cuda()) gpu::synchronize();
    r.c.wait();
  } catch (...) {
    watchdog.join();
    throw;
  }
  watchdog.join();
}

void throws_alone(const Rank& r) {
  const Tensor x = Tensor::full({100}, DType::f32, 0, r.device);
  if (r.c.rank() == 1) fail(ExitCode::numeric, "thrown on purpose");
  r.c.all_reduce(x);
  r.c.wait();
}

}  // namespace t6::test
