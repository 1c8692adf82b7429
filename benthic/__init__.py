"""Benthic: a laboratory with an honest bill. Nothing heavy is imported here."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benthic.cost.metering.span import meter as meter

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`benthic.meter`, imported when first asked for."""
    if name == "meter":
        from benthic.cost.metering.span import meter

        return meter
    raise AttributeError(f"module 'benthic' has no attribute '{name}'")
