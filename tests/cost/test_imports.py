"""Imports of tables of one's own; prices, zones, durations, hostile cells, bytes of any kind."""

import csv
import re
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benthic.cost.bill.rows import show_list
from benthic.cost.catalog.load import load
from benthic.cost.imports import Found, RecordError, kinds, read
from benthic.cost.imports.command import bring
from benthic.cost.imports.times import span
from benthic.cost.ledger.ledger import Entry, Ledger, external_id


def put(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def one(found: Found) -> Entry:
    (entry,) = found.entries
    return entry


def own(tmp_path: Path, *rows: str, header: str = "run,started,hours,gpus,device") -> Path:
    return put(tmp_path / "own.csv", "\n".join((header, *rows)) + "\n")


def test_own_table_becomes_rows_of_the_ledger(tmp_path: Path) -> None:
    path = own(
        tmp_path,
        "base,2025-03-17T10:00Z,2.5,8,NVIDIA H100 80GB HBM3,$2.50,final,done,moe,ada,first",
        "bad,2025-03-18T10:00Z,1,,,,ablation,crashed,moe,ada,",
        header="Run,Started,Hours,GPUs,Device,Price per hour,Purpose,Status,Project,User,Note",
    )
    found = read(path, timezone="UTC")
    first, second = found.entries
    assert (first.name, first.device, first.count, first.gpus) == ("base", "H100-SXM", 8, 8)
    assert (first.started, first.seconds) == (1742205600, 9000)
    assert first.ended == first.started + 9000 == first.heartbeat
    assert (first.price_per_hour, first.price_source) == (2.5, "table file")
    assert (first.purpose, first.status, first.project) == ("pretrain", "done", "moe")
    assert (first.user, first.note, first.source) == ("ada", "first", "import:table")
    assert (second.purpose, second.status, second.count) == ("ablation", "failed", 1)
    assert (second.price_per_hour, second.note) == (0, "no price")
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert ledger.add(found.entries) == (2, 0)
        assert ledger.add(read(path, timezone="UTC").entries) == (0, 2)
        (group,) = ledger.groups(project="moe", purpose="pretrain")
    assert group.dollars == pytest.approx(2.5 * 2.5 * 8)


def test_overlapping_export_copied_elsewhere_adds_only_what_is_new(tmp_path: Path) -> None:
    first = own(tmp_path, "a,2025-03-17 10:00,1,1,", "b,2025-03-17 12:00,1,1,")
    later = put(tmp_path / "x" / "other.csv", first.read_text() + "c,2025-03-18 10:00,1,1,\n")
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert ledger.add(read(first, price=2, timezone="UTC").entries) == (2, 0)
        # Neither the zone nor a price given later makes another row of the same work.
        assert ledger.add(read(later, price=3, timezone="Asia/Tokyo").entries) == (1, 2)


@pytest.mark.parametrize(
    ("header", "cells", "says"),
    [
        ("run,started,hours,gpus,device", "a,2025-03-17T10:00Z,2,8,H100", "device"),
        ("run,started,ended,gpus", "a,2025-03-17T10:00Z,2025-03-17T12:00Z,8", ""),
        ("run,name,started,hours,gpus", "a,exp,2025-03-17T10:00Z,2,8", ""),
        ("name,started,hours,gpus", "a,2025-03-17T10:00Z,3,8", "seconds 7200 to 10800"),
    ],
)
def test_columns_more_make_no_row_more_and_other_figures_are_told(
    header: str, cells: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = tmp_path / "ledger.sqlite"
    first = "run,started,hours,gpus"
    bring(own(tmp_path, "a,2025-03-17T10:00Z,2,8", header=first), ledger=ledger)
    capsys.readouterr()
    bring(own(tmp_path, cells, header=header), ledger=ledger)
    told = capsys.readouterr().out
    assert "0 rows added, 1 there already" in told
    assert says in told and ("say otherwise than the ledger" in told) == bool(says)
    if says.startswith("seconds"):  # what was put right by hand is no news
        with Ledger(ledger) as opened:
            (row,) = opened.query()
            opened.amend(row.id, "seconds", 9000, reason="clock")
        bring(own(tmp_path, cells, header=header), ledger=ledger)
        assert "otherwise" not in capsys.readouterr().out


def test_rows_of_one_run_and_start_with_other_figures_are_told(tmp_path: Path) -> None:
    found = read(own(tmp_path, "a,2025-03-17,1,1,", "a,2025-03-17,2,1,"), timezone="UTC")
    (told,) = found.left_out
    assert one(found).seconds == 3600 and "a: seconds 3600 to 7200" in told


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_columns_are_known_by_many_names(tmp_path: Path, separator: str) -> None:
    names = ["JOB NAME", "start_time", "Elapsed", "GPU Count", "gpu type"]
    cells = ["x", "2025-03-17 10:00+01:00", "1-02:00:00", "4", "A100"]
    path = put(tmp_path / "t.csv", "\ufeff" + "\n".join(map(separator.join, (names, cells))))
    entry = one(read(path))
    assert (entry.seconds, entry.count, entry.device) == (26 * 3600, 4, "A100-SXM4-80GB")
    assert entry.started == 1742202000


@pytest.mark.parametrize(
    ("header", "row", "seconds"),
    [
        ("run,started,gpu_hours,gpus", "a,2025-03-17,16,8", 7200),
        ("run,started,duration", "a,2025-03-17,1h 30m", 5400),
        ("run,started,minutes", "a,2025-03-17,90", 5400),
        ("run,started,ended", "a,2025-03-17 10:00,2025-03-17 11:30", 5400),
        ("run,started,seconds", "a,1742205600,5400", 5400),
        ("run,started,seconds", "a,1742205600000,5400", 5400),
    ],
)
def test_durations(tmp_path: Path, header: str, row: str, seconds: float) -> None:
    assert one(read(own(tmp_path, row, header=header), timezone="UTC")).seconds == seconds


@given(st.integers(0, 10**8), st.sampled_from([0, 1, 2]))
def test_a_duration_written_out_is_read_back(seconds: int, form: int) -> None:
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    text = (
        str(seconds),
        f"{days}-{hours:02}:{minutes:02}:{rest:02}",
        f"{days}d {hours}h {minutes}m {rest}s",
    )[form]
    assert span(text, "x") == seconds


def test_the_price_is_the_files_then_the_callers_then_the_catalogs(tmp_path: Path) -> None:
    path = own(
        tmp_path,
        "a,2025-03-17,1,1,H100,2.5",
        "b,2025-03-17,1,1,H100,",
        "c,2025-03-17,1,1,abacus,",
        header="run,started,hours,gpus,device,price",
    )
    given = read(path, price=4, timezone="UTC")
    assert [e.price_per_hour for e in given.entries] == [2.5, 4, 4]
    assert [e.price_source for e in given.entries] == ["table file", "--price", "--price"]
    found = read(path, timezone="UTC")
    rent = load().rent("H100", "2025-03-17").value
    assert [e.price_per_hour for e in found.entries] == [2.5, rent, 0]
    assert found.entries[1].price_source.startswith("catalog: rent of H100-SXM at 2025-03-17")
    assert found.entries[2].note == "no price for this device"
    assert any("catalog's rents" in line for line in found.assumed)
    assert found.assumed[0].startswith("1 row without a price counts 0 dollars (1 on abacus): ")


def test_flags_fill_gaps_and_say_how_many(tmp_path: Path) -> None:
    path = own(
        tmp_path,
        "a,2025-03-17,1,8,h100,2.5,moe,final",
        "b,2025-03-17,1,,,,,",
        "c,2025-03-17,1,0,,,,",
        "d,2025-03-17,1,4,A100,2,rope,ablation",
        header="run,started,hours,gpus,device,price,project,purpose",
    )
    flags = {"device": "a100", "count": 4, "price": 2.0, "project": "rope", "purpose": "ablation"}
    found = read(path, timezone="UTC", **flags)  # type: ignore[arg-type]
    assert [
        (e.device, e.count, e.price_per_hour, e.project, e.purpose, e.gpus) for e in found.entries
    ] == [
        ("H100-SXM", 8, 2.5, "moe", "pretrain", 8),
        ("A100-SXM4-80GB", 4, 2, "rope", "ablation", 4),
        ("CPU", 1, 0, "rope", "ablation", 0),
        ("A100-SXM4-80GB", 4, 2, "rope", "ablation", 4),
    ]
    bare = "was used for 1 row; 1 row says otherwise, which stands; 1 row held no GPU."
    assert found.given() == [
        f"--device a100 {bare}",
        f"--count 4 {bare}",
        f"--price 2 {bare}",
        "--project rope was used for 2 rows; 1 row says otherwise, which stands.",
        "--purpose ablation was used for 2 rows; 1 row says otherwise, which stands.",
    ]
    assert not read(path, timezone="UTC").given()
    # Hours of devices are shared by those held: a row that held none is not divided by --count.
    shared = own(
        tmp_path, "a,2025-03-17,8,0", "b,2025-03-17,8,", header="run,started,gpu_hours,gpus"
    )
    assert [e.seconds / 3600 for e in read(shared, count=4, timezone="UTC").entries] == [8, 2]


def test_a_device_without_rent_is_refused_as_a_flag_and_told_as_a_cell(tmp_path: Path) -> None:
    path = own(tmp_path, "a,2025-03-17,1,1,h9000", "b,2025-03-17,1,1,h9000", "c,2025-03-17,1,1,")
    for device, match in (
        ("h9000", r"--device: no GPU is called 'h9000': did you mean H.*; or give --price"),
        ("gh200", r"--device: no rent is known for GH200: give --price"),
    ):
        with pytest.raises(RecordError, match=match):
            read(path, device=device, timezone="UTC")
        priced = read(path, device=device, price=1.5, timezone="UTC")
        assert [e.price_per_hour for e in priced.entries] == [1.5] * 3
    assert read(path, device="cpu", timezone="UTC").entries[2].device == "cpu"
    found = read(path, timezone="UTC")
    assert [(e.device, e.price_per_hour) for e in found.entries[:2]] == [("h9000", 0)] * 2
    assert found.assumed[0].startswith(
        "3 rows without a price count 0 dollars (2 on h9000, 1 on a device not named): "
    )


def test_rows_without_a_name_are_known_by_their_figures(tmp_path: Path) -> None:
    rows = (",,2025-03-17,3,1", ",,2025-03-17,4,1", ",,2025-03-17,4,2", ",,2025-03-17,4,2")
    path = own(tmp_path, *rows, header="run,name,started,hours,gpus")
    found = read(path, timezone="UTC")
    assert [(e.seconds / 3600, e.count) for e in found.entries] == [(3, 1), (4, 1), (4, 2)]
    assert len({e.run for e in found.entries}) == 3
    assert any("Rows without a name are known by" in line for line in found.assumed)
    assert "the record holds them twice" in found.left_out[0]
    ends = own(tmp_path, ",2025-03-17,2025-03-18", ",2025-03-17,2025-03-19", header="run,start,end")
    assert [e.seconds / 86400 for e in read(ends, timezone="UTC").entries] == [1, 2]
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert ledger.add(found.entries) == (3, 0)
        moved = [rows[2], rows[0], ",,2025-03-17,5,1"]
        later = read(own(tmp_path, *moved, header="run,name,started,hours,gpus"), timezone="UTC")
        assert ledger.add(later.entries) == (1, 2)
        hours = own(tmp_path, ",2025-03-17,8", header="run,start,gpu_hours")
        assert ledger.add(read(hours, timezone="UTC").entries) == (1, 0)
        assert ledger.add(read(hours, count=4, timezone="UTC").entries) == (0, 1)


def test_up_to_ten_bad_rows_are_told_at_once_and_nothing_is_added(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = [f"r{n},2025-03-17,soon,1,H100" for n in range(12)]
    more = ["x,2025-03-17,1,1,H100,extra", "y,03/04/2025,1,1,H100"]
    path = own(tmp_path, "ok,2025-03-17,1,1,H100", *more, *bad)
    assert bring(path, ledger=tmp_path / "ledger.sqlite", timezone="UTC") == 1
    first, *lines = capsys.readouterr().err.splitlines()
    assert first == "benthic: 14 records cannot be read, so none is taken:"
    assert len(lines) == 11 and lines[10].strip() == "and 4 more."
    assert "row 3 has 6 cells" in lines[0] and "row 4: '03/04/2025'" in lines[1]
    assert all("is no duration" in line for line in lines[2:10])
    # What ends the file is told beside what was wrong before it.
    cut = own(tmp_path, "a,2025-03-17,soon,1,H100", "b\0,2025-03-17,1,1,H100")
    with pytest.raises(RecordError, match=r"2 records cannot(.|\n)*no duration(.|\n)*is no text"):
        read(cut, timezone="UTC")
    assert not (tmp_path / "ledger.sqlite").exists()


def test_what_a_second_import_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # 39.555 is a half cent above or below by the order of the sum; `cost list` says 39.56.
    rows = ("a,2025-03-17,1,1,H100,9.905", "b,2025-03-18,1,1,H100,29.65")
    path = own(tmp_path, *rows, header="run,started,hours,gpus,device,price")
    ledger = tmp_path / "ledger.sqlite"
    for start in ("2 rows added, 0 there already", "0 rows added, 2 there already"):
        bring(path, ledger=ledger, timezone="UTC", price=7.0)
        told = capsys.readouterr().out
        assert told.startswith(f"own.csv: {start}. The file holds 2.0 device-hours, $39.5")
        assert "by its own figures and the flags given." in told
        again = start.startswith("0")
        assert ("--price 7 was used for 0 rows; 2 rows say otherwise" in told) != again
        assert ("'benthic cost amend --source import:table --set FIELD" in told) == again
    show_list(ledger=ledger)
    listed = capsys.readouterr().out
    assert re.findall(r"\$39\.\d+", listed)[-1] in told
    alone = own(tmp_path, "z,2025-03-17,1,1,H100")
    bring(alone, ledger=ledger, timezone="UTC")
    assert ": 1 row added, 0 there already. " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("a,2025-10-26 02:30,1,1,H100", "a,2025-10-26T02:30:00+02:00,1,1,H100"),
        ("a,2025-03-17 10:00,1,1,H100", "a,1742202000,1,1,H100"),
        (",2025-03-17 10:00,1,1,H100", ",1742202000,1,1,H100"),
    ],
)
def test_a_start_written_another_way_makes_no_other_row(
    first: str, second: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = tmp_path / "ledger.sqlite"
    more = f"{second.replace(',1,1,', ',1,1,').replace('H100', 'A100')}"
    bring(own(tmp_path, first), ledger=ledger, timezone="Europe/Berlin")
    bring(own(tmp_path, second, more), ledger=ledger, timezone="UTC")
    told = capsys.readouterr().out
    with Ledger(ledger) as opened:
        found = [row.device for row in opened.query()]
    assert "with their start written another way" in told
    assert sorted(found) == ["A100-SXM4-80GB", "H100-SXM"] if first[0] == "," else ["H100-SXM"]


def test_no_gpu_costs_nothing_but_a_machine_with_a_price_does(tmp_path: Path) -> None:
    rows = ["a,2025-03-17,1,0,H100,3", "b,2025-03-17,1,0,,3", "c,2025-03-17,1,0,m5.large,0.2"]
    found = read(own(tmp_path, *rows, header="run,started,hours,gpus,device,price"), timezone="UTC")
    assert [entry.price_per_hour for entry in found.entries] == [0, 0, 0.2]
    assert found.entries[0].note == "no price: it held no GPU" and found.entries[0].gpus == 0
    (told,) = (line for line in found.assumed if "held no GPU" in line)
    assert told.startswith("2 rows held no GPU")
    mixed = own(tmp_path, "a,2025-03-17,1,0,cpu", "b,2025-03-17,1,1,", "c,2025-03-18,1,1,h9000")
    (told,) = (line for line in read(mixed, timezone="UTC").assumed if "without a price" in line)
    assert "(1 on a device not named, 1 on h9000)" in told


def test_a_long_text_that_nobody_reads_is_no_fault(tmp_path: Path) -> None:
    path = own(tmp_path, f"a,2025-03-17,1,{'x' * 200_000}", header="run,started,hours,config")
    assert one(read(path, timezone="UTC")).seconds == 3600


def test_zones(tmp_path: Path) -> None:
    path = own(tmp_path, "a,2025-03-17 10:00,1,1,H100")
    utc = one(read(path, timezone="UTC"))
    berlin = one(read(path, timezone="Europe/Berlin"))
    assert utc.started - berlin.started == 3600
    assert utc.external == berlin.external
    assert one(read(path, timezone="+05:30")).started == utc.started - 5.5 * 3600
    assert any("give --timezone" in line for line in read(path).assumed)
    with pytest.raises(RecordError, match=r"Europe/Berlin, UTC or \+02:00"):
        read(path, timezone="Middle/Earth")


def test_hours_that_clocks_skip_or_pass_twice(tmp_path: Path) -> None:
    path = own(tmp_path, "a,2025-03-30 02:30,1,1,H100")
    with pytest.raises(RecordError, match=r"row 2: .* does not exist in Europe/Berlin"):
        read(path, timezone="Europe/Berlin")
    found = read(own(tmp_path, "a,2025-10-26 02:30,1,1,H100"), timezone="Europe/Berlin")
    assert one(found).started == 1761438600  # 00:30 UTC, summer time
    assert any("went back" in line for line in found.assumed)
    # An end after the change is an end, whatever its hour.
    path = own(tmp_path, "a,2025-10-26 01:00,2025-10-26 04:00", header="run,started,ended")
    assert one(read(path, timezone="Europe/Berlin")).seconds == 4 * 3600


@pytest.mark.parametrize(
    ("header", "row", "match"),
    [
        ("run,hours", "a,1", "no column that says when|of no tool"),
        ("run,started", "a,2025-03-17", "of no tool known here.*seconds"),
        ("started,hours", "2025-03-17,1", "no column that names a run: add one of run"),
        ("run,started,hours,Hours", "a,2025-03-17,1,2", "two columns that mean 'Hours'"),
        ("run,started,hours", "a,03/04/2025,1", "row 2: '03/04/2025' is no time"),
        ("run,started,hours", "a,2025-02-30,1", "is no time"),
        ("run,started,hours", "a,1970-01-02,1", "not between 1990 and now"),
        ("run,started,hours", "a,2999-01-01,1", "not between 1990 and now"),
        ("run,started,hours", "a,2025-03-17,-1", "hours is -1, below 0"),
        ("run,started,hours", "a,2025-03-17,nan1", "is no duration"),
        ("run;started;hours", "a;2025-03-17;1,5", "'1,5', with a decimal comma: write 1.5$"),
        ("run;started;hours", "a;2025-03-17;1,500", "may part .*: write 1.500 or 1500$"),
        ("run;started;hours;price", "a;2025-03-17;1;2,50", "price is '2,50', .*: write 2.50$"),
        ("run,started,hours", "a,2025-03-17,1e300", "not 0 to ten years"),
        ("run,started,duration", "a,2025-03-17,90", "without a unit"),
        ("run,started,ended", "a,2025-03-17,2025-03-16", "86,400 seconds before it started"),
        ("run,started,seconds,ended", "a,2025-03-17,9e4,2025-03-18", "longer than from its start"),
        ("run,started,hours,gpus", "a,2025-03-17,1,2.5", "whole number"),
        ("run,started,hours,gpus", "a,2025-03-17,1,99999999999", "devices are not from"),
        ("run,started,hours,price", "a,2025-03-17,1,-2", "the price is -2"),
        ("run,started,hours,price", "a,2025-03-17,1,1e9", "0 to 1e\\+06"),
        ("run,started,hours,price", "a,2025-03-17,1,2000000", "0 to 1e\\+06"),
        ("run,started,hours,price", "a,2025-03-17,1,2.5 EUR", "two currencies do not add"),
        ("run,started,hours,price", "a,2025-03-17,1,\u20ac2", "two currencies do not add"),
        ("run,started,hours,price_eur", "a,2025-03-17,1,2", "two currencies do not add"),
        ("run,started,hours,currency", "a,2025-03-17,1,CNY", "is in CNY: two currencies"),
        (
            "run,started,hours,purpose",
            "a,2025-03-17,1,fun",
            "purpose is 'fun': choose one of",
        ),
        ("run,started,hours,status", "a,2025-03-17,1,odd", "'odd' is no status"),
        ("run,started,hours", "a,2025-03-17,1,extra", "row 2 has 4 cells for 3 columns"),
        ("run,started,hours", "a\0,2025-03-17,1", "is no text in row 2"),
        ("run,started,hours", 'a,"' + "x" * 200_000 + '",1', "is no time that can be read"),
    ],
)
def test_a_bad_table_is_one_sentence(tmp_path: Path, header: str, row: str, match: str) -> None:
    path = own(tmp_path, row, header=header)
    with pytest.raises(RecordError, match=match) as caught:
        read(path, timezone="UTC")
    text = str(caught.value)
    assert str(path) in text or "own.csv" in text
    assert "\n" not in text and len(text) < 700 and "\0" not in text


def test_hostile_texts_are_kept_short_and_harmless(tmp_path: Path) -> None:
    name = '=HYPERLINK("http://x")' + "\u202e" + "y" * 5000
    path = put(tmp_path / "h.csv", "")
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(
            [["run", "started", "hours", "note"], [name, "2025-03-17", "1", "a\x1b[2Jb\nc"]]
        )
    entry = one(read(path, timezone="UTC"))
    assert len(entry.name) == 200 and "\u202e" not in entry.name
    assert "\x1b" not in entry.note and "\n" not in entry.note


@settings(max_examples=60)
@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused_in_a_sentence(raw: bytes) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, "f")
        path.write_bytes(raw)
        for kind in ("auto", *kinds()):
            with suppress(RecordError):  # an empty file of events is one
                assert not read(path, kind=kind, count=1).entries


def test_what_is_no_record_is_refused(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for path in (tmp_path / "none.csv", loop, Path("/dev/null"), tmp_path):
        with pytest.raises(RecordError):
            read(path)
    for empty in ("", "\n \n", "[]"):
        with pytest.raises(RecordError, match=r"/f is empty: export it again$"):
            read(put(tmp_path / "f", empty))
    with pytest.raises(RecordError, match="UTF-8"):
        path = tmp_path / "utf16.csv"
        path.write_text("run,started,hours\na,2025-03-17,1\n", encoding="utf-16")
        read(path)
    for start, match in (
        (b"PK\x03\x04", "ZIP"),
        (b":W&B\xe1\xbe\0\0\0\0\0\2\0\1ab", "is damaged: copy"),
    ):
        (tmp_path / "f").write_bytes(start + bytes(20))
        with pytest.raises(RecordError, match=match):
            read(tmp_path / "f")
    for terms, match in (
        ({"price": float("nan")}, "--price is nan"),
        ({"price": -1.0}, "--price is -1"),
        ({"count": 0}, "--count is 0"),
        ({"purpose": "fun"}, "--purpose is 'fun'"),
        ({"kind": "excel"}, "--kind is 'excel'"),
    ):
        with pytest.raises(RecordError, match=match):
            read(own(tmp_path, "a,2025-03-17,1,1,H100"), **terms)  # type: ignore[arg-type]


def test_ids_of_parents_are_those_of_their_rows(tmp_path: Path) -> None:
    entry = one(read(own(tmp_path, "a,2025-03-17,1,1,H100"), timezone="UTC"))
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.add([entry])
        (row,) = ledger.query()
    assert row.id == external_id(entry.external or "")
