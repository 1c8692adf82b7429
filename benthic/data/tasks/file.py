"""The user's own worked problems, from a JSONL file with `question`, `working` and `answer`.

The whole file is read and checked before anything is trained: a line that will not do is named,
with the remedy. Sides are split by a hash of the question, so a held-out problem is held out
whatever the seed and the order of lines; indices beyond the end go round again, each lap shuffled
anew.
"""

import hashlib
import json
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benthic.data.tasks.problem import Problem, Split, reward, split_of
from benthic.data.vocabulary import Vocabulary

_LONGEST_LINE = 1 << 20


class FileTask:
    """Problems of a file, split by hash; indices beyond the end go round again, shuffled."""

    def __init__(
        self, path: Path, vocabulary: Vocabulary, *, longest: int, longest_answer: int
    ) -> None:
        """Most tokens of a worked problem, and of what follows its question.

        ValueError names file, line and remedy.
        """
        self.name = path.name
        self.sides: dict[Split, list[Problem]] = {"train": [], "held_out": []}
        for problem in _read(path, vocabulary, longest, longest_answer):
            self.sides[split_of(problem.question)].append(problem)
        self.sha256 = hashlib.sha256(repr(self.sides).encode("utf-8", "replace")).hexdigest()
        least_of: dict[Split, int] = {"train": 100, "held_out": 10}
        for side, least in least_of.items():
            if len(self.sides[side]) < least:
                raise ValueError(
                    f"{path} has {len(self.sides[side])} problems on the {side} side after the "
                    f"split by hash, and {least} are needed: give more different problems, "
                    "a few thousand at best"
                )

    def problems(self, split: Split, start: int, count: int, seed: int) -> list[Problem]:
        side, out = self.sides[split], []
        for index in range(start, start + count):
            lap, place = divmod(index, len(side))
            out.append(side[_order(len(side), lap, seed)[place]])
        return out

    def ask(self, words: str) -> str:
        if not words.strip():
            raise ValueError("type a question laid out as in your file")
        return words

    def invitation(self) -> str:
        example = self.sides["held_out"][0].question
        return f"Ask a question laid out as in {self.name}, e.g. {example!r}"


@lru_cache(maxsize=8)
def _order(size: int, lap: int, seed: int) -> NDArray[np.int64]:
    """A permutation for each time round."""
    return np.random.default_rng([seed, lap]).permutation(size)


def _read(path: Path, vocabulary: Vocabulary, longest: int, longest_answer: int) -> list[Problem]:
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise ValueError(
            f"--tasks {path} cannot be read ({error.strerror}): give a JSONL file"
        ) from error
    found: dict[str, Problem] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        problem = _parse(line, f"{path} line {number}")
        completion = problem.completion(vocabulary, worked=True)
        answer = len(completion)
        tokens = len(problem.prompt(vocabulary)) + answer
        if tokens > longest:
            raise ValueError(
                f"{path} line {number}: the worked problem has {tokens} tokens, more than the "
                f"{longest} of a training row: shorten it or raise data.sequence_length"
            )
        if answer > longest_answer:
            raise ValueError(
                f"{path} line {number}: working and answer have {answer} tokens, more than the "
                f"{longest_answer} that may be sampled: shorten them or raise reason.max_new_tokens"
            )
        if not reward(problem, completion, vocabulary)[0]:
            raise ValueError(
                f"{path} line {number}: working or answer do not come back from the tokens of "
                f"{vocabulary.name}, so no answer could be right: leave out tags and odd characters"
            )
        other = found.setdefault(problem.question, problem)
        if other != problem:
            raise ValueError(
                f"{path} line {number}: this question stands above with another working or answer"
            )
    return list(found.values())


def _parse(line: bytes, where: str) -> Problem:
    if len(line) > _LONGEST_LINE:
        raise ValueError(f"{where} is longer than {_LONGEST_LINE >> 20} MiB: is this JSONL?")
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not JSON ({error}): one object a line is needed") from error
    parts = []
    for key in ("question", "working", "answer"):
        value = row.get(key) if isinstance(row, dict) else None
        if not isinstance(value, str) or (key != "working" and not value.strip()):
            raise ValueError(f"{where} lacks '{key}' as a non-empty string")
        parts.append(value)
    question, working, answer = parts
    return Problem(question, working, answer.strip())
