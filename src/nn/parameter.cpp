#include "nn/parameter.h"

#include <cstring>

#include "base/error.h"
#include "base/rng.h"
#include "tensor/parallel.h"

namespace t6 {
namespace {

constexpr int64_t kAlignment = 64;  // elements; keeps every parameter's rows on cache lines

// FNV-1a: a stream of random numbers for each name.
uint32_t stream_of(const std::string& name) {
  uint32_t hash = 2166136261u;
  for (char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 16777619u;
  return hash;
}

int64_t columns(const Shape& shape) {
  return shape[-1];
}
int64_t rows(const Shape& shape) {
  return shape.rank() == 1 ? 1 : shape[0];
}

// Element i of a view is word i % 4 of Philox block i / 4, taken to 24 bits.
Tensor draw(const ParameterView& view, uint64_t seed) {
  const Tensor values = Tensor::empty(view.shape, DType::f32);
  if (view.init.kind != Init::Kind::uniform) {
    values.fill(view.init.kind == Init::Kind::one ? 1.0 : 0.0);
    return values;
  }
  const Philox rng(seed, RngPurpose::init, stream_of(view.name));
  float* out = values.data<float>();
  const int64_t n = values.numel();
  const double bound = view.init.bound;
  parallel_for((n + 3) / 4, 1024, [=](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      const auto words = rng.words(static_cast<uint64_t>(block));
      for (int64_t i = 4 * block; i < std::min(n, 4 * block + 4); ++i) {
        const double u = static_cast<double>(words[static_cast<size_t>(i % 4)] >> 8) * 0x1.0p-24;
        out[i] = static_cast<float>(bound * (2 * u - 1));
      }
    }
  });
  return values;
}

// Where number i of a view lies in a flat buffer.
int64_t position_of(const Parameter& p, const ParameterView& v, int64_t i) {
  return p.offset() + (v.row + i / columns(v.shape)) * columns(p.storage_shape()) + i % columns(v.shape);
}

// The first number of a view that lies at `position` of a flat buffer or behind it; numel for none.
int64_t number_from(const Parameter& p, const ParameterView& v, int64_t position) {
  const int64_t pitch = columns(p.storage_shape()), width = columns(v.shape);
  const int64_t behind = std::max<int64_t>(0, position - p.offset() - v.row * pitch);
  return std::min(v.shape.numel(), behind / pitch * width + std::min(behind % pitch, width));
}

// Calls copy(stored, contiguous, bytes) for every run of numbers of a view's range: its place in `part`, which is the
// piece of a flat buffer from `begin` on, and in the contiguous `values`; both in host memory.
template <class Copy>
void each_run(const Tensor& part, int64_t begin, const Parameter& p, const ParameterView& v,
              const ParameterStore::ViewRange& range, const Tensor& values, Copy copy) {
  T6_CHECK(part.dtype() == values.dtype() && values.numel() == range.count,
           "[parameter] expected {} {} for {}, got {} {}", range.count, name_of(part.dtype()), v.name, values.numel(),
           name_of(values.dtype()));
  const auto element = static_cast<int64_t>(size_of(part.dtype()));
  auto* stored = static_cast<std::byte*>(part.raw());
  auto* contiguous = static_cast<std::byte*>(values.raw());
  for (int64_t i = range.first; i < range.first + range.count;) {
    const int64_t width = columns(v.shape);
    const int64_t run = std::min(width - i % width, range.first + range.count - i);
    copy(stored + (position_of(p, v, i) - begin) * element, contiguous, static_cast<size_t>(run * element));
    contiguous += run * element;
    i += run;
  }
}

// The piece of `part` that holds a range, and where it begins in the flat buffer.
std::pair<Tensor, int64_t> piece_of(const Tensor& part, int64_t begin, const Parameter& p, const ParameterView& v,
                                    const ParameterStore::ViewRange& range) {
  const int64_t first = position_of(p, v, range.first), last = position_of(p, v, range.first + range.count - 1);
  return {part.slice(first - begin, {last + 1 - first}), first};
}

}  // namespace

Parameter& ParameterStore::declare(std::vector<ParameterView> views, const Shape& storage_shape) {
  T6_CHECK(!views.empty() && !master_.defined(), "[parameter] expected views, before allocate()");
  for (const ParameterView& v : views) {
    T6_CHECK(v.shape.rank() == storage_shape.rank() && columns(v.shape) <= columns(storage_shape) &&
                 v.row + rows(v.shape) <= rows(storage_shape),
             "[parameter] {} {} does not fit into storage {} at row {}", v.name, to_string(v.shape),
             to_string(storage_shape), v.row);
    for_each_view([&](const Parameter&, const ParameterView& other) {
      T6_CHECK(stream_of(other.name) != stream_of(v.name), "[parameter] the names {} and {} clash", v.name, other.name);
    });
  }
  Parameter& p = parameters_.emplace_back();
  p.views_ = std::move(views);
  p.storage_shape_ = storage_shape;
  p.offset_ = size_;
  size_ += padded(storage_shape.numel(), kAlignment);
  return p;
}

void ParameterStore::allocate(DType compute, Device device, int64_t multiple, std::vector<Span> masters) {
  size_ = padded(size_, multiple);
  const DType master = accumulate_dtype(compute);
  compute_dtype_ = compute;
  master_spans_ = compute == master || masters.empty() ? std::vector<Span>{{0, size_}} : std::move(masters);
  int64_t held = 0;
  for (const Span& span : master_spans_) held += span.count;
  master_ = Tensor::zeros({held}, master, device);
  gradient_ = Tensor::zeros({size_}, master, device);
  compute_ = compute == master ? master_ : Tensor::zeros({size_}, compute, device);
  for (Parameter& p : parameters_) {
    p.variable_ = Variable(compute_.slice(p.offset_, p.storage_shape_), Leaf::parameter);
    p.variable_.set_grad(gradient_.slice(p.offset_, p.storage_shape_));
  }
}

void ParameterStore::allocate_for_inference(DType compute, Device device) {
  compute_dtype_ = compute;
  master_spans_ = {{0, size_}};
  master_ = compute_ = Tensor::zeros({size_}, compute, device);
  for (Parameter& p : parameters_) p.variable_ = Variable(compute_.slice(p.offset_, p.storage_shape_));
}

void ParameterStore::initialise(uint64_t seed) {
  for_each_view([&](const Parameter& p, const ParameterView& v) { assign(p, v, draw(v, seed)); });
}

void ParameterStore::refresh_compute() const {
  if (compute_dtype_ == master_.dtype()) return;
  int64_t at = 0;
  for (const Span& span : master_spans_) {
    compute_.slice(span.begin, {span.count}).copy_from(master_.slice(at, {span.count}));
    at += span.count;
  }
}

void ParameterStore::assign(const Parameter& parameter, const ParameterView& view, const Tensor& values) const {
  const Tensor master = values.to(master_.dtype());
  if (compute_dtype_ != master_.dtype()) scatter(compute_, parameter, view, master.to(compute_dtype_));
  int64_t at = 0;
  for (const Span& span : master_spans_) {
    const ViewRange range = range_in(parameter, view, span.begin, span.count);
    const Tensor held = master_.slice(at, {span.count});
    if (range.count > 0) {
      scatter_range(held, span.begin, parameter, view, range, master.slice(range.first, {range.count}));
    }
    at += span.count;
  }
}

int64_t ParameterStore::count() const {
  int64_t n = 0;
  for_each_view([&](const Parameter&, const ParameterView& v) { n += v.shape.numel(); });
  return n;
}

Tensor ParameterStore::gather(const Tensor& flat, const Parameter& parameter, const ParameterView& view) const {
  return gather_range(flat, 0, parameter, view, {0, view.shape.numel()}).view(view.shape);
}

void ParameterStore::scatter(const Tensor& flat, const Parameter& parameter, const ParameterView& view,
                             const Tensor& values) const {
  scatter_range(flat, 0, parameter, view, {0, view.shape.numel()}, values);
}

ParameterStore::ViewRange ParameterStore::range_in(const Parameter& parameter, const ParameterView& view, int64_t begin,
                                                   int64_t count) {
  const int64_t first = number_from(parameter, view, begin);
  return {first, number_from(parameter, view, begin + count) - first};
}

Tensor ParameterStore::gather_range(const Tensor& part, int64_t begin, const Parameter& parameter,
                                    const ParameterView& view, const ViewRange& range) {
  const Tensor values = Tensor::empty({range.count}, part.dtype());
  if (range.count == 0) return values;
  const auto [piece, first] = piece_of(part, begin, parameter, view, range);
  each_run(piece.to(kCpu), first, parameter, view, range, values,
           [](std::byte* stored, std::byte* contiguous, size_t n) { std::memcpy(contiguous, stored, n); });
  return values;
}

void ParameterStore::scatter_range(const Tensor& part, int64_t begin, const Parameter& parameter,
                                   const ParameterView& view, const ViewRange& range, const Tensor& values) {
  if (range.count == 0) return;
  const auto [piece, first] = piece_of(part, begin, parameter, view, range);
  const Tensor host = piece.to(kCpu);
  each_run(host, first, parameter, view, range, values,
           [](std::byte* stored, std::byte* contiguous, size_t n) { std::memcpy(stored, contiguous, n); });
  if (!piece.device().is_cpu()) piece.copy_from(host);
}

}  // namespace t6
