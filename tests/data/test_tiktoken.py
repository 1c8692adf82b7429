"""Rank files: malformed ones are refused by line, sound ones give tiktoken's ids exactly."""

import base64
import inspect
import json
import random
import textwrap
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel

from benthic.data.hub_tokenizer import load_tokenizer, train_bpe
from benthic.data.tiktoken import (
    BYTE_CHARS,
    KIMI_PATTERN,
    RESERVED,
    encode_piece_reference,
    merges,
    read_ranks,
    reserved_specials,
    to_bpe,
)
from benthic.hub.files import HubError

HAN = [chr(code) for code in range(0x4E00, 0x4E20)]
CHINESE = "\uff0c".join("".join(random.Random(i).choices(HAN, k=9)) for i in range(60))
SAMPLES = (
    "Hello, world! It's DON'T we'Ll they'VE 'S \u017f's x'\u017f",
    "1234567890 12 3,456.78 \u00bd \u00b2\u00b3 \u0663\u0664\u0665 \u2167 \u3007\u4e00\u4e8c",
    "   spaces\t\ttabs\n\n\nlines \r\n\r\n  end   ",
    "\u4e2d\u6587English\u6df7\u5408 \u6c49\u5b57abc \u5317\u4eac\u5e02 Pascal",
    "\u306e\u30ab\u30bf\u30ab\u30ca \ud55c\uad6d\uc5b4 \u0e20\u0e32\u0e29\u0e32\u0e44\u0e17\u0e22",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f1e8\U0001f1f3",
    "e\u0301 \u0301x \u01c5ungla \u02b0a \u00aab \u3297\ufe0f \u2e80\u2f00 \u3005\u3006",
    "CamelCaseXMLHttpRequest snake_case_Name iPhone McDonald",
    "<|im_end|>[BOS] <think>",
    "a" * 700,
    " " * 300 + "x",
)
PATTERN = (  # as Moonshot's tokenization_moonshot.py spells it
    r"[\p{Han}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*"
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+"
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTES = {bytes([b]): b for b in range(256)}


def joined(*tokens: bytes) -> dict[bytes, int]:
    """The single bytes, then `tokens` in order."""
    return BYTES | {token: 256 + i for i, token in enumerate(tokens)}


def spell(ranks: dict[bytes, int]) -> str:
    return "".join(f"{base64.b64encode(t).decode()} {r}\n" for t, r in ranks.items())


@pytest.fixture(scope="module")
def ranks() -> dict[bytes, int]:
    """Three thousand tokens of Python's sources and some Chinese."""
    sources = [inspect.getsource(module) for module in (json, inspect, textwrap, base64)]
    made = train_bpe([*sources, CHINESE], 3000, [])
    return {made.token_bytes(i): i for i in range(made.size)}


@pytest.fixture(scope="module")
def tokenizer(ranks: dict[bytes, int]) -> Tokenizer:
    return to_bpe(ranks, KIMI_PATTERN, reserved_specials(len(ranks), {}))


def ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False).ids


def test_ids_are_tiktokens(ranks: dict[bytes, int], tokenizer: Tokenizer) -> None:
    tiktoken = pytest.importorskip("tiktoken")
    specials = reserved_specials(len(ranks), {})
    encoding = tiktoken.Encoding(
        "made", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=specials
    )
    draw = random.Random(0)
    pool = [
        *" \n\r\t'\u2019",
        *"abcdefstmlrvABCSTML",
        *"0123456789.,;!?-_",
        *HAN,
        *"\u00e9\u00df\u017f\u0141\u0436\u0416\u05d0\u0627\u3042\u30ab\ud55c",
    ]
    pool += [
        "'s",
        "'LL",
        "  ",
        "\r\n",
        "\U0001f44d\U0001f3fd",
        "\u0301",
        "\u200d",
        "\u3000",
        "\x85",
        "<|",
        "|>",
    ]
    source = inspect.getsource(random)
    texts = [*SAMPLES, source]
    texts += ["".join(draw.choices(pool, k=draw.randint(1, 30))) for _ in range(1500)]
    texts += [source[i : i + draw.randint(1, 80)] for i in range(0, len(source), 60)]
    texts += [chr(code) + "a" for code in range(0x20, 0x3100, 13)]
    assert len(texts) > 2000
    for text in texts:
        assert ids(tokenizer, text) == encoding.encode_ordinary(text), repr(text)

    @settings(max_examples=300)
    @given(st.text())
    def any_text(text: str) -> None:
        assert ids(tokenizer, text) == encoding.encode_ordinary(text)

    any_text()
    assert KIMI_PATTERN == PATTERN
    marked = "a<|reserved_token_3000|>b"
    assert ids(tokenizer, marked) == encoding.encode(marked, allowed_special="all")


