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

from benthic.hub.files import CONFIG_LIMIT, HubError, read_json, resolve
from benthic.model.config import ModelConfig, RopeScaling

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
# A key's value where the file leaves it out: transformers' own default for the family.
_ABSENT: dict[str, Any] = {
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "initializer_range": 0.02,
    "bos_token_id": -1,
    "eos_token_id": -1,
    "n_group": 1,
    "topk_group": 1,
    "routed_scaling_factor": 1.0,
    "first_k_dense_replace": 0,
    "num_nextn_predict_layers": 0,
    "latent_norm_eps": 1e-6,
    "num_key_value_heads": 0,
    "head_dim": 0,
    "attention_bias": False,
    "mlp_bias": False,
}
# Keys with the one value that is run; another changes the network.
_FIXED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "attention_dropout": (0, 0.0, None),
    "embd_pdrop": (0, 0.0, None),
    "resid_pdrop": (0, 0.0, None),
    "moe_layer_freq": (1,),
    "rope_interleave": (True,),
    "use_sliding_window": (False, None),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "use_bidirectional_attention": (False, None),
}
# Of the file, of training, of sampling: the network is the same without them.
_PASSED_OVER = {
    *("architectures", "model_type", "auto_map", "torch_dtype", "dtype", "transformers_version"),
    *("quantization_config", "rope_theta", "rope_scaling", "rope_parameters", "scoring_func"),
    *("_name_or_path", "_commit_hash", "_attn_implementation", "_attn_implementation_autoset"),
    *("attn_implementation", "use_cache", "pad_token_id", "pretraining_tp", "ep_size", "tp_plan"),
    *("aux_loss_alpha", "seq_aux", "output_router_logits", "router_aux_loss_coef"),
    *("qk_head_dim", "layer_types", "sliding_window", "max_window_layers", "unsloth_version"),
    *(
        "unsloth_fixed",
        "transformers.js_config",
        "base_model_ep_plan",
        "use_mtp",
        "model_max_length",
    ),
    *("return_dict", "output_hidden_states", "output_attentions", "torchscript", "use_bfloat16"),
    *("tf_legacy_loss", "pruned_heads", "chunk_size_feed_forward", "is_decoder", "prefix"),
    *("cross_attention_hidden_size", "tie_encoder_decoder", "max_length", "min_length"),
    *("do_sample", "early_stopping", "num_beams", "num_beam_groups", "diversity_penalty"),
    *("temperature", "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty"),
    *("no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids", "num_labels"),
    *("num_return_sequences", "output_scores", "return_dict_in_generate", "problem_type"),
    *("forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values", "finetuning_task"),
    *("exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens"),
    *("id2label", "label2id", "tokenizer_class", "sep_token_id", "decoder_start_token_id"),
    *("task_specific_params", "classifier_dropout"),
}


@dataclass(frozen=True)
class Fp8Format:
    """How a checkpoint's FP8 weights are stored: e4m3, one scale a block."""

    block: tuple[int, int] = (128, 128)
    scale_fmt: Literal["float", "ue8m0"] = "float"

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
    path = resolve(folder, "config.json")
    keys = read_json(path, limit=CONFIG_LIMIT)
    try:
        return from_hub(keys), fp8_format(keys)
    except ValueError as error:
        raise HubError(f"{path}: {error}") from error


def family_of(keys: Mapping[str, Any]) -> str:
    """The family that a `config.json` names; ValueError if Benthic does not know it."""
    kind = keys.get("model_type")
    family = _ALIASES.get(str(kind), str(kind))
    known = f"Benthic reads {', '.join([*ARCHITECTURES, *_ALIASES])}"
    if family not in ARCHITECTURES:
        raise ValueError(f"model_type is {kind!r}, which is not supported: {known}")
    named = keys.get("architectures")
    if named is not None and named != [ARCHITECTURES[family]]:
        raise ValueError(
            f"architectures is {named!r}, which is not supported: {kind} is read as "
            f"[{ARCHITECTURES[family]!r}]"
        )
    return family


