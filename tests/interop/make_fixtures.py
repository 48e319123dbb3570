#!/usr/bin/env python3
"""Makes tests/data/interop anew: tiny models that t6 trained and exported, with the logits that transformers computes
of them, for tests of the ordinary suite, which has no Python (tests/checkpoint/interop_test.cpp). Run by
scripts/interop.sh --fixtures.

    make_fixtures.py --t6 PROGRAM --out FOLDER
"""
import argparse
import json
import pathlib
import shutil
import tempfile

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from make_models import FIXTURES, Maker
from reference import logits as official_logits

VOCABULARY, END_OF_TEXT = 264, 259
KINDS = {
    "mha": dict(attention="mha", heads=2, head_width=8, width=12),
    "mqa": dict(attention="mqa", heads=3, head_width=8, width=10),
    "gqa": dict(attention="gqa", heads=4, head_width=4, width=10, gqa=dict(kv_heads=2)),
    "mla": dict(attention="mla", heads=2, head_width=6, width=12, mla=dict(q_rank=6, kv_rank=5, rope_width=4)),
    "tpa": dict(attention="tpa", heads=3, head_width=6, width=10, tpa=dict(rank_q=3, rank_k=2, rank_v=2)),
    "tpa_kvonly": dict(attention="tpa_kvonly", heads=3, head_width=6, width=10, tpa_kvonly=dict(rank_k=2, rank_v=2)),
}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--t6", required=True)
    parser.add_argument("--out", required=True, type=pathlib.Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(5)
    with tempfile.TemporaryDirectory() as scratch:
        maker = Maker(arguments.t6, pathlib.Path(scratch))
        text = FIXTURES / "mix.txt"
        maker.t6("tokenizer", "train", "--input", text, "--vocab", END_OF_TEXT + 1, "--out", "tokenizer.tiktoken")
        maker.t6("tokenize", "--tokenizer", "tokenizer.tiktoken", "--out", "data/mix", "--val-tokens", 0, text)
        for name, model in KINDS.items():
            protocols = {name: ["--format", "hf"], f"{name}_official": ["--format", "official"]}
            if name == "mha":
                protocols["mha_llama"] = ["--llama"]
            for export, options in protocols.items():
                official = "official" in export
                shape = dict(model, vocab_size=VOCABULARY, context=32)
                maker.train(export, shape, **({"preset": "official"} if official else {}))
                maker.t6("export", f"{export}/run", "--out", f"{export}/out", *options)
                folder, out = maker.folder / export / "out", arguments.out / export
                ids = torch.randint(0, END_OF_TEXT, (10,))
                if official:
                    config = json.loads((folder / "config.json").read_text())
                    logits = official_logits(load_file(folder / "model.safetensors"), config, ids.tolist())
                else:
                    loaded = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).float().eval()
                    with torch.no_grad():
                        logits = loaded(ids[None]).logits[0]
                shutil.rmtree(out, ignore_errors=True)
                out.mkdir(parents=True)
                for file in ("config.json", "model.safetensors"):
                    shutil.copy(folder / file, out)
                made = {"ids": ids.float(), "logits": logits.contiguous()}
                save_file(made, out / "logits.safetensors", {"format": "pt"})


if __name__ == "__main__":
    main()
