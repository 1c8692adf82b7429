"""The receipt: what belongs to the final run, and sums that close to the last digit."""

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benthic.cost.bill.bill import Bill, draw_up
from benthic.cost.bill.receipt import Amount, Receipt, build_receipt, energy, receipt_table
from benthic.cost.ledger.entries import Billed, Entry, Status, external_id
from benthic.cost.ledger.ledger import Ledger, Span, Usage
from benthic.cost.ledger.purposes import PURPOSES, Purpose

ROW = Billed(
    run="/runs/laptop",
    attempt="second",
    stage="pretrain",
    purpose="pretrain",
    device="cpu",
    count=1,
    price_per_hour=3.6,
    price_source="a guess",
    id="0",
    energy_source="rapl",
    started=0.0,
    heartbeat=0.0,
    pid=1,
    host="here",
    seconds=100.0,
    seconds_recorded=100.0,
    seconds_productive=100.0,
    status="done",
)


def row(purpose: Purpose, status: Status, seconds: float, kept: float | None) -> Billed:
    return replace(
        ROW,
        stage=purpose,
        purpose=purpose,
        status=status,
        seconds=seconds,
        seconds_recorded=seconds,
        seconds_productive=kept,
    )


def seconds(receipt: Receipt) -> dict[str, Decimal]:
    return {label: amount.seconds for label, amount in receipt.bridge if amount != Amount()}


def text(receipt: Receipt) -> str:
    from rich.console import Console

    out = io.StringIO()
    Console(file=out, width=80).print(receipt_table(receipt))
    return out.getvalue()


def test_every_second_has_its_step() -> None:
    receipt = build_receipt(
        [
            replace(row("pretrain", "failed", 1000.0, 900.0), attempt="first"),
            row("data", "done", 7.0, 7.0),
            row("pretrain", "interrupted", 50.0, 30.0),
            row("pretrain", "done", 100.0, 100.0),
            row("rl", "failed", 40.0, None),
            row("rl", "running", 20.0, 5.0),
            row("evaluation", "done", 3.0, 3.0),
            row("evaluation", "interrupted", 2.0, 0.5),
        ],
        "second",
    )
    assert seconds(receipt) == {
        "final run": 30 + 100,
        "evaluation": 3.5,
        "data": 7,
        "still running": 20,
        "lost to interruptions": 20 + 40 + 1.5,
        "discarded attempts": 1000,
    }
    assert receipt.final == Amount(seconds=Decimal(130), dollars=Decimal("0.13"))
    assert receipt.everything.seconds == 1222
    assert receipt.everything.dollars == Decimal("1.222")


def test_a_run_that_has_not_ended_well_has_no_final_run_yet() -> None:
    """As in the report; what was saved counts once the same attempt ends well."""
    cut = row("rl", "interrupted", 50.0, 30.0)
    assert seconds(build_receipt([cut], "second")) == {"lost to interruptions": 50}
    done = build_receipt([cut, row("rl", "done", 10.0, None)], "second")
    assert seconds(done) == {"final run": 40, "lost to interruptions": 20}


def test_an_earlier_attempt_that_ended_well_is_not_discarded() -> None:
    first = [
        replace(found, attempt="first")
        for found in (row("pretrain", "done", 60.0, None), row("evaluation", "done", 6.0, None))
    ]
    receipt = build_receipt([*first, ROW], "second")
    assert seconds(receipt) == {"final run": 160, "evaluation": 6}
    assert {line.status for line in receipt.lines} == {"done"}


def ledger_of(
    rows: Sequence[dict[str, Any]],
    amendments: Sequence[tuple[int, str, Any]] = (),
    running: Sequence[float] = (),
) -> tuple[Receipt, Bill]:
    """The receipt of the run in a ledger of such rows, by the order they started, and its bill.

    A row of hours, kept and its outer row's number beside fields of its own; `running` holds the
    kept seconds of rows that are still open, after ten seconds.
    """
    fields = ("stage", "device", "count", "price_per_hour", "price_source")
    span = Span(
        run="/runs/laptop",
        attempt="second",
        purpose="rl",
        **{name: getattr(ROW, name) for name in fields},
    )
    with Ledger(Path(":memory:")) as ledger:
        ledger.add(_entry(number, **values) for number, values in enumerate(rows))
        for number, field, value in amendments:
            ledger.amend(external_id(str(number)), field, value, reason="it was wrong")
        for kept in running:
            usage = Usage(seconds=10.0, seconds_productive=kept)
            ledger.beat(ledger.begin(span, energy_source="rapl"), usage)
        found = list(ledger.query(run="/runs/laptop"))
        return build_receipt(found[::-1], "second"), draw_up(ledger, run="/runs/laptop")


