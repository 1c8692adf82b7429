"""A checkpoint folder from a stranger, read without trust: its JSON, its links, its index.

Every size is checked before it is believed, every refusal is a HubError, and nothing is executed,
unpickled or imported. JSON takes up to 50 times its size in memory while it is parsed, hence the
limits. The headers of safetensors files are `benthic.hub.safetensors`.
"""

import json
import math
import os
import re
import stat
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from reprlib import Repr
from typing import Any, BinaryIO

CONFIG_LIMIT = 2**20  # bytes; configs are some KiB
INDEX_LIMIT = 24 * 2**20  # bytes; 139,522 tensors, as in Kimi-K2, take 14 MB
DEPTH_LIMIT = 64  # lists and objects within each other, far below where the parser's stack ends
DIGITS_LIMIT = 100  # of a number; tokenizer_config.json may say 10**30 for "no limit"
NAME_LIMIT = 512  # characters of a tensor's name
INDEX = "model.safetensors.index.json"
TOKENIZERS = ("tokenizer.json", "tiktoken.model", "tokenizer.model")
AGAIN = "fetch the file again, or ask its author for a sound one"

_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC
_STEPS = bytes.maketrans(b"[{]}", b"\1\1\xff\xff")  # one deeper, one up, as signed bytes
_NO_STEP = bytes(set(range(256)) - set(b"[{]}"))
_DIGITS_TO_0 = bytes.maketrans(b"0123456789", b"0" * 10)
_MINUS_0 = re.compile(rb"-0(?![.eE0-9])")  # others read it as a float
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_REPR = Repr()
_REPR.maxstring = 120


class HubError(ValueError):
    """One sentence naming the file, the tensor, what was expected and found, and the remedy."""


@dataclass(frozen=True)
class Index:
    """Which file holds which tensor; `shards` are the files' names in sorted order."""

    folder: Path
    shards: tuple[str, ...]
    where: dict[str, str]
    total_size: int | None
    """bytes of all tensors as the index says, which nothing here relies on"""


def read_index(folder: Path) -> Index | None:
    """The index of a sharded checkpoint, or None where the folder has none."""
    path = folder / INDEX
    if not os.path.lexists(path):
        return None
    tree = read_json(path, limit=INDEX_LIMIT)
    where = tree.get("weight_map")
    if not (isinstance(where, dict) and set(map(type, where.values())) == {str}):
        raise HubError(
            f"{path} should map tensors to files under 'weight_map', and has {shown(where)} "
            f"there: {AGAIN}"
        )
    check_names(path, where)
    shards = sorted(set(where.values()))
    for name in shards:
        _check_file_name(path, name)
        if not name.endswith(".safetensors"):
            raise HubError(
                f"{path} names {shown(name)}, and only .safetensors files are read: {AGAIN}"
            )
    return Index(folder, tuple(shards), where, _total_size(path, tree.get("metadata")))


def model_name(path: Path) -> str:
    """What a folder's model is called: by the folder, or, of a snapshot in the Hub's cache, there.

    `models--ORG--NAME/snapshots/REV` is NAME, not the hash of a commit.
    """
    home = path.resolve()
    cache = home.parent.parent.name
    in_cache = home.parent.name == "snapshots" and cache.startswith("models--")
    return cache.rpartition("--")[2] if in_cache else home.name


def check_folder(path: Path) -> None:
    """Refuse a folder that cannot be looked into, and that of a model in the Hub's cache."""
    if path.is_dir() and not os.access(path, os.R_OK | os.X_OK):
        raise HubError(f"{path} cannot be looked into: check its permissions")
    snapshots = path / "snapshots"
    if path.name.startswith("models--") and snapshots.is_dir():
        found = sorted(snapshots.iterdir())
        raise HubError(
            f"{path} is a model's folder in the Hub's cache: give a snapshot of it, "
            f"{found[-1] if found else snapshots / 'REVISION'}"
        )


def read_json(path: Path, *, limit: int) -> dict[str, Any]:
    """The JSON object in a regular file of at most `limit` bytes.

    Refuses what other parsers may read otherwise: keys given twice, NaN and infinities, lone
    surrogates, -0, numbers of more than 100 digits, more than 64 levels.
    """
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise HubError(f"{path} has {size} bytes, and at most {limit} are read: {AGAIN}")
        data = read_bytes(path, file, size + 1)
    if len(data) != size:
        raise HubError(f"{path} changed while it was read: wait for what writes it, and try again")
    return parse_object(path, data)


def open_file(path: Path) -> BinaryIO:
    """Open a regular file for reading, links by the rule of `resolve`; never waits on a pipe."""
    real = resolve(path.parent, path.name)
    try:
        handle = os.open(real, _FLAGS)
    except OSError as error:
        raise HubError(f"{path} cannot be read ({error.strerror}): check its permissions") from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):  # it was when `resolve` looked
        os.close(handle)
        raise _irregular(path)
    return open(handle, "rb")


