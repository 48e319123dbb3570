"""T6: a decoder with tensor product attention (TPA), for transformers 4.45 and later, 5 included.

    x = wte[token];  x += attention(norm(x));  x += mlp(norm(x));  logits = norm(x) wte^T

The norm is RMSNorm without a weight, the MLP is SwiGLU, the head is tied, there are no biases. The residual stream x is
f32 whatever the weights are. In tensor product attention ("Tensor Product Attention Is All You Need", arXiv 2501.06425)
queries, keys and values are sums of products of a factor over heads, A, and a factor over dimensions, B, both linear in
the token's input n:

    q[h] = 1/R_Q sum_r A_q[h, r] rope(B_q[r])
    k[h] = 1/R_K sum_r A_k[h, r] rope(B_k[r])
    v[h] = 1/R_V sum_r A_v[h, r] B_v[r]

The cache keeps factors, (R_K + R_V)(H + D) numbers a token and layer, in any Cache of transformers: A_k with the
rotated B_k stands in the place of keys, A_v with B_v in that of values, each as one "head". New tokens that come one at
a time attend straight to the factors; keys and values are not formed.

Shapes: B batch, T new tokens, S tokens in the cache, H heads, D width of a head, R rank, C width of the stream x.
"""

import math

import torch
import torch.nn.functional as F
import transformers
from torch import nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, StaticCache
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from .configuration_t6 import T6Config

TRANSFORMERS = tuple(int(part) for part in transformers.__version__.split(".")[:2])


def wide(x):
    """In f32 at least, for sums."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def rms_norm(x, eps, dtype):
    """x / sqrt(mean(x^2) + eps) over the last dimension, rounded to dtype."""
    return (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)).to(dtype)


class RotaryTable:
    """Cosines and sines by position, [positions, D/2] in f32. Made when first asked for, for the device that asks: no
    state of the module, so nothing to load and nothing to lose where modules are made on the meta device."""

    def __init__(self, width, theta, rounding):
        self.width, self.theta, self.rounding = width, theta, rounding
        self.tables = {}  # by device

    def make(self, positions):
        if self.rounding == "bf16":  # as the paper's code: angles in f32
            inverse = 1.0 / (self.theta ** (torch.arange(0, self.width, 2, device="cpu").float() / self.width))
            angles = torch.outer(torch.arange(positions, device="cpu").float(), inverse)
            return angles.cos().bfloat16().float(), angles.sin().bfloat16().float()
        exponents = torch.arange(0, self.width, 2, device="cpu", dtype=torch.float64) / self.width
        angles = torch.outer(torch.arange(positions, device="cpu", dtype=torch.float64), self.theta**-exponents)
        return angles.cos().float(), angles.sin().float()

    def at(self, position_ids, positions):
        """For position_ids [B, T], all below `positions`: cos and sin [B, T, D/2]."""
        device = position_ids.device
        made = len(self.tables[device][0]) if device in self.tables else 0
        if made < positions:
            self.tables[device] = tuple(table.to(device) for table in self.make(max(positions, 2 * made)))
        cos, sin = self.tables[device]
        return cos[position_ids], sin[position_ids]


def rotate(x, cos, sin):
    """RoPE on x [B, T, n, D]: pairs (d, d + D/2), by minus the angle."""
    cos, sin = cos.unsqueeze(2), sin.unsqueeze(2)
    x1, x2 = wide(x).chunk(2, dim=-1)
    return torch.cat([x1 * cos + x2 * sin, x2 * cos - x1 * sin], dim=-1).to(x.dtype)


def contract(a, b):
    """a [B, T, H, R], b [B, T, R, D] -> (1/R) sum_r a[h, r] b[r], as [B, H, T, D]."""
    return (torch.matmul(a, b) / a.shape[-1]).transpose(1, 2)


def linear(n_in, n_out, bound):
    """Without bias; drawn from U(-bound, bound) where it is not loaded."""
    layer = nn.Linear(n_in, n_out, bias=False)
    layer.init_bound = bound
    return layer


class FactorMaps(nn.Module):
    """n -> the query, and the factors of keys and values. Another form of the attention is another such class."""

    def __init__(self, config):
        super().__init__()
        self.heads, self.width, self.hidden = config.num_attention_heads, config.head_dim, config.hidden_size
        self.W_A_k, self.W_B_k = self.pair(config.rank_k)
        self.W_A_v, self.W_B_v = self.pair(config.rank_v)

    def pair(self, rank):
        """The maps to A [H, R] and B [R, D], with the bounds of the paper's code."""
        a_bound = math.sqrt(6 / (rank * (self.heads + self.hidden)))
        b_bound = math.sqrt(6 / (self.width * (rank + self.hidden)))
        return (
            linear(self.hidden, self.heads * rank, a_bound),
            linear(self.hidden, rank * self.width, b_bound),
        )

    def a(self, n, weight):  # [B, T, H, R]
        return weight(n).unflatten(-1, (self.heads, -1))

    def b(self, n, weight):  # [B, T, R, D]
        return weight(n).unflatten(-1, (-1, self.width))

    def query(self, n, cos, sin):
        """[B, H, T, D], rotated."""
        raise NotImplementedError

    def keys(self, n, cos, sin):
        """A_k [B, T, H, R_K] and B_k [B, T, R_K, D], rotated."""
        return self.a(n, self.W_A_k), rotate(self.b(n, self.W_B_k), cos, sin)

    def values(self, n):
        """A_v [B, T, H, R_V] and B_v [B, T, R_V, D]."""
        return self.a(n, self.W_A_v), self.b(n, self.W_B_v)


