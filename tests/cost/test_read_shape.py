"""Shapes from config.json of many families, from folders, recipes, rows, numbers; and the refusals.

Totals are those that the Hub shows beside the files, or the papers give.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benthic.config import load
from benthic.cost.catalog.load import CostError
from benthic.cost.network.families import TOWERS
from benthic.cost.network.flops import parameters
from benthic.cost.network.read_shape import from_config, from_row, shape
from benthic.cost.network.shape import shape_of
from benthic.cost.network.units import count, duration, money
from benthic.cost.network.widths import from_numbers
from benthic.hub.config import preset, to_hub


def grouped(
    kind: str, vocab: int, hidden: int, ffn: int, layers: int, heads: int, groups: int, **more: Any
) -> dict[str, Any]:
    return {
        "model_type": kind,
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "max_position_embeddings": 4096,
    } | more


def experts(number: int, chosen: int, width: int) -> dict[str, int]:
    return {"num_experts": number, "num_experts_per_tok": chosen, "moe_intermediate_size": width}


def many(keys: dict[str, Any], name: str) -> dict[str, Any]:
    """The keys of a network that sees: its text part and a tower."""
    return {"model_type": name, "text_config": keys, "vision_config": {"depth": 2}}


LLAMA4 = {"head_dim": 128, "num_experts_per_tok": 1, "intermediate_size_mlp": 16384}
MIXTRAL = {"num_local_experts": 8, "num_experts_per_tok": 2}
OSS = {"num_experts_per_tok": 4, "head_dim": 64, "sliding_window": 128}
PUBLISHED: dict[str, tuple[dict[str, Any], int]] = {
    "Mixtral-8x7B": (
        grouped("mixtral", 32000, 4096, 14336, 32, 32, 8, **MIXTRAL),
        46_702_792_704,
    ),
    "Mixtral-8x22B": (
        grouped("mixtral", 32000, 6144, 16384, 56, 48, 8, **MIXTRAL),
        140_620_634_112,
    ),
    "Qwen3-30B-A3B": (
        grouped("qwen3_moe", 151936, 2048, 6144, 48, 32, 4, head_dim=128, **experts(128, 8, 768)),
        30_532_122_624,
    ),
    "Qwen3-235B-A22B": (
        grouped("qwen3_moe", 151936, 4096, 12288, 94, 64, 4, head_dim=128, **experts(128, 8, 1536)),
        235_093_634_560,
    ),
    "Qwen1.5-MoE-A2.7B": (
        grouped(
            *("qwen2_moe", 151936, 2048, 5632, 24, 16, 16),
            **experts(60, 4, 1408),
            shared_expert_intermediate_size=5632,
        ),
        14_315_784_192,
    ),
    "DeepSeekMoE-16B": (
        grouped(
            *("deepseek", 102400, 2048, 10944, 28, 16, 16),
            **{"n_routed_experts": 64, "num_experts_per_tok": 6, "moe_intermediate_size": 1408},
            **{"n_shared_experts": 2, "first_k_dense_replace": 1, "moe_layer_freq": 1},
        ),
        16_375_728_128,
    ),
    "Llama-4-Scout": (
        many(
            grouped("llama4_text", 202048, 5120, 8192, 48, 40, 8, **LLAMA4, num_local_experts=16),
            "llama4",
        ),
        107_769_861_120,
    ),
    "Llama-4-Maverick": (
        many(
            grouped(
                *("llama4_text", 202048, 5120, 8192, 48, 40, 8),
                **LLAMA4,
                **{"num_local_experts": 128, "interleave_moe_layer_step": 2},
            ),
            "llama4",
        ),
        400_711_848_960,
    ),
    "Qwen-7B": (
        grouped("qwen", 151936, 4096, 22016, 32, 32, 32, kv_channels=128, no_bias=True),
        7_721_324_544,
    ),
    "Qwen-72B": (
        grouped("qwen", 152064, 8192, 49152, 80, 64, 64, kv_channels=128, no_bias=True),
        72_287_920_128,
    ),
    "Qwen3-VL-30B-A3B": (
        many(
            grouped(
                *("qwen3_vl_moe_text", 151936, 2048, 6144, 48, 32, 4),
                **{"head_dim": 128, **experts(128, 8, 768)},
            ),
            "qwen3_vl_moe",
        ),
        30_532_122_624,
    ),
    "Mistral-7B": (grouped("mistral", 32000, 4096, 14336, 32, 32, 8), 7_241_732_096),
    "Phi-3-mini": (grouped("phi3", 32064, 3072, 8192, 32, 32, 32), 3_821_079_552),
    "gemma-7b": (grouped("gemma", 256000, 3072, 24576, 28, 16, 16, head_dim=256), 8_537_680_896),
    "gemma-2-9b": (
        grouped("gemma2", 256000, 3584, 14336, 42, 16, 8, head_dim=256, sliding_window=4096),
        9_241_705_984,
    ),
    "OLMo-2-7B": (grouped("olmo2", 100352, 4096, 11008, 32, 32, 32), 7_298_617_344),
    "starcoder2-15b": (
        grouped("starcoder2", 49152, 6144, 24576, 40, 48, 4, tie_word_embeddings=False),
        15_957_889_024,
    ),
    "gpt-oss-120b": (
        grouped("gpt_oss", 201088, 2880, 2880, 36, 64, 8, num_local_experts=128, **OSS),
        116_829_156_672,
    ),
    "gpt-oss-20b": (
        grouped("gpt_oss", 201088, 2880, 2880, 24, 64, 8, num_local_experts=32, **OSS),
        20_914_757_184,
    ),
    "gpt2": (
        {
            **{"model_type": "gpt2", "vocab_size": 50257, "n_embd": 768, "n_layer": 12},
            **{"n_head": 12, "n_positions": 1024, "n_inner": None},
        },
        124_439_808,
    ),
    "pythia-12b": (
        {
            **{"model_type": "gpt_neox", "vocab_size": 50688, "hidden_size": 5120},
            **{"num_hidden_layers": 36, "num_attention_heads": 40, "intermediate_size": 20480},
        },
        11_846_072_320,
    ),
    "opt-125m": (
        {
            **{"model_type": "opt", "vocab_size": 50272, "hidden_size": 768, "ffn_dim": 3072},
            **{"num_hidden_layers": 12, "num_attention_heads": 12, "word_embed_proj_dim": 768},
            "max_position_embeddings": 2048,
        },
        125_239_296,
    ),
    "bloom": (
        {
            **{"model_type": "bloom", "vocab_size": 250880, "n_embed": 14336},
            **{"n_layer": 70, "num_attention_heads": 112},
        },
        176_247_271_424,
    ),
    "falcon-7b": (
        {
            **{"model_type": "falcon", "vocab_size": 65024, "hidden_size": 4544},
            **{"num_hidden_layers": 32, "num_attention_heads": 71, "multi_query": True},
        },
        6_921_720_704,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_totals(name: str) -> None:
    keys, total = PUBLISHED[name]
    assert parameters(from_config(keys, name))["total"] == total


@pytest.mark.parametrize(
    ("name", "active", "digits"),
    [
        ("Mixtral-8x7B", 12.88e9, 0.005e9),
        ("DeepSeekMoE-16B", 2.83e9, 0.005e9),
        ("Llama-4-Scout", 17e9, 0.5e9),
        ("Llama-4-Maverick", 17e9, 0.5e9),
        ("Mixtral-8x22B", 39.15e9, 0.01e9),
        ("Qwen3-30B-A3B", 3.35e9, 0.01e9),
        ("Qwen3-235B-A22B", 22.2e9, 0.05e9),
    ],
)
def test_published_active(name: str, active: float, digits: float) -> None:
    counts = parameters(from_config(PUBLISHED[name][0]))
    assert counts["active"] == pytest.approx(active, abs=digits)


def test_gpt_oss_active_leaves_the_embedding_out() -> None:
    """5.13B and 3.61B in its card, which counts the head alone."""
    for name, active in (("gpt-oss-120b", 5.13e9), ("gpt-oss-20b", 3.61e9)):
        counts = parameters(from_config(PUBLISHED[name][0]))
        assert counts["active"] - counts["embedding"] == pytest.approx(active, abs=0.01e9)


def test_opt_175b() -> None:
    keys = PUBLISHED["opt-125m"][0] | {
        **{"hidden_size": 12288, "word_embed_proj_dim": 12288, "ffn_dim": 49152},
        **{"num_hidden_layers": 96, "num_attention_heads": 96},
    }
    assert parameters(from_config(keys))["total"] == pytest.approx(175e9, rel=0.003)


def test_windows_and_steps() -> None:
    made = from_config(PUBLISHED["gpt-oss-20b"][0])
    assert (made.window, made.windowed_layers) == (128, 12)
    kinds = ["sliding_attention"] * 3 + ["full_attention"]
    olmo3 = grouped("olmo3", 100, 64, 96, 4, 4, 4, sliding_window=16, layer_types=kinds)
    assert (from_config(olmo3).window, from_config(olmo3).windowed_layers) == (16, 3)
    assert from_config(PUBLISHED["gemma-2-9b"][0]).windowed_layers == 21
    assert from_config(PUBLISHED["Mistral-7B"][0]).windowed_layers == 0
    late = grouped("qwen2", 100, 64, 96, 8, 4, 4, sliding_window=16, max_window_layers=6)
    assert from_config(late).windowed_layers == 0  # for use_sliding_window says so
    made = from_config(late | {"use_sliding_window": True})
    assert (made.window, made.windowed_layers) == (16, 2)
    scout = from_config(PUBLISHED["Llama-4-Scout"][0])
    assert scout.windowed_layers == 0  # no chunk is named
    text = PUBLISHED["Llama-4-Scout"][0]["text_config"] | {"attention_chunk_size": 8192}
    assert (from_config(text).window, from_config(text).windowed_layers) == (8192, 36)
    stepped = PUBLISHED["Qwen3-30B-A3B"][0] | {"decoder_sparse_step": 3}
    assert from_config(stepped).moe_layers == 16


@pytest.mark.parametrize("name", ["qwen2.5-0.5b", "qwen2.5-32b", "qwen3-0.6b", "qwen3-8b"])
def test_qwen_reads_as_what_is_run(name: str) -> None:
    config, _ = preset(name)
    assert from_config(to_hub(config)) == shape_of(config)


def test_what_no_field_counts_is_said() -> None:
    assert from_config(PUBLISHED["Qwen3-30B-A3B"][0]).left_out == ()
    scout = from_config(PUBLISHED["Llama-4-Scout"][0])
    assert scout.left_out == (TOWERS,) and scout.name == "llama4"
    flat = grouped("qwen2_5_vl", 100, 64, 96, 4, 4, 4)
    assert from_config(flat).left_out == (TOWERS,)
    tied = many(grouped("qwen3_vl_text", 100, 64, 96, 4, 4, 4), "qwen3_vl")
    assert from_config(tied | {"tie_word_embeddings": True}).tied


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"model_type": "mamba"}, "'mamba'.*--params and --layers"),
        ({"model_type": "jamba"}, "'jamba'.*--params and --layers"),
        ({"model_type": "t5"}, "'t5'.*--params and --layers"),
        ({"model_type": "siglip"}, "'siglip'.*--params and --layers"),
        ({"model_type": "qwen3_next"}, "'qwen3_next'.*--params and --layers"),
        (many({"model_type": "qwen3_5_text"}, "qwen3_5"), "'qwen3_5_text'.*--params and --layers"),
        (many({"text_config": {}}, "x"), "None.*--params and --layers"),
        (PUBLISHED["DeepSeekMoE-16B"][0] | {"moe_layer_freq": 2}, "moe_layer_freq is 2"),
        (
            PUBLISHED["Llama-4-Maverick"][0]["text_config"] | {"moe_layers": [0, 2]},
            r"moe_layers is \[0, 2\]",
        ),
        ({}, "None.*--params and --layers"),
        ({"model_type": "gpt2"}, "n_embd"),
        ({"model_type": "llama"}, "--params and --layers"),
        (grouped("mistral", 1, "x", 1, 1, 1, 1), "hidden_size is 'x'"),  # type: ignore[arg-type]
        (grouped("mistral", 1, True, 1, 1, 1, 1), "hidden_size is True"),
        (grouped("mistral", 1, -4, 1, 1, 1, 1), "hidden_size is -4"),
        (grouped("mistral", 1, 4, 1, 1, 0, 1), "heads is 0"),
        (grouped("olmo3", 1, 4, 1, 1, 1, 1, layer_types=["mamba"]), "hybrid"),
        (grouped("olmo3", 1, 4, 1, 2, 1, 1, layer_types=["full_attention"]), "one kind for each"),
        (PUBLISHED["opt-125m"][0] | {"word_embed_proj_dim": 512}, "word_embed_proj_dim is 512"),
        (PUBLISHED["Qwen3-30B-A3B"][0] | {"mlp_only_layers": [3]}, "mlp_only_layers"),
        (
            PUBLISHED["Qwen1.5-MoE-A2.7B"][0] | {"shared_expert_intermediate_size": 7},
            "no multiple",
        ),
        (PUBLISHED["Qwen1.5-MoE-A2.7B"][0] | {"moe_intermediate_size": 0}, "expert_ffn"),
    ],
)
def test_configs_that_are_refused(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(CostError, match=words):
        from_config(keys)


VALUES = st.sampled_from([None, 0, -1, 1, 7, 1.5, 10**12, "8", True, [], {}, ["x"], float("nan")])


@given(st.sampled_from(sorted(PUBLISHED)), st.data())
@settings(max_examples=150)
def test_any_value_is_read_or_refused(name: str, data: st.DataObject) -> None:
    keys = dict(PUBLISHED[name][0])
    more = ["head_dim", "layer_types", "tie_word_embeddings", "n_inner", "mlp_only_layers"]
    for key in data.draw(st.lists(st.sampled_from(sorted([*keys, *more])), max_size=3)):
        keys[key] = data.draw(VALUES)
    try:
        counts = parameters(from_config(keys))
    except CostError:
        return
    assert 0 < counts["active"] <= counts["total"]


def test_sources(tmp_path: Path) -> None:
    folder = tmp_path / "my-mixtral"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(PUBLISHED["Mixtral-8x7B"][0]))
    assert shape(str(folder)) == shape(str(folder / "config.json"))
    assert shape(str(folder)).name == "my-mixtral"
    assert shape("DeepSeek-V3").name == "deepseek-v3"
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.toml").write_text("[model]\nnum_hidden_layers = 7\n")
    assert shape(str(run)).layers == shape(str(run / "recipe.toml")).layers == 7
    assert shape("laptop").layers == load("laptop").model.num_hidden_layers


def test_sources_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(CostError, match="did you mean deepseek-v3"):
        shape("deepseek-v33")
    with pytest.raises(CostError, match="choose from deepseek-r1"):
        shape("zzz")
    with pytest.raises(CostError, match=r"neither config\.json nor recipe"):
        shape(str(tmp_path))
    for text in ("[1]", "{", "[" * 5000, '{"model_type": "bert"}', ""):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(CostError, match=r"config\.json"):
            shape(str(tmp_path))
    (tmp_path / "bad.toml").write_text("[model]\nlayers = 7\n")
    with pytest.raises(CostError, match=r"model\.layers"):
        shape(str(tmp_path / "bad.toml"))


def test_a_row_of_the_catalog() -> None:
    row = dict.fromkeys(("q_lora_rank", "experts", "mtp"), "") | {
        **{"model": "Llama", "attention": "gqa", "layers": "80", "hidden": "8192", "heads": "64"},
        **{"kv_heads": "8", "head_dim": "128", "ffn": "28672", "ffn_kind": "swiglu"},
        **{"vocab": "128256", "tied": "false", "seq_len": "8192"},
    }
    assert parameters(from_row(row))["total"] == 70_553_706_496
    with pytest.raises(CostError, match="Llama: hidden is 'wide'"):
        from_row(row | {"hidden": "wide"})


def test_numbers() -> None:
    made, notes = from_numbers(params=70e9, layers=80)
    assert (made.hidden, made.heads, made.kv_heads) == (8192, 64, 8)  # as Llama 3 70B
    assert any("128,000" in note for note in notes) and any("8,192" in note for note in notes)
    sparse, _ = from_numbers(params=671e9, active=37e9, layers=61)
    assert sparse.experts == 256 and parameters(sparse)["active"] == pytest.approx(37e9, rel=0.05)
    whole, said = from_numbers(
        params=6.74e9, layers=32, hidden=4096, heads=32, kv_heads=32, vocab=32000, ffn=11008
    )
    assert parameters(whole)["total"] == 6_738_415_616 and len(said) == 1


def test_what_was_assumed_is_said_in_sentences() -> None:
    _, notes = from_numbers(params=8e9, layers=32)
    assert "hidden = 4,096 follows from the number of parameters" in notes
    assert any(note.startswith("a SwiGLU of width 1") and note[-7:] == "follows" for note in notes)
    _, notes = from_numbers(params=1e9, layers=1, experts=8, experts_per_token=None)
    assert any("each expert's SwiGLU of width" in note for note in notes)
    _, notes = from_numbers(params=1e6, hidden=64, layers=None, vocab=256)
    assert [note for note in notes if note.startswith(("1 layers", "1 heads"))] == []
    assert "1 head of 64 is assumed" in notes and "1 head of keys and values is assumed" in notes


@given(st.floats(6.0, 14.5), st.sampled_from([None, 4, 8, 64, 256]))
@settings(max_examples=50)
def test_numbers_hit_the_total(power: float, experts: int | None) -> None:
    made, _ = from_numbers(params=10**power, experts=experts)
    assert parameters(made)["total"] == pytest.approx(10**power, rel=0.05)
    assert made.hidden % 8 == 0


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ({}, "--params"),
        ({"layers": 4}, "--params"),
        ({"params": 1e30}, "params is 1e\\+30"),
        ({"params": -7e9}, "params is -7e\\+09"),
        ({"params": float("nan")}, "params is nan"),
        ({"params": 7e9, "layers": 0}, "layers is 0"),
        ({"params": 7e9, "active": 8e9}, "active is 8e\\+09"),
        ({"params": 671e9, "active": 1e9}, "raise active"),
        ({"params": 7e9, "hidden": 20000, "layers": 80}, "lower one"),
        ({"params": 7e9, "hidden": 4096, "layers": 32, "ffn": 99999}, "leave one of them out"),
        ({"params": 7e9, "experts": 4, "experts_per_token": 5}, "exceeds experts = 4"),
    ],
)
def test_numbers_that_are_refused(numbers: dict[str, Any], words: str) -> None:
    with pytest.raises(CostError, match=words):
        from_numbers(**numbers)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[("70B", 70e9), ("14.8T", 14.8e12), ("1.5e9", 1.5e9), ("124M", 124e6), (" 8 b ", 8e9)],
        *[("1,000,000", 1e6), ("2_048", 2048), ("+7k", 7e3), (".5T", 5e11), (70e9, 70e9)],
    ],
)
def test_counts(text: str | float, value: float) -> None:
    assert count(text, "tokens") == pytest.approx(value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "B",
        "many",
        "-70B",
        "1e30",
        "70 billion",
        "14,8T",
        "nan",
        "inf",
        "70",
        "1e999",
        "0x7",
        ".",
    ],
)
def test_counts_that_are_refused(text: str) -> None:
    with pytest.raises(CostError, match=r"^params is .*70B"):
        count(text, "params")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *[("30d", 30 * 86400), ("54.2 days", 54.2 * 86400), ("12h", 43200)],
        *[("90 min", 5400), ("2w", 14 * 86400)],
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["30", "", "d", "-3d", "5 fortnights", "1e9 y", "3d 4h"])
def test_durations_that_are_refused(text: str) -> None:
    with pytest.raises(CostError, match="30d"):
        duration(text)


@pytest.mark.parametrize(
    ("text", "dollars"),
    [
        *[("50000", 5e4), ("$5.6M", 5.6e6), ("5.6 MUSD", 5.6e6), ("5.6M USD", 5.6e6)],
        *[("USD 5.6M", 5.6e6), ("5.6M$", 5.6e6), ("US$ 1,000", 1e3), (50, 50.0), ("3 dollars", 3)],
    ],
)
def test_money(text: str | float, dollars: float) -> None:
    assert money(text) == pytest.approx(dollars)


@pytest.mark.parametrize(
    "text", ["5 EUR", "\u20ac5M", "5 MCNY", "$5 EUR", "$5 USD", "", "$", "5 EUR or $6", "$1 $2"]
)
def test_money_that_is_refused(text: str) -> None:
    with pytest.raises(CostError, match="USD"):
        money(text)


@pytest.mark.parametrize("value", ["-5", "$0", -5, float("nan"), "1e30"])
def test_money_that_cannot_be(value: str | float) -> None:
    with pytest.raises(CostError, match="between"):
        money(value)
