// Attention on the CPU: tiles of query rows against exactly the keys they see, products by ops/matmul on one thread
// each, units of (batch, head, tile) over the threads.
#include <cmath>

#include "ops/attention.h"
#include "ops/exp2.h"
#include "ops/matmul.h"
#include "ops/narrow.h"
#include "ops/work_units.h"

namespace t6::cpu {
namespace {

constexpr int64_t kForwardRows = 64;  // query rows of a tile: a higher one wastes more work above the diagonal
constexpr int64_t kBackwardRows = 64;
constexpr int64_t kBackwardKeys = 512;  // keys of a block: scores and their gradients stay in the second-level cache
constexpr int64_t kFewQueries = 8;  // up to here (decoding) reading the keys costs all, and products are plain loops
constexpr int64_t kBackwardUnits = 64;  // groups of heads are split to get about this many units of work

// [batch, tokens, heads, width]
template <class T>
struct HeadRows {
  T* data;
  int64_t tokens, heads, width;

  T* at(int64_t b, int64_t token, int64_t head) const { return data + ((b * tokens + token) * heads + head) * width; }
  int64_t stride() const { return heads * width; }  // between tokens
};

template <class T>
struct Views {
  HeadRows<const T> q, k, v;
  HeadRows<T> o;

  explicit Views(const AttentionArgs& a)
      : q{static_cast<const T*>(a.q), a.queries, a.heads, a.qk_width},
        k{static_cast<const T*>(a.k), a.keys, a.kv_heads, a.qk_width},
        v{static_cast<const T*>(a.v), a.keys, a.kv_heads, a.v_width},
        o{static_cast<T*>(a.o), a.queries, a.heads, a.v_width} {}
};

template <class T>
struct Matrix {
  const T* data;
  int64_t ld;
  bool transposed = false;
};

// C [m, n] (+)= A B
template <class T>
void product(Matrix<T> a, Matrix<T> b, Accumulate<T>* c, int64_t ldc, int64_t m, int64_t n, int64_t k,
             bool accumulate = false) {
  matmul({a.data, b.data, c, m, n, k, a.ld, b.ld, ldc, a.transposed, b.transposed, accumulate, dtype_of<T>,
          dtype_of<Accumulate<T>>});
}

// Turns scores[0, seen) into exp(scale (score - max)) and the rest, up to n, into zeros; returns the sum and sets lse.
template <class S>
S softmax_row(S* scores, int64_t seen, int64_t n, S scale, S* lse) {
  S max = scores[0];
#pragma omp simd reduction(max : max)
  for (int64_t j = 0; j < seen; ++j) max = scores[j] > max ? scores[j] : max;
  const S c = scale * static_cast<S>(kLog2e), shift = max * c;
  S sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < seen; ++j) {
    scores[j] = exp2_bounded(scores[j] * c - shift);
    sum += scores[j];
  }
  std::fill(scores + seen, scores + n, S(0));
  *lse = max * scale + std::log(sum);
  return sum;
}

template <class T>
int64_t forward_bytes(const AttentionArgs& a) {
  using S = Accumulate<T>;
  const int64_t rows = std::min(a.queries, kForwardRows), keys = a.offset + a.queries;
  return Scratch::bytes<S>(rows * keys) + Scratch::bytes<T>(rows * keys) + Scratch::bytes<S>(rows * a.v_width) +
         Scratch::bytes<S>(rows);
}

// Rows [first, first + rows) of one head.
template <class T>
void forward_tile(const AttentionArgs& a, int64_t b, int64_t h, int64_t first, int64_t rows, Scratch scratch) {
  using S = Accumulate<T>;
  const Views<T> view(a);
  const int64_t g = h / (a.heads / a.kv_heads), n = a.offset + first + rows;
  S* scores = scratch.take<S>(rows * n);
  T* probabilities = std::is_same_v<T, S> ? reinterpret_cast<T*>(scores) : scratch.take<T>(rows * n);
  S* out = scratch.take<S>(rows * a.v_width);
  S* sums = scratch.take<S>(rows);

  product<T>({view.q.at(b, first, h), view.q.stride()}, {view.k.at(b, 0, g), view.k.stride(), true}, scores, n, rows, n,
             a.qk_width);
  for (int64_t i = 0; i < rows; ++i) {
    S lse;
    sums[i] = softmax_row(scores + i * n, a.offset + first + i + 1, n, static_cast<S>(a.scale), &lse);
    narrow(scores + i * n, probabilities + i * n, n);
    if (a.lse != nullptr) static_cast<S*>(a.lse)[(b * a.heads + h) * a.queries + first + i] = lse;
  }
  product<T>({probabilities, n}, {view.v.at(b, 0, g), view.v.stride()}, out, a.v_width, rows, a.v_width, n);
  for (int64_t i = 0; i < rows; ++i) {
    S* row = out + i * a.v_width;
    const S inverse = S(1) / sums[i];
#pragma omp simd
    for (int64_t d = 0; d < a.v_width; ++d) row[d] *= inverse;
    narrow(row, view.o.at(b, first + i, h), a.v_width);
  }
}

// One query row of one head, in plain loops.
template <class T>
void forward_row(const AttentionArgs& a, int64_t b, int64_t h, int64_t t, Scratch scratch) {
  using S = Accumulate<T>;
  const Views<T> view(a);
  const int64_t g = h / (a.heads / a.kv_heads), n = a.offset + t + 1;
  S* scores = scratch.take<S>(n);
  S* out = scratch.take<S>(a.v_width);
  const T* q = view.q.at(b, t, h);
  for (int64_t j = 0; j < n; ++j) {
    const T* k = view.k.at(b, j, g);
    S dot = 0;
#pragma omp simd reduction(+ : dot)
    for (int64_t d = 0; d < a.qk_width; ++d) dot += static_cast<S>(q[d]) * static_cast<S>(k[d]);
    scores[j] = dot;
  }
  S lse;
  const S inverse = S(1) / softmax_row(scores, n, n, static_cast<S>(a.scale), &lse);
  std::fill_n(out, a.v_width, S(0));
  for (int64_t j = 0; j < n; ++j) {
    const T* v = view.v.at(b, j, g);
#pragma omp simd
    for (int64_t d = 0; d < a.v_width; ++d) out[d] += scores[j] * static_cast<S>(v[d]);
  }
#pragma omp simd
  for (int64_t d = 0; d < a.v_width; ++d) out[d] *= inverse;
  narrow(out, view.o.at(b, t, h), a.v_width);
  if (a.lse != nullptr) static_cast<S*>(a.lse)[(b * a.heads + h) * a.queries + t] = lse;
}

// Consecutive heads of one group whose dk and dv are summed in one buffer.
struct Chunks {
  int64_t count;  // a group
  int64_t heads;  // a chunk, fewer in the last

