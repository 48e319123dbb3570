#!/usr/bin/env python3
"""The table of bench/results/<card>.md out of the files in the report.tar.gz of scripts/gpu_check.sh run, unpacked in a folder.

    mkdir raw && tar -C raw -xzf out/gpu_report/report.tar.gz && bench/gpu_table.py raw

The ceiling of a configuration is what its floors add up to, nothing overlapped, by the rates that rates.json has for this card:
products at 0.9 of the rate measured on a large one; attention at cuDNN's class, which on an H100 does 285 (forward) and 265
(backward) TFLOP/s where a large product does 790, and the same shares of it elsewhere; element-wise work, perfectly fused, and the
optimizer at the rate measured in copies of memory. For an H100 SXM a column beside it has the share of the ceilings as
published, which this formula gives within 2.5 % at 790 TFLOP/s and 3.0 TB/s.
"""
import json
import pathlib
import sys

# Thousand tokens a second, on an H100 SXM, with the accumulation of the published runs.
H100_SXM_CEILING = {
    "small": {"mha": 609, "tpa": 474, "tpa_kvonly": 534, "mqa": 545, "gqa": 551, "mla": 572},
    "medium": {"mha": 223, "tpa": 173, "tpa_kvonly": 198, "mqa": 200, "gqa": 201, "mla": 190},
    "large": {"mha": 107, "tpa": 84, "tpa_kvonly": 95, "mqa": 97, "gqa": 97, "mla": 95},
    "xl": {"mha": 55.5, "tpa": 44.1, "tpa_kvonly": 49.4, "mqa": 50.1, "gqa": 50.3, "mla": 48},
}
# Of memory's estimate beside the peak.
MEMORY_TOLERANCE = 0.10


def load(path):
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def attention(ours):
    """The kernels of forward and backward."""
    used = ours.get("attention", {})
    both = [used.get("forward") or "?", used.get("backward") or "?"]
    return both[0] if both[0] == both[1] else " / ".join(both)


def ceiling(ours, rates):
    """Tokens a second; None without rates."""
    if not rates or not rates.get("measured_gflops") or not rates.get("measured_gigabytes_per_second"):
        return None
    product = 1e9 * rates["measured_gflops"]
    model = ours["model"]
    layers, width, inner = model["layers"], model["width"], 8 * model["width"] // 3
    products = 6 * model["matmul_parameters"]
    attention_flops = model["flops_per_token_causal"] - products
    # Bytes a token: in a layer two residual sums with their norms, forward and backward (52 a number), SwiGLU (18), and, where
    # heads are made from others, reading and writing q, k, v once each way (10); the logits twice each way in bf16.
    heads = 10 * model["heads"] * model["head_width"] if model["attention"] in ("tpa", "tpa_kvonly", "mla") else 0
    moved = layers * (52 * width + 18 * inner + heads) + 4 * model["vocab_size"]
    # A parameter once a step: norm, AdamW on masters and moments, the bf16 copy, zeroing the gradient.
    moved += 38 * model["parameters"] / (ours["batch"] * ours["micro_steps"] * ours["context"])
    seconds = products / (0.9 * product)
    seconds += attention_flops / 3 / (285 / 790 * product) + attention_flops * 2 / 3 / (265 / 790 * product)
    seconds += moved / (1e9 * rates["measured_gigabytes_per_second"])
    return 1 / seconds


def is_h100_sxm(name):
    return "H100" in name and not any(other in name for other in ("PCIe", "NVL", "MIG"))


def gib(number):
    return f"{number / 2**30:.1f} GiB"


def memory(ours):
    """Peak of tensors, the estimate of it, and what the driver reserved for them."""
    peak, estimate = ours["peak_memory_bytes"], ours["estimated_memory_bytes"]
    error = estimate / peak - 1
    mark = "**" if abs(error) > MEMORY_TOLERANCE else ""
    reserved = ours.get("reserved_memory_bytes")
    return [gib(peak), f"{mark}{gib(estimate)} ({100 * error:+.0f} %){mark}", gib(reserved) if reserved else ""]


def compiled(peer):
    """How PyTorch was compiled."""
    return {"model": "as a whole", "blocks": "by blocks"}.get(peer.get("compiled"), "not")


def main():
    folder = pathlib.Path(sys.argv[1])
    rates = load(folder / "rates.json")
    columns = ["model", "micro-batch", "micro-steps", "tokens/s", "MFU, causal", "full convention", "peak of tensors", "estimated",
               "reserved", "attention", "of the ceiling", "of an H100 SXM's", "PyTorch", "compiled", "t6 is"]
    print("| " + " | ".join(columns) + " |")
    print("|---" * len(columns) + "|")
    for path in sorted(folder.glob("bench_*.json")):
        ours = load(path)
        if ours is None:
            continue
        name, _, variant = path.stem.removeprefix("bench_").partition(".")
        kind, size = name.rsplit("_", 1)
        peer = None if variant else load(folder / f"peer_{kind}_{size}.json")
        rate, most = ours["tokens_per_second"], ceiling(ours, rates)
        label = f"{kind} {size}" + (", " + variant.replace("_", " ") if variant else "")
        published = H100_SXM_CEILING[size][kind] * 1000 if is_h100_sxm(ours.get("device_name", "")) else None
        cells = [label, str(ours["batch"]), str(ours["micro_steps"]), f"{rate:,.0f}", f"{100 * ours['mfu_causal']:.1f} %",
                 f"{100 * ours['mfu_full']:.1f} %", *memory(ours), attention(ours)]
        cells += [f"{100 * rate / bound:.0f} %" if bound else "" for bound in (most, published)]
        if peer:
            cells += [f"{peer['tokens_per_second']:,.0f}", compiled(peer), f"{rate / peer['tokens_per_second']:.2f} x"]
        else:
            cells += ["", "", ""]
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
