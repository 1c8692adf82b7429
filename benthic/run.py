"""A recipe's stages in order: data, pretraining, evaluation, gate, RL, evaluation, receipt.

What is finished is skipped, so the same command continues a run that was stopped at any moment.
Every stage is a row in the ledger. Under torchrun all ranks train; the first one evaluates, writes
and bills.
"""

import copy
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benthic import report
from benthic.config import Recipe, to_tree
from benthic.console import Console
from benthic.cost.bill.receipt import Receipt, build_receipt
from benthic.cost.ledger.ledger import Ledger, ledger_path
from benthic.cost.metering.heart import Heart
from benthic.cost.network import flops
from benthic.data.loader import Mixture
from benthic.data.tasks.problem import Task
from benthic.data.tasks.running_total import UNSEEN_LENGTHS, RunningTotals
from benthic.data.tasks.source import task_of
from benthic.data.text import Corpus, load_corpus
from benthic.data.vocabulary import Vocabulary, vocabulary_of
from benthic.engine.engine import Engine
from benthic.evaluate.counted import Counted
from benthic.evaluate.order2 import Order2Model
from benthic.evaluate.problems import evaluate_problems, greedy_accuracy
from benthic.evaluate.text import bits_per_byte, window_starts
from benthic.folder import FolderError, RunFolder, machine, versions
from benthic.model.transformer import LanguageModel, initialise
from benthic.reason import gate
from benthic.reason.rl import Environment, rl_step
from benthic.session import Session, Unbilled
from benthic.train import checkpoint, loop, metrics
from benthic.train.optimizer import Optimizer
from benthic.train.parallel import Ranks
from benthic.train.pretrain import pretrain_step
from benthic.weights import check_start, digest, start

HELD_OUT = 3001  # offset on the seed of the held-out problems


class NoGo(Exception):
    """The gate before reinforcement failed; the message says by how much and what can be done."""

    no_go = True


def run(
    recipe: Recipe,
    folder: RunFolder,
    ranks: Ranks,
    console: Console,
    *,
    fresh: bool = False,
    force_rl: bool = False,
    base: RunFolder | None = None,
) -> None:
    """Bring the run in `folder` to its end and show its panel.

    Raises ValueError, FolderError, CheckpointError, LedgerError, TrainingError, Interrupted or
    NoGo, each with one sentence for the user.
    """
    if not ranks.first:
        _stages(recipe, folder, ranks, console, fresh, force_rl, base)
        return
    with folder.locked():
        with Ledger(ledger_path()) as ledger:
            ledger.close_orphans(folder.path)
        _stages(recipe, folder, ranks, console, fresh, force_rl, base)


def _stages(
    recipe: Recipe,
    folder: RunFolder,
    ranks: Ranks,
    console: Console,
    fresh: bool,
    force_rl: bool,
    base: RunFolder | None,
) -> None:
    ranks.deal(recipe.pretrain.micro_batches), ranks.deal(recipe.reason.micro_batches)
    known = ranks.agree(_standing(recipe, folder, fresh) if ranks.first else None)
    assert isinstance(known, dict)
    session = Session(recipe, folder, ranks, console, known["attempt"])
    if known["finished"]:
        console.say(f"{folder.path} is finished; nothing is run again (--fresh starts anew).")
        _show(session)
        return
    console.plan(recipe, folder.path, resumed=known["begun"])
    with session.billed("data", "data") as meter:
        vocabulary = vocabulary_of(recipe)
        corpus = load_corpus([Path(p) for p in recipe.data.paths], vocabulary)
        task = task_of(recipe, vocabulary)
        if ranks.agree(corpus.sha256) != corpus.sha256:
            raise FolderError("the ranks read different texts: give all machines the same --data")
        if ranks.agree(vocabulary.sha256) != vocabulary.sha256:
            raise FolderError(
                "the ranks read different tokenizers: give all machines the same data.tokenizer"
            )
        model = LanguageModel(recipe.model)
        if recipe.init_from:
            start(model, Path(recipe.init_from))
        else:
            initialise(model, torch.Generator().manual_seed(recipe.seed))
        _lay_out(session, model, corpus, task, base, begun=known["begun"])
        meter.productive()
        ranks.wait()
    model.to(recipe.device)
    _pretrain(session, model, corpus, task)
    _evaluate(session, model, corpus, task, "before")
    stop = ranks.agree(_gate(session, force_rl) if ranks.first else None)
    if stop:
        _show(session)
        raise NoGo(str(stop))
    if recipe.reason.steps:
        _reason(session, model, task, vocabulary)
        _evaluate(session, model, corpus, task, "after")
    _show(session)


def _standing(recipe: Recipe, folder: RunFolder, fresh: bool) -> dict[str, Any]:
    """Whether the run was begun and whether it is finished; refuses another recipe's folder."""
    if recipe.init_from and Path(recipe.init_from).resolve() == folder.path.resolve():
        raise FolderError(
            f"{folder.path} is what the run would start from and be written to: choose another "
            "--name, and the weights stay as they are"
        )
    if fresh or not folder.exists():
        return {"attempt": uuid.uuid4().hex, "begun": False, "finished": False}
    folder.check_recipe(recipe)
    last = "after" if recipe.reason.steps else "before"
    manifest = folder.manifest()
    done = last in folder.results()
    return {"attempt": manifest["attempt"], "begun": True, "finished": done}


