"""Vocabularies: text comes back, problems are laid out and read again, whatever spells the tags."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benthic.config import DataConfig, Recipe
from benthic.data.tokenizer import SPECIALS
from benthic.data.vocabulary import (
    BYTES,
    END_THINK,
    THINK,
    HubVocabulary,
    Reply,
    Vocabulary,
    hub_vocabulary,
    vocabulary_of,
)
from benthic.model.config import ModelConfig
from tests.small import text_in, tokenizer_in

ROLES, TAGS = SPECIALS[2:4], SPECIALS[4:]
KINDS = {
    "bytes": None,
    "R1": {"layout": SPECIALS[2:]},
    "plain": {},
    "tags": {"layout": TAGS, "bos": False},  # as Qwen 3
    "roles": {"layout": ROLES},
}
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
tagless = text.filter(lambda t: "<" not in t)
sly = st.lists(st.sampled_from([*SPECIALS, "<", "think>", "ab", " "]), max_size=6).map("".join)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_in(tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="module")
def made(words: Path) -> dict[str, Vocabulary]:
    out: dict[str, Vocabulary] = {}
    for kind, how in KINDS.items():
        folder = words.parent / kind
        out[kind] = BYTES if how is None else hub_vocabulary(tokenizer_in(folder, words, **how))
    return out


@pytest.fixture(params=KINDS)
def vocabulary(made: dict[str, Vocabulary], request: pytest.FixtureRequest) -> Vocabulary:
    return made[request.param]


each = pytest.mark.parametrize("kind", KINDS)


@each
@settings(max_examples=30)
@given(written=text | sly)
def test_text_comes_back_and_is_never_special(
    made: dict[str, Vocabulary], kind: str, written: str
) -> None:
    ids = made[kind].encode(written)
    assert all(map(made[kind].is_text, ids))
    assert made[kind].decode(ids) == made[kind].decode(ids, show_specials=True) == written
    assert b"".join(map(made[kind].token_bytes, ids)) == written.encode()
    assert made[kind].byte_lengths[ids].sum() == len(written.encode())


@each
@settings(max_examples=30)
@given(written=text.filter(bool))
def test_a_document_is_its_text_between_its_marks(
    made: dict[str, Vocabulary], kind: str, written: str
) -> None:
    vocabulary, raw = made[kind], written.encode()
    tokens = vocabulary.document(raw)
    marks = [] if vocabulary.bos is None else [vocabulary.bos]
    assert tokens.dtype == np.uint16
    assert tokens.tolist() == [*marks, *vocabulary.encode(written), vocabulary.eos]
    assert vocabulary.bytes_of(tokens).tobytes() == raw


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_chunks_change_nothing(
    vocabulary: Vocabulary, words: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    raw = words.read_bytes()[:1500].replace(b" ", b"\nword ").replace(b"ab", b"\n")
    stream = np.concatenate([vocabulary.document(raw), vocabulary.document(raw)])
    monkeypatch.setattr("benthic.data.vocabulary._AT_ONCE", chunk)
    assert vocabulary.bytes_of(stream).tobytes() == raw * 2
    for text in (raw, raw + b"\n", b"", b"\n"):
        assert vocabulary.bytes_of(vocabulary.document(text)).tobytes() == text


def test_bytes_that_are_no_text_are_replaced(made: dict[str, Vocabulary]) -> None:
    assert BYTES.bytes_of(BYTES.document(b"a\xffb")).tobytes() == b"a\xffb"
    found = made["plain"].bytes_of(made["plain"].document(b"a\xffb"))
    assert found.tobytes().decode() == "a\ufffdb"


def test_learnt_tokens_are_longer_than_a_byte(made: dict[str, Vocabulary], words: Path) -> None:
    """Without this, the tests of lengths could pass on bytes alone."""
    assert len(made["plain"].encode(words.read_text())) < 0.8 * words.stat().st_size


@each
def test_specials_are_no_text(made: dict[str, Vocabulary], kind: str) -> None:
    vocabulary = made[kind]
    marks = [vocabulary.bos, vocabulary.eos, *(vocabulary.roles or ()), *(vocabulary.tags or ())]
    for mark in [m for m in marks if m is not None]:
        assert not vocabulary.is_text(mark) and vocabulary.token_bytes(mark) == b""
        assert vocabulary.decode([mark]) == "" != vocabulary.decode([mark], show_specials=True)


def test_ids_out_of_use_are_no_text(vocabulary: Vocabulary) -> None:
    """A model's table may have more rows than the vocabulary has ids."""
    beyond = [vocabulary.size, vocabulary.size + 5]
    assert not any(map(vocabulary.is_text, beyond))
    assert vocabulary.decode([*beyond, *vocabulary.encode("ab")]) == "ab"
    assert vocabulary.token_bytes(beyond[0]) == b""
    right = vocabulary.completion("1", "2")
    assert not vocabulary.parse([*right[:-1], *beyond, right[-1]]).well_formed


