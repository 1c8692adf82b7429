"""Talking: characters come whole, what is thought is dim, in every layout."""

import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import rich.console
import torch

from benthic.chat import _answer, chat
from benthic.data import template
from benthic.data.tokenizer import SPECIALS
from benthic.data.vocabulary import BYTES, Vocabulary, hub_vocabulary
from benthic.engine.sampler import SamplingParams
from benthic.export import export
from benthic.folder import FolderError, RunFolder
from benthic.model.memory import MemoryNeeded
from benthic.train import checkpoint
from benthic.weights import Weights, open_weights
from tests.dense import CHATML, hub_in
from tests.small import run_small, small, text_in, tokenizer_in


class Scripted:
    """Streams the tokens that it is given."""

    def __init__(self, tokens: list[int]) -> None:
        self.tokens = tokens

    def stream(self, prompt: Sequence[int], params: SamplingParams) -> Iterator[int]:
        yield from self.tokens


def said(
    vocabulary: Vocabulary, tokens: list[int], prompt: Sequence[int] = ()
) -> list[tuple[str, str]]:
    """What is printed, in pieces of one style each, the rate left out."""
    pieces: list[tuple[str, str]] = []

    class Out(rich.console.Console):
        def print(self, text: object, end: str = "\n") -> None:  # type: ignore[override]
            style, words = str(text.style), text.plain  # type: ignore[attr-defined]
            if not words or "tokens/s" in words:
                return
            if pieces and pieces[-1][0] == style:
                words = pieces.pop()[1] + words
            pieces.append((style, words))

    engine = Scripted(tokens)
    _answer(Out(file=io.StringIO()), engine, vocabulary, [*prompt], SamplingParams())  # type: ignore[arg-type]
    return pieces


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Vocabulary]:
    root = tmp_path_factory.mktemp("hub")
    words = text_in(root)
    layouts = {"spelt": (), "R1": SPECIALS[2:]}
    return {
        name: hub_vocabulary(tokenizer_in(root / name, words, layout=layout))
        for name, layout in layouts.items()
    }


@pytest.mark.parametrize("kind", ["bytes", "spelt", "R1"])
def test_thinking_is_dim_and_the_answer_is_not(hub: dict[str, Vocabulary], kind: str) -> None:
    v = {"bytes": BYTES, **hub}[kind]
    worked = [("dim", "<think>1234</think>"), ("bold", "\u20ac4")]
    assert said(v, v.completion("1234", "\u20ac4")) == worked
    assert said(v, v.encode("just words")) == [("bold", "just words")]
    assert said(v, v.completion("12", "")[:-1]) == [("dim", "<think>12</think>")]


@pytest.mark.parametrize("kind", ["bytes", "spelt", "R1"])
def test_a_prompt_may_have_opened_the_thoughts(hub: dict[str, Vocabulary], kind: str) -> None:
    """As R1's own template does, with the end of a line behind."""
    v = {"bytes": BYTES, **hub}[kind]
    opened = [*v.encode("q"), *([v.tags[0]] if v.tags else v.encode("<think>")), *v.encode("\n")]
    worked = v.completion("12", "4")
    rest = worked[1:] if v.tags else worked[len(v.encode("<think>")) :]
    assert said(v, rest, opened) == [("dim", "12</think>"), ("bold", "4")]
    closed = [*v.encode("q"), *v.completion("", "")[:-1]]
    assert said(v, v.encode("4"), closed) == [("bold", "4")]


def test_a_control_token_that_is_not_hidden_is_shown(tmp_path: Path) -> None:
    """As Qwen's calls of tools; one that is, as an end, is not."""
    folder = tokenizer_in(tmp_path / "hub", text_in(tmp_path), layout=("<call>",))
    written = json.loads((folder / "tokenizer.json").read_text())
    for token in written["added_tokens"]:
        token["special"] = token["special"] and token["content"] != "<call>"
    (folder / "tokenizer.json").write_text(json.dumps(written))
    v = hub_vocabulary(folder)
    call = v.hub.specials["<call>"]
    assert said(v, [*v.encode("a"), call, v.eos]) == [("bold", "a"), ("dim", "<call>")]


@pytest.mark.parametrize("kind", ["bytes", "spelt", "R1"])
def test_a_character_is_shown_when_it_is_whole(hub: dict[str, Vocabulary], kind: str) -> None:
    v = {"bytes": BYTES, **hub}[kind]
    euro = v.encode("\u20ac")
    assert len(euro) == 3
    assert said(v, euro[:2]) == [("bold", "\ufffd")]
    assert said(v, [*euro, *v.encode("a")]) == [("bold", "\u20aca")]
    assert said(v, [*euro[:2], v.eos, *v.encode("a")]) == [("bold", "\ufffda")]
    if v.tags:
        cut = [v.tags[0], *euro[:2], v.tags[1], *v.encode("a")]
        assert said(v, cut) == [("dim", "<think>\ufffd</think>"), ("bold", "a")]


