"""What `inspect` counts: by headers, index and config alike; what it finds wrong; what it needs."""

import csv
import json
import os
from importlib import resources
from math import prod
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benthic.config import load
from benthic.cost.network import flops
from benthic.cost.network.inspection import FREE, Inspection, inspect
from benthic.folder import FolderError, RunFolder
from benthic.hub import safetensors
from benthic.hub.config import Fp8Format, from_hub, preset, presets, to_hub
from benthic.hub.files import INDEX, HubError
from benthic.hub.layout import SCALE, in_fp8, layout
from benthic.hub.safetensors import SINGLE, WIDTHS
from benthic.model.config import ModelConfig
from benthic.weights import source_in

FP8 = Fp8Format((16, 16))
V3 = ModelConfig(
    vocab_size=264,
    hidden_size=32,
    intermediate_size=48,
    moe_intermediate_size=16,
    num_hidden_layers=3,
    first_k_dense_replace=1,
    num_attention_heads=2,
    q_lora_rank=None,
    kv_lora_rank=16,
    qk_nope_head_dim=8,
    qk_rope_head_dim=8,
    v_head_dim=8,
    n_routed_experts=8,
    num_experts_per_tok=2,
    n_group=1,
    topk_group=1,
    max_position_embeddings=128,
)
LLAMA = ModelConfig(
    model_type="llama",
    vocab_size=264,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=8192,
    tie_word_embeddings=True,
)
SHARDS = 3

Tensors = dict[str, tuple[str, tuple[int, ...]]]


def tensors_of(config: ModelConfig, fp8: Fp8Format | None = None, plain: str = "BF16") -> Tensors:
    """Every tensor with dtype and shape, as a release has it."""
    wide = (SCALE, "e_score_correction_bias")
    return {
        name: (
            "F8_E4M3" if fp8 and in_fp8(name) else "F32" if name.endswith(wide) else plain,
            shape,
        )
        for name, shape in layout(config, fp8).items()
    }


def nbytes(tensors: Tensors) -> int:
    return sum(WIDTHS[dtype] * prod(shape) for dtype, shape in tensors.values())


def put_config(
    folder: Path, config: ModelConfig, fp8: Fp8Format | None = None, **keys: Any
) -> None:
    folder.mkdir(exist_ok=True)
    tree = to_hub(config) | {"torch_dtype": "bfloat16"} | keys
    tree |= {"quantization_config": fp8.to_hub()} if fp8 else {}
    (folder / "config.json").write_text(json.dumps(tree))


def put_shard(path: Path, tensors: Tensors) -> None:
    """A file with a true header and a hole for the weights."""
    header, at = {}, 0
    for name, (dtype, shape) in tensors.items():
        end = at + WIDTHS[dtype] * prod(shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + at)


def shard(i: int) -> str:
    return f"model-{i + 1:05d}-of-{SHARDS:05d}.safetensors"


def put_checkpoint(
    folder: Path,
    config: ModelConfig,
    fp8: Fp8Format | None = None,
    *,
    here: tuple[int, ...] = tuple(range(SHARDS)),
    tensors: Tensors | None = None,
) -> Path:
    """Config, index, and those of the shards that are `here`."""
    put_config(folder, config, fp8)
    tensors = tensors or tensors_of(config, fp8)
    dealt = [dict(list(tensors.items())[i::SHARDS]) for i in range(SHARDS)]
    where = {name: shard(i) for i, part in enumerate(dealt) for name in part}
    (folder / INDEX).write_text(json.dumps({"weight_map": where}))
    for i in here:
        put_shard(folder / shard(i), dealt[i])
    return folder


def look(folder: Path) -> Inspection:
    return inspect(str(folder))


