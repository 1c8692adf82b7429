"""`benthic inspect`: what a model's files are and what holds them, said in the terminal.

The first line is the answer; what follows is aligned for 60 columns and more. All names come from
strangers' files, so they are shown as plain text, controls made visible. Exit code 1 where
something is wrong with the files, 0 else.
"""

import gc
import json
from collections.abc import Iterable
from math import floor, log10

import rich.console
from rich.table import Table
from rich.text import Text

from benthic.console import printable
from benthic.cost.network.inspection import FREE, Device, Files, Inspection, inspect
from benthic.folder import FolderError
from benthic.hub.files import HubError
from benthic.model.config import ModelConfig

_FAMILIES = {
    "deepseek_v3": "DeepSeek-V3",
    "deepseek_v2": "DeepSeek-V2",
    "llama": "Llama",
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
}
_KINDS = {
    "checkpoint": "a checkpoint",
    "run": "a run of Benthic",
    "config": "a config without weights",
    "preset": "a preset",
}
_DTYPES = {"F8_E4M3": "FP8", "BF16": "bf16", "F16": "fp16", "F32": "fp32", "F64": "fp64"}
_PARTS = {
    "embedding": "embedding",
    "head": "head",
    "attention": "attention",
    "dense_mlp": "dense layers",
    "experts": "routed experts",
    "shared_experts": "shared experts",
    "router": "routers",
    "norms": "norms",
}
_ROPES = {"yarn": "YaRN", "llama3": "Llama 3's bands", "linear": "division"}
_MOST = 8  # devices or boxes; where more are needed, the row says nothing of use
_SHOWN = 5  # findings, and names in a list


def show(source: str, *, context: int | None = None, as_json: bool = False) -> int:
    """Print what `source` is, and return the exit code; errors have their controls made visible."""
    collecting = gc.isenabled()
    gc.disable()  # 100,000 tensors, all kept: looking for garbage took a third of the time
    try:
        found = inspect(source, context=context)
    except (ValueError, FolderError) as error:
        raise HubError(_safe(str(error)).plain) from error
    finally:
        if collecting:
            gc.enable()
    if as_json:
        print(json.dumps(found.to_dict(), indent=1))
    else:
        out = rich.console.Console(highlight=False)
        for part in _page(found):
            out.print(part)
    return 1 if found.findings else 0


def _page(found: Inspection) -> Iterable[Text | Table]:
    yield _safe(_sentence(found), "bold")
    if found.findings:
        yield _findings(found.findings)
    yield Text()
    yield _facts(found)
    yield Text()
    yield _parameters(found)
    yield Text()
    yield _tensors(found)
    yield _safe(_counted(found), "dim")
    yield Text()
    yield _devices(found)
    yield Text(
        f"Counted: weights and the cache of one sequence, spread evenly; {FREE:.0%} of the memory "
        "stays free for activations and the program.",
        "dim",
    )


def _sentence(found: Inspection) -> str:
    counts = found.parameters
    active = f", {_count(counts['active'])} of them active a token" if _sparse(found) else ""
    stored = found.stored
    files = ""
    if stored.files:
        files = f" in {_files(stored.files)}"
        absent = len(stored.missing)
        if absent:
            files += ", none of them here" if absent == stored.files else f", {absent} missing"
    dtype = _DTYPES.get(stored.dtype, stored.dtype)
    return (
        f"{found.source}, {_KINDS[found.kind]}: {_FAMILIES[found.config.model_type]}'s "
        f"architecture with {_count(counts['total'])} parameters{active}, {dtype}{files}."
    )


def _findings(findings: tuple[str, ...]) -> Table:
    table = _grid()
    for sentence in findings[:_SHOWN]:
        table.add_row(Text("wrong", "red"), _safe(sentence))
    if len(findings) > _SHOWN:
        table.add_row("", f"and {len(findings) - _SHOWN} more (--json lists them)")
    return table


