"""Rows and their sums as they count: against Python, row by row, and by hand."""

from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benthic.cost.ledger import sums as ledger_sums
from benthic.cost.ledger.entries import AMENDABLE, STATUSES, Billed, Group, amended_value
from benthic.cost.ledger.ledger import Entry, Ledger, LedgerError, Span, Usage, external_id
from benthic.cost.ledger.purposes import PURPOSES
from benthic.cost.ledger.sums import BY
from benthic.cost.ledger.sums_reference import billed_reference, groups_reference

ROW = Entry(
    run="/runs/one",
    attempt="a",
    stage="train",
    purpose="pretrain",
    device="gpu",
    count=8,
    price_per_hour=2.0,
    price_source="the invoice",
    energy_source="nvml",
    started=0.0,
    heartbeat=3600.0,
    ended=3600.0,
    seconds=3600.0,
    seconds_productive=1800.0,
    joules=1000.0,
    status="done",
)
IDLE = replace(ROW, external="idle", purpose="idle", seconds_productive=None)
_NEAR = 1e-6  # times of 5e6 s are known to 1e-9 s, and shares of devices multiply that


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "ledger.sqlite") as opened:
        yield opened


def inside(key: str, **changes: Any) -> Entry:
    return replace(ROW, external=key, parent=external_id("idle"), **changes)


def seconds(ledger: Ledger) -> dict[str, float]:
    return {group.key["purpose"]: group.seconds for group in ledger.groups(("purpose",))}


def test_a_reservation_keeps_what_nobody_used(ledger: Ledger) -> None:
    """Of 8 devices for an hour: half of them for half of it, then all of them for ten minutes."""
    half = inside("half", seconds=1800.0, heartbeat=1800.0, ended=1800.0, count=4)
    whole = inside("whole", seconds=600.0, started=2000.0, heartbeat=2600.0, ended=2600.0)
    ledger.add([IDLE, half, whole])
    (idle,) = ledger.groups((), purpose="idle")
    assert idle.seconds == idle.seconds_kept == 3600 - 1800 / 2 - 600
    assert idle.dollars == idle.seconds * 8 * 2 / 3600
    (everything,) = ledger.groups()
    assert everything.device_seconds == 8 * 3600 and everything.dollars == 16.0
    assert everything.rows == 3 and everything.key == {}


def test_work_inside_is_never_more_than_all(ledger: Ledger) -> None:
    """Of 8 devices for an hour: 8 and 16 and 8 of them, so each counts a quarter of its hours."""
    ledger.add([IDLE, inside("one"), inside("two", count=16), inside("three", purpose="rl")])
    assert seconds(ledger) == {"idle": 0.0, "pretrain": 1800.0, "rl": 900.0}
    (everything,) = ledger.groups()
    assert everything.device_seconds == 8 * 3600 and everything.dollars == 16.0
    assert everything.device_seconds_shared == 3 * 8 * 3600
    assert ledger.find(external_id("two")).seconds_billable == 900.0
    assert [row.seconds_kept for row in ledger.query(ids=[external_id("one")])] == [450.0]


def test_what_is_inside_crowded_work_counts_in_proportion_too(ledger: Ledger) -> None:
    deep = replace(inside("deep", purpose="rl", seconds=1800.0), parent=external_id("one"))
    ledger.add([IDLE, inside("one"), inside("two"), deep])
    assert seconds(ledger) == {"idle": 0.0, "pretrain": 900.0 + 1800.0, "rl": 900.0}
    assert ledger.find(external_id("deep")).seconds_billable == 900.0


def test_work_on_other_devices_takes_no_hours_off(ledger: Ledger) -> None:
    """A GPU that is held for ten hours costs all of them, whatever a CPU did meanwhile."""
    ledger.add([replace(IDLE, count=1), inside("one", device="cpu", count=1, price_per_hour=0.1)])
    assert [round(group.dollars, 9) for group in ledger.groups(("device",))] == [0.1, 2.0]
    ledger.amend(external_id("one"), "device", "gpu", reason="it was the GPU")
    assert [group.seconds for group in ledger.groups(("purpose",))] == [0.0, 3600.0]


