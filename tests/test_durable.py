"""Files that are whole or not there, and what becomes of those that a killed process left."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benthic.durable import whole, write_atomically

DIES = """
import os, sys
from pathlib import Path
from benthic.durable import whole

with whole(Path(sys.argv[1])) as partial:
    partial.mkdir()
    (partial / "half").touch()
    os._exit(9)
"""


def test_a_name_comes_with_the_last_byte(tmp_path: Path) -> None:
    target = tmp_path / "new" / "file"
    with whole(target) as partial:
        partial.write_text("all")
        assert not target.exists()
    assert target.read_text() == "all" and list(target.parent.iterdir()) == [target]


def test_what_fails_is_gone(tmp_path: Path) -> None:
    with pytest.raises(KeyError), whole(tmp_path / "folder") as partial:
        partial.mkdir()
        (partial / "half").touch()
        raise KeyError
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.symlink_to("nowhere")
    with pytest.raises(FileExistsError), whole(target):
        raise AssertionError
    target.unlink()
    with pytest.raises(FileExistsError), whole(target) as partial:
        partial.write_text("ours")
        target.write_text("theirs")
    assert target.read_text() == "theirs" and list(tmp_path.iterdir()) == [target]


def test_a_text_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    write_atomically(tmp_path / "text", "old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*text'"):
        write_atomically(tmp_path / "text", "new")
    assert [p.name for p in tmp_path.iterdir()] == ["text"]
    assert (tmp_path / "text").read_text() == "old"


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError), whole(tmp_path / "file" / "name"):
        raise AssertionError


def test_one_at_a_time_writes_a_name(tmp_path: Path) -> None:
    with whole(tmp_path / "file") as partial:
        partial.write_text("first")
        with pytest.raises(BlockingIOError, match="another process"), whole(tmp_path / "file"):
            raise AssertionError
        with whole(tmp_path / "other") as beside:
            beside.write_text("second")
    texts = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert texts == {"file": "first", "other": "second"}


def test_what_was_killed_is_cleaned_up_by_the_next(tmp_path: Path) -> None:
    """Under its own name and under others, but not where somebody still writes."""
    root = Path(__file__).parents[1]
    for before, name in (("none", "one"), ("one", "two")):
        words = [sys.executable, "-c", DIES, str(tmp_path / name)]
        assert subprocess.run(words, check=False, cwd=root).returncode == 9
        assert (tmp_path / f".partial-{name}" / "half").exists()
        assert not (tmp_path / f".partial-{before}").exists()
    with whole(tmp_path / "two") as partial:
        assert not partial.exists()
        partial.touch()
        with whole(tmp_path / "three") as beside:
            beside.touch()
        assert partial.exists()
    assert sorted(os.listdir(tmp_path)) == ["three", "two"]
