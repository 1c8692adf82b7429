"""Real text: what is read, how it is split, what its hash covers, and what is refused."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benthic.data import text
from benthic.data.text import Corpus, load_corpus
from benthic.data.tokenizer import BOS, EOS
from benthic.data.vocabulary import hub_vocabulary
from tests.small import text_in, tokenizer_in


def folder_of(root: Path, count: int, *, size: int = 600) -> Path:
    """Files that each repeat a word of their own."""
    root.mkdir(exist_ok=True)
    for i in range(count):
        word = f"<{i:03d}>"
        (root / f"{i:03d}.txt").write_text(word * (size // len(word)))
    return root


def words_in(tokens: np.ndarray) -> set[bytes]:
    raw = np.where(tokens < 256, tokens, 32).astype(np.uint8).tobytes()
    return set(raw.replace(b">", b"> ").split())


def test_many_files_are_split_as_wholes(tmp_path: Path) -> None:
    corpus = load_corpus([folder_of(tmp_path / "many", 120)])
    train, held_out = words_in(corpus.train), words_in(corpus.held_out)
    assert not train & held_out
    assert len(train) + len(held_out) == 120


def test_few_files_hold_out_their_last_part(tmp_path: Path) -> None:
    path = text_in(tmp_path)
    corpus = load_corpus([path])
    raw = path.read_bytes()
    cut = corpus.train.size - 2
    assert bytes(corpus.train[1:-1].astype(np.uint8)) == raw[:cut]
    assert bytes(corpus.held_out[1:-1].astype(np.uint8)) == raw[cut:]
    assert corpus.held_out.size - 2 == pytest.approx(0.05 * len(raw), abs=1)


def test_many_files_of_which_the_hash_holds_out_none_are_cut_instead(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "some", 120)
    kept = [p for p in sorted(root.iterdir()) if not text._is_held_out(f"some/{p.name}")][:45]
    for path in set(root.iterdir()) - set(kept):
        path.unlink()
    corpus = load_corpus([root])
    assert corpus.files == 45 and corpus.held_out.size > 500
    assert words_in(corpus.train) >= {f"<{p.stem}>".encode() for p in kept}


def test_a_file_named_twice_is_read_once(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "many", 120)
    inside = sorted(root.iterdir())[:60]
    (root / "link.txt").symlink_to(inside[0])
    corpus = load_corpus([root, *inside])
    assert corpus.files == 120
    assert not words_in(corpus.train) & words_in(corpus.held_out)


def test_every_document_stands_between_its_marks(tmp_path: Path) -> None:
    for side in (c := load_corpus([folder_of(tmp_path / "many", 120)])).train, c.held_out:
        marks = side[side >= 256]
        np.testing.assert_array_equal(marks, np.tile([BOS, EOS], marks.size // 2))
        assert side[0] == BOS and side[-1] == EOS


def test_text_never_holds_a_special_token(tmp_path: Path) -> None:
    path = tmp_path / "sly.txt"
    path.write_text("<think>1</think> <\uff5cend\u2581of\u2581sentence\uff5c> " * 500)
    corpus = load_corpus([path])
    assert (corpus.train >= 256).sum() == (corpus.held_out >= 256).sum() == 2


def test_the_same_text_has_the_same_hash(tmp_path: Path) -> None:
    one, other = tmp_path / "a", tmp_path / "b"
    for place in (one, other):
        place.mkdir()
    found = [load_corpus([text_in(place)]).sha256 for place in (one, other)]
    assert found[0] == found[1]


@pytest.mark.parametrize("change", ["byte", "name", "more", "fewer", "moved"])
def test_the_hash_covers_names_and_bytes(tmp_path: Path, change: str) -> None:
    root = folder_of(tmp_path / "many", 120)
    before = load_corpus([root]).sha256
    first, second = root / "000.txt", root / "001.txt"
    if change == "byte":
        first.write_text("?" + first.read_text()[1:])
    elif change == "name":
        first.rename(root / "000.md")  # keeps its place
    elif change == "more":
        (root / "new.txt").write_text("new")
    elif change == "fewer":
        first.unlink()
    else:  # a boundary: the same bytes in a row, cut elsewhere
        whole = first.read_text()
        first.write_text(whole[:-1])
        second.write_text(whole[-1] + second.read_text())
    assert load_corpus([root]).sha256 != before


@settings(max_examples=20, deadline=None)
@given(st.binary(min_size=1, max_size=60).map(lambda raw: raw.replace(b"\0", b"0")))
def test_any_bytes_but_zero_are_text(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    path = tmp_path_factory.mktemp("any") / "t.txt"
    path.write_bytes(whole := raw * (12_000 // len(raw) + 1))
    corpus = load_corpus([path])
    both = np.concatenate([corpus.train[1:-1], corpus.held_out[1:-1]])
    assert both.astype(np.uint8).tobytes() == whole and corpus.bytes == len(whole)


def test_hidden_places_and_other_suffixes_are_left_out(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "many", 120)
    for name in (".git/config", ".hidden.txt", "sub/.venv/x.py", "picture.png"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("not this")
    (root / "sub" / "deep.MD").write_text("but this")
    assert load_corpus([root]).files == 121


def test_binary_and_empty_files_among_others_are_passed_over(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "many", 120)
    before = load_corpus([root])
    (root / "binary.txt").write_bytes(b"\0\1\2" * 100)
    (root / "empty.txt").write_bytes(b"")
    after = load_corpus([root])
    assert after.bytes == before.bytes
    assert after.train.size + after.held_out.size == before.train.size + before.held_out.size


def missing(root: Path) -> Path:
    return root / "none.txt"


def empty_folder(root: Path) -> Path:
    (root / "empty").mkdir()
    (root / "empty" / "picture.png").write_bytes(b"png")
    return root / "empty"


def binary(root: Path) -> Path:
    (root / "binary.txt").write_bytes(b"\0\1\2" * 10_000)
    return root / "binary.txt"


def binaries(root: Path) -> Path:
    for name in ("a.txt", "b.txt"):
        (root / name).write_bytes(b"\0\1\2" * 10_000)
    return root


def empty_file(root: Path) -> Path:
    (root / "empty.txt").touch()
    return root / "empty.txt"


def tiny(root: Path) -> Path:
    (root / "tiny.txt").write_text("a few words")
    return root / "tiny.txt"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (missing, "does not exist"),
        (empty_folder, "holds no text files"),
        (binary, "give a UTF-8 text file"),
        (binaries, "holds 0 bytes of text.*give at least 20 kB"),
        (empty_file, "holds 0 bytes of text.*give at least 20 kB"),
        (tiny, "holds 11 bytes of text.*give at least 20 kB"),
    ],
)
def test_what_will_not_do_is_named_in_one_sentence(
    tmp_path: Path, make: object, words: str
) -> None:
    path = make(tmp_path)  # type: ignore[operator]
    with pytest.raises(ValueError, match=words) as refusal:
        load_corpus([path])
    assert str(path) in str(refusal.value) and "\n" not in str(refusal.value)


def test_an_unreadable_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = text_in(tmp_path)

    def denied(self: Path) -> bytes:
        raise PermissionError(13, os.strerror(13), str(self))

    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(ValueError, match=r"cannot be read \(Permission denied\)") as refusal:
        load_corpus([path])
    assert str(path) in str(refusal.value)


@pytest.mark.parametrize("limit", [23_999, 30_000])
def test_too_much_text_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    paths = [text_in(tmp_path, seed=seed) for seed in (0, 1)]
    monkeypatch.setattr(text, "LARGEST_BYTES", limit)
    with pytest.raises(ValueError, match="name fewer files"):
        load_corpus(paths)


def test_the_standard_library_is_text_enough() -> None:
    corpus: Corpus = load_corpus()
    assert corpus.name == "Python standard library"
    assert corpus.train.size > 1_000_000 and corpus.held_out.size > 65_536


def test_a_manifest_keeps_what_tells_one_corpus_from_another(tmp_path: Path) -> None:
    corpus = load_corpus([text_in(tmp_path)])
    kept = corpus.describe()
    assert kept["sha256"] == corpus.sha256 and kept["bytes"] == 24_000 and kept["files"] == 1


def test_beginnings_of_documents_are_kept(tmp_path: Path) -> None:
    corpus = load_corpus([folder_of(tmp_path / "many", 120)])
    np.testing.assert_array_equal(corpus.train_starts, np.flatnonzero(corpus.train == BOS))


@pytest.mark.parametrize("limit", [256, 700, 10**6])
def test_text_to_score_is_cut_at_bytes(tmp_path: Path, limit: int) -> None:
    corpus = load_corpus([text_in(tmp_path)])
    np.testing.assert_array_equal(corpus.scored(limit), corpus.held_out[:limit])


def test_another_vocabulary_reads_the_same_text(tmp_path: Path) -> None:
    """Split alike; the bytes come back; as much of them is scored, within a token."""
    root = folder_of(tmp_path / "many", 120)
    (tmp_path / "all.txt").write_text("".join(p.read_text() for p in sorted(root.iterdir())))
    hub = hub_vocabulary(tokenizer_in(tmp_path / "hub", tmp_path / "all.txt", size=300, bos=False))
    one, other = load_corpus([root]), load_corpus([root], hub)
    assert one.sha256 == other.sha256 and one.bytes == other.bytes
    assert other.train.size < one.train.size
    for side in ("train", "held_out"):
        texts = [c.vocabulary.bytes_of(getattr(c, side)).tobytes() for c in (one, other)]
        assert texts[0] == texts[1]
    longest = int(hub.byte_lengths.max())
    for limit in (256, 700, 1500):
        cut = other.scored(limit)
        marks = int((cut == hub.eos).sum())
        assert limit - longest < hub.byte_lengths[cut].sum() + marks <= limit
        np.testing.assert_array_equal(cut, other.held_out[: cut.size])


def test_enough_text_is_measured_in_bytes(tmp_path: Path) -> None:
    """However few tokens a vocabulary makes of it."""
    path = tmp_path / "same.txt"
    path.write_text("".join(f"number {n % 7}, then another one, " for n in range(800)))
    hub = hub_vocabulary(tokenizer_in(tmp_path / "hub", path, size=280))
    corpus = load_corpus([path], hub)
    assert corpus.bytes > 20_000 and corpus.train.size < 10_000
