// ModelConfig: the kinds list, derived widths, rules, and YAML of its own.
#include "model/model_config.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace t6 {
namespace {

TEST(ModelConfig, KindsNamesAndOptionsAgree) {
  ASSERT_EQ(kAttentionKinds.size(), std::variant_size_v<AttentionOptions>);
  for (const AttentionKind kind : kAttentionKinds) {
    ModelConfig config;
    config.attention = default_options(kind);
    EXPECT_EQ(config.kind(), kind);
    EXPECT_EQ(config.kind_name(), config::name_of(kind));
    EXPECT_EQ(model_config_from_yaml(fmt::format("model: {{attention: {}}}", config.kind_name()), "x").kind(), kind);
  }
  EXPECT_TRUE(std::holds_alternative<tpa_kvonly::Options>(default_options(AttentionKind::tpa_kvonly)));
  EXPECT_EQ(config::name_of(AttentionKind::mla), "mla");
}

TEST(ModelConfig, FeedForwardWidthIsEightThirdsRoundedDown) {
  ModelConfig config;
  for (const auto& [width, expected] : {std::pair{768, 2048}, {1024, 2730}, {1280, 3413}, {1600, 4266}, {32, 85}}) {
    config.width = width;
    EXPECT_EQ(config.feed_forward_width(), expected);
  }
  config.ff_width = 100;
  EXPECT_EQ(config.feed_forward_width(), 100);
}

TEST(ModelConfig, RulesHoldForWhatIsWrittenAndReadBack) {
  const auto read_back = [](const ModelConfig& config) { return model_config_from_yaml(to_yaml(config), "x"); };
  ModelConfig config;
  EXPECT_NO_THROW(read_back(config));
  config.attention = gqa::Options{.kv_heads = 3};
  try {
    read_back(config);
    ADD_FAILURE() << "expected an error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    EXPECT_NE(std::string(error.what()).find("model.gqa.kv_heads: expected a number of key/value heads that divides"),
              std::string::npos)
        << error.what();
  }
  config.heads = 33;
  EXPECT_NO_THROW(read_back(config));
  config.layers = 0;
  EXPECT_THROW(read_back(config), Error);
}

TEST(ModelConfig, ItsYamlHoldsTheSectionAlone) {
  ModelConfig config;
  config.attention = mla::Options{.q_rank = 12, .kv_rank = 8, .rope_width = 4};
  config.head_width = 7;  // the unrotated part of mla may be odd
  EXPECT_EQ(model_config_from_yaml(to_yaml(config), "x"), config);
  EXPECT_THROW(model_config_from_yaml("train: {steps: 5}\n", "x"), Error);
}

}  // namespace
}  // namespace t6
