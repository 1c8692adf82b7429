"""A Shape from what is at hand: a preset, a folder, a config.json, a recipe, or plain numbers.

`shape` takes a name or a path; `from_config` the keys of a Hub's config.json: Llama and
DeepSeek's with latents are read by `benthic.hub.config`, others by `families` and
`sparse_families`, of one that sees or hears too the text part; `from_row` a row of the catalog.
Plain numbers are `benthic.cost.network.widths`. Nothing is executed or fetched, no weight is read.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from benthic.config import load as load_recipe
from benthic.config import recipes
from benthic.cost.catalog.load import CostError
from benthic.cost.network.families import TOWERS
from benthic.cost.network.shape import Shape, shape_of
from benthic.cost.network.sparse_families import FAMILIES, from_family
from benthic.hub.config import ARCHITECTURES, from_hub, preset, presets
from benthic.hub.files import CONFIG_LIMIT, read_json, shown


def shape(source: str) -> Shape:
    """The shape of a preset, a checkpoint's or a run's folder, a config.json, or a recipe's name or
    TOML file; CostError names the nearest preset."""
    name = source.strip().lower()
    if name in presets():
        return replace(shape_of(preset(name)[0]), name=name)
    path = Path(source)
    try:
        if path.is_dir():
            return _of_folder(path)
        if os.path.lexists(path):
            if path.suffix == ".toml":
                return _of_recipe(str(path), path.stem)
            return _of_config_file(path)
        if name in recipes():
            return _of_recipe(name, name)
    except CostError:
        raise
    except (ValueError, OSError, RecursionError) as error:
        raise CostError(f"{source}: {error}" if source not in str(error) else str(error)) from error
    near = get_close_matches(name, [*presets(), *recipes()], n=1)
    hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(presets())},"
    raise CostError(
        f"there is no preset, folder or file {shown(source)}: {hint} or give --params and --layers"
    )


def from_config(keys: Mapping[str, Any], name: str = "") -> Shape:
    """The shape that a config.json says; CostError names the key or the family that is not known,
    and the way out. Of one with a text_config, as networks that see or hear have, that part."""
    kind = str(keys.get("model_type"))
    name = name or kind
    text = keys.get("text_config")
    if isinstance(text, Mapping):
        inner = {key: value for key, value in text.items() if key != "text_config"}
        if "tie_word_embeddings" in keys:  # the whole network's says what is tied
            inner["tie_word_embeddings"] = keys["tie_word_embeddings"]
        made = from_config(inner, name)
        return replace(made, left_out=(*made.left_out, TOWERS))
    if kind in FAMILIES:
        return from_family(keys, name)
    if kind not in ARCHITECTURES and kind != "kimi_k2":
        known = ", ".join(sorted({*ARCHITECTURES, "kimi_k2", *FAMILIES}))
        raise CostError(
            f"model_type is {shown(keys.get('model_type'))}, a network whose shape is not known "
            f"here: give --params and --layers instead; known are {known}"
        )
    try:
        return replace(shape_of(from_hub(keys)), name=name)
    except ValueError as error:
        raise CostError(f"{error}; or give --params and --layers instead") from error


def from_row(row: Mapping[str, str]) -> Shape:
    """A row of the catalog's `run_shapes`; an empty cell is 0, and a model without a query latent,
    experts or prediction."""
    name = row.get("model", "")

    def number(column: str) -> int:
        text = (row.get(column) or "0").strip()
        if not re.fullmatch(r"\d{1,9}", text):
            raise CostError(f"{name}: {column} is {shown(text)}: give a whole number, or nothing")
        return int(text)

    latent = row.get("attention") == "mla"
    rope, experts = number("qk_rope_head_dim"), number("experts")
    return Shape(
        name=name,
        layers=number("layers"),
        hidden=number("hidden"),
        vocab=number("vocab"),
        heads=number("heads"),
        kv_heads=number("kv_heads") or number("heads"),
        head_dim=number("qk_nope_head_dim") + rope if latent else number("head_dim"),
        value_dim=number("v_head_dim"),
        ffn=number("ffn") or number("expert_ffn"),
        gated=row.get("ffn_kind", "swiglu") in ("swiglu", "geglu"),
        q_rank=number("q_lora_rank"),
        kv_rank=number("kv_lora_rank"),
        rope_dim=rope if latent else 0,
        experts=experts,
        experts_per_token=number("experts_per_token"),
        shared_experts=number("shared_experts"),
        expert_ffn=number("expert_ffn"),
        dense_layers=number("dense_layers"),
        moe_every=number("moe_every") or 1,
        tied=row.get("tied", "").strip().lower() == "true",
        mtp=number("mtp"),
        max_positions=number("seq_len"),
    )


def _of_folder(folder: Path) -> Shape:
    if os.path.lexists(folder / "config.json"):
        return _of_config_file(folder / "config.json")
    if os.path.lexists(folder / "recipe.toml"):
        return _of_recipe(str(folder / "recipe.toml"), _name(folder))
    raise CostError(
        f"{folder} holds neither config.json nor recipe.toml: give a checkpoint's folder, or that "
        "of a run"
    )


def _of_config_file(path: Path) -> Shape:
    name = _name(path.parent) if path.name == "config.json" else path.stem
    try:
        return from_config(read_json(path, limit=CONFIG_LIMIT), name)
    except CostError as error:
        raise CostError(f"{path}: {error}") from error


def _of_recipe(source: str, name: str) -> Shape:
    if os.path.exists(source) and os.path.getsize(source) > CONFIG_LIMIT:
        raise CostError(f"{source} has more than {CONFIG_LIMIT} bytes: give a recipe's TOML file")
    return replace(shape_of(load_recipe(source).model), name=name)


def _name(folder: Path) -> str:
    return folder.resolve().name
