// The communicator over MPI: ranks that mpirun, srun or another starter of MPI programs has started.
//
// All calls of MPI are made by one thread, which sleeps while it waits for other ranks. Tensors travel in parts,
// several at a time. Sums are added in the order of ranks, those of bf16 in f32 and rounded once: the same bits on all
// ranks, and from all_reduce as from reduce_scatter. Tensors on a GPU pass through page-locked host memory beside the
// device's other work; wait() is then a wait of the host.
//
// MPI is left by MPI_Finalize when every rank comes to the end. While an exception ends this rank its destructor waits
// for the others two seconds at most and otherwise leaves MPI as it is: the starter then ends all of them.
#pragma once

#include <memory>

#include "dist/communicator.h"

namespace t6::dist {

// Whether this program was built with MPI.
bool has_mpi();

// Initialises MPI: once a process. Error(usage) when this build has no MPI or MPI's rank and world are not those of
// `ranks`; Error(peer) when MPI does not start.
std::unique_ptr<Communicator> mpi(const Ranks& ranks, Device device);

}  // namespace t6::dist
