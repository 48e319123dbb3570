// The training run: opens what a config names, resumes, and loops until a reason to stop.
#pragma once

#include <deque>
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
#include "train/peak.h"
#include "train/run_config.h"
#include "train/run_folder.h"
#include "train/signals.h"
#include "train/step.h"
#include "train/tensorboard.h"
#include "train/training_state.h"

namespace t6::train {

enum class StopReason { completed, target_loss, max_runtime, signal };

struct TrainResult {
  StopReason reason = StopReason::completed;
  int signal = 0;                               // for StopReason::signal
  int64_t steps = 0;                            // optimizer steps done, over all starts
  double loss = 0;                              // of the last step
  std::optional<double> first_validation_loss;  // at step 0; empty when this process did not measure it
  std::optional<double> validation_loss;        // the last one, over all starts
  std::filesystem::path folder;
  std::optional<std::filesystem::path> checkpoint;  // the last one saved, or gone on from
};

// The program's exit code for a result: 0, or 128 + n after signal n.
int exit_code(const TrainResult& result);

class Trainer {
 public:
  // Checks the config, locks the run folder, opens the data, builds the model, resumes from the newest intact
  // checkpoint. What fails here has not changed an existing run. `arguments` is the command line, for env.json.
  Trainer(const RunConfig& config, std::span<const std::string> arguments);

  // Trains to the end or to a reason to stop, saving on the way and at the end. Error(numeric) on a non-finite loss or
  // gradient, which is never applied, and on parameters that are not finite, which are never saved. Error(io) after
  // three saves in a row that failed.
  TrainResult run();

 private:
  template <class Work>
  auto logged(Work&& work);
  void prepare(std::span<const std::string> arguments);
  TrainResult train();
  void write_out_curves();
  void require_memory(const Json& memory, int64_t needed) const;
  void open_data();
  void resume();
  void start_anew();
  void begin_step();
  StepMetrics finish_step();
  void finish_steps(size_t keep);
  void record_algorithms();
  void report(const StepMetrics& metrics);
  void evaluate();
  void save(bool last);
  void save_now();
  std::optional<StopReason> stop_reason() const;
  bool due(int64_t every, int64_t step) const { return every > 0 && step % every == 0; }
  bool evaluation_due(int64_t step) const;
  double seconds_since_start() const;
  double seconds_to_keep() const;
  std::string out_of_memory(const gpu::OutOfMemory& error) const;
  checkpoint::State state() const;
  MicroBatch next_batch();
  uint64_t tokens_seen() const;

  // A step that was asked for and whose loss is not known yet.
  struct Unfinished {
    int64_t step;
    double lr;
    double began;
    uint64_t tokens;
    data::TokenHash consumed;
  };

  RunConfig config_;
  Device device_;
  RunFolder folder_;
  double started_;       // the process's work
  double loop_started_;  // after the first evaluation
  Transformer model_;
  std::optional<AdamW> optimizer_;
  std::optional<TrainingStep> training_step_;
  std::optional<data::ShardSet> train_shards_, validation_shards_;
  std::vector<data::Window> validation_windows_;
  std::unique_ptr<data::Loader> loader_;
  std::optional<MetricsWriter> metrics_;
  std::optional<TensorBoardWriter> tensorboard_;
  double flops_per_token_ = 0;  // causal convention
  std::optional<DevicePeak> peak_;

  RunPosition position_;  // of the last step that was asked for; its loss: of the last one finished
  std::deque<Unfinished> unfinished_;
  double last_finish_ = 0;
  std::optional<int64_t> resumed_from_;
  std::optional<int64_t> last_saved_;
  Json environment_;  // env.json
  nlohmann::json facts_;
  uint64_t bytes_to_save_ = 0;
  int failed_saves_ = 0;
  // The slowest of this process, in seconds; 0: none yet.
  double slowest_step_ = 0, slowest_evaluation_ = 0, slowest_save_ = 0;
  TrainResult result_;
  StopSignals signals_;
};

}  // namespace t6::train
