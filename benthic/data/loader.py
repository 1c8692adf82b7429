"""Training rows addressed by global sample index: row i is the same on any number of ranks.

A row is T + 1 tokens: either a window of the training text or problems laid end to end, cut at the
row's end. `documents` numbers the documents in a row, so that attention and targets stay inside
one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benthic.data.tasks.problem import Task
from benthic.data.text import Corpus
from benthic.data.tokenizer import BOS


@dataclass(frozen=True)
class Rows:
    """tokens int64 [B, T + 1]; documents int64 [B, T + 1]; is_text bool [B]."""

    tokens: NDArray[np.int64]
    documents: NDArray[np.int64]
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

    def rows(self, indices: Sequence[int]) -> Rows:
        """The rows with these global indices, in this order."""
        kinds = np.array([self._is_text(i) for i in indices])
        tokens = np.stack(
            [self._text(i) if text else self._problems(i) for i, text in zip(indices, kinds)]
        )
        return Rows(tokens, np.cumsum(tokens == BOS, axis=1), kinds)

    def _is_text(self, index: int) -> bool:
        """Spread the text rows evenly over the indices."""
        return int((index + 1) * self.text_share) > int(index * self.text_share)

    def _text(self, index: int) -> NDArray[np.int64]:
        text = self.corpus.train
        draw = np.random.Generator(np.random.Philox(key=[self.seed, index]))
        start = draw.integers(text.size - self.length)
        return text[start : start + self.length + 1].astype(np.int64)

    def _problems(self, index: int) -> NDArray[np.int64]:
        """Problems numbered from `index * (length + 1)` on: a document has one token at least."""
        first = index * (self.length + 1)
        draw = np.random.Generator(np.random.Philox(key=[self.seed + 1, index]))
        row: list[int] = []
        while len(row) <= self.length:
            (problem,) = self.task.problems("train", first, 1, self.seed)
            row += problem.document(worked=draw.random() < self.worked_share)
            first += 1
        return np.array(row[: self.length + 1])
