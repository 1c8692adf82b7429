"""Checkpoints in the Hub's layout, in: safetensors, one file or sharded, plain or in FP8.

`hub_tensors` names every weight of a model as the Hub does, as views: import writes into them,
export (`benthic.model.export`) reads from them. Only experts are stored otherwise here: stacked,
gate above up. Import streams: bytes go from the file straight into the destination, or, where dtype
or device differ, through a few MB of scratch, so that memory peaks at the destination. Every number
is looked at while it is warm: a NaN or Inf is an error. Nothing is unpickled or imported.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from benthic.hub.config import Fp8Format, read_config
from benthic.hub.files import AGAIN, HubError
from benthic.hub.layout import (
    EMBEDDING,
    HEAD,
    SCALE,
    fitted,
    in_fp8,
    is_copy,
    layout,
    stands_apart,
)
from benthic.hub.safetensors import Checkpoint, Entry, Shard, open_checkpoint, open_shard
from benthic.model.config import ModelConfig
from benthic.model.fp8 import SCALE_MAX, dequantise_into, to_fp8
from benthic.model.memory import check_memory
from benthic.model.transformer import LanguageModel

CHUNK = 1 << 20  # bytes read at a time: in the cache when they are looked at
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E8M0": torch.float8_e8m0fnu,
}
_INFINITY = {
    torch.float64: 0x7FF << 52,
    torch.float32: 0xFF << 23,
    torch.float16: 0x1F << 10,
    torch.bfloat16: 0xFF << 7,
    torch.float8_e4m3fn: 0x7F,
}
"""the bits of the first pattern that is no finite number, without the sign"""


@dataclass(frozen=True)
class Source:
    """A checkpoint folder that has been looked at: headers and config agree, weights unread."""

    checkpoint: Checkpoint
    config: ModelConfig
    fp8: Fp8Format | None

    @property
    def dtype(self) -> torch.dtype:
        """The checkpoint's own precision: the widest of what is neither in FP8 nor stands apart."""
        entries, bias = self.checkpoint.entries, "e_score_correction_bias"
        names = layout(self.config).keys() & entries.keys()
        kinds = {entries[n][1].dtype for n in names if not (stands_apart(n) or n.endswith(bias))}
        return reduce(torch.promote_types, (DTYPES[kind] for kind in kinds - {"F8_E4M3"}))

    @property
    def apart(self) -> dict[str, torch.dtype]:
        """Norms and routers by name, in the dtypes they are stored in."""
        entries = self.checkpoint.entries
        return {n: DTYPES[entries[n][1].dtype] for n in layout(self.config) if stands_apart(n)}

    @property
    def keeps_fp8(self) -> bool:
        """Whether a model can hold the weights in FP8 as they are: all projections, no biases."""
        entries = self.checkpoint.entries.items()
        whole = all(e.dtype == "F8_E4M3" for name, (_, e) in entries if in_fp8(name))
        return self.fp8 is not None and whole and not (self.config.qkv_bias or self.config.mlp_bias)


def open_source(folder: Path) -> Source:
    """Read config, index and headers; HubError if they do not fit each other."""
    config, fp8 = read_config(folder)
    checkpoint = open_checkpoint(folder)
    config = fitted(config, fp8, checkpoint)
    scales = {e.dtype for name, (_, e) in checkpoint.entries.items() if name.endswith(SCALE)}
    if fp8 and len(scales) == 1:
        fp8 = replace(fp8, scale_dtype=cast(Any, scales.pop()))
    return Source(checkpoint, config, fp8)


def import_hub(
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    keep_fp8: bool = False,
) -> LanguageModel:
    """A model with the folder's weights, on `device`, in `dtype`.

    By default in the checkpoint's own, norms and routers each in theirs, so that nothing is lost.
    FP8 weights are widened block by block, or, with `keep_fp8`, kept and widened when used. Raises
    HubError naming file and tensor, or `MemoryNeeded` if the model is larger than the memory.
    """
    return model_of(open_source(folder), device=device, dtype=dtype, keep_fp8=keep_fp8)


def model_of(
    source: Source,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    keep_fp8: bool = False,
) -> LanguageModel:
    """`import_hub` of a folder that has been looked at."""
    model = empty_model(
        source.config,
        device=device,
        dtype=dtype or source.dtype,
        fp8=source.fp8 if keep_fp8 else None,
        apart={} if dtype else source.apart,
    )
    fill(model, source)
    return model


