"""A model and its tokenizer as one file for llama.cpp: GGUF, written by the package `gguf`.

Names, shapes and keys are those of llama.cpp's own converter. What its loader or its graphs would
take otherwise than Benthic is refused before anything is written; both were read as they stand in
llama-cpp-python 0.3.36 (src/models, llama-context.cpp, llama-vocab.cpp, unicode.cpp). A few rows
are converted at a time. Norms, biases and routers stay fp32 in every precision.

Left out: multi-token prediction, which the converter drops too, FP8, K-quants, and vocabularies
that are not byte-level.
"""

import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from benthic.data.hub_tokenizer import HubTokenizer
from benthic.model.checkpoint import check_finite, hub_tensors
from benthic.model.config import ModelConfig, RopeScaling
from benthic.model.gguf_vocabulary import add_vocabulary
from benthic.model.rope import frequencies
from benthic.model.transformer import LanguageModel

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType, GGUFWriter

Precision = Literal["f32", "bf16", "f16", "q8_0"]
CHUNK = 1 << 23  # numbers converted at a time
_FILE_TYPES = {
    **{"f32": "ALL_F32", "bf16": "MOSTLY_BF16"},
    **{"f16": "MOSTLY_F16", "q8_0": "MOSTLY_Q8_0"},
}
_ROPE_FREQS = "rope_freqs.weight"

log = logging.getLogger(__name__)


def export_gguf(
    model: LanguageModel, tokenizer: HubTokenizer, path: Path, *, precision: Precision
) -> None:
    """Write `path`; ValueError, before anything is, if llama.cpp would run it otherwise."""
    try:
        import gguf
    except ImportError as error:
        raise ValueError(
            "GGUF files are written by the package gguf, which is not installed: "
            "pip install 'benthic[gguf]'"
        ) from error
    for refusal in _refusals(model.config):
        raise ValueError(refusal)
    if any(p.dtype == torch.float8_e4m3fn for p in model.parameters()):
        raise ValueError("the model keeps its weights in FP8: import it widened to export it so")
    writer = gguf.GGUFWriter(None, _architecture(model.config))
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_file_type(gguf.LlamaFileType[_FILE_TYPES[precision]])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _add_network(writer, model.config)
    add_vocabulary(writer, tokenizer, model.config)
    _write(writer, _plan(model, precision), path)


def _architecture(c: ModelConfig) -> str:
    return "deepseek2" if c.latent else c.model_type


def _refusals(c: ModelConfig) -> Iterator[str]:
    """Why llama.cpp would not run this network, or would run another."""
    for key, limit in (("num_hidden_layers", 512), ("n_routed_experts", 1024)):
        if getattr(c, key) > limit:
            yield f"{key} is {getattr(c, key)}: llama.cpp takes up to {limit}, so have fewer"
    if c.latent:
        yield from _refusals_of_latent(c)
    if c.model_type == "qwen2" and c.num_attention_heads * c.head_dim != c.hidden_size:
        yield (
            f"head_dim is {c.head_dim} and llama.cpp's qwen2 takes hidden_size / "
            f"num_attention_heads for it, {c.hidden_size} / {c.num_attention_heads}: use qwen3"
        )
    if c.model_type == "qwen3" and c.attention_bias:
        yield "attention_bias is set, and llama.cpp's qwen3 has no bias behind attention: unset it"
    yield from _refusals_of_rope(c, c.rope_scaling)


def _refusals_of_latent(c: ModelConfig) -> Iterator[str]:
    layers = c.num_hidden_layers
    without = layers in (26, 27) or (layers == 48 and c.vocab_size == 128256)
    if without != (c.q_lora_rank is None):
        yield (
            f"q_lora_rank is {c.q_lora_rank} with num_hidden_layers = {layers}: llama.cpp takes a "
            "model of 26 or 27 layers (or 48 and a vocab_size of 128256) for one without a query "
            "latent, and any other for one with it; change the one or the other"
        )
    if c.latent_norm_eps != c.rms_norm_eps:
        yield (
            f"latent_norm_eps is {c.latent_norm_eps:g} and rms_norm_eps {c.rms_norm_eps:g}, and "
            "llama.cpp has one for all norms: set latent_norm_eps in config.json to the other, if "
            "the difference does not matter to you"
        )
    if c.topk_method == "group_limited_greedy" and c.topk_group < c.n_group:
        yield (
            f"topk_group is {c.topk_group} of n_group = {c.n_group} with deepseek_v2's scores, and "
            "llama.cpp ranks a group by its best two experts, not by its best: train with "
            "topk_method = 'greedy'"
        )
    if c.routed_scaling_factor == 0:
        yield "routed_scaling_factor is 0, which llama.cpp takes for 1: set it above 0"


