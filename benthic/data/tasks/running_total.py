"""Running totals modulo ten: a serial task whose every step is the same operation.

Question: digits, left-aligned in a field of FIELD characters, so that each step of the working
looks back the same distance: a small rotary model learns a fixed distance in a minute and one that
depends on the length not at all. Working: the total after each digit, from the first on. Answer:
the last total.
"""

from collections.abc import Sequence

import numpy as np

from benthic.data.tasks.problem import Problem, Split, split_of

FIELD = 16
TRAINED_LENGTHS = (4, 5, 6, 8, 9, 10, 12, 13, 14)
UNSEEN_LENGTHS = (7, 11, 15, 16)  # two between the trained ones, two beyond


def problem(digits: str) -> Problem:
    """The worked problem for a string of 1 to FIELD digits."""
    totals = np.cumsum([int(d) for d in digits]) % 10
    working = "".join(map(str, totals))
    return Problem(digits.ljust(FIELD), working, working[-1])


class RunningTotals:
    """Problems of the trained lengths, or of the lengths given."""

    name = "running totals modulo 10"
    sha256 = ""  # the generator is code, told apart by the manifest's commit

    def __init__(self, lengths: Sequence[int] = TRAINED_LENGTHS) -> None:
        self.lengths = tuple(lengths)

    def problems(self, split: Split, start: int, count: int, seed: int) -> list[Problem]:
        return [self._one(split, index, seed) for index in range(start, start + count)]

    def _one(self, split: Split, index: int, seed: int) -> Problem:
        """Draw until the question falls on the side asked for."""
        draw = np.random.Generator(np.random.Philox(key=[seed, index]))
        while True:
            length = self.lengths[draw.integers(len(self.lengths))]
            drawn = problem("".join(map(str, draw.integers(0, 10, length))))
            if split_of(drawn.question) == split:
                return drawn

    def ask(self, words: str) -> str:
        digits = "".join(words.split())
        if not digits.isascii() or not digits.isdigit() or len(digits) > FIELD:
            raise ValueError(f"give 1 to {FIELD} digits, for example 314159")
        return problem(digits).question

    def invitation(self) -> str:
        most = max(self.lengths)
        return f"Ask for the sum, modulo 10, of up to {most} digits: type them, e.g. 314159"
