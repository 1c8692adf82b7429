"""Headers of safetensors files, parsed and checked here; the tensors' bytes stay unread.

The format (https://huggingface.co/docs/safetensors): 8 bytes of length, little-endian; that many
bytes of JSON, {name: {dtype, shape, data_offsets}}, `__metadata__` apart; then the tensors' bytes,
which the offsets cover without overlap or hole. What is accepted here the format's own library
accepts too. Left out: dtypes below a byte (F4, F6), complex numbers.
"""

import math
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from benthic.hub.files import (
    AGAIN,
    INDEX,
    HubError,
    Index,
    check_names,
    open_file,
    parse_object,
    read_bytes,
    read_index,
    shown,
)

HEADER_LIMIT = 32 * 2**20  # bytes; DeepSeek-R1's 91,991 tensors in one file would take 12 MB
RANK_LIMIT = 8
ELEMENTS_LIMIT = 2**48  # no file is as large; far below where 64-bit readers overflow
SINGLE = "model.safetensors"
WIDTHS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 2),
    **dict.fromkeys(("I32", "U32", "F32"), 4),
    **dict.fromkeys(("F64", "I64", "U64"), 8),
}
"""bytes of one element by dtype"""

_FIELDS = {"dtype", "shape", "data_offsets"}
_OTHERS = (".bin", ".pt", ".pth", ".gguf")


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of a shard: bytes `start` to `end` of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.end - self.start


@dataclass(frozen=True)
class Shard:
    """One safetensors file of `size` bytes, by its header."""

    path: Path
    size: int
    entries: dict[str, Entry]
    metadata: dict[str, str]


@dataclass(frozen=True)
class Checkpoint:
    """A folder whose headers have been read and agree with its index."""

    folder: Path
    shards: tuple[Shard, ...]

    @cached_property
    def entries(self) -> dict[str, tuple[Shard, Entry]]:
        """Every tensor with the shard that holds it."""
        return {name: (shard, e) for shard in self.shards for name, e in shard.entries.items()}


def open_checkpoint(folder: Path) -> Checkpoint:
    """Read the headers of the shards that the index names, or of the single file."""
    index = read_index(folder)
    if index is None:
        if not os.path.lexists(folder / SINGLE):
            raise _nothing_to_read(folder)
        return Checkpoint(folder, (read_header(folder / SINGLE),))
    absent = [name for name in index.shards if not os.path.exists(folder / name)]
    if absent:
        raise HubError(
            f"{folder} lacks {len(absent)} of the {len(index.shards)} files that {INDEX} names, "
            f"the first {absent[0]}: fetch the rest"
        )
    named: dict[str, set[str]] = {name: set() for name in index.shards}
    for tensor, name in index.where.items():
        named[name].add(tensor)
    shards = []
    for name in index.shards:
        shard = read_header(folder / name)
        if shard.entries.keys() != named[name]:  # so none is doubled either
            raise _disagreement(index, shard, named[name])
        shards.append(shard)
    return Checkpoint(folder, tuple(shards))


def read_header(path: Path) -> Shard:
    """Read and check the header of one safetensors file."""
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(read_bytes(path, file, 8), "little")
        if length > size - 8:
            raise HubError(
                f"{path} should hold a header of {length} bytes by its first 8, and has {size} "
                f"bytes in all, so it is cut short or no safetensors file: {AGAIN}"
            )
        if length > HEADER_LIMIT:
            raise HubError(
                f"{path} has a header of {length} bytes, and at most {HEADER_LIMIT} are read: "
                "split the checkpoint into shards"
            )
        data = read_bytes(path, file, length)
    if len(data) != length or not data.startswith(b"{"):
        raise HubError(
            f"{path} should have a JSON object of {length} bytes as its header, and has "
            f"{len(data)} bytes that begin with {data[:8]!r}: {AGAIN}"
        )
    tree = parse_object(path, data)
    metadata = tree.pop("__metadata__", {})
    if not (isinstance(metadata, dict) and set(map(type, metadata.values())) <= {str}):
        raise HubError(
            f"{path} should map strings to strings under '__metadata__', and has "
            f"{shown(metadata)}: {AGAIN}"
        )
    check_names(path, tree)
    begin = 8 + length
    entries = {name: _entry(path, name, info, begin, size) for name, info in tree.items()}
    _check_cover(path, entries, begin, size)
    return Shard(path, size, entries, metadata)


