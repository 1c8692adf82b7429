"""Bytes and special tokens: nothing that a text spells becomes special, and parsing is strict."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benthic.data import tokenizer
from benthic.data.tokenizer import (
    ASSISTANT,
    BOS,
    END_THINK,
    EOS,
    SPECIALS,
    THINK,
    USER,
    decode,
    encode,
)
from benthic.data.vocabulary import BYTES, Reply

A = ord("a")
completion, parse, prompt = BYTES.completion, BYTES.parse, BYTES.prompt
thought_tokens = BYTES.thought_tokens


@given(st.text())
def test_text_comes_back(text: str) -> None:
    assert decode(encode(text)) == text


@given(st.lists(st.sampled_from([*SPECIALS, "<", "think>", "x"])).map("".join))
def test_text_never_yields_a_special_token(text: str) -> None:
    assert all(i < 256 for i in encode(text))
    assert decode(encode(text), show_specials=True) == text


@given(st.binary())
def test_any_bytes_decode(raw: bytes) -> None:
    assert decode(list(raw)) == raw.decode("utf-8", "replace")


def test_a_lone_surrogate_becomes_a_question_mark() -> None:
    assert encode("a\ud800b") == list(b"a?b")


def test_specials_vanish_unless_asked_for() -> None:
    ids = [BOS, A, THINK, A, 263]
    assert decode(ids) == "aa"
    assert decode(ids, show_specials=True) == f"{SPECIALS[0]}a<think>a"


def test_every_special_has_an_id_within_the_vocabulary() -> None:
    ids = [BOS, EOS, USER, ASSISTANT, THINK, END_THINK]
    assert [decode([i], show_specials=True) for i in ids] == list(SPECIALS)
    assert max(ids) < tokenizer.VOCABULARY


def test_a_question_is_laid_out_as_documented() -> None:
    assert prompt("a") == [BOS, USER, A, ASSISTANT]


@given(st.text(), st.text())
def test_a_completion_is_taken_apart_again(working: str, answer: str) -> None:
    assert parse(completion(working, answer)) == Reply(working, answer.strip(), True)


@pytest.mark.parametrize(
    ("ids", "reply"),
    [
        ([THINK, END_THINK, A, EOS], Reply("", "a", True)),
        ([THINK, A, END_THINK, A, EOS], Reply("a", "a", True)),
        ([THINK, A, END_THINK, EOS], Reply("a", "", True)),
        ([THINK, A, END_THINK, A], Reply("a", "a", False)),  # no end
        ([THINK, A, EOS], Reply("a", "", False)),  # never closed
        ([A, END_THINK, A, EOS], Reply("a", "a", False)),  # never opened
        ([A, EOS], Reply("a", "", False)),
        ([THINK, THINK, A, END_THINK, A, EOS], Reply("a", "a", False)),  # opened twice
        ([THINK, A, END_THINK, END_THINK, A, EOS], Reply("a", "a", False)),  # closed twice
        ([THINK, A, END_THINK, A, USER, EOS], Reply("a", "a", False)),  # a special inside
        ([THINK, A, END_THINK, A, 263, EOS], Reply("a", "a", False)),  # the table's padding
        ([THINK, A, END_THINK, A, EOS, A], Reply("a", "a", False)),  # goes on after the end
        ([THINK, A, EOS, END_THINK, A, EOS], Reply("a", "", False)),  # ends while thinking
        ([EOS], Reply("", "", False)),
        ([], Reply("", "", False)),
    ],
)
def test_a_completion_is_well_formed_or_not(ids: list[int], reply: Reply) -> None:
    assert parse(ids) == reply


@given(st.lists(st.integers(0, tokenizer.VOCABULARY - 1), max_size=12))
def test_only_the_documented_form_is_well_formed(ids: list[int]) -> None:
    kinds = "".join(
        {THINK: "(", END_THINK: ")", EOS: "."}.get(i, "#" if i > 255 else "") for i in ids
    )
    whole = kinds == "()." and ids[0] == THINK and ids[-1] == EOS
    assert parse(ids).well_formed == whole


@pytest.mark.parametrize(
    ("ids", "count"),
    [
        ([THINK, A, A, END_THINK, A, EOS], 2),
        ([THINK, END_THINK, A, EOS], 0),
        ([THINK, A, A, EOS], 2),
        ([THINK, A, A], 2),
        ([THINK], 0),
        ([A, THINK, A, END_THINK], 0),
        ([], 0),
    ],
)
def test_tokens_thought_are_those_between_the_tags(ids: list[int], count: int) -> None:
    assert thought_tokens(ids) == count
