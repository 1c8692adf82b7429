"""The ledger as a FOCUS 1.2 file, which tools for cloud costs read: `benthic cost focus OUT.csv`.

  ListCost        the headline: kept hours of final runs, PricingQuantity, times the price
  EffectiveCost   the full cost: all hours, ConsumedQuantity, at the owner's rate if there is one
  BilledCost      all hours at the ledger's price

so the sums of the first two columns are the two numbers of the report. A run is the resource, a
project the sub-account, a device the SKU; the purpose is in x_Purpose. A row that crosses months is
cut by the month, in UTC, in proportion to the clock. People and other costs are purchases. Tags are
all the provider's, with its prefix: benthic/attempt, benthic/source, benthic/stage, benthic/user.
Rows stream, so memory does not grow with the ledger; every row is held against `focus_rules`.
"""

import csv
import json
import os
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from benthic.cost.bill.bill import moment
from benthic.cost.bill.focus_rules import COLUMNS, PREFIX, validate
from benthic.cost.bill.headline import FINAL, LOST, counts, ended_attempts
from benthic.cost.bill.terms import Terms, load, people_cost, with_days
from benthic.cost.bill.words import dollars, row_word, run_label
from benthic.cost.catalog.cells import cell
from benthic.cost.catalog.load import CostError
from benthic.cost.ledger.entries import Billed
from benthic.cost.ledger.ledger import Ledger, ledger_path
from benthic.cost.page import say
from benthic.svg import visible

CUSTOM = ("x_EnergyKilowattHours", "x_Outcome", "x_Purpose", "x_User")
HEADER = (*(column.name for column in COLUMNS), *CUSTOM)
PROVIDER = "Benthic ledger"
LONGEST = 1_000  # characters of a text, more than any path
_GRAIN = Decimal("1e-12")  # of an hour


@dataclass
class Exported:
    """What was written."""

    rows: int = 0
    headline: Decimal = Decimal(0)
    full: Decimal = Decimal(0)
    faults: list[str] = field(default_factory=list)
    """against the specification's rules; empty unless there is a defect here"""


@dataclass(frozen=True, kw_only=True)
class House:
    """Who bills whom, as the file says it."""

    account: str
    site: str = ""


def show(
    target: Path,
    *,
    since: str | None = None,
    until: str | None = None,
    project: str | None = None,
    purpose: str | None = None,
    inputs: Path | None = None,
    site: str = "",
    ledger: Path | None = None,
) -> int:
    """Write a FOCUS file and say what it holds; returns the exit code, 1 where a rule is broken.

    `inputs` is a file of terms (see `terms`). Raises CostError, LedgerError, ValueError.
    """
    now, path = time.time(), ledger or ledger_path()
    terms = load(inputs)
    house = House(account=path.stem, site=site.strip())
    filters = {
        "since": moment(since, now),
        "until": moment(until, now),
        "project": project,
        "purpose": purpose,
    }
    with Ledger(path) as opened:
        opened.close_stale()
        done = write(opened, target, house, terms, **filters)
    shown = dollars(float(done.full))
    say(
        f"{target}: {done.rows:,} {row_word(done.rows)} of FOCUS 1.2; "
        f"list cost {shown(float(done.headline))}, effective cost {shown(float(done.full))}."
    )
    for fault in done.faults:
        say(f"Against the specification: {fault}")
    return 1 if done.faults else 0


def write(ledger: Ledger, target: Path, house: House, terms: Terms, **filters: Any) -> Exported:
    """Write the rows that pass `filters`, the whole file or none. Raises CostError, LedgerError."""
    partial = target.with_name(f".partial-{target.name}")
    done = Exported()
    try:
        try:
            with partial.open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, lineterminator="\r\n")
                writer.writerow(HEADER)
                written = _written(rows(ledger, house, terms, **filters), writer, done)
                done.faults = validate(written)
                deque(written, maxlen=0)  # the rest, where there were too many faults to tell
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        name, why = visible(str(target)), visible(error.strerror or str(error))
        raise CostError(f"{name} cannot be written ({why}); name a file in a folder.") from None
    return done


