// Who this process is among the ranks of a run: from the command line, or from the variables of what started it.
//
// Nothing is started or connected here; it is done before a config is judged, so that rank 0 alone need speak of it.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "dist/ranks.h"

namespace t6::dist {

// --rank, --world, --local-rank, --local-world and --address of the command line.
struct RankFlags {
  std::optional<int64_t> rank, world, local_rank, local_world;
  std::string address;  // host:port of rank 0
};

// What said the ranks, in the order in which they are asked; the first that speaks is believed.
enum class Launcher : uint8_t { none, flags, torchrun, open_mpi, mpich, slurm };

// Host and port where rank 0 listens; an empty host: not known.
struct Address {
  std::string host;
  int port = 0;
  std::string text() const;  // "host:port", "[::1]:port"
};

struct Found {
  Ranks ranks;
  // The launcher did not say local_world: it is 1, or world where rank 0's address is this host.
  bool local_world_guessed = false;
  Launcher launcher = Launcher::none;
  bool mpi = false;          // MPI_Init finds the same ranks
  Address address;           // of rank 0, where the launcher says it
  std::string address_from;  // which names it came from, for messages
  std::string nonce;         // tells this run from others, where the launcher says one; may be empty
};

// A variable's value; null when it is not set.
using Lookup = std::function<const char*(const char* name)>;
inline constexpr const char* kNonceVariable = "T6_RUN_NONCE";  // set by t6 launch for the ranks it starts

// Error(usage) naming the flags or variables that are no numbers, miss a partner, or contradict each other. It is
// SaidElsewhere where the launcher says that this is not the first process, and so another one says the same.
// World 1 without any of them. An allocation of Slurm that is no step of srun (a shell of salloc, the batch script
// itself) is no rank.
Found discover(const RankFlags& flags, const Lookup& lookup);
Found discover(const RankFlags& flags);  // from the environment of this process

// "flags --rank and --world", "mpirun (OMPI_COMM_WORLD_RANK)", ...
const char* describe(Launcher launcher);

// host:port, [host]:port. Error(usage) naming `from`.
Address parse_address(const std::string& text, const std::string& from);
// This host by a name or number that no other host knows it by: localhost, 127.0.0.1, ::1.
bool is_loopback(const std::string& host);

}  // namespace t6::dist
