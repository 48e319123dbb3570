// Products by cuBLASLt. It thinks in columns: a row-major matrix is the transpose of the column-major one in the same
// memory, so C = op(A) op(B) is asked for as C^T = op(B)^T op(A)^T, B first, and no transpose changes.
#include "ops/matmul.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "ops/cublaslt.h"
#include "tensor/cuda.h"
#include "tensor/gpu.h"
#include "tensor/storage.h"

namespace t6::cuda {
namespace {

constexpr auto kWorkspaceBytes = static_cast<size_t>(kMatmulWorkspaceBytes);
constexpr int kMaxCandidates = 8;
constexpr size_t kMaxPlans = 4096;
constexpr uint32_t kMaxAlignment = 16;  // bytes; no algorithm asks for more
// Below, a product takes about as long as its launch, whichever algorithm runs.
constexpr double kFlopsWorthTiming = 2e8;

// How partial sums over parts of k may be joined: not at all, or in f32 by a second kernel, in a fixed order. Left out:
// INPLACE, where blocks add to the output as they come, which is not the same at every run, and OUTPUT_TYPE, which
// rounds partial sums to bf16. The library filters its suggestions by this mask; they are looked at again below.
constexpr uint32_t kReductions = CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;

struct Destroy {
  void operator()(cublasLtMatmulDesc_t p) const { static_cast<void>(cublaslt().MatmulDescDestroy(p)); }
  void operator()(cublasLtMatrixLayout_t p) const { static_cast<void>(cublaslt().MatrixLayoutDestroy(p)); }
  void operator()(cublasLtMatmulPreference_t p) const { static_cast<void>(cublaslt().MatmulPreferenceDestroy(p)); }
};
template <class Pointer>
using Owned = std::unique_ptr<std::remove_pointer_t<Pointer>, Destroy>;

cudaDataType_t type_of(DType dtype) {
  return dtype == DType::bf16 ? CUDA_R_16BF : CUDA_R_32F;
}

uint32_t alignment_of(const void* pointer) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(pointer) | kMaxAlignment;
  return uint32_t{1} << std::countr_zero(address);
}

// What an algorithm is chosen for.
struct Key {
  int64_t m, n, k, lda, ldb, ldc;
  uint32_t flags;  // transposes, accumulation, dtypes
  uint32_t align_a, align_b, align_c;
  friend bool operator==(const Key&, const Key&) = default;

  explicit Key(const MatmulArgs& p)
      : m(p.m),
        n(p.n),
        k(p.k),
        lda(p.lda),
        ldb(p.ldb),
        ldc(p.ldc),
        flags(p.transpose_a + 2u * p.transpose_b + 4u * p.accumulate + 8u * (p.in_dtype == DType::bf16) +
              16u * (p.out_dtype == DType::bf16)),
        align_a(alignment_of(p.a)),
        align_b(alignment_of(p.b)),
        align_c(alignment_of(p.c)) {}
};

struct KeyHash {
  size_t operator()(const Key& key) const {
    uint64_t hash = 0;
    for (const int64_t x : {key.m, key.n, key.k, key.lda, key.ldb, key.ldc, int64_t{key.flags}, int64_t{key.align_a},
                            int64_t{key.align_b}, int64_t{key.align_c}}) {
      hash = (hash ^ static_cast<uint64_t>(x)) * 0x9E3779B97F4A7C15U;
      hash ^= hash >> 29;
    }
    return hash;
  }
};

// A product as the library takes it; "first" and "second" are its operands, our b and a.
struct Description {
  Owned<cublasLtMatmulDesc_t> operation;
  Owned<cublasLtMatrixLayout_t> first, second, result;

  explicit Description(const MatmulArgs& p) {
    cublasLtMatmulDesc_t desc = nullptr;
    T6_CUBLASLT(cublaslt().MatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    operation.reset(desc);
    set_transpose(CUBLASLT_MATMUL_DESC_TRANSA, p.transpose_b);
    set_transpose(CUBLASLT_MATMUL_DESC_TRANSB, p.transpose_a);
    first = p.transpose_b ? layout(p.in_dtype, p.k, p.n, p.ldb) : layout(p.in_dtype, p.n, p.k, p.ldb);
    second = p.transpose_a ? layout(p.in_dtype, p.m, p.k, p.lda) : layout(p.in_dtype, p.k, p.m, p.lda);
    result = layout(p.out_dtype, p.n, p.m, p.ldc);
  }

 private:
  void set_transpose(cublasLtMatmulDescAttributes_t which, bool transpose) {
    const cublasOperation_t value = transpose ? CUBLAS_OP_T : CUBLAS_OP_N;
    T6_CUBLASLT(cublaslt().MatmulDescSetAttribute(operation.get(), which, &value, sizeof value));
  }
  static Owned<cublasLtMatrixLayout_t> layout(DType dtype, int64_t rows, int64_t columns, int64_t ld) {
    cublasLtMatrixLayout_t result = nullptr;
    T6_CUBLASLT(cublaslt().MatrixLayoutCreate(&result, type_of(dtype), static_cast<uint64_t>(rows),
                                              static_cast<uint64_t>(columns), ld));
    return Owned<cublasLtMatrixLayout_t>(result);
  }
};

// nvcc 13.0 crashes on a vector of the library's type, which is an unnamed struct behind a typedef.
struct Algorithm {
  cublasLtMatmulAlgo_t value;
};

struct Plan {
  Description description;
  Algorithm algorithm;
};

template <class T = int32_t>
T config_of(const Algorithm& algorithm, cublasLtMatmulAlgoConfigAttributes_t attribute) {
  T value{};
  size_t written = 0;
  T6_CUBLASLT(cublaslt().MatmulAlgoConfigGetAttribute(&algorithm.value, attribute, &value, sizeof value, &written));
  return value;
}

std::string text_of(const MatmulArgs& p) {
  return fmt::format("a {} -> {} product of [{}, {}] and [{}, {}]", name_of(p.in_dtype), name_of(p.out_dtype), p.m, p.k,
                     p.k, p.n);
}

bool capturing() {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  T6_CUDA(cudaStreamIsCapturing(current_stream(), &status));
  return status != cudaStreamCaptureStatusNone;
}

class Products {
 public:
  // Never destroyed: at exit the driver may be gone.
  static Products& instance() {
    static Products& products = *new Products;
    return products;
  }

