"""Rows and sums of rows as they count, read in SQL; see `nesting` for what a row counts as.

Nearly all rows are plain: closed, never amended, nothing inside. Their sums stream from a covering
index in its own order, without a sort. The others are few; they are looked up one by one, put
right, and added. Sums over a prefix of the index are then added up by what was asked.
"""

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from benthic.cost.ledger.entries import (
    COLUMNS,
    KEYS,
    Billed,
    Filters,
    Group,
    clean,
    read_as,
)
from benthic.cost.ledger.nesting import (
    AMENDED,
    INSIDE,
    JOINED,
    NESTED,
    NET,
    NOW,
    OUTER,
    OUTER_OF,
    PLAIN_KEPT,
    SPECIAL,
)
from benthic.cost.ledger.purposes import purpose_named

BY = (*KEYS, "count", "stage", "energy_source")  # the last two: from the table, slower
_PLAIN = {name: name for name in COLUMNS}
_EQUAL = ("project", "purpose", "user", "status", "source", "name")
_AMONG = {"ids": "id", "purposes": "purpose", "statuses": "status", "runs": "run"}
_SUMS = {  # by name in Group
    "rows": "COUNT(*)",
    "seconds": "SUM(seconds)",
    "seconds_kept": "SUM({kept})",
    "device_seconds": "SUM(seconds * count)",
    "device_seconds_shared": "{shared}",
    "device_seconds_kept": "SUM({kept} * count)",
    "dollars": "SUM(seconds * count) * price_per_hour / 3600",
    "dollars_kept": "SUM({kept} * count) * price_per_hour / 3600",
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
_RUN = KEYS[: KEYS.index("run") + 1]
_FROM_RUNS = "WITH halves AS (SELECT * FROM temp.by_run)"
_ALL_RUNS = "SELECT COUNT(*) FROM (SELECT DISTINCT run FROM entries)"  # an index knows
_FEWER = 8  # rows a run, from which on sums by run are worth a table
_OVER = {"started": "MIN", "ended": "MAX"}  # the others are sums of sums


def select_rows(
    connection: sqlite3.Connection, filters: Filters, limit: int | None = None
) -> Iterator[Billed]:
    """Rows that pass, the newest first, at most `limit`."""
    where, values = _where(filters, NOW)
    now = ", ".join(NOW[name] for name in COLUMNS)
    nested = ", ".join(f"COALESCE(i.{name}, 0.0)" for name in NESTED)
    outer = OUTER_OF if "ids" in values else OUTER
    cursor = connection.execute(
        f"WITH RECURSIVE {AMENDED}, {INSIDE.format(outer=outer)} "
        f"SELECT {now}, e.seconds, {nested}, COALESCE(b.scale, 1.0), a.fields FROM entries AS e "
        f"{JOINED} WHERE {where} "
        "ORDER BY e.started DESC, e.rowid DESC LIMIT :limit",
        values | {"limit": -1 if limit is None else limit},
    )
    names = (*COLUMNS, "seconds_recorded", *(f"{name}_nested" for name in NESTED))
    names = (*names, "scale", "amended")
    for row in cursor:
        found = dict(zip(names, row))
        found["amended"] = tuple(sorted(found["amended"].split(","))) if found["amended"] else ()
        yield read_as(Billed, found)


class Sums:
    """Sums over the rows of an open ledger; inside `one_moment` all of the same rows."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._open = False
        self._by_run: Filters | None = None  # whose rows stand summed by run

    @contextmanager
    def one_moment(self, filters: Filters | None = None) -> Iterator[None]:
        """Whatever is read inside is of one moment, and rows that are not plain are put right once.

        `filters`: of several sums inside. Nothing can be written to the ledger meanwhile.
        """
        if self._open:
            yield
            return
        connection, net = self._connection, ", ".join(NET.values())
        columns = ", ".join(("number INTEGER PRIMARY KEY", *NET))  # quick to look up
        # Filled and emptied, never dropped: a change of tables would end whoever reads rows.
        connection.execute(f"CREATE TEMP TABLE IF NOT EXISTS special ({columns})")
        connection.execute("BEGIN")
        try:
            self._open = True
            connection.execute(
                f"INSERT INTO temp.special WITH RECURSIVE {AMENDED}, "
                f"{INSIDE.format(outer=OUTER)}, {SPECIAL} SELECT s.number, {net} FROM special AS s "
                f"CROSS JOIN entries AS e ON e.rowid = s.number {JOINED}"
            )
            if filters is not None and self._has_few_runs():
                halves, values = _halves(_RUN, _SUMS, filters)
                connection.execute(
                    f"CREATE TEMP TABLE IF NOT EXISTS by_run ({', '.join((*_RUN, *_SUMS))})"
                )
                connection.execute(f"INSERT INTO temp.by_run {halves} SELECT * FROM halves", values)
                self._by_run = filters
            yield
        finally:
            summed, self._open, self._by_run = self._by_run, False, None
            with suppress(sqlite3.Error):
                connection.execute("DELETE FROM temp.special")
                if summed is not None:
                    connection.execute("DELETE FROM temp.by_run")
            if connection.in_transaction:
                connection.execute("COMMIT")

    def groups(self, by: Sequence[str], filters: Filters) -> list[Group]:
        """Sums by `by`, of BY, over rows that pass, in the order of their keys.

        ValueError names a key that is none.
        """
        check_keys(by)
        length = 1 + max(KEYS.index(name) for name in ("price_per_hour", *by) if name in KEYS)
        inner = (*KEYS[:length], *(name for name in by if name not in KEYS))
        halves, values = _halves(inner, _SUMS, filters)
        sums = [f"{_OVER.get(name, 'SUM')}({name})" for name in _SUMS]
        with self.one_moment():
            if filters == self._by_run and set(inner) <= set(_RUN):
                halves = _FROM_RUNS
            rows = self._connection.execute(
                f"{halves} SELECT {', '.join([*by, *sums])} FROM halves "
                + (
                    f"GROUP BY {', '.join(by)} ORDER BY {', '.join(by)}"
                    if by
                    else "HAVING COUNT(*)"
                ),
                values,
            ).fetchall()
        return [_group(by, row) for row in rows]

    def largest_runs(
        self, count: int, rates: Mapping[str, float], filters: Filters
    ) -> tuple[list[Group], int]:
        """Rows, dollars, device-seconds and tokens of the `count` dearest runs, and how many runs.

        `rates` are US dollars an hour by device, instead of the price of the row.
        """
        each = {"rows": "1", "device_seconds": "seconds * count", "tokens": "tokens"}
        halves, values = _halves(("run", "device", "price_per_hour"), each, filters, grouped=False)
        cases = " ".join(f"WHEN :device{i} THEN :rate{i}" for i in range(len(rates)))
        price = f"CASE device {cases} ELSE price_per_hour END" if rates else "price_per_hour"
        for i, (device, rate) in enumerate(rates.items()):
            values |= {f"device{i}": device, f"rate{i}": rate}
        with self.one_moment():
            rows = self._connection.execute(
                f"{_FROM_RUNS if filters == self._by_run else halves} SELECT run, SUM(rows), "
                f"TOTAL(device_seconds * {price}) / 3600 AS dollars, "
                "TOTAL(device_seconds) AS total, TOTAL(tokens) "
                "FROM halves GROUP BY run ORDER BY dollars DESC, total DESC, run LIMIT :most",
                values | {"most": count},
            ).fetchall()
            number = len(rows) if len(rows) < count else self._runs(filters)
        found = [
            Group(
                key={"run": run},
                rows=int(number_of_rows),
                dollars=dollars,
                device_seconds=seconds,
                tokens=int(tokens),
            )
            for run, number_of_rows, dollars, seconds, tokens in rows
        ]
        return found, number

    def energy_sources(self, newest: int, filters: Filters) -> dict[str, int]:
        """Rows by source of energy among the `newest`, as they were recorded."""
        where, values = _where(filters)
        rows = self._connection.execute(
            f"SELECT energy_source, COUNT(*) FROM (SELECT energy_source FROM entries WHERE {where} "
            "ORDER BY started DESC LIMIT :newest) GROUP BY energy_source ORDER BY energy_source",
            values | {"newest": newest},
        )
        return dict(rows.fetchall())

    def _runs(self, filters: Filters) -> int:
        halves, values = _halves(("run",), {}, filters, grouped=False)
        counted = f"{halves} SELECT COUNT(DISTINCT run) FROM halves" if values else _ALL_RUNS
        return int(self._connection.execute(counted, values).fetchone()[0])

    def _has_few_runs(self) -> bool:
        """Whether sums by run are few enough to be worth a table."""
        rows, runs = (
            self._connection.execute(query).fetchone()[0]
            for query in ("SELECT COUNT(*) FROM entries", _ALL_RUNS)
        )
        return bool(rows >= _FEWER * runs)


def _halves(
    keys: Sequence[str], sums: Mapping[str, str], filters: Filters, *, grouped: bool = True
) -> tuple[str, dict[str, Any]]:
    """The start of a statement in which `halves` are plain rows, and special ones put right."""
    where, values = _where(filters)
    few = any(name in values for name in ("run", "runs", "ids"))
    group = f"GROUP BY {', '.join(keys)}" if grouped else ""
    return (
        f"WITH halves AS (SELECT {_columns(keys, sums, PLAIN_KEPT, '0.0')} "
        f"FROM entries {'' if few else 'INDEXED BY entries_closed'} WHERE ended IS NOT NULL "
        f"AND rowid NOT IN (SELECT number FROM temp.special) AND {where} {group} "
        f"UNION ALL SELECT {_columns(keys, sums, 'kept', 'SUM(shared * count)')} "
        f"FROM temp.special WHERE {where} {group})"
    ), values


def check_keys(by: Sequence[str]) -> None:
    for name in by:
        if name not in BY:
            raise ValueError(f"rows cannot be grouped by '{name}': choose {', '.join(BY)}")


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