def _entry(
    number: int, *, spent: float, kept: float | None = None, inside: int | None = None, **more: Any
) -> Entry:
    fields = {name: getattr(ROW, name) for name in Entry.__dataclass_fields__}
    times = {"heartbeat": spent, "ended": spent, "seconds": spent, "seconds_productive": kept}
    parent = None if inside is None or inside >= number else external_id(str(inside))
    return Entry(**fields | times | {"id": "", "external": str(number), "parent": parent} | more)


def test_receipt_and_report_agree_on_amended_nested_and_unfinished_rows() -> None:
    rows = [
        {"spent": 7200.0, "purpose": "pretrain", "count": 2},
        {"spent": 3600.0, "purpose": "evaluation", "inside": 0},
        {"spent": 1800.0, "purpose": "post-train", "status": "interrupted", "kept": 900.0},
    ]
    receipt, bill = ledger_of(rows, [(0, "price_per_hour", 1.0)], [4.0])
    assert bill.headline.dollars == pytest.approx((7200 - 1800) * 2 * 1.0 / 3600)
    assert float(receipt.final.dollars) == pytest.approx(bill.headline.dollars)
    assert float(receipt.everything.dollars) == pytest.approx(bill.full)
    assert receipt.prices[0] == "2 x cpu at $1/h: amended: it was wrong"


@settings(max_examples=60)
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "purpose": st.sampled_from(PURPOSES),
                "status": st.sampled_from(["done", "interrupted", "failed"]),
                "attempt": st.sampled_from(["first", "second"]),
                "run": st.sampled_from(["/runs/laptop", "/runs/shell"]),
                "device": st.sampled_from(["cpu", "gpu"]),
                "count": st.integers(1, 8),
                "price_per_hour": st.sampled_from([0.0, 0.5, 2.0]),
                "spent": st.integers(0, 10_000).map(float),
                "kept": st.none() | st.integers(0, 10_000).map(float),
                "inside": st.none() | st.integers(0, 3),
            }
        ),
        max_size=8,
    ),
    st.lists(
        st.sampled_from(
            [("purpose", "ablation"), ("count", 3), ("seconds", 50.0), ("price_per_hour", 7.0)]
        ),
        max_size=4,
    ),
    st.lists(st.sampled_from([0.0, 4.0]), max_size=2),
)
def test_receipt_and_report_agree_whatever_the_ledger_of_the_run_holds(
    rows: list[dict[str, Any]], changes: list[tuple[str, Any]], running: list[float]
) -> None:
    rows = [{"spent": 60.0}, *rows]
    amendments = [(number, *change) for number, change in enumerate(changes[: len(rows)])]
    receipt, bill = ledger_of(rows, amendments, running)
    near = len(rows) * 1e-8
    assert float(receipt.final.dollars) == pytest.approx(bill.headline.dollars, abs=near)
    assert float(receipt.everything.dollars) == pytest.approx(bill.full, abs=near)
    assert sum((amount for _, amount in receipt.bridge), Amount()) == receipt.everything


def test_the_order_of_the_bridge() -> None:
    labels = [label for label, _ in build_receipt([ROW], "second").bridge]
    assert labels[:3] == ["final run", "evaluation", "data"]
    assert labels[-2:] == ["lost to interruptions", "discarded attempts"]


def test_devices_and_price_make_dollars() -> None:
    found = replace(row("rl", "done", 1800.0, None), count=8, price_per_hour=2.0)
    receipt = build_receipt([found], "second")
    assert receipt.everything.dollars == 8
    assert receipt.prices == ("8 x cpu at $2/h: a guess",)


def test_lines_join_rows_that_ended_alike() -> None:
    rows = [
        replace(ROW, tokens=2, flops=3.0, joules=4.0),
        replace(ROW, tokens=5, flops=6.0, joules=7.0),
        replace(ROW, status="interrupted", energy_source="estimate: 9 W, test"),
        replace(ROW, attempt="first", status="interrupted"),
    ]
    lines = build_receipt(rows, "second").lines
    assert [line.status for line in lines] == ["done", "interrupted", "discarded"]
    assert (lines[0].tokens, lines[0].flops, lines[0].joules) == (7, 9.0, 11.0)
    assert lines[0].amount.seconds == 200


