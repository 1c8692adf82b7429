"""The bill: parts that add up whatever the rows, and words that fit what the ledger holds."""

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benthic.cost.bill import bill as room
from benthic.cost.bill.bill import draw_up, moment, rounded, totals_reference
from benthic.cost.bill.headline import ended_attempts
from benthic.cost.bill.page import story
from benthic.cost.bill.report import card, show, to_dict
from benthic.cost.bill.spread import weigh
from benthic.cost.bill.terms import load
from benthic.cost.bill.words import nearest
from benthic.cost.catalog.load import CostError
from benthic.cost.ledger.entries import Entry, external_id
from benthic.cost.ledger.ledger import Ledger
from benthic.cost.page import render

HOUR = 3600.0
START = 1_735_689_600.0  # 2025-01-01 in UTC
HOSTILE = "<script>alert(1)</script>\x1b[31m|`*_$\u202e=1+1"


def row(key: str, **given: Any) -> Entry:
    """A closed row: one hour of one device at 2 dollars, done."""
    hours = given.pop("hours", 1.0)
    started = given.pop("started", START)
    values = {
        "run": f"/runs/{key}",
        "attempt": "a",
        "stage": "train",
        "purpose": "pretrain",
        "device": "H100-SXM",
        "price_per_hour": 2.0,
        "price_source": "--price",
        "external": key,
        "energy_source": "nvml",
        "seconds": hours * HOUR,
        "started": started,
        "heartbeat": started + hours * HOUR,
        "ended": started + hours * HOUR,
        "status": "done",
    }
    return Entry(**(values | given))


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "ledger.sqlite") as opened:
        yield opened


def billed(ledger: Ledger, *rows: Entry, terms: Path | None = None, **filters: Any) -> room.Bill:
    ledger.add(rows)
    bill = draw_up(ledger, load(terms), **filters)
    weigh(bill)
    return bill


def terms_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "bill.toml"
    path.write_text(text, encoding="utf-8")
    return path


ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "purpose": st.sampled_from(["pretrain", "rl", "ablation", "idle", "serving", "chat"]),
            "status": st.sampled_from(["done", "failed", "interrupted"]),
            "hours": st.floats(0, 1e4),
            "count": st.integers(1, 100),
            "price_per_hour": st.floats(0, 1e3),
            "project": st.sampled_from(["", "reef", "=cmd"]),
            "user": st.sampled_from(["ana", "bo"]),
            "run": st.sampled_from(["/runs/1", "/runs/2", "/runs/3"]),
            "attempt": st.sampled_from(["first", "second"]),
            "device": st.sampled_from(["H100-SXM", "CPU"]),
            "kept": st.none() | st.floats(0, 1.2),
            "inside": st.booleans(),
            "amend": st.none() | st.sampled_from(["price_per_hour", "purpose", "count", "seconds"]),
        }
    ),
    max_size=8,
)
AMENDED = {"price_per_hour": 7.25, "purpose": "ablation", "count": 3, "seconds": 1234.5}


