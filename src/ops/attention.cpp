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

Variable attention(const Variable& q, const Variable& k, const Variable& v, double scale) {
  const Tensor qv = q.value(), kv = k.value(), vv = v.value();
  AttentionArgs args = args_for("attention", qv, kv, vv, 0, scale);
  T6_CHECK(args.keys == args.queries, "[attention] expected as many keys as queries, got {} and {}", args.keys,
           args.queries);
  Variable o(Tensor::empty({args.batch, args.queries, args.heads, args.v_width}, qv.dtype(), qv.device()));
  const Tensor ov = o.value();
  Tensor lse;
  if (recording({&q, &k, &v})) {
    lse = Tensor::empty({args.batch, args.heads, args.queries}, accumulate_dtype(qv.dtype()), qv.device());
    args.lse = lse.raw();
  }
  args.o = ov.raw();
  kForward(qv.device(), args);

  auto backward = [qv, kv, vv, ov, lse, args](Gradients& g) {
    const Tensor dq = Tensor::empty(qv.shape(), qv.dtype(), qv.device());
    const Tensor dk = Tensor::empty(kv.shape(), kv.dtype(), kv.device());
    const Tensor dv = Tensor::empty(vv.shape(), vv.dtype(), vv.device());
    kBackward(qv.device(), {args, g.output(0).raw(), dq.raw(), dk.raw(), dv.raw()});
    g.give(0, dq);
    g.give(1, dk);
    g.give(2, dv);
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
