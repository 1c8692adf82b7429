"""Ranks of a `tiktoken.model` as a byte-level BPE of the `tokenizers` library, id for id.

A line is a token in base64 and its rank. tiktoken splits text by a pattern, takes a piece that is
a token whole, and otherwise joins, while it can, the leftmost adjacent pair whose union has the
lowest rank. The library knows merges of named pairs instead. A token's pair is the last one joined
when the rule is run on the token alone: where a token comes up in a text, nothing has ever stood
across its ends, so its inside went the same way, and a token the rule stops short of has no merge.

KIMI_PATTERN belongs to Moonlight (tokenization_moonshot.py) and to Kimi K2 and later
(tokenization_kimi.py), both `TikTokenTokenizer`; that Python is never run. It also cuts a run of
more than 25,000 characters, all spaces or none, before it splits, which is left out here.
"""

import base64
import binascii
from itertools import pairwise
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from benthic.hub.files import HubError, open_file, read_bytes, shown

FILE_LIMIT = 64 << 20  # bytes; Kimi's file has 2.8 million
TOKEN_LIMIT = 1 << 22
WORK_LIMIT = (
    1 << 28
)  # sum of squared token lengths; 160,000 tokens of real text have some 10 million
RESERVED = 256  # special ids after the ranks, used or not