def test_a_clock_set_back_doubles_nothing(ledger: Ledger) -> None:
    """The outer row was closed by a clock an hour behind: at its start, so its seconds count."""
    outer = replace(IDLE, started=9000.0, heartbeat=9000.0, ended=9000.0, seconds=200.0)
    times = {"started": 9010.0, "heartbeat": 9010.0, "ended": 9010.0}
    early = {"started": 5400.0, "heartbeat": 5500.0, "ended": 5500.0}
    ledger.add([outer, inside("one", **times, seconds=90.0)])
    assert seconds(ledger) == {"idle": 110.0, "pretrain": 90.0}
    ledger.add([inside("two", **early, seconds=100.0)])  # began after the clock was set back
    assert seconds(ledger) == {"idle": 10.0, "pretrain": 190.0}


def test_what_a_cut_off_row_kept_is_less_what_ran_inside(ledger: Ledger) -> None:
    """Ten hours, saved to the eighth, with three hours of evaluation inside: five were kept."""
    outer = replace(
        IDLE, purpose="pretrain", status="interrupted", heartbeat=36e3, ended=36e3, seconds=36e3
    )
    ledger.add(
        [
            replace(outer, seconds_productive=28_800.0),
            inside("eval", purpose="evaluation", seconds=10_800.0, heartbeat=2e4, ended=2e4),
        ]
    )
    (kept,) = ledger.groups((), purpose="pretrain")
    assert (kept.seconds, kept.seconds_kept) == (7 * 3600, 5 * 3600)
    assert ledger.find(external_id("idle")).seconds_kept == 5 * 3600


def test_rows_that_name_each_other_as_parents_can_be_read(ledger: Ledger) -> None:
    ring = [
        replace(ROW, external=str(n), parent=external_id(str((n + 1) % 3)), count=1 + n)
        for n in range(3)
    ]
    ledger.add(ring)
    (group,) = ledger.groups()
    assert 0 <= group.device_seconds <= 6 * 3600


def test_what_outlives_the_outer_row_takes_off_its_part(ledger: Ledger) -> None:
    late = inside(
        "late", started=3000.0, heartbeat=9000.0, ended=9000.0, seconds=6000.0, joules=100.0
    )
    ledger.add([IDLE, late])
    assert seconds(ledger) == {"idle": 3000.0, "pretrain": 6000.0}
    assert ledger.find(external_id("idle")).joules_billable == pytest.approx(1000 - 10)


def test_rows_inside_rows_inside_rows(ledger: Ledger) -> None:
    middle = inside("middle", seconds=1000.0, heartbeat=1000.0, ended=1000.0)
    inner = replace(
        inside("inner", purpose="rl", seconds=400.0, heartbeat=400.0, ended=400.0),
        parent=external_id("middle"),
    )
    ledger.add([inner, middle, IDLE])
    assert seconds(ledger) == {"idle": 2600.0, "pretrain": 600.0, "rl": 400.0}


def test_an_outer_row_that_is_in_no_ledger_changes_nothing(ledger: Ledger) -> None:
    ledger.add([inside("one")])
    assert seconds(ledger) == {"pretrain": 3600.0}


def test_running_rows_count_to_the_last_heartbeat(ledger: Ledger, tmp_path: Path) -> None:
    span = Span(**{f.name: getattr(ROW, f.name) for f in fields(Span)})
    outer = ledger.begin(replace(span, purpose="idle"), energy_source="nvml")
    inner = ledger.begin(replace(span, parent=outer), energy_source="nvml")
    ledger.beat(outer, Usage(seconds=100.0))
    ledger.beat(inner, Usage(seconds=90.0, seconds_productive=50.0))
    assert seconds(ledger) == {"idle": 10.0, "pretrain": 90.0}
    (group,) = ledger.groups(("status",), purpose="final")
    assert group.key == {"status": "running"} and group.seconds_kept == 50.0


def test_amendments_count_everywhere(ledger: Ledger) -> None:
    ledger.add([IDLE, inside("one"), replace(ROW, external="two", run="/runs/two")])
    ledger.amend(external_id("one"), "seconds", 600, reason="it slept")
    ledger.amend(external_id("one"), "project", "p", reason="it was theirs")
    ledger.amend(external_id("two"), "price_per_hour", 0, reason="a gift")
    ledger.amend(external_id("two"), "purpose", "ablation", reason="it was")
    assert seconds(ledger) == {"idle": 3000.0, "pretrain": 600.0, "ablation": 3600.0}
    assert [row.external for row in ledger.query(project="p")] == ["one"]
    assert [group.rows for group in ledger.groups(project="p")] == [1]
    assert [row.dollars for row in ledger.query(purpose="ablation")] == [0.0]
    assert ledger.groups(("price_source",), run="/runs/two")[0].key["price_source"] == (
        "amended: a gift"
    )
    assert ledger.find(external_id("one")).seconds_kept == 600.0