def open_shard(shard: Shard) -> BinaryIO:
    """Open the file whose header was read, for its tensors' bytes; HubError if its size changed."""
    file = open_file(shard.path)
    size = os.fstat(file.fileno()).st_size
    if size != shard.size:
        file.close()
        raise HubError(
            f"{shard.path} had {shard.size} bytes when its header was read, and has {size} now: "
            "wait for what writes it, and try again"
        )
    return file


def _entry(path: Path, name: str, info: Any, begin: int, size: int) -> Entry:
    if type(info) is not dict or info.keys() != _FIELDS:
        raise _fault(path, name, "exactly dtype, shape and data_offsets", shown(info))
    dtype, shape, offsets = info["dtype"], info["shape"], info["data_offsets"]
    width = WIDTHS.get(dtype) if type(dtype) is str else None
    if width is None:
        raise _fault(path, name, f"a dtype among {', '.join(WIDTHS)}", shown(dtype))
    if type(shape) is not list or len(shape) > RANK_LIMIT:
        raise _fault(path, name, f"a shape of at most {RANK_LIMIT} numbers", shown(shape))
    span = 1  # zeros count as ones: a reader that multiplies in order must not overflow either
    for n in shape:
        if type(n) is not int or n < 0:
            raise _fault(path, name, "a shape of integers from 0 on", shown(shape))
        span *= n or 1
    if span > ELEMENTS_LIMIT:
        raise _fault(path, name, f"a shape of at most {ELEMENTS_LIMIT} elements", shown(shape))
    if type(offsets) is not list or [type(n) for n in offsets] != [int, int]:
        raise _fault(path, name, "two integers as data_offsets", shown(offsets))
    start, end = begin + offsets[0], begin + offsets[1]
    if not begin <= start <= end <= size:
        raise _fault(
            path, name, f"data_offsets in order between 0 and {size - begin}", shown(offsets)
        )
    needed = 0 if 0 in shape else span * width
    if end - start != needed:
        raise _fault(path, name, f"{needed} bytes for {dtype} {shape}", f"{end - start}")
    return Entry(dtype, tuple(shape), start, end)


def _check_cover(path: Path, entries: dict[str, Entry], begin: int, size: int) -> None:
    reach, last = begin, ""
    for start, end, name in sorted((e.start, e.end, name) for name, e in entries.items()):
        if start != reach:
            before = shown(last) if last else "the header"
            expected = f"data_offsets that begin at {reach - begin}, where {before} ends"
            raise _fault(path, name, expected, f"{start - begin}")
        reach, last = end, name
    if reach != size:
        before = shown(last) if last else "the header"
        raise HubError(
            f"{path} should end at byte {reach} with {before}, and has {size} bytes: {AGAIN}"
        )


def _fault(path: Path, tensor: str, expected: str, found: str) -> HubError:
    return HubError(
        f"{path}: the tensor {shown(tensor)} should have {expected}, and has {found}: {AGAIN}"
    )


def _disagreement(index: Index, shard: Shard, expected: set[str]) -> HubError:
    extra = sorted(shard.entries.keys() - expected)
    if extra:
        there = index.where.get(extra[0])
        said = "does not name" if there is None else f"puts in {there}"
        fact = f"holds the tensor {shown(extra[0])}, which {INDEX} {said}"
    else:
        lacking = min(expected - shard.entries.keys())
        fact = f"lacks the tensor {shown(lacking)}, which {INDEX} puts there"
    return HubError(f"{shard.path} {fact}: fetch index and shards anew, from one revision")


def _nothing_to_read(folder: Path) -> HubError:
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        return HubError(f"{folder} cannot be listed ({error.strerror}): give a checkpoint's folder")
    if shard := next((name for name in names if name.endswith(".safetensors")), None):
        return HubError(
            f"{folder} holds {shown(shard)}, but neither {SINGLE} nor {INDEX}: fetch the index"
        )
    if other := next((name for name in names if name.endswith(_OTHERS)), None):
        return HubError(
            f"{folder} holds {shown(other)}, and only safetensors are read, since pickles run "
            "code: where you trust it, convert it with transformers' from_pretrained and "
            "save_pretrained"
        )
    return HubError(f"{folder} holds neither {SINGLE} nor {INDEX}: give a checkpoint's folder")
