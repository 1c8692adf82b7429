"""What the readers of other tools' records share: a record, the caller's terms, rows of the ledger.

A reader says what its file says (`Record`); `Intake` checks it, adds what the caller knows better
(`Terms`), finds the price, and makes the row. The price is the caller's, else the file's, else the
catalog's rent at the run's date where the GPU is known, else 0 with the note "no price"; the row
says which. What is left out and what was assumed is told in sentences, never silently.

The key of a row is made of what the file says and nothing else, neither of its path nor of the
caller's terms, so that a file read twice, copied elsewhere or overlapping another adds nothing.
"""

import hashlib
import json
import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo

from benthic.cost.catalog.load import Catalog, CostError
from benthic.cost.ledger.entries import (
    MAX_COUNT,
    MAX_PRICE,
    PURPOSES,
    Entry,
    Purpose,
    Status,
    external_id,
    purpose_named,
)
from benthic.cost.metering import masking
from benthic.svg import visible

EARLIEST = 631_152_000.0  # 1990-01-01, before any run that a tool here has recorded
LONGEST = 10 * 365 * 86400.0
DAY = 86400.0
NO_PRICE = "no price"
MOST_TOLD = 50  # sentences about what was assumed
_MEMORY = re.compile(r"[-_ ]\d{1,4} ?gb\s*$", re.I)
_PURPOSES = {  # words that people tag runs with
    "final": "pretrain",
    "pretraining": "pretrain",
    "pre-train": "pretrain",
    "sft": "post-train",
    "dpo": "post-train",
    "finetune": "post-train",
    "finetuning": "post-train",
    "fine-tune": "post-train",
    "post-training": "post-train",
    "rlhf": "rl",
    "grpo": "rl",
    "ppo": "rl",
    "eval": "evaluation",
    "evaluate": "evaluation",
    "test": "evaluation",
    "sweep": "ablation",
    "ablations": "ablation",
    "long-context": "context",
    "inference": "serving",
}
_ENDS: dict[str, Status] = {
    **dict.fromkeys(("done", "finished", "completed", "complete", "success", "ok"), "done"),
    **dict.fromkeys(("succeeded", "successful"), "done"),
    **dict.fromkeys(("failed", "failure", "crashed", "error", "errored"), "failed"),
    **dict.fromkeys(("interrupted", "killed", "cancelled", "canceled"), "interrupted"),
    **dict.fromkeys(("preempted", "aborted", "stopped", "timeout"), "interrupted"),
    **dict.fromkeys(("running", "pending", "queued", "scheduled", "preempting"), "running"),
}


class RecordError(ValueError):
    """A record cannot be read; the text names file, row, cause and remedy."""


@dataclass(frozen=True)
class Found:
    """What a file holds: rows that `Ledger.add` takes, and what was not taken, or was guessed."""

    entries: list[Entry]
    left_out: list[str]
    assumed: list[str]


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What the caller says of all rows; it goes before what the file says."""

    price: float | None = None
    """US dollars an hour of one device"""
    device: str | None = None
    count: int | None = None
    project: str = ""
    purpose: str | None = None
    zone: tzinfo | None = None
    """of times without one; none: this machine's"""
    gap: float = 1800.0
    """seconds without a sign of life after which a record that is only signs of life has ended"""

    def __post_init__(self) -> None:
        if self.price is not None:
            _check(self.price, "--price", "US dollars an hour of one device", high=MAX_PRICE)
        if self.count is not None:
            _check(self.count, "--count", "devices", low=1, high=MAX_COUNT)
        _check(self.gap, "--gap", "seconds", low=1, high=DAY)
        if self.device is not None and not self.device.strip():
            raise RecordError("--device is empty: name one, like H100")
        if self.purpose is not None:
            try:
                purpose_named(self.purpose)
            except ValueError as error:
                raise RecordError(f"--{error}") from None


@dataclass(kw_only=True)
class Record:
    """One run as its file tells it; empty, None: the file does not say."""

    where: str
    """file and row, the opening of a sentence about it"""
    key: tuple[str, ...]
    """names the run whatever the file is called"""
    run: str
    name: str
    started: float
    seconds: float
    status: Status
    ended: float | None = None
    device: str = ""
    count: int | None = None
    """devices; 0: it held none, which is a processor's job"""
    price: float | None = None
    project: str = ""
    user: str = ""
    host: str = ""
    purpose: str = ""
    tags: Sequence[str] = ()
    note: str = ""
    command: str = ""
    exit_code: int | None = None
    joules: float = 0.0
    energy_source: str = "not recorded"
    gpu_busy: float | None = None
    parent: tuple[str, ...] | None = None
    """the key of the run inside which it ran"""


