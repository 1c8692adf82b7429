"""What a checkpoint's folder, a run's folder, a config.json or a preset holds and needs.

Only config.json, the index, headers and file names are read, never a weight. Where a file of
weights is absent, its tensors are counted by the index and config.json. Memory needed is weights
and the cache of one sequence, spread evenly, with a tenth of each device left free for activations
and the program: arithmetic, not the promise of some engine.
"""

import csv
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from importlib import resources
from math import ceil, prod
from pathlib import Path
from typing import Any, Literal

from benthic.cost.network import flops
from benthic.folder import RunFolder, machine
from benthic.hub.config import ARCHITECTURES, Fp8Format, presets, read_config_file, to_hub
from benthic.hub.files import (
    CONFIG_LIMIT,
    INDEX,
    TOKENIZERS,
    HubError,
    Index,
    check_folder,
    read_index,
    read_json,
    resolve,
    shown,
)
from benthic.hub.layout import (
    EMBEDDING,
    HEAD,
    SCALE,
    Shape,
    fitted,
    in_fp8,
    is_copy,
    layout,
)
from benthic.hub.safetensors import (
    SINGLE,
    WIDTHS,
    Checkpoint,
    Entry,
    Shard,
    open_checkpoint,
    read_header,
)
from benthic.model.config import ModelConfig

CONTEXT = 4096
"""tokens of the cache where the caller names no number"""
FREE = 0.1
"""share of a device's memory that is left for activations and the program"""

