"""From records of other tools to rows of the ledger.

A reader says what its file says (`Record`); `Intake` checks it, fills gaps with what the caller
says (`Terms`), finds the price, and makes the row. The price is the file's, else the caller's, else
the catalog's rent at the run's date where the GPU is known, else 0 with the note "no price"; the
row says which. What is left out and what was assumed is told in sentences, never silently; records
that cannot be read are told together, and then nothing is taken.

The key of a row is made of what the file says and nothing else, neither of its path nor of the
caller's terms, so that a file read twice, copied elsewhere or overlapping another adds nothing.
"""

import hashlib
import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from benthic.cost.imports.prices import NO_PRICE, Prices
from benthic.cost.imports.record import Record, RecordError, clip, within
from benthic.cost.imports.terms import DAY, NO_GPU, TAKEN, Terms, Uses, outcome
from benthic.cost.ledger.entries import (
    MAX_COUNT,
    MAX_PRICE,
    Entry,
    external_id,
)
from benthic.cost.ledger.purposes import PURPOSES, Purpose, purpose_named
from benthic.cost.metering import masking

EARLIEST = 631_152_000.0  # 1990-01-01, before any run that a tool here has recorded
LONGEST = 10 * 365 * 86400.0
MOST_TOLD = 50  # sentences about what was assumed
MOST_WRONG = 10  # records that cannot be read, told one by one
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


@dataclass(frozen=True)
class Found:
    """What a file holds: rows that `Ledger.add` takes, and what was not taken, or was guessed."""

    entries: list[Entry]
    left_out: list[str]
    assumed: list[str]
    uses: Uses
    """how each row took what the caller says"""

    def given(self, entries: Iterable[Entry] | None = None) -> list[str]:
        """A sentence for each flag: how many of these rows, all if none are given, took it."""
        chosen = self.entries if entries is None else entries
        return self.uses.told([entry.external or "" for entry in chosen])