def test_the_pattern_splits_as_moonshot_says(tokenizer: Tokenizer) -> None:
    """Han stands apart, a capital begins a word, contractions and three digits hold together."""

    def split(text: str) -> list[str]:
        pieces = tokenizer.pre_tokenizer.pre_tokenize_str(text)
        return [text[start:end] for _, (start, end) in pieces]

    assert split("\u4e2d\u6587English\u6df7\u5408") == ["\u4e2d\u6587", "English", "\u6df7\u5408"]
    assert split("\u5317\u4eac\u5e02 Pascal") == ["\u5317\u4eac\u5e02", " Pascal"]
    assert split("isn't IT'LL 12345") == ["isn't", " IT'LL", " ", "123", "45"]
    assert split("camelCase") == ["camel", "Case"]
    assert split("a \n\n  b!?\n") == ["a", " \n\n", " ", " b", "!?\n"]


@given(
    st.lists(st.binary(min_size=2, max_size=6).map(lambda b: bytes(97 + c % 3 for c in b))),
    st.binary(max_size=24).map(lambda b: bytes(97 + c % 3 for c in b)),
    st.randoms(use_true_random=False),
)
def test_any_ranks_join_as_the_rule_says(
    tokens: list[bytes], text: bytes, draw: random.Random
) -> None:
    """Tokens of three letters in any order, reachable or not: every tie and overlap comes up."""
    items = list(joined(*dict.fromkeys(tokens)).items())
    draw.shuffle(items)  # a file may list ranks in any order
    made = dict(items)
    tokenizer = to_bpe(made, r"[\s\S]+", {})
    assert ids(tokenizer, text.decode()) == (encode_piece_reference(text, made) if text else [])


def test_a_pair_is_the_last_that_completes_a_token() -> None:
    made = joined(b"ab", b"bc", b"abc", b"xyz", b"aa", b"aaa")
    assert merges(made) == [(b"a", b"b"), (b"b", b"c"), (b"ab", b"c"), (b"a", b"a"), (b"aa", b"a")]


def test_a_file_is_read_in_any_order(tmp_path: Path) -> None:
    made = joined(b"ab", b"\xff\x00")
    lines = spell(made).split("\n")
    path = tmp_path / "tiktoken.model"
    path.write_text("\r\n".join(reversed(lines)))
    assert read_ranks(path) == made


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("YWI= 255", "line 257: rank 255 was given on line 256"),
        ("YQ== 256", "line 257: token b'a' was given on line 98"),
        ("YWI= 258", "line 257: rank 258 leaves a gap among 257 tokens"),
        ("YWI= -1", "line 257: the rank must be a whole number from 0"),
        ("YWI= 1_0", "line 257: the rank must be"),
        ("YWI= 4194304", "line 257: the rank must be"),
        (f"YWI= {'9' * 5000}", "line 257: the rank must be"),
        ("YW!= 256", "line 257: the token is not base64"),
        ("YWI 256", "line 257: the token is not base64"),
        ("YWI=", "line 257: expected a token in base64, a space and a rank"),
        ("YWI= 256 x", "line 257: expected"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "tiktoken.model"
    path.write_text(spell(BYTES) + line + "\n")
    with pytest.raises(HubError) as refusal:
        read_ranks(path)
    assert words in str(refusal.value)
    assert len(str(refusal.value)) < 400


def test_a_missing_byte_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tiktoken.model"
    path.write_text(spell({t: i for i, t in enumerate(t for t in BYTES if t != b"\x80")}))
    with pytest.raises(HubError, match="byte 0x80"):
        read_ranks(path)


@settings(max_examples=60)
@given(st.data())
def test_no_bytes_do_more_than_raise(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("ranks") / "tiktoken.model"
    lines = spell(joined(b"ab")).encode().split(b"\n")
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(lines) - 1))
        lines[at] = data.draw(st.binary(max_size=12) | st.sampled_from(lines))
    path.write_bytes(b"\n".join(lines))
    try:
        made = read_ranks(path)
    except HubError:
        return
    assert sorted(made.values()) == list(range(len(made)))


