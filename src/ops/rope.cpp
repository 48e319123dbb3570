#include "ops/rope.h"

#include <cmath>
#include <numeric>

#include "base/error.h"
#include "ops/head_copy.h"

namespace t6 {
namespace {

// Element `index` of t; null stays null.
void* at(const Tensor& t, int64_t index) {
  return t.defined() ? static_cast<std::byte*>(t.raw()) + static_cast<size_t>(index) * size_of(t.dtype()) : nullptr;
}

// The arguments without segments, for tokens [B, T] of `like`.
HeadCopyArgs args_for(const Tensor& like, const RopeTable* table, int64_t offset) {
  HeadCopyArgs args;
  if (table != nullptr) {
    args.cos = table->cos.raw();
    args.sin = table->sin.raw();
  }
  args.rows = like.dim(0) * like.dim(1);
  args.window = std::max<int64_t>(like.dim(1), 1);
  args.offset = offset;
  args.dtype = like.dtype();
  return args;
}

// `heads` consecutive vectors that start at column `column` of rows of `row` elements.
struct Columns {
  const Tensor& tensor;
  int64_t row;
  int64_t column;
  int64_t head_stride;
};

HeadSegment segment(const Columns& from, const Columns& to, int64_t heads, int64_t width, int rotation) {
  HeadSegment s;
  s.source = at(from.tensor, from.column);
  s.destination = at(to.tensor, to.column);
  s.heads = heads;
  s.width = width;
  s.source_row = from.row;
  s.source_head = from.head_stride;
  s.destination_row = to.row;
  s.destination_head = to.head_stride;
  s.rotation = rotation;
  return s;
}

// Columns [column, row) of a packed gradient belong to nobody.
HeadSegment zeros(const Tensor& to, int64_t row, int64_t column) {
  HeadSegment s;
  s.destination = at(to, column);
  s.width = row - column;
  s.destination_row = row;
  return s;
}

void check_rank3(const char* op, const char* what, const Tensor& x, int64_t width) {
  T6_CHECK(x.shape().rank() == 3 && x.dim(2) >= width, "[{}] expected {} [B, T, at least {}], got {}", op, what, width,
           to_string(x.shape()));
}

}  // namespace

void check_rope_table(const char* op, const RopeTable& table, const Tensor& x, int64_t width, int64_t offset) {
  const DType dtype = accumulate_dtype(x.dtype());
  T6_CHECK(table.cos.defined() && table.cos.dtype() == dtype && table.cos.device() == x.device(),
           "[{}] expected a RoPE table of {} on {} for {} activations, got {}", op, name_of(dtype),
           to_string(x.device()), name_of(x.dtype()),
           table.cos.defined() ? name_of(table.cos.dtype()) + (" on " + to_string(table.cos.device())) : "none");
  T6_CHECK(width == 0 || table.width() == width, "[{}] expected a RoPE table of width {}, got {}", op, width,
           table.width());
  T6_CHECK(offset >= 0 && offset + x.dim(1) <= table.positions(),
           "[{}] expected positions below {} (the RoPE table's length), got {} to {}", op, table.positions(), offset,
           offset + x.dim(1) - 1);
}

RopeTable make_rope_table(int64_t positions, int64_t width, double theta, bool round_to_bf16, DType dtype) {
  T6_CHECK(positions >= 0 && width > 0 && width % 2 == 0, "[rope] expected an even width, got {}", width);
  T6_CHECK(dtype == DType::f32 || dtype == DType::f64, "[rope] expected a table of f32 or f64, got {}", name_of(dtype));
  const int64_t half = width / 2;
  std::vector<double> cos(static_cast<size_t>(positions * half)), sin(cos.size());
  for (int64_t i = 0; i < half; ++i) {
    const float inverse_f32 =
        1.0F / std::pow(static_cast<float>(theta), static_cast<float>(2 * i) / static_cast<float>(width));
    const double inverse = std::pow(theta, -static_cast<double>(2 * i) / static_cast<double>(width));
    for (int64_t p = 0; p < positions; ++p) {
      const size_t j = static_cast<size_t>(p * half + i);
      if (round_to_bf16) {
        const float angle = static_cast<float>(p) * inverse_f32;
        cos[j] = static_cast<float>(bfloat16(std::cos(angle)));
        sin[j] = static_cast<float>(bfloat16(std::sin(angle)));
      } else {
        cos[j] = std::cos(static_cast<double>(p) * inverse);
        sin[j] = std::sin(static_cast<double>(p) * inverse);
      }
    }
  }
  const Shape shape{positions, half};
  return {Tensor::from<double>(shape, cos).to(dtype), Tensor::from<double>(shape, sin).to(dtype)};
}

Variable rope(const Variable& x, const RopeTable& table, int64_t offset) {
  const Tensor& xv = x.value();
  T6_CHECK(xv.shape().rank() == 4, "[rope] expected x [B, T, n, D], got {}", to_string(xv.shape()));
  const int64_t n = xv.dim(2), width = xv.dim(3);
  check_rope_table("rope", table, xv, width, offset);

  auto rotate = [table, offset, n, width](const Tensor& from, int direction) {
    const Tensor to = Tensor::empty(from.shape(), from.dtype(), from.device());
    HeadCopyArgs args = args_for(from, &table, offset);
    args.add(segment({from, n * width, 0, width}, {to, n * width, 0, width}, n, width, direction));
    head_copy(from.device(), args);
    return to;
  };
  Variable y(rotate(xv, 1));
  record("rope", {x}, {&y}, [rotate](Gradients& g) { g.give(0, rotate(g.output(0), -1)); });
  return y;
}

Qkv qkv_rope(const Variable& packed, int64_t heads, int64_t kv_heads, const RopeTable& table, int64_t offset) {
  const Tensor& x = packed.value();
  const int64_t width = table.width(), q_row = heads * width, kv_row = kv_heads * width;
  check_rank3("qkv_rope", "packed q, k, v", x, q_row + 2 * kv_row);
  check_rope_table("qkv_rope", table, x, width, offset);
  const int64_t batch = x.dim(0), window = x.dim(1), row = x.dim(2);

  auto make = [&](int64_t n) { return Variable(Tensor::empty({batch, window, n, width}, x.dtype(), x.device())); };
  Qkv out{make(heads), make(kv_heads), make(kv_heads)};
  HeadCopyArgs args = args_for(x, &table, offset);
  args.add(segment({x, row, 0, width}, {out.q.value(), q_row, 0, width}, heads, width, 1));
  args.add(segment({x, row, q_row, width}, {out.k.value(), kv_row, 0, width}, kv_heads, width, 1));
  args.add(segment({x, row, q_row + kv_row, width}, {out.v.value(), kv_row, 0, width}, 1, kv_row, 0));
  head_copy(x.device(), args);

  auto backward = [=, shape = x.shape(), dtype = x.dtype(), device = x.device()](Gradients& g) {
    const Tensor dx = Tensor::empty(shape, dtype, device);
    HeadCopyArgs back = args_for(dx, &table, offset);
    back.add(segment({g.output(0), q_row, 0, width}, {dx, row, 0, width}, heads, width, -1));
    back.add(segment({g.output(1), kv_row, 0, width}, {dx, row, q_row, width}, kv_heads, width, -1));
    back.add(segment({g.output(2), kv_row, 0, width}, {dx, row, q_row + kv_row, width}, 1, kv_row, 0));
    back.add(zeros(dx, row, q_row + 2 * kv_row));
    head_copy(device, back);
    g.give(0, dx);
  };
  record("qkv_rope", {packed}, {&out.q, &out.k, &out.v}, std::move(backward));
  return out;
}

std::vector<Variable> split_columns(const Variable& x, const std::vector<int64_t>& widths) {
  const Tensor& xv = x.value();
  const int64_t row = xv.dim(-1), total = std::accumulate(widths.begin(), widths.end(), int64_t{0});
  T6_CHECK(total <= row, "[split_columns] expected at least {} columns, got {}", total, to_string(xv.shape()));
  const int64_t rows = row > 0 ? xv.numel() / row : 0;

  HeadCopyArgs shared;
  shared.rows = rows;
  shared.dtype = xv.dtype();
  HeadCopyArgs args = shared;
  std::vector<Variable> parts;
  std::vector<Variable*> outputs;
  parts.reserve(widths.size());
  int64_t column = 0;
  for (const int64_t width : widths) {
    std::vector<int64_t> dims(xv.shape().begin(), xv.shape().end());
    dims.back() = width;
    parts.emplace_back(Tensor::empty(Shape(dims), xv.dtype(), xv.device()));
    outputs.push_back(&parts.back());
    args.add(segment({xv, row, column, 0}, {parts.back().value(), width, 0, 0}, 1, width, 0));
    column += width;
  }
  head_copy(xv.device(), args);

  auto backward = [=, shape = xv.shape(), dtype = xv.dtype(), device = xv.device()](Gradients& g) {
    const Tensor dx = Tensor::empty(shape, dtype, device);
    HeadCopyArgs back = shared;
    int64_t at_column = 0;
    for (size_t i = 0; i < widths.size(); ++i) {
      const Tensor& dy = g.output(static_cast<int>(i));
      back.add(segment({dy, widths[i], 0, 0}, {dx, row, at_column, 0}, 1, widths[i], 0));
      at_column += widths[i];
    }
    back.add(zeros(dx, row, total));
    head_copy(device, back);
    g.give(0, dx);
  };
  record("split_columns", {x}, outputs, std::move(backward));
  return parts;
}

Variable mla_q(const Variable& q_b, const MlaWidths& widths, const RopeTable& table, int64_t offset) {
  const Tensor& x = q_b.value();
  const int64_t heads = widths.heads, nope = widths.nope, rotary = table.width(), full = nope + rotary;
  check_rank3("mla_q", "q_b", x, heads * full);
  check_rope_table("mla_q", table, x, rotary, offset);
  const int64_t row = x.dim(2), q_row = heads * full;

  Variable q(Tensor::empty({x.dim(0), x.dim(1), heads, full}, x.dtype(), x.device()));
  HeadCopyArgs args = args_for(x, &table, offset);
  args.add(segment({x, row, 0, full}, {q.value(), q_row, 0, full}, heads, nope, 0));
  args.add(segment({x, row, nope, full}, {q.value(), q_row, nope, full}, heads, rotary, 1));
  head_copy(x.device(), args);

  auto backward = [=, shape = x.shape()](Gradients& g) {
    const Tensor& dq = g.output(0);
    const Tensor dx = Tensor::empty(shape, dq.dtype(), dq.device());
    HeadCopyArgs back = args_for(dx, &table, offset);
    back.add(segment({dq, q_row, 0, full}, {dx, row, 0, full}, heads, nope, 0));
    back.add(segment({dq, q_row, nope, full}, {dx, row, nope, full}, heads, rotary, -1));
    back.add(zeros(dx, row, q_row));
    head_copy(dx.device(), back);
    g.give(0, dx);
  };
  record("mla_q", {q_b}, {&q}, std::move(backward));
  return q;
}

MlaKv mla_kv(const Variable& kv_b, const Variable& k_rope, const MlaWidths& widths, const RopeTable* table,
             int64_t offset) {
  const Tensor& x = kv_b.value();
  const Tensor& xr = k_rope.value();
  const int64_t heads = widths.heads, nope = widths.nope, packed = nope + widths.v;
  check_rank3("mla_kv", "kv_b", x, heads * packed);
  check_rank3("mla_kv", "k_rope", xr, 1);
  const int64_t batch = x.dim(0), window = x.dim(1), row = x.dim(2), rotary = xr.dim(2), full = nope + rotary;
  T6_CHECK(xr.dim(0) == batch && xr.dim(1) == window && xr.dtype() == x.dtype(),
           "[mla_kv] expected k_rope [{}, {}, rope] of {}, got {} of {}", batch, window, name_of(x.dtype()),
           to_string(xr.shape()), name_of(xr.dtype()));
  if (table != nullptr) check_rope_table("mla_kv", *table, x, rotary, offset);
  const int64_t k_row = heads * full, v_row = heads * widths.v;
  const int direction = table != nullptr ? 1 : 0;

  MlaKv out{Variable(Tensor::empty({batch, window, heads, full}, x.dtype(), x.device())),
            Variable(Tensor::empty({batch, window, heads, widths.v}, x.dtype(), x.device()))};
  const Tensor &k = out.k.value(), &v = out.v.value();
  HeadCopyArgs args = args_for(x, table, offset);
  args.add(segment({x, row, 0, packed}, {k, k_row, 0, full}, heads, nope, 0));
  args.add(segment({xr, rotary, 0, 0}, {k, k_row, nope, full}, heads, rotary, direction));
  args.add(segment({x, row, nope, packed}, {v, v_row, 0, widths.v}, heads, widths.v, 0));
  head_copy(x.device(), args);

  // d k_rope = sum over heads of the rotary part of dk, turned back
  auto backward = [=, kept = table != nullptr ? *table : RopeTable(), shape = x.shape(), rope_shape = xr.shape(),
                   dtype = x.dtype(), device = x.device()](Gradients& g) {
    const Tensor &dk = g.output(0), &dv = g.output(1);
    const Tensor dx = Tensor::empty(shape, dtype, device);
    const Tensor dxr = Tensor::empty(rope_shape, dtype, device);
    HeadCopyArgs back = args_for(dx, direction != 0 ? &kept : nullptr, offset);
    back.add(segment({dk, k_row, 0, full}, {dx, row, 0, packed}, heads, nope, 0));
    back.add(segment({dv, v_row, 0, widths.v}, {dx, row, nope, packed}, heads, widths.v, 0));
    back.add(zeros(dx, row, heads * packed));
    HeadSegment shared = segment({dk, k_row, nope, full}, {dxr, rotary, 0, 0}, heads, rotary, -direction);
    shared.sum_heads = true;
    back.add(shared);
    head_copy(device, back);
    g.give(0, dx);
    g.give(1, dxr);
  };
  record("mla_kv", {kv_b, k_rope}, {&out.k, &out.v}, std::move(backward));
  return out;
}

Qkv mla_qkv(const Variable& q_b, const Variable& kv_b, const Variable& k_rope, const MlaWidths& widths,
            const RopeTable& table, int64_t offset) {
  Variable q = mla_q(q_b, widths, table, offset);
  MlaKv kv = mla_kv(kv_b, k_rope, widths, &table, offset);
  return {std::move(q), std::move(kv.k), std::move(kv.v)};
}

}  // namespace t6
