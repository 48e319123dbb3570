#include "ops/attention.h"

#include "ops/kernel.h"

namespace t6 {
namespace {

constexpr Kernel<AttentionArgs> kForward{"attention", &cpu::attention, T6_CUDA_KERNEL(cuda::attention)};
constexpr Kernel<AttentionBackwardArgs> kBackward{"attention_backward", &cpu::attention_backward,
                                                  T6_CUDA_KERNEL(cuda::attention_backward)};

// Everything but the outputs.
AttentionArgs args_for(const char* op, const Tensor& q, const Tensor& k, const Tensor& v, int64_t offset,
                       double scale) {
  const bool ranks = q.shape().rank() == 4 && k.shape().rank() == 4 && v.shape().rank() == 4;
  T6_CHECK(ranks && k.dim(0) == q.dim(0) && v.dim(0) == q.dim(0) && v.dim(1) == k.dim(1) && v.dim(2) == k.dim(2) &&
               k.dim(3) == q.dim(3) && k.dim(2) > 0 && q.dim(2) % k.dim(2) == 0,
           "[{}] expected q [B, T, H, Dqk], k [B, Tk, G, Dqk], v [B, Tk, G, Dv] with G dividing H, got {}, {}, {}", op,
           to_string(q.shape()), to_string(k.shape()), to_string(v.shape()));
  T6_CHECK(q.dtype() == k.dtype() && q.dtype() == v.dtype(), "[{}] expected one dtype, got {}, {}, {}", op,
           name_of(q.dtype()), name_of(k.dtype()), name_of(v.dtype()));
  T6_CHECK(offset >= 0 && k.dim(1) >= offset + q.dim(1), "[{}] expected at least {} + {} keys, got {}", op, offset,
           q.dim(1), k.dim(1));
  AttentionArgs args{};
  args.q = q.raw();
  args.k = k.raw();
  args.v = v.raw();
  args.batch = q.dim(0);
  args.queries = q.dim(1);
  args.keys = k.dim(1);
  args.heads = q.dim(2);
  args.kv_heads = k.dim(2);
  args.qk_width = q.dim(3);
  args.v_width = v.dim(3);
  args.offset = offset;
  args.scale = scale;
  args.dtype = q.dtype();
  return args;
}

}  // namespace

AttentionValues attention_values(const Tensor& q, const Tensor& k, const Tensor& v, double scale, bool with_lse) {
  AttentionArgs args = args_for("attention", q, k, v, 0, scale);
  T6_CHECK(args.keys == args.queries, "[attention] expected as many keys as queries, got {} and {}", args.keys,
           args.queries);
  AttentionValues out;
  out.o = Tensor::empty({args.batch, args.queries, args.heads, args.v_width}, q.dtype(), q.device());
  args.o = out.o.raw();
  if (with_lse) {
    out.lse = Tensor::empty({args.batch, args.heads, args.queries}, accumulate_dtype(q.dtype()), q.device());
    args.lse = out.lse.raw();
  }
  kForward(q.device(), args);
  return out;
}

AttentionGradients attention_gradients(const Tensor& q, const Tensor& k, const Tensor& v,
                                       const AttentionValues& forward, const Tensor& d_o, double scale) {
  AttentionArgs args = args_for("attention", q, k, v, 0, scale);
  args.o = forward.o.raw();
  args.lse = forward.lse.raw();
  const AttentionGradients out{Tensor::empty(q.shape(), q.dtype(), q.device()),
                               Tensor::empty(k.shape(), k.dtype(), k.device()),
                               Tensor::empty(v.shape(), v.dtype(), v.device())};
  kBackward(q.device(), {args, d_o.raw(), out.dq.raw(), out.dk.raw(), out.dv.raw()});
  return out;
}

Variable attention(const Variable& q, const Variable& k, const Variable& v, double scale) {
  const Tensor qv = q.value(), kv = k.value(), vv = v.value();
  const AttentionValues values = attention_values(qv, kv, vv, scale, recording({&q, &k, &v}));
  Variable o(values.o);
  auto backward = [qv, kv, vv, values, scale](Gradients& g) {
    const AttentionGradients d = attention_gradients(qv, kv, vv, values, g.output(0), scale);
    g.give(0, d.dq);
    g.give(1, d.dk);
    g.give(2, d.dv);
  };
  record("attention", {q, k, v}, {&o}, std::move(backward));
  return o;
}

Tensor attention_decode(const Tensor& q, const Tensor& k, const Tensor& v, int64_t offset, double scale) {
  AttentionArgs args = args_for("attention_decode", q, k, v, offset, scale);
  const Tensor o = Tensor::empty({args.batch, args.queries, args.heads, args.v_width}, q.dtype(), q.device());
  args.o = o.raw();
  kForward(q.device(), args);
  return o;
}

}  // namespace t6
