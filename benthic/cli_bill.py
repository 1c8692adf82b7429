"""The verbs of the bill: `benthic meter -- COMMAND` and `benthic cost list, show, report, ...`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, UseAppendAction, arg

from benthic.cli_cost import MAYBE_INT, MAYBE_PATH, TEXT

CHANGES = Annotated[
    UseAppendAction[tuple[str, ...]], arg(name="set", metavar="FIELD=VALUE", prefix_name=False)
]
SOURCE = Annotated[Positional[Path], arg(metavar="PATH")]
ROW = Annotated[Positional[str], arg(metavar="ID")]
MAYBE_ROW = Annotated[Positional[str], arg(metavar="[ID]")]
DOLLARS = Annotated[str, arg(metavar="DOLLARS")]
WATTS = Annotated[float | None, arg(metavar="WATTS")]

_FLAGS = (  # they take no value
    *("--resumed", "--budget-stop", "--wait", "--anyway", "--quiet", "--help", "-h"),
)
_VALUED = ("--purpose", "--project", "--name", "--device", "--count", "--price", "--watts")


def refuse_unparted(words: Sequence[str], rest: Sequence[str]) -> None:
    """Exit where a command stands among the meter's options: its own would be taken for those.

    `words` stand before --, if it is there, and `rest` behind it; an option that the meter does not
    have is left to its parser.
    """
    at = 0
    while at < len(words) and words[at].startswith("-"):
        flag, given, _ = words[at].partition("=")
        if flag not in (*_FLAGS, *_VALUED, "--heartbeat"):
            return
        at += 1 if flag in _FLAGS or given else 2
    if at < len(words):
        from benthic.cost.metering.metered import unparted

        raise SystemExit(unparted(words[:at], [*words[at:], *rest]))


def meter(
    command: Sequence[str],
    /,
    purpose: TEXT = "",
    project: TEXT = "",
    name: TEXT = "",
    device: TEXT = "",
    count: MAYBE_INT = None,
    price: DOLLARS = "",
    watts: WATTS = None,
    heartbeat: float = 5.0,
    resumed: bool = False,
    budget_stop: bool = False,
    wait: bool = False,
    anyway: bool = False,
    quiet: bool = False,
) -> int:
    """Run any command and bill it: benthic meter --purpose ablation -- python train.py.

    Args:
        purpose: final, rl, ablation, evaluation, data, serving, idle, ...; other if not given
            (inside metered work purpose, project, devices and price are that work's if not given)
        project: whose budget it is
        name: of the work; the script's if not given
        device: what it holds; found if not given
        count: devices that it holds; found if not given
        price: US dollars an hour of one device; the catalog's if not given
        watts: of one device, where no counter can be read
        heartbeat: seconds between updates of the bill
        resumed: it goes on with the last try of that name in this folder, whose time counts as kept
            once this ends well
        budget_stop: end the work when a budget of its purpose or project is spent
        wait: bill until everything that the command started has ended
        anyway: start where a hard budget is spent, or unbilled where no ledger can be written
        quiet: leave out the line at the end
    """
    from benthic.cost.metering.metered import run

    return run(
        command,
        purpose=purpose,
        project=project,
        name=name,
        device=device,
        count=count,
        price=price,
        watts=watts,
        heartbeat=heartbeat,
        resumed=resumed,
        budget_stop=budget_stop,
        wait=wait,
        anyway=anyway,
        quiet=quiet,
    )


def list_rows(
    since: TEXT = "",
    until: TEXT = "",
    project: TEXT = "",
    purpose: TEXT = "",
    user: TEXT = "",
    status: TEXT = "",
    limit: int = 20,
    json: bool = False,
) -> int:
    """The newest rows of the ledger.

    Args:
        since: a date, or how long ago, like 30d; rows count by when they started
        until: a date, or how long ago
        project: only this project's
        purpose: only this purpose
        user: only this user's
        status: running, done, interrupted or failed
        limit: rows
        json: print data
    """
    from benthic.cost.bill.rows import show_list

    return show_list(
        since=since or None,
        until=until or None,
        project=project or None,
        purpose=purpose or None,
        user=user or None,
        status=status or None,
        limit=limit,
        json=json,
    )


def show(row: ROW, /, json: bool = False) -> int:
    """All of one row, with what was amended.

    Args:
        row: the first characters of its id
        json: print data
    """
    from benthic.cost.bill.rows import show_one

    return show_one(row, json=json)


def amend(
    row: MAYBE_ROW = "",
    /,
    changes: CHANGES = (),
    reason: TEXT = "",
    author: TEXT = "",
    since: TEXT = "",
    until: TEXT = "",
    project: TEXT = "",
    purpose: TEXT = "",
    user: TEXT = "",
    status: TEXT = "",
    source: TEXT = "",
    name: TEXT = "",
) -> int:
    """Put a row right, or all that filters choose; the old figures stay in the ledger.

    Args:
        row: the first characters of its id; left out where filters choose the rows
        changes: a field and its value, like purpose=ablation; may be given several times
        reason: why, which is kept
        author: who; the user if not given
        since: rows from a date on, or from how long ago, like 30d
        until: rows before a date
        project: rows of this project
        purpose: rows of this purpose
        user: rows of this user
        status: rows that are done, interrupted or failed
        source: rows that were recorded by this, like meter or import:sacct
        name: rows of this name
    """
    from benthic.cost.bill.amending import amend as write

    return write(
        row,
        changes,
        reason=reason,
        author=author,
        since=since or None,
        until=until or None,
        project=project or None,
        purpose=purpose or None,
        user=user or None,
        status=status or None,
        source=source or None,
        name=name or None,
    )


def budget(
    key: Annotated[Positional[str], arg(metavar="PURPOSE")] = "",
    amount: Annotated[Positional[str], arg(metavar="DOLLARS")] = "",
    /,
    hard: bool = False,
    project: bool = False,
    json: bool = False,
) -> int:
    """Set a budget, like 'benthic cost budget ablation 500', or show all of them.

    Args:
        key: a purpose, or a project with --project
        amount: US dollars; 0 lets nothing be spent, none lifts it
        hard: refuse to start work past it, not only warn
        project: PURPOSE is a project's name
        json: print data
    """
    from benthic.cost.bill.rows import budget as write

    return write(key or None, amount or None, hard=hard, project=project, json=json)


def plan(
    run: Annotated[Positional[str], arg(metavar="RUN")],
    file: Annotated[Positional[Path], arg(metavar="FILE")],
    /,
) -> int:
    """Keep a plan to hold against the bill: benthic plan ... --json | benthic cost plan RUN -.

    Args:
        run: the folder whose work it plans, as 'benthic cost show' names it
        file: what 'benthic plan ... --json' printed; - reads it from standard input
    """
    from benthic.cost.bill.plans import keep as write

    return write(run, file)


def report(
    since: TEXT = "",
    until: TEXT = "",
    project: TEXT = "",
    purpose: TEXT = "",
    user: TEXT = "",
    inputs: MAYBE_PATH = None,
    html: MAYBE_PATH = None,
    markdown: MAYBE_PATH = None,
    json: bool = False,
) -> int:
    """The bill: the headline beside all of it, failures and idle time included.

    Args:
        since: a date, or how long ago, like 30d; rows count by when they started
        until: a date, or how long ago
        project: only this project's
        purpose: only this purpose
        user: only this user's
        inputs: people, other costs and your own rates, as in benthic/cost/cases/bill.toml
        html: write a page for a browser, too
        markdown: write a part for a model card, too
        json: print data instead of a page
    """
    from benthic.cost.bill.report import show as bill

    return bill(
        since=since or None,
        until=until or None,
        project=project or None,
        purpose=purpose or None,
        user=user or None,
        inputs=inputs,
        json=json,
        html=html,
        markdown=markdown,
    )


def bring(
    path: SOURCE,
    /,
    kind: TEXT = "auto",
    price: DOLLARS = "",
    device: TEXT = "",
    count: MAYBE_INT = None,
    project: TEXT = "",
    purpose: TEXT = "",
    timezone: TEXT = "",
    gap: float = 1800.0,
    json: bool = False,
) -> int:
    """Add what wandb, trackio, MLflow, TensorBoard, sacct or a table has recorded; twice is once.

    Args:
        path: the tool's file or folder
        kind: wandb, trackio, mlflow, tensorboard, sacct or table; auto tells by the content
        price: US dollars an hour of one device, of rows without a price; else the catalog's
        device: like h100, of rows that name none and held a GPU
        count: devices of a run, of rows that say none
        project: whose it is, of rows that name none; else Slurm's account, MLflow's experiment
            or Trackio's file
        purpose: what it was for, of rows that neither a column nor a tag says it of
        timezone: of times without one, like Europe/Berlin
        gap: seconds without a sign of life that are not billed, where no end is recorded
        json: print data
    """
    from benthic.cost.imports.command import bring as read
    from benthic.cost.metering.held import an_hour

    return read(
        path,
        as_json=json,
        kind=kind,
        price=an_hour(price),
        device=device or None,
        count=count,
        project=project,
        purpose=purpose or None,
        timezone=timezone or None,
        gap=gap,
    )


def focus(
    target: Annotated[Positional[Path], arg(metavar="OUT.csv")],
    /,
    since: TEXT = "",
    until: TEXT = "",
    project: TEXT = "",
    purpose: TEXT = "",
    inputs: MAYBE_PATH = None,
    site: TEXT = "",
) -> int:
    """Write the ledger as FOCUS 1.2: list cost is the headline, effective cost all of it.

    Args:
        target: the CSV to write
        since: a date, or how long ago, like 30d; rows count by when they started
        until: a date, or how long ago
        project: only this project's
        purpose: only this purpose
        inputs: your own rates, as in benthic/cost/cases/bill.toml
        site: where the machines stand, for RegionId
    """
    from benthic.cost.bill.focus import show as write

    return write(
        target,
        since=since or None,
        until=until or None,
        project=project or None,
        purpose=purpose or None,
        inputs=inputs,
        site=site,
    )
