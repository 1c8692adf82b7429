"""GGUF files read back: the Hub's numbers, llama.cpp's keys, and refusals of what it runs wrongly.

llama.cpp itself is asked in the last test, where it is installed, and in benchmarks/llama_cpp.py.
"""

import inspect
import json
import logging
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from benthic.data.hub_tokenizer import HubTokenizer, byte_tokenizer, load_tokenizer, train_bpe
from benthic.data.tokenizer import SPECIALS, VOCABULARY
from benthic.hub.config import preset
from benthic.model import gguf as module
from benthic.model.checkpoint import hub_tensors
from benthic.model.config import ModelConfig, RopeScaling
from benthic.model.fp8 import to_fp8
from benthic.model.gguf import Precision, export_gguf
from benthic.model.gguf_vocabulary import SPLITTINGS
from benthic.model.rope import rope_tables
from benthic.model.transformer import LanguageModel

gguf = pytest.importorskip(
    "gguf", reason="files are written and read by the package gguf: install the extra 'gguf'"
)
Shape = dict[str, Any]

YARN = RopeScaling(
    rope_type="yarn",
    factor=4.0,
    original_max_position_embeddings=64,
    mscale=0.707,
    mscale_all_dim=0.707,
)
LLAMA3 = RopeScaling(rope_type="llama3", factor=8.0, original_max_position_embeddings=64)
DENSE: Shape = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
V2: Shape = {
    "model_type": "deepseek_v2",
    "topk_method": "greedy",
    "norm_topk_prob": False,
    "num_nextn_predict_layers": 0,
}
SHAPES: dict[str, Shape] = {
    "V3": {"q_lora_rank": 12, "n_group": 4, "topk_group": 2, "routed_scaling_factor": 2.5},
    "V3, tied": {"q_lora_rank": 12, "tie_word_embeddings": True},
    "V2": {**V2, "q_lora_rank": 12, "n_shared_experts": 2, "rope_scaling": YARN},
    "V2-Lite": {**V2, "num_hidden_layers": 26, "hidden_size": 8, "moe_intermediate_size": 4},
    "llama": {**DENSE, "model_type": "llama", "rope_scaling": LLAMA3},
    "llama, biases": {**DENSE, "model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "qwen2": {
        **DENSE,
        "model_type": "qwen2",
        "hidden_size": 64,
        "tie_word_embeddings": True,
    },
    "qwen3": {**DENSE, "model_type": "qwen3"},
}
NAMES = {  # of llama.cpp's src/llama-arch.cpp
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.q_a_proj": "attn_q_a",
    "self_attn.q_a_layernorm": "attn_q_a_norm",
    "self_attn.q_b_proj": "attn_q_b",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
    "self_attn.kv_a_layernorm": "attn_kv_a_norm",
    "mlp.gate": "ffn_gate_inp",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.shared_experts.gate_proj": "ffn_gate_shexp",
    "mlp.shared_experts.up_proj": "ffn_up_shexp",
    "mlp.shared_experts.down_proj": "ffn_down_shexp",
}


@pytest.fixture(scope="module")
def tokens() -> HubTokenizer:
    return byte_tokenizer(SPECIALS, VOCABULARY)


@pytest.fixture(scope="module")
def bpe() -> HubTokenizer:
    return train_bpe([inspect.getsource(json)], 300, ["<|bos|>", "<|eos|>", "<think>"])


def read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keys without the architecture's prefix, and tensors with their kind."""
    reader = gguf.GGUFReader(path)
    prefix = f"{reader.fields['general.architecture'].contents()}."
    keys = {k.removeprefix(prefix): f.contents() for k, f in reader.fields.items()}
    return keys, {t.name: t for t in reader.tensors}


def numbers(tensor: Any) -> Tensor:
    """In the order of PyTorch's dimensions, fp32."""
    wide: NDArray[np.float32] = gguf.dequantize(tensor.data, tensor.tensor_type)
    return torch.from_numpy(wide.reshape(tuple(reversed(tensor.shape.tolist()))).copy())


def written(
    model: LanguageModel,
    tokenizer: HubTokenizer,
    folder: Path,
    precision: Precision = "f32",
) -> tuple[dict[str, Any], dict[str, Any]]:
    export_gguf(model, tokenizer, folder / "model.gguf", precision=precision)
    assert [p.name for p in folder.glob("*.gguf")] == ["model.gguf"]
    return read(folder / "model.gguf")


