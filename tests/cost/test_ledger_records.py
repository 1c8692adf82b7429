"""The ledger's other records: imports, amendments, budgets, plans, and files that are no ledger."""

import os
import random
import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benthic.cost.ledger.entries import COLUMNS, Budget
from benthic.cost.ledger.ledger import Entry, Ledger, LedgerError, Span, external_id
from benthic.cost.ledger.purposes import purpose_named
from benthic.cost.ledger.schema import MIGRATIONS


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "deep" / "ledger.sqlite", timeout=0.1) as opened:
        yield opened


def span(run: Path) -> Span:
    return Span(
        run=str(run),
        attempt="a",
        stage="pretrain",
        purpose="pretrain",
        device="cpu",
        price_per_hour=0.05,
        price_source="a guess",
    )


def imported(key: str, **changes: Any) -> Entry:
    values: dict[str, Any] = {
        **vars(span(Path("/exports/wandb"))),
        "external": key,
        "source": "import:wandb",
        "energy_source": "none",
        "started": 1000.0,
        "heartbeat": 1100.0,
        "ended": 1100.0,
        "seconds": 100.0,
        "status": "done",
    }
    return Entry(**values | changes)


def test_the_same_import_twice_adds_nothing(ledger: Ledger) -> None:
    rows = [imported(f"run-{n}") for n in range(5)]
    assert ledger.add(rows) == (5, 0)
    assert ledger.add(rows) == (0, 5)
    assert ledger.add([*rows, imported("run-5"), imported("run-5")]) == (1, 6)
    assert ledger.add([]) == (0, 0)
    found = ledger.entries(Path("/exports/wandb"))
    assert {row.id for row in found} == {external_id(f"run-{n}") for n in range(6)}
    with pytest.raises(LedgerError, match="a row with this id or external key is there already"):
        ledger.begin(replace(span(Path("/x")), external="run-1"), energy_source="none")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"external": None}, "has no external key"),
        ({"ended": None}, "is not closed"),
        ({"status": "running"}, "is not closed"),
        ({"ended": 900.0}, r"ended is 900\.000, before started 1000\.000: a clock was set back"),
        ({"started": float("nan")}, "started is nan: give unix time"),
        ({"ended": 1.7e12}, "ended is 1700000000000.0: give unix time in seconds"),
        ({"price_per_hour": 1e7}, "price_per_hour is 10000000.0"),
        ({"status": "lost"}, "status is 'lost'"),
    ],
)
def test_an_import_is_all_or_nothing(ledger: Ledger, change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ledger.add(iter([imported("good"), imported("bad", **change)]))
    assert list(ledger.query()) == []


def test_an_amendment_stands_beside_the_row(ledger: Ledger) -> None:
    ledger.add([imported("a", price_per_hour=2.0)])
    entry_id = external_id("a")
    ledger.amend(entry_id, "price_per_hour", "1.5", reason="the invoice", author="ada")
    ledger.amend(entry_id, "price_per_hour", 1.25, reason="the discount", author="ada")
    ledger.amend(entry_id, "purpose", "final", reason="it was")
    row = ledger.find(entry_id)
    assert (row.price_per_hour, row.price_source) == (1.25, "amended: the discount")
    assert row.amended == ("price_per_hour", "purpose") and row.purpose == "pretrain"
    assert ledger.entries(Path("/exports/wandb"))[0].price_per_hour == 2.0
    assert [a.value for a in ledger.amendments(entry_id)] == [1.5, 1.25, "pretrain"]
    assert [a.author for a in ledger.amendments()][:2] == ["ada", "ada"]


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("tokens", 1, "field 'tokens' cannot be amended: choose purpose, project"),
        ("purpose", "fun", "purpose is 'fun'"),
        ("price_per_hour", -1, "price_per_hour is -1"),
        ("price_per_hour", "1e7", "price_per_hour is 10000000"),
        ("price_per_hour", "two", "price_per_hour is 'two': give a number"),
        ("seconds", "nan", "seconds is nan"),
        ("count", 0, "count is 0"),
        ("count", "2.5", "count is 2.5: give whole devices"),
        ("count", 10**400, "give a number"),
        ("device", " ", "device is empty"),
        ("status", "running", "status is 'running': choose one of done, interrupted, failed"),
        ("seconds_productive", -1, "seconds_productive is -1"),
    ],
)
def test_an_amendment_is_checked(ledger: Ledger, field: str, value: Any, words: str) -> None:
    ledger.add([imported("a")])
    with pytest.raises(ValueError, match=words):
        ledger.amend(external_id("a"), field, value, reason="why not")
    assert ledger.amendments() == []


