#include "ops/factor_contraction.h"

#include <algorithm>
#include <utility>

#include "ops/head_copy.h"
#include "ops/kernel.h"
#include "ops/narrow.h"
#include "ops/vector.h"
#include "tensor/parallel.h"

namespace t6 {
namespace cpu {
namespace {

constexpr int64_t kRowGrain = 4;
constexpr int64_t kRankBlock = 8;  // ranks whose vectors stay in registers together

// Calls f(std::integral_constant<int, n>) for n in 1..kRankBlock.
template <class F>
void with_rank(int64_t n, F&& f) {
  [&]<int... I>(std::integer_sequence<int, I...>) {
    ((n == I + 1 ? f(std::integral_constant<int, I + 1>{}) : void()), ...);
  }
  (std::make_integer_sequence<int, kRankBlock>{});
}

// y[h] (+)= sum over N ranks of a[h, r] b[r]; rows of b and y are `stride` apart, rows of a `rank`.
template <int N, class S>
void contract_block(const S* a, int64_t rank, const S* b, S* y, int64_t heads, int64_t stride, bool add) {
  using V = Vector<S>;
  for (int64_t d = 0; d < stride; d += V::kLanes) {
    typename V::Type rows[N];
    for (int r = 0; r < N; ++r) rows[r] = V::load(b + r * stride + d);
    for (int64_t h = 0; h < heads; ++h) {
      typename V::Type sum = a[h * rank] * rows[0];
      for (int r = 1; r < N; ++r) sum += a[h * rank + r] * rows[r];
      S* to = y + h * stride + d;
      V::store(to, add ? V::load(to) + sum : sum);
    }
  }
}

// da[h, r] = g[h] . b[r] for N ranks.
template <int N, class S>
void dots_block(const S* g, const S* b, S* da, int64_t rank, int64_t heads, int64_t stride) {
  using V = Vector<S>;
  for (int64_t h = 0; h < heads; ++h) {
    typename V::Type sums[N] = {};
    for (int64_t d = 0; d < stride; d += V::kLanes) {
      const typename V::Type x = V::load(g + h * stride + d);
      for (int r = 0; r < N; ++r) sums[r] += x * V::load(b + r * stride + d);
    }
    for (int r = 0; r < N; ++r) da[h * rank + r] = V::sum(sums[r]);
  }
}

// db[r] = scale sum_h a[h, r] g[h] for N ranks.
template <int N, class S>
void sums_block(const S* a, int64_t rank, const S* g, S scale, S* db, int64_t heads, int64_t stride) {
  using V = Vector<S>;
  for (int64_t d = 0; d < stride; d += V::kLanes) {
    typename V::Type sums[N] = {};
    for (int64_t h = 0; h < heads; ++h) {
      const typename V::Type x = V::load(g + h * stride + d);
      for (int r = 0; r < N; ++r) sums[r] += a[h * rank + r] * x;
    }
    for (int r = 0; r < N; ++r) V::store(db + r * stride + d, sums[r] * scale);
  }
}

template <class T, class S>
void widen(const T* x, S* y, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) y[i] = static_cast<S>(x[i]);
}

// Scratch of one thread: rows of B and of a head tensor are padded with zeros to whole registers.
template <class T>
class Worker {
  using S = Accumulate<T>;

 public:
  explicit Worker(const FactorLayout& layout)
      : heads_(layout.heads),
        width_(layout.head_dim),
        stride_(Vector<S>::padded(width_)),
        rank_(std::max({layout.q.rank, layout.k.rank, layout.v.rank, int64_t{1}})),
        a_(static_cast<size_t>(heads_ * rank_)),
        da_(a_.size()),
        b_(static_cast<size_t>(rank_ * stride_)),
        db_(b_.size()),
        wide_(static_cast<size_t>(heads_ * stride_)),
        vector_(static_cast<size_t>(stride_)) {}

