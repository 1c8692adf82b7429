"""The Hub's `config.json`, in and out, for every family that `ModelConfig` describes.

Reads the spellings of the releases (`rope_scaling` beside `rope_theta`) and of transformers 5
(`rope_parameters`), and writes the keys that transformers, vLLM and SGLang look for. A key that is
not known may change the network, so it is refused by name; keys that say nothing of the network
(of the file, of training, of sampling) are passed over. Nothing that the file names is imported.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any, Literal, cast

from benthic.hub.files import CONFIG_LIMIT, HubError, read_json, shown
from benthic.hub.keys import kinds, typed
from benthic.hub.rope import rope_from_hub, rope_to_hub
from benthic.model.config import ModelConfig

_KINDS = kinds(ModelConfig)

BLOCK_LIMIT = 1024  # rows or columns: a row of blocks is widened at a time
ARCHITECTURES = {
    "deepseek_v3": "DeepseekV3ForCausalLM",
    "deepseek_v2": "DeepseekV2ForCausalLM",
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
_ALIASES = {"kimi_k2": "deepseek_v3"}  # Kimi-K2 is DeepSeek-V3 by another name

_RENAMED = {
    "num_local_experts": "n_routed_experts",
    "num_experts": "n_routed_experts",
    "num_mtp_layers": "num_nextn_predict_layers",
}
_LATENT_KEYS = (
    *("moe_intermediate_size", "first_k_dense_replace", "q_lora_rank", "kv_lora_rank"),
    *("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "n_routed_experts"),
    *("n_shared_experts", "num_experts_per_tok", "n_group", "topk_group", "topk_method"),
    *("norm_topk_prob", "routed_scaling_factor", "num_nextn_predict_layers", "latent_norm_eps"),
)
_GROUPED_KEYS = ("num_key_value_heads", "head_dim")
_COMMON_KEYS = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings"),
    *("initializer_range", "bos_token_id", "eos_token_id"),
)
# A key's value where the file leaves it out: transformers' own default, for some the family's.
_ABSENT: dict[str, Any] = {
    **{"rms_norm_eps": 1e-6, "latent_norm_eps": 1e-6, "initializer_range": 0.02},
    **{"bos_token_id": -1, "eos_token_id": -1, "num_key_value_heads": 0, "head_dim": 0},
    **{"tie_word_embeddings": False, "attention_bias": False, "mlp_bias": False},
    **{"n_group": 1, "topk_group": 1, "topk_method": "greedy", "norm_topk_prob": False},
    **{"routed_scaling_factor": 1.0, "first_k_dense_replace": 0, "num_nextn_predict_layers": 0},
}
_ABSENT_IN: dict[str, dict[str, Any]] = {
    "deepseek_v3": {
        **{"q_lora_rank": 1536, "n_group": 8, "topk_group": 4, "routed_scaling_factor": 2.5},
        **{"first_k_dense_replace": 3, "norm_topk_prob": True, "topk_method": "noaux_tc"},
        **{"num_nextn_predict_layers": 1, "bos_token_id": 0, "eos_token_id": 1},
    },
    "deepseek_v2": {"q_lora_rank": 1536, "bos_token_id": 1, "eos_token_id": 2},
    "llama": {"bos_token_id": 1, "eos_token_id": 2},
    "qwen2": {"num_key_value_heads": 32},
    "qwen3": {"num_key_value_heads": 32, "head_dim": 128},
}
# What null says: not there, or derived from other keys.
_NULL: dict[str, Any] = {
    **{"q_lora_rank": None, "num_key_value_heads": 0, "head_dim": 0},
    **{"n_group": 1, "topk_group": 1, "bos_token_id": -1, "eos_token_id": -1},
}
# Keys with the one value that is run; another changes the network.
_FIXED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "attention_dropout": (0, 0.0, None),
    "embd_pdrop": (0, 0.0, None),
    "resid_pdrop": (0, 0.0, None),
    "moe_layer_freq": (1,),
    "rope_interleave": (True,),
    "rope_interleaved": (False, None),  # SmolLM2 says that its halves are not
    "use_sliding_window": (False, None),
    "use_mrope": (False, None),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "use_bidirectional_attention": (False, None),
}
# Of the file, of training, of sampling: the network is the same without them.
_OF_OTHERS = """
    architectures model_type auto_map torch_dtype dtype transformers_version quantization_config
    rope_theta rope_scaling rope_parameters scoring_func _name_or_path _commit_hash
    _attn_implementation _attn_implementation_autoset attn_implementation use_cache pad_token_id
    pretraining_tp ep_size tp_plan aux_loss_alpha seq_aux output_router_logits
    router_aux_loss_coef qk_head_dim layer_types sliding_window max_window_layers
    unsloth_version unsloth_fixed transformers.js_config base_model_ep_plan use_mtp
    model_max_length return_dict output_hidden_states output_attentions torchscript use_bfloat16
    tf_legacy_loss pruned_heads chunk_size_feed_forward is_decoder prefix
    cross_attention_hidden_size tie_encoder_decoder max_length min_length do_sample
    early_stopping num_beams num_beam_groups diversity_penalty temperature top_k top_p typical_p
    repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size
    bad_words_ids num_labels num_return_sequences output_scores return_dict_in_generate
    problem_type forced_bos_token_id forced_eos_token_id remove_invalid_values finetuning_task
    exponential_decay_length_penalty suppress_tokens begin_suppress_tokens id2label label2id
    tokenizer_class sep_token_id decoder_start_token_id task_specific_params classifier_dropout
    is_llama_config neftune_noise_alpha max_sequence_length