class TpaMaps(FactorMaps):
    """Queries are factorised, too."""

    def __init__(self, config):
        super().__init__(config)
        self.W_A_q, self.W_B_q = self.pair(config.rank_q)

    def query(self, n, cos, sin):
        return contract(self.a(n, self.W_A_q), rotate(self.b(n, self.W_B_q), cos, sin))


class TpaKvOnlyMaps(FactorMaps):
    """Queries are linear in n."""

    def __init__(self, config):
        super().__init__(config)
        rows = self.heads * self.width
        self.c_q = linear(self.hidden, rows, math.sqrt(6 / (self.hidden + rows)))

    def query(self, n, cos, sin):
        return rotate(self.c_q(n).unflatten(-1, (self.heads, self.width)), cos, sin).transpose(1, 2)


FACTOR_MAPS = {"tpa": TpaMaps, "tpa_kvonly": TpaKvOnlyMaps}


class FactorCache:
    """One layer's place in a `Cache`: factors in, the factors of all tokens so far out."""

    def __init__(self, cache, layer, cache_position):
        self.cache, self.layer, self.cache_position = cache, layer, cache_position

    @staticmethod
    def pack(a, b):  # [B, T, H, R], [B, T, R, D] -> [B, 1, T, R (H + D)]
        return torch.cat([a.flatten(2), b.flatten(2)], dim=-1).unsqueeze(1)

    @staticmethod
    def unpack(packed, a, b):  # to the shapes of a and b, but for the number of tokens
        a_flat, b_flat = packed.squeeze(1).split([a[0, 0].numel(), b[0, 0].numel()], dim=-1)
        return a_flat.unflatten(-1, a.shape[2:]), b_flat.unflatten(-1, b.shape[2:])

    def append(self, keys, values):
        options = {"cache_position": self.cache_position}  # which a static cache of transformers 4 needs
        k, v = self.cache.update(self.pack(*keys), self.pack(*values), self.layer, options)
        return self.unpack(k, *keys), self.unpack(v, *values)


def attend_to_factors(q, keys, values, mask):
    """One new token: q [B, H, 1, D]; mask [B, 1, 1, S], True where it may look, or None -> [B, H, 1, D].

        score[h, s] = (1/R_K) sum_r A_k[s, h, r] (q[h] . B_k[s, r]) / sqrt(D)
        o[h]        = (1/R_V) sum_s,r softmax_s(score)[h, s] A_v[s, h, r] B_v[s, r]

    Between, H * R numbers a token are written, where forming keys or values would write H * D.
    """
    (a_k, b_k), (a_v, b_v) = map(wide, keys), map(wide, values)
    q_b = torch.einsum("bhd,bsrd->bshr", wide(q.squeeze(2)), b_k)
    scores = (a_k * q_b).sum(-1) / (a_k.shape[-1] * math.sqrt(q.shape[-1]))  # [B, S, H]
    if mask is not None:
        scores = scores.masked_fill(~mask[:, 0, 0, :, None], -math.inf)
    weights = a_v * scores.softmax(dim=1).unsqueeze(-1)  # [B, S, H, R]
    o = torch.einsum("bshr,bsrd->bhd", weights, b_v) / a_v.shape[-1]
    return o.to(q.dtype).unsqueeze(2)