def rows(ledger: Ledger, house: House, terms: Terms, **filters: Any) -> Iterator[dict[str, Any]]:
    """Charges by column, values not yet cells; one for every month that a row of the ledger has."""
    whole = ledger.groups((), **filters)
    spanned = (whole[0].started, whole[0].ended) if whole else (time.time(),) * 2
    terms = with_days(terms, (spanned[1] - spanned[0]) / 86_400)
    cut = {**filters, "purposes": list(FINAL), "statuses": list(LOST)}
    runs = [group.key["run"] for group in ledger.groups(("run",), **cut)]
    ended = ended_attempts(ledger, runs) if runs else set()
    for row in ledger.query(**filters):
        yield from _charges(row, house, terms, counts(row, ended))
    yield from _purchases(house, terms, spanned)


def _written(
    found: Iterator[dict[str, Any]], writer: Any, done: Exported
) -> Iterator[dict[str, str]]:
    """Write charges as they pass, as cells that no sheet runs."""
    for charge in found:
        cells = {name: _cell(name, charge[name]) for name in HEADER}
        writer.writerow(cells.values())
        done.rows += 1
        done.headline += charge["ListCost"]
        done.full += charge["EffectiveCost"]
        yield cells


def _charges(row: Billed, house: House, terms: Terms, counted: bool) -> Iterator[dict[str, Any]]:
    """The charges of one row of the ledger; `counted`: in the headline."""
    price = _decimal(row.price_per_hour)
    key = terms.rate(row.device)
    each = price if key is None else _decimal(terms.inputs[key].value)
    used = _hours(row.seconds_billable, row.count)
    kept = _hours(row.seconds_kept, row.count) if counted else Decimal(0)
    unit = "GPU-Hours" if row.gpus else "Device-Hours"
    run = row.run.strip()
    name = row.name.strip() or run_label(row.run).strip()
    tags = {"attempt": row.attempt, "source": row.source, "stage": row.stage, "user": row.user}
    about = (
        f"{row.purpose}, {row.status}: {_bounded(name)}, {row.count} x {row.device} at "
        f"${row.price_per_hour:g} an hour ({row.price_source})"
    )
    fixed = _fixed(house) | {
        "ChargeCategory": "Usage",
        "ChargeDescription": about,
        "ChargeFrequency": "Usage-Based",
        "ConsumedUnit": unit,
        "ListUnitPrice": price,
        "PricingUnit": unit,
        "RegionId": house.site or None,
        "RegionName": house.site or None,
        "ResourceId": run or None,
        "ResourceName": name if run and name != run else None,
        "ResourceType": "Run" if run else None,
        "ServiceCategory": "AI and Machine Learning",
        "ServiceName": "Metered computing",
        "ServiceSubcategory": "Machine Learning",
        "SkuId": row.device.strip() or "unknown",
        "SkuMeter": "Time of devices",
        "SkuPriceId": f"{row.device.strip() or 'unknown'} at {price:f} USD an hour",
        "SubAccountId": row.project.strip() or None,
        "SubAccountName": row.project.strip() or None,
        "Tags": json.dumps({PREFIX + tag: _bounded(v) for tag, v in tags.items() if v}),
        "x_Outcome": row.status,
        "x_Purpose": row.purpose,
        "x_User": row.user.strip() or None,
    }
    energy = _decimal(row.joules_billable / 3.6e6)
    pieces = _months(row.started, row.heartbeat)
    shares = _cut((used, kept, energy), [weight for *_, weight in pieces])
    for (period, charge, _), parts in zip(pieces, shares, strict=True):
        used_part, kept_part, energy_part = parts
        yield (
            fixed
            | period
            | charge
            | {
                "BilledCost": used_part * price,
                "ConsumedQuantity": used_part,
                "ContractedCost": used_part * price,
                "EffectiveCost": used_part * each,
                "ListCost": kept_part * price,
                "PricingQuantity": kept_part,
                "x_EnergyKilowattHours": energy_part,
            }
        )