def _refusals_of_rope(c: ModelConfig, s: RopeScaling) -> Iterator[str]:
    if s.rope_type == "llama3" and c.model_type != "llama":
        yield f"rope_scaling.type is llama3, which llama.cpp reads for llama, not {c.model_type}"
    if s.rope_type == "linear" and c.latent:
        yield "rope_scaling.type is linear, for which llama.cpp's deepseek2 scales scores: use yarn"
    if s.rope_type != "yarn":
        return
    for key, usual in (("beta_fast", 32), ("beta_slow", 1)):
        if (value := getattr(s, key)) != usual:
            yield (
                f"rope_scaling.{key} is {value:g}, and llama.cpp does not read it from the file: "
                f"set it to {usual} in config.json, and start llama.cpp with "
                f"--yarn-{key.replace('_', '-')} {value:g}"
            )
    if not s.truncate:
        yield "rope_scaling.truncate is false, and llama.cpp always truncates: train with it set"
    if c.latent and (s.turn_factor != 1 or not s.mscale_all_dim or s.factor < 1):
        yield (
            f"rope_scaling has mscale = {s.mscale:g}, mscale_all_dim = {s.mscale_all_dim:g} and "
            f"factor = {s.factor:g}: llama.cpp's deepseek2 needs equal mscales above 0, no "
            "attention_factor and a factor of at least 1"
        )


def _add_network(w: "GGUFWriter", c: ModelConfig) -> None:
    w.add_vocab_size(c.vocab_size)
    w.add_context_length(c.max_position_embeddings)
    w.add_embedding_length(c.hidden_size)
    w.add_feed_forward_length(c.intermediate_size)
    w.add_block_count(c.num_hidden_layers)
    w.add_head_count(c.num_attention_heads)
    w.add_layer_norm_rms_eps(c.rms_norm_eps)
    w.add_rope_freq_base(c.rope_theta)
    w.add_rope_dimension_count(c.rotary_dim)
    if c.latent:
        _add_latent(w, c)
    else:
        w.add_head_count_kv(c.num_key_value_heads)
        w.add_key_length(c.head_dim)
        w.add_value_length(c.head_dim)
    _add_rope_scaling(w, c)


def _add_latent(w: "GGUFWriter", c: ModelConfig) -> None:
    """Attention as it is absorbed, with one head of keys and values; and the experts."""
    from gguf import ExpertGatingFuncType

    w.add_head_count_kv(1)
    w.add_key_length(c.cache_width)
    w.add_value_length(c.kv_lora_rank)
    w.add_key_length_mla(c.qk_head_dim)
    w.add_value_length_mla(c.v_head_dim)
    w.add_kv_lora_rank(c.kv_lora_rank)
    if c.q_lora_rank is not None:
        w.add_q_lora_rank(c.q_lora_rank)
    w.add_leading_dense_block_count(c.first_k_dense_replace)
    w.add_expert_feed_forward_length(c.moe_intermediate_size)
    w.add_expert_count(c.n_routed_experts)
    w.add_expert_shared_count(c.n_shared_experts)
    w.add_expert_used_count(c.num_experts_per_tok)
    w.add_expert_weights_scale(c.routed_scaling_factor)
    w.add_expert_weights_norm(c.norm_topk_prob)
    name = "SIGMOID" if c.topk_method == "noaux_tc" else "SOFTMAX"
    w.add_expert_gating_func(ExpertGatingFuncType[name])
    if c.topk_group < c.n_group:  # which the loader asserts; otherwise all groups are open
        w.add_expert_group_count(c.n_group)
        w.add_expert_group_used_count(c.topk_group)


def _add_rope_scaling(w: "GGUFWriter", c: ModelConfig) -> None:
    """Linear and yarn; llama3's bands are a tensor."""
    from gguf import RopeScalingType

    s = c.rope_scaling
    if s.rope_type not in ("linear", "yarn"):
        return
    w.add_rope_scaling_type(RopeScalingType(s.rope_type))
    w.add_rope_scaling_factor(s.factor)
    if s.rope_type == "linear":
        return
    w.add_rope_scaling_orig_ctx_len(s.original_max_position_embeddings)
    w.add_rope_scaling_yarn_beta_fast(s.beta_fast)
    w.add_rope_scaling_yarn_beta_slow(s.beta_slow)
    if c.latent:
        w.add_rope_scaling_yarn_log_mul(0.1 * s.mscale_all_dim)  # the loader divides by 0.1
        return
    usual = replace(s, mscale=0.0, mscale_all_dim=0.0, attention_factor=0.0).turn_factor
    w.add_rope_scaling_attn_factors(s.turn_factor / usual)


