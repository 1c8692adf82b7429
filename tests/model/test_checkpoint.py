"""Import of checkpoints in the Hub's layout: every tensor under its name, checked, converted."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from benthic.cost.network.flops import parameters
from benthic.hub.config import Fp8Format, to_hub
from benthic.hub.files import HubError
from benthic.hub.layout import SCALE, in_fp8
from benthic.hub.safetensors import SINGLE
from benthic.model import checkpoint, memory
from benthic.model.checkpoint import (
    all_finite,
    empty_model,
    hub_tensors,
    import_hub,
    open_source,
)
from benthic.model.config import ModelConfig
from benthic.model.export import export_hub
from benthic.model.fp8 import SCALE_MAX, BlockExperts, BlockLinear, dequantise_reference
from benthic.model.memory import MemoryNeeded
from benthic.model.transformer import LanguageModel

COMMON: dict[str, Any] = {
    **{"vocab_size": 70, "hidden_size": 24, "intermediate_size": 36, "num_hidden_layers": 3},
    **{"num_attention_heads": 4, "max_position_embeddings": 32, "rope_theta": 100.0},
}
LATENT: dict[str, Any] = {
    **{"moe_intermediate_size": 20, "first_k_dense_replace": 1, "kv_lora_rank": 10},
    **{"q_lora_rank": 14, "qk_nope_head_dim": 6, "qk_rope_head_dim": 4, "v_head_dim": 5},
    **{"n_routed_experts": 8, "n_shared_experts": 2, "num_experts_per_tok": 2},
    **{"n_group": 4, "topk_group": 2},
}
V2: dict[str, Any] = {
    **{"model_type": "deepseek_v2", "topk_method": "group_limited_greedy"},
    **{"norm_topk_prob": False, "num_nextn_predict_layers": 0},
}
FAMILIES = {
    "v3": ModelConfig(**COMMON, **LATENT),
    "v3, tied": ModelConfig(**COMMON, **LATENT, tie_word_embeddings=True),
    "moonlight": ModelConfig(
        **COMMON, **(LATENT | {"q_lora_rank": None}), num_nextn_predict_layers=0
    ),
    "v2": ModelConfig(**COMMON, **LATENT, **V2),
    "llama": ModelConfig(**COMMON, model_type="llama", num_key_value_heads=2, head_dim=6),
    "llama, all biases, tied": ModelConfig(
        **{**COMMON, "model_type": "llama", "attention_bias": True, "mlp_bias": True},
        tie_word_embeddings=True,
    ),
    "qwen2": ModelConfig(**COMMON, model_type="qwen2", num_key_value_heads=2),
    "qwen3": ModelConfig(**COMMON, model_type="qwen3", num_key_value_heads=2, head_dim=8),
}
SMALL_BLOCKS = Fp8Format((16, 8))
STORED = {
    **{torch.float64: "float64", torch.float32: "float32"},
    **{torch.float16: "float16", torch.bfloat16: "bfloat16"},
}


def lively(config: ModelConfig, seed: int = 0) -> LanguageModel:
    """Every weight and bias at random, so that none can stand for another."""
    model, generator = LanguageModel(config), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in model.state_dict(keep_vars=True).values():
            tensor.normal_(0.0, 0.5, generator=generator)
    return model


def put(folder: Path, config: ModelConfig, tensors: dict[str, Tensor], **keys: Any) -> Path:
    """A checkpoint by the format's own library."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(to_hub(config) | keys))
    contiguous = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, folder / SINGLE)
    return folder


def check_equal(model: LanguageModel, expected: dict[str, Tensor]) -> None:
    """To the last bit and in dtype, under every name."""
    found = hub_tensors(model)
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert tensor.dtype == expected[name].dtype, name
        assert torch.equal(tensor.view(torch.uint8), expected[name].view(torch.uint8)), name


def refusal(folder: Path, **options: Any) -> str:
    """The one sentence, on one line, in which import refuses the folder."""
    with pytest.raises(HubError) as caught:
        import_hub(folder, **options)
    text = str(caught.value)
    assert text.isprintable() and len(text) < 500
    return text


# Names and shapes.

