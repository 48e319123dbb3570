"""Items of downstream tasks as their data sets have them, out of the files that docs/scores.md names."""
import bz2
import json
import os

# The names that a task's file may have.
NAMES = {
    "arc_easy": ["arc_easy", "ARC-Easy"],
    "arc_challenge": ["arc_challenge", "ARC-Challenge"],
    "boolq": ["boolq"],
    "hellaswag": ["hellaswag", "hellaswag_val_full"],
    "openbookqa": ["openbookqa", "openbook_qa"],
    "piqa": ["piqa"],
    "winogrande": ["winogrande"],
    "sciq": ["sciq"],
    "mmlu": ["mmlu"],
    "lambada": ["lambada", "lambada_openai"],
}
LETTERS = "ABCDEFGH"


def dataset_row(task, row):
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
    if task == "boolq":
        passage, _, question = row["query"].removeprefix("Passage: ").rpartition("\nQuestion: ")
        return {"passage": passage, "question": question.removesuffix("?"), "label": row["gold"]}
    question = row["query"].removeprefix("Question: ").removesuffix("\n")
    if task == "piqa":
        return {"goal": question, "sol1": row["choices"][0], "sol2": row["choices"][1], "label": row["gold"]}
    labels = list(LETTERS[: len(row["choices"])])
    stem = "question_stem" if task == "openbookqa" else "question"
    return {stem: question, "choices": {"text": row["choices"], "label": labels}, "answerKey": labels[row["gold"]]}


def hellaswag_rows(text):
    """Six lines an item, context, label and endings; its last sentence, of which the harness makes the first letter
    large, is ctx_b."""
    lines, rows = text.rstrip().split("\n"), []
    for i in range(0, len(lines), 6):
        activity, _, context = lines[i].partition(": ")
        first, end, second = context.rpartition(". ")
        rows.append({"activity_label": activity, "ctx_a": first + end.rstrip(), "ctx_b": second,
                     "endings": lines[i + 2 : i + 6], "label": lines[i + 1]})
    return rows


def stand_ins(task, data):
    """Rows of sciq and mmlu out of ARC's questions: of their form, with other words."""
    rows, before = [], ""
    for row in rows_of("arc_easy" if task == "sciq" else "arc_challenge", data):
        texts, gold = row["choices"]["text"], row["choices"]["label"].index(row["answerKey"])
        if len(texts) != 4:
            continue
        if task == "sciq":
            wrong = {f"distractor{i + 1}": text for i, text in enumerate(texts[:gold] + texts[gold + 1 :])}
            rows.append({"question": row["question"], "support": before, "correct_answer": texts[gold], **wrong})
            before = " " + row["question"]
        else:
            subject = ("astronomy", "high_school_biology")[len(rows) % 2]
            rows.append({"question": row["question"], "subject": subject, "choices": texts, "answer": gold})
    return rows


def rows_of(task, data):
    """All items of the task in the folder `data`."""
    for name in NAMES[task]:
        if (data / f"{name}.jsonl").exists():
            lines = (data / f"{name}.jsonl").read_text().split("\n")
            return [dataset_row(task, json.loads(line)) for line in lines if line.strip()]
        if task == "hellaswag" and (data / f"{name}.txt").exists():
            return hellaswag_rows((data / f"{name}.txt").read_text())
        if task == "hellaswag" and (data / f"{name}.txt.bz2").exists():
            return hellaswag_rows(bz2.decompress((data / f"{name}.txt.bz2").read_bytes()).decode())
    if task in ("sciq", "mmlu"):
        return stand_ins(task, data)
    raise SystemExit(f"{data}: no {' or '.join(name + '.jsonl' for name in NAMES[task])}")


def answered(task, row):
    """A question and its answer, about as it is asked: what a model can learn it from."""
    if task in ("arc_easy", "arc_challenge", "openbookqa"):
        answer = row["choices"]["text"][row["choices"]["label"].index(row["answerKey"])]
        return f"{row['question_stem']} {answer}" if task == "openbookqa" else f"Question: {row['question']}\nAnswer: {answer}"
    if task == "boolq":
        return f"{row['passage']}\nQuestion: {row['question']}?\nAnswer: {('no', 'yes')[row['label']]}"
    if task == "hellaswag":
        context = f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}"
        return f"{context} {row['endings'][int(row['label'])]}"
    if task == "piqa":
        return f"Question: {row['goal']}\nAnswer: {row[('sol1', 'sol2')[row['label']]]}"
    if task == "winogrande":
        return row["sentence"].replace("_", row["option" + row["answer"]])
    if task == "sciq":
        return f"{row['support'].lstrip()}\nQuestion: {row['question']}\nAnswer: {row['correct_answer']}"
    if task == "mmlu":
        choices = "".join(f"\n{letter}. {text}" for letter, text in zip(LETTERS, row["choices"]))
        return f"{row['question'].strip()}{choices}\nAnswer: {LETTERS[row['answer']]}"
    return row["text"]
