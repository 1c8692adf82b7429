"""Values of a stranger's JSON as the types of a dataclass, or a sentence that names the key.

Files have NaN, huge numbers or pages of text where a config has a whole number or a word: such a
value is refused, never guessed at. Two exceptions: a whole number will do for a real one, and of
several end tokens the first is taken.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from benthic.hub.files import shown


def kinds(owner: type) -> dict[str, type]:
    """A dataclass's fields and what each takes; what is no number is text."""
    bare = {int: int, float: float, bool: bool, int | None: int}
    return {f.name: bare.get(f.type, str) for f in fields(owner)}  # type: ignore


_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a short string"}


def typed(key: str, value: Any, kinds: Mapping[str, type], at: str = "") -> Any:
    """The value as the field's type; a list of end tokens gives its first."""
    if key in ("eos_token_id", "bos_token_id") and isinstance(value, list) and value:
        value = value[0]
    kind = kinds[key]
    right = type(value) is kind or (kind is float and type(value) is int)
    if right and kind is float:
        right = abs(value) < 1e300  # neither NaN nor more than a float holds
    elif right and kind is str:
        right = len(value) <= 80
    if not right:
        raise ValueError(f"{at}{key} is {shown(value)}: it must be {_WORDS[kind]}")
    return kind(value)
