"""The catalog: every figure a plan needs, with range, unit, source, date and confidence.

`catalog/*.csv` is the data. Figures are long, one row each: key,value,low,high,unit,source,date,
confidence,note. Prices are observations: `rent.<gpu>` (also `.1y`, `.3y`: by contract) and
`purchase.<gpu>` hold many rows that differ by date. Tables of runs and of their shapes stay wide.
A user's own file has the columns of the figures (key, value and unit suffice) and overrides by key;
a new name with all of NEEDED is a GPU of the user's own.

Everything is in US dollars: a file in another currency is refused, since a rate has a date too.
No torch, no numpy; shipped files are read when first asked for.
"""

import csv
import difflib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date as Day
from functools import cached_property
from pathlib import Path

from benthic.cost.catalog.figures import (
    COLUMNS,
    UNITS,
    CostError,
    Figure,
    cells_of,
    days,
    figure_of,
    quoted,
    summary,
    wrong_unit,
)

__all__ = ["Catalog", "CostError", "Figure", "Gpu", "load"]

FOLDER = Path(__file__).parent
FIGURES = ("hardware", "purchases", "rents", "site", "finance", "staff", "reliability", "research")
TABLES = {
    "runs": "training_runs",
    "run_shapes": "run_shapes",
    "gpus": "gpus",
}
_GPUS = "benthic/cost/catalog/gpus.csv"
DATED = ("rent.", "purchase.")  # keys of observations: several rows, told apart by their dates

_MEMORY = re.compile(r"[-_ ]\d{1,4} ?gb\s*$", re.I)  # drivers put it behind the name
_VENDORS = re.compile(r"nvidia|amd|google|huawei|intel|apple|geforce|tesla|instinct|[^a-z0-9]")

GPU_FIELDS = {  # what a key <gpu>.<field> measures
    "bf16_flops": "FLOP/s",
    "fp16_flops": "FLOP/s",
    "fp8_flops": "FLOP/s",
    "memory": "bytes",
    "visible": "bytes",
    "bandwidth": "bytes/s",
    "scale_up": "bytes/s",
    "scale_out": "bytes/s",
    "tdp": "W",
    "server_watts": "W",
    "per_node": "GPU",
    "gpu_price": "USD",
    "server_capex": "USD",
}
NEEDED = ("bf16_flops", "memory", "bandwidth", "server_watts", "per_node")


@dataclass(frozen=True)
class Gpu:
    """An accelerator; rates are dense peaks, bandwidths go one way, bytes are SI.

    `memory` is what it is sold with, `visible` what a program can have of it: HBM is sold in GB and
    counts in GiB, error correction of GDDR6 takes a sixteenth.
    `scale_up` joins the `per_node` devices of a server, of a rack (NVL72) or of a pod (TPU); it is
    None where only PCIe does. `scale_out` is each device's share of the network. `server_watts` is
    the rated draw of the server divided by its devices.
    """

    name: str
    bf16_flops: float
    fp8_flops: float | None
    fp16_flops: float
    memory: float
    visible: float
    bandwidth: float
    scale_up: float | None
    scale_out: float | None
    server_watts: float
    per_node: int
    release: str
    vendor: str = ""

    @property
    def has_bf16(self) -> bool:
        """Whether its matrix units know bf16; where not, `bf16_flops` is the rate of fp32, which is
        what bf16 falls back to."""
        return self.bf16_flops >= self.fp16_flops

    @property
    def peak(self) -> float:
        """FLOP/s that a utilisation is a share of: the faster of bf16 and fp16."""
        return max(self.bf16_flops, self.fp16_flops)


