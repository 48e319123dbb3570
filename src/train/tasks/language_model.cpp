#include "train/tasks/language_model.h"

#include <algorithm>

#include "base/error.h"
#include "ops/classifier.h"

namespace t6::train {
namespace {

// Rows of logits that exist at a time: on a CPU 50 MB of them at 50,304 columns.
int64_t chunk_rows(Device device) {
  return device.is_cuda() ? 2048 : 256;
}

// Log probability of one target a row; logits [n, V] stay as they are.
std::vector<double> row_losses(const Tensor& logits, const std::vector<int32_t>& targets) {
  const int64_t rows = logits.dim(0);
  const Device device = logits.device();
  const Tensor ids = Tensor::from<int32_t>({rows}, targets).to(device);
  const Tensor losses = Tensor::empty({rows}, logits.dtype(), device);
  cross_entropy(device, {.logits = logits.raw(),
                         .targets = ids.data<int32_t>(),
                         .row_losses = losses.raw(),
                         .rows = rows,
                         .columns = logits.dim(1),
                         .gradient_scale = 0,
                         .gradient = false,
                         .logits_dtype = logits.dtype(),
                         .gradient_dtype = logits.dtype()});
  return losses.to_doubles();
}

template <class T>
int32_t first_of_the_largest(const T* row, int64_t columns) {
  return static_cast<int32_t>(std::max_element(row, row + columns) - row);
}

std::vector<int32_t> likeliest_ids(const Tensor& logits) {
  const Tensor host = logits.to(kCpu);
  const int64_t columns = host.dim(1);
  std::vector<int32_t> ids;
  for (int64_t row = 0; row < host.dim(0); ++row) {
    ids.push_back(host.dtype() == DType::f64 ? first_of_the_largest(host.data<double>() + row * columns, columns)
                                             : first_of_the_largest(host.data<float>() + row * columns, columns));
  }
  return ids;
}

}  // namespace

// On a GPU few shapes, so that few products are new.
int64_t ScoredTransformer::multiple() const {
  return device().is_cuda() ? std::min<int64_t>(64, window()) : 1;
}

std::vector<std::vector<Likelihood>> ScoredTransformer::score(std::span<const Sequence* const> batch,
                                                              bool likeliest) const {
  size_t longest = 1, target_lists = 0;
  for (const Sequence* sequence : batch) {
    longest = std::max(longest, sequence->input.size());
    target_lists = std::max(target_lists, sequence->targets.size());
  }
  const auto step = static_cast<size_t>(multiple());
  const size_t width = std::min((longest + step - 1) / step * step, static_cast<size_t>(window()));
  const Shape shape{static_cast<int64_t>(batch.size()), static_cast<int64_t>(width)};
  const Tensor tokens = Tensor::zeros(shape, DType::i32);
  std::vector<Rows> rows;
  // Of each row that counts: its sequence, and its place among the targets.
  struct Row {
    size_t sequence, place;
  };
  std::vector<Row> counted;
  for (size_t i = 0; i < batch.size(); ++i) {
    const Sequence& sequence = *batch[i];
    T6_CHECK(!sequence.targets.empty() && sequence.scored() > 0 && sequence.scored() <= sequence.input.size() &&
                 sequence.input.size() <= width,
             "[score] expected 1 to {} tokens to follow the last of {}, got {}", sequence.input.size(), width,
             sequence.scored());
    std::copy(sequence.input.begin(), sequence.input.end(), tokens.data<int32_t>() + i * width);
    rows.push_back({.begin = static_cast<int64_t>(i * width + sequence.input.size() - sequence.scored()),
                    .count = static_cast<int64_t>(sequence.scored())});
    for (size_t place = 0; place < sequence.scored(); ++place) counted.push_back({i, place});
  }

  std::vector<std::vector<Likelihood>> found;
  for (const Sequence* sequence : batch) found.emplace_back(sequence->targets.size());
  const Tensor hidden = model_.hidden_at(tokens, rows);
  const auto chunk = static_cast<size_t>(chunk_rows(hidden.device()));
  for (size_t begin = 0; begin < counted.size(); begin += chunk) {
    const size_t count = std::min(chunk, counted.size() - begin);
    const Tensor logits = model_.head(hidden.rows(static_cast<int64_t>(begin), static_cast<int64_t>(count)));
    const std::vector<int32_t> top = likeliest ? likeliest_ids(logits) : std::vector<int32_t>();
    for (size_t list = 0; list < target_lists; ++list) {
      // Where a sequence has fewer lists its first one stands in, and is not looked at again.
      std::vector<int32_t> targets;
      for (size_t i = 0; i < count; ++i) {
        const Row& row = counted[begin + i];
        const Sequence& sequence = *batch[row.sequence];
        targets.push_back(sequence.targets[list < sequence.targets.size() ? list : 0][row.place]);
      }
      const std::vector<double> losses = row_losses(logits, targets);
      for (size_t i = 0; i < count; ++i) {
        std::vector<Likelihood>& of = found[counted[begin + i].sequence];
        if (list >= of.size()) continue;
        of[list].log_probability -= losses[i];
        of[list].likeliest = of[list].likeliest && (!likeliest || top[i] == targets[i]);
      }
    }
  }
  return found;
}

}  // namespace t6::train
