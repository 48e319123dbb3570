#include "ops/global_norm.h"

#include <cmath>
#include <limits>

#include "ops/kernel.h"
#include "tensor/parallel.h"

namespace t6 {
namespace cpu {

void squares(const SquaresArgs& a) {
  const int64_t blocks = (a.count + kSquaresBlock - 1) / kSquaresBlock;
  parallel_for(blocks, 4, [&](int64_t first, int64_t last) {
    for (int64_t block = first; block < last; ++block) {
      const int64_t begin = block * kSquaresBlock, end = std::min(a.count, begin + kSquaresBlock);
      const float* x = a.x;
      double sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t i = begin; i < end; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
      a.partials[block] = sum;
    }
  });
}

// Neighbours are added pairwise, level by level.
void sum(const SumArgs& a) {
  int64_t count = a.count;
  while (count > 1) {
    for (int64_t i = 0; i < count / 2; ++i) a.partials[i] = a.partials[2 * i] + a.partials[2 * i + 1];
    if (count % 2 == 1) a.partials[count / 2] = a.partials[count - 1];
    count = (count + 1) / 2;
  }
  *a.sum = count == 1 ? a.partials[0] : 0.0;
}

void norm_and_clip(const NormAndClipArgs& a) {
  const double norm = std::sqrt(*a.sum);
  const bool bad = !std::isfinite(norm) || (a.previous != nullptr && std::isnan(a.previous[1])) ||
                   norm > a.limits.norm || (a.loss != nullptr && (!std::isfinite(*a.loss) || *a.loss > a.limits.loss));
  const double clip = norm > a.max_norm ? a.max_norm / norm : 1.0;
  a.norm_and_clip[0] = static_cast<float>(norm);
  a.norm_and_clip[1] = bad ? std::numeric_limits<float>::quiet_NaN() : static_cast<float>(clip);
}

}  // namespace cpu

namespace {

constexpr Kernel<SquaresArgs> kSquares{"sum_of_squares", &cpu::squares, T6_CUDA_KERNEL(cuda::squares)};
constexpr Kernel<SumArgs> kSum{"sum_of_squares", &cpu::sum, T6_CUDA_KERNEL(cuda::sum)};
constexpr Kernel<NormAndClipArgs> kNormAndClip{"norm_and_clip", &cpu::norm_and_clip,
                                               T6_CUDA_KERNEL(cuda::norm_and_clip)};

}  // namespace

Tensor sum_of_squares(const std::vector<Tensor>& tensors) {
  T6_CHECK(!tensors.empty(), "[sum_of_squares] expected at least one tensor");
  const Device device = tensors[0].device();
  int64_t blocks = 0;
  for (const Tensor& t : tensors) {
    T6_CHECK(t.defined() && t.dtype() == DType::f32 && t.device() == device,
             "[sum_of_squares] expected f32 tensors on {}, got {} {} on {}", to_string(device), name_of(t.dtype()),
             to_string(t.shape()), to_string(t.device()));
    blocks += square_blocks(t.numel());
  }
  const Tensor partials = Tensor::empty({blocks}, DType::f64, device);
  int64_t at = 0;
  for (const Tensor& t : tensors) {
    sums_of_squares(t, partials.slice(at, {square_blocks(t.numel())}));
    at += square_blocks(t.numel());
  }
  return sum(partials);
}

void sums_of_squares(const Tensor& x, const Tensor& sums) {
  T6_CHECK(x.dtype() == DType::f32 && sums.dtype() == DType::f64 && sums.numel() == square_blocks(x.numel()) &&
               x.device() == sums.device(),
           "[sums_of_squares] expected f32 and {} sums in f64 on one device, got {} {} and {} {}",
           square_blocks(x.numel()), name_of(x.dtype()), to_string(x.shape()), name_of(sums.dtype()),
           to_string(sums.shape()));
  if (x.numel() > 0) kSquares(x.device(), {x.data<float>(), sums.data<double>(), x.numel()});
}

Tensor sum(const Tensor& partials) {
  T6_CHECK(partials.dtype() == DType::f64, "[sum] expected f64, got {}", name_of(partials.dtype()));
  Tensor total = Tensor::empty({1}, DType::f64, partials.device());
  kSum(partials.device(), {partials.data<double>(), total.data<double>(), partials.numel()});
  return total;
}

Tensor norm_and_clip(const Tensor& sum, double max_norm, const Tensor& previous, const Tensor& loss,
                     const NormLimits& limits) {
  T6_CHECK(sum.numel() == 1 && sum.dtype() == DType::f64, "[norm_and_clip] expected one f64, got {} {}",
           name_of(sum.dtype()), to_string(sum.shape()));
  T6_CHECK(max_norm > 0, "[norm_and_clip] expected max_norm > 0, got {}", max_norm);
  T6_CHECK(!previous.defined() ||
               (previous.numel() == 2 && previous.dtype() == DType::f32 && previous.device() == sum.device()),
           "[norm_and_clip] expected two f32 on {} from the step before, got {} {} on {}", to_string(sum.device()),
           name_of(previous.dtype()), to_string(previous.shape()), to_string(previous.device()));
  T6_CHECK(!loss.defined() || (loss.numel() == 1 && loss.dtype() == DType::f64 && loss.device() == sum.device()),
           "[norm_and_clip] expected a loss of one f64 on {}, got {} {} on {}", to_string(sum.device()),
           name_of(loss.dtype()), to_string(loss.shape()), to_string(loss.device()));
  Tensor out = Tensor::empty({2}, DType::f32, sum.device());
  kNormAndClip(sum.device(), {sum.data<double>(), previous.defined() ? previous.data<float>() : nullptr,
                              loss.defined() ? loss.data<double>() : nullptr, out.data<float>(), max_norm, limits});
  return out;
}

}  // namespace t6
