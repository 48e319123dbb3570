// What ranks are told from outside: frames on a socket, and the variables of launchers (refused with exit code 2).
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <map>

#include "dist/discover.h"
#include "dist/wire.h"
#include "fuzz/fuzz_target.h"

namespace t6::fuzz {
namespace {

// The first byte is the longest body that is taken.
void run_frames(std::string_view input) {
  if (input.empty()) return;
  const size_t longest = static_cast<uint8_t>(input[0]);
  const std::string_view bytes = input.substr(1);
  std::array<int, 2> ends{};
  require(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends.data()) == 0,
          "no sockets to be had");
  dist::Link link{dist::Socket{ends[0]}, longest};
  {
    const dist::Socket other(ends[1]);
    require(::write(other.descriptor(), bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()),
            "cannot write");
  }
  size_t used = 0;
  for (bool more = true; more && link.open();) {
    more = link.read();
    while (const auto frame = link.next()) {
      require(frame->body.size() <= longest, "a body of {} bytes", frame->body.size());
      used += 9 + frame->body.size();
      require(used <= bytes.size(), "frames of {} bytes out of {}", used, bytes.size());
      dist::Reader reader(frame->body);
      size_t texts = 0;
      while (reader.good() && !reader.done()) {
        if (frame->kind % 2 == 0) reader.number();
        texts += reader.text().size();
      }
      require(texts <= frame->body.size(), "texts of {} bytes in a body of {}", texts, frame->body.size());
    }
  }
}

void run_launchers(std::string_view input) {
  std::map<std::string, std::string, std::less<>> variables;
  dist::RankFlags flags;
  for (const std::string_view piece : pieces_of(input, 1)) {
    const size_t equals = piece.find('=');
    if (equals == std::string_view::npos) {
      flags.address = piece;
      continue;
    }
    variables[std::string(piece.substr(0, equals))] = piece.substr(equals + 1);
  }
  const auto lookup = [&](const char* name) -> const char* {
    const auto it = variables.find(std::string_view(name));
    return it == variables.end() ? nullptr : it->second.c_str();
  };
  dist::Found found;
  if (accepts({ExitCode::usage}, [&] { found = dist::discover(flags, lookup); })) {
    const dist::Ranks& r = found.ranks;
    require(r.rank >= 0 && r.rank < r.world, "rank {} of {}", r.rank, r.world);
    require(found.local_world_guessed || r.local_rank < r.local_world, "local rank {} of {}", r.local_rank,
            r.local_world);
    require(r.local_rank >= 0 && r.local_world <= r.world, "local rank {} of {}, world {}", r.local_rank, r.local_world,
            r.world);
  }
  dist::Address address;
  const std::string text(input.substr(0, input.find(kCut)));
  if (accepts({ExitCode::usage}, [&] { address = dist::parse_address(text, "--address"); })) {
    require(address.port >= 0 && address.port < 65536, "port {}", address.port);
    const dist::Address again = dist::parse_address(address.text(), "printed");
    require(again.host == address.host && again.port == address.port, "{} reads back as {}", address.text(),
            again.text());
  }
}

std::string frame(uint8_t kind, std::string body) {
  std::string bytes = "T6C1";
  bytes += static_cast<char>(kind);
  const auto size = static_cast<uint32_t>(body.size());
  for (int shift = 0; shift < 32; shift += 8) bytes += static_cast<char>(size >> shift);
  return bytes + body;
}

std::vector<std::string> frame_seeds() {
  const std::string body = dist::Writer().text("rank").take(), both = dist::Writer().number(5).text("host").take();
  std::vector<std::string> seeds = {frame(1, body) + frame(2, both), frame(2, both + both),
                                    frame(3, std::string(100, 'x')), frame(1, "").substr(0, 7), "GET / HTTP/1.1\r\n"};
  for (std::string& seed : seeds) seed.insert(seed.begin(), '\x40');
  return seeds;
}

std::vector<std::string> launcher_seeds() {
  return {"RANK=1\x1eWORLD_SIZE=4\x1eLOCAL_RANK=1\x1eLOCAL_WORLD_SIZE=2\x1eMASTER_ADDR=node1\x1eMASTER_PORT=29500",
          "OMPI_COMM_WORLD_RANK=0\x1eOMPI_COMM_WORLD_SIZE=2\x1eOMPI_COMM_WORLD_LOCAL_RANK=0\x1eOMPI_COMM_WORLD_LOCAL_"
          "SIZE=2",
          "PMI_RANK=1\x1ePMI_SIZE=2\x1eMPI_LOCALRANKID=1\x1eMPI_LOCALNRANKS=2",
          "SLURM_PROCID=3\x1eSLURM_NTASKS=8\x1eSLURM_LOCALID=1\x1eSLURM_STEP_ID=0\x1eSLURM_NTASKS_PER_NODE=2\x1eSLURM_"
          "STEP_TASKS_PER_NODE=2(x3),1",
          "[::1]:29500",
          "localhost:1",
          "host:65536\x1eRANK=-1"};
}

Registered frames_target({"frames", "frames between ranks", &run_frames, &frame_seeds, 1024});
Registered launchers_target({"launchers", "variables of launchers, addresses", &run_launchers, &launcher_seeds, 512});

}  // namespace
}  // namespace t6::fuzz
