#if defined(T6_HAVE_NCCL)

#include "dist/nccl_library.h"

#if !defined(T6_CUDA_EMULATION)
#include "base/shared_library.h"
#endif

namespace t6::dist {
namespace {

#if defined(T6_CUDA_EMULATION)

Nccl load() {
#define T6_NCCL_ADDRESS(name) .name = &nccl##name,
  return {T6_NCCL_FUNCTIONS(T6_NCCL_ADDRESS)};
#undef T6_NCCL_ADDRESS
}

#else

Nccl load() {
  const SharedLibrary library("NCCL 2", "T6_NCCL_LIBRARY", {"libnccl.so.2", "/usr/local/cuda/lib64/libnccl.so.2"});
  Nccl table{};
#define T6_NCCL_FIND(name) table.name = reinterpret_cast<decltype(table.name)>(library.function("nccl" #name));
  T6_NCCL_FUNCTIONS(T6_NCCL_FIND)
#undef T6_NCCL_FIND
  return table;
}

#endif

}  // namespace

const Nccl& nccl_library() {
  static const Nccl table = load();
  return table;
}

void fail_nccl(const char* expression, ncclResult_t result, ncclComm_t comm) {
  const bool ours = result == ncclInvalidArgument || result == ncclInvalidUsage;
  const char* last = nccl_library().GetLastError(comm);
  fail(ours ? ExitCode::internal : ExitCode::peer, "[nccl] {}: {} (code {}){}{}", expression,
       nccl_library().GetErrorString(result), static_cast<int>(result), last != nullptr && *last != '\0' ? ": " : "",
       last != nullptr ? last : "");
}

}  // namespace t6::dist

#endif
