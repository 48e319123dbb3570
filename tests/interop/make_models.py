#!/usr/bin/env python3
"""Small models of every kind, trained for a few steps by t6, exported, imported and exported again; what t6 itself
computes with them lies beside. Needs the library zstandard. scripts/interop.sh runs it, and then the tests here.

    make_models.py --t6 PROGRAM --out FOLDER [--text FILE]

    FOLDER/NAME/run, hf, hf_bf16, official[, llama]   the run, and its exports
    FOLDER/NAME/EXPORT.logits.safetensors             t6 of the run, or of what was imported from a rounded export
    FOLDER/NAME/EXPORT.again                          exported, imported, exported
    FOLDER/NAME/text                                  t6 generate --temperature 0
    FOLDER/gpt2/hf, gpt2.txt, gpt2.ids                a model with GPT-2's tokenizer; a text, t6's ids of it in int32
    FOLDER/models.json                                names, and the ids behind the logits
"""
import argparse
import json
import pathlib
import random
import shutil
import struct
import subprocess

import zstandard

SOURCE = pathlib.Path(__file__).resolve().parents[2]
FIXTURES = SOURCE / "tests/data/tokenizer"
CONTEXT, VOCABULARY = 128, 520  # of which the tokenizer has 512 ids
PROMPT = "The"
TOKENS = 64

# H * D is not C, F is not a multiple of anything, as in the sizes of the paper.
KINDS = {
    "mha": dict(attention="mha", heads=4, head_width=12, width=48),
    "mqa": dict(attention="mqa", heads=5, head_width=16, width=48),
    "gqa": dict(attention="gqa", heads=6, head_width=16, width=40, gqa=dict(kv_heads=2)),
    "mla": dict(attention="mla", heads=3, head_width=16, width=48, mla=dict(q_rank=24, kv_rank=20, rope_width=8)),
    "tpa": dict(attention="tpa", heads=7, head_width=16, width=48, tpa=dict(rank_q=3, rank_k=2, rank_v=2)),
    "tpa_kvonly": dict(attention="tpa_kvonly", heads=5, head_width=16, width=48, tpa_kvonly=dict(rank_k=2, rank_v=2)),
}


class Maker:
    def __init__(self, program, folder):
        self.program, self.folder = str(pathlib.Path(program).resolve()), folder

    def t6(self, *arguments):
        words = [self.program, *map(str, arguments)]
        done = subprocess.run(words, cwd=self.folder, capture_output=True)
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(words)}\n{done.stderr.decode()}exit code {done.returncode}")
        return done.stdout

    def data(self):
        text = FIXTURES / "mix.txt"
        self.t6("tokenizer", "train", "--input", text, "--vocab", 512, "--out", "tokenizer.tiktoken")
        self.t6("tokenize", "--tokenizer", "tokenizer.tiktoken", "--out", "data/mix", "--val-tokens", 400, text)

    def train(self, name, model, **more):
        config = {
            "run": {"dir": f"{name}/run", "device": "cpu", "threads": 1},
            "model": {"layers": 2, "vocab_size": VOCABULARY, "context": CONTEXT, **model},
            "data": {"train": ["data/mix_train_*.bin"], "tokenizer": "tokenizer.tiktoken"},
            "train": {"steps": 40, "global_batch": 4, "micro_batch": 4},
            "optimizer": {"lr": 1e-2, "min_lr": 1e-3},
            "schedule": {"warmup_steps": 4},
            "evaluation": {"every": 0},
            "logging": {"tensorboard": False},
            **more,
        }
        (self.folder / name).mkdir(parents=True)
        (self.folder / f"{name}.yaml").write_text(json.dumps(config))  # which is YAML
        self.t6("train", "--config", f"{name}.yaml", "--quiet")
        return self.folder / name / "run"

    def gpt2(self, text):
        """GPT-2's tokenizer as files, by way of a model of its vocabulary, and its ids of a text."""
        unpack = zstandard.ZstdDecompressor()
        (self.folder / "gpt2.tiktoken").write_bytes(unpack.decompress((FIXTURES / "gpt2.tiktoken.zst").read_bytes()))
        packed = text.read_bytes()
        (self.folder / "gpt2.txt").write_bytes(unpack.decompress(packed) if text.suffix == ".zst" else packed)
        self.t6("tokenize", "--tokenizer", "gpt2.tiktoken", "--out", "data/gpt2", "--val-tokens", 0, "gpt2.txt")
        (shard,) = (self.folder / "data").glob("gpt2_train_*.bin")
        ids = [id for (id,) in struct.iter_unpack("<H", shard.read_bytes()[1024:])]  # behind a header
        assert ids[0] == 50256, "a document begins with the end of the one before"
        (self.folder / "gpt2.ids").write_bytes(struct.pack(f"<{len(ids) - 1}i", *ids[1:]))
        self.train("gpt2", dict(attention="mha", layers=1, heads=1, head_width=16, width=16, vocab_size=50304),
                   data={"train": ["data/gpt2_train_*.bin"], "tokenizer": "gpt2.tiktoken"},
                   train={"steps": 1, "global_batch": 1, "micro_batch": 1}, schedule={"warmup_steps": 0})
        self.t6("export", "gpt2/run", "--out", "gpt2/hf")

    def logits(self, run, out, ids):
        self.t6("logits", run, "--ids", ",".join(map(str, ids)), "--out", out, "--device", "cpu")

    def export(self, name, export, ids, *options):
        """Exports, and imports that to export it again; with the logits of a rounded one."""
        out = f"{name}/{export}"
        self.t6("export", f"{name}/run", "--out", out, *options)
        self.t6("import", out, "--out", f"{out}.imported")
        self.t6("export", f"{out}.imported", "--out", f"{out}.again", *options)
        self.logits(f"{out}.imported", f"{out}.logits.safetensors", ids)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--t6", required=True)
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--text", default=FIXTURES / "unicode_mix.txt.zst", type=pathlib.Path)
    arguments = parser.parse_args()
    shutil.rmtree(arguments.out, ignore_errors=True)
    arguments.out.mkdir(parents=True)
    maker = Maker(arguments.t6, arguments.out)
    maker.data()
    print("making gpt2", flush=True)
    maker.gpt2(arguments.text.resolve())
    draw = random.Random(1)
    ids = [511] + [draw.randrange(511) for _ in range(95)]
    models = {}
    for name, model in KINDS.items():
        print(f"making {name}", flush=True)
        maker.train(name, model)
        maker.logits(f"{name}/run", f"{name}/logits.safetensors", ids)
        text = maker.t6("generate", f"{name}/run", "--prompt", PROMPT, "--tokens", TOKENS, "--temperature", 0,
                        "--device", "cpu", "--quiet")
        (arguments.out / name / "text").write_bytes(text)
        exports = {"hf": [], "hf_bf16": ["--dtype", "bf16"]}
        if name == "mha":
            exports["llama"] = ["--llama"]
        for export, options in exports.items():
            maker.export(name, export, ids, *options)
        # The authors' code has RoPE tables in bf16.
        maker.train(f"{name}_official", model, preset="official")
        maker.logits(f"{name}_official/run", f"{name}_official/logits.safetensors", ids)
        maker.export(f"{name}_official", "official", ids, "--format", "official")
        models[name] = {"exports": list(exports), "model": model}
    facts = {"models": models, "ids": ids, "prompt": PROMPT, "tokens": TOKENS, "vocabulary": VOCABULARY}
    (arguments.out / "models.json").write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