  explicit Chunks(const AttentionArgs& a) {
    const int64_t group = a.heads / a.kv_heads, wanted = kBackwardUnits / std::max<int64_t>(1, a.batch * a.kv_heads);
    heads = (group + std::clamp<int64_t>(wanted, 1, group) - 1) / std::clamp<int64_t>(wanted, 1, group);
    count = (group + heads - 1) / heads;
  }
};

template <class T>
int64_t backward_bytes(const AttentionArgs& a) {
  using S = Accumulate<T>;
  const int64_t rows = std::min(a.queries, kBackwardRows), block = rows * std::min(a.keys, kBackwardKeys);
  return 2 * Scratch::bytes<S>(block) + 2 * Scratch::bytes<T>(block) + Scratch::bytes<S>(rows * a.qk_width) +
         2 * Scratch::bytes<S>(rows);
}

template <class T>
class BackwardHead {
  using S = Accumulate<T>;

 public:
  // dk [keys, qk_width] and dv [keys, v_width] are added to.
  BackwardHead(const AttentionBackwardArgs& args, int64_t b, int64_t h, S* dk, S* dv)
      : args_(args),
        a_(args.forward),
        b_(b),
        h_(h),
        g_(h / (a_.heads / a_.kv_heads)),
        view_(a_),
        d_o_{static_cast<const T*>(args.d_o), a_.queries, a_.heads, a_.v_width},
        dk_(dk),
        dv_(dv) {}

