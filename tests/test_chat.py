"""Talking: characters come whole, what is thought is dim, in every layout."""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import rich.console

from benthic.chat import _answer, chat
from benthic.data.tokenizer import SPECIALS
from benthic.data.vocabulary import BYTES, Vocabulary, hub_vocabulary
from benthic.engine.sampler import SamplingParams
from benthic.folder import FolderError, RunFolder
from benthic.train import checkpoint
from tests.small import run_small, small, text_in, tokenizer_in


class Scripted:
    """Streams the tokens that it is given."""

    def __init__(self, tokens: list[int]) -> None:
        self.tokens = tokens

    def stream(self, prompt: Sequence[int], params: SamplingParams) -> Iterator[int]:
        yield from self.tokens


def said(vocabulary: Vocabulary, tokens: list[int]) -> list[tuple[str, str]]:
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
    _answer(Out(file=io.StringIO()), engine, vocabulary, [], SamplingParams())  # type: ignore[arg-type]
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