@given(ROWS)
@settings(max_examples=40)
def test_parts_add_up_to_the_cent_whatever_the_rows(found: list[dict[str, Any]]) -> None:
    with Ledger(Path(":memory:")) as ledger:
        entries = []
        for number, values in enumerate(found):
            kept, inside = values.pop("kept"), values.pop("inside")
            values.pop("amend")
            more = {} if kept is None else {"seconds_productive": kept * values["hours"] * HOUR}
            if inside and number:
                more["parent"] = external_id("0")
            entries.append(row(str(number), **values, **more))
        amend = [(i, v.get("amend")) for i, v in enumerate(found)]
        ledger.add(entries)
        for number, name in amend:
            if name:
                ledger.amend(external_id(str(number)), name, AMENDED[name], reason="wrong")
        bill = draw_up(ledger)
        weigh(bill)
        headline, metered = totals_reference(list(ledger.query()))
    assert bill.headline.dollars == pytest.approx(headline, rel=1e-9, abs=1e-9)
    assert bill.full == pytest.approx(metered, rel=1e-9, abs=1e-9)
    shown = to_dict(bill)
    parts = sum(step["dollars"] for step in shown["waterfall"])
    assert parts == pytest.approx(shown["full"], rel=1e-9, abs=1e-9)
    assert shown["full"] == bill.full
    cents = list(bill.shown(2).values())
    assert sum(cents) == pytest.approx(float(nearest(bill.full, 2)), rel=1e-9, abs=1e-6)
    assert not cents or cents[0] == float(nearest(bill.headline.dollars, 2))
    for name in ("projects", "users", "purposes"):
        total = sum(part["dollars"] for part in shown[name])
        assert total == pytest.approx(metered, rel=1e-9, abs=1e-9)
    hours = bill.headline.hours + sum(amount.hours for amount in bill.steps.values())
    assert hours == pytest.approx(bill.metered.hours, rel=1e-9, abs=1e-9)
    if bill.factors:
        product = bill.factors[0] * bill.factors[1] * bill.factors[2]
        assert product == pytest.approx(bill.full / bill.headline.dollars, rel=1e-9)
    assert shown["ratio"] is None or math.isfinite(shown["ratio"])
    assert bill.factors or bill.headline.dollars < max(1e-9, 1e-9 * bill.full)
    render(story(bill, drawn=True))
    card(bill)


@given(st.lists(st.floats(-1e6, 1e6), max_size=20), st.integers(0, 4))
def test_rounded_amounts_add_up(amounts: list[float], places: int) -> None:
    shown = rounded(amounts, places)
    assert sum(shown) == pytest.approx(float(nearest(math.fsum(amounts), places)), abs=1e-7)
    assert shown[:1] == [float(nearest(amount, places)) for amount in amounts[:1]]
    assert all(abs(a - b) <= 1.01 * 10**-places for a, b in zip(shown, amounts, strict=True))
    assert round(sum(shown) * 10**places, 3) % 1 == 0


def test_what_counts_as_headline(ledger: Ledger) -> None:
    bill = billed(
        ledger,
        row("a", run="/r/1", status="interrupted", seconds_productive=HOUR / 2),
        row("b", run="/r/1", hours=3),
        row("c", run="/r/2", status="interrupted", seconds_productive=HOUR / 2),  # never ended
        row("d", run="/r/3", purpose="rl", status="failed", hours=5),
        row("e", run="/r/4", purpose="ablation"),
        row("f", run="/r/5", purpose="context", seconds_productive=HOUR / 4),  # not all kept
    )
    assert bill.headline.hours == pytest.approx(0.5 + 3 + 0.25)
    assert bill.steps["failed"].hours == pytest.approx(0.5 + 1 + 5)
    assert bill.steps["failed"].rows == 3
    assert bill.steps["lost"].hours == pytest.approx(0.75)
    assert bill.steps["ablation"].hours == pytest.approx(1)
    assert bill.full == pytest.approx(2 * 12)


def test_an_attempt_that_was_thrown_away_is_no_headline(ledger: Ledger) -> None:
    """Cut off after 100 hours, of which 90 were saved, and begun anew: ten hours are the run."""
    cut = {"status": "interrupted", "seconds_productive": 90 * HOUR, "hours": 100}
    bill = billed(
        ledger,
        row("old", run="/r/x", attempt="first", **cut),
        row("new", run="/r/x", attempt="second", hours=10),
        row("same", run="/r/y", attempt="first", **cut),
        row("later", run="/r/y", attempt="first", hours=10),
    )
    assert bill.headline.hours == pytest.approx(10 + 90 + 10)
    assert bill.steps["failed"].hours == pytest.approx(100 + 10)
    ended = {("pretrain", "/r/x", "second"), ("pretrain", "/r/y", "first")}
    assert ended_attempts(ledger) == ended
    assert ended_attempts(ledger, ["/r/x"]) == {("pretrain", "/r/x", "second")}


