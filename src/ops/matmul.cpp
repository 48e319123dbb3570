#include "ops/matmul.h"

#include <omp.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <oneapi/dnnl/dnnl.hpp>
#include <unordered_map>
#include <vector>

#include "ops/few_rows.h"
#include "ops/kernel.h"
#include "tensor/parallel.h"
#include "tensor/storage.h"

namespace t6 {
namespace cpu {
namespace {

// Below this many multiply-adds starting a team of threads costs more than it saves (about a microsecond of work).
constexpr int64_t kOneThreadWork = int64_t{1} << 17;

// Threads for a product of this size from where we are.
int threads_for(const MatmulArgs& a) {
  return omp_in_parallel() || a.m * a.n * a.k <= kOneThreadWork ? 1 : omp_get_max_threads();
}

// oneDNN takes its thread count from OpenMP, both when a primitive is made and when it runs.
class ThreadCount {
 public:
  explicit ThreadCount(int count) : previous_(omp_get_max_threads()) {
    if (count != previous_) omp_set_num_threads(count);
  }
  ~ThreadCount() {
    if (omp_get_max_threads() != previous_) omp_set_num_threads(previous_);
  }
  ThreadCount(const ThreadCount&) = delete;
  ThreadCount& operator=(const ThreadCount&) = delete;

 private:
  int previous_;
};

// A bf16 product as oneDNN makes it, with the memory objects it runs on. Used by the thread that made it alone.
struct Primitive {
  dnnl::matmul matmul;
  dnnl::memory a, b, c, scratchpad;
  size_t scratchpad_bytes;
};

const dnnl::engine& engine() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

dnnl::memory::desc matrix(int64_t rows, int64_t columns, int64_t ld, bool transposed, DType dtype) {
  const auto type = dtype == DType::bf16 ? dnnl::memory::data_type::bf16 : dnnl::memory::data_type::f32;
  return {{rows, columns}, type, transposed ? dnnl::memory::dims{1, ld} : dnnl::memory::dims{ld, 1}};
}

Primitive make_primitive(const MatmulArgs& args) {
  const auto a = matrix(args.m, args.k, args.lda, args.transpose_a, args.in_dtype);
  const auto b = matrix(args.k, args.n, args.ldb, args.transpose_b, args.in_dtype);
  const auto c = matrix(args.m, args.n, args.ldc, false, args.out_dtype);
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  if (args.accumulate) {
    dnnl::post_ops post;
    post.append_sum(1.0F);
    attributes.set_post_ops(post);
  }
#if DNNL_VERSION_MAJOR >= 3
  const dnnl::matmul::primitive_desc description(engine(), a, b, c, attributes);
#else
  const dnnl::matmul::primitive_desc description(dnnl::matmul::desc(a, b, c), attributes, engine());
#endif
  const auto scratchpad = description.scratchpad_desc();
  auto unbound = [](const dnnl::memory::desc& d) { return dnnl::memory(d, engine(), nullptr); };
  return {dnnl::matmul(description), unbound(a), unbound(b), unbound(c), unbound(scratchpad), scratchpad.get_size()};
}

struct Key {
  int64_t m, n, k, lda, ldb, ldc;
  int flags;  // transposes, accumulate, output type, threads
  friend bool operator==(const Key&, const Key&) = default;
};

struct KeyHash {
  size_t operator()(const Key& key) const {
    uint64_t hash = 0;
    for (const int64_t x : {key.m, key.n, key.k, key.lda, key.ldb, key.ldc, int64_t{key.flags}}) {
      hash = (hash ^ static_cast<uint64_t>(x)) * 0x9E3779B97F4A7C15U;
      hash ^= hash >> 29;
    }
    return hash;
  }
};

// What one thread keeps between products: primitives by shape (making one costs 0.1 to 0.7 ms) and a scratchpad.
class ThreadState {
 public:
  ThreadState() : stream_(engine()) {}

