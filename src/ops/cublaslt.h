// The functions of cuBLASLt that this project calls, found at run time. Included by .cu files alone.
//
// No program here is linked to cuBLASLt: it is large, needed on machines with a GPU only, and absent on others. The
// toolkit's header gives the types, base/shared_library.h the functions. T6_CUBLASLT names the library's file where the
// system does not find it.
#pragma once

#include <cublasLt.h>

#include <string>

#include "base/error.h"

// Throws Error(internal) with the expression and the status' name.
#define T6_CUBLASLT(expression)                                                                               \
  do {                                                                                                        \
    const cublasStatus_t t6_status = (expression);                                                            \
    T6_CHECK(t6_status == CUBLAS_STATUS_SUCCESS, "{}: {}", #expression, cublaslt().GetStatusName(t6_status)); \
  } while (false)

namespace t6::cuda {

// Member X is the library's cublasLtX.
struct CublasLt {
#define T6_CUBLASLT_FUNCTIONS(X)  \
  X(Create)                       \
  X(GetVersion)                   \
  X(GetStatusName)                \
  X(MatmulDescCreate)             \
  X(MatmulDescSetAttribute)       \
  X(MatmulDescDestroy)            \
  X(MatrixLayoutCreate)           \
  X(MatrixLayoutDestroy)          \
  X(MatmulPreferenceCreate)       \
  X(MatmulPreferenceSetAttribute) \
  X(MatmulPreferenceDestroy)      \
  X(MatmulAlgoGetHeuristic)       \
  X(MatmulAlgoConfigGetAttribute) \
  X(Matmul)
#define T6_CUBLASLT_MEMBER(name) decltype(&cublasLt##name) name;
  T6_CUBLASLT_FUNCTIONS(T6_CUBLASLT_MEMBER)
#undef T6_CUBLASLT_MEMBER
};

// The table. Loads the library at the first call: Error(usage) when it is not there, or of another major version than
// the toolkit this program was built with.
const CublasLt& cublaslt();

// Version of the loaded library: "13.1.0". Loads it.
std::string cublaslt_version();

}  // namespace t6::cuda
