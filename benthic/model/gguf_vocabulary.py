"""A tokenizer's part of a GGUF file: tokens, kinds, merges, marks, and how text is split.

llama.cpp knows splittings by name and has its own code for each, so a tokenizer is written if its
patterns are one of those, and refused otherwise: any other would give other ids without a word.
"""

import json
import logging
import re
from typing import TYPE_CHECKING, Any

from benthic.data.hub_tokenizer import HubTokenizer
from benthic.data.tiktoken import BYTE_CHARS, KIMI_PATTERN
from benthic.hub.files import shown
from benthic.model.config import ModelConfig

if TYPE_CHECKING:
    from gguf import GGUFWriter

_BARRED = "<[|\uff5c].+[|\uff5c]>"

log = logging.getLogger(__name__)


def add_vocabulary(w: "GGUFWriter", tokenizer: HubTokenizer, c: ModelConfig) -> None:
    """Tokens, their kinds, merges, marks, and how text is split."""
    if not tokenizer.byte_level:
        raise ValueError(
            "the tokenizer is not byte-level, and only such are written to GGUF: use llama.cpp's "
            "convert_hf_to_gguf.py"
        )
    if tokenizer.size > c.vocab_size:
        raise ValueError(
            f"the tokenizer has {tokenizer.size} ids and vocab_size is {c.vocab_size}: give the "
            "model's own tokenizer"
        )
    begin = c.bos_token_id if tokenizer.bos is None else tokenizer.bos
    end = c.eos_token_id if tokenizer.eos is None else tokenizer.eos
    if not 0 <= end < c.vocab_size:
        raise ValueError(
            "neither tokenizer nor model names an end of text, and llama.cpp would take id 11 for "
            "it: name eos_token in tokenizer_config.json"
        )
    document = json.loads(tokenizer.tokenizer.to_str())
    # Merges of the text's tokenizer, none of which leads to a control token.
    text = json.loads(tokenizer.plain.to_str())["model"]
    merges = [" ".join(pair) for pair in text["merges"]]
    pre = _splitting(document)
    if pre in _NOT_QUITE:
        log.warning("llama.cpp's %s gives other ids to text with %s", pre, _NOT_QUITE[pre])
    if pre == "kimi-k2":  # which takes no piece whole, as tiktoken does
        made = {merge.replace(" ", "", 1) for merge in merges} | set(tokenizer.added.values())
        if cut := [piece for piece in text["vocab"] if len(piece) > 1 and piece not in made]:
            log.warning(
                "%d tokens, the first %s, come from no merge: llama.cpp cuts them up in text",
                len(cut),
                shown(cut[0]),
            )
    if not merges:
        # The package drops an empty list, llama.cpp wants one, and no UTF-8 text has this byte.
        merges = [f"{BYTE_CHARS[0xFF]} {BYTE_CHARS[0xFF]}"]
    tokens, kinds = _tokens(tokenizer, document, c.vocab_size)
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre(pre)
    w.add_token_list(tokens)
    w.add_token_types(kinds)
    w.add_token_merges(merges)
    if 0 <= begin < c.vocab_size:
        w.add_bos_token_id(begin)
    w.add_eos_token_id(end)
    w.add_add_bos_token(tokenizer.adds_bos)
    if tokenizer.chat_template:
        w.add_chat_template(tokenizer.chat_template)


def _tokens(
    tokenizer: HubTokenizer, document: dict[str, Any], rows: int
) -> tuple[list[str], list[int]]:
    """A spelling and a kind for each of the embedding's rows."""
    from gguf import TokenType

    for token in document["added_tokens"]:
        if token["lstrip"] or token["rstrip"] or token["single_word"]:
            raise ValueError(
                f"the token {shown(token['content'])} takes space beside it or whole words only, "
                "which llama.cpp cannot: unset its lstrip, rstrip and single_word"
            )
    ids: dict[int, str] = {i: piece for piece, i in document["model"]["vocab"].items()}
    ids |= tokenizer.added
    taken, tokens, kinds = set(ids.values()), list[str](), list[int]()
    for i in range(rows):
        text = ids.get(i, f"[PAD{i}]")
        while i not in ids and text in taken:  # a spelling given twice makes llama.cpp abort
            text += "]"
        kind = TokenType.NORMAL if i in ids else TokenType.UNUSED
        if i in tokenizer.added:  # users' tokens are shown in what is generated, as <think> should
            barred = re.fullmatch(_BARRED, text, re.DOTALL)  # DeepSeek's, not all marked special
            hidden = barred or i in tokenizer.hidden
            kind = TokenType.CONTROL if hidden else TokenType.USER_DEFINED
        tokens.append(text)
        kinds.append(kind)
    return tokens, kinds


