"""A checkpoint's tokenizer: `tokenizer.json` or `tiktoken.model`, with what its configs add.

Read is BPE over bytes in GPT-2's alphabet (DeepSeek, Llama 3, Qwen, Kimi) or with byte fallback
(Llama 2). A control token is one marked special, or spelled as markup, `<...>` or `[...]`: DeepSeek
and Qwen do not mark `<think>`. Text goes through a second tokenizer that has no control tokens, so
no spelling becomes one; only the token for unknown characters may come, where bytes are missing.
Where tokenizer.json and tokenizer_config.json differ, the config's flags win, as in transformers.

Left out: sentencepiece's `tokenizer.model`, truncation, padding, dropout, an end after text. Parts
not listed here are refused; a stranger's pattern may still be slow on text made for it.
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from benthic.data import tiktoken
from benthic.data.template import TEMPLATE_LIMIT
from benthic.data.tokenizer_document import (
    added_by_id,
    added_tokens,
    check,
    parts_of,
    special_token,
    spelling,
)
from benthic.durable import write_atomically
from benthic.hub.files import AGAIN, HubError, open_file, read_bytes, read_json, shown

FILE_LIMIT = 24 << 20  # bytes of tokenizer.json; Llama 3's has 9 million
CONFIG_LIMIT = 8 << 20  # bytes; a thousand added tokens take 0.2 million
_MARKS = ("pad_token", "unk_token", "sep_token", "cls_token", "mask_token")
_LOW_BLOCK = "\u2581"  # sentencepiece's spelling of a space
_CHAR_BYTES = {char: byte for byte, char in tiktoken.BYTE_CHARS.items()}


@dataclass(frozen=True, eq=False)
class HubTokenizer:
    """Text to ids and back, as the checkpoint's own tokenizer has it."""

    tokenizer: Tokenizer
    plain: Tokenizer
    """the same without control tokens, for text"""
    size: int
    """largest id + 1; a model's table may have more rows"""
    specials: dict[str, int]
    """control tokens, which `encode` never yields"""
    hidden: frozenset[int]
    """those that the checkpoint marks special, which `decode` leaves out"""
    added: dict[int, str]
    """tokens beside the model's vocabulary, control or not"""
    byte_level: bool
    bos: int | None
    eos: int | None
    adds_bos: bool
    """the checkpoint's own tokenizer puts bos before a text; `encode` leaves that to the caller"""
    chat_template: str | None = None
    marks: dict[str, str] = field(default_factory=dict)
    """spellings of the other tokens that the checkpoint names: pad_token, unk_token, ..."""

    def encode(self, text: str) -> list[int]:
        """Ids of text; no spelling becomes a control token, a lone surrogate becomes '?'."""
        return _ids(self.plain, text)

    def encode_with_specials(self, text: str) -> list[int]:
        """Ids of a rendered chat template: control tokens where they are spelled, no bos added."""
        return _ids(self.tokenizer, text)

    def decode(self, ids: Iterable[int], *, show_specials: bool = False) -> str:
        """Text of ids; undecodable bytes become U+FFFD, ids without a token vanish."""
        left_out = frozenset() if show_specials else self.hidden
        known = [i for i in ids if 0 <= i < self.size and i not in left_out]
        with _library("tokens cannot be decoded"):
            return self.tokenizer.decode(known, skip_special_tokens=False)

    def piece(self, id: int) -> str:
        """The vocabulary's spelling of an id; empty where it has none, as in a padded table."""
        return (self.tokenizer.id_to_token(id) or "") if 0 <= id < self.size else ""

    def token_bytes(self, id: int) -> bytes:
        """The bytes that an id stands for; added tokens are their UTF-8 text.

        A first piece of Llama 2's keeps the space that decoding a whole text strips.
        """
        piece = self.piece(id)
        if id in self.added:
            return piece.encode()
        if self.byte_level:
            codes = [_CHAR_BYTES.get(char) for char in piece]
            return piece.encode() if None in codes else bytes(c for c in codes if c is not None)
        if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
            try:
                return bytes([int(piece[3:5], 16)])
            except ValueError:
                pass
        return piece.replace(_LOW_BLOCK, " ").encode()


