// Parameters: named matrices with padded storage in flat buffers.
//
// A Parameter is one storage matrix that one product reads; it holds one or more views, the model's named matrices
// (three projections packed into one product, say). Storage may have more rows and columns than its views: the padding
// is zero, gets zero gradients and stays zero, and no name, count, checkpoint or gradient shows it.
//
// The store keeps all parameters in registration order, the order of checkpoints, optimizer ranges and gradient
// buckets, in flat buffers: master values (f32; f64 in checks), gradients (same type) and, for bf16, the copy that
// products read. Beside such a copy a rank may hold the masters of some spans alone: those that it updates.
#pragma once

#include <deque>
#include <string>
#include <vector>

#include "autograd/variable.h"

namespace t6 {

// Bounds of initial weights: as the authors' code draws them, or as the paper says; they differ for TPA's factors.
enum class InitKind : uint8_t { official, paper };

// How a view starts: zeros, ones, or U(-bound, bound).
struct Init {
  enum class Kind : uint8_t { zero, one, uniform };
  Kind kind = Kind::zero;
  double bound = 0;

  static Init zero() { return {Kind::zero, 0}; }
  static Init one() { return {Kind::one, 0}; }
  static Init uniform(double bound) { return {Kind::uniform, bound}; }
};

// Elements [begin, begin + count) of the flat buffers.
struct Span {
  int64_t begin = 0, count = 0;
  int64_t end() const { return begin + count; }
  bool operator==(const Span&) const = default;
};

struct ParameterView {
  std::string name;  // as in the authors' checkpoints: "transformer.h.0.attn.c_q.weight"
  Shape shape;       // [out, in], or [width] for a norm weight
  Init init;
  int64_t row = 0;  // first row in the storage; columns start at 0
};

class Parameter {
 public:
  const std::vector<ParameterView>& views() const { return views_; }
  const Shape& storage_shape() const { return storage_shape_; }
  int64_t offset() const { return offset_; }  // in elements of the flat buffers
  bool is_matrix() const { return views_.front().shape.rank() == 2; }
  // The value in compute precision; its gradient is the parameter's slice of the flat gradient.
  const Variable& variable() const { return variable_; }

 private:
  friend class ParameterStore;
  std::vector<ParameterView> views_;
  Shape storage_shape_;
  int64_t offset_ = 0;
  Variable variable_;
};

class ParameterStore {
 public:
  ParameterStore() = default;
  ParameterStore(const ParameterStore&) = delete;
  ParameterStore& operator=(const ParameterStore&) = delete;

  // Registers a storage matrix [rows, cols] (rank 1 when every view is) for `views`. Names are unique. The reference
  // stays valid.
  Parameter& declare(std::vector<ParameterView> views, const Shape& storage_shape);

  // Allocates zeroed buffers: masters in f32 (f64 when compute is f64), products read `compute` (f32, bf16, f64). Their
  // size is rounded up to a multiple of `multiple`. Where the compute copy is another buffer there are masters of
  // `masters` alone, spans in order and without overlap; none: of everything.
  void allocate(DType compute, Device device = kCpu, int64_t multiple = 1, std::vector<Span> masters = {});
  // The same for a model that is not trained: no gradients, and master() is compute(), in its dtype.
  void allocate_for_inference(DType compute, Device device = kCpu);
  // Draws every view from (seed, its name): equal names and shapes start equal in every model.
  void initialise(uint64_t seed);

  const std::deque<Parameter>& parameters() const { return parameters_; }
  int64_t count() const;                          // numbers in all views, without padding
  int64_t storage_size() const { return size_; }  // elements of each flat buffer

  const Tensor& master() const { return master_; }  // flat: of master_spans(), one behind the other
  const std::vector<Span>& master_spans() const { return master_spans_; }
  const Tensor& gradient() const { return gradient_; }  // undefined in a model that is not trained
  const Tensor& compute() const { return compute_; }    // shares master's storage unless bf16
  DType compute_dtype() const { return compute_dtype_; }

  void zero_gradient() const { gradient_.fill(0); }
  // Rounds the masters into the compute copy, after they were written from outside; the optimizer does so itself.
  void refresh_compute() const;
  // Gives a view these values, in its shape and host memory: in the compute copy, and in the masters that are held.
  void assign(const Parameter& parameter, const ParameterView& view, const Tensor& values) const;

  // A view's numbers out of, or into, a whole flat buffer, wherever that is; the tensor has the view's shape and is in
  // host memory.
  Tensor gather(const Tensor& flat, const Parameter& parameter, const ParameterView& view) const;
  void scatter(const Tensor& flat, const Parameter& parameter, const ParameterView& view, const Tensor& values) const;

  // The same for a piece of a flat buffer, whose elements [begin, begin + part.numel()) `part` holds: those numbers
  // [first, first + count) of the view, counted row by row without padding, that lie in it.
  struct ViewRange {
    int64_t first = 0, count = 0;
  };
  static ViewRange range_in(const Parameter& parameter, const ParameterView& view, int64_t begin, int64_t count);
  static Tensor gather_range(const Tensor& part, int64_t begin, const Parameter& parameter, const ParameterView& view,
                             const ViewRange& range);
  static void scatter_range(const Tensor& part, int64_t begin, const Parameter& parameter, const ParameterView& view,
                            const ViewRange& range, const Tensor& values);

  // Calls f(parameter, view) for every view in registration order.
  template <class F>
  void for_each_view(F&& f) const {
    for (const Parameter& p : parameters_) {
      for (const ParameterView& v : p.views()) f(p, v);
    }
  }

 private:
  std::deque<Parameter> parameters_;
  int64_t size_ = 0;
  Tensor master_, gradient_, compute_;
  std::vector<Span> master_spans_;
  DType compute_dtype_ = DType::f32;
};

// n rounded up to a multiple, the padding of leading dimensions.
constexpr int64_t padded(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

}  // namespace t6
