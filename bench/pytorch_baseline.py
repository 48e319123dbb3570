#!/usr/bin/env python3
"""One training step of a t6 model in PyTorch, timed: the peer that t6 is measured against.

The model is written as a PyTorch user would write it: nn.Linear, scaled_dot_product_attention, autocast, fused AdamW, optionally
torch.compile. Tokens are random; --accumulate N adds the gradients of N micro-batches up before one update, as `t6 bench train
--micro-steps N` does. Prints one JSON object. On a GPU nothing waits for it between the timed steps.

Compiled by blocks, all blocks share one graph and the head is another: minutes less to compile than the whole model at once
(--compile model), whose layers are written out one after the other.

    bench/pytorch_baseline.py --kind tpa --size small --precision bf16 --batch 4 --steps 3 --compile
"""
import argparse
import contextlib
import json
import math
import time

import torch
import torch.nn.functional as F
from torch import nn

VOCABULARY, HEAD, MLA_Q, MLA_KV, MLA_ROPE = 50304, 64, 512, 256, 32
SIZES = {"small": (12, 768), "medium": (24, 1024), "large": (36, 1280), "xl": (48, 1600), "tiny": (3, 64)}  # tiny: to try it
HEADS = {
    "mha": (12, 16, 20, 25, 2), "mqa": (23, 31, 39, 49, 2), "gqa": (22, 30, 38, 48, 4),
    "mla": (13, 23, 34, 49, 2), "tpa_kvonly": (22, 29, 37, 47, 2), "tpa": (34, 47, 61, 78, 4),
}


def linear(width_in, width_out):
    return nn.Linear(width_in, width_out, bias=False)


def rms_norm(x, eps=1.1920929e-07, weight=None):
    return F.rms_norm(x, (x.size(-1),), weight, eps)


def rope_table(context, width, device):
    angle = torch.outer(torch.arange(context), 10000.0 ** (-torch.arange(0, width, 2) / width)).to(device)
    return angle.cos()[None, :, None, :], angle.sin()[None, :, None, :]


def rope(x, table):
    cos, sin = (t[:, : x.size(1)].to(x.dtype) for t in table)
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos + b * sin, b * cos - a * sin), dim=-1)


class Attention(nn.Module):
    """All kinds: forward() differs in how q, k, v [B, T, heads, width] come about."""

    def __init__(self, kind, width, heads):
        super().__init__()
        self.kind, self.heads = kind, heads
        ranks = {"tpa": (6, 2, 2), "tpa_kvonly": (0, 2, 2)}.get(kind)
        if ranks:
            self.ranks = ranks
            query = [heads * ranks[0], ranks[0] * HEAD] if ranks[0] else [heads * HEAD]
            self.split = query + [heads * ranks[1], ranks[1] * HEAD, heads * ranks[2], ranks[2] * HEAD]
            self.factors = linear(width, sum(self.split))
        elif kind == "mla":
            self.q_a, self.q_b = linear(width, MLA_Q), linear(MLA_Q, heads * (HEAD + MLA_ROPE))
            self.kv_a, self.kv_b = linear(width, MLA_KV + MLA_ROPE), linear(MLA_KV, heads * 2 * HEAD)
            self.q_norm, self.kv_norm = nn.Parameter(torch.ones(MLA_Q)), nn.Parameter(torch.ones(MLA_KV))
        else:
            self.groups = {"mha": heads, "gqa": 2, "mqa": 1}[kind]
            self.split = [heads * HEAD, self.groups * HEAD, self.groups * HEAD]
            self.qkv = linear(width, sum(self.split))
        self.out = linear(heads * HEAD, width)

    def forward(self, n, table):
        batch, tokens, _ = n.shape
        heads = lambda x, count: x.view(batch, tokens, count, -1)
        if hasattr(self, "factors"):
            parts = list(self.factors(n).split(self.split, dim=-1))
            made = []
            for part, rank in enumerate(self.ranks):
                turn = (lambda x: rope(x, table)) if part < 2 else (lambda x: x)
                if rank == 0:
                    made.append(turn(heads(parts.pop(0), self.heads)))
                else:
                    a, b = heads(parts.pop(0), self.heads), turn(heads(parts.pop(0), rank))
                    made.append(torch.matmul(a, b) / rank)
            q, k, v = made
        elif self.kind == "mla":
            q = heads(self.q_b(rms_norm(self.q_a(n), 1e-6, self.q_norm)), self.heads)
            q_nope, q_rope = q.split((HEAD, MLA_ROPE), dim=-1)
            c, k_rope = self.kv_a(n).split((MLA_KV, MLA_ROPE), dim=-1)
            k_nope, v = heads(self.kv_b(rms_norm(c, 1e-6, self.kv_norm)), self.heads).chunk(2, dim=-1)
            k_rope = rope(heads(k_rope, 1), table).expand(-1, -1, self.heads, -1)
            q, k = torch.cat((q_nope, rope(q_rope, table)), -1), torch.cat((k_nope, k_rope), -1)
        else:
            q, k, v = self.qkv(n).split(self.split, dim=-1)
            q, k, v = rope(heads(q, self.heads), table), rope(heads(k, self.groups), table), heads(v, self.groups)
        grouped = q.size(2) != k.size(2)
        o = F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True, enable_gqa=grouped)
        return self.out(o.transpose(1, 2).reshape(batch, tokens, -1))


