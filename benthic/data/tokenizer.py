"""Byte-level vocabulary with the special tokens of R1's chat form.

Ids 0..255 are bytes; the specials follow, spelled as in DeepSeek's tokenizer. A problem is laid out

    <bos> <User> question <Assistant> <think> working </think> answer <eos>

and an empty `<think></think>` is a direct answer. Text never yields a special token, whatever it
spells: ids enter only through this module's functions.
"""

from dataclasses import dataclass

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


def decode(ids: list[int], *, show_specials: bool = False) -> str:
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


def prompt(question: str) -> list[int]:
    """What the model is given before it answers; it writes `<think>` itself."""
    return [BOS, USER, *encode(question), ASSISTANT]


def completion(working: str, answer: str) -> list[int]:
    """What a right document goes on with; empty working is a direct answer."""
    return [THINK, *encode(working), END_THINK, *encode(answer), EOS]


@dataclass(frozen=True)
class Reply:
    """A completion taken apart."""

    thinking: str
    answer: str
    well_formed: bool


def parse(ids: list[int]) -> Reply:
    """Split a completion; well formed means `<think>bytes</think>bytes<eos>` and nothing else."""
    end = ids.index(EOS) if EOS in ids else len(ids)
    body = ids[:end]
    close = body.index(END_THINK) if END_THINK in body else len(body)
    opened = body[:1] == [THINK]
    inside, after = body[int(opened) : close], body[close + 1 :]
    plain = all(i < 256 for i in inside + after)
    whole = opened and close < len(body) and end == len(ids) - 1
    return Reply(decode(inside), decode(after).strip(), whole and plain)


def thought_tokens(completion: list[int]) -> int:
    """Tokens between `<think>` and `</think>`, or to the end; 0 where it does not open."""
    if completion[:1] != [THINK]:
        return 0
    stops = [completion.index(s) for s in (END_THINK, EOS) if s in completion]
    return min([*stops, len(completion)]) - 1
