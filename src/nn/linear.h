// Linear maps as modules over a ParameterStore.
#pragma once

#include <string>

#include "nn/parameter.h"

namespace t6 {

// Leading dimensions of products are padded to this many elements (docs/design.md, "Padding").
inline constexpr int64_t kPadding = 64;

// y = x W^T with W [out, in]; no bias anywhere.
class Linear {
 public:
  Linear(ParameterStore& store, const std::string& name, int64_t in, int64_t out, Init init);

  // Several matrices over the same input, stacked into one product; view rows start where `row` says.
  Linear(ParameterStore& store, std::vector<ParameterView> views, int64_t in, int64_t storage_rows);

  Variable forward(const Variable& x) const;  // [rows, in] -> [rows, storage rows]

 private:
  const Parameter* weight_;
};

}  // namespace t6