"""
_PASSED_OVER = frozenset(_OF_OTHERS.split())


@dataclass(frozen=True)
class Fp8Format:
    """How a checkpoint's FP8 weights are stored: e4m3, one scale a block."""

    block: tuple[int, int] = (128, 128)
    scale_fmt: Literal["float", "ue8m0"] = "float"
    scale_dtype: Literal["F32", "BF16", "F8_E8M0"] = "F32"
    """of the scales in the file, which `config.json` does not say"""

    def to_hub(self) -> dict[str, Any]:
        """The `quantization_config` of DeepSeek's releases."""
        keys: dict[str, Any] = {
            "activation_scheme": "dynamic",
            "fmt": "e4m3",
            "quant_method": "fp8",
            "weight_block_size": list(self.block),
        }
        return keys | ({"scale_fmt": "ue8m0"} if self.scale_fmt == "ue8m0" else {})


def read_config(folder: Path) -> tuple[ModelConfig, Fp8Format | None]:
    """Shape and FP8 format of a checkpoint's folder; HubError names file and key."""
    return read_config_file(folder / "config.json")[1:]


def read_config_file(path: Path) -> tuple[dict[str, Any], ModelConfig, Fp8Format | None]:
    """A `config.json`: its keys, the shape and the FP8 format; HubError names file and key."""
    keys = read_json(path, limit=CONFIG_LIMIT)
    try:
        return keys, from_hub(keys), fp8_format(keys)
    except ValueError as error:
        raise HubError(f"{path}: {error}") from error


def family_of(keys: Mapping[str, Any]) -> str:
    """The family that a `config.json` names; ValueError if Benthic does not know it."""
    kind = keys.get("model_type")
    family = _ALIASES.get(str(kind), str(kind))
    known = f"Benthic reads {', '.join([*ARCHITECTURES, *_ALIASES])}"
    if family not in ARCHITECTURES:
        raise ValueError(f"model_type is {shown(kind)}, which is not supported: {known}")
    named = keys.get("architectures")
    if named is not None and named != [ARCHITECTURES[family]]:
        raise ValueError(
            f"architectures is {shown(named)}, which is not supported: {kind} is read as "
            f"[{ARCHITECTURES[family]!r}]"
        )
    return family


def from_hub(keys: Mapping[str, Any]) -> ModelConfig:
    """Read a `config.json`; ValueError names a key or value that is not supported."""
    family = family_of(keys)
    latent = family.startswith("deepseek")
    keys = _renamed(keys) if latent else keys
    wanted = [*_COMMON_KEYS, *(_LATENT_KEYS if latent else _GROUPED_KEYS)]
    wanted += ["attention_bias", "mlp_bias"]
    own: dict[str, Any] = {"model_type": family}
    for key, value in keys.items():
        if key in wanted:
            own[key] = _NULL[key] if value is None and key in _NULL else typed(key, value, _KINDS)
        elif key in _FIXED:
            if not any(value == run and type(value) is type(run) for run in _FIXED[key]):
                raise ValueError(
                    f"{key} is {shown(value)}, which is not supported: only {_FIXED[key][0]!r} is"
                )
        elif key in _GROUPED_KEYS and latent:
            # Latent attention has a key for each head and a width of its own for what is rotated:
            # other numbers are left-overs of transformers' classes, which no program heeds.
            if value is not None:
                typed(key, value, _KINDS)
        elif key not in _PASSED_OVER:
            raise ValueError(
                f"the key {shown(key)} is not supported, since it may change the network: if you "
                "know that it does not, delete it from the file"
            )
    for key in wanted:
        if key not in own:
            own[key] = _absent(key, family)
    if latent:  # the dense layers' count may exceed all layers', which are then dense, as elsewhere
        own["first_k_dense_replace"] = min(own["first_k_dense_replace"], own["num_hidden_layers"])
        _check_scores(keys, family)
    _check_windows(keys)
    own["rope_theta"], own["rope_scaling"] = rope_from_hub(
        keys, own["max_position_embeddings"], latent
    )
    return ModelConfig(**own)


