"""What a device costs an hour where neither file nor caller says: the catalog's rents.

The rent is that of the run's date, else the newest. A device that the catalog knows no rent of
costs 0, which is told with the device and the number of rows; one that the caller names, like
--device h9000, is refused, as the meter refuses it, unless a price is given with it.
"""

from collections import Counter
from dataclasses import dataclass, field

from benthic.cost.catalog.load import Catalog, CostError
from benthic.cost.imports.record import RecordError, clip, counted

NO_PRICE = "no price"


@dataclass
class Prices:
    """The catalog's names and rents, looked up once each, and what stands at nothing."""

    catalog: Catalog = field(default_factory=Catalog)
    _gpus: dict[str, str | None] = field(default_factory=dict)
    _rents: dict[tuple[str, str], tuple[float, str]] = field(default_factory=dict)
    _unpriced: Counter[str] = field(default_factory=Counter)
    _bare: int = 0

    def gpu(self, text: str) -> str | None:
        """The catalog's name of a GPU, or None where it knows none of that name."""
        if text not in self._gpus:
            try:
                self._gpus[text] = self.catalog.gpu(text).name if text.strip() else None
            except CostError:
                self._gpus[text] = None
        return self._gpus[text]

    def check(self, device: str) -> None:
        """Refuse a device, given without a price, that has no rent. Raises RecordError."""
        if device.strip().lower() == "cpu":
            return
        name = self.gpu(device)
        try:
            if name is None:
                self.catalog.gpu(device)
        except CostError as error:
            raise RecordError(f"--device: {error}; or give --price") from None
        if name and not self.rent(name, "")[1]:
            raise RecordError(f"--device: no rent is known for {name}: give --price")

    def rent(self, gpu: str, day: str) -> tuple[float, str]:
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
        return self._rents[gpu, day]

    def miss(self, device: str, *, bare: bool) -> None:
        """Count a row that stands at nothing; `bare`: it held no GPU."""
        if bare:
            self._bare += 1
        else:
            self._unpriced[device] += 1

    def told(self) -> list[str]:
        """What stands at nothing, and what can be done."""
        found, rows = [], self._unpriced.total()
        if rows:
            named = [
                f"{count:,} on {clip(device, 40) if device != 'unknown' else 'a device not named'}"
                for device, count in self._unpriced.most_common(3)
            ]
            more = len(self._unpriced) - len(named)
            named += [f"the rest on {more:,} more"] if more > 0 else []
            found.append(
                f"{counted(rows)} without a price {_count(rows)} 0 dollars ({', '.join(named)}): "
                "write a price into the file, give --price in US dollars an hour of one device, "
                "or, where none is named, --device with a GPU that the catalog has rents of."
            )
        if self._bare:
            found.append(
                f"{counted(self._bare)} held no GPU and {_count(self._bare)} 0 dollars, since what "
                "a core costs is not known: put right with 'benthic cost amend ID' what did cost."
            )
        return found


def _count(rows: int) -> str:
    return "counts" if rows == 1 else "count"