def test_deepseek_r1_as_released() -> None:
    found = inspect("deepseek-r1")
    assert (found.kind, found.model_type) == ("preset", "deepseek_v3")
    assert found.architecture == "DeepseekV3ForCausalLM"
    assert found.parameters["total"] == 671_026_419_200
    assert found.parameters["active"] == 37_552_297_472
    assert found.stored.tensors == 91_991
    scales = 680_571_043_840 // 128**2
    biases = 59 * 256
    # One projection of each layer ends in half a block: kv_a_proj_with_mqa has 576 rows.
    edges = 62 * 56 // 2
    assert found.stored.elements == {
        "F8_E4M3": 680_571_043_840,
        "BF16": 3_918_786_560,
        "F32": scales + biases + edges,
    }
    assert found.stored.nbytes["BF16"] == 2 * 3_918_786_560
    assert found.cache_per_token == 2 * 61 * (512 + 64)
    assert (found.context, found.files, found.findings) == (4096, None, ())


@pytest.mark.parametrize("name", presets())
def test_what_needs_n_devices_fills_more_than_one_less(name: str) -> None:
    found = inspect(name)
    assert found.config == preset(name)[0]
    cache = found.context * found.cache_per_token
    assert {device.count for device in found.devices} == {1, 8}
    for device in found.devices:
        room = (1 - FREE) * device.memory_gib * 2**30
        for form, weights in found.weights.items():
            n = device.needed[form]
            assert (n - 1) * room < weights + cache <= n * room


def test_the_table_of_gpus_names_its_sources() -> None:
    text = resources.files("benthic.cost.catalog").joinpath("boxes.csv").read_text()
    rows = list(csv.DictReader(text.splitlines()))
    assert len({(row["gpu"], row["memory_gib"]) for row in rows}) == len(rows) >= 11
    for row in rows:
        assert row["source"].startswith("https://") and row["date"][:2] == "20"


@pytest.mark.parametrize("name", ["deepseek-v3", "llama-3.1-8b", "moonlight-16b-a3b"])
def test_flops_and_weights_are_those_of_the_counts(name: str) -> None:
    found = inspect(name, context=1000)
    pairs = flops.causal_pairs(1000)
    forward = flops.forward_flops(found.config, tokens=1000, pairs=pairs)
    assert found.prefill_flops * 1000 == pytest.approx(forward, rel=1e-12)
    assert found.decode_flops == flops.decode_flops(found.config, tokens=1, pairs=1000)
    assert found.weights["bf16"] == 2 * found.parameters["total_with_mtp"]
    assert found.weights["stored"] == sum(found.stored.nbytes.values())


def test_fp8_weights_are_counted_with_their_scales() -> None:
    found = inspect("moonlight-16b-a3b")
    assert found.weights["fp8"] == nbytes(tensors_of(found.config, Fp8Format()))
    stored = inspect("deepseek-v3")
    assert stored.weights["fp8"] == stored.weights["stored"]


def test_copies_of_a_plain_checkpoint_are_stored_but_not_held(tmp_path: Path) -> None:
    found = look(put_checkpoint(tmp_path, V3))
    copies = 2 * V3.vocab_size * V3.hidden_size  # of embedding and head, in the prediction block
    biases = 3 * V3.n_routed_experts  # in fp32
    assert found.weights["stored"] == found.weights["bf16"] + 2 * copies + 2 * biases
    assert found.weights["fp8"] == nbytes(tensors_of(V3, Fp8Format())) - 2 * copies


@pytest.mark.parametrize(("config", "fp8"), [(V3, None), (V3, FP8), (LLAMA, None)])
@given(here=st.sets(st.integers(0, SHARDS - 1)))
def test_headers_index_and_config_count_alike(
    tmp_path_factory: pytest.TempPathFactory,
    config: ModelConfig,
    fp8: Fp8Format | None,
    here: set[int],
) -> None:
    """Whichever files are there; `config` as a checkpoint has it, without initializer_range."""
    folder = put_checkpoint(tmp_path_factory.mktemp("some"), config, fp8, here=tuple(sorted(here)))
    found, tensors = look(folder), tensors_of(config, fp8)
    assert found.findings == () and found.config == config
    assert found.stored.files == SHARDS
    assert found.stored.missing == tuple(shard(i) for i in range(SHARDS) if i not in here)
    assert found.stored.origin == ("headers" if len(here) == SHARDS else "index")
    assert found.stored.tensors == len(tensors)
    assert sum(found.stored.nbytes.values()) == nbytes(tensors)
    for dtype, n in found.stored.elements.items():
        assert n == sum(prod(shape) for kind, shape in tensors.values() if kind == dtype)
    assert found.stored.dtype == ("F8_E4M3" if fp8 else "BF16")


