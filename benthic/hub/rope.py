"""The rotary part of a `config.json`: base and scaling, in either spelling, in and out.

Releases have `rope_theta` beside `rope_scaling`, transformers 5 has `rope_parameters` with the base
in it. YaRN's factor on cosine and sine has two keys: `attention_factor` is that factor, and
`attn_factor` (DeepSeek-R1-0528-Qwen3-8B) multiplies the usual one. A key that is not known may
change the angles, so it is refused by name.
"""

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from benthic.hub.files import shown
from benthic.hub.keys import kinds, typed
from benthic.model.config import ModelConfig, RopeScaling

_KINDS = kinds(RopeScaling)
_SPELT_OUT = {  # even where they are our defaults
    "linear": {"factor"},
    "yarn": {"factor", "original_max_position_embeddings", "beta_fast", "beta_slow"},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor"},
}


def rope_from_hub(keys: Mapping[str, Any], longest: int, latent: bool) -> tuple[float, RopeScaling]:
    """Base and scaling, from `rope_parameters` or from `rope_theta` and `rope_scaling`."""
    read = []
    for name in ("rope_parameters", "rope_scaling"):
        given = keys.get(name)
        if given is not None and not isinstance(given, dict):
            raise ValueError(f"{name} is {shown(given)}: it must be an object")
        if given:
            read.append(_rope_of(name, given, keys.get("rope_theta"), longest, latent))
    if len(read) == 2 and read[0] != read[1]:
        raise ValueError("rope_parameters and rope_scaling differ: leave one of them")
    return read[0] if read else _rope_of("", {}, keys.get("rope_theta"), longest, latent)


def _rope_of(
    name: str, given: dict[str, Any], base: Any, longest: int, latent: bool
) -> tuple[float, RopeScaling]:
    scaling = dict(given)
    nested = scaling.pop("rope_theta", None)
    if None not in (base, nested) and base != nested:
        raise ValueError(f"rope_theta is {shown(base)}, and {shown(nested)} in {name}: leave one")
    base = base if nested is None else nested
    theta = 10000.0 if base is None else typed("rope_theta", base, {"rope_theta": float})
    named = [scaling.pop(word) for word in ("rope_type", "type") if word in scaling]
    kind = next((word for word in named if word is not None), "default")
    if any(word not in (None, kind) for word in named):
        raise ValueError(f"{name}'s 'type' and 'rope_type' differ: leave one of them")
    if kind not in ("default", "linear", "yarn", "llama3"):
        raise ValueError(
            f"{name}'s type is {shown(kind)}, which is not supported: take a checkpoint whose type "
            "is default, linear, yarn or llama3"
        )
    share = scaling.pop("attn_factor", None)
    own: dict[str, Any] = {"rope_type": kind}
    for key, value in scaling.items():
        if key not in _KINDS:
            raise ValueError(
                f"{name}'s key {shown(key)} is not supported, since it may change the angles: if "
                "you know that it does not, delete it from the file"
            )
        if value is not None:
            own[key] = typed(key, value, _KINDS, name + "'s ")
    if latent and kind in ("linear", "llama3") and own.get("mscale_all_dim"):
        raise ValueError(
            f"{name}'s mscale_all_dim is given with the type {kind!r}, where programs disagree: "
            "remove it, or set the type to 'yarn'"
        )
    if own.get("attention_factor") == 0:
        raise ValueError(f"{name}'s attention_factor is 0: it must be positive")
    if kind in ("yarn", "llama3"):
        own.setdefault("original_max_position_embeddings", longest)
    if kind != "default" and "factor" not in own:
        if kind != "yarn" or own["original_max_position_embeddings"] < 1:
            raise ValueError(f"{name} of type {kind!r} needs the key 'factor': add it")
        own["factor"] = longest / own["original_max_position_embeddings"]
    read = RopeScaling(**own)
    if share is None or kind != "yarn":
        return theta, read
    factor = typed("attn_factor", share, {"attn_factor": float}, name + "'s ")
    return theta, _with_share(name, read, factor)


def _with_share(name: str, scaling: RopeScaling, share: float) -> RopeScaling:
    """The scaling whose factor on cosine and sine is `share` of the usual one."""
    turn = share * _usual(scaling)
    given = scaling.attention_factor
    if given and not math.isclose(given, turn, rel_tol=1e-6):
        raise ValueError(
            f"{name}'s attention_factor is {given:g}, and its attn_factor, {share:g} of the usual "
            f"factor, makes {turn:g}: leave one of them"
        )
    if turn <= 0:
        raise ValueError(f"{name}'s attn_factor is {share:g}: it must be positive")
    return scaling if given else replace(scaling, attention_factor=turn)


def _usual(scaling: RopeScaling) -> float:
    """The factor on cosine and sine where neither key gives one."""
    return replace(scaling, attention_factor=0.0).turn_factor


def rope_to_hub(config: ModelConfig) -> dict[str, Any]:
    """The releases' spelling, which every program still reads."""
    scaling, empty = config.rope_scaling, RopeScaling()
    out: dict[str, Any] = {"rope_theta": config.rope_theta, "rope_scaling": None}
    if scaling.rope_type == "default":
        return out
    given = {f.name: getattr(scaling, f.name) for f in fields(scaling)}
    spelt = _SPELT_OUT[scaling.rope_type]
    kept = {k: v for k, v in given.items() if k in spelt or v != getattr(empty, k)}
    if scaling.attention_factor:  # earlier vLLM and SGLang know only this key
        kept["attn_factor"] = scaling.attention_factor / _usual(scaling)
    return out | {"rope_scaling": {"type": scaling.rope_type, **kept}}
