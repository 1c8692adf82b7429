"""Vocabularies: text, problems and completions as token ids, and the way back.

A problem is laid out as R1 has it, where the vocabulary holds DeepSeek's special tokens,

    <bos> <User> question <Assistant>   <think> working </think> answer <eos>

and as R1-Zero's plain text, `User: {question}` and `Assistant: ` on two lines and tags spelt out,
where it lacks the one pair or the other. An empty `<think></think>` is a direct answer. Prompt and
completion are tokenised apart, so that their ids concatenate. Text never yields a special token,
whatever it spells. Left out: chat templates of instruct models, which no problem is put into.
"""

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benthic.config import Recipe
from benthic.data import tokenizer

if TYPE_CHECKING:
    from benthic.data.hub_tokenizer import HubTokenizer

Tokens = NDArray[np.unsignedinteger[Any]]
THINK, END_THINK = tokenizer.SPECIALS[4:]
_PLAIN_PROMPT = "User: {question}\nAssistant: "
_AT_ONCE = 1 << 20  # characters encoded or tokens decoded together: they take 100 times their size
_FILES = "tokenizer.json", "tiktoken.model"
_CONFIGS = "generation_config.json", "config.json"  # what each names as an end is one


@dataclass(frozen=True)
class Reply:
    """A completion taken apart."""

    thinking: str
    answer: str
    well_formed: bool


