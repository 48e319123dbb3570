// Tensor: a contiguous array with shape, dtype and shared storage. Copies share; clone() does not. It knows no
// gradients.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "tensor/dtype.h"
#include "tensor/shape.h"
#include "tensor/storage.h"

namespace t6 {

class Tensor {
 public:
  Tensor() = default;  // undefined: no storage

  static Tensor empty(const Shape& shape, DType dtype, Device device = kCpu);  // uninitialised
  static Tensor zeros(const Shape& shape, DType dtype, Device device = kCpu);
  static Tensor full(const Shape& shape, DType dtype, double value, Device device = kCpu);
  template <class T>
  static Tensor from(const Shape& shape, std::span<const T> values);
  template <class T>
  static Tensor from(const Shape& shape, const std::vector<T>& values) {
    return from<T>(shape, std::span<const T>(values));
  }

  bool defined() const { return storage_ != nullptr; }
  const Shape& shape() const { return shape_; }
  int64_t dim(int i) const { return shape_[i]; }
  int64_t numel() const { return numel_; }
  DType dtype() const { return dtype_; }
  size_t bytes() const { return static_cast<size_t>(numel_) * size_of(dtype_); }
  Device device() const { return storage_ ? storage_->device() : kCpu; }

  void* raw() const { return storage_ ? storage_->data() + offset_ : nullptr; }
  // Elements as T; Error(internal) when T is not the dtype.
  template <class T>
  T* data() const {
    require_dtype(dtype_of<T>);
    return static_cast<T*>(raw());
  }

  // The same elements under another shape of equal size.
  Tensor view(const Shape& shape) const;
  // Elements [begin, begin + shape.numel()) of the flattened tensor, as a tensor of `shape` that shares storage.
  Tensor slice(int64_t begin, const Shape& shape) const;
  // Rows [begin, begin + count) of dimension 0.
  Tensor rows(int64_t begin, int64_t count) const;

  // True when no other tensor shares the storage: the one case in which accumulating in place is safe.
  bool sole_owner() const { return storage_.use_count() == 1; }
  bool shares_storage_with(const Tensor& other) const { return storage_ == other.storage_; }

  Tensor clone() const;
  Tensor to(DType dtype) const;                // itself when the dtype is already right
  Tensor to(Device device) const;              // itself when already there
  void copy_from(const Tensor& source) const;  // same element count; converts dtype and device
  void add_from(const Tensor& source) const;   // += with conversion, same element count and device
  void fill(double value) const;

  double item() const;                     // the only element
  std::vector<double> to_doubles() const;  // every element, from any dtype and device

 private:
  Tensor(std::shared_ptr<Storage> storage, size_t offset, const Shape& shape, DType dtype)
      : storage_(std::move(storage)), offset_(offset), shape_(shape), numel_(shape.numel()), dtype_(dtype) {}
  void require_dtype(DType dtype) const;

  std::shared_ptr<Storage> storage_;
  size_t offset_ = 0;  // bytes
  Shape shape_;
  int64_t numel_ = 0;
  DType dtype_ = DType::f32;
};

}  // namespace t6
