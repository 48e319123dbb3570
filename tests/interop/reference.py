"""A t6 model written from its formulas, in f32 with RoPE tables in bf16, on tensors under the authors' names: what the
format `official` means, without any code of t6 or transformers."""
import math

import torch
import torch.nn.functional as F

EPS = torch.finfo(torch.float32).eps


def rms_norm(x, eps=EPS):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


def rope(x):
    """x [T, n, D], with tables in bf16."""
    tokens, _, width = x.shape
    inverse = 1.0 / (10000 ** (torch.arange(0, width, 2).float() / width))
    angles = torch.outer(torch.arange(tokens).float(), inverse)
    cos, sin = angles.cos().bfloat16().float()[:, None], angles.sin().bfloat16().float()[:, None]
    x1, x2 = x.chunk(2, dim=-1)
    return torch.cat([x1 * cos + x2 * sin, -x1 * sin + x2 * cos], dim=-1)


def factors(n, w, letter, heads, width, turn=lambda b: b):
    a = (n @ w[f"c_qkv.W_A_{letter}.weight"].T).unflatten(-1, (heads, -1))
    b = turn((n @ w[f"c_qkv.W_B_{letter}.weight"].T).unflatten(-1, (-1, width)))
    return torch.einsum("thr,trd->thd", a, b) / a.shape[-1]


def attention(n, w, config):
    """n [T, C]; q, k, v [T, H, D] by the tensors that are there."""
    heads, width = config["n_head"], config["head_dim"]
    split = lambda name, count: (n @ w[name].T).unflatten(-1, (count, -1))
    if "c_qkv.W_A_k.weight" in w:
        k, v = factors(n, w, "k", heads, width, rope), factors(n, w, "v", heads, width)
        if "c_qkv.c_q.weight" in w:
            q = rope(split("c_qkv.c_q.weight", heads))
        else:
            q = factors(n, w, "q", heads, width, rope)
    elif "q_a_proj.weight" in w:
        rope_width = config["qk_rope_head_dim"]
        q = (rms_norm(split("q_a_proj.weight", 1), 1e-6)[:, 0] * w["q_a_layernorm.weight"]) @ w["q_b_proj.weight"].T
        q_nope, q_rope = q.unflatten(-1, (heads, -1)).split([width, rope_width], dim=-1)
        c, k_rope = (n @ w["kv_a_proj_with_mqa.weight"].T).split([config["kv_lora_rank"], rope_width], dim=-1)
        kv = (rms_norm(c, 1e-6) * w["kv_a_layernorm.weight"]) @ w["kv_b_proj.weight"].T
        k_nope, v = kv.unflatten(-1, (heads, -1)).chunk(2, dim=-1)
        q = torch.cat([q_nope, rope(q_rope)], dim=-1)
        k = torch.cat([k_nope, rope(k_rope[:, None]).expand(-1, heads, -1)], dim=-1)
    else:
        groups = heads // config["group_size"]
        q, k, v = rope(split("c_q.weight", heads)), rope(split("c_k.weight", groups)), split("c_v.weight", groups)
        k, v = (x.repeat_interleave(config["group_size"], dim=1) for x in (k, v))
    scores = torch.einsum("thd,shd->hts", q, k) / math.sqrt(q.shape[-1])
    scores += torch.full_like(scores[0], -math.inf).triu(1)
    return torch.einsum("hts,shd->thd", scores.softmax(-1), v).flatten(1) @ w["c_proj.weight"].T


def logits(weights, config, ids):
    weights = {name: tensor.float() for name, tensor in weights.items()}
    x = weights["transformer.wte.weight"][torch.tensor(ids)]
    for layer in range(config["n_layer"]):
        start = f"transformer.h.{layer}."
        w = {name[len(start):]: tensor for name, tensor in weights.items() if name.startswith(start)}
        x = x + attention(rms_norm(x), {name[5:]: t for name, t in w.items() if name.startswith("attn.")}, config)
        n = rms_norm(x)
        gated = F.silu(n @ w["mlp.c_fc1.weight"].T) * (n @ w["mlp.c_fc2.weight"].T)
        x = x + gated @ w["mlp.c_proj.weight"].T
    return rms_norm(x) @ weights["lm_head.weight"].T