def load_tokenizer(folder: Path) -> HubTokenizer:
    """The tokenizer in a checkpoint's folder; HubError says what is missing or not read."""
    config = _optional(folder, "tokenizer_config.json")
    named = _optional(folder, "special_tokens_map.json") | config
    if _has(folder, "tokenizer.json"):
        path = folder / "tokenizer.json"
        document = read_json(path, limit=FILE_LIMIT)
    elif _has(folder, "tiktoken.model"):
        path = folder / "tiktoken.model"
        named_by_id = {token["id"]: token["content"] for token in added_by_id(path, config)}
        with _library(f"{path} cannot be made a tokenizer"):
            document = json.loads(tiktoken.load(path, config, named_by_id).to_str())
    elif _has(folder, "tokenizer.model"):
        raise HubError(
            f"{folder} has its tokenizer only as tokenizer.model, which is not read: convert it "
            "with transformers, AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
        )
    else:
        raise HubError(
            f"{folder} has no tokenizer: neither tokenizer.json nor tiktoken.model is there; "
            "fetch the one that its checkpoint came with"
        )
    check(path, document)
    document["added_tokens"] = added_tokens(path, document, config, named)
    bos, eos = spelling(named.get("bos_token")), spelling(named.get("eos_token"))
    marks = {key: spelling(value) for key, value in named.items() if key in _MARKS}
    found = replace(
        _build(path, document, bos, eos),
        chat_template=_template(folder, config),
        marks={key: name for key, name in marks.items() if name is not None},
    )
    if bos is None or found.adds_bos or config.get("add_bos_token") is not True:
        return found
    with _library(f"{path} cannot be made to put {shown(bos)} first"):
        # transformers 5 heeds tokenizer.json alone, so that is where it must be when saved.
        found.tokenizer.post_processor = processors.TemplateProcessing(
            single=[bos, "$A"], pair=[bos, "$A", "$B:1"], special_tokens=[(bos, found.bos)]
        )
    return replace(found, adds_bos=True)


