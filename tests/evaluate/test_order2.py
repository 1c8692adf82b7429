"""The yardstick for text: tables against dictionaries, and a distribution that sums to one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from benthic.data.tokenizer import BOS, EOS
from benthic.data.vocabulary import BYTES
from benthic.evaluate.order2 import Order2Model, order2_reference

few = st.lists(st.sampled_from([0, 97, 98, 99, 255]), min_size=3, max_size=40)
any_bytes = st.lists(st.integers(0, 255), min_size=3, max_size=20)


def stream(tokens: list[int]) -> NDArray[np.uint8]:
    return BYTES.bytes_of(np.array(tokens, dtype=np.uint16))


@settings(max_examples=40)
@given(train=few | any_bytes, test=few | any_bytes)
def test_tables_are_the_dictionaries(train: list[int], test: list[int]) -> None:
    ours = Order2Model(stream(train)).bits_per_byte(stream(test))
    assert ours == pytest.approx(order2_reference(train, test), rel=1e-9)


@settings(max_examples=20)
@given(train=few, context=st.tuples(st.integers(95, 100), st.integers(95, 100)))
def test_probabilities_sum_to_one(train: list[int], context: tuple[int, int]) -> None:
    """After contexts seen often, once, and never."""
    model = Order2Model(stream(train))
    bits = [model.bits_per_byte(stream([*context, byte])) for byte in range(256)]
    assert sum(2**-b for b in bits) == pytest.approx(1)


@settings(max_examples=20)
@given(train=few, cuts=st.sets(st.integers(0, 40)))
def test_ends_of_documents_are_left_out(train: list[int], cuts: set[int]) -> None:
    marked = [t for i, byte in enumerate(train) for t in ([EOS, BOS] if i in cuts else []) + [byte]]
    plain = Order2Model(stream(train))
    assert Order2Model(stream(marked)).bits_per_byte(stream(marked)) == plain.bits_per_byte(
        stream(train)
    )


def test_a_worked_example() -> None:
    """After 'ab' came c and d, two kinds: (1 + 2 p) / 4, with p(c | b) and p(c) mixed alike."""
    single = (1 + 4 / 256) / (6 + 4)  # of a b c a b d
    after_b = (1 + 2 * single) / (2 + 2)
    after_ab = (1 + 2 * after_b) / (2 + 2)
    ours = Order2Model(stream(list(b"abcabd"))).bits_per_byte(stream(list(b"abc")))
    assert 2**-ours == pytest.approx(after_ab)


@pytest.mark.parametrize("tokens", [[], [1, 2], [BOS, 1, 2, EOS]])
def test_too_little_text_is_refused(tokens: list[int]) -> None:
    with pytest.raises(ValueError, match="3 bytes"):
        Order2Model(stream(tokens))
    with pytest.raises(ValueError, match="3 bytes"):
        Order2Model(stream([1, 2, 3])).bits_per_byte(stream(tokens))
