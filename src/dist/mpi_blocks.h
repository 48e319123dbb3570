// How the communicator over MPI carries out one operation: blocks of messages, several at a time. Used by the thread of
// MPI alone; included where T6_HAVE_MPI is defined.
#pragma once

#define OMPI_SKIP_MPICXX 1
#define MPICH_SKIP_MPICXX 1
#include <mpi.h>

#include <chrono>
#include <functional>
#include <memory>

#include "tensor/gpu.h"
#include "tensor/tensor.h"

namespace t6::dist {

// Error(peer) with MPI's reason unless `status` says success.
void check_mpi(int status, const char* what);

// MPI offers no wait that leaves the core to others: a wait is a loop of questions, ever further apart.
class Patience {
 public:
  void pause() const;
  void progress() { since_ = std::chrono::steady_clock::now(); }

 private:
  std::chrono::steady_clock::time_point since_ = std::chrono::steady_clock::now();
};

enum class MpiKind { all_reduce, reduce_scatter, all_gather, broadcast, exchange, send, receive };

struct MpiOperation {
  MpiKind kind;
  int peer;  // the root, or the other rank
  Tensor x;
  Tensor received;  // exchange

  const char* what() const;
  bool with_all() const {
    return kind == MpiKind::all_reduce || kind == MpiKind::reduce_scatter || kind == MpiKind::all_gather;
  }
};

class MpiBlocks {
 public:
  // `require_going_on` throws when a wait is to end without its operation. `stream` is null on a CPU.
  MpiBlocks(MPI_Comm comm, Device device, gpu::Stream* stream, std::function<void(const char*)> require_going_on);
  ~MpiBlocks();

  // Returns when this rank's part is done. Error(peer) when MPI fails or a message is not as long as expected.
  void run(const MpiOperation& operation);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace t6::dist