class Vocabulary(ABC):
    """What a run's ids mean. `roles` and `tags` are None where the layout spells them out."""

    name: str
    sha256: str
    """of what decides about ids, so that a resume with another vocabulary is noticed"""
    size: int
    """ids in use; a model's table may have more rows"""
    bos: int | None
    eos: int
    ends: frozenset[int]
    """ids that end a completion"""
    byte_lengths: NDArray[np.int32]
    """bytes of text that each id stands for, [size]; 0 for specials"""
    roles: tuple[int, int] | None
    """ids of <User> and <Assistant>"""
    tags: tuple[int, int] | None
    """ids of <think> and </think>"""

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Ids of text, never a special."""

    @abstractmethod
    def decode(self, ids: Sequence[int], *, show_specials: bool = False) -> str:
        """Ids as text; undecodable bytes become U+FFFD, specials vanish unless asked for."""

    @abstractmethod
    def token_bytes(self, token: int) -> bytes:
        """The text of one id, empty for a special or an id out of use."""

    def mark(self, token: int) -> str:
        """The spelling of a control token that a reader should see; empty for any other id."""
        tags = self.tags or ()
        return (THINK, END_THINK)[tags.index(token)] if token in tags else ""

    @property
    def dtype(self) -> type[np.unsignedinteger[Any]]:
        """The narrowest that holds every id."""
        return np.uint16 if self.size <= 1 << 16 else np.uint32

    def describe(self) -> dict[str, str]:
        """What a manifest keeps of it."""
        return {"name": self.name, "sha256": self.sha256}

    def document(self, raw: bytes) -> Tokens:
        """A document of the corpus: <bos>, if there is one, text, <eos>."""
        begin = [] if self.bos is None else [self.bos]
        parts = [np.array(begin, self.dtype), self._text(raw), np.array([self.eos], self.dtype)]
        return np.concatenate(parts)

    def _text(self, raw: bytes) -> Tokens:
        """Whole lines at a time, since no token is expected to go on behind the end of a line."""
        text, at = raw.decode("utf-8", "replace"), 0
        parts = [np.array([], self.dtype)]
        while at < len(text):
            stop = text.find("\n", at + _AT_ONCE) + 1 or len(text)
            parts.append(np.array(self.encode(text[at:stop]), self.dtype))
            at = stop
        return np.concatenate(parts)

    def bytes_of(self, tokens: Tokens) -> NDArray[np.uint8]:
        """The text of a stream of tokens, specials left out."""
        chunks = range(0, tokens.size, _AT_ONCE)
        parts = (map(self.token_bytes, tokens[at : at + _AT_ONCE].tolist()) for at in chunks)
        return np.frombuffer(b"".join(map(b"".join, parts)), dtype=np.uint8)

    def is_text(self, token: int) -> bool:
        return token < self.size and bool(self.byte_lengths[token])

    def prompt(self, question: str) -> list[int]:
        """What the model is given before it answers; it writes `<think>` itself."""
        begin = [] if self.bos is None else [self.bos]
        if self.roles is None:
            return begin + self.encode(_PLAIN_PROMPT.format(question=question))
        user, assistant = self.roles
        return [*begin, user, *self.encode(question), assistant]

    def completion(self, working: str, answer: str) -> list[int]:
        """What a right document goes on with; empty working is a direct answer."""
        if self.tags is None:
            return [*self.encode(f"{THINK}{working}{END_THINK}{answer}"), self.eos]
        think, end_think = self.tags
        return [think, *self.encode(working), end_think, *self.encode(answer), self.eos]

    def parse(self, ids: list[int]) -> Reply:
        """Split a completion; well formed means `<think>text</think>text`, an end, and no more.

        Space may stand before a tag that is spelt out.
        """
        end = self._end(ids)
        body = ids[:end]
        if self.tags is None:
            spelt = self._spelt(body).decode("utf-8", "replace")
            opened = spelt.startswith(THINK)
            thinking, close, answer = spelt.removeprefix(THINK).partition(END_THINK)
            whole = opened and bool(close)
            once = not any(tag in part for tag in (THINK, END_THINK) for part in (thinking, answer))
            plain = once and all(map(self.is_text, body))
        else:
            think, end_think = self.tags
            at = body.index(end_think) if end_think in body else len(body)
            opened = body[:1] == [think]
            inside, after = body[int(opened) : at], body[at + 1 :]
            thinking, answer = self.decode(inside), self.decode(after)
            whole = opened and at < len(body)
            plain = all(map(self.is_text, inside + after))
        return Reply(thinking, answer.strip(), whole and plain and end == len(ids) - 1)

    def thought_tokens(self, completion: list[int]) -> int:
        """Tokens between `<think>` and `</think>`, or to the end; 0 where it does not open."""
        body = completion[: self._end(completion)]
        if self.tags is not None:
            think, end_think = self.tags
            if body[:1] != [think]:
                return 0
            return (body.index(end_think) if end_think in body else len(body)) - 1
        spelt = self._spelt(body)
        if not spelt.startswith(THINK.encode()):
            return 0
        # A token thinks if one byte of it does: it may hold part of a tag as well.
        owners = [at for at, i in enumerate(body) for _ in self.token_bytes(i)][-len(spelt) :]
        thought = spelt.removeprefix(THINK.encode()).partition(END_THINK.encode())[0]
        return len(set(owners[len(THINK) :][: len(thought)]))

    def _end(self, ids: list[int]) -> int:
        return next((at for at, i in enumerate(ids) if i in self.ends), len(ids))

    def _spelt(self, ids: list[int]) -> bytes:
        return b"".join(map(self.token_bytes, ids)).lstrip()


class ByteVocabulary(Vocabulary):
    """Ids 0..255 are bytes; the specials of R1's layout follow."""

    name = "bytes"
    sha256 = ""  # the table is code, told apart by the manifest's commit
    size = 256 + len(tokenizer.SPECIALS)
    bos: int = tokenizer.BOS
    eos = tokenizer.EOS
    ends = frozenset([tokenizer.EOS])
    roles = tokenizer.USER, tokenizer.ASSISTANT
    tags = tokenizer.THINK, tokenizer.END_THINK

    def __init__(self) -> None:
        self.byte_lengths = (np.arange(self.size) < 256).astype(np.int32)

    def encode(self, text: str) -> list[int]:
        return tokenizer.encode(text)

    def decode(self, ids: Sequence[int], *, show_specials: bool = False) -> str:
        return tokenizer.decode(ids, show_specials=show_specials)

    def token_bytes(self, token: int) -> bytes:
        return bytes([token]) if token < 256 else b""

    def bytes_of(self, tokens: Tokens) -> NDArray[np.uint8]:
        return tokens[tokens < 256].astype(np.uint8)

    def _text(self, raw: bytes) -> Tokens:
        return np.frombuffer(raw, dtype=np.uint8).astype(self.dtype)


BYTES = ByteVocabulary()