@dataclass
class Intake:
    """Rows as they come out of one file or folder."""

    kind: str
    terms: Terms
    prices: Prices = field(default_factory=Prices)
    now: float = field(default_factory=time.time)
    _entries: dict[str, Entry] = field(default_factory=dict)
    _left: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    _assumed: dict[str, None] = field(default_factory=dict)
    _wrong: list[str] = field(default_factory=list)
    _wrong_more: int = 0

    def __post_init__(self) -> None:
        self._uses = Uses(self.terms)
        if self.terms.device and self.terms.price is None:
            self.prices.check(self.terms.device)

    @contextmanager
    def row(self) -> Iterator[None]:
        """Read one record inside; if that fails, the next ones are still looked at."""
        try:
            yield
        except RecordError as error:
            self.wrong(str(error))

    def wrong(self, sentence: str) -> None:
        """Count a record that cannot be read; `found` will refuse all."""
        if len(self._wrong) < MOST_WRONG:
            self._wrong.append(sentence)
        else:
            self._wrong_more += 1

    def add(self, record: Record) -> None:
        """Check the record and take it as a row. Raises RecordError."""
        self._check_time(record)
        if record.seconds == 0:
            self.leave("they took no time", "nothing is owed for them", record.name)
            return
        external = self._external(record.key)
        said: dict[str, str] = {}
        try:
            row = self._row(record, external, said)
        except ValueError as error:
            if isinstance(error, RecordError):
                raise
            raise RecordError(f"{record.where}: {error}") from None
        known = self._entries.setdefault(external, row)
        if known is not row:
            self._leave_twin(record, differences(known, row))
            return
        self._uses.said[external] = said
        if row.price_source == "none":
            self.prices.miss(row.device, bare=record.count == 0)

    def _leave_twin(self, record: Record, differing: list[str]) -> None:
        if not differing:
            self.leave("the record holds them twice", "one is enough", record.name)
            return
        self.leave(
            "a row before has the same name and start and other figures",
            "give each run a name or a start of its own",
            f"{record.name}: {', '.join(differing)}",
        )

    def _row(self, record: Record, external: str, said: dict[str, str]) -> Entry:
        """The row; `said` is filled with how it took each of the terms."""
        terms, bare = self.terms, record.count == 0
        device = record.device or ("" if bare else terms.device or "")
        known = self.prices.gpu(device)
        count = record.count or (None if bare else terms.count) or 1
        if not 1 <= count <= MAX_COUNT:
            raise RecordError(
                f"{record.where}: {count} devices are not from 1 to {MAX_COUNT:,}: correct the file"
            )
        price, source, note = self._price(record, known, device)
        purpose = self._purpose(record)
        notes = [clip(masking.mask_text(record.note[: masking.LONGEST]), 400), note]
        if terms.device and record.device:
            alike = (known or device.lower()) == (
                self.prices.gpu(terms.device) or terms.device.lower()
            )
            said["device"] = outcome(alike, True)
        else:
            said["device"] = NO_GPU if bare else TAKEN
        said["count"] = NO_GPU if bare else outcome(record.count, terms.count)
        said["price"] = NO_GPU if bare else outcome(record.price, terms.price)
        said["project"] = outcome(clip(record.project, 100), terms.project)
        said["purpose"] = outcome(purpose, terms.purpose and purpose_named(terms.purpose))
        return Entry(
            run=f"{self.kind}:{clip(record.run, 200)}",
            attempt=self._external(record.attempt) if record.attempt else external,
            stage="import",
            purpose=purpose or self._purpose_else(),
            device=known or clip(device, 80) or ("CPU" if bare else "unknown"),
            count=count,
            price_per_hour=price,
            price_source=source,
            project=clip(record.project, 100) or terms.project or clip(record.project_else, 100),
            user=clip(record.user, 100),
            name=clip(record.name, 200),
            source=f"import:{self.kind}",
            external=external,
            parent=external_id(self._external(record.parent)) if record.parent else None,
            command=clip(masking.mask_text(record.command[: masking.LONGEST]), 1000),
            note="; ".join(filter(None, notes)),
            seconds=record.seconds,
            seconds_productive=record.kept,
            joules=record.joules,
            energy_source=record.energy_source,
            gpus=float(count) if not bare and (known or record.count) else 0.0,
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
        """All of it. Raises RecordError where a record could not be read, with up to MOST_WRONG."""
        if self._wrong:
            raise RecordError(self._refusal())
        left = []
        for (why, remedy), names in self._left.items():
            more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
            left.append(f"{len(names):,} left out, {why} ({', '.join(names[:3])}{more}): {remedy}.")
        assumed = [*self.prices.told(), *self._assumed]
        if len(assumed) > MOST_TOLD:
            assumed[MOST_TOLD:] = [f"And {len(assumed) - MOST_TOLD:,} more of the like."]
        return Found(list(self._entries.values()), left, assumed, self._uses)

    def _refusal(self) -> str:
        if len(self._wrong) == 1:
            return self._wrong[0]
        rows = len(self._wrong) + self._wrong_more
        more = [f"and {self._wrong_more:,} more."] if self._wrong_more else []
        lines = "\n  ".join([*self._wrong, *more])
        return f"{rows:,} records cannot be read, so none is taken:\n  {lines}"

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
        if record.count == 0 and (known or not device):  # of nothing, whatever one would cost
            return 0.0, "none", f"{NO_PRICE}: it held no GPU"
        if record.price is not None:
            price = within(record.price, f"{record.where}: the price", "US dollars", high=MAX_PRICE)
            return price, f"{self.kind} file", ""
        if record.count == 0:
            return 0.0, "none", f"{NO_PRICE}: it held no GPU"
        if self.terms.price is not None:
            return float(self.terms.price), "--price", ""
        if known:
            price, source = self.prices.rent(known, _day(record.started))
            if source:
                self.assume(
                    "Prices are the catalog's rents at the date of each run, where neither the "
                    "file nor --price says any: see price_source of each row."
                )
                return price, source, ""
        return 0.0, "none", NO_PRICE if known or not device else f"{NO_PRICE} for this device"

    def _purpose(self, record: Record) -> Purpose | None:
        """What the file says, by a column or a tag."""
        word = record.purpose.strip().lower()
        if word:
            return purpose_named(_PURPOSES.get(word, word))
        for tag in record.tags:
            word = tag.strip().lower()
            if (word := _PURPOSES.get(word, word)) in PURPOSES:
                return purpose_named(word)
        return None

    def _purpose_else(self) -> Purpose:
        if self.terms.purpose:
            return purpose_named(self.terms.purpose)
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


def _day(moment: float) -> str:
    try:
        return datetime.fromtimestamp(moment, UTC).date().isoformat()
    except (ValueError, OverflowError, OSError):
        return f"the unix time {moment:g}"
