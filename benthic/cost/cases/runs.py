"""`benthic cost runs`: published runs, or a table of one's own, held against what can be true.

A row has the columns of `catalog/training_runs.csv`; `benthic.cost.catalog.checks` says what its
hours imply and why it cannot be. Databases in use hold rows with hours per trillion tokens, total
for active parameters, or days for hours: this finds them before a comparison rests on them.
"""

import csv
import json
from collections.abc import Sequence
from io import StringIO
from math import isfinite
from pathlib import Path
from typing import Any

from benthic.cost.catalog.checks import implied_mfu, impossible
from benthic.cost.catalog.figures import text_of
from benthic.cost.catalog.load import Catalog, CostError, load
from benthic.cost.page import Page, Points, Section, Table, print_page, share

_NEEDED = ("model", "active_params_b", "tokens_t", "gpu", "gpu_hours")


def show(path: Path | None, *, as_json: bool) -> int:
    """Print the rows and what speaks against them; the exit code. CostError for a broken file."""
    catalog = load()
    found = [_checked(row, catalog) for row in (read(path) if path else catalog.table("runs"))]
    if as_json:
        print(json.dumps(found, indent=1, allow_nan=False))
    else:
        print_page(_page(found, path))
    return 0


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a user's file; CostError for one that is none, or lacks a column."""
    reader = csv.DictReader(StringIO(text_of(path), newline=""), strict=True, restval="")
    try:
        rows = [{k: v for k, v in row.items() if k is not None} for row in reader]
    except csv.Error as error:
        raise CostError(
            f"{path}, line {reader.line_num} cannot be read as CSV ({error}): close every quote "
            "and save the file again"
        ) from None
    missing = [name for name in _NEEDED if name not in (reader.fieldnames or ())]
    if missing:
        raise CostError(
            f"{path} lacks the column {missing[0]}: a table of runs has {', '.join(_NEEDED)}, "
            "billions of parameters, trillions of tokens"
        )
    if not rows:
        raise CostError(f"{path} has no row below its header: give one run at least")
    return rows


def _checked(row: dict[str, str], catalog: Catalog) -> dict[str, Any]:
    """The row's texts, the utilisation that it implies, `doubts`, and `unread`: an unknown GPU, or
    a figure that is none."""
    try:
        mfu, doubts, unread = implied_mfu(row, catalog), impossible(row, catalog), ""
        if mfu is not None and not isfinite(mfu):
            mfu, doubts, unread = None, [], "its figures are too far apart to divide"
    except CostError as error:
        mfu, doubts, unread = None, [], str(error)
    return row | {"implied_mfu": mfu, "doubts": doubts, "unread": unread}


def _page(found: Sequence[dict[str, Any]], path: Path | None) -> Page:
    doubted = [row for row in found if row["doubts"]]
    where = "your file" if path else "the catalog"
    one = len(doubted) == 1
    verdict = f"{len(doubted)} of {len(found)} rows cannot be true as {'it' if one else 'they'} "
    verdict += "stands." if one else "stand."
    if not doubted:
        verdict = f"None of {len(found)} rows contradicts itself."
    unread = [(row["model"], row["unread"]) for row in found if row["unread"]]
    verdict += f" {len(unread)} could not be read." if unread else ""
    rows = [
        (
            row["model"],
            row.get("date") or "",
            row.get("gpu_exact") or row["gpu"],
            _hours(row["gpu_hours"]),
            share(row["implied_mfu"]) if row["implied_mfu"] is not None else "",
            _mark(row),
        )
        for row in found
    ]
    sections = [
        Section(
            title="Runs",
            blocks=[
                Table(
                    columns=("run", "of", "GPU", "GPU-hours", "MFU", ""),
                    rows=rows,
                    right=("GPU-hours", "MFU"),
                )
            ],
        )
    ]
    for title, items in (
        ("Why they cannot be", [(r["model"], d) for r in doubted for d in r["doubts"]]),
        ("What could not be read", unread),
        ("Said of them", [(r["model"], r["flag"]) for r in found if r.get("flag")]),
    ):
        if items:
            sections.append(Section(title=title, blocks=[Points(items=items)]))
    return Page(
        title="Published runs",
        verdict=verdict,
        about=f"Rows of {where}. MFU is 6 x active parameters x tokens over the hours of the "
        "16-bit peak: what a row implies, attention left out.",
        numbers=(),
        sections=sections,
    )


def _mark(row: dict[str, Any]) -> str:
    if row["doubts"] or row["unread"]:
        return "cannot be" if row["doubts"] else "not read"
    return "corrected" if (row.get("flag") or "").startswith("corrected") else ""


def _hours(text: str) -> str:
    try:
        return f"{float(text):,.6g}" if float(text) < 1e6 else f"{float(text):,.0f}"
    except ValueError:
        return text[:20]
