#include "model/counts.h"

#include <gtest/gtest.h>

#include "ops/matmul.h"

namespace t6 {
namespace {

struct Size {
  const char* name;
  int64_t layers, width, heads[6];  // heads in the order of the kinds
};
// Kinds: mha, mqa, gqa, mla, tpa, tpa_kvonly.
constexpr Size kSizes[] = {{"small", 12, 768, {12, 23, 22, 13, 34, 22}},
                           {"medium", 24, 1024, {16, 31, 30, 23, 47, 29}},
                           {"large", 36, 1280, {20, 39, 38, 34, 61, 37}},
                           {"xl", 48, 1600, {25, 49, 48, 49, 78, 47}}};
constexpr int64_t kParameters[4][6] = {{123568128, 123568128, 123568128, 123085824, 124342272, 124379136},
                                       {353452032, 353452032, 353452032, 353863680, 353992704, 353157120},
                                       {772131840, 772131840, 772131840, 773634048, 773698560, 773053440},
                                       {1554892800, 1554892800, 1554892800, 1558370304, 1555814400, 1559500800}};

ModelConfig config_of(size_t size, size_t kind) {
  ModelConfig config;
  config.attention = default_options(kAttentionKinds[kind]);
  config.layers = kSizes[size].layers;
  config.width = kSizes[size].width;
  config.heads = kSizes[size].heads[kind];
  return config;
}

TEST(Counts, ParametersOfAllPublishedModels) {
  for (size_t size = 0; size < 4; ++size) {
    for (size_t kind = 0; kind < 6; ++kind) {
      EXPECT_EQ(count(Transformer(config_of(size, kind))).parameters, kParameters[size][kind])
          << kAttentionKindNames[kind] << " " << kSizes[size].name;
    }
  }
}

// KiB a token in bf16 over all layers, as published to one decimal.
TEST(Counts, DecodeCaches) {
  const double small[6] = {36.0, 3.0, 6.0, 6.8, 9.2, 8.1}, xl[6] = {300, 12, 24, 27, 53.2, 41.6};
  for (size_t kind = 0; kind < 6; ++kind) {
    auto kib = [&](size_t size) {
      return static_cast<double>(count(Transformer(config_of(size, kind))).cache_numbers) * 2 / 1024;
    };
    EXPECT_NEAR(kib(0), small[kind], 0.06) << kAttentionKindNames[kind];
    EXPECT_NEAR(kib(3), xl[kind], 0.06) << kAttentionKindNames[kind];
  }
}

// Training FLOPs a token of tpa over mha at T = 1024, the contraction counted.
TEST(Counts, FlopsOfTpaOverMha) {
  const double expected[4] = {13.8, 13.2, 12.2, 10.4};
  for (size_t size = 0; size < 4; ++size) {
    const double mha = count(Transformer(config_of(size, 0))).flops_causal;
    const ModelCounts tpa = count(Transformer(config_of(size, 4)));
    EXPECT_NEAR(((tpa.flops_causal + tpa.flops_contraction) / mha - 1) * 100, expected[size], 0.06)
        << kSizes[size].name;
  }
}

// mha small, 2 windows in bf16: 24 heads x windows of 1,024 rows, dq in f32 of 64 and a number a row; with bits that
// repeat the scores' gradient in bf16 in place of dq.
TEST(Memory, CudnnWorksInWhatItsFrontendAsksFor) {
  const Transformer model(config_of(0, 0));
  MemoryOptions options{.micro_batch = 2, .compute = DType::bf16, .device = {Device::Kind::cuda, 0}};
  const auto workspace = [&] { return estimate_memory(model, options).workspace - kMatmulWorkspaceBytes; };
  EXPECT_EQ(workspace(), 0);
  options.cudnn = true;
  EXPECT_EQ(workspace(), 24 * 1024 * (64 * 4 + 4));
  options.deterministic = true;
  EXPECT_EQ(workspace(), 24 * 1024 * (1024 * 2 + 4));
  options.compute = DType::f32;
  EXPECT_EQ(workspace(), 0);
}

// Of 18 bytes a parameter in bf16, the 12 of moments and masters are shared; where products read the masters, 8 of 16.
TEST(Memory, WhatTheOptimizerHoldsIsSharedAmongRanks) {
  const Transformer model(config_of(0, 0));
  MemoryOptions options{.compute = DType::bf16};
  const int64_t size = model.parameters().storage_size();
  EXPECT_EQ(estimate_memory(model, options).parameters, size * 18);
  options.world = 4;
  EXPECT_EQ(estimate_memory(model, options).parameters, size * 18);
  options.zero = true;
  EXPECT_EQ(estimate_memory(model, options).parameters, size * 9);
  options.compute = DType::f32;
  EXPECT_EQ(estimate_memory(model, options).parameters, size * 10);
}

}  // namespace
}  // namespace t6
