"""A callback that bills the training of a Hugging Face Trainer, or of what is built on it.

    Trainer(..., callbacks=[BillCallback(purpose="final", price=2.5)])

The bill runs from the start of training to its end, in one row, on the first rank alone. Tokens are
the Trainer's, if its arguments say `include_num_input_tokens_seen`; operations are its estimate,
too. A checkpoint marks what is kept; training that goes on from one is the same attempt, any other
a new one, whose predecessors in that output folder were in vain. The Trainer tells its callbacks
nothing of an exception, so the heartbeat looks whether `train` still runs, and closes the bill as
failed once it does not.
"""

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from benthic.cost.metering.span import Metered, meter


class BillCallback(TrainerCallback):
    """Bills to the user's ledger; the arguments are those of `benthic.meter`.

    The name, if not given, is `run_name` of the Trainer's arguments, else the output folder's.
    """

    def __init__(self, *, name: str = "", **given: Any) -> None:
        self._name, self._given = name, given
        self._meter: Metered | None = None
        self._tokens, self._flops = 0.0, 0.0
        meter("checked", **given)  # what cannot be is said before the model is loaded

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **_: Any,
    ) -> None:
        if self._meter:  # it began anew, with smaller batches for one
            self._meter.end("failed")
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir or ".")
        ours: dict[str, Any] = {
            "run": folder,
            "resumed": state.global_step > 0,
            "while_true": _still_training(sys._getframe()),
        }
        self._meter = meter(
            self._name or Path(args.run_name or "").name or folder.resolve().name,
            **ours | self._given,
        )
        self._tokens, self._flops = float(state.num_input_tokens_seen), float(state.total_flos)
        self._meter.begin()

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **_: Any,
    ) -> None:
        if not self._meter:
            return
        tokens, flops = float(state.num_input_tokens_seen), float(state.total_flos)
        self._meter.add(
            tokens=int(max(0.0, tokens - self._tokens)), flops=max(0.0, flops - self._flops)
        )
        self._tokens, self._flops = tokens, flops

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **_: Any,
    ) -> None:
        if self._meter:
            self._meter.productive()

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **_: Any,
    ) -> None:
        self.on_step_end(args, state, control)
        if self._meter:
            self._meter.end("done")
        self._meter = None


def _still_training(frame: FrameType) -> Callable[[], bool] | None:
    """Whether the Trainer's outermost function that now runs in this thread still does; None where
    no Trainer is seen to run, so there is nothing to look for."""
    code: CodeType | None = None
    above: FrameType | None = frame
    while above is not None:
        if above.f_globals.get("__name__") == "transformers.trainer":
            code = above.f_code
        above = above.f_back
    if code is None:
        return None
    thread = threading.get_ident()

    def still() -> bool:
        now = sys._current_frames().get(thread)
        while now is not None:
            if now.f_code is code:
                return True
            now = now.f_back
        return False

    return still
