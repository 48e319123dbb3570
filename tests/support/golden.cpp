#include "support/golden.h"

#include <cmath>

namespace t6::test {

Golden::Golden(const std::string& kind)
    : file_(golden_path(kind)),
      config_(nlohmann::json::parse(file_.attribute("/", "config"))),
      hyperparameters_(nlohmann::json::parse(file_.attribute("/", "hyperparameters"))) {}

ModelConfig Golden::model_config(RopeRounding rope_table) const {
  const std::string kind = config_.at("kind");
  ModelConfig config;
  config.layers = config_.at("n_layer");
  config.width = config_.at("d_model");
  config.heads = config_.at("n_head");
  config.head_width = config_.at("head_dim");
  config.vocab_size = config_.at("vocab_size");
  config.context = shape("tokens")[-1];
  config.rope_table = rope_table;
  if (kind == "mha") config.attention = mha::Options{};
  if (kind == "mqa") config.attention = mqa::Options{};
  if (kind == "gqa") config.attention = gqa::Options{config_.at("n_kv_head")};
  if (kind == "mla") {
    config.attention =
        mla::Options{config_.at("q_lora_rank"), config_.at("kv_lora_rank"), config_.at("qk_rope_head_dim")};
  }
  if (kind == "tpa") config.attention = tpa::Options{config_.at("rank_q"), config_.at("rank_k"), config_.at("rank_v")};
  if (kind == "tpa_kvonly") config.attention = tpa_kvonly::Options{config_.at("rank_k"), config_.at("rank_v")};
  return config;
}

std::vector<double> Golden::values(const std::string& dataset) const {
  return file_.read(dataset).values;
}

Shape Golden::shape(const std::string& dataset) const {
  return Shape(file_.read(dataset).shape);
}

Tensor Golden::micro_batch(const std::string& dataset, int64_t step, int64_t micro) const {
  const Shape all = shape(dataset);
  const std::vector<double> ids = values(dataset);
  const Tensor tokens = Tensor::from<int32_t>(all, std::vector<int32_t>(ids.begin(), ids.end()));
  return tokens.rows(step, 1).view({all[1], all[2], all[3]}).rows(micro, 1).view({all[2], all[3]});
}

void Golden::load_parameters(Transformer& model) const {
  ParameterStore& store = model.parameters();
  store.for_each_view([&](const Parameter& p, const ParameterView& v) {
    store.assign(p, v, Tensor::from<double>(v.shape, values("params/" + v.name)));
  });
}

}  // namespace t6::test