def from_hub(keys: Mapping[str, Any]) -> ModelConfig:
    """Read a `config.json`; ValueError names a key or value that is not supported."""
    family = family_of(keys)
    latent = family.startswith("deepseek")
    keys = {_RENAMED.get(k, k) if latent else k: v for k, v in keys.items()}
    wanted = [*_COMMON_KEYS, *(_LATENT_KEYS if latent else _GROUPED_KEYS)]
    wanted += ["attention_bias", "mlp_bias"]
    own: dict[str, Any] = {"model_type": family}
    for key, value in keys.items():
        if key in wanted:
            own[key] = _absent(key, family) if value is None else _typed(key, value)
        elif key in _FIXED:
            if value not in _FIXED[key]:
                raise ValueError(
                    f"{key} is {value!r}, which is not supported: only {_FIXED[key][0]!r} is"
                )
        elif key in _GROUPED_KEYS and latent:
            _check_latent_heads(key, value, keys)
        elif key not in _PASSED_OVER:
            raise ValueError(
                f"the key {key!r} is not supported, since it may change the network: if you know "
                "that it does not, delete it from the file"
            )
    for key in wanted:
        if key not in own:
            own[key] = _absent(key, family)
    if latent:
        own["topk_method"] = _topk_method(keys, family)
    _check_windows(keys)
    own["rope_theta"], own["rope_scaling"] = _rope(keys)
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
    return out | _rope_keys(config)


def fp8_format(keys: Mapping[str, Any]) -> Fp8Format | None:
    """The FP8 format that a `config.json` declares; none if its weights are plain."""
    quantization = keys.get("quantization_config")
    if quantization is None:
        return None
    if not isinstance(quantization, dict) or quantization.get("quant_method") != "fp8":
        named = quantization.get("quant_method") if isinstance(quantization, dict) else quantization
        raise ValueError(
            f"quantization_config names {named!r}, which is not supported: plain weights and "
            "DeepSeek's 'fp8' blocks are"
        )
    if quantization.get("fmt", "e4m3") != "e4m3":
        raise ValueError(f"quantization_config.fmt is {quantization['fmt']!r}: only 'e4m3' is read")
    scales = quantization.get("scale_fmt") or "float"
    if scales not in ("float", "ue8m0"):
        raise ValueError(
            f"quantization_config.scale_fmt is {scales!r}: 'float' and 'ue8m0' are read"
        )
    block = quantization.get("weight_block_size", [128, 128])
    whole = isinstance(block, list) and len(block) == 2 and all(type(b) is int for b in block)
    if not whole or not all(1 <= b <= 1 << 16 for b in block):
        raise ValueError(
            f"quantization_config.weight_block_size is {block!r}: two whole numbers are needed"
        )
    return Fp8Format((block[0], block[1]), cast(Literal["float", "ue8m0"], scales))


def _absent(key: str, family: str) -> Any:
    if key == "q_lora_rank":
        return None
    if key == "head_dim" and family == "qwen3":
        return 128  # of transformers' class; other families divide the width
    if key == "norm_topk_prob":
        return family == "deepseek_v3"
    if key == "topk_method":
        return "noaux_tc" if family == "deepseek_v3" else "greedy"
    if key not in _ABSENT:
        raise ValueError(f"the key {key!r} is missing, which a {family} needs: add it")
    return _ABSENT[key]


def _typed(key: str, value: Any) -> Any:
    """The value as the field's type; a list of end tokens gives its first."""
    if key in ("eos_token_id", "bos_token_id") and isinstance(value, list) and value:
        value = value[0]
    kind = _KINDS[key]
    right = type(value) is kind or (kind is float and type(value) is int)
    if not right or (kind is float and not abs(value) < 1e300):
        words = {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}
        raise ValueError(f"{key} is {_short(value)}: it must be {words[kind]}")
    return kind(value)


_KINDS: dict[str, type] = {
    f.name: {int: int, float: float, bool: bool, int | None: int}.get(f.type, str)  # type: ignore
    for f in fields(ModelConfig)
}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def _check_latent_heads(key: str, value: Any, keys: Mapping[str, Any]) -> None:
    """Latent attention has one key a head; transformers writes the rotated width as head_dim."""
    same = "num_attention_heads" if key == "num_key_value_heads" else "qk_rope_head_dim"
    if value is not None and value != keys.get(same):
        raise ValueError(
            f"{key} is {_short(value)}: in latent attention it must equal {same} = {keys.get(same)}"
        )


