"""Shapes of the decoders on the Hub that Benthic does not run, from their config.json.

Only keys that say how wide and deep a network is are read; of what is left out, the family's usual
value is taken. A family is here if those keys leave no doubt: state spaces, hybrids, encoders
and towers for images are not. Values that would change the shape in a way that is not known are
refused by name.
"""

from collections.abc import Callable, Mapping
from math import ceil
from typing import Any

from benthic.cost.catalog.load import CostError
from benthic.cost.network.shape import Shape
from benthic.hub.files import shown

_FULL, _WINDOW = ("full_attention",), ("sliding_attention", "chunked_attention")


class _Keys:
    """A stranger's config.json, asked for one kind of value at a time."""

    def __init__(self, keys: Mapping[str, Any]) -> None:
        self._keys = keys
        self.family = str(keys.get("model_type"))

    def number(self, *names: str, default: int | None = None) -> int:
        """The first of these keys that is there; null is not."""
        for name in names:
            value = self._keys.get(name)
            if value is None:
                continue
            if type(value) is not int or not 0 <= value < 1 << 24:
                raise CostError(f"{name} is {shown(value)}: a whole number from 0 on is needed")
            return value
        if default is None:
            raise CostError(f"the key {names[0]!r} is missing, which a {self.family} needs: add it")
        return default

    def flag(self, name: str, default: bool) -> bool:
        value = self._keys.get(name)
        if value is not None and type(value) is not bool:
            raise CostError(f"{name} is {shown(value)}: true or false is needed")
        return default if value is None else value

    def windows(self, layers: int, usual: int) -> tuple[int, int]:
        """Width of the windows, and how many layers have them: by `layer_types`, else `usual`."""
        window = self.number("sliding_window", default=0)
        kinds = self._keys.get("layer_types")
        if kinds is not None:
            if not isinstance(kinds, list) or len(kinds) != layers:
                raise CostError(f"layer_types is {shown(kinds)}: one kind for each layer is needed")
            strange = [kind for kind in kinds if kind not in _FULL + _WINDOW]
            if strange:
                raise CostError(
                    f"layer_types has {shown(strange[0])}, a hybrid whose shape is not known here: "
                    "give --params and --layers instead"
                )
            usual = sum(kind in _WINDOW for kind in kinds)
        return (window, usual) if window and usual else (0, 0)

    def refuse(self, name: str, *allowed: object) -> None:
        value = self._keys.get(name)
        if value is not None and value not in allowed:
            raise CostError(
                f"{name} is {shown(value)}, which changes the shape of a {self.family} in a way "
                "not known here: give --params and --layers instead"
            )


def from_family(keys: Mapping[str, Any], name: str) -> Shape:
    """The shape that a config.json of one of FAMILIES says; CostError names a key that is amiss."""
    reading = _Keys(keys)
    reading.refuse("is_encoder_decoder", False)
    return Shape(name=name, **FAMILIES[reading.family](reading))


def _grouped(keys: _Keys, *, tied: bool = False, windowed: bool = False) -> dict[str, Any]:
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


def _biased(own: dict[str, Any], qkv: bool, out: bool) -> int:
    """Elements of the biases of a layer's attention."""
    width = own["head_dim"] * (own["heads"] + 2 * own["kv_heads"])
    return int(qkv) * width + int(out) * own["hidden"]


def _mistral(keys: _Keys) -> dict[str, Any]:
    return _grouped(keys, windowed=True)


def _granite(keys: _Keys) -> dict[str, Any]:
    own = _grouped(keys)
    bias = keys.flag("attention_bias", False)
    mlp = keys.flag("mlp_bias", False) * (2 * own["ffn"] + own["hidden"])
    return own | {"attention_vectors": _biased(own, bias, bias), "mlp_vectors": mlp}


def _olmo(keys: _Keys) -> dict[str, Any]:
    bias = keys.flag("attention_bias", False)
    own = _grouped(keys)
    return own | {"norm_vectors": 0, "attention_vectors": _biased(own, bias, bias)}


def _olmo2(keys: _Keys) -> dict[str, Any]:
    """Norms over all heads at once; they stand after attention and feed-forward."""
    bias = keys.flag("attention_bias", False)
    own = _grouped(keys)
    normed = own["head_dim"] * (own["heads"] + own["kv_heads"])
    return own | {
        "attention_vectors": _biased(own, bias, bias) + normed,
        "head_norms": True,
    }


def _gemma(keys: _Keys) -> dict[str, Any]:
    return _grouped(keys, tied=True)


def _gemma2(keys: _Keys) -> dict[str, Any]:
    """Every other layer has a window, the first one has; two norms more."""
    own = _grouped(keys, tied=True)
    window, inside = keys.windows(own["layers"], ceil(own["layers"] / 2))
    return own | {"norms_per_layer": 4, "window": window, "windowed_layers": inside}


