"""`benthic export`: a run or an imported checkpoint, written for other programs.

`hf` is the Hub's layout (transformers, vLLM, SGLang), `gguf` llama.cpp's file. Either appears under
its name only when it is whole; what stands there already is never overwritten.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import rich.console
import torch
from rich.markup import escape

from benthic.card import card
from benthic.data.hub_tokenizer import save_tokenizer
from benthic.durable import flush_folder, write_atomically
from benthic.folder import FolderError, RunFolder
from benthic.hub.config import read_config
from benthic.model.export import Precision, export_hub
from benthic.run import receipt_of
from benthic.weights import Weights, open_weights

Target = Literal["hf", "gguf"]
Dtype = Literal["auto", "fp32", "bf16", "fp8", "q8_0"]
_CHOICES: dict[Target, tuple[Dtype, ...]] = {
    "hf": ("fp32", "bf16", "fp8"),
    "gguf": ("fp32", "bf16", "q8_0"),
}


def export(path: Path, *, to: Target, dtype: Dtype, out: Path | None) -> int:
    """Write `path`'s weights as `to`; FolderError if the target exists or the choice is none."""
    if dtype not in ("auto", *_CHOICES[to]):
        raise FolderError(f"--to {to} takes --dtype {', '.join(_CHOICES[to])}, not {dtype}")
    hub = not RunFolder(path).exists()
    stored_fp8 = hub and (path / "config.json").exists() and read_config(path)[1] is not None
    if dtype == "auto":
        dtype = "fp32" if not hub else "fp8" if stored_fp8 and to == "hf" else "bf16"
    target = out or Path("exports") / f"{path.name}-{dtype}{'.gguf' if to == 'gguf' else ''}"
    target = target.absolute()
    if target.exists():
        raise FolderError(f"{target} exists already: choose another --out, or move it away")
    keep = stored_fp8 and to == "hf" and dtype == "fp8"
    weights = open_weights(path, dtype=_torch(dtype) if hub else None, keep_fp8=keep)
    if to == "gguf":
        from benthic.model.gguf import export_gguf

        target.parent.mkdir(parents=True, exist_ok=True)
        precision = {"fp32": "f32", "bf16": "bf16", "q8_0": "q8_0"}[dtype]
        export_gguf(weights.model, weights.tokenizer, target, precision=precision)  # type: ignore
    else:
        _export_hf(weights, target, dtype)  # type: ignore[arg-type]
    size = sum(f.stat().st_size for f in ([target] if to == "gguf" else target.iterdir()))
    out_ = rich.console.Console(highlight=False)
    out_.print(f"[bold]{escape(str(target))}[/bold]: {size / 1e6:,.1f} MB, {dtype}.")
    if to == "hf":
        out_.print("Load it with transformers, vLLM or SGLang; README.md there says how.")
    else:
        out_.print(f"Run it with llama.cpp: llama-cli -m {escape(target.name)}")
    return 0


def _export_hf(weights: Weights, target: Path, precision: Precision) -> None:
    with _whole(target) as partial:
        export_hub(weights.model, partial, precision=precision, fp8=weights.fp8)
        save_tokenizer(weights.tokenizer, partial)
        facts = json.loads((partial / "generation_config.json").read_text())
        ends = sorted(weights.vocabulary.ends)
        facts["eos_token_id"] = ends[0] if len(ends) == 1 else ends
        write_atomically(partial / "generation_config.json", json.dumps(facts, indent=2) + "\n")
        folder = RunFolder(weights.path)
        receipt = receipt_of(folder) if weights.recipe else None
        results = folder.results() if weights.recipe else {}
        write_atomically(partial / "README.md", card(weights, precision, results, receipt))


@contextmanager
def _whole(target: Path) -> Iterator[Path]:
    """A folder that gets its name when it is finished, and is deleted if it is not."""
    partial = target.with_name(f".partial-{target.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.rename(target)
        flush_folder(target.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _torch(dtype: Dtype) -> torch.dtype:
    """What the weights are imported in: as they go out; FP8 and q8_0 are made from bf16."""
    return torch.float32 if dtype == "fp32" else torch.bfloat16