CHANGES: list[dict[str, Any]] = [
    {},
    {"q_lora_rank": 12, "n_shared_experts": 2},
    {"first_k_dense_replace": 0, "num_nextn_predict_layers": 0},
    {"first_k_dense_replace": 3},
]


def expected_shapes(c: ModelConfig) -> dict[str, tuple[int, ...]]:
    """DeepSeek-V3's names and shapes, written out."""
    D, H = c.hidden_size, c.num_attention_heads
    out: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (c.vocab_size, D),
        "model.norm.weight": (D,),
        "lm_head.weight": (c.vocab_size, D),
    }

    def swiglu(at: str, inner: int) -> None:
        out[f"{at}.gate_proj.weight"] = out[f"{at}.up_proj.weight"] = (inner, D)
        out[f"{at}.down_proj.weight"] = (D, inner)

    for i in range(c.num_hidden_layers + c.num_nextn_predict_layers):
        at = f"model.layers.{i}"
        out[f"{at}.input_layernorm.weight"] = out[f"{at}.post_attention_layernorm.weight"] = (D,)
        if c.q_lora_rank is None:
            out[f"{at}.self_attn.q_proj.weight"] = (H * c.qk_head_dim, D)
        else:
            out[f"{at}.self_attn.q_a_proj.weight"] = (c.q_lora_rank, D)
            out[f"{at}.self_attn.q_a_layernorm.weight"] = (c.q_lora_rank,)
            out[f"{at}.self_attn.q_b_proj.weight"] = (H * c.qk_head_dim, c.q_lora_rank)
        entry = c.kv_lora_rank + c.qk_rope_head_dim
        out[f"{at}.self_attn.kv_a_proj_with_mqa.weight"] = (entry, D)
        out[f"{at}.self_attn.kv_a_layernorm.weight"] = (c.kv_lora_rank,)
        up = H * (c.qk_nope_head_dim + c.v_head_dim)
        out[f"{at}.self_attn.kv_b_proj.weight"] = (up, c.kv_lora_rank)
        out[f"{at}.self_attn.o_proj.weight"] = (D, H * c.v_head_dim)
        if i < c.first_k_dense_replace:
            swiglu(f"{at}.mlp", c.intermediate_size)
        else:
            out[f"{at}.mlp.gate.weight"] = (c.n_routed_experts, D)
            out[f"{at}.mlp.gate.e_score_correction_bias"] = (c.n_routed_experts,)
            swiglu(f"{at}.mlp.shared_experts", c.n_shared_experts * c.moe_intermediate_size)
            for e in range(c.n_routed_experts):
                swiglu(f"{at}.mlp.experts.{e}", c.moe_intermediate_size)
        if i == c.num_hidden_layers:
            out[f"{at}.enorm.weight"] = out[f"{at}.hnorm.weight"] = (D,)
            out[f"{at}.shared_head.norm.weight"] = (D,)
            out[f"{at}.eh_proj.weight"] = (D, 2 * D)
            out[f"{at}.embed_tokens.weight"] = (c.vocab_size, D)
            out[f"{at}.shared_head.head.weight"] = (c.vocab_size, D)
    return out


@pytest.mark.parametrize("change", CHANGES)
def test_names_and_shapes(tiny: ModelConfig, change: dict[str, Any]) -> None:
    config = replace(tiny, **change)
    tensors = hub_tensors(LanguageModel(config))
    assert {n: tuple(t.shape) for n, t in tensors.items()} == expected_shapes(config)


@pytest.mark.parametrize("change", CHANGES)
def test_elements_are_the_counted_ones(tiny: ModelConfig, change: dict[str, Any]) -> None:
    """The file doubles embedding and head for the prediction block, as DeepSeek's does."""
    config = replace(tiny, **change)
    elements = sum(t.numel() for t in hub_tensors(LanguageModel(config)).values())
    doubled = config.num_nextn_predict_layers * 2 * config.vocab_size * config.hidden_size
    assert elements == parameters(config)["total_with_mtp"] + doubled


