"""Imports of TensorBoard's event files, and contiguous pieces of work from signs of life."""

import struct
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benthic.cost.imports import Found, RecordError, read
from benthic.cost.imports.pieces import Signs, pieces_reference
from benthic.cost.imports.tensorboard import masked_crc, wall_time
from benthic.cost.ledger.ledger import Entry

START = 1742205600.0  # 2025-03-17 10:00 UTC


def one(found: Found) -> Entry:
    (entry,) = found.entries
    return entry


@given(
    st.lists(st.integers(0, 20_000), max_size=40),
    st.sampled_from([60.0, 600.0, 1800.0]),
)
def test_pieces_are_those_of_sorted_signs(moments: list[int], gap: float) -> None:
    signs = Signs(gap)
    for moment in moments:
        signs.add(float(moment))
    assert signs.pieces() == pieces_reference(map(float, moments), gap)


def crc(data: bytes) -> int:
    """Masked CRC-32C bit by bit, the slow twin of the table."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    value ^= 0xFFFFFFFF
    return ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF


def record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", crc(length)) + data + struct.pack("<I", crc(data))


def event(moment: float, *, step: int = 1, body: bytes = b"\x2a\x02\x0a\x00") -> bytes:
    return b"\x09" + struct.pack("<d", moment) + b"\x10" + bytes([step]) + body


def events(
    folder: Path, *moments: float, name: str = "1742205600.n1.7.0", tail: bytes = b""
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"events.out.tfevents.{name}"
    path.write_bytes(b"".join(record(event(moment)) for moment in moments) + tail)
    return path


@given(st.binary(max_size=64))
def test_the_checksum_is_the_slow_one(data: bytes) -> None:
    assert masked_crc(data) == crc(data)


def test_the_checksum_is_that_of_files_in_the_wild() -> None:
    # How event files begin: a first record of 24 bytes, and the checksum of that length.
    assert struct.pack("<I", masked_crc(struct.pack("<Q", 24))) == b"\xa3\x7f\x4b\x22"


@given(st.floats(1e9, 2e9), st.binary(max_size=8))
def test_wall_time_is_found_wherever_it_stands(moment: float, text: bytes) -> None:
    field = b"\x09" + struct.pack("<d", moment)
    other = b"\x1a" + bytes([len(text)]) + text + b"\x10\xff\x01" + b"\x25" + bytes(4)
    assert wall_time(field + other) == wall_time(other + field) == moment
    assert wall_time(other) is None


def test_tensorboard_runs(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    events(runs / "a", START, START + 900, START + 1800)
    events(runs / "a" / "1742205600.1", START + 900, START + 2000)  # of hyperparameters
    events(runs / "a", START + 1900, START + 2100, name="1742207500.n2.8.1.v2")
    events(runs / "b" / "train", START, START + 60, name="1742205600.n1.8.0")
    events(runs / "b" / "validation", START + 30, START + 90, name="1742205630.n1.8.1")
    times = (START, START + 60, START + 7200, START + 7260)
    events(runs / "c", *times, name="1742205600.n1.9.0", tail=b"\x18\0\0")
    found = read(runs, device="H100", count=8, price=2)
    assert [(e.name, e.started - START, e.seconds) for e in found.entries] == [
        ("a", 0, 2100),
        ("b", 0, 90),
        ("c", 0, 60),
        ("c", 7200, 60),
    ]
    assert {(e.device, e.count, e.gpus) for e in found.entries} == {("H100-SXM", 8, 8)}
    assert found.entries[0].host == "n1"
    assert any("cut off in record 5" in line for line in found.assumed)
    assert any("'c' shows no sign of life for 2.0 h" in line for line in found.assumed)
    moved = tmp_path / "moved"
    (runs / "c").rename(moved)
    assert [e.external for e in read(moved).entries] == [e.external for e in found.entries[2:]]
    assert one(read(runs / "b")).external == found.entries[1].external
    assert len(read(moved, gap=3600 * 3).entries) == 1


def test_large_records_are_passed_over(tmp_path: Path) -> None:
    path = events(tmp_path, START)
    body = b"\x2a" + b"\x80\x80\x04" + bytes(2**16)
    path.write_bytes(path.read_bytes() + record(event(START + 60, body=body)))
    assert one(read(path)).seconds == 60


@pytest.mark.parametrize(
    ("tail", "match"),
    [
        (b"x" * 40, "damaged in record 2, at byte 47"),
        (record(event(START + 5))[:-1] + b"\0", "damaged in record 2"),
        (record(event(float("nan"))), "the time nan in record 2"),
        (record(event(-1.0)), "the time -1 in record 2"),
        (record(event(1e12)), "not between 1990 and now"),
    ],
)
def test_bad_event_files(tmp_path: Path, tail: bytes, match: str) -> None:
    path = events(tmp_path, START)
    size = path.stat().st_size
    path.write_bytes(path.read_bytes() + tail)
    with pytest.raises(RecordError, match=match.replace("47", str(size))):
        read(tmp_path)


@settings(max_examples=40)
@given(st.integers(0, 200))
def test_a_file_cut_anywhere_is_read_up_to_there(cut: int) -> None:
    with TemporaryDirectory() as folder:
        path = events(Path(folder), *(START + 10 * i for i in range(5)))
        raw = path.read_bytes()
        path.write_bytes(raw[:cut])
        whole = min(cut // (len(raw) // 5), 5)
        found = read(path, kind="tensorboard")
        assert [e.seconds for e in found.entries] == ([10.0 * (whole - 1)] if whole > 1 else [])


def test_a_folder_of_two_tools_asks_which(tmp_path: Path) -> None:
    put = tmp_path / "mlruns" / "0" / "aa" / "meta.yaml"
    put.parent.mkdir(parents=True)
    times = f"start_time: {START * 1000:.0f}\nend_time: {START * 1000 + 3600000:.0f}\n"
    put.write_text(f"run_id: aa\nstatus: 3\n{times}")
    events(tmp_path / "runs", START, START + 60)
    with pytest.raises(RecordError, match=r"mlflow and tensorboard, maybe of the same"):
        read(tmp_path)
    assert one(read(tmp_path, kind="tensorboard")).seconds == 60
    assert one(read(tmp_path, kind="mlflow")).seconds == 3600