def test_rows_of_one_run_only() -> None:
    with pytest.raises(ValueError, match="of 0"):
        build_receipt([], "second")
    with pytest.raises(ValueError, match="of 2"):
        build_receipt([ROW, replace(ROW, run="/runs/other")], "second")


rows = st.lists(
    st.builds(
        lambda spent, share, **fields: replace(
            ROW,
            seconds=spent,
            seconds_recorded=spent,
            seconds_productive=None if share is None else spent * share,
            **fields,
        ),
        spent=st.floats(0, 1e6, allow_nan=False),
        share=st.none() | st.floats(0, 1),
        attempt=st.sampled_from(["first", "second"]),
        purpose=st.sampled_from(PURPOSES),
        status=st.sampled_from(["running", "done", "interrupted", "failed"]),
        price_per_hour=st.floats(0, 10),
        count=st.integers(1, 16),
    ),
    min_size=1,
    max_size=30,
)


@given(rows)
def test_sums_close_exactly(found: list[Billed]) -> None:
    receipt = build_receipt(found, "second")
    assert sum((amount for _, amount in receipt.bridge), Amount()) == receipt.everything
    assert sum((line.amount for line in receipt.lines), Amount()) == receipt.everything
    assert all(amount.seconds >= 0 and amount.dollars >= 0 for _, amount in receipt.bridge)
    true = sum(Fraction(r.seconds) * Fraction(r.price_per_hour) * r.count / 3600 for r in found)
    assert abs(Fraction(receipt.everything.dollars) - true) <= len(found) * Fraction(1, 10**8)


@given(rows)
def test_json_closes_too(found: list[Billed]) -> None:
    bill = json.loads(json.dumps(build_receipt(found, "second").to_dict()), parse_float=Decimal)
    for unit in ("seconds", "dollars"):
        assert sum(step[unit] for step in bill["bridge"]) == bill["everything"][unit]
        assert sum(line[unit] for line in bill["lines"]) == bill["everything"][unit]
    assert bill["bridge"][0]["dollars"] == bill["final"]["dollars"]


def test_the_table_at_80_columns() -> None:
    rows = [
        replace(
            row("pretrain", "done", 4.1, 4.1),
            tokens=131_072,
            flops=1.2e12,
            joules=4320.0,
            energy_source="estimate: 15 W, catalog",
        ),
        replace(row("rl", "interrupted", 9000.0, 8000.0), joules=1.5 * 3.6e6, flops=5.0e15),
        replace(
            row("pretrain", "failed", 3e6, None),
            attempt="first",
            count=512,
            tokens=10**12,
            flops=3e24,
        ),
    ]
    shown = text(build_receipt(rows, "second"))
    for expected in (
        "$0.0041",
        "1.2 TFLOP",
        "5.0 PFLOP",
        "3.0 YFLOP",
        "~1.2 Wh",
        "1.5 kWh",
        "131 k",
        "1.0 T",
        "4.1 s",
        "2:30:00",
        "833:20:00",
        "rl (interrupted)",
        "= everything",
        "~ estimate: 15 W, catalog",
        "512 x cpu at $3.6/h: a guess",
    ):
        assert expected in shown
    assert "..." not in shown and max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize(
    ("dollars", "shown"),
    [
        (0.0, "$0.00"),
        (0.000041, "$0.000041"),
        (0.0041, "$0.0041"),
        (0.41, "$0.41"),
        (4.1, "$4.10"),
        (5_576_000.0, "$5,576,000.00"),
    ],
)
def test_dollars_show_their_digits(dollars: float, shown: str) -> None:
    found = replace(row("rl", "done", 3600.0, None), price_per_hour=dollars)
    (line,) = [s for s in text(build_receipt([found], "second")).splitlines() if "everything" in s]
    assert line.split()[-1] == shown


def test_a_receipt_of_what_the_caller_asks() -> None:
    """The same rows, seen from the attempt that was given up."""
    cut = row("pretrain", "interrupted", 30.0, 10.0)
    second, first = (build_receipt([cut], attempt) for attempt in ("second", "first"))
    assert seconds(second) == {"lost to interruptions": 30}
    assert seconds(first) == {"discarded attempts": 30}
    assert first.everything == second.everything


@pytest.mark.parametrize("source", ["rapl", "nvml", "nvml+rapl"])
def test_what_counters_measured_bears_no_tilde(source: str) -> None:
    assert energy(3600.0, source) == "1.0 Wh"
    assert energy(3600.0, f"estimate: {source}").startswith("~")