  void run(const MatmulArgs& args, int threads) {
    const int flags =
        args.transpose_a + 2 * args.transpose_b + 4 * args.accumulate + 8 * (args.out_dtype == DType::f32);
    const Key key{args.m, args.n, args.k, args.lda, args.ldb, args.ldc, flags + 16 * threads};
    auto it = primitives_.find(key);
    if (it == primitives_.end()) {
      if (primitives_.size() >= kMaxPrimitives) primitives_.clear();
      it = primitives_.emplace(key, make_primitive(args)).first;
    }
    Primitive& p = it->second;
    if (p.scratchpad_bytes > scratchpad_bytes_) grow(p.scratchpad_bytes);
    p.a.set_data_handle(const_cast<void*>(args.a));
    p.b.set_data_handle(const_cast<void*>(args.b));
    p.c.set_data_handle(args.c);
    p.scratchpad.set_data_handle(scratchpad_.get());
    p.matmul.execute(
        stream_,
        {{DNNL_ARG_SRC, p.a}, {DNNL_ARG_WEIGHTS, p.b}, {DNNL_ARG_DST, p.c}, {DNNL_ARG_SCRATCHPAD, p.scratchpad}});
    stream_.wait();
  }

 private:
  static constexpr size_t kMaxPrimitives = 1024;
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };

  void grow(size_t bytes) {
    constexpr size_t kPage = 4096;
    scratchpad_bytes_ = (bytes + kPage - 1) / kPage * kPage;
    scratchpad_.reset();
    scratchpad_.reset(std::aligned_alloc(kPage, scratchpad_bytes_));
    if (scratchpad_ == nullptr) throw std::bad_alloc();
  }