def expected(model: LanguageModel) -> dict[str, Tensor]:
    """llama.cpp's tensors from the Hub's, rule by rule."""
    c, hub = model.config, hub_tensors(model)
    out: dict[str, Tensor] = {}
    for name, tensor in hub.items():
        stem, _, suffix = name.rpartition(".")
        layer, block = "", stem
        if stem.startswith("model.layers."):
            _, _, number, block = stem.split(".", 3)
            layer = f"blk.{number}."
            if int(number) == c.num_hidden_layers:  # multi-token prediction
                continue
        if suffix == "e_score_correction_bias":
            out[f"{layer}exp_probs_b.bias"] = tensor
        elif block == "self_attn.kv_b_proj":
            heads = torch.stack(tensor.chunk(c.num_attention_heads))
            out[f"{layer}attn_k_b.weight"] = heads[:, : c.qk_nope_head_dim].mT
            out[f"{layer}attn_v_b.weight"] = heads[:, c.qk_nope_head_dim :]
        elif block.startswith("mlp.experts."):
            kind = block.removesuffix("_proj").rpartition(".")[2]
            each = f"model.layers.{number}.mlp.experts.{{}}.{kind}_proj.weight"
            stacked = [hub[each.format(e)] for e in range(c.n_routed_experts)]
            out[f"{layer}ffn_{kind}_exps.weight"] = torch.stack(stacked)
        else:
            if c.model_type == "llama" and block in ("self_attn.q_proj", "self_attn.k_proj"):
                tensor = paired(tensor, c.head_dim)
            out[f"{layer}{NAMES[block]}.{suffix}"] = tensor
    return out


def paired(rows: Tensor, width: int) -> Tensor:
    """Row i of a head and row i + width / 2, which turn together, side by side."""
    order = [i + half for i in range(width // 2) for half in (0, width // 2)]
    return torch.cat([head[order] for head in rows.split(width)])


@pytest.mark.parametrize("name", SHAPES)
def test_tensors_are_the_hubs(
    name: str,
    tiny: ModelConfig,
    seeded: Callable[..., LanguageModel],
    tokens: HubTokenizer,
    tmp_path: Path,
) -> None:
    model = seeded(replace(tiny, **SHAPES[name]))
    _, found = written(model, tokens, tmp_path)
    wanted = expected(model)
    assert found.keys() - {"rope_freqs.weight"} == wanted.keys()
    for own, tensor in wanted.items():
        assert torch.equal(numbers(found[own]), tensor), own
    assert ("output.weight" in found) != model.config.tie_word_embeddings


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("f16", torch.half)])
def test_half_precisions_round_matrices_alone(
    tiny: ModelConfig,
    seeded: Any,
    tokens: HubTokenizer,
    tmp_path: Path,
    precision: Precision,
    dtype: torch.dtype,
) -> None:
    model = seeded(replace(tiny, q_lora_rank=12))
    keys, found = written(model, tokens, tmp_path, precision)
    upper = precision.upper()
    assert keys["general.file_type"] == gguf.LlamaFileType[f"MOSTLY_{upper}"]
    for own, tensor in expected(model).items():
        single = tensor.ndim == 1 or own.endswith("ffn_gate_inp.weight")
        kind = gguf.GGMLQuantizationType["F32" if single else upper]
        assert found[own].tensor_type == kind, own
        assert torch.equal(numbers(found[own]), tensor if single else tensor.to(dtype).float())


