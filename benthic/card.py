"""The model card of an export: what it is, how to ask it, how it was measured, what it cost.

Markdown with the front matter of Hugging Face's Hub. Figures are the run's own results, dollars its
receipt's; a checkpoint that no run of this machine trained gets the sentence that its cost is not
known. Runs and folders are told by their last part alone, so a card names no user.
"""

import re
from pathlib import Path
from typing import Any

from benthic.cost.bill.receipt import Receipt
from benthic.cost.network.flops import parameters
from benthic.hub.config import ARCHITECTURES
from benthic.hub.files import model_name
from benthic.weights import Weights

_NO_BILL = (
    "This machine's ledger holds no row of a training of these weights, so what they cost is not "
    "known here."
)
_FP8 = "transformers reads FP8 with the package accelerate, and widens it where no GPU computes so."
_REPLY = 64  # tokens of an imported model's answer


def card(
    weights: Weights,
    precision: str,
    results: dict[str, Any],
    receipt: Receipt | None,
    *,
    base: str | None = None,
) -> str:
    """Markdown with the Hub's front matter; `base` is the run whose pretraining was taken over."""
    name = _quiet(model_name(weights.path))
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "tags:",
        "- benthic",
        "---",
        "",
        f"# {name}",
        "",
        f"{_size(weights)}, {precision}.",
        _origin(weights, name, base),
        "",
        *_use(weights, results),
        "",
    ]
    if precision == "fp8":
        lines += [_FP8, ""]
    if measured := _measured(results):
        lines += ["## Measured", "", *measured, ""]
    lines += ["## Bill", "", *(_bill(receipt) if receipt else [_NO_BILL]), ""]
    return "\n".join(lines)


def _size(weights: Weights) -> str:
    config = weights.model.config
    counts = parameters(config)
    active = f", {counts['active']:,} active a token" if config.num_moe_layers else ""
    ahead = (
        f", and {counts['mtp']:,} in the block that predicts one token further"
        if config.num_nextn_predict_layers
        else ""
    )
    return f"{ARCHITECTURES[config.model_type]}, {counts['total']:,} parameters{active}{ahead}"


def _origin(weights: Weights, name: str, base: str | None) -> str:
    recipe = weights.recipe
    if recipe is None:
        return (
            f"Converted with Benthic from the checkpoint `{name}`; its licence is the original's."
        )
    origin = f"Trained with Benthic ({weights.state}); recipe: {_quiet(recipe.about) or name}."
    if recipe.init_from:
        start = _quiet(model_name(Path(recipe.init_from)))
        origin += (
            f" It started from the weights of `{start}`: their licence counts, and what they cost "
            "is not in the bill below."
        )
    if base:
        origin += (
            f" The pretraining was the run `{_quiet(Path(base).name)}`'s; its bill is not below."
        )
    return origin


def _quiet(name: str) -> str:
    """A name in which nothing is Markdown, HTML or a new line."""
    return re.sub(r"[\x00-\x1f\x7f`<>|\[\]\\]", "_", name)


def _use(weights: Weights, results: dict[str, Any]) -> list[str]:
    """Python that asks the model, if it was measured, the question that the results show."""
    found = results.get("after") or results.get("before")
    question = found["example"]["question"] if found else "Why is the sea salty?"
    longest = weights.recipe.reason.max_new_tokens if weights.recipe else _REPLY
    ask = [f"asked = tokenizer({question!r}, return_tensors='pt')"]
    if weights.tokenizer.chat_template is not None:
        ask = [
            f'messages = [{{"role": "user", "content": {question!r}}}]',
            "asked = tokenizer.apply_chat_template(",
            '    messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"',
            ")",
        ]
    return [
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'model = AutoModelForCausalLM.from_pretrained(".")',
        'tokenizer = AutoTokenizer.from_pretrained(".")',
        *ask,
        f"answer = model.generate(**asked, max_new_tokens={longest}, do_sample=False)",
        "print(tokenizer.decode(answer[0]))",
        "```",
    ]


def _measured(results: dict[str, Any]) -> list[str]:
    rows = []
    for when in ("before", "after"):
        if when in results:
            found = results[when]
            right, bits = found["greedy_accuracy"], found["text_bits_per_byte"]
            count = found["problems"]
            rows.append(f"| {when} reinforcement | {right:.1%} of {count:,} | {bits:.3f} |")
    if not rows:
        return []
    return ["| | held-out problems right, greedy | text, bits a byte |", "|---|---|---|", *rows]


def _bill(receipt: Receipt) -> list[str]:
    rows = ["| | seconds | US dollars |", "|---|---|---|"]
    for label, amount in receipt.bridge:
        if amount.seconds:
            rows.append(f"| {label} | {amount.seconds:,.1f} | {amount.dollars:.6f} |")
    total = receipt.everything
    rows.append(f"| **everything** | {total.seconds:,.1f} | {total.dollars:.6f} |")
    return [*rows, "", *(f"Price: {price}." for price in receipt.prices)]
