"""Names, shapes and counts of checkpoints from the config alone, against what was published."""

from dataclasses import replace
from math import prod

import pytest
import torch
from hypothesis import given, settings

from benthic.cost.network.flops import cache_elements_per_token, parameters
from benthic.hub.config import Fp8Format, preset
from benthic.hub.layout import SCALE, elements, in_fp8, is_copy, layout, scale_shape
from benthic.model.checkpoint import empty_model, hub_tensors
from benthic.model.config import ModelConfig
from tests.hub.test_config import configs

# Total, active with embedding and head, cache bytes a token in bf16.
LATENT = {
    "deepseek-v2-lite": (15_706_484_224, 2_661_150_208, 31_104),
    "deepseek-v2": (235_741_434_880, 21_375_800_320, 69_120),
    "deepseek-v3": (671_026_419_200, 37_552_297_472, 70_272),
    "deepseek-r1": (671_026_419_200, 37_552_297_472, 70_272),
    "deepseek-v3.1": (671_026_419_200, 37_552_297_472, 70_272),
    "moonlight-16b-a3b": (15_960_110_208, 2_914_776_192, 31_104),
    "kimi-k2": (1_026_408_232_448, 32_861_500_928, 70_272),
}
# The totals that the Hub shows beside the files.
DENSE = {
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.3-70b": 70_553_706_496,
    "llama-3.2-1b": 1_235_814_400,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-14b": 14_770_033_664,
    "qwen2.5-32b": 32_763_876_352,
    "qwen3-0.6b": 596_049_920,
    "qwen3-8b": 8_190_735_360,
}


@pytest.mark.parametrize("name", LATENT)
def test_latent_presets_have_the_published_counts(name: str) -> None:
    config, _ = preset(name)
    counted = parameters(config)
    found = (counted["total"], counted["active"], 2 * cache_elements_per_token(config))
    assert found == LATENT[name]


@pytest.mark.parametrize("name", DENSE)
def test_dense_presets_have_the_published_counts(name: str) -> None:
    config, fp8 = preset(name)
    assert fp8 is None
    assert elements(layout(config)) == parameters(config)["total"] == DENSE[name]


def test_r1_has_the_released_tensors() -> None:
    """91,991 tensors with 684,531,386,000 elements, scales and copies counted in."""
    config, fp8 = preset("deepseek-r1")
    shapes = layout(config, fp8)
    assert (len(shapes), elements(shapes)) == (91_991, 684_531_386_000)
    scales = {name: shape for name, shape in shapes.items() if name.endswith(SCALE)}
    assert elements(scales) == 41_540_496
    assert scales["model.layers.0.self_attn.kv_a_proj_with_mqa.weight_scale_inv"] == (5, 56)
    assert parameters(config)["mtp"] == 11_610_068_224


def test_v2_lite_counted_by_hand() -> None:
    """No query latent, no bias of the router, no prediction block."""
    shapes = layout(preset("deepseek-v2-lite")[0])
    assert elements(shapes) == LATENT["deepseek-v2-lite"][0]
    assert len(shapes) == 3 + 27 * 7 + 3 + 26 * (1 + 3 + 64 * 3)


def test_what_stays_out_of_fp8() -> None:
    config, fp8 = preset("deepseek-r1")
    plain = [name for name in layout(config, fp8) if not in_fp8(name) and not name.endswith(SCALE)]
    last = {name.removeprefix("model.layers.61.") for name in plain if ".61." in name}
    assert last == {
        *("embed_tokens.weight", "enorm.weight", "hnorm.weight", "eh_proj.weight"),
        *("input_layernorm.weight", "post_attention_layernorm.weight", "shared_head.norm.weight"),
        *("shared_head.head.weight", "mlp.gate.weight", "mlp.gate.e_score_correction_bias"),
        *("self_attn.q_a_layernorm.weight", "self_attn.kv_a_layernorm.weight"),
    }


@given(configs())
@settings(max_examples=80)
def test_the_model_has_just_these_tensors(config: ModelConfig) -> None:
    """Every family and switch: same names, same shapes; and as many elements as are counted."""
    model = empty_model(config, device="meta", dtype=torch.float32)
    shapes = layout(config)
    assert {name: tuple(t.shape) for name, t in hub_tensors(model).items()} == shapes
    copies = sum(prod(shape) for name, shape in shapes.items() if is_copy(name))
    assert elements(shapes) == parameters(config)["total_with_mtp"] + copies
    assert copies == 2 * config.num_nextn_predict_layers * config.vocab_size * config.hidden_size


@given(configs(["deepseek_v3", "deepseek_v2"]))
@settings(max_examples=40)
def test_a_model_in_fp8_has_just_these_tensors(config: ModelConfig) -> None:
    fp8 = Fp8Format((16, 8))
    model = empty_model(config, device="meta", dtype=torch.bfloat16, fp8=fp8)
    tensors = hub_tensors(model)
    assert {name: tuple(t.shape) for name, t in tensors.items()} == layout(config, fp8)
    for name, tensor in tensors.items():
        stored = torch.float8_e4m3fn if in_fp8(name) else torch.bfloat16
        exact = name.endswith((SCALE, "e_score_correction_bias"))
        assert tensor.dtype == (torch.float32 if exact else stored), name


def test_a_scale_covers_the_edges() -> None:
    assert scale_shape((576, 7168), (128, 128)) == (5, 56)
    assert scale_shape((3, 1, 128), (128, 64)) == (3, 1, 2)


def test_tied_models_leave_the_head_out(tiny: ModelConfig) -> None:
    tied = layout(replace(tiny, tie_word_embeddings=True))
    assert layout(tiny).keys() - tied.keys() == {"lm_head.weight"}
    assert "model.layers.3.shared_head.head.weight" in tied
