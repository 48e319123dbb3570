#include "ops/factor_decode.h"

#include <algorithm>
#include <limits>

#include "ops/exp2.h"
#include "ops/kernel.h"
#include "ops/narrow.h"
#include "ops/vector.h"
#include "ops/work_units.h"

namespace t6 {
namespace cpu {
namespace {

constexpr int64_t kSplitRows = 1024;  // cache rows of a unit of work
constexpr int64_t kBlockRows = 32;    // cache rows of one step of the running softmax
constexpr int64_t kTogether = 4;      // rows or heads whose sums stay in registers together

// y[r][h] = sum_d x[r][d] q[d][h] for `rows` rows of x [rows, width]; q [width, lanes], y [rows, lanes].
template <class S>
void dots(const S* x, const S* q, S* y, int64_t rows, int64_t width, int64_t lanes) {
  using V = Vector<S>;
  for (int64_t h = 0; h < lanes; h += V::kLanes) {
    int64_t r = 0;
    for (; r + kTogether <= rows; r += kTogether) {
      typename V::Type sums[kTogether] = {};
      for (int64_t d = 0; d < width; ++d) {
        const typename V::Type row = V::load(q + d * lanes + h);
        for (int64_t i = 0; i < kTogether; ++i) sums[i] += row * x[(r + i) * width + d];
      }
      for (int64_t i = 0; i < kTogether; ++i) V::store(y + (r + i) * lanes + h, sums[i]);
    }
    for (; r < rows; ++r) {
      typename V::Type sum = {};
      for (int64_t d = 0; d < width; ++d) sum += V::load(q + d * lanes + h) * x[r * width + d];
      V::store(y + r * lanes + h, sum);
    }
  }
}

// o[h][d] += sum_r w[r][h] x[r][d]; x [rows, stride], w [rows, lanes], o [lanes, stride]; whole registers of both.
template <class S>
void weighted_sums(const S* w, const S* x, S* o, int64_t rows, int64_t stride, int64_t lanes) {
  using V = Vector<S>;
  for (int64_t d = 0; d < stride; d += V::kLanes) {
    for (int64_t h = 0; h < lanes; h += kTogether) {
      typename V::Type sums[kTogether];
      for (int64_t i = 0; i < kTogether; ++i) sums[i] = V::load(o + (h + i) * stride + d);
      for (int64_t r = 0; r < rows; ++r) {
        const typename V::Type row = V::load(x + r * stride + d);
        for (int64_t i = 0; i < kTogether; ++i) sums[i] += row * w[r * lanes + h + i];
      }
      for (int64_t i = 0; i < kTogether; ++i) V::store(o + (h + i) * stride + d, sums[i]);
    }
  }
}

// Sizes rounded up to registers: heads are lanes of scores, v_width is a row of sums.
template <class S>
struct Padded {
  int64_t lanes, v_stride;

  explicit Padded(const FactorDecodeArgs& a)
      : lanes(Vector<S>::padded(a.heads)), v_stride(Vector<S>::padded(a.v_width)) {}
  int64_t partial() const { return lanes * (v_stride + 2); }
};

// What a split knows of one query: running maximum and sum of its scores (base two) and the sum of values.
template <class S>
struct Partial {
  S *max, *sum, *out;  // [lanes], [lanes], [lanes, v_stride]

  Partial(S* data, const Padded<S>& padded) : max(data), sum(data + padded.lanes), out(data + 2 * padded.lanes) {}
};

template <class T>
class Split {
  using S = Accumulate<T>;

