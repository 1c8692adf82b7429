"""The page of a run: complete, safe, self-contained, and whole where the run is not."""

import math
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benthic import report
from benthic.cost.bill.receipt import build_receipt
from benthic.cost.ledger.entries import Billed, Purpose
from benthic.report import dollars, percent, render_report, seconds, si, verdict, write_report

HOSTILE = "</svg><script>alert(1)</script>\x00\x1b[31m\u202e\ud800 & \"quoted\" 'too'"
Inputs = dict[str, Any]


def evaluation(accuracy: float, thought: float, answer: str, right: bool) -> dict[str, Any]:
    thinking = "4 7 + 8 5\n7 + 5 = 1 2 write 2 carry 1\n4 + 8 + 1 = 1 3 write 1 3\n" * int(right)
    return {
        "problems": 500,
        "greedy_accuracy": accuracy,
        "greedy_interval": [accuracy - 0.04, accuracy + 0.04],
        "thought_tokens": thought,
        "think_share": min(1.0, thought / 40),
        "sampled": {
            "worked_accuracy": accuracy + 0.1,
            "worked_count": 812,
            "direct_accuracy": None,
            "direct_count": 0,
            "think_share": 0.5,
            "thought_tokens": thought,
        },
        "unseen_lengths": {
            "7": {"accuracy": accuracy / 2, "count": 100},
            "8": {"accuracy": 0.0, "count": 100},
        },
        "text_bits_per_byte": 2.143,
        "example": {
            "question": "47 + 85 = ?",
            "thinking": thinking,
            "answer": answer,
            "expected": "132",
            "right": right,
        },
    }


def metrics(pretrain_steps: int = 900, rl_steps: int = 150) -> list[dict[str, Any]]:
    chance = random.Random(7)

    def load() -> list[list[float]]:
        raw = [[1 + 0.3 * chance.random() + 0.04 * e for e in range(8)] for _ in range(3)]
        return [[share / sum(layer) for share in layer] for layer in raw]

    rows: list[dict[str, Any]] = []
    for step in range(pretrain_steps):
        loss = 1.3 + 4.2 * math.exp(-step / 90) + 0.08 * chance.gauss(0, 1)
        kinds = {"loss_text": loss + 0.3, "loss_problems": loss - 0.5, "loss_mtp": loss + 0.4}
        rows.append(
            {
                "stage": "pretrain",
                "step": step,
                "tokens": 16384 * step,
                "loss": loss,
                "load": load(),
            }
            | kinds
        )
    for step in range(rl_steps):
        accuracy = 0.35 + 0.4 * step / rl_steps + 0.05 * chance.gauss(0, 1)
        rows.append(
            {"stage": "rl", "step": step, "reward": accuracy + 0.05, "accuracy": accuracy}
            | {"thought_tokens": 12 + step / 6, "think_share": 0.4 + step / 300, "load": load()}
        )
    return rows


def entry(purpose: Purpose, minutes: float, *, kept: float | None = None, **other: Any) -> Billed:
    row = Billed(
        run="/runs/laptop",
        attempt="a1",
        stage=purpose,
        purpose=purpose,
        device="cpu",
        count=1,
        price_per_hour=0.02,
        price_source="a guess",
        id=purpose,
        energy_source="estimate: 15 W, a guess",
        started=0.0,
        heartbeat=0.0,
        pid=1,
        host="here",
        seconds=60 * minutes,
        seconds_recorded=60 * minutes,
        seconds_productive=60 * (minutes if kept is None else kept),
        tokens=int(4e5 * minutes),
        flops=9e12 * minutes,
        joules=900 * minutes,
        status="done",
    )
    return replace(row, **other)


def receipt() -> dict[str, Any]:
    rows = [
        entry("pretrain", 11, attempt="a0", status="interrupted"),
        entry("pretrain", 9, kept=6, status="interrupted"),
        entry("pretrain", 32),
        entry("rl", 24, energy_source="rapl"),
        entry("evaluation", 4),
    ]
    return build_receipt(rows, "a1").to_dict()