class T6Attention(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        self.layer = layer
        self.c_qkv = FACTOR_MAPS[config.attention_kind](config)
        self.c_proj = linear(config.num_attention_heads * config.head_dim, config.hidden_size, 0.0)

    def forward(self, n, cos, sin, mask, cache, cache_position):
        q = self.c_qkv.query(n, cos, sin)
        keys, values = self.c_qkv.keys(n, cos, sin), self.c_qkv.values(n)
        if cache is not None:
            keys, values = FactorCache(cache, self.layer, cache_position).append(keys, values)
        if cache is not None and q.shape[2] == 1:
            o = attend_to_factors(q, keys, values, mask)
        else:
            k, v = contract(*keys), contract(*values)
            o = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None and q.shape[2] > 1)
        return self.c_proj(o.transpose(1, 2).flatten(2))


class T6Mlp(nn.Module):
    def __init__(self, config):
        super().__init__()
        bound = 1 / math.sqrt(config.hidden_size)
        self.c_fc1 = linear(config.hidden_size, config.intermediate_size, bound)  # gate
        self.c_fc2 = linear(config.hidden_size, config.intermediate_size, bound)
        self.c_proj = linear(config.intermediate_size, config.hidden_size, 0.0)

    def forward(self, n):
        return self.c_proj(F.silu(self.c_fc1(n)) * self.c_fc2(n))


class T6Block(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        self.eps = config.rms_norm_eps
        self.attn = T6Attention(config, layer)
        self.mlp = T6Mlp(config)

    def forward(self, x, dtype, *attention_arguments):
        """x [B, T, C], wide; products are computed in dtype."""
        x = x + self.attn(rms_norm(x, self.eps, dtype), *attention_arguments)
        return x + self.mlp(rms_norm(x, self.eps, dtype))


class T6PreTrainedModel(PreTrainedModel):
    config_class = T6Config
    base_model_prefix = "transformer"
    supports_gradient_checkpointing = True
    _no_split_modules = ["T6Block"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_cache_class = True
    _supports_sdpa = True

    def _init_weights(self, module):
        """As the paper's code draws them: output projections zero, everything else uniform."""
        if isinstance(module, nn.Embedding):
            nn.init.uniform_(module.weight, -(self.config.hidden_size**-0.5), self.config.hidden_size**-0.5)
        elif hasattr(module, "init_bound"):
            nn.init.uniform_(module.weight, -module.init_bound, module.init_bound)


class T6Model(T6PreTrainedModel):
    """Without the head: the last hidden state is normed."""

    def __init__(self, config):
        super().__init__(config)
        self.wte = nn.Embedding(config.vocab_size, config.hidden_size)
        self.h = nn.ModuleList(T6Block(config, layer) for layer in range(config.num_hidden_layers))
        self.rotary = RotaryTable(config.head_dim, config.rope_theta, config.rope_table)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self):
        return self.wte

    def set_input_embeddings(self, embedding):
        self.wte = embedding

    @staticmethod
    def attention_mask(mask, batch, past, tokens, total, device):
        """Which of `total` cached tokens each new one looks at, bool [B, 1, T, S]; None for plainly all up to itself.
        `mask`: [B, past + T] with 0 for padding, or what generate() makes for a cache of fixed size, [B, 1, T, S]."""
        if mask is not None and mask.dim() == 4:
            return mask if mask.dtype == torch.bool else mask >= 0  # 0 and a large negative number: to be added
        if mask is not None and mask.all():
            mask = None
        if mask is None and total == past + tokens and (past == 0 or tokens == 1):
            return None
        row = past + torch.arange(tokens, device=device).unsqueeze(1)  # the new tokens' places in the cache
        column = torch.arange(total, device=device).unsqueeze(0)
        seen = (column <= row).expand(batch, 1, tokens, total)
        if mask is not None:
            real = F.pad(mask.to(device=device, dtype=torch.bool), (0, total - mask.shape[1]))
            # A padding token sees itself, so that no row is empty; nothing else sees it.
            seen = (seen & real[:, None, None, :]) | (column == row)
        return seen

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        inputs_embeds=None,
        use_cache=None,
        output_hidden_states=None,
        return_dict=None,
        **kwargs,
    ):
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("expected either input_ids or inputs_embeds")
        if past_key_values is not None and not isinstance(past_key_values, Cache):
            raise ValueError(f"past_key_values: expected a Cache of transformers, got {type(past_key_values).__name__}")
        recompute = self.gradient_checkpointing and self.training
        use_cache = (self.config.use_cache if use_cache is None else use_cache) and not recompute
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache()

        n = self.wte(input_ids) if inputs_embeds is None else inputs_embeds
        batch, tokens = n.shape[:2]
        past = 0 if past_key_values is None else int(past_key_values.get_seq_length())
        total = past + tokens
        cache_position = torch.arange(past, total, device=n.device)
        if position_ids is None:
            if attention_mask is not None and attention_mask.dim() == 2:  # padding has no position
                position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -tokens:]
            else:
                position_ids = cache_position.unsqueeze(0)
        cos, sin = self.rotary.at(position_ids.to(n.device), max(total, self.config.max_position_embeddings))
        if isinstance(past_key_values, StaticCache):  # all of it comes back, filled or not
            size = getattr(past_key_values, "get_max_cache_shape", None) or past_key_values.get_max_length
            total = size()
        mask = self.attention_mask(attention_mask, batch, past, tokens, total, n.device)

        x = wide(n)
        hidden_states = (x,)
        for block in self.h:
            arguments = (x, n.dtype, cos, sin, mask, past_key_values, cache_position)
            x = self._gradient_checkpointing_func(block.__call__, *arguments) if recompute else block(*arguments)
            hidden_states += (x,)
        x = rms_norm(x, self.config.rms_norm_eps, n.dtype)
        output = BaseModelOutputWithPast(
            last_hidden_state=x,
            past_key_values=past_key_values if use_cache else None,
            hidden_states=hidden_states[:-1] + (x,) if output_hidden_states else None,
        )
        return output if return_dict in (None, True) else output.to_tuple()