def test_experts_are_taken_apart(model: LanguageModel) -> None:
    tensors, stack = hub_tensors(model), model.state_dict()
    both = stack["model.layers.1.mlp.experts.gate_up_proj"][5]
    at = "model.layers.1.mlp.experts.5"
    assert torch.equal(tensors[f"{at}.gate_proj.weight"], both[:16])
    assert torch.equal(tensors[f"{at}.up_proj.weight"], both[16:])
    down = stack["model.layers.1.mlp.experts.down_proj"][5]
    assert torch.equal(tensors[f"{at}.down_proj.weight"], down)


# What is read.


@pytest.mark.parametrize("config", FAMILIES.values(), ids=FAMILIES)
@pytest.mark.parametrize("dtype", STORED, ids=STORED.values())
def test_a_file_is_read_in_its_own_dtype(
    config: ModelConfig, dtype: torch.dtype, tmp_path: Path
) -> None:
    wanted = {
        name: tensor if name.endswith("e_score_correction_bias") else tensor.to(dtype)
        for name, tensor in hub_tensors(lively(config)).items()
    }
    folder = put(tmp_path / "hub", config, wanted)
    model = import_hub(folder)
    assert model.config == config and open_source(folder).dtype == dtype
    check_equal(model, wanted)
    cos, sin = model.tables()
    assert torch.equal(model.cos, cos) and torch.equal(model.sin, sin)


@pytest.mark.parametrize("stored", STORED, ids=STORED.values())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_file_is_converted(stored: torch.dtype, dtype: torch.dtype, tmp_path: Path) -> None:
    """As torch converts; the router's bias, to fp32 from whatever it was stored in."""
    written = {name: t.to(stored) for name, t in hub_tensors(lively(FAMILIES["v3"])).items()}
    model = import_hub(put(tmp_path / "hub", FAMILIES["v3"], written), dtype=dtype)
    exact = "e_score_correction_bias"
    check_equal(
        model, {n: t.to(torch.float32 if n.endswith(exact) else dtype) for n, t in written.items()}
    )


