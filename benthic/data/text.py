"""Real text: the Python standard library on the user's own machine, or files that the user names.

The corpus is a list of documents (files), sorted by name, each on the training or the held-out side
by the hash of its name. `Corpus.sha256` covers names and bytes, so a resume on another corpus is
noticed.
"""

import hashlib
import sysconfig
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benthic.data.vocabulary import BYTES, Tokens, Vocabulary

HELD_OUT_SHARE = 0.05
_MANY = 40  # files, from which on they are split as wholes
LARGEST_BYTES = 2**30  # tokens are held in memory, two or four bytes each
# Parts of the standard library that are not prose or code to learn from: installed packages, tests,
# caches, generated tables of characters.
_SKIPPED = {
    "site-packages",
    "dist-packages",
    "__pycache__",
    "test",
    "tests",
    "idle_test",
    "encodings",
}
_TEXT_SUFFIXES = {
    ".txt",
    ".md",
    ".rst",
    ".py",
    ".tex",
    ".html",
    ".json",
    ".csv",
    ".xml",
    ".org",
    "",
}


@dataclass(frozen=True)
class Corpus:
    """Tokens of both sides: `<bos> text <eos>` a document, one after the other.

    `train_starts` int64: where the documents of the training side begin. The text itself is not
    kept: `vocabulary.bytes_of` gives it back.
    """

    name: str
    files: int
    bytes: int
    sha256: str
    train: Tokens
    held_out: Tokens
    train_starts: NDArray[np.int64]
    vocabulary: Vocabulary

    def describe(self) -> dict[str, str | int]:
        """What a manifest keeps of it."""
        return {
            "name": self.name,
            "files": self.files,
            "bytes": self.bytes,
            "sha256": self.sha256,
            "train_tokens": int(self.train.size),
            "held_out_tokens": int(self.held_out.size),
        }

    def scored(self, limit: int) -> Tokens:
        """The held-out tokens within `limit` bytes, a document's mark counted as one."""
        sizes = np.maximum(self.vocabulary.byte_lengths[self.held_out[:limit]], 1)
        return self.held_out[: int(np.searchsorted(np.cumsum(sizes), limit, side="right"))]


def load_corpus(paths: Sequence[Path] = (), vocabulary: Vocabulary = BYTES) -> Corpus:
    """The user's files and folders, or the standard library if none is named.

    Raises ValueError with one sentence for a missing, unreadable or empty path.
    """
    if not paths:
        root = Path(sysconfig.get_paths()["stdlib"])
        found = [(f.relative_to(root).as_posix(), f) for f in _python_files(root)]
        if not found:
            raise ValueError(
                f"the Python standard library has no sources under {root}: "
                "name your own text with --data PATH"
            )
        return _build("Python standard library", found, vocabulary, by_file=True)
    found = []
    for path in paths:
        if not (path.is_file() or path.is_dir()):
            raise ValueError(f"--data {path} does not exist: give a text file or a folder of them")
        if path.is_dir():
            inside = sorted(f for f in path.rglob("*") if _is_text(f, path))
            if not inside:
                raise ValueError(
                    f"--data {path} holds no text files "
                    f"({', '.join(sorted(_TEXT_SUFFIXES - {''}))}): "
                    "name the files themselves"
                )
            found += [(f"{path.name}/{f.relative_to(path).as_posix()}", f) for f in inside]
        else:
            found.append((path.name, path))
    distinct: dict[Path, tuple[str, Path]] = {}
    for label, file in found:
        distinct.setdefault(file.resolve(), (label, file))
    found = list(distinct.values())
    name = ", ".join(str(p) for p in paths)
    return _build(name, found, vocabulary, by_file=_splits_by_file(found))


def _python_files(root: Path) -> Iterable[Path]:
    for path in sorted(root.rglob("*.py")):
        if not _SKIPPED.intersection(path.relative_to(root).parts):
            yield path


def _is_text(path: Path, root: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
    return not hidden and path.is_file() and path.suffix.lower() in _TEXT_SUFFIXES


def _splits_by_file(found: list[tuple[str, Path]]) -> bool:
    """Whether there are many files and the hash holds out enough of them."""
    if len(found) < _MANY:
        return False
    sizes = [path.stat().st_size for _, path in found]
    out = sum(size for (label, _), size in zip(found, sizes) if _is_held_out(label))
    return out >= HELD_OUT_SHARE / 5 * sum(sizes)


def _is_held_out(label: str) -> bool:
    key = hashlib.blake2b(label.encode("utf-8", "replace"), digest_size=4).digest()
    return int.from_bytes(key, "big") < HELD_OUT_SHARE * 2**32


def _build(
    name: str, found: list[tuple[str, Path]], vocabulary: Vocabulary, *, by_file: bool
) -> Corpus:
    """Split by file where there are many; else hold out the last part of every file."""
    digest, total = hashlib.sha256(), 0
    sides: dict[bool, list[Tokens]] = {True: [], False: []}
    sizes = {True: 0, False: 0}  # bytes, two more for the marks of a document

    def add(side: bool, part: bytes) -> None:
        sides[side].append(vocabulary.document(part))
        sizes[side] += len(part) + 2

    for label, path in found:
        try:
            size = path.stat().st_size
            raw = path.read_bytes() if total + size <= LARGEST_BYTES else b""
        except OSError as error:
            raise ValueError(f"{path} cannot be read ({error.strerror}): leave it out") from error
        if total + max(size, len(raw)) > LARGEST_BYTES:
            raise ValueError(f"the text is larger than {LARGEST_BYTES >> 20} MiB: name fewer files")
        digest.update(f"{label}\0{len(raw)}\0".encode("utf-8", "replace") + raw)
        if not raw:
            continue
        if b"\0" in raw:
            if len(found) == 1:
                raise ValueError(
                    f"{path} is not text (it holds zero bytes): give a UTF-8 text file"
                )
            continue
        total += len(raw)
        if by_file:
            add(_is_held_out(label), raw)
        else:
            cut = int(len(raw) * (1 - HELD_OUT_SHARE))
            add(False, raw[:cut])
            add(True, raw[cut:])
    if sizes[False] < 10_000 or sizes[True] < 500:
        raise ValueError(
            f"{name} holds {total} bytes of text, too little to learn from and to test on: "
            "give at least 20 kB"
        )
    starts = np.cumsum([0, *(document.size for document in sides[False][:-1])])
    train, held_out = (np.concatenate(sides[out]) for out in (False, True))
    digits = digest.hexdigest()
    return Corpus(name, len(found), total, digits, train, held_out, starts, vocabulary)
