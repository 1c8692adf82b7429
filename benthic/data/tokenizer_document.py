"""What a `tokenizer.json` may hold, and the tokens that its configs add: checked before it is used.

Malformed, absurd or unknown parts end in HubError, so that the library sees none of them. Where
tokenizer.json and tokenizer_config.json differ, the config's flags win, as in transformers.
"""

import re
from pathlib import Path
from typing import Any

from benthic.hub.files import AGAIN, HubError, shown

ID_LIMIT = 1 << 22
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
# Where each part lists its members, how many it may have, and which are read.
_PARTS = {
    "normalizer": ("normalizers", 4, "NFC NFD NFKC NFKD Prepend Replace Strip"),
    "pre_tokenizer": ("pretokenizers", 16, "ByteLevel Digits Metaspace Punctuation Split"),
    "decoder": ("decoders", 8, "ByteFallback ByteLevel Fuse Metaspace Replace Strip"),
    "post_processor": ("processors", 4, "ByteLevel TemplateProcessing"),
}


def check(path: Path, document: dict[str, Any]) -> None:
    """Refuse what is malformed, absurd or unknown before the library sees it."""
    model = document.get("model")
    kind = model.get("type", "BPE") if isinstance(model, dict) else model
    if not isinstance(model, dict) or kind != "BPE":
        raise HubError(f"{path} has a model of type {shown(kind)}, and only BPE is read")
    model["type"] = kind  # old files leave it out
    vocab = model.get("vocab")
    if not isinstance(vocab, dict) or not isinstance(model.get("merges"), list):
        raise HubError(f"{path} has no vocab and merges in its model: {AGAIN}")
    for piece, i in vocab.items():
        if type(i) is not int or not 0 <= i < ID_LIMIT:
            raise HubError(
                f"{path} gives {shown(piece)} the id {shown(i)}, not 0 to {ID_LIMIT - 1}"
            )
    if len(set(vocab.values())) < len(vocab) or not vocab:
        raise HubError(f"{path} has no vocabulary, or one id for two pieces: {AGAIN}")
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise HubError(f"{path} marks parts of words by a prefix or suffix, which is not read")
    unknown = model.get("unk_token")
    if unknown is not None and (not isinstance(unknown, str) or unknown not in vocab):
        raise HubError(f"{path} has no piece {shown(unknown)}, its unk_token: {AGAIN}")
    for merge in model["merges"]:
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(pair, list) or [type(piece) for piece in pair] != [str, str]:
            raise HubError(f"{path} has a merge {shown(merge)}, which is no two pieces: {AGAIN}")
    model["dropout"] = document["truncation"] = document["padding"] = None
    parts = {kind: parts_of(path, document, kind) for kind in _PARTS}
    _check_rewrites(path, [*parts["normalizer"], *parts["decoder"]])
    kinds = {part["type"] for part in parts["decoder"]}
    if not kinds & {"ByteLevel", "ByteFallback", "Metaspace"}:
        raise HubError(
            f"{path} decodes by {shown(sorted(kinds))}, and only byte-level vocabularies and those "
            "with byte fallback or Metaspace are read"
        )


