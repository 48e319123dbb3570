// The communicator over NCCL: ranks with a GPU each.
//
// Operations run on a stream of their own, behind what was asked of the device before them; wait() makes the device
// wait and not the host. NCCL adds bf16 numbers in bf16, with a rounding at each rank.
//
// Repeatable sums: NCCL adds in an order that follows from its algorithm, its protocol, the size of the tensor and how
// the GPUs are connected. Rings give the same bits again on the same machines; sums formed by network switches (SHARP)
// or by NVLink's switches promise no order. `repeatable` therefore sets NCCL_ALGO=Ring and NCCL_PROTO=Simple for this
// process where the environment does not say otherwise. tree_all_reduce() is independent of all of it.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "dist/communicator.h"

namespace t6::dist {

// The text of every rank, in their order, by another way than NCCL; the same on all ranks.
using ExchangeTexts = std::function<std::vector<std::string>(std::string_view)>;

// Whether this program was built with NCCL.
bool has_nccl();

// Version of the library, such as "2.28.9". Loads it: Error(usage) when there is none.
std::string nccl_version();

// Connects all ranks; `exchange` is called twice here, and by all_gather_text. Error(usage) on every rank when one of
// them cannot take part, naming it: no library, a build without NCCL, two ranks on one GPU.
//
// failure() asks ncclCommGetAsyncError, abort() calls ncclCommAbort: operations under way then end on the device.
std::unique_ptr<Communicator> nccl(const Ranks& ranks, Device device, ExchangeTexts exchange, bool repeatable);

}  // namespace t6::dist