def _facts(found: Inspection) -> Table:
    table, c = _grid(), found.config
    named = found.model_type
    if named != c.model_type:
        named += f" (read as {c.model_type})"
    table.add_row("family", _safe(f"{named}, {found.architecture}"))
    table.add_row("layers", _layers(c))
    table.add_row("attention", _attention(c))
    if _sparse(found):
        table.add_row("experts", _experts(c))
    table.add_row("context", _context(c))
    tied = ", the head is the embedding" if c.tie_word_embeddings else ""
    table.add_row("vocabulary", f"{c.vocab_size:,}{tied}")
    if found.files:
        table.add_row("tokenizer", _tokenizer(found.files))
        if found.files.code:
            table.add_row("never run", _safe(_listed(found.files.code)))
    table.add_row("cache", _cache(found))
    table.add_row(
        "compute",
        f"{_flop(found.prefill_flops)} a token to read {found.context:,}, "
        f"{_flop(found.decode_flops)} to write token {found.context:,}",
    )
    return table


def _layers(c: ModelConfig) -> str:
    kinds = ""
    if c.latent:
        kinds = f": {c.first_k_dense_replace} dense, {c.num_moe_layers} of experts"
    block = "; a prediction block" if c.num_nextn_predict_layers else ""
    return f"{c.num_hidden_layers}, {c.hidden_size:,} wide{kinds}{block}"


def _attention(c: ModelConfig) -> str:
    if c.latent:
        kind = (
            f"latent, {c.num_attention_heads} heads; caches {c.kv_lora_rank} + "
            f"{c.qk_rope_head_dim} numbers a layer"
        )
    else:
        kind = (
            f"grouped-query, {c.num_attention_heads} heads {c.head_dim} wide, "
            f"{c.num_key_value_heads} of keys and values"
        )
        kind += ", normed" if c.qk_norm else ""
        kind += ", with biases" if c.qkv_bias else ""
    return f"{kind}; softmax scale {c.softmax_scale:.4g}"


def _experts(c: ModelConfig) -> str:
    groups = f", from {c.topk_group} of {c.n_group} groups" if c.n_group > 1 else ""
    scores = "sigmoid scores" if c.topk_method == "noaux_tc" else "softmax scores"
    return (
        f"{c.num_experts_per_tok} of {c.n_routed_experts} a token{groups}, "
        f"{c.n_shared_experts} shared; {c.moe_intermediate_size:,} wide, {scores}"
    )


def _context(c: ModelConfig) -> str:
    rope = c.rope_scaling
    stretched = "not stretched"
    if rope.rope_type != "default":
        trained = rope.original_max_position_embeddings
        source = f" from {trained:,}" if trained else ""
        stretched = f"stretched {rope.factor:g} times{source} by {_ROPES[rope.rope_type]}"
    return f"{c.max_position_embeddings:,} tokens, {stretched}; rotary base {c.rope_theta:,.12g}"


def _tokenizer(files: Files) -> str:
    name = files.tokenizer or "none here"
    if name == "tokenizer.model":
        name += " (not read: tokenizer.json and tiktoken.model are)"
    return f"{name}; {'a' if files.chat_template else 'no'} chat template"


def _cache(found: Inspection) -> str:
    per_token, longest = found.cache_per_token, found.config.max_position_embeddings
    parts = [f"{_bytes(per_token * found.context)} for {found.context:,}"]
    if found.context < longest:
        parts.append(f"{_bytes(per_token * longest)} for all {longest:,}")
    return f"{_bytes(per_token)} a token in bf16: {', '.join(parts)}"


def _parameters(found: Inspection) -> Table:
    table = _figures("parameters", "elements", "share")
    counts = found.parameters
    for part, name in _PARTS.items():
        if counts[part]:
            table.add_row(name, f"{counts[part]:,}", f"{counts[part] / counts['total']:.1%}")
    table.add_row("total", f"{counts['total']:,}", "", style="bold")
    if _sparse(found):
        share = f"{counts['active'] / counts['total']:.1%}"
        table.add_row("active a token", f"{counts['active']:,}", share)
    if counts["mtp"]:
        table.add_row("with prediction block", f"{counts['total_with_mtp']:,}", "")
    return table


