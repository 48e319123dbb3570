// The training run: opens what a config names, resumes, and loops until a reason to stop.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "checkpoint/checkpoint.h"
#include "data/loader.h"
#include "model/transformer.h"
#include "train/evaluation.h"
#include "train/metrics.h"
#include "train/optimizer.h"
#include "train/run_config.h"
#include "train/run_folder.h"
#include "train/signals.h"
#include "train/step.h"
#include "train/tensorboard.h"

namespace t6::train {

enum class StopReason { completed, target_loss, max_runtime, signal };

struct TrainResult {
  StopReason reason = StopReason::completed;
  int signal = 0;                               // for StopReason::signal
  int64_t steps = 0;                            // optimizer steps done, over all starts
  double loss = 0;                              // of the last step
  std::optional<double> first_validation_loss;  // at step 0 of this process; empty after a resume
  std::optional<double> validation_loss;        // the last one of this process
  std::filesystem::path folder;
};

// The program's exit code for a result: 0, or 128 + n after signal n.
int exit_code(const TrainResult& result);

class Trainer {
 public:
  // Checks the config, locks the run folder, opens the data, builds the model, resumes from the newest intact
  // checkpoint. What fails here has not changed an existing run. `arguments` is the command line, for env.json.
  Trainer(const RunConfig& config, std::span<const std::string> arguments);

  // Trains to the end or to a reason to stop, saving on the way and at the end. Error(numeric) on a non-finite loss or
  // gradient, which is never applied.
  TrainResult run();

 private:
  void open_data();
  void resume();
  StepMetrics step();
  void evaluate();
  void save();
  void report(const StepMetrics& metrics);
  bool due(int64_t every) const { return every > 0 && step_ % every == 0; }
  std::optional<StopReason> stop_reason() const;
  checkpoint::State state();
  MicroBatch next_batch();
  uint64_t tokens_seen() const;
  double seconds_since_start() const;

  RunConfig config_;
  RunFolder folder_;
  double started_;
  Transformer model_;
  std::optional<AdamW> optimizer_;
  std::optional<data::ShardSet> train_shards_, validation_shards_;
  std::vector<data::Window> validation_windows_;
  std::unique_ptr<data::Loader> loader_;
  data::TokenHash consumed_;
  std::optional<MetricsWriter> metrics_;
  std::optional<TensorBoardWriter> tensorboard_;
  double flops_per_token_ = 0;

  int64_t step_ = 0;  // steps done
  int64_t resumed_from_ = 0;
  int64_t last_saved_ = -1, last_evaluated_ = -1;
  int failed_saves_ = 0;
  double slowest_step_ = 0;  // seconds, with what follows it: evaluation and saving
  TrainResult result_;
  StopSignals signals_;
};

}  // namespace t6::train
