#include "train/run_saves.h"

#include <algorithm>

#include "base/clock.h"
#include "base/io.h"
#include "base/log.h"
#include "dist/agree.h"

namespace t6::train {
namespace {

constexpr int kMaxFailures = 3;

RunSaves::Options with_progress(RunSaves::Options options) {
  options.save.progress = [progress = options.progress] { progress("reading an older checkpoint"); };
  return options;
}

}  // namespace

checkpoint::Peers peers_of(dist::Communicator& communicator) {
  return {.rank = communicator.rank(), .world = communicator.world(), .all_gather = [&](std::string_view text) {
            return communicator.all_gather_text(text);
          }};
}

RunSaves::RunSaves(dist::Communicator& communicator, RunLogs& logs, Options options)
    : communicator_(communicator),
      logs_(logs),
      options_(with_progress(std::move(options))),
      saver_(options_.folder, options_.save, peers_of(communicator), options_.async),
      last_saved_(options_.resumed_step) {}

void RunSaves::save(int64_t step, bool last, const std::function<checkpoint::State()>& state) {
  const bool under_way = saver_.step() == step;
  complete(last && under_way);
  if (last_saved_ == step || (under_way && !last)) return;
  options_.progress("saving a checkpoint");
  try {
    start(step, state());
  } catch (const Error& error) {
    failed(step, last, error);
    return;
  }
  if (last || !options_.async) complete(last);
}

void RunSaves::complete_if_written(int64_t step, std::span<const Vote> votes) {
  if (!saver_.step() || step <= *saver_.step()) return;
  const auto written = [](const Vote& vote) { return vote.saving == static_cast<int32_t>(Saver::Status::written); };
  const bool all_have_written = communicator_.world() == 1 ? saver_.status() == Saver::Status::written
                                                           : std::all_of(votes.begin(), votes.end(), written);
  if (all_have_written) complete();
}

void RunSaves::complete(bool last) {
  const std::optional<int64_t> step = saver_.step();
  if (!step) return;
  options_.progress("completing a checkpoint");
  try {
    finish();
  } catch (const Error& error) {
    failed(*step, last, error);
  }
}

void RunSaves::start(int64_t step, const checkpoint::State& state) {
  began_ = steady_seconds();
  const std::filesystem::path& folder = options_.folder;
  dist::alike(communicator_, [&] { checkpoint::require_space(folder, state, peers_of(communicator_)); });
  dist::agree(communicator_, [&] {
    try {
      logs_.sync();
    } catch (const Error& error) {
      fail(error.code(), "{}; the checkpoint, which comes after it, needs {} bytes, and {} are free", error.what(),
           checkpoint::bytes_needed(state), io::free_bytes(folder));
    }
  });
  dist::alike(communicator_, [&] { saver_.start(step, state); });
}

void RunSaves::finish() {
  const int64_t step = saver_.step().value();
  const checkpoint::Saved saved = dist::alike(communicator_, [&] { return saver_.complete(); });
  newest_ = saved.path;
  last_saved_ = step;
  failures_ = 0;
  logs_.event(step, "checkpoint", {{"bytes", saved.bytes}});
  slowest_ = std::max(slowest_, steady_seconds() - began_);
}

void RunSaves::failed(int64_t step, bool last, const Error& error) {
  if (error.code() != ExitCode::io) throw;
  ++failures_;
  if (communicator_.is_root()) {
    log::error("step {} was not saved ({} of {} failures in a row end the run): {}", step, failures_, kMaxFailures,
               error.what());
  }
  if (!last && failures_ < kMaxFailures) return;
  dist::alike(communicator_, [&] {
    fail(ExitCode::io, "the run ends at step {}, which could not be saved; the newest checkpoint is {}: {}", step,
         last_saved_ ? fmt::format("of step {}", *last_saved_) : "not there yet", error.what());
  });
}

}  // namespace t6::train
