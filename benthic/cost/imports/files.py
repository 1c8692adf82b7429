"""Strangers' files and folders, bounded: no link is followed, nothing large is read whole.

A folder is walked without its links, so none leads out of it or round in circles, and with an end
to its depth and its entries. SQLite files are opened to be read only, their views and expressions
are not trusted, and a query that does not come to an end is broken off.
"""

import json
import os
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from benthic.cost.imports.record import RecordError, clip
from benthic.svg import visible

DEEPEST = 12
MOST_FILES = 500_000
TEXT = 4_000_000  # bytes of a file of facts about one run
SQLITE = b"SQLite format 3\0"
PATIENCE = 120.0  # seconds for all queries of a file
_SCALAR = re.compile(r"([A-Za-z_][\w.-]*):(?:\s+(.*))?")


def shown(path: Path) -> str:
    """A path in a sentence."""
    return visible(str(path)).replace("\n", " ")


def cause(error: BaseException) -> str:
    return clip(getattr(error, "strerror", None) or str(error) or type(error).__name__, 200)


def walk(root: Path, *, skip: frozenset[str] = frozenset()) -> Iterator[tuple[Path, list[str]]]:
    """Each folder below `root`, itself first, with the names of its files, all sorted.

    Folders named in `skip` are passed over. Raises RecordError where there are too many.
    """
    left, seen = [(root, 0)], 0
    while left:
        folder, depth = left.pop()
        files, folders = [], []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    seen += 1
                    if seen > MOST_FILES:
                        raise RecordError(
                            f"{shown(root)} holds more than {MOST_FILES:,} files and folders: "
                            "give the folder of one experiment"
                        )
                    if entry.is_symlink():
                        continue
                    if entry.is_dir():
                        folders.append(entry.name)
                    elif entry.is_file():
                        files.append(entry.name)
        except OSError as error:
            raise RecordError(
                f"{shown(folder)} cannot be listed, {cause(error)}: make it readable"
            ) from None
        yield folder, sorted(files)
        if depth < DEEPEST:
            kept = sorted((name for name in folders if name not in skip), reverse=True)
            left += [(folder / name, depth + 1) for name in kept]


def start_of(path: Path, size: int = 4096) -> bytes:
    """The first bytes of a regular file. Raises RecordError where it is none."""
    try:
        if not path.is_file():
            raise RecordError(f"{shown(path)} is no file and no folder: give a path that exists")
        with path.open("rb") as file:
            return file.read(size)
    except (OSError, ValueError) as error:
        if isinstance(error, RecordError):
            raise
        raise RecordError(f"{shown(path)} cannot be read, {cause(error)}: check it") from None


def text_of(path: Path, largest: int = TEXT) -> str:
    """The UTF-8 text of a file of at most `largest` bytes. Raises RecordError."""
    raw = start_of(path, largest + 1)
    if len(raw) > largest:
        raise RecordError(
            f"{shown(path)} has more than {largest / 1e6:g} MB, too much for such a file: check it"
        )
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecordError(
            f"{shown(path)} is not UTF-8 at byte {error.start}: save it as UTF-8"
        ) from None


def json_of(path: Path, largest: int = TEXT) -> Any:
    """What a JSON file holds. Raises RecordError."""
    try:
        return json.loads(text_of(path, largest))
    except (ValueError, RecursionError) as error:
        if isinstance(error, RecordError):
            raise
        raise RecordError(
            f"{shown(path)} is not valid JSON, {cause(error)}: export it again"
        ) from None


def scalars(path: Path) -> dict[str, str]:
    """The `key: value` lines of a YAML file that are not indented; the rest of YAML is not read."""
    found = {}
    for line in text_of(path).splitlines():
        match = _SCALAR.fullmatch(line.rstrip())
        if match and match[2] is not None:
            found[match[1]] = _unquoted(match[2])
    return found


def _unquoted(value: str) -> str:
    if len(value) > 1 and value[0] == value[-1] == "'":
        return value[1:-1].replace("''", "'")
    if len(value) > 1 and value[0] == value[-1] == '"':
        try:
            return str(json.loads(value))
        except ValueError:
            return value[1:-1]
    return "" if value in ("null", "~", "None") else value


@contextmanager
def database(path: Path) -> Iterator[sqlite3.Connection]:
    """A SQLite file, to be read only. What it refuses inside the block is a RecordError."""
    connection = None
    try:
        connection = _connect(path)
        yield connection
    except (sqlite3.Error, UnicodeDecodeError) as error:  # its own words may be a damaged name
        raise RecordError(
            f"{shown(path)} cannot be read as a SQLite file, {cause(error)}: end the program that "
            "writes it, and copy it with its -wal file"
        ) from None
    finally:
        if connection:
            connection.close()


def _connect(path: Path) -> sqlite3.Connection:
    # Where the folder cannot be written, a file in WAL mode opens as one that nobody changes.
    for mode in ("mode=ro", "mode=ro&immutable=1"):
        connection = sqlite3.connect(f"file:{quote(str(path.resolve()))}?{mode}", uri=True)
        try:
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            break
        except sqlite3.OperationalError:
            connection.close()
            if "immutable" in mode:
                raise
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 10_000_000)
    connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
    deadline = time.monotonic() + PATIENCE
    connection.set_progress_handler(lambda: time.monotonic() > deadline, 1_000_000)
    return connection


def columns(connection: sqlite3.Connection, table: str) -> set[str]:
    """The columns of a real table, no view; empty where there is none of that name."""
    found = connection.execute(
        "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (table,)
    ).fetchone()
    if not found:
        return set()
    rows = connection.execute("SELECT name FROM pragma_table_info(?)", (table,))
    return {str(name) for (name,) in rows}
