"""Cells that a spreadsheet shows and never runs.

A text that begins with = + - @ or one of their wide twins, blanks, tabs and line ends before it or
not, is taken for a formula by spreadsheets, wherever it came from: a model's name, a note, a path.
Such a text gets an apostrophe before it, which spreadsheets take as the sign of a text. Numbers
stay numbers, negative ones too. Quoting commas and quotes is the work of the csv module.
"""

import re
from math import isfinite

from benthic.cost.catalog.figures import NUMBER, CostError

_FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20\u2212]")
_BREAKS = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]+")


def cell(value: object) -> str:
    """The text of one cell of an export; None is empty, control characters become one space.

    CostError for a number that is not finite: a sheet would take its name for a text.
    """
    if value is None:
        return ""
    if isinstance(value, float) and not isfinite(value):
        raise CostError(f"a cell cannot hold {value}: leave it empty or correct the figure")
    text = str(value)
    if isinstance(value, int | float) or NUMBER.fullmatch(text):
        return text
    line = _BREAKS.sub(" ", text)
    return f"'{line}" if _FORMULA.match(line) else line
