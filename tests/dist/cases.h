// What a rank of a test does; see driver.cpp. Every case throws Error when something is not as expected.
#pragma once

#include <memory>
#include <string>

#include "dist/communicator.h"

namespace t6::test {

struct Rank {
  dist::Communicator& c;
  Device device;
};

// "mpi" or "nccl". The latter's ids travel by MPI.
std::unique_ptr<dist::Communicator> connect(const std::string& kind, const dist::Ranks& ranks, Device device);

// Every operation on every dtype, with 1 element (a rank), an odd number, and a million.
void operations(const Rank& r);
// Hundreds of operations asked for at once: each sees what those before it left.
void many(const Rank& r);
// Texts of unequal lengths, empty and with any byte.
void texts(const Rank& r);
// tree_all_reduce against its order written out. Rank 0 prints a hash of a sum of eight numbers an element that are
// spread over the ranks as balanced trees.
void tree(const Rank& r);
// Rank 1 comes a second late: the others' processor time meanwhile is small.
void waiting(const Rank& r);
// Rank 0 prints latency and bandwidth.
void speed(const Rank& r);

// These end in an error.
void short_message(const Rank& r);  // rank 0 sends less than rank 1 expects: Error(peer)
void unequal(const Rank& r);        // rank 1 sums a smaller tensor than the others: Error(peer) over nccl
void aborted(const Rank& r);        // abort() while rank 0 waits for what never comes: Error(peer)
void throws_alone(const Rank& r);   // rank 1 alone throws Error(numeric), the others go on

}  // namespace t6::test
