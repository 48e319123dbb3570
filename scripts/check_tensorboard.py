#!/usr/bin/env python3
"""Reads the TensorBoard files of run folders with TensorBoard's own reader and compares them with metrics.jsonl.

    pip install tensorboard
    scripts/check_tensorboard.py RUN...

Every train and validation line of metrics.jsonl must be in the event files with the same step and value (as a 32-bit
float), and nothing else: also after resumes, whose dropped points TensorBoard must not show. A text "config", when there is one, must be
resolved.yaml. Exit code 0: equal; 1: not; 2: usage; 77: the tensorboard package is not installed.
"""
import json
import math
import pathlib
import struct
import sys

TAGS = {"train": {"loss": "train/loss", "lr": "train/lr", "grad_norm": "train/grad_norm", "tokens": "train/tokens"},
        "validation": {"loss": "validation/loss"}}


def as_float32(value):
    return math.nan if value is None else struct.unpack("f", struct.pack("f", value))[0]


def same(a, b):
    return a == b or (not math.isfinite(a) and not math.isfinite(b))  # JSON has null for nan and the infinities


def check(run, event_accumulator, tensor_util):
    accumulator = event_accumulator.EventAccumulator(
        str(run / "tensorboard"), size_guidance={event_accumulator.SCALARS: 0, event_accumulator.TENSORS: 0})
    accumulator.Reload()
    expected = {}
    for line in (run / "metrics.jsonl").read_text().splitlines():
        entry = json.loads(line)
        for key, tag in TAGS.get(entry["kind"], {}).items():
            if key in entry:
                expected.setdefault(tag, []).append((entry["step"], as_float32(entry[key])))
    problems = []
    points = 0
    for tag in sorted({tag for tags in TAGS.values() for tag in tags.values()}):
        there = tag in accumulator.Tags()["scalars"]
        found = [(event.step, event.value) for event in accumulator.Scalars(tag)] if there else []
        wanted = expected.get(tag, [])
        points += len(wanted)
        if [step for step, _ in found] != [step for step, _ in wanted]:
            problems.append(f"{tag}: expected {len(wanted)} steps as in metrics.jsonl, got {len(found)}")
        problems += [f"{tag}: step {step}: expected {want}, got {got}"
                     for (step, want), (_, got) in zip(wanted, found) if not same(want, got)]
    if "config" in accumulator.Tags()["tensors"]:
        text = tensor_util.make_ndarray(accumulator.Tensors("config")[-1].tensor_proto).item().decode()
        if text != (run / "resolved.yaml").read_text():
            problems.append("config: the text is not that of resolved.yaml")
    if not points:
        problems.append("metrics.jsonl has no points to compare")
    for problem in problems[:20]:
        print(f"{run}: {problem}", file=sys.stderr)
    if not problems:
        files = len(list((run / "tensorboard").glob("events.out.tfevents.*")))
        print(f"{run}: {points} points in {files} event files, all as in metrics.jsonl")
    return not problems


def main():
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        print(__doc__, file=sys.stderr)
        return 2
    try:
        from tensorboard.backend.event_processing import event_accumulator
        from tensorboard.util import tensor_util
    except ImportError as error:
        print(f"the tensorboard package is needed: pip install tensorboard ({error})", file=sys.stderr)
        return 77
    return 0 if all([check(pathlib.Path(run), event_accumulator, tensor_util) for run in sys.argv[1:]]) else 1


if __name__ == "__main__":
    sys.exit(main())
