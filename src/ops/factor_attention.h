// Contraction of factors and attention as one operation, which keeps the factors and makes q, k, v again in backward.
#pragma once

#include "ops/factor_contraction.h"

namespace t6 {

// f [B, T, layout.width] -> o [B, T, H, D]: attention(factor_contraction(f)), value and gradient to the bit. Saves f, o
// and log-sum-exp [B, H, T]: 3 H D numbers a token fewer than the two operations, for one contraction more.
Variable factor_attention(const Variable& f, const FactorLayout& layout, const RopeTable& table, double scale,
                          int64_t offset = 0);

}  // namespace t6
