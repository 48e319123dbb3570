#include "ops/cublaslt.h"

#if !defined(T6_CUDA_EMULATION)
#include "base/shared_library.h"
#endif

namespace t6::cuda {
namespace {

#if defined(T6_CUDA_EMULATION)

CublasLt load() {
#define T6_CUBLASLT_ADDRESS(name) .name = &cublasLt##name,
  return {T6_CUBLASLT_FUNCTIONS(T6_CUBLASLT_ADDRESS)};
#undef T6_CUBLASLT_ADDRESS
}

#else

// Opaque structures are filled by the library and sized by the header: both must be of one major version.
CublasLt load() {
  const std::string versioned = "libcublasLt.so." + std::to_string(CUBLAS_VER_MAJOR);
  const SharedLibrary library("cuBLASLt " + std::to_string(CUBLAS_VER_MAJOR), "T6_CUBLASLT",
                              {versioned, "libcublasLt.so", "/usr/local/cuda/lib64/" + versioned});
  CublasLt table{};
#define T6_CUBLASLT_FIND(name) table.name = reinterpret_cast<decltype(table.name)>(library.function("cublasLt" #name));
  T6_CUBLASLT_FUNCTIONS(T6_CUBLASLT_FIND)
#undef T6_CUBLASLT_FIND
  const size_t version = table.GetVersion();
  if (version / 10000 != CUBLAS_VER_MAJOR) {
    fail(ExitCode::usage, "expected cuBLASLt {}, but {} is version {}; set T6_CUBLASLT to the file of another",
         CUBLAS_VER_MAJOR, library.name(), version / 10000);
  }
  return table;
}

#endif

}  // namespace

const CublasLt& cublaslt() {
  static const CublasLt table = load();
  return table;
}

std::string cublaslt_version() {
  const size_t version = cublaslt().GetVersion();
  return fmt::format("{}.{}.{}", version / 10000, version / 100 % 100, version % 100);
}

}  // namespace t6::cuda
