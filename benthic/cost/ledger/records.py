"""The open file of a ledger, and what it keeps beside its rows: amendments, budgets and plans.

None of these is ever rewritten; of several the newest counts.
"""

import getpass
import json
import os
import re
import sqlite3
import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Self

from benthic.cost.ledger.entries import (
    Amendment,
    Budget,
    Scope,
    amended_value,
    clean,
    purpose_named,
)
from benthic.cost.ledger.schema import ELSEWHERE, LedgerError, in_words, prepare, transaction

_IMPORTED = re.compile(r"[a-z]+:(?!/)")  # wandb:3fk2, as imports name runs


class Records:
    """An open ledger; belongs to the thread that opened it. Every method may raise LedgerError."""

    def __init__(self, path: Path, *, timeout: float = 5.0) -> None:
        """Open `path`, created where missing; wait `timeout` seconds for other writers."""
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LedgerError(
                f"the folder of the ledger {path} cannot be made ({error.strerror}): "
                f"make it, {ELSEWHERE}"
            ) from error
        with self._in_words():
            self._connection = sqlite3.connect(path, timeout=timeout, isolation_level=None)
        try:
            with self._in_words():
                prepare(self._connection, path, timeout)
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def amend(
        self, entry_id: str, field: str, value: str | int | float, *, reason: str, author: str = ""
    ) -> None:
        """Put a field of a row right by a row of its own; `author`: the process's user if empty.

        ValueError where field, value or reason cannot be; LedgerError where there is no such row.
        """
        self.amend_all(entry_id, [(field, value)], reason=reason, author=author)

    def amend_all(
        self,
        entry_id: str,
        changes: Iterable[tuple[str, str | int | float]],
        *,
        reason: str,
        author: str = "",
    ) -> None:
        """Put several fields of a row right, all or none; raises as `amend` does."""
        pairs = [(field, amended_value(field, value)) for field, value in changes]
        for field, _ in pairs:
            if not reason.strip():
                raise ValueError(f"the reason to amend {field} is empty: say why in a few words")
        with self._in_words(), transaction(self._connection):
            row = self._connection.execute(
                "SELECT ended FROM entries WHERE id = ?", (clean(entry_id),)
            ).fetchone()
            if row is None:
                raise LedgerError(f"the ledger {self.path} has no row {entry_id}: give a whole id")
            if row[0] is None and any(field == "seconds" for field, _ in pairs):
                raise ValueError(f"the row {entry_id} still runs: amend seconds when it is closed")
            because = clean(reason), clean(author or user_name()), time.time()
            self._connection.executemany(
                "INSERT INTO amendments (entry, field, value, reason, author, at) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                [(entry_id, *pair, *because) for pair in pairs],
            )

    def amendments(self, entry_id: str | None = None) -> list[Amendment]:
        """Of one row, or all; in the order they were made."""
        names = ("entry", "field", "value", "reason", "author", "at")
        with self._in_words():
            rows = self._connection.execute(
                f"SELECT {', '.join(names)} FROM amendments WHERE :id IS NULL OR entry = :id "
                "ORDER BY id",
                {"id": entry_id},
            ).fetchall()
        return [Amendment(**dict(zip(names, row, strict=True))) for row in rows]

    def budget_set(
        self, scope: Scope, key: str, dollars: float | None, *, hard: bool = False
    ) -> None:
        """Limit what a purpose or project may cost in all, from now on; none lifts the limit."""
        key = purpose_named(key) if scope == "purpose" else clean(key)
        budget = Budget(scope=scope, key=key, dollars=dollars, hard=hard, at=time.time())
        with self._in_words():
            self._connection.execute(
                "INSERT INTO budgets (scope, key, dollars, hard, at) "
                "VALUES (:scope, :key, :dollars, :hard, :at)",
                vars(budget),
            )

    def budgets(self) -> list[Budget]:
        """Those that hold: the newest of each scope and key, unless lifted."""
        with self._in_words():
            rows = self._connection.execute(
                "SELECT scope, key, dollars, hard, at FROM budgets WHERE dollars IS NOT NULL "
                "AND id IN (SELECT MAX(id) FROM budgets GROUP BY scope, key) ORDER BY scope, key"
            ).fetchall()
        return [
            Budget(scope=scope, key=key, dollars=dollars, hard=bool(hard), at=at)
            for scope, key, dollars, hard, at in rows
        ]

    def plan_set(self, run: str | Path, document: Mapping[str, Any]) -> None:
        """Keep the plan of a run, to hold against what is metered; the newest counts."""
        text = json.dumps(document, allow_nan=False)
        with self._in_words():
            self._connection.execute(
                "INSERT INTO plans (run, at, document) VALUES (?, ?, ?)",
                (run_named(run), time.time(), text),
            )

    def plans(self) -> dict[str, dict[str, Any]]:
        """The newest plan of every run that has one."""
        with self._in_words():
            rows = self._connection.execute(
                "SELECT run, document FROM plans "
                "WHERE id IN (SELECT MAX(id) FROM plans GROUP BY run) ORDER BY run"
            ).fetchall()
        return {run: json.loads(document) for run, document in rows}

    def _in_words(self) -> AbstractContextManager[None]:
        return in_words(self.path)


def run_named(run: str | Path) -> str:
    """A run's name in the ledger: its folder's whole path, or as an import has named it."""
    if isinstance(run, str) and _IMPORTED.match(run):
        return clean(run)
    return clean(str(Path(run).resolve()))


def user_name() -> str:
    """The user's name; where the system has none, as in some containers, the number."""
    try:
        return clean(getpass.getuser())
    except (KeyError, OSError):
        return str(os.getuid())