def test_reads_that_stop_short_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And tensors of several chunks, the last of them smaller."""
    wanted = hub_tensors(lively(FAMILIES["v3"]))
    folder, plain = put(tmp_path / "hub", FAMILIES["v3"], wanted), os.preadv
    monkeypatch.setattr(checkpoint, "CHUNK", 1000)
    monkeypatch.setattr(os, "preadv", lambda fd, to, at: plain(fd, [to[0][:37]], at))
    check_equal(import_hub(folder), wanted)


def without_copies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    copies = ("layers.3.embed_tokens.weight", "layers.3.shared_head.head.weight")
    return {name: t for name, t in tensors.items() if not name.endswith(copies)}


def test_copies_and_old_frequencies_may_come_or_go(tmp_path: Path) -> None:
    wanted = hub_tensors(lively(FAMILIES["v3"]))
    check_equal(import_hub(put(tmp_path / "v3", FAMILIES["v3"], without_copies(wanted))), wanted)
    wanted = hub_tensors(lively(FAMILIES["llama"]))
    old = wanted | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(3)}
    check_equal(import_hub(put(tmp_path / "llama", FAMILIES["llama"], old)), wanted)


@pytest.mark.parametrize("part", ["embed_tokens", "shared_head.head"])
def test_a_copy_must_be_one(part: str, tmp_path: Path) -> None:
    """Or the prediction block is left out."""
    tensors = hub_tensors(lively(FAMILIES["v3"]))
    name = f"model.layers.3.{part}.weight"
    changed = tensors[name].clone()
    changed[-1, -1] += 1
    folder = put(tmp_path / "hub", FAMILIES["v3"], tensors | {name: changed})
    first = {"embed_tokens": "model.embed_tokens.weight"}.get(part, "lm_head.weight")
    text = refusal(folder)
    assert f"holds {name}, which should be a copy of {first} and is not" in text
    put(folder, FAMILIES["v3"], tensors | {name: changed}, num_nextn_predict_layers=0)
    main = {n: t for n, t in tensors.items() if not n.startswith("model.layers.3.")}
    check_equal(import_hub(folder), main)
    changed[-1, -1] = math.nan
    put(folder, FAMILIES["v3"], tensors | {name: changed})
    assert f"{name} with a NaN" in refusal(folder)


def test_a_layer_more_than_the_config_names_is_no_prediction_block(tmp_path: Path) -> None:
    tensors = hub_tensors(lively(FAMILIES["moonlight"]))
    folder = put(tmp_path / "hub", FAMILIES["moonlight"], tensors, num_hidden_layers=2)
    assert "holds the tensor 'model.layers.2." in refusal(folder)


def test_a_file_without_the_prediction_block_is_read_without_it(tmp_path: Path) -> None:
    main = replace(FAMILIES["v3"], num_nextn_predict_layers=0)
    wanted = hub_tensors(lively(main))
    folder = put(tmp_path / "hub", FAMILIES["v3"], wanted)
    assert json.loads((folder / "config.json").read_text())["num_nextn_predict_layers"] == 1
    model = import_hub(folder)
    assert model.config == main
    check_equal(model, wanted)


def test_half_a_prediction_block_is_refused(tmp_path: Path) -> None:
    tensors = hub_tensors(lively(FAMILIES["v3"]))
    del tensors["model.layers.3.eh_proj.weight"]
    assert "lacks the tensor model.layers.3.eh_proj.weight (24, 48)" in refusal(
        put(tmp_path / "hub", FAMILIES["v3"], tensors)
    )


@pytest.mark.parametrize("name", ["v3, tied", "llama, all biases, tied"])
def test_a_tied_head_that_is_there_must_be_the_embedding(name: str, tmp_path: Path) -> None:
    """Programs disagree which of the two counts."""
    tensors = hub_tensors(lively(FAMILIES[name]))
    embedding = tensors["model.embed_tokens.weight"]
    same = put(tmp_path / "same", FAMILIES[name], tensors | {"lm_head.weight": embedding})
    check_equal(import_hub(same), tensors)
    check_equal(
        import_hub(same, dtype=torch.bfloat16),
        {n: t if "e_score" in n else t.bfloat16() for n, t in tensors.items()},
    )
    other = put(tmp_path / "other", FAMILIES[name], tensors | {"lm_head.weight": embedding + 1})
    assert (
        f"{other / SINGLE} holds lm_head.weight, which should be a copy of model.embed_t"
        in refusal(other)
    )
    short = put(tmp_path / "short", FAMILIES[name], tensors | {"lm_head.weight": embedding[1:]})
    assert "holds lm_head.weight as (69, 24), and config.json asks for (70, 24)" in refusal(short)


# FP8.


def quantized(folder: Path, fp8: Fp8Format = SMALL_BLOCKS, name: str = "v3") -> dict[str, Tensor]:
    """A checkpoint in FP8; what it holds."""
    export_hub(lively(FAMILIES[name]), folder, precision="fp8", fp8=fp8)
    held: dict[str, Tensor] = load_file(folder / SINGLE)
    return held


def rewrite(folder: Path, tensors: dict[str, Tensor]) -> None:
    save_file(tensors, folder / SINGLE)


@pytest.mark.parametrize("name", ["v3", "llama, all biases, tied"])
@pytest.mark.parametrize("scale_fmt", ["float", "ue8m0"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fp8_is_widened_as_the_reference_does(
    name: str, scale_fmt: Any, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = quantized(tmp_path, Fp8Format((16, 8), scale_fmt), name)
    monkeypatch.setattr(checkpoint, "CHUNK", 100)  # some rows of blocks at a time
    model = import_hub(tmp_path, dtype=dtype)
    for tensor_name, tensor in hub_tensors(model).items():
        expected = held[tensor_name]
        if in_fp8(tensor_name):
            scale = held[tensor_name + SCALE]
            expected = dequantise_reference(expected, scale, dtype=dtype, block=(16, 8))
        elif not tensor_name.endswith("e_score_correction_bias"):
            expected = expected.to(dtype)
        assert torch.equal(tensor, expected), tensor_name


@pytest.mark.parametrize("name", ["v3", "v2", "moonlight"])
def test_fp8_is_kept_as_it_is(name: str, tmp_path: Path) -> None:
    held = quantized(tmp_path, name=name)
    model = import_hub(tmp_path, keep_fp8=True)
    check_equal(model, held)
    kept = [m for m in model.modules() if isinstance(m, BlockLinear | BlockExperts)]
    assert len(kept) > 10 and all(m.block == (16, 8) for m in kept)


@pytest.mark.parametrize("dtype", [torch.float8_e8m0fnu, torch.bfloat16])
def test_scales_in_a_byte_or_two_are_read(dtype: torch.dtype, tmp_path: Path) -> None:
    """Powers of two, which those hold exactly."""
    held = quantized(tmp_path, Fp8Format((16, 8), "ue8m0"))
    wide, kept = import_hub(tmp_path), import_hub(tmp_path, keep_fp8=True)
    narrow = {n: t.to(dtype) if n.endswith(SCALE) else t for n, t in held.items()}
    rewrite(tmp_path, narrow)
    check_equal(import_hub(tmp_path), hub_tensors(wide))
    check_equal(import_hub(tmp_path, keep_fp8=True), hub_tensors(kept))


WEIGHT = "model.layers.0.mlp.down_proj.weight"
BAD_SCALES = {
    "zero": (0.0, "a scale that is not positive"),
    "negative": (-1.0, "a scale that is not positive"),
    "NaN": (math.nan, "a NaN or an infinity"),
    "infinite": (math.inf, "a NaN or an infinity"),
    "beyond fp32 with a code of 448": (
        1e36,
        f"a scale that is not positive and at most {SCALE_MAX:g}",
    ),
}


@pytest.mark.parametrize("keep", [False, True], ids=["widened", "kept"])
@pytest.mark.parametrize("case", BAD_SCALES.values(), ids=BAD_SCALES)
def test_scales_at_fault_are_refused(case: tuple[float, str], keep: bool, tmp_path: Path) -> None:
    held = quantized(tmp_path)
    held[WEIGHT + SCALE][1, 2] = case[0]
    rewrite(tmp_path, held)
    text = refusal(tmp_path, keep_fp8=keep)
    assert f"{tmp_path / SINGLE} holds {WEIGHT + SCALE} with {case[1]}" in text


@pytest.mark.parametrize("keep", [False, True], ids=["widened", "kept"])
@pytest.mark.parametrize("byte", [0x7F, 0xFF])
def test_codes_that_are_no_numbers_are_refused(byte: int, keep: bool, tmp_path: Path) -> None:
    held = quantized(tmp_path)
    held[WEIGHT].view(torch.uint8)[20, 30] = byte
    rewrite(tmp_path, held)
    text = refusal(tmp_path, keep_fp8=keep)
    assert f"{tmp_path / SINGLE} holds {WEIGHT} with a NaN or an infinity in it" in text


def test_a_scale_byte_that_is_no_number_is_refused(tmp_path: Path) -> None:
    held = quantized(tmp_path, Fp8Format((16, 8), "ue8m0"))
    held = {n: t.to(torch.float8_e8m0fnu) if n.endswith(SCALE) else t for n, t in held.items()}
    held[WEIGHT + SCALE].view(torch.uint8)[0, 0] = 0xFF
    rewrite(tmp_path, held)
    assert f"{WEIGHT + SCALE} with a NaN" in refusal(tmp_path, keep_fp8=True)


def plain_among_fp8(held: dict[str, Tensor]) -> None:
    held[WEIGHT] = held[WEIGHT].to(torch.bfloat16)
    del held[WEIGHT + SCALE]


def test_a_plain_weight_among_fp8_is_read_widened_alone(tmp_path: Path) -> None:
    held = quantized(tmp_path)
    plain_among_fp8(held)
    rewrite(tmp_path, held)
    assert torch.equal(hub_tensors(import_hub(tmp_path))[WEIGHT], held[WEIGHT])
    text = refusal(tmp_path, keep_fp8=True)
    assert f"{tmp_path / SINGLE} holds {WEIGHT} in BF16" in text and "widened, as bf16" in text


def without_scale(held: dict[str, Tensor]) -> None:
    del held[WEIGHT + SCALE]


def narrow_scale(held: dict[str, Tensor]) -> None:
    held[WEIGHT + SCALE] = held[WEIGHT + SCALE][:1]


def scale_of_integers(held: dict[str, Tensor]) -> None:
    held[WEIGHT + SCALE] = held[WEIGHT + SCALE].int()


def scale_of_a_plain_weight(held: dict[str, Tensor]) -> None:
    held[WEIGHT] = held[WEIGHT].to(torch.bfloat16)


def scale_of_a_copy_that_is_gone(held: dict[str, Tensor]) -> None:
    del held["model.layers.3.embed_tokens.weight"]
    held["model.layers.3.embed_tokens.weight_scale_inv"] = torch.ones(1, 1)


def embedding_in_fp8(held: dict[str, Tensor]) -> None:
    held["model.embed_tokens.weight"] = held["model.embed_tokens.weight"].to(torch.float8_e4m3fn)


FP8_AT_FAULT: dict[Callable[[dict[str, Tensor]], None], str] = {
    without_scale: f"lacks {WEIGHT}_scale_inv, the scales of an FP8 weight",
    narrow_scale: f"holds {WEIGHT}_scale_inv as (1, 5), and config.json asks for (2, 5)",
    scale_of_integers: f"holds {WEIGHT}_scale_inv in I32",
    scale_of_a_plain_weight: f"holds the tensor '{WEIGHT}_scale_inv', which a deepseek_v3",
    scale_of_a_copy_that_is_gone: "holds the tensor 'model.layers.3.embed_tokens.weight_scale_inv'",
    embedding_in_fp8: "holds model.embed_tokens.weight in F8_E4M3",
}


@pytest.mark.parametrize("damage", FP8_AT_FAULT, ids=lambda f: f.__name__)
def test_fp8_that_does_not_fit_is_refused(
    damage: Callable[[dict[str, Tensor]], None], tmp_path: Path
) -> None:
    held = quantized(tmp_path)
    damage(held)
    rewrite(tmp_path, held)
    assert FP8_AT_FAULT[damage] in refusal(tmp_path)


def test_fp8_without_its_format_is_refused(tmp_path: Path) -> None:
    quantized(tmp_path)
    keys = json.loads((tmp_path / "config.json").read_text())
    del keys["quantization_config"]
    (tmp_path / "config.json").write_text(json.dumps(keys))
    assert "in F8_E4M3, and config.json has no quantization_config" in refusal(tmp_path)


# What is refused.


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", STORED, ids=STORED.values())
def test_what_is_not_finite_is_refused(value: float, dtype: torch.dtype, tmp_path: Path) -> None:
    tensors = {n: t.to(dtype) for n, t in hub_tensors(lively(FAMILIES["v3"])).items()}
    name = "model.layers.2.mlp.experts.5.up_proj.weight"
    tensors[name][-1, -1] = value
    folder = put(tmp_path / "hub", FAMILIES["v3"], tensors)
    for wanted in (None, torch.float32):
        text = refusal(folder, dtype=wanted)
        assert f"{folder / SINGLE} holds {name} with a NaN or an infinity in it" in text


@pytest.mark.parametrize(
    ("stored", "value", "dtype"),
    [
        (torch.float64, 1e300, torch.float32),
        (torch.float32, -1e38, torch.float16),
        (torch.bfloat16, 1e5, torch.float16),
        (torch.float32, 3.4e38, torch.bfloat16),
    ],
)
def test_a_number_past_the_new_dtype_is_refused(
    stored: torch.dtype, value: float, dtype: torch.dtype, tmp_path: Path
) -> None:
    tensors = {n: t.to(stored) for n, t in hub_tensors(lively(FAMILIES["qwen3"])).items()}
    tensors["model.norm.weight"][3] = value
    folder = put(tmp_path / "hub", FAMILIES["qwen3"], tensors)
    assert all_finite(hub_tensors(import_hub(folder))["model.norm.weight"])
    text = refusal(folder, dtype=dtype)
    assert f"holds model.norm.weight with a number beyond the {dtype}" in text


def test_a_widened_number_past_the_new_dtype_is_refused(tmp_path: Path) -> None:
    held = quantized(tmp_path)
    held[WEIGHT + SCALE][0, 0] = 1000.0
    rewrite(tmp_path, held)
    assert all_finite(hub_tensors(import_hub(tmp_path))[WEIGHT])
    text = refusal(tmp_path, dtype=torch.float16)
    assert f"holds {WEIGHT} with a number beyond the torch.float16" in text


def test_what_does_not_belong_is_named(tmp_path: Path) -> None:
    config = FAMILIES["v2"]
    tensors = hub_tensors(lively(config))
    router = "model.layers.1.mlp.gate.weight"
    cases: dict[str, dict[str, Tensor]] = {
        f"lacks the tensor {router} (8, 24)": {n: t for n, t in tensors.items() if n != router},
        "holds the tensor 'model.layers.1.mlp.gate.e_score_correction_bias', which a deepseek_v2": {
            **tensors,
            "model.layers.1.mlp.gate.e_score_correction_bias": torch.zeros(8),
        },
        f"holds {router} as (24, 8), and config.json asks for (8, 24)": {
            **tensors,
            router: tensors[router].T,
        },
        f"holds {router} in I64": {**tensors, router: tensors[router].long()},
        f"holds {router} in F8_E5M2": {**tensors, router: tensors[router].to(torch.float8_e5m2)},
    }
    for number, (said, held) in enumerate(cases.items()):
        assert said in refusal(put(tmp_path / str(number), config, held))


def test_a_file_cut_after_its_header_was_read_is_refused(tmp_path: Path) -> None:
    folder = put(tmp_path / "hub", FAMILIES["llama"], hub_tensors(lively(FAMILIES["llama"])))
    source = open_source(folder)
    model = empty_model(source.config, device="cpu", dtype=torch.float32)
    os.truncate(folder / SINGLE, (folder / SINGLE).stat().st_size - 8)
    with pytest.raises(HubError, match="bytes when its header was read, and has"):
        checkpoint.fill(model, source)


@pytest.mark.parametrize("fault", ["end", "error"])
def test_a_file_that_fails_while_it_is_read_is_refused(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names file and tensor; nothing stays open, and torch keeps its threads."""
    folder = put(tmp_path / "hub", FAMILIES["llama"], hub_tensors(lively(FAMILIES["llama"])))
    plain = os.preadv

    def preadv(fd: int, to: Any, at: int) -> int:
        if at < 5000:
            return plain(fd, to, at)
        if fault == "end":
            return 0
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "preadv", preadv)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    before = len(os.listdir("/proc/self/fd"))
    text = refusal(folder)
    assert len(os.listdir("/proc/self/fd")) == before
    assert asked[-1] == 7
    said = "ended inside model." if fault == "end" else "cannot be read (Input/output error)"
    assert str(folder / SINGLE) in text and said in text


