"""Imports of wandb's binary log, as an offline run leaves it."""

import struct
import zlib
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benthic.cost.imports import Found, RecordError, read
from benthic.cost.ledger.ledger import Entry

START = 1742205600
HEADER = b":W&B\xe1\xbe\0"


def one(found: Found) -> Entry:
    (entry,) = found.entries
    return entry


def varint(value: int) -> bytes:
    found = b""
    while value > 0x7F:
        found += bytes([value & 0x7F | 0x80])
        value >>= 7
    return found + bytes([value])


def message(*fields: tuple[int, int | str | bytes]) -> bytes:
    found = b""
    for number, value in fields:
        if isinstance(value, int):
            found += varint(number << 3) + varint(value)
        else:
            data = value.encode() if isinstance(value, str) else value
            found += varint(number << 3 | 2) + varint(len(data)) + data
    return found


def moment(unix: float) -> bytes:
    return message((1, int(unix)), (2, int(unix % 1 * 1e9)))


def log(*records: bytes) -> bytes:
    """The records in blocks of 32 KiB, cut where a block ends."""
    found = HEADER
    for record in records:
        left, first = record, True
        while left or first:
            room = 32_768 - len(found) % 32_768 - 7
            if room < 0:
                found += b"\0" * (room + 7)
                continue
            part, left = left[:room], left[room:]
            kind = bytes([(1 if not left else 2) if first else (4 if not left else 3)])
            found += struct.pack("<IH", zlib.crc32(kind + part), len(part)) + kind + part
            first = False
    return found


RUN = message(
    (17, message((1, "ab12"), (3, "reef"), (8, "sunny"), (10, "ablation"), (13, "node1")))
)
MACHINE = message(
    (26, message((3, moment(START + 0.25)), (13, "ada"), (18, "NVIDIA H100 80GB HBM3"), (19, 8)))
)
LARGE = message((2, b"x" * 70_000))


def sign(second: float) -> bytes:
    return message((7, message((2, moment(START + second)))))


def end(*fields: tuple[int, int]) -> bytes:
    return message((18, message(*fields)))


def offline(tmp_path: Path, data: bytes) -> Path:
    folder = tmp_path / "wandb" / "offline-run-20250317_110000-ab12"
    (folder / "files").mkdir(parents=True, exist_ok=True)
    (folder / "files" / "requirements.txt").write_text("torch")
    (folder / "run-ab12.wandb").write_bytes(data)
    return folder / "run-ab12.wandb"


def test_an_offline_run_is_told_by_its_log(tmp_path: Path) -> None:
    path = offline(tmp_path, log(RUN, MACHINE, sign(30), LARGE, sign(60), end((2, 90))))
    entry = one(read(tmp_path / "wandb"))
    assert one(read(path)).external == entry.external
    assert (entry.name, entry.run, entry.project) == ("sunny", "wandb:ab12", "reef")
    assert (entry.started, entry.seconds, entry.status) == (START + 0.25, 90, "done")
    assert (entry.device, entry.count, entry.purpose) == ("H100-SXM", 8, "ablation")
    assert (entry.user, entry.host, entry.exit_code) == ("ada", "node1", 0)


@pytest.mark.parametrize(
    ("data", "seconds", "status"),
    [
        (log(RUN, MACHINE, sign(30), end((1, 1), (2, 45))), 45, "failed"),
        (log(RUN, MACHINE, sign(30), LARGE, sign(60.25)), 60, "interrupted"),
        (log(RUN, MACHINE, sign(30.25), end((2, 90)))[:-3], 30, "interrupted"),
    ],
)
def test_how_it_ended(tmp_path: Path, data: bytes, seconds: float, status: str) -> None:
    entry = one(read(offline(tmp_path, data)))
    assert (entry.seconds, entry.status) == (seconds, status)


def test_a_log_beside_the_runs_files_is_not_taken_twice(tmp_path: Path) -> None:
    path = offline(tmp_path, log(RUN, MACHINE, end((2, 90))))
    files = path.parent / "files"
    (files / "wandb-metadata.json").write_text('{"startedAt": "2025-03-17T10:00:00.250000Z"}')
    (files / "wandb-summary.json").write_text('{"_wandb": {"runtime": 90}}')
    entry = one(read(tmp_path / "wandb"))
    assert entry.external == one(read(path)).external


def test_a_log_that_says_too_little_is_left_out(tmp_path: Path) -> None:
    found = read(offline(tmp_path, log(RUN, MACHINE)))
    assert not found.entries and "an export of the runs table" in found.left_out[0]


@given(st.binary(max_size=200))
def test_bytes_of_any_kind_are_a_sentence_or_nothing(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = offline(tmp_path_factory.mktemp("w"), log(data))
    with suppress(RecordError):
        assert not read(path).entries
