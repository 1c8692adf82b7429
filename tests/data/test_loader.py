"""Rows by global index: the same however batched, in the shares that the recipe asks for."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benthic.data.loader import Mixture
from benthic.data.tasks.running_total import RunningTotals
from benthic.data.text import Corpus, load_corpus
from benthic.data.tokenizer import ASSISTANT, BOS, END_THINK, EOS, SPECIALS, THINK, USER
from benthic.data.vocabulary import BYTES, hub_vocabulary
from tests.small import text_in, tokenizer_in

LENGTH = 40


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return load_corpus([text_in(tmp_path_factory.mktemp("text"))])


def mixture(corpus: Corpus, *, text: float = 0.5, worked: float = 0.5, seed: int = 0) -> Mixture:
    return Mixture(
        corpus=corpus,
        task=RunningTotals(),
        length=LENGTH,
        text_share=text,
        worked_share=worked,
        seed=seed,
    )


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 10**9), min_size=2, max_size=12), st.data())
def test_a_row_is_the_same_however_it_is_batched(
    corpus: Corpus, indices: list[int], data: st.DataObject
) -> None:
    source = mixture(corpus)
    cut = data.draw(st.integers(1, len(indices) - 1))
    whole, parts = source.rows(indices), [source.rows(indices[:cut]), source.rows(indices[cut:])]
    for name in ("tokens", "documents", "asked", "is_text"):
        split = np.concatenate([getattr(part, name) for part in parts])
        np.testing.assert_array_equal(getattr(whole, name), split)


def test_no_two_rows_are_alike(corpus: Corpus) -> None:
    rows = mixture(corpus).rows(range(200)).tokens
    assert len(np.unique(rows, axis=0)) == 200


def test_another_seed_gives_other_rows(corpus: Corpus) -> None:
    one, other = (mixture(corpus, seed=seed).rows(range(8)).tokens for seed in (0, 1))
    assert (one != other).any(axis=1).all()


@settings(max_examples=100, deadline=None)
@given(st.floats(0, 1), st.integers(0, 10**6), st.integers(1, 300))
def test_every_window_has_its_share_of_text(
    corpus: Corpus, share: float, start: int, count: int
) -> None:
    source = mixture(corpus, text=share)
    found = sum(source._is_text(i) for i in range(start, start + count))
    assert abs(found - count * share) < 1.001


@pytest.mark.parametrize(("share", "texts"), [(0.0, 0), (0.25, 16), (0.5, 32), (1.0, 64)])
def test_a_step_has_exactly_its_share_of_text(corpus: Corpus, share: float, texts: int) -> None:
    assert mixture(corpus, text=share).rows(range(64, 128)).is_text.sum() == texts


@pytest.mark.parametrize("share", [0.0, 0.15, 1.0])
def test_problems_show_their_working_in_the_share_asked_for(corpus: Corpus, share: float) -> None:
    rows = mixture(corpus, text=0, worked=share).rows(range(400)).tokens
    think = rows[:, :-1] == THINK
    closed = rows[:, 1:][think] == END_THINK
    sigma = (share * (1 - share) / closed.size) ** 0.5
    assert abs((~closed).mean() - share) <= 4 * sigma


def test_rows_are_one_token_longer_than_the_sequence(corpus: Corpus) -> None:
    rows = mixture(corpus).rows(range(6))
    assert rows.tokens.shape == rows.documents.shape == (6, LENGTH + 1)
    assert (rows.tokens.dtype, rows.is_text.dtype) == (np.int64, np.bool_)


def test_a_text_row_is_a_window_of_the_training_text(corpus: Corpus) -> None:
    train = corpus.train.astype(np.uint16).tobytes()
    for row in mixture(corpus, text=1).rows(range(40)).tokens:
        assert row.astype(np.uint16).tobytes() in train


def test_a_problem_row_is_whole_documents_and_a_last_one_cut(corpus: Corpus) -> None:
    source = mixture(corpus, text=0, worked=1)
    for index, row in enumerate(source.rows(range(20)).tokens):
        expected: list[int] = []
        number = index * (LENGTH + 1)
        while len(expected) < row.size:
            (problem,) = source.task.problems("train", number, 1, 0)
            expected += problem.document(BYTES, worked=True)
            number += 1
        assert row.tolist() == expected[: row.size]


def test_a_problem_row_starts_with_a_question(corpus: Corpus) -> None:
    rows = mixture(corpus, text=0).rows(range(10)).tokens
    assert (rows[:, 0] == BOS).all() and (rows[:, 1] == USER).all()
    assert (rows == ASSISTANT).any()


def test_documents_are_numbered_in_order_and_split_at_their_beginning(corpus: Corpus) -> None:
    rows = mixture(corpus, text=0).rows(range(30))
    steps = np.diff(rows.documents, axis=1)
    np.testing.assert_array_equal(steps == 1, rows.tokens[:, 1:] == BOS)
    assert set(np.unique(steps)) == {0, 1}
    ends = rows.tokens[:, :-1] == EOS
    assert steps[ends].all()


def test_the_text_of_questions_is_asked_and_nothing_else(corpus: Corpus) -> None:
    rows = mixture(corpus).rows(range(40))
    assert not rows.asked[rows.is_text].any()
    for tokens, asked in zip(rows.tokens[~rows.is_text], rows.asked[~rows.is_text], strict=True):
        asking = False
        for token, found in zip(tokens.tolist(), asked.tolist(), strict=True):
            asking = (asking or token == USER) and token != ASSISTANT
            assert found == (asking and token != USER)


def test_text_documents_are_numbered_as_their_marks_say(corpus: Corpus) -> None:
    many = replace(corpus, train=np.tile(corpus.train[:25], 40), train_starts=np.arange(40) * 25)
    rows = mixture(many, text=1).rows(range(60))
    np.testing.assert_array_equal(rows.documents, np.cumsum(rows.tokens == BOS, axis=1))
    assert rows.documents.max() == 2


@pytest.fixture(scope="module", params=["spelt", "R1", "no beginning"])
def other(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Short documents in a vocabulary of the Hub."""
    root = tmp_path_factory.mktemp("other")
    words = text_in(root)
    (root / "texts").mkdir()
    for number in range(150):
        (root / "texts" / f"{number}.txt").write_text(f"abc {number} def " * 9)
    how = {"layout": SPECIALS[2:] if request.param == "R1" else ()}
    bos = request.param != "no beginning"
    hub = hub_vocabulary(tokenizer_in(root / "hub", words, bos=bos, **how))
    return load_corpus([root / "texts"], hub)