# Memory.


def test_a_model_larger_than_the_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = put(tmp_path / "hub", FAMILIES["v3"], hub_tensors(lively(FAMILIES["v3"])))
    needed = sum(t.nbytes for t in import_hub(folder).buffers())
    needed += sum(t.nbytes for t in import_hub(folder).parameters())
    monkeypatch.setattr(memory, "_free_memory", lambda: needed)
    import_hub(folder)
    monkeypatch.setattr(memory, "_free_memory", lambda: needed - 1)
    with pytest.raises(MemoryNeeded, match=r"the model takes 0\.0 GiB and 0\.0 GiB of memory"):
        import_hub(folder)


def test_both_figures_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """DeepSeek-V3's size, without a byte of it."""
    config = ModelConfig()
    monkeypatch.setattr(memory, "_free_memory", lambda: 3 << 30)
    needed = 2 * parameters(config)["total_with_mtp"]
    with pytest.raises(MemoryNeeded) as caught:
        empty_model(config, device="cpu", dtype=torch.bfloat16)
    said = f"takes {needed / 2**30:,.1f} GiB and 3.0 GiB of memory are free on cpu: take a smaller"
    assert said in str(caught.value)


def test_free_memory_is_a_share_of_the_machines(tmp_path: Path) -> None:
    all_of_it = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < memory._free_memory() <= all_of_it
    assert memory._free_memory(tmp_path) == all_of_it  # another system


