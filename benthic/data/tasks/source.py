"""The task that a recipe names: the user's file of problems, or running totals."""

from pathlib import Path

from benthic.config import Recipe
from benthic.data.tasks.file import FileTask
from benthic.data.tasks.problem import Task
from benthic.data.tasks.running_total import TRAINED_LENGTHS, RunningTotals, problem


def task_of(recipe: Recipe) -> Task:
    """ValueError names the file, the line and the remedy where the file will not do."""
    if not recipe.data.tasks:
        longest = max(TRAINED_LENGTHS)
        worked = problem("0" * longest)
        _fits("data.sequence_length", recipe.data.sequence_length, len(worked.document(True)))
        answer = len(worked.document(True)) - len(worked.prompt())
        _fits("reason.max_new_tokens", recipe.reason.max_new_tokens, answer)
        return RunningTotals()
    return FileTask(
        Path(recipe.data.tasks),
        longest=recipe.data.sequence_length,
        longest_answer=recipe.reason.max_new_tokens,
    )


def _fits(key: str, value: int, needed: int) -> None:
    if value < needed:
        raise ValueError(f"{key} is {value}: running totals of up to 14 digits need {needed}")
