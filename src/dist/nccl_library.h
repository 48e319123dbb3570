// The functions of NCCL that this project calls, found at run time. Included where T6_HAVE_NCCL is defined.
//
// No program here is linked to NCCL: only runs on several GPUs need it. The header gives the types,
// base/shared_library.h the functions. T6_NCCL_LIBRARY names the library's file where the system does not find it.
#pragma once

#include <nccl.h>

#include <string>

#include "base/error.h"

// Throws Error(peer), or Error(internal) where the call itself is at fault, with the expression, the code and NCCL's
// last message about `comm` (null: any).
#define T6_NCCL(expression, comm)                                                        \
  do {                                                                                   \
    const ncclResult_t t6_result = (expression);                                         \
    if (t6_result != ncclSuccess) ::t6::dist::fail_nccl(#expression, t6_result, (comm)); \
  } while (false)

namespace t6::dist {

// Member X is the library's ncclX.
struct Nccl {
#define T6_NCCL_FUNCTIONS(X) \
  X(GetVersion)              \
  X(GetErrorString)          \
  X(GetLastError)            \
  X(GetUniqueId)             \
  X(CommInitRank)            \
  X(CommDestroy)             \
  X(CommAbort)               \
  X(CommGetAsyncError)       \
  X(GroupStart)              \
  X(GroupEnd)                \
  X(AllReduce)               \
  X(ReduceScatter)           \
  X(AllGather)               \
  X(Broadcast)               \
  X(Send)                    \
  X(Recv)
#define T6_NCCL_MEMBER(name) decltype(&nccl##name) name;
  T6_NCCL_FUNCTIONS(T6_NCCL_MEMBER)
#undef T6_NCCL_MEMBER
};

// The table. Loads the library at the first call: Error(usage) when it is not there.
const Nccl& nccl_library();

[[noreturn]] void fail_nccl(const char* expression, ncclResult_t result, ncclComm_t comm);

}  // namespace t6::dist
