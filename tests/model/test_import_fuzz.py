"""Damaged checkpoints: a refusal in one sentence, or a model of finite weights; nothing else.

`KINDS` damages a sound folder in one way each, `BETWEEN` after its headers were read. The same
generator runs thousands of cases in `benchmarks/fuzz_import.py`.
"""

import json
import math
import os
import struct
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from benthic.hub.config import Fp8Format
from benthic.hub.files import INDEX, HubError
from benthic.hub.layout import SCALE, is_copy
from benthic.hub.safetensors import WIDTHS
from benthic.model import memory
from benthic.model.checkpoint import empty_model, fill, open_source
from benthic.model.config import ModelConfig
from benthic.model.export import export_hub
from benthic.model.memory import MemoryNeeded
from tests.model.test_checkpoint import lively

Folder = dict[str, bytes]
Tensors = dict[str, tuple[str, list[int], bytes]]
Damage = Callable[[Random, Path], str | None]
"""Damages the folder; names the tensor that a refusal should name, where there is one."""

SHAPE = ModelConfig(
    **{"vocab_size": 21, "hidden_size": 12, "intermediate_size": 10, "moe_intermediate_size": 8},
    **{"num_hidden_layers": 2, "first_k_dense_replace": 1, "num_attention_heads": 2},
    **{"q_lora_rank": 5, "kv_lora_rank": 6, "qk_nope_head_dim": 3, "qk_rope_head_dim": 2},
    **{"v_head_dim": 3, "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    **{"n_group": 2, "topk_group": 1, "max_position_embeddings": 16},
)
MEMORY = 64 << 20  # enough for the shape, and for no number that a damaged config makes of it
NUMBERS: list[Any] = [
    *(-1, 0, 1, 2, 3, 7, 64, 4096, 2**31, 2**32, 2**63, 2**64, 10**99, -(10**99)),
    *(0.0, 1.5, -1.5, 1e300, 1e-300),
]
VALUES: list[Any] = [*NUMBERS, True, False, None, "", "x", "yarn", [], [1], [[]], {}, {"x": 1}]
FILE_NAMES = [
    *("../x.safetensors", "/etc/passwd", "a/b.safetensors", "..", ".", "", "C:x.safetensors"),
    *("a\\b.safetensors", "x.bin", "x.safetensors\n", "x" * 300 + ".safetensors", "\u202ex"),
    *("missing.safetensors", "..safetensors", "~/x.safetensors", "config.json"),
]


def originals(folder: Path) -> list[Folder]:
    """A plain checkpoint and one in FP8, both of several shards with an index, as bytes."""
    out = []
    for name, fp8 in (("plain", None), ("fp8", Fp8Format((4, 4)))):
        at, precision = folder / name, "fp8" if fp8 else "bf16"
        export_hub(lively(SHAPE), at, precision=precision, fp8=fp8, shard_bytes=2500)  # type: ignore[arg-type]
        out.append({path.name: path.read_bytes() for path in sorted(at.iterdir())})
    return out


def build(folder: Path, files: Folder) -> None:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)


def attempt(
    folder: Path, rng: Random, *, between: Damage | None = None, named: str | None = None
) -> str:
    """Import once: 'read' or 'refused'. AssertionError for a refusal that does not say enough."""
    options = {"dtype": rng.choice([torch.float32, torch.bfloat16, torch.float16])}
    keep = rng.random() < 0.5
    try:
        source = open_source(folder)
        options["dtype"] = rng.choice([source.dtype, options["dtype"]])
        model = empty_model(
            source.config, device="cpu", **options, fp8=source.fp8 if keep else None
        )
        if between is not None:
            named = between(rng, folder)
        fill(model, source)
    except (HubError, MemoryNeeded) as error:
        check_sentence(str(error), "" if isinstance(error, MemoryNeeded) else str(folder), named)
        return "refused"
    for name, tensor in model.state_dict().items():
        assert tensor.float().isfinite().all(), name
        assert not name.endswith("scale_inv") or (tensor > 0).all(), name
    return "read"


def check_sentence(text: str, folder: str, named: str | None) -> None:
    """One line with the file, the tensor where there is one, and, behind a colon, a remedy."""
    assert text.isprintable() and len(text) < 700, text
    assert folder in text and ": " in text and not text.endswith(": "), text
    assert named is None or named in text, (named, text)


