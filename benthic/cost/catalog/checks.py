"""Rows of published runs that cannot be true.

A run of `tokens` through `active` parameters takes 6 * active * tokens FLOP at the least (attention
is on top); over the hours of its GPUs and their peak this is the utilisation (MFU) that the row
implies. Published runs lie from 0.05 (a model of 1B on many GPUs) to 0.65; what is outside of 0.03
to 0.75 is a slip: hours per trillion tokens, total for active parameters, days for hours. Databases
in use hold such rows.

The check is of rows, not of claims: what passes may still be wrong.
"""

from collections.abc import Mapping

from benthic.cost.catalog.load import Catalog, CostError, Gpu, load

LEAST, MOST = 0.03, 0.75  # of the dense peak of the format that the run computed in
ABOVE_STATED = 1.25  # wall clock has stalls, so the row cannot be that much better than its claim


def implied_mfu(row: Mapping[str, str], catalog: Catalog | None = None) -> float | None:
    """6 * active * tokens / (GPU-hours * 3600 * 16-bit dense peak); None without tokens or hours.

    `row` has active_params_b, tokens_t, gpu_hours and gpu (or gpu_exact) as in training_runs.csv.
    CostError for a figure that is no positive number and for an unknown GPU.
    """
    active, tokens = _figure(row, "active_params_b"), _figure(row, "tokens_t")
    hours = _figure(row, "gpu_hours")
    if active is None or tokens is None or hours is None:
        return None
    return 6 * active * 1e9 * tokens * 1e12 / (hours * 3600 * _gpu(row, catalog).peak)


def impossible(row: Mapping[str, str], catalog: Catalog | None = None) -> list[str]:
    """Why the row cannot be true, a sentence a reason; empty where nothing speaks against it."""
    found = []
    gpu, mfu = _gpu(row, catalog), implied_mfu(row, catalog)
    if mfu is not None:
        # Utilisation is told against the 16-bit peak; matmuls in fp8 may go beyond that one.
        fp8 = "fp8" in (row.get("precision") or "") and gpu.fp8_flops
        most = MOST * (gpu.fp8_flops or gpu.peak) / gpu.peak if fp8 else MOST
        if not LEAST <= mfu <= most:
            side = f"above {most:.2f}" if mfu > most else f"below {LEAST}"
            found.append(
                f"its hours imply {mfu:.3g} of the peak of {gpu.name}, {side}"
                f"{_likely(row, mfu, most)}"
            )
        stated = _stated(row.get("stated_mfu") or "")
        if stated and mfu > ABOVE_STATED * stated:
            found.append(f"its hours imply {mfu:.3g} of the peak, the row itself states {stated:g}")
    total, active = _figure(row, "total_params_b"), _figure(row, "active_params_b")
    if total is not None and active is not None and active > total:
        found.append(f"{active:g}B active parameters are more than the {total:g}B there are")
    count, hours = _figure(row, "n_gpu"), _figure(row, "gpu_hours")
    if count is not None and hours is not None and hours / count > 3 * 365 * 24:
        years = hours / count / 365 / 24
        found.append(f"{count:,.0f} GPUs would have run for {years:.1f} years")
    date = row.get("date") or ""
    if date and date[:7] < gpu.release[: len(date[:7])]:
        found.append(f"it is of {date}, before {gpu.name} was there in {gpu.release}")
    return found


def _likely(row: Mapping[str, str], mfu: float, most: float) -> str:
    """The slip that would explain such a utilisation, where one does."""
    tokens, total = _figure(row, "tokens_t") or 1, _figure(row, "total_params_b")
    active, count = _figure(row, "active_params_b") or 1, _figure(row, "n_gpu")

    def fits(factor: float) -> bool:
        return 0.1 <= mfu * factor <= min(most, 0.65)

    slips = []
    if tokens > 1 and fits(1 / tokens):
        slips.append(
            f"are the hours per trillion tokens (times {tokens:g} they imply {mfu / tokens:.2f})"
        )
    if mfu > most and count and fits(1 / count):
        slips.append(f"are they those of one GPU of {count:g}")
    if mfu > most and total and active == total and fits(0.05):
        slips.append("are the parameters all of a mixture of experts")
    return f": {', or '.join(slips)}?" if slips else ": check tokens, active parameters and hours"


def _gpu(row: Mapping[str, str], catalog: Catalog | None) -> Gpu:
    return (catalog or load()).gpu(row.get("gpu_exact") or row.get("gpu") or "")


def _figure(row: Mapping[str, str], name: str) -> float | None:
    """The number in a cell; None where it is empty."""
    text = (row.get(name) or "").strip()
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise CostError(
            f"the run {row.get('model', '')!r} has {name} = {text[:40]!r}: give a positive number"
        )
    return value


def _stated(text: str) -> float | None:
    """The number that a text like '0.43 (with attention)' begins with."""
    try:
        return float(text.split()[0])
    except (ValueError, IndexError):
        return None
