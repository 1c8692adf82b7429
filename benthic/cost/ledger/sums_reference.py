"""Rows of a ledger as they count, and their sums, one by one: slow twin of the SQL.

What `nesting` and `sums` say in SQL, said in Python over rows in memory: amendments applied, what
ran inside on the same devices taken off, work side by side cut to what there was. Tests hold the
two against each other over rows at random; no command reads this.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from benthic.cost.ledger.entries import COLUMNS, Amendment, Billed, Entry, Group, read_as
from benthic.cost.ledger.nesting import NESTED


def billed_reference(
    entries: Iterable[Entry], amendments: Iterable[Amendment]
) -> dict[str, Billed]:
    """All rows of a ledger as they count, by id, one by one; slow twin of the SQL.

    Rows are inside earlier ones of `entries`, so none is inside itself.
    """
    found: dict[str, Billed] = {}
    changes = list(amendments)
    inside: dict[str, list[Billed]] = {}
    for entry in reversed(list(entries)):
        newest = {change.field: change for change in changes if change.entry == entry.id}
        found[entry.id] = _billed(entry, inside.get(entry.id, []), newest)
        if entry.parent:
            inside.setdefault(entry.parent, []).append(found[entry.id])
    for outer in reversed(list(found.values())):
        children = inside.get(outer.id, [])
        room, fit = _room(outer, children), _fit(outer, children)
        for child in children:
            part = _part(found[outer.id], child) / child.seconds if child.seconds else 0.0
            if child.device == outer.device:
                fits = found[outer.id].scale * fit * room.get(child.id, 1.0)
                found[child.id] = replace(found[child.id], scale=1 - part * (1 - fits))
    return found


def _billed(entry: Entry, inside: list[Billed], amendments: Mapping[str, Amendment]) -> Billed:
    values: dict[str, Any] = {name: getattr(entry, name) for name in COLUMNS}
    for name, amendment in amendments.items():
        values[name] = amendment.value
        if name == "price_per_hour":
            values["price_source"] = f"amended: {amendment.reason}"
    changed = tuple(sorted(amendments))
    values |= {"seconds_recorded": entry.seconds, "scale": 1.0, "amended": changed}
    outer = read_as(Billed, values)
    nested = dict.fromkeys(NESTED, 0.0)
    for child in inside:
        share = _part(outer, child) / child.seconds if child.seconds else 0.0
        nested["joules"] += child.joules * share
        for name in ("joules_low", "joules_high"):
            value = getattr(child, name)
            nested[name] += (child.joules if value is None else value) * share
    nested["seconds"] = min(outer.seconds, _taken(outer, inside))
    return read_as(Billed, values | {f"{name}_nested": nested[name] for name in NESTED})


def _part(outer: Billed, child: Billed) -> float:
    """Seconds of `child` while `outer` lasted."""
    last = None if outer.ended is None else max(outer.ended, outer.started + outer.seconds_recorded)
    if last is None or not outer.started <= child.started <= last:
        return min(child.seconds, outer.seconds_recorded)
    if child.heartbeat <= last:
        return child.seconds
    return min(child.seconds, outer.seconds_recorded, last - child.started)


def _taken(outer: Billed, inside: list[Billed]) -> float:
    """Seconds of `outer` that what is inside takes, by its share of the devices."""
    room = _room(outer, inside)
    return sum(
        _part(outer, child) * child.count / outer.count * room.get(child.id, 1.0)
        for child in inside
        if child.device == outer.device
    )


def _room(outer: Billed, inside: list[Billed]) -> dict[str, float]:
    """The share of its claim that each has, by id: while all claim too much, each in proportion."""
    spans = [
        (child.started, child.started + _part(outer, child), child.count / outer.count, child.id)
        for child in inside
        if child.device == outer.device and _part(outer, child) > 0
    ]
    had = {name: 0.0 for *_, name in spans}
    whole = dict(had)
    moments = sorted({moment for began, stop, *_ in spans for moment in (began, stop)})
    for at, until in pairwise(moments):
        now = [span for span in spans if span[0] <= at and span[1] >= until]
        claimed = sum(share for *_, share, _ in now)
        for *_, name in now:
            had[name] += (until - at) / max(1.0, claimed)
            whole[name] += until - at
    return {name: had[name] / whole[name] for name in had if whole[name]}


def _fit(outer: Billed, inside: list[Billed]) -> float:
    taken = _taken(outer, inside)
    return outer.seconds / taken if taken > outer.seconds else 1.0


def groups_reference(rows: Iterable[Billed], by: Sequence[str]) -> list[Group]:
    """The same sums in Python, row by row; slow twin of `select_groups`."""
    found: dict[tuple[Any, ...], list[Billed]] = {}
    for row in rows:
        found.setdefault(tuple(_key(row, name) for name in by), []).append(row)
    return [Group(key=dict(zip(by, key)), **_sums_reference(found[key])) for key in sorted(found)]


def _sums_reference(rows: list[Billed]) -> dict[str, Any]:
    known = [row for row in rows if row.gpu_busy is not None]
    return {
        "rows": len(rows),
        "seconds": sum(row.seconds_billable for row in rows),
        "seconds_kept": sum(row.seconds_kept for row in rows),
        "device_seconds": sum(row.seconds_billable * row.count for row in rows),
        "device_seconds_shared": sum(row.seconds_shared * row.count for row in rows),
        "device_seconds_kept": sum(row.seconds_kept * row.count for row in rows),
        "dollars": sum(row.dollars for row in rows),
        "dollars_kept": sum(row.dollars_kept for row in rows),
        "tokens": sum(row.tokens for row in rows),
        "flops": sum(row.flops for row in rows),
        "joules": sum(row.joules_billable for row in rows),
        "joules_low": sum(row.joules_range[0] for row in rows),
        "joules_high": sum(row.joules_range[1] for row in rows),
        "gpu_seconds": sum(row.seconds_billable * row.gpus for row in known),
        "gpu_seconds_busy": sum(
            row.seconds_billable * row.gpus * (row.gpu_busy or 0.0) for row in known
        ),
        "started": min(row.started for row in rows),
        "ended": max(row.heartbeat for row in rows),
    }


def _key(row: Billed, name: str) -> Any:
    from datetime import UTC, datetime

    if name == "month":
        return datetime.fromtimestamp(row.started, UTC).strftime("%Y-%m")
    return getattr(row, name)
