"""Exact, atomic, resumable state: a flat set of tensors (safetensors) and a JSON beside it.

A checkpoint is a folder `<stage>-<step>`; it is written under another name, flushed to disk and
renamed, so a folder with the right name is whole. One that is written again is renamed aside until
the new one stands, and read from there meanwhile. The JSON keeps the hash of the tensors' file: a
checkpoint that was cut short later is noticed. Nothing here depends on the number of ranks.
"""

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load as load_tensors
from safetensors.torch import save as dump_tensors
from torch import Tensor

from benthic.durable import flush_folder, write_durably

TENSORS, FACTS = "state.safetensors", "state.json"
_ASIDE = ".replaced-"


class CheckpointError(RuntimeError):
    """One sentence naming the file and the remedy."""


@dataclass(frozen=True)
class State:
    """What a stage needs to continue exactly; `facts` holds numbers and strings only."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]


def path_of(folder: Path, stage: str, step: int) -> Path:
    """Where the checkpoint lies: under its name, or aside if its replacement was cut short."""
    path = folder / f"{stage}-{step:07d}"
    aside = _aside(path)
    return aside if aside.exists() and not path.exists() else path


def save(folder: Path, stage: str, step: int, state: State, *, keep: int = 2) -> Path:
    """Write a checkpoint, then delete the stage's oldest beyond `keep`.

    Raises CheckpointError if the disk is full or not writable; what stood before can still be
    read, one of the same step included, until the new one stands in its place.
    """
    target = folder / f"{stage}-{step:07d}"
    partial = folder / f".partial-{target.name}"
    for left in folder.glob(".partial-*"):  # of a process that was killed while writing
        shutil.rmtree(left, ignore_errors=True)
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        blob = dump_tensors({k: v.contiguous() for k, v in sorted(state.tensors.items())})
        facts = {**state.facts, "step": step, "sha256": hashlib.sha256(blob).hexdigest()}
        write_durably(partial / TENSORS, blob)
        write_durably(partial / FACTS, json.dumps(facts, indent=1).encode())
        if target.exists():
            shutil.rmtree(_aside(target), ignore_errors=True)
            target.rename(_aside(target))
        partial.rename(target)
        flush_folder(folder)
        shutil.rmtree(_aside(target), ignore_errors=True)
        for old in steps_of(folder, stage)[:-keep]:
            path = path_of(folder, stage, old)
            shutil.rmtree(path)
            shutil.rmtree(_aside(path), ignore_errors=True)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(
            f"the checkpoint {target} cannot be written ({error.strerror}): make room or give "
            "another --out, then give the same command again, without --fresh; the rest is intact"
        ) from error
    return target


def load(path: Path) -> State:
    """Read and verify a checkpoint; CheckpointError if it is missing, cut short or altered."""
    remedy = "delete that folder to go on from the checkpoint before it, or start with --fresh"
    try:
        facts = json.loads((path / FACTS).read_bytes())
        blob = (path / TENSORS).read_bytes()
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"the checkpoint {path} cannot be read ({error}): {remedy}"
        ) from error
    if not isinstance(facts, dict) or hashlib.sha256(blob).hexdigest() != facts.get("sha256"):
        raise CheckpointError(
            f"the checkpoint {path} is cut short or altered ({len(blob)} bytes do not match its "
            f"hash): {remedy}"
        )
    return State(load_tensors(blob), facts)


def steps_of(folder: Path, stage: str) -> list[int]:
    """Steps at which the stage has a whole checkpoint, ascending."""
    found = set()
    for prefix in (f"{stage}-", f"{_ASIDE}{stage}-"):
        for path in folder.glob(f"{prefix}*"):
            number = path.name.removeprefix(prefix)
            if path.is_dir() and number.isdigit():
                found.add(int(number))
    return sorted(found)


def _aside(path: Path) -> Path:
    return path.with_name(f"{_ASIDE}{path.name}")