class HubVocabulary(Vocabulary):
    """A tokenizer of the Hub; its own end and those given in `ends` end a completion.

    Texts begin with its <bos> where its checkpoint puts one there.
    """

    def __init__(
        self, hub: "HubTokenizer", *, name: str, sha256: str, ends: Iterable[int] = ()
    ) -> None:
        """ValueError where no end is known."""
        self.hub, self.name, self.sha256 = hub, name, sha256
        self.size, self.bos = hub.size, hub.bos if hub.adds_bos else None
        self.ends = frozenset(ends) | ({hub.eos} if hub.eos is not None else set())
        if not self.ends:
            raise ValueError(
                f"the tokenizer {name} names no end of text: give eos_token in "
                "tokenizer_config.json or eos_token_id in generation_config.json"
            )
        self.eos = min(self.ends) if hub.eos is None else hub.eos
        self._special = frozenset(hub.specials.values())
        self._bytes = [b"" if i in self._special else hub.token_bytes(i) for i in range(self.size)]
        self.byte_lengths = np.array([len(b) for b in self._bytes], dtype=np.int32)
        _, _, user, assistant, think, end_think = map(hub.specials.get, tokenizer.SPECIALS)
        self.roles = None if user is None or assistant is None else (user, assistant)
        self.tags = None if think is None or end_think is None else (think, end_think)

    def encode(self, text: str) -> list[int]:
        return self.hub.encode(text)

    def decode(self, ids: Sequence[int], *, show_specials: bool = False) -> str:
        shown = [i for i in ids if show_specials or i not in self._special]
        return self.hub.decode(shown, show_specials=show_specials)

    def token_bytes(self, token: int) -> bytes:
        return self._bytes[token] if token < self.size else b""

    def mark(self, token: int) -> str:
        """As above, and what its checkpoint does not hide, as calls of tools."""
        seen = token in self._special and token not in self.hub.hidden
        return self.hub.piece(token) if seen else super().mark(token)


def vocabulary_of(recipe: Recipe) -> Vocabulary:
    """The vocabulary that a recipe names; ValueError if its model disagrees with it."""
    vocabulary = hub_vocabulary(Path(recipe.data.tokenizer)) if recipe.data.tokenizer else BYTES
    model, of = recipe.model, f"the tokenizer {vocabulary.name}"
    if model.vocab_size < vocabulary.size:
        raise ValueError(
            f"model.vocab_size is {model.vocab_size}, but {of} has {vocabulary.size} ids: "
            "give the model as many rows or more"
        )
    if vocabulary.bos is not None and model.bos_token_id not in (vocabulary.bos, -1):
        raise ValueError(
            f"model.bos_token_id is {model.bos_token_id}, but {of} begins a text with "
            f"{vocabulary.bos}: set the one to the other"
        )
    if model.eos_token_id not in (*vocabulary.ends, -1):
        raise ValueError(
            f"model.eos_token_id is {model.eos_token_id}, but {of} ends a text with "
            f"{vocabulary.eos}: set the one to the other"
        )
    return vocabulary


def hub_vocabulary(path: Path) -> HubVocabulary:
    """The vocabulary of a folder, or of its tokenizer.json; ends from the configs beside it."""
    # Here, for they take a moment to load that runs on bytes need not spend.
    from benthic.data.hub_tokenizer import FILE_LIMIT, load_tokenizer
    from benthic.hub.files import open_file, read_bytes

    folder = path
    if path.is_file():
        folder = path.parent
        if path.name not in _FILES:
            raise ValueError(f"{path} is no {' or '.join(_FILES)}: give one, or the folder of one")
    hub = load_tokenizer(folder)
    ends = {end for name in _CONFIGS for end in _ends_in(folder / name, hub.size)}
    facts = [hub.size, hub.bos, hub.adds_bos, hub.eos, sorted(ends), sorted(hub.specials.items())]
    digest = hashlib.sha256(json.dumps(facts).encode())
    source = folder / next(name for name in _FILES if os.path.lexists(folder / name))
    with open_file(source) as file:
        digest.update(read_bytes(source, file, FILE_LIMIT))
    return HubVocabulary(hub, name=folder.resolve().name, sha256=digest.hexdigest(), ends=ends)


def _ends_in(path: Path, size: int) -> list[int]:
    from benthic.hub.files import CONFIG_LIMIT, read_json, shown

    if not os.path.lexists(path):
        return []
    found = read_json(path, limit=CONFIG_LIMIT).get("eos_token_id")
    ends = found if isinstance(found, list) else [] if found is None else [found]
    if not all(type(i) is int for i in ends):
        raise ValueError(f"{path}: eos_token_id is {shown(found)}: give an id or a list of ids")
    for end in ends:
        if not 0 <= end < size:
            raise ValueError(
                f"{path}: eos_token_id is {end}, and the tokenizer's ids are 0 to {size - 1}: "
                "correct it there"
            )
    return ends
