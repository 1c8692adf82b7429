"""What the caller says of a file's runs: it fills gaps, and never goes before what the file says.

A device, a count, a price, a project or a purpose that a row has of its own stands, whatever was
given; a run that held no GPU takes neither device nor count nor price. `Uses` counts, for each flag
given, the rows that took it and those that say otherwise, so that the caller sees what it did.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import tzinfo

from benthic.cost.imports.record import RecordError, counted, within
from benthic.cost.ledger.entries import MAX_COUNT, MAX_PRICE
from benthic.cost.ledger.purposes import purpose_named

DAY = 86400.0
TAKEN, OTHER, SAME, NO_GPU = "taken", "other", "same", "no GPU"
_FLAGS = ("device", "count", "price", "project", "purpose")


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What holds for rows of which the file does not say it."""

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
            within(self.price, "--price", "US dollars an hour of one device", high=MAX_PRICE)
        if self.count is not None:
            within(self.count, "--count", "devices", low=1, high=MAX_COUNT)
        within(self.gap, "--gap", "seconds", low=1, high=DAY)
        if self.device is not None and not self.device.strip():
            raise RecordError("--device is empty: name one, like H100")
        if self.purpose is not None:
            try:
                purpose_named(self.purpose)
            except ValueError as error:
                raise RecordError(f"--{error}") from None


@dataclass
class Uses:
    """How the rows of a file took the terms."""

    terms: Terms
    said: dict[str, Mapping[str, str]] = field(default_factory=dict)
    """by key of a row, and by flag: TAKEN, OTHER, SAME or NO_GPU"""

    def told(self, keys: Iterable[str]) -> list[str]:
        """A sentence for each flag given, of the rows of those keys."""
        counts = Counter(how for key in keys for how in self.said[key].items())
        found = []
        for flag in _FLAGS:
            value = getattr(self.terms, flag)
            if value is None or value == "":
                continue
            shown = f"{value:g}" if isinstance(value, float) else value
            taken, other, bare = (counts[flag, how] for how in (TAKEN, OTHER, NO_GPU))
            found.append(
                f"--{flag} {shown} was used for {counted(taken)}; {counted(other)} "
                f"{'says' if other == 1 else 'say'} otherwise, which stands"
                + (f"; {counted(bare)} held no GPU." if bare else ".")
            )
        return found


def outcome(own: object, given: object) -> str:
    """How a row that says `own`, or nothing, takes what was given."""
    if own is None or own == "":
        return TAKEN
    return SAME if own == given else OTHER
