"""Shapes of dense decoders on the Hub, from their config.json; `sparse_families` has experts.

Only keys that say how wide and deep a network is are read; of what is left out, the family's usual
value is taken. A family is here if those keys leave no doubt: state spaces, linear attention and
encoders are not, and of one that sees or hears too the text part alone is. Values that would change
the shape in a way that is not known are refused by name.
"""

from collections.abc import Callable
from math import ceil
from typing import Any

from benthic.cost.network.config_keys import Keys

Reader = Callable[[Keys], dict[str, Any]]

TOWERS = "the text part alone is counted: its towers for images or sound are not"


def grouped(keys: Keys, *, tied: bool = False, windowed: bool = False) -> dict[str, Any]:
    """What most of Llama's descendants share: grouped heads, SwiGLU, RMSNorm, no biases."""
    layers, hidden = keys.number("num_hidden_layers"), keys.number("hidden_size")
    heads = keys.number("num_attention_heads")
    window, inside = keys.windows(layers, layers if windowed else 0)
    return {
        "layers": layers,
        "hidden": hidden,
        "vocab": keys.number("vocab_size"),
        "heads": heads,
        "kv_heads": keys.number("num_key_value_heads", default=heads),
        "head_dim": keys.number("head_dim", default=hidden // max(heads, 1)),
        "ffn": keys.number("intermediate_size", default=0),
        "tied": keys.flag("tie_word_embeddings", tied),
        "max_positions": keys.number("max_position_embeddings", default=0),
        "window": window,
        "windowed_layers": inside,
    }


def biased(own: dict[str, Any], qkv: bool, out: bool) -> int:
    """Elements of the biases of a layer's attention."""
    width = own["head_dim"] * (own["heads"] + 2 * own["kv_heads"])
    return int(qkv) * width + int(out) * own["hidden"]


def _mistral(keys: Keys) -> dict[str, Any]:
    return grouped(keys, windowed=True)


def _granite(keys: Keys) -> dict[str, Any]:
    own = grouped(keys)
    bias = keys.flag("attention_bias", False)
    mlp = keys.flag("mlp_bias", False) * (2 * own["ffn"] + own["hidden"])
    return own | {"attention_vectors": biased(own, bias, bias), "mlp_vectors": mlp}


def _qwen(keys: Keys) -> dict[str, Any]:
    """Qwen 1: the feed-forward has half the width that the file says, queries and keys biases."""
    own = grouped(keys)
    bias, ffn = not keys.flag("no_bias", True), own["ffn"] // 2
    head_dim = keys.number("kv_channels", default=own["head_dim"])
    own |= {"head_dim": head_dim, "ffn": ffn, "mlp_vectors": bias * (2 * ffn + own["hidden"])}
    longest = keys.number("seq_length", "max_position_embeddings", default=0)
    return own | {"max_positions": longest, "attention_vectors": biased(own, True, bias)}


def _qwen2(keys: Keys) -> dict[str, Any]:
    """Biases of queries, keys and values; with windows, if any, from a layer on."""
    own = grouped(keys)
    late = max(own["layers"] - keys.number("max_window_layers", default=28), 0)
    window, inside = keys.windows(own["layers"], late)
    if not keys.flag("use_sliding_window", False):
        window = inside = 0
    return own | {
        "window": window,
        "windowed_layers": inside,
        "attention_vectors": biased(own, True, False),
    }


def _qwen3(keys: Keys) -> dict[str, Any]:
    """Normed heads of 128, biases by a flag; windows as Qwen 2 has them."""
    own = _qwen2(keys) | {"head_dim": keys.number("head_dim", default=128), "head_norms": True}
    bias = keys.flag("attention_bias", False)
    return own | {"attention_vectors": biased(own, bias, bias) + 2 * own["head_dim"]}


def _qwen_vl(keys: Keys) -> dict[str, Any]:
    """The text part, whose keys stand beside those of the tower in the files of the first."""
    return _qwen2(keys) | {"left_out": (TOWERS,)}


def _olmo(keys: Keys) -> dict[str, Any]:
    bias = keys.flag("attention_bias", False)
    own = grouped(keys)
    return own | {"norm_vectors": 0, "attention_vectors": biased(own, bias, bias)}


def olmo2(keys: Keys) -> dict[str, Any]:
    """Norms over all heads at once; they stand after attention and feed-forward."""
    bias = keys.flag("attention_bias", False)
    own = grouped(keys)
    normed = own["head_dim"] * (own["heads"] + own["kv_heads"])
    return own | {
        "attention_vectors": biased(own, bias, bias) + normed,
        "head_norms": True,
    }


def _gemma(keys: Keys) -> dict[str, Any]:
    return grouped(keys, tied=True)


def _gemma2(keys: Keys) -> dict[str, Any]:
    """Every other layer has a window, the first one has; two norms more."""
    own = grouped(keys, tied=True)
    window, inside = keys.windows(own["layers"], ceil(own["layers"] / 2))
    return own | {"norms_per_layer": 4, "window": window, "windowed_layers": inside}


def _gemma3(keys: Keys) -> dict[str, Any]:
    """All but every sixth layer have a window; heads are normed."""
    own = grouped(keys, tied=True)
    every = keys.number("sliding_window_pattern", default=6)
    window, inside = keys.windows(own["layers"], own["layers"] - own["layers"] // max(every, 1))
    return own | {
        "norms_per_layer": 4,
        "window": window,
        "windowed_layers": inside,
        "attention_vectors": 2 * own["head_dim"],
        "head_norms": True,
    }


def _starcoder2(keys: Keys) -> dict[str, Any]:
    own = grouped(keys, tied=True, windowed=True)
    bias = keys.flag("use_bias", True)
    return own | {
        "gated": False,
        "norm_vectors": 2,
        "attention_vectors": biased(own, bias, bias),
        "mlp_vectors": bias * (own["ffn"] + own["hidden"]),
    }


def _full_heads(
    keys: Keys, hidden: int, ffn: int, *, tied: bool, bias: bool = True
) -> dict[str, Any]:
    """What GPT-2's descendants share: two matrices, LayerNorm, biases."""
    heads = keys.number("num_attention_heads", "n_head")
    own = {
        "layers": keys.number("num_hidden_layers", "n_layer"),
        "hidden": hidden,
        "vocab": keys.number("vocab_size"),
        "heads": heads,
        "kv_heads": heads,
        "head_dim": hidden // max(heads, 1),
        "ffn": ffn,
        "gated": False,
        "norm_vectors": 2,
        "tied": keys.flag("tie_word_embeddings", tied),
        "mlp_vectors": bias * (ffn + hidden),
    }
    return own | {"attention_vectors": biased(own, bias, bias)}


def _gpt2(keys: Keys) -> dict[str, Any]:
    keys.refuse("add_cross_attention", False)
    hidden = keys.number("n_embd", "hidden_size")
    own = _full_heads(keys, hidden, keys.number("n_inner", default=4 * hidden), tied=True)
    longest = keys.number("n_positions", "max_position_embeddings", "n_ctx")
    return own | {"max_positions": longest, "learned_positions": True}


def _gpt_neox(keys: Keys) -> dict[str, Any]:
    own = _full_heads(
        keys, keys.number("hidden_size"), keys.number("intermediate_size"), tied=False
    )
    bias = keys.flag("attention_bias", True)
    return own | {
        "max_positions": keys.number("max_position_embeddings", default=0),
        "attention_vectors": biased(own, bias, bias),
    }


def _opt(keys: Keys) -> dict[str, Any]:
    """The table of positions has two rows more than there are positions."""
    hidden = keys.number("hidden_size")
    keys.refuse("word_embed_proj_dim", hidden)
    keys.refuse("do_layer_norm_before", True)
    keys.refuse("_remove_final_layer_norm", False)
    keys.refuse("layer_norm_elementwise_affine", True)
    bias = keys.flag("enable_bias", True)
    own = _full_heads(keys, hidden, keys.number("ffn_dim"), tied=True, bias=bias)
    longest = keys.number("max_position_embeddings")
    return own | {"max_positions": longest, "learned_positions": True, "vectors": 2 * hidden}


def _bloom(keys: Keys) -> dict[str, Any]:
    """A norm right after the embedding; positions are biases of the scores."""
    hidden = keys.number("hidden_size", "n_embed")
    own = _full_heads(keys, hidden, 4 * hidden, tied=True)
    return own | {"max_positions": keys.number("seq_length", default=0), "vectors": 2 * hidden}


def _falcon(keys: Keys) -> dict[str, Any]:
    """Attention and feed-forward side by side, after one norm or one each."""
    hidden = keys.number("hidden_size")
    own = _full_heads(
        keys,
        hidden,
        keys.number("ffn_hidden_size", default=4 * hidden),
        tied=True,
        bias=keys.flag("bias", False),
    )
    if keys.flag("new_decoder_architecture", False):
        groups = keys.number("num_kv_heads", default=own["heads"])
        norms = keys.number("num_ln_in_parallel_attn", default=2)
    else:
        groups = 1 if keys.flag("multi_query", True) else own["heads"]
        norms = 1 if keys.flag("parallel_attn", True) else 2
    own |= {
        "kv_heads": groups,
        "norms_per_layer": norms,
        "max_positions": keys.number("max_position_embeddings", default=0),
    }
    bias = keys.flag("bias", False)
    return own | {"attention_vectors": biased(own, bias, bias)}


DENSE: dict[str, Reader] = {
    "mistral": _mistral,
    "phi3": _mistral,
    "qwen": _qwen,
    "qwen2": _qwen2,
    "qwen2_vl": _qwen_vl,
    "qwen2_vl_text": _qwen2,
    "qwen2_5_vl": _qwen_vl,
    "qwen2_5_vl_text": _qwen2,
    "qwen3": _qwen3,
    "qwen3_vl_text": _qwen3,
    "gemma": _gemma,
    "gemma2": _gemma2,
    "gemma3_text": _gemma3,
    "olmo": _olmo,
    "olmo2": olmo2,
    "olmo3": olmo2,
    "granite": _granite,
    "starcoder2": _starcoder2,
    "gpt2": _gpt2,
    "gpt_neox": _gpt_neox,
    "opt": _opt,
    "bloom": _bloom,
    "falcon": _falcon,
}