def empty_model(
    config: ModelConfig,
    *,
    device: torch.device | str,
    dtype: torch.dtype,
    fp8: Fp8Format | None = None,
    apart: Mapping[str, torch.dtype] | None = None,
) -> LanguageModel:
    """A model whose weights are allocated and not yet set, those of `apart` in dtypes of their own.

    Router biases are fp32 in any case.
    """
    device = torch.device(device)
    with torch.device("meta"), _NoInitialisation():
        model = LanguageModel(config)
        if fp8:
            to_fp8(model, block=fp8.block)
        model.to(dtype)
        for name, kind in (apart or {}).items():
            weight = model.get_parameter(name)
            weight.data = weight.data.to(kind)
        for router in model.routers:
            if router.e_score_correction_bias is not None:
                router.e_score_correction_bias = router.e_score_correction_bias.float()
    held = [*model.parameters(), *model.buffers()]
    check_memory(sum(t.nbytes for t in held), device)
    model.cos = model.sin = torch.empty(0)
    # As `to_empty` does, which on the way from meta imports a compiler.
    model._apply(lambda t: torch.empty(t.shape, dtype=t.dtype, device=device))
    cos, sin = model.tables()
    model.cos, model.sin = cos.to(device), sin.to(device)
    return model


class _NoInitialisation(TorchFunctionMode):
    """Modules stay as they are allocated; on meta, their initialisation imports a compiler."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        sets = getattr(func, "__module__", "") == nn.init.__name__
        return kwargs["tensor"] if sets else func(*args, **kwargs)


def hub_tensors(model: LanguageModel) -> dict[str, Tensor]:
    """Every weight under its Hub name as a view, experts one by one, shared ones named twice."""
    out: dict[str, Tensor] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        stem, _, last = name.rpartition(".")
        if not stem.endswith(".experts"):
            out[name] = tensor.detach()
            continue
        kind, _, part = last.rpartition("_")
        suffix = "weight" if part == "proj" else "weight" + SCALE
        for e, one in enumerate(tensor.detach()):
            if kind == "down":
                out[f"{stem}.{e}.down_proj.{suffix}"] = one
                continue
            gate, up = one if part == "scale" else one.chunk(2)
            out[f"{stem}.{e}.gate_proj.{suffix}"] = gate
            out[f"{stem}.{e}.up_proj.{suffix}"] = up
    if model.config.num_nextn_predict_layers:
        at = f"model.layers.{model.config.num_hidden_layers}"
        out[f"{at}.embed_tokens.weight"] = out["model.embed_tokens.weight"]
        out[f"{at}.shared_head.head.weight"] = model.lm_head.weight.detach()
    return out


def fill(model: LanguageModel, source: Source) -> None:
    """Read every weight of the source into the model; HubError names file and tensor."""
    held, targets = source.checkpoint.entries, hub_tensors(model)
    for name, target in targets.items():
        if target.dtype == torch.float8_e4m3fn and held[name][1].dtype != "F8_E4M3":
            raise HubError(
                f"{held[name][0].path} holds {name} in {held[name][1].dtype}, beside others in "
                "FP8, and a model keeps all of them in FP8 or none: import it widened, as bf16"
            )
    names = [name for name in targets if not is_copy(name)]
    names.sort(key=lambda name: (str(held[name][0].path), held[name][1].start))
    block = source.fp8.block if source.fp8 else (1, 1)
    threads = torch.get_num_threads()
    with ExitStack() as stack:
        shards = source.checkpoint.shards
        files = {s.path: stack.enter_context(open_shard(s)).fileno() for s in shards}

        def reader(name: str) -> _Reader:
            shard, entry = held[name]
            return _Reader(files[shard.path], shard, name, entry)

        def read(name: str) -> None:
            target = targets[name]
            if held[name][1].dtype == "F8_E4M3" and target.dtype != torch.float8_e4m3fn:
                scale = torch.empty(held[name + SCALE][1].shape)
                reader(name + SCALE).into(scale)
                reader(name).widen(target, scale, block)
            else:
                reader(name).into(target)

        try:
            # One thread a core: a read releases the interpreter, and each tensor has its own
            # memory. Torch's threads below these would only wait for one another.
            with ThreadPoolExecutor(
                min(8, os.cpu_count() or 1), initializer=torch.set_num_threads, initargs=(1,)
            ) as pool:
                for _ in pool.map(read, names):
                    pass
        finally:
            torch.set_num_threads(threads)
        twins = [name for name in targets if is_copy(name) and name in held]
        if model.config.tie_word_embeddings and HEAD in held:
            twins.append(HEAD)
        for name in twins:
            reader(name).check_same(targets.get(name, targets[EMBEDDING]))


@dataclass(frozen=True)
class _Reader:
    """One tensor of an open file."""

    handle: int
    shard: Shard
    name: str
    entry: Entry

    def into(self, target: Tensor) -> None:
        """Read into `target`, converted where its dtype or device is another."""
        stored = DTYPES[self.entry.dtype]
        direct = target.dtype == stored and target.device.type == "cpu" and target.is_contiguous()
        for rows in self._chunks(1):
            part = target[rows]
            read = part if direct else torch.empty(part.shape, dtype=stored)
            self._read(read, rows.start)
            if not direct:
                part.copy_(self._converted(read, part.dtype))
        if self.name.endswith(SCALE) and not ((target > 0) & (target <= SCALE_MAX)).all():
            raise self._fault(f"a scale that is not positive and at most {SCALE_MAX:g}")

    def widen(self, target: Tensor, scale: Tensor, block: tuple[int, int]) -> None:
        """Read FP8 codes and write their numbers to `target`, some rows of blocks at a time."""
        for rows in self._chunks(block[0]):
            part = target[rows]
            codes = torch.empty(part.shape, dtype=torch.float8_e4m3fn)
            self._read(codes, rows.start)
            of_rows = scale[rows.start // block[0] : -(-rows.stop // block[0])]
            there = part if part.device.type == "cpu" else torch.empty(part.shape, dtype=part.dtype)
            dequantise_into(there, codes, of_rows, block=block)
            self._check_reach(there)
            if there is not part:
                part.copy_(there)

    def check_same(self, target: Tensor) -> None:
        """Refuse a second copy that differs: a model has one, and programs disagree which counts.

        It is an embedding or a head: a tied one, or the prediction block's.
        """
        for rows in self._chunks(1):
            read = torch.empty(target[rows].shape, dtype=DTYPES[self.entry.dtype])
            self._read(read, rows.start)
            if not torch.equal(self._converted(read, target.dtype), target[rows].cpu()):
                first = HEAD if self.name.endswith(".head.weight") else EMBEDDING
                remedy = "tie_word_embeddings to false"
                if self.name != HEAD:
                    remedy = "num_nextn_predict_layers to 0, which leaves the block out"
                raise HubError(
                    f"{self.shard.path} holds {self.name}, which should be a copy of {first} and "
                    f"is not: in config.json, set {remedy}"
                )

    def _chunks(self, multiple: int) -> list[slice]:
        rows = self.entry.shape[0]
        each = max(1, CHUNK * rows // max(1, self.entry.nbytes))
        each = -(-each // multiple) * multiple
        return [slice(first, min(first + each, rows)) for first in range(0, rows, each)]

    def _read(self, part: Tensor, row: int) -> None:
        """Rows from `row` on, checked to be finite."""
        width = self.entry.nbytes // self.entry.shape[0]
        at, view = self.entry.start + row * width, _bytes_of(part)
        while view:
            try:
                count = os.preadv(self.handle, [view], at)
            except OSError as error:
                raise HubError(
                    f"{self.shard.path} cannot be read ({error.strerror}): check its disk"
                ) from None
            if not count:
                raise HubError(
                    f"{self.shard.path} ended inside {self.name} while it was read, at byte {at}: "
                    "wait for what writes it, and try again"
                )
            at, view = at + count, view[count:]
        if not all_finite(part):
            raise self._fault("a NaN or an infinity")

    def _converted(self, read: Tensor, dtype: torch.dtype) -> Tensor:
        out = read.to(dtype)
        if torch.finfo(dtype).max < torch.finfo(read.dtype).max:
            self._check_reach(out)
        return out

    def _check_reach(self, out: Tensor) -> None:
        if not all_finite(out):
            raise HubError(
                f"{self.shard.path} holds {self.name} with a number beyond the {out.dtype} it "
                "should become: import it in a dtype that reaches further"
            )

    def _fault(self, found: str) -> HubError:
        return HubError(f"{self.shard.path} holds {self.name} with {found} in it: {AGAIN}")


def all_finite(x: Tensor) -> bool:
    """Whether a contiguous CPU tensor holds finite numbers only, in any dtype of a checkpoint."""
    whole = np.frombuffer(_bytes_of(x), f"u{x.itemsize}")
    if x.dtype == torch.float8_e8m0fnu:
        return bool(whole.max() < 0xFF)
    # As integers, what is not finite lies above all else: with a sign as unsigned ones, without
    # as signed ones. Maxima of integers run at the memory's pace, and in this thread.
    first, sign = _INFINITY[x.dtype], 1 << (8 * x.itemsize - 1)
    return bool(whole.view(f"i{x.itemsize}").max() < first and whole.max() < sign | first)


def check_finite(name: str, x: Tensor) -> None:
    """Raise ValueError if a contiguous CPU tensor that is to be written holds a NaN or Inf."""
    if not all_finite(x):
        raise ValueError(
            f"{name} holds a number that is not finite in {x.dtype}: export the weights as fp32, "
            "and if that is refused, take an earlier checkpoint"
        )


def _bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous CPU tensor."""
    return tensor.view(torch.uint8).numpy().data.cast("B")