def _purchases(
    house: House, terms: Terms, spanned: tuple[float, float]
) -> Iterator[dict[str, Any]]:
    """People, cut by the month, and other costs, in the first; no part of the headline."""
    values = {key: entry.value for key, entry in terms.inputs.items()}
    bought = []
    for role in terms.roles:
        only = {k: v for k, v in terms.inputs.items() if k.startswith(f"people.{role}.")}
        amount = people_cost(Terms(inputs=only), values)
        pay = values[f"people.{role}.pay"]
        bought.append((role, "People", "Recurring", "Years", pay, amount, _months(*spanned)))
    for key in terms.costs:
        amount, first = values[key], _months(spanned[0], spanned[0])
        bought.append(
            (key.removeprefix("costs."), "Other costs", "One-Time", "Units", amount, amount, first)
        )
    for name, service, frequency, unit, price, amount, pieces in bought:
        fixed = _fixed(house) | {
            "ChargeCategory": "Purchase",
            "ChargeDescription": f"{service}: {name}, from {terms.file}",
            "ChargeFrequency": frequency,
            "ListCost": Decimal(0),
            "ListUnitPrice": _decimal(price),
            "PricingQuantity": Decimal(0),
            "PricingUnit": unit,
            "ServiceCategory": "Other",
            "ServiceName": service,
            "ServiceSubcategory": "Other (Other)",
            "SkuId": name.strip() or service,
            "SkuPriceId": f"{name.strip() or service} ({service})",
            "x_Purpose": service.lower(),
        }
        shares = _cut((_decimal(amount),), [weight for *_, weight in pieces])
        for (period, charge, _), (part,) in zip(pieces, shares, strict=True):
            paid = {"BilledCost": part, "ContractedCost": part, "EffectiveCost": part}
            yield fixed | period | charge | paid


def _fixed(house: House) -> dict[str, Any]:
    return dict.fromkeys(HEADER) | {
        "BillingAccountId": f"{PROVIDER}/{house.account}",
        "BillingAccountName": house.account,
        "BillingCurrency": "USD",
        "InvoiceIssuerName": PROVIDER,
        "PricingCategory": "Standard",
        "ProviderName": PROVIDER,
        "PublisherName": PROVIDER,
    }


Piece = tuple[dict[str, str], dict[str, str], float]


def _months(started: float, ended: float) -> list[Piece]:
    """Billing period, charge period and seconds for each month in UTC that a span touches.

    Periods are in whole seconds, at least one.
    """
    try:
        first = datetime.fromtimestamp(int(started // 1), UTC)
        last = datetime.fromtimestamp(max(int(-(-ended // 1)), int(started // 1) + 1), UTC)
    except (ValueError, OverflowError, OSError):
        raise CostError(
            f"a row starts at unix time {started:g}, which no calendar has: leave it out with "
            "--since and --until"
        ) from None
    pieces: list[Piece] = []
    month = first.replace(day=1, hour=0, minute=0, second=0)
    while month < last:
        after = month.replace(year=month.year + month.month // 12, month=month.month % 12 + 1)
        begin, end = max(first, month), min(last, after)
        pieces.append(
            (
                {"BillingPeriodStart": _stamp(month), "BillingPeriodEnd": _stamp(after)},
                {"ChargePeriodStart": _stamp(begin), "ChargePeriodEnd": _stamp(end)},
                (end - begin).total_seconds(),
            )
        )
        month = after
    return pieces


def _cut(amounts: tuple[Decimal, ...], weights: list[float]) -> list[tuple[Decimal, ...]]:
    """Amounts by weight, so that the parts of each add up to it, digit by digit."""
    total, done = sum(weights), 0.0
    before = tuple(Decimal(0) for _ in amounts)
    parts = []
    for place, weight in enumerate(weights, 1):
        done += weight
        share = Decimal(1) if place == len(weights) else Decimal(done / total)
        level = tuple((amount * share).quantize(_GRAIN) for amount in amounts)
        parts.append(tuple(now - then for now, then in zip(level, before, strict=True)))
        before = level
    return parts


def _stamp(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ").zfill(20)


def _hours(seconds: float, count: int) -> Decimal:
    return _decimal(seconds * count / 3600).quantize(_GRAIN)


def _decimal(value: float) -> Decimal:
    return Decimal(repr(float(value)))


def _cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Decimal):
        return _number(value)
    return _text(value if name == "Tags" else _bounded(value))  # a tag is bounded, not their JSON


def _bounded(text: str) -> str:
    """A text of at most LONGEST characters; of a longer one the end is a mark of all of it."""
    if len(text) <= LONGEST:
        return text
    mark = sha256(text.encode("utf-8", "replace")).hexdigest()[:16]
    return f"{text[: LONGEST - 20]}...{mark}"


def _number(value: Decimal) -> str:
    """A decimal with a point, for readers that would take a column of whole ones for integers."""
    text = format(value.normalize(), "f")
    return text if "." in text else f"{text}.0"


_text = lru_cache(maxsize=4096)(cell)  # most texts are those of the row before
