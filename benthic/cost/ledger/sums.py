"""Rows and sums of rows as they count, read in SQL: amendments applied, nested work taken off.

Nearly all rows are plain: closed, never amended, nothing inside. Their sums stream from a covering
index in its own order, without a sort. The others are few; they are looked up one by one, put
right, and added. Sums over a prefix of the index are then added up by what was asked.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benthic.cost.ledger.entries import (
    AMENDABLE,
    COLUMNS,
    KEYS,
    Amendment,
    Billed,
    Entry,
    Filters,
    Group,
    clean,
    purpose_named,
    read_as,
)

BY = (*KEYS, "count", "stage", "energy_source")  # the last two are read from the table: slower
_EQUAL = ("project", "purpose", "user", "status", "source", "name")
_AMENDED = f"""amended AS (SELECT e.rowid AS number, GROUP_CONCAT(field) AS fields,
    MAX(CASE field WHEN 'price_per_hour' THEN 'amended: ' || reason END) AS price_source,
    {", ".join(f"MAX(CASE field WHEN '{name}' THEN value END) AS {name}" for name in AMENDABLE)}
    FROM amendments AS m CROSS JOIN entries AS e ON e.id = m.entry
    WHERE m.id IN (SELECT MAX(id) FROM amendments GROUP BY entry, field) GROUP BY e.rowid)"""
_OUTER = "SELECT DISTINCT parent FROM entries WHERE parent IS NOT NULL"
# What is inside counts while the outer row lasted, by its share of the devices, at most all.
_INSIDE = """part AS (SELECT p.rowid AS number, c.joules, COALESCE(c.joules_low, c.joules) AS low,
    COALESCE(c.joules_high, c.joules) AS high, COALESCE(ca.seconds, c.seconds) AS whole,
    CASE WHEN p.ended IS NULL OR c.heartbeat <= p.ended THEN COALESCE(ca.seconds, c.seconds)
    ELSE MIN(COALESCE(ca.seconds, c.seconds), MAX(0.0, p.ended - c.started)) END AS seconds,
    MIN(1.0, COALESCE(ca.count, c.count) * 1.0 / COALESCE(pa.count, p.count)) AS share
    FROM ({outer}) AS o CROSS JOIN entries AS p ON p.id = o.parent
    LEFT JOIN amended AS pa ON pa.number = p.rowid
    CROSS JOIN entries AS c ON c.parent = o.parent
    LEFT JOIN amended AS ca ON ca.number = c.rowid),
    inside AS (SELECT number, SUM(seconds * share) AS seconds,
    TOTAL(joules * seconds / whole) AS joules, TOTAL(low * seconds / whole) AS joules_low,
    TOTAL(high * seconds / whole) AS joules_high FROM part GROUP BY number)"""
_SPECIAL = f"""special AS (SELECT rowid AS number FROM entries WHERE ended IS NULL
    UNION SELECT number FROM amended
    UNION SELECT e.rowid FROM ({_OUTER}) AS o CROSS JOIN entries AS e ON e.id = o.parent)"""
_NESTED = ("seconds", "joules", "joules_low", "joules_high")
_NOW = {
    name: f"COALESCE(a.{name}, e.{name})" if name in (*AMENDABLE, "price_source") else f"e.{name}"
    for name in (*COLUMNS, "month")
}
_PLAIN = {name: name for name in COLUMNS}
_NET = _NOW | {
    "recorded": "e.seconds",
    "seconds": "MAX(0.0, COALESCE(a.seconds, e.seconds) - COALESCE(i.seconds, 0.0))",
    "joules": "MAX(0.0, e.joules - COALESCE(i.joules, 0.0))",
    "joules_low": "MAX(0.0, COALESCE(e.joules_low, e.joules) - COALESCE(i.joules_low, 0.0))",
    "joules_high": "MAX(0.0, COALESCE(e.joules_high, e.joules) - COALESCE(i.joules_high, 0.0))",
}
_KEPT = """(CASE
    WHEN status = 'done' AND (seconds_productive IS NULL OR seconds_productive >= {recorded})
    THEN seconds ELSE MAX(0.0, MIN(COALESCE(seconds_productive, 0.0), seconds)) END)"""
_SUMS = {  # by name in Group
    "rows": "COUNT(*)",
    "seconds": "SUM(seconds)",
    "seconds_kept": "SUM({kept})",
    "device_seconds": "SUM(seconds * count)",
    "device_seconds_kept": "SUM({kept} * count)",
    "dollars": "SUM(seconds * count * price_per_hour) / 3600",
    "dollars_kept": "SUM({kept} * count * price_per_hour) / 3600",
    "tokens": "TOTAL(tokens)",
    "flops": "SUM(flops)",
    "joules": "SUM(joules)",
    "joules_low": "SUM(COALESCE(joules_low, joules))",
    "joules_high": "SUM(COALESCE(joules_high, joules))",
    "gpu_seconds": "TOTAL(CASE WHEN gpu_busy IS NULL THEN 0 ELSE gpus * seconds END)",
    "gpu_seconds_busy": "TOTAL(gpu_busy * gpus * seconds)",
    "started": "MIN(started)",
    "ended": "MAX(heartbeat)",
}
_OVER = {"started": "MIN", "ended": "MAX"}  # the others are sums of sums


def select_rows(
    connection: sqlite3.Connection, filters: Filters, limit: int | None = None
) -> Iterator[Billed]:
    """Rows that pass, the newest first, at most `limit`."""
    where, values = _where(filters, _NOW)
    now = ", ".join(_NOW[name] for name in COLUMNS)
    nested = ", ".join(f"COALESCE(i.{name}, 0.0)" for name in _NESTED)
    outer = "SELECT value AS parent FROM json_each(:ids)" if "ids" in values else _OUTER
    cursor = connection.execute(
        f"WITH {_AMENDED}, {_INSIDE.format(outer=outer)} "
        f"SELECT {now}, e.seconds, {nested}, a.fields FROM entries AS e "
        "LEFT JOIN amended AS a ON a.number = e.rowid "
        f"LEFT JOIN inside AS i ON i.number = e.rowid WHERE {where} "
        "ORDER BY e.started DESC, e.rowid DESC LIMIT :limit",
        values | {"limit": -1 if limit is None else limit},
    )
    names = (*COLUMNS, "seconds_recorded", *(f"{name}_nested" for name in _NESTED), "amended")
    for row in cursor:
        found = dict(zip(names, row))
        found["amended"] = tuple(sorted(found["amended"].split(","))) if found["amended"] else ()
        yield read_as(Billed, found)


def select_groups(
    connection: sqlite3.Connection, by: Sequence[str], filters: Filters
) -> list[Group]:
    """Sums by `by`, of BY, over rows that pass, in the order of their keys.

    ValueError names a key that is none.
    """
    check_keys(by)
    length = max((KEYS.index(name) for name in by if name in KEYS), default=-1) + 1
    inner = [*KEYS[:length], *(name for name in by if name not in KEYS)]
    where, values = _where(filters)
    few = "run" in values or "ids" in values
    group = f"GROUP BY {', '.join(inner)}" if inner else "HAVING COUNT(*)"
    net = ", ".join(f"{value} AS {name}" for name, value in _NET.items())
    outer = [f"{_OVER.get(name, 'SUM')}({name})" for name in _SUMS]
    rows = connection.execute(  # one statement, so both halves see the same moment
        f"WITH {_AMENDED}, {_INSIDE.format(outer=_OUTER)}, {_SPECIAL} "
        f"SELECT {', '.join([*by, *outer])} FROM (SELECT {_columns(inner, 'seconds')} "
        f"FROM entries {'' if few else 'INDEXED BY entries_closed'} WHERE ended IS NOT NULL "
        f"AND rowid NOT IN (SELECT number FROM special) AND {where} {group} "
        f"UNION ALL SELECT {_columns(inner, 'recorded')} "
        f"FROM (SELECT {net} FROM special AS s CROSS JOIN entries AS e ON e.rowid = s.number "
        "LEFT JOIN amended AS a ON a.number = e.rowid LEFT JOIN inside AS i ON i.number = e.rowid) "
        f"WHERE {where} {group}) "
        + (f"GROUP BY {', '.join(by)} ORDER BY {', '.join(by)}" if by else "HAVING COUNT(*)"),
        values,
    )
    return [_group(by, row) for row in rows]


def billed_reference(
    entry: Entry, inside: Iterable[Billed], amendments: Mapping[str, Amendment]
) -> Billed:
    """`entry` with its newest amendment by field, and the rows inside it; slow twin of the SQL."""
    values: dict[str, Any] = {name: getattr(entry, name) for name in COLUMNS}
    for name, amendment in amendments.items():
        values[name] = amendment.value
        if name == "price_per_hour":
            values["price_source"] = f"amended: {amendment.reason}"
    nested = dict.fromkeys(_NESTED, 0.0)
    for child in inside:
        part = child.seconds
        if entry.ended is not None and child.heartbeat > entry.ended:
            part = min(part, max(0.0, entry.ended - child.started))
        share = part / child.seconds if child.seconds else 0.0
        nested["seconds"] += part * min(1.0, child.count / values["count"])
        nested["joules"] += child.joules * share
        for name in ("joules_low", "joules_high"):
            value = getattr(child, name)
            nested[name] += (child.joules if value is None else value) * share
    values |= {f"{name}_nested": value for name, value in nested.items()}
    values |= {"seconds_recorded": entry.seconds, "amended": tuple(sorted(amendments))}
    return read_as(Billed, values)


def groups_reference(rows: Iterable[Billed], by: Sequence[str]) -> list[Group]:
    """The same sums in Python, row by row; slow twin of `select_groups`."""
    found: dict[tuple[Any, ...], list[Billed]] = {}
    for row in rows:
        found.setdefault(tuple(_key(row, name) for name in by), []).append(row)
    return [Group(key=dict(zip(by, key)), **_sums_reference(found[key])) for key in sorted(found)]


def check_keys(by: Sequence[str]) -> None:
    for name in by:
        if name not in BY:
            raise ValueError(f"rows cannot be grouped by '{name}': choose {', '.join(BY)}")


def _sums_reference(rows: list[Billed]) -> dict[str, Any]:
    known = [row for row in rows if row.gpu_busy is not None]
    return {
        "rows": len(rows),
        "seconds": sum(row.seconds_billable for row in rows),
        "seconds_kept": sum(row.seconds_kept for row in rows),
        "device_seconds": sum(row.seconds_billable * row.count for row in rows),
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


def _columns(inner: list[str], recorded: str) -> str:
    kept = _KEPT.format(recorded=recorded)
    sums = (f"{value.format(kept=kept)} AS {name}" for name, value in _SUMS.items())
    return ", ".join([*inner, *sums])


def _group(by: Sequence[str], row: tuple[Any, ...]) -> Group:
    sums = dict(zip(_SUMS, row[len(by) :]))
    return read_as(Group, {"key": dict(zip(by, row)), **sums, "tokens": int(sums["tokens"])})


def _where(filters: Filters, columns: Mapping[str, str] = _PLAIN) -> tuple[str, dict[str, Any]]:
    """Conditions and their values; `columns` tells how each is read."""
    given: dict[str, Any] = {name: value for name, value in filters.items() if value is not None}
    unknown = sorted(set(given) - set(Filters.__annotations__))
    if unknown:
        raise TypeError(f"no filter is called {', '.join(unknown)}")
    conditions = ["1"]
    if "since" in given:
        conditions.append(f"{columns['started']} >= :since")
    if "until" in given:
        conditions.append(f"{columns['started']} < :until")
    if "purpose" in given:
        given["purpose"] = purpose_named(given["purpose"])
    for name in _EQUAL:
        if name in given:
            given[name] = clean(given[name])
            conditions.append(f"{columns[name]} = :{name}")
    if "run" in given:
        given["path"] = clean(str(Path(given["run"]).resolve()))
        given["run"] = clean(given["run"])
        conditions.append(f"{columns['run']} IN (:run, :path)")
    if "ids" in given:
        given["ids"] = json.dumps(list(given["ids"]))
        conditions.append(f"{columns['id']} IN (SELECT value FROM json_each(:ids))")
    return " AND ".join(conditions), given