def test_documents_of_another_vocabulary_begin_behind_an_end(other: Corpus) -> None:
    """Whether a mark stands at their beginning or not."""
    eos = other.vocabulary.eos
    np.testing.assert_array_equal(
        other.train_starts[1:], np.flatnonzero(other.train == eos)[:-1] + 1
    )
    rows = replace(mixture(other), length=100).rows(range(60))
    steps = np.diff(rows.documents, axis=1)
    np.testing.assert_array_equal(steps == 1, rows.tokens[:, :-1] == eos)
    assert set(np.unique(steps)) == {0, 1}
    assert steps[rows.is_text].any() and steps[~rows.is_text].any()


def test_questions_of_another_vocabulary_are_asked(other: Corpus) -> None:
    source = mixture(other, text=0, worked=1)
    rows, text = source.rows(range(20)), other.vocabulary.is_text
    for index, asked in enumerate(rows.asked):
        expected: list[bool] = []
        for problem in source.task.problems("train", index * (LENGTH + 1), LENGTH, 0):
            expected += [text(token) for token in problem.prompt(other.vocabulary)]
            expected += [False] * len(problem.completion(other.vocabulary, worked=True))
        assert asked.tolist() == expected[: LENGTH + 1]


def test_a_text_shorter_than_a_row_is_refused(corpus: Corpus) -> None:
    short = replace(corpus, train=corpus.train[:LENGTH])
    with pytest.raises(ValueError, match="has 40 tokens, too few for a row of 41"):
        mixture(short)
    mixture(short, text=0)


def test_no_row_tells_a_held_out_question(corpus: Corpus) -> None:
    held_out = {p.question for p in RunningTotals().problems("held_out", 0, 300, 3001)}
    for row in mixture(corpus, text=0).rows(range(100)).tokens.tolist():
        for at, token in enumerate(row[:-17]):
            if token == USER:
                assert bytes(row[at + 1 : at + 17]).decode() not in held_out