  void forward(const T* f, const FactorPart& part, const S* cos, const S* sin, T* out) {
    if (part.rank == 0) return dense(f + part.a, part, cos, sin, S(1), out);
    read_factors(f, part, cos, sin);
    const bool direct = std::is_same_v<T, S> && stride_ == width_;
    S* y = direct ? reinterpret_cast<S*>(out) : wide_.data();
    for (int64_t r = 0; r < part.rank; r += kRankBlock) {
      with_rank(std::min(kRankBlock, part.rank - r), [&](auto n) {
        contract_block<n>(a_.data() + r, part.rank, b_.data() + r * stride_, y, heads_, stride_, r > 0);
      });
    }
    if (direct) return;
    for (int64_t h = 0; h < heads_; ++h) narrow(y + h * stride_, out + h * width_, width_);
  }

  // Writes the columns of this part of df.
  void backward(const T* f, const FactorPart& part, const S* cos, const S* sin, const T* dy, T* df) {
    if (part.rank == 0) return dense(dy, part, cos, sin, S(-1), df + part.a);
    read_factors(f, part, cos, sin);
    const S* g = wide_.data();
    if (std::is_same_v<T, S> && stride_ == width_) {
      g = reinterpret_cast<const S*>(dy);
    } else {
      for (int64_t h = 0; h < heads_; ++h) widen(dy + h * width_, wide_.data() + h * stride_, width_);
    }
    const S scale = S(1) / static_cast<S>(part.rank);
    for (int64_t r = 0; r < part.rank; r += kRankBlock) {
      with_rank(std::min(kRankBlock, part.rank - r), [&](auto n) {
        dots_block<n>(g, b_.data() + r * stride_, da_.data() + r, part.rank, heads_, stride_);
        sums_block<n>(a_.data() + r, part.rank, g, scale, db_.data() + r * stride_, heads_, stride_);
      });
    }
    narrow(da_.data(), df + part.a, heads_ * part.rank);
    for (int64_t r = 0; r < part.rank; ++r) {
      S* row = db_.data() + r * stride_;
      if (part.rope) rotate(row, cos, sin, S(-1), row, width_);
      narrow(row, df + part.b + r * width_, width_);
    }
  }

 private:
  // A and RoPE(B) / R of a token.
  void read_factors(const T* f, const FactorPart& part, const S* cos, const S* sin) {
    widen(f + part.a, a_.data(), heads_ * part.rank);
    const S scale = S(1) / static_cast<S>(part.rank);
    for (int64_t r = 0; r < part.rank; ++r) {
      S* row = b_.data() + r * stride_;
      widen(f + part.b + r * width_, row, width_);
      if (part.rope) rotate(row, cos, sin, S(1), row, width_);
#pragma omp simd
      for (int64_t i = 0; i < width_; ++i) row[i] *= scale;
    }
  }

  void dense(const T* x, const FactorPart& part, const S* cos, const S* sin, S direction, T* y) {
    if (!part.rope) {
      std::copy_n(x, heads_ * width_, y);
      return;
    }
    for (int64_t h = 0; h < heads_; ++h) {
      widen(x + h * width_, vector_.data(), width_);
      rotate(vector_.data(), cos, sin, direction, vector_.data(), width_);
      narrow(vector_.data(), y + h * width_, width_);
    }
  }