def read_bytes(path: Path, file: BinaryIO, count: int) -> bytes:
    """The next `count` bytes of `file`, which was opened from `path`, or fewer at its end."""
    try:
        return file.read(count)
    except OSError as error:
        raise HubError(f"{path} cannot be read ({error.strerror}): check its disk") from None


def resolve(folder: Path, name: str) -> Path:
    """The regular file `name` of `folder`; what comes back is no link itself.

    A link is followed where it ends inside the folder or, as in the Hub's cache
    (`models--X/snapshots/REV/file -> ../../blobs/HASH`), directly in the blobs beside it.
    """
    _check_file_name(folder, name)
    path = real = folder / name
    try:
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            real = _followed(folder, path)
            status = real.lstat()
    except FileNotFoundError:
        link = f" (a link to {shown(os.readlink(path))})" if path.is_symlink() else ""
        raise HubError(f"{path}{link} is missing: fetch it into its folder") from None
    except OSError as error:
        raise HubError(f"{path} cannot be read ({error.strerror}): check the path") from None
    if not stat.S_ISREG(status.st_mode):
        raise _irregular(path)
    return real


def parse_object(path: Path, data: bytes) -> dict[str, Any]:
    """The JSON object that `data`, read from `path`, spells; refusals as in `read_json`."""
    try:
        text = data.decode()
        _check_bare(text)
        tree = json.loads(
            text, object_pairs_hook=_object, parse_float=_number, parse_constant=_number
        )
        if _SURROGATE.search(text):
            json.dumps(tree, ensure_ascii=False).encode()  # fails on a lone one
    except (ValueError, RecursionError) as error:
        raise HubError(f"{path} is no JSON that can be read ({error}): {AGAIN}") from None
    if not isinstance(tree, dict):
        raise HubError(f"{path} should hold a JSON object, and holds {shown(tree)}: {AGAIN}")
    return tree


def check_names(path: Path, names: Iterable[str]) -> None:
    """Refuse names of tensors that are empty, endless, or would disturb a terminal."""
    names = list(names)
    # All at once: a hundred thousand names are common, bad ones are not.
    sound = "".join(names).isprintable() and "" not in names
    if sound and max(map(len, names), default=0) <= NAME_LIMIT:
        return
    for name in names:
        if not 0 < len(name) <= NAME_LIMIT or _CONTROL.search(name):
            raise HubError(
                f"{path} should name tensors by 1 to {NAME_LIMIT} characters without controls, "
                f"and has {shown(name)} of {len(name)}: {AGAIN}"
            )


def shown(value: Any) -> str:
    """A stranger's value for a sentence: cut short, controls escaped."""
    return _REPR.repr(value)


def _total_size(path: Path, facts: Any) -> int | None:
    total = facts.get("total_size") if isinstance(facts, dict) else None
    if isinstance(total, float) and total.is_integer():  # as some writers have it
        total = int(total)
    if total is not None and (type(total) is not int or total < 0):
        raise HubError(
            f"{path} should have a count of bytes as 'total_size', and has {shown(total)}: "
            "remove that key, or fetch the file again"
        )
    return total


def _followed(folder: Path, path: Path) -> Path:
    real = Path(os.path.realpath(path, strict=True))
    home = Path(os.path.realpath(folder, strict=True))
    cache = home.parent.parent
    in_cache = home.parent.name == "snapshots" and cache.name.startswith("models--")
    if real.is_relative_to(home) or (in_cache and real.parent == cache / "blobs"):
        return real
    raise HubError(
        f"{path} is a link to {shown(os.readlink(path))}, outside its folder: put the file itself "
        "there if you trust it"
    )


def _check_file_name(source: Path, name: str) -> None:
    """Plain on every system: no way out of the folder, no drive, no stream."""
    sound = name not in ("", ".") and ".." not in name and not set(name) & set("/\\:")
    if not sound or _CONTROL.search(name) or len(name.encode()) > 255:
        raise HubError(
            f"{source}: {shown(name)} should be a plain file name of 1 to 255 bytes without "
            "folders, '..', ':' or controls: give it such a name"
        )


def _check_bare(text: str) -> None:
    """What lies outside strings, before the parser recurses into it or takes ages over a number."""
    pieces = text.replace("\\\\", "").replace('\\"', "").split('"')
    bare = "".join(pieces[::2]).encode()
    if b"0" * (DIGITS_LIMIT + 1) in bare.translate(_DIGITS_TO_0):
        raise ValueError(f"a number has more than {DIGITS_LIMIT} digits")
    if _MINUS_0.search(bare):
        raise ValueError("a number is -0")
    steps = array("b", bare.translate(_STEPS, _NO_STEP))
    if max(accumulate(steps), default=0) > DEPTH_LIMIT:
        raise ValueError(f"lists and objects nest more than {DEPTH_LIMIT} deep")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree = dict(pairs)
    if len(tree) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {shown(key)} is there twice")
            seen.add(key)
    return tree


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{shown(text)} is no finite number")
    return number


def _irregular(path: Path) -> HubError:
    return HubError(
        f"{path} is no regular file but a folder, pipe or device: put the file itself there"
    )