  dnnl::stream stream_;
  std::unordered_map<Key, Primitive, KeyHash> primitives_;
  std::unique_ptr<void, Free> scratchpad_;
  size_t scratchpad_bytes_ = 0;
};

bool has_bf16_dot_products() {
#if defined(__x86_64__)
  static const bool has = __builtin_cpu_supports("avx512bf16") != 0;
  return has;
#else
  return false;
#endif
}

// Whether a matrix stored with one column has gaps between its rows: oneDNN 3.7 takes such a one for contiguous, and
// reads or writes the wrong elements.
bool has_strided_column(const MatmulArgs& args) {
  const int64_t a_columns = args.transpose_a ? args.m : args.k, b_columns = args.transpose_b ? args.k : args.n;
  return (a_columns == 1 && args.lda > 1) || (b_columns == 1 && args.ldb > 1) || (args.n == 1 && args.ldc > 1);
}

// False when this oneDNN cannot run the product.
bool run_primitive(const MatmulArgs& args) {
  thread_local ThreadState state;
  const int threads = threads_for(args);
  const ThreadCount scope(threads);
  try {
    state.run(args, threads);
    return true;
  } catch (const dnnl::error& error) {
    if (error.status == dnnl_unimplemented) return false;
    fail(ExitCode::internal, "[matmul] oneDNN failed on a [{}, {}] x [{}, {}] product: {}", args.m, args.k, args.k,
         args.n, error.what());
  }
}

// oneDNN's gemm interface: on plain f32 matrices it is faster than its matmul primitive and needs no preparation.
void matmul_f32(const MatmulArgs& a) {
  const ThreadCount scope(threads_for(a));
  const dnnl_status_t status = dnnl_sgemm(a.transpose_a ? 'T' : 'N', a.transpose_b ? 'T' : 'N', a.m, a.n, a.k, 1.0F,
                                          static_cast<const float*>(a.a), a.lda, static_cast<const float*>(a.b), a.ldb,
                                          a.accumulate ? 1.0F : 0.0F, static_cast<float*>(a.c), a.ldc);
  T6_CHECK(status == dnnl_success, "[matmul] oneDNN failed with status {} on a [{}, {}] x [{}, {}] product",
           static_cast<int>(status), a.m, a.k, a.k, a.n);
}

// Rows of op(B) blocked to stay in cache; sums over k in order.
void matmul_f64(const MatmulArgs& a) {
  constexpr int64_t kBlockK = 64, kBlockN = 256;
  const double* pa = static_cast<const double*>(a.a);
  const double* pb = static_cast<const double*>(a.b);
  double* pc = static_cast<double*>(a.c);
  const int64_t a_row = a.transpose_a ? 1 : a.lda, a_column = a.transpose_a ? a.lda : 1;
  const int64_t grain = std::max<int64_t>(1, kOneThreadWork / 4 / std::max<int64_t>(1, a.n * a.k));
  parallel_for(a.m, grain, [&](int64_t begin, int64_t end) {
    std::vector<double> block(kBlockK * kBlockN);
    for (int64_t i = begin; i < end && !a.accumulate; ++i) std::fill_n(pc + i * a.ldc, a.n, 0.0);
    for (int64_t k0 = 0; k0 < a.k; k0 += kBlockK) {
      const int64_t k1 = std::min(a.k, k0 + kBlockK);
      for (int64_t n0 = 0; n0 < a.n; n0 += kBlockN) {
        const int64_t width = std::min(kBlockN, a.n - n0);
        for (int64_t k = k0; k < k1; ++k) {
          for (int64_t j = 0; j < width; ++j) {
            block[(k - k0) * kBlockN + j] = a.transpose_b ? pb[(n0 + j) * a.ldb + k] : pb[k * a.ldb + n0 + j];
          }
        }
        for (int64_t i = begin; i < end; ++i) {
          double* c = pc + i * a.ldc + n0;
          for (int64_t k = k0; k < k1; ++k) {
            const double x = pa[i * a_row + k * a_column];
            const double* b = block.data() + (k - k0) * kBlockN;
#pragma omp simd
            for (int64_t j = 0; j < width; ++j) c[j] += x * b[j];
          }
        }
      }
    }
  });
}

// [rows, columns] of a matrix with leading dimension ld as contiguous f32.
std::shared_ptr<Storage> widened(const void* matrix, int64_t rows, int64_t columns, int64_t ld) {
  auto copy = Storage::allocate(static_cast<size_t>(rows * columns) * sizeof(float), kCpu);
  float* to = reinterpret_cast<float*>(copy->data());
  const bfloat16* from = static_cast<const bfloat16*>(matrix);
  parallel_for(rows, std::max<int64_t>(1, (1 << 14) / columns), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
#pragma omp simd
      for (int64_t j = 0; j < columns; ++j) to[i * columns + j] = static_cast<float>(from[i * ld + j]);
    }
  });
  return copy;
}

void set_zero(const MatmulArgs& a) {
  for (int64_t i = 0; i < a.m; ++i) {
    const size_t size = size_of(a.out_dtype);
    std::memset(static_cast<char*>(a.c) + static_cast<size_t>(i * a.ldc) * size, 0, static_cast<size_t>(a.n) * size);
  }
}

}  // namespace

void matmul_bf16_through_f32(const MatmulArgs& args) {
  const int64_t a_columns = args.transpose_a ? args.m : args.k, b_columns = args.transpose_b ? args.k : args.n;
  const auto a = widened(args.a, args.transpose_a ? args.k : args.m, a_columns, args.lda);
  const auto b = widened(args.b, args.transpose_b ? args.n : args.k, b_columns, args.ldb);
  MatmulArgs wide = args;
  wide.in_dtype = wide.out_dtype = DType::f32;
  wide.a = a->data();
  wide.b = b->data();
  wide.lda = a_columns;
  wide.ldb = b_columns;
  if (args.out_dtype == DType::f32) return matmul_f32(wide);

  const auto c = Storage::allocate(static_cast<size_t>(args.m * args.n) * sizeof(float), kCpu);
  wide.c = c->data();
  wide.ldc = args.n;
  matmul_f32(wide);
  const float* from = reinterpret_cast<const float*>(c->data());
  bfloat16* to = static_cast<bfloat16*>(args.c);
  parallel_for(args.m, std::max<int64_t>(1, (1 << 14) / args.n), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
#pragma omp simd
      for (int64_t j = 0; j < args.n; ++j) store(to[i * args.ldc + j], from[i * args.n + j]);
    }
  });
}

