"""The page of a run: one self-contained file that a stranger can read, `runs/<name>/report.html`.

It shows, in this order: the four numbers, one problem before and after, the curves, the evaluation,
the bill, what the run is made of, and what it does not show. It loads nothing and runs no script.
The words stand in `report.html.jinja`, the drawing in `svg.py`; this file turns plain data into
sentences and figures. A part that a run never reached becomes a sentence, never an error. Every
text is escaped and its control characters are made visible, because a model wrote some of it.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jinja2 import ChainableUndefined, Environment, PackageLoader, Undefined
from markupsafe import Markup

from benthic import svg
from benthic.cost.bill import receipt as bill
from benthic.durable import write_atomically
from benthic.svg import Axis, Bar, Line, Point, number

Row = Mapping[str, Any]

MISSING = "\u2013"  # an en dash, written for anything that is not a finite number
LONGEST_TEXT = 4000  # characters of one model answer that the page shows
CALM = 60  # means in the strong line of a noisy curve
LOAD_POINTS = 6000  # points that all expert lines of one stage share, so that the page stays small
LOAD_LAYERS = 8  # layers shown of one stage


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One drawing with the sentence that says how to read it."""

    title: str
    caption: str
    drawing: Markup


def write_report(
    folder: Path,
    *,
    recipe: dict[str, Any],
    manifest: dict[str, Any],
    results: dict[str, Any],
    metrics: list[dict[str, Any]],
    receipt: dict[str, Any],
) -> Path:
    """Write `report.html` into a run folder, whole or not at all, and return its path.

    All inputs are plain data as read from the run's JSON and TOML files; empty ones are allowed.
    Raises FileNotFoundError when the folder does not exist.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"The report needs an existing run folder, and '{folder}' is none; create it first."
        )
    page = render_report(recipe, manifest, results, metrics, receipt)
    target = folder / "report.html"
    write_atomically(target, page)
    return target


def render_report(
    recipe: Mapping[str, Any],
    manifest: Mapping[str, Any],
    results: Mapping[str, Any],
    metrics: Iterable[Row],
    receipt: Mapping[str, Any],
) -> str:
    """Return the page as text, from the inputs of `write_report`, and write nothing."""
    environment = Environment(
        loader=PackageLoader("benthic", "."),
        autoescape=True,
        undefined=ChainableUndefined,
        finalize=_final,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (percent, dollars, seconds, energy, si, decimal, clipped)
    environment.filters.update({write.__name__: write for write in filters})
    rows = list(metrics)
    pretrain, rl = stage_rows(rows, "pretrain"), stage_rows(rows, "rl")
    return environment.get_template("report.html.jinja").render(
        recipe=recipe_tables(recipe),
        manifest=manifest,
        results=results,
        receipt=receipt,
        verdict=verdict(results),
        pretrain_figures=pretrain_figures(pretrain),
        pretrain_load=load_figures(pretrain, "tokens", TOKENS),
        rl_figures=rl_figures(rl),
        rl_load=load_figures(rl, "step", STEPS),
        bridge=bridge_figure(receipt),
    )


def _final(value: object) -> object:
    """Make what the template prints safe to read; drawings are Markup already."""
    if value is None or isinstance(value, Undefined):
        return MISSING
    return svg.visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def percent(share: object) -> str:
    """Write a share of one as a percentage, with a decimal only where it matters."""
    value = number(share)
    if value is None:
        return MISSING
    whole = 100 * value
    return f"{whole:.0f}%" if abs(whole) >= 99.95 or whole == 0 else f"{whole:.1f}%"


def dollars(amount: object) -> str:
    """Write US dollars; below ten cents with two significant digits: laptops are cheap."""
    value = number(amount)
    if value is None:
        return MISSING
    sign, size = "-" if value < 0 else "", abs(value)
    places = 2 if size < 1000 else 0
    if 0 < size < 0.1:
        places = min(1 - math.floor(math.log10(size)), 8)
    return f"{sign}${size:,.{places}f}"


def seconds(duration: object) -> str:
    """Write a duration in the two units that fit it, as in `1 h 12 min`."""
    value = number(duration)
    if value is None:
        return MISSING
    if value < 0:
        return f"-{seconds(-value)}"
    if value < 60:
        return f"{value:.2g} s" if value < 10 else f"{value:.0f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest and minutes < 10 else f"{minutes} min"
    return f"{minutes // 60:,} h {minutes % 60} min"


def energy(joules: object, source: object) -> str:
    """Write joules as watt-hours, with a tilde where the source is an estimate."""
    value = number(joules)
    return bill.energy(value, str(source)) if value and value > 0 else MISSING


def si(amount: object, unit: str = "") -> str:
    """Write a large count with three significant digits and an SI prefix, as in `1.24 M`."""
    value = number(amount)
    if value is None:
        return MISSING
    size, prefixes = abs(value), " kMGTPEZY"
    while size >= 999.5 and len(prefixes) > 1:
        size, prefixes = size / 1000, prefixes[1:]
    prefix = prefixes[0].strip()
    if prefix == "k" and value == int(value) and abs(value) < 10_000:
        return f"{value:,.0f} {unit}".rstrip()
    digits = f"{size:.0f}" if size >= 100 or (prefix == "" and size % 1 == 0) else f"{size:.3g}"
    return f"{'-' if value < 0 else ''}{digits} {prefix}{unit}".rstrip()


def decimal(amount: object, places: int = 2) -> str:
    """Write a number with a fixed count of decimal places."""
    value = number(amount)
    return MISSING if value is None else f"{value:,.{places}f}"


def clipped(text: object) -> str:
    """Cut a text that would swell the page and say how much is missing."""
    words = "" if text is None else str(text)
    more = len(words) - LONGEST_TEXT
    return words if more <= 0 else f"{words[:LONGEST_TEXT]} [{more} more characters]"


STEPS = Axis(name="step", show=si, low=0.0)
TOKENS = Axis(name="tokens read", show=si, low=0.0)
SHARE = Axis(name="share", show=lambda share: f"{100 * share:.3g}%", low=0.0, high=1.0)


def verdict(results: Mapping[str, Any]) -> str:
    """Return what the run found, in two or three sentences that claim no more than the numbers."""
    before, after, gate = (_part(results, key) for key in ("before", "after", "gate"))
    first, last = number(before.get("greedy_accuracy")), number(after.get("greedy_accuracy"))
    if first is None:
        return "Nothing has been evaluated yet; what follows is the run so far."
    start = f"After pretraining the model answered {percent(first)} of the held-out problems"
    if last is None and gate.get("passed") is False and not gate.get("forced"):
        return f"{start}. The run stopped at the gate, before reinforcement."
    if last is None:
        return f"{start}. Reinforcement has not been evaluated."
    certainty = _certainty(before.get("greedy_interval"), after.get("greedy_interval"))
    return f"{start}; after reinforcement by reward alone, {percent(last)}. {certainty}"


def _certainty(before: object, after: object) -> str:
    first, last = _interval(before), _interval(after)
    if first is None or last is None:
        return "No intervals were recorded, so the difference may be chance."
    if last[0] > first[1]:
        return "The two intervals do not overlap: the gain is larger than sampling error."
    if last[1] < first[0]:
        return "The two intervals do not overlap: reinforcement did harm here."
    return "The two intervals overlap: this run alone does not show a difference."


def _interval(value: object) -> tuple[float, float] | None:
    if not isinstance(value, list | tuple) or len(value) != 2:
        return None
    low, high = number(value[0]), number(value[1])
    return None if low is None or high is None else (low, high)


def _part(data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = data.get(key)
    return value if isinstance(value, Mapping) else {}


def recipe_tables(recipe: Mapping[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """Return each section of a recipe as rows of dotted key and value; loose keys come first."""
    loose = {key: value for key, value in recipe.items() if not isinstance(value, Mapping)}
    tables = {name: _flat(part) for name, part in recipe.items() if isinstance(part, Mapping)}
    return ({"recipe": _flat(loose)} if loose else {}) | tables


def _flat(section: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in section.items():
        if isinstance(value, Mapping):
            rows.extend(_flat(value, f"{prefix}{key}."))
        elif isinstance(value, list | tuple):
            rows.append((f"{prefix}{key}", ", ".join(map(str, value))))
        else:
            rows.append((f"{prefix}{key}", str(value)))
    return rows


def stage_rows(metrics: Iterable[Row], stage: str) -> list[Row]:
    """Return one row a step; where a resumed run wrote a step twice, the later row counts."""
    return list({row.get("step"): row for row in metrics if row.get("stage") == stage}.values())


def series(rows: Iterable[Row], x: str, y: str) -> list[Point]:
    """Return the points of one column over another, without those that are not finite numbers."""
    pairs = ((number(row.get(x)), number(row.get(y))) for row in rows)
    return [(a, b) for a, b in pairs if a is not None and b is not None]


def curve(points: list[Point], label: str, role: str = "first") -> list[Line]:
    """Return a line, or for a long noisy one its points drawn faintly under its running mean."""
    if len(points) <= CALM:
        return [Line(points=points, label=label, role=role)] if points else []
    calm = Line(points=svg.average(points, CALM), label=label, role=role)
    return [Line(points=svg.thin(points), role=f"{role} faint"), calm]


def _figure(title: str, caption: str, lines: list[Line], x: Axis, y: Axis) -> list[Figure]:
    if not lines:
        return []
    drawing = svg.line_chart(title, caption, lines, x=x, y=y)
    return [Figure(title=title, caption=caption, drawing=drawing)]


def pretrain_figures(rows: list[Row]) -> list[Figure]:
    """Return the loss curves of pretraining: the two predictions, and text and problems apart."""
    loss = Axis(name="nats per token", show=lambda value: f"{value:.3g}")

    def over(key: str, label: str, role: str) -> list[Line]:
        return curve(series(rows, "tokens", key), label, role)

    whole = over("loss", "next", "first") + over("loss_mtp", "one after", "second")
    apart = over("loss_text", "text", "first") + over("loss_problems", "problems", "second")
    parting = "The same loss by kind of data; a line that still falls has more to learn."
    further = "Lower is better; the token one after the next is harder to guess and lies above."
    return [
        *_figure("Loss while pretraining", further, whole, TOKENS, loss),
        *_figure("Text and problems apart", parting, apart, TOKENS, loss),
    ]


def rl_figures(rows: list[Row]) -> list[Figure]:
    """Return the curves of reinforcement: reward and accuracy, length of thought, its share."""

    def over(key: str, label: str, role: str = "first") -> list[Line]:
        return curve(series(rows, "step", key), label, role)

    tokens = Axis(name="tokens", show=lambda value: f"{value:.3g}", low=0.0)
    return [
        *_figure(
            "Reward and accuracy",
            "Sampled answers on training problems; accuracy counts right answers, reward is what "
            "the model is paid, so a reward that rises without accuracy is a loophole.",
            over("accuracy", "accuracy") + over("reward", "reward", "second"),
            STEPS,
            SHARE,
        ),
        *_figure(
            "Tokens thought",
            "Mean length of the thinking in one answer; a rise means more work written out.",
            over("thought_tokens", "thought"),
            STEPS,
            tokens,
        ),
        *_figure(
            "Share that thinks",
            "Sampled answers that think first; the rest answer at once.",
            over("think_share", "thinks"),
            STEPS,
            SHARE,
        ),
    ]


def load_figures(rows: list[Row], x_key: str, x: Axis) -> list[Figure]:
    """Return one small drawing a layer: the share of tokens that each expert took, and 1/E dashed.

    All share one scale. Of more than `LOAD_LAYERS` layers, evenly spaced ones are shown.
    """
    layers = [experts for experts in _load_layers(rows, x_key) if any(experts)]
    if not layers:
        return []
    count = min(len(layers), LOAD_LAYERS)
    shown = [i * (len(layers) - 1) // max(count - 1, 1) for i in range(count)]
    limit = max(2, min(CALM, LOAD_POINTS // sum(len(layers[i]) for i in shown)))
    calm = {i: [svg.average(points, limit) for points in layers[i]] for i in shown}
    top = max(y for experts in calm.values() for points in experts for _, y in points)
    y = replace(SHARE, name="share of tokens", high=top)
    figures: list[Figure] = []
    for i, experts in calm.items():
        even = 1 / len(experts)
        caption = f"Expert layer {i + 1} of {len(layers)}; dashed: an even {percent(even)}."
        lines, name = _load_lines(experts, even), f"Layer {i + 1}"
        drawing = svg.line_chart(name, caption, lines, x=x, y=y, width=320, height=190)
        figures.append(Figure(title=name, caption=caption, drawing=drawing))
    return figures


def _load_layers(rows: list[Row], x_key: str) -> list[list[list[Point]]]:
    layers: list[list[list[Point]]] = []
    for row in rows:
        at, load = number(row.get(x_key)), row.get("load")
        if at is None or not isinstance(load, list):
            continue
        layers += [[] for _ in range(len(load) - len(layers))]
        for experts, shares in zip(layers, load, strict=False):
            experts += [[] for _ in range(len(shares) - len(experts))]
            for points, share in zip(experts, shares, strict=False):
                value = number(share)
                if value is not None:
                    points.append((at, value))
    return layers


def _load_lines(experts: list[list[Point]], even: float) -> list[Line]:
    ends = {i: points[-1][1] for i, points in enumerate(experts) if points}
    busiest, idlest = max(ends, key=lambda i: ends[i]), min(ends, key=lambda i: ends[i])
    lines = [Line(points=points, role="first faint") for i, points in enumerate(experts)]
    lines[busiest] = Line(points=experts[busiest], label="busiest", role="second")
    lines[idlest] = Line(points=experts[idlest], label="idlest", role="first")
    span = [x for points in experts for x, _ in points]
    return [*lines, Line(points=[(min(span), even), (max(span), even)], role="even")]


def bridge_figure(receipt: Mapping[str, Any]) -> Markup | None:
    """Return the waterfall from the final run to everything, or None where there is no bill.

    The bridge holds the final run and the steps after it. Its bars are dollars, or seconds where
    everything cost nothing; what the steps leave open gets a bar of its own.
    """
    final, *steps = receipt.get("bridge") or [{}]
    everything = _part(receipt, "everything")
    unit = "dollars" if number(everything.get("dollars")) else "seconds"
    start, end = number(final.get(unit)), number(everything.get(unit))
    if start is None or not end:
        return None
    show: Callable[[object], str] = dollars if unit == "dollars" else seconds
    bars = [Bar(label="The final run", note=_both(final), amount=start, total=True)]
    for step in steps:
        amount = number(step.get(unit)) or 0.0
        if amount or number(step.get("seconds")):
            label = str(step.get("label", ""))
            bars.append(Bar(label=label[:1].upper() + label[1:], note=_both(step), amount=amount))
    rest = end - sum(bar.amount for bar in bars)
    if abs(rest) > 0.005 * end:
        bars.append(Bar(label="Not itemised", note=show(rest), amount=rest))
    bars.append(Bar(label="Everything", note=_both(everything), amount=end, total=True))
    words = f"The final run took {show(start)}; with all that led to it, {show(end)}."
    return svg.waterfall("From the final run to everything", words, bars)


def _both(entry: Mapping[str, Any]) -> str:
    return f"{dollars(entry.get('dollars'))}, {seconds(entry.get('seconds'))}"
