"""Checkpoints in the Hub's layout, in: safetensors, one file or sharded, plain or in FP8.

`hub_tensors` names every weight of a model as the Hub does, as views: import writes into them,
export (`benthic.model.export`) reads from them. Only experts are stored otherwise here: stacked,
gate above up. Import streams: bytes go from the file straight into the destination, or, where dtype
or device differ, through a few MB of scratch, so that memory peaks at the destination. Every number
is looked at while it is warm: a NaN or Inf is an error. Nothing is unpickled or imported.
"""

import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benthic.hub.config import Fp8Format, read_config
from benthic.hub.files import HubError
from benthic.hub.layout import SCALE, fitted, is_copy
from benthic.hub.safetensors import Checkpoint, Entry, Shard, open_checkpoint, open_shard
from benthic.model.config import ModelConfig
from benthic.model.fp8 import dequantise_into, to_fp8
from benthic.model.transformer import LanguageModel

CHUNK = 2 << 20  # bytes read at a time: in the cache when they are looked at
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E8M0": torch.float8_e8m0fnu,
}


@dataclass(frozen=True)
class Source:
    """A checkpoint folder that has been looked at: headers and config agree, weights unread."""

    checkpoint: Checkpoint
    config: ModelConfig
    fp8: Fp8Format | None

    @property
    def dtype(self) -> torch.dtype:
        """Of the embedding, which is never in FP8: the checkpoint's own precision."""
        return DTYPES[self.checkpoint.entries["model.embed_tokens.weight"][1].dtype]


def open_source(folder: Path) -> Source:
    """Read config, index and headers; HubError if they do not fit each other."""
    config, fp8 = read_config(folder)
    checkpoint = open_checkpoint(folder)
    return Source(checkpoint, fitted(config, fp8, checkpoint), fp8)


def import_hub(
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    keep_fp8: bool = False,
) -> LanguageModel:
    """A model with the folder's weights, on `device`, in `dtype` (default: the checkpoint's own).

    FP8 weights are widened block by block, or, with `keep_fp8`, kept and widened when used. Raises
    HubError naming file and tensor, or `MemoryNeeded` if the model is larger than the memory.
    """
    source = open_source(folder)
    model = empty_model(
        source.config,
        device=device,
        dtype=dtype or source.dtype,
        fp8=source.fp8 if keep_fp8 else None,
    )
    fill(model, source)
    return model


def empty_model(
    config: ModelConfig,
    *,
    device: torch.device | str,
    dtype: torch.dtype,
    fp8: Fp8Format | None = None,
) -> LanguageModel:
    """A model whose weights are allocated and not yet set; router biases are fp32 in any case."""
    device = torch.device(device)
    with torch.device("meta"):
        model = LanguageModel(config)
        if fp8:
            to_fp8(model, block=fp8.block)
        model.to(dtype)
        for router in model.routers:
            if router.e_score_correction_bias is not None:
                router.e_score_correction_bias = router.e_score_correction_bias.float()
    held = [*model.parameters(), *model.buffers()]
    check_memory(sum(t.nbytes for t in held), device)
    model.to_empty(device=device)
    cos, sin = model.tables()
    model.cos, model.sin = cos.to(device), sin.to(device)
    return model


class MemoryNeeded(ValueError):
    """One sentence with both figures."""