def _topk_method(keys: Mapping[str, Any], family: str) -> str:
    sigmoid = family == "deepseek_v3"
    wanted = "sigmoid" if sigmoid else "softmax"
    if keys.get("scoring_func", wanted) != wanted:
        raise ValueError(
            f"scoring_func is {_short(keys['scoring_func'])}, which is not supported for {family}: "
            f"only {wanted!r} is"
        )
    return keys.get("topk_method") or ("noaux_tc" if sigmoid else "greedy")


def _check_windows(keys: Mapping[str, Any]) -> None:
    kinds = keys.get("layer_types")
    full = isinstance(kinds, list) and all(kind == "full_attention" for kind in kinds)
    if kinds is not None and not full:
        raise ValueError(
            f"layer_types is {_short(kinds)}, which is not supported: only 'full_attention' is"
        )


def _rope(keys: Mapping[str, Any]) -> tuple[float, RopeScaling]:
    """Base and scaling, from `rope_parameters` or from `rope_theta` and `rope_scaling`."""
    new, old = keys.get("rope_parameters"), keys.get("rope_scaling")
    for name, value in (("rope_parameters", new), ("rope_scaling", old)):
        if value is not None and not isinstance(value, dict):
            raise ValueError(f"{name} is {_short(value)}: it must be an object")
    scaling = dict(new if new is not None else old or {})
    base = scaling.pop("rope_theta", keys.get("rope_theta"))
    theta = 10000.0 if base is None else _typed("rope_theta", base)
    named = [scaling.pop(name) for name in ("rope_type", "type") if name in scaling]
    kind = next((name for name in named if name is not None), "default")
    if any(name not in (None, kind) for name in named):
        raise ValueError("the rope's 'type' and 'rope_type' differ: leave one of them")
    known = {f.name: f for f in fields(RopeScaling)}
    if kind not in ("default", "linear", "yarn", "llama3"):
        raise ValueError(
            f"the rope type is {_short(kind)}, which is not supported: default, linear, yarn and "
            "llama3 are"
        )
    own: dict[str, Any] = {"rope_type": kind}
    for key, value in scaling.items():
        if key not in known:
            raise ValueError(f"the rope's key {key!r} is not supported: it may change the angles")
        if value is None:
            continue
        if key == "truncate":
            whole = type(value) is bool
        elif key == "original_max_position_embeddings":
            whole = type(value) is int
        else:
            whole = type(value) in (int, float) and abs(value) < 1e300
        if not whole:
            raise ValueError(f"the rope's {key} is {_short(value)}: it must be a number")
        own[key] = (
            value if key in ("truncate", "original_max_position_embeddings") else float(value)
        )
    longest = keys.get("max_position_embeddings")
    if kind in ("yarn", "llama3") and "original_max_position_embeddings" not in own:
        own["original_max_position_embeddings"] = longest
    if kind != "default" and "factor" not in own:
        trained = own.get("original_max_position_embeddings") or longest
        if kind != "yarn" or not isinstance(longest, int) or not trained:
            raise ValueError(f"the rope type {kind!r} needs the key 'factor': add it")
        own["factor"] = longest / trained
    return theta, RopeScaling(**own)


def _rope_keys(config: ModelConfig) -> dict[str, Any]:
    """The releases' spelling, which every program still reads."""
    scaling, empty = config.rope_scaling, RopeScaling()
    out: dict[str, Any] = {"rope_theta": config.rope_theta, "rope_scaling": None}
    if scaling.rope_type == "default":
        return out
    given = {f.name: getattr(scaling, f.name) for f in fields(scaling)}
    always = (
        {"factor", "original_max_position_embeddings"}
        if scaling.rope_type != "linear"
        else {"factor"}
    )
    if scaling.rope_type == "yarn":
        always |= {"beta_fast", "beta_slow"}
    if scaling.rope_type == "llama3":
        always |= {"low_freq_factor", "high_freq_factor"}
    kept = {k: v for k, v in given.items() if k in always or v != getattr(empty, k)}
    return out | {"rope_scaling": {"type": scaling.rope_type, **kept}}


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
