"""wandb's binary log, run-<id>.wandb: all that an offline run leaves on disk.

After seven bytes of header it is a log as LevelDB writes it: blocks of 32 KiB, in each pieces with
a checksum (CRC-32 of type and data), a length and a type, which says whether a piece is a whole
record, or its first, middle or last part. A record is a protobuf message (`wandb_internal.proto`),
of which four kinds are read: the run, its machine, its signs of life, and its exit with code and
seconds. A log that is cut off, as a killed process leaves it, is read up to there; one without an
exit lasted until its last sign of life.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benthic.cost.imports.files import cause, shown
from benthic.cost.imports.record import RecordError

MAGIC = b":W&B"
_HEADER = 7
_BLOCK = 32_768
_LARGEST = 4_000_000  # bytes of a record that is looked into; those of interest are far smaller
_STATS, _RUN, _EXIT, _MACHINE = 7, 17, 18, 26  # fields of Record
Value = int | bytes


@dataclass
class Log:
    """What a log says of its run; empty, None: it does not say."""

    id: str = ""
    name: str = ""
    project: str = ""
    user: str = ""
    host: str = ""
    notes: str = ""
    job_type: str = ""
    tags: list[str] = field(default_factory=list)
    program: str = ""
    args: list[str] = field(default_factory=list)
    gpu: str = ""
    gpus: int = 0
    started: float | None = None
    seen: float | None = None
    """the last sign of life, unix time"""
    seconds: float | None = None
    """as the run said at its end"""
    exit_code: int = 0


def read_log(path: Path) -> Log:
    """What the file says. Raises RecordError where it is no such log."""
    log = Log()
    try:
        for record in _records(path):
            for kind, value in _fields(record):
                if isinstance(value, bytes):
                    _take(log, kind, value)
    except (OSError, struct.error) as error:
        raise RecordError(f"{shown(path)} cannot be read, {cause(error)}: check it") from None
    except (IndexError, ValueError):
        raise RecordError(f"{shown(path)} is damaged: copy it again") from None
    return log


def _take(log: Log, kind: int, message: bytes) -> None:
    if kind == _STATS:
        for number, value in _fields(message):
            if number == 2 and isinstance(value, bytes):
                log.seen = max(log.seen or 0.0, _moment(value))
    elif kind == _EXIT:
        log.seconds = 0.0
        for number, value in _fields(message):
            if number == 1 and isinstance(value, int):
                log.exit_code = value
            elif number == 2 and isinstance(value, int):
                log.seconds = float(value)
    elif kind == _RUN:
        names = {1: "id", 3: "project", 7: "job_type", 8: "name", 9: "notes", 13: "host"}
        for number, value in _fields(message):
            if isinstance(value, bytes) and number in names:
                setattr(log, names[number], _text(value))
            elif isinstance(value, bytes) and number == 10:
                log.tags.append(_text(value))
            elif isinstance(value, bytes) and number == 17 and log.started is None:
                log.started = _moment(value)
    elif kind == _MACHINE:
        names = {6: "program", 13: "user", 18: "gpu"}
        for number, value in _fields(message):
            if isinstance(value, bytes) and number in names:
                setattr(log, names[number], _text(value))
            elif isinstance(value, bytes) and number == 3:  # as wandb-metadata.json has it
                log.started = _moment(value)
            elif isinstance(value, bytes) and number == 5:
                log.args.append(_text(value))
            elif isinstance(value, int) and number == 19:
                log.gpus = value


def _records(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        if not file.read(_HEADER).startswith(MAGIC):
            raise ValueError
        at, parts = _HEADER, b""
        while True:
            rest = _BLOCK - at % _BLOCK
            head = file.read(min(rest, 7))
            at += len(head)
            if len(head) < 7:
                if len(head) < min(rest, 7):
                    return
                continue  # the filling at the end of a block
            checksum, length, kind = struct.unpack("<IHB", head)
            data = file.read(length)
            at += length
            if len(data) < length or not 1 <= kind <= 4:
                return
            if zlib.crc32(head[6:] + data) != checksum:
                raise ValueError
            parts = data if kind in (1, 2) else parts + data[: max(0, _LARGEST - len(parts))]
            if kind in (1, 4) and len(parts) < _LARGEST:
                yield parts


def _fields(message: bytes) -> Iterator[tuple[int, Value]]:
    """Number and value of each field of a protobuf message, without those of fixed width."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        wire = tag & 7
        if wire == 0:
            value, at = _varint(message, at)
            yield tag >> 3, value
        elif wire == 2:
            length, at = _varint(message, at)
            if at + length > len(message):
                raise ValueError
            yield tag >> 3, message[at : at + length]
            at += length
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        else:
            raise ValueError


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for place in range(10):
        byte = message[at + place]
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value, at + place + 1
    raise ValueError


def _moment(message: bytes) -> float:
    parts = {number: value for number, value in _fields(message) if isinstance(value, int)}
    return parts.get(1, 0) + parts.get(2, 0) / 1e9


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")
