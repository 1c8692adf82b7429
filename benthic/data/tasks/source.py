"""The task that a recipe names: the user's file of problems, or running totals."""

from pathlib import Path

from benthic.config import DataConfig
from benthic.data.tasks.file import FileTask
from benthic.data.tasks.problem import Task
from benthic.data.tasks.running_total import RunningTotals


def task_of(config: DataConfig) -> Task:
    """ValueError names the file, the line and the remedy where the file will not do."""
    if not config.tasks:
        return RunningTotals()
    return FileTask(Path(config.tasks), config.sequence_length)
