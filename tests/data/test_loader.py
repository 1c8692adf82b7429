"""Rows by global index: the same however batched, in the shares that the recipe asks for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benthic.data.loader import Mixture
from benthic.data.tasks.running_total import RunningTotals
from benthic.data.text import Corpus, load_corpus
from benthic.data.tokenizer import ASSISTANT, BOS, END_THINK, EOS, THINK, USER
from tests.small import text_in

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
    for name in ("tokens", "documents", "is_text"):
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
            expected += problem.document(worked=True)
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


def test_no_row_tells_a_held_out_question(corpus: Corpus) -> None:
    held_out = {p.question for p in RunningTotals().problems("held_out", 0, 300, 3001)}
    for row in mixture(corpus, text=0).rows(range(100)).tokens.tolist():
        for at, token in enumerate(row[:-17]):
            if token == USER:
                assert bytes(row[at + 1 : at + 17]).decode() not in held_out