  void prepare() {
    const std::lock_guard lock(mutex_);
    open();
  }

  void run(const MatmulArgs& p) {
    const std::lock_guard lock(mutex_);
    open();
    const Key key(p);
    auto it = plans_.find(key);
    if (it == plans_.end()) {
      if (plans_.size() >= kMaxPlans) forget();
      it = plans_.emplace(key, make_plan(p, key)).first;
    }
    const cublasStatus_t status = run(it->second.description, it->second.algorithm, p, p.c);
    T6_CHECK(status == CUBLAS_STATUS_SUCCESS, "[matmul] cuBLASLt failed on {}: {}", text_of(p),
             cublaslt().GetStatusName(status));
  }

  void set_choice(MatmulChoice choice) {
    const std::lock_guard lock(mutex_);
    if (choice != choice_) forget();
    choice_ = choice;
  }

  std::vector<MatmulAlgorithm> algorithms() {
    const std::lock_guard lock(mutex_);
    return made_;
  }

 private:
  Products() = default;

  void open() {
    if (workspace_ != nullptr) return;
    current_stream();  // makes the device current
    T6_CHECK(!capturing(),
             "[matmul] the first product of a process was asked for while a graph is captured; call prepare_matmul() "
             "before");
    T6_CUBLASLT(cublaslt().Create(&handle_));
    workspace_ = Storage::allocate(kWorkspaceBytes, Device{Device::Kind::cuda, 0});
  }

  void forget() {
    plans_.clear();
    made_.clear();
  }

  cublasStatus_t run(const Description& d, const Algorithm& algorithm, const MatmulArgs& p, void* c) {
    const float alpha = 1, beta = p.accumulate ? 1 : 0;
    return cublaslt().Matmul(handle_, d.operation.get(), &alpha, p.b, d.first.get(), p.a, d.second.get(), &beta, c,
                             d.result.get(), c, d.result.get(), &algorithm.value, workspace_->data(), kWorkspaceBytes,
                             current_stream());
  }

  Plan make_plan(const MatmulArgs& p, const Key& key) {
    Description description(p);
    const std::vector<Algorithm> found = candidates(description, key, p);
    size_t chosen = 0;
    double microseconds = 0;
    if (choice_ == MatmulChoice::timed && found.size() > 1 && flops_of(p) >= kFlopsWorthTiming && !capturing()) {
      std::tie(chosen, microseconds) = fastest(description, found, p);
    }
    const Algorithm& algorithm = found[chosen];
    MatmulArgs product = p;
    product.a = product.b = product.c = nullptr;
    made_.push_back({.product = product,
                     .id = config_of(algorithm, CUBLASLT_ALGO_CONFIG_ID),
                     .tile = config_of(algorithm, CUBLASLT_ALGO_CONFIG_TILE_ID),
                     .stages = config_of(algorithm, CUBLASLT_ALGO_CONFIG_STAGES_ID),
                     .split_k = config_of(algorithm, CUBLASLT_ALGO_CONFIG_SPLITK_NUM),
                     .candidates = static_cast<int>(found.size()),
                     .microseconds = microseconds});
    return {std::move(description), algorithm};
  }