def save_tokenizer(tokenizer: HubTokenizer, folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and chat_template.jinja for transformers."""
    folder.mkdir(parents=True, exist_ok=True)
    with _library("this tokenizer cannot be written"):
        write_atomically(folder / "tokenizer.json", tokenizer.tokenizer.to_str())
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None if tokenizer.bos is None else tokenizer.piece(tokenizer.bos),
        "eos_token": None if tokenizer.eos is None else tokenizer.piece(tokenizer.eos),
        **tokenizer.marks,
        "add_bos_token": tokenizer.adds_bos,
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
    }
    if tokenizer.chat_template is not None:
        config["chat_template"] = tokenizer.chat_template
        write_atomically(folder / "chat_template.jinja", tokenizer.chat_template)
    write_atomically(folder / "tokenizer_config.json", json.dumps(config, indent=2) + "\n")


def train_bpe(texts: Iterable[str], size: int, specials: Sequence[str]) -> HubTokenizer:
    """A byte-level BPE of `size` ids with GPT-2's pattern; the same texts give the same ids.

    Ids 0 to 255 are the bytes, merges follow, the specials are last; the first is bos, the second
    eos.
    """
    if size < 256 + len(specials) + 1:
        least = 256 + len(specials) + 1
        raise ValueError(f"{size} ids are too few: bytes, specials and a merge take {least}")
    tokenizer = _bytes(split=True)
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(specials),
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator((_clean(text) for text in texts), trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    if 256 + len(merges) + len(specials) < size:
        raise ValueError(
            f"the texts yield {len(merges)} merges and {size} ids need "
            f"{size - 256 - len(specials)}: give more text or a smaller size"
        )
    return _bytes_first(tokenizer, [a + b for a, b in merges], specials)


def byte_tokenizer(specials: Sequence[str], size: int) -> HubTokenizer:
    """Bytes as ids 0 to 255, then the specials, then `<unused0>` onwards up to `size`; no merges.

    With SPECIALS and VOCABULARY of `benthic.data.tokenizer` its ids are those of that module, and
    the chat template is `benthic.data.template.R1_TEMPLATE`: put it in by `dataclasses.replace`.
    """
    spare = size - 256 - len(specials)
    if spare < 0:
        raise ValueError(f"{size} ids are too few: bytes and specials take {size - spare}")
    names = [*specials, *(f"<unused{i}>" for i in range(spare))]
    return _bytes_first(_bytes(split=False), [], names)


def _bytes(*, split: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _bytes_first(tokenizer: Tokenizer, merged: list[str], specials: Sequence[str]) -> HubTokenizer:
    if not all(specials) or len(set(specials)) < len(specials):
        raise ValueError(f"special tokens must differ and not be empty: {shown(list(specials))}")
    pieces = [*(tiktoken.BYTE_CHARS[b] for b in range(256)), *merged]
    document = json.loads(tokenizer.to_str())
    document["model"]["vocab"] = {piece: i for i, piece in enumerate(pieces)}
    document["added_tokens"] = [
        special_token(name, len(pieces) + i) for i, name in enumerate(specials)
    ]
    bos, eos = [*specials, None, None][:2]
    return _build(Path("tokenizer.json"), document, bos, eos)


def _clean(text: str) -> str:
    """Lone surrogates as '?'; the library takes none."""
    return text.encode("utf-8", "replace").decode()


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    with _library("text cannot be encoded"):
        return tokenizer.encode(_clean(text), add_special_tokens=False).ids


@contextmanager
def _library(sentence: str) -> Iterator[None]:
    """The library's plain Exceptions, and its panics, which are not even those, as HubError."""
    try:
        yield
    except HubError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise HubError(f"{sentence}: {shown(str(error))}") from error


@contextmanager
def _silenced() -> Iterator[None]:
    """What the library prints of a panic goes nowhere: the sentence is what is said of it."""
    try:
        kept = os.dup(2)
    except OSError:  # closed: nothing can be printed
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(nowhere)
        os.close(kept)


def _has(folder: Path, name: str) -> bool:
    return os.path.lexists(folder / name)


def _optional(folder: Path, name: str) -> dict[str, Any]:
    return read_json(folder / name, limit=CONFIG_LIMIT) if _has(folder, name) else {}


def _template(folder: Path, config: dict[str, Any]) -> str | None:
    path = folder / "chat_template.jinja"
    if _has(folder, path.name):
        with open_file(path) as file:
            data = read_bytes(path, file, TEMPLATE_LIMIT + 1)
        if len(data) > TEMPLATE_LIMIT:
            raise HubError(f"{path} is larger than the {TEMPLATE_LIMIT} bytes of a chat template")
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise HubError(f"{path} is no UTF-8 text ({error}): {AGAIN}") from None
    found = config.get("chat_template")
    if isinstance(found, list):
        pairs = [t for t in found if isinstance(t, dict) and t.get("name") == "default"]
        found = pairs[0].get("template") if pairs else None
    if found is not None and not isinstance(found, str):
        raise HubError(f"chat_template in {folder / 'tokenizer_config.json'} is no text: {AGAIN}")
    return found


def _plain(document: dict[str, Any], controls: set[str]) -> dict[str, Any]:
    """The document of a tokenizer in which no text leads to a control token."""
    model = document["model"]
    gone = (controls & model["vocab"].keys()) - {model.get("unk_token")}  # BPE must have that one
    kept = {t["content"]: t["id"] for t in document["added_tokens"] if t["content"] not in controls}
    vocab, merges = model["vocab"] | kept, model["merges"]
    if controls & model["vocab"].keys():
        vocab = {piece: i for piece, i in vocab.items() if piece not in gone}
        pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
        merges = [[a, b] for a, b in pairs if controls.isdisjoint((a, b, a + b))]
    return {
        **document,
        "post_processor": None,
        "added_tokens": [t for t in document["added_tokens"] if t["content"] in kept],
        "model": {**model, "vocab": vocab, "merges": merges},
    }


def _is_control(token: dict[str, Any]) -> bool:
    name = token["content"]
    markup = name[0] + name[-1] in ("<>", "[]") and len(name) > 2
    return token["special"] or (markup and not any(char.isspace() for char in name))


def _build(path: Path, document: dict[str, Any], bos: str | None, eos: str | None) -> HubTokenizer:
    """Hand a checked document to the library, and see that it reads the same ids from it."""
    added = document["added_tokens"]
    ids: dict[str, int] = document["model"]["vocab"] | {t["content"]: t["id"] for t in added}
    specials = {token["content"]: token["id"] for token in added if _is_control(token)}
    for name in (bos, eos):
        if name is not None and name not in ids:
            raise HubError(f"{path} has no token {shown(name)}, which its config names: {AGAIN}")
    with _library(f"{path} is no tokenizer that can be read"), _silenced():
        tokenizer = Tokenizer.from_str(json.dumps(document))
        plain = Tokenizer.from_str(json.dumps(_plain(document, set(specials))))
        first = tokenizer.encode("a").ids[:1]
    for name, i in ids.items():
        if (taken := tokenizer.token_to_id(name)) != i:
            pieces = document["model"]["vocab"].values()
            raise HubError(
                f"{path} gives {shown(name)} the id {i}, and the library {taken}, since it is "
                f"another's or leaves a gap (the highest id of {len(pieces)} pieces is "
                f"{max(pieces)}): {AGAIN}"
            )
    bos_id, eos_id = (None if name is None else ids[name] for name in (bos, eos))
    return HubTokenizer(
        tokenizer=tokenizer,
        plain=plain,
        size=max(ids.values()) + 1,
        specials=specials,
        hidden=frozenset(token["id"] for token in added if token["special"]),
        added={token["id"]: token["content"] for token in added},
        byte_level="ByteLevel" in [part["type"] for part in parts_of(path, document, "decoder")],
        bos=bos_id,
        eos=eos_id,
        adds_bos=bos_id is not None and first == [bos_id],
    )
