"""Tokenizers of checkpoints: transformers' ids, no control token from text, no trust in files."""

import inspect
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benthic.data import hub_tokenizer, tiktoken, tokenizer
from benthic.data.hub_tokenizer import (
    HubTokenizer,
    byte_tokenizer,
    load_tokenizer,
    save_tokenizer,
    train_bpe,
)
from benthic.data.template import R1_TEMPLATE
from benthic.data.tokenizer import SPECIALS, VOCABULARY
from benthic.hub.files import HubError

LOW = "\u2581"
TEXTS = (
    "",
    " ",
    "Hello, world!  It's 12345\n\n\tdef f(x):\n        return x",
    "\u4e2d\u6587 \U0001f44d\U0001f3fd e\u0301 \u00e9 \ufb01 \x00\x7f",
    "a    b        c",
)
FLAGS = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
Document = dict[str, Any]


def token(i: int, name: str, special: bool = True) -> Document:
    return {"id": i, "content": name, **FLAGS, "special": special}


@pytest.fixture(scope="module")
def made() -> HubTokenizer:
    """400 ids: 256 bytes, 142 merges, two specials."""
    return train_bpe([inspect.getsource(json), "\u4e2d\u6587" * 9], 400, ["<s>", "</s>"])


@pytest.fixture(scope="module")
def byte_level(made: HubTokenizer) -> Document:
    """As DeepSeek's and Qwen's: several splits, control tokens unmarked, a run of spaces added."""
    document: Document = json.loads(made.tokenizer.to_str())
    document["normalizer"] = {"type": "NFC"}
    split = {"type": "Split", "behavior": "Isolated", "invert": False}
    members = [
        {**split, "pattern": {"Regex": r"\p{N}{1,3}"}},
        {**split, "pattern": {"Regex": r"\s?\p{L}+|\s+(?!\S)|[^\s\p{L}]+"}},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
    ]
    document["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": members}
    extra = [("<think>", False), ("[EOT]", False), ("    ", False), ("<|im_end|>", True)]
    extra += [("\u00fc\u00fc", False)]
    document["added_tokens"] += [token(400 + i, n, special) for i, (n, special) in enumerate(extra)]
    return document


