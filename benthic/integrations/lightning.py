"""A callback that bills the fit of a Lightning Trainer.

    Trainer(..., callbacks=[BillCallback(purpose="final", price=2.5, tokens=lambda b: b.numel())])

The bill runs from the start of the fit to its end, in one row, on the first rank alone. `tokens`
tells how many are in a batch; each rank is taken to have as many. A checkpoint marks what is kept.
The run is the Trainer's root folder where it was given one, else its logger's, which is new for
each fit: the current folder, where all fits of a project begin, is none.
Works with `lightning` and with `pytorch_lightning`, whichever is installed.
"""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from benthic.cost.metering.heart import status_of
from benthic.cost.metering.span import Metered, meter


def _callback() -> Any:
    try:
        return import_module("lightning.pytorch").Callback
    except ModuleNotFoundError:
        return import_module("pytorch_lightning").Callback


class BillCallback(_callback()):  # type: ignore[misc]
    """Bills to the user's ledger; the other arguments are those of `benthic.meter`.

    The name is the module's class if not given.
    """

    def __init__(
        self, *, name: str = "", tokens: Callable[[Any], int] | None = None, **given: Any
    ) -> None:
        super().__init__()
        self._name, self._tokens, self._given = name, tokens, given
        self._meter: Metered | None = None
        meter("checked", **given)  # what cannot be is said before the fit

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        if self._meter:
            self._meter.end("failed")
        if not trainer.is_global_zero:
            return
        name = self._name or type(pl_module).__name__
        given: dict[str, Any] = {"run": _folder(trainer)}
        given["resumed"] = bool(getattr(trainer, "ckpt_path", None))
        self._meter = meter(name, **given | self._given)
        self._meter.begin()

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._meter and self._tokens:
            self._meter.add(tokens=self._tokens(batch) * trainer.world_size)

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: Any) -> None:
        if self._meter:
            self._meter.productive()

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        self._close(None)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._close(exception)

    def _close(self, error: BaseException | None) -> None:
        if self._meter:
            self._meter.end(status_of(error))
        self._meter = None


def _folder(trainer: Any) -> str:
    """The fit's own folder; empty where it has none."""
    root = trainer.default_root_dir
    if root and Path(root).resolve() != Path().resolve():
        return str(root)
    logger = getattr(trainer, "logger", None)
    return str(getattr(logger, "log_dir", None) or "")
