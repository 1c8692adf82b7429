"""The task that a recipe names: the user's file of problems, or running totals.

Either way what does not fit is refused before training: rows too short for a worked document, or
answers longer than reinforcement samples, by the tokens of the vocabulary that the run has.
"""

from pathlib import Path

from benthic.config import Recipe
from benthic.data.tasks.file import FileTask
from benthic.data.tasks.problem import Task
from benthic.data.tasks.running_total import TRAINED_LENGTHS, RunningTotals
from benthic.data.vocabulary import Vocabulary

_TRIED = 64  # problems whose tokens are counted: a vocabulary may join digits


def task_of(recipe: Recipe, vocabulary: Vocabulary) -> Task:
    """ValueError names the file, the line and the remedy where the file will not do."""
    if not recipe.data.tasks:
        longest = RunningTotals([max(TRAINED_LENGTHS)]).problems("train", 0, _TRIED, recipe.seed)
        document = max(len(p.document(vocabulary, worked=True)) for p in longest)
        _fits("data.sequence_length", recipe.data.sequence_length, document)
        answer = max(len(p.completion(vocabulary, worked=True)) for p in longest)
        _fits("reason.max_new_tokens", recipe.reason.max_new_tokens, answer)
        return RunningTotals()
    return FileTask(
        Path(recipe.data.tasks),
        vocabulary,
        longest=recipe.data.sequence_length,
        longest_answer=recipe.reason.max_new_tokens,
    )


def _fits(key: str, value: int, needed: int) -> None:
    if value < needed:
        raise ValueError(f"{key} is {value}: running totals of up to 14 digits need {needed}")
