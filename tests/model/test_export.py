"""Checkpoints out, and in again: every bit comes back, and other programs read them."""

import json
import os
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from benthic.hub.config import Fp8Format, read_config
from benthic.hub.files import INDEX
from benthic.hub.layout import SCALE, in_fp8, layout
from benthic.hub.safetensors import SINGLE, open_checkpoint, read_header
from benthic.model.checkpoint import hub_tensors, import_hub, open_source
from benthic.model.config import ModelConfig, RopeScaling
from benthic.model.export import export_hub
from benthic.model.fp8 import quantise, quantise_model
from tests.hub.test_config import configs
from tests.model.test_checkpoint import FAMILIES, SMALL_BLOCKS, check_equal, lively

families = pytest.mark.parametrize("name", FAMILIES)
FORMATS = [Fp8Format((16, 8)), Fp8Format((16, 8), "ue8m0"), Fp8Format()]


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def held_in(folder: Path) -> dict[str, Tensor]:
    """What the format's own library finds in all files of the folder; none may be there twice."""
    held: dict[str, Tensor] = {}
    for path in files(folder):
        tensors = load_file(path)
        assert not held.keys() & tensors.keys()
        held |= tensors
    return held


def check_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert tensor.dtype == expected[name].dtype, name
        assert torch.equal(tensor.view(torch.uint8), expected[name].view(torch.uint8)), name


@families
@pytest.mark.parametrize("shard_bytes", [10**9, 9_000, 1], ids=["one", "some", "each its own"])
def test_every_bit_comes_back(name: str, shard_bytes: int, tmp_path: Path) -> None:
    config = FAMILIES[name]
    model = lively(config)
    export_hub(model, tmp_path, shard_bytes=shard_bytes)
    assert (shard_bytes == 10**9) == (not (tmp_path / INDEX).exists())
    check_same(held_in(tmp_path), hub_tensors(model))
    back = import_hub(tmp_path)
    assert back.config == config
    check_equal(back, hub_tensors(model))


@given(configs(), st.integers(3_000, 40_000))
@settings(max_examples=25)
def test_every_bit_comes_back_on_any_shape(
    tmp_path_factory: pytest.TempPathFactory, config: ModelConfig, shard_bytes: int
) -> None:
    folder, model = tmp_path_factory.mktemp("hub"), lively(config)
    export_hub(model, folder, shard_bytes=shard_bytes)
    back = import_hub(folder)
    assert back.config == config
    check_equal(back, hub_tensors(model))


@families
def test_bf16_is_written_rounded_and_the_routers_bias_is_not(name: str, tmp_path: Path) -> None:
    model = lively(FAMILIES[name])
    export_hub(model, tmp_path, precision="bf16")
    exact = "e_score_correction_bias"
    rounded = {n: t if n.endswith(exact) else t.bfloat16() for n, t in hub_tensors(model).items()}
    check_same(held_in(tmp_path), rounded)
    check_equal(import_hub(tmp_path), rounded)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"


def test_the_order_and_the_alignment_are_the_layouts(tmp_path: Path) -> None:
    export_hub(lively(FAMILIES["v3"]), tmp_path)
    assert list(read_header(tmp_path / SINGLE).entries) == list(layout(FAMILIES["v3"]))
    with open(tmp_path / SINGLE, "rb") as file:
        assert int.from_bytes(file.read(8), "little") % 8 == 0
    with safe_open(tmp_path / SINGLE, framework="pt") as file:
        assert file.metadata() == {"format": "pt"}  # transformers refuses a file without


@pytest.mark.parametrize("limit", [2_000, 9_000, 60_000])
@pytest.mark.parametrize("fp8", [None, SMALL_BLOCKS], ids=["plain", "fp8"])
def test_shards_keep_to_the_limit(limit: int, fp8: Fp8Format | None, tmp_path: Path) -> None:
    """Unless a single weight exceeds it; a scale lies beside its weight; the index tells all."""
    precision: Any = "fp8" if fp8 else "bf16"
    export_hub(lively(FAMILIES["v3"]), tmp_path, precision=precision, fp8=fp8, shard_bytes=limit)
    shards = open_checkpoint(tmp_path).shards
    names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    assert [shard.path.name for shard in shards] == names and len(shards) > 1
    for shard in shards:
        size = sum(entry.nbytes for entry in shard.entries.values())
        weights = [name for name in shard.entries if not name.endswith(SCALE)]
        assert size <= limit or len(weights) == 1
        assert all(name.removesuffix(SCALE) in shard.entries for name in shard.entries)
    for one, two in pairwise(shards):  # as few as there can be, in order
        weight, scale = [*two.entries.items(), ("", None)][:2]
        first = weight[1].nbytes
        if scale[1] is not None and scale[0].endswith(SCALE):
            first += scale[1].nbytes
        assert sum(entry.nbytes for entry in one.entries.values()) + first > limit
    index = json.loads((tmp_path / INDEX).read_text())
    sizes = [t.nbytes for t in held_in(tmp_path).values()]
    assert index["metadata"] == {"total_size": sum(sizes)}
    assert list(index["weight_map"]) == list(layout(FAMILIES["v3"], fp8))