_CASELESS = r"\p{Lm}\p{Lo}\p{M}"
_UPPER, _LOWER = (rf"[{case}{_CASELESS}&&[^\p{{Han}}]]" for case in (r"\p{Lu}\p{Lt}", r"\p{Ll}"))
_BEFORE, _CONTRACTION = r"[^\r\n\p{L}\p{N}]?", r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
KIMI_PATTERN = "|".join(
    (
        r"[\p{Han}]+",
        f"{_BEFORE}{_UPPER}*{_LOWER}+{_CONTRACTION}",
        f"{_BEFORE}{_UPPER}+{_LOWER}*{_CONTRACTION}",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)


def _printable() -> dict[int, str]:
    """GPT-2's alphabet: printable Latin-1 stands for itself, the 68 others for U+0100 onwards."""
    plain = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [b for b in range(256) if b not in plain]
    return {b: chr(b) if b in plain else chr(256 + others.index(b)) for b in range(256)}


BYTE_CHARS = _printable()


def load(path: Path, config: dict[str, Any], added: dict[int, str]) -> Tokenizer:
    """The tokenizer of a rank file; tokenizer_config.json, `config`, must name the class."""
    auto = config.get("auto_map")
    auto = auto.get("AutoTokenizer") if isinstance(auto, dict) else auto
    classes = [config.get("tokenizer_class"), *(auto if isinstance(auto, list) else [auto])]
    names = [name for name in classes if isinstance(name, str)]
    if not any(name.split(".")[-1] == "TikTokenTokenizer" for name in names):
        raise HubError(
            f"{path} does not say how text is split, and tokenizer_config.json names "
            f"{shown(names)}, while only TikTokenTokenizer's pattern (Moonlight, Kimi) is known: "
            "convert it to tokenizer.json"
        )
    ranks = read_ranks(path)
    return to_bpe(ranks, KIMI_PATTERN, reserved_specials(len(ranks), added))


def read_ranks(path: Path) -> dict[bytes, int]:
    """Tokens and their ranks, 0 to n - 1 and each once, with all 256 single bytes among them."""
    with open_file(path) as file:
        raw = read_bytes(path, file, FILE_LIMIT + 1)
    if len(raw) > FILE_LIMIT:
        raise HubError(f"{path} is larger than the {FILE_LIMIT} bytes that are read of a rank file")
    ranks: dict[bytes, int] = {}
    lines: dict[int, int] = {}
    for number, line in enumerate(raw.split(b"\n"), 1):
        fields = line.split()
        if not fields:
            continue
        where = f"{path}, line {number}"
        if len(fields) != 2:
            raise HubError(f"{where}: expected a token in base64, a space and a rank")
        try:
            token = base64.b64decode(fields[0], validate=True)
        except binascii.Error as error:
            raise HubError(f"{where}: the token is not base64: {error}") from error
        if not fields[1].isdigit() or len(fields[1]) > 7 or int(fields[1]) >= TOKEN_LIMIT:
            raise HubError(f"{where}: the rank must be a whole number from 0 to {TOKEN_LIMIT - 1}")
        rank = int(fields[1])
        if rank in lines or token in ranks:
            twice = f"rank {rank}" if rank in lines else f"token {shown(token)}"
            first = lines[rank] if rank in lines else lines[ranks[token]]
            raise HubError(f"{where}: {twice} was given on line {first}; each may come once")
        ranks[token], lines[rank] = rank, number
    beyond = [rank for rank in lines if rank >= len(lines)]
    if beyond:
        where = f"{path}, line {lines[min(beyond)]}"
        raise HubError(f"{where}: rank {min(beyond)} leaves a gap among {len(lines)} tokens")
    absent = [b for b in range(256) if bytes([b]) not in ranks]
    if absent:
        raise HubError(f"{path} has no line for byte 0x{absent[0]:02X}; all 256 must be tokens")
    return ranks


def reserved_specials(count: int, added: dict[int, str]) -> dict[str, int]:
    """Names of the RESERVED ids after `count` ranks; those that nobody named are numbered.

    Names of other ids are passed over, as the releases' own class does.
    """
    ids = range(count, count + RESERVED)
    return {added.get(i, f"<|reserved_token_{i}|>"): i for i in ids}


def _last_pair(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes] | None:
    """The pair whose joining completes `token`; None where the rule stops short of it."""
    if len(token) == 2:
        return token[:1], token[1:]
    none = len(ranks)
    parts = [token[i : i + 1] for i in range(len(token))]
    joined = [ranks.get(token[i : i + 2], none) for i in range(len(token) - 1)]
    while len(joined) > 1:
        lowest = min(joined)
        if lowest == none:
            return None
        i = joined.index(lowest)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
        del joined[i]
        if i:
            joined[i - 1] = ranks.get(parts[i - 1] + parts[i], none)
        if i < len(joined):
            joined[i] = ranks.get(parts[i] + parts[i + 1], none)
    return parts[0], parts[1]


def merges(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """One pair a token, lowest rank first."""
    work = sum(len(token) ** 2 for token in ranks)
    if work > WORK_LIMIT:
        longest = max(map(len, ranks))
        raise HubError(
            f"tokens of up to {longest} bytes make {work} steps of finding merges, more than "
            f"{WORK_LIMIT}: this is no vocabulary of text"
        )
    pairs = (_last_pair(t, ranks) for t in sorted(ranks, key=ranks.__getitem__) if len(t) > 1)
    return [pair for pair in pairs if pair is not None]


def encode_piece_reference(piece: bytes, ranks: dict[bytes, int]) -> list[int]:
    """tiktoken's rule on one piece of the pattern, as it reads."""
    if piece in ranks:
        return [ranks[piece]]
    parts = [piece[i : i + 1] for i in range(len(piece))]
    while True:
        unions = [a + b for a, b in pairwise(parts)]
        known = [u for u in unions if u in ranks]
        if not known:
            return [ranks[part] for part in parts]
        i = unions.index(min(known, key=ranks.__getitem__))
        parts[i : i + 2] = [unions[i]]


def to_bpe(ranks: dict[bytes, int], pattern: str, specials: dict[str, int]) -> Tokenizer:
    """A tokenizer with the ids of `tiktoken.Encoding(pattern, ranks, specials)`.

    The specials' ids go on where the ranks end, without gaps.
    """
    spelled = {token: "".join(BYTE_CHARS[b] for b in token) for token in ranks}
    model = models.BPE(
        vocab={spelled[token]: rank for token, rank in ranks.items()},
        merges=[(spelled[a], spelled[b]) for a, b in merges(ranks)],
        ignore_merges=True,
    )
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    names = sorted(specials, key=specials.__getitem__)
    tokenizer.add_special_tokens([AddedToken(n, special=True, normalized=False) for n in names])
    for name in names:
        if tokenizer.token_to_id(name) != specials[name]:
            raise HubError(
                f"special token {shown(name)} has id {specials[name]}, which does not go on from "
                f"the {len(ranks)} ranks, or is also an ordinary token"
            )
    return tokenizer
