"""Rows, amendments and budgets as people see and set them."""

import io
import json
import time
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from benthic import cli_cost
from benthic.cost.bill.amending import amend
from benthic.cost.bill.bill import draw_up
from benthic.cost.bill.plans import keep
from benthic.cost.bill.report import card, page_of, to_dict
from benthic.cost.bill.report import show as report
from benthic.cost.bill.rows import budget, show_list, show_one, standing
from benthic.cost.bill.spread import weigh
from benthic.cost.bill.terms import load, price_range
from benthic.cost.catalog.load import CostError
from benthic.cost.ledger.entries import Entry, external_id
from benthic.cost.ledger.ledger import Ledger, LedgerError
from benthic.cost.page import render

HOSTILE = "evil\x1b[31m\u202e<b>"
START = 1_735_689_600.0


def row(key: str, **given: Any) -> Entry:
    started = given.pop("started", START)
    values = {
        "run": f"/runs/{key}",
        "attempt": "a",
        "stage": "train",
        "purpose": "ablation",
        "device": "H100-SXM",
        "price_per_hour": 2.0,
        "price_source": "--price",
        "external": key,
        "energy_source": "nvml",
        "seconds": 3600.0,
        "started": started,
        "heartbeat": started + 3600,
        "ended": started + 3600,
        "status": "done",
    }
    return Entry(**(values | given))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "ledger.sqlite"
    with Ledger(found) as ledger:
        ledger.add(
            row(str(i), project=f"p{i % 2}", started=START + i * 86400, user="ana")
            for i in range(5)
        )
        ledger.add([row("bad", project=HOSTILE, name=HOSTILE, command=HOSTILE, status="failed")])
    return found


