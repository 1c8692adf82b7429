"""Files that are whole or not there: written under another name, flushed to disk, renamed.

A rename within a folder is atomic, and the folder is flushed after it, so after a kill or a power
cut a reader finds the old file or the new one. A name with `.partial-` is a leftover of a kill.
"""

import os
from pathlib import Path


def write_durably(path: Path, data: bytes) -> None:
    """Write and flush to disk."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_atomically(path: Path, text: str) -> None:
    """Replace a small text file in one step; OSError names it where the disk refuses."""
    partial = path.with_name(f".partial-{path.name}")
    try:
        write_durably(partial, text.encode("utf-8", "replace"))
        partial.replace(path)
        flush_folder(path.parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def flush_folder(folder: Path) -> None:
    """Make renames inside the folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