def run(root: Path, files: Folder, damage: Damage, seed: int, *, late: bool = False) -> str:
    """One case in a folder of its own; nothing may appear or change outside it, or in it."""
    folder, rng = root / "checkpoint", Random(seed)
    build(folder, files)
    named = None if late else damage(rng, folder)
    before = contents(root)
    outcome = attempt(folder, rng, between=damage if late else None, named=named)
    assert late or contents(root) == before
    remove(folder)
    return outcome


def contents(root: Path) -> dict[str, tuple[int, int]]:
    found = {}
    for home, folders, names in os.walk(root):
        for name in (*folders, *names):
            status = os.lstat(os.path.join(home, name))
            found[os.path.join(home, name)] = (status.st_size, status.st_mtime_ns)
    return found


def remove(folder: Path) -> None:
    for home, folders, names in os.walk(folder, topdown=False):
        for name in names:
            os.unlink(os.path.join(home, name))
        for name in folders:
            path = os.path.join(home, name)
            if os.path.islink(path):
                os.unlink(path)
            else:
                os.rmdir(path)
    folder.rmdir()


# The format, by hand.


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def header_length(content: bytes) -> int:
    return int.from_bytes(content[:8], "little")


def header(path: Path) -> tuple[dict[str, Any], bytes]:
    content = path.read_bytes()
    end = 8 + header_length(content)
    return json.loads(content[8:end]), content[end:]


def put_header(path: Path, tree: Any, data: bytes) -> None:
    text = tree if isinstance(tree, bytes) else json.dumps(tree).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def unpack(path: Path) -> Tensors:
    tree, data = header(path)
    tree.pop("__metadata__", None)
    return {
        name: (info["dtype"], info["shape"], data[slice(*info["data_offsets"])])
        for name, info in tree.items()
    }