def test_an_amendment_needs_a_row_and_a_reason(ledger: Ledger, tmp_path: Path) -> None:
    running = ledger.begin(span(tmp_path), energy_source="rapl")
    with pytest.raises(ValueError, match="reason to amend name is empty"):
        ledger.amend(running, "name", "x", reason=" ")
    for field, value in (("seconds", 1), ("status", "done"), ("seconds_productive", 1)):
        with pytest.raises(ValueError, match=f"still runs: amend {field} when it is closed"):
            ledger.amend(running, field, value, reason="it slept")
    with pytest.raises(LedgerError, match="has no row nothing"):
        ledger.amend("nothing", "name", "x", reason="a guess")
    ledger.amend(running, "name", "x", reason="a guess")
    assert ledger.find(running).label == "x"


def test_an_amended_status_takes_the_kept_seconds_along(ledger: Ledger) -> None:
    ledger.add([imported("a", seconds=60.0, status="interrupted", seconds_productive=0.0)])
    row = external_id("a")

    def kept() -> float:
        (group,) = ledger.groups(("status",))
        assert group.key["status"] == ledger.find(row).status
        assert group.seconds_kept == ledger.find(row).seconds_kept
        return group.seconds_kept

    assert kept() == 0
    ledger.amend(row, "status", "failed", reason="it crashed")
    assert kept() == 0 and len(ledger.amendments()) == 1
    ledger.amend(row, "status", "done", reason="it ended well")
    assert kept() == 60
    ledger.amend(row, "status", "failed", reason="no, it did not")
    assert kept() == 0
    changes = [("status", "interrupted"), ("seconds_productive", "45")]
    ledger.amend_all([row], changes, reason="its checkpoint was resumed")
    assert kept() == 45
    assert [a.field for a in ledger.amendments()] == [
        *("status", "status", "seconds_productive", "status", "seconds_productive"),
        *("status", "seconds_productive"),
    ]


def test_rows_are_amended_together_or_not_at_all(ledger: Ledger) -> None:
    ledger.add([imported("a"), imported("b")])
    with pytest.raises(LedgerError, match="has no row c"):
        ledger.amend_all([external_id("a"), "c"], [("name", "x")], reason="so")
    assert ledger.amendments() == []
    ledger.amend_all([external_id(key) for key in "ab"], [("name", "x")], reason="so")
    assert [row.name for row in ledger.query()] == ["x", "x"]


def test_amendments_given_together_are_all_or_none(ledger: Ledger) -> None:
    ledger.add([imported("a")])
    changes = [("name", "x"), ("count", 4), ("purpose", "fun")]
    with pytest.raises(ValueError, match="purpose is 'fun'"):
        ledger.amend_all([external_id("a")], changes, reason="why not")
    assert ledger.amendments() == []
    ledger.amend_all([external_id("a")], changes[:2], reason="why not")
    assert [(a.field, a.value) for a in ledger.amendments()] == [("name", "x"), ("count", 4)]


def test_the_newest_budget_holds(ledger: Ledger) -> None:
    ledger.add([imported("a", project="p", count=2, price_per_hour=36.0)])
    ledger.budget_set("purpose", "ablation", 500)
    ledger.budget_set("purpose", "ablation", 400.0, hard=True)
    ledger.budget_set("purpose", "final", 7)
    ledger.budget_set("project", "p", 1)
    ledger.budget_set("project", "p", None)
    held = [(b.scope, b.key, b.dollars, b.hard) for b in ledger.budgets()]
    assert held == [("purpose", "ablation", 400.0, True), ("purpose", "pretrain", 7.0, False)]
    assert ledger.spent("project", "p") == ledger.spent("purpose", "final") == 2.0
    assert ledger.spent("project", "other") == ledger.spent("purpose", "ablation") == 0.0
    for scope, key, dollars in (
        ("purpose", "fun", 1.0),
        ("team", "p", 1.0),
        ("project", "p", -1.0),
        ("project", "p", float("nan")),
    ):
        with pytest.raises(ValueError, match=r"choose one of|budget is"):
            ledger.budget_set(scope, key, dollars)  # type: ignore[arg-type]


def test_the_newest_plan_of_a_run(ledger: Ledger, tmp_path: Path) -> None:
    ledger.plan_set(tmp_path / "one", {"dollars": 1})
    ledger.plan_set(tmp_path / "one", {"dollars": 2})
    assert ledger.plans() == {str(tmp_path / "one"): {"dollars": 2}}
    with pytest.raises(ValueError, match="not JSON compliant"):
        ledger.plan_set(tmp_path, {"dollars": float("nan")})
    ledger.plan_set("wandb:3fk2", {})
    assert "wandb:3fk2" in ledger.plans()