class T6ForCausalLM(T6PreTrainedModel, GenerationMixin):
    _tied_weights_keys = ["lm_head.weight"] if TRANSFORMERS < (5, 0) else {"lm_head.weight": "transformer.wte.weight"}

    def __init__(self, config):
        super().__init__(config)
        self.transformer = T6Model(config)
        self.lm_head = linear(config.hidden_size, config.vocab_size, config.hidden_size**-0.5)
        self.post_init()

    def get_input_embeddings(self):
        return self.transformer.wte

    def set_input_embeddings(self, embedding):
        self.transformer.wte = embedding

    def get_output_embeddings(self):
        return self.lm_head

    def set_output_embeddings(self, head):
        self.lm_head = head

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        inputs_embeds=None,
        labels=None,
        use_cache=None,
        output_hidden_states=None,
        return_dict=None,
        logits_to_keep=0,
        **kwargs,
    ):
        """labels [B, T]: the ids of the input (they are shifted here), -100 where nothing is to be predicted.
        logits_to_keep: a number of last tokens, or a tensor of places; 0 for all. There is a logit for every row of the
        embedding, padded ids included, and all have their part in the loss, as in training."""
        outputs = self.transformer(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_hidden_states=output_hidden_states,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) and logits_to_keep else logits_to_keep
        x = outputs.last_hidden_state
        logits = self.lm_head(x if isinstance(kept, int) else x[:, kept])
        loss = None
        if labels is not None:
            targets = F.pad(labels[:, 1:], (0, 1), value=-100).to(logits.device)
            loss = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="sum")
            counted = kwargs.get("num_items_in_batch")  # of a trainer that accumulates
            loss = loss / ((targets != -100).sum() if counted is None else counted)
        output = CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
        )
        return output if return_dict in (None, True) else output.to_tuple()

    if TRANSFORMERS < (4, 46):  # later ones bring their own

        def prepare_inputs_for_generation(self, input_ids, past_key_values=None, inputs_embeds=None, **kwargs):
            cached = 0 if past_key_values is None else past_key_values.get_seq_length()
            if inputs_embeds is not None and cached == 0:
                return {"inputs_embeds": inputs_embeds, "past_key_values": past_key_values, **kwargs}
            return {"input_ids": input_ids[:, cached:], "past_key_values": past_key_values, **kwargs}


# save_pretrained() then writes these files beside the weights.
T6Config.register_for_auto_class()
T6Model.register_for_auto_class("AutoModel")
T6ForCausalLM.register_for_auto_class("AutoModelForCausalLM")