@pytest.fixture(scope="module")
def fallback() -> Document:
    """As Llama 2's: spaces as low blocks, bytes for what has no piece, merges that spell </s>."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256))]
    pieces += [LOW, *"abcdefghijklmnopqrstuvwxyz<>/,."]
    merges = [["<", "/"], ["s", ">"], ["</", "s>"], ["<", "s>"], [LOW, "t"], ["h", "e"]]
    merges += [[LOW + "t", "he"], ["i", "n"], [LOW, LOW]]
    pieces += [a + b for a, b in merges if a + b not in pieces]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    space = {"type": "Replace", "pattern": {"String": " "}, "content": LOW}
    block = {"type": "Replace", "pattern": {"String": LOW}, "content": " "}
    first = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    texts = [{"Sequence": {"id": name, "type_id": i}} for i, name in enumerate("AB")]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [token(i, pieces[i]) for i in range(3)],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [{"type": "Prepend", "prepend": LOW}, space],
        },
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [first, texts[0]],
            "pair": [first, *texts],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                block,
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": vocab,
            "merges": merges,
        },
    }


CONFIG = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}


def put(folder: Path, document: Document | None, **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    if document is not None:
        (folder / "tokenizer.json").write_text(json.dumps(document))
    (folder / "tokenizer_config.json").write_text(json.dumps(CONFIG | config))
    return folder


def oracle(folder: Path) -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(folder)


@pytest.fixture(params=["byte_level", "fallback"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return put(tmp_path / "checkpoint", request.getfixturevalue(request.param))


def check_equal(ours: HubTokenizer, theirs: Any) -> None:
    """Ids and texts, with special spellings and without."""
    marked = [f"{text}<s>x<think> </s>[EOT]{text}" for text in TEXTS]
    for text in (*TEXTS, *marked):
        ids = theirs(text, add_special_tokens=False)["input_ids"]
        assert ours.encode_with_specials(text) == ids
        assert ours.decode(ids, show_specials=True) == theirs.decode(ids)
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
        if text in TEXTS:
            assert ours.encode(text) == ids
            led = [ours.bos] if ours.adds_bos else []
            assert led + ids == theirs(text)["input_ids"]
    assert (ours.bos, ours.eos) == (theirs.bos_token_id, theirs.eos_token_id)
    assert ours.size == len(theirs)


def test_ids_and_texts_are_transformers(folder: Path) -> None:
    check_equal(load_tokenizer(folder), oracle(folder))


def test_what_is_saved_is_equal_again(folder: Path, tmp_path: Path) -> None:
    loaded = replace(load_tokenizer(folder), chat_template=R1_TEMPLATE)
    save_tokenizer(loaded, tmp_path / "saved")
    check_equal(loaded, oracle(tmp_path / "saved"))
    again = load_tokenizer(tmp_path / "saved")
    check_equal(again, oracle(folder))
    assert again.chat_template == R1_TEMPLATE
    assert (again.specials, again.hidden, again.added) == (
        loaded.specials,
        loaded.hidden,
        loaded.added,
    )


@pytest.mark.parametrize("which", ["byte_level", "fallback"])
def test_no_text_becomes_a_control_token(
    which: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    loaded = load_tokenizer(put(tmp_path, request.getfixturevalue(which)))
    unknown = loaded.specials.get("<unk>")
    spellings = st.sampled_from([*loaded.specials, "<", "s>", "</", "think>", " ", "x", "\ud800"])

    @settings(max_examples=150)
    @given(st.lists(spellings | st.text(max_size=3)).map("".join))
    def never(text: str) -> None:
        ids = loaded.encode(text)
        assert not {*ids} & {*loaded.specials.values()}
        assert unknown not in ids

    never()
    for name, i in loaded.specials.items():
        assert loaded.encode_with_specials(name)[-1] == i
        assert loaded.encode(name)


def test_markup_is_control_though_unmarked(byte_level: Document, tmp_path: Path) -> None:
    """`<think>` is text to decode, as in transformers, and still no text spells it."""
    loaded = load_tokenizer(put(tmp_path, byte_level))
    assert {*loaded.specials} == {"<s>", "</s>", "<think>", "[EOT]", "<|im_end|>"}
    assert loaded.decode([400, 65, 403, 399]) == "<think>A"
    assert 402 in loaded.encode("a    b")
    assert loaded.encode("<think>") == loaded.encode("<") + loaded.encode("think>")


@given(st.text())
@settings(max_examples=100)
def test_bytes_of_tokens_join_to_the_text(text: str) -> None:
    assert b"".join(map(BYTES.token_bytes, BYTES.encode(text))) == text.encode()


BYTES = byte_tokenizer(SPECIALS, VOCABULARY)


def test_bytes_of_each_kind_of_token(
    byte_level: Document, fallback: Document, tmp_path: Path
) -> None:
    first = load_tokenizer(put(tmp_path / "a", byte_level))
    second = load_tokenizer(put(tmp_path / "b", fallback))
    for text in TEXTS[2:]:
        normal = text.replace("e\u0301", "\u00e9")
        assert b"".join(map(first.token_bytes, first.encode(text))) == normal.encode()
        assert b"".join(map(second.token_bytes, second.encode(text))) == b" " + text.encode()
    assert first.token_bytes(0xFF) == b"\xff"
    assert first.token_bytes(402) == b"    "
    assert first.token_bytes(404) == "\u00fc\u00fc".encode()
    assert second.token_bytes(3 + 0xE4) == b"\xe4"
    assert second.token_bytes(1) == b"<s>"
    assert second.piece(second.encode("the")[0]) == f"{LOW}the"
    for loaded in (first, second):
        for i in (-1, loaded.size, 2**40):
            assert (loaded.piece(i), loaded.token_bytes(i)) == ("", b"")
        assert loaded.decode([-1, loaded.size, 2**40]) == ""


def test_a_piece_outside_the_alphabet_is_text(made: HubTokenizer, tmp_path: Path) -> None:
    document = json.loads(made.tokenizer.to_str())
    model = document["model"]
    model["vocab"].pop("".join(model["merges"].pop()))
    model["vocab"]["\u4e2d"] = 397
    loaded = load_tokenizer(put(tmp_path, document))
    assert loaded.token_bytes(397) == loaded.decode([397]).encode() == "\u4e2d".encode()


def test_a_lone_surrogate_becomes_a_question_mark(folder: Path) -> None:
    loaded = load_tokenizer(folder)
    assert loaded.encode("a\ud800b") == loaded.encode("a?b")
    assert loaded.encode_with_specials("a\ud800b") == loaded.encode_with_specials("a?b")


@pytest.mark.parametrize(
    "config",
    [
        {"add_bos_token": False},
        {"add_bos_token": None},
        {"add_bos_token": True, "bos_token": None},
        {"bos_token": {"__type": "AddedToken", "content": "<s>"}},
        {"pad_token": "<think>"},
        {"added_tokens_decoder": {"401": {"content": "[EOT]", "special": True, **FLAGS}}},
    ],
)
def test_configs_are_read_as_transformers_does(
    config: Document, byte_level: Document, tmp_path: Path
) -> None:
    folder = put(tmp_path, byte_level, **config)
    check_equal(load_tokenizer(folder), oracle(folder))


def test_a_config_may_put_bos_first(byte_level: Document, tmp_path: Path) -> None:
    """As DeepSeek-V3's does; what is saved says so where every reader sees it."""
    loaded = load_tokenizer(put(tmp_path / "read", byte_level, add_bos_token=True))
    assert loaded.adds_bos
    save_tokenizer(loaded, tmp_path / "saved")
    check_equal(loaded, oracle(tmp_path / "saved"))
    config = json.loads((tmp_path / "saved/tokenizer_config.json").read_text())
    assert config["add_bos_token"]  # transformers 4 asks here
    assert not config["clean_up_tokenization_spaces"]


