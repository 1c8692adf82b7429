"""`benthic chat`: talk to a trained or imported model in the terminal, its thinking dimmed.

A run is asked in its task's layout. An imported checkpoint is asked by its own chat template, the
talk so far included, and merely goes on with a text if it has none.
"""

import codecs
import sys
import time
from dataclasses import replace
from pathlib import Path

import rich.console
import torch
from rich.markup import escape
from rich.text import Text

from benthic.console import printable
from benthic.data.tasks.problem import Task
from benthic.data.tasks.source import task_of
from benthic.data.template import render
from benthic.data.vocabulary import END_THINK, THINK, Vocabulary
from benthic.engine import folded
from benthic.engine.engine import Engine
from benthic.engine.sampler import SamplingParams
from benthic.hub.files import model_name
from benthic.model.transformer import LanguageModel
from benthic.weights import Weights, open_weights, sampling_of

_TEXT = "/text"
_CONTINUATION = 200  # tokens a continued text may have, if nothing else is asked for
_REPLY = 4096  # the same of an imported model's answer: R1's distilled models think for thousands
_HELP = f"'{_TEXT} WORDS' continues a text, an empty line or Ctrl-D ends."


def chat(
    path: Path,
    *,
    temperature: float | None = None,
    top_p: float | None = None,
    max_tokens: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    keep_fp8: bool = False,
) -> int:
    """Read questions from standard input until it ends; ValueError for what cannot be sampled so.

    Without `temperature` and `top_p` as the checkpoint asks, else greedily and from all tokens;
    without `max_tokens` as long as a run's task allows, or 4,096 tokens.
    """
    out = rich.console.Console(highlight=False)
    weights = open_weights(path, device=device, dtype=dtype, keep_fp8=keep_fp8)
    asked = {} if weights.recipe else sampling_of(path)
    model, vocabulary = weights.model, weights.vocabulary
    count = sum(p.numel() for p in model.parameters())
    talk: _Exam | _Talk = _Exam(weights) if weights.recipe else _Talk(weights)
    sampled = bool(asked.get("do_sample"))
    by_itself = temperature is None and sampled
    if temperature is None:
        temperature = asked.get("temperature", 1.0) if sampled else 0.0
    if top_p is None:
        top_p = asked.get("top_p", 1.0) if sampled else 1.0
    longest = talk.longest if max_tokens is None else max_tokens
    try:
        params = SamplingParams(
            temperature=temperature, top_p=top_p, max_new_tokens=longest, seed=seed
        )
    except ValueError as error:
        if not sampled:
            raise
        raise ValueError(
            f"{error}; what --temperature and --top-p do not say is of its generation_config.json"
        ) from None
    out.print(
        f"[bold]{escape(model_name(path))}[/bold]: {count:,} parameters, {weights.state}. "
        f"{escape(talk.invitation)}. {escape(_HELP)}"
    )
    if by_itself:
        out.print(
            f"Sampled at temperature {temperature:g} and top-p {top_p:g}, as its "
            "generation_config.json asks; --temperature 0 takes the likeliest tokens."
        )
    if folded.pays(model):
        torch.set_num_threads(1)  # one token at a time: a second thread only waits
    engine = Engine(model, ends=vocabulary.ends, record_experts=False)
    while words := _ask(out):
        params = replace(params, seed=params.seed + 1)
        try:
            if words.partition(" ")[0] == _TEXT:
                new = _CONTINUATION if max_tokens is None else max_tokens
                goes_on = replace(params, max_new_tokens=new)
                prompt = _continuation(words, vocabulary, goes_on, model)
            else:
                prompt = talk.prompt(words, params)
            said = _answer(out, engine, vocabulary, *prompt)
            if words.partition(" ")[0] != _TEXT:
                talk.heard(words, said)
        except ValueError as error:
            out.print(escape(str(error)))
        except KeyboardInterrupt:
            out.print(Text("   stopped", style="dim"))
    return 0


class _Exam:
    """Questions to a run's model, in the layout of its task."""

    def __init__(self, weights: Weights) -> None:
        assert weights.recipe
        self.vocabulary = weights.vocabulary
        self.task: Task = task_of(weights.recipe, weights.vocabulary)
        self.invitation = self.task.invitation()
        self.longest = weights.recipe.reason.max_new_tokens

    def prompt(self, words: str, params: SamplingParams) -> tuple[list[int], SamplingParams]:
        return self.vocabulary.prompt(self.task.ask(words)), params

    def heard(self, words: str, said: str) -> None:
        """Every question stands alone."""