@dataclass(frozen=True)
class _Written:
    """One tensor of the file to be: the numbers of `parts`, one after the other, in rows."""

    name: str
    shape: tuple[int, ...]
    kind: "GGMLQuantizationType"
    parts: list[Tensor]


def _plan(model: LanguageModel, precision: Precision) -> list[_Written]:
    import gguf

    kinds, c = gguf.GGMLQuantizationType, model.config
    arch = gguf.MODEL_ARCH[_architecture(c).upper()]
    names = gguf.get_tensor_name_map(arch, c.num_hidden_layers)
    plan, halves = list[_Written](), list[str]()
    for name, shape, parts in _tensors(model):
        key = name.replace("_correction_bias", "_correction.bias")  # as the converter has it
        own = names.get_name(key, (".weight", ".bias"))
        assert own is not None, name
        precise = len(shape) == 1 or name.endswith(".mlp.gate.weight")
        kind = kinds.F32 if precise else kinds[precision.upper()]
        if kind == kinds.Q8_0 and shape[-1] % 32:
            kind = kinds.F16  # as the converter does
            halves.append(own)
        plan.append(_Written(own, shape, kind, parts))
    if halves:
        log.warning(
            "q8_0 takes rows in blocks of 32: %d tensors of other rows, the first of them %s, are "
            "written in f16",
            len(halves),
            halves[0],
        )
    return plan


def _tensors(model: LanguageModel) -> Iterator[tuple[str, tuple[int, ...], list[Tensor]]]:
    """The converter's tensors by Hub names, shapes, and views of what fills them in order."""
    c = model.config
    if c.rope_scaling.rope_type == "llama3":
        plain = frequencies(c.head_dim, c.rope_theta)
        divisors = plain / frequencies(c.head_dim, c.rope_theta, c.rope_scaling)
        yield _ROPE_FREQS, (c.head_dim // 2,), [divisors]
    stacked: dict[str, list[Tensor]] = {}
    for name, tensor in hub_tensors(model).items():
        if not name.startswith(f"model.layers.{c.num_hidden_layers}."):
            stacked.setdefault(re.sub(r"\.experts\.\d+\.", ".experts.", name), []).append(tensor)
    for name, parts in stacked.items():
        shape = tuple(parts[0].shape)
        if ".experts." in name:
            yield name, (len(parts), *shape), parts
        elif name.endswith(".kv_b_proj.weight"):  # as absorbed: keys' matrices transposed
            heads = parts[0].unflatten(0, (c.num_attention_heads, -1))
            keys, values = heads.split([c.qk_nope_head_dim, c.v_head_dim], dim=1)
            for own, view in (("k_b", keys.transpose(1, 2)), ("v_b", values)):
                yield name.replace("kv_b", own), tuple(view.shape), [view]
        elif c.model_type == "llama" and re.search(r"\.[qk]_proj\.", name):
            heads = parts[0].unflatten(0, (-1, 2, c.head_dim // 2))
            yield name, shape, [heads.transpose(1, 2)]  # pairs side by side, not half a head apart
        else:
            yield name, shape, parts


def _write(writer: "GGUFWriter", plan: list[_Written], path: Path) -> None:
    import gguf

    sizes = list[int]()
    for w in plan:
        in_bytes = gguf.quant_shape_to_byte_shape(w.shape, w.kind)
        sizes.append(prod(in_bytes))
        writer.add_tensor_info(w.name, in_bytes, np.dtype(np.uint8), sizes[-1], w.kind)
    try:
        writer.write_header_to_file(path)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        assert writer.fout is not None
        file = writer.fout[0]
        writer.write_padding(file, file.tell())
        for w, size in zip(plan, sizes, strict=True):
            end = file.tell() + size
            for part in w.parts:
                for rows in part.split(max(1, CHUNK // part[0].numel())):
                    single = rows.to("cpu", torch.float32).reshape(-1, w.shape[-1])
                    stored = single.half() if w.kind == gguf.GGMLQuantizationType.F16 else single
                    check_finite(w.name, stored.contiguous())
                    numbers = single.numpy()
                    file.write(np.ascontiguousarray(gguf.quantize(numbers, w.kind)).data)
            assert file.tell() == end, w.name
            writer.write_padding(file, size)
        file.flush()
        os.fsync(file.fileno())
    finally:
        writer.close()