def test_the_largest_runs_by_the_owners_rate(ledger: Ledger, tmp_path: Path) -> None:
    rows = [row(str(i), hours=1 + i, tokens=5, joules=1.0) for i in range(12)]
    rows += [row("more", run="/runs/11", hours=2, purpose="chat", tokens=7)]
    rows += [row("cpu", device="CPU", hours=20, price_per_hour=0.5)]
    bill = billed(ledger, *rows)
    assert [run.run for run in bill.runs] == [f"/runs/{i}" for i in range(11, 4, -1)] + [
        "/runs/cpu",
        "/runs/4",
        "/runs/3",
    ]
    first = bill.runs[0]
    assert (first.amount.dollars, first.amount.hours, first.amount.rows) == (28, 14, 2)
    assert first.tokens == 12 and bill.run_count == 13
    rates = terms_file(tmp_path, "[rates]\nCPU = { value = 9, unit = 'USD/GPU-hour' }")
    dearest = draw_up(ledger, load(rates)).runs[0]
    assert (dearest.run, dearest.amount.dollars) == ("/runs/cpu", 180)
    assert draw_up(ledger, purpose="chat").run_count == 1


def test_work_side_by_side_is_told_of(ledger: Ledger) -> None:
    """One GPU for ten hours at two dollars is 20 dollars, however many jobs ran on it at once."""
    shell = row("shell", purpose="idle", hours=10)
    jobs = [
        row(key, purpose="ablation", hours=10, parent=external_id("shell")) for key in ("a", "b")
    ]
    bill = billed(ledger, shell, jobs[0])
    assert bill.full == 20 and "side by side" not in render(story(bill))
    bill = billed(ledger, jobs[1])
    assert bill.full == 20 and bill.shared_hours == 10
    assert "10 device-hours more than the row had" in render(story(bill))


def test_a_run_that_ended_outside_the_span_keeps_its_headline(ledger: Ledger) -> None:
    later = START + 40 * 86400
    rows = (
        row("a", run="/r/1", status="interrupted", seconds_productive=HOUR / 2, project="p"),
        row("b", run="/r/1", hours=3, started=later, project="q"),
    )
    whole = billed(ledger, *rows).headline.dollars
    parts = [
        draw_up(ledger, until=later).headline.dollars,
        draw_up(ledger, since=later).headline.dollars,
    ]
    assert sum(parts) == pytest.approx(whole) == pytest.approx(7.0)
    assert draw_up(ledger, project="p").headline.dollars == pytest.approx(1.0)


def test_idle_is_what_a_reservation_had_left_however_it_ended(ledger: Ledger) -> None:
    bill = billed(
        ledger,
        row("shell", purpose="idle", hours=10, count=8, status="failed"),
        row("job", purpose="rl", hours=6, count=8, parent=external_id("shell")),
    )
    assert bill.steps["idle"].hours == pytest.approx(4 * 8)
    assert bill.steps["failed"].hours == 0
    assert bill.full == pytest.approx(10 * 8 * 2)
    assert "32 device-hours" in render(story(bill, drawn=True))


def test_what_is_always_ended_by_a_signal_is_no_failure(ledger: Ledger) -> None:
    bill = billed(
        ledger,
        row("server", purpose="serving", hours=5, status="interrupted"),
        row("crash", purpose="serving", hours=1, status="failed"),
        row("talk", purpose="chat", hours=2, status="interrupted"),
        row("sweep", purpose="ablation", hours=3, status="interrupted"),
    )
    hours = {name: bill.steps[name].hours for name in ("serving", "chat", "ablation", "failed")}
    assert hours == pytest.approx({"serving": 5, "chat": 2, "ablation": 0, "failed": 4})


def test_held_and_not_busy_is_told_of_work_alone(ledger: Ledger) -> None:
    bill = billed(
        ledger,
        row("job", hours=4, gpus=1.0, gpu_busy=0.75),
        row("shell", purpose="idle", hours=10, gpus=1.0, gpu_busy=0.0),
        row("blind", hours=7, gpus=1.0),
    )
    assert (bill.gpu_hours, bill.gpu_hours_busy) == (pytest.approx(4), pytest.approx(3))
    told = render(story(bill))
    assert "25% of the 4.0 GPU-hours" in told and "about $2.00" in told


