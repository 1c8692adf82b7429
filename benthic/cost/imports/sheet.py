"""A table of strangers' texts, row by row: CSV, TSV, pipes, JSON or Parquet.

The first line names the columns. Commas, semicolons, tabs and pipes are told apart by that line;
between pipes quotes are letters, as Slurm writes them. JSON is a list of objects, or one object a
line; what is nested gets names with dots. Parquet needs pyarrow. A file has at most LARGEST bytes
and ROWS rows, for all rows of one import are held and written at once.
"""

import csv
import importlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from benthic.cost.imports.files import cause, json_of, shown, start_of, text_of
from benthic.cost.imports.record import RecordError, clip

LARGEST = 256_000_000
LARGEST_JSON = 64_000_000
ROWS = 250_000
COLUMNS = 10_000
NOTHING = frozenset({"", "-", "none", "null", "nan", "nat", "n/a", "na", "unknown", "[]"})


@dataclass
class Sheet:
    path: Path
    header: list[str]
    rows: Iterator[tuple[int, list[str]]]
    """line and cells, as many as the header has"""

    @cached_property
    def name(self) -> str:
        return shown(self.path)

    def where(self, line: int) -> str:
        return f"{self.name}, row {line}"

    def find(self, *names: str) -> int | None:
        """The first column of those names; exactly so written, else whatever its case and signs.

        Raises RecordError where two columns are meant alike.
        """
        for name in names:
            if name in self.header:
                return self.header.index(name)
        for name in map(plain, names):
            found = [i for i, column in enumerate(self.header) if plain(column) == name]
            if len(found) > 1:
                both = " and ".join(f"'{clip(self.header[i], 60)}'" for i in found[:2])
                raise RecordError(
                    f"{shown(self.path)} has the columns {both}, which mean the same: keep one"
                )
            if found:
                return found[0]
        return None


def pick(cells: Sequence[str], column: int | None) -> str:
    """The text of a cell; empty where the column is missing or the cell says nothing."""
    text = "" if column is None else cells[column].strip()
    return "" if text.lower() in NOTHING else text


def plain(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))


def sheet_of(
    path: Path, wanted: Sequence[str] = (), *, overlong: Callable[[int, str], None] | None = None
) -> Sheet:
    """The table in a file; of Parquet only the columns `wanted`, all where none is named.

    Rows with more cells than columns are left out, each line told to `overlong` with a sentence;
    without that they are refused. Raises RecordError, also while the rows are read.
    """
    start = start_of(path)
    if path.stat().st_size > LARGEST:
        raise RecordError(
            f"{shown(path)} has {path.stat().st_size / 1e6:,.0f} MB, a table here at most "
            f"{LARGEST / 1e6:g}: export fewer columns, or split it"
        )
    if start[:4] == b"PAR1":
        lines = _parquet(path, wanted)
    elif start.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"[", b"{"):
        lines = _json(path)
    else:
        lines = _text(path)
    first = next(lines, None)
    if first is None:
        raise RecordError(f"{shown(path)} is empty: export it again")
    header = first[1]
    if len(header) > COLUMNS:
        raise RecordError(
            f"{shown(path)} has {len(header):,} columns, a table here at most {COLUMNS:,}: "
            "export fewer"
        )
    return Sheet(
        path, [name.strip() for name in header], _filled(path, len(header), lines, overlong)
    )


def _filled(
    path: Path,
    width: int,
    lines: Iterator[tuple[int, list[str]]],
    overlong: Callable[[int, str], None] | None,
) -> Iterator[tuple[int, list[str]]]:
    rows = 0
    for line, cells in lines:
        if not any(map(str.strip, cells)):
            continue
        if len(cells) > width:
            sentence = (
                f"{shown(path)}, row {line} has {len(cells)} cells for {width} columns: quote "
                "texts that hold the separator, or leave their column out"
            )
            if overlong is None:
                raise RecordError(sentence)
            overlong(line, sentence)
            continue
        rows += 1
        if rows > ROWS:
            raise RecordError(
                f"{shown(path)} has more than {ROWS:,} rows: split it, and import the parts"
            )
        yield line, cells + [""] * (width - len(cells))