 public:
  Split(const FactorDecodeArgs& a, Scratch scratch) : a_(a), padded_(a), lanes_(padded_.lanes) {
    q_ = scratch.take<S>(a.width * lanes_);
    factors_ = scratch.take<S>(kBlockRows * std::max(a.rank_k * a.width, a.rank_v * padded_.v_stride));
    weights_ = scratch.take<S>(kBlockRows * std::max(a.rank_k, a.rank_v) * lanes_);
    scores_ = scratch.take<S>(kBlockRows * lanes_);
    heads_ = scratch.take<S>(lanes_);
  }
  static int64_t bytes(const FactorDecodeArgs& a) {
    const Padded<S> p(a);
    return Scratch::bytes<S>(a.width * p.lanes) +
           Scratch::bytes<S>(kBlockRows * std::max(a.rank_k * a.width, a.rank_v * p.v_stride)) +
           Scratch::bytes<S>(kBlockRows * std::max(a.rank_k, a.rank_v) * p.lanes) +
           Scratch::bytes<S>(kBlockRows * p.lanes) + Scratch::bytes<S>(p.lanes);
  }

  // Cache rows [begin, end) for query t of batch row b.
  void run(int64_t b, int64_t t, int64_t begin, int64_t end, const Partial<S>& partial) {
    read_query(b, t);
    std::fill_n(partial.max, lanes_, -std::numeric_limits<S>::infinity());
    std::fill_n(partial.sum, lanes_, S(0));
    std::fill_n(partial.out, lanes_ * padded_.v_stride, S(0));
    for (int64_t row = begin; row < end; row += kBlockRows) {
      const int64_t rows = std::min(kBlockRows, end - row), at = b * a_.capacity + row;
      score(at, rows);
      softmax(rows, partial);
      add_values(at, rows, partial);
    }
  }

 private:
  // q_[d][h] = q[h][d] log2(e) scale / R_K
  void read_query(int64_t b, int64_t t) {
    const T* q = static_cast<const T*>(a_.q) + (b * a_.queries + t) * a_.heads * a_.width;
    const S factor = static_cast<S>(a_.scale * kLog2e / static_cast<double>(a_.rank_k));
    std::fill_n(q_, a_.width * lanes_, S(0));
    for (int64_t h = 0; h < a_.heads; ++h) {
      for (int64_t d = 0; d < a_.width; ++d) q_[d * lanes_ + h] = static_cast<S>(q[h * a_.width + d]) * factor;
    }
  }

  // heads_[h] = a[row][h][s] of a factor [batch * capacity, heads, rank]
  const S* head_factors(const void* a, int64_t row, int64_t rank, int64_t s) {
    const T* from = static_cast<const T*>(a) + row * a_.heads * rank + s;
    for (int64_t h = 0; h < a_.heads; ++h) heads_[h] = static_cast<S>(from[h * rank]);
    std::fill(heads_ + a_.heads, heads_ + lanes_, S(0));
    return heads_;
  }

  // factors_ [rows * rank, stride] = rows of a factor [batch * capacity, rank, width], zeros behind width.
  void read_token_factors(const void* factor, int64_t row, int64_t count, int64_t width, int64_t stride) {
    const T* from = static_cast<const T*>(factor) + row * width;
    for (int64_t r = 0; r < count; ++r) {
#pragma omp simd
      for (int64_t d = 0; d < width; ++d) factors_[r * stride + d] = static_cast<S>(from[r * width + d]);
      std::fill(factors_ + r * stride + width, factors_ + (r + 1) * stride, S(0));
    }
  }

  void score(int64_t at, int64_t rows) {
    read_token_factors(a_.b_k, at * a_.rank_k, rows * a_.rank_k, a_.width, a_.width);
    dots(factors_, q_, weights_, rows * a_.rank_k, a_.width, lanes_);
    for (int64_t r = 0; r < rows; ++r) {
      S* scores = scores_ + r * lanes_;
      std::fill_n(scores, lanes_, S(0));
      for (int64_t s = 0; s < a_.rank_k; ++s) {
        const S* a = head_factors(a_.a_k, at + r, a_.rank_k, s);
        const S* dot = weights_ + (r * a_.rank_k + s) * lanes_;
#pragma omp simd
        for (int64_t h = 0; h < lanes_; ++h) scores[h] += a[h] * dot[h];
      }
    }
  }