_TOKENIZER_LIMIT = 8 << 20  # bytes of tokenizer_config.json
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
_CODE = (".py", ".pyc", ".so", ".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}

Kind = Literal["checkpoint", "run", "config", "preset"]
Origin = Literal["headers", "index", "config"]


@dataclass(frozen=True, kw_only=True)
class Stored:
    """The tensors of a checkpoint, the prediction block's copies counted in."""

    origin: Origin
    """what was counted: the headers of all files; the index, where files are absent; config.json"""
    files: int = 0
    """0 where the checkpoint has none"""
    missing: tuple[str, ...] = ()
    tensors: int
    elements: dict[str, int]
    """by dtype, the most frequent first"""
    nbytes: dict[str, int]
    """by dtype"""

    @property
    def dtype(self) -> str:
        """The dtype that most elements have."""
        return next(iter(self.elements), "")


@dataclass(frozen=True, kw_only=True)
class Files:
    """What else lies in a checkpoint's folder."""

    tokenizer: str | None
    """its file"""
    chat_template: bool
    code: tuple[str, ...]
    """pickles, sources, libraries: could be run, and never are"""


@dataclass(frozen=True, kw_only=True)
class Device:
    """One GPU, or `count` of them in one box."""

    name: str
    count: int
    memory_gib: float
    """of all of them"""
    needed: dict[str, int]
    """how many hold the model, by the format of its weights"""


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """All that `benthic inspect` says, as data."""

    kind: Kind
    source: str
    model_type: str
    """as config.json spells it"""
    architecture: str
    config: ModelConfig
    parameters: dict[str, int]
    """as `benthic.cost.network.flops.parameters`"""
    stored: Stored
    files: Files | None
    """of a checkpoint's folder"""
    context: int
    """tokens of the cache"""
    cache_per_token: int
    """bytes in bf16"""
    prefill_flops: float
    """forward, a token of a prompt as long as the context"""
    decode_flops: int
    """forward, the last token of the context"""
    weights: dict[str, int]
    """bytes: "bf16" and "fp8" without copies, "stored" as the files have them"""
    devices: tuple[Device, ...]
    machine_gib: float
    """memory of this machine; 0: unknown"""
    machine_holds: dict[str, bool]
    """by the format of the weights; empty where the memory is unknown"""
    findings: tuple[str, ...]
    """what is wrong, a sentence each"""

    def to_dict(self) -> dict[str, Any]:
        """For JSON; the config in the Hub's spelling."""
        return asdict(self) | {"config": to_hub(self.config)}


@dataclass(frozen=True)
class _Seen:
    kind: Kind
    keys: dict[str, Any]
    config: ModelConfig
    stored: Stored
    files: Files | None = None
    findings: tuple[str, ...] = ()


def inspect(source: str, *, context: int | None = None) -> Inspection:
    """Look at a folder, a config.json or, where there is no such path, a preset of that name.

    `context` is at most the model's longest, by default 4,096 or that. HubError, or ValueError or
    FolderError of a recipe, where there is no config that can be read; what else is wrong is among
    the findings.
    """
    seen = _look(source)
    config, stored = seen.config, seen.stored
    longest = config.max_position_embeddings
    tokens = min(CONTEXT, longest) if context is None else context
    if not 1 <= tokens <= longest:
        raise HubError(
            f"the context is {tokens}: it must be between 1 and max_position_embeddings = {longest}"
        )
    prefill = flops.forward_flops(config, tokens=tokens, pairs=flops.causal_pairs(tokens))
    per_token = 2 * flops.cache_elements_per_token(config)
    weights = _weights(config, stored)
    filled = {name: nbytes + tokens * per_token for name, nbytes in weights.items()}
    memory = float(machine()["memory_gib"])
    return Inspection(
        kind=seen.kind,
        source=source,
        model_type=str(seen.keys.get("model_type", config.model_type)),
        architecture=ARCHITECTURES[config.model_type],
        config=config,
        parameters=flops.parameters(config),
        stored=stored,
        files=seen.files,
        context=tokens,
        cache_per_token=per_token,
        prefill_flops=prefill / tokens,
        decode_flops=flops.decode_flops(config, tokens=1, pairs=tokens),
        weights=weights,
        devices=tuple(
            Device(name=name, count=count, memory_gib=gib, needed=_needed(filled, gib))
            for name, count, gib in _gpus()
        ),
        machine_gib=memory,
        machine_holds={k: n == 1 for k, n in _needed(filled, memory).items()} if memory else {},
        findings=seen.findings,
    )


def _look(source: str) -> _Seen:
    path = Path(source)
    if path.is_dir():
        check_folder(path)
        if os.path.lexists(path / "config.json"):
            return _checkpoint(path)
        if os.path.lexists(path / "recipe.toml"):
            return _run(path)
        raise HubError(
            f"{path} holds neither config.json nor recipe.toml: give a checkpoint's folder, or a "
            "run's"
        )
    if os.path.lexists(path):
        if path.suffix in _WEIGHTS:
            raise HubError(f"{path} is a file of weights: give its folder, {path.parent}")
        return _alone("config", path)
    if source in presets():
        shipped = resources.files("benthic.hub").joinpath("presets", f"{source}.json")
        with resources.as_file(shipped) as path:
            return _alone("preset", path)
    raise HubError(
        f"there is no file or folder {shown(source)}, and no preset of that name: choose from "
        f"{', '.join(presets())}"
    )


def _checkpoint(folder: Path) -> _Seen:
    keys, config, fp8, dtype = _read(folder / "config.json")
    findings: list[str] = []
    config, stored = _stored(folder, config, fp8, dtype, findings)
    files = _files(folder, findings)
    return _Seen("checkpoint", keys, config, stored, files, tuple(findings))


def _run(folder: Path) -> _Seen:
    path = resolve(folder, "recipe.toml")
    if path.stat().st_size > CONFIG_LIMIT:
        raise HubError(f"{path} has more than {CONFIG_LIMIT} bytes: give a run's folder")
    try:
        config = RunFolder(folder).recipe().model
    except RecursionError:
        raise HubError(f"{path} nests too deep: give a run's folder") from None
    return _Seen("run", {}, config, _planned(layout(config), None, "F32"))


def _alone(kind: Kind, path: Path) -> _Seen:
    keys, config, fp8, dtype = _read(path)
    return _Seen(kind, keys, config, _planned(layout(config, fp8), fp8, dtype))


def _read(path: Path) -> tuple[dict[str, Any], ModelConfig, Fp8Format | None, str]:
    """Keys, shape, FP8 format, and the dtype of plain weights: bf16 where none is named."""
    keys, config, fp8 = read_config_file(path)
    named = str(keys.get("torch_dtype", keys.get("dtype")))
    return keys, config, fp8, _DTYPES.get(named.removeprefix("torch."), "BF16")


def _stored(
    folder: Path, config: ModelConfig, fp8: Fp8Format | None, dtype: str, findings: list[str]
) -> tuple[ModelConfig, Stored]:
    """What the folder's files hold, and the config, without a prediction block that they lack."""
    shards: list[Shard] = []
    missing: tuple[str, ...] = ()
    try:
        index = read_index(folder)
        if index is None:
            shards = _single(folder)
    except HubError as error:
        index = None
        findings.append(str(error))
    if index:
        missing = tuple(name for name in index.shards if not os.path.exists(folder / name))
        if len(missing) == len(index.shards):
            shapes = layout(config, fp8)
            if shapes.keys() == index.where.keys():  # quick, and what the way below comes to
                planned = _planned(shapes, fp8, dtype)
                return config, replace(planned, origin="index", files=len(missing), missing=missing)
        shards = _shards(index, config, fp8, dtype, findings)
    if not shards:
        return config, _planned(layout(config, fp8), fp8, dtype)
    try:
        config = fitted(config, fp8, Checkpoint(folder, tuple(shards)))
    except HubError as error:
        findings.append(str(error))
    tensors = ((e.dtype, e.elements) for shard in shards for e in shard.entries.values())
    stored = _tally("headers" if all(shard.size for shard in shards) else "index", tensors)
    return config, replace(stored, files=len(shards), missing=missing)


def _single(folder: Path) -> list[Shard]:
    """The one file of a checkpoint without an index; none where there are no weights at all."""
    if os.path.lexists(folder / SINGLE):
        return [read_header(folder / SINGLE)]
    if any(name.endswith(_WEIGHTS) for name in os.listdir(folder)):
        open_checkpoint(folder)  # says why these are not read
    return []


def _shards(
    index: Index, config: ModelConfig, fp8: Fp8Format | None, dtype: str, findings: list[str]
) -> list[Shard]:
    """By their headers; those that cannot be read, of size 0, by the index and config.json."""
    named: dict[str, list[str]] = {name: [] for name in index.shards}
    for tensor, name in index.where.items():
        named[name].append(tensor)
    shards: list[Shard] = []
    shapes: dict[str, Shape] = {}
    for name, tensors in named.items():
        path = index.folder / name
        try:
            if os.path.exists(path):
                shards.append(read_header(path))
                if shards[-1].entries.keys() != set(tensors):
                    findings.append(
                        f"{path} holds other tensors than {INDEX} says: fetch index and shards "
                        "anew, from one revision"
                    )
                continue
        except HubError as error:
            findings.append(str(error))
        if not shapes:
            shapes = layout(config, fp8)
            shapes.setdefault(HEAD, shapes[EMBEDDING])  # a tied one may be there
        entries = {}
        for tensor in tensors:
            scaled = in_fp8(tensor) and tensor + SCALE in index.where
            kind = "F8_E4M3" if scaled else _plain(tensor, dtype)
            entries[tensor] = Entry(kind, shapes.get(tensor, (0,)), 0, 0)
        shards.append(Shard(path, 0, entries, {}))
    return shards


def _planned(shapes: dict[str, Shape], fp8: Fp8Format | None, dtype: str) -> Stored:
    """As config.json has it; `dtype` is of the weights that are not in FP8."""
    dtypes = (("F8_E4M3" if fp8 and in_fp8(name) else _plain(name, dtype)) for name in shapes)
    return _tally("config", zip(dtypes, map(prod, shapes.values())))


def _plain(name: str, dtype: str) -> str:
    """Scales and the routers' biases are fp32 in every release."""
    return "F32" if name.endswith((SCALE, "e_score_correction_bias")) else dtype


def _tally(origin: Origin, tensors: Iterable[tuple[str, int]]) -> Stored:
    count, elements = 0, Counter[str]()
    for dtype, n in tensors:
        count += 1
        elements[dtype] += n
    ranked = dict(elements.most_common())
    nbytes = {dtype: n * WIDTHS[dtype] for dtype, n in ranked.items()}
    return Stored(origin=origin, tensors=count, elements=ranked, nbytes=nbytes)


def _files(folder: Path, findings: list[str]) -> Files:
    names = os.listdir(folder)
    tokenizer = next((name for name in TOKENIZERS if name in names), None)
    template = "chat_template.jinja" in names
    try:
        if tokenizer:
            resolve(folder, tokenizer)
        if not template and "tokenizer_config.json" in names:
            keys = read_json(folder / "tokenizer_config.json", limit=_TOKENIZER_LIMIT)
            template = bool(keys.get("chat_template"))
    except HubError as error:
        findings.append(str(error))
    code = tuple(sorted(name for name in names if name.endswith(_CODE)))
    return Files(tokenizer=tokenizer, chat_template=template, code=code)


def _weights(config: ModelConfig, stored: Stored) -> dict[str, int]:
    """Bytes of the model; an FP8 checkpoint's are taken from its files, copies and all."""
    files = fp8 = sum(stored.nbytes.values())
    if stored.dtype != "F8_E4M3":
        shapes = layout(config, Fp8Format())
        shared = {name: shape for name, shape in shapes.items() if not is_copy(name)}
        fp8 = sum(_planned(shared, Fp8Format(), "BF16").nbytes.values())
    plain = 2 * flops.parameters(config)["total_with_mtp"]
    return {"bf16": plain, "fp8": fp8, "stored": files}


def _needed(filled: dict[str, int], gib: float) -> dict[str, int]:
    """How many devices of `gib` hold so many bytes."""
    room = (1 - FREE) * gib * 2**30
    return {name: ceil(nbytes / room) for name, nbytes in filled.items()}


def _gpus() -> list[tuple[str, int, float]]:
    """Name, count and memory in GiB of the GPUs in boxes.csv, then of boxes full of them."""
    text = resources.files("benthic.cost.catalog").joinpath("boxes.csv").read_text()
    rows = list(csv.DictReader(text.splitlines()))
    known = [(row["gpu"], int(row["box"]), float(row["memory_gib"])) for row in rows]
    alone = [(name, 1, gib) for name, _, gib in known]
    return alone + [(name, count, count * gib) for name, count, gib in known if count > 1]