def test_additional_special_tokens_are_control(byte_level: Document, tmp_path: Path) -> None:
    more = ["[EOT]", {"content": "    "}, "absent"]
    loaded = load_tokenizer(put(tmp_path, byte_level, additional_special_tokens=more))
    assert 402 not in loaded.encode("a    b")
    assert loaded.decode([97, 401, 402]) == "a"


def test_the_special_tokens_map_fills_in(byte_level: Document, tmp_path: Path) -> None:
    put(tmp_path, byte_level)
    (tmp_path / "tokenizer_config.json").unlink()
    (tmp_path / "special_tokens_map.json").write_text('{"eos_token": {"content": "<|im_end|>"}}')
    loaded = load_tokenizer(tmp_path)
    assert (loaded.bos, loaded.eos) == (None, 403)


def test_the_template_file_wins(byte_level: Document, tmp_path: Path) -> None:
    named = [{"name": "tool_use", "template": "a"}, {"name": "default", "template": "b"}]
    assert load_tokenizer(put(tmp_path, byte_level)).chat_template is None
    for config, found in (("c", "c"), (named, "b"), (named[:1], None), (None, None)):
        folder = put(tmp_path, byte_level, chat_template=config)
        assert load_tokenizer(folder).chat_template == found
    (tmp_path / "chat_template.jinja").write_text("d\n")
    assert load_tokenizer(tmp_path).chat_template == "d\n"
    (tmp_path / "chat_template.jinja").write_bytes(b"x" * 300_000)
    with pytest.raises(HubError, match="bytes of a chat template"):
        load_tokenizer(tmp_path)
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(HubError, match="no UTF-8"):
        load_tokenizer(tmp_path)


def test_text_is_neither_cut_nor_padded_nor_left_to_chance(
    byte_level: Document, tmp_path: Path
) -> None:
    limit = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    pad = {"strategy": {"Fixed": 99}, "direction": "Right", "pad_to_multiple_of": None}
    pad |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "!"}
    model = byte_level["model"] | {"dropout": 0.9}
    wild = byte_level | {"truncation": limit, "padding": pad, "model": model}
    ours, plain = (
        load_tokenizer(put(tmp_path / str(i), d)) for i, d in enumerate((wild, byte_level))
    )
    assert ours.encode(TEXTS[2]) == plain.encode(TEXTS[2])


def edited(change: Callable[[Document], object]) -> Callable[[Document], Document]:
    def edit(document: Document) -> Document:
        document = json.loads(json.dumps(document))
        change(document)
        return document

    return edit