  // Scores become probabilities against the maximum so far; what was summed before is brought to it.
  void softmax(int64_t rows, const Partial<S>& partial) {
    S* correction = heads_;
    for (int64_t h = 0; h < lanes_; ++h) {
      S max = partial.max[h];
      for (int64_t r = 0; r < rows; ++r) max = std::max(max, scores_[r * lanes_ + h]);
      correction[h] = exp2_bounded(partial.max[h] - max);
      partial.max[h] = max;
    }
#pragma omp simd
    for (int64_t h = 0; h < lanes_; ++h) partial.sum[h] *= correction[h];
    for (int64_t r = 0; r < rows; ++r) {
      S* scores = scores_ + r * lanes_;
#pragma omp simd
      for (int64_t h = 0; h < lanes_; ++h) {
        scores[h] = exp2_bounded(scores[h] - partial.max[h]);
        partial.sum[h] += scores[h];
      }
    }
    for (int64_t h = 0; h < lanes_; ++h) {
      S* out = partial.out + h * padded_.v_stride;
#pragma omp simd
      for (int64_t d = 0; d < padded_.v_stride; ++d) out[d] *= correction[h];
    }
  }

  void add_values(int64_t at, int64_t rows, const Partial<S>& partial) {
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t s = 0; s < a_.rank_v; ++s) {
        const S* a = head_factors(a_.a_v, at + r, a_.rank_v, s);
        S* w = weights_ + (r * a_.rank_v + s) * lanes_;
#pragma omp simd
        for (int64_t h = 0; h < lanes_; ++h) w[h] = scores_[r * lanes_ + h] * a[h];
      }
    }
    read_token_factors(a_.b_v, at * a_.rank_v, rows * a_.rank_v, a_.v_width, padded_.v_stride);
    weighted_sums(weights_, factors_, partial.out, rows * a_.rank_v, padded_.v_stride, lanes_);
  }

  const FactorDecodeArgs& a_;
  Padded<S> padded_;
  int64_t lanes_;
  S* q_;        // [width, lanes]
  S* factors_;  // a block of b_k or b_v
  S* weights_;  // [block rows * rank, lanes]
  S* scores_;   // [block rows, lanes]
  S* heads_;    // [lanes]
};

// o[h] = sum over splits of their sums, brought to one maximum, over R_V times the whole sum.
template <class T>
void combine(const FactorDecodeArgs& a, const Accumulate<T>* partials, int64_t splits, int64_t query, Scratch scratch) {
  using S = Accumulate<T>;
  const Padded<S> padded(a);
  S* out = scratch.take<S>(a.v_width);
  for (int64_t h = 0; h < a.heads; ++h) {
    auto partial = [&](int64_t split) {
      return Partial<S>(const_cast<S*>(partials) + split * padded.partial(), padded);
    };
    S max = partial(0).max[h], sum = 0;
    for (int64_t split = 1; split < splits; ++split) max = std::max(max, partial(split).max[h]);
    std::fill_n(out, a.v_width, S(0));
    for (int64_t split = 0; split < splits; ++split) {
      const Partial<S> p = partial(split);
      const S weight = exp2_bounded(p.max[h] - max);
      sum += weight * p.sum[h];
#pragma omp simd
      for (int64_t d = 0; d < a.v_width; ++d) out[d] += weight * p.out[h * padded.v_stride + d];
    }
    const S factor = S(1) / (sum * static_cast<S>(a.rank_v));
#pragma omp simd
    for (int64_t d = 0; d < a.v_width; ++d) out[d] *= factor;
    narrow(out, static_cast<T*>(a.o) + (query * a.heads + h) * a.v_width, a.v_width);
  }
}

}  // namespace

