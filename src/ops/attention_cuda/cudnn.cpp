#include "ops/attention_cuda/cudnn.h"

#if defined(T6_HAVE_CUDNN)

#define NV_CUDNN_FRONTEND_USE_DYNAMIC_LOADING
#define CUDNN_FRONTEND_SKIP_JSON_LIB
#include <cudnn_frontend.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "base/log.h"
#include "base/shared_library.h"
#include "tensor/cuda.h"
#include "tensor/storage.h"

namespace cudnn_frontend {
void* cudnn_dlhandle = nullptr;  // the frontend looks up every function of cuDNN in it
}

namespace t6::cuda::cudnn {
namespace {

namespace fe = cudnn_frontend;
using fe::graph::Graph;
using fe::graph::Tensor_attributes;
using TensorOf = std::shared_ptr<Tensor_attributes>;

enum Id : int64_t { kQ = 1, kK, kV, kO, kStats, kDO, kDQ, kDK, kDV };

// Where T6_CUBLASLT names a file: packages of CUDA's libraries lie together.
std::string beside_cublaslt(const std::string& name) {
  const char* cublaslt = std::getenv("T6_CUBLASLT");
  return (std::filesystem::path(cublaslt != nullptr ? cublaslt : "").parent_path() / name).string();
}

Library load() {
  try {
    static const SharedLibrary file("cuDNN 9", "T6_CUDNN", {"libcudnn.so.9"});
    fe::cudnn_dlhandle = file.handle();
  } catch (const Error& error) {
    return {false, "no libcudnn.so.9 was found; T6_CUDNN may name it", error.what()};
  }
  // The frontend loads a CUDA runtime when it runs a plan, of any version that it finds: it is to be this program's.
  constexpr const char* kVariable = "CUDNN_FRONTEND_CUDART_LIB_NAME";
  const std::string runtime = fmt::format("libcudart.so.{}", CUDART_VERSION / 1000);
  try {
    static const SharedLibrary file("the CUDA runtime", kVariable,
                                    {runtime, beside_cublaslt(runtime), "/usr/local/cuda/lib64/" + runtime});
    ::setenv(kVariable, file.name().c_str(), 0);
  } catch (const Error& error) {
    return {false, fmt::format("no {} was found, which cuDNN needs; {} may name it", runtime, kVariable), error.what()};
  }
  const size_t version = fe::detail::get_backend_version();
  return {true, fmt::format("cuDNN {}.{}.{}", version / 10000, version / 100 % 100, version % 100), ""};
}

enum class Direction : int64_t { inference, forward, backward, deterministic_backward };

// One operation for one shape, ready to run.
struct Plan {
  std::unique_ptr<Graph> graph;  // null: cuDNN does not take it
  std::string why_not;
  size_t workspace = 0;  // bytes it works in
};

void require(fe::error_t status) {
  if (status.is_bad()) throw std::runtime_error(status.get_message());
}

// [batch, tokens, heads, width] in memory; cuDNN counts batch, heads, tokens, width.
class Layout {
 public:
  explicit Layout(const AttentionArgs& a) : a_(a) {}

  TensorOf input(Graph& graph, Id id, int64_t heads, int64_t width) const {
    return graph.tensor(describe(Tensor_attributes(), id, heads, width));
  }
  void output(const TensorOf& tensor, Id id, int64_t heads, int64_t width) const {
    describe(*tensor, id, heads, width).set_output(true);
  }
  // The log-sum-exp, [batch, heads, tokens, 1].
  Tensor_attributes& describe_stats(Tensor_attributes& tensor) const {
    return tensor.set_uid(kStats)
        .set_dim({a_.batch, a_.heads, a_.queries, 1})
        .set_stride({a_.heads * a_.queries, a_.queries, 1, 1})
        .set_data_type(fe::DataType_t::FLOAT);
  }

