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

from benthic.cost.imports.files import cause, shown, walk
from benthic.cost.imports.intake import EARLIEST, Intake
from benthic.cost.imports.pieces import Piece, Signs, add_pieces, joined
from benthic.cost.imports.record import Record, RecordError
from benthic.cost.imports.terms import DAY

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
    parts: list[tuple[float, str, Piece]] = []
    for file in files:
        signs = Signs(intake.terms.gap)
        for moment in wall_times(file, intake):
            signs.add(moment)
        parts += [(piece.first, file.name, piece) for piece in signs.pieces()]
    if not parts:
        intake.leave("their files hold no time", "nothing can be billed", name)
        return
    intake.assume(
        "TensorBoard records no outcome and no end: a run counts as done, from its first to its "
        "last event."
    )

    def record(piece: Piece) -> Record:
        # Files keep their names wherever they are copied to: time, host and process.
        earliest = min((first, file) for first, file, _ in parts if first == piece.first)[1]
        host = _HOST.fullmatch(earliest)
        return Record(
            where=shown(files[0].parent),
            key=(earliest, f"{piece.first:.6f}"),
            run=name,
            name=name,
            started=piece.first,
            seconds=piece.last - piece.first,
            status="done",
            host=host[1] if host else "",
            note="outcome not recorded",
        )

    add_pieces(intake, name, joined((part[2] for part in parts), intake.terms.gap), record)


def wall_times(path: Path, intake: Intake) -> Iterator[float]:
    """The time of each event of a file that has one. Raises RecordError.

    A record that is cut off at the end is told and ends the file.
    """
    at = 0
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            for number in range(1, _MOST):
                if at == size:
                    return
                head = file.read(12)
                length, checksum = struct.unpack("<QI", head) if len(head) == 12 else (0, 0)
                if len(head) == 12 and _crc_of_length(head[:8]) != checksum:
                    raise _damaged(path, number, at, ", or no event file")
                if len(head) < 12 or at + 16 + length > size:
                    intake.assume(
                        f"{shown(path)} is cut off in record {number}, as a killed writer leaves "
                        "it: read up to there."
                    )
                    return
                if length <= _SHORT:
                    data, last = file.read(length), file.read(4)
                    if masked_crc(data) != struct.unpack("<I", last)[0]:
                        raise _damaged(path, number, at)
                else:
                    data = file.read(_HEAD)
                    file.seek(at + 16 + length)
                at += 16 + length
                moment = wall_time(data)
                if moment is not None:
                    yield _checked(path, moment, number, intake.now)
    except (OSError, struct.error) as error:
        raise RecordError(f"{shown(path)} cannot be read, {cause(error)}: check it") from None
    raise RecordError(f"{shown(path)} has {_MOST:,} records or more: give files of one run")


def _damaged(path: Path, number: int, at: int, more: str = "") -> RecordError:
    return RecordError(
        f"{shown(path)} is damaged in record {number}, at byte {at:,}{more}: restore it, or move "
        "it away and import again"
    )


def _checked(path: Path, moment: float, number: int, now: float) -> float:
    if not (math.isfinite(moment) and EARLIEST <= moment <= now + DAY):
        raise RecordError(
            f"{shown(path)} has the time {moment:g} in record {number}, which is not between "
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


@lru_cache(maxsize=4096)
def _crc_of_length(length: bytes) -> int:
    return masked_crc(length)


@lru_cache(maxsize=1)
def _table() -> tuple[int, ...]:
    found = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        found.append(byte)
    return tuple(found)