def test_tokens_too_long_to_be_text_are_refused() -> None:
    with pytest.raises(HubError, match="no vocabulary of text"):
        merges(joined(b"a" * 20_000))


def test_specials_go_on_from_the_ranks() -> None:
    names = reserved_specials(300, {301: "[EOS]"})
    assert list(names.values()) == list(range(300, 300 + RESERVED))
    assert list(names)[:3] == ["<|reserved_token_300|>", "[EOS]", "<|reserved_token_302|>"]
    beyond = reserved_specials(300, {299: "[EOS]", 300 + RESERVED: "[BOS]"})
    assert beyond == reserved_specials(300, {})
    with pytest.raises(HubError, match="does not go on"):
        to_bpe(BYTES, KIMI_PATTERN, {"[EOS]": 300})
    with pytest.raises(HubError, match="ordinary token"):
        to_bpe(BYTES, KIMI_PATTERN, {"a": 256})


def kimi_folder(folder: Path, ranks: dict[bytes, int], **changes: object) -> Path:
    (folder / "tiktoken.model").write_text(spell(ranks))
    first = len(ranks)
    config = {
        "tokenizer_class": "TikTokenTokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_kimi.TikTokenTokenizer", None]},
        "bos_token": "[BOS]",
        "eos_token": "[EOS]",
        "added_tokens_decoder": {
            str(first): {"content": "[BOS]", "special": True},
            str(first + 1): {"content": "[EOS]", "special": True},
            str(first + 4): {"content": "<|tool_call_begin|>", "special": False},
        },
    }
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, **changes}))
    return folder


def test_a_folder_of_kimis_is_read(tmp_path: Path, ranks: dict[bytes, int]) -> None:
    first = len(ranks)
    loaded = load_tokenizer(kimi_folder(tmp_path, ranks))
    assert (loaded.bos, loaded.eos, loaded.adds_bos) == (first, first + 1, False)
    assert loaded.size == first + RESERVED
    assert loaded.specials["<|reserved_token_3002|>"] == first + 2
    text = "\u4eca\u5929 don't <|tool_call_begin|>[EOS]"
    assert all(i < first for i in loaded.encode(text))
    assert loaded.encode_with_specials(text)[-2:] == [first + 4, first + 1]
    assert loaded.decode(loaded.encode_with_specials(text)) == text.removesuffix("[EOS]")
    assert b"".join(map(loaded.token_bytes, loaded.encode(text))) == text.encode()


@pytest.mark.parametrize(
    "auto",
    [
        {"AutoTokenizer": ["tokenization_moonshot.TikTokenTokenizer", None]},
        {"AutoTokenizer": "someone/else--tokenization_kimi.TikTokenTokenizer"},
        ["tokenization_moonshot.TikTokenTokenizer", None],
    ],
)
def test_the_class_may_be_named_by_auto_map_alone(tmp_path: Path, auto: object) -> None:
    folder = kimi_folder(tmp_path, joined(b"ab"), tokenizer_class=None, auto_map=auto)
    assert load_tokenizer(folder).size == 257 + RESERVED


@pytest.mark.parametrize(
    ("tokenizer_class", "auto"),
    [("QWenTokenizer", None), (None, None), ("PreTrainedTokenizerFast", {"AutoTokenizer": [3]})],
)
def test_another_class_is_refused(tmp_path: Path, tokenizer_class: object, auto: object) -> None:
    folder = kimi_folder(tmp_path, BYTES, tokenizer_class=tokenizer_class, auto_map=auto)
    with pytest.raises(HubError, match="only TikTokenTokenizer's pattern"):
        load_tokenizer(folder)


def test_the_alphabet_is_gpt2s() -> None:
    assert sorted(BYTE_CHARS.values()) == sorted(ByteLevel.alphabet())
    assert (BYTE_CHARS[32], BYTE_CHARS[10], BYTE_CHARS[0x41]) == ("\u0120", "\u010a", "A")