class _Talk:
    """A conversation with an imported model, by its own chat template."""

    def __init__(self, weights: Weights) -> None:
        self.tokenizer, self.vocabulary = weights.tokenizer, weights.vocabulary
        self.positions = weights.model.config.max_position_embeddings
        self.longest = max(1, min(_REPLY, self.positions // 2))
        self.messages: list[dict[str, str]] = []
        template = self.tokenizer.chat_template
        self.invitation = (
            "Ask, by its own chat template"
            if template
            else "It has no chat template: it goes on with what you type"
        )

    def prompt(self, words: str, params: SamplingParams) -> tuple[list[int], SamplingParams]:
        tokenizer = self.tokenizer
        if tokenizer.chat_template is None:
            begin = [] if self.vocabulary.bos is None else [self.vocabulary.bos]
            return self._fitted([*begin, *self.vocabulary.encode(words)], params)
        asked = [*self.messages, {"role": "user", "content": words}]
        text = render(
            tokenizer.chat_template,
            asked,
            add_generation_prompt=True,
            bos_token="" if tokenizer.bos is None else tokenizer.piece(tokenizer.bos),
            eos_token="" if tokenizer.eos is None else tokenizer.piece(tokenizer.eos),
        )
        return self._fitted(tokenizer.encode_with_specials(text), params)

    def heard(self, words: str, said: str) -> None:
        self.messages += [
            {"role": "user", "content": words},
            {"role": "assistant", "content": said},
        ]

    def _fitted(
        self, prompt: list[int], params: SamplingParams
    ) -> tuple[list[int], SamplingParams]:
        """Fewer new tokens where the talk has grown long."""
        room = self.positions - len(prompt)
        if room < 1:
            raise ValueError(
                f"the talk has {len(prompt)} tokens and the model {self.positions} positions: "
                "leave by an empty line and begin anew"
            )
        return prompt, replace(params, max_new_tokens=min(params.max_new_tokens, room))


def _ask(out: rich.console.Console) -> str:
    if sys.stdin is None or sys.stdin.closed:
        return ""
    try:
        return out.input("[bold]> [/bold]").strip("\n")
    except (EOFError, KeyboardInterrupt):
        return ""


def _continuation(
    words: str, vocabulary: Vocabulary, params: SamplingParams, model: LanguageModel
) -> tuple[list[int], SamplingParams]:
    """A text to go on with."""
    text = words.removeprefix(_TEXT).removeprefix(" ")
    if not text:
        raise ValueError(f"give the text to go on with: {_TEXT} WORDS")
    longest = model.config.max_position_embeddings
    new = max(1, min(params.max_new_tokens, longest // 2))
    begin = [] if vocabulary.bos is None else [vocabulary.bos]
    prompt = [*begin, *vocabulary.encode(text)]
    prompt = prompt[max(0, len(prompt) - (longest - new)) :]
    warm = params.temperature or 0.7  # a greedy continuation of a small model goes in circles
    return prompt, replace(params, temperature=warm, max_new_tokens=new)


def _answer(
    out: rich.console.Console,
    engine: Engine,
    vocabulary: Vocabulary,
    prompt: list[int],
    params: SamplingParams,
) -> str:
    """Print tokens as they come, whole characters at a time: dim what is thought, then the rate.

    Returns what was said, thoughts and tags included.
    """
    began, count, said, token = time.perf_counter(), 0, "", -1
    # Templates of reasoning models open the tag themselves.
    opened = vocabulary.decode(prompt[-8:], show_specials=True).rstrip().endswith(THINK)
    thinking = opened
    characters = codecs.getincrementaldecoder("utf-8")("replace")

    def show(text: str) -> None:
        nonlocal said
        dim = thinking
        if vocabulary.tags is None:
            dim = END_THINK not in said if opened else _is_thought(said, text)
        out.print(Text(printable(text), style="dim" if dim else "bold"), end="")
        said += text

    for token in engine.stream(prompt, params):
        count += 1
        raw = vocabulary.token_bytes(token)
        show(characters.decode(raw, final=not raw))
        if mark := vocabulary.mark(token):
            thinking = mark == THINK or (thinking and mark != END_THINK)
            said += mark
            out.print(Text(printable(mark), style="dim"), end="")
    show(characters.decode(b"", final=True))
    seconds = max(time.perf_counter() - began, 1e-9)
    rate = f"   {count} tokens, {count / seconds:,.0f} tokens/s"
    if count == params.max_new_tokens and token not in vocabulary.ends:
        rate += ", cut off there: see --max-tokens, and what the model has positions for"
    out.print(Text(rate, style="dim"))
    return said


def _is_thought(said: str, text: str) -> bool:
    """Whether `text`, said after `said`, stands in tags that are spelt out, or in a tag."""
    begin = (said + text).lstrip()[: len(THINK)]
    return THINK.startswith(begin) and END_THINK not in said
