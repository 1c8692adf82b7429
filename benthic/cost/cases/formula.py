"""Lines of a sheet, `key [unit] = text`: arithmetic on named figures, as people read and check it.

One text is what is computed, what is printed as the reason, and what tells which figures a line
reads. It is parsed once into functions of the figures; nothing is handed to the interpreter, and
all that a text may hold is numbers, names of two parts like `run.hours`, + - * / ** and `crf`.
"""

import ast
import operator
import re
from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import NamedTuple

from benthic.cost.cases.fleet import crf

Rule = Callable[[Mapping[str, float]], float]

_LINE = re.compile(r"(\S+) \[(.+?)\] = (.+)")
_OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}


class Formula(NamedTuple):
    """One line; `reads` are the keys in its text, `rule` computes it from their figures."""

    key: str
    unit: str
    text: str
    reads: frozenset[str]
    rule: Rule


def formula(line: str) -> Formula:
    """Read a line of a sheet. ValueError names what cannot be read."""
    match = _LINE.fullmatch(line)
    if not match:
        raise ValueError(f"'{line}' is no line of a sheet: write key [unit] = formula")
    key, unit, text = match.groups()
    try:
        tree = ast.parse(text, mode="eval").body
    except SyntaxError as error:
        raise ValueError(f"the formula of '{key}' cannot be read ({error.msg}): {text}") from None
    reads = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return Formula(key, unit, text, frozenset(reads), _rule(tree, key))


def _rule(node: ast.expr, key: str) -> Rule:
    match node:
        case ast.Constant(value=int() | float() as number):
            return lambda figures: number
        case ast.Attribute(value=ast.Name()):
            return itemgetter(ast.unparse(node))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            inner = _rule(operand, key)
            return lambda figures: -inner(figures)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            apply, one, other = _OPERATORS[type(op)], _rule(left, key), _rule(right, key)
            return lambda figures: apply(one(figures), other(figures))
        case ast.Call(func=ast.Name(id="crf"), args=[rate, years], keywords=[]):
            share, time = _rule(rate, key), _rule(years, key)
            return lambda figures: crf(share(figures), time(figures))
    raise ValueError(
        f"the formula of '{key}' has '{ast.unparse(node)}': use numbers, names, + - * / ** and crf"
    )