def _tensors(found: Inspection) -> Table:
    stored = found.stored
    table = _figures("tensors", "elements", "bytes")
    for dtype, elements in stored.elements.items():
        table.add_row(dtype, f"{elements:,}", _bytes(stored.nbytes[dtype]))
    total, nbytes = sum(stored.elements.values()), sum(stored.nbytes.values())
    table.add_row(f"{stored.tensors:,} in all", f"{total:,}", _bytes(nbytes), style="bold")
    return table


def _counted(found: Inspection) -> str:
    """How the tensors were counted, and which files are missing."""
    stored, absent = found.stored, len(found.stored.missing)
    if stored.origin == "headers":
        return f"Counted by the headers of {_files(stored.files)}."
    if stored.origin == "config":
        none = "; there are no weights here" if found.kind == "checkpoint" else ""
        return f"Counted by {'the recipe' if found.kind == 'run' else 'config.json'}{none}."
    if absent == stored.files:
        return f"Counted by the index and config.json; none of {_files(absent)} is here."
    missing = f"; {absent} of {_files(stored.files)} missing: {_listed(stored.missing)}"
    return (
        f"Counted by the headers, and by index and config.json where there are none"
        f"{missing if absent else ''}."
    )


def _devices(found: Inspection) -> Table:
    """Rows from the first that is of use to the first that holds the model in every format."""
    formats = _formats(found)
    table = _figures("memory for it", "has", *formats.values())
    sizes = (_bytes(found.weights[name]) for name in formats)
    table.add_row("weights", "", *sizes)
    cache = _bytes(found.context * found.cache_per_token)
    table.add_row(f"cache of {found.context:,} tokens", "", *([cache] * len(formats)))
    alike: dict[float, list[Device]] = {}
    for device in sorted(found.devices, key=lambda device: device.memory_gib):
        alike.setdefault(device.memory_gib, []).append(device)
    for memory, devices in alike.items():
        needed = [devices[0].needed[name] for name in formats]
        if min(needed) > _MOST:
            continue
        names = ", ".join(f"{d.count} x {d.name}" if d.count > 1 else d.name for d in devices)
        table.add_row(names, f"{memory:,g} GiB", *(_verdict(n) for n in needed))
        if max(needed) == 1:
            break
    if found.machine_holds:
        held = ("fits" if found.machine_holds[name] else "no" for name in formats)
        table.add_row("this machine", f"{found.machine_gib:g} GiB", *held, style="bold")
    return table


def _formats(found: Inspection) -> dict[str, str]:
    """Formats of the weights and their titles; the one that is stored stands for its own kind."""
    dtype = found.stored.dtype
    own = f"{_DTYPES.get(dtype, dtype)}, as stored"
    out = {"stored" if dtype == "BF16" else "bf16": own if dtype == "BF16" else "bf16"}
    out |= {"stored": own} if dtype == "F8_E4M3" else {"fp8": "FP8"}
    return out | {"stored": own}


def _safe(text: str, style: str = "") -> Text:
    """A stranger's words: no markup, nothing that steers a terminal, one line."""
    return Text(printable(text).replace("\n", "\u00b7"), style)


def _verdict(needed: int) -> str:
    return "fits" if needed == 1 else f"needs {needed:,}"


def _sparse(found: Inspection) -> bool:
    return found.parameters["active"] < found.parameters["total"]


def _grid() -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _figures(title: str, *columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(title)
    for name in columns:
        table.add_column(name, justify="right")
    return table


def _count(n: int) -> str:
    for size, letter in ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "k")):
        if n >= 0.9995 * size:
            return f"{_digits(n / size)}{letter}"
    return str(n)


def _bytes(n: int) -> str:
    for power, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if n >= 0.9995 * 2**power and not (unit == "TiB" and n < 10 * 2**40):
            return f"{_digits(n / 2**power)} {unit}"
    return f"{n} bytes"


def _flop(n: float) -> str:
    for power, unit in ((15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if n >= 0.9995 * 10**power:
            return f"{_digits(n / 10**power)} {unit}FLOP"
    return f"{n:.0f} FLOP"


def _digits(value: float) -> str:
    """Three significant digits, whole numbers above."""
    return f"{value:,.{max(0, 2 - floor(log10(value) + 2e-4))}f}"


def _files(n: int) -> str:
    return "1 file" if n == 1 else f"{n:,} files"


def _listed(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
