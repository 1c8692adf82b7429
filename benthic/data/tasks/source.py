"""The task that a recipe names: the user's file of problems, or running totals."""

from pathlib import Path

from benthic.config import Recipe
from benthic.data.tasks.file import FileTask
from benthic.data.tasks.problem import Task
from benthic.data.tasks.running_total import RunningTotals


def task_of(recipe: Recipe) -> Task:
    """ValueError names the file, the line and the remedy where the file will not do."""
    if not recipe.data.tasks:
        return RunningTotals()
    return FileTask(
        Path(recipe.data.tasks),
        longest=recipe.data.sequence_length,
        longest_answer=recipe.reason.max_new_tokens,
    )