REFUSED: dict[str, tuple[Callable[[Document], object], str]] = {
    "another model": (lambda d: d["model"].update(type="Unigram"), "only BPE is read"),
    "no model": (lambda d: d.pop("model"), "only BPE is read"),
    "no merges": (lambda d: d["model"].pop("merges"), "no vocab and merges"),
    "a list of pieces": (lambda d: d["model"].update(vocab=["a"]), "no vocab and merges"),
    "no pieces": (lambda d: d["model"].update(vocab={}), "no vocabulary"),
    "an id too large": (lambda d: d["model"]["vocab"].update(zz=2**22), "'zz' the id 4194304"),
    "an id below 0": (lambda d: d["model"]["vocab"].update(zz=-1), "'zz' the id -1"),
    "an id that is true": (lambda d: d["model"]["vocab"].update(zz=True), "'zz' the id True"),
    "one id for two": (lambda d: d["model"]["vocab"].update(zz=7), "one id for two"),
    "a merge of nothing": (lambda d: d["model"]["merges"].append(["zz", "a"]), "no tokenizer"),
    "a merge of three": (lambda d: d["model"]["merges"].append("a b c"), "a merge 'a b c'"),
    "a merge of one": (lambda d: d["model"]["merges"].append(["a"]), "a merge ['a']"),
    "a merge that is a number": (lambda d: d["model"]["merges"].append(3), "a merge 3"),
    "an unknown piece unknown": (lambda d: d["model"].update(unk_token="zz"), "no piece 'zz'"),
    "a gap in the pieces": (
        lambda d: d["model"]["vocab"].update(zz=2**22 - 1),
        "highest id of 399 pieces is 4194303",
    ),
    "a suffix": (lambda d: d["model"].update(end_of_word_suffix="</w>"), "prefix or suffix"),
    "an unknown part": (lambda d: d.update(pre_tokenizer={"type": "Bert"}), "pre_tokenizer Bert"),
    "a part of no type": (lambda d: d.update(normalizer={"type": ["NFC"]}), "normalizer"),
    "a part that is a list": (lambda d: d.update(normalizer=[]), "normalizer"),
    "too many parts": (
        lambda d: d.update(normalizer={"type": "Sequence", "normalizers": [{"type": "NFC"}] * 5}),
        "more than 4 parts",
    ),
    "growth": (
        lambda d: d.update(
            normalizer={"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
        ),
        "longer text",
    ),
    "growth by regex": (
        lambda d: d.update(
            normalizer={"type": "Replace", "pattern": {"Regex": "."}, "content": "aa"}
        ),
        "replaces by a pattern",
    ),
    "nothing replaced": (
        lambda d: d.update(normalizer={"type": "Replace", "pattern": {"String": ""}}),
        "replaces by a pattern",
    ),
    "nothing put before": (
        lambda d: d.update(normalizer={"type": "Prepend", "prepend": ""}),
        "not 1 to 16 characters",
    ),
    "ends cut off": (
        lambda d: d.update(
            decoder={
                "type": "Sequence",
                "decoders": [
                    {"type": "ByteLevel"},
                    {"type": "Strip", "content": " ", "start": 0, "stop": 1},
                ],
            }
        ),
        "strips the ends",
    ),
    "a long prefix": (
        lambda d: d.update(normalizer={"type": "Prepend", "prepend": "a" * 17}),
        "not 1 to 16 characters",
    ),
    "no decoder": (lambda d: d.update(decoder=None), "only byte-level"),
    "a decoder of words": (lambda d: d.update(decoder={"type": "WordPiece"}), "decoder WordPiece"),
    "added tokens as object": (lambda d: d.update(added_tokens={"a": 1}), "no list of added"),
    "an added token of no id": (lambda d: d["added_tokens"][0].pop("id"), "has an added token"),
    "an empty added token": (lambda d: d["added_tokens"][0].update(content=""), "added token"),
    "a flag that is text": (lambda d: d["added_tokens"][0].update(special="yes"), "added token"),
    "a gap before an added token": (
        lambda d: d["added_tokens"][-1].update(id=450),
        "leaves a gap",
    ),
    "two added tokens of one id": (
        lambda d: d["added_tokens"].append(token(403, "<x>")),
        "is another's",
    ),
    "one added token twice": (
        lambda d: d["added_tokens"].append(token(405, "<s>")),
        "two ids, 398 and 405",
    ),
    "bos gone": (lambda d: d["added_tokens"].pop(0), "no token '<s>'"),
    "a part that panics": (
        lambda d: d.update(
            post_processor={
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<x>", "type_id": 0}}],
                "pair": [],
                "special_tokens": {},
            }
        ),
        "no tokenizer that can be read",
    ),
    "a pattern that is none": (
        lambda d: d["pre_tokenizer"]["pretokenizers"][0].update(pattern={"Regex": "("}),
        "no tokenizer that can be read",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused(
    name: str, byte_level: Document, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """In a sentence, and the library prints nothing of its own."""
    change, words = REFUSED[name]
    put(tmp_path, edited(change)(byte_level))
    with pytest.raises(HubError) as refusal:
        load_tokenizer(tmp_path)
    assert capfd.readouterr() == ("", "")
    os.write(2, b"still there")
    assert capfd.readouterr().err == "still there"
    assert words in str(refusal.value)
    assert str(tmp_path / "tokenizer.json") in str(refusal.value)
    assert len(str(refusal.value)) < len(str(tmp_path)) + 400


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"added_tokens_decoder": {"-1": {"content": "x"}}}, "should map ids"),
        ({"added_tokens_decoder": {"9" * 5000: {"content": "x"}}}, "should map ids"),
        ({"added_tokens_decoder": ["x"]}, "should map ids"),
        ({"added_tokens_decoder": {"3": "x"}}, "has an added token 'x'"),
        ({"added_tokens_decoder": {"401": {"content": "<s>"}}}, "two ids, 398 and 401"),
        ({"eos_token": "<absent>"}, "no token '<absent>'"),
        ({"chat_template": 3}, "is no text"),
    ],
)
def test_a_config_that_cannot_be_read_is_refused(
    config: Document, words: str, byte_level: Document, tmp_path: Path
) -> None:
    with pytest.raises(HubError, match=words):
        load_tokenizer(put(tmp_path, byte_level, **config))


