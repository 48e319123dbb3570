#!/usr/bin/env python3
"""The table of bench/results/<card>.md out of the files in the report.tar.gz of scripts/gpu_check.sh run, unpacked in a folder.

    mkdir raw && tar -C raw -xzf out/gpu_report/report.tar.gz && bench/gpu_table.py raw

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


def attention(ours):
    """The kernels of forward and backward."""
    used = ours.get("attention", {})
    both = [used.get("forward") or "?", used.get("backward") or "?"]
    return both[0] if both[0] == both[1] else " / ".join(both)


def main():
    folder = pathlib.Path(sys.argv[1])
    print("| model | micro-batch | tokens/s | MFU, causal | full convention | peak memory | attention | of the ceiling | PyTorch compiled "
          "| t6 is |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for path in sorted(folder.glob("bench_*.json")):
        ours = load(path)
        if ours is None:
            continue
        name, _, variant = path.stem.removeprefix("bench_").partition(".")
        kind, size = name.rsplit("_", 1)
        peer = None if variant else load(folder / f"peer_{kind}_{size}.json")
        rate = ours["tokens_per_second"]
        ceiling = f"{rate / H100_CEILING[size][kind] / 10:.0f} %" if "H100" in ours.get("device_name", "") else ""
        label = f"{kind} {size}" + (", " + variant.replace("_", " ") if variant else "")
        cells = [label, str(ours["batch"]), f"{rate:,.0f}", f"{100 * ours['mfu_causal']:.1f} %", f"{100 * ours['mfu_full']:.1f} %",
                 f"{ours['peak_memory_bytes'] / 2**30:.1f} GiB", attention(ours), ceiling]
        if peer:
            eager = "" if peer.get("compiled") else " (not compiled)"
            cells += [f"{peer['tokens_per_second']:,.0f}{eager}", f"{rate / peer['tokens_per_second']:.2f} x"]
        else:
            cells += ["", ""]
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
