"""What every benchmark prints first: machine, versions, and the command."""

import sys
from importlib.metadata import version
from statistics import median

from benthic.folder import machine


def heading(*packages: str) -> None:
    found = machine()
    print(f"# {' '.join(sys.argv)}")
    print(f"# {found['cpu']}, {found['cores']} cores, {found['memory_gib']} GiB, {found['system']}")
    print("# " + ", ".join(f"{name} {version(name)}" for name in ("torch", *packages)))


def spread(values: list[float], unit: str = "") -> str:
    """Median with least and greatest."""
    return f"{median(values):.4g}{unit} ({min(values):.4g} to {max(values):.4g})"
