"""Running totals: the working is right, and no question is on both sides of the split."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benthic.data.tasks.problem import Split, split_of
from benthic.data.tasks.running_total import (
    FIELD,
    TRAINED_LENGTHS,
    UNSEEN_LENGTHS,
    RunningTotals,
    problem,
)

SEEDS = st.integers(0, 2**31)


@given(st.text("0123456789", min_size=1, max_size=FIELD))
def test_the_working_is_the_total_after_each_digit(digits: str) -> None:
    found = problem(digits)
    for place, shown in enumerate(found.working):
        total = 0
        for digit in digits[: place + 1]:
            total = (total + int(digit)) % 10
        assert shown == str(total)
    assert len(found.working) == len(digits)
    assert found.answer == found.working[-1]


@given(st.text("0123456789", min_size=1, max_size=FIELD))
def test_the_question_is_left_aligned_in_its_field(digits: str) -> None:
    found = problem(digits)
    assert len(found.question) == FIELD and found.question.rstrip() == digits


def test_no_trained_question_is_held_out() -> None:
    task = RunningTotals((4,))  # the shortest: most likely to meet by chance
    trained = {p.question for seed in (0, 1001) for p in task.problems("train", 0, 6000, seed)}
    held_out = {p.question for p in task.problems("held_out", 0, 800, 3001)}
    assert len(trained) > 5000 and len(held_out) > 400
    assert not trained & held_out


@settings(max_examples=30, deadline=None)
@given(SEEDS, SEEDS, st.integers(0, 10**6), st.integers(0, 10**6))
def test_no_two_seeds_share_a_question_over_the_split(
    one: int, other: int, here: int, there: int
) -> None:
    task = RunningTotals((4,))
    trained = {p.question for p in task.problems("train", here, 40, one)}
    assert not trained & {p.question for p in task.problems("held_out", there, 10, other)}


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(["train", "held_out"]), SEEDS, st.integers(0, 10**9), st.integers(1, 20))
def test_an_index_gives_the_same_problem_however_it_is_asked_for(
    split: Split, seed: int, start: int, count: int
) -> None:
    task = RunningTotals()
    together = task.problems(split, start, count, seed)
    assert together == [task.problems(split, start + i, 1, seed)[0] for i in range(count)]
    assert all(split_of(p.question) == split for p in together)


def test_another_seed_gives_other_problems() -> None:
    task = RunningTotals()
    assert task.problems("train", 0, 20, 0) != task.problems("train", 0, 20, 1)


def test_all_trained_lengths_come_up_and_no_other() -> None:
    found = {len(p.working) for p in RunningTotals().problems("train", 0, 400, 0)}
    assert found == set(TRAINED_LENGTHS)
    assert not found & set(UNSEEN_LENGTHS)


def test_the_split_holds_out_a_tenth() -> None:
    sides = [split_of(f"{i:<16}") for i in range(20_000)]
    assert 0.09 < sides.count("held_out") / len(sides) < 0.11


@pytest.mark.parametrize(("words", "question"), [("314", "314"), (" 3 1 4\n", "314")])
def test_digits_are_asked_for_in_the_trained_layout(words: str, question: str) -> None:
    assert RunningTotals().ask(words) == question.ljust(FIELD)


@pytest.mark.parametrize("words", ["", "  ", "3a", "-3", "3.5", "\u00b2", "\u0663", "1" * 17])
def test_anything_else_is_answered_with_what_can_be_asked(words: str) -> None:
    with pytest.raises(ValueError, match="give 1 to 16 digits"):
        RunningTotals().ask(words)


def test_the_invitation_has_an_example_that_can_be_asked() -> None:
    task = RunningTotals()
    assert task.ask(task.invitation().split()[-1])
