#include "train/training_state.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>

#include "base/error.h"
#include "base/format.h"
#include "base/io.h"
#include "base/log.h"
#include "checkpoint/limits.h"

namespace t6::train {
namespace {

// A piece of a flat buffer: its elements from `begin` on.
struct Piece {
  int64_t begin;
  Tensor values;
};

// What `owned` says, out of the spans that `flat` holds one behind the other.
std::vector<Piece> pieces_of(const Tensor& flat, const std::vector<Span>& held, const std::vector<Span>& owned) {
  std::vector<Piece> pieces;
  int64_t at = 0;
  for (const Span& whole : held) {
    for (const Span& part : owned) {
      if (part.begin < whole.begin || part.end() > whole.end()) continue;
      pieces.push_back({part.begin, flat.slice(at + part.begin - whole.begin, {part.count})});
    }
    at += whole.count;
  }
  T6_CHECK(pieces.size() == owned.size(), "[training_state] expected {} pieces, got {}", owned.size(), pieces.size());
  return pieces;
}

// What this rank saves: with a sharded optimizer what it alone has, otherwise one stretch, so that there are few parts.
std::vector<Span> saved_spans(const DataParallel& parallel) {
  if (parallel.zero) return parallel.partition.owned(parallel.rank());
  const int64_t share = parallel.partition.size() / parallel.world();
  return {{parallel.rank() * share, share}};
}

// Of every view the numbers that lie in the pieces; a view without any is named all the same.
void add_pieces(checkpoint::State& state, const ParameterStore& store, const std::string& prefix,
                const std::vector<Piece>& pieces) {
  store.for_each_view([&](const Parameter& p, const ParameterView& v) {
    const checkpoint::TensorRef whole{
        .name = prefix + v.name, .dtype = store.master().dtype(), .shape = v.shape, .get = {}, .set = {}, .count = 0};
    const size_t before = state.tensors.size();
    for (const Piece& piece : pieces) {
      const ParameterStore::ViewRange range = ParameterStore::range_in(p, v, piece.begin, piece.values.numel());
      if (range.count == 0) continue;
      checkpoint::TensorRef ref = whole;
      ref.begin = range.first;
      ref.count = range.count;
      ref.get = [piece, &p, &v, range] { return ParameterStore::gather_range(piece.values, piece.begin, p, v, range); };
      ref.set = [piece, &p, &v, range](const Tensor& t) {
        ParameterStore::scatter_range(piece.values, piece.begin, p, v, range, t);
      };
      state.tensors.push_back(std::move(ref));
    }
    if (state.tensors.size() == before) state.tensors.push_back(whole);
  });
}

// What the bits of a result depend on beside config and data, as "part/key" of the environment.
constexpr std::array kDecidingFacts{"t6/commit",
                                    "t6/compiler",
                                    "t6/flags",
                                    "cpu/model",
                                    "cpu/instruction_sets",
                                    "libraries/oneDNN",
                                    "libraries/openmp",
                                    "threads/omp_max_threads",
                                    "ranks/world",
                                    "ranks/communicator",
                                    "gpu/name",
                                    "gpu/cublasLt",
                                    "gpu/attention"};

// Of the number of tokens of every shard and the first of them, in order: the same wherever and in whatever form the
// shards lie.
std::string fingerprint(const data::ShardSet& shards) {
  constexpr uint64_t kFirst = 1024;
  io::Hasher hasher;
  for (size_t i = 0; i < shards.size(); ++i) {
    const uint64_t count = shards[i].size();
    std::vector<uint32_t> ids(std::min(count, kFirst));
    shards[i].read(std::span(ids), 0);
    hasher.update(std::as_bytes(std::span(&count, 1)));
    hasher.update(std::as_bytes(std::span(ids)));
  }
  return hasher.hex();
}

// 1 where nothing, or nothing that could be, is said.
int64_t world_of(const nlohmann::json& environment) {
  const nlohmann::json world = environment.value("ranks/world", nlohmann::json());
  return world.is_number_integer() ? std::clamp<int64_t>(world.get<int64_t>(), 1, 1'000'000) : 1;
}

std::string describe_data(const nlohmann::json& data) {
  const auto count = [&](const char* key) {
    const auto it = data.find(key);
    return it != data.end() && it->is_number_unsigned() ? it->get<uint64_t>() : 0;
  };
  return fmt::format("{} shards of {} tokens", count("shards"), format_grouped(count("tokens")));
}

// A fact that is an object; an empty one for anything else.
nlohmann::json fact(const checkpoint::Loaded& loaded, const char* key) {
  const auto it = loaded.facts.find(key);
  return it != loaded.facts.end() && it->is_object() ? *it : nlohmann::json::object();
}

// "optimizer.lr: 0.0006 -> 0.0003" for every key that has a part in the numbers and differs.
std::vector<std::string> changed_keys(const RunConfig& before, const RunConfig& now) {
  const config::Catalogue old_values = config::catalogue(before), values = config::catalogue(now);
  std::vector<std::string> changed;
  for (size_t i = 0; i < std::min(values.size(), old_values.size()); ++i) {
    const std::string path = values[i].path();
    if (values[i].value == old_values[i].value || path == "run.dir" || path == "preset") continue;
    if (values[i].section == "checkpoint" || values[i].section == "logging" || values[i].section == "scores") continue;
    changed.push_back(fmt::format("{}: {} -> {}", path, old_values[i].value, values[i].value));
  }
  return changed;
}

}  // namespace

checkpoint::State model_state(const ParameterStore& store) {
  const DType saved = accumulate_dtype(store.master().dtype());
  checkpoint::State state;
  store.for_each_view([&](const Parameter& p, const ParameterView& v) {
    state.tensors.push_back({.name = "params/" + v.name,
                             .dtype = saved,
                             .shape = v.shape,
                             .get = {},
                             .set = [&store, &p, &v](const Tensor& t) { store.assign(p, v, t); }});
  });
  return state;
}

checkpoint::State training_state(const ParameterStore& store, const AdamW& optimizer, const DataParallel& parallel) {
  const std::vector<Span> owned = saved_spans(parallel);
  checkpoint::State state;
  add_pieces(state, store, "params/", pieces_of(store.master(), store.master_spans(), owned));
  add_pieces(state, store, "adamw/m/", pieces_of(optimizer.first_moment(), optimizer.spans(), owned));
  add_pieces(state, store, "adamw/v/", pieces_of(optimizer.second_moment(), optimizer.spans(), owned));
  return state;
}

checkpoint::State training_state(const ParameterStore& store, const AdamW& optimizer) {
  return training_state(store, optimizer, DataParallel::alone(store));
}

void spread_loaded(const ParameterStore& store, const AdamW& optimizer, const DataParallel& parallel) {
  if (!parallel.zero && parallel.world() > 1) {
    for (const Tensor& flat : {store.master(), optimizer.first_moment(), optimizer.second_moment()}) {
      parallel.communicator->all_gather(flat);
    }
    parallel.communicator->wait();
  }
  store.refresh_compute();
  if (parallel.zero) parallel.all_gather(store.compute());
}

void require_manifest_fits(const checkpoint::State& state, const DataParallel& parallel,
                           const checkpoint::Peers& peers) {
  checkpoint::require_manifest_fits(
      state,
      [&](double times) {
        constexpr int64_t kMaxBucketMb = 4096;
        const int64_t bucket = parallel.partition.buckets().front().count * static_cast<int64_t>(sizeof(float));
        const auto wanted = static_cast<uint64_t>(std::ceil(static_cast<double>(bucket) * times * 1.05 / (1 << 20)));
        const auto mb = static_cast<int64_t>(std::bit_ceil(wanted));
        const std::string larger = mb <= kMaxBucketMb ? fmt::format("use train.bucket_mb={}, or ", mb) : "use ";
        return larger + "optimizer.zero=false, with which each rank saves one stretch";
      },
      peers);
}

nlohmann::json to_scalars(const RunPosition& position) {
  nlohmann::json scalars = {{"step", position.step},
                            {"tokens", position.tokens},
                            {"data_hash", {position.consumed.low(), position.consumed.high()}},
                            {"loss", position.loss}};
  if (const auto& last = position.validation) scalars["validation"] = {{"step", last->step}, {"loss", last->loss}};
  return scalars;
}

RunPosition position_of(const checkpoint::Loaded& loaded) {
  // The library's own conversions take any number for any other.
  const auto whole = [](const nlohmann::json& value) {
    if (value.is_number_integer() && value >= 0) return value.get<uint64_t>();
    return value.get_ref<const nlohmann::json::number_unsigned_t&>();  // throws
  };
  const auto number = [](const nlohmann::json& value) {
    return value.is_number() ? value.get<double>() : value.get_ref<const nlohmann::json::number_float_t&>();
  };
  try {
    const nlohmann::json& scalars = loaded.scalars;
    const nlohmann::json& hash = scalars.at("data_hash");
    RunPosition position{.step = loaded.step,
                         .tokens = whole(scalars.at("tokens")),
                         .consumed = data::TokenHash(whole(hash.at(0)), whole(hash.at(1))),
                         .loss = number(scalars.at("loss")),
                         .validation = {}};
    if (const auto last = scalars.find("validation"); last != scalars.end()) {
      position.validation = {.step = static_cast<int64_t>(std::min<uint64_t>(whole(last->at("step")), INT64_MAX)),
                             .loss = number(last->at("loss"))};
    }
    return position;
  } catch (const nlohmann::json::exception&) {
    fail(ExitCode::checkpoint, "{} does not say where its run stands: it is not a checkpoint of t6 train",
         loaded.path.string());
  }
}

std::string describe_shards(const data::ShardSet& shards) {
  return fmt::format("{} shards of {} tokens, fingerprint {}", shards.size(), format_grouped(shards.total_tokens()),
                     fingerprint(shards));
}

nlohmann::json run_facts(const RunConfig& config, const data::ShardSet& shards,
                         const nlohmann::ordered_json& environment) {
  nlohmann::json facts = {
      {"config", to_yaml(config)},
      {"data", {{"shards", shards.size()}, {"tokens", shards.total_tokens()}, {"fingerprint", fingerprint(shards)}}},
      {"environment", nlohmann::json::object()}};
  for (const char* name : kDecidingFacts) {
    const nlohmann::ordered_json::json_pointer pointer(fmt::format("/{}", name));
    if (environment.contains(pointer)) facts["environment"][name] = nlohmann::json::parse(environment[pointer].dump());
  }
  return facts;
}

RunConfig config_of(const nlohmann::json& facts, const std::filesystem::path& path) {
  const auto it = facts.find("config");
  if (it == facts.end() || !it->is_string()) {
    fail(ExitCode::checkpoint, "{} does not say which config it was trained with", path.string());
  }
  try {
    return run_config_from_yaml(it->get<std::string>(), path.string() + " (config)");
  } catch (const Error& error) {
    fail(ExitCode::checkpoint, "{} holds a config that this program does not know: {}", path.string(), error.what());
  }
}

std::vector<std::string> changed_model_keys(const RunConfig& before, const RunConfig& now) {
  std::vector<std::string> changed = changed_keys(before, now);
  std::erase_if(changed,
                [](const std::string& key) { return !key.starts_with("model.") || key.starts_with("model.init"); });
  return changed;
}

void require_same_run(const RunConfig& config, const nlohmann::json& facts, const checkpoint::Loaded& loaded) {
  const RunConfig saved = config_of(loaded.facts, loaded.path);
  const bool draws_decide = config.data.sampling == data::SampleOrder::random_window;
  const nlohmann::json built = fact(loaded, "environment");
  // Windows whose gradients are averaged at a time; the rest of a sum over micro-batches is added.
  const int64_t saved_scale = saved.train.micro_batch * world_of(built);
  const int64_t scale = config.train.micro_batch * world_of(facts.at("environment"));
  std::vector<std::string> differences;
  auto compare = [&](const char* key, bool equal) {
    if (!equal) differences.emplace_back(key);
  };
  compare("model", saved.model == config.model);
  compare("run.seed", saved.run.seed == config.run.seed);
  compare("data.sampling", saved.data.sampling == config.data.sampling);
  compare("train.global_batch", saved.train.global_batch == config.train.global_batch);
  compare("train.accumulation", saved.train.accumulation == config.train.accumulation);
  compare("train.micro_batch", saved.train.micro_batch == config.train.micro_batch || !draws_decide);
  compare("train.micro_batch x ranks", saved_scale == scale || config.train.accumulation != Accumulation::sum);
  if (!differences.empty()) {
    fail(ExitCode::checkpoint,
         "{} was saved under another value of {}; a resumed run keeps these. Restore them, or choose another run.dir",
         loaded.path.string(), fmt::join(differences, ", "));
  }
  const nlohmann::json then = fact(loaded, "data"), here = facts.at("data");
  if (then != here) {
    fail(ExitCode::checkpoint,
         "{} was trained on other tokens than data.train names: {} then, {} now{}. Restore them, or choose another "
         "run.dir",
         loaded.path.string(), describe_data(then), describe_data(here),
         describe_data(then) == describe_data(here) ? ", in another order or with another content" : "");
  }
  if (const std::vector<std::string> changed = changed_keys(saved, config); !changed.empty()) {
    log::warn("the config differs from that of {}: {}", loaded.path.string(), fmt::join(changed, ", "));
  }
  std::vector<std::string> changed;
  for (const auto& [name, value] : facts.at("environment").items()) {
    const nlohmann::json before = built.value(name, nlohmann::json());
    if (!before.is_null() && before != value)
      changed.push_back(fmt::format("{}: {} -> {}", name, before.dump(), value.dump()));
  }
  if (!changed.empty()) {
    log::warn("{} was made elsewhere, so the run may differ in its last bits from one that had gone on there: {}",
              loaded.path.string(), fmt::join(changed, ", "));
  }
}

}  // namespace t6::train