def pack(path: Path, tensors: Tensors) -> None:
    tree, data = {}, b""
    for name, (dtype, shape, content) in tensors.items():
        offsets = [len(data), len(data) + len(content)]
        tree[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        data += content
    put_header(path, tree, data)
    rebuild_index(path.parent)


def rebuild_index(folder: Path) -> None:
    where = {name: path.name for path in shards(folder) for name in unpack(path)}
    (folder / INDEX).write_text(json.dumps({"weight_map": where}))


def pick(rng: Random, folder: Path, *, wanted: Callable[[str, str], bool]) -> tuple[Path, str]:
    """A shard and one of its tensors, of whose name and dtype `wanted` holds."""
    found = [
        (path, name)
        for path in shards(folder)
        for name, (dtype, _, _) in unpack(path).items()
        if wanted(name, dtype)
    ]
    return rng.choice(found)


def any_weight(name: str, dtype: str) -> bool:
    return not is_copy(name) and not name.endswith(SCALE)


# Whole files.


def cut_anywhere(rng: Random, folder: Path) -> str | None:
    path = rng.choice(shards(folder))
    os.truncate(path, rng.randrange(path.stat().st_size))
    return None


def empty_file(rng: Random, folder: Path) -> str | None:
    rng.choice(sorted(folder.iterdir())[:1] + shards(folder) + [folder / INDEX]).write_bytes(b"")
    return None


def flipped_bytes(rng: Random, folder: Path) -> str | None:
    path = rng.choice([*shards(folder), folder / INDEX, folder / "config.json"])
    content = bytearray(path.read_bytes())
    for _ in range(rng.randint(1, 8)):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    return None


def flipped_header(rng: Random, folder: Path) -> str | None:
    path = rng.choice(shards(folder))
    content = bytearray(path.read_bytes())
    for _ in range(rng.randint(1, 4)):
        content[rng.randrange(8 + header_length(content))] = rng.randrange(256)
    path.write_bytes(content)
    return None


def grown_file(rng: Random, folder: Path) -> str | None:
    path = rng.choice(shards(folder))
    path.write_bytes(path.read_bytes() + rng.randbytes(rng.randint(1, 100)))
    return None


def missing_file(rng: Random, folder: Path) -> str | None:
    rng.choice([*shards(folder), folder / INDEX, folder / "config.json"]).unlink()
    return None


def swapped_files(rng: Random, folder: Path) -> str | None:
    one, two = rng.sample(shards(folder), 2)
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    return None


def folder_for_a_file(rng: Random, folder: Path) -> str | None:
    path = rng.choice([*shards(folder), folder / INDEX, folder / "config.json"])
    path.unlink()
    path.mkdir()
    return None


def pipe_for_a_file(rng: Random, folder: Path) -> str | None:
    path = rng.choice([*shards(folder), folder / INDEX, folder / "config.json"])
    path.unlink()
    os.mkfifo(path)
    return None


def link_outside(rng: Random, folder: Path) -> str | None:
    """To a sound file, which was not offered."""
    path = rng.choice([*shards(folder), folder / INDEX, folder / "config.json"])
    outside = folder.parent / "outside"
    outside.write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(rng.choice(["../outside", str(outside)]))
    return None


def link_astray(rng: Random, folder: Path) -> str | None:
    path = rng.choice([*shards(folder), folder / INDEX, folder / "config.json"])
    path.unlink()
    path.symlink_to(rng.choice([path.name, "nowhere", "/dev/zero", "/etc/passwd", "..", "/"]))
    return None


def link_inside(rng: Random, folder: Path) -> str | None:
    path = rng.choice(shards(folder))
    path.rename(folder / "kept")
    path.symlink_to("kept")
    return None


# Headers.


def lying_length(rng: Random, folder: Path) -> str | None:
    path = rng.choice(shards(folder))
    content = path.read_bytes()
    true, size = header_length(content), len(content)
    lies = [0, 1, true - 1, true + 1, size, size - 8, size - 7, 2**31, 2**63, 2**64 - 1]
    path.write_bytes(struct.pack("<Q", rng.choice(lies)) + content[8:])
    return None


def edited_entry(rng: Random, folder: Path, key: str, make: Callable[[Any], Any]) -> str | None:
    path, name = pick(rng, folder, wanted=lambda *_: True)
    tree, data = header(path)
    tree[name][key] = make(tree[name][key])
    put_header(path, tree, data)
    return None


def other_offsets(rng: Random, folder: Path) -> str | None:
    def make(offsets: list[int]) -> Any:
        at, by = rng.randrange(2), rng.choice([-1, 1, 2, -8, 10**6, 2**63, -(2**64)])
        return [n + by * (i == at) for i, n in enumerate(offsets)]

    return edited_entry(rng, folder, "data_offsets", make)


def odd_offsets(rng: Random, folder: Path) -> str | None:
    odd = [rng.choice(VALUES) for _ in range(rng.randint(0, 3))]
    return edited_entry(rng, folder, "data_offsets", lambda _: odd)


def overlapping(rng: Random, folder: Path) -> str | None:
    path = rng.choice([p for p in shards(folder) if len(unpack(p)) > 1])
    tree, data = header(path)
    one, two = rng.sample(sorted(tree.keys() - {"__metadata__"}), 2)
    tree[one] = tree[two]
    put_header(path, tree, data)
    return None


def other_shape(rng: Random, folder: Path) -> str | None:
    def make(shape: list[int]) -> Any:
        at = rng.randrange(len(shape))
        return [n + (i == at) * rng.choice([-1, 1, 5, 2**40]) for i, n in enumerate(shape)]

    return edited_entry(rng, folder, "shape", make)


def odd_shape(rng: Random, folder: Path) -> str | None:
    odd = [rng.choice(VALUES) for _ in range(rng.randint(0, 9))]
    return edited_entry(rng, folder, "shape", lambda _: odd)


def turned(rng: Random, folder: Path) -> str | None:
    """The same bytes in another shape, which the file alone cannot tell."""
    path, name = pick(
        rng, folder, wanted=lambda name, _: not is_copy(name) and name.endswith("proj.weight")
    )
    tree, data = header(path)
    shape = tree[name]["shape"]
    tree[name]["shape"] = [shape[0] * shape[1]] if shape[0] == shape[1] else shape[::-1]
    put_header(path, tree, data)
    return name


def other_dtype(rng: Random, folder: Path) -> str | None:
    kinds = [*WIDTHS, "F4", "C64", "", "bf16"]
    return edited_entry(rng, folder, "dtype", lambda _: rng.choice(kinds))


def odd_entry(rng: Random, folder: Path) -> str | None:
    path, name = pick(rng, folder, wanted=lambda *_: True)
    tree, data = header(path)
    odd = [*VALUES, tree[name] | {"more": 1}, {k: v for k, v in tree[name].items() if k != "shape"}]
    tree[name] = rng.choice(odd)
    put_header(path, tree, data)
    return None


def odd_metadata(rng: Random, folder: Path) -> str | None:
    path = rng.choice(shards(folder))
    tree, data = header(path)
    tree["__metadata__"] = rng.choice([v for v in VALUES if v != {}])
    put_header(path, tree, data)
    return None


def deep_header(rng: Random, folder: Path) -> str | None:
    path, depth = rng.choice(shards(folder)), rng.choice([70, 1000, 200_000])
    put_header(path, b'{"a":' + b"[" * depth + b"]" * depth + b"}", header(path)[1])
    return None


# Tensors.


def gone_tensor(rng: Random, folder: Path) -> str | None:
    path, name = pick(rng, folder, wanted=any_weight)
    tensors = unpack(path)
    del tensors[name]
    if name.endswith(SCALE) or name + SCALE in tensors:
        tensors.pop(name + SCALE, None)
    pack(path, tensors)
    return name


def gone_scale(rng: Random, folder: Path) -> str | None:
    path, name = pick(rng, folder, wanted=lambda name, dtype: name.endswith(SCALE))
    tensors = unpack(path)
    del tensors[name]
    pack(path, tensors)
    return name


def new_tensor(rng: Random, folder: Path) -> str | None:
    path = rng.choice(shards(folder))
    name = rng.choice(
        [
            *("model.layers.0.self_attn.q_proj.weight", "model.layers.9.enorm.weight"),
            *("lm_head.bias", "model.norm.weight_scale_inv", "adapter", "module.lm_head.weight"),
            "model.layers.1.mlp.experts.4.up_proj.weight",
        ]
    )
    pack(path, unpack(path) | {name: ("F32", [1], bytes(4))})
    return name


def renamed_tensor(rng: Random, folder: Path) -> str | None:
    path, name = pick(rng, folder, wanted=any_weight)
    tensors = unpack(path)
    tensors[name.replace("weight", "wait").replace("bias", "buyers")] = tensors.pop(name)
    pack(path, tensors)
    return None


def doubled_tensor(rng: Random, folder: Path) -> str | None:
    path, name = pick(rng, folder, wanted=any_weight)
    other = rng.choice([p for p in shards(folder) if p != path])
    index = (folder / INDEX).read_bytes()
    pack(other, unpack(other) | {name: unpack(path)[name]})
    if rng.random() < 0.5:
        (folder / INDEX).write_bytes(index)
    return name


def odd_number(rng: Random, folder: Path) -> str | None:
    """A NaN or an infinity somewhere."""
    path, name = pick(rng, folder, wanted=any_weight)
    tensors = unpack(path)
    dtype, shape, content = tensors[name]
    patterns = {
        "BF16": (0x7F80, 0xFF80, 0x7FC0, 0x7F81, 0xFFFF),
        "F32": (0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001, 0xFFFFFFFF),
        "F8_E4M3": (0x7F, 0xFF),
    }
    width = WIDTHS[dtype]
    at = rng.randrange(len(content) // width) * width
    pattern = rng.choice(patterns[dtype]).to_bytes(width, "little")
    tensors[name] = (dtype, shape, content[:at] + pattern + content[at + width :])
    pack(path, tensors)
    return name


def odd_scale(rng: Random, folder: Path) -> str | None:
    path, name = pick(rng, folder, wanted=lambda name, dtype: name.endswith(SCALE))
    tensors = unpack(path)
    dtype, shape, content = tensors[name]
    at = rng.randrange(len(content) // 4) * 4
    value = struct.pack("<f", rng.choice([0.0, -0.0, -1.0, math.nan, math.inf, -math.inf, 1e38]))
    tensors[name] = (dtype, shape, content[:at] + value + content[at + 4 :])
    pack(path, tensors)
    return name


def scale_of_another_size(rng: Random, folder: Path) -> str | None:
    path, name = pick(rng, folder, wanted=lambda name, dtype: name.endswith(SCALE))
    tensors = unpack(path)
    rows, columns = tensors[name][1]
    shape = rng.choice([[rows + 1, columns], [rows, columns + 1], [1, rows * columns + 1], [1]])
    tensors[name] = ("F32", shape, struct.pack("<f", 1.0) * math.prod(shape))
    pack(path, tensors)
    return name


# The index.


def edited_index(rng: Random, folder: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    tree = json.loads((folder / INDEX).read_text())
    edit(tree)
    (folder / INDEX).write_text(json.dumps(tree))


def index_leads_astray(rng: Random, folder: Path) -> str | None:
    """To files that are there, outside, or to names that no file should have."""
    (folder.parent / "x.safetensors").write_bytes(shards(folder)[0].read_bytes())

    def edit(tree: dict[str, Any]) -> None:
        name, only = rng.choice(FILE_NAMES), rng.random() < 0.5
        for tensor in rng.sample(sorted(tree["weight_map"]), 1) if only else tree["weight_map"]:
            tree["weight_map"][tensor] = name

    edited_index(rng, folder, edit)
    return None


def index_names_another_shard(rng: Random, folder: Path) -> str | None:
    def edit(tree: dict[str, Any]) -> None:
        tensor = rng.choice(sorted(tree["weight_map"]))
        others = set(tree["weight_map"].values()) - {tree["weight_map"][tensor]}
        tree["weight_map"][tensor] = rng.choice(sorted(others))

    edited_index(rng, folder, edit)
    return None


def index_lacks_a_tensor(rng: Random, folder: Path) -> str | None:
    edited_index(
        rng,
        folder,
        lambda tree: tree["weight_map"].pop(rng.choice(sorted(tree["weight_map"]))),
    )
    return None


def odd_index(rng: Random, folder: Path) -> str | None:
    def edit(tree: dict[str, Any]) -> None:
        if rng.random() < 0.5:
            tree["weight_map"] = rng.choice(VALUES)
        else:
            tree["weight_map"][rng.choice(sorted(tree["weight_map"]))] = rng.choice(NUMBERS)

    edited_index(rng, folder, edit)
    return None


def odd_total(rng: Random, folder: Path) -> str | None:
    edited_index(rng, folder, lambda tree: tree.update(metadata={"total_size": rng.choice(VALUES)}))
    return None


def cut_index(rng: Random, folder: Path) -> str | None:
    os.truncate(folder / INDEX, rng.randrange((folder / INDEX).stat().st_size - 1))
    return None


# The config.


def edited_config(folder: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    tree = json.loads((folder / "config.json").read_text())
    edit(tree)
    (folder / "config.json").write_text(json.dumps(tree))


def odd_config(rng: Random, folder: Path) -> str | None:
    def edit(tree: dict[str, Any]) -> None:
        for _ in range(rng.randint(1, 3)):
            if rng.random() < 0.2:
                tree["rope_scaling"] = {"type": "yarn", rng.choice(["factor", "x"]): 1}
            tree[rng.choice(sorted(tree))] = rng.choice(VALUES)

    edited_config(folder, edit)
    return None


def near_config(rng: Random, folder: Path) -> str | None:
    """Another sound shape, most often not the one of the files."""

    def edit(tree: dict[str, Any]) -> None:
        whole = sorted(key for key, value in tree.items() if type(value) is int)
        key = rng.choice(whole)
        tree[key] = rng.choice([tree[key] - 1, tree[key] + 1, 2 * tree[key], 1 << 24])

    edited_config(folder, edit)
    return None


def config_without_a_key(rng: Random, folder: Path) -> str | None:
    edited_config(folder, lambda tree: tree.pop(rng.choice(sorted(tree))))
    return None


def cut_config(rng: Random, folder: Path) -> str | None:
    path = folder / "config.json"
    os.truncate(path, rng.randrange(path.stat().st_size - 2))
    return None


def deep_config(rng: Random, folder: Path) -> str | None:
    depth = rng.choice([70, 1000, 100_000])
    (folder / "config.json").write_text('{"a":' * depth + "1" + "}" * depth)
    return None


def giant_config(rng: Random, folder: Path) -> str | None:
    """2 GB, of which the disk holds nothing."""
    os.truncate(folder / rng.choice(["config.json", INDEX]), 2 << 30)
    return None


def binary_config(rng: Random, folder: Path) -> str | None:
    (folder / "config.json").write_bytes(rng.randbytes(rng.randint(0, 200)))
    return None


def doubled_key(rng: Random, folder: Path) -> str | None:
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace("{", '{"hidden_size": 8, ', 1))
    return None


# After the headers were read.


def shortened(rng: Random, folder: Path) -> str | None:
    path = rng.choice(shards(folder))
    os.truncate(path, rng.randrange(path.stat().st_size))
    return None


def unlinked(rng: Random, folder: Path) -> str | None:
    rng.choice(shards(folder)).unlink()
    return None


def overwritten(rng: Random, folder: Path) -> str | None:
    """Of the same size, with other bytes: read, or refused for what they say."""
    path = rng.choice(shards(folder))
    path.write_bytes(rng.randbytes(path.stat().st_size))
    return None


KINDS: dict[Damage, bool] = {
    **dict.fromkeys((cut_anywhere, empty_file, grown_file, missing_file, swapped_files), False),
    **dict.fromkeys((folder_for_a_file, pipe_for_a_file, link_outside, link_astray), False),
    **dict.fromkeys((lying_length, other_offsets, odd_offsets, overlapping, other_shape), False),
    **dict.fromkeys((odd_shape, turned, odd_entry, odd_metadata, deep_header), False),
    **dict.fromkeys((gone_tensor, new_tensor, renamed_tensor, doubled_tensor, odd_number), False),
    **dict.fromkeys((index_leads_astray, index_names_another_shard, index_lacks_a_tensor), False),
    **dict.fromkeys((odd_index, cut_index, cut_config, deep_config, giant_config), False),
    **dict.fromkeys((binary_config, doubled_key), False),
    **dict.fromkeys((flipped_bytes, flipped_header, link_inside, other_dtype, odd_total), True),
    **dict.fromkeys((odd_config, near_config, config_without_a_key), True),
}
"""Damage, and whether it may leave a folder that is sound."""
OF_FP8: list[Damage] = [gone_scale, odd_scale, scale_of_another_size]
BETWEEN: dict[Damage, bool] = {
    **dict.fromkeys((shortened, unlinked, grown_file), False),
    **dict.fromkeys((folder_for_a_file, pipe_for_a_file, link_outside), True),  # read by then
    **dict.fromkeys((overwritten, link_inside), True),
}


def cut_at(size: int, name: str) -> Damage:
    def cut_header(rng: Random, folder: Path) -> str | None:
        os.truncate(folder / name, size)
        return None

    return cut_header


def header_cuts(files: Folder, step: int = 64) -> list[Damage]:
    """Each shard cut at every `step`th byte of its header."""
    return [
        cut_at(size, name)
        for name, content in files.items()
        if name.endswith(".safetensors")
        for size in range(0, 8 + header_length(content), step)
    ]


def cases(files: Folder, seeds: range) -> list[tuple[str, Damage, int, bool, bool]]:
    """Every kind once a seed: its name, itself, the seed, whether late, whether it may be read."""
    kinds = list(KINDS.items())
    if b"quantization_config" in files["config.json"]:
        kinds += [(damage, False) for damage in OF_FP8]
    found = [(d.__name__, d, seed, False, may) for d, may in kinds for seed in seeds]
    found += [(f"{d.__name__}, late", d, s, True, may) for d, may in BETWEEN.items() for s in seeds]
    return found


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> list[Folder]:
    return originals(tmp_path_factory.mktemp("sound"))


@pytest.fixture(autouse=True)
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_free_memory", lambda: MEMORY)


@pytest.mark.parametrize("which", [0, 1], ids=["plain", "fp8"])
def test_sound_folders_are_read(sound: list[Folder], which: int, tmp_path: Path) -> None:
    files = sound[which]
    assert len([name for name in files if name.endswith(".safetensors")]) > 3
    for seed in range(6):  # by every dtype, kept and widened
        assert run(tmp_path, files, lambda rng, folder: None, seed) == "read"


@pytest.mark.parametrize("which", [0, 1], ids=["plain", "fp8"])
def test_a_shard_cut_inside_its_header_is_refused(
    sound: list[Folder], which: int, tmp_path: Path
) -> None:
    cuts = header_cuts(sound[which])
    assert len(cuts) > 50
    for damage in cuts:
        assert run(tmp_path, sound[which], damage, 0) == "refused"


@pytest.mark.parametrize("which", [0, 1], ids=["plain", "fp8"])
def test_damage_is_refused_or_read_as_finite_numbers(
    sound: list[Folder], which: int, tmp_path: Path
) -> None:
    outcomes: dict[str, set[str]] = {}
    for name, damage, seed, late, may_be_read in cases(sound[which], range(4)):
        outcome = run(tmp_path, sound[which], damage, seed, late=late)
        assert may_be_read or outcome == "refused", (name, seed)
        outcomes.setdefault(name, set()).add(outcome)
    assert outcomes["link_inside"] == {"read"}
