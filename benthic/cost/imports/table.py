"""A table of one's own: CSV, TSV or JSON with a row for each run.

It needs when a run started and how long it took: seconds, minutes, hours, gpu_hours or an end.
`COLUMNS` lists the names that are taken, whatever their case and signs. Prices are US dollars an
hour of one device. A row without a status counts as done, one without a count as one device; rows
of work that has not ended are left out. A row is known by its run, else its name, and its start;
one without both by its start, how long it took, its device and its count.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from benthic.cost.imports.files import shown
from benthic.cost.imports.intake import Intake
from benthic.cost.imports.record import Record, RecordError, clip, ending
from benthic.cost.imports.sheet import Sheet, pick, plain, sheet_of
from benthic.cost.imports.times import is_number, moment, number, refuse_comma, span, whole

COLUMNS = {
    "run": ("run", "run_id", "id", "job_id"),
    "name": ("name", "run_name", "job_name", "job", "experiment", "title"),
    "started": ("started", "start", "start_time", "started_at", "begin", "created", "created_at"),
    "ended": ("ended", "end", "end_time", "ended_at", "finished", "finished_at", "stop"),
    "seconds": ("seconds", "duration_seconds", "elapsed_seconds", "runtime_seconds", "secs"),
    "minutes": ("minutes", "duration_minutes", "mins"),
    "hours": ("hours", "duration_hours", "runtime_hours", "wall_hours", "hrs"),
    "gpu_hours": ("gpu_hours", "device_hours"),
    "duration": ("duration", "elapsed", "runtime", "walltime", "wall_time"),
    "gpus": ("gpus", "count", "gpu_count", "num_gpus", "n_gpus", "devices", "device_count"),
    "device": ("device", "gpu", "gpu_type", "gpu_model", "accelerator", "hardware"),
    "price_per_hour": (
        *("price_per_hour", "price_per_gpu_hour", "price", "rate", "usd_per_hour"),
        *("price_per_hour_usd", "usd_per_gpu_hour", "hourly_price", "price_usd"),
    ),
    "currency": ("currency",),
    "purpose": ("purpose",),
    "status": ("status", "state", "outcome"),
    "project": ("project",),
    "user": ("user", "owner", "who"),
    "tags": ("tags",),
    "note": ("note", "notes", "comment"),
}
NAMELESS = (
    "Rows without a name are known by their start, length, device and count: give each a name, or "
    "two that agree in all of these count once."
)
UNNAMED = "unnamed "  # how the runs of such rows begin
LENGTHS = ("seconds", "minutes", "hours", "gpu_hours", "duration", "ended")
_UNITS = {"seconds": 1.0, "minutes": 60.0, "hours": 3600.0, "gpu_hours": 3600.0, "duration": None}
_DOLLARS = re.compile(r"us\s?\$|\$|usd|dollars?|(?:/|per) ?(?:gpu[ -]?)?(?:hours?|hr?)\b", re.I)
_FOREIGN = re.compile(r"(eur|gbp|cny|rmb|yuan|jpy|yen|inr|chf|cad|aud|krw|sek|nok|dkk|pln)s?")
_TIMES = re.compile(r"(\d{1,6})\s*[xX*]\s*(\S.*)")


def is_one(header: Sequence[str]) -> bool:
    """Whether a file with these columns can be such a table."""
    known = set(map(plain, header))
    return all(
        any(plain(name) in known for role in roles for name in COLUMNS[role])
        for roles in (("started",), LENGTHS)
    )


def read(path: Path, intake: Intake) -> None:
    """Take each row. Raises RecordError."""
    sheet = sheet_of(path, overlong=lambda _, sentence: intake.wrong(sentence))
    column = {role: sheet.find(*names) for role, names in COLUMNS.items()}
    _check(sheet, column)
    for line, cells in sheet.rows:
        with intake.row():
            cell = {role: pick(cells, index) for role, index in column.items()}
            _take(cell, line, sheet.where(line), intake)


def _take(cell: dict[str, str], line: int, where: str, intake: Intake) -> None:
    name = cell["name"] or cell["run"] or f"row {line}"
    if not cell["started"]:
        raise RecordError(f"{where} has no start: fill in the column 'started'")
    start = moment(cell["started"], where, intake)
    status = ending(cell["status"] or "done")
    if status is None:
        raise RecordError(
            f"{where}: '{clip(cell['status'], 60)}' is no status: write done, failed, "
            "interrupted or running"
        )
    if status == "running":
        intake.leave("they still run", "import again when they have ended", name)
        return
    device, count = _devices(cell, where)
    end = moment(cell["ended"], where, intake) if cell["ended"] else None
    held = intake.terms.count if count is None else count
    seconds = _seconds(cell, held or 1, where)
    if end is not None and end.unix < start.unix:
        raise RecordError(
            f"{where}: '{clip(name, 60)}' ended {start.unix - end.unix:,.0f} seconds before it "
            "started: correct one of both, or give the zones of the times"
        )
    if seconds is None and end is None:
        lengths = ", ".join(LENGTHS)
        raise RecordError(f"{where} says not how long it took: fill in one of {lengths}")
    if seconds is not None and end is not None and seconds > end.unix - start.unix + 60:
        raise RecordError(
            f"{where}: '{clip(name, 60)}' took {seconds:g} seconds, longer than from its start "
            f"to its end, {end.unix - start.unix:g}: correct one of them"
        )
    key = [cell["run"] or cell["name"], start.key]
    run = key[0]
    if not run:
        intake.assume(NAMELESS)
        # Not `seconds`: those of gpu_hours may come of the caller's count, which no key holds.
        own = _seconds(cell, count or 1, where)
        key += ["" if own is None else f"{own:.3f}", end.key if end else "", device, str(count)]
        run = UNNAMED + " ".join(key[1:])  # another file has another run in a row of this number
    intake.add(
        Record(
            where=where,
            key=tuple(key),
            run=run,
            name=name,
            started=start.unix,
            seconds=seconds if seconds is not None else (end or start).unix - start.unix,
            ended=end.unix if end else None,
            status=status,
            device=device,
            count=count,
            price=price(cell["price_per_hour"], where) if cell["price_per_hour"] else None,
            project=cell["project"],
            user=cell["user"],
            purpose=cell["purpose"],
            tags=cell["tags"].split(","),
            note=cell["note"],
        )
    )


def price(text: str, where: str) -> float:
    """US dollars an hour of a cell like 2.5, $2.50 or 2.5 USD/h. Raises RecordError."""
    bare = _DOLLARS.sub("", text).strip()
    refuse_comma(bare, where, "the price")
    if not is_number(bare):
        raise RecordError(
            f"{where}: the price '{clip(text, 60)}' is not in US dollars: two currencies do not "
            "add, so convert it at the rate of its date, and write a number like 2.50"
        )
    return number(bare, where, "the price")


def _check(sheet: Sheet, column: dict[str, int | None]) -> None:
    name = shown(sheet.path)
    if column["started"] is None:
        raise RecordError(
            f"{name} has no column that says when a run started: add one of "
            f"{', '.join(COLUMNS['started'])}"
        )
    if all(column[role] is None for role in LENGTHS):
        raise RecordError(
            f"{name} has no column that says how long a run took: add one of {', '.join(LENGTHS)}"
        )
    if column["run"] is None and column["name"] is None:
        raise RecordError(
            f"{name} has no column that names a run: add one of "
            f"{', '.join(COLUMNS['run'] + COLUMNS['name'])}"
        )
    known = {plain(other) for names in COLUMNS.values() for other in names}
    for index, title in enumerate(sheet.header):
        if plain(title) in known & set(map(plain, sheet.header[:index])):
            raise RecordError(
                f"{name} has two columns that mean '{clip(title, 60)}': keep one of them"
            )
        if plain(title).startswith(("price", "rate", "cost")) and _FOREIGN.search(plain(title)):
            raise RecordError(
                f"{name} has prices in another currency, '{clip(title, 60)}': two currencies do "
                "not add, so convert them to US dollars at the rate of their date"
            )


def _devices(cell: dict[str, str], where: str) -> tuple[str, int | None]:
    """Device and count; "8x H100" says both."""
    if cell["currency"] and plain(cell["currency"]) not in ("usd", "dollar", "dollars", "us"):
        raise RecordError(
            f"{where} is in {clip(cell['currency'], 20)}: two currencies do not add, so convert "
            "its price to USD at the rate of its date"
        )
    device, count = cell["device"], cell["gpus"]
    for text in (device, count):
        if match := _TIMES.fullmatch(text):
            return match[2].strip(), int(match[1])
    return device, whole(count, where, "the count of devices") if count else None


def _seconds(cell: dict[str, str], count: int, where: str) -> float | None:
    for role, unit in _UNITS.items():
        if cell[role]:
            seconds = span(cell[role], where, unit=unit)
            if seconds < 0:
                raise RecordError(f"{where}: {role} is {clip(cell[role], 60)}, below 0: correct it")
            return seconds / count if role == "gpu_hours" else seconds
    return None