void factor_decode(const FactorDecodeArgs& a) {
  const int64_t queries = a.batch * a.queries;
  if (queries == 0) return;
  const int64_t longest = *std::max_element(a.lengths, a.lengths + a.batch);
  const int64_t splits = (longest + kSplitRows - 1) / kSplitRows;
  dispatch_float(a.dtype, [&]<class T>(T) {
    using S = Accumulate<T>;
    const Padded<S> padded(a);
    const auto storage = Storage::allocate(static_cast<size_t>(queries * splits * padded.partial()) * sizeof(S), kCpu);
    S* partials = reinterpret_cast<S*>(storage->data());
    for_each_unit(queries * splits, Split<T>::bytes(a), [&](int64_t unit, Scratch scratch) {
      const int64_t query = unit / splits, b = query / a.queries, t = query % a.queries;
      const int64_t seen = a.lengths[b] - a.queries + t + 1, begin = unit % splits * kSplitRows;
      Split<T>(a, scratch)
          .run(b, t, begin, std::min(begin + kSplitRows, seen), Partial<S>(partials + unit * padded.partial(), padded));
    });
    for_each_unit(queries, Scratch::bytes<S>(a.v_width), [&](int64_t query, Scratch scratch) {
      combine<T>(a, partials + query * splits * padded.partial(), splits, query, scratch);
    });
  });
}

}  // namespace cpu

namespace {
constexpr Kernel<FactorDecodeArgs> kFactorDecode{"factor_decode", &cpu::factor_decode,
                                                 T6_CUDA_KERNEL(cuda::factor_decode)};
}  // namespace

Tensor factor_decode(const Tensor& q, const FactorRows& cache, const Tensor& lengths, double scale) {
  const Tensor &a_k = cache.a_k, &b_k = cache.b_k, &a_v = cache.a_v, &b_v = cache.b_v;
  for (const Tensor* t : {&q, &a_k, &b_k, &a_v, &b_v}) {
    const bool alike = t->dtype() == q.dtype() && t->device() == q.device();
    T6_CHECK(t->shape().rank() == 4 && t->dim(0) == q.dim(0) && alike,
             "[factor_decode] expected four dimensions, the first {}, of {} on {}, got {} of {} on {}", q.dim(0),
             name_of(q.dtype()), to_string(q.device()), to_string(t->shape()), name_of(t->dtype()),
             to_string(t->device()));
  }
  const int64_t batch = q.dim(0), queries = q.dim(1), heads = q.dim(2), width = q.dim(3), capacity = a_k.dim(1);
  const int64_t rank_k = a_k.dim(3), rank_v = a_v.dim(3), v_width = b_v.dim(3);
  const bool fits = a_k.shape() == Shape{batch, capacity, heads, rank_k} && rank_k > 0 && rank_v > 0 &&
                    b_k.shape() == Shape{batch, capacity, rank_k, width} &&
                    a_v.shape() == Shape{batch, capacity, heads, rank_v} &&
                    b_v.shape() == Shape{batch, capacity, rank_v, v_width};
  T6_CHECK(
      fits,
      "[factor_decode] expected a_k [B, M, H, R_K], b_k [B, M, R_K, D], a_v [B, M, H, R_V], b_v [B, M, R_V, Dv] for "
      "q {}, got {}, {}, {}, {}",
      to_string(q.shape()), to_string(a_k.shape()), to_string(b_k.shape()), to_string(a_v.shape()),
      to_string(b_v.shape()));
  T6_CHECK(lengths.shape() == Shape{batch}, "[factor_decode] expected {} lengths, got {}", batch,
           to_string(lengths.shape()));
  for (int64_t b = 0; lengths.device().is_cpu() && b < batch; ++b) {
    const int32_t rows = lengths.data<int32_t>()[b];
    T6_CHECK(rows >= queries && rows <= capacity, "[factor_decode] expected lengths from {} to {}, got {}", queries,
             capacity, rows);
  }
  const Tensor rows = lengths.to(q.device());
  const Tensor o = Tensor::empty({batch, queries, heads, v_width}, q.dtype(), q.device());
  kFactorDecode(q.device(), {q.raw(), a_k.raw(), b_k.raw(), a_v.raw(), b_v.raw(), rows.data<int32_t>(), o.raw(), batch,
                             queries, capacity, heads, width, v_width, rank_k, rank_v, scale, q.dtype()});
  return o;
}

}  // namespace t6
