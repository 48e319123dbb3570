// TensorBoard event files: scalars and texts, written by ourselves.
//
// A file is a sequence of TFRecords (length, masked CRC-32C of it, payload, masked CRC-32C of that; little endian),
// each payload an `Event` protocol buffer (tensorflow/core/util/event.proto, summary.proto). Of these only the few
// fields that scalars and texts need are written.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "train/append_file.h"
#include "train/metrics.h"

namespace t6::train {

// CRC-32C (Castagnoli; RFC 3720, appendix B.4).
uint32_t crc32c(std::string_view bytes);

// Appends to one new file of `folder`. A resumed run makes another file there and tells TensorBoard to drop the points
// of the earlier files after the resumed step. As in AppendFile, a killed process loses no record, and a full disk none
// either.
class TensorBoardWriter {
 public:
  struct Scalar {
    std::string_view tag;  // "train/loss"
    double value;          // stored as a 32-bit float
  };

  // Creates `folder` when missing. Error(io).
  TensorBoardWriter(const std::filesystem::path& folder, std::optional<int64_t> resumed_step);

  void scalars(int64_t step, std::span<const Scalar> scalars);
  // Shown by TensorBoard as Markdown.
  void text(int64_t step, std::string_view tag, std::string_view text);

  // train/loss, lr, grad_norm, tokens and timing/ms, tokens_per_second, mfu, memory, as far as they are known.
  void train(const StepMetrics& metrics);
  // validation/loss and validation/perplexity.
  void validation(const ValidationMetrics& metrics);

  // Error(io) when records wait because the disk is full.
  void sync() { file_.sync(); }
  const std::filesystem::path& path() const { return file_.path(); }

 private:
  void event(const std::optional<int64_t>& step, std::string_view content);

  AppendFile file_;
};

}  // namespace t6::train
