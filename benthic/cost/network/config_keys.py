"""A stranger's config.json, asked for one kind of value at a time.

What is missing, of another kind, or changes the shape in a way that is not known here is refused by
the key's name. Nothing that the file names is imported.
"""

from collections.abc import Mapping
from typing import Any

from benthic.cost.catalog.load import CostError
from benthic.hub.files import shown

_FULL = ("full_attention", "indexed_attention")
_WINDOW = ("sliding_attention", "chunked_attention")


class Keys:
    """A stranger's config.json, asked for one kind of value at a time."""

    def __init__(self, keys: Mapping[str, Any]) -> None:
        self._keys = keys
        self.family = str(keys.get("model_type"))

    def number(self, *names: str, default: int | None = None) -> int:
        """The first of these keys that is there; null is not."""
        for name in names:
            value = self._keys.get(name)
            if value is None:
                continue
            if type(value) is not int or not 0 <= value < 1 << 24:
                raise CostError(f"{name} is {shown(value)}: a whole number from 0 on is needed")
            return value
        if default is None:
            raise CostError(f"the key {names[0]!r} is missing, which a {self.family} needs: add it")
        return default

    def flag(self, name: str, default: bool) -> bool:
        value = self._keys.get(name)
        if value is not None and type(value) is not bool:
            raise CostError(f"{name} is {shown(value)}: true or false is needed")
        return default if value is None else value

    def windows(self, layers: int, usual: int, width: str = "sliding_window") -> tuple[int, int]:
        """Width of the windows, and how many layers have them: by `layer_types`, else `usual`."""
        window = self.number(width, default=0)
        kinds = self._keys.get("layer_types")
        if kinds is not None:
            if not isinstance(kinds, list) or len(kinds) != layers:
                raise CostError(f"layer_types is {shown(kinds)}: one kind for each layer is needed")
            strange = [kind for kind in kinds if kind not in _FULL + _WINDOW]
            if strange:
                raise CostError(
                    f"layer_types has {shown(strange[0])}, a hybrid whose shape is not known here: "
                    "give --params and --layers instead"
                )
            usual = sum(kind in _WINDOW for kind in kinds)
        return (window, usual) if window and usual else (0, 0)

    def refuse(self, name: str, *allowed: object) -> None:
        value = self._keys.get(name)
        if value is not None and value not in allowed:
            raise CostError(
                f"{name} is {shown(value)}, which changes the shape of a {self.family} in a way "
                "not known here: give --params and --layers instead"
            )
