"""Files that are whole or not there: written under another name, flushed to disk, renamed.

A rename within a folder is atomic, and the folder is flushed after it, so after a kill or a power
cut a reader finds the old file or the new one. A name with `.partial-` is a leftover of a kill.
"""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # errors that room on the disk would mend
_LOCK = ".lock"


@contextmanager
def whole(target: Path) -> Iterator[Path]:
    """Where to make a file or folder, which gets the name `target` when the block ends well.

    OSError if `target` is there, before or after, or if another process is making it; then, as
    after any error, nothing of it stays. What killed processes left beside it is removed.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(target)) from None
    for left in target.parent.glob(f".partial-*{_LOCK}"):
        _remove_if_left(left)
    partial = target.with_name(f".partial-{target.name}")
    lock = FileLock(partial.with_name(partial.name + _LOCK))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BlockingIOError(
            errno.EWOULDBLOCK, "another process is writing it", str(target)
        ) from None
    try:
        _check_free(target)
        _remove(partial)
        yield partial
        _check_free(target)
        partial.rename(target)
        flush_folder(target.parent)
    finally:
        _remove(partial)
        _give_up(lock)


def _remove_if_left(file: Path) -> None:
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except (OSError, Timeout):
        return
    _remove(file.with_name(file.name.removesuffix(_LOCK)))
    _give_up(lock)


def _give_up(lock: FileLock) -> None:
    """Its file goes while it is still held: who opened it meanwhile finds it gone."""
    Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()


def _remove(partial: Path) -> None:
    if partial.is_dir():
        shutil.rmtree(partial, ignore_errors=True)
    else:
        partial.unlink(missing_ok=True)


def _check_free(target: Path) -> None:
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))


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
        with suppress(OSError):
            partial.unlink()
        raise OSError(error.errno, error.strerror, str(path)) from error


def flush_folder(folder: Path) -> None:
    """Make renames inside the folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
