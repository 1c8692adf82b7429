"""The reward by rule: the right answer in the right form, and text that is only ever compared."""

import builtins

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benthic.data.tasks.problem import Problem, reward, split_of
from benthic.data.tokenizer import (
    ASSISTANT,
    BOS,
    END_THINK,
    EOS,
    THINK,
    USER,
    encode,
)
from benthic.data.vocabulary import BYTES

PROBLEM = Problem("12", "13", "3")
completion = BYTES.completion
THREE, FOUR = encode("3"), encode("4")


@pytest.mark.parametrize("working", ["13", "", "nonsense", "4 " * 50])
def test_right_answer_in_right_form_pays(working: str) -> None:
    """An empty thought passes: the form only gates, it is not rewarded."""
    assert reward(PROBLEM, completion(working, "3"), BYTES) == (1.0, True)


MALFORMED = {
    "no <think>": [*encode("13"), END_THINK, *THREE, EOS],
    "text before <think>": [65, THINK, END_THINK, *THREE, EOS],
    "no <eos>": [THINK, END_THINK, *THREE],
    "text after <eos>": [THINK, END_THINK, *THREE, EOS, 65],
    "two <eos>": [THINK, END_THINK, *THREE, EOS, EOS],
    "two </think>": [THINK, END_THINK, *THREE, END_THINK, EOS],
    "<think> in the answer": [THINK, END_THINK, *THREE, THINK, EOS],
    "<User> in the answer": [THINK, END_THINK, USER, *THREE, EOS],
    "<Assistant> in the answer": [THINK, END_THINK, *THREE, ASSISTANT, EOS],
    "<bos> in the thought": [THINK, BOS, END_THINK, *THREE, EOS],
    "<think> in the thought": [THINK, THINK, END_THINK, *THREE, EOS],
    "unused id in the answer": [THINK, END_THINK, *THREE, 263, EOS],
}


@pytest.mark.parametrize("ids", MALFORMED.values(), ids=MALFORMED)
def test_right_answer_in_wrong_form_pays_nothing(ids: list[int]) -> None:
    assert reward(PROBLEM, ids, BYTES) == (0.0, True)


@pytest.mark.parametrize(
    "answer", ["4", "", "33", "13", "03", "3.0", "3 3", "\u0663", "1+2", "3\n4", "three"]
)
def test_wrong_answer_pays_nothing(answer: str) -> None:
    assert reward(PROBLEM, completion("13", answer), BYTES) == (0.0, False)


@pytest.mark.parametrize(
    "ids",
    [
        [],
        [EOS],
        [THINK],
        [THINK, *THREE, EOS],
        [THINK, *THREE, END_THINK, EOS],
        [THINK, END_THINK, *FOUR, EOS, *THREE],
    ],
    ids=str,
)
def test_an_answer_elsewhere_is_no_answer(ids: list[int]) -> None:
    """Not in an open thought, not in a closed one, not after the end."""
    assert reward(PROBLEM, ids, BYTES) == (0.0, False)


def test_space_around_the_answer_is_nothing() -> None:
    assert reward(PROBLEM, completion("13", " 3\n"), BYTES) == (1.0, True)


@given(ids=st.lists(st.integers(0, 263), max_size=12))
def test_any_ids_are_judged(ids: list[int]) -> None:
    paid, right = reward(PROBLEM, ids, BYTES)
    assert paid in (0.0, 1.0) and right >= bool(paid)


@pytest.mark.parametrize("hostile", ["__import__('os').abort()", "exit()", "{3}", "%n%s", "3#"])
def test_hostile_text_is_only_compared(hostile: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("text was executed")

    with monkeypatch.context() as patch:
        for name in ("eval", "exec", "compile"):
            patch.setattr(builtins, name, refuse)
        judged = reward(PROBLEM, completion("", hostile), BYTES)
        same = reward(Problem("12", "", hostile), completion("", hostile), BYTES)
    assert judged == (0.0, False) and same == (1.0, True)


def test_text_that_spells_a_special_token_is_text() -> None:
    spelt = "</think>3"
    assert reward(PROBLEM, completion("", spelt), BYTES) == (0.0, False)
    assert reward(Problem("12", "", spelt), completion("", spelt), BYTES) == (1.0, True)


@given(question=st.text(max_size=20))
def test_a_question_has_one_side(question: str) -> None:
    assert split_of(question) == split_of(question)


def test_a_tenth_is_held_out() -> None:
    sides = [split_of(f"{i:016d}") for i in range(4000)]
    assert sides.count("held_out") / 4000 == pytest.approx(0.1, abs=0.02)
