"""What a run says in the terminal: plan, progress with rate and time left, figures, panel.

A terminal gets a bar, anything else some ten lines a stage, so that a log stays short. Ranks but
the first are quiet. The panel at the end has one problem before and after, the figures and the
receipt; the rest is on the page.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rich.console
from rich.markup import escape
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from benthic import report
from benthic.config import ReasonConfig, Recipe
from benthic.cost.bill.receipt import Receipt, receipt_table
from benthic.reason.gate import Gate

_PLAIN_LINES = 10  # progress lines a stage where there is no terminal
_MEANING = (
    "Reinforcement selects and sharpens what pretraining planted; it invents no skill, as the "
    "controls show (benchmarks/controls.py)."
)


class Console:
    """`quiet` says nothing: every rank but the first."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.out = rich.console.Console(quiet=quiet, highlight=False)

    def say(self, sentence: str) -> None:
        self.out.print(escape(sentence))

    def plan(self, recipe: Recipe, folder: Path, *, resumed: bool) -> None:
        """What will be done, before anything is."""
        tokens = recipe.pretrain.steps * recipe.pretrain.rows * recipe.data.sequence_length
        answers = recipe.reason.steps * recipe.reason.prompts * recipe.reason.group
        verb = "Going on with" if resumed else "Starting"
        source = ", ".join(recipe.data.paths) or "this machine's Python standard library"
        self.say(f"{verb} {folder}. {recipe.about}")
        self.say(
            f"Pretrain on {tokens / 1e6:.1f}M tokens ({recipe.data.text_share:.0%} real text: "
            f"{source}), "
            f"then reinforce on {answers:,} sampled answers; evaluate before and after. "
            "Ctrl-C is safe: the same command, without --fresh, goes on."
        )

    @contextmanager
    def progress(self, stage: str, steps: int) -> Iterator[Callable[[dict[str, Any]], None]]:
        """A bar on a terminal, a line now and then elsewhere."""
        began = time.monotonic()
        first: list[int] = []
        bar = Progress(
            TextColumn("[bold]{task.fields[stage]:9}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=self.out,
        )
        job = bar.add_task("", total=steps, stage=stage, rate="", figures="")
        with bar if self.out.is_terminal else _Nothing():

            def watch(row: dict[str, Any]) -> None:
                step = row["step"]
                first[:] = first or [step - 1]
                seconds = time.monotonic() - began
                pace = (step - first[0]) / max(seconds, 1e-9)
                rate = f"{pace:.1f} steps/s"
                if "tokens" in row:
                    rate = f"{row['tokens'] / step * pace / 1000:.0f}k tok/s"
                figures = _figures(row)
                if self.out.is_terminal:
                    bar.update(job, completed=step, rate=rate, figures=figures)
                elif step == steps or step % max(1, steps // _PLAIN_LINES) == 0:
                    left = (steps - step) / pace
                    self.say(f"{stage} {step}/{steps}  {rate}  {left:.0f} s left  {figures}")

            yield watch

    @contextmanager
    def working(self, what: str) -> Iterator[None]:
        with self.out.status(what) if self.out.is_terminal else _Nothing():
            yield

    def evaluated(self, when: str, found: dict[str, Any]) -> None:
        low, high = found["greedy_interval"]
        self.say(
            f"{when} reinforcement: {found['greedy_accuracy']:.1%} of {found['problems']} held-out "
            f"problems right (95 %: {low:.1%} to {high:.1%}), {found['thought_tokens']:.1f} tokens "
            f"thought, text {found['text_bits_per_byte']:.3f} bits per byte"
        )

    def gate(self, gate: Gate, config: ReasonConfig) -> None:
        verdict = "go" if gate.passed else "no go, forced" if gate.forced else "no go"
        self.say(
            f"gate: {verdict}. Of {gate.samples} answers at temperature 1, "
            f"{gate.worked_share:.1%} are worked (needed {config.gate_share:.0%}); worked "
            f"ones are right "
            f"{gate.worked_accuracy:.1%}, direct ones {gate.direct_accuracy:.1%} of the time "
            f"(needed {config.gate_gap:.0%} more)"
        )

    def panel(
        self, results: dict[str, Any], receipt: Receipt | None, page: Path, *, base: str | None
    ) -> None:
        """One problem before and after, the figures, the receipt."""
        before, after = results.get("before"), results.get("after")
        if before:
            self.out.print(Panel(_story(before, after), title="one problem", title_align="left"))
            self.out.print(_figures_table(results, before, after))
        if receipt:
            self.out.print(receipt_table(receipt))
        if base:
            self.say(f"The pretraining was taken over from {base}; its bill is there.")
        if before and after:
            self.say(report.verdict(results))
            self.say(_MEANING)
        self.say(f"Page: {page}\nTalk to it: {sys.argv[0]} chat {page.parent}")


def transcript(example: dict[str, Any]) -> Text:
    """Thinking dimmed, answer bold; a model's text is shown, never interpreted."""
    mark = (
        ("  right", "green")
        if example["right"]
        else (f"  wrong, it is {example['expected']}", "red")
    )
    return Text.assemble(
        ("<think>" + printable(example["thinking"]) + "</think>", "dim"),
        (printable(example["answer"]), "bold"),
        mark,
    )


def printable(text: str) -> str:
    """Control characters, which could steer a terminal, made visible."""
    return "".join(c if c.isprintable() or c == "\n" else "\u00b7" for c in text)


def _story(before: dict[str, Any], after: dict[str, Any] | None) -> Text:
    lines = [Text.assemble(("question  ", "bold"), printable(before["example"]["question"]))]
    lines.append(Text.assemble(("before    ", "bold"), transcript(before["example"])))
    if after:
        lines.append(Text.assemble(("after     ", "bold"), transcript(after["example"])))
    return Text("\n").join(lines)


def _figures_table(
    results: dict[str, Any], before: dict[str, Any], after: dict[str, Any] | None
) -> Table:
    table = Table(title="held out, never trained on", title_justify="left", box=None)
    table.add_column("")
    table.add_column("before RL", justify="right")
    table.add_column("after RL", justify="right")

    def row(label: str, show: Callable[[dict[str, Any]], str]) -> None:
        table.add_row(label, show(before), show(after) if after else "-")

    row(f"greedy accuracy, {before['problems']} problems", lambda e: _share(e["greedy_accuracy"]))
    row("  worked answers at temperature 1", lambda e: _share(e["sampled"]["worked_accuracy"]))
    row("  direct answers at temperature 1", lambda e: _share(e["sampled"]["direct_accuracy"]))
    row("answers that think first", lambda e: _share(e["think_share"]))
    row("tokens inside <think>", lambda e: f"{e['thought_tokens']:.1f}")
    for length in before.get("unseen_lengths", {}):
        row(
            f"{length} digits, a length never trained on",
            lambda e, n=length: _share(e["unseen_lengths"][n]["accuracy"]),  # type: ignore[misc]
        )
    row("text, bits per byte", lambda e: f"{e['text_bits_per_byte']:.3f}")
    order2 = results.get("baseline", {}).get("order2_bits_per_byte")
    if order2:
        table.add_row("  order-2 byte model", f"{order2:.3f}", f"{order2:.3f}")
    return table


def _share(value: float | None) -> str:
    return "none" if value is None else f"{value:.1%}"


def _figures(row: dict[str, Any]) -> str:
    if row["stage"] == "rl":
        return f"reward {row['reward']:.3f}  tokens thought {row['thought_tokens']:.1f}"
    return f"loss {row['loss']:.3f}"


class _Nothing:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...