def test_layouts_are_as_documented(made: dict[str, Vocabulary]) -> None:
    b = {kind: [] if v.bos is None else [v.bos] for kind, v in made.items()}
    for kind in ("bytes", "R1", "roles"):
        v = made[kind]
        assert v.roles is not None
        assert v.prompt("a b") == [*b[kind], v.roles[0], *v.encode("a b"), v.roles[1]]
    for kind in ("plain", "tags"):
        v = made[kind]
        assert v.prompt("a b") == [*b[kind], *v.encode("User: a b\nAssistant: ")]
    for kind in ("bytes", "R1", "tags"):
        v = made[kind]
        assert v.tags is not None
        inside = [v.tags[0], *v.encode("12"), v.tags[1], *v.encode("3"), v.eos]
        assert v.completion("12", "3") == inside
    for kind in ("plain", "roles"):
        v = made[kind]
        assert v.completion("12", "3") == [*v.encode("<think>12</think>3"), v.eos]


@each
@settings(max_examples=30)
@given(working=tagless, answer=tagless)
def test_a_completion_is_taken_apart_again(
    made: dict[str, Vocabulary], kind: str, working: str, answer: str
) -> None:
    found = made[kind].parse(made[kind].completion(working, answer))
    assert found == Reply(working, answer.strip(), True)


@pytest.mark.parametrize("kind", ["bytes", "R1", "tags"])
@settings(max_examples=30)
@given(working=sly, answer=sly)
def test_tags_that_are_ids_cannot_be_spelt(
    made: dict[str, Vocabulary], kind: str, working: str, answer: str
) -> None:
    found = made[kind].parse(made[kind].completion(working, answer))
    assert found == Reply(working, answer.strip(), True)


SPELT = {  # body of a completion, in front of its end
    "<think>ab</think>cd": Reply("ab", "cd", True),
    " \n<think>ab</think> cd ": Reply("ab", "cd", True),
    "<think></think>cd": Reply("", "cd", True),
    "<think>ab</think>": Reply("ab", "", True),
    "ab<think></think>cd": Reply("ab<think>", "cd", False),
    "ab</think>cd": Reply("ab", "cd", False),
    "<think>ab": Reply("ab", "", False),
    "<think>ab</think>c</think>d": Reply("ab", "c</think>d", False),
    "<think><think>ab</think>cd": Reply("<think>ab", "cd", False),
    "<think>ab</think>c<think>d": Reply("ab", "c<think>d", False),
    "": Reply("", "", False),
}


@pytest.mark.parametrize("kind", ["plain", "roles"])
@pytest.mark.parametrize("spelt", SPELT)
def test_tags_that_are_spelt_are_read_strictly(
    made: dict[str, Vocabulary], kind: str, spelt: str
) -> None:
    v = made[kind]
    assert v.parse([*v.encode(spelt), v.eos]) == SPELT[spelt]
    assert not v.parse(v.encode(spelt)).well_formed  # no end
    assert not v.parse([*v.encode(spelt), v.eos, *v.encode("a")]).well_formed


def test_a_special_inside_is_not_well_formed(vocabulary: Vocabulary) -> None:
    right = vocabulary.completion("ab", "cd")
    assert vocabulary.bos or vocabulary.tags
    mark = vocabulary.bos or vocabulary.tags[0]
    for place in range(1, len(right)):
        spoilt = [*right[:place], mark, *right[place:]]
        assert not vocabulary.parse(spoilt).well_formed


@each
@settings(max_examples=40)
@given(data=st.data())
def test_any_ids_are_judged(made: dict[str, Vocabulary], kind: str, data: st.DataObject) -> None:
    v = made[kind]
    some = st.sampled_from([*range(v.size - 8, v.size + 2), *v.completion("a", "b")])
    ids = data.draw(st.lists(some, max_size=12))
    reply = v.parse(ids)
    assert not reply.well_formed or (ids[-1] in v.ends and not v.ends & set(ids[:-1]))
    assert 0 <= v.thought_tokens(ids) <= len(ids)


