"""The yardstick for text: an order-2 byte model, interpolated with Witten-Bell weights.

p(c | ab) = (n(abc) + t(ab) p(c | b)) / (n(ab) + t(ab)), with t the number of distinct followers,
down to the uniform distribution (Witten and Bell 1991; Chen and Goodman 1998, section 2.4).
"""

import math

import numpy as np
from numpy.typing import NDArray

_BYTES = 256


class Order2Model:
    """Fitted on a stream of bytes, documents one after the other."""

    def __init__(self, stream: NDArray[np.uint8]) -> None:
        text = stream.astype(np.int64)
        if text.size < 3:
            raise ValueError("the order-2 model needs at least 3 bytes of text")
        triples = (text[:-2] * _BYTES + text[1:-1]) * _BYTES + text[2:]
        self.triple = np.bincount(triples, minlength=_BYTES**3).astype(np.int32)
        pairs = np.bincount(text[:-1] * _BYTES + text[1:], minlength=_BYTES**2)
        pairs = pairs.reshape(_BYTES, _BYTES)
        single = np.bincount(text, minlength=_BYTES)
        uniform = np.full(_BYTES, 1 / _BYTES)
        one = _all_followers(single[None], uniform)[0]
        self.given_one = _all_followers(pairs, one)

    def bits_per_byte(self, stream: NDArray[np.uint8]) -> float:
        """Mean of -log2 p over the bytes from the third on."""
        text = stream.astype(np.int64)
        if text.size < 3:
            raise ValueError("scoring needs at least 3 bytes of text")
        context, last = text[:-2] * _BYTES + text[1:-1], text[2:]
        table = self.triple.reshape(_BYTES**2, _BYTES)
        seen, inverse = np.unique(context, return_inverse=True)
        counts = table[seen]
        total, kinds = counts.sum(1)[inverse], (counts > 0).sum(1)[inverse]
        p = _interpolate(table[context, last], total, kinds, self.given_one[text[1:-1], last])
        return float(-np.log2(p).mean())


def order2_reference(train: list[int], test: list[int]) -> float:
    """The same by dictionaries, one byte at a time."""
    followers: dict[tuple[int, ...], dict[int, int]] = {}
    for order in (0, 1, 2):
        for i in range(order, len(train)):
            counts = followers.setdefault(tuple(train[i - order : i]), {})
            counts[train[i]] = counts.get(train[i], 0) + 1

    def probability(context: tuple[int, ...], byte: int) -> float:
        shorter = probability(context[1:], byte) if context else 1 / _BYTES
        counts = followers.get(context, {})
        if not counts:
            return shorter
        total = sum(counts.values())
        return (counts.get(byte, 0) + len(counts) * shorter) / (total + len(counts))

    bits = [-math.log2(probability(tuple(test[i - 2 : i]), test[i])) for i in range(2, len(test))]
    return sum(bits) / len(bits)


def _interpolate(
    followed: NDArray[np.integer],
    total: NDArray[np.integer],
    kinds: NDArray[np.integer],
    shorter: NDArray[np.float64],
) -> NDArray[np.float64]:
    """p(c | context) where c `followed` it so often, of `total` followers of so many `kinds`."""
    mixed = (followed + kinds * shorter) / np.maximum(total + kinds, 1)
    return np.where(total > 0, mixed, shorter)


def _all_followers(
    counts_CV: NDArray[np.integer], shorter_V: NDArray[np.float64]
) -> NDArray[np.float64]:
    total, kinds = counts_CV.sum(1, keepdims=True), (counts_CV > 0).sum(1, keepdims=True)
    return _interpolate(counts_CV, total, kinds, shorter_V)