def test_two_projects_apart_and_together(ledger: Ledger) -> None:
    rows = [row("a", project="reef"), row("b", project="sonar", hours=2, purpose="data")]
    both = billed(ledger, *rows)
    assert both.full == sum(draw_up(ledger, project=p).full for p in ("reef", "sonar"))
    one = draw_up(ledger, project="sonar")
    assert one.headline.dollars == 0 and one.full == 4
    assert story(one).title == "The bill of sonar" and story(one).span.startswith("2025-01-01 to")
    assert "no final run has ended well" in story(one).verdict
    assert draw_up(ledger, project="none").rows == 0


def test_running_rows_count_to_their_last_heartbeat(ledger: Ledger) -> None:
    from benthic.cost.ledger.ledger import Span, Usage

    span = Span(
        run="/r/1",
        attempt="a",
        stage="train",
        purpose="pretrain",
        device="cpu",
        price_per_hour=3600.0,
        price_source="--price",
    )
    entry = ledger.begin(span, energy_source="rapl")
    ledger.beat(entry, Usage(seconds=5.0, seconds_productive=2.0))
    bill = billed(ledger)
    assert bill.open_rows == 1 and bill.headline.dollars == 0
    assert bill.steps["running"].dollars == pytest.approx(5.0)
    page = story(bill)
    assert "1 still runs" in page.about
    assert "final runs, still running" in render(page)


def test_a_plan_is_held_against_what_was_metered(ledger: Ledger) -> None:
    def p(low: float, mid: float, high: float) -> dict[str, float]:
        return {"p10": low, "p50": mid, "p90": high}

    ledger.plan_set("/runs/a", {"gpu_hours": p(5, 6, 7), "dollars": p(30, 40, 50)})
    ledger.plan_set("/runs/b", {"gpu_hours": "many", "dollars": None})
    ledger.plan_set("/runs/other", {"gpu_hours": p(1, 2, 3)})
    bill = billed(
        ledger,
        row("a", hours=6),
        row("a2", run="/runs/a", hours=4, status="failed"),
        row("a3", run="/runs/a", hours=100, purpose="chat"),
        row("b"),
    )
    found = {held.quantity: (held.metered, held.verdict) for held in bill.plans}
    assert found == {
        "gpu_hours": (pytest.approx(10), "above the plan"),
        "dollars": (pytest.approx(20), "below the plan"),
    }
    assert "Plan against metered" in render(story(bill))


@pytest.mark.parametrize(
    ("text", "unix"),
    [
        ("2025-01-01", START),
        ("2025-01", START),
        ("2025-01-01T02:00+02:00", START),
        ("2024-12-31T19:00:00-05:00", START),
        ("2025-01-01 00:00Z", START),
        ("30d", START - 30 * 86400),
        ("12 h", START - 12 * HOUR),
        (None, None),
    ],
)
@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "America/New_York"])
def test_times_do_not_hang_on_the_machines_zone(
    text: str | None, unix: float | None, zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert moment(text, START) == unix
    finally:
        monkeypatch.delenv("TZ")
        time.tzset()


@pytest.mark.parametrize("text", ["yesterday", "2025-13", "03/04/2025", "5", "9999999d", "\x1b"])
def test_a_wrong_time_is_a_sentence(text: str) -> None:
    with pytest.raises(CostError, match="the time is"):
        moment(text, START)


def test_a_span_that_ends_before_it_starts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CostError, match="not before"):
        show(ledger=tmp_path / "l.sqlite", since="2025-02", until="2025-01")


def test_months_add_up_to_the_whole(ledger: Ledger) -> None:
    rows = [row(str(i), started=START + 86400 * 9.7 * i, hours=i + 1) for i in range(12)]
    whole = billed(ledger, *rows).full
    edges = [None, "2025-02", "2025-03", "2025-04", None]
    parts = [
        draw_up(ledger, since=moment(a, START), until=moment(b, START)).full
        for a, b in itertools.pairwise(edges)
    ]
    assert sum(parts) == pytest.approx(whole)
