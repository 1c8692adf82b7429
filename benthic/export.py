"""`benthic export`: a run or an imported checkpoint, written for other programs.

`hf` is the Hub's layout (transformers, vLLM, SGLang), `gguf` llama.cpp's file. Either appears under
its name only when it is whole; what stands there already is never overwritten, and of two commands
that write to one name the second is refused.
"""

import json
import logging
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
from benthic.hub.files import model_name
from benthic.model.checkpoint import Source
from benthic.model.export import Precision, export_hub
from benthic.run import receipt_of
from benthic.weights import Weights, open_weights, sampling_of, source_in

Target = Literal["hf", "gguf"]
Dtype = Literal["auto", "fp32", "bf16", "fp16", "fp8", "q8_0"]
_CHOICES: dict[Target, tuple[Dtype, ...]] = {
    "hf": ("fp32", "bf16", "fp16", "fp8"),
    "gguf": ("fp32", "bf16", "fp16", "q8_0"),
}
_TORCH: dict[Dtype, torch.dtype] = {
    **{"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16},
}
_NAMES = {kind: name for name, kind in _TORCH.items()}
_GGUF: dict[Dtype, Literal["f32", "bf16", "f16", "q8_0"]] = {
    **{"fp32": "f32", "bf16": "bf16"},
    **{"fp16": "f16", "q8_0": "q8_0"},
}

log = logging.getLogger(__name__)


def export(path: Path, *, to: Target, dtype: Dtype, out: Path | None) -> int:
    """Write `path`'s weights as `to`; FolderError if the target exists or the choice is none."""
    if dtype not in ("auto", *_CHOICES[to]):
        raise FolderError(f"--to {to} takes --dtype {', '.join(_CHOICES[to])}, not {dtype}")
    source = None if RunFolder(path).exists() else source_in(path)
    dtype, stored = _settled(source, to, dtype)
    name = f"{model_name(path)}-{dtype}{'.gguf' if to == 'gguf' else ''}"
    target = Path(os.path.abspath(out or Path("exports") / name))
    if os.path.lexists(target):
        raise FolderError(_taken(target))
    weights = open_weights(path, **_held(source, to, dtype, stored=stored))
    try:
        with whole(target) as partial:
            if to == "gguf":
                _export_gguf(weights, partial, dtype)
            else:
                _export_hf(weights, partial, cast(Precision, dtype), stored=stored)
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


def _settled(source: Source | None, to: Target, dtype: Dtype) -> tuple[Dtype, bool]:
    """What `auto` stands for, and whether every tensor goes out as it is stored, FP8 too."""
    in_fp8 = source is not None and source.fp8 is not None and to == "hf"
    found = _NAMES.get(source.dtype) if source else None
    if source is None or dtype not in ("auto", "fp8") or (dtype == "fp8" and not in_fp8):
        return ("fp32" if dtype == "auto" else dtype), False
    if not in_fp8:
        return found or "fp32", to == "hf" and found is not None
    if not source.keeps_fp8 and {source.dtype, *source.apart.values()} != {torch.bfloat16}:
        log.warning(
            "FP8 beside plain projections or biases is quantised anew, and what is not in FP8 is "
            "rounded to bf16"
        )
    return "fp8", source.keeps_fp8


def _held(source: Source | None, to: Target, dtype: Dtype, *, stored: bool) -> dict[str, Any]:
    """How the weights are held on their way; a run's are fp32.

    What is quantised here, and what a GGUF keeps in fp32, is never rounded before.
    """
    if source is None:
        return {}
    if stored:
        return {"keep_fp8": source.fp8 is not None}
    if to == "gguf" or dtype == "fp8":
        exact = source.fp8 is not None and dtype != "bf16"
        return {"dtype": torch.float32 if exact else None}
    return {"dtype": _TORCH[dtype]}


def _export_gguf(weights: Weights, target: Path, dtype: Dtype) -> None:
    from benthic.model.gguf import export_gguf

    export_gguf(weights.model, weights.tokenizer, target, precision=_GGUF[dtype])


def _export_hf(weights: Weights, target: Path, precision: Precision, *, stored: bool) -> None:
    folder = RunFolder(weights.path)
    receipt = receipt_of(folder) if weights.recipe else None
    export_hub(weights.model, target, precision=None if stored else precision, fp8=weights.fp8)
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
    facts |= sampling_of(weights.path)
    write_atomically(path, json.dumps(facts, indent=2) + "\n")