@pytest.mark.parametrize(("config", "fp8"), [(V3, None), (V3, FP8), (LLAMA, None)])
def test_an_index_alone_counts_as_the_slow_way_does(
    tmp_path: Path, config: ModelConfig, fp8: Fp8Format | None
) -> None:
    """A tolerated tensor more, and the names are no longer the config's."""
    quick = look(put_checkpoint(tmp_path / "quick", config, fp8, here=()))
    more = {"model.layers.0.self_attn.rotary_emb.inv_freq": ("F32", (4,))}
    more |= {"lm_head.weight": ("BF16", (264, 32))} if config.tie_word_embeddings else {}
    tensors = tensors_of(config, fp8)
    slow = look(put_checkpoint(tmp_path / "slow", config, fp8, here=(), tensors=tensors | more))
    assert slow.findings == quick.findings == ()
    assert slow.stored.tensors == quick.stored.tensors + len(more)
    head = {"BF16": 264 * 32} if config.tie_word_embeddings else {}
    for dtype, n in quick.stored.elements.items():
        assert slow.stored.elements[dtype] == n + head.get(dtype, 0)
    assert slow.config == quick.config and slow.stored.missing == quick.stored.missing


def test_one_file_is_read_without_an_index(tmp_path: Path) -> None:
    put_config(tmp_path, LLAMA)
    put_shard(tmp_path / SINGLE, tensors_of(LLAMA, plain="F32"))
    found = look(tmp_path)
    assert found.stored.files == 1 and found.stored.origin == "headers"
    assert found.stored.elements == {"F32": found.parameters["total"]}
    assert found.findings == ()


def test_no_weight_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, read = put_checkpoint(tmp_path, V3, FP8), 0
    original = safetensors.read_bytes

    def counted(path: Path, file: Any, count: int) -> bytes:
        nonlocal read
        read += count
        return original(path, file, count)

    monkeypatch.setattr(safetensors, "read_bytes", counted)
    found = look(folder)
    sizes = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert read == sizes - sum(found.stored.nbytes.values())


def test_a_checkpoint_without_its_prediction_block_is_counted_without(tmp_path: Path) -> None:
    alone = V3.without_prediction()
    for here in ((), (0, 1, 2)):
        found = look(put_checkpoint(tmp_path, V3, tensors=tensors_of(alone), here=here))
        assert found.config == alone and found.findings == ()
        assert found.parameters["mtp"] == 0


def test_an_index_without_scales_means_plain_weights(tmp_path: Path) -> None:
    found = look(put_checkpoint(tmp_path, V3, FP8, tensors=tensors_of(V3), here=()))
    assert "F8_E4M3" not in found.stored.elements and found.findings == ()


def without(tensors: Tensors, name: str) -> Tensors:
    return {key: value for key, value in tensors.items() if key != name}


NORM = "model.norm.weight"
EXTRA = {"model.extra.weight": ("BF16", (4,))}


@pytest.mark.parametrize("here", [(), (0, 1, 2)])
@pytest.mark.parametrize(
    ("tensors", "fp8", "words"),
    [
        (without(tensors_of(V3), NORM), None, f"lacks the tensor {NORM}"),
        (tensors_of(V3) | EXTRA, None, "holds the tensor 'model.extra.weight'"),
        (tensors_of(V3, FP8), None, "has no quantization_config"),
    ],
)
def test_names_that_the_config_does_not_have_are_found(
    tmp_path: Path, tensors: Tensors, fp8: Fp8Format | None, words: str, here: tuple[int, ...]
) -> None:
    found = look(put_checkpoint(tmp_path, V3, fp8, tensors=tensors, here=here))
    assert len(found.findings) == 1 and words in found.findings[0]
    assert found.parameters == flops.parameters(V3)  # what can be said is said