 private:
  template <class Attributes>
  Tensor_attributes& describe(Attributes&& tensor, Id id, int64_t heads, int64_t width) const {
    return tensor.set_uid(id)
        .set_dim({a_.batch, heads, a_.queries, width})
        .set_stride({a_.queries * heads * width, width, heads * width, 1})
        .set_data_type(fe::DataType_t::BFLOAT16);
  }
  const AttentionArgs& a_;
};

void describe_forward(Graph& graph, const AttentionArgs& a, bool with_stats) {
  const Layout layout(a);
  auto options = fe::graph::SDPA_attributes()
                     .set_name("attention")
                     .set_generate_stats(with_stats)
                     .set_causal_mask(true)
                     .set_attn_scale(static_cast<float>(a.scale));
  const TensorOf q = layout.input(graph, kQ, a.heads, a.qk_width);
  const TensorOf k = layout.input(graph, kK, a.kv_heads, a.qk_width);
  const TensorOf v = layout.input(graph, kV, a.kv_heads, a.v_width);
  const auto [o, stats] = graph.sdpa(q, k, v, options);
  layout.output(o, kO, a.heads, a.v_width);
  if (with_stats) layout.describe_stats(*stats).set_output(true);
}

void describe_backward(Graph& graph, const AttentionArgs& a, bool deterministic) {
  const Layout layout(a);
  auto options = fe::graph::SDPA_backward_attributes()
                     .set_name("attention_backward")
                     .set_causal_mask(true)
                     .set_attn_scale(static_cast<float>(a.scale))
                     .set_deterministic_algorithm(deterministic);
  const TensorOf q = layout.input(graph, kQ, a.heads, a.qk_width);
  const TensorOf k = layout.input(graph, kK, a.kv_heads, a.qk_width);
  const TensorOf v = layout.input(graph, kV, a.kv_heads, a.v_width);
  const TensorOf o = layout.input(graph, kO, a.heads, a.v_width);
  const TensorOf d_o = layout.input(graph, kDO, a.heads, a.v_width);
  Tensor_attributes stats_attributes;
  const TensorOf stats = graph.tensor(layout.describe_stats(stats_attributes));
  const auto [dq, dk, dv] = graph.sdpa_backward(q, k, v, o, d_o, stats, options);
  layout.output(dq, kDQ, a.heads, a.qk_width);
  layout.output(dk, kDK, a.kv_heads, a.qk_width);
  layout.output(dv, kDV, a.kv_heads, a.v_width);
}

// cuDNN on the one device and the one stream of this process.
class Engine {
 public:
  // False when cuDNN does not take it.
  bool run(Direction direction, const AttentionArgs& a, std::unordered_map<int64_t, void*> pointers, bool required) {
    const std::lock_guard lock(mutex_);
    const Plan& plan = plan_for(direction, a);
    if (plan.graph == nullptr) {
      if (required) fail(ExitCode::usage, "cuDNN does not take {}: {}", to_text(direction, a), plan.why_not);
      return false;
    }
    void* workspace = workspace_for(plan);
    try {
      require(plan.graph->execute(handle_, pointers, workspace));
    } catch (const std::runtime_error& error) {
      fail(ExitCode::internal, "cuDNN failed at {}: {}", to_text(direction, a), error.what());
    }
    return true;
  }

 private:
  using Key = std::array<int64_t, 8>;

  static std::string to_text(Direction direction, const AttentionArgs& a) {
    return fmt::format("attention{} of {} x {} tokens, {} heads ({} of keys), widths {} and {}",
                       direction < Direction::backward ? "" : "'s gradients", a.batch, a.queries, a.heads, a.kv_heads,
                       a.qk_width, a.v_width);
  }

  const Plan& plan_for(Direction direction, const AttentionArgs& a) {
    const Key key{static_cast<int64_t>(direction), a.batch, a.queries, a.heads, a.kv_heads, a.qk_width, a.v_width,
                  std::bit_cast<int64_t>(a.scale)};
    if (const auto found = plans_.find(key); found != plans_.end()) return found->second;
    T6_CHECK(!capturing(), "[attention] {} is run for the first time while a graph is captured; run it once before",
             to_text(direction, a));
    Plan plan = make_plan(direction, a);
    if (plan.graph == nullptr) {
      log::warn("cuDNN does not take {}, which runs on slower kernels: {}", to_text(direction, a), plan.why_not);
    }
    return plans_.emplace(key, std::move(plan)).first->second;
  }

  Plan make_plan(Direction direction, const AttentionArgs& a) {
    Plan plan;
    int64_t workspace = 0;
    try {
      if (handle_ == nullptr) open();
      auto graph = std::make_unique<Graph>();
      graph->set_io_data_type(fe::DataType_t::BFLOAT16)
          .set_intermediate_data_type(fe::DataType_t::FLOAT)
          .set_compute_data_type(fe::DataType_t::FLOAT);
      if (direction < Direction::backward) {
        describe_forward(*graph, a, direction == Direction::forward);
      } else {
        describe_backward(*graph, a, direction == Direction::deterministic_backward);
      }
      require(graph->build(handle_, {fe::HeurMode_t::A}));
      require(graph->get_workspace_size(workspace));
      plan.graph = std::move(graph);
    } catch (const Error&) {
      throw;
    } catch (const std::runtime_error& error) {  // the frontend's own, and those of require()
      plan.why_not = error.what();
    }
    plan.workspace = static_cast<size_t>(std::max<int64_t>(workspace, 0));
    // Now, as nothing is allocated while a graph is captured.
    if (plan.graph != nullptr) static_cast<void>(workspace_for(plan));
    return plan;
  }

