"""Stand-ins for the model files of the authors' repository (https://github.com/tensorgi/TPA, folder model): of each the
classes GPTConfig and GPT that a user calls, with its names and shapes of parameters, what it reads of config.json and what
it takes for a key that is missing. They compute by reference.py, and hold no code of the authors."""
import math
import sys
import types
import unittest.mock

import torch

from reference import logits

DEFAULTS = {"vocab_size": 50304, "n_layer": 12, "n_embd": 768, "head_dim": 64, "block_size": 1024}
OF_FILE = {
    "T6": {"n_head": 22, "rank": 2, "q_rank": 6},
    "T6_kvonly": {"n_head": 22, "rank": 2},
    "llama-mha": {"n_head": 6},
    "llama-gqa": {"n_head": 24, "group_size": 11},
    "llama-mla": {"n_head": 13, "q_lora_rank": 512, "kv_lora_rank": 256, "qk_rope_head_dim": 32, "v_head_dim": 64},
}


def attention_shapes(file, c):
    heads, width, head = c["n_head"], c["n_embd"], c["head_dim"]
    if file == "llama-mha":
        return {"c_q": (width, width), "c_k": (width, width), "c_v": (width, width), "c_proj": (width, width)}
    if file == "llama-gqa":
        shared = head * heads // c["group_size"]
        shapes = {"c_q": (heads * head, width), "c_k": (shared, width), "c_v": (shared, width)}
    elif file == "llama-mla":
        q_rank, kv_rank, rope = c["q_lora_rank"], c["kv_lora_rank"], c["qk_rope_head_dim"]
        shapes = {"q_a_proj": (q_rank, width), "q_a_layernorm": (q_rank,),
                  "q_b_proj": (heads * (head + rope), q_rank), "kv_a_proj_with_mqa": (kv_rank + rope, width),
                  "kv_a_layernorm": (kv_rank,), "kv_b_proj": (heads * (head + c["v_head_dim"]), kv_rank)}
    else:
        ranks = {letter: c["rank"] for letter in "kv"}
        if file == "T6":
            ranks["q"] = c["q_rank"]
        shapes = {f"c_qkv.W_A_{letter}": (heads * rank, width) for letter, rank in ranks.items()}
        shapes |= {f"c_qkv.W_B_{letter}": (rank * head, width) for letter, rank in ranks.items()}
        if file == "T6_kvonly":
            shapes["c_qkv.c_q"] = (heads * head, width)
    return shapes | {"c_proj": (width, heads * c.get("v_head_dim", head))}


def shapes(file, c):
    hidden = math.floor(8 / 3 * c["n_embd"])
    layer = {f"attn.{name}.weight": shape for name, shape in attention_shapes(file, c).items()}
    layer |= {f"mlp.{name}.weight": (hidden, c["n_embd"]) for name in ("c_fc1", "c_fc2")}
    layer["mlp.c_proj.weight"] = (c["n_embd"], hidden)
    return {f"transformer.h.{i}.{name}": shape for i in range(c["n_layer"]) for name, shape in layer.items()}


def module(file):
    class GPTConfig:
        def __init__(self, **keys):
            self.keys = {**DEFAULTS, **OF_FILE[file], **keys}
            if file == "llama-mha":
                assert self.keys["n_embd"] % self.keys["n_head"] == 0
                self.keys |= {"head_dim": self.keys["n_embd"] // self.keys["n_head"], "group_size": 1}

    class GPT(torch.nn.Module):
        def __init__(self, config):
            super().__init__()
            self.keys = config.keys
            for name, shape in shapes(file, config.keys).items():
                self.put(name, torch.nn.Parameter(0.1 * torch.randn(shape)))
            tied = torch.nn.Parameter(0.1 * torch.randn(config.keys["vocab_size"], config.keys["n_embd"]))
            self.put("transformer.wte.weight", tied)
            self.put("lm_head.weight", tied)

        def put(self, name, parameter):
            *path, last = name.split(".")
            place = self
            for part in path:
                if part not in place._modules:
                    place.add_module(part, torch.nn.Module())
                place = place._modules[part]
            place.register_parameter(last, parameter)

        def forward(self, ids, output_all_seq=True):
            with torch.no_grad():
                return torch.stack([logits(self.state_dict(), self.keys, row.tolist()) for row in ids]), None

    made = types.ModuleType(f"model.{file}")
    made.GPTConfig, made.GPT = GPTConfig, GPT
    return made


def on_the_path():
    """While it is entered, importlib.import_module finds them, as in a clone of that repository."""
    return unittest.mock.patch.dict(sys.modules, {f"model.{file}": module(file) for file in OF_FILE})
