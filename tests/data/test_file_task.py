"""The user's own problems: the split holds, and a bad line is named in one sentence."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benthic.config import DataConfig, ReasonConfig, Recipe
from benthic.data.tasks.file import FileTask
from benthic.data.tasks.problem import Split, split_of
from benthic.data.tasks.running_total import RunningTotals
from benthic.data.tasks.running_total import problem as running_total
from benthic.data.tasks.source import task_of
from benthic.data.vocabulary import BYTES, Vocabulary, hub_vocabulary
from tests.small import text_in, tokenizer_in

LONGEST = 64


def line(number: int, **other: object) -> str:
    row = {"question": f"{number} + 1", "working": f"{number}, then 1", "answer": f" {number + 1} "}
    return json.dumps({**row, **other})


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> FileTask:
    lines = [line(i) for i in range(300)]
    return FileTask(
        write(tmp_path_factory.mktemp("tasks") / "sums.jsonl", lines),
        BYTES,
        longest=LONGEST,
        longest_answer=LONGEST,
    )


def test_every_line_is_on_one_side(task: FileTask) -> None:
    sides = {split: {p.question for p in task.sides[split]} for split in ("train", "held_out")}
    assert not sides["train"] & sides["held_out"]
    assert sides["train"] | sides["held_out"] == {f"{i} + 1" for i in range(300)}


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["train", "held_out"]),
    st.integers(0, 2**31),
    st.integers(0, 10**6),
    st.integers(1, 40),
)
def test_an_index_gives_the_same_problem_however_it_is_asked_for(
    task: FileTask, split: Split, seed: int, start: int, count: int
) -> None:
    together = task.problems(split, start, count, seed)
    task.problems("train", 7, 1, seed + 1)
    assert together == [task.problems(split, start + i, 1, seed)[0] for i in range(count)]
    assert all(split_of(p.question) == split for p in together)


def test_a_lap_tells_every_problem_once(task: FileTask) -> None:
    side = task.sides["train"]
    laps = [task.problems("train", lap * len(side), len(side), 0) for lap in (0, 1)]
    for lap in laps:
        assert sorted(p.question for p in lap) == sorted(p.question for p in side)
    assert laps[0] != laps[1]


def test_an_answer_loses_its_margins_and_a_question_keeps_them(tmp_path: Path) -> None:
    lines = [line(i, question=f" {i} ") for i in range(300)]
    found = FileTask(
        write(tmp_path / "t.jsonl", lines), BYTES, longest=LONGEST, longest_answer=LONGEST
    ).problems("train", 0, 1, 0)[0]
    assert found.question == f" {int(found.question)} "
    assert found.answer == str(int(found.question) + 1)


def test_a_problem_told_twice_counts_once(tmp_path: Path) -> None:
    lines = [line(i) for i in range(300)] * 2
    task = FileTask(
        write(tmp_path / "t.jsonl", lines), BYTES, longest=LONGEST, longest_answer=LONGEST
    )
    assert len(task.sides["train"]) + len(task.sides["held_out"]) == 300


def test_empty_lines_and_an_empty_working_are_fine(tmp_path: Path) -> None:
    lines = [word for i in range(300) for word in (line(i, working=""), "", "  ")]
    assert FileTask(
        write(tmp_path / "t.jsonl", lines), BYTES, longest=LONGEST, longest_answer=LONGEST
    ).problems("train", 0, 1, 0)


BAD = {
    "not JSON": (b"{question: 1}", "is not JSON"),
    "cut short": (b'{"question": "a", "working', "is not JSON"),
    "not UTF-8": (b'{"question": "\xff", "working": "", "answer": "1"}', "is not JSON"),
    "nested deeply": (b"[" * 100_000, "is not JSON"),
    "nested deeply inside": (b'{"question":' + b"[" * 50_000 + b"]" * 50_000 + b"}", "is not JSON"),
    "a number too long": (b'{"question": ' + b"1" * 5000 + b"}", "is not JSON"),
    "a list": (b"[1, 2]", "lacks 'question'"),
    "a string": (b'"question"', "lacks 'question'"),
    "no question": (b'{"working": "", "answer": "1"}', "lacks 'question'"),
    "no working": (b'{"question": "a", "answer": "1"}', "lacks 'working'"),
    "no answer": (b'{"question": "a", "working": ""}', "lacks 'answer'"),
    "an empty answer": (b'{"question": "a", "working": "", "answer": " "}', "lacks 'answer'"),
    "an empty question": (b'{"question": "", "working": "", "answer": "1"}', "lacks 'question'"),
    "a number for a string": (b'{"question": 1, "working": "", "answer": "1"}', "lacks 'question'"),
    "null": (b'{"question": "a", "working": null, "answer": "1"}', "lacks 'working'"),
    "another answer": (line(3, answer="5").encode(), "stands above with another"),
    "another working": (line(3, working="5").encode(), "stands above with another"),
    "an answer without bytes": (line(3, answer="\ud800").encode(), "no answer could be right"),
    "too long": (line(3, working="5" * 99).encode(), "raise data.sequence_length"),
    "a line of megabytes": (b" " * (1 << 20) + b"{}", "longer than 1 MiB"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_line_is_named_in_one_sentence(tmp_path: Path, case: str) -> None:
    bad, words = BAD[case]
    path = tmp_path / "t.jsonl"
    path.write_bytes("\n".join([line(i) for i in range(300)]).encode() + b"\n\n" + bad + b"\n")
    with pytest.raises(ValueError, match=words) as refusal:
        FileTask(path, BYTES, longest=LONGEST, longest_answer=LONGEST)
    assert f"{path} line 302" in str(refusal.value)
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 500


@pytest.mark.parametrize("count", [0, 1, 100])
def test_too_few_problems_are_told_how_many_are_needed(tmp_path: Path, count: int) -> None:
    path = write(tmp_path / "t.jsonl", [line(i) for i in range(count)])
    with pytest.raises(ValueError, match=r"(100|10) are needed"):
        FileTask(path, BYTES, longest=LONGEST, longest_answer=LONGEST)


@pytest.mark.parametrize("make", [lambda path: None, Path.mkdir])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, make: object) -> None:
    path = tmp_path / "t.jsonl"
    make(path)  # type: ignore[operator]
    with pytest.raises(ValueError, match="cannot be read") as refusal:
        FileTask(path, BYTES, longest=LONGEST, longest_answer=LONGEST)
    assert str(path) in str(refusal.value)


def test_a_question_must_have_words(task: FileTask) -> None:
    assert task.ask("5 + 1") == "5 + 1"
    with pytest.raises(ValueError, match="type a question"):
        task.ask("  ")


def test_the_invitation_shows_a_question_that_was_not_trained_on(task: FileTask) -> None:
    assert repr(task.sides["held_out"][0].question) in task.invitation()


def test_a_recipe_names_its_task(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", [line(i) for i in range(300)])
    assert isinstance(task_of(Recipe(data=DataConfig(tasks=str(path))), BYTES), FileTask)
    assert isinstance(task_of(Recipe(), BYTES), RunningTotals)


def test_the_training_row_is_the_limit(tmp_path: Path) -> None:
    longest = len("299 + 1") + len("299, then 1") + len("300") + 6  # and the special tokens
    path = write(tmp_path / "t.jsonl", [line(i) for i in range(300)])
    FileTask(path, BYTES, longest=longest, longest_answer=LONGEST)
    with pytest.raises(ValueError, match=f"has {longest} tokens, more than the {longest - 1}"):
        FileTask(path, BYTES, longest=longest - 1, longest_answer=LONGEST)


def test_an_answer_too_long_to_sample_names_its_line(tmp_path: Path) -> None:
    lines = [json.dumps({"question": f"q{i}", "working": "w", "answer": "a"}) for i in range(400)]
    lines[6] = json.dumps({"question": "q6", "working": "w" * 20, "answer": "a"})
    path = write(tmp_path / "t.jsonl", lines)
    with pytest.raises(ValueError, match=r"line 7: working and answer have 24 tokens.*20.*max_new"):
        FileTask(path, BYTES, longest=LONGEST, longest_answer=20)


def test_tokens_are_those_of_the_vocabulary(tmp_path: Path) -> None:
    hub = hub_vocabulary(tokenizer_in(tmp_path / "hub", text_in(tmp_path)))
    path = write(tmp_path / "t.jsonl", [line(i) for i in range(300)])
    problem = FileTask(path, hub, longest=99, longest_answer=99).problems("train", 0, 1, 0)[0]
    longest = max(
        len(p.document(hub, worked=True))
        for side in FileTask(path, hub, longest=99, longest_answer=99).sides.values()
        for p in side
    )
    assert longest > len(problem.question) + len(problem.working) + 20
    FileTask(path, hub, longest=longest, longest_answer=99)
    with pytest.raises(ValueError, match=f"more than the {longest - 1} of a training row"):
        FileTask(path, hub, longest=longest - 1, longest_answer=99)


def test_a_tag_in_a_working_is_refused_where_tags_are_spelt(tmp_path: Path) -> None:
    hub = hub_vocabulary(tokenizer_in(tmp_path / "hub", text_in(tmp_path)))
    lines = [line(i, working="1 </think> 2" if i == 6 else "1") for i in range(300)]
    path = write(tmp_path / "t.jsonl", lines)
    FileTask(path, BYTES, longest=99, longest_answer=99)
    with pytest.raises(ValueError, match=r"line 7: working or answer do not come back .* of hub"):
        FileTask(path, hub, longest=99, longest_answer=99)


def test_running_totals_must_fit_in_tokens(tmp_path: Path) -> None:
    hub = hub_vocabulary(tokenizer_in(tmp_path / "hub", text_in(tmp_path)))
    longest = running_total("7" * 14)  # digits are not in the words: one token each
    for vocabulary in (BYTES, hub):
        row = len(longest.document(vocabulary, worked=True))
        new = len(longest.completion(vocabulary, worked=True))

        def fits(row: int, new: int, vocabulary: Vocabulary = vocabulary) -> None:
            data, reason = DataConfig(sequence_length=row), ReasonConfig(max_new_tokens=new)
            task_of(Recipe(data=data, reason=reason), vocabulary)

        fits(row, new)
        with pytest.raises(ValueError, match=f"sequence_length is {row - 1}: .* need {row}"):
            fits(row - 1, new)
        with pytest.raises(ValueError, match=f"max_new_tokens is {new - 1}: .* need {new}"):
            fits(row, new - 1)