def test_another_shape_is_found_and_the_headers_are_counted(tmp_path: Path) -> None:
    tensors = tensors_of(V3) | {NORM: ("BF16", (31,))}
    found = look(put_checkpoint(tmp_path, V3, tensors=tensors))
    assert [f"holds {NORM} as (31,)" in finding for finding in found.findings] == [True]
    assert sum(found.stored.nbytes.values()) == nbytes(tensors)


def test_a_damaged_file_is_found_and_the_rest_is_read(tmp_path: Path) -> None:
    folder = put_checkpoint(tmp_path, V3)
    (folder / shard(1)).write_bytes(b"<html> no such file")
    found = look(folder)
    assert len(found.findings) == 1 and shard(1) in found.findings[0]
    assert found.stored.missing == () and found.stored.origin == "index"
    assert sum(found.stored.nbytes.values()) == nbytes(tensors_of(V3))


def test_shards_of_another_revision_are_found(tmp_path: Path) -> None:
    folder = put_checkpoint(tmp_path, V3)
    first = (folder / shard(0)).read_bytes()
    (folder / shard(0)).write_bytes((folder / shard(1)).read_bytes())
    (folder / shard(1)).write_bytes(first)
    found = look(folder)
    assert len(found.findings) == 2
    assert all("other tensors than" in finding for finding in found.findings)


@pytest.mark.parametrize("content", [b"{", b'{"weight_map": {"a": "../b.safetensors"}}'])
def test_a_bad_index_is_found_and_the_config_counts(tmp_path: Path, content: bytes) -> None:
    put_config(tmp_path, V3)
    (tmp_path / INDEX).write_bytes(content)
    found = look(tmp_path)
    assert len(found.findings) == 1
    assert (found.stored.origin, found.stored.files) == ("config", 0)


def test_pickles_are_named_and_no_weights_at_all_is_no_fault(tmp_path: Path) -> None:
    put_config(tmp_path, LLAMA)
    assert look(tmp_path).findings == () and look(tmp_path).stored.origin == "config"
    for name in ("pytorch_model.bin", "modeling_x.py", "notes.txt"):
        (tmp_path / name).write_text("raise SystemExit(9)")
    found = look(tmp_path)
    assert found.files and found.files.code == ("modeling_x.py", "pytorch_model.bin")
    assert len(found.findings) == 1 and "only safetensors are read" in found.findings[0]


@pytest.mark.parametrize(
    ("files", "tokenizer", "template"),
    [
        ({}, None, False),
        ({"tokenizer.json": "", "tokenizer.model": ""}, "tokenizer.json", False),
        ({"tiktoken.model": "", "chat_template.jinja": ""}, "tiktoken.model", True),
        ({"tokenizer.model": "", "tokenizer_config.json": "{}"}, "tokenizer.model", False),
        ({"tokenizer_config.json": '{"chat_template": "x"}'}, None, True),
    ],
)
def test_tokenizer_and_template_are_seen(
    tmp_path: Path, files: dict[str, str], tokenizer: str | None, template: bool
) -> None:
    put_config(tmp_path, LLAMA)
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    found = look(tmp_path)
    assert found.files and found.findings == ()
    assert (found.files.tokenizer, found.files.chat_template) == (tokenizer, template)


def test_files_that_cannot_be_read_are_found(tmp_path: Path) -> None:
    put_config(tmp_path, LLAMA)
    (tmp_path / "tokenizer_config.json").write_text("{")
    assert "tokenizer_config.json is no JSON" in look(tmp_path).findings[0]
    (tmp_path / "tokenizer.json").symlink_to("/etc/passwd")
    assert "outside its folder" in look(tmp_path).findings[0]


@pytest.mark.parametrize(
    ("keys", "dtype"),
    [
        ({}, "BF16"),
        ({"torch_dtype": "float32"}, "F32"),
        ({"torch_dtype": "torch.float16"}, "F16"),
        ({"torch_dtype": None}, "BF16"),
        ({"torch_dtype": ["x"]}, "BF16"),
    ],
)
def test_the_dtype_is_the_configs(tmp_path: Path, keys: dict[str, Any], dtype: str) -> None:
    put_config(tmp_path, LLAMA, **keys)
    assert inspect(str(tmp_path / "config.json")).stored.elements.keys() == {dtype}