@dataclass
class Intake:
    """Rows as they come out of one file or folder."""

    kind: str
    terms: Terms
    catalog: Catalog = field(default_factory=Catalog)
    now: float = field(default_factory=time.time)
    _entries: dict[str, Entry] = field(default_factory=dict)
    _left: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    _assumed: dict[str, None] = field(default_factory=dict)
    _gpus: dict[str, str | None] = field(default_factory=dict)
    _rents: dict[tuple[str, str], tuple[float, str]] = field(default_factory=dict)

    def add(self, record: Record) -> None:
        """Check the record and take it as a row. Raises RecordError."""
        self._check_time(record)
        if record.seconds == 0:
            self.leave("they took no time", "nothing is owed for them", record.name)
            return
        external = self._external(record.key)
        try:
            row = self._row(record, external)
        except ValueError as error:
            if isinstance(error, RecordError):
                raise
            raise RecordError(f"{record.where}: {error}") from None
        known = self._entries.setdefault(external, row)
        if known is not row:
            self._leave_twin(record, differences(known, row))

    def _leave_twin(self, record: Record, differing: list[str]) -> None:
        if not differing:
            self.leave("the record holds them twice", "one is enough", record.name)
            return
        self.leave(
            "a row before has the same name and start and other figures",
            "give each run a name or a start of its own",
            f"{record.name}: {', '.join(differing)}",
        )

    def _row(self, record: Record, external: str) -> Entry:
        terms, bare = self.terms, record.count == 0
        device = terms.device or record.device
        known = self._gpu(device)
        count = terms.count or record.count or 1
        if not 1 <= count <= MAX_COUNT:
            raise RecordError(
                f"{record.where}: {count} devices are not from 1 to {MAX_COUNT:,}: correct the "
                "file, or give --count"
            )
        price, source, note = self._price(record, known, device)
        notes = [clip(masking.mask_text(record.note[: masking.LONGEST]), 400), note]
        return Entry(
            run=f"{self.kind}:{clip(record.run, 200)}",
            attempt=external,
            stage="import",
            purpose=self._purpose(record),
            device=known or clip(device, 80) or ("CPU" if bare else "unknown"),
            count=count,
            price_per_hour=price,
            price_source=source,
            project=terms.project or clip(record.project, 100),
            user=clip(record.user, 100),
            name=clip(record.name, 200),
            source=f"import:{self.kind}",
            external=external,
            parent=external_id(self._external(record.parent)) if record.parent else None,
            command=clip(masking.mask_text(record.command[: masking.LONGEST]), 1000),
            note="; ".join(filter(None, notes)),
            seconds=record.seconds,
            joules=record.joules,
            energy_source=record.energy_source,
            gpus=float(count) if known or (record.count or 0) > 0 else 0.0,
            gpu_busy=record.gpu_busy,
            started=record.started,
            heartbeat=record.ended or record.started + record.seconds,
            ended=record.ended or record.started + record.seconds,
            status=record.status,
            exit_code=record.exit_code,
            host=clip(record.host, 100),
        )

    def leave(self, why: str, remedy: str, name: str) -> None:
        """Count a run that is not taken."""
        self._left.setdefault((why, remedy), []).append(clip(name, 60))

    def assume(self, sentence: str) -> None:
        """Tell, once, what the file does not say and was taken for granted."""
        self._assumed[sentence] = None

    def found(self) -> Found:
        left = []
        for (why, remedy), names in self._left.items():
            more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
            left.append(f"{len(names):,} left out, {why} ({', '.join(names[:3])}{more}): {remedy}.")
        assumed = list(self._assumed)
        if len(assumed) > MOST_TOLD:
            assumed[MOST_TOLD:] = [f"And {len(assumed) - MOST_TOLD:,} more of the like."]
        return Found(list(self._entries.values()), left, assumed)

    def _external(self, key: tuple[str, ...]) -> str:
        digest = hashlib.sha256(json.dumps((self.kind, *key)).encode()).hexdigest()
        return f"{self.kind}:{digest[:32]}"

    def _check_time(self, record: Record) -> None:
        where, name = record.where, f"'{clip(record.name, 60)}'"
        if not EARLIEST <= record.started <= self.now + DAY:
            raise RecordError(
                f"{where}: {name} started at {_day(record.started)}, not between 1990 and now: "
                "correct the date or this machine's clock"
            )
        if not 0 <= record.seconds <= LONGEST:
            raise RecordError(
                f"{where}: {name} took {record.seconds:g} seconds, not 0 to ten years: correct "
                "the duration, or the start and the end"
            )
        end = record.ended or record.started + record.seconds
        if not record.started <= end <= self.now + DAY:
            raise RecordError(
                f"{where}: {name} ended at {_day(end)}, not between its start and now: correct "
                "the end or the duration"
            )

    def _price(self, record: Record, known: str | None, device: str) -> tuple[float, str, str]:
        """US dollars an hour of a device, where that is from, and what to note."""
        terms = self.terms
        if terms.price is not None and (record.count != 0 or terms.device):
            return float(terms.price), "--price", ""
        if record.price is not None:
            price = _check(record.price, f"{record.where}: the price", "US dollars", high=MAX_PRICE)
            return price, f"{self.kind} file", ""
        if record.count == 0 and not terms.device:
            return 0.0, "none", f"{NO_PRICE}: it held no GPU"
        if known:
            price, source = self._rent(known, _day(record.started))
            if source:
                return price, source, ""
        self.assume(
            "Rows without a price count 0 dollars: give --price in US dollars an hour of one "
            "device, or --device with a GPU that the catalog has rents of."
        )
        return 0.0, "none", NO_PRICE if known or not device else f"{NO_PRICE} for this device"

    def _rent(self, gpu: str, day: str) -> tuple[float, str]:
        """The catalog's rent at that day, else the newest; 0 without a source where it has none."""
        if (gpu, day) not in self._rents:
            found = (0.0, "")
            for date, text in ((day, f"at {day}"), (None, f"today, none being known at {day}")):
                try:
                    rent = self.catalog.rent(gpu, date)
                except CostError:
                    continue
                found = rent.value, f"catalog: rent of {gpu} {text}, {rent.low:g} to {rent.high:g}"
                break
            self._rents[gpu, day] = found
        price, source = self._rents[gpu, day]
        if source:
            self.assume(
                "Prices are the catalog's rents at the date of each run, since neither the file "
                "nor --price says any: see price_source of each row."
            )
        return price, source

    def _gpu(self, text: str) -> str | None:
        """The catalog's name of a GPU, or None where it knows none of that name."""
        if text not in self._gpus:
            self._gpus[text] = None
            # Drivers put the memory behind the name, which is not always among the catalog's names.
            for name in (text, _MEMORY.sub("", text)):
                try:
                    self._gpus[text] = self.catalog.gpu(name).name if name.strip() else None
                except CostError:
                    continue
                break
        return self._gpus[text]

    def _purpose(self, record: Record) -> Purpose:
        if self.terms.purpose:
            return purpose_named(self.terms.purpose)
        word = record.purpose.strip().lower()
        if word:
            try:
                return purpose_named(_PURPOSES.get(word, word))
            except ValueError:
                raise RecordError(
                    f"{record.where}: '{clip(word, 60)}' is no purpose: choose one of "
                    f"{', '.join(PURPOSES)}, or give --purpose for all"
                ) from None
        for tag in record.tags:
            word = tag.strip().lower()
            if (word := _PURPOSES.get(word, word)) in PURPOSES:
                return purpose_named(word)
        self.assume("Runs that no tag names a purpose of count as 'other': give --purpose.")
        return "other"