def test_a_folder_without_a_tokenizer_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(HubError, match=r"neither tokenizer\.json nor tiktoken\.model"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"\n")
    with pytest.raises(HubError, match=r"save_pretrained"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("[")
    with pytest.raises(HubError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer.json").symlink_to("/dev/zero")
    with pytest.raises(HubError, match="outside its folder"):
        load_tokenizer(tmp_path)


def test_a_panic_becomes_a_sentence_and_an_interrupt_does_not() -> None:
    class PanicException(BaseException):
        """As pyo3's, which has no importable name."""

    refused = pytest.raises(HubError, match="text cannot: 'index out of bounds'")
    with refused, hub_tokenizer._library("text cannot"):
        raise PanicException("index out of bounds")
    with pytest.raises(KeyboardInterrupt), hub_tokenizer._library("text cannot"):
        raise KeyboardInterrupt


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2**70) | st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=4),
    st.sampled_from(["Sequence", "ByteLevel", "Metaspace", "Strip", "<s>", LOW, "Regex", "(a+)+$"]),
    st.just([]),
    st.just({}),
)


def mutate(data: st.DataObject, tree: Any) -> None:
    """Replace, drop or double one thing, somewhere down the tree."""
    while True:
        keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
        if not keys:
            return
        key = data.draw(st.sampled_from(keys[:40]))
        inner = tree[key]
        if isinstance(inner, dict | list) and inner and data.draw(st.integers(0, 4)):
            tree = inner
            continue
        match data.draw(st.sampled_from(["replace", "drop", "double"])):
            case "replace":
                tree[key] = data.draw(ODD)
            case "drop":
                del tree[key]
            case _ if isinstance(tree, list):
                tree.append(inner)
            case _:
                tree[data.draw(st.text(max_size=4))] = inner
        return