@each
def test_tokens_thought_stand_between_the_tags(made: dict[str, Vocabulary], kind: str) -> None:
    v = made[kind]
    assert v.thought_tokens(v.completion("", "12")) == 0
    assert v.thought_tokens(v.completion("1234", "12")) == 4  # digits are not in the words
    assert v.thought_tokens([*v.encode("12"), v.eos]) == 0
    assert v.thought_tokens([v.eos]) == v.thought_tokens([]) == 0
    open_end = v.completion("1234", "12")
    cut = open_end[: open_end.index(v.encode("4")[0])]
    assert v.thought_tokens(cut) == v.thought_tokens([*cut, v.eos]) == 3


def test_tokens_that_share_a_tag_and_a_thought_count(made: dict[str, Vocabulary]) -> None:
    class Joined(HubVocabulary):
        """Spells `><` and `b</` as one token each."""

        def __init__(self) -> None:
            self.ends, self.tags = frozenset([0]), None
            self.pieces = [
                b"",
                b" <think",
                b"><",
                b">",
                b"/think>",
                b"a",
                b"b</",
                b"think>",
                b"\n \n",
            ]

        def token_bytes(self, token: int) -> bytes:
            return self.pieces[token]

    v = Joined()
    assert v.thought_tokens([1, 2, 4, 5, 0]) == 0  # <think></think>a: `><` is of the tags alone
    assert v.thought_tokens([1, 3, 6, 7, 5, 0]) == 1  # <think>b</think>a
    assert v.thought_tokens([1, 3, 5, 5, 6, 7, 5, 0]) == 3
    assert v.thought_tokens([1, 3, 5, 5, 5]) == 3
    assert v.thought_tokens([8, 1, 3, 5, 5, 6, 7, 5, 0]) == 3  # behind space
    assert v.thought_tokens([1]) == 0


def settings_of(v: Vocabulary, source: Path | str, **model: int) -> Recipe:
    shape = {"vocab_size": v.size, "bos_token_id": v.bos or 0, "eos_token_id": v.eos, **model}
    return Recipe(model=ModelConfig(**shape), data=DataConfig(tokenizer=str(source)))


def test_a_recipe_names_its_vocabulary(made: dict[str, Vocabulary], words: Path) -> None:
    for kind in ("R1", "tags"):
        folder = words.parent / kind
        for source in (folder, folder / "tokenizer.json"):
            found = vocabulary_of(settings_of(made[kind], source))
            assert found.describe() == made[kind].describe()
            assert found.name == kind
    assert vocabulary_of(settings_of(BYTES, "")) is BYTES


def test_tags_that_a_checkpoint_does_not_mark_special_are_tags(
    made: dict[str, Vocabulary], words: Path, tmp_path: Path
) -> None:
    """As DeepSeek's and Qwen's are not."""
    folder = tokenizer_in(tmp_path / "R1", words, layout=SPECIALS[2:])
    content = json.loads((folder / "tokenizer.json").read_text())
    for token in content["added_tokens"]:
        token["special"] = token["content"] not in TAGS
    (folder / "tokenizer.json").write_text(json.dumps(content))
    found = hub_vocabulary(folder)
    assert found.tags == made["R1"].tags
    assert found.decode(list(found.tags)) == ""
    assert found.parse([*found.tags, found.tags[0], *found.encode("a"), found.eos]).answer == "a"


def test_another_file_is_not_taken_for_the_tokenizer(words: Path) -> None:
    with pytest.raises(ValueError, match=r"words-0.txt is no tokenizer.json or tiktoken.model"):
        vocabulary_of(settings_of(BYTES, words))
    with pytest.raises(ValueError, match="nowhere has no tokenizer"):
        vocabulary_of(settings_of(BYTES, words.parent / "nowhere"))


def test_a_table_may_be_larger_than_the_vocabulary_and_not_smaller(
    made: dict[str, Vocabulary], words: Path
) -> None:
    vocabulary_of(settings_of(made["R1"], words.parent / "R1", vocab_size=404))
    with pytest.raises(ValueError, match=r"vocab_size is 399, but the tokenizer R1 has 400 ids"):
        vocabulary_of(settings_of(made["R1"], words.parent / "R1", vocab_size=399))