def test_characters_that_steer_a_terminal_are_made_visible() -> None:
    assert said(BYTES, BYTES.encode("a\x1b[0mb")) == [("bold", "a\u00b7[0mb")]


def test_a_run_with_a_vocabulary_of_the_hub_talks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And not with another: the ids would mean other text."""
    text = text_in(tmp_path)
    folder = tokenizer_in(tmp_path / "hub", text, layout=SPECIALS[2:])
    v = hub_vocabulary(folder)
    made = (f"data.tokenizer={folder}", f"model.vocab_size={v.size}", "reason.steps=0")
    marks = (f"model.bos_token_id={v.bos}", f"model.eos_token_id={v.eos}")
    run = run_small(small(text, *made, *marks), tmp_path / "run")
    assert isinstance(run, RunFolder) and checkpoint.steps_of(run.checkpoints, "pretrain")
    monkeypatch.setattr("sys.stdin", io.StringIO("314159\n/text abc\n"))
    assert chat(run.path, temperature=1.0, seed=0) == 0
    assert capsys.readouterr().out.count("tokens/s") == 2
    tokenizer_in(folder, text_in(tmp_path, seed=1), layout=SPECIALS[2:])
    with pytest.raises(FolderError, match="another vocabulary"):
        chat(run.path, temperature=1.0, seed=0)


Talk = Callable[..., str]


@pytest.fixture
def talk(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Talk:
    """Lines in, all that is printed out."""

    def of(path: Path, *lines: str, **options: Any) -> str:
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(line + "\n" for line in lines)))
        monkeypatch.setenv("COLUMNS", "400")
        capsys.readouterr()
        assert chat(path, **options) == 0
        return capsys.readouterr().out

    return of


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The prompts that the engine is given; its answers are the script's tokens."""
    prompts: list[list[int]] = []

    def stream(self: object, prompt: Sequence[int], params: SamplingParams) -> Iterator[int]:
        prompts.append(list(prompt))
        yield from SCRIPT

    monkeypatch.setattr("benthic.engine.engine.Engine.stream", stream)
    return prompts


SCRIPT = [ord("o"), ord("k")]  # bytes come first in these vocabularies


def test_a_talk_keeps_its_history_in_the_checkpoints_own_template(
    tmp_path: Path, talk: Talk, asked: list[list[int]]
) -> None:
    """A refused turn and a continued text are no part of it."""
    refusing = "{% if messages[-1]['content'] == 'no' %}{{ raise_exception('not so') }}{% endif %}"
    folder = hub_in(tmp_path / "hub", template=refusing + CHATML)
    out = talk(folder, "first", "no", "/text a", "second")
    hub = open_weights(folder).tokenizer
    start, end = hub.specials["<|im_start|>"], hub.specials["<|im_end|>"]

    def turn(role: str, words: str) -> list[int]:
        return [start, *hub.encode(f"{role}\n{words}"), end, *hub.encode("\n")]

    reply = [start, *hub.encode("assistant\n")]
    first = turn("user", "first")
    assert asked == [
        [*first, *reply],
        [hub.bos, *hub.encode("a")],
        [*first, *turn("assistant", "ok"), *turn("user", "second"), *reply],
    ]
    assert "imported. Ask, by its own chat template." in out
    assert out.count("the chat template refuses these messages: 'not so'") == 1
    assert out.count("ok   2 tokens") == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("{% for i in range(10**9) %}{% endfor %}", "chat template"),
        ("{{ 'a' * 10**7 }}", "chat template"),
        ("{{ messages.__class__.__mro__ }}", "chat template"),
        ("{% if %}", "the chat template fails on these messages: .TemplateSyntaxError"),
        ("{{ raise_exception('\x1b[31mno') }}", r"refuses these messages: '\\x1b\[31mno'"),
        ("{{ 'b' * 5000 }}", r"the talk has \d{4} tokens and the model 256 positions"),
        ("{{ '' }}", "a prompt is empty"),
    ],
    ids=["loops", "swells", "escapes", "broken", "refuses", "long", "empty"],
)
def test_a_hostile_template_is_one_sentence_and_the_talk_goes_on(
    tmp_path: Path, talk: Talk, monkeypatch: pytest.MonkeyPatch, words: str, said: str
) -> None:
    monkeypatch.setattr(template, "SECONDS", 1.0)
    out = talk(hub_in(tmp_path / "hub", template=words), "first", "/text abc")
    lines = out.splitlines()
    assert re.search(said, lines[1]) and "\x1b" not in out
    assert "tokens/s" in lines[2] and len(lines) == 3 + (lines[-1] == "> ")


