"""Ctrl-C and SIGTERM during training: finish the step, save, leave with one sentence.

The first signal raises a flag that the loop reads between steps; the second acts as it would have,
for whoever does not want to wait. Handlers belong to the main thread; elsewhere nothing is caught.
"""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self


class Interrupted(Exception):
    """The run was stopped on request; everything up to the message's step is saved."""

    interrupted = True


class StopSignal:
    """Within the block, the first SIGINT or SIGTERM raises a flag; the second acts as usual."""

    def __init__(self) -> None:
        self.raised = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._raise)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _raise(self, number: int, _: FrameType | None) -> None:
        if self.raised:
            raise KeyboardInterrupt
        self.raised = True