  // The library's suggestions, the one it thinks fastest first. At least one.
  std::vector<Algorithm> candidates(const Description& d, const Key& key, const MatmulArgs& p) {
    cublasLtMatmulPreference_t raw = nullptr;
    T6_CUBLASLT(cublaslt().MatmulPreferenceCreate(&raw));
    const Owned<cublasLtMatmulPreference_t> preference(raw);
    auto prefer = [raw](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
      T6_CUBLASLT(cublaslt().MatmulPreferenceSetAttribute(raw, attribute, &value, sizeof value));
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{kWorkspaceBytes});
    prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, kReductions);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, key.align_b);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, key.align_a);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, key.align_c);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, key.align_c);

    cublasLtMatmulHeuristicResult_t results[kMaxCandidates] = {};
    int count = 0;
    const cublasStatus_t status =
        cublaslt().MatmulAlgoGetHeuristic(handle_, d.operation.get(), d.first.get(), d.second.get(), d.result.get(),
                                          d.result.get(), raw, kMaxCandidates, results, &count);
    std::vector<Algorithm> found;
    for (int i = 0; i < count && status == CUBLAS_STATUS_SUCCESS; ++i) {
      if (results[i].state != CUBLAS_STATUS_SUCCESS) continue;
      const Algorithm algorithm{results[i].algo};
      const auto reduction = config_of<uint32_t>(algorithm, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME);
      if ((reduction & ~kReductions) == 0) found.push_back(algorithm);
    }
    T6_CHECK(!found.empty(), "[matmul] cuBLASLt {} knows no algorithm for {} (leading dimensions {}, {}, {}): {}",
             cublaslt_version(), text_of(p), p.lda, p.ldb, p.ldc, cublaslt().GetStatusName(status));
    return found;
  }

  // Index of the algorithm to take and its time in microseconds. Runs them on the product's own inputs; a result that
  // is added to is left alone, scratch takes its place. (0, 0) when there is no memory for that.
  std::pair<size_t, double> fastest(const Description& d, const std::vector<Algorithm>& found, const MatmulArgs& p) {
    constexpr int kRounds = 3;
    constexpr double kRoundMilliseconds = 0.1;  // of one algorithm; far above the resolution of events
    constexpr int kMaxRepeats = 20;
    // Among algorithms as close as this the library's order decides, so that noise seldom does.
    constexpr double kTie = 1.01;

    std::shared_ptr<Storage> scratch;
    if (p.accumulate) {
      try {
        const int64_t elements = (p.m - 1) * p.ldc + p.n;
        scratch = Storage::allocate(static_cast<size_t>(elements) * size_of(p.out_dtype), workspace_->device());
      } catch (const gpu::OutOfMemory&) {
        return {0, 0};
      }
    }
    void* c = scratch != nullptr ? scratch->data() : p.c;
    gpu::Event begin, end;
    auto milliseconds = [&](size_t i, int repeats) {
      begin.record();
      for (int r = 0; r < repeats; ++r) static_cast<void>(run(d, found[i], p, c));
      end.record();
      return end.milliseconds_since(begin) / repeats;
    };

    // The first run of each loads its kernel. What fails here is no choice.
    constexpr double kNever = std::numeric_limits<double>::infinity();
    std::vector<double> best(found.size(), kNever);
    std::vector<size_t> able;
    for (size_t i = 0; i < found.size(); ++i) {
      if (run(d, found[i], p, c) == CUBLAS_STATUS_SUCCESS) able.push_back(i);
    }
    if (able.empty()) return {0, 0};
    const double once = std::max(milliseconds(able.front(), 1), 1e-3);
    const int repeats = std::clamp(static_cast<int>(kRoundMilliseconds / once), 1, kMaxRepeats);
    for (int round = 0; round < kRounds; ++round) {
      for (const size_t i : able) best[i] = std::min(best[i], milliseconds(i, repeats));
    }
    const double limit = *std::min_element(best.begin(), best.end()) * kTie;
    const auto chosen = std::find_if(best.begin(), best.end(), [limit](double time) { return time <= limit; });
    return {static_cast<size_t>(chosen - best.begin()), *chosen * 1e3};
  }

  std::mutex mutex_;
  cublasLtHandle_t handle_ = nullptr;
  std::shared_ptr<Storage> workspace_;  // products run one after another on one stream and share it
  std::unordered_map<Key, Plan, KeyHash> plans_;
  std::vector<MatmulAlgorithm> made_;
  MatmulChoice choice_ = MatmulChoice::timed;
};

}  // namespace

void matmul(const MatmulArgs& args) {
  T6_CHECK(args.in_dtype != DType::f64, "matmul: f64 is not built for cuda");
  if (args.m == 0 || args.n == 0) return;
  if (args.k > 0) {
    Products::instance().run(args);
  } else if (!args.accumulate) {
    const size_t size = size_of(args.out_dtype);
    T6_CUDA(cudaMemset2DAsync(args.c, static_cast<size_t>(args.ldc) * size, 0, static_cast<size_t>(args.n) * size,
                              static_cast<size_t>(args.m), current_stream()));
  }
}

}  // namespace t6::cuda

namespace t6 {

void prepare_matmul(Device device) {
  if (device.is_cuda()) cuda::Products::instance().prepare();
}

void set_matmul_choice(MatmulChoice choice) {
  cuda::Products::instance().set_choice(choice);
}

std::vector<MatmulAlgorithm> matmul_algorithms() {
  return cuda::Products::instance().algorithms();
}

std::string gpu_matmul_library_version() {
  return gpu::count() > 0 ? cuda::cublaslt_version() : std::string();
}

}  // namespace t6