  static bool capturing() {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    T6_CUDA(cudaStreamIsCapturing(current_stream(), &status));
    return status != cudaStreamCaptureStatusNone;
  }

  // Plans run one after another on one stream and share one block, as large as the largest of them asks. A captured
  // graph keeps the address it was captured with: that block stays when a larger one takes its place.
  void* workspace_for(const Plan& plan) {
    if (plan.workspace == 0) return nullptr;
    if (workspace_ == nullptr || workspace_->bytes() < plan.workspace) {
      if (workspace_ != nullptr && workspace_in_graph_) in_graphs_.push_back(workspace_);
      workspace_ = nullptr;  // first, so that both are never there at once
      workspace_ = Storage::allocate(plan.workspace, Device{Device::Kind::cuda, 0});
      workspace_in_graph_ = false;
    }
    workspace_in_graph_ = workspace_in_graph_ || capturing();
    return workspace_->data();
  }

  void open() {
    const cudaStream_t stream = current_stream();
    if (fe::detail::create_handle(&handle_) != CUDNN_STATUS_SUCCESS) {
      handle_ = nullptr;
      throw std::runtime_error("cudnnCreate failed");
    }
    if (fe::detail::set_stream(handle_, stream) != CUDNN_STATUS_SUCCESS) {
      throw std::runtime_error("cudnnSetStream failed");
    }
  }

  std::mutex mutex_;
  cudnnHandle_t handle_ = nullptr;
  std::map<Key, Plan> plans_;
  std::shared_ptr<Storage> workspace_;
  bool workspace_in_graph_ = false;
  std::vector<std::shared_ptr<Storage>> in_graphs_;
};

// Never destroyed: at exit the driver may be gone.
Engine& engine() {
  static Engine& engine = *new Engine;
  return engine;
}

// What cuDNN is meant for here.
bool meant_for(const AttentionArgs& a) {
  return library().available && a.dtype == DType::bf16 && a.offset == 0 && a.keys == a.queries && a.queries > 1 &&
         a.batch > 0 && a.heads > 0 && a.qk_width % 8 == 0 && a.v_width % 8 == 0;
}

}  // namespace

const Library& library() {
  static const Library result = load();
  return result;
}

bool attention(const AttentionArgs& a, bool required) {
  if (!meant_for(a)) return false;
  auto pointer = [](const void* p) { return const_cast<void*>(p); };
  std::unordered_map<int64_t, void*> pointers{{kQ, pointer(a.q)}, {kK, pointer(a.k)}, {kV, pointer(a.v)}, {kO, a.o}};
  if (a.lse != nullptr) pointers[kStats] = a.lse;
  return engine().run(a.lse != nullptr ? Direction::forward : Direction::inference, a, std::move(pointers), required);
}

bool attention_backward(const AttentionBackwardArgs& args, bool deterministic, bool required) {
  const AttentionArgs& a = args.forward;
  if (!meant_for(a)) return false;
  auto pointer = [](const void* p) { return const_cast<void*>(p); };
  std::unordered_map<int64_t, void*> pointers{{kQ, pointer(a.q)}, {kK, pointer(a.k)},       {kV, pointer(a.v)},
                                              {kO, a.o},          {kDO, pointer(args.d_o)}, {kStats, a.lse},
                                              {kDQ, args.dq},     {kDK, args.dk},           {kDV, args.dv}};
  return engine().run(deterministic ? Direction::deterministic_backward : Direction::backward, a, std::move(pointers),
                      required);
}

}  // namespace t6::cuda::cudnn

#else

namespace t6::cuda::cudnn {

const Library& library() {
  static const std::string why = "this program was built without the cuDNN frontend";
  static const Library none{false, why, why};
  return none;
}
bool attention(const AttentionArgs&, bool) {
  return false;
}
bool attention_backward(const AttentionBackwardArgs&, bool, bool) {
  return false;
}

}  // namespace t6::cuda::cudnn

#endif
