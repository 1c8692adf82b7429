"""What work is for: the words of the ledger, and what people write for them.

A purpose is stored as one of PURPOSES. The final run is stored as "pretrain" and called "final"; a
word that is none is answered with the nearest and all there are.
"""

from typing import Literal, get_args

Purpose = Literal[
    "pretrain",  # the final run
    "rl",
    "evaluation",
    "data",
    "chat",
    "context",
    "post-train",
    "ablation",
    "serving",
    "idle",
    "other",
]
PURPOSES: tuple[Purpose, ...] = get_args(Purpose)


def purpose_named(word: str) -> Purpose:
    """The purpose of that name, however written; "final" is "pretrain". ValueError names others."""
    plain = word.strip().lower()
    for purpose in PURPOSES:
        if purpose == ("pretrain" if plain == "final" else plain):
            return purpose
    from difflib import get_close_matches

    choices = ["final" if purpose == "pretrain" else purpose for purpose in PURPOSES]
    near = get_close_matches(plain, (*choices, "pretrain"), n=1)
    hint = f"did you mean {near[0]}? There are" if near else "choose one of"
    raise ValueError(f"purpose is '{word[:80]}': {hint} {', '.join(choices)}")
