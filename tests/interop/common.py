"""What the tests share: where the models of make_models.py lie, and how they are loaded."""
import functools
import json
import os
import pathlib
import subprocess
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

torch.set_num_threads(1)
transformers.utils.logging.disable_progress_bar()

SOURCE = pathlib.Path(__file__).resolve().parents[2]
WORK = pathlib.Path(os.environ["T6_INTEROP_MODELS"])
PROGRAM = os.environ["T6_PROGRAM"]
FACTS = json.loads((WORK / "models.json").read_text())
IDS = FACTS["ids"]
T6_KINDS = ("tpa", "tpa_kvonly")
EXPORTS = [(name, export) for name, model in FACTS["models"].items() for export in model["exports"]]
VERSION = tuple(int(part) for part in transformers.__version__.split(".")[:2])


@functools.lru_cache(maxsize=None)
def load(name, export):
    """In f32: weights of bf16 as they are."""
    folder = WORK / name / export
    return AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, torch_dtype=torch.float32).eval()


def tokenizer(name, export="hf"):
    # transformers 5 asks before it reads a tokenizer beside a config with code.
    return AutoTokenizer.from_pretrained(WORK / name / export, trust_remote_code=True)


def logits_of_t6(path):
    return load_file(WORK / path)["logits"]


def t6(*arguments):
    done = subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True)
    assert done.returncode == 0, f"t6 {' '.join(map(str, arguments))}\n{done.stderr.decode()}"


def note(text):
    """A measured figure, beside the names of the tests."""
    print(text, file=sys.stderr, end="  ")