class Block(nn.Module):
    def __init__(self, kind, width, heads):
        super().__init__()
        self.attention = Attention(kind, width, heads)
        inner = 8 * width // 3
        self.gate, self.up, self.down = linear(width, inner), linear(width, inner), linear(inner, width)

    def forward(self, x, table):
        x = x + self.attention(rms_norm(x), table)
        n = rms_norm(x)
        return x + self.down(F.silu(self.gate(n)) * self.up(n))


class Model(nn.Module):
    def __init__(self, kind, size, context, device):
        super().__init__()
        layers, width = SIZES[size]
        heads = HEADS[kind][list(SIZES).index(size)]
        self.wte = nn.Embedding(VOCABULARY, width)
        nn.init.uniform_(self.wte.weight, -1 / math.sqrt(width), 1 / math.sqrt(width))
        self.blocks = nn.ModuleList(Block(kind, width, heads) for _ in range(layers))
        self.table = rope_table(context, MLA_ROPE if kind == "mla" else HEAD, device)

    def head(self, x, targets):
        logits = F.linear(rms_norm(x), self.wte.weight)
        return F.cross_entropy(logits.view(-1, VOCABULARY).float(), targets.view(-1))

    def forward(self, tokens, targets):
        x = self.wte(tokens)
        for block in self.blocks:
            x = block(x, self.table)
        return self.head(x, targets)

    def compile_blocks(self):
        for block in self.blocks:
            block.compile()
        self.head = torch.compile(self.head)


def now(on_gpu):
    if not on_gpu:
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=HEADS, default="tpa")
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=("f32", "bf16"), default="f32")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--accumulate", type=int, default=1, help="micro-batches a step, with one update")
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: PyTorch's choice")
    parser.add_argument("--compile", nargs="?", const="blocks", choices=("blocks", "model"), help="by blocks unless told otherwise")
    args = parser.parse_args()
    if args.accumulate < 1:
        parser.error(f"--accumulate: expected 1 or more, got {args.accumulate}")
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    on_gpu = args.device.startswith("cuda")
    model = Model(args.kind, args.size, args.context, args.device).to(args.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    run = torch.compile(model) if args.compile == "model" else model
    if args.compile == "blocks":
        model.compile_blocks()
    tokens, targets = (torch.randint(VOCABULARY, (args.batch, args.context), device=args.device) for _ in range(2))
    low = args.precision == "bf16"
    precision = lambda: torch.autocast(args.device.split(":")[0], torch.bfloat16) if low else contextlib.nullcontext()

    def step():
        for _ in range(args.accumulate):
            with precision():
                loss = run(tokens, targets)
            (loss / args.accumulate).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    began = time.perf_counter()
    for _ in range(args.warmup):
        loss = step()
    ends = [now(on_gpu)]
    if on_gpu:
        torch.cuda.synchronize()
    begin = time.perf_counter()
    warmup_seconds = begin - began
    for _ in range(args.steps):
        loss = step()
        ends.append(now(on_gpu))
    if on_gpu:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - begin
    # On a GPU by events, which do not hold it up.
    each = [a.elapsed_time(b) if on_gpu else 1000 * (b - a) for a, b in zip(ends, ends[1:])]
    tokens_per_step = args.accumulate * args.batch * args.context
    print(json.dumps({
        "framework": "PyTorch " + torch.__version__ + (" compiled" if args.compile else " eager"),
        "compiled": args.compile, "warmup_seconds": warmup_seconds,
        "kind": args.kind, "size": args.size, "precision": args.precision, "device": args.device,
        "threads": torch.get_num_threads(), "batch": args.batch, "micro_steps": args.accumulate,
        "context": args.context,
        "parameters": sum(p.numel() for p in model.parameters()), "loss": loss.item(),
        "ms_per_step": 1000 * seconds / args.steps, "best_ms_per_step": min(each),
        "tokens_per_second": tokens_per_step * args.steps / seconds,
        "peak_memory_bytes": torch.cuda.max_memory_allocated() if on_gpu else None,
    }))


if __name__ == "__main__":
    main()