def test_generation_starts_and_ends_with_the_configs_tokens(tmp_path: Path) -> None:
    config = replace(FAMILIES["llama"], bos_token_id=5, eos_token_id=-1)
    export_hub(lively(config), tmp_path)
    generation = json.loads((tmp_path / "generation_config.json").read_text())
    assert generation == {"_from_model_config": True, "bos_token_id": 5}
    assert json.loads((tmp_path / "config.json").read_text())["eos_token_id"] is None


# FP8.


@pytest.mark.parametrize("fp8", FORMATS, ids=["small blocks", "powers of two", "128 x 128"])
@pytest.mark.parametrize("name", ["v3", "v2", "qwen3", "llama, all biases, tied"])
def test_fp8_is_the_quantised_weight(name: str, fp8: Fp8Format, tmp_path: Path) -> None:
    model = lively(FAMILIES[name])
    export_hub(model, tmp_path, precision="fp8", fp8=fp8)
    expected: dict[str, Tensor] = {}
    for tensor_name, tensor in hub_tensors(model).items():
        if in_fp8(tensor_name):
            codes, scale = quantise(tensor, block=fp8.block, scale_fmt=fp8.scale_fmt)
            expected |= {tensor_name: codes, tensor_name + SCALE: scale}
        else:
            exact = tensor_name.endswith("e_score_correction_bias")
            expected[tensor_name] = tensor if exact else tensor.bfloat16()
    check_same(held_in(tmp_path), expected)
    assert read_config(tmp_path) == (FAMILIES[name], fp8)


@pytest.mark.parametrize("fp8", FORMATS, ids=["small blocks", "powers of two", "128 x 128"])
@pytest.mark.parametrize("name", ["v3", "v2", "moonlight"])
def test_kept_fp8_goes_out_as_it_came(name: str, fp8: Fp8Format, tmp_path: Path) -> None:
    export_hub(lively(FAMILIES[name]), tmp_path / "one", precision="fp8", fp8=fp8)
    kept = import_hub(tmp_path / "one", keep_fp8=True)
    export_hub(kept, tmp_path / "two", precision="fp8", fp8=fp8, shard_bytes=9_000)
    check_same(held_in(tmp_path / "two"), held_in(tmp_path / "one"))
    one, two = ((tmp_path / part / "config.json").read_text() for part in ("one", "two"))
    assert one == two and len(files(tmp_path / "two")) > 1


@pytest.mark.parametrize("dtype", [torch.float8_e8m0fnu, torch.bfloat16])
def test_scales_go_out_in_the_dtype_they_came_in(dtype: torch.dtype, tmp_path: Path) -> None:
    fp8 = Fp8Format((16, 8), "ue8m0")
    export_hub(lively(FAMILIES["v3"]), tmp_path / "one", precision="fp8", fp8=fp8)
    held = held_in(tmp_path / "one")
    narrow = {n: t.to(dtype) if n.endswith(SCALE) else t for n, t in held.items()}
    save_file(narrow, tmp_path / "one" / SINGLE)
    found = open_source(tmp_path / "one").fp8
    kept = import_hub(tmp_path / "one", keep_fp8=True)
    export_hub(kept, tmp_path / "two", precision="fp8", fp8=found)
    check_same(held_in(tmp_path / "two"), narrow)
    # Made anew, they are as long as they need to be.
    export_hub(import_hub(tmp_path / "one"), tmp_path / "three", precision="fp8", fp8=found)
    assert read_config(tmp_path / "three")[1] == fp8


def test_the_dtype_is_named_in_both_spellings(tmp_path: Path) -> None:
    export_hub(lively(FAMILIES["llama"]), tmp_path, precision="bf16")
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["dtype"] == config["torch_dtype"] == "bfloat16"


def test_a_model_quantised_in_memory_writes_the_same(tmp_path: Path) -> None:
    model = lively(FAMILIES["v3"])
    export_hub(model, tmp_path / "out", precision="fp8", fp8=SMALL_BLOCKS)
    quantise_model(model, block=SMALL_BLOCKS.block)
    export_hub(model, tmp_path / "memory", precision="fp8", fp8=SMALL_BLOCKS)
    check_same(held_in(tmp_path / "memory"), held_in(tmp_path / "out"))


@pytest.mark.parametrize(
    ("precision", "fp8"), [("fp32", None), ("bf16", SMALL_BLOCKS), ("fp8", None)]
)
def test_kept_fp8_goes_out_in_no_other_format(
    precision: Any, fp8: Fp8Format | None, tmp_path: Path
) -> None:
    """A sentence, and no file."""
    model = lively(FAMILIES["v3"])
    quantise_model(model, block=SMALL_BLOCKS.block)
    with pytest.raises(ValueError, match="in FP8 with blocks of 16 x 8: export it in that format"):
        export_hub(model, tmp_path / "out", precision=precision, fp8=fp8)
    assert not (tmp_path / "out").exists()


