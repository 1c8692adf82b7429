"""Training rows addressed by global sample index: row i is the same on any number of ranks.

A row is T + 1 tokens: either a window of the training text or problems laid end to end, cut at the
row's end. `documents` numbers the documents in a row, so that attention and targets stay inside
one; `asked` marks the text of questions, which is no target.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benthic.data.tasks.problem import Task
from benthic.data.text import Corpus

_Row = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]


@dataclass(frozen=True)
class Rows:
    """tokens and documents int64 [B, T + 1]; asked bool [B, T + 1]; is_text bool [B]."""

    tokens: NDArray[np.int64]
    documents: NDArray[np.int64]
    asked: NDArray[np.bool_]
    is_text: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """The pretraining mixture; `text_share` of the rows, `worked_share` of the problems."""

    corpus: Corpus
    task: Task
    length: int
    text_share: float
    worked_share: float
    seed: int

    def __post_init__(self) -> None:
        if self.text_share and self.corpus.train.size <= self.length:
            raise ValueError(
                f"the training text has {self.corpus.train.size} tokens, too few for a row of "
                f"{self.length + 1}: give more text or lower data.sequence_length"
            )

    def rows(self, indices: Sequence[int]) -> Rows:
        """The rows with these global indices, in this order."""
        kinds = np.array([self._is_text(i) for i in indices])
        made = [self._text(i) if text else self._problems(i) for i, text in zip(indices, kinds)]
        tokens, documents, asked = (np.stack(part) for part in zip(*made))
        return Rows(tokens, documents, asked, kinds)

    def _is_text(self, index: int) -> bool:
        """Spread the text rows evenly over the indices."""
        return int((index + 1) * self.text_share) > int(index * self.text_share)

    def _text(self, index: int) -> _Row:
        text, starts = self.corpus.train, self.corpus.train_starts
        draw = np.random.Generator(np.random.Philox(key=[self.seed, index]))
        start = draw.integers(text.size - self.length)
        places = np.arange(start, start + self.length + 1)
        documents = np.searchsorted(starts, places, side="right") - np.searchsorted(starts, start)
        return text[places].astype(np.int64), documents, np.zeros(places.size, dtype=np.bool_)

    def _problems(self, index: int) -> _Row:
        """Problems numbered from `index * (length + 1)` on: a document has one token at least."""
        first = index * (self.length + 1)
        draw = np.random.Generator(np.random.Philox(key=[self.seed + 1, index]))
        vocabulary = self.corpus.vocabulary
        row: list[int] = []
        number: list[int] = []
        asking: list[bool] = []
        while len(row) <= self.length:
            (problem,) = self.task.problems("train", first, 1, self.seed)
            question = problem.prompt(vocabulary)
            answer = problem.completion(vocabulary, worked=draw.random() < self.worked_share)
            row += question + answer
            asking += [True] * len(question) + [False] * len(answer)
            number += [number[-1] + 1 if number else 1] * (len(row) - len(number))
            first += 1
        cut = slice(self.length + 1)
        tokens, documents = np.array(row[cut]), np.array(number[cut])
        return tokens, documents, np.array(asking[cut]) & (vocabulary.byte_lengths[tokens] > 0)
