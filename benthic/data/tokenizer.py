"""The byte table: ids 0..255 are bytes; special tokens follow, spelled as in DeepSeek's tokenizer.

What is made of them, and why no text yields a special token, says `benthic.data.vocabulary`.
"""

from collections.abc import Sequence

_BAR, _GAP = "\uff5c", "\u2581"  # the full-width bar and the low block of DeepSeek's spellings
SPECIALS = (
    f"<{_BAR}begin{_GAP}of{_GAP}sentence{_BAR}>",
    f"<{_BAR}end{_GAP}of{_GAP}sentence{_BAR}>",
    f"<{_BAR}User{_BAR}>",
    f"<{_BAR}Assistant{_BAR}>",
    "<think>",
    "</think>",
)
BOS, EOS, USER, ASSISTANT, THINK, END_THINK = range(256, 256 + len(SPECIALS))
VOCABULARY = 264  # 262 in use; the rest pads the table to a multiple of 8


def encode(text: str) -> list[int]:
    """UTF-8 bytes as ids; a lone surrogate becomes '?'."""
    return list(text.encode("utf-8", "replace"))


def decode(ids: Sequence[int], *, show_specials: bool = False) -> str:
    """Ids as text; undecodable bytes become U+FFFD, specials vanish unless asked for."""
    parts: list[str] = []
    run = bytearray()
    for i in ids:
        if i < 256:
            run.append(i)
            continue
        parts.append(run.decode("utf-8", "replace"))
        run.clear()
        if show_specials and i < 256 + len(SPECIALS):
            parts.append(SPECIALS[i - 256])
    parts.append(run.decode("utf-8", "replace"))
    return "".join(parts)
