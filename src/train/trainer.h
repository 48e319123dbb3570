// The training run: opens what a config names, resumes, and loops until a reason to stop.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "base/clock.h"
#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "data/loader.h"
#include "dist/control.h"
#include "model/counts.h"
#include "model/transformer.h"
#include "train/data_parallel.h"
#include "train/evaluation.h"
#include "train/optimizer.h"
#include "train/peak.h"
#include "train/run_config.h"
#include "train/run_folder.h"
#include "train/run_logs.h"
#include "train/run_saves.h"
#include "train/signals.h"
#include "train/spikes.h"
#include "train/step.h"
#include "train/tasks/during_training.h"
#include "train/training_state.h"

namespace t6::train {

enum class StopReason { completed, target_loss, max_runtime, signal };

struct TrainResult {
  StopReason reason = StopReason::completed;
  int signal = 0;                               // for StopReason::signal
  int64_t steps = 0;                            // optimizer steps done, over all starts; skipped ones, too
  double loss = 0;                              // of the last step that was applied
  std::optional<double> first_validation_loss;  // at step 0; empty when this process did not measure it
  std::optional<double> validation_loss;        // the last one, over all starts
  std::filesystem::path folder;
  std::optional<std::filesystem::path> checkpoint;  // the last one saved, or gone on from
};

// The program's exit code for a result: 0, or 128 + n after signal n.
int exit_code(const TrainResult& result);

// The ranks of a run; what it points at outlives the trainer.
struct Together {
  dist::Communicator* communicator;
  dist::Control* control = nullptr;   // hears of progress when there is one
  int gpu = 0;                        // which one this rank takes, where it takes one
  double started = steady_seconds();  // train.max_runtime counts from here: before the ranks met
};

class Trainer {
 public:
  // Checks the config, locks the run folder, opens the data, builds the model, resumes from the newest intact
  // checkpoint. What fails here has not changed an existing run. `arguments` is the command line, for env.json. Every
  // rank makes one with an equal config; rank 0 alone writes the run folder, but for each rank's checkpoint files.
  Trainer(const RunConfig& config, std::span<const std::string> arguments, const Together& ranks);
  Trainer(const RunConfig& config, std::span<const std::string> arguments);  // one rank

  // Trains to the end or to a reason to stop, saving on the way and at the end. Error(numeric) where section `spikes`
  // ends the run (a non-finite loss or gradient is never applied), and on parameters that are not finite, which are
  // never saved; a save under way is then completed. Error(io) after three saves in a row that failed. On several ranks
  // these are alike, other errors are of one rank (dist/agree.h).
  TrainResult run();

 private:
  // trainer_start.cpp
  void prepare(std::span<const std::string> arguments);
  void open_data();
  void require_same_data();
  void require_memory(const Json& memory, const MemoryEstimate& needed) const;
  void build_step(DType compute);
  void resume();
  void go_on_from(const checkpoint::Loaded& loaded);
  void start_anew();
  void begin_with_weights();
  void open_logs();

  // trainer.cpp
  void advised(const std::function<void()>& work) const;
  void logged(const std::function<void()>& work) const;
  void together(const std::function<void()>& work) const;
  void train();
  void begin_step();
  StepMetrics finish_step();
  SpikeVerdict judge(int64_t step, const StepResult& result);
  void finish_steps(size_t keep);
  void record_algorithms();
  void report(const StepMetrics& metrics);
  void evaluate();
  void score();
  void require_finite_parameters();
  void save(bool last);
  void complete_last_save();
  void progress(const char* phase) const;
  bool is_root() const { return ranks_.communicator->is_root(); }
  int world() const { return ranks_.communicator->world(); }
  Vote vote() const;
  int stop_wish() const;
  int agreed_wish() const;
  std::optional<StopReason> stop_reason() const;
  bool due(int64_t every, int64_t step) const { return every > 0 && step % every == 0; }
  bool evaluation_due(int64_t step) const;
  bool scores_due(int64_t step) const;
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
  };

  RunConfig config_;
  Together ranks_;
  Device device_;
  RunPaths paths_;
  std::optional<RunFolder> folder_;  // on rank 0
  double started_;                   // the process's work
  double loop_started_;              // after the first evaluation
  Transformer model_;
  std::optional<DataParallel> parallel_;
  std::optional<AdamW> optimizer_;
  std::optional<TrainingStep> training_step_;
  std::optional<data::ShardSet> train_shards_, validation_shards_;
  std::vector<data::Window> validation_windows_;
  TrainingScores scores_;
  std::unique_ptr<data::Loader> loader_;
  RunLogs logs_;
  double flops_per_token_ = 0;  // causal convention
  std::optional<DevicePeak> peak_;

  SpikeDetector detector_;
  RunPosition position_;    // of the last step that was asked for; its loss: of the last one finished
  int64_t begun_step_ = 0;  // whose work is under way: the last one begun, with what follows it until the next
  std::deque<Unfinished> unfinished_;
  std::vector<Vote> votes_;  // of the last step finished
  int64_t votes_step_ = 0;   // that step
  double last_finish_ = 0;
  std::optional<int64_t> resumed_from_;
  Json environment_;  // env.json
  nlohmann::json facts_;
  std::optional<RunSaves> saves_;
  uint64_t bytes_to_save_ = 0;
  // The slowest of this process, in seconds; 0: none yet.
  double slowest_step_ = 0, slowest_evaluation_ = 0, slowest_scores_ = 0;
  TrainResult result_;
  StopSignals signals_;
};

}  // namespace t6::train