@pytest.mark.parametrize("which", ["byte_level", "fallback"])
def test_no_file_does_more_than_raise(
    which: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    sound = json.dumps(request.getfixturevalue(which))

    @settings(max_examples=150)
    @given(st.data())
    def mutated(data: st.DataObject) -> None:
        document, config = json.loads(sound), {"added_tokens_decoder": {"1": token(1, "<s>")}}
        for _ in range(data.draw(st.integers(1, 3))):
            mutate(data, data.draw(st.sampled_from([document, document, document, config])))
        try:
            loaded = load_tokenizer(put(tmp_path, document, **config))
            for text in ("a <s></s> b\u4e2d", "\x00"):
                ids = loaded.encode(text)
                assert not {*ids} & ({*loaded.specials.values()} - {loaded.specials.get("<unk>")})
                assert max(ids, default=0) < loaded.size
                loaded.decode(loaded.encode_with_specials(text))
                b"".join(map(loaded.token_bytes, ids))
        except HubError:
            return

    mutated()


def test_training_is_repeatable_and_bytes_come_first(made: HubTokenizer) -> None:
    texts = [inspect.getsource(json), "\u4e2d\u6587" * 9]
    again = train_bpe(iter(texts), 400, ["<s>", "</s>"])
    assert again.tokenizer.to_str() == made.tokenizer.to_str()
    assert (made.size, made.bos, made.eos, made.specials) == (400, 398, 399, again.specials)
    assert made.specials == {"<s>": 398, "</s>": 399}
    assert [made.token_bytes(i) for i in range(256)] == [bytes([b]) for b in range(256)]
    assert made.decode(made.encode(texts[0])) == texts[0]
    assert len(made.encode(texts[0])) < len(texts[0]) * 0.6
    assert made.encode(" don't") == made.encode(" don") + made.encode("'t")


def test_training_says_what_it_lacks() -> None:
    with pytest.raises(ValueError, match="259"):
        train_bpe(["abab"], 258, ["<s>", "</s>"])
    with pytest.raises(ValueError, match="yield 2 merges and 300 ids need 43"):
        train_bpe(["abab"], 300, ["<s>"])
    for specials in (["<s>", "<s>"], ["<s>", ""], ["a", "<s>"]):
        with pytest.raises(ValueError, match=r"must differ|is another's"):
            train_bpe(["abababab"], 259, specials)
    with pytest.raises(ValueError, match="261 ids are too few"):
        byte_tokenizer(SPECIALS, 261)


@given(st.text() | st.lists(st.sampled_from([*SPECIALS, "<", "think>", "\ud800"])).map("".join))
@settings(max_examples=200)
def test_the_byte_vocabulary_is_benthics_own(text: str) -> None:
    assert BYTES.encode(text) == tokenizer.encode(text)
    assert BYTES.decode(BYTES.encode(text)) == tokenizer.decode(tokenizer.encode(text))


def test_the_byte_vocabulary_has_benthics_specials(tmp_path: Path) -> None:
    assert {name: BYTES.specials[name] for name in SPECIALS} == {
        name: 256 + i for i, name in enumerate(SPECIALS)
    }
    assert (BYTES.bos, BYTES.eos, BYTES.size) == (tokenizer.BOS, tokenizer.EOS, VOCABULARY)
    assert BYTES.piece(263) == "<unused1>"
    asked = [tokenizer.BOS, tokenizer.USER, *b"2+2", tokenizer.ASSISTANT]
    row = [*asked, tokenizer.THINK, *"w\u00e9".encode(), tokenizer.END_THINK, 52, tokenizer.EOS]
    for shown in (False, True):
        ours = BYTES.decode(row, show_specials=shown)
        assert ours == tokenizer.decode(row, show_specials=shown)
    assert BYTES.encode_with_specials(BYTES.decode(row, show_specials=True)) == row
    save_tokenizer(replace(BYTES, chat_template=R1_TEMPLATE), tmp_path)
    theirs = oracle(tmp_path)
    for text in (*TEXTS, "".join(SPECIALS) * 2):
        ids = theirs(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        assert ids == tokenizer.encode(text)
    chat = [{"role": "user", "content": "2+2"}]
    ids = theirs.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
    assert ids == asked


def test_the_alphabet_covers_every_byte() -> None:
    assert len(set(tiktoken.BYTE_CHARS.values())) == 256
