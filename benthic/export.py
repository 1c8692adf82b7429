"""`benthic export`: a run or an imported checkpoint, written for other programs.

`hf` is the Hub's layout (transformers, vLLM, SGLang), `gguf` llama.cpp's file. Either appears under
its name only when it is whole; what stands there already is never overwritten, and of two commands
that write to one name the second is refused.
"""

import json
import os
import shlex
from pathlib import Path
from typing import Any, Literal, cast

import rich.console
import torch
from rich.markup import escape

from benthic.card import card
from benthic.data.hub_tokenizer import save_tokenizer
from benthic.durable import FULL, whole, write_atomically
from benthic.folder import FolderError, RunFolder
from benthic.hub.files import CONFIG_LIMIT, read_json
from benthic.model.checkpoint import Source
from benthic.model.export import Precision, export_hub
from benthic.run import receipt_of
from benthic.weights import Weights, open_weights, source_in

Target = Literal["hf", "gguf"]
Dtype = Literal["auto", "fp32", "bf16", "fp8", "q8_0"]
_CHOICES: dict[Target, tuple[Dtype, ...]] = {
    "hf": ("fp32", "bf16", "fp8"),
    "gguf": ("fp32", "bf16", "q8_0"),
}
_SAMPLING = ("pad_token_id", "do_sample", "temperature", "top_k", "top_p", "repetition_penalty")
_GGUF: dict[Dtype, Literal["f32", "bf16", "q8_0"]] = {
    "fp32": "f32",
    "bf16": "bf16",
    "q8_0": "q8_0",
}


def export(path: Path, *, to: Target, dtype: Dtype, out: Path | None) -> int:
    """Write `path`'s weights as `to`; FolderError if the target exists or the choice is none."""
    if dtype not in ("auto", *_CHOICES[to]):
        raise FolderError(f"--to {to} takes --dtype {', '.join(_CHOICES[to])}, not {dtype}")
    source = None if RunFolder(path).exists() else source_in(path)
    fp8 = source is not None and source.fp8 is not None and to == "hf" and dtype in ("auto", "fp8")
    if dtype == "auto":
        narrow = source is not None and source.dtype == torch.bfloat16
        dtype = "fp8" if fp8 else "bf16" if narrow else "fp32"
    name = f"{path.resolve().name}-{dtype}{'.gguf' if to == 'gguf' else ''}"
    target = Path(os.path.abspath(out or Path("exports") / name))
    if os.path.lexists(target):
        raise FolderError(_taken(target))
    weights = open_weights(path, **_held(source, dtype, fp8=fp8))
    try:
        with whole(target) as partial:
            if to == "gguf":
                _export_gguf(weights, partial, dtype)
            else:
                _export_hf(weights, partial, cast(Precision, dtype))
    except FileExistsError as error:
        raise FolderError(_taken(target)) from error
    except OSError as error:
        room = "make room or " if error.errno in FULL else ""
        raise FolderError(
            f"{target} cannot be written ({error.strerror or error}): {room}choose another --out, "
            "then give the same command again"
        ) from error
    files = [target] if to == "gguf" else list(target.iterdir())
    size = sum(file.stat().st_size for file in files)
    console = rich.console.Console(highlight=False, soft_wrap=True)
    console.print(f"[bold]{escape(str(target))}[/bold]: {size / 1e6:,.1f} MB, {dtype}.")
    if to == "hf":
        console.print("Load it with transformers, vLLM or SGLang; README.md there says how.")
    else:
        console.print(f"Run it with llama.cpp: llama-cli -m {escape(shlex.quote(str(target)))}")
    return 0


def _taken(target: Path) -> str:
    return f"{target} exists already: choose another --out, or move it away"


def _held(source: Source | None, dtype: Dtype, *, fp8: bool) -> dict[str, Any]:
    """How the weights are held on their way; a run's are fp32.

    FP8 is kept where a model can hold it, and otherwise widened and made anew. What is quantised
    here is never rounded to bf16 before, unless the checkpoint is bf16.
    """
    if source is None:
        return {}
    kept = fp8 and source.keeps_fp8
    plain = source.dtype == torch.bfloat16 and source.fp8 is None
    narrow = kept or dtype == "bf16" or (plain and dtype != "fp32")
    return {"dtype": torch.bfloat16 if narrow else torch.float32, "keep_fp8": kept}


def _export_gguf(weights: Weights, target: Path, dtype: Dtype) -> None:
    from benthic.model.gguf import export_gguf

    export_gguf(weights.model, weights.tokenizer, target, precision=_GGUF[dtype])


def _export_hf(weights: Weights, target: Path, precision: Precision) -> None:
    folder = RunFolder(weights.path)
    receipt = receipt_of(folder) if weights.recipe else None
    export_hub(weights.model, target, precision=precision, fp8=weights.fp8)
    save_tokenizer(weights.tokenizer, target)
    _complete(target / "generation_config.json", weights)
    results = folder.results() if weights.recipe else {}
    manifest = folder.manifest() if weights.recipe else {}
    text = card(weights, precision, results, receipt, base=manifest.get("base"))
    write_atomically(target / "README.md", text)


def _complete(path: Path, weights: Weights) -> None:
    """Every end, where config.json holds one; and how the checkpoint asks to be sampled from."""
    facts = json.loads(path.read_text())
    facts.pop("_from_model_config", None)
    ends = sorted(weights.vocabulary.ends)
    facts["eos_token_id"] = ends[0] if len(ends) == 1 else ends
    found = weights.path / path.name
    given = read_json(found, limit=CONFIG_LIMIT) if os.path.lexists(found) else {}
    facts |= {k: given[k] for k in _SAMPLING if isinstance(given.get(k), int | float)}
    write_atomically(path, json.dumps(facts, indent=2) + "\n")
