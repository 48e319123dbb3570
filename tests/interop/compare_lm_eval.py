#!/usr/bin/env python3
"""Scores of an exported model by lm-evaluation-harness, beside those of t6 eval --tasks of the run it was exported
from. scripts/compare_lm_eval.sh runs it."""
import argparse
import json
import os
import pathlib
import sys

from make_models import KINDS, Maker

os.environ.update(HF_DATASETS_OFFLINE="1", HF_HUB_OFFLINE="1", HF_EVALUATE_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

# Task of t6: the harness's own definition, below lm_eval/tasks, and the names that its file may have.
TASKS = {
    "arc_easy": ("arc/arc_easy.yaml", ["arc_easy", "ARC-Easy"]),
    "arc_challenge": ("arc/arc_challenge.yaml", ["arc_challenge", "ARC-Challenge"]),
    "openbookqa": ("openbookqa/openbookqa.yaml", ["openbookqa", "openbook_qa"]),
    "piqa": ("piqa/piqa.yaml", ["piqa"]),
    "winogrande": ("winogrande/default.yaml", ["winogrande"]),
    "lambada": ("lambada/lambada_openai.yaml", ["lambada", "lambada_openai"]),
}
LETTERS = "ABCDEFGH"


def row_of(task, row):
    """A row as the data set has it, of llm-foundry's form (query, choices, gold), or as it is."""
    if task == "lambada" and "continuation" in row:
        return {"text": row["context"] + " " + row["continuation"]}
    if task == "winogrande" and "context_options" in row:
        first, second = row["context_options"]
        start = len(os.path.commonprefix([first, second]))
        start = first.rfind(" ", 0, start) + 1
        sentence, answer = first[:start] + "_ " + row["continuation"], str(row["gold"] + 1)
        return {"sentence": sentence, "option1": first[start:], "option2": second[start:], "answer": answer}
    if "query" not in row:
        return row
    question = row["query"].removeprefix("Question: ").removesuffix("\n")
    if task == "piqa":
        return {"goal": question, "sol1": row["choices"][0], "sol2": row["choices"][1], "label": row["gold"]}
    labels = list(LETTERS[: len(row["choices"])])
    stem = "question_stem" if task == "openbookqa" else "question"
    return {stem: question, "choices": {"text": row["choices"], "label": labels}, "answerKey": labels[row["gold"]]}


def prepare(task, data, limit, out):
    """The first rows of the task's file, for both; and the harness's definition, with that file for its download."""
    import lm_eval
    import yaml

    definition, names = TASKS[task]
    found = [data / f"{name}.jsonl" for name in names if (data / f"{name}.jsonl").exists()]
    if not found:
        raise SystemExit(f"{data}: no {' or '.join(name + '.jsonl' for name in names)}")
    lines = [line for line in found[0].read_text().split("\n") if line.strip()][:limit]
    (out / f"{task}.jsonl").write_text("".join(json.dumps(row_of(task, json.loads(line))) + "\n" for line in lines))
    original = pathlib.Path(lm_eval.__file__).parent / "tasks" / definition
    ours = {
        "include": str(original),
        "task": f"local_{task}",
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {"test": str(out / f"{task}.jsonl")}},
        "training_split": None,
        "validation_split": None,
        "test_split": "test",
        "fewshot_split": None,
    }
    (out / f"local_{task}.yaml").write_text(yaml.safe_dump(ours))
    return len(lines)


def make_run(maker):
    """A small model that has seen a little text, with a context that holds the items."""
    maker.data()
    model = dict(KINDS["tpa"], layers=3, width=96, context=1024)
    return maker.train("scored", model, train={"steps": 60, "global_batch": 2, "micro_batch": 2})


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--t6", required=True)
    parser.add_argument("--run", type=pathlib.Path)
    parser.add_argument("--data", required=True, type=pathlib.Path)
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--tasks", default="arc_easy,openbookqa,piqa,winogrande,lambada")
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--bound", type=float, default=0.1, help="points between the two at most")
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    tasks = arguments.tasks.split(",")
    # Paths in a run's config, as that of its tokenizer, are of the folder it was started from.
    maker = Maker(arguments.t6, pathlib.Path.cwd() if arguments.run else out)
    run = arguments.run or make_run(maker)
    maker.t6("export", run, "--out", out / "export", "--quiet")
    items = {task: prepare(task, arguments.data, arguments.limit, out) for task in tasks}

    printed = maker.t6("eval", run, "--tasks", ",".join(tasks), "--data", out, "--device", "cpu", "--json")
    ours = json.loads(printed)["tasks"]

    import lm_eval
    import torch
    from lm_eval.tasks import TaskManager

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count())))
    manager = TaskManager(include_path=str(out), include_defaults=False)
    found = lm_eval.simple_evaluate(
        model="hf",
        model_args=f"pretrained={out / 'export'},trust_remote_code=True,dtype=float32",
        tasks=[f"local_{task}" for task in tasks],
        task_manager=manager,
        batch_size=8,
        device="cpu",
        bootstrap_iters=0,
    )["results"]

    worst, missing = 0, []
    print(f"{'task':<14}{'items':>6}  {'metric':<11}{'t6':>12}{'lm_eval':>12}{'difference':>12}")
    for task in tasks:
        theirs, compared = found[f"local_{task}"], []
        for metric, scale in (("acc", 100), ("acc_norm", 100), ("perplexity", 1)):
            if f"{metric},none" not in theirs or ours[task].get(metric) is None:
                continue
            a, b = ours[task][metric] * scale, theirs[f"{metric},none"] * scale
            if scale == 100:
                worst = max(worst, abs(a - b))
            compared.append(metric)
            print(f"{task:<14}{items[task]:>6}  {metric:<11}{a:>12.6g}{b:>12.6g}{a - b:>12.3g}")
        if "acc" not in compared:
            missing.append(task)
    if missing:
        print(f"FAILED: no acc of both to compare: {', '.join(missing)}")
    print(f"largest difference of acc and acc_norm: {worst:.3f} points (at most {arguments.bound} wanted)")
    return 0 if worst <= arguments.bound and not missing else 1


if __name__ == "__main__":
    sys.exit(main())