def test_a_weight_that_fp8_cannot_hold_is_named(tmp_path: Path) -> None:
    """And the folder, without a config, is none that a program takes for whole."""
    model = lively(FAMILIES["v3"])
    name = "model.layers.2.mlp.experts.5.up_proj.weight"
    with torch.no_grad():
        hub_tensors(model)[name][3, 4] = torch.inf
    with pytest.raises(ValueError, match=f"{name}: the weight holds inf"):
        export_hub(model, tmp_path, precision="fp8")
    assert not (tmp_path / "config.json").exists()


# The folder.


def test_an_earlier_checkpoint_goes(tmp_path: Path) -> None:
    """Left-over shards and indexes would be read before the new file, or beside it."""
    export_hub(lively(FAMILIES["v3"]), tmp_path, shard_bytes=9_000)
    (tmp_path / "README.md").write_text("mine")
    model = lively(FAMILIES["llama"], seed=1)
    for shard_bytes in (10**9, 9_000, 5_000, 10**9):
        export_hub(model, tmp_path, shard_bytes=shard_bytes)
        check_same(held_in(tmp_path), hub_tensors(model))
        check_equal(import_hub(tmp_path), hub_tensors(model))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("README.md", "config.json", "generation_config.json", SINGLE)
    ]


def test_links_are_replaced_and_not_followed(tmp_path: Path) -> None:
    blobs = tmp_path / "blobs"
    folder = tmp_path / "snapshots" / "1"
    blobs.mkdir()
    folder.mkdir(parents=True)
    for name in (SINGLE, "config.json", "generation_config.json"):
        (blobs / name).write_text("a blob of the cache")
        (folder / name).symlink_to(blobs / name)
    export_hub(lively(FAMILIES["llama"]), folder)
    assert {path.read_text() for path in blobs.iterdir()} == {"a blob of the cache"}
    assert not any(path.is_symlink() for path in folder.iterdir())
    import_hub(folder)


# Other programs.

CLASSES = {
    "deepseek_v3": ("DeepseekV3Config", "DeepseekV3ForCausalLM"),
    "deepseek_v2": ("DeepseekV2Config", "DeepseekV2ForCausalLM"),
    "llama": ("LlamaConfig", "LlamaForCausalLM"),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM"),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM"),
}
YARN = RopeScaling(
    rope_type="yarn", factor=4.0, original_max_position_embeddings=8, mscale=1.0, mscale_all_dim=1.0
)


@families
def test_what_transformers_saves_is_read(name: str, tmp_path: Path) -> None:
    """Ours into theirs, theirs saved in shards, those into ours again: the same bits.

    V3's class saves no prediction block, though its config says there is one.
    """
    transformers = pytest.importorskip("transformers", reason="install the extra 'dev'")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    config = replace(FAMILIES[name], rope_scaling=YARN)
    model = lively(config)
    export_hub(model, tmp_path / "ours", precision="bf16")
    oracle = getattr(transformers, CLASSES[config.model_type][1]).from_pretrained(
        tmp_path / "ours", dtype=torch.bfloat16
    )
    oracle.save_pretrained(tmp_path / "theirs", max_shard_size="9KB")
    assert len(files(tmp_path / "theirs")) > 2
    back = import_hub(tmp_path / "theirs", dtype=torch.bfloat16)
    assert back.config == config.without_prediction()
    ours = hub_tensors(import_hub(tmp_path / "ours"))
    ahead = f"model.layers.{config.num_hidden_layers}."
    check_same(hub_tensors(back), {n: t for n, t in ours.items() if not n.startswith(ahead)})


@pytest.mark.parametrize("name", ["v3", "moonlight"])
def test_transformers_writes_the_same_file(name: str, tmp_path: Path) -> None:
    """Their own export of what they loaded: the same names, shapes and numbers."""
    transformers = pytest.importorskip("transformers", reason="install the extra 'dev'")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model = lively(FAMILIES[name].without_prediction())
    export_hub(model, tmp_path / "ours")
    oracle = transformers.DeepseekV3ForCausalLM.from_pretrained(tmp_path / "ours")
    oracle.save_pretrained(tmp_path / "theirs")
    check_same(load_file(tmp_path / "theirs" / SINGLE), hub_tensors(model))


def test_what_was_made_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file is flushed to the disk, the config last: with it the folder is whole."""
    order: list[str] = []
    plain = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda fd: (order.append(os.readlink(f"/proc/self/fd/{fd}")), plain(fd))[1]
    )
    export_hub(lively(FAMILIES["llama"]), tmp_path, shard_bytes=9_000)
    written = sorted(str(path) for path in tmp_path.iterdir())
    assert sorted(order) == written and order[-1] == str(tmp_path / "config.json")
