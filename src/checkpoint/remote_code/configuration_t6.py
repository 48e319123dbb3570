"""Configuration of T6 models: decoders with tensor product attention, as `t6 export --format hf` writes them."""

from transformers import PretrainedConfig


class T6Config(PretrainedConfig):
    """The sizes of a T6 model.

    attention_kind            "tpa" (queries, keys and values factorised) or "tpa_kvonly" (keys and values only)
    num_hidden_layers         blocks L
    hidden_size               width C of the residual stream
    intermediate_size         width F of the SwiGLU layer; by default floor(8/3 C)
    num_attention_heads       heads H
    head_dim                  width D of a head; H * D need not be C
    rank_q                    terms R_Q of a query; 0 for "tpa_kvonly"
    rank_k, rank_v            terms R_K of a key, R_V of a value
    max_position_embeddings   tokens T of the windows it was trained on
    vocab_size                rows of the embedding, padded ones included
    rms_norm_eps              added to the mean square in every norm
    rope_theta                base of the rotary angles
    rope_table                "f32", or "bf16": cosines and sines rounded to bf16, as the paper's training code does
    """

    model_type = "t6"
    keys_to_ignore_at_inference = ["past_key_values"]

    def __init__(
        self,
        attention_kind="tpa",
        vocab_size=50304,
        num_hidden_layers=12,
        hidden_size=768,
        intermediate_size=None,
        num_attention_heads=34,
        head_dim=64,
        rank_q=6,
        rank_k=2,
        rank_v=2,
        max_position_embeddings=1024,
        rms_norm_eps=1.1920928955078125e-07,
        rope_theta=10000.0,
        rope_table="f32",
        use_cache=True,
        bos_token_id=50256,
        eos_token_id=50256,
        tie_word_embeddings=True,
        **kwargs,
    ):
        if attention_kind not in ("tpa", "tpa_kvonly"):
            raise ValueError(f"attention_kind: expected tpa or tpa_kvonly, got {attention_kind!r}")
        if rope_table not in ("f32", "bf16"):
            raise ValueError(f"rope_table: expected f32 or bf16, got {rope_table!r}")
        self.attention_kind = attention_kind
        self.vocab_size = vocab_size
        self.num_hidden_layers = num_hidden_layers
        self.hidden_size = hidden_size
        self.intermediate_size = 8 * hidden_size // 3 if intermediate_size is None else intermediate_size
        self.num_attention_heads = num_attention_heads
        self.head_dim = head_dim
        self.rank_q = rank_q
        self.rank_k = rank_k
        self.rank_v = rank_v
        self.max_position_embeddings = max_position_embeddings
        self.rms_norm_eps = rms_norm_eps
        self.rope_theta = rope_theta
        self.rope_table = rope_table
        self.use_cache = use_cache
        super().__init__(
            bos_token_id=bos_token_id, eos_token_id=eos_token_id, tie_word_embeddings=tie_word_embeddings, **kwargs
        )
