// The benches behind t6 bench, one file each.
#pragma once

#include "cli/command.h"

namespace t6::cli {

void add_bench_tokenizer(CLI::App& group, Context& context);
void add_bench_train(CLI::App& group, Context& context);
void add_bench_ops(CLI::App& group, Context& context);
void add_bench_decode(CLI::App& group, Context& context);
void add_bench_matmul(CLI::App& group, Context& context);

}  // namespace t6::cli
