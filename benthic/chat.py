"""`benthic chat`: talk to a trained model in the terminal, its thinking dimmed."""

import codecs
import time
from pathlib import Path

import rich.console
import torch
from rich.markup import escape
from rich.text import Text

from benthic.console import printable
from benthic.data.tasks.problem import Task
from benthic.data.tasks.source import task_of
from benthic.data.vocabulary import END_THINK, THINK, Vocabulary, vocabulary_of
from benthic.engine.engine import Engine
from benthic.engine.sampler import SamplingParams
from benthic.folder import FolderError, RunFolder
from benthic.model.transformer import LanguageModel
from benthic.train import checkpoint, loop

_TEXT = "/text "
_CONTINUATION = 200  # tokens a continued text may have
_HELP = f"'{_TEXT.strip()} WORDS' continues a text, an empty line or Ctrl-D ends."


def load_model(folder: RunFolder) -> tuple[LanguageModel, str]:
    """The run's latest weights and the stage they come from; FolderError if it has none."""
    if not folder.exists():
        raise FolderError(
            f"{folder.path} is not a run's folder: make one with 'benthic run laptop', "
            "or name another"
        )
    model = LanguageModel(folder.recipe().model)
    for stage in ("rl", "pretrain"):
        if checkpoint.steps_of(folder.checkpoints, stage):
            loop.restore(folder.checkpoints, stage, model)
            return model, stage
    raise FolderError(f"{folder.path} has no checkpoint yet: give 'benthic run' again to go on")


def chat(path: Path, *, temperature: float, seed: int) -> int:
    """Read questions from standard input until it ends."""
    out = rich.console.Console(highlight=False)
    folder = RunFolder(path)
    model, stage = load_model(folder)
    recipe = folder.recipe()
    vocabulary = vocabulary_of(recipe)
    folder.check_vocabulary(vocabulary.describe())
    task = task_of(recipe, vocabulary)
    state = "reinforced" if stage == "rl" else "pretrained only"
    count = sum(p.numel() for p in model.parameters())
    out.print(
        f"[bold]{escape(folder.path.name)}[/bold]: {count:,} parameters, {state}. "
        f"{escape(task.invitation())}. {escape(_HELP)}"
    )
    torch.set_num_threads(1)  # one token at a time: a second thread only waits
    engine, turn = Engine(model, ends=vocabulary.ends, record_experts=False), 0
    while words := _ask(out):
        turn += 1
        params = SamplingParams(
            temperature=temperature, max_new_tokens=recipe.reason.max_new_tokens, seed=seed + turn
        )
        try:
            prompt, params = _prompt(words, task, vocabulary, params, model)
            _answer(out, engine, vocabulary, prompt, params)
        except ValueError as error:
            out.print(escape(str(error)))
    return 0


def _ask(out: rich.console.Console) -> str:
    try:
        return out.input("[bold]> [/bold]").strip("\n")
    except (EOFError, KeyboardInterrupt):
        return ""


def _prompt(
    words: str, task: Task, vocabulary: Vocabulary, params: SamplingParams, model: LanguageModel
) -> tuple[list[int], SamplingParams]:
    """A question in the task's layout, or a text to go on with."""
    if not words.startswith(_TEXT):
        return vocabulary.prompt(task.ask(words)), params
    longest = model.config.max_position_embeddings
    new = min(_CONTINUATION, longest // 2)
    begin = [] if vocabulary.bos is None else [vocabulary.bos]
    prompt = [*begin, *vocabulary.encode(words.removeprefix(_TEXT))][-(longest - new) :]
    warm = params.temperature or 0.7  # a greedy continuation of a small model goes in circles
    return prompt, SamplingParams(temperature=warm, max_new_tokens=new, seed=params.seed)


def _answer(
    out: rich.console.Console,
    engine: Engine,
    vocabulary: Vocabulary,
    prompt: list[int],
    params: SamplingParams,
) -> None:
    """Print tokens as they come, whole characters at a time: dim what is thought, then the rate."""
    began, count, said, thinking = time.perf_counter(), 0, "", False
    characters = codecs.getincrementaldecoder("utf-8")("replace")

    def show(text: str) -> None:
        nonlocal said
        dim = thinking or (vocabulary.tags is None and _is_thought(said, text))
        out.print(Text(printable(text), style="dim" if dim else "bold"), end="")
        said += text

    for token in engine.stream(prompt, params):
        count += 1
        raw = vocabulary.token_bytes(token)
        show(characters.decode(raw, final=not raw))
        if vocabulary.tags and token in vocabulary.tags:
            thinking = token == vocabulary.tags[0]
            out.print(Text(THINK if thinking else END_THINK, style="dim"), end="")
    show(characters.decode(b"", final=True))
    seconds = max(time.perf_counter() - began, 1e-9)
    out.print(Text(f"   {count} tokens, {count / seconds:,.0f} tokens/s", style="dim"))


def _is_thought(said: str, text: str) -> bool:
    """Whether `text`, said after `said`, stands in tags that are spelt out, or in a tag."""
    begin = (said + text).lstrip()[: len(THINK)]
    return THINK.startswith(begin) and END_THINK not in said