def test_q8_0_is_within_half_a_step(
    tiny: ModelConfig,
    seeded: Any,
    tokens: HubTokenizer,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A step is 1/127 of a block's largest number, kept in fp16; f16 where blocks do not fit."""
    model = seeded(replace(tiny, q_lora_rank=12))
    with caplog.at_level(logging.WARNING):
        keys, found = written(model, tokens, tmp_path, "q8_0")
    assert keys["general.file_type"] == gguf.LlamaFileType.MOSTLY_Q8_0
    halves = []
    for own, tensor in expected(model).items():
        if tensor.ndim == 1 or own.endswith("ffn_gate_inp.weight"):
            assert torch.equal(numbers(found[own]), tensor), own
        elif tensor.shape[-1] % 32:
            halves.append(own)
            assert torch.equal(numbers(found[own]), tensor.half().float()), own
        else:
            assert found[own].tensor_type == gguf.GGMLQuantizationType.Q8_0, own
            blocks = tensor.reshape(-1, 32)
            step = blocks.abs().amax(-1, keepdim=True) / 127
            off = (numbers(found[own]).reshape(-1, 32) - blocks).abs() / step
            assert off.max() <= 0.5 + 127 / 2048, own
            assert off.max() > 0.4
    assert 0 < len(halves) < len(found)
    assert f"{len(halves)} tensors" in caplog.text and halves[0] in caplog.text


def test_chunks_do_not_show(
    tiny: ModelConfig,
    seeded: Any,
    tokens: HubTokenizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = seeded(replace(tiny, q_lora_rank=12))
    for precision in ("f32", "bf16", "q8_0"):
        export_gguf(model, tokens, tmp_path / "whole", precision=precision)
        with monkeypatch.context() as patch:
            patch.setattr(module, "CHUNK", 70)
            export_gguf(model, tokens, tmp_path / "parts", precision=precision)
        assert (tmp_path / "whole").read_bytes() == (tmp_path / "parts").read_bytes()


def test_keys_of_v3(tiny: ModelConfig, seeded: Any, tokens: HubTokenizer, tmp_path: Path) -> None:
    keys, _ = written(seeded(replace(tiny, **SHAPES["V3"])), tokens, tmp_path)
    own = {k: v for k, v in keys.items() if not k.startswith(("general.", "tokenizer.", "GGUF."))}
    assert own == {
        "vocab_size": 264,
        "context_length": 128,
        "embedding_length": 32,
        "feed_forward_length": 48,
        "block_count": 3,
        "attention.head_count": 2,
        "attention.head_count_kv": 1,
        "attention.key_length": 24,
        "attention.value_length": 16,
        "attention.key_length_mla": 16,
        "attention.value_length_mla": 8,
        "attention.q_lora_rank": 12,
        "attention.kv_lora_rank": 16,
        "attention.layer_norm_rms_epsilon": pytest.approx(1e-6),
        "rope.freq_base": 100.0,
        "rope.dimension_count": 8,
        "leading_dense_block_count": 1,
        "expert_feed_forward_length": 16,
        "expert_count": 8,
        "expert_shared_count": 1,
        "expert_used_count": 2,
        "expert_weights_scale": 2.5,
        "expert_weights_norm": True,
        "expert_gating_func": 2,
        "expert_group_count": 4,
        "expert_group_used_count": 2,
    }
    assert keys["general.architecture"] == "deepseek2"


def test_keys_of_v2(tiny: ModelConfig, seeded: Any, tokens: HubTokenizer, tmp_path: Path) -> None:
    keys, _ = written(seeded(replace(tiny, **SHAPES["V2"])), tokens, tmp_path)
    assert keys["expert_gating_func"] == 1 and keys["expert_weights_norm"] is False
    assert "expert_group_count" not in keys
    assert keys["rope.scaling.type"] == "yarn" and keys["rope.scaling.factor"] == 4
    assert keys["rope.scaling.original_context_length"] == 64
    assert keys["rope.scaling.yarn_log_multiplier"] == pytest.approx(0.0707)


def test_keys_of_a_dense_family(
    tiny: ModelConfig, seeded: Any, tokens: HubTokenizer, tmp_path: Path
) -> None:
    keys, found = written(seeded(replace(tiny, **SHAPES["llama"])), tokens, tmp_path)
    assert keys["general.architecture"] == "llama" and "rope.scaling.type" not in keys
    assert [keys[f"attention.{k}"] for k in ("head_count", "head_count_kv")] == [4, 2]
    assert [keys[f"attention.{k}_length"] for k in ("key", "value")] == [16, 16]
    assert keys["rope.dimension_count"] == 16 and "expert_count" not in keys
    assert tuple(found["rope_freqs.weight"].shape) == (8,)


def turned_by_llama_cpp(
    c: ModelConfig, keys: dict[str, Any], divisors: Tensor | None
) -> tuple[Tensor, Tensor, float]:
    """Its cosines, sines and softmax scale: llama-context.cpp, rope_yarn in ops.cpp, deepseek2.cpp.

    From the keys it reads alone, in fp64.
    """
    width, base = keys["rope.dimension_count"], keys["rope.freq_base"]
    kind = keys.get("rope.scaling.type", "linear")
    scale = 1 / keys.get("rope.scaling.factor", 1.0)
    pair = torch.arange(width // 2).double()
    far = torch.arange(c.max_position_embeddings).double()[:, None] * base ** (-2 * pair / width)
    if divisors is not None:
        far = far / divisors
    near, grown, multiplier = far * scale, 1.0, 0.0
    attention = keys.get("rope.scaling.attn_factor", 1.0)
    original = attention * (1 + 0.1 * math.log(1 / scale))
    if kind == "yarn":
        multiplier = keys.get("rope.scaling.yarn_log_multiplier", 0.0) / 0.1
        start, end = (
            width
            * math.log(keys["rope.scaling.original_context_length"] / (turns * 2 * math.pi))
            / (2 * math.log(base))
            for turns in (32, 1)
        )
        first, last = max(0, math.floor(start)), min(width - 1, math.ceil(end))
        keep = 1 - ((pair - first) / max(0.001, last - first)).clamp(0, 1)
        near = near * (1 - keep) + far * keep
        # Divided by 1 + 0.1 ln(factor) in the context and multiplied in the kernel.
        grown = attention * (1 if multiplier else max(1.0, 1 + 0.1 * math.log(1 / scale)))
        original = grown
    softmax = 1 / math.sqrt(c.qk_head_dim)
    if c.latent:
        softmax *= (original * (1 + 0.1 * multiplier * math.log(1 / scale))) ** 2
    return near.cos() * grown, near.sin() * grown, softmax


@st.composite
def scalings(draw: st.DrawFn) -> RopeScaling:
    """At most one of the flaws that no family may have."""
    flaws = [{}, {}, {}, {"beta_fast": 1.0}, {"beta_slow": 2.0}, {"truncate": False}]
    mscale, all_dim = draw(st.sampled_from([(1.0, 1.0), (0.707, 0.707), (0.0, 0.0), (1.0, 0.5)]))
    return RopeScaling(
        rope_type=draw(st.sampled_from(["yarn", "yarn", "yarn", "llama3", "linear", "default"])),
        factor=draw(st.sampled_from([8.0, 2.0, 40.0, 1.0, 0.5])),
        original_max_position_embeddings=draw(st.sampled_from([64, 16, 4096])),
        mscale=mscale,
        mscale_all_dim=all_dim,
        attention_factor=draw(st.sampled_from([0.0, 0.0, 1.0, 1.3])),
        **draw(st.sampled_from(flaws)),
    )


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    scaling=scalings(),
    name=st.sampled_from(["V3", "V2", "llama", "qwen2", "qwen3"]),
    theta=st.sampled_from([100.0, 10000.0, 1e6]),
)
def test_positions_turn_alike_or_are_refused(
    scaling: RopeScaling,
    name: str,
    theta: float,
    tiny: ModelConfig,
    seeded: Any,
    tokens: HubTokenizer,
    tmp_path: Path,
) -> None:
    """Whatever is not refused, llama.cpp turns and scales as Benthic does."""
    shape = {**SHAPES[name], "rope_scaling": scaling, "rope_theta": theta, "num_hidden_layers": 1}
    config = replace(tiny, **{**shape, "num_nextn_predict_layers": 0})
    model, refusals = seeded(config), list(module._refusals(config))
    if refusals:
        assert all("rope_scaling" in refusal for refusal in refusals)
        with pytest.raises(ValueError, match="rope_scaling"):
            written(model, tokens, tmp_path)
        return
    keys, found = written(model, tokens, tmp_path)
    divisors = numbers(found["rope_freqs.weight"]) if "rope_freqs.weight" in found else None
    theirs = turned_by_llama_cpp(config, keys, divisors)
    ours = rope_tables(config.max_position_embeddings, config.rotary_dim, theta, scaling)
    for own, other in zip(ours, theirs[:2], strict=True):
        torch.testing.assert_close(own.double(), other, rtol=0, atol=1e-4)
    assert config.softmax_scale == pytest.approx(theirs[2], rel=1e-5)


REFUSED: list[tuple[Shape, str]] = [
    ({}, "q_lora_rank is None"),
    ({"q_lora_rank": 12, "num_hidden_layers": 27}, "q_lora_rank is 12"),
    ({"q_lora_rank": 12, "rms_norm_eps": 1e-5}, "latent_norm_eps is 1e-06"),
    ({"q_lora_rank": 12, "routed_scaling_factor": 0.0}, "routed_scaling_factor is 0"),
    ({**DENSE, "model_type": "qwen2"}, "head_dim is 16"),
    ({**DENSE, "model_type": "qwen3", "attention_bias": True}, "attention_bias is set"),
    ({**DENSE, "model_type": "qwen3", "rope_scaling": LLAMA3}, "rope_scaling.type is llama3"),
    (
        {**DENSE, "model_type": "llama", "num_hidden_layers": 513, "intermediate_size": 1},
        "num_hidden_layers is 513",
    ),
    (
        {
            **V2,
            "q_lora_rank": 12,
            "topk_method": "group_limited_greedy",
            "n_group": 4,
            "topk_group": 2,
        },
        "topk_group is 2 of n_group = 4",
    ),
    ({"q_lora_rank": 12, "rope_scaling": replace(YARN, beta_fast=1.0)}, "--yarn-beta-fast 1"),
    ({"q_lora_rank": 12, "rope_scaling": replace(YARN, truncate=False)}, "truncate is false"),
    ({"q_lora_rank": 12, "rope_scaling": replace(YARN, mscale=1.0)}, "mscale = 1"),
]


@pytest.mark.parametrize(("shape", "sentence"), REFUSED)
def test_what_it_would_run_otherwise_is_refused(
    shape: Shape, sentence: str, tiny: ModelConfig, tokens: HubTokenizer, tmp_path: Path
) -> None:
    model = LanguageModel(replace(tiny, **shape))
    with pytest.raises(ValueError, match=sentence.replace("[", r"\[")):
        export_gguf(model, tokens, tmp_path / "model.gguf", precision="f32")
    assert not list(tmp_path.iterdir())


def test_released_shapes() -> None:
    """Of those with latent attention and of the dense ones, which can go."""
    first = {
        name: next(module._refusals(preset(name)[0]), "")
        for name in ("deepseek-v3", "deepseek-r1", "deepseek-v2-lite", "llama-3.1-8b", "qwen3-8b")
    }
    assert not any(first.values()), first
    assert "n_group" in next(module._refusals(preset("deepseek-v2")[0]))
    assert "beta_fast" in next(module._refusals(preset("kimi-k2")[0]))
    assert "latent_norm_eps" in next(module._refusals(preset("moonlight-16b-a3b")[0]))


def test_fp8_weights_are_refused(tiny: ModelConfig, tokens: HubTokenizer, tmp_path: Path) -> None:
    model = LanguageModel(replace(tiny, q_lora_rank=12))
    to_fp8(model, block=(16, 16))
    with pytest.raises(ValueError, match="import it widened"):
        export_gguf(model, tokens, tmp_path / "model.gguf", precision="f32")


def test_a_missing_package_is_named(
    tiny: ModelConfig, tokens: HubTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ValueError, match=r"pip install 'benthic\[gguf\]'"):
        export_gguf(LanguageModel(tiny), tokens, tmp_path / "model.gguf", precision="f32")


def vocabulary(tokenizer: HubTokenizer, folder: Path, **shape: Any) -> dict[str, Any]:
    config = ModelConfig(
        **{
            "model_type": "llama",
            "vocab_size": tokenizer.size,
            "hidden_size": 4,
            "intermediate_size": 4,
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
            "bos_token_id": -1,
            "eos_token_id": -1,
            **shape,
        }
    )
    keys, _ = written(LanguageModel(config), tokenizer, folder)
    start = "tokenizer.ggml."
    return {k.removeprefix(start): v for k, v in keys.items() if k.startswith(start)}


def test_vocabulary_of_a_trained_bpe(bpe: HubTokenizer, tmp_path: Path) -> None:
    keys = vocabulary(replace(bpe, chat_template="{{ x }}"), tmp_path, vocab_size=304)
    document = json.loads(bpe.tokenizer.to_str())
    assert (keys["model"], keys["pre"]) == ("gpt2", "gpt-2")
    assert keys["tokens"][:300] == [bpe.piece(i) for i in range(300)]
    assert keys["tokens"][300:] == [f"[PAD{i}]" for i in range(300, 304)]
    assert keys["token_type"] == [1] * 297 + [3] * 3 + [5] * 4
    assert keys["merges"] == [f"{a} {b}" for a, b in document["model"]["merges"]]
    assert (keys["bos_token_id"], keys["eos_token_id"]) == (297, 298)
    assert keys["add_bos_token"] is False
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    assert reader.fields["tokenizer.chat_template"].contents() == "{{ x }}"


def test_bytes_get_a_merge_that_no_text_has(tokens: HubTokenizer, tmp_path: Path) -> None:
    keys = vocabulary(tokens, tmp_path)
    assert keys["merges"] == ["\xff \xff"]
    assert tokens.token_bytes(keys["tokens"].index("\xff")) == b"\xff"
    assert "\xff\xff" not in keys["tokens"]


def checkpoint(tokenizer: HubTokenizer, folder: Path, **changes: Any) -> HubTokenizer:
    """The tokenizer by way of its file, parts of it changed."""
    document = json.loads(tokenizer.tokenizer.to_str())
    model = changes.pop("model", {})
    added = changes.pop("added", [])
    document |= changes
    document["model"] |= model
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    document["added_tokens"] += [
        {"id": tokenizer.size + i, **flags, **token} for i, token in enumerate(added)
    ]
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(document))
    names = {"bos_token": "<|bos|>", "eos_token": "<|eos|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    return load_tokenizer(folder)


def test_tokens_users_see_and_tokens_they_do_not(bpe: HubTokenizer, tmp_path: Path) -> None:
    """DeepSeek marks neither <think> nor <|User|> as special; a spelling is not given twice."""
    added = [{"content": c} for c in ("<thought>", "<|User|>", "<\uff5cUser\uff5c>", "[PAD304]")]
    loaded = checkpoint(bpe, tmp_path / "hub", added=added)
    keys = vocabulary(loaded, tmp_path, vocab_size=306)
    assert keys["token_type"][300:] == [4, 3, 3, 4, 5, 5]
    assert keys["tokens"][303:] == ["[PAD304]", "[PAD304]]", "[PAD305]"]


def test_an_end_is_needed(bpe: HubTokenizer, tmp_path: Path) -> None:
    without = replace(bpe, bos=None, eos=None)
    keys = vocabulary(without, tmp_path, bos_token_id=5, eos_token_id=6)
    assert (keys["bos_token_id"], keys["eos_token_id"]) == (5, 6)
    assert "bos_token_id" not in vocabulary(without, tmp_path, eos_token_id=6)
    with pytest.raises(ValueError, match="id 11"):
        vocabulary(without, tmp_path)


def test_vocabularies_that_do_not_fit(bpe: HubTokenizer, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="300 ids and vocab_size is 296"):
        vocabulary(bpe, tmp_path, vocab_size=296)
    with pytest.raises(ValueError, match="not byte-level"):
        vocabulary(replace(bpe, byte_level=False), tmp_path)
    stripping = checkpoint(bpe, tmp_path / "hub", added=[{"content": "<x>", "rstrip": True}])
    with pytest.raises(ValueError, match="<x>"):
        vocabulary(stripping, tmp_path)


TO_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
LAST = {**TO_BYTES, "use_regex": False}


def split(pattern: str, **changes: Any) -> Shape:
    cut = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return cut | changes


def in_turn(*parts: Shape) -> Shape:
    return {"type": "Sequence", "pretokenizers": [*parts, LAST]}


DIGITS = {"type": "Digits", "individual_digits": True}
BY_NAME = {name: patterns for patterns, _, name in SPLITTINGS}
V3_PATTERN = (  # with the ends of lines themselves, as in DeepSeek's file
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^"""
    "\r\n"
    r"\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+["
    "\r\n"
    r"]*|\s*["
    "\r\n"
    r"]+|\s+(?!\S)|\s+"
)
LIKE_GPT4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CUTS: list[tuple[str, Shape, bool]] = [
    ("gpt-2", {**TO_BYTES, "use_regex": True}, False),
    ("gpt-2", TO_BYTES, False),
    (
        "smollm",
        {"type": "Sequence", "pretokenizers": [DIGITS, {**TO_BYTES, "use_regex": True}]},
        False,
    ),
    ("llama-bpe", in_turn(split(LIKE_GPT4)), True),
    ("smaug-bpe", in_turn(split(LIKE_GPT4)), False),
    ("qwen2", in_turn(split(LIKE_GPT4.replace("{1,3}", ""))), False),
    (
        "deepseek-v3",
        in_turn(
            split(r"\p{N}{1,3}"),
            split("[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"),
            split(V3_PATTERN),
        ),
        False,
    ),
    (
        "deepseek-llm",
        in_turn(split("[\r\n]"), *map(split, BY_NAME["deepseek-llm"][1:-1]), DIGITS),
        False,
    ),
    (
        "deepseek-coder",
        in_turn(split("[\r\n]"), *map(split, BY_NAME["deepseek-coder"][1:-1]), DIGITS),
        False,
    ),
    ("kimi-k2", in_turn(*map(split, BY_NAME["kimi-k2"])), True),
]


@pytest.mark.parametrize(("name", "cut", "whole"), CUTS)
def test_ways_of_cutting_text_have_names(
    name: str, cut: Shape, whole: bool, bpe: HubTokenizer, tmp_path: Path
) -> None:
    model = {"ignore_merges": whole}
    loaded = checkpoint(bpe, tmp_path / "hub", pre_tokenizer=cut, model=model)
    assert vocabulary(loaded, tmp_path)["pre"] == name


@pytest.mark.parametrize(
    "changes",
    [
        {"pre_tokenizer": {**TO_BYTES, "add_prefix_space": True, "use_regex": True}},
        {"pre_tokenizer": LAST},
        {"pre_tokenizer": in_turn(DIGITS, {**TO_BYTES, "use_regex": True})},
        {"pre_tokenizer": in_turn(split(LIKE_GPT4, behavior="Removed"))},
        {"pre_tokenizer": in_turn(split(LIKE_GPT4, invert=True))},
        {"pre_tokenizer": in_turn(split(LIKE_GPT4), DIGITS)},
        {"pre_tokenizer": in_turn(split(r"\w+"))},
        {"model": {"ignore_merges": True}},
        {"normalizer": {"type": "NFKC"}},
    ],
)
def test_unknown_ways_of_cutting_text_are_refused(
    changes: Shape, bpe: HubTokenizer, tmp_path: Path
) -> None:
    loaded = checkpoint(bpe, tmp_path / "hub", **changes)
    with pytest.raises(ValueError, match=r"pre-tokenizer|normalizer"):
        vocabulary(loaded, tmp_path)


@pytest.mark.parametrize(("name", "what"), [("deepseek-llm", "U+3000"), ("kimi-k2", "marks")])
def test_what_llama_cpp_cuts_otherwise_is_said(
    name: str, what: str, bpe: HubTokenizer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And which of kimi-k2's tokens are reached whole or not at all."""
    cut, whole = next((cut, whole) for own, cut, whole in CUTS if own == name)
    model = json.loads(bpe.tokenizer.to_str())["model"]
    merges = [m for m in model["merges"] if "".join(m) != bpe.piece(290)]
    changes = {"ignore_merges": whole, "merges": merges}
    loaded = checkpoint(bpe, tmp_path / "hub", pre_tokenizer=cut, model=changes)
    vocabulary(loaded, tmp_path)
    assert what in caplog.text
    assert (f"1 tokens, the first {bpe.piece(290)!r}," in caplog.text) == whole


def test_nfc_is_said_to_be_left_out(
    bpe: HubTokenizer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = checkpoint(bpe, tmp_path / "hub", normalizer={"type": "NFC"})
    assert vocabulary(loaded, tmp_path)["pre"] == "gpt-2"
    assert "NFC" in caplog.text


@pytest.mark.parametrize("name", SHAPES)
def test_llama_cpp_runs_the_file(
    name: str,
    tiny: ModelConfig,
    seeded: Any,
    tokens: HubTokenizer,
    tmp_path: Path,
) -> None:
    llama_cpp = pytest.importorskip(
        "llama_cpp", reason="the peer is llama.cpp: install llama-cpp-python, which is compiled"
    )
    model, path = seeded(replace(tiny, **SHAPES[name]), std=0.1), tmp_path / "model.gguf"
    export_gguf(model, tokens, path, precision="f32")
    peer = llama_cpp.Llama(
        str(path), n_ctx=64, n_threads=1, logits_all=True, type_k=0, type_v=0, verbose=False
    )
    text = "na\u00efve \U0001f44d\n\n  x"
    ids = tokens.encode(text)
    assert peer.tokenize(text.encode(), add_bos=False) == ids
    peer.eval(ids)
    theirs = torch.from_numpy(np.array(peer.scores[: len(ids)]))
    with torch.no_grad():
        ours = model.lm_head(model(torch.tensor([ids])))[0]
    assert (ours - theirs).abs().max() / (ours.max() - ours.min()) < 2e-5
