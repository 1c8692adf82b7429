"""The processor's own count of its energy (RAPL), where the kernel lets the user read it.

It counts all that the processor does, other people's work included, and nothing of memory, disks,
fans or accelerators. Source: Linux's powercap interface, one folder a package.
"""

import logging
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
_log = logging.getLogger(__name__)


class Rapl:
    """Energy of all processor packages since it was found. A counter wraps at some 260 kJ, which
    350 W fill in 12 minutes, and one turn between two readings is all that can be seen: call
    `joules` once a minute."""

    def __init__(self, packages: list[Path]) -> None:
        self._counters = [package / "energy_uj" for package in packages]
        self._ranges = [_microjoules(package / "max_energy_range_uj") for package in packages]
        self._last = [_microjoules(counter) for counter in self._counters]
        self._total = 0
        self._failed = False

    @classmethod
    def find(cls, root: Path) -> "Rapl | None":
        """The packages below `root`, or none where there are none or the user may not read them.

        The parts of a package, and `psys` which holds them all, would count energy twice.
        """
        try:
            zones = sorted(root.glob("intel-rapl:*"))
            packages = [z for z in zones if (z / "name").read_text().startswith("package")]
            return cls(packages) if packages else None
        except OSError:
            return None

    def joules(self) -> float:
        """Joules so far; where the counters stop to be readable, those until then, logged once."""
        try:
            now = [_microjoules(counter) for counter in self._counters]
        except (OSError, ValueError) as error:
            if not self._failed:
                _log.warning("The energy of this span is counted no further: %s", error)
            self._failed = True
            return self._total / 1e6
        for value, last, turn in zip(now, self._last, self._ranges, strict=True):
            self._total += value - last + (turn if value < last else 0)
        self._last = now
        return self._total / 1e6


def _microjoules(path: Path) -> int:
    return int(path.read_text())
