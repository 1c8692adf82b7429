"""The Hub's layout: `config.json` and `model.safetensors` with DeepSeek's tensor names.

Only the experts are stored otherwise here: stacked, gate above up. Left out so far: shards, FP8,
reading.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from benthic.model.transformer import LanguageModel


def hub_tensors(model: LanguageModel) -> dict[str, Tensor]:
    """Every weight under its Hub name, experts one by one, shared tensors doubled as there."""
    out: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if name.endswith("experts.gate_up_proj"):
            stem = name.removesuffix("gate_up_proj")
            for e, both in enumerate(tensor):
                gate, up = both.chunk(2)
                out[f"{stem}{e}.gate_proj.weight"] = gate.contiguous()
                out[f"{stem}{e}.up_proj.weight"] = up.contiguous()
        elif name.endswith("experts.down_proj"):
            stem = name.removesuffix("down_proj")
            out |= {
                f"{stem}{e}.down_proj.weight": down.contiguous() for e, down in enumerate(tensor)
            }
        else:
            out[name] = tensor.contiguous()
    if model.config.num_nextn_predict_layers:
        stem = f"model.layers.{model.config.num_hidden_layers}"
        out[f"{stem}.embed_tokens.weight"] = out["model.embed_tokens.weight"].clone()
        out[f"{stem}.shared_head.head.weight"] = out["lm_head.weight"].clone()
    return out


def export_hub(model: LanguageModel, folder: Path) -> None:
    """Write config and weights; programs that know DeepSeek-V3 load the folder as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    keys = model.config.to_hub() | {"dtype": str(model.lm_head.weight.dtype).removeprefix("torch.")}
    (folder / "config.json").write_text(json.dumps(keys, indent=2) + "\n")
    with torch.no_grad():
        save_file(hub_tensors(model), folder / "model.safetensors", metadata={"format": "pt"})