class Catalog:
    """The shipped figures under the user's own."""

    def __init__(self, overrides: Sequence[Path] = ()) -> None:
        self._tables: dict[str, list[dict[str, str]]] = {}
        self._own: dict[str, list[Figure]] = {}
        self._read = set[str]()
        named: dict[str, tuple[str, str]] = {}
        for path in overrides:
            rows = list(cells_of(path, ("key", "value", "unit")))
            named |= self._define(path, rows)
            self._own |= _group(self._accepted(path, rows))
        for name, (where, hint) in named.items():
            lacking = [field for field in NEEDED if f"{name}.{field}" not in self._own]
            if lacking:
                raise CostError(
                    f"{where}: no GPU is called {quoted(name)}, and one of your own needs "
                    f"{', '.join(f'{quoted(name)[1:-1]}.{field}' for field in lacking)} too: "
                    f"{hint or 'give them'}"
                )

    def figure(self, key: str, date: str | None = None) -> Figure:
        """The figure of `key`; where it has dated observations, those up to `date` (YYYY[-MM[-DD]],
        by default the newest) as one. Other keys have one row, whatever the date.

        Such a summary is `figures.summary`.
        """
        found = self._rows(self._canonical(key))
        if not found:
            raise CostError(f"no figure is called {quoted(key)}: {self._nearest_key(key)}")
        if not found[0].key.startswith(DATED):
            return found[0]
        return summary(found, days(date)[1] if date else Day.max)

    def get(self, key: str) -> Figure | None:
        """The figure of `key`, or None where the catalog has none."""
        return self.figure(key) if self._rows(self._canonical(key)) else None

    def observations(self, key: str) -> list[Figure]:
        """Every row of `key`, oldest first; empty where the catalog has none."""
        found = self._rows(self._canonical(key))
        return sorted(found, key=lambda row: days(row.date)[0] if row.date else Day.min)

    def rent(self, gpu: str, date: str | None = None) -> Figure:
        """USD per GPU-hour on demand at `date`, by default at the newest there is."""
        name = self._entry(gpu)["name"]
        key = f"rent.{name.lower()}"
        if not self._rows(key):
            raise CostError(
                f"no rent is known for {name}: give one in a file with the row {key},<price>,USD/h"
            )
        return self.figure(key, date)

    def gpu(self, name: str) -> Gpu:
        """The GPU of that name or alias, whatever its case, hyphens or vendor's prefix; the memory
        that drivers put behind the name may be there."""
        entry = self._entry(name)
        own = entry["name"].lower()

        def base(field: str) -> float | None:
            found = self._rows(f"{own}.{field}")
            return found[0].si if found else None

        def known(field: str) -> float:
            return self.figure(f"{own}.{field}").si

        bf16, memory = known("bf16_flops"), known("memory")
        whole = f"{own}.memory" in self._own and f"{own}.visible" not in self._own
        return Gpu(
            name=entry["name"],
            bf16_flops=bf16,
            fp8_flops=base("fp8_flops"),
            fp16_flops=base("fp16_flops") or bf16,
            memory=memory,
            visible=memory if whole else base("visible") or memory,
            bandwidth=known("bandwidth"),
            scale_up=base("scale_up"),
            scale_out=base("scale_out"),
            server_watts=known("server_watts"),
            per_node=round(known("per_node")),
            release=entry["release"],
            vendor=entry["vendor"],
        )

    def gpu_name(self, name: str) -> str:
        """The catalog's own name of the GPU of that name or alias; reads none of its figures."""
        return self._entry(name)["name"]

    def unread(self, but: Sequence[str] = ()) -> list[str]:
        """Keys of the user's own files that nothing has asked for, or `but` those, sorted."""
        return sorted(self._own.keys() - (self._read - set(but)))

    def gpus(self) -> list[str]:
        """The names of all GPUs, in the order of the table."""
        return [row["name"] for row in self.table("gpus")]

    def keys(self) -> list[str]:
        """Every key that has a figure, sorted."""
        return sorted(self._shipped.keys() | self._own.keys())

    def table(self, name: str) -> list[dict[str, str]]:
        """A wide table, one dictionary of texts a row; the names are those of TABLES."""
        if name not in TABLES:
            raise CostError(f"no table is called {quoted(name)}: there are {', '.join(TABLES)}")
        if name not in self._tables:
            with (FOLDER / f"{TABLES[name]}.csv").open(newline="", encoding="utf-8") as file:
                self._tables[name] = list(csv.DictReader(file))
        return self._tables[name]

    @cached_property
    def _shipped(self) -> dict[str, list[Figure]]:
        files = [FOLDER / f"{name}.csv" for name in FIGURES]
        return _group(
            figure_of(cells, f"{path}, line {line}")
            for path in files
            for line, cells in cells_of(path, COLUMNS)
        )

    @cached_property
    def _names(self) -> dict[str, dict[str, str]]:
        """Each GPU's row of the table, by its plain names."""
        return {
            _plain(name): row
            for row in self.table("gpus")
            for name in (row["name"], *row["aliases"].split())
        }

    def _define(
        self, path: Path, rows: Iterable[tuple[int, dict[str, str]]]
    ) -> dict[str, tuple[str, str]]:
        """Make known the GPUs that no table has: where each is named, and what is near, by name."""
        found: dict[str, tuple[str, str]] = {}
        for line, cells in rows:
            name, _, field = cells["key"].lower().partition(".")
            new = field in GPU_FIELDS and name not in ("rent", "purchase") and _plain(name)
            if new and new not in self._names:
                found[name] = f"{path}, line {line}", self._near(name)
                today = f"{Day.today():%Y-%m}"  # that it is there to be planned on
                self._names[new] = {"name": name, "vendor": "", "release": today}
        return found

    def _entry(self, name: str) -> dict[str, str]:
        for called in (name[:80], _MEMORY.sub("", name[:80])):
            if found := self._names.get(_plain(called)):
                return found
        known = self.gpus()
        some = f"take {known[0]}, {known[1]} or another of the {len(known)} in {_GPUS}"
        raise CostError(f"no GPU is called {quoted(name)}: {self._near(name) or some}")

    def _near(self, name: str) -> str:
        """What may have been meant; empty where nothing is near."""
        near = difflib.get_close_matches(_plain(name[:80]), self._names, n=3, cutoff=0.6)
        likely = dict.fromkeys(self._names[plain]["name"] for plain in near)
        return f"did you mean {' or '.join(likely)}?" if likely else ""

    def _canonical(self, key: str) -> str:
        """The key with its GPU under the name that the files use: rent.h100 -> rent.h100-sxm."""
        if key in self._shipped or key in self._own:
            return key
        parts = key.strip().lower().split(".")
        place = 1 if parts[0] in ("rent", "purchase") else 0
        if len(parts) > 1 and (entry := self._names.get(_plain(parts[place]))):
            parts[place] = entry["name"].lower()
        return ".".join(parts)

    def _rows(self, key: str) -> list[Figure]:
        self._read.add(key)
        return self._own.get(key) or self._shipped.get(key, [])

    def _kind(self, key: str) -> str | None:
        """What a figure of that key measures; None where the key can have none."""
        if key in self._shipped:
            return UNITS[self._shipped[key][0].unit].kind
        first, _, rest = key.partition(".")
        if first in ("rent", "purchase"):
            gpu, _, term = rest.partition(".")
            known = _plain(gpu) in self._names and term in ("", "1y", "3y")
            return ("USD/h" if first == "rent" else "USD") if known else None
        return GPU_FIELDS.get(rest) if _plain(first) in self._names else None

    def _nearest_key(self, key: str) -> str:
        near = difflib.get_close_matches(self._canonical(key[:80]), self.keys(), n=1, cutoff=0.4)
        return f"did you mean {near[0]}?" if near else "Catalog.keys() names all there are"

    def _accepted(self, path: Path, rows: Iterable[tuple[int, dict[str, str]]]) -> Iterator[Figure]:
        """The rows of a user's file, in the units of the shipped ones."""
        seen: dict[tuple[str, str], int] = {}
        for line, cells in rows:
            where, named = f"{path}, line {line}", cells["key"]
            if not named:
                raise CostError(f"{where} has no key: name the figure in the column key")
            key = self._canonical(named)
            kind = self._kind(key)
            if kind is None:
                nearest = self._nearest_key(named)
                raise CostError(f"{where}: no figure is called {quoted(named)}: {nearest}")
            if cells["unit"] not in UNITS or UNITS[cells["unit"]].kind != kind:
                raise CostError(f"{where}: {key} is {wrong_unit(cells['unit'], kind)}")
            row = figure_of(cells, where)
            if kind == "GPU" and row.value != round(row.value):
                raise CostError(f"{where}: {key} is {row.value:g}: give a whole number")
            twin = (key, row.date if key.startswith(DATED) else "")
            if twin in seen:
                raise CostError(f"{where}: {key} stands in line {seen[twin]} too: keep one")
            seen[twin] = line
            shipped = self._shipped.get(key)
            scale = UNITS[row.unit].scale / UNITS[shipped[0].unit].scale if shipped else 1
            yield replace(
                row,
                key=key,
                value=row.value * scale,
                low=row.low * scale,
                high=row.high * scale,
                unit=shipped[0].unit if shipped else row.unit,
            )


def load(overrides: Sequence[Path] = ()) -> Catalog:
    """The catalog; of `overrides`, files of the user's own, a later one wins. CostError names the
    file, the line and the remedy."""
    return Catalog([Path(path) for path in overrides])


def _group(rows: Iterable[Figure]) -> dict[str, list[Figure]]:
    found: dict[str, list[Figure]] = defaultdict(list)
    for row in rows:
        found[row.key].append(row)
    return dict(found)


def _plain(name: str) -> str:
    """A name of a GPU without case, signs and vendor: NVIDIA GeForce RTX 4090 -> rtx4090."""
    return _VENDORS.sub("", name.lower())