def test_nothing_recorded_is_rewritten_from_outside(ledger: Ledger, tmp_path: Path) -> None:
    running = ledger.begin(span(tmp_path), energy_source="rapl")
    ledger.add([imported("a")])
    ledger.amend(external_id("a"), "note", "x", reason="y")
    ledger.budget_set("project", "p", 1)
    ledger.plan_set(tmp_path, {})
    other = sqlite3.connect(ledger.path, isolation_level=None)
    before = list(other.iterdump())
    columns = ", ".join(COLUMNS)
    statements = [
        *(f"DELETE FROM {table}" for table in ("entries", "amendments", "budgets", "plans")),
        *(f"UPDATE {table} SET id = 'x'" for table in ("entries", "amendments", "budgets")),
        *(f"REPLACE INTO {table} SELECT * FROM {table}" for table in ("amendments", "plans")),
        f"UPDATE entries SET started = 0 WHERE id = '{running}'",
        f"UPDATE OR REPLACE entries SET external = 'a' WHERE id = '{running}'",
        *(
            f"REPLACE INTO entries ({columns}) SELECT {columns} FROM entries WHERE status = '{now}'"
            for now in ("running", "done")
        ),
        "UPDATE plans SET document = ''",
    ]
    for statement in statements:
        with pytest.raises(sqlite3.IntegrityError):
            other.execute(statement)
    assert list(other.iterdump()) == before
    other.close()


def test_a_ledger_cut_short_says_so(ledger: Ledger, tmp_path: Path) -> None:
    """Wherever the file ends, the answer is a sentence; an empty file is a new ledger."""
    ledger.add(imported(f"run-{n}", note="x" * 500) for n in range(200))
    ledger.close()
    whole, short = ledger.path.read_bytes(), tmp_path / "short.sqlite"
    for length in (50, 99, 100, 1000, 4096, 10_000, len(whole) // 2, len(whole) - 4096):
        short.write_bytes(whole[:length])
        with pytest.raises(LedgerError, match=r"is damaged|is not a SQLite file|failed"):
            read_all(short)
        assert short.read_bytes() == whole[:length]


def test_noise_in_the_file_is_a_sentence(ledger: Ledger, tmp_path: Path) -> None:
    ledger.add(imported(f"run-{n}") for n in range(50))
    ledger.close()
    whole, noisy, draw = ledger.path.read_bytes(), tmp_path / "noisy.sqlite", random.Random(0)
    for _ in range(25):
        data = bytearray(whole)
        for _ in range(20):
            data[draw.randrange(len(data))] = draw.randrange(256)
        noisy.write_bytes(data)
        with suppress(LedgerError):
            read_all(noisy)


def read_all(path: Path) -> None:
    with Ledger(path) as opened:
        list(opened.query())
        opened.groups(("purpose",))


@pytest.mark.parametrize("version", [1, 2, 3, 20240101, -1])
def test_a_foreign_database_with_a_version_is_left_alone(tmp_path: Path, version: int) -> None:
    path = tmp_path / "diary.sqlite"
    for table in ("diary", *(("entries",) if version < 3 else ())):
        path.unlink(missing_ok=True)
        with sqlite3.connect(path) as other:
            other.execute(f"CREATE TABLE {table} (id TEXT, day TEXT)")
            other.execute(f"PRAGMA user_version = {version}")
        other.close()
        before = path.read_bytes()
        with pytest.raises(LedgerError, match="belongs to another program"):
            Ledger(path)
        assert path.read_bytes() == before


@pytest.mark.parametrize("folder", [True, False])
def test_a_ledger_that_may_only_be_read(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: bool
) -> None:
    """It reports; what would write says that it cannot, and nothing is left beside the file."""
    ledger.add([imported("a", price_per_hour=2.0)])
    ledger.close()
    wanted = {ledger.path, ledger.path.parent} if folder else {ledger.path}
    monkeypatch.setattr(os, "access", lambda path, _: Path(path) not in wanted)
    beside = set(ledger.path.parent.iterdir())
    with Ledger(ledger.path) as kept:
        assert kept.read_only and kept.close_stale() == 0
        assert kept.groups()[0].rows == 1 and len(list(kept.query())) == 1
        with pytest.raises(LedgerError, match="cannot be written: make file and folder writable"):
            kept.begin(span(tmp_path), energy_source="rapl")
    assert not folder or set(ledger.path.parent.iterdir()) == beside


def test_an_older_ledger_that_may_only_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "old.sqlite"
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in MIGRATIONS[0]:
        connection.execute(statement)
    connection.execute("PRAGMA user_version = 1")
    connection.close()
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(LedgerError, match="is older than this Benthic and cannot be written: copy"):
        Ledger(path)


def test_purposes_are_named_one_way() -> None:
    assert purpose_named("final") == "pretrain" and purpose_named(" RL ") == "rl"
    with pytest.raises(ValueError, match="'ablaton': did you mean ablation"):
        Budget(scope="purpose", key="ablaton", dollars=5.0)
