"""One JSON object a step, appended to `metrics.jsonl`; on resume, what was not saved is dropped.

Rows are written without waiting for the disk, so a kill may leave a last line cut short: it is left
out when read, and the step that it told of is told again by the resumed run.
"""

import json
from pathlib import Path
from typing import Any

from benthic.durable import write_atomically


def read(path: Path) -> list[dict[str, Any]]:
    """All whole rows; a last line cut short by a kill is left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return [row for row in rows if isinstance(row, dict)]


def rewind(path: Path, stage: str, steps: int) -> None:
    """Drop the stage's rows from `steps` on, so that a resumed run does not tell them twice."""
    rows = read(path)
    kept = [r for r in rows if r.get("stage") != stage or r.get("step", 0) <= steps]
    write_atomically(path, "".join(json.dumps(r) + "\n" for r in kept))


def append(path: Path, row: dict[str, Any]) -> None:
    """Add a row; OSError names the file where the disk refuses."""
    try:
        with open(path, "a") as file:
            file.write(json.dumps(row) + "\n")
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