@pytest.mark.parametrize(
    ("limit", "free"), [("max", 7 << 20), ("5000000", 2_700_000), ("2000000", 0)]
)
def test_pages_of_files_give_way(limit: str, free: int, tmp_path: Path) -> None:
    """A checkpoint in the page cache is no memory that its model lacks."""
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9999 kB\nMemAvailable: 7168 kB\n")
    (group / "memory.max").write_text(f"{limit}\n")
    (group / "memory.current").write_text("4500000\n")
    (group / "memory.stat").write_text(
        "anon 2300000\nfile 2200000\ninactive_file 2000000\nactive_file 200000\n"
    )
    assert memory._free_memory(tmp_path) == free


def test_the_process_own_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `ulimit -v` sets it: of the address space, of which some is taken."""
    page = os.sysconf("SC_PAGE_SIZE")
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemAvailable: 7168 kB\n")
    (tmp_path / "proc/self/statm").write_text("100 50 10 1 0 40 0\n")
    monkeypatch.setattr(memory.resource, "getrlimit", lambda _: (103 * page, 200 * page))
    assert memory._free_memory(tmp_path) == 3 * page


WATCHED = """
import sys, threading
from pathlib import Path
import torch
from benthic.model.checkpoint import import_hub

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))

torch.set_num_threads(1)
before = peak = anonymous()
done = threading.Event()
def sample():
    global peak
    while not done.wait(0.001):
        peak = max(peak, anonymous())