def differences(known: Entry, row: Entry) -> list[str]:
    """What is billed otherwise by the second of two rows of one key, as "seconds 60 to 90"."""
    found = []
    if abs(known.seconds - row.seconds) >= 1:
        found.append(f"seconds {known.seconds:g} to {row.seconds:g}")
    for name in ("count", "device", "price_per_hour", "status"):
        before, after = getattr(known, name), getattr(row, name)
        if before != after:
            found.append(f"{name} {before} to {after}")
    return found


def ending(word: str) -> Status | None:
    """The status that a tool's word for an outcome means; None where it means none of ours."""
    return _ENDS.get(word.strip().lower())


def clip(text: str, length: int) -> str:
    """A stranger's text on one line, its control characters visible, cut to `length`."""
    text = text[: 4 * length]
    line = " ".join((text if text.isascii() and text.isprintable() else visible(text)).split())
    return line if len(line) <= length else line[: length - 3] + "..."


def _check(value: float, what: str, unit: str, *, low: float = 0, high: float) -> float:
    if not (isinstance(value, int | float) and math.isfinite(value) and low <= value <= high):
        raise RecordError(f"{what} is {value}: give {unit}, {low:g} to {high:g}")
    return float(value)


def _day(moment: float) -> str:
    try:
        return datetime.fromtimestamp(moment, UTC).date().isoformat()
    except (ValueError, OverflowError, OSError):
        return f"the unix time {moment:g}"
