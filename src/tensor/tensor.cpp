#include "tensor/tensor.h"

#include <cstring>

#include "base/error.h"
#include "tensor/device_memory.h"
#include "tensor/parallel.h"

namespace t6 {
namespace {

constexpr int64_t kCopyGrain = 1 << 14;

template <class To, class From>
void convert(To* to, const From* from, int64_t n) {
  parallel_for(n, kCopyGrain, [=](int64_t begin, int64_t end) {
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) {
      store(to[i], static_cast<Accumulate<To>>(static_cast<Accumulate<From>>(from[i])));
    }
  });
}

template <class To, class From>
void add(To* to, const From* from, int64_t n) {
  parallel_for(n, kCopyGrain, [=](int64_t begin, int64_t end) {
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) {
      using Sum = Accumulate<To>;
      store(to[i], static_cast<Sum>(to[i]) + static_cast<Sum>(from[i]));
    }
  });
}

// Calls f(T{}) for floats and i32.
template <class F>
void dispatch_any(DType dtype, F&& f) {
  if (dtype == DType::i32) {
    f(int32_t{});
  } else {
    dispatch_float(dtype, f);
  }
}

}  // namespace

void Tensor::require_dtype(DType dtype) const {
  T6_CHECK(defined(), "[tensor] expected {} elements, got an undefined tensor", name_of(dtype));
  T6_CHECK(dtype == dtype_, "[tensor] expected {} elements, got {} {}", name_of(dtype), name_of(dtype_),
           to_string(shape_));
}

Tensor Tensor::empty(const Shape& shape, DType dtype, Device device) {
  return {Storage::allocate(static_cast<size_t>(shape.numel()) * size_of(dtype), device), 0, shape, dtype};
}

Tensor Tensor::zeros(const Shape& shape, DType dtype, Device device) {
  return full(shape, dtype, 0.0, device);
}

Tensor Tensor::full(const Shape& shape, DType dtype, double value, Device device) {
  Tensor t = empty(shape, dtype, device);
  t.fill(value);
  return t;
}

template <class T>
Tensor Tensor::from(const Shape& shape, std::span<const T> values) {
  T6_CHECK(shape.numel() == static_cast<int64_t>(values.size()), "[tensor] expected {} values for {}, got {}",
           shape.numel(), to_string(shape), values.size());
  Tensor t = empty(shape, dtype_of<T>);
  if (!values.empty()) std::memcpy(t.raw(), values.data(), t.bytes());
  return t;
}
template Tensor Tensor::from(const Shape&, std::span<const float>);
template Tensor Tensor::from(const Shape&, std::span<const double>);
template Tensor Tensor::from(const Shape&, std::span<const bfloat16>);
template Tensor Tensor::from(const Shape&, std::span<const int32_t>);

Tensor Tensor::view(const Shape& shape) const {
  T6_CHECK(defined() && shape.numel() == numel_, "[view] expected {} elements, got shape {}", numel_, to_string(shape));
  return {storage_, offset_, shape, dtype_};
}

Tensor Tensor::slice(int64_t begin, const Shape& shape) const {
  T6_CHECK(defined() && begin >= 0 && begin + shape.numel() <= numel_, "[slice] {} elements from {} do not fit in {}",
           shape.numel(), begin, to_string(shape_));
  return {storage_, offset_ + static_cast<size_t>(begin) * size_of(dtype_), shape, dtype_};
}

Tensor Tensor::rows(int64_t begin, int64_t count) const {
  T6_CHECK(defined() && shape_.rank() >= 1 && begin >= 0 && count >= 0 && begin + count <= shape_[0],
           "[rows] rows {}..{} do not fit in {}", begin, begin + count, to_string(shape_));
  std::vector<int64_t> dims(shape_.begin(), shape_.end());
  const int64_t row = dims[0] > 0 ? numel_ / dims[0] : 0;
  dims[0] = count;
  return slice(begin * row, Shape(dims));
}

Tensor Tensor::clone() const {
  Tensor copy = empty(shape_, dtype_, device());
  copy.copy_from(*this);
  return copy;
}

Tensor Tensor::to(DType dtype) const {
  if (dtype == dtype_) return *this;
  Tensor copy = empty(shape_, dtype, device());
  copy.copy_from(*this);
  return copy;
}

Tensor Tensor::to(Device device) const {
  if (device == this->device()) return *this;
  Tensor copy = empty(shape_, dtype_, device);
  copy.copy_from(*this);
  return copy;
}

void Tensor::copy_from(const Tensor& source) const {
  T6_CHECK(defined() && source.defined() && numel_ == source.numel_, "[copy] expected {} elements, got {}", numel_,
           source.numel_);
#if defined(T6_HAVE_CUDA)
  if (device().is_cuda() || source.device().is_cuda()) {
    if (device() != source.device() && dtype_ != source.dtype_) {
      copy_from(source.to(dtype_));  // converted where it is
    } else if (dtype_ == source.dtype_) {
      cuda::copy(raw(), device(), source.raw(), source.device(), bytes());
    } else {
      cuda::convert(raw(), dtype_, source.raw(), source.dtype_, numel_);
    }
    return;
  }
#endif
  if (dtype_ == source.dtype_) {
    parallel_for(static_cast<int64_t>(bytes()), kCopyGrain * 4, [&](int64_t begin, int64_t end) {
      std::memcpy(static_cast<char*>(raw()) + begin, static_cast<const char*>(source.raw()) + begin,
                  static_cast<size_t>(end - begin));
    });
    return;
  }
  dispatch_float(dtype_, [&]<class To>(To) {
    dispatch_float(source.dtype_, [&]<class From>(From) { convert(data<To>(), source.data<From>(), numel_); });
  });
}

void Tensor::add_from(const Tensor& source) const {
  T6_CHECK(defined() && source.defined() && numel_ == source.numel_, "[add] expected {} elements, got {}", numel_,
           source.numel_);
  T6_CHECK(device() == source.device(), "[add] expected tensors of one device, got {} and {}", to_string(device()),
           to_string(source.device()));
#if defined(T6_HAVE_CUDA)
  if (device().is_cuda()) {
    cuda::add(raw(), dtype_, source.raw(), source.dtype_, numel_);
    return;
  }
#endif
  dispatch_float(dtype_, [&]<class To>(To) {
    dispatch_float(source.dtype_, [&]<class From>(From) { add(data<To>(), source.data<From>(), numel_); });
  });
}

void Tensor::fill(double value) const {
#if defined(T6_HAVE_CUDA)
  if (device().is_cuda()) {
    cuda::fill(raw(), dtype_, value, numel_);
    return;
  }
#endif
  dispatch_any(dtype_, [&]<class T>(T) {
    T* to = data<T>();
    const T element = static_cast<T>(static_cast<std::conditional_t<std::is_same_v<T, bfloat16>, float, T>>(value));
    parallel_for(numel_, kCopyGrain, [=](int64_t begin, int64_t end) { std::fill(to + begin, to + end, element); });
  });
}

double Tensor::item() const {
  T6_CHECK(numel_ == 1, "[item] expected one element, got {}", to_string(shape_));
  return to_doubles()[0];
}

std::vector<double> Tensor::to_doubles() const {
  const Tensor host = to(kCpu);
  std::vector<double> values(static_cast<size_t>(numel_));
  dispatch_any(dtype_, [&]<class T>(T) {
    const T* from = host.data<T>();
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<double>(from[i]);
  });
  return values;
}

}  // namespace t6