@pytest.fixture
def inputs() -> Inputs:
    """A run that went well, as `write_report` takes it."""
    return {
        "recipe": {
            "model": {"hidden_size": 128, "layers": 4, "experts": {"routed": 8, "per_token": 2}},
            "pretrain": {"steps": 900, "lr": 0.003, "betas": [0.9, 0.95]},
            "reason": {"steps": 150, "group_size": 16},
        },
        "manifest": {
            "started": "2025-11-23T15:10:00Z",
            "benthic": "0.1.0",
            "commit": None,
            "python": "3.11.2",
            "torch": "2.13.0",
            "machine": {"cpu": "Laptop", "cores": 8, "memory_gib": 15.6, "system": "Linux"},
            "seed": 7,
            "corpus": {"name": "docs", "files": 512, "bytes": 8_400_000, "sha256": "0f1e2d3c" * 8}
            | {"train_tokens": 8_000_000, "held_out_tokens": 424_000},
            "parameters": {"total": 3_214_000, "active": 1_102_000},
            "attempt": "a1",
        },
        "results": {
            "baseline": {"order2_bits_per_byte": 3.021},
            "gate": {"passed": True, "worked_accuracy": 0.61, "direct_accuracy": 0.18}
            | {"worked_share": 0.42, "samples": 2000, "forced": False},
            "before": evaluation(0.384, 14.2, "122", False),
            "after": evaluation(0.712, 37.5, "132", True),
        },
        "metrics": metrics(),
        "receipt": receipt(),
    }


def drawings(page: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(s) for s in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]


def test_a_full_page_is_small_safe_and_self_contained(tmp_path: Path, inputs: Inputs) -> None:
    path = write_report(tmp_path, **inputs)
    page = path.read_text(encoding="utf-8")
    assert path == tmp_path / "report.html" and len(page.encode()) < 300_000
    assert not re.search(r"<script|https?://|@import|url\(|\bon\w+=", page)
    for svg in drawings(page):
        assert svg.get("role") == "img" and svg.findtext("title") and svg.findtext("desc")
    titles = {svg.findtext("title") for svg in drawings(page)}
    assert {"Loss while pretraining", "Reward and accuracy", "Layer 3"} <= titles
    for words in ("38.4%", "71.2%", "does not show", "0f1e2d3c", "betas", "0.9, 0.95", "424 k"):
        assert words in page
    assert "do not overlap" in page


def test_every_polyline_has_at_most_300_points(inputs: Inputs) -> None:
    page = render_report(**inputs | {"metrics": metrics(5000, 1200)})
    lines = [line for svg in drawings(page) for line in svg.iter("polyline")]
    assert lines and max(len(line.get("points", "").split()) for line in lines) <= 300
    assert len(page.encode()) < 300_000


def test_hostile_text_is_shown_and_harmless(tmp_path: Path, inputs: Inputs) -> None:
    example = dict.fromkeys(("question", "thinking", "answer", "expected"), HOSTILE)
    inputs["results"]["before"]["example"] = example
    inputs["receipt"]["bridge"][1]["label"] = HOSTILE
    inputs["receipt"]["lines"][0]["purpose"] = HOSTILE
    inputs["recipe"]["model"][HOSTILE] = HOSTILE
    inputs["manifest"] = {"attempt": HOSTILE, "machine": {"cpu": HOSTILE}}
    page = write_report(tmp_path, **inputs).read_text(encoding="utf-8")
    assert "<script" not in page and "&lt;/svg&gt;&lt;script&gt;" in page
    assert "\u2400\u241b[31m&lt;U+202E&gt;&lt;U+D800&gt;" in page
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e]", page)
    assert drawings(page)


def test_a_long_answer_is_cut_and_says_so(inputs: Inputs) -> None:
    inputs["results"]["after"]["example"]["thinking"] = "1" * 1_000_000
    page = render_report(**inputs)
    assert "[996000 more characters]" in page and len(page.encode()) < 300_000


def test_every_part_may_be_missing(inputs: Inputs) -> None:
    empty: Inputs = {"recipe": {}, "manifest": {}, "results": {}, "metrics": [], "receipt": {}}
    page = render_report(**empty)
    for words in (
        "Nothing has been evaluated yet",
        "No answer was recorded",
        "No loss was recorded",
        "No step of reinforcement",
        "No expert load",
        "The bill has no lines yet",
        "There is no bridge",
        "no manifest",
        "no recipe",
    ):
        assert words in page
    for key, nothing in empty.items():
        assert drawings(render_report(**inputs | {key: nothing}))


def test_a_run_stopped_at_the_gate_has_no_after(inputs: Inputs) -> None:
    del inputs["results"]["after"]
    inputs["results"]["gate"]["passed"] = False
    page = render_report(**inputs | {"metrics": metrics(100, 0)})
    assert "The run stopped at the gate" in page and "71.2%" not in page
    assert "no answer from after reinforcement" in page and "No step of reinforcement" in page
    inputs["results"]["gate"]["forced"] = True
    assert "told to go on all the same" in render_report(**inputs)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, None, "x", 1e300])
