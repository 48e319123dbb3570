#include "cli/step_ops.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/rng.h"
#include "model/attention_registry.h"
#include "model/transformer.h"
#include "ops/adamw.h"
#include "ops/classifier.h"
#include "ops/embedding.h"
#include "ops/global_norm.h"
#include "ops/matmul.h"
#include "ops/rms_norm.h"
#include "ops/swiglu.h"

namespace t6::cli {

Maker::Maker(Device device) : device_(device) {
  constexpr int64_t kCount = 1 << 20;
  const Philox philox(1, RngPurpose::sample);
  std::vector<float> values(kCount);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(philox.uniform(i) - 0.5);
  const Tensor numbers = Tensor::from<float>({kCount}, values).to(device);
  for (const DType dtype : {DType::f32, DType::bf16}) numbers_.emplace(dtype, numbers.to(dtype));
}

Tensor Maker::numbers(const Shape& shape, DType dtype) const {
  const Tensor made = Tensor::empty(shape, dtype, device_);
  refill(made);
  return made;
}

void Maker::refill(const Tensor& tensor) const {
  const Tensor& from = numbers_.at(tensor.dtype());
  for (int64_t at = 0; at < tensor.numel(); at += from.numel()) {
    const int64_t count = std::min(from.numel(), tensor.numel() - at);
    tensor.slice(at, {count}).copy_from(from.slice(0, {count}));
  }
}

Variable Maker::tokens(int64_t count, int64_t vocabulary) const {
  const Philox philox(2, RngPurpose::sample);
  std::vector<int32_t> ids(static_cast<size_t>(count));
  for (size_t i = 0; i < ids.size(); ++i) {
    ids[i] = static_cast<int32_t>(philox.below(i, static_cast<uint64_t>(vocabulary)));
  }
  return Variable(Tensor::from<int32_t>({count}, ids).to(device_));
}

namespace {

struct Layer {
  ParameterStore store;
  std::unique_ptr<Attention> attention;
  RopeTable rope;
};

std::shared_ptr<Layer> make_layer(const ModelConfig& model, DType dtype, Device device) {
  auto layer = std::make_shared<Layer>();
  layer->attention = make_attention(layer->store, "attn.", model);
  layer->store.allocate(dtype, device);
  layer->store.initialise(1);
  layer->rope =
      make_rope_table(model.context, layer->attention->rope_width(), model.rope_theta, false, accumulate_dtype(dtype))
          .to(device);
  return layer;
}

// c = op(a) op(b), with c among the inputs.
StepOp product(const Maker& make, const std::string& name, const MatmulArgs& args) {
  const auto setup = [&make, args] {
    const auto call = [device = make.device(), args](const std::vector<Variable>& in) {
      MatmulArgs full = args;
      full.a = in[0].value().raw(), full.b = in[1].value().raw(), full.c = in[2].value().raw();
      matmul(device, full);
      return std::vector<Variable>{};
    };
    return Work{{make.constant({args.m, args.k}, args.in_dtype), make.constant({args.k, args.n}, args.in_dtype),
                 make.constant({args.m, args.n}, args.out_dtype)},
                call};
  };
  return {"products", name, fmt::format("{} x {} x {}", args.m, args.n, args.k), setup};
}

// y = x W^T for `rows` of x, and both gradients; W [out, in].
void add_products(std::vector<StepOp>& ops, const Maker& make, const std::string& name, int64_t rows,
                  const Shape& weight, DType dtype, DType y_dtype) {
  const int64_t out = weight[0], in = weight[1];
  const auto add = [&](const char* what, int64_t m, int64_t n, int64_t k, bool ta, bool tb, DType to) {
    ops.push_back(product(make, name + what,
                          {.a = nullptr,
                           .b = nullptr,
                           .c = nullptr,
                           .m = m,
                           .n = n,
                           .k = k,
                           .lda = ta ? m : k,
                           .ldb = tb ? k : n,
                           .ldc = n,
                           .transpose_a = ta,
                           .transpose_b = tb,
                           .accumulate = ta,
                           .in_dtype = dtype,
                           .out_dtype = to}));
  };
  add(", y", rows, out, in, false, true, y_dtype);
  add(", dx", rows, in, out, false, false, dtype);
  add(", dW", out, in, rows, true, false, accumulate_dtype(dtype));
}

// "mlp.c_proj"; of several views what their names begin with: "attn.c_qkv.W_*".
std::string common_name(const std::vector<ParameterView>& views) {
  std::string name = views.front().name;
  if (views.size() == 1) return name.substr(0, name.rfind('.'));
  for (const ParameterView& v : views) {
    name.erase(std::mismatch(name.begin(), name.end(), v.name.begin(), v.name.end()).first, name.end());
  }
  return name + "*";
}

}  // namespace

const std::vector<std::string>& step_op_families() {
  static const std::vector<std::string> families{"products",  "attention",  "norm",     "swiglu",
                                                 "embedding", "classifier", "optimizer"};
  return families;
}

std::vector<StepOp> step_ops(const RunConfig& config, const Maker& make) {
  const Device device = make.device();
  const ModelConfig& model = config.model;
  const DType dtype = dtype_for(config.train.precision), wide = accumulate_dtype(dtype);
  const int64_t batch = config.train.micro_batch, rows = batch * model.context, width = model.width;
  const int64_t vocabulary = model.vocab_size, inner = padded(model.feed_forward_width(), kPadding);
  const int64_t chunk = std::min(rows, classifier_chunk_rows(device));
  const DType logits = device.is_cuda() ? dtype : wide;
  const Transformer whole(model);
  const Shape n{rows, width};

  std::vector<StepOp> ops;
  for (const Parameter& p : whole.parameters().parameters()) {
    const std::string name = common_name(p.views()), block = "transformer.h.0.";
    if (!p.is_matrix() || !name.starts_with(block)) continue;
    add_products(ops, make, name.substr(block.size()), rows, p.storage_shape(), dtype, dtype);
  }
  add_products(ops, make, "wte", chunk, {vocabulary, width}, dtype, logits);

  const auto op = [&](const char* family, const char* name, const Shape& shape, std::function<Work()> setup) {
    ops.push_back({family, name, to_string(shape), std::move(setup)});
  };
  op("attention", model.kind_name().data(), n, [=, &make] {
    const auto call = [layer = make_layer(model, dtype, device), batch, model](const std::vector<Variable>& in) {
      return std::vector{layer->attention->forward(in[0], {batch, model.context, 0, &layer->rope})};
    };
    return Work{{make.input(n, dtype)}, call};
  });
  op("norm", "rms_norm", n, [=, &make] {
    return Work{{make.input(n, wide)},
                [=](const std::vector<Variable>& in) { return std::vector{rms_norm(in[0], model.norm_eps, dtype)}; }};
  });
  op("norm", "add_rms_norm", n, [=, &make] {
    return Work{{make.input(n, wide), make.input(n, dtype)}, [=](const std::vector<Variable>& in) {
                  const AddRmsNorm made = add_rms_norm(in[0], in[1], model.norm_eps);
                  return std::vector{made.sum, made.norm};
                }};
  });
  op("swiglu", "swiglu", {rows, 2 * inner}, [=, &make] {
    return Work{{make.input({rows, 2 * inner}, dtype)},
                [](const std::vector<Variable>& in) { return std::vector{swiglu(in[0])}; }};
  });
  op("embedding", "embedding", {vocabulary, width}, [=, &make] {
    const Variable table(make.numbers({vocabulary, width}, dtype), Leaf::parameter);
    return Work{{table, make.tokens(rows, vocabulary)},
                [=](const std::vector<Variable>& in) { return std::vector{embedding(in[0], in[1].value(), wide)}; }};
  });
  op("classifier", "cross_entropy", {chunk, vocabulary}, [=, &make] {
    const auto call = [=](const std::vector<Variable>& in) {
      const Tensor spent = in[0].value().clone(), losses = Tensor::empty({chunk}, wide, device);
      cross_entropy(device, {spent.raw(), in[1].value().data<int32_t>(), losses.raw(), chunk, vocabulary,
                             1 / static_cast<double>(rows), true, logits, dtype});
      return std::vector<Variable>{};
    };
    return Work{{make.constant({chunk, vocabulary}, logits), make.tokens(chunk, vocabulary)}, call};
  });
  op("classifier", "mean_loss", {rows}, [=, &make] {
    return Work{{make.constant({rows}, wide)}, [=](const std::vector<Variable>& in) {
                  const Tensor loss = Tensor::empty({1}, wide, device);
                  mean_loss(device, {in[0].value().raw(), loss.raw(), rows, 1, wide});
                  return std::vector<Variable>{};
                }};
  });
  const int64_t all = whole.parameters().storage_size();
  op("optimizer", "gradient norm", {all}, [=, &make] {
    return Work{{make.constant({all}, wide)}, [](const std::vector<Variable>& in) {
                  norm_and_clip(sum_of_squares({in[0].value()}), 1);
                  return std::vector<Variable>{};
                }};
  });
  op("optimizer", "adamw", {all}, [=, &make] {
    std::vector<Variable> state;  // parameter, gradient, moments
    for (int i = 0; i < 3; ++i) state.push_back(make.constant({all}, wide));
    state.emplace_back(Tensor::zeros({all}, wide, device));
    if (dtype == DType::bf16) state.push_back(make.constant({all}, dtype));
    return Work{state, [=](const std::vector<Variable>& in) {
                  const auto at = [&](size_t i) { return in[i].value().template data<float>(); };
                  adamw(device, {.parameter = at(0),
                                 .gradient = at(1),
                                 .m = at(2),
                                 .v = at(3),
                                 .copy = in.size() > 4 ? in[4].value().template data<bfloat16>() : nullptr,
                                 .clip = nullptr,
                                 .count = all,
                                 .step = 1,
                                 .lr = 1e-6});
                  return std::vector<Variable>{};
                }};
  });
  return ops;
}

}  // namespace t6::cli
