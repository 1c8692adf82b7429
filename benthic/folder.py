"""A run's folder: what lies where, manifest, results, and the lock that keeps others out.

recipe.toml and manifest.json are written once, at the start of an attempt; results.json and
metrics.jsonl grow; checkpoints/ holds the state. A command given again must agree with the recipe,
tasks, vocabulary and corpus that the folder was begun with. Files that no run made are never
touched, by --fresh neither.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
from filelock import FileLock, Timeout

from benthic import __version__
from benthic.config import Recipe, differences, from_tree, to_tree
from benthic.durable import write_atomically


class FolderError(RuntimeError):
    """One sentence naming the folder and the remedy."""


@dataclass(frozen=True)
class RunFolder:
    """recipe.toml, manifest.json, results.json, metrics.jsonl, checkpoints/, report.html."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    def recipe(self) -> Recipe:
        """The resolved recipe that the run was made with."""
        return from_tree(self._recipe_tree())

    def manifest(self) -> dict[str, Any]:
        return self._json("manifest.json")

    def results(self) -> dict[str, Any]:
        return self._json("results.json") if (self.path / "results.json").exists() else {}

    def keep(self, name: str, content: dict[str, Any]) -> None:
        """Replace `name`.json in one step."""
        write_atomically(self.path / f"{name}.json", json.dumps(content, indent=1))

    def exists(self) -> bool:
        return os.path.exists(self.path / "manifest.json")  # which a folder may keep to itself

    def begin(self, recipe: Recipe, facts: dict[str, Any]) -> None:
        """Lay out a new run: manifest last, so that a manifest means a whole layout."""
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path / "recipe.toml", tomli_w.dumps(to_tree(recipe)))
        started = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        self.keep("manifest", {"started": started, **facts})

    def check_recipe(self, recipe: Recipe) -> None:
        """Refuse to go on with another recipe."""
        changed = differences(self._recipe_tree(), to_tree(recipe))
        if changed:
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            raise FolderError(
                f"{self.path} was made with another recipe ({changed[0]}{more}): "
                "choose another --name, or start it anew with --fresh"
            )

    def check_tasks(self, digest: str) -> None:
        """Refuse to go on with other problems: `digest` as in the manifest."""
        if self.manifest().get("tasks_sha256") != digest:
            raise FolderError(
                f"{self.path} was made with other problems (the file has changed since): choose "
                "another --name, or start it anew with --fresh"
            )

    def check_vocabulary(self, vocabulary: dict[str, str]) -> None:
        """Refuse to go on with another vocabulary; a manifest that names none refuses none."""
        kept = self.manifest().get("vocabulary", vocabulary)
        if kept != vocabulary:
            raise FolderError(
                f"{self.path} was made with another vocabulary ({kept.get('name')} there, "
                f"{vocabulary['name']} here, or its files have changed since): give the one that "
                "it was made with, choose another --name, or start it anew with --fresh"
            )

    def check_corpus(self, corpus: dict[str, Any]) -> None:
        """Refuse to go on with another corpus."""
        kept = self.manifest().get("corpus", {})
        if kept.get("sha256") != corpus["sha256"]:
            raise FolderError(
                f"{self.path} was made with another corpus ({kept.get('bytes')} bytes of "
                f"{kept.get('name')} there, {corpus['bytes']} bytes of {corpus['name']} here): "
                "choose another --name, or start it anew with --fresh"
            )

    def clear(self) -> None:
        """Delete what a run made here, and only that."""
        if not self.path.exists():
            return
        foreign = [p for p in self.path.iterdir() if not _ours(p.name)]
        if foreign and not (self.path / "recipe.toml").exists():
            raise FolderError(
                f"{self.path} is not a run's folder (it holds {foreign[0].name}): "
                "choose another --name"
            )
        for child in self.path.iterdir():
            if child.name == "lock" or not _ours(child.name):
                continue
            shutil.rmtree(child) if child.is_dir() else child.unlink()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run's lock; FolderError if another process does."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / "lock")
            lock.acquire(timeout=0)
        except Timeout as error:
            raise FolderError(
                f"another process is running {self.path}: wait for it, or choose another --name"
            ) from error
        except OSError as error:
            raise FolderError(f"{self.path} cannot be written ({error.strerror})") from error
        try:
            yield
        finally:
            lock.release()

    def _recipe_tree(self) -> dict[str, Any]:
        path = self.path / "recipe.toml"
        try:
            return tomllib.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise FolderError(
                f"{path} cannot be read ({error}): is {self.path} a run's folder?"
            ) from error

    def _json(self, name: str) -> dict[str, Any]:
        path = self.path / name
        try:
            content = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise FolderError(
                f"{path} cannot be read ({error}): start the run anew with --fresh"
            ) from error
        if not isinstance(content, dict):
            raise FolderError(f"{path} is not a JSON object: start the run anew with --fresh")
        return content


def machine() -> dict[str, Any]:
    """Versions and hardware, as far as they can be read."""
    pages = os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    size = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
    return {
        "cpu": _processor(),
        "cores": os.cpu_count() or 1,
        "memory_gib": round(pages * size / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
    }


def versions() -> dict[str, Any]:
    from importlib.metadata import version

    return {
        "benthic": __version__,
        "commit": _commit(),
        "python": sys.version.split()[0],
        "torch": version("torch"),
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _ours(name: str) -> bool:
    files = {"recipe.toml", "manifest.json", "results.json", "metrics.jsonl", "report.html", "lock"}
    return name in files | {"checkpoints"} or name.startswith(".partial-")