  int64_t heads_, width_, stride_, rank_;
  std::vector<S> a_, da_;  // [H, R]
  std::vector<S> b_, db_;  // [R, stride]
  std::vector<S> wide_;    // [H, stride]
  std::vector<S> vector_;  // [stride]
};

std::array<FactorPart, 3> parts_of(const FactorLayout& layout) {
  return {layout.q, layout.k, layout.v};
}

// The table row of a packed row's position.
template <class T, class Args>
std::pair<const Accumulate<T>*, const Accumulate<T>*> angles(const Args& args, int64_t row) {
  const int64_t at = (args.offset + row % args.window) * (args.layout.head_dim / 2);
  return {static_cast<const Accumulate<T>*>(args.cos) + at, static_cast<const Accumulate<T>*>(args.sin) + at};
}

}  // namespace

void factor_contraction(const FactorContractionArgs& args) {
  const auto parts = parts_of(args.layout);
  const int64_t size = args.layout.heads * args.layout.head_dim;
  dispatch_float(args.dtype, [&]<class T>(T) {
    parallel_for(args.rows, kRowGrain, [&](int64_t begin, int64_t end) {
      Worker<T> worker(args.layout);
      for (int64_t row = begin; row < end; ++row) {
        const T* f = static_cast<const T*>(args.f) + row * args.layout.width;
        const auto [cos, sin] = angles<T>(args, row);
        for (size_t i = 0; i < parts.size(); ++i) {
          if (args.qkv[i] == nullptr) continue;
          worker.forward(f, parts[i], cos, sin, static_cast<T*>(args.qkv[i]) + row * size);
        }
      }
    });
  });
}

void factor_contraction_backward(const FactorContractionBackwardArgs& args) {
  const auto parts = parts_of(args.layout);
  const int64_t size = args.layout.heads * args.layout.head_dim, width = args.layout.width;
  dispatch_float(args.dtype, [&]<class T>(T) {
    parallel_for(args.rows, kRowGrain, [&](int64_t begin, int64_t end) {
      Worker<T> worker(args.layout);
      for (int64_t row = begin; row < end; ++row) {
        const T* f = static_cast<const T*>(args.f) + row * width;
        T* df = static_cast<T*>(args.df) + row * width;
        std::fill_n(df, width, static_cast<T>(0.0F));
        const auto [cos, sin] = angles<T>(args, row);
        for (size_t i = 0; i < parts.size(); ++i) {
          if (args.dqkv[i] == nullptr) continue;
          worker.backward(f, parts[i], cos, sin, static_cast<const T*>(args.dqkv[i]) + row * size, df);
        }
      }
    });
  });
}

}  // namespace cpu

namespace {

constexpr Kernel<FactorContractionArgs> kForward{"factor_contraction", &cpu::factor_contraction,
                                                 T6_CUDA_KERNEL(cuda::factor_contraction)};
constexpr Kernel<FactorContractionBackwardArgs> kBackward{"factor_contraction_backward",
                                                          &cpu::factor_contraction_backward,
                                                          T6_CUDA_KERNEL(cuda::factor_contraction_backward)};

// Segments inside the row and apart from one another.
void check_layout(const FactorLayout& layout) {
  std::vector<std::pair<int64_t, int64_t>> segments;  // begin, end
  for (const FactorPart& part : {layout.q, layout.k, layout.v}) {
    T6_CHECK(part.rank >= 0, "[factor_contraction] expected ranks of zero or more, got {}", part.rank);
    segments.emplace_back(part.a, part.a + layout.heads * (part.rank == 0 ? layout.head_dim : part.rank));
    if (part.rank > 0) segments.emplace_back(part.b, part.b + part.rank * layout.head_dim);
  }
  std::sort(segments.begin(), segments.end());
  int64_t end = 0;
  for (const auto& [from, to] : segments) {
    T6_CHECK(from >= end && to <= layout.width,
             "[factor_contraction] expected separate segments in {} columns, got one at [{}, {}) after column {}",
             layout.width, from, to, end);
    end = to;
  }
}

void check(const char* op, const Tensor& f, const FactorLayout& layout, const RopeTable& table, int64_t offset) {
  T6_CHECK(f.shape().rank() == 3 && f.dim(2) == layout.width, "[{}] expected factors [B, T, {}], got {}", op,
           layout.width, to_string(f.shape()));
  check_layout(layout);
  check_rope_table(op, table, f, layout.head_dim, offset);
}

FactorContractionArgs args_for(const Tensor& f, const FactorLayout& layout, const RopeTable& table, int64_t offset,
                               const std::array<void*, 3>& qkv) {
  return {f.raw(), qkv,    table.cos.raw(), table.sin.raw(), f.dim(0) * f.dim(1), std::max<int64_t>(f.dim(1), 1),
          offset,  layout, f.dtype()};
}

}  // namespace

FactorLayout pack_factors(int64_t heads, int64_t head_dim, int64_t rank_q, int64_t rank_k, int64_t rank_v,
                          int64_t segment_multiple, int64_t width_multiple) {
  FactorLayout layout;
  layout.heads = heads;
  layout.head_dim = head_dim;
  layout.q = {rank_q, 0, 0, true};
  layout.k = {rank_k, 0, 0, true};
  layout.v = {rank_v, 0, 0, false};
  auto up = [](int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; };
  int64_t column = 0;
  for (FactorPart* part : {&layout.q, &layout.k, &layout.v}) {
    part->a = column;
    column += up(heads * (part->rank == 0 ? head_dim : part->rank), segment_multiple);
  }
  for (FactorPart* part : {&layout.q, &layout.k, &layout.v}) {
    part->b = column;
    column += up(part->rank * head_dim, segment_multiple);
  }
  layout.width = up(column, width_multiple);
  return layout;
}

