"""The processor's counters: which are read, and how they wrap."""

from pathlib import Path

import pytest

from benthic.cost.metering.rapl import Rapl


def powercap(root: Path, **zones: tuple[str, int]) -> Path:
    """A sysfs with one folder a zone, given as name and microjoules."""
    for zone, (name, energy) in zones.items():
        folder = root / zone.replace("_", ":").replace("rapl", "intel-rapl", 1)
        folder.mkdir(parents=True)
        (folder / "name").write_text(f"{name}\n")
        (folder / "energy_uj").write_text(f"{energy}\n")
        (folder / "max_energy_range_uj").write_text("1000000000\n")
    return root


def test_rapl_counts_packages_only(tmp_path: Path) -> None:
    root = powercap(
        tmp_path,
        rapl_0=("package-0", 5_000_000),
        rapl_0_0=("core", 100),
        rapl_1=("package-1", 999_000_000),
        rapl_2=("psys", 100),
    )
    rapl = Rapl.find(root)
    assert rapl is not None and rapl.joules() == 0.0
    (root / "intel-rapl:0" / "energy_uj").write_text("7500000")
    (root / "intel-rapl:0:0" / "energy_uj").write_text("9900000")
    (root / "intel-rapl:2" / "energy_uj").write_text("9900000")
    assert rapl.joules() == pytest.approx(2.5)
    (root / "intel-rapl:1" / "energy_uj").write_text("1000000")  # wrapped at 1,000,000,000
    assert rapl.joules() == pytest.approx(2.5 + 2.0)
    assert rapl.joules() == pytest.approx(4.5)


def test_no_rapl_where_there_is_none(tmp_path: Path) -> None:
    assert Rapl.find(tmp_path / "nowhere") is None
    root = powercap(tmp_path, rapl_0=("package-0", 1))
    (root / "intel-rapl:0" / "energy_uj").unlink()
    assert Rapl.find(root) is None