watcher = threading.Thread(target=sample)
watcher.start()
model = import_hub(Path(sys.argv[1]))
done.set()
watcher.join()
print(max(peak, anonymous()) - before, sum(t.nbytes for t in model.state_dict().values()))
print({"torch._dynamo", "sympy", "transformers", "safetensors"} & sys.modules.keys())
"""


def test_memory_peaks_at_the_model_and_nothing_heavy_is_imported(tmp_path: Path) -> None:
    """60 MB in four shards; a fresh process, whose memory that belongs to no file is watched."""
    changes: dict[str, Any] = {"vocab_size": 8192, "hidden_size": 512, "intermediate_size": 1024}
    config = replace(FAMILIES["llama"], **changes, num_attention_heads=8, head_dim=64)
    export_hub(lively(config), tmp_path, shard_bytes=16_000_000)
    shards = [path.stat().st_size for path in tmp_path.glob("model-*.safetensors")]
    assert len(shards) >= 4 and sum(shards) > 50_000_000
    out = subprocess.run(
        [sys.executable, "-c", WATCHED, str(tmp_path)], check=True, capture_output=True, text=True
    ).stdout
    figures, imported = out.splitlines()
    peak, model = map(int, figures.split())
    assert model <= peak + 2_000_000  # the watch works
    assert peak <= model + max(shards) + 32_000_000
    assert imported == "set()"


# The look at every number.

BITS = {torch.bfloat16: 16, torch.float16: 16, torch.float8_e4m3fn: 8, torch.float8_e8m0fnu: 8}


@pytest.mark.parametrize("dtype", BITS)
def test_every_pattern_is_judged_as_torch_does(dtype: torch.dtype) -> None:
    whole = torch.arange(1 << BITS[dtype], dtype=torch.int32)
    patterns = whole.to(torch.uint16 if BITS[dtype] == 16 else torch.uint8).view(dtype)
    finite = patterns.float().isfinite()
    assert finite.any() and not finite.all()
    turns = (finite.int().diff() != 0).nonzero().flatten().tolist()
    for at in {0, len(finite) // 2, len(finite) - 1, *turns, *(turn + 1 for turn in turns)}:
        assert all_finite(patterns[at : at + 1]) == bool(finite[at])
    assert all_finite(patterns[finite]) and not all_finite(patterns)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(bits=st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=5))
@settings(max_examples=100)
def test_wide_patterns_are_judged_as_torch_does(dtype: torch.dtype, bits: list[int]) -> None:
    size, extreme = 8 * dtype.itemsize, torch.finfo(dtype)
    edges = [extreme.max, extreme.min, extreme.tiny, 0.0, -0.0]
    signed = [b % 2**size - (b % 2**size >> (size - 1) << size) for b in bits]
    whole = torch.tensor(signed, dtype=torch.int32 if size == 32 else torch.int64)
    x = torch.cat([whole.view(dtype), torch.tensor(edges, dtype=dtype)])
    assert all_finite(x) == bool(x.isfinite().all())
    assert all_finite(torch.tensor(edges, dtype=dtype))
    for bad in (math.nan, -math.nan, math.inf, -math.inf):
        assert not all_finite(torch.cat([torch.tensor([bad], dtype=dtype), x]))
