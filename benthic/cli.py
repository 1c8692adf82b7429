"""The command: one thin function a verb, imports inside, so `benthic --help` is quick."""

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, UseAppendAction, arg

_NO_MEMORY = ("can't allocate memory", "out of memory")  # of a processor, of a GPU

OVERRIDES = Annotated[
    UseAppendAction[tuple[str, ...]], arg(name="set", metavar="SECTION.KEY=VALUE")
]

MAYBE_PATH = Annotated[Path | None, arg(metavar="PATH")]
MAYBE_NUMBER = Annotated[float | None, arg(metavar="NUMBER")]
MAYBE_TOKENS = Annotated[int | None, arg(metavar="TOKENS")]


def run(
    recipe: Positional[str] = "laptop",
    /,
    name: str = "",
    out: Path = Path("runs"),
    data: tuple[Path, ...] = (),
    tasks: MAYBE_PATH = None,
    set_: OVERRIDES = (),
    base: MAYBE_PATH = None,
    init_from: MAYBE_PATH = None,
    fresh: bool = False,
    force_rl: bool = False,
) -> int:
    """Train, teach, evaluate and bill, start to end; the same command continues a stopped run.

    Args:
        recipe: a shipped recipe's name, or a TOML file
        name: the run's folder under --out; the recipe's name if not given
        out: where runs lie
        data: your own text files or folders, instead of Python's standard library
        tasks: your own problems, JSONL with question, working, answer
        set_: override a key of the recipe, e.g. --set pretrain.steps=200
        base: a run whose finished pretraining this one takes over
        init_from: a run or a Hub checkpoint whose shape, tokenizer and weights this one starts from
        fresh: discard what the folder holds and start anew; what it cost stays in the bill
        force_rl: reinforce even if the gate says no
    """
    from benthic.config import load
    from benthic.folder import RunFolder

    overrides = list(set_)
    if data:
        overrides.append(f"data.paths={_quoted([str(p.absolute()) for p in data])}")
    if tasks:
        overrides.append(f"data.tasks={_quoted(str(tasks.absolute()))}")
    if init_from:
        from benthic.weights import starting_from

        resolved = starting_from(recipe, overrides, init_from.absolute())
    else:
        resolved = load(recipe, overrides)
    folder = RunFolder((out / (name or Path(recipe).stem)).absolute())

    from benthic.console import Console
    from benthic.run import run as run_recipe
    from benthic.train.parallel import connect, disconnect

    ranks = connect(resolved.device, resolved.pretrain.micro_batches)
    try:
        run_recipe(
            resolved,
            folder,
            ranks,
            Console(quiet=not ranks.first),
            fresh=fresh,
            force_rl=force_rl,
            base=RunFolder(base.absolute()) if base else None,
        )
    finally:
        disconnect(ranks)
    return 0


def chat(
    folder: Positional[Path] = Path("runs/laptop"),
    /,
    temperature: MAYBE_NUMBER = None,
    top_p: MAYBE_NUMBER = None,
    max_tokens: MAYBE_TOKENS = None,
    seed: int = 0,
    device: Literal["cpu", "cuda"] = "cpu",
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    keep_fp8: bool = False,
) -> int:
    """Talk to a trained or imported model in the terminal.

    Args:
        folder: a run's folder, or a checkpoint's in the Hub's layout
        temperature: 0 takes the likeliest tokens, 1 samples; if not given, as the checkpoint asks
        top_p: draw from the likeliest tokens that reach this share; as the checkpoint asks, or 1
        max_tokens: of an answer; if not given, as the run's task has it, 4,096 of a checkpoint
        seed: of the samples
        device: where the model is held and run
        dtype: what the weights are held in; auto: as they are stored, FP8 widened to bf16
        keep_fp8: hold FP8 weights as they are, a byte each, and widen them when they are used
    """
    import torch

    from benthic.chat import chat as talk

    kinds = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    return talk(
        folder.absolute(),
        temperature=temperature,
        top_p=top_p,
        max_tokens=max_tokens,
        seed=seed,
        device=device,
        dtype=kinds.get(dtype),
        keep_fp8=keep_fp8,
    )


