"""The Hub's config.json: what is read is what transformers reads, or refused in a sentence."""

import json
import math
import re
import string
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benthic.hub.config import (
    ARCHITECTURES,
    Fp8Format,
    fp8_format,
    from_hub,
    preset,
    presets,
    read_config,
    to_hub,
)
from benthic.hub.files import HubError
from benthic.hub.layout import layout
from benthic.model.config import ModelConfig, RopeScaling

EXAMPLES = 100
FAMILIES = list(ARCHITECTURES)


# Configs at random, of every family.

counts = st.integers(1, 9)
widths = st.integers(1, 20).map(lambda n: 4 * n)
evens = st.integers(1, 20).map(lambda n: 2 * n)
factors = st.floats(0.25, 64.0)


def rope_scalings() -> st.SearchStrategy[RopeScaling]:
    trained = st.integers(1, 1 << 20)
    return st.one_of(
        st.just(RopeScaling()),
        st.builds(RopeScaling, rope_type=st.just("linear"), factor=factors),
        st.builds(
            RopeScaling,
            rope_type=st.just("yarn"),
            factor=factors,
            original_max_position_embeddings=trained,
            beta_fast=st.floats(1, 64),
            beta_slow=st.floats(0.1, 8),
            mscale=st.sampled_from([0.0, 0.707, 1.0]),
            mscale_all_dim=st.sampled_from([0.0, 0.707, 1.0]),
            attention_factor=st.sampled_from([0.0, 1.5]),
            truncate=st.booleans(),
        ),
        st.builds(
            RopeScaling,
            rope_type=st.just("llama3"),
            factor=factors,
            original_max_position_embeddings=trained,
            low_freq_factor=st.floats(0.5, 1.5),
            high_freq_factor=st.floats(2, 8),
        ),
    )


@st.composite
def configs(draw: Callable[..., Any], families: list[str] = FAMILIES) -> ModelConfig:
    """Small shapes, every switch of the family at random."""
    family = draw(st.sampled_from(families))
    common: dict[str, Any] = {
        "model_type": family,
        "vocab_size": draw(st.integers(1, 300)),
        "hidden_size": draw(widths),
        "intermediate_size": draw(counts),
        "num_hidden_layers": draw(st.integers(1, 4)),
        "num_attention_heads": draw(counts),
        "max_position_embeddings": draw(st.integers(1, 100)),
        "rope_theta": draw(st.floats(2, 1e7)),
        "rope_scaling": draw(rope_scalings()),
        "rms_norm_eps": draw(st.sampled_from([0.0, 1e-6, 1e-5])),
        "tie_word_embeddings": draw(st.booleans()),
        "initializer_range": draw(st.floats(0, 1)),
        "bos_token_id": draw(st.integers(-1, 300)),
        "eos_token_id": draw(st.integers(-1, 300)),
    }
    if not family.startswith("deepseek"):
        per_group = draw(st.sampled_from([1, 2, 3]))
        groups = draw(st.integers(1, 4))
        common |= {"num_attention_heads": groups * per_group, "num_key_value_heads": groups}
        common |= {"head_dim": draw(evens)}
        if family != "qwen2":
            common["attention_bias"] = draw(st.booleans())
        if family == "llama":
            common["mlp_bias"] = draw(st.booleans())
        return ModelConfig(**common)
    groups, of_group = draw(st.integers(1, 4)), draw(st.integers(2, 4))
    kept = draw(st.integers(1, groups))
    v3 = family == "deepseek_v3"
    method = "noaux_tc" if v3 else draw(st.sampled_from(["greedy", "group_limited_greedy"]))
    return ModelConfig(
        **common,
        moe_intermediate_size=draw(widths),
        first_k_dense_replace=draw(st.integers(0, common["num_hidden_layers"])),
        q_lora_rank=draw(st.none() | counts),
        kv_lora_rank=draw(counts),
        qk_nope_head_dim=draw(counts),
        qk_rope_head_dim=draw(evens),
        v_head_dim=draw(counts),
        n_routed_experts=groups * of_group,
        n_shared_experts=draw(st.integers(1, 3)),
        num_experts_per_tok=draw(st.integers(1, kept * of_group)),
        topk_method=method,
        n_group=groups,
        topk_group=kept,
        norm_topk_prob=v3 and draw(st.booleans()),
        routed_scaling_factor=draw(st.floats(0, 20)),
        num_nextn_predict_layers=draw(st.integers(0, 1)) if v3 else 0,
        latent_norm_eps=draw(st.sampled_from([1e-6, 1e-5])),
    )