def test_without_a_template_it_goes_on_with_the_text(
    tmp_path: Path, talk: Talk, asked: list[list[int]]
) -> None:
    folder = hub_in(tmp_path / "hub")
    out = talk(folder, "some words", "more")
    v = hub_vocabulary(folder)
    assert "It has no chat template: it goes on with what you type." in out
    assert asked == [[v.bos, *v.encode("some words")], [v.bos, *v.encode("more")]]


def test_a_talk_ends_where_the_positions_do(
    tmp_path: Path, talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last answers are shorter, then a sentence says so; a text still goes on."""
    folder, rooms = hub_in(tmp_path / "hub", template=CHATML, max_position_embeddings=96), []

    def stream(self: object, prompt: Sequence[int], params: SamplingParams) -> Iterator[int]:
        rooms.append((len(prompt), params.max_new_tokens))
        yield from SCRIPT

    monkeypatch.setattr("benthic.engine.engine.Engine.stream", stream)
    out = talk(folder, *["ab"] * 9, "/text " + "abcde fghij" * 20)
    *turns, text = rooms
    assert [new for _, new in turns] == [min(48, 96 - length) for length, _ in turns]
    assert turns[0][1] == 48 and 0 < turns[-1][1] < 48 and text == (48, 48)
    refused = "positions: leave by an empty line and begin anew"
    assert len(turns) + out.count(refused) == 9


def test_one_position_is_enough_to_be_told_so(tmp_path: Path, talk: Talk) -> None:
    folder = hub_in(tmp_path / "hub", max_position_embeddings=1)
    out = talk(folder, "a", "/text a")
    assert out.count("the talk has 2 tokens and the model 1 positions") == 1
    assert "max_new_tokens is 0" not in out and "tokens/s" not in out


def test_narrow_weights_talk(tmp_path: Path, talk: Talk) -> None:
    """As they are stored, and as asked for; a run's too."""
    hub = hub_in(tmp_path / "hub", template=CHATML, precision="bf16")
    run = run_small(small(text_in(tmp_path), "reason.steps=0"), tmp_path / "run")
    export(run.path, to="hf", dtype="fp8", out=tmp_path / "fp8")
    for path in (hub, run.path, tmp_path / "fp8"):
        for dtype in (None, torch.float32, torch.bfloat16):
            assert talk(path, "314159", "/text abc", dtype=dtype).count("tokens/s") == 2
    assert talk(tmp_path / "fp8", "314159", "/text abc", keep_fp8=True).count("tokens/s") == 2
    for path in (hub, run.path):
        with pytest.raises(FolderError, match="holds no weights in FP8: leave --keep-fp8 out"):
            talk(path, keep_fp8=True)


def test_fp8_is_kept_where_it_is_asked_for(
    tmp_path: Path, talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = list[set[torch.dtype]]()

    def watched(*words: Any, **options: Any) -> Weights:
        weights = open_weights(*words, **options)
        held.append({p.dtype for p in weights.model.parameters()})
        return weights

    monkeypatch.setattr("benthic.chat.open_weights", watched)
    folder = hub_in(tmp_path / "hub", precision="fp8")
    for keep_fp8 in (False, True):
        talk(folder, keep_fp8=keep_fp8)
    assert held == [{torch.bfloat16}, {torch.bfloat16, torch.float8_e4m3fn}]


def test_a_gpu_that_is_not_there_is_one_sentence(tmp_path: Path, talk: Talk) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    run = run_small(small(text_in(tmp_path), "reason.steps=0"), tmp_path / "run")
    for path in (hub_in(tmp_path / "hub"), run.path):
        with pytest.raises(FolderError, match="PyTorch sees no GPU here: use --device cpu"):
            talk(path, device="cuda")


def test_a_checkpoint_says_how_it_is_sampled(
    tmp_path: Path, talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where its file does, unless something else is asked for; an answer's length likewise."""
    folder = hub_in(tmp_path / "hub", template=CHATML, max_position_embeddings=10000)
    given = list[tuple[float, float, int]]()

    def stream(self: object, prompt: Sequence[int], params: SamplingParams) -> Iterator[int]:
        given.append((params.temperature, params.top_p, params.max_new_tokens))
        yield from SCRIPT

    monkeypatch.setattr("benthic.engine.engine.Engine.stream", stream)
    facts = folder / "generation_config.json"
    told = "Sampled at temperature 0.6 and top-p 0.95, as its generation_config.json asks; "
    usual = {"do_sample": True, "temperature": 0.6, "top_p": 0.95}
    for asks, options, expected in (
        (usual, {}, (0.6, 0.95, 4096)),
        (usual, {"temperature": 0.0, "top_p": 0.5}, (0.0, 0.5, 4096)),
        ({"do_sample": True}, {"max_tokens": 2}, (1.0, 1.0, 2)),
        (usual | {"do_sample": False}, {"max_tokens": 9000}, (0.0, 1.0, 9000)),
    ):
        facts.write_text(json.dumps(asks))
        out = talk(folder, "ab", "/text ab", **options)
        assert given[-2] == expected
        new = min(options.get("max_tokens", 200), 5000)
        assert given[-1] == (expected[0] or 0.7, expected[1], new)
        assert (told in out) == (expected[0] == 0.6)
        assert out.count("tokens/s, cut off there: see --max-tokens") == 2 * (expected[2] == 2)


def test_ctrl_c_stops_an_answer_and_not_the_talk(
    tmp_path: Path, talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, calls = hub_in(tmp_path / "hub", template=CHATML), list[list[int]]()

    def stream(self: object, prompt: Sequence[int], params: SamplingParams) -> Iterator[int]:
        calls.append(list(prompt))
        yield ord("a")
        if len(calls) == 1:
            raise KeyboardInterrupt
        yield ord("b")

    monkeypatch.setattr("benthic.engine.engine.Engine.stream", stream)
    out = talk(folder, "first", "second")
    assert "a   stopped" in out and "ab   2 tokens" in out
    assert calls[1] == calls[0][:2] + calls[1][2:] and len(calls[1]) < len(calls[0]) + 10


@pytest.mark.parametrize("of", ["run", "export"])
def test_thinking_is_dim_in_a_terminal(
    tmp_path: Path, talk: Talk, monkeypatch: pytest.MonkeyPatch, of: str
) -> None:
    """A run and its export look alike; the history holds the thought in its tags."""
    run = run_small(small(text_in(tmp_path), "reason.steps=0"), tmp_path / "run")
    export(run.path, to="hf", dtype="fp32", out=tmp_path / "export")
    v, prompts = BYTES, list[list[int]]()

    def stream(self: object, prompt: Sequence[int], params: SamplingParams) -> Iterator[int]:
        prompts.append(list(prompt))
        yield from v.completion("12", "2")

    monkeypatch.setattr("benthic.engine.engine.Engine.stream", stream)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    out = talk(tmp_path / of, "11", "22")
    dim, bold, plain = "\x1b[2m", "\x1b[1m", "\x1b[0m"
    told = f"{dim}<think>{plain}{dim}1{plain}{dim}2{plain}{dim}</think>{plain}{bold}2{plain}"
    assert out.count(told) == 2
    first, second = v.prompt("11".ljust(16)), v.prompt("22".ljust(16))
    after = second if of == "run" else [*first, *v.encode("2"), v.eos, *second[1:]]
    assert prompts == [first, after]


@pytest.mark.parametrize("of", ["run", "hub"])
def test_more_than_the_memory_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of: str
) -> None:
    if of == "run":
        run_small(small(text_in(tmp_path), "reason.steps=0"), tmp_path / of)
    else:
        hub_in(tmp_path / of)
    monkeypatch.setattr("benthic.model.memory._free_memory", lambda: 1 << 10)
    with pytest.raises(MemoryNeeded, match=r"GiB and 0\.0 GiB of memory are free on cpu"):
        chat(tmp_path / of, temperature=0.0, seed=0)


@pytest.mark.parametrize("temperature", [-1.0, 101.0, float("nan")])
def test_a_temperature_is_refused_before_anything_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, temperature: float
) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(ValueError, match="give a number from 0 to 100"):
        chat(hub_in(tmp_path / "hub"), temperature=temperature, seed=0)


def test_a_terminal_that_is_not_there_ends_the_talk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where standard input is closed."""
    monkeypatch.setattr("sys.stdin", None)
    assert chat(hub_in(tmp_path / "hub"), temperature=0.0, seed=0) == 0


def test_text_without_words_is_no_question(
    tmp_path: Path, talk: Talk, asked: list[list[int]]
) -> None:
    out = talk(hub_in(tmp_path / "hub", template=CHATML), "/text", "/text ", "/texts")
    assert out.count("give the text to go on with: /text WORDS") == 2 and len(asked) == 1
