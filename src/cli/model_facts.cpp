#include "cli/model_facts.h"

#include "base/format.h"
#include "train/memory_advice.h"

namespace t6::cli {

ModelFacts model_facts(const RunConfig& config, std::string name, Device device, int64_t world) {
  const Transformer model(config.model);
  return {.name = std::move(name),
          .model = config.model,
          .counts = count(model),
          .memory = estimate_memory(model, train::memory_options(config, device, world)),
          .micro_batch = config.train.micro_batch,
          .precision = config.train.precision};
}

std::vector<std::pair<std::string, std::string>> describe(const ModelFacts& facts) {
  const ModelCounts& counts = facts.counts;
  const ModelConfig& model = facts.model;
  const auto of_flops = [](double flops) { return fmt::format("{:.1f} MFLOP", flops / 1e6); };
  const auto memory = [](int64_t bytes) { return format_memory(static_cast<uint64_t>(bytes)); };
  const auto grouped = [](int64_t value) { return format_grouped(static_cast<uint64_t>(value)); };
  std::vector<std::pair<std::string, std::string>> lines{
      {"attention", fmt::format("{}, {} layers, width {}, {} heads of {}", model.kind_name(), model.layers, model.width,
                                model.heads, model.head_width)},
      {"parameters", fmt::format("{} ({} of them in matrix products)", grouped(counts.parameters),
                                 grouped(counts.matmul_parameters))},
      {"FLOPs a token", fmt::format("{} to train, causal attention counted once", of_flops(counts.flops_causal))},
      {"", fmt::format("{} in the full-attention convention", of_flops(counts.flops_full))}};
  if (counts.flops_contraction > 0) {
    lines.emplace_back("", fmt::format("{} more make q, k, v from their factors, counted in neither",
                                       of_flops(counts.flops_contraction)));
  }
  lines.emplace_back("cache a token",
                     fmt::format("{} bytes in bf16 ({} numbers in each of {} layers); {} for {} tokens",
                                 grouped(facts.cache_bytes_per_token()), counts.cache_numbers / model.layers,
                                 model.layers, memory(facts.cache_bytes_per_token() * model.context), model.context));
  const MemoryEstimate& needed = facts.memory;
  lines.emplace_back(
      "memory", fmt::format("about {} to train: {} for weights, gradients and optimizer, {} for "
                            "activations of {} x {} tokens in {}",
                            memory(needed.total()), memory(needed.parameters), memory(needed.activations),
                            facts.micro_batch, model.context, facts.precision == Precision::bf16 ? "bf16" : "f32"));
  if (needed.held > 0) {
    lines.emplace_back("", fmt::format("of it {} for gradients that train.reduction=tree keeps", memory(needed.held)));
  }
  if (needed.save_copy > 0) {
    lines.emplace_back(
        "", fmt::format("{} {} for the copy that checkpoint.async writes",
                        needed.device.is_cpu() ? "of it" : "and of the host's memory", memory(needed.save_copy)));
  }
  if (needed.workspace > 0) {
    lines.emplace_back("", fmt::format("of it {} that products and attention work in; {} more for driver and graph",
                                       memory(needed.workspace), memory(needed.beside)));
  }
  return lines;
}

nlohmann::ordered_json to_json(const ModelFacts& facts) {
  const ModelCounts& counts = facts.counts;
  return {{"config", facts.name},
          {"attention", facts.model.kind_name()},
          {"layers", facts.model.layers},
          {"width", facts.model.width},
          {"heads", facts.model.heads},
          {"head_width", facts.model.head_width},
          {"context", facts.model.context},
          {"vocab_size", facts.model.vocab_size},
          {"parameters", counts.parameters},
          {"matmul_parameters", counts.matmul_parameters},
          {"flops_per_token_causal", counts.flops_causal},
          {"flops_per_token_full", counts.flops_full},
          {"flops_per_token_contraction", counts.flops_contraction},
          {"cache_numbers_per_token", counts.cache_numbers},
          {"cache_bytes_per_token_bf16", facts.cache_bytes_per_token()},
          {"training_memory_bytes",
           {{"micro_batch", facts.micro_batch},
            {"parameters", facts.memory.parameters},
            {"held_gradients", facts.memory.held},
            {"save_copy", facts.memory.save_copy},
            {"activations", facts.memory.activations},
            {"workspace", facts.memory.workspace},
            {"beside", facts.memory.beside}}}};
}

}  // namespace t6::cli