def export(
    path: Positional[Path],
    /,
    to: Literal["hf", "gguf"] = "hf",
    dtype: Literal["auto", "fp32", "bf16", "fp16", "fp8", "q8_0"] = "auto",
    out: MAYBE_PATH = None,
) -> int:
    """Write a model for other programs: transformers, vLLM, SGLang (hf) or llama.cpp (gguf).

    Args:
        path: a run's folder, or a checkpoint's in the Hub's layout
        to: the Hub's folder, or llama.cpp's file
        dtype: hf takes fp32, bf16, fp16, fp8; gguf fp32, bf16, fp16, q8_0; auto: as they are stored
        out: the folder or file to write; exports/NAME-DTYPE if not given
    """
    from benthic.export import export as write

    return write(path.absolute(), to=to, dtype=dtype, out=out)


def inspect(
    source: Annotated[Positional[str], arg(metavar="PATH")],
    /,
    context: MAYBE_TOKENS = None,
    json: bool = False,
) -> int:
    """Say what a checkpoint, run, config.json or preset is and what holds it; reads no weights.

    Args:
        source: a checkpoint's folder, a run's folder, a config.json, or a preset's name
        context: tokens that the cache is for; 4,096 if not given, or the model's longest if less
        json: print data instead of a page
    """
    from benthic.inspect import show

    return show(source, context=context, as_json=json)


def doctor() -> int:
    """Say what this machine can do, and what is missing."""
    from benthic.doctor import examine

    return examine()


def main() -> None:
    """Dispatch; an error of the user's ends in one sentence and exit code 1, a stop in 130."""
    import tyro

    from benthic import cli_bill, cli_cost

    words, behind = sys.argv[1:], []
    if words[:1] == ["meter"]:
        at = words.index("--") if "--" in words else len(words)
        words, behind = words[:at], words[at + 1 :]  # the parser is not to read a command's options
        cli_bill.refuse_unparted(words[1:], behind)
    app, money = tyro.extras.SubcommandApp(), tyro.extras.SubcommandApp()
    top: list[Any] = [run, chat, inspect, export, doctor]
    top += [cli_cost.plan, cli_cost.thrift]
    bill: list[Any] = [
        cli_bill.report,
        cli_bill.show,
        cli_bill.amend,
        cli_bill.budget,
        cli_bill.plan,
    ]
    bill += [cli_bill.focus, cli_cost.deepseek, cli_cost.fleet, cli_cost.runs]
    for room, verbs in ((app, top), (money, bill)):
        for verb in verbs:
            room.command(verb)
    app.command(name="meter")(partial(cli_bill.meter, behind))
    money.command(name="list")(cli_bill.list_rows)
    money.command(name="import")(cli_bill.bring)
    app.command(money, name="cost", help="What was spent, and what things cost.")
    try:
        code = app.cli(
            prog="benthic",
            args=words,
            description="Benthic: a laboratory with an honest bill.",
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
        )
    except KeyboardInterrupt:
        more = "; give the same command again, without --fresh, to go on from what is saved"
        _say("stopped" + more * (sys.argv[1:2] == ["run"]))
        code = 130
    except Exception as error:
        code = _explain(error)
    try:
        sys.stdout.flush()
    except BrokenPipeError as error:
        code = _explain(error)
    sys.exit(code)


def _explain(error: Exception) -> int:
    """One sentence for what the user can act on; anything else is a defect and is raised."""
    if getattr(error, "interrupted", False):
        _say(str(error))
        return 130
    if getattr(error, "no_go", False):
        _say(str(error))
        return 3
    if isinstance(error, BrokenPipeError):  # whoever read the output has left, which is no error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY):
        less = "lower model.* widths, rows or prompts with --set"
        if sys.argv[1:2] != ["run"]:
            less = "take a smaller model, a narrower --dtype, or a larger machine"
        _say(f"the memory does not suffice: {less}")
        return 1
    if isinstance(error, OSError) and error.errno is not None:
        from benthic.durable import FULL

        where = f" at {error.filename}" if error.filename else ""
        if error.errno not in FULL:
            _say(f"{os.strerror(error.errno)}{where}")
            return 1
        _say(
            f"{os.strerror(error.errno)}{where}: free space or choose another place; "
            "what was finished is kept, give the same command again"
        )
        return 1
    if type(error).__module__.startswith("benthic.") or isinstance(error, ValueError):
        _say(str(error))
        return 1
    if os.environ.get("RANK", "0") != "0":  # the first rank has said why, the others lost it
        return 1
    raise error


def _quoted(value: str | list[str]) -> str:
    """As TOML, whose basic strings are JSON's."""
    return json.dumps(value, ensure_ascii=False)


def _say(sentence: str) -> None:
    """To standard error; of several ranks, the first speaks."""
    if os.environ.get("RANK", "0") != "0":
        return
    print(f"benthic: {' '.join(sentence.split())}", file=sys.stderr)
