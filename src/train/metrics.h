// What a run measures: the console line, metrics.jsonl (the loss log) and timing.jsonl.
//
// metrics.jsonl holds only what follows from config, seed, data, weights and world size: no clock, no machine. So the
// loss log of a run that was killed and resumed is byte for byte that of an undisturbed one, and comparing two runs is
// `cmp a/metrics.jsonl b/metrics.jsonl`. Everything that a clock or the machine has a part in is in timing.jsonl beside
// it, joined by "step". Both are JSON, one object a line, the first keys always "kind" and "step":
// metrics.jsonl
//   {"kind":"train","step":1200,"loss":3.21,"lr":0.0006,"grad_norm":0.42,"clip":1.0,"tokens":589824000,"data_hash":"…"}
//   {"kind":"validation","step":1200,"loss":3.19,"tokens":589824000,"validation_tokens":1048576}
//   {"kind":"score","step":1200,"task":"arc_easy","items":2376,"acc":0.43,"acc_stderr":0.01,"acc_norm":0.39,…}
// timing.jsonl
//   {"kind":"train","step":1200,"ms":512.1,"tokens_per_second":959000.0,"mfu":0.412,"memory":33500000000,"time":1.7e9}
//   {"kind":"validation","step":1200,"ms":…,"time":…}
//   {"kind":"score","step":1200,"task":"arc_easy","ms":…,"time":…}
//   {"kind":"process","step":1200,"event":"checkpoint","time":…}
// A step whose loss or norm leapt has also "spike":true, one that was not applied "skipped":true; its clip is null.
// A number that is not finite is null. Steps are counted from 1: "step N" is the state after N updates.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "train/append_file.h"

namespace t6::train {

using Json = nlohmann::ordered_json;

// One optimizer step. A field without a value is left out of the console line and the files.
struct StepMetrics {
  // Deterministic.
  int64_t step = 0;
  int64_t steps = 0;  // planned
  double loss = 0;    // nats a token, mean over the global batch
  double lr = 0;
  std::optional<double> grad_norm;  // before clipping
  std::optional<double> clip;       // factor the gradients were multiplied with, 1 when not clipped
  uint64_t tokens_seen = 0;         // by all ranks since step 0
  std::string data_hash;            // running hash of the tokens consumed; empty when not computed
  bool spike = false;               // loss or norm leapt or were not finite
  bool skipped = false;             // the step was not applied
  // Of the clock and the machine.
  double step_ms = 0;
  std::optional<double> tokens_per_second;  // all ranks
  std::optional<double> mfu;                // fraction of the devices' peak, 0.412
  // Highest bytes of live tensors on this rank's device, which is what estimates are of (model/counts.h) and asks no
  // driver; what the device set aside for them is more and stands in `t6 bench train`.
  std::optional<uint64_t> memory_bytes;
  std::optional<double> eta_seconds;
};

struct ValidationMetrics {
  int64_t step = 0;
  double loss = 0;           // nats a token
  uint64_t tokens_seen = 0;  // trained on until here
  uint64_t validation_tokens = 0;
  double ms = 0;
};

// step 1200/100000 | loss 3.2145 | lr 6.0e-04 | gnorm 0.42 | 512 ms | 959k tok/s | mfu 41.2% | mem 31.2G | 0.59B tok
// | eta 13h42m, all on one line.
std::string console_line(const StepMetrics& metrics);
// step 1200 | validation loss 3.1987 | perplexity 24.50 | 1.05M tok in 12.3s
std::string console_line(const ValidationMetrics& metrics);

// Writes metrics.jsonl and timing.jsonl of a run folder; on one rank only.
//
// For a bitwise equal log after a kill the caller writes all of step N before it saves the checkpoint of step N, calls
// sync() before that checkpoint gets its final name, and after a resume from step N goes on with step N + 1 (no second
// validation at N).
class MetricsWriter {
 public:
  // Opens both files of `folder`. resumed_step: the step of the checkpoint the run goes on from; lines of metrics.jsonl
  // after it are removed (atomically), as is a torn last line; a line in the middle that is no JSON object with a step
  // is removed with a warning. Without a value the run starts anew and the file is emptied. timing.jsonl is the
  // machine's history and only loses a torn last line: a step done twice is in it twice. Error(io).
  MetricsWriter(const std::filesystem::path& folder, std::optional<int64_t> resumed_step);

  void train(const StepMetrics& metrics);
  void validation(const ValidationMetrics& metrics);
  // Scores of a task: `score` are the fields of its line after "kind", "step" and "task".
  void score(int64_t step, std::string_view task, const Json& score, double ms);
  // What happened to the process: start, resume, checkpoint, signal. In timing.jsonl.
  void process_event(int64_t step, std::string_view name, const Json& fields);

  // Makes all lines durable. Error(io) when lines wait because the disk is full.
  void sync();

  int64_t last_step() const { return last_step_; }  // of the last line of metrics.jsonl, -1 when there is none

 private:
  void write(AppendFile& file, const Json& line);

  int64_t last_step_;
  AppendFile metrics_;
  AppendFile timing_;
};

// What the files of a run folder say of the starts before.
struct LoggedRun {
  int64_t last_step = -1;             // of metrics.jsonl; -1: none
  std::optional<int64_t> saved_step;  // the last checkpoint that timing.jsonl tells of
};
// Lines that are torn or no JSON objects with a whole "step" do not count. Error(io).
LoggedRun read_logged_run(const std::filesystem::path& folder);

// Removes lines with a step above `last_step` and lines that are torn or no JSON objects with a whole "step". The file
// is replaced as a whole, and only when something changes; a missing one is left missing. Returns the last step kept,
// or -1.
int64_t keep_lines_until(const std::filesystem::path& path, int64_t last_step);

}  // namespace t6::train
