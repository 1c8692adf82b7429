"""What a worked problem is, how its answer is judged, and which side of the split it is on.

A task is addressed by index, so any part of any step can be made on any rank, and again after a
resume. Rewards are by rule alone (R1-Zero): the answer's text is compared and its form gates; there
is no reward model, and nothing of a model is ever executed.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from benthic.data.vocabulary import Vocabulary

Split = Literal["train", "held_out"]
HELD_OUT_SHARE = 0.1


@dataclass(frozen=True)
class Problem:
    """`question` as laid out for the model; `working` and `answer` as a right document has them."""

    question: str
    working: str
    answer: str

    def prompt(self, vocabulary: Vocabulary) -> list[int]:
        return vocabulary.prompt(self.question)

    def completion(self, vocabulary: Vocabulary, *, worked: bool) -> list[int]:
        return vocabulary.completion(self.working if worked else "", self.answer)

    def document(self, vocabulary: Vocabulary, *, worked: bool) -> list[int]:
        return self.prompt(vocabulary) + self.completion(vocabulary, worked=worked)


class Task(Protocol):
    """A source of problems, addressed by index: the same index gives the same problem."""

    name: str
    sha256: str
    """of the problems, so that a resume on others is noticed"""

    def problems(self, split: Split, start: int, count: int, seed: int) -> Sequence[Problem]: ...

    def ask(self, words: str) -> str:
        """A user's words in the model's layout; `ValueError` says what can be asked."""
        ...

    def invitation(self) -> str:
        """One sentence: what can be asked."""
        ...


def reward(problem: Problem, completion: list[int], vocabulary: Vocabulary) -> tuple[float, bool]:
    """Reward by rule, and whether the answer is right whatever its form.

    1 for the right answer in the right form, else 0: the form only gates, and an empty
    `<think></think>` passes the gate. The text is compared, never executed.
    """
    reply = vocabulary.parse(completion)
    right = reply.answer == problem.answer
    return float(right and reply.well_formed), right


def split_of(question: str) -> Split:
    """The side a question is on, by hash: the same for every seed, length and order."""
    first = hashlib.blake2b(question.encode("utf-8", "replace"), digest_size=4).digest()
    return "held_out" if int.from_bytes(first, "big") < HELD_OUT_SHARE * 2**32 else "train"
