"""The receipt: what belongs to the final run, and sums that close to the last digit."""

import io
import json
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benthic.cost.bill.receipt import Amount, Receipt, build_receipt, receipt_table
from benthic.cost.ledger.ledger import PURPOSES, Entry, Purpose, Status

ROW = Entry(
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
    seconds_productive=100.0,
    status="done",
)


def entry(purpose: Purpose, status: Status, seconds: float, kept: float | None) -> Entry:
    return replace(
        ROW,
        stage=purpose,
        purpose=purpose,
        status=status,
        seconds=seconds,
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
            replace(
                ROW, attempt="first", status="failed", seconds=1000.0, seconds_productive=900.0
            ),
            entry("data", "done", 7.0, 7.0),
            entry("pretrain", "interrupted", 50.0, 30.0),
            entry("pretrain", "done", 100.0, 100.0),
            entry("rl", "failed", 40.0, None),
            entry("rl", "running", 20.0, 5.0),
            entry("evaluation", "done", 3.0, 3.0),
            entry("evaluation", "interrupted", 2.0, 0.0),
        ],
        "second",
    )
    assert seconds(receipt) == {
        "final run": 30 + 100 + 5,
        "evaluation": 3,
        "data": 7,
        "running, not saved yet": 15,
        "lost to interruptions": 20 + 40 + 2,
        "discarded attempts": 1000,
    }
    assert receipt.final == Amount(seconds=Decimal(135), dollars=Decimal("0.135"))
    assert receipt.everything.seconds == 1222
    assert receipt.everything.dollars == Decimal("1.222")


def test_the_order_of_the_bridge() -> None:
    labels = [label for label, _ in build_receipt([ROW], "second").bridge]
    assert labels[:3] == ["final run", "evaluation", "data"]
    assert labels[-2:] == ["lost to interruptions", "discarded attempts"]


def test_devices_and_price_make_dollars() -> None:
    receipt = build_receipt([replace(ROW, count=8, price_per_hour=2.0, seconds=1800.0)], "second")
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
def test_sums_close_exactly(entries: list[Entry]) -> None:
    receipt = build_receipt(entries, "second")
    assert sum((amount for _, amount in receipt.bridge), Amount()) == receipt.everything
    assert sum((line.amount for line in receipt.lines), Amount()) == receipt.everything
    assert all(amount.seconds >= 0 and amount.dollars >= 0 for _, amount in receipt.bridge)
    true = sum(Fraction(e.seconds) * Fraction(e.price_per_hour) * e.count / 3600 for e in entries)
    assert abs(Fraction(receipt.everything.dollars) - true) <= len(entries) * Fraction(1, 10**8)
    kept = sum(
        Fraction(e.seconds_productive or 0)
        for e in entries
        if e.attempt == "second" and e.purpose in ("pretrain", "rl")
    )
    assert abs(Fraction(receipt.final.seconds) - kept) <= len(entries) * Fraction(1, 10**6)


@given(rows)
def test_json_closes_too(entries: list[Entry]) -> None:
    bill = json.loads(json.dumps(build_receipt(entries, "second").to_dict()), parse_float=Decimal)
    for unit in ("seconds", "dollars"):
        assert sum(step[unit] for step in bill["bridge"]) == bill["everything"][unit]
        assert sum(line[unit] for line in bill["lines"]) == bill["everything"][unit]
    assert bill["bridge"][0]["dollars"] == bill["final"]["dollars"]


def test_the_table_at_80_columns() -> None:
    rows = [
        replace(
            ROW,
            seconds=4.1,
            seconds_productive=4.1,
            tokens=131_072,
            flops=1.2e12,
            joules=4320.0,
            energy_source="estimate: 15 W, catalog",
        ),
        replace(entry("rl", "interrupted", 9000.0, 8000.0), joules=1.5 * 3.6e6, flops=5.0e15),
        replace(ROW, attempt="first", seconds=3e6, count=512, tokens=10**12, flops=3e24),
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
    row = replace(ROW, seconds=3600.0, seconds_productive=3600.0, price_per_hour=dollars)
    (line,) = [s for s in text(build_receipt([row], "second")).splitlines() if "everything" in s]
    assert line.split()[-1] == shown


def test_a_receipt_of_what_the_caller_asks() -> None:
    """The same rows, seen from the attempt that was given up."""
    second, first = (build_receipt([ROW], attempt) for attempt in ("second", "first"))
    assert second.final.seconds == 100
    assert first.final.seconds == 0
    assert first.everything == second.everything
