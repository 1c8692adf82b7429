"""The model card of an export: what it is, how to load it, how it was measured, what it cost."""

from typing import Any

from benthic.cost.flops import parameters
from benthic.cost.receipt import Receipt
from benthic.hub.config import ARCHITECTURES
from benthic.weights import Weights


def card(weights: Weights, precision: str, results: dict[str, Any], receipt: Receipt | None) -> str:
    """Markdown with the Hub's front matter."""
    config = weights.model.config
    counts = parameters(config)
    name = weights.path.name
    active = f", {counts['active']:,} active a token" if config.num_moe_layers else ""
    origin = (
        f"Trained with Benthic ({weights.state}); recipe: {weights.recipe.about or name}."
        if weights.recipe
        else f"Converted with Benthic from the checkpoint `{name}`; its licence is the original's."
    )
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "tags: [benthic]",
        "---",
        "",
        f"# {name}",
        "",
        f"{ARCHITECTURES[config.model_type]}, {counts['total']:,} parameters{active}, {precision}.",
        origin,
        "",
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        'model = AutoModelForCausalLM.from_pretrained(".")',
        'tokenizer = AutoTokenizer.from_pretrained(".")',
        "```",
        "",
    ]
    if results:
        lines += ["## Measured", "", *_measured(results), ""]
    lines += ["## Bill", "", *(_bill(receipt) if receipt else [_NO_BILL]), ""]
    return "\n".join(lines)


_NO_BILL = (
    "This machine's ledger holds no row of a training of these weights, so what they cost is not "
    "known here."
)


def _measured(results: dict[str, Any]) -> list[str]:
    rows = ["| | greedy, right | text, bits a byte |", "|---|---|---|"]
    for when in ("before", "after"):
        if when in results:
            found = results[when]
            right, bits = found["greedy_accuracy"], found["text_bits_per_byte"]
            rows.append(f"| {when} reinforcement | {right:.1%} | {bits:.3f} |")
    return rows


def _bill(receipt: Receipt) -> list[str]:
    rows = ["| | seconds | US dollars |", "|---|---|---|"]
    for label, amount in receipt.bridge:
        if amount.seconds:
            rows.append(f"| {label} | {amount.seconds:,.1f} | {amount.dollars:.4f} |")
    total = receipt.everything
    rows.append(f"| **everything** | {total.seconds:,.1f} | {total.dollars:.4f} |")
    return [*rows, "", *(f"Price: {price}." for price in receipt.prices)]