def test_a_finished_row_keeps_all_unless_it_says_less(ledger: Ledger) -> None:
    ledger.add(
        [
            replace(ROW, external="said"),
            replace(ROW, external="unsaid", seconds_productive=None, run="/runs/b"),
            replace(ROW, external="failed", seconds_productive=None, status="failed", run="/c"),
        ]
    )
    assert [g.seconds_kept for g in ledger.groups(("run",))] == [0.0, 3600.0, 1800.0]


def test_the_newest_rows_come_first(ledger: Ledger) -> None:
    ledger.add(replace(ROW, external=str(n), started=n, heartbeat=1e4, ended=1e4) for n in range(9))
    assert [row.external for row in ledger.query(limit=2)] == ["8", "7"]
    assert [row.external for row in ledger.query(since=2.0, until=4.0)] == ["3", "2"]
    assert [g.rows for g in ledger.groups(since=2.0, until=4.0)] == [2]
    ids = [external_id("5"), "none such"]
    assert [row.external for row in ledger.query(ids=ids)] == ["5"]
    assert ledger.groups(ids=ids)[0].rows == 1
    assert ledger.groups(project="none such") == [] and list(ledger.query(ids=[])) == []


def test_what_cannot_be_asked(ledger: Ledger) -> None:
    with pytest.raises(ValueError, match="rows cannot be grouped by 'colour': choose purpose"):
        ledger.groups(("colour",))
    with pytest.raises(TypeError, match="no filter is called colour"):
        ledger.groups((), colour="red")  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="purpose is 'fun'"):
        list(ledger.query(purpose="fun"))


TEXTS = st.sampled_from(["", "p", "q"])
WHOLE = st.integers(0, 1000).map(float)
ROWS = st.lists(
    st.builds(
        dict,
        purpose=st.sampled_from(PURPOSES),
        status=st.sampled_from(["done", "interrupted", "failed"]),
        project=TEXTS,
        user=TEXTS,
        name=TEXTS,
        run=st.sampled_from(["/runs/one", "/runs/two"]),
        device=st.sampled_from(["cpu", "gpu"]),
        count=st.integers(1, 8),
        price_per_hour=st.sampled_from([0.0, 0.5, 2.0]),
        started=st.sampled_from([0.0, 100.0, 5e6]),
        length=WHOLE,
        seconds=WHOLE,
        seconds_productive=st.none() | WHOLE,
        joules=WHOLE,
        joules_low=st.none() | WHOLE,
        joules_high=st.none() | WHOLE,
        gpus=st.sampled_from([0.0, 4.0]),
        gpu_busy=st.none() | st.floats(0, 1),
        tokens=st.integers(0, 10**15),
        parent=st.none() | st.integers(0, 11),
    ),
    min_size=1,
    max_size=12,
)
AMENDED = st.lists(
    st.tuples(
        st.integers(0, 11),
        st.one_of(
            st.tuples(st.just("purpose"), st.sampled_from(PURPOSES)),
            st.tuples(st.sampled_from(["project", "name", "user", "note"]), TEXTS),
            st.tuples(st.just("device"), st.sampled_from(["cpu", "gpu"])),
            st.tuples(st.just("price_per_hour"), st.sampled_from([0.0, 2.0, 3.0])),
            st.tuples(st.just("count"), st.integers(1, 8)),
            st.tuples(st.just("seconds"), WHOLE),
            st.tuples(st.just("seconds_productive"), WHOLE),
            st.tuples(st.just("status"), st.sampled_from(STATUSES[1:])),
        ),
    ),
    max_size=8,
)