def out(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out


def test_a_list_is_the_newest_first_and_says_when_there_is_more(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert show_list(ledger=path, limit=2) == 0
    told = out(capsys)
    lines = told.splitlines()
    assert external_id("4")[:8] in lines[1] and "25-01-05 00:00" in lines[1]
    assert external_id("3")[:8] in lines[2]
    assert "2 rows, $4.00" in told and "The newest 2" in told
    show_list(ledger=path)
    told = out(capsys)
    assert "The newest" not in told and "\x1b" not in told and "\u202e" not in told


def test_a_list_is_filtered(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show_list(ledger=path, project="p1", json=True)
    assert {found["project"] for found in json.loads(out(capsys))} == {"p1"}
    show_list(ledger=path, status="failed", json=True)
    (found,) = json.loads(out(capsys))
    assert found["status"] == "failed" and found["dollars"] == 2.0
    show_list(ledger=path, since="2025-01-04", until="2025-01-05", json=True)
    assert len(json.loads(out(capsys))) == 1
    show_list(ledger=path, purpose="final")
    assert "No such row" in out(capsys)
    for wrong in ({"limit": 0}, {"status": "lost"}, {"since": "soon"}):
        with pytest.raises(CostError):
            show_list(ledger=path, **wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="purpose is 'fun'"):
        show_list(ledger=path, purpose="fun")


def test_a_row_is_shown_by_the_start_of_its_id(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert show_one(external_id("bad")[:10], ledger=path) == 0
    told = out(capsys)
    assert "2025-01-01 00:00 to 2025-01-01 01:00, UTC" in told
    assert "$2 an hour and device: --price" in told
    assert "\x1b" not in told and "\u202e" not in told
    with pytest.raises(LedgerError, match="no row"):
        show_one("zz", ledger=path)
    with pytest.raises(LedgerError, match="several"):
        show_one("", ledger=path)


def test_a_row_inside_another_says_so(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Ledger(path) as ledger:
        ledger.add([row("inner", parent=external_id("0"), seconds=600.0, name="inner")])
    show_one(external_id("0"), ledger=path)
    assert "3,600.0, of which 3,000.0 count" in out(capsys)
    show_one(external_id("inner"), ledger=path)
    assert f"{external_id('0')[:8]} 0" in out(capsys)


def test_an_amendment_is_told_with_its_reason(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = external_id("1")
    assert amend(one[:12], ["price_per_hour=3", "project = x"], reason="typo", ledger=path) == 0
    told = out(capsys)
    assert "price_per_hour: 2.0 -> 3.0" in told and "counts $3.00, before $2.00" in told
    show_one(one, ledger=path)
    told = out(capsys)
    assert "amended: typo" in told and "project = x" in told and ": typo" in told
    show_list(ledger=path)
    assert "ablation*" in out(capsys)
    show_one(one, ledger=path, json=True)
    found = json.loads(out(capsys))
    assert found["price_per_hour"] == 3.0 and len(found["amendments"]) == 2


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_a_long_name_takes_no_column_from_the_money(
    columns: int, path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    with Ledger(path) as ledger:
        long = {"name": "n" * 85, "run": "/runs/" + "r" * 85, "status": "interrupted"}
        ledger.add([row("long", purpose="pretrain", **long), row("wide", name="\u6df1" * 85)])
    show_list(ledger=path)
    heading, *lines = out(capsys).splitlines()
    assert heading.split() == [*("id", "started,", "UTC", "name"), *heading.split()[4:]]
    assert heading.split()[4:] == ["purpose", "status", "hours", "dollars"]
    for key, end in (("long", "interrupted 1.0 $2.00"), ("wide", "done 1.0 $2.00")):
        (line,) = (line for line in lines if line.startswith(external_id(key)[:8]))
        assert " ".join(line.split()).endswith(end)
        assert ("\u2026" in line) == (key == "wide" or columns < 200)
    assert any("pretrain (final)" in line for line in lines)
    assert any(line.startswith("8 rows, $16.00") for line in lines)


def test_what_was_written_as_final_is_told_so(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    one = external_id("1")
    amend(one, ["purpose=final", "project="], reason="was the run", ledger=path)
    told = out(capsys)
    assert "purpose: ablation -> pretrain (final)" in told and "project: p1 -> (none)" in told
    show_one(one, ledger=path)
    assert "pretrain (final), stage train" in out(capsys)
    show_list(ledger=path, purpose="final")
    told = out(capsys)
    assert "pretrain (final)*" in told and "1 row, $2.00" in told
    budget("final", "500", ledger=path)
    assert "purpose pretrain (final)" in out(capsys)


def test_energy_of_amended_seconds_is_not_passed_off(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Ledger(path) as ledger:
        ledger.add([row("e", seconds=1.02, joules=40.0)])
    show_one(external_id("e"), ledger=path)
    assert "recorded, not" not in out(capsys)
    amend(external_id("e"), ["seconds=3600"], reason="clock", ledger=path)
    show_one(external_id("e"), ledger=path)
    assert "of the 1.0 s recorded, not of those amended" in " ".join(out(capsys).split())


@pytest.mark.parametrize(
    ("changes", "reason", "says"),
    [
        ([], "r", "nothing to amend"),
        (["project"], "r", "FIELD=VALUE"),
        (["project=x", "tokens=1"], "r", "cannot be amended"),
        (["project=x", "status=running"], "r", "status is 'running'"),
        (["project=x", "price_per_hour=-1"], "r", "price_per_hour"),
        (["project=x", "price_per_hour=2 EUR"], "r", "give a number"),
        (["project=x", "price_per_hour=nan"], "r", "finite"),
        (["project=x"], "  ", "reason"),
    ],
)
def test_of_wrong_amendments_none_is_made(
    changes: list[str], reason: str, says: str, path: Path
) -> None:
    with pytest.raises(ValueError, match=says):
        amend(external_id("1"), changes, reason=reason, ledger=path)
    with Ledger(path) as ledger:
        assert not ledger.amendments()


def test_filters_choose_the_rows_to_amend(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = ["purpose=final", "price_per_hour=3"]
    assert amend("", changes, reason="so", project="p1", status="done", ledger=path) == 0
    told = out(capsys)
    assert "2 rows: purpose pretrain (final), price_per_hour 3.0" in told
    assert "together they count $6.00,\nbefore $4.00" in told
    with Ledger(path) as ledger:
        rows = {row.id: (row.purpose, row.price_per_hour) for row in ledger.query(project="p1")}
        assert rows == dict.fromkeys(map(external_id, "13"), ("pretrain", 3.0))
        assert len(ledger.amendments()) == 4
    for prefix, given, says in (
        ("", {}, "no row is chosen"),
        ("1", {"project": "p1"}, "both an ID and filters"),
        ("", {"source": "import:sacct"}, "no row passes"),
    ):
        with pytest.raises(CostError, match=says):
            amend(prefix, changes, reason="so", ledger=path, **given)


def test_an_outcome_that_was_guessed_is_put_right(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    amend(external_id("bad"), ["status=done"], reason="it ended well", ledger=path)
    told = out(capsys)
    assert "status: failed -> done" in told and "seconds_productive: (none) -> 3600.0" in told
    with Ledger(path) as ledger:
        assert ledger.find(external_id("bad")).dollars_kept == 2.0


def test_budgets_are_set_listed_and_lifted(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    budget(ledger=path)
    assert "No budget" in out(capsys)
    budget("ablation", "$15", hard=True, ledger=path)
    told = out(capsys)
    assert "$15.00" in told and "$12.00" in told and "$3.00" in told and "refused" in told
    assert "nothing spent of late" in told
    budget("p1", "1", project=True, ledger=path)
    told = out(capsys)
    assert "project p1" in told and "used up" in told and "a warning" in told
    budget("ablation", "none", ledger=path, json=True)
    (found,) = json.loads(out(capsys))
    assert found["key"] == "p1" and found["spent"] == 4.0 and found["left"] == 0.0
    with pytest.raises(CostError, match="no amount"):
        budget("ablation", ledger=path)
    with pytest.raises(CostError, match="US dollars"):
        budget("ablation", "500 EUR", ledger=path)
    with pytest.raises(ValueError, match="purpose is 'p1'"):
        budget("p1", "5", ledger=path)


def test_a_forecast_is_of_the_last_thirty_days(path: Path) -> None:
    now = time.time()
    with Ledger(path) as ledger:
        ledger.add(
            row(f"new{i}", started=now - 10 * 86400 + i * 86400, project="q") for i in range(10)
        )
        ledger.add([row("old", started=now - 90 * 86400, project="q")])
        ledger.budget_set("project", "q", 62.0)
        (found,) = (s for s in (standing(ledger, b, now) for b in ledger.budgets()))
    assert found.spent == pytest.approx(22) and found.left == pytest.approx(40)
    assert found.a_day == pytest.approx(2.0) and found.days == pytest.approx(20)


@pytest.mark.parametrize("nothing", ["0", "$0", "0.00 USD"])
def test_a_budget_of_nothing_is_one(
    nothing: str, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    budget("rl", nothing, hard=True, ledger=path)
    assert "used up" in out(capsys)
    with Ledger(path) as ledger:
        (found,) = ledger.budgets()
    assert found.dollars == 0.0 and found.hard
    with pytest.raises(CostError, match=r"must be between 0\.01"):
        budget("rl", "0.001", ledger=path)


def test_a_plan_that_was_printed_is_held_against_the_bill(
    path: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cli_cost.plan("llama-3.1-8b", count="8", tokens="1B", json=True)
    text = out(capsys)
    file = tmp_path / "plan.json"
    file.write_text(text)
    assert keep("/runs/1", file, ledger=path) == 0
    told = out(capsys)
    assert told.startswith("/runs/1: planned ") and "no row of that run" not in told
    report(ledger=path, json=True)
    found = {held["quantity"]: held for held in json.loads(out(capsys))["plans"]}
    made = json.loads(text)
    for quantity, metered in (("gpu_hours", 1.0), ("dollars", 2.0)):
        assert found[quantity]["run"] == "/runs/1" and found[quantity]["metered"] == metered
        assert found[quantity]["planned"] == made[quantity]
    report(ledger=path)
    assert "Plan against metered" in out(capsys)
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    keep("/runs/none", Path("-"), ledger=path)
    assert "no row of that run yet" in out(capsys)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nothing", "is no JSON"),
        ("[{}, {}]", "has 2 plans"),
        ("3", "no gpu_hours"),
        ('{"gpu_hours": {"p10": 1, "p50": 2, "p90": 3}}', "no dollars"),
        ('{"gpu_hours": {"p10": 3, "p50": 2, "p90": 1}}', "in that order"),
        ('{"gpu_hours": {"p10": 1, "p50": 2, "p90": NaN}}', "is no JSON"),
        ('{"x": 1e999}', "is no JSON"),
        ('{"gpu_hours": {"p10": 1, "p50": 2, "p90": 1' + "0" * 400 + "}}", "no gpu_hours"),
        ('{"gpu_hours": {"p10": "1", "p50": 2, "p90": 3}}', "no gpu_hours"),
        ("[" * 100_000, "is no JSON"),
    ],
)
def test_what_is_no_plan_is_a_sentence(text: str, says: str, path: Path, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    file.write_text(text)
    with pytest.raises(CostError, match=says) as caught:
        keep("/runs/1", file, ledger=path)
    assert "\n" not in str(caught.value)
    with pytest.raises(CostError, match="cannot be read"):
        keep("/runs/1", tmp_path / "none.json", ledger=path)
    with Ledger(path) as ledger:
        assert not ledger.plans()


def test_a_card_does_not_tell_what_was_asked_for(path: Path) -> None:
    with Ledger(path) as ledger:
        for asked in ({"project": "secret-reef"}, {"user": "secret-ana"}, {"user": "ana"}):
            bill = draw_up(ledger, **asked)
            assert "secret" not in card(bill) and "ana" not in card(bill)
            assert asked == bill.filters


def test_a_rate_of_no_row_is_told(path: Path, tmp_path: Path) -> None:
    file = tmp_path / "terms.toml"
    rate = '= { value = 9, unit = "USD/GPU-hour" }\n'
    for rates, said in (
        (f"H100-SXM {rate}", []),
        (f"all {rate}", []),
        (f"H100-SXM {rate}H100-SMX {rate}", ["H100-SMX"]),
        (f"H100-SXM {rate}all {rate}", ["all"]),
    ):
        file.write_text(f"[rates]\n{rates}")
        with Ledger(path) as ledger:
            bill = draw_up(ledger, load(file))
            empty = draw_up(ledger, load(file), project="none")
        weigh(bill)
        assert to_dict(bill)["rates_unused"] == said
        page = render(page_of(bill))
        assert ("unused rate" in page) == bool(said)
        assert all(f"of {name!r}" in unescape(page) for name in said)
        assert to_dict(empty)["rates_unused"] == []


def test_people_s_words_are_no_range_of_a_price() -> None:
    for source in ("amended: list price (1 to 4)", "given by ana (1 to 4)", "--price, 1 to 4"):
        assert price_range(2.5, source) == (2.5, 2.5)
    assert price_range(2.5, "catalog: rent.h100-sxm (1 to 4), 2026") == (1.0, 4.0)
