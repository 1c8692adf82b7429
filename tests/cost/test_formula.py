"""Formulas of a sheet: what they compute, what they read, and what no text can make them do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benthic.cost.cases.fleet import crf
from benthic.cost.cases.formula import formula

FIGURES = {"a.x": 3.0, "a.y": 5.0, "b1.z_2": 0.25}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a.x", 3.0),
        ("2 * a.x + a.y / 4 - 1e3", 2 * 3.0 + 5.0 / 4 - 1e3),
        ("a.x - a.y - b1.z_2", 3.0 - 5.0 - 0.25),
        ("(1 + b1.z_2) ** -a.x", 1.25**-3.0),
        ("crf(b1.z_2, a.y) * a.x", crf(0.25, 5.0) * 3.0),
    ],
)
def test_a_formula_is_the_arithmetic_that_it_says(text: str, value: float) -> None:
    found = formula(f"c.d [USD/GPU-hour] = {text}")
    assert (found.key, found.unit, found.text) == ("c.d", "USD/GPU-hour", text)
    assert found.rule(FIGURES) == value
    assert found.reads == {key for key in FIGURES if key in text}


@given(
    st.recursive(
        st.sampled_from([*FIGURES, "2", "0.5"]),
        lambda inner: st.builds(
            lambda one, sign, other: f"({one} {sign} {other})", inner, st.sampled_from("+-*"), inner
        ),
        max_leaves=8,
    )
)
def test_to_the_bit_what_python_makes_of_it(text: str) -> None:
    plain = text
    for key, value in FIGURES.items():
        plain = plain.replace(key, repr(value))
    assert formula(f"c.d [x] = {text}").rule(FIGURES) == eval(plain)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').getcwd()",
        "a.x.__class__",
        "print(a.x)",
        "a.x if a.y else 1",
        "crf(a.x)",
        "'text'",
        "x",
        "a.x // 2",
        "[a.x]",
    ],
)
def test_nothing_else_is_a_formula(text: str) -> None:
    with pytest.raises(ValueError, match=r"the formula of 'c.d' has .*use numbers, names"):
        formula(f"c.d [x] = {text}")


@pytest.mark.parametrize("line", ["c.d = 1", "c.d [x]", "c.d [x] = 1 +", ""])
def test_a_line_that_cannot_be_read_is_named(line: str) -> None:
    with pytest.raises(ValueError, match=r"is no line of a sheet|'c.d' cannot be read"):
        formula(line)
