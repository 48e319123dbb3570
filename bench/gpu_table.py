#!/usr/bin/env python3
"""The table of bench/results/<card>.md out of the files that scripts/gpu_check.sh run leaves in a folder.

    bench/gpu_table.py out/gpu_report

The ceiling of a configuration is what its floors add up to on the card: products at 0.9 of the rate measured on a large one,
attention at 285 (forward) and 265 (backward) TFLOP/s, element-wise work at the memory's measured rate, nothing overlapped. The
numbers are those computed for an H100 (790 TFLOP/s, 3.0 TB/s); on another card the column is left empty.
"""
import json
import pathlib
import sys

# Thousand tokens a second.
H100_CEILING = {
    "small": {"mha": 609, "tpa": 474, "tpa_kvonly": 534, "mqa": 545, "gqa": 551, "mla": 572},
    "medium": {"mha": 223, "tpa": 173, "tpa_kvonly": 198, "mqa": 200, "gqa": 201, "mla": 190},
    "large": {"mha": 107, "tpa": 84, "tpa_kvonly": 95, "mqa": 97, "gqa": 97, "mla": 95},
    "xl": {"mha": 55.5, "tpa": 44.1, "tpa_kvonly": 49.4, "mqa": 50.1, "gqa": 50.3, "mla": 48},
}


def load(path):
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def main():
    folder = pathlib.Path(sys.argv[1])
    on_h100 = "H100" in (folder / "report.md").read_text().splitlines()[0]
    print("| model | micro-batch | tokens/s | MFU, causal | full convention | peak memory | of the ceiling | PyTorch compiled | t6 is |")
    print("|---|---|---|---|---|---|---|---|---|")
    for path in sorted(folder.glob("bench_*.json")):
        ours = load(path)
        if ours is None:
            continue
        kind, size = path.stem.removeprefix("bench_").rsplit("_", 1)
        peer = load(folder / f"peer_{kind}_{size}.json")
        rate = ours["tokens_per_second"]
        ceiling = f"{rate / H100_CEILING[size][kind] / 10:.0f} %" if on_h100 else ""
        print(f"| {kind} {size} | {ours['batch']} | {rate:,.0f} | {100 * ours['mfu_causal']:.1f} % | {100 * ours['mfu_full']:.1f} % "
              f"| {ours['peak_memory_bytes'] / 2**30:.1f} GiB | {ceiling} "
              f"| {peer['tokens_per_second']:,.0f} | {rate / peer['tokens_per_second']:.2f} x |" if peer else
              f"| {kind} {size} | {ours['batch']} | {rate:,.0f} | {100 * ours['mfu_causal']:.1f} % | {100 * ours['mfu_full']:.1f} % "
              f"| {ours['peak_memory_bytes'] / 2**30:.1f} GiB | {ceiling} | | |")


if __name__ == "__main__":
    main()