@settings(max_examples=60)
@given(ROWS, AMENDED, st.lists(st.sampled_from(BY), max_size=4, unique=True), TEXTS)
def test_sql_agrees_with_python(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[dict[str, Any]],
    amendments: list[tuple[int, tuple[str, Any]]],
    by: list[str],
    project: str,
) -> None:
    entries = [_entry(number, dict(row)) for number, row in enumerate(rows)]
    ids = [entry.id for entry in entries]
    with Ledger(tmp_path_factory.mktemp("ledger") / "ledger.sqlite") as ledger:
        ledger.add(entries)
        for number, (field, value) in amendments:
            if number < len(ids):
                ledger.amend(ids[number], field, value, reason=f"reason {number}")
        expected = billed_reference(entries, ledger.amendments())
        _within_their_roots(expected)
        found = {row.id: row for row in ledger.query()}
        assert found.keys() == expected.keys()
        for row_id, row in found.items():
            assert _figures(row) == pytest.approx(_figures(expected[row_id]), abs=_NEAR)
            assert row.amended == expected[row_id].amended
        for filters in ({}, {"project": project}, {"run": "/runs/one"}):
            chosen = [
                row
                for row in expected.values()
                if all(getattr(row, name) == value for name, value in filters.items())
            ]
            sums, dearest = groups_reference(chosen, by), _dearest(chosen)
            _same(ledger.groups(by, **filters), sums)
            assert _runs(*ledger.largest_runs(9, {"cpu": 7.0}, **filters)) == dearest
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(ledger_sums, "_FEWER", 0)  # a table by run, however few the rows
                with ledger.one_moment(filters):  # type: ignore[arg-type]
                    _same(ledger.groups(by, **filters), sums)
                    assert _runs(*ledger.largest_runs(9, {"cpu": 7.0}, **filters)) == dearest
                    other = [row for row in expected.values() if row.user == "p"]
                    _same(ledger.groups(by, user="p"), groups_reference(other, by))


def _dearest(rows: list[Billed]) -> tuple[dict[str, Any], int]:
    """Rows, dollars, device-seconds and tokens by run, CPUs at 7 dollars an hour."""
    found: dict[str, list[float]] = {}
    for row in rows:
        sums = found.setdefault(row.run, [0.0] * 4)
        seconds = row.seconds_billable * row.count
        price = 7.0 if row.device == "cpu" else row.price_per_hour
        for i, value in enumerate((1, seconds * price / 3600, seconds, row.tokens)):
            sums[i] += value
    return {run: pytest.approx(sums, abs=_NEAR) for run, sums in found.items()}, len(found)


def _runs(groups: list[Group], count: int) -> tuple[dict[str, list[float]], int]:
    names = ("rows", "dollars", "device_seconds", "tokens")
    return {g.key["run"]: [getattr(g, name) for name in names] for g in groups}, count


def test_idle_hours_stay_idle_beside_work_that_claims_the_same_devices(ledger: Ledger) -> None:
    """Two runs on all 8 for the same half hour, a third on 2 of them in the middle of it."""
    times = {"seconds": 1800.0, "heartbeat": 1800.0, "ended": 1800.0}
    third = {"seconds": 900.0, "started": 450.0, "heartbeat": 1350.0, "ended": 1350.0, "count": 2}
    ledger.add([IDLE, inside("a", **times), inside("b", **times), inside("c", **third)])
    (idle,) = ledger.groups((), purpose="idle")
    assert idle.seconds == pytest.approx(1800.0)
    found = {row.external: row.seconds_billable * row.count / 8 for row in ledger.query()}
    assert found["a"] == found["b"] == pytest.approx(900 / 2 + 900 / 2.25)
    assert found["c"] == pytest.approx(900 * 0.25 / 2.25)
    assert ledger.groups()[0].dollars == pytest.approx(16.0)


def test_rows_can_be_read_while_sums_are_asked_for(ledger: Ledger) -> None:
    ledger.add([IDLE, *(inside(str(i)) for i in range(300))])
    with ledger.one_moment():
        rows = ledger.query()
        next(rows)
    assert [ledger.groups()[0].rows for _ in rows] == [301] * 300


def test_a_row_that_names_itself_as_its_parent_counts_whole(ledger: Ledger) -> None:
    ledger.add([replace(ROW, external="one", parent=external_id("one"))])
    assert ledger.groups()[0].dollars == 16.0