def to_hub(config: ModelConfig) -> dict[str, Any]:
    """The `config.json` that transformers, vLLM and SGLang read, the dtype left to the writer."""
    latent = config.latent
    out: dict[str, Any] = {
        "architectures": [ARCHITECTURES[config.model_type]],
        "model_type": config.model_type,
        "hidden_act": "silu",
        "attention_bias": config.attention_bias,
        "attention_dropout": 0.0,
        "use_cache": True,
    }
    own = {f.name: getattr(config, f.name) for f in fields(config)}
    out |= {key: own[key] for key in (*_COMMON_KEYS, *(_LATENT_KEYS if latent else _GROUPED_KEYS))}
    for key in ("bos_token_id", "eos_token_id"):
        out[key] = None if own[key] == -1 else own[key]
    if latent:
        out["num_key_value_heads"] = config.num_attention_heads
        out["scoring_func"] = "sigmoid" if config.topk_method == "noaux_tc" else "softmax"
        out["moe_layer_freq"] = 1
        if config.latent_norm_eps == 1e-6:  # what other programs take without being told
            del out["latent_norm_eps"]
    if config.model_type == "deepseek_v3":
        out["rope_interleave"] = True
    else:
        out.pop("num_nextn_predict_layers", None)
    if config.model_type == "llama":
        out["mlp_bias"] = config.mlp_bias
    if config.model_type.startswith("qwen"):
        out["use_sliding_window"] = False
    if config.model_type == "qwen2":
        del out["attention_bias"]  # no key there: the biases are always on
    return out | rope_to_hub(config)


def fp8_format(keys: Mapping[str, Any]) -> Fp8Format | None:
    """The FP8 format that a `config.json` declares; none if its weights are plain."""
    quantization = keys.get("quantization_config")
    if quantization is None:
        return None
    if not isinstance(quantization, dict) or quantization.get("quant_method") != "fp8":
        named = quantization.get("quant_method") if isinstance(quantization, dict) else quantization
        raise ValueError(
            f"quantization_config names {shown(named)}, which is not supported: plain weights and "
            "DeepSeek's 'fp8' blocks are"
        )
    if quantization.get("fmt", "e4m3") != "e4m3":
        raise ValueError(
            f"quantization_config.fmt is {shown(quantization['fmt'])}: only 'e4m3' is read"
        )
    scales = quantization.get("scale_fmt") or "float"
    if scales not in ("float", "ue8m0"):
        raise ValueError(
            f"quantization_config.scale_fmt is {shown(scales)}: 'float' and 'ue8m0' are read"
        )
    block = quantization.get("weight_block_size", [128, 128])
    whole = isinstance(block, list) and len(block) == 2 and all(type(b) is int for b in block)
    if not whole or not all(1 <= b <= BLOCK_LIMIT for b in block):
        raise ValueError(
            f"quantization_config.weight_block_size is {shown(block)}: two whole numbers from 1 "
            f"to {BLOCK_LIMIT} are needed"
        )
    return Fp8Format((block[0], block[1]), cast(Literal["float", "ue8m0"], scales))


def _renamed(keys: Mapping[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in keys.items():
        name = _RENAMED.get(key, key)
        if name in out and out[name] != value:
            raise ValueError(
                f"{name} is {shown(out[name])} and, by another of its names, {shown(value)}: "
                "leave one of them"
            )
        out[name] = value
    return out


def _absent(key: str, family: str) -> Any:
    known = _ABSENT | _ABSENT_IN[family]
    if key not in known:
        raise ValueError(f"the key {key!r} is missing, which a {family} needs: add it")
    return known[key]


def _check_scores(keys: Mapping[str, Any], family: str) -> None:
    wanted = "sigmoid" if family == "deepseek_v3" else "softmax"
    if keys.get("scoring_func", wanted) != wanted:
        raise ValueError(
            f"scoring_func is {shown(keys['scoring_func'])}, which is not supported for {family}: "
            f"only {wanted!r} is"
        )


def _check_windows(keys: Mapping[str, Any]) -> None:
    kinds = keys.get("layer_types")
    full = isinstance(kinds, list) and all(kind == "full_attention" for kind in kinds)
    if kinds is not None and not full:
        raise ValueError(
            f"layer_types is {shown(kinds)}, which is not supported: only 'full_attention' is"
        )


def presets() -> list[str]:
    """Names of the released shapes that ship with Benthic."""
    folder = resources.files("benthic.hub").joinpath("presets")
    return sorted(f.name.removesuffix(".json") for f in folder.iterdir())


def preset(name: str) -> tuple[ModelConfig, Fp8Format | None]:
    """A released shape by name; ValueError lists the names."""
    if name not in presets():
        raise ValueError(f"there is no preset {name!r}: choose from {', '.join(presets())}")
    text = resources.files("benthic.hub").joinpath("presets", f"{name}.json").read_text()
    keys = json.loads(text)
    return from_hub(keys), fp8_format(keys)