  // Queries [first, first + rows). Scores are kept transposed, [keys, rows], so that two of the three products that
  // read P and dS take them as they are.
  void tile(int64_t first, int64_t rows, Scratch scratch) {
    const int64_t block = rows * std::min(a_.keys, kBackwardKeys);
    scores_ = scratch.take<S>(block);
    dscores_ = scratch.take<S>(block);
    constexpr bool same = std::is_same_v<T, S>;
    p_ = same ? reinterpret_cast<T*>(scores_) : scratch.take<T>(block);
    ds_ = same ? reinterpret_cast<T*>(dscores_) : scratch.take<T>(block);
    S* dq = scratch.take<S>(rows * a_.qk_width);
    lse_ = scratch.take<S>(rows);
    delta_ = scratch.take<S>(rows);
    read_statistics(first, rows);

    const Matrix<T> q{view_.q.at(b_, first, h_), view_.q.stride()}, d_o{d_o_.at(b_, first, h_), d_o_.stride()};
    const int64_t n = a_.offset + first + rows;
    for (int64_t j = 0; j < n; j += kBackwardKeys) {
      const int64_t keys = std::min(kBackwardKeys, n - j);
      const Matrix<T> k{view_.k.at(b_, j, g_), view_.k.stride()}, v{view_.v.at(b_, j, g_), view_.v.stride()};
      product<T>(k, {q.data, q.ld, true}, scores_, rows, keys, rows, a_.qk_width);
      product<T>(v, {d_o.data, d_o.ld, true}, dscores_, rows, keys, rows, a_.v_width);
      for (int64_t i = 0; i < keys; ++i) score_row(i, rows, j + i - (a_.offset + first));
      product<T>({p_, rows}, d_o, dv_ + j * a_.v_width, a_.v_width, keys, a_.v_width, rows, true);
      product<T>({ds_, rows}, q, dk_ + j * a_.qk_width, a_.qk_width, keys, a_.qk_width, rows, true);
      product<T>({ds_, rows, true}, k, dq, a_.qk_width, rows, a_.qk_width, keys, j > 0);
    }
    const HeadRows<T> out{static_cast<T*>(args_.dq), a_.queries, a_.heads, a_.qk_width};
    for (int64_t t = 0; t < rows; ++t) narrow(dq + t * a_.qk_width, out.at(b_, first + t, h_), a_.qk_width);
  }

 private:
  // lse in base two and delta = do . o
  void read_statistics(int64_t first, int64_t rows) {
    const S* lse = static_cast<const S*>(a_.lse) + (b_ * a_.heads + h_) * a_.queries + first;
    for (int64_t t = 0; t < rows; ++t) {
      lse_[t] = lse[t] * static_cast<S>(kLog2e);
      const T* o = view_.o.at(b_, first + t, h_);
      const T* d_o = d_o_.at(b_, first + t, h_);
      S dot = 0;
#pragma omp simd reduction(+ : dot)
      for (int64_t d = 0; d < a_.v_width; ++d) dot += static_cast<S>(o[d]) * static_cast<S>(d_o[d]);
      delta_[t] = dot;
    }
  }

  // P and dS of key row i of the block; queries before `unseen_until` do not see the key.
  void score_row(int64_t i, int64_t rows, int64_t unseen_until) {
    S* p = scores_ + i * rows;
    S* ds = dscores_ + i * rows;
    const S c = static_cast<S>(a_.scale * kLog2e), scale = static_cast<S>(a_.scale);
#pragma omp simd
    for (int64_t t = 0; t < rows; ++t) {
      p[t] = exp2_bounded(p[t] * c - lse_[t]);
      ds[t] = p[t] * (ds[t] - delta_[t]) * scale;
    }
    if (unseen_until > 0) {
      std::fill_n(p, unseen_until, S(0));
      std::fill_n(ds, unseen_until, S(0));
    }
    narrow(p, p_ + i * rows, rows);
    narrow(ds, ds_ + i * rows, rows);
  }