def _lay_out(
    session: Session,
    model: LanguageModel,
    corpus: Corpus,
    task: Task,
    base: RunFolder | None,
    *,
    begun: bool,
) -> None:
    """Begin the folder, or check that it was begun with the same text and problems.

    Only here, with all input read, is anything discarded that the folder held.
    """
    if not session.ranks.first:
        return
    folder, recipe, vocabulary = session.folder, session.recipe, corpus.vocabulary
    began_with = digest(model) if recipe.init_from else ""
    if begun:
        check_start(folder, recipe.init_from, began_with)
        folder.check_vocabulary(vocabulary.describe())
        folder.check_corpus(corpus.describe())
        folder.check_tasks(task.sha256)
        if base and folder.manifest().get("base") != str(base.path):
            raise FolderError(
                f"{folder.path} was begun without --base {base.path}: choose another --name, or "
                "start it anew with --fresh"
            )
    else:
        if base:
            _check_base(base, recipe, corpus, task, began_with)
        folder.clear()
        counts = flops.parameters(recipe.model)
        facts = {
            "attempt": session.attempt,
            **versions(),
            "machine": machine(),
            "seed": recipe.seed,
            "vocabulary": vocabulary.describe(),
            "corpus": corpus.describe(),
            "tasks_sha256": task.sha256,
            "parameters": {"total": counts["total_with_mtp"], "active": counts["active"]},
            "base": str(base.path) if base else None,
            "init_sha": began_with,
        }
        if base:
            step = recipe.pretrain.steps
            state = checkpoint.load(checkpoint.path_of(base.checkpoints, "pretrain", step))
            checkpoint.save(folder.checkpoints, "pretrain", step, state)
        folder.begin(recipe, facts)
    if "baseline" not in folder.results():
        held_out = corpus.scored(recipe.evaluate.text_bytes)
        train, test = (vocabulary.bytes_of(side) for side in (corpus.train, held_out))
        bits = Order2Model(train).bits_per_byte(test)
        folder.keep("results", {"baseline": {"order2_bits_per_byte": bits}})


def _check_base(
    base: RunFolder, recipe: Recipe, corpus: Corpus, task: Task, began_with: str
) -> None:
    """Whether another run's pretraining can be taken over: all must agree up to there."""
    other = base.recipe()
    for part in ("seed", "init_from", "model", "data", "pretrain"):
        if getattr(other, part) != getattr(recipe, part):
            raise FolderError(
                f"--base {base.path} was pretrained with another '{part}': fork only what agrees "
                "up to the reinforcement"
            )
    check_start(base, recipe.init_from, began_with)
    base.check_vocabulary(corpus.vocabulary.describe())
    base.check_corpus(corpus.describe())
    base.check_tasks(task.sha256)
    if not loop.finished(base.path, "pretrain", recipe.pretrain.steps):
        raise FolderError(f"--base {base.path} has not finished its pretraining: run it first")


def _pretrain(session: Session, model: LanguageModel, corpus: Corpus, task: Task) -> None:
    recipe, config = session.recipe, session.recipe.pretrain
    if loop.finished(session.folder.path, "pretrain", config.steps):
        loop.restore(session.folder.checkpoints, "pretrain", model)
        return
    if not config.steps:
        return
    optimizer = Optimizer(model, weight_decay=config.weight_decay)
    mixture = Mixture(
        corpus=corpus,
        task=task,
        length=recipe.data.sequence_length,
        text_share=recipe.data.text_share,
        worked_share=recipe.data.worked_share,
        seed=recipe.seed,
    )
    with session.billed("pretrain", "pretrain") as meter:

        def step(number: int) -> dict[str, Any]:
            result, figures, pairs = pretrain_step(
                model, optimizer, mixture, config, number, session.ranks
            )
            tokens = config.rows * mixture.length
            ahead = recipe.model.num_nextn_predict_layers > 0
            work = flops.training_flops(recipe.model, tokens=tokens, pairs=pairs, mtp=ahead)
            meter.add(tokens=tokens, flops=work)
            return {
                "tokens": (number + 1) * tokens,
                **figures,
                "grad_norm": result.grad_norm,
                "load": _shares(result.load),
            }

        _train(session, "pretrain", config, step, model, optimizer, meter)