def test_values_that_are_not_numbers_are_skipped(inputs: Inputs, bad: object) -> None:
    rows = metrics(100, 100)
    for row in rows[::3]:
        row |= dict.fromkeys(("tokens", "loss", "reward", "thought_tokens"), bad)
        row["load"] = [[bad] * 8]
    inputs["results"]["after"] |= {"greedy_accuracy": bad, "greedy_interval": [bad, 1.0]}
    inputs["receipt"]["bridge"][1]["dollars"] = bad
    inputs["receipt"]["lines"][0]["joules"] = bad
    page = render_report(**inputs | {"metrics": rows})
    assert len(drawings(page)) >= 8
    assert not re.search(r">(nan|inf)|[ ,\"](nan|inf)[ ,\"]", page)
    only = [{"stage": "rl", "step": 1, "reward": bad, "load": [[], [bad]]}]
    assert "No step of reinforcement" in render_report(**inputs | {"metrics": only})


def test_a_step_written_twice_counts_once() -> None:
    rows = [{"stage": "rl", "step": s, "reward": r} for s, r in ((1, 0.1), (2, 0.2), (2, 0.9))]
    assert report.series(report.stage_rows(rows, "rl"), "step", "reward") == [(1, 0.1), (2, 0.9)]


def test_the_waterfall_starts_at_the_final_run_once(inputs: Inputs) -> None:
    page = render_report(**inputs)
    (fall,) = (
        s for s in drawings(page) if s.findtext("title") == "From the final run to everything"
    )
    names = [text.text for text in fall.iter("text") if text.get("class") == "name"]
    notes = [text.text for text in fall.iter("text") if text.get("class") == "value"]
    assert names == [
        "The final run",
        "Evaluation",
        "Lost to interruptions",
        "Discarded attempts",
        "Everything",
    ]
    assert notes[0] == "$0.021, 1 h 2 min" and notes[-1] == "$0.027, 1 h 20 min"
    bars = [bar for bar in fall.iter("rect") if bar.get("class", "").startswith("bar")]
    assert [bar.get("class") for bar in bars] == ["bar total", *["bar step"] * 3, "bar total"]
    assert float(bars[1].get("x", 0)) == pytest.approx(float(bars[0].get("width", 0)), abs=0.2)
    assert "Not itemised" not in page


def test_an_attempt_that_kept_nothing_has_a_waterfall(inputs: Inputs) -> None:
    bill = build_receipt([entry("pretrain", 5, kept=0, status="interrupted")], "a1").to_dict()
    page = render_report(**inputs | {"receipt": bill})
    assert "Lost to interruptions" in page and "Not itemised" not in page


def test_the_bill_shows_energy_and_marks_estimates(inputs: Inputs) -> None:
    page = render_report(**inputs)
    for cells in (
        '<td class="n">~2.8 Wh</td><td>estimate: 15 W, a guess</td>',
        '<td class="n">6.0 Wh</td><td>rapl</td>',
    ):
        assert cells in page
    inputs["receipt"]["lines"][0]["joules"] = 1.5 * 3.6e6
    assert "~1.5 kWh" in render_report(**inputs)


def test_a_bridge_that_does_not_add_up_says_so(inputs: Inputs) -> None:
    del inputs["receipt"]["bridge"][-1]
    assert "Not itemised" in render_report(**inputs)


def test_the_verdict_claims_no_more_than_the_intervals() -> None:
    def results(first: float, last: float) -> dict[str, Any]:
        return {"before": evaluation(first, 1, "", False), "after": evaluation(last, 1, "", True)}

    assert "larger than sampling error" in verdict(results(0.4, 0.6))
    assert "did harm" in verdict(results(0.6, 0.4))
    assert "does not show a difference" in verdict(results(0.4, 0.45))


def test_a_failed_write_leaves_the_old_page(
    tmp_path: Path, inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(source: Path, target: Path) -> None:
        assert source.parent == target.parent and source.read_text(encoding="utf-8")
        assert source.name == ".partial-report.html"
        raise OSError(28, "No space left on device")

    (tmp_path / "report.html").write_text("old")
    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="No space left"):
        write_report(tmp_path, **inputs)
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text() == "old"


def test_a_missing_folder_is_named(tmp_path: Path, inputs: Inputs) -> None:
    with pytest.raises(FileNotFoundError, match=r"existing run folder, and '.*nowhere' is none"):
        write_report(tmp_path / "nowhere", **inputs)


def test_numbers_are_written_for_people() -> None:
    assert [percent(v) for v in (0.0, 0.384, 1, None)] == ["0%", "38.4%", "100%", "\u2013"]
    assert [dollars(v) for v in (0, 0.0123, 2.5, 12345)] == ["$0.00", "$0.012", "$2.50", "$12,345"]
    assert [seconds(v) for v in (4.2, 59, 75, 4320)] == [
        "4.2 s",
        "59 s",
        "1 min 15 s",
        "1 h 12 min",
    ]
    assert [si(v) for v in (8, 2000, 3_214_000, 9.3e14)] == ["8", "2,000", "3.21 M", "930 T"]
    assert si(8.4e6, "B") == "8.4 MB"