void matmul(const MatmulArgs& args) {
  if (args.m == 0 || args.n == 0) return;
  if (args.k == 0) {
    if (!args.accumulate) set_zero(args);
  } else if (takes_few_rows(args)) {
    matmul_few_rows(args);
  } else if (args.in_dtype == DType::f64) {
    matmul_f64(args);
  } else if (args.in_dtype == DType::f32) {
    matmul_f32(args);
  } else if (!has_bf16_dot_products() || has_strided_column(args) || !run_primitive(args)) {
    matmul_bf16_through_f32(args);
  }
}

}  // namespace cpu

namespace {
constexpr Kernel<MatmulArgs> kMatmul{"matmul", &cpu::matmul, T6_CUDA_KERNEL(cuda::matmul)};
}  // namespace

void matmul(Device device, const MatmulArgs& a) {
  const bool pair =
      a.in_dtype == a.out_dtype ? a.in_dtype != DType::i32 : a.in_dtype == DType::bf16 && a.out_dtype == DType::f32;
  T6_CHECK(pair, "[matmul] expected dtypes f32 -> f32, bf16 -> bf16, bf16 -> f32 or f64 -> f64, got {} -> {}",
           name_of(a.in_dtype), name_of(a.out_dtype));
  T6_CHECK(!a.accumulate || a.out_dtype != DType::bf16, "[matmul] expected an f32 or f64 output to add to, got bf16");
  T6_CHECK(a.m >= 0 && a.n >= 0 && a.k >= 0, "[matmul] expected sizes of zero or more, got m {}, n {}, k {}", a.m, a.n,
           a.k);
  T6_CHECK(a.lda >= (a.transpose_a ? a.m : a.k) && a.ldb >= (a.transpose_b ? a.k : a.n) && a.ldc >= a.n,
           "[matmul] leading dimensions {}, {}, {} are shorter than the rows of a [{}, {}] x [{}, {}] product", a.lda,
           a.ldb, a.ldc, a.m, a.k, a.k, a.n);
  kMatmul(device, a);
}

std::string to_string(const MatmulAlgorithm& algorithm) {
  const MatmulArgs& p = algorithm.product;
  auto matrix = [](int64_t rows, int64_t columns, bool transposed) {
    return transposed ? fmt::format("[{}, {}]^T", columns, rows) : fmt::format("[{}, {}]", rows, columns);
  };
  const std::string time =
      algorithm.microseconds > 0 ? fmt::format("{:.1f} us", algorithm.microseconds) : std::string("not measured");
  return fmt::format("{} -> {} {} {} {} {}, ld {} {} {}: algorithm {}, tile {}, stages {}, split-k {}, of {}, {}",
                     name_of(p.in_dtype), name_of(p.out_dtype), matrix(p.m, p.n, false), p.accumulate ? "+=" : "=",
                     matrix(p.m, p.k, p.transpose_a), matrix(p.k, p.n, p.transpose_b), p.lda, p.ldb, p.ldc,
                     algorithm.id, algorithm.tile, algorithm.stages, algorithm.split_k, algorithm.candidates, time);
}

// Defined in matmul.cu where there is CUDA.
#if !defined(T6_HAVE_CUDA)
void prepare_matmul(Device) {}
void set_matmul_choice(MatmulChoice) {}
std::vector<MatmulAlgorithm> matmul_algorithms() {
  return {};
}
std::string gpu_matmul_library_version() {
  return {};
}
#endif

std::string matmul_library_version() {
  const dnnl_version_t* v = dnnl_version();
  return fmt::format("{}.{}.{}", v->major, v->minor, v->patch);
}

}  // namespace t6