def parts_of(path: Path, document: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """The members of a normalizer, pre-tokenizer, decoder or post-processor, in order."""
    members, limit, known = _PARTS[kind]
    waiting, parts = [document.get(kind)], list[dict[str, Any]]()
    while waiting:
        part = waiting.pop(0)
        if part is None:
            continue
        name = str(part.get("type")) if isinstance(part, dict) else shown(part)
        if name == "Sequence" and isinstance(part.get(members), list):
            waiting = part[members] + waiting
        elif name in known.split():
            parts.append(part)
        else:
            raise HubError(f"{path} has a {kind} {name[:80]}, and only these are read: {known}")
        if len(parts) + len(waiting) > limit:
            raise HubError(f"{path} has a {kind} of more than {limit} parts, which is not read")
    return parts


def _check_rewrites(path: Path, parts: list[dict[str, Any]]) -> None:
    """Replacing a letter by a page, ten times over, would fill the memory.

    The library panics where nothing is put before text or replaced, and where an end is cut off an
    empty text.
    """
    for part in parts:
        if part["type"] == "Prepend" and not 1 <= len(str(part.get("prepend"))) <= 16:
            raise HubError(f"{path} puts {shown(part)} before text, not 1 to 16 characters")
        if part["type"] == "Strip" and part.get("stop"):
            raise HubError(f"{path} strips the ends of tokens, {shown(part)}: only starts are read")
        if part["type"] == "Replace":
            pattern = part.get("pattern")
            old = pattern.get("String") if isinstance(pattern, dict) else None
            if not isinstance(old, str) or not old:
                raise HubError(
                    f"{path} replaces by a pattern, {shown(part)}, and only strings are replaced: "
                    "name a string there"
                )
            if len(str(part.get("content"))) > len(old):
                raise HubError(f"{path} replaces text by longer text, {shown(part)}: not read")


def added_by_id(path: Path, config: dict[str, Any]) -> list[dict[str, Any]]:
    """The tokens of tokenizer_config.json's `added_tokens_decoder`, by id."""
    found = config.get("added_tokens_decoder") or {}
    if not isinstance(found, dict) or not all(re.fullmatch("[0-9]{1,7}", key) for key in found):
        raise HubError(f"added_tokens_decoder beside {path} should map ids to tokens: {AGAIN}")
    tokens = [
        {**token, "id": int(key)} if isinstance(token, dict) else token
        for key, token in found.items()
    ]
    return sorted((_sound(path, token) for token in tokens), key=lambda token: token["id"])


def _sound(path: Path, token: Any) -> dict[str, Any]:
    """An added token with id, spelling and every flag, nothing else."""
    name = spelling(token) if isinstance(token, dict) else None
    if name is not None:
        sound = {"id": token.get("id"), "content": name}
        sound |= {flag: token.get(flag, False) for flag in _FLAGS}
        if [type(value) for value in sound.values()] == [int, str, *[bool] * len(_FLAGS)] and (
            0 <= sound["id"] < ID_LIMIT
        ):
            return sound
    raise HubError(f"{path} or its config has an added token {shown(token)}: {AGAIN}")


def spelling(token: Any) -> str | None:
    """A token's spelling, which may be written as an object; None where there is none."""
    name = token.get("content") if isinstance(token, dict) else token
    return name if isinstance(name, str) and name else None


def added_tokens(
    path: Path, document: dict[str, Any], config: dict[str, Any], named: dict[str, Any]
) -> list[dict[str, Any]]:
    """The added tokens of both files by id, those that the configs name marked special."""
    listed = document.get("added_tokens") or []
    if not isinstance(listed, list):
        raise HubError(f"{path} has no list of added tokens: {AGAIN}")
    tokens: dict[str, dict[str, Any]] = {}
    for token in [*(_sound(path, token) for token in listed), *added_by_id(path, config)]:
        name, i = token["content"], token["id"]
        if tokens.setdefault(name, token)["id"] != i:
            raise HubError(
                f"{path} and its config give {shown(name)} two ids, {tokens[name]['id']} and {i}: "
                f"{AGAIN}"
            )
        tokens[name] = token
    more = named.get("additional_special_tokens")
    values = [value for key, value in named.items() if key.endswith("_token")]
    for name in map(spelling, [*values, *(more if isinstance(more, list) else [])]):
        if name is None:
            continue
        if name in tokens:
            tokens[name]["special"] = True
        elif name in document["model"]["vocab"]:
            tokens[name] = special_token(name, document["model"]["vocab"][name])
    return sorted(tokens.values(), key=lambda token: token["id"])


def special_token(name: str, id: int) -> dict[str, Any]:
    return {"id": id, "content": name, **dict.fromkeys(_FLAGS, False), "special": True}