@pytest.mark.parametrize("key", ["bos_token_id", "eos_token_id"])
def test_a_model_that_disagrees_about_the_marks_is_refused(
    made: dict[str, Vocabulary], words: Path, key: str
) -> None:
    for v, source in ((made["R1"], words.parent / "R1"), (BYTES, "")):
        own = v.bos if key == "bos_token_id" else v.eos
        with pytest.raises(ValueError, match=rf"model.{key} is 7, but .* a text with {own}:"):
            vocabulary_of(settings_of(v, source, **{key: 7}))


def test_a_vocabulary_without_a_beginning_asks_for_none(
    made: dict[str, Vocabulary], words: Path
) -> None:
    assert made["tags"].bos is None
    vocabulary_of(settings_of(made["tags"], words.parent / "tags", bos_token_id=7))


def test_generation_may_end_at_several_ids(words: Path, tmp_path: Path) -> None:
    folder = tokenizer_in(tmp_path / "ends", words)
    own = hub_vocabulary(folder)
    other = own.encode("~")[0]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [own.eos, other]}))
    found = hub_vocabulary(folder)
    assert found.eos == own.eos and found.ends == {own.eos, other}
    assert found.sha256 != own.sha256
    assert found.parse([*found.encode("<think>b</think>c"), other]).well_formed
    assert found.thought_tokens(found.encode("<think>12~3")) == 2
    vocabulary_of(settings_of(found, folder, eos_token_id=other))


@pytest.mark.parametrize(
    ("content", "words_of"),
    [
        (b"{", "is no JSON"),
        (b'{"eos_token_id": "x"}', "give an id or a list of ids"),
        (b'{"eos_token_id": [true]}', "give an id or a list of ids"),
        (b'{"eos_token_id": 400}', "eos_token_id is 400, and the tokenizer's ids are 0 to 399"),
        (b'{"eos_token_id": [3, -1]}', "eos_token_id is -1, and the tokenizer's ids are 0 to 399"),
    ],
)
def test_a_bad_end_is_named_in_one_sentence(
    words: Path, tmp_path: Path, content: bytes, words_of: str
) -> None:
    """By the file that it stands in."""
    for name in ("config.json", "generation_config.json"):
        folder = tokenizer_in(tmp_path / name / "bad", words)
        (folder / name).write_bytes(content)
        with pytest.raises(ValueError, match=words_of) as refusal:
            hub_vocabulary(folder)
        assert "\n" not in str(refusal.value) and str(folder / name) in str(refusal.value)


def test_a_tokenizer_without_an_end_takes_that_of_the_generation(
    words: Path, tmp_path: Path
) -> None:
    folder = tokenizer_in(tmp_path / "endless", words)
    (folder / "tokenizer_config.json").write_text("{}")
    with pytest.raises(ValueError, match="names no end of text"):
        hub_vocabulary(folder)
    (folder / "generation_config.json").write_text('{"eos_token_id": [70, 65]}')
    assert hub_vocabulary(folder).ends == {65, 70}


def test_the_hash_covers_what_decides_about_ids(words: Path, tmp_path: Path) -> None:
    folder = tokenizer_in(tmp_path / "a", words)
    first = hub_vocabulary(folder).sha256
    assert hub_vocabulary(tokenizer_in(tmp_path / "b", words)).sha256 == first
    names = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": names["eos_token"]}))
    without_bos = hub_vocabulary(folder).sha256
    tokenizer_in(folder, text_in(tmp_path, seed=1))  # as many tokens, others
    assert len({first, without_bos, hub_vocabulary(folder).sha256}) == 3


def test_many_ids_take_wider_tokens(made: dict[str, Vocabulary]) -> None:
    plain = made["plain"]
    assert isinstance(plain, HubVocabulary)

    class Wide:
        def __getattr__(self, name: str) -> object:
            return getattr(plain.hub, name)

        def token_bytes(self, token: int) -> bytes:
            return plain.hub.token_bytes(token) if token < plain.size else b"?"

    for size, dtype in ((65_536, np.uint16), (65_537, np.uint32)):
        wide = Wide()
        wide.size, wide.eos = size, size - 1  # type: ignore[attr-defined]
        v = HubVocabulary(wide, name="wide", sha256="")  # type: ignore[arg-type]
        found = v.document(b"abc")
        assert found.dtype == dtype and found[-1] == size - 1
        assert v.bytes_of(found).tobytes() == b"abc?"


def test_the_tags_are_those_of_the_layout() -> None:
    assert (THINK, END_THINK) == ("<think>", "</think>")
    assert BYTES.decode(list(BYTES.tags), show_specials=True) == THINK + END_THINK