def _gemma3(keys: _Keys) -> dict[str, Any]:
    """All but every sixth layer have a window; heads are normed."""
    own = _grouped(keys, tied=True)
    every = keys.number("sliding_window_pattern", default=6)
    window, inside = keys.windows(own["layers"], own["layers"] - own["layers"] // max(every, 1))
    return own | {
        "norms_per_layer": 4,
        "window": window,
        "windowed_layers": inside,
        "attention_vectors": 2 * own["head_dim"],
        "head_norms": True,
    }


def _starcoder2(keys: _Keys) -> dict[str, Any]:
    own = _grouped(keys, tied=True, windowed=True)
    bias = keys.flag("use_bias", True)
    return own | {
        "gated": False,
        "norm_vectors": 2,
        "attention_vectors": _biased(own, bias, bias),
        "mlp_vectors": bias * (own["ffn"] + own["hidden"]),
    }


def _mixtral(keys: _Keys) -> dict[str, Any]:
    own = _grouped(keys, windowed=True)
    return own | {
        "experts": keys.number("num_local_experts", default=8),
        "experts_per_token": keys.number("num_experts_per_tok", default=2),
        "expert_ffn": own["ffn"],
    }


def _sparse_qwen(keys: _Keys, own: dict[str, Any]) -> dict[str, Any]:
    """Experts in every `decoder_sparse_step`-th layer, but in those of `mlp_only_layers`."""
    keys.refuse("mlp_only_layers", [])
    return own | {
        "experts": keys.number("num_experts", "num_local_experts"),
        "experts_per_token": keys.number("num_experts_per_tok"),
        "expert_ffn": keys.number("moe_intermediate_size"),
        "moe_every": keys.number("decoder_sparse_step", default=1),
    }


def _qwen2_moe(keys: _Keys) -> dict[str, Any]:
    own = _sparse_qwen(keys, _grouped(keys))
    keys.refuse("use_sliding_window", False)
    shared = keys.number("shared_expert_intermediate_size", default=0)
    width = max(own["expert_ffn"], 1)
    if shared % width:
        raise CostError(
            f"shared_expert_intermediate_size = {shared} is no multiple of moe_intermediate_size = "
            f"{width}, which is not known here: give --params and --layers instead"
        )
    return own | {
        "window": 0,
        "windowed_layers": 0,
        "shared_experts": shared // width,
        "attention_vectors": _biased(own, True, False),
        "router_vectors": own["hidden"] if shared else 0,  # the shared expert's own gate
    }


def _qwen3_moe(keys: _Keys) -> dict[str, Any]:
    own = _sparse_qwen(keys, _grouped(keys))
    keys.refuse("use_sliding_window", False)
    bias = keys.flag("attention_bias", False)
    return own | {
        "window": 0,
        "windowed_layers": 0,
        "attention_vectors": _biased(own, bias, bias) + 2 * own["head_dim"],
        "head_norms": True,
    }


def _olmoe(keys: _Keys) -> dict[str, Any]:
    own = _olmo2(keys)
    return own | {
        "experts": keys.number("num_experts", "num_local_experts"),
        "experts_per_token": keys.number("num_experts_per_tok"),
        "expert_ffn": own["ffn"],
    }


def _gpt_oss(keys: _Keys) -> dict[str, Any]:
    """A sink for each head, biases everywhere; every other layer has a window."""
    own = _grouped(keys)
    bias = keys.flag("attention_bias", True)
    window, inside = keys.windows(own["layers"], ceil(own["layers"] / 2))
    experts = keys.number("num_local_experts")
    return own | {
        "window": window,
        "windowed_layers": inside,
        "attention_vectors": _biased(own, bias, bias) + own["heads"],
        "experts": experts,
        "experts_per_token": keys.number("num_experts_per_tok", "experts_per_token"),
        "expert_ffn": own["ffn"],
        "expert_vectors": 2 * own["ffn"] + own["hidden"],
        "router_vectors": experts,
    }


def _full_heads(
    keys: _Keys, hidden: int, ffn: int, *, tied: bool, bias: bool = True
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
    return own | {"attention_vectors": _biased(own, bias, bias)}


def _gpt2(keys: _Keys) -> dict[str, Any]:
    keys.refuse("add_cross_attention", False)
    hidden = keys.number("n_embd", "hidden_size")
    own = _full_heads(keys, hidden, keys.number("n_inner", default=4 * hidden), tied=True)
    longest = keys.number("n_positions", "max_position_embeddings", "n_ctx")
    return own | {"max_positions": longest, "learned_positions": True}


def _gpt_neox(keys: _Keys) -> dict[str, Any]:
    own = _full_heads(
        keys, keys.number("hidden_size"), keys.number("intermediate_size"), tied=False
    )
    bias = keys.flag("attention_bias", True)
    return own | {
        "max_positions": keys.number("max_position_embeddings", default=0),
        "attention_vectors": _biased(own, bias, bias),
    }


def _opt(keys: _Keys) -> dict[str, Any]:
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


def _bloom(keys: _Keys) -> dict[str, Any]:
    """A norm right after the embedding; positions are biases of the scores."""
    hidden = keys.number("hidden_size", "n_embed")
    own = _full_heads(keys, hidden, 4 * hidden, tied=True)
    return own | {"max_positions": keys.number("seq_length", default=0), "vectors": 2 * hidden}


def _falcon(keys: _Keys) -> dict[str, Any]:
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
    return own | {"attention_vectors": _biased(own, bias, bias)}


FAMILIES: dict[str, Callable[[_Keys], dict[str, Any]]] = {
    "mistral": _mistral,
    "mixtral": _mixtral,
    "qwen2_moe": _qwen2_moe,
    "qwen3_moe": _qwen3_moe,
    "phi3": _mistral,
    "gemma": _gemma,
    "gemma2": _gemma2,
    "gemma3_text": _gemma3,
    "olmo": _olmo,
    "olmo2": _olmo2,
    "olmo3": _olmo2,
    "olmoe": _olmoe,
    "granite": _granite,
    "gpt_oss": _gpt_oss,
    "starcoder2": _starcoder2,
    "gpt2": _gpt2,
    "gpt_neox": _gpt_neox,
    "opt": _opt,
    "bloom": _bloom,
    "falcon": _falcon,
}
