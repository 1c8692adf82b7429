"""Rows and sums of rows as they count, read in SQL: amendments applied, nested work taken off.

What is inside a row, on the same kind of device, takes its hours off it; on another kind it is an
addition. Where what is inside would take more device-hours than the row had, as parallel work does
that holds the same devices, each counts in proportion, and so does what is inside it in turn: a
tree of rows never counts more device-hours than its root.

Nearly all rows are plain: closed, never amended, nothing inside. Their sums stream from a covering
index in its own order, without a sort. The others are few; they are looked up one by one, put
right, and added. Sums over a prefix of the index are then added up by what was asked.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
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

BY = (*KEYS, "count", "stage", "energy_source", "attempt")  # the last three: from the table, slower
_DEPTH = 64  # rows inside rows; imports may name parents in a ring
_EQUAL = ("project", "purpose", "user", "status", "source", "name")
_AMONG = {"ids": "id", "purposes": "purpose", "statuses": "status", "runs": "run"}
_AMENDED = f"""amended AS (SELECT e.rowid AS number, GROUP_CONCAT(field) AS fields,
    MAX(CASE field WHEN 'price_per_hour' THEN 'amended: ' || reason END) AS price_source,
    {", ".join(f"MAX(CASE field WHEN '{name}' THEN value END) AS {name}" for name in AMENDABLE)}
    FROM amendments AS m CROSS JOIN entries AS e ON e.id = m.entry
    WHERE m.id IN (SELECT MAX(id) FROM amendments GROUP BY entry, field) GROUP BY e.rowid)"""
_OUTER = "SELECT DISTINCT parent FROM entries WHERE parent IS NOT NULL"
_OUTER_OF = """WITH up (parent) AS (SELECT value FROM json_each(:ids) UNION
    SELECT e.parent FROM up CROSS JOIN entries AS e ON e.id = up.parent WHERE e.parent IS NOT NULL)
    SELECT parent FROM up"""
_JOINED = """LEFT JOIN amended AS a ON a.number = e.rowid
    LEFT JOIN inside AS i ON i.number = e.rowid LEFT JOIN beside AS b ON b.number = e.rowid"""
# A clock set back may end a row early: then it lasted, from its start, for its own seconds.
_LAST = "MAX(p.ended, p.started + p.seconds)"
_INSIDE = f"""part AS MATERIALIZED (SELECT p.rowid AS number, c.rowid AS child, c.joules,
    COALESCE(c.joules_low, c.joules) AS low, COALESCE(c.joules_high, c.joules) AS high,
    COALESCE(ca.seconds, c.seconds) AS whole, COALESCE(pa.seconds, p.seconds) AS room,
    MIN(COALESCE(ca.seconds, c.seconds), CASE
    WHEN p.ended IS NULL OR c.started < p.started OR c.started > {_LAST} THEN p.seconds
    WHEN c.heartbeat <= {_LAST} THEN COALESCE(ca.seconds, c.seconds)
    ELSE MIN(p.seconds, {_LAST} - c.started) END) AS seconds,
    CASE WHEN COALESCE(ca.device, c.device) = COALESCE(pa.device, p.device)
    THEN COALESCE(ca.count, c.count) * 1.0 / COALESCE(pa.count, p.count) ELSE 0.0 END AS share
    FROM ({{outer}}) AS o CROSS JOIN entries AS p ON p.id = o.parent
    LEFT JOIN amended AS pa ON pa.number = p.rowid
    CROSS JOIN entries AS c ON c.parent = o.parent
    LEFT JOIN amended AS ca ON ca.number = c.rowid),
    inside AS MATERIALIZED (SELECT number, MIN(room, SUM(seconds * share)) AS seconds,
    CASE WHEN SUM(seconds * share) > room THEN room / SUM(seconds * share) ELSE 1.0 END AS fit,
    TOTAL(joules * seconds / whole) AS joules, TOTAL(low * seconds / whole) AS joules_low,
    TOTAL(high * seconds / whole) AS joules_high FROM part GROUP BY number),
    scaled AS (SELECT c.child AS number, 1 - c.seconds / c.whole * (1 - i.fit) AS scale, 1 AS depth
    FROM inside AS i CROSS JOIN part AS c ON c.number = i.number
    WHERE i.fit < 1 AND c.share > 0 AND c.whole > 0
    UNION ALL SELECT c.child, 1 - c.seconds / c.whole * (1 - s.scale * i.fit), s.depth + 1
    FROM scaled AS s CROSS JOIN inside AS i ON i.number = s.number
    CROSS JOIN part AS c ON c.number = s.number
    WHERE c.share > 0 AND c.whole > 0 AND s.depth < {_DEPTH}),
    beside AS MATERIALIZED (SELECT number, MIN(scale) AS scale FROM scaled GROUP BY number)"""
_SPECIAL = f"""special AS (SELECT rowid AS number FROM entries WHERE ended IS NULL
    UNION SELECT number FROM amended UNION SELECT number FROM beside
    UNION SELECT e.rowid FROM ({_OUTER}) AS o CROSS JOIN entries AS e ON e.id = o.parent)"""
_NESTED = ("seconds", "joules", "joules_low", "joules_high")
_NOW = {
    name: f"COALESCE(a.{name}, e.{name})" if name in (*AMENDABLE, "price_source") else f"e.{name}"
    for name in (*COLUMNS, "month")
}
_PLAIN = {name: name for name in COLUMNS}
_UNSCALED = f"MAX(0.0, {_NOW['seconds']} - COALESCE(i.seconds, 0.0))"
_KEPT = """(CASE WHEN {status} = 'done'
    AND ({seconds_productive} IS NULL OR {seconds_productive} >= {recorded})
    THEN MAX(0.0, {seconds} - {nested})
    ELSE MAX(0.0, MIN(COALESCE({seconds_productive}, 0.0), {seconds}) - {nested}) END * {scale})"""
_NET = _NOW | {
    "kept": _KEPT.format(
        **{name: f"e.{name}" for name in ("status", "seconds_productive")},
        recorded="e.seconds",
        seconds=_NOW["seconds"],
        nested="COALESCE(i.seconds, 0.0)",
        scale="COALESCE(b.scale, 1.0)",
    ),
    "seconds": f"{_UNSCALED} * COALESCE(b.scale, 1.0)",
    "shared": f"{_UNSCALED} * (1 - COALESCE(b.scale, 1.0))",
    "joules": "MAX(0.0, e.joules - COALESCE(i.joules, 0.0))",
    "joules_low": "MAX(0.0, COALESCE(e.joules_low, e.joules) - COALESCE(i.joules_low, 0.0))",
    "joules_high": "MAX(0.0, COALESCE(e.joules_high, e.joules) - COALESCE(i.joules_high, 0.0))",
}
_PLAIN_KEPT = """(CASE WHEN status = 'done'
    AND (seconds_productive IS NULL OR seconds_productive >= seconds)
    THEN seconds ELSE MIN(COALESCE(seconds_productive, 0.0), seconds) END)"""
_SUMS = {  # by name in Group
    "rows": "COUNT(*)",
    "seconds": "SUM(seconds)",
    "seconds_kept": "SUM({kept})",
    "device_seconds": "SUM(seconds * count)",
    "device_seconds_shared": "SUM({shared} * count)",
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
    outer = _OUTER_OF if "ids" in values else _OUTER
    cursor = connection.execute(
        f"WITH RECURSIVE {_AMENDED}, {_INSIDE.format(outer=outer)} "
        f"SELECT {now}, e.seconds, {nested}, COALESCE(b.scale, 1.0), a.fields FROM entries AS e "
        f"{_JOINED} WHERE {where} "
        "ORDER BY e.started DESC, e.rowid DESC LIMIT :limit",
        values | {"limit": -1 if limit is None else limit},
    )
    names = (*COLUMNS, "seconds_recorded", *(f"{name}_nested" for name in _NESTED))
    names = (*names, "scale", "amended")
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
    group = f"GROUP BY {', '.join(inner)}" if inner else "HAVING COUNT(*)"
    halves, values = _halves(inner, _SUMS, group, filters)
    sums = [f"{_OVER.get(name, 'SUM')}({name})" for name in _SUMS]
    rows = connection.execute(
        f"{halves} SELECT {', '.join([*by, *sums])} FROM halves "
        + (f"GROUP BY {', '.join(by)} ORDER BY {', '.join(by)}" if by else "HAVING COUNT(*)"),
        values,
    )
    return [_group(by, row) for row in rows]


def select_largest(
    connection: sqlite3.Connection, count: int, rates: Mapping[str, float], filters: Filters
) -> tuple[list[Group], int]:
    """Rows, dollars, device-seconds and tokens of the `count` dearest runs, and how many there are.

    `rates` are US dollars an hour by device, instead of the price of the row.
    """
    cases = " ".join(f"WHEN :device{i} THEN :rate{i}" for i in range(len(rates)))
    price = f"CASE device {cases} ELSE price_per_hour END" if rates else "price_per_hour"
    each = {
        "rows": "1",
        "dollars": f"seconds * count * {price} / 3600",
        "device_seconds": "seconds * count",
        "tokens": "tokens",
    }
    names = list(each)
    halves, values = _halves(["run"], each, "", filters)
    for i, (device, rate) in enumerate(rates.items()):
        values |= {f"device{i}": device, f"rate{i}": rate}
    rows = connection.execute(
        f"{halves}, runs AS MATERIALIZED (SELECT run, "
        f"{', '.join(f'TOTAL({name}) AS {name}' for name in names)} FROM halves GROUP BY run) "
        f"SELECT run, {', '.join(names)}, (SELECT COUNT(*) FROM runs) FROM runs "
        "ORDER BY dollars DESC, device_seconds DESC, run LIMIT :most",
        values | {"most": count},
    ).fetchall()
    found = []
    for run, number, dollars, seconds, tokens, _ in rows:
        sums = {"rows": int(number), "dollars": dollars, "device_seconds": seconds}
        found.append(Group(key={"run": run}, tokens=int(tokens), **sums))
    return found, rows[0][-1] if rows else 0


def _halves(
    keys: Sequence[str], sums: Mapping[str, str], group: str, filters: Filters
) -> tuple[str, dict[str, Any]]:
    """The start of a statement in which `halves` are plain rows, and special ones put right.

    One statement, so both see the same moment.
    """
    where, values = _where(filters)
    few = any(name in values for name in ("run", "runs", "ids"))
    net = ", ".join(f"{value} AS {name}" for name, value in _NET.items())
    return (
        f"WITH RECURSIVE {_AMENDED}, {_INSIDE.format(outer=_OUTER)}, {_SPECIAL}, "
        f"halves AS (SELECT {_columns(keys, sums, _PLAIN_KEPT, '0.0')} "
        f"FROM entries {'' if few else 'INDEXED BY entries_closed'} WHERE ended IS NOT NULL "
        f"AND rowid NOT IN (SELECT number FROM special) AND {where} {group} "
        f"UNION ALL SELECT {_columns(keys, sums, 'kept', 'shared')} "
        f"FROM (SELECT {net} FROM special AS s CROSS JOIN entries AS e ON e.rowid = s.number "
        f"{_JOINED}) WHERE {where} {group})"
    ), values


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
        for child in inside.get(outer.id, []):
            part = _part(found[outer.id], child) / child.seconds if child.seconds else 0.0
            if child.device == outer.device:
                scale = 1 - part * (1 - found[outer.id].scale * _fit(outer, inside[outer.id]))
                found[child.id] = replace(found[child.id], scale=scale)
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
    nested = dict.fromkeys(_NESTED, 0.0)
    for child in inside:
        share = _part(outer, child) / child.seconds if child.seconds else 0.0
        nested["joules"] += child.joules * share
        for name in ("joules_low", "joules_high"):
            value = getattr(child, name)
            nested[name] += (child.joules if value is None else value) * share
    nested["seconds"] = min(outer.seconds, _taken(outer, inside))
    return read_as(Billed, values | {f"{name}_nested": nested[name] for name in _NESTED})


def _part(outer: Billed, child: Billed) -> float:
    """Seconds of `child` while `outer` lasted."""
    last = None if outer.ended is None else max(outer.ended, outer.started + outer.seconds_recorded)
    if last is None or not outer.started <= child.started <= last:
        return min(child.seconds, outer.seconds_recorded)
    if child.heartbeat <= last:
        return child.seconds
    return min(child.seconds, outer.seconds_recorded, last - child.started)


def _taken(outer: Billed, inside: list[Billed]) -> float:
    """Seconds of `outer` that what is inside would take, by its share of the devices."""
    same = (child for child in inside if child.device == outer.device)
    return sum(_part(outer, child) * child.count / outer.count for child in same)


def _fit(outer: Billed, inside: list[Billed]) -> float:
    taken = _taken(outer, inside)
    return outer.seconds / taken if taken > outer.seconds else 1.0


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


def _columns(keys: Sequence[str], sums: Mapping[str, str], kept: str, shared: str) -> str:
    named = (f"{value.format(kept=kept, shared=shared)} AS {name}" for name, value in sums.items())
    return ", ".join([*keys, *named])


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
    for name, column in _AMONG.items():
        if name in given:
            given[name] = json.dumps(list(given[name]))
            conditions.append(f"{columns[column]} IN (SELECT value FROM json_each(:{name}))")
    return " AND ".join(conditions), given
