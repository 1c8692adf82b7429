"""Bits per byte of a model on held-out text, the same measure for every vocabulary.

Every token of text is scored once, with at least half a window before it.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray

from benthic.data.vocabulary import Tokens, Vocabulary
from benthic.model.transformer import LanguageModel, token_log_probs

_BATCH_TOKENS = 8192


def window_starts(size: int, window: int) -> NDArray[np.int64]:
    """Where the windows over `size` tokens start: half a window apart."""
    stride = max(1, window // 2)
    return np.arange(0, max(1, size - 1 - window + stride), stride)


@torch.inference_mode()
def bits_per_byte(
    model: LanguageModel, tokens: Tokens, window: int, vocabulary: Vocabulary
) -> float:
    """Sum of -log2 p over the text targets of `tokens`, a byte of theirs (specials: context only).

    Windows of `window` tokens overlap by half; each scores its later half, the first one all of it.
    """
    stream = tokens.astype(np.int64)
    stride = max(1, window // 2)
    starts = window_starts(stream.size, window)
    pad = vocabulary.eos if vocabulary.bos is None else vocabulary.bos
    padded = np.concatenate([stream, np.full(window + 1, pad)])
    device, total, count = model.cos.device, 0.0, 0
    for group in np.array_split(starts, max(1, math.ceil(starts.size * window / _BATCH_TOKENS))):
        rows = np.stack([padded[s : s + window + 1] for s in group])
        row_tokens = torch.from_numpy(rows).to(device)
        log_p = token_log_probs(model, model(row_tokens[:, :-1]), row_tokens[:, 1:]).cpu().numpy()
        target = group[:, None] + np.arange(1, window + 1)
        fresh = (target > group[:, None] + window - stride) | (group[:, None] == 0)
        sizes = vocabulary.byte_lengths[rows[:, 1:]]
        scored = fresh & (target < stream.size) & (sizes > 0)
        total -= float(log_p[scored].astype(np.float64).sum())
        count += int(sizes[scored].sum())
    if not count:
        raise ValueError("the held-out text is too short to score: give more text")
    return total / count / math.log(2)
