#!/usr/bin/env python3
"""Scores of an exported model by lm-evaluation-harness, beside those of t6 eval --tasks of the run it was exported
from. scripts/compare_lm_eval.sh runs it."""
import argparse
import json
import os
import pathlib
import sys

from make_models import KINDS, Maker
from task_rows import NAMES, answered, rows_of

os.environ.update(HF_DATASETS_OFFLINE="1", HF_HUB_OFFLINE="1", HF_EVALUATE_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

# Task of t6: the harness's own definition, below lm_eval/tasks.
DEFINITIONS = {
    "arc_easy": "arc/arc_easy.yaml",
    "arc_challenge": "arc/arc_challenge.yaml",
    "boolq": "super_glue/boolq/default.yaml",
    "hellaswag": "hellaswag/hellaswag.yaml",
    "openbookqa": "openbookqa/openbookqa.yaml",
    "piqa": "piqa/piqa.yaml",
    "winogrande": "winogrande/default.yaml",
    "sciq": "sciq/sciq.yaml",
    "mmlu": "mmlu/default/mmlu_{}.yaml",  # of each subject
    "lambada": "lambada/lambada_openai.yaml",
}


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def define(name, original, files, out):
    """The harness's definition with files of ours for its download."""
    import lm_eval
    import yaml

    ours = {
        "include": str(pathlib.Path(lm_eval.__file__).parent / "tasks" / original),
        "task": name,
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": files},
        "training_split": None,
        "validation_split": None,
        "test_split": "test",
        "fewshot_split": "examples" if "examples" in files else None,
    }
    (out / f"{name}.yaml").write_text(yaml.safe_dump(ours))


def prepare(task, rows, limit, shots, out):
    """The first rows in a file for t6 and in files for the harness. Returns the latter's tasks, with their numbers of
    items, and the rows.

    Examples are drawn by other random numbers in both, but for mmlu, which takes the first ones; so those of other
    tasks are one row, as often as examples are asked for, and however they are drawn the prompt is the same."""
    rows, last = rows[: min(limit, len(rows) - 1)], rows[-1]
    write_rows(out / f"{task}.jsonl", rows)
    if task != "mmlu":
        files = {"test": str(out / f"{task}.jsonl")}
        if shots > 0:
            files["examples"] = write_rows(out / f"{task}_train.jsonl", [last] * shots)
        define(f"local_{task}", DEFINITIONS[task], files, out)
        return {f"local_{task}": len(rows)}, rows
    subjects = sorted({row["subject"] for row in rows})
    examples = {subject: [row for row in rows if row["subject"] == subject][-shots:] for subject in subjects}
    if shots > 0:
        rows = [row for row in rows if row not in examples[row["subject"]]]
        write_rows(out / "mmlu.jsonl", rows)
        write_rows(out / "mmlu_dev.jsonl", [row for subject in subjects for row in examples[subject]])
    parts = {}
    for subject in subjects:
        own = [row for row in rows if row["subject"] == subject]
        files = {"test": write_rows(out / f"mmlu_of_{subject}.jsonl", own)}
        if shots > 0:
            files["examples"] = write_rows(out / f"mmlu_examples_of_{subject}.jsonl", examples[subject])
        define(f"local_mmlu_{subject}", DEFINITIONS[task].format(subject), files, out)
        parts[f"local_mmlu_{subject}"] = len(own)
    return parts, rows


def make_run(maker, texts, steps):
    """A small model that has seen the questions with their answers a few times, so that it knows some, with a context
    that holds them."""
    corpus = maker.folder / "seen.jsonl"
    write_rows(corpus, [{"text": text} for text in texts])
    maker.t6("tokenizer", "train", "--input", corpus, "--vocab", 2048, "--out", "tokenizer.tiktoken")
    maker.t6("tokenize", "--tokenizer", "tokenizer.tiktoken", "--out", "data/mix", "--val-tokens", 0, corpus)
    model = dict(KINDS["tpa"], layers=3, width=96, context=1024, vocab_size=2056)
    return maker.train("scored", model, run={"dir": "scored/run", "device": "cpu"},
                       train={"steps": steps, "global_batch": 4, "micro_batch": 4},
                       schedule={"warmup_steps": steps // 10})


def of_all(found, parts, metric):
    """The mean of a metric over all items; None where there is no such metric."""
    if any(f"{metric},none" not in found[part] for part in parts):
        return None
    return sum(found[part][f"{metric},none"] * items for part, items in parts.items()) / sum(parts.values())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--t6", required=True)
    parser.add_argument("--run", type=pathlib.Path)
    parser.add_argument("--data", required=True, type=pathlib.Path)
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--tasks", default=",".join(NAMES))
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--shots", type=int, default=0)
    parser.add_argument("--steps", type=int, default=300, help="of the model that is made without --run")
    parser.add_argument("--bound", type=float, default=0.1, help="points between the two at most")
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    tasks = arguments.tasks.split(",")
    if unknown := [task for task in tasks if task not in NAMES]:
        raise SystemExit(f"--tasks: expected names out of {', '.join(NAMES)}, got {', '.join(unknown)}")
    prepared = {task: prepare(task, rows_of(task, arguments.data), arguments.limit, arguments.shots, out)
                for task in tasks}
    parts = {task: tasks_of_harness for task, (tasks_of_harness, _) in prepared.items()}
    # Paths in a run's config, as that of its tokenizer, are of the folder it was started from.
    maker = Maker(arguments.t6, pathlib.Path.cwd() if arguments.run else out)
    run = arguments.run or make_run(maker, [answered(task, row) for task, (_, rows) in prepared.items() for row in rows],
                                    arguments.steps)
    maker.t6("export", run, "--out", out / "export", "--quiet")

    printed = maker.t6("eval", run, "--tasks", arguments.tasks, "--data", out, "--device", "cpu", "--json",
                       "--shots", arguments.shots)
    ours = json.loads(printed)["tasks"]

    import lm_eval
    import torch
    from lm_eval.tasks import TaskManager

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count())))
    manager = TaskManager(include_path=str(out), include_defaults=False)
    found = lm_eval.simple_evaluate(
        model="hf",
        model_args=f"pretrained={out / 'export'},trust_remote_code=True,dtype=float32",
        tasks=[name for part in parts.values() for name in part],
        task_manager=manager,
        num_fewshot=arguments.shots,
        batch_size=8,
        device="cpu",
        bootstrap_iters=0,
    )["results"]

    worst, missing = 0, []
    print(f"{'task':<14}{'items':>6}  {'metric':<11}{'t6':>12}{'lm_eval':>12}{'difference':>12}")
    for task in tasks:
        compared, items = [], sum(parts[task].values())
        for metric, scale in (("acc", 100), ("acc_norm", 100), ("perplexity", 1)):
            theirs = of_all(found, parts[task], metric)
            if theirs is None or ours[task].get(metric) is None:
                continue
            a, b = ours[task][metric] * scale, theirs * scale
            if scale == 100:
                worst = max(worst, abs(a - b))
            compared.append(metric)
            print(f"{task:<14}{items:>6}  {metric:<11}{a:>12.6g}{b:>12.6g}{a - b:>12.3g}")
        if "acc" not in compared or items != ours[task]["items"]:
            missing.append(task)
    if missing:
        print(f"FAILED: no acc of the same items of both to compare: {', '.join(missing)}")
    print(f"largest difference of acc and acc_norm: {worst:.3f} points (at most {arguments.bound} wanted)")
    return 0 if worst <= arguments.bound and not missing else 1


if __name__ == "__main__":
    sys.exit(main())