def _text(path: Path) -> Iterator[tuple[int, list[str]]]:
    line = 1
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            first = file.readline(1_000_000)
            while first and not first.strip():
                first = file.readline(1_000_000)
            csv.field_size_limit(LARGEST)  # a long text in a column that nobody reads is no fault
            separator = max(",;\t|", key=first.count)
            file.seek(0)
            reader = csv.reader(
                _without_nul(path, file),
                delimiter=separator,
                quoting=csv.QUOTE_NONE if separator == "|" else csv.QUOTE_MINIMAL,
            )
            for cells in reader:
                line = reader.line_num
                if any(map(str.strip, cells)):
                    yield line, cells
    except UnicodeDecodeError as error:
        raise RecordError(
            f"{shown(path)} is not UTF-8 after row {line} ({error.reason}): save it as CSV in UTF-8"
        ) from None
    except csv.Error as error:
        raise RecordError(
            f"{shown(path)} cannot be read as CSV after row {line} ({error}): close every quote, "
            "leave out columns of long texts, and save it again"
        ) from None
    except OSError as error:
        raise RecordError(f"{shown(path)} cannot be read, {cause(error)}: check it") from None


def _without_nul(path: Path, lines: Iterator[str]) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        if "\0" in line:
            raise RecordError(f"{shown(path)} is no text in row {number}: save it as CSV in UTF-8")
        yield line


def _json(path: Path) -> Iterator[tuple[int, list[str]]]:
    rows = [_flat(row) for row in _objects(path)]
    header = list(dict.fromkeys(name for row in rows for name in row))
    if header:
        yield 0, header
    for number, row in enumerate(rows, 1):
        yield number, [row.get(name, "") for name in header]


def _objects(path: Path) -> list[dict[str, Any]]:
    text = text_of(path, LARGEST_JSON)
    lines = text.splitlines()
    if text.lstrip().startswith("{") and len(lines) > 1 and lines[0].rstrip().endswith("}"):
        found: Any = []
        for number, line in enumerate(lines, 1):
            try:
                found += [json.loads(line)] if line.strip() else []
            except (ValueError, RecursionError) as error:
                raise RecordError(
                    f"{shown(path)}, row {number} is not valid JSON, {cause(error)}: export it "
                    "again"
                ) from None
    else:
        found = json_of(path, LARGEST_JSON)
    if isinstance(found, dict):
        lists = [value for value in found.values() if isinstance(value, list)]
        found = lists[0] if len(lists) == 1 else [found]
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise RecordError(
            f"{shown(path)} is not a list of objects, one a run: export the runs as a list"
        )
    return found


def _flat(row: dict[str, Any], before: str = "", depth: int = 0) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in row.items():
        key = f"{before}{name}"
        if isinstance(value, dict) and depth < 2:
            found |= _flat(value, f"{key}.", depth + 1)
        elif isinstance(value, list):
            found[key] = ", ".join(item for item in value if isinstance(item, str))
        elif not isinstance(value, dict):
            found[key] = "" if value is None else str(value)
    return found


def _parquet(path: Path, wanted: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise RecordError(
            f"{shown(path)} is Parquet, which needs pyarrow: install pyarrow, or export CSV"
        ) from None
    try:
        with parquet.ParquetFile(path) as file:
            names = [name for name in file.schema_arrow.names if not wanted or name in wanted]
            yield 0, names
            line = 0
            for batch in file.iter_batches(batch_size=10_000, columns=names):
                for row in zip(*(column.to_pylist() for column in batch.columns)):
                    line += 1
                    yield line, ["" if cell is None else str(cell) for cell in row]
    except (OSError, ValueError, KeyError, NotImplementedError, RuntimeError) as error:
        if isinstance(error, RecordError):
            raise
        raise RecordError(
            f"{shown(path)} cannot be read as Parquet, {cause(error)}: export it again"
        ) from None
