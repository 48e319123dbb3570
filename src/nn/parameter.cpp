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

// Calls copy(stored, contiguous, bytes) for every row of a view: its place in the parameter's storage, and in a
// contiguous tensor of the view's shape; both in host memory.
template <class Copy>
void each_row(const Tensor& storage, const ParameterView& view, const Tensor& values, Copy copy) {
  T6_CHECK(storage.dtype() == values.dtype() && values.numel() == view.shape.numel(),
           "[parameter] expected {} of {} for {}, got {} of {}", to_string(view.shape), name_of(storage.dtype()),
           view.name, to_string(values.shape()), name_of(values.dtype()));
  const size_t element = size_of(storage.dtype()), width = static_cast<size_t>(columns(view.shape)) * element;
  const size_t pitch = static_cast<size_t>(columns(storage.shape())) * element;
  auto* stored = static_cast<std::byte*>(storage.raw()) + static_cast<size_t>(view.row) * pitch;
  auto* contiguous = static_cast<std::byte*>(values.raw());
  for (int64_t r = 0; r < rows(view.shape); ++r, stored += pitch, contiguous += width) copy(stored, contiguous, width);
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

void ParameterStore::allocate(DType compute, Device device) {
  const DType master = accumulate_dtype(compute);
  compute_dtype_ = compute;
  master_ = Tensor::zeros({size_}, master, device);
  gradient_ = Tensor::zeros({size_}, master, device);
  compute_ = compute == master ? master_ : Tensor::zeros({size_}, compute, device);
  for (Parameter& p : parameters_) {
    p.variable_ = Variable(compute_.slice(p.offset_, p.storage_shape_), Leaf::parameter);
    p.variable_.set_grad(gradient_.slice(p.offset_, p.storage_shape_));
  }
}

void ParameterStore::initialise(uint64_t seed) {
  for_each_view(
      [&](const Parameter& p, const ParameterView& v) { scatter(master_, p, v, draw(v, seed).to(master_.dtype())); });
  refresh_compute();
}

void ParameterStore::refresh_compute() const {
  if (compute_dtype_ != master_.dtype()) compute_.copy_from(master_);
}

int64_t ParameterStore::count() const {
  int64_t n = 0;
  for_each_view([&](const Parameter&, const ParameterView& v) { n += v.shape.numel(); });
  return n;
}

Tensor ParameterStore::gather(const Tensor& flat, const Parameter& parameter, const ParameterView& view) const {
  const Tensor storage = flat.slice(parameter.offset(), parameter.storage_shape()).to(kCpu);
  Tensor values = Tensor::empty(view.shape, flat.dtype());
  each_row(storage, view, values,
           [](std::byte* stored, std::byte* contiguous, size_t n) { std::memcpy(contiguous, stored, n); });
  return values;
}

void ParameterStore::scatter(const Tensor& flat, const Parameter& parameter, const ParameterView& view,
                             const Tensor& values) const {
  const Tensor storage = flat.slice(parameter.offset(), parameter.storage_shape());
  const Tensor host = storage.to(kCpu);
  each_row(host, view, values,
           [](std::byte* stored, std::byte* contiguous, size_t n) { std::memcpy(stored, contiguous, n); });
  if (!storage.device().is_cpu()) storage.copy_from(host);
}

}  // namespace t6
