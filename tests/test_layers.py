"""Floors and rooms: a file imports from floors below, or on its own floor without a circle."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import benthic

ROOT = Path(benthic.__file__).parent
FLOORS = {
    5: {
        *("cli", "cli_cost", "cli_bill", "run", "session", "report", "console"),
        *("chat", "doctor", "inspect", "export", "card", "weights", "__main__"),
        "integrations",
    },
    4: {"reason", "evaluate"},
    3: {"train", "engine"},
    2: {"model", "data"},
    1: {
        *("config", "model.config", "hub", "folder", "durable", "cost", "recipes", "svg"),
        "__init__",
    },
}
FLOOR = {room: floor for floor, rooms in FLOORS.items() for room in rooms}
MODULES = {
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in ROOT.rglob("*.py")
}


def room(module: str) -> str:
    """`model.config` is a room of its own, as is a package that holds nothing but its name."""
    inside = module.removeprefix("benthic").removeprefix(".")
    return inside if inside == "model.config" else inside.partition(".")[0] or "__init__"


def imported(path: Path) -> Iterator[str]:
    """Every module that the file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative imports hide the floor"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else str(node.module)


def own(path: Path) -> list[str]:
    return [name for name in imported(path) if name.split(".")[0] == "benthic"]


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_file_has_a_floor_and_imports_from_none_above(module: str) -> None:
    here = FLOOR[room(module)]
    above = [name for name in own(MODULES[module]) if FLOOR[room(name)] > here]
    assert not above


def test_the_rooms_of_a_floor_form_no_circle() -> None:
    below: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        if module != "benthic":  # the door: it offers `meter`, but nothing leans on that
            below.setdefault(room(module), set()).update(room(name) for name in own(path))
    for name, others in below.items():
        others.discard(name)
    assert len(list(TopologicalSorter(below).static_order())) == len(FLOOR)


def test_training_and_inference_do_not_know_each_other() -> None:
    for module, path in MODULES.items():
        neighbour = {"train": "engine", "engine": "train"}.get(room(module))
        assert neighbour not in {room(name) for name in own(path)}


@pytest.mark.parametrize("module", [m for m in sorted(MODULES) if FLOOR[room(m)] == 1])
def test_the_first_floor_names_no_torch(module: str) -> None:
    assert not [name for name in imported(MODULES[module]) if name.split(".")[0] == "torch"]


def test_the_first_floor_loads_no_torch() -> None:
    first = [module for module in sorted(MODULES) if FLOOR[room(module)] == 1]
    code = f"import sys, {', '.join(first)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["run", "no-such-recipe"]])
def test_help_and_a_typing_error_load_no_torch(words: list[str]) -> None:
    code = (
        "import sys\n"
        "from benthic.cli import main\n"
        f"sys.argv = ['benthic', *{words!r}]\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "sys.exit(50 + ('torch' in sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 50
