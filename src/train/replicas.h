// Whether all ranks still hold the same numbers.
#pragma once

#include "dist/communicator.h"
#include "train/data_parallel.h"
#include "train/optimizer.h"

namespace t6::train {

// Compares hashes of every parameter as products read it, and of masters and moments where each rank keeps all of them.
// Error(numeric), alike on all ranks, naming the first tensor that differs and the ranks where it does: those that
// differ from most, or from rank 0 when there is no most.
void require_equal_replicas(const ParameterStore& store, const AdamW& optimizer, const DataParallel& parallel,
                            int64_t step);

}  // namespace t6::train