def test_a_bare_config_is_as_its_preset(tmp_path: Path) -> None:
    shipped = resources.files("benthic.hub").joinpath("presets", "kimi-k2.json")
    path = tmp_path / "kimi.json"
    path.write_bytes(shipped.read_bytes())
    bare, named = inspect(str(path)).to_dict(), inspect("kimi-k2").to_dict()
    assert (bare.pop("kind"), named.pop("kind")) == ("config", "preset")
    assert (bare.pop("source"), named.pop("source")) == (str(path), "kimi-k2")
    assert bare == named and bare["model_type"] == "kimi_k2"


def test_a_path_goes_before_a_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_config(tmp_path / "deepseek-r1", LLAMA)
    monkeypatch.chdir(tmp_path)
    assert inspect("deepseek-r1").model_type == "llama"


def test_a_run_is_counted_by_its_recipe(tmp_path: Path) -> None:
    recipe = load("laptop")
    RunFolder(tmp_path).begin(recipe, {})
    found = look(tmp_path)
    assert (found.kind, found.config) == ("run", recipe.model)
    assert found.parameters["total_with_mtp"] == 407_960
    assert found.stored.elements.keys() == {"F32"} and found.findings == ()
    assert found.context == recipe.model.max_position_embeddings


def test_a_recipe_of_a_stranger_ends_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    for content in ("x = " + "[" * 100_000, "#" * (1 << 21), "x = 1", "["):
        path.write_text(content)
        with pytest.raises((ValueError, FolderError)):
            look(tmp_path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(HubError, match="no regular file"):
        look(tmp_path)


@pytest.mark.parametrize("context", [0, -1, 129])
def test_a_context_beyond_the_models_is_refused(tmp_path: Path, context: int) -> None:
    put_config(tmp_path, V3)
    assert inspect(str(tmp_path)).context == 128
    with pytest.raises(HubError, match="between 1 and max_position_embeddings = 128"):
        inspect(str(tmp_path), context=context)


def test_what_is_near_a_model_is_told_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = put_checkpoint(tmp_path, LLAMA, None)
    with pytest.raises(HubError, match=f"is a file of weights: give its folder, {folder}"):
        inspect(str(next(folder.glob("*.safetensors"))))
    cache = tmp_path / "models--x--y"
    (cache / "snapshots" / "abc").mkdir(parents=True)
    for open_up in (inspect, lambda path: source_in(Path(path))):
        with pytest.raises(HubError, match=f"give a snapshot of it, {cache}/snapshots/abc"):
            open_up(str(cache))
    monkeypatch.setattr("benthic.hub.files.os.access", lambda *_: False)
    for open_up in (inspect, lambda path: source_in(Path(path))):
        with pytest.raises(HubError, match="cannot be looked into: check its permissions"):
            open_up(str(folder))


def test_what_is_no_model_ends_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(HubError, match=r"neither config\.json nor recipe\.toml"):
        look(tmp_path)
    with pytest.raises(HubError, match="no preset of that name: choose from deepseek-r1"):
        inspect(str(tmp_path / "nowhere"))
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
    with pytest.raises(HubError, match=r"config\.json: model_type is 'mamba'"):
        look(tmp_path)


@pytest.mark.parametrize(("config", "fp8"), [(V3, FP8), (LLAMA, None)])
def test_all_of_it_is_json(tmp_path: Path, config: ModelConfig, fp8: Fp8Format | None) -> None:
    found = look(put_checkpoint(tmp_path, config, fp8))
    tree = json.loads(json.dumps(found.to_dict()))
    assert from_hub(tree["config"]) == config
    assert tree["stored"]["tensors"] == found.stored.tensors
    assert tree["devices"][0]["needed"].keys() == {"bf16", "fp8", "stored"}
