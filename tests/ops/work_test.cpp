// The bytes that profiles expect of kernels, against counts by hand.
#include "ops/work.h"

#include <gtest/gtest.h>

#include "ops/adamw.h"
#include "ops/attention.h"
#include "ops/classifier.h"
#include "ops/embedding.h"
#include "ops/factor_contraction.h"
#include "ops/factor_decode.h"
#include "ops/global_norm.h"
#include "ops/head_copy.h"
#include "ops/kernel.h"
#include "ops/matmul.h"
#include "ops/rms_norm.h"
#include "ops/swiglu.h"

namespace t6 {
namespace {

constexpr DType kF32 = DType::f32, kBf16 = DType::bf16;
char some;  // an address that is not null

// Rows of 5 numbers.
template <class Args>
Args three_rows() {
  Args args{};
  args.rows = 3;
  if constexpr (requires { args.width; }) args.width = 5;
  return args;
}

TEST(Work, BytesOfAProduct) {
  MatmulArgs product{};
  product.m = 3, product.n = 5, product.k = 7;
  EXPECT_EQ(bytes_of(product), 4 * (21 + 35 + 15));
  product.in_dtype = kBf16;
  product.accumulate = true;
  EXPECT_EQ(bytes_of(product), 2 * (21 + 35) + 4 * 2 * 15);
}

// Two windows of 4 of 8 keys, 6 heads over 3: q has 240 numbers, k 120, v 96, o 192; the log-sum-exp 48.
TEST(Work, BytesOfAttention) {
  AttentionArgs forward{};
  forward.lse = &some;
  forward.batch = 2, forward.queries = 4, forward.keys = 8, forward.heads = 6, forward.kv_heads = 3;
  forward.qk_width = 5, forward.v_width = 4;
  forward.dtype = kBf16;
  EXPECT_EQ(bytes_of(forward), 2 * (240 + 120 + 96 + 192) + 4 * 48);
  AttentionBackwardArgs backward{};
  backward.forward = forward;
  backward.forward.keys = 4;
  EXPECT_EQ(bytes_of(backward), 2 * 2 * (240 + 120 + 96 + 192) + 4 * 48);
}

TEST(Work, BytesOfRowKernels) {
  auto swiglu = three_rows<SwigluForwardArgs>();
  auto swiglu_back = three_rows<SwigluBackwardArgs>();
  swiglu.dtype = swiglu_back.dtype = kBf16;
  EXPECT_EQ(bytes_of(swiglu), 2 * 45);
  EXPECT_EQ(bytes_of(swiglu_back), 2 * 75);

  auto norm = three_rows<RmsNormForwardArgs>();
  norm.x_dtype = kF32, norm.y_dtype = kBf16;
  EXPECT_EQ(bytes_of(norm), 4 * 15 + 2 * 15 + 4 * 3);
  norm.addend = norm.weight = &some;
  EXPECT_EQ(bytes_of(norm), 4 * 30 + 2 * (30 + 5) + 4 * 3);
  auto norm_back = three_rows<RmsNormBackwardArgs>();
  norm_back.x_dtype = kF32, norm_back.y_dtype = kBf16;
  norm_back.dy = &some;
  EXPECT_EQ(bytes_of(norm_back), 4 * 30 + 2 * 15 + 4 * 3);
  norm_back.weight = norm_back.dsum = norm_back.daddend = norm_back.dweight = &some;
  EXPECT_EQ(bytes_of(norm_back), 4 * 45 + 2 * (30 + 5) + 4 * (3 + 10));

  auto embedding = three_rows<EmbeddingForwardArgs>();
  embedding.vocabulary = 9;
  embedding.table_dtype = kBf16, embedding.y_dtype = kF32;
  EXPECT_EQ(bytes_of(embedding), 4 * 3 + 2 * 15 + 4 * 15);
  auto embedding_back = three_rows<EmbeddingBackwardArgs>();
  embedding_back.vocabulary = 2;  // rows that several tokens share
  embedding_back.y_dtype = kBf16;
  EXPECT_EQ(bytes_of(embedding_back), 4 * 3 + 2 * 15 + 4 * 2 * 10);

  auto loss = three_rows<CrossEntropyArgs>();
  loss.columns = 5;
  loss.logits_dtype = kF32, loss.gradient_dtype = kBf16;
  EXPECT_EQ(bytes_of(loss), 4 * 15 + 4 * 3 + 4 * 3);
  loss.gradient = true;
  EXPECT_EQ(bytes_of(loss), 4 * 15 + 2 * 15 + 4 * 3 + 4 * 3);
  EXPECT_EQ(bytes_of(three_rows<MeanLossArgs>()), 16);
}

TEST(Work, BytesOfHeads) {
  auto copy = three_rows<HeadCopyArgs>();
  copy.dtype = kBf16;
  copy.add({.source = &some, .heads = 3, .width = 4, .source_head = 4});
  copy.add({.source = &some, .heads = 3, .width = 4});  // one vector for all heads
  copy.add({.source = &some, .heads = 3, .width = 4, .source_head = 4, .sum_heads = true});
  copy.add({.width = 2});  // zeros
  EXPECT_EQ(bytes_of(copy), 2 * 3 * (24 + 16 + 16 + 2));

  // A row: q 2 (3 + 4), v 1 (3 + 4) in factors, k dense; 8 columns of padding.
  const FactorLayout layout{.heads = 3, .head_dim = 4, .q = {.rank = 2}, .k = {}, .v = {.rank = 1}, .width = 41};
  auto make = three_rows<FactorContractionArgs>();
  make.layout = layout;
  make.dtype = kBf16;
  make.qkv = {&some, &some, &some};
  EXPECT_EQ(bytes_of(make), 2 * 3 * (14 + 12 + 7 + 36));
  make.qkv = {&some, nullptr, nullptr};
  EXPECT_EQ(bytes_of(make), 2 * 3 * (14 + 12));
  auto back = three_rows<FactorContractionBackwardArgs>();
  back.layout = layout;
  back.dtype = kBf16;
  back.dqkv = {&some, &some, nullptr};
  EXPECT_EQ(bytes_of(back), 2 * 3 * (41 + (14 + 12) + 12));
}

TEST(Work, BytesOfDecoding) {
  FactorDecodeArgs args{};
  args.batch = 2, args.queries = 3, args.capacity = 10, args.heads = 4;
  args.width = 5, args.v_width = 6, args.rank_k = 2, args.rank_v = 1;
  args.dtype = kBf16;
  EXPECT_EQ(bytes_of(args), 2 * 2 * (10 * (2 * 9 + 10) + 3 * (20 + 24)));
}

TEST(Work, BytesOfTheOptimizer) {
  SquaresArgs squares{};
  squares.count = kSquaresBlock + 1;
  EXPECT_EQ(bytes_of(squares), 4 * (kSquaresBlock + 1) + 8 * 2);
  SumArgs sum{};
  sum.count = 5;
  EXPECT_EQ(bytes_of(sum), 48);
  AdamWArgs update{};
  update.count = 10;
  EXPECT_EQ(bytes_of(update), 280);
  bfloat16 copy;
  update.copy = &copy;
  EXPECT_EQ(bytes_of(update), 300);
}

// A kernel finds the overload that stands beside its arguments.
TEST(Work, ProfilesHoldIt) {
  constexpr Kernel<MeanLossArgs> kernel{"some kernel", [](const MeanLossArgs&) {}, nullptr};
  profile::start();
  for (int i = 0; i < 2; ++i) kernel(kCpu, three_rows<MeanLossArgs>());
  const std::vector<profile::Entry> entries = profile::stop();
  ASSERT_EQ(entries.size(), 1);
  EXPECT_EQ(entries[0].bytes, 32);
}

}  // namespace
}  // namespace t6
