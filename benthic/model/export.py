"""Checkpoints in the Hub's layout, out: shards, index, config and generation config.

Tensors are converted and written one at a time, so that memory holds the model and one tensor more.
In FP8, projections are quantised in DeepSeek's blocks, or go out as they are where the model kept
them in FP8. Left out: what surrounds the weights (tokenizer, card), which `benthic.export` adds.
"""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from benthic.durable import write_durably
from benthic.hub.config import Fp8Format, to_hub
from benthic.hub.files import INDEX
from benthic.hub.layout import EMBEDDING, SCALE, in_fp8, layout
from benthic.hub.safetensors import SINGLE
from benthic.model.checkpoint import DTYPES, check_finite, hub_tensors
from benthic.model.config import ModelConfig
from benthic.model.fp8 import BlockExperts, BlockLinear, quantise
from benthic.model.transformer import LanguageModel

Precision = Literal["fp32", "bf16", "fp16", "fp8"]
SHARD_BYTES = 5 * 10**9  # a shard's size on the Hub
_TORCH = {
    **{"fp32": torch.float32, "bf16": torch.bfloat16},
    **{"fp16": torch.float16, "fp8": torch.bfloat16},
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")


@dataclass(frozen=True)
class _Written:
    """One tensor of the file to be."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


def export_hub(
    model: LanguageModel,
    folder: Path,
    *,
    precision: Precision | None = None,
    fp8: Fp8Format | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write config and weights into `folder`, which is made; programs load it as it is.

    Without `precision` every tensor goes out as the model holds it. FP8 weights do so under "fp8"
    too, in the format `fp8` and with scales in the dtype they came in; other precisions need them
    imported widened (ValueError). A number that the precision cannot hold is a ValueError. An
    earlier checkpoint in the folder goes; the config comes last, and with it the folder is whole.
    """
    blocks = {m.block for m in model.modules() if isinstance(m, BlockLinear | BlockExperts)}
    stored = bool(blocks)
    if stored and (fp8 is None or precision not in (None, "fp8") or blocks != {fp8.block}):
        found = " and ".join(f"{rows} x {columns}" for rows, columns in sorted(blocks))
        raise ValueError(
            f"the model keeps its weights in FP8 with blocks of {found}: export it in that format, "
            "or import it widened"
        )
    folder.mkdir(parents=True, exist_ok=True)
    _clear(folder)
    views = hub_tensors(model)
    if not stored:
        fp8 = replace(fp8 or Fp8Format(), scale_dtype="F32") if precision == "fp8" else None
    plan = _plan(model.config, views, precision, fp8)
    shards = _shards(plan, shard_bytes)
    where: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        file = SINGLE if len(shards) == 1 else name
        _write_shard(folder / file, shard, views, fp8 if not stored else None)
        where |= dict.fromkeys((w.name for w in shard), file)
    if len(shards) > 1:
        total = sum(w.nbytes for w in plan)
        index = {"metadata": {"total_size": total}, "weight_map": where}
        write_durably(folder / INDEX, _json(index))
    plain = _TORCH[precision] if precision else views[EMBEDDING].dtype
    named = str(plain).removeprefix("torch.")
    # By both names: vLLM, SGLang and transformers before 4.56 know only the older.
    keys = to_hub(model.config) | {"dtype": named, "torch_dtype": named}
    if fp8:
        keys["quantization_config"] = fp8.to_hub()
    write_durably(folder / "generation_config.json", _json(_generation(keys)))
    write_durably(folder / "config.json", _json(keys))


def _plan(
    config: ModelConfig,
    views: dict[str, Tensor],
    precision: Precision | None,
    fp8: Fp8Format | None,
) -> list[_Written]:
    plan = []
    for name, shape in layout(config, fp8).items():
        if fp8 and name.endswith(SCALE):
            dtype = DTYPES[fp8.scale_dtype]
        elif precision is None:
            dtype = views[name].dtype
        elif name.endswith("e_score_correction_bias"):
            dtype = torch.float32
        else:
            dtype = torch.float8_e4m3fn if fp8 and in_fp8(name) else _TORCH[precision]
        plan.append(_Written(name, dtype, shape))
    return plan


def _shards(plan: list[_Written], limit: int) -> list[list[_Written]]:
    """In order, none above the limit unless a single weight is; a scale stays with its weight."""
    weights: list[list[_Written]] = []
    for tensor in plan:
        if tensor.name.endswith(SCALE):
            weights[-1].append(tensor)
        else:
            weights.append([tensor])
    shards: list[list[_Written]] = [[]]
    size = 0
    for weight in weights:
        needed = sum(tensor.nbytes for tensor in weight)
        if size + needed > limit and shards[-1]:
            shards.append([])
            size = 0
        shards[-1] += weight
        size += needed
    return shards


def _clear(folder: Path) -> None:
    """Remove what an earlier export left, which programs would read beside or before the new one.

    A link is removed, never written through: it may lead into the cache of downloads.
    """
    names = {"config.json", "generation_config.json", INDEX, SINGLE}
    for path in sorted(folder.iterdir()):  # the config first
        if path.name in names or _SHARD.fullmatch(path.name):
            path.unlink()


def _write_shard(
    path: Path, shard: list[_Written], views: dict[str, Tensor], fp8: Fp8Format | None
) -> None:
    """A safetensors file, as https://huggingface.co/docs/safetensors describes it."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for w in shard:
        offsets = [at, at := at + w.nbytes]
        header[w.name] = {
            "dtype": _NAMES[w.dtype],
            "shape": list(w.shape),
            "data_offsets": offsets,
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the tensors' bytes are aligned
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for w, tensor in zip(shard, _converted(shard, views, fp8), strict=True):
            assert tensor.dtype == w.dtype and tensor.shape == w.shape
            file.write(tensor.cpu().contiguous().view(torch.uint8).numpy().data.cast("B"))
        file.flush()
        os.fsync(file.fileno())


def _converted(
    shard: list[_Written], views: dict[str, Tensor], fp8: Fp8Format | None
) -> Iterator[Tensor]:
    scale: Tensor | None = None
    for w in shard:
        if fp8 and w.dtype == torch.float8_e4m3fn:
            try:
                codes, scale = quantise(views[w.name], block=fp8.block, scale_fmt=fp8.scale_fmt)
            except ValueError as error:
                raise ValueError(f"{w.name}: {error}") from error
            yield codes
        elif fp8 and scale is not None and w.name.endswith(SCALE):
            yield scale
        else:
            out = views[w.name].to("cpu", w.dtype).contiguous()
            check_finite(w.name, out)
            yield out


def _generation(keys: dict[str, Any]) -> dict[str, Any]:
    kept = {k: keys[k] for k in ("bos_token_id", "eos_token_id") if keys[k] is not None}
    return {"_from_model_config": True, **kept}


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()