  const AttentionBackwardArgs& args_;
  const AttentionArgs& a_;
  int64_t b_, h_, g_;
  Views<T> view_;
  HeadRows<const T> d_o_;
  S *dk_, *dv_;
  S *scores_ = nullptr, *dscores_ = nullptr;  // [block keys, rows]
  T *p_ = nullptr, *ds_ = nullptr;            // the same, rounded
  S *lse_ = nullptr, *delta_ = nullptr;       // [rows]
};

// Adds up the chunks' sums of every group, in order, and rounds: partial [B, G, chunks, keys, width] -> y [B, keys, G,
// width].
template <class T>
void reduce_chunks(const Accumulate<T>* partial, int64_t chunks, const HeadRows<T>& y, int64_t batch) {
  using S = Accumulate<T>;
  const int64_t size = y.tokens * y.width;
  for_each_unit(batch * y.heads, Scratch::bytes<S>(y.width), [&](int64_t unit, Scratch scratch) {
    S* sum = scratch.take<S>(y.width);
    for (int64_t j = 0; j < y.tokens; ++j) {
      const S* from = partial + unit * chunks * size + j * y.width;
      std::copy_n(from, y.width, sum);
      for (int64_t c = 1; c < chunks; ++c) {
#pragma omp simd
        for (int64_t d = 0; d < y.width; ++d) sum[d] += from[c * size + d];
      }
      narrow(sum, y.at(unit / y.heads, j, unit % y.heads), y.width);
    }
  });
}

template <class T>
void backward(const AttentionBackwardArgs& args) {
  using S = Accumulate<T>;
  const AttentionArgs& a = args.forward;
  const Chunks chunks(a);
  const int64_t groups = a.batch * a.kv_heads, group = a.heads / a.kv_heads;
  const int64_t dk_size = a.keys * a.qk_width, dv_size = a.keys * a.v_width;
  const HeadRows<T> dk{static_cast<T*>(args.dk), a.keys, a.kv_heads, a.qk_width};
  const HeadRows<T> dv{static_cast<T*>(args.dv), a.keys, a.kv_heads, a.v_width};

  // With one chunk a group its sums go straight from the thread's scratch to the result.
  const bool whole = chunks.count == 1;
  const int64_t kept = whole ? 0 : groups * chunks.count;
  const auto partial = Storage::allocate(static_cast<size_t>(kept * (dk_size + dv_size)) * sizeof(S), kCpu);
  S* dk_partial = reinterpret_cast<S*>(partial->data());
  S* dv_partial = dk_partial + kept * dk_size;
  const int64_t bytes =
      backward_bytes<T>(a) + (whole ? Scratch::bytes<S>(dk_size) + Scratch::bytes<S>(dv_size) : int64_t{0});

  for_each_unit(groups * chunks.count, bytes, [&](int64_t unit, Scratch scratch) {
    const int64_t b = unit / chunks.count / a.kv_heads, g = unit / chunks.count % a.kv_heads;
    const int64_t first_head = g * group + unit % chunks.count * chunks.heads;
    const int64_t end_head = std::min(first_head + chunks.heads, (g + 1) * group);
    S* dk_sum = whole ? scratch.take<S>(dk_size) : dk_partial + unit * dk_size;
    S* dv_sum = whole ? scratch.take<S>(dv_size) : dv_partial + unit * dv_size;
    std::fill_n(dk_sum, dk_size, S(0));
    std::fill_n(dv_sum, dv_size, S(0));
    for (int64_t h = first_head; h < end_head; ++h) {
      BackwardHead<T> head(args, b, h, dk_sum, dv_sum);
      for (int64_t t = 0; t < a.queries; t += kBackwardRows) {
        head.tile(t, std::min(kBackwardRows, a.queries - t), scratch);
      }
    }
    for (int64_t j = 0; whole && j < a.keys; ++j) {
      narrow(dk_sum + j * a.qk_width, dk.at(b, j, g), a.qk_width);
      narrow(dv_sum + j * a.v_width, dv.at(b, j, g), a.v_width);
    }
  });
  if (!whole) {
    reduce_chunks<T>(dk_partial, chunks.count, dk, a.batch);
    reduce_chunks<T>(dv_partial, chunks.count, dv, a.batch);
  }
}

}  // namespace

void attention(const AttentionArgs& a) {
  const bool few = a.queries <= kFewQueries;
  const int64_t rows = few ? 1 : kForwardRows, tiles = (a.queries + rows - 1) / rows;
  dispatch_float(a.dtype, [&]<class T>(T) {
    using S = Accumulate<T>;
    const int64_t bytes =
        few ? Scratch::bytes<S>(a.offset + a.queries) + Scratch::bytes<S>(a.v_width) : forward_bytes<T>(a);
    for_each_unit(a.batch * a.heads * tiles, bytes, [&](int64_t unit, Scratch scratch) {
      const int64_t b = unit / tiles / a.heads, h = unit / tiles % a.heads;
      const int64_t first = (tiles - 1 - unit % tiles) * rows;  // the longest first
      if (few) {
        forward_row<T>(a, b, h, first, scratch);
      } else {
        forward_tile<T>(a, b, h, first, std::min(rows, a.queries - first), scratch);
      }
    });
  });
}

void attention_backward(const AttentionBackwardArgs& args) {
  dispatch_float(args.forward.dtype, [&]<class T>(T) { backward<T>(args); });
}

}  // namespace t6::cpu