def by_json(keys: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = json.loads(json.dumps(keys))
    return out


@given(configs())
@settings(max_examples=EXAMPLES)
def test_what_is_written_reads_back(config: ModelConfig) -> None:
    assert from_hub(by_json(to_hub(config))) == config


@pytest.mark.parametrize("name", presets())
def test_presets_read_back(name: str) -> None:
    config, fp8 = preset(name)
    keys = by_json(to_hub(config) | ({"quantization_config": fp8.to_hub()} if fp8 else {}))
    assert (from_hub(keys), fp8_format(keys)) == (config, fp8)


def new_spelling(keys: dict[str, Any]) -> dict[str, Any]:
    """As transformers 5 has it: one object with base and scaling."""
    out = dict(keys)
    scaling = dict(out.pop("rope_scaling") or {})
    kind = scaling.pop("type", "default")
    return out | {
        "rope_parameters": {"rope_type": kind, "rope_theta": out.pop("rope_theta"), **scaling}
    }


@given(configs())
@settings(max_examples=EXAMPLES)
def test_both_spellings_of_the_rope_say_the_same(config: ModelConfig) -> None:
    keys = by_json(to_hub(config))
    assert from_hub(new_spelling(keys)) == config
    both = keys | {"rope_parameters": new_spelling(keys)["rope_parameters"]}
    assert from_hub(both) == config


def test_spellings_that_differ_are_refused() -> None:
    keys = to_hub(preset("deepseek-v3")[0])
    both = keys | {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}
    with pytest.raises(ValueError, match="rope_parameters and rope_scaling differ"):
        from_hub(both)
    twice = new_spelling(keys) | {"rope_theta": 5.0}
    with pytest.raises(ValueError, match=r"rope_theta is 5\.0, and 10000\.0 in rope_parameters"):
        from_hub(twice)


# Against transformers: its classes' files, and what it makes of keys that are left out.

SMALL: dict[str, Any] = {
    **{"vocab_size": 264, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3},
    **{"num_attention_heads": 4, "max_position_embeddings": 128},
}
LATENT: dict[str, Any] = {
    **{"moe_intermediate_size": 16, "kv_lora_rank": 16, "q_lora_rank": None, "v_head_dim": 8},
    **{"qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "n_routed_experts": 8},
    **{"n_shared_experts": 2, "num_experts_per_tok": 2, "first_k_dense_replace": 1},
}
YARN: dict[str, Any] = {
    **{"rope_type": "yarn", "rope_theta": 50000.0, "factor": 4.0, "beta_fast": 16.0},
    **{"mscale": 1.0, "mscale_all_dim": 0.707, "original_max_position_embeddings": 32},
}
LLAMA3: dict[str, Any] = {
    **{"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0},
    **{"high_freq_factor": 4.0, "original_max_position_embeddings": 32},
}
WRITTEN: dict[str, tuple[str, dict[str, Any], ModelConfig | None]] = {
    "v3, defaults": ("DeepseekV3Config", {}, ModelConfig(initializer_range=0.02)),
    "v3": (
        "DeepseekV3Config",
        SMALL | LATENT | {"n_group": 2, "topk_group": 1, "rope_parameters": YARN},
        ModelConfig(
            **SMALL,
            **LATENT,
            **{"n_group": 2, "topk_group": 1, "initializer_range": 0.02, "rope_theta": 50000.0},
            rope_scaling=RopeScaling(**{k: v for k, v in YARN.items() if k != "rope_theta"}),
        ),
    ),
    "v2, defaults": ("DeepseekV2Config", {}, None),  # no experts a token
    "v2": (
        "DeepseekV2Config",
        SMALL | LATENT | {"topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2},
        ModelConfig(
            **SMALL,
            **LATENT,
            **{"model_type": "deepseek_v2", "topk_method": "group_limited_greedy", "n_group": 4},
            **{"topk_group": 2, "norm_topk_prob": False, "routed_scaling_factor": 1.0},
            **{"num_nextn_predict_layers": 0, "initializer_range": 0.02},
            **{"bos_token_id": 1, "eos_token_id": 2},
        ),
    ),
    "llama, defaults": (
        "LlamaConfig",
        {},
        ModelConfig(
            **{"model_type": "llama", "vocab_size": 32000, "hidden_size": 4096},
            **{"intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
            **{"max_position_embeddings": 2048, "initializer_range": 0.02},
            **{"bos_token_id": 1, "eos_token_id": 2},
        ),
    ),
    "llama": (
        "LlamaConfig",
        SMALL
        | {"num_key_value_heads": 2, "head_dim": 6, "attention_bias": True, "mlp_bias": True}
        | {"tie_word_embeddings": True, "eos_token_id": [7, 8], "rope_parameters": LLAMA3},
        ModelConfig(
            **SMALL,
            **{"model_type": "llama", "num_key_value_heads": 2, "head_dim": 6, "mlp_bias": True},
            **{"attention_bias": True, "tie_word_embeddings": True, "rope_theta": 500000.0},
            **{"bos_token_id": 1, "eos_token_id": 7, "initializer_range": 0.02},
            rope_scaling=RopeScaling(**{k: v for k, v in LLAMA3.items() if k != "rope_theta"}),
        ),
    ),
    "qwen2, defaults": (
        "Qwen2Config",
        {},
        ModelConfig(
            **{"model_type": "qwen2", "vocab_size": 151936, "hidden_size": 4096},
            **{"intermediate_size": 22016, "num_hidden_layers": 32, "num_attention_heads": 32},
            **{"max_position_embeddings": 32768, "initializer_range": 0.02},
            **{"bos_token_id": -1, "eos_token_id": -1},
        ),
    ),
    "qwen3": (
        "Qwen3Config",
        SMALL | {"num_key_value_heads": 2, "attention_bias": True, "rms_norm_eps": 1e-5},
        ModelConfig(
            **SMALL,
            **{"model_type": "qwen3", "num_key_value_heads": 2, "head_dim": 128},
            **{"attention_bias": True, "rms_norm_eps": 1e-5, "initializer_range": 0.02},
            **{"bos_token_id": -1, "eos_token_id": -1},
        ),
    ),
}


def hub_class(name: str) -> Any:
    transformers = pytest.importorskip("transformers", reason="install the extra 'dev'")
    return getattr(transformers, name)


@pytest.mark.parametrize("case", WRITTEN.values(), ids=WRITTEN)
def test_what_transformers_writes_is_read(
    case: tuple[str, dict[str, Any], ModelConfig | None], tmp_path: Path
) -> None:
    name, changes, expected = case
    written = hub_class(name)(**changes)
    written.save_pretrained(tmp_path)
    for read in (lambda: read_config(tmp_path)[0], lambda: from_hub(by_json(written.to_dict()))):
        if expected is None:
            with pytest.raises(ValueError, match="num_experts_per_tok is None"):
                read()
        else:
            assert read() == expected


CLASSES = {
    "deepseek_v3": "DeepseekV3Config",
    "deepseek_v2": "DeepseekV2Config",
    "llama": "LlamaConfig",
    "qwen2": "Qwen2Config",
    "qwen3": "Qwen3Config",
}


WIDE: dict[str, Any] = SMALL | {"hidden_size": 128, "num_attention_heads": 64}
COMPLETE = {
    "deepseek_v3": ModelConfig(**(SMALL | LATENT), n_group=2, topk_group=1),
    "deepseek_v2": ModelConfig(
        **(SMALL | LATENT),
        **{"model_type": "deepseek_v2", "topk_method": "group_limited_greedy", "n_group": 4},
        **{"topk_group": 2, "norm_topk_prob": False, "num_nextn_predict_layers": 0},
    ),
    "llama": ModelConfig(
        **WIDE, model_type="llama", num_key_value_heads=4, attention_bias=True, mlp_bias=True
    ),
    "qwen2": ModelConfig(**WIDE, model_type="qwen2", num_key_value_heads=4),
    "qwen3": ModelConfig(**WIDE, model_type="qwen3", num_key_value_heads=4, head_dim=6),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_key_left_out_is_read_as_transformers_reads_it(family: str) -> None:
    """Or refused; never as another network."""
    written = by_json(to_hub(replace(COMPLETE[family], rms_norm_eps=1e-4, rope_theta=77.0)))
    del written["rope_scaling"]
    read = 0
    for gone in sorted(written.keys() - {"model_type", "architectures"}):
        keys = {key: value for key, value in written.items() if key != gone}
        try:
            ours = to_hub(from_hub(keys))
        except ValueError:
            continue
        seen = {key: value for key, value in keys.items() if key != "model_type"}
        theirs = by_json(hub_class(CLASSES[family])(**seen).to_dict())
        assert ours["rope_theta"] == theirs["rope_parameters"]["rope_theta"], gone
        heads = theirs["hidden_size"] // theirs["num_attention_heads"]
        theirs.setdefault("head_dim", heads)
        if family == "deepseek_v2":  # as null its class has no groups
            theirs |= {key: theirs[key] or 1 for key in ("n_group", "topk_group")}
        if family.startswith("deepseek"):  # where neither counts
            del theirs["num_key_value_heads"], theirs["head_dim"]
        idle = {"n_group", "topk_group"} if ours.get("topk_method") == "greedy" else set()
        for key in ours.keys() & theirs.keys() - {"architectures"} - idle:
            assert ours[key] == theirs[key], (gone, key)
        read += 1
    assert read >= 5


def test_a_stretch_is_derived_from_the_lengths() -> None:
    """The trained length is the longest where none is given, the factor their ratio."""
    keys = to_hub(COMPLETE["qwen3"]) | {"max_position_embeddings": 1000}
    assert from_hub(keys | {"rope_scaling": {"type": "yarn", "factor": 2}}).rope_scaling == (
        RopeScaling(rope_type="yarn", factor=2.0, original_max_position_embeddings=1000)
    )
    scaling = {"rope_type": "yarn", "factor": None, "original_max_position_embeddings": 250}
    assert from_hub(keys | {"rope_scaling": scaling}).rope_scaling == (
        RopeScaling(rope_type="yarn", factor=4.0, original_max_position_embeddings=250)
    )


# Published files whose keys the presets do not show.

DISTILLED: dict[str, Any] = {  # DeepSeek-R1-Distill-Qwen-7B
    **{"architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643},
    **{"eos_token_id": 151643, "hidden_act": "silu", "hidden_size": 3584},
    **{"initializer_range": 0.02, "intermediate_size": 18944, "max_position_embeddings": 131072},
    **{"max_window_layers": 28, "model_type": "qwen2", "num_attention_heads": 28},
    **{"num_hidden_layers": 28, "num_key_value_heads": 4, "rms_norm_eps": 1e-06},
    **{"rope_theta": 10000, "sliding_window": 4096, "tie_word_embeddings": False},
    **{"torch_dtype": "bfloat16", "transformers_version": "4.44.0", "use_cache": True},
    **{"use_mrope": False, "use_sliding_window": False, "vocab_size": 152064},
}


def test_a_distilled_qwen_is_read() -> None:
    base, _ = preset("qwen2.5-7b")
    changed = {"rope_theta": 10000.0, "max_position_embeddings": 131072}
    assert from_hub(DISTILLED) == replace(base, **changed)


RESTRAINED: dict[str, Any] = {  # DeepSeek-R1-0528-Qwen3-8B
    **{"rope_theta": 1000000, "max_position_embeddings": 131072},
    "rope_scaling": {
        **{"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
        "attn_factor": 0.8782488562869419,
    },
}


def test_a_share_of_yarns_factor_is_read_and_written_for_others() -> None:
    """The share of R1-0528's Qwen3 undoes the usual factor, 0.1 ln 4 + 1, to the last digit."""
    config = from_hub(changed("qwen3-8b", **RESTRAINED))
    assert config.rope_scaling.turn_factor == 1.0
    written = to_hub(config)["rope_scaling"]
    assert (written["attention_factor"], written["attn_factor"]) == (1.0, 0.8782488562869419)
    assert from_hub(to_hub(config)) == config
    apart = {**RESTRAINED["rope_scaling"], "attention_factor": 1.1}
    with pytest.raises(ValueError, match=r"attention_factor is 1\.1, and its attn_factor, 0\.878"):
        from_hub(changed("qwen3-8b", rope_scaling=apart))
    for share in (0, -1.0, True, "1"):
        silent = {**RESTRAINED["rope_scaling"], "attn_factor": share}
        with pytest.raises(ValueError, match="attn_factor is "):
            from_hub(changed("qwen3-8b", rope_scaling=silent))


def test_released_keys_beside_the_shape_are_passed_over() -> None:
    config, _ = preset("deepseek-v3")
    more: dict[str, Any] = {
        **{"auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV3Config"}},
        **{"aux_loss_alpha": 0.001, "ep_size": 1, "pretraining_tp": 1, "seq_aux": True},
        **{"transformers_version": "4.33.1", "torch_dtype": "bfloat16", "pad_token_id": None},
        **{"head_dim": 64, "qk_head_dim": 192, "num_key_value_heads": 128},
    }
    assert from_hub(to_hub(config) | more) == config
    assert from_hub(to_hub(config) | {"model_type": "kimi_k2"}) == config


def test_more_dense_layers_than_layers_make_all_dense() -> None:
    """As transformers' defaults leave it where only num_hidden_layers is given."""
    config = from_hub(changed("deepseek-v3", num_hidden_layers=2))
    assert (config.first_k_dense_replace, config.num_moe_layers) == (2, 0)


def test_kimis_other_names_of_keys_count() -> None:
    keys = to_hub(preset("kimi-k2")[0])
    expected = from_hub(keys)
    keys["num_local_experts"] = keys.pop("n_routed_experts")
    keys["num_mtp_layers"] = keys.pop("num_nextn_predict_layers")
    assert from_hub(keys) == expected
    with pytest.raises(ValueError, match="n_routed_experts is 384 and, by another of its names, 7"):
        from_hub(keys | {"num_experts": 7})


def test_moonlights_latent_norms_keep_their_own_epsilon() -> None:
    config, _ = preset("moonlight-16b-a3b")
    assert (config.rms_norm_eps, config.latent_norm_eps) == (1e-5, 1e-6)


# Refusals: one sentence that names the key.


def changed(name: str, **changes: Any) -> dict[str, Any]:
    return to_hub(preset(name)[0]) | changes


NAN, INF, HUGE = math.nan, math.inf, 10**99
YARN_OLD = {k: v for k, v in YARN.items() if k not in ("rope_theta", "rope_type")} | {
    "type": "yarn"
}
AT_FAULT: dict[str, tuple[str, dict[str, Any], str]] = {
    "family": ("deepseek-v3", {"model_type": "mixtral"}, "model_type is 'mixtral'"),
    "no family": ("deepseek-v3", {"model_type": None}, "model_type is None"),
    "family, a list": ("deepseek-v3", {"model_type": ["llama"]}, "model_type is ['llama']"),
    "architecture": (
        "llama-3.1-8b",
        {"architectures": ["LlamaForSequenceClassification"]},
        "architectures is ['LlamaForSequenceClassification']",
    ),
    "architecture, text": ("llama-3.1-8b", {"architectures": "Llama"}, "architectures is 'Llama'"),
    "unknown key": ("qwen3-8b", {"attn_logit_softcapping": 30.0}, "'attn_logit_softcapping'"),
    "experts in a dense one": ("qwen3-8b", {"num_experts": 128}, "the key 'num_experts'"),
    "bool for int": ("deepseek-v3", {"hidden_size": True}, "hidden_size is True"),
    "float for int": ("deepseek-v3", {"num_hidden_layers": 61.0}, "num_hidden_layers is 61.0"),
    "text for int": ("deepseek-v3", {"vocab_size": "129280"}, "vocab_size is '129280'"),
    "list for int": ("deepseek-v3", {"kv_lora_rank": [512]}, "kv_lora_rank is [512]"),
    "null for int": ("deepseek-v3", {"hidden_size": None}, "hidden_size is None"),
    "huge int": ("deepseek-v3", {"vocab_size": HUGE}, "vocab_size is 1"),
    "negative": ("deepseek-v3", {"v_head_dim": -1}, "v_head_dim is -1"),
    "int for bool": ("deepseek-v3", {"norm_topk_prob": 1}, "norm_topk_prob is 1"),
    "text for float": ("deepseek-v3", {"rms_norm_eps": "1e-6"}, "rms_norm_eps is '1e-6'"),
    "NaN": ("deepseek-v3", {"rms_norm_eps": NAN}, "rms_norm_eps is nan"),
    "infinity": ("deepseek-v3", {"routed_scaling_factor": INF}, "routed_scaling_factor is inf"),
    "huge float": ("deepseek-v3", {"rope_theta": 10**400}, "rope_theta is 1"),
    "tokens": ("deepseek-v3", {"eos_token_id": []}, "eos_token_id is []"),
    "token, a bool": ("deepseek-v3", {"eos_token_id": [True]}, "eos_token_id is True"),
    "rotated width": ("deepseek-v3", {"head_dim": 64.0}, "head_dim is 64.0"),
    "layers": ("llama-3.1-8b", {"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"),
    "all experts": (
        "deepseek-v3",
        {"num_hidden_layers": 4096, "n_routed_experts": 1 << 16},
        "num_hidden_layers = 4096 with n_routed_experts = 65536",
    ),
    "activation": ("llama-3.1-8b", {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
    "dropout": ("llama-3.1-8b", {"attention_dropout": 0.1}, "attention_dropout is 0.1"),
    "sparse now and then": ("deepseek-v2", {"moe_layer_freq": 2}, "moe_layer_freq is 2"),
    "a bool for one": ("deepseek-v2", {"moe_layer_freq": True}, "moe_layer_freq is True"),
    "halves in v3": ("deepseek-v3", {"rope_interleave": False}, "rope_interleave is False"),
    "windows": ("qwen2.5-7b", {"use_sliding_window": True}, "use_sliding_window is True"),
    "windowed layers": (
        "qwen3-8b",
        {"layer_types": ["full_attention", "sliding_attention"]},
        "layer_types is ['full_attention', 'sliding_attention']",
    ),
    "layer types, text": ("qwen3-8b", {"layer_types": "full_attention"}, "layer_types is 'full"),
    "three axes": ("qwen2.5-7b", {"use_mrope": True}, "use_mrope is True"),
    "bias in latents": ("deepseek-v3", {"attention_bias": True}, "attention_bias is set"),
    "bias in qwen3's mlp": ("qwen3-8b", {"mlp_bias": True}, "mlp_bias is set"),
    "two looks ahead": (
        "deepseek-v3",
        {"num_nextn_predict_layers": 2},
        "num_nextn_predict_layers is 2",
    ),
    "v2 that looks ahead": (
        "deepseek-v2",
        {"num_nextn_predict_layers": 1},
        "num_nextn_predict_layers is set",
    ),
    "softmax in v3": ("deepseek-v3", {"scoring_func": "softmax"}, "scoring_func is 'softmax'"),
    "v3's choice in v2": ("deepseek-v2", {"topk_method": "noaux_tc"}, "topk_method is 'noaux_tc'"),
    "a choice of its own": ("deepseek-v2", {"topk_method": "random"}, "topk_method is 'random'"),
    "normed softmax": ("deepseek-v2", {"norm_topk_prob": True}, "norm_topk_prob is set"),
    "ungrouped heads": ("llama-3.1-8b", {"num_key_value_heads": 5}, "num_key_value_heads = 5"),
    "odd heads": ("llama-3.1-8b", {"head_dim": 127}, "head_dim is 127"),
    "rope, text": ("llama-3.1-8b", {"rope_scaling": "yarn"}, "rope_scaling is 'yarn'"),
    "dynamic": (
        "llama-3.1-8b",
        {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
        "rope_scaling's type is 'dynamic'",
    ),
    "longrope": (
        "llama-3.1-8b",
        {"rope_scaling": {"rope_type": "longrope", "short_factor": [1.0]}},
        "rope_scaling's type is 'longrope'",
    ),
    "two types": (
        "llama-3.1-8b",
        {"rope_scaling": {"type": "yarn", "rope_type": "linear", "factor": 2.0}},
        "'type' and 'rope_type' differ",
    ),
    "no factor": ("llama-3.1-8b", {"rope_scaling": {"type": "linear"}}, "the key 'factor'"),
    "part of the head": (
        "llama-3.1-8b",
        {"rope_scaling": {"rope_type": "default", "partial_rotary_factor": 0.5}},
        "'partial_rotary_factor'",
    ),
    "part of it, above": ("llama-3.1-8b", {"partial_rotary_factor": 0.5}, "'partial_rotary_factor"),
    "factor, a bool": (
        "llama-3.1-8b",
        {"rope_scaling": {"type": "linear", "factor": True}},
        "rope_scaling's factor is True",
    ),
    "factor, zero": (
        "llama-3.1-8b",
        {"rope_scaling": {"type": "linear", "factor": 0}},
        "rope_scaling.factor is 0",
    ),
    "trained length, a float": (
        "deepseek-v3",
        {"rope_scaling": YARN_OLD | {"original_max_position_embeddings": 4096.0}},
        "original_max_position_embeddings is 4096.0",
    ),
    "trained length, none": (
        "deepseek-v3",
        {"rope_scaling": {"type": "yarn", "original_max_position_embeddings": 0}},
        "rope_scaling of type 'yarn' needs the key 'factor'",
    ),
    "truncate, a number": (
        "deepseek-v3",
        {"rope_scaling": YARN_OLD | {"truncate": 0}},
        "rope_scaling's truncate is 0",
    ),
    "silenced rope": (
        "deepseek-v3",
        {"rope_scaling": YARN_OLD | {"attention_factor": 0.0}},
        "rope_scaling's attention_factor is 0",
    ),
    "scaled softmax without yarn": (
        "deepseek-v3",
        {"rope_scaling": {"type": "linear", "factor": 2.0, "mscale_all_dim": 1.0}},
        "rope_scaling's mscale_all_dim is given with the type 'linear'",
    ),
    "bands the wrong way round": (
        "llama-3.1-8b",
        {
            "rope_scaling": {"type": "llama3", "factor": 8.0}
            | {"low_freq_factor": 4.0, "high_freq_factor": 1.0}
        },
        "rope_scaling.high_freq_factor = 1 must exceed low_freq_factor = 4",
    ),
    "neighbours turned together": (
        "llama-3.1-8b",
        {"rope_interleaved": True},
        "rope_interleaved is True",
    ),
    "a base of one": (
        "deepseek-v3",
        {"rope_theta": 1, "rope_scaling": YARN_OLD},
        "rope_theta is 1",
    ),
}


@pytest.mark.parametrize("case", AT_FAULT.values(), ids=AT_FAULT)
def test_what_is_not_supported_is_refused_by_name(case: tuple[str, dict[str, Any], str]) -> None:
    name, changes, said = case
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        from_hub(changed(name, **changes))
    check_sentence(str(caught.value))


def check_sentence(text: str) -> None:
    """One line, of a length that can be read, with a remedy or the values that would do."""
    assert text.isprintable() and len(text) < 500


def test_what_smollm2_adds_says_nothing_of_the_network() -> None:
    added = {"is_llama_config": True, "rope_interleaved": False, "neftune_noise_alpha": None}
    keys = changed("llama-3.1-8b")
    assert from_hub(keys | added | {"max_sequence_length": 2048}) == from_hub(keys)


@pytest.mark.parametrize(
    "key", ["vocab_size", "hidden_size", "num_hidden_layers", "kv_lora_rank", "n_routed_experts"]
)
def test_a_key_that_is_needed_is_named(key: str) -> None:
    keys = changed("deepseek-v3")
    del keys[key]
    with pytest.raises(ValueError, match=f"the key '{key}' is missing"):
        from_hub(keys)


QUANTIZED: dict[str, tuple[Any, str]] = {
    "gptq": ({"quant_method": "gptq", "bits": 4}, "quantization_config names 'gptq'"),
    "nothing": ({}, "quantization_config names None"),
    "text": ("fp8", "quantization_config names 'fp8'"),
    "e5m2": ({"quant_method": "fp8", "fmt": "e5m2"}, "quantization_config.fmt is 'e5m2'"),
    "scales": ({"quant_method": "fp8", "scale_fmt": "int"}, "quantization_config.scale_fmt is"),
    "whole tensors": (
        {"quant_method": "fp8", "weight_block_size": None},
        "quantization_config.weight_block_size is None",
    ),
    "three": (
        {"quant_method": "fp8", "weight_block_size": [1, 2, 3]},
        "quantization_config.weight_block_size is [1, 2, 3]",
    ),
    "zero": (
        {"quant_method": "fp8", "weight_block_size": [0, 128]},
        "quantization_config.weight_block_size is [0, 128]",
    ),
    "blocks that no scratch memory holds": (
        {"quant_method": "fp8", "weight_block_size": [128, 1025]},
        "quantization_config.weight_block_size is [128, 1025]",
    ),
    "bool": (
        {"quant_method": "fp8", "weight_block_size": [True, 128]},
        "quantization_config.weight_block_size is [True, 128]",
    ),
}


@pytest.mark.parametrize("case", QUANTIZED.values(), ids=QUANTIZED)
def test_other_quantizations_are_refused(case: tuple[Any, str]) -> None:
    with pytest.raises(ValueError, match=re.escape(case[1])) as caught:
        fp8_format({"quantization_config": case[0]})
    check_sentence(str(caught.value))


@pytest.mark.parametrize("fp8", [Fp8Format(), Fp8Format((64, 32), "ue8m0")])
def test_the_fp8_format_reads_back(fp8: Fp8Format) -> None:
    assert fp8_format(by_json({"quantization_config": fp8.to_hub()})) == fp8
    assert fp8_format({}) is None


def test_the_file_at_fault_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(changed("llama-3.1-8b", hidden_act="gelu")))
    with pytest.raises(HubError) as caught:
        read_config(tmp_path)
    assert str(caught.value).startswith(f"{path}: hidden_act is 'gelu'")


def test_the_file_is_named_where_a_cache_links_it(tmp_path: Path) -> None:
    home = tmp_path / "models--a--b" / "snapshots" / "1"
    blob = tmp_path / "models--a--b" / "blobs" / "cafe"
    home.mkdir(parents=True)
    blob.parent.mkdir()
    blob.write_text(json.dumps(to_hub(preset("qwen3-0.6b")[0])))
    (home / "config.json").symlink_to("../../blobs/cafe")
    assert read_config(home) == preset("qwen3-0.6b")
    blob.write_text("{}")
    with pytest.raises(HubError) as caught:
        read_config(home)
    assert str(caught.value).startswith(f"{home / 'config.json'}: model_type is None")


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no preset 'gpt-5': choose from deepseek-r1, "):
        preset("gpt-5")


@pytest.mark.parametrize("kind", ["ntk", ""])
def test_a_rope_of_another_type_cannot_be_made(kind: Any) -> None:
    with pytest.raises(ValueError, match=r"rope_scaling\.rope_type is .*: choose from default, "):
        RopeScaling(rope_type=kind)


# Any object: a shape whose layout is bounded, or a refusal.

KEYS = sorted(
    {key for name in presets() for key in to_hub(preset(name)[0])}
    | {"rope_parameters", "quantization_config", "layer_types", "num_experts", "num_mtp_layers"}
    | {"mlp_bias", "num_local_experts", "torch_dtype", "use_mrope", "scoring_func"}
)
ROPE_KEYS = [*sorted(RopeScaling.__dataclass_fields__), "type", "rope_theta", "beta"]
numbers = st.one_of(
    st.integers(-3, 70),
    st.sampled_from([2**24, 2**24 + 1, 10**9, 10**99, -(10**99), 10**400]),
    st.floats(),
)
words = st.sampled_from([*ARCHITECTURES, "yarn", "linear", "silu", "fp8", "greedy", "noaux_tc", ""])
scalars = st.one_of(st.none(), st.booleans(), numbers, words, st.text(string.printable, max_size=9))
objects = st.dictionaries(st.sampled_from(ROPE_KEYS) | st.text(max_size=4), scalars, max_size=8)
trees = st.one_of(scalars, st.lists(scalars, max_size=3), objects)


@given(
    st.none() | configs(),
    st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=6), trees, max_size=6),
)
@settings(max_examples=2 * EXAMPLES)
def test_any_object_is_a_shape_or_a_refusal(
    base: ModelConfig | None, edits: dict[str, Any]
) -> None:
    keys = (to_hub(base) if base else {}) | edits
    try:
        config = from_hub(keys)
        fp8 = fp8_format(keys)
    except ValueError as error:
        check_sentence(str(error))
        return
    assert from_hub(by_json(to_hub(config))) == config
    experts = (config.num_hidden_layers + 1) * config.n_routed_experts
    if experts < 10_000:
        assert layout(config, fp8)


@given(st.binary(max_size=60) | trees.map(lambda tree: json.dumps(tree).encode()))
@settings(max_examples=EXAMPLES)
def test_any_file_is_a_shape_or_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    folder = tmp_path_factory.mktemp("any")
    (folder / "config.json").write_bytes(content)
    with pytest.raises(HubError):
        read_config(folder)


def test_a_sentence_stays_short_whatever_the_file_says() -> None:
    long = "x" * 1_000_000
    for keys in (
        {"model_type": long},
        changed("llama-3.1-8b", architectures=[long]),
        changed("llama-3.1-8b", hidden_act=long),
        changed("llama-3.1-8b", **{long: 1}),
        changed("llama-3.1-8b", rope_scaling={"type": long}),
        changed("llama-3.1-8b", rope_scaling={"type": "linear", long: 1}),
        changed("deepseek-v3", scoring_func=long),
        changed("deepseek-v2", topk_method=long),
        changed("deepseek-v3", **{"line\nbreak\x1b[2J": 1}),
    ):
        with pytest.raises(ValueError, match=r"not supported|topk_method is") as caught:
            from_hub(keys)
        check_sentence(str(caught.value))