def check_memory(needed: int, device: torch.device) -> None:
    """Raise MemoryNeeded if `needed` bytes exceed what the device has left."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else _free_memory()
    if needed > free:
        raise MemoryNeeded(
            f"the model takes {needed / 2**30:,.1f} GiB and {free / 2**30:,.1f} GiB of memory are "
            f"free on {device}: take a smaller model, a narrower dtype, or a larger machine"
        )


def _free_memory() -> int:
    """Bytes that a process may still take, the control group's limit heeded."""
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        if limit != "max":
            free = min(free, max(0, int(limit) - used))
    except (OSError, ValueError):
        pass  # another system, or no control group
    return free


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
    files = {shard.path: open_shard(shard) for shard in source.checkpoint.shards}
    block = source.fp8.block if source.fp8 else (1, 1)

    def read(name: str) -> None:
        target, (shard, entry) = targets[name], held[name]
        reader = _Reader(files[shard.path].fileno(), shard, name, entry)
        if entry.dtype == "F8_E4M3" and target.dtype != torch.float8_e4m3fn:
            shard, entry = held[name + SCALE]
            scale = torch.empty(entry.shape, dtype=torch.float32)
            _Reader(files[shard.path].fileno(), shard, name + SCALE, entry).into(scale)
            reader.widen(target, scale, block)
        elif target.dtype == torch.float8_e4m3fn and entry.dtype != "F8_E4M3":
            raise HubError(
                f"{shard.path} holds {name} in {entry.dtype} and other weights in F8_E4M3: "
                "import it widened, without keeping FP8"
            )
        else:
            reader.into(target)

    try:
        # One thread a core: a read releases the interpreter, and each tensor has its own memory.
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            names = sorted(
                (n for n in targets if not is_copy(n)),
                key=lambda n: (str(held[n][0].path), held[n][1].start),
            )
            for _ in pool.map(read, names):
                pass
    finally:
        for file in files.values():
            file.close()


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
            self._check(read)
            if not direct:
                part.copy_(read)

    def widen(self, target: Tensor, scale: Tensor, block: tuple[int, int]) -> None:
        """Read FP8 codes and write their numbers to `target`, some rows of blocks at a time."""
        for rows in self._chunks(block[0]):
            codes = torch.empty(target[rows].shape, dtype=torch.float8_e4m3fn)
            self._read(codes, rows.start)
            self._check(codes)
            of_rows = scale[rows.start // block[0] : -(-rows.stop // block[0])]
            there = target[rows]
            if there.device.type == "cpu":
                dequantise_into(there, codes, of_rows, block=block)
            else:
                there.copy_(_widened(codes, of_rows, there.dtype, block))

    def _chunks(self, multiple: int) -> list[slice]:
        rows = self.entry.shape[0]
        each = max(1, CHUNK * rows // max(1, self.entry.nbytes))
        each = -(-each // multiple) * multiple
        return [slice(first, min(first + each, rows)) for first in range(0, rows, each)]

    def _read(self, part: Tensor, row: int) -> None:
        width = self.entry.nbytes // self.entry.shape[0]
        at, view = self.entry.start + row * width, _bytes_of(part)
        while view:
            count = os.preadv(self.handle, [view], at)
            if not count:
                raise HubError(
                    f"{self.shard.path} ended inside {self.name} while it was read, at byte {at}: "
                    "wait for what writes it, and try again"
                )
            at, view = at + count, view[count:]

    def _check(self, read: Tensor) -> None:
        """All finite; scales positive too."""
        if read.dtype in (torch.float8_e4m3fn, torch.float8_e8m0fnu):
            bytes_ = read.view(torch.uint8)
            if read.dtype == torch.float8_e4m3fn:
                bytes_ = bytes_ & 0x7F
                bad = bool((bytes_ == 0x7F).any())
            else:
                bad = bool((bytes_ == 0xFF).any())
        else:
            low, high = (float(x) for x in torch.aminmax(read))
            bad = not (math.isfinite(low) and math.isfinite(high))
            if self.name.endswith(SCALE) and not bad and low <= 0:
                raise HubError(
                    f"{self.shard.path} holds {self.name} with a scale of {low:g}, and scales are "
                    "positive: fetch the file again, or ask its author for a sound one"
                )
        if bad:
            raise HubError(
                f"{self.shard.path} holds {self.name} with a NaN or an infinity in it, and finite "
                "numbers are expected: fetch the file again, or ask its author for a sound one"
            )


def _widened(codes: Tensor, scale: Tensor, dtype: torch.dtype, block: tuple[int, int]) -> Tensor:
    out = torch.empty(codes.shape, dtype=dtype)
    dequantise_into(out, codes, scale, block=block)
    return out


def _bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous CPU tensor."""
    return tensor.view(torch.uint8).numpy().data.cast("B")