def test_sums_of_one_moment_do_not_see_what_is_written_meanwhile(ledger: Ledger) -> None:
    ledger.add([IDLE])
    with Ledger(ledger.path) as other, ledger.one_moment():
        assert ledger.groups()[0].rows == 1
        other.add([replace(IDLE, external="later")])
        assert ledger.groups()[0].rows == 1 and ledger.largest_runs(1, {})[0][0].rows == 1
    assert ledger.groups()[0].rows == 2


def _entry(number: int, row: dict[str, Any]) -> Entry:
    """A row whose parent, if any, comes before it."""
    ended = row["started"] + row.pop("length")
    parent = row.pop("parent")
    key = None if parent is None or parent >= number else external_id(str(parent))
    times = {"heartbeat": ended, "ended": ended, "parent": key, "external": str(number)}
    return replace(ROW, id=external_id(str(number)), **row, **times)


def _within_their_roots(rows: dict[str, Billed]) -> None:
    """What is wholly inside counts no more hours of its devices than the outermost row had."""
    roots: dict[str, str] = {}
    counted: dict[str, float] = {}
    for row in sorted(rows.values(), key=lambda row: int(row.external or 0)):  # outermost first
        outer = rows.get(row.parent or "")
        within = outer and outer.started <= row.started and row.heartbeat <= (outer.ended or 0)
        same = outer and within and outer.device == row.device
        roots[row.id] = root = roots[outer.id] if outer and same else row.id
        counted[root] = counted.get(root, 0.0) + row.seconds_billable * row.count
    for root, total in counted.items():
        assert total <= rows[root].seconds * rows[root].count * (1 + 1e-9) + 1e-6


def _figures(row: Billed) -> dict[str, Any]:
    values = {name: value for name, value in vars(row).items() if name != "amended"}
    more = ("seconds_billable", "seconds_kept", "joules_billable", "dollars", "dollars_kept")
    low, high = row.joules_range
    return values | {name: getattr(row, name) for name in more} | {"low": low, "high": high}


def _same(found: list[Group], expected: list[Group]) -> None:
    assert [group.key for group in found] == [group.key for group in expected]
    for one, other in zip(found, expected):
        numbers = [{k: v for k, v in vars(group).items() if k != "key"} for group in (one, other)]
        assert numbers[0] == pytest.approx(numbers[1], abs=_NEAR)


def test_every_amendable_field_is_read_amended(ledger: Ledger) -> None:
    ledger.add([replace(ROW, external="a")])
    given = {"purpose": "data", "price_per_hour": 3.0, "count": 2, "seconds": 5.0}
    given |= {"status": "failed", "seconds_productive": 4.0}
    for field in AMENDABLE:
        ledger.amend(external_id("a"), field, given.get(field, "new"), reason="so")
        assert getattr(ledger.find(external_id("a")), field) == amended_value(
            field, given.get(field, "new")
        )


def test_a_row_of_a_later_purpose_can_be_read(ledger: Ledger) -> None:
    """A newer Benthic of the same schema may know more purposes; reading is no reason to fail."""
    ledger.add([replace(ROW, external="a")])
    columns = "id, run, attempt, stage, device, count, price_per_hour, price_source"
    rest = "energy_source, started, heartbeat, seconds, tokens, flops, joules, status, pid, host"
    ledger._connection.execute(
        f"INSERT INTO entries ({columns}, {rest}, purpose) "
        f"SELECT 'x', {columns[4:]}, {rest}, 'dreaming' FROM entries"
    )
    assert sorted(row.purpose for row in ledger.query()) == ["dreaming", "pretrain"]
    assert sorted(row.purpose for row in ledger.entries(Path("/runs/one"))) == [
        "dreaming",
        "pretrain",
    ]
    assert {g.key["purpose"] for g in ledger.groups(("purpose",))} == {"dreaming", "pretrain"}


def test_a_damaged_ledger_fails_in_words_while_it_is_read(ledger: Ledger) -> None:
    ledger.add(replace(ROW, external=str(n), note="x" * 3000) for n in range(200))
    path = ledger.path
    ledger.close()
    data = bytearray(path.read_bytes())
    data[len(data) // 2 :] = b"\xff" * (len(data) - len(data) // 2)
    path.write_bytes(data)
    with Ledger(path) as opened, pytest.raises(LedgerError, match=r"is damaged"):
        list(opened.query())
