// The golden files of tests/data/golden: tiny models with the values the authors' code gives for them.
#pragma once

#include <array>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "model/transformer.h"
#include "support/hdf5_reader.h"
#include "support/relative_error.h"

namespace t6::test {

// The kinds that have a golden file. A new kind joins when there is a reference implementation to compare with.
inline constexpr std::array<std::string_view, 6> kGoldenKinds{"mha", "mqa", "gqa", "mla", "tpa", "tpa_kvonly"};

class Golden {
 public:
  // `kind` names the file; the folder is tests/data/golden, or that of the environment variable T6_GOLDEN_DIR.
  explicit Golden(const std::string& kind);

  ModelConfig model_config(RopeRounding rope_table) const;
  const nlohmann::json& hyperparameters() const { return hyperparameters_; }

  std::vector<double> values(const std::string& dataset) const;
  Shape shape(const std::string& dataset) const;
  // tokens or targets of one micro-batch, i32 [B, T].
  Tensor micro_batch(const std::string& dataset, int64_t step, int64_t micro) const;

  // Fills an allocated model with params/.
  void load_parameters(Transformer& model) const;

 private:
  Hdf5Reader file_;
  nlohmann::json config_, hyperparameters_;
};

}  // namespace t6::test
