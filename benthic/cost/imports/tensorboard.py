"""TensorBoard event files, read as they are: when something was logged, and nothing else.

A file is a row of records: the length in 8 bytes, a checksum of those, the data, a checksum of the
data (TFRecord, masked CRC-32C). The data is a protobuf `Event`, whose field 1 is `wall_time`. The
checksum of each length is held against it, that of the data where it is short, as scalars are; a
file whose last record is cut off, as a killed writer leaves it, is read up to there.

A folder that holds event files is a run, and so is what lies below it (train, validation, a
folder for each group of curves); files of several processes are one span of time. Neither GPUs nor
the outcome are recorded, so give --device and --count.
"""

import math
import re
import struct
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from benthic.cost.imports.files import cause, shown, walk
from benthic.cost.imports.intake import DAY, EARLIEST, Intake, Record, RecordError
from benthic.cost.imports.pieces import Piece, Signs, add_pieces

_NAME = "tfevents"
_HOST = re.compile(r"events\.out\.tfevents\.\d+\.(.+?)(?:\.\d+){0,2}(?:\.v2)?")
_PARTS = frozenset({"train", "validation", "valid", "val", "test", "eval", "evaluation"})
_SHORT = 1024  # bytes of data whose checksum is computed
_HEAD = 4096  # bytes of longer data in which the time is looked for
_MOST = 50_000_000


def is_one(start: bytes) -> bool:
    """Whether a file begins with the length of a record and the checksum of that."""
    return len(start) >= 12 and masked_crc(start[:8]) == struct.unpack("<I", start[8:12])[0]


def is_named(name: str) -> bool:
    return _NAME in name and not name.endswith((".profile-empty", ".gz", ".zip"))


def read(path: Path, intake: Intake) -> None:
    """Take the contiguous pieces of each run. Raises RecordError."""
    if path.is_dir():
        runs: dict[Path, list[Path]] = {}
        for folder, names in walk(path):
            files = [folder / name for name in names if is_named(name)]
            if files:
                above = next((f for f in folder.parents if f in runs), None)
                parent = folder.parent if folder.name.lower() in _PARTS else folder
                runs.setdefault(above or (folder if folder == path else parent), []).extend(files)
        if not runs:
            raise RecordError(
                f"{shown(path)} holds no event file, named events.out.tfevents...: give the folder "
                "that TensorBoard is pointed at"
            )
    else:
        runs = {path.parent: [path]}
    for folder, files in runs.items():
        inside = folder.relative_to(path).as_posix() if path.is_dir() else "."
        name = folder.resolve().name if inside == "." else inside
        _take(name, files, intake)


def _take(name: str, files: list[Path], intake: Intake) -> None:
    signs = Signs(intake.terms.gap)
    for file in files:
        for moment in wall_times(file, intake):
            signs.add(moment)
    pieces = signs.pieces()
    if not pieces:
        intake.leave("their files hold no time", "nothing can be billed", name)
        return
    intake.assume(
        "TensorBoard records no outcome and no end: a run counts as done, from its first to its "
        "last event."
    )
    host = _HOST.fullmatch(files[0].name)

    def record(piece: Piece) -> Record:
        return Record(
            where=shown(files[0].parent),
            key=(f"{piece.first:.6f}",),
            run=name,
            name=name,
            started=piece.first,
            seconds=piece.last - piece.first,
            status="done",
            host=host[1] if host else "",
            note="outcome not recorded",
        )

    add_pieces(intake, name, pieces, record)


def wall_times(path: Path, intake: Intake) -> Iterator[float]:
    """The time of each event of a file that has one. Raises RecordError.

    A record that is cut off at the end is told and ends the file.
    """
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            for number in range(_MOST):
                at = file.tell()
                if at == size:
                    return
                data = _record(path, file, at, size, number)
                if data is None:
                    intake.assume(
                        f"{shown(path)} is cut off in record {number + 1}, as a killed writer "
                        "leaves it: read up to there."
                    )
                    return
                moment = wall_time(data)
                if moment is not None:
                    yield _checked(path, moment, number, intake.now)
    except OSError as error:
        raise RecordError(f"{shown(path)} cannot be read, {cause(error)}: check it") from None
    raise RecordError(f"{shown(path)} has more than {_MOST:,} records: give files of one run")


def _record(path: Path, file: BinaryIO, at: int, size: int, number: int) -> bytes | None:
    """The data of the record at `at`, or as much of it as may hold the time; None: cut off."""
    head = file.read(12)
    if len(head) < 12:
        return None
    length, checksum = struct.unpack("<QI", head)
    if masked_crc(head[:8]) != checksum:
        raise RecordError(
            f"{shown(path)} is damaged in record {number + 1}, at byte {at:,}, or no event file: "
            "restore it, or move it away and import again"
        )
    if at + 16 + length > size:
        return None
    data = file.read(length if length <= _SHORT else _HEAD)
    if length <= _SHORT and masked_crc(data) != struct.unpack("<I", file.read(4))[0]:
        raise RecordError(
            f"{shown(path)} is damaged in record {number + 1}, at byte {at:,}: restore it, or move "
            "it away and import again"
        )
    file.seek(at + 16 + length)
    return data


def _checked(path: Path, moment: float, number: int, now: float) -> float:
    if not (math.isfinite(moment) and EARLIEST <= moment <= now + DAY):
        raise RecordError(
            f"{shown(path)} has the time {moment:g} in record {number + 1}, which is not between "
            "1990 and now: correct the clock, or move the file away"
        )
    return moment


def wall_time(event: bytes) -> float | None:
    """Field 1 of a protobuf Event, of which the end may be missing; None where it is not there."""
    at = 0
    while at < len(event):
        tag, at = _varint(event, at)
        kind = tag & 7
        if tag == 9 and at + 8 <= len(event):
            moment = struct.unpack_from("<d", event, at)[0]
            return moment if moment != 0 else None
        if kind == 0:
            _, at = _varint(event, at)
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        elif kind == 2:
            length, at = _varint(event, at)
            at += length
        else:
            return None
    return None


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            break
    return value, at


def masked_crc(data: bytes) -> int:
    """TFRecord's checksum: CRC-32C (Castagnoli), turned right by 15 bits, plus a constant."""
    table, crc = _table(), 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 255] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@lru_cache(maxsize=1)
def _table() -> tuple[int, ...]:
    found = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        found.append(byte)
    return tuple(found)