def _splitting(document: dict[str, Any]) -> str:
    """llama.cpp's name for how a tokenizer.json cuts text before it joins bytes."""
    model, norms = document["model"], _flat(document["normalizer"], "normalizers")
    if [part["type"] for part in norms] == ["NFC"]:
        log.warning("llama.cpp does not bring text to NFC: text in another form gets other ids")
    elif norms:
        raise ValueError(f"the normalizer {shown(norms)} is not llama.cpp's: use NFC or none")
    steps = _cuts(_flat(document["pre_tokenizer"], "pretokenizers"))
    if not steps and not model["merges"] and not model["ignore_merges"]:
        return "gpt-2"  # where nothing is joined, cuts do not show
    for patterns, whole, name in SPLITTINGS:
        if steps == [*patterns] and model["ignore_merges"] == whole:
            return name
    raise ValueError(
        f"the pre-tokenizer cuts text by {shown(steps)}, for which no name of llama.cpp's is known "
        f"here: use one that cuts as {', '.join(name for *_, name in SPLITTINGS)}"
    )


def _flat(part: dict[str, Any] | None, members: str) -> list[dict[str, Any]]:
    """A step, or those of a sequence."""
    if part is None or part["type"] != "Sequence":
        return [part] if part else []
    return [inner for member in part[members] for inner in _flat(member, members)]


def _cuts(parts: list[dict[str, Any]]) -> list[str]:
    """The patterns whose matches are cut out before bytes are spelled, or words for what else."""
    if not parts or parts[-1]["type"] != "ByteLevel" or parts[-1]["add_prefix_space"]:
        return [str(parts)]
    return [*map(_cut, parts[:-1]), *([_GPT2] if parts[-1]["use_regex"] else [])]


def _cut(part: dict[str, Any]) -> str:
    if part["type"] == "Digits" and part["individual_digits"]:
        return r"\p{N}"
    isolated = part.get("behavior") == "Isolated" and not part.get("invert")
    if part["type"] == "Split" and isolated and "Regex" in part["pattern"]:
        # Files have the ends of lines as themselves or escaped.
        return str(part["pattern"]["Regex"]).replace("\r", r"\r").replace("\n", r"\n")
    return str(part)


_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LIKE_GPT4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CASED = (  # of the scripts with upper and lower case, spelled out in DeepSeek-LLM's tokenizer.json
    "A-Za-z\xb5\xc0-\xd6\xd8-\xf6\xf8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373"
    "\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5"
    "\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba"
    "\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45"
    "\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe"
    "\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc"
    "\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139"
    "\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3"
    "\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06"
    "\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3"
    "\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df"
    "\U0001e900-\U0001e943"
)
_EAST_ASIAN = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
_DEEPSEEK_LLM = (
    *(r"[\r\n]", rf"\s?[{_CASED}]+"),
    "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
    *(r"\s+$", _EAST_ASIAN, r"\p{N}"),
)
_DEEPSEEK_CODER = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _EAST_ASIAN, r"\p{N}")
_DEEPSEEK_V3 = (
    *(r"\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"),
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)
# Patterns, whether a piece that is a token is taken whole, and llama.cpp's name for both.
SPLITTINGS: tuple[tuple[tuple[str, ...], bool, str], ...] = (
    ((_GPT2,), False, "gpt-2"),
    ((r"\p{N}", _GPT2), False, "smollm"),
    (_DEEPSEEK_V3, False, "deepseek-v3"),
    (_DEEPSEEK_LLM, False, "deepseek-llm"),
    (_DEEPSEEK_CODER, False, "deepseek-coder"),
    ((_LIKE_GPT4 % "",), False, "qwen2"),
    ((_LIKE_GPT4 % "{1,3}",), True, "llama-bpe"),
    ((_LIKE_GPT4 % "{1,3}",), False, "smaug-bpe"),
    ((KIMI_PATTERN,), True, "kimi-k2"),
)
# Where its reading is another, by benchmarks/llama_cpp.py and unicode.cpp.
_NOT_QUITE = {"deepseek-llm": "the space U+3000", "kimi-k2": "combining marks or Han numerals"}
