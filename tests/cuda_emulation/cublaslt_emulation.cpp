#include <atomic>
#include <bit>
#include <cstring>
#include <vector>

#include "cublasLt.h"

namespace {

// One column-major operand: element (i, j) of op(X).
struct Operand {
  const void* data;
  cudaDataType_t type;
  int64_t ld;
  bool transposed;

  float at(int64_t i, int64_t j) const {
    const int64_t index = transposed ? j + i * ld : i + j * ld;
    if (type == CUDA_R_32F) return static_cast<const float*>(data)[index];
    return std::bit_cast<float>(static_cast<uint32_t>(static_cast<const uint16_t*>(data)[index]) << 16);
  }
};

uint16_t to_bf16(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  if (x != x) return static_cast<uint16_t>(bits >> 16 | 0x40u);
  return static_cast<uint16_t>((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

// All values of one call: the graph that captured it may run it long after its descriptors are gone.
struct Product {
  Operand a, b;
  const void* c;
  void* d;
  cudaDataType_t type;  // of C and D
  int64_t ldc, ldd;
  int64_t m, n, k;
  float alpha, beta;
  cublasLtMatmulAlgo_t algorithm;
  float* workspace;
};

constexpr int64_t kTileRows = 256, kTileColumns = 64, kDepth = 128;

// sum[j][i] += over k in [k0, k1) op(A)(i0 + i, k) op(B)(k, j0 + j), in the order of k.
void add_tile(const Product& p, int64_t i0, int64_t rows, int64_t j0, int64_t columns, int64_t k0, int64_t k1,
              float* sum) {
  thread_local std::vector<float> block(kDepth * kTileRows);
  for (int64_t first = k0; first < k1; first += kDepth) {
    const int64_t depth = std::min(kDepth, k1 - first);
    for (int64_t k = 0; k < depth; ++k) {
      for (int64_t i = 0; i < rows; ++i) block[k * kTileRows + i] = p.a.at(i0 + i, first + k);
    }
    for (int64_t j = 0; j < columns; ++j) {
      float* out = sum + j * kTileRows;
      for (int64_t k = 0; k < depth; ++k) {
        const float x = p.b.at(first + k, j0 + j);
        const float* in = block.data() + k * kTileRows;
#pragma omp simd
        for (int64_t i = 0; i < rows; ++i) out[i] += x * in[i];
      }
    }
  }
}

// Calls f(i0, rows, j0, columns) for every tile of D, in parallel.
template <class F>
void for_tiles(const Product& p, F&& f) {
  const int64_t down = (p.m + kTileRows - 1) / kTileRows, across = (p.n + kTileColumns - 1) / kTileColumns;
#pragma omp parallel for schedule(dynamic) if (p.m * p.n * p.k > (1 << 18))
  for (int64_t t = 0; t < down * across; ++t) {
    const int64_t i0 = t % down * kTileRows, j0 = t / down * kTileColumns;
    f(i0, std::min(kTileRows, p.m - i0), j0, std::min(kTileColumns, p.n - j0));
  }
}

void finish(const Product& p, int64_t i, int64_t j, float sum) {
  const int64_t at = i + j * p.ldd, from = i + j * p.ldc;
  float value = p.alpha * sum;
  if (p.type == CUDA_R_32F) {
    if (p.beta != 0) value += p.beta * static_cast<const float*>(p.c)[from];
    static_cast<float*>(p.d)[at] = value;
  } else {
    if (p.beta != 0) value += p.beta * Operand{p.c, p.type, p.ldc, false}.at(i, j);
    static_cast<uint16_t*>(p.d)[at] = to_bf16(value);
  }
}

// Parts of k into the workspace, [parts][n][m], then summed in the order of `order`.
void run_split(const Product& p, bool reverse) {
  const int64_t parts = p.algorithm.split_k, step = (p.k + parts - 1) / parts;
  for_tiles(p, [&](int64_t i0, int64_t rows, int64_t j0, int64_t columns) {
    for (int64_t part = 0; part < parts; ++part) {
      std::vector<float> sum(kTileColumns * kTileRows);
      add_tile(p, i0, rows, j0, columns, std::min(p.k, part * step), std::min(p.k, (part + 1) * step), sum.data());
      for (int64_t j = 0; j < columns; ++j) {
        std::memcpy(p.workspace + (part * p.n + j0 + j) * p.m + i0, sum.data() + j * kTileRows,
                    static_cast<size_t>(rows) * sizeof(float));
      }
    }
  });
  for (int64_t j = 0; j < p.n; ++j) {
    for (int64_t i = 0; i < p.m; ++i) {
      float sum = 0;
      for (int64_t s = 0; s < parts; ++s) sum += p.workspace[((reverse ? parts - 1 - s : s) * p.n + j) * p.m + i];
      finish(p, i, j, sum);
    }
  }
}

void run(const Product& p) {
  if (p.algorithm.split_k > 1) {
    static std::atomic<unsigned> calls{0};
    run_split(p, p.algorithm.reduction == CUBLASLT_REDUCTION_SCHEME_INPLACE && calls++ % 2 == 1);
    return;
  }
  for_tiles(p, [&](int64_t i0, int64_t rows, int64_t j0, int64_t columns) {
    std::vector<float> sum(kTileColumns * kTileRows);
    add_tile(p, i0, rows, j0, columns, 0, p.k, sum.data());
    for (int64_t j = 0; j < columns; ++j) {
      for (int64_t i = 0; i < rows; ++i) finish(p, i0 + i, j0 + j, sum[j * kTileRows + i]);
    }
  });
}

size_t workspace_of(const cublasLtMatmulAlgo_t& algorithm, const cublasLtMatrixLayoutOpaque_t& d) {
  return algorithm.split_k > 1 ? static_cast<size_t>(algorithm.split_k) * d.rows * d.columns * sizeof(float) : 0;
}

size_t size_of(cudaDataType_t type) {
  return type == CUDA_R_32F ? 4 : 2;
}

bool valid(const cublasLtMatrixLayoutOpaque_t& layout) {
  return layout.rows > 0 && layout.columns > 0 && layout.ld >= static_cast<int64_t>(layout.rows);
}

// The checks that the heuristic and the product share.
cublasStatus_t check(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
                     cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d) {
  if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
  for (const cublasLtMatrixLayout_t layout : {a, b, c, d}) {
    if (desc == nullptr || layout == nullptr || !valid(*layout)) return CUBLAS_STATUS_INVALID_VALUE;
  }
  const bool ta = desc->transpose_a == CUBLAS_OP_T, tb = desc->transpose_b == CUBLAS_OP_T;
  const uint64_t m = ta ? a->columns : a->rows, k = ta ? a->rows : a->columns;
  const uint64_t k_of_b = tb ? b->columns : b->rows, n = tb ? b->rows : b->columns;
  if (k != k_of_b || d->rows != m || d->columns != n || c->rows != m || c->columns != n || c->type != d->type) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  const bool types =
      a->type == b->type && (d->type == CUDA_R_32F || (d->type == CUDA_R_16BF && a->type == CUDA_R_16BF));
  const bool computed = desc->compute == CUBLAS_COMPUTE_32F && desc->scale == CUDA_R_32F;
  return types && computed ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

template <class T>
cublasStatus_t take(T* to, const void* value, size_t bytes) {
  if (value == nullptr || bytes != sizeof(T)) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(to, value, bytes);
  return CUBLAS_STATUS_SUCCESS;
}

}  // namespace

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  static char the_handle;
  *handle = reinterpret_cast<cublasLtHandle_t>(&the_handle);
  return CUBLAS_STATUS_SUCCESS;
}
size_t cublasLtGetVersion() {
  return CUBLAS_VER_MAJOR * 10000;
}
const char* cublasLtGetStatusName(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS:
      return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_NOT_INITIALIZED:
      return "CUBLAS_STATUS_NOT_INITIALIZED";
    case CUBLAS_STATUS_NOT_SUPPORTED:
      return "CUBLAS_STATUS_NOT_SUPPORTED";
    default:
      return "CUBLAS_STATUS_INVALID_VALUE";
  }
}
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* desc, cublasComputeType_t compute, cudaDataType_t scale) {
  *desc = new cublasLtMatmulDescOpaque_t{compute, scale};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t attribute,
                                              const void* value, size_t bytes) {
  return take(attribute == CUBLASLT_MATMUL_DESC_TRANSA ? &desc->transpose_a : &desc->transpose_b, value, bytes);
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) {
  delete desc;
  return CUBLAS_STATUS_SUCCESS;
}
// As the library, takes any numbers: the heuristic and the product look at them.
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType_t type, uint64_t rows,
                                          uint64_t columns, int64_t ld) {
  *layout = new cublasLtMatrixLayoutOpaque_t{type, rows, columns, ld};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  delete layout;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  *preference = new cublasLtMatmulPreferenceOpaque_t;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute, const void* value,
                                                    size_t bytes) {
  switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
      return take(&preference->workspace_bytes, value, bytes);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
      return take(&preference->reductions, value, bytes);
    default:
      return take(&preference->alignment[attribute - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES], value, bytes);
  }
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  delete preference;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int requested,
                                              cublasLtMatmulHeuristicResult_t results[], int* count) {
  *count = 0;
  if (requested <= 0 || preference == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  const cublasStatus_t status = check(handle, desc, a, b, c, d);
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  uint32_t alignment = 256;
  for (const uint32_t x : preference->alignment) alignment = std::min(alignment, x);
  bool vectors = alignment >= 16;
  for (const cublasLtMatrixLayout_t x : {a, b, c, d}) {
    vectors = vectors && static_cast<size_t>(x->ld) * size_of(x->type) % 16 == 0;
  }
  const uint64_t k = desc->transpose_a == CUBLAS_OP_T ? a->rows : a->columns;
  auto suggest = [&](const cublasLtMatmulAlgo_t& algorithm) {
    const size_t workspace = workspace_of(algorithm, *d);
    if (*count == requested || workspace > preference->workspace_bytes) return;
    if (algorithm.reduction != 0 && (algorithm.reduction & preference->reductions) == 0) return;
    results[(*count)++] = {algorithm, workspace, CUBLAS_STATUS_SUCCESS, 1.0F, {}};
  };
  if (k >= 32) suggest({21, 15, 4, 3, CUBLASLT_REDUCTION_SCHEME_INPLACE, 1});
  if (vectors) suggest({66, 20, 4, 1, CUBLASLT_REDUCTION_SCHEME_NONE, 16});
  suggest({1, 5, 2, 1, CUBLASLT_REDUCTION_SCHEME_NONE, 1});
  if (k >= 32) suggest({21, 15, 4, 2, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE, 1});
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoConfigGetAttribute(const cublasLtMatmulAlgo_t* algorithm,
                                                    cublasLtMatmulAlgoConfigAttributes_t attribute, void* value,
                                                    size_t bytes, size_t* written) {
  if (algorithm == nullptr || value == nullptr || bytes != sizeof(int32_t)) return CUBLAS_STATUS_INVALID_VALUE;
  const int32_t reduction = static_cast<int32_t>(algorithm->reduction);
  const int32_t* from = attribute == CUBLASLT_ALGO_CONFIG_ID           ? &algorithm->id
                        : attribute == CUBLASLT_ALGO_CONFIG_TILE_ID    ? &algorithm->tile
                        : attribute == CUBLASLT_ALGO_CONFIG_SPLITK_NUM ? &algorithm->split_k
                        : attribute == CUBLASLT_ALGO_CONFIG_STAGES_ID  ? &algorithm->stages
                                                                       : &reduction;
  std::memcpy(value, from, bytes);
  *written = bytes;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void* alpha, const void* a,
                              cublasLtMatrixLayout_t a_layout, const void* b, cublasLtMatrixLayout_t b_layout,
                              const void* beta, const void* c, cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* algorithm, void* workspace,
                              size_t workspace_bytes, cudaStream_t) {
  const cublasStatus_t status = check(handle, desc, a_layout, b_layout, c_layout, d_layout);
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  const bool given = alpha != nullptr && beta != nullptr && a != nullptr && b != nullptr && c != nullptr &&
                     d != nullptr && algorithm != nullptr;
  if (!given || workspace_of(*algorithm, *d_layout) > workspace_bytes) return CUBLAS_STATUS_INVALID_VALUE;
  const size_t element_a = size_of(a_layout->type), element_d = size_of(d_layout->type);
  for (const auto& [pointer, element] : {std::pair{a, element_a}, std::pair{b, element_a}, std::pair{c, element_d},
                                         std::pair<const void*, size_t>{d, element_d}}) {
    const auto address = reinterpret_cast<uintptr_t>(pointer);
    if (address % element != 0 || address % algorithm->alignment != 0) return CUBLAS_STATUS_INVALID_VALUE;
  }
  const bool ta = desc->transpose_a == CUBLAS_OP_T, tb = desc->transpose_b == CUBLAS_OP_T;
  const Product product{.a = {a, a_layout->type, a_layout->ld, ta},
                        .b = {b, b_layout->type, b_layout->ld, tb},
                        .c = c,
                        .d = d,
                        .type = d_layout->type,
                        .ldc = c_layout->ld,
                        .ldd = d_layout->ld,
                        .m = static_cast<int64_t>(d_layout->rows),
                        .n = static_cast<int64_t>(d_layout->columns),
                        .k = static_cast<int64_t>(ta ? a_layout->rows : a_layout->columns),
                        .alpha = *static_cast<const float*>(alpha),
                        .beta = *static_cast<const float*>(beta),
                        .algorithm = *algorithm,
                        .workspace = static_cast<float*>(workspace)};
  t6_emulation::enqueue([product] { run(product); });
  return CUBLAS_STATUS_SUCCESS;
}