Qkv factor_contraction(const Variable& f, const FactorLayout& layout, const RopeTable& table, int64_t offset) {
  const Tensor fv = f.value();
  check("factor_contraction", fv, layout, table, offset);
  auto make = [&] {
    return Variable(Tensor::empty({fv.dim(0), fv.dim(1), layout.heads, layout.head_dim}, fv.dtype(), fv.device()));
  };
  Qkv out{make(), make(), make()};
  kForward(fv.device(),
           args_for(fv, layout, table, offset, {out.q.value().raw(), out.k.value().raw(), out.v.value().raw()}));

  auto backward = [fv, layout, table, offset](Gradients& g) {
    g.give(0, factor_gradient(fv, {g.output(0), g.output(1), g.output(2)}, layout, table, offset));
  };
  record("factor_contraction", {f}, {&out.q, &out.k, &out.v}, std::move(backward));
  return out;
}

Tensor factor_gradient(const Tensor& f, const std::array<Tensor, 3>& dqkv, const FactorLayout& layout,
                       const RopeTable& table, int64_t offset) {
  check("factor_gradient", f, layout, table, offset);
  const Tensor df = Tensor::empty(f.shape(), f.dtype(), f.device());
  const FactorContractionArgs forward = args_for(f, layout, table, offset, {});
  auto gradient = [&](size_t i) -> const void* { return dqkv[i].defined() ? dqkv[i].raw() : nullptr; };
  kBackward(f.device(), {f.raw(),
                         {gradient(0), gradient(1), gradient(2)},
                         df.raw(),
                         forward.cos,
                         forward.sin,
                         forward.rows,
                         forward.window,
                         offset,
                         layout,
                         f.dtype()});
  return df;
}

Tensor contract_query(const Tensor& f, const FactorLayout& layout, const RopeTable& table, int64_t offset) {
  check("contract_query", f, layout, table, offset);
  const Tensor q = Tensor::empty({f.dim(0), f.dim(1), layout.heads, layout.head_dim}, f.dtype(), f.device());
  kForward(f.device(), args_for(f, layout, table, offset, {q.raw(), nullptr, nullptr}));
  return q;
}

FactorRows rotate_factors(const Tensor& f, const FactorLayout& layout, const RopeTable& table, int64_t offset) {
  check("rotate_factors", f, layout, table, offset);
  T6_CHECK(layout.k.rank > 0 && layout.v.rank > 0, "[rotate_factors] expected factors of k and v, got ranks {} and {}",
           layout.k.rank, layout.v.rank);
  const int64_t batch = f.dim(0), window = f.dim(1), heads = layout.heads, width = layout.head_dim;
  HeadCopyArgs args;
  args.cos = table.cos.raw();
  args.sin = table.sin.raw();
  args.rows = batch * window;
  args.window = std::max<int64_t>(window, 1);
  args.offset = offset;
  args.dtype = f.dtype();

  // `count` vectors of `size` from `column` of f.
  auto take = [&](int64_t column, const Shape& shape, int rotation) {
    const Tensor to = Tensor::empty(shape, f.dtype(), f.device());
    HeadSegment s;
    s.source = static_cast<const std::byte*>(f.raw()) + static_cast<size_t>(column) * size_of(f.dtype());
    s.destination = to.raw();
    s.heads = shape[2];
    s.width = shape[3];
    s.source_row = layout.width;
    s.source_head = s.destination_head = s.width;
    s.destination_row = s.heads * s.width;
    s.rotation = rotation;
    args.add(s);
    return to;
  };
  auto part = [&](const FactorPart& p) {
    return std::pair(take(p.a, {batch, window, heads, p.rank}, 0),
                     take(p.b, {batch, window, p.rank, width}, p.rope ? 1 : 0));
  };
  const auto [a_k, b_k] = part(layout.k);
  const auto [a_v, b_v] = part(layout.v);
  head_copy(f.device(), args);
  return {a_k, b_k, a_v, b_v};
}

}  // namespace t6