def _reason(session: Session, model: LanguageModel, task: Task, vocabulary: Vocabulary) -> None:
    recipe, config = session.recipe, session.recipe.reason
    if loop.finished(session.folder.path, "rl", config.steps):
        loop.restore(session.folder.checkpoints, "rl", model)
        return
    muon = config.optimizer == "muon"
    optimizer = Optimizer(model, weight_decay=config.weight_decay, muon=muon)
    twin = copy.deepcopy(model).double() if config.precision == "fp64" else None
    environment = Environment(
        sampler=Engine(twin or model, ends=vocabulary.ends),
        task=task,
        vocabulary=vocabulary,
        config=config,
        seed=recipe.seed,
    )
    with session.billed("rl", "rl") as meter:

        def step(number: int) -> dict[str, Any]:
            result, figures, work = rl_step(
                model, optimizer, environment, number, session.ranks, twin=twin
            )
            meter.add(tokens=work.tokens, flops=work.flops)
            row: dict[str, Any] = dict(figures)
            if result is not None:
                row |= {"loss": result.loss, "grad_norm": result.grad_norm}
                row["load"] = _shares(result.load)
            return row

        _train(session, "rl", config, step, model, optimizer, meter)


def _train(
    session: Session,
    name: str,
    config: Any,
    step: Callable[[int], dict[str, Any]],
    model: LanguageModel,
    optimizer: Optimizer,
    meter: Heart | Unbilled,
) -> None:
    stage = loop.Stage(name, config.steps, config.checkpoint_every, step)
    with session.console.progress(name, config.steps) as watch:
        loop.train(
            stage,
            session.folder.path,
            model,
            optimizer,
            session.ranks,
            watch=watch,
            saved=meter.productive,
        )


def _evaluate(
    session: Session, model: LanguageModel, corpus: Corpus, task: Task, when: str
) -> None:
    """Measure on held-out problems and text, once; the first rank's work, the others wait."""
    results = session.folder.results() if session.ranks.first else {}
    if session.ranks.first and when not in results:
        config, seed = session.recipe.evaluate, session.recipe.seed
        new = session.recipe.reason.max_new_tokens
        vocabulary = corpus.vocabulary
        engine = Counted(Engine(model, ends=vocabulary.ends, record_experts=False))
        window = session.recipe.data.sequence_length
        held_out = corpus.scored(config.text_bytes)
        with (
            session.billed(f"evaluate {when}", "evaluation") as meter,
            session.console.working(f"evaluating {when} reinforcement"),
        ):
            problems = task.problems("held_out", 0, config.problems, seed + HELD_OUT)
            if not isinstance(task, RunningTotals):
                problems = list(dict.fromkeys(problems))  # a small file goes round
            found = evaluate_problems(engine, problems, vocabulary, max_new_tokens=new, seed=seed)
            if isinstance(task, RunningTotals) and config.unseen:
                found["unseen_lengths"] = {
                    str(length): greedy_accuracy(
                        engine,
                        RunningTotals([length]).problems(
                            "held_out", 0, config.unseen, seed + HELD_OUT
                        ),
                        vocabulary,
                        max_new_tokens=new,
                    )
                    for length in UNSEEN_LENGTHS
                }
            found["text_bits_per_byte"] = bits_per_byte(model, held_out, window, vocabulary)
            read = window_starts(held_out.size, window).size
            pairs = read * flops.causal_pairs(window)
            work = flops.forward_flops(model.config, tokens=read * window, pairs=pairs)
            meter.add(tokens=engine.tokens + read * window, flops=engine.flops + work)
        session.folder.keep("results", {**results, when: found})
        session.console.evaluated(when, found)
    session.ranks.wait()


def _gate(session: Session, force: bool) -> str:
    """Compute and show the gate; the sentence to stop with, empty to go on."""
    config = session.recipe.reason
    results = session.folder.results()
    if not config.steps:
        return ""
    verdict = gate.judge(results["before"]["sampled"], config, forced=force)
    session.folder.keep("results", {**results, "gate": verdict.to_dict()})
    session.console.gate(verdict, config)
    if verdict.passed or force:
        return ""
    return (
        f"no go: worked answers are right {verdict.worked_accuracy:.1%} of the time against "
        f"{verdict.direct_accuracy:.1%} for direct ones, and {verdict.worked_share:.1%} of the "
        f"answers are worked (needed: {config.gate_gap:.0%} more, {config.gate_share:.0%}); "
        "pretrain longer or on more worked problems, or insist with --force-rl"
    )


def _show(session: Session) -> None:
    """Panel, receipt and page, from what the folder and the ledger hold."""
    if not session.ranks.first:
        return
    folder = session.folder
    receipt = receipt_of(folder)
    page = report.write_report(
        folder.path,
        recipe=to_tree(folder.recipe()),
        manifest=folder.manifest(),
        results=folder.results(),
        metrics=metrics.read(folder.metrics),
        receipt=receipt.to_dict() if receipt else {},
    )
    session.console.panel(folder.results(), receipt, page, base=folder.manifest().get("base"))


def receipt_of(folder: RunFolder) -> Receipt | None:
    """The run's receipt from the ledger; none if there is no ledger, or no row of it."""
    if not ledger_path().exists():
        return None
    with Ledger(ledger_path()) as ledger:
        rows = list(ledger.query(run=str(folder.path)))
    return build_receipt(rows[::-1], folder.manifest()["attempt"]) if rows else None


def _shares(load: torch.Tensor) -> list[list[float]]:
    """Each expert's share of its router's load, rounded for the metrics."""
    total = load.sum(dim=1, keepdim=True).clamp(min=1)
    return [[round(x, 4) for x in row] for row in (load / total).tolist()]
