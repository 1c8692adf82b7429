"""Every tensor of a checkpoint in the Hub's layout: names and shapes from the config alone.

DeepSeek stores experts one by one, the prediction block at layer `num_hidden_layers` with copies of
the embedding and the head, and, in FP8, a `weight_scale_inv` beside each projection of attention
and feed-forward. Tied models leave the head out. Never imports torch.
"""

from collections.abc import Iterator
from math import prod

from benthic.hub.config import Fp8Format
from benthic.hub.files import HubError, shown
from benthic.hub.safetensors import Checkpoint, Entry, Shard
from benthic.model.config import ModelConfig

Shape = tuple[int, ...]
SCALE = "_scale_inv"  # appended to the weight's name
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def layout(config: ModelConfig, fp8: Fp8Format | None = None) -> dict[str, Shape]:
    """Names to shapes, in the model's order; with FP8, the scales beside their weights."""
    plain = dict(_tensors(config))
    if fp8 is None:
        return plain
    out: dict[str, Shape] = {}
    for name, shape in plain.items():
        out[name] = shape
        if in_fp8(name):
            out[name + SCALE] = scale_shape(shape, fp8.block)
    return out


def in_fp8(name: str) -> bool:
    """Whether an FP8 checkpoint stores this tensor in FP8: projections of attention and MLPs."""
    projection = name.endswith(("_proj.weight", "_proj_with_mqa.weight"))
    return projection and not name.endswith("eh_proj.weight")


def stands_apart(name: str) -> bool:
    """Whether programs hold this tensor in a dtype of its own: norms and routers, often in fp32."""
    return name.endswith(("norm.weight", ".mlp.gate.weight"))


def scale_shape(shape: Shape, block: tuple[int, int]) -> Shape:
    """Shape of the scales of a weight [..., M, N]: the last two by the block, rounded up."""
    if len(shape) < 2 or 0 in shape:
        raise ValueError(f"a weight of shape {shape} has no blocks: it needs rows and columns")
    return (*shape[:-2], -(-shape[-2] // block[0]), -(-shape[-1] // block[1]))


def is_copy(name: str) -> bool:
    """Whether it is the prediction block's copy of the embedding or of the head."""
    return name.endswith((".shared_head.head.weight", ".embed_tokens.weight")) and (
        name.startswith("model.layers.")
    )


def elements(shapes: dict[str, Shape]) -> int:
    return sum(map(prod, shapes.values()))


def _tensors(c: ModelConfig) -> Iterator[tuple[str, Shape]]:
    width = c.hidden_size
    yield EMBEDDING, (c.vocab_size, width)
    for i in range(c.num_hidden_layers + c.num_nextn_predict_layers):
        at = f"model.layers.{i}"
        if i == c.num_hidden_layers:
            yield f"{at}.embed_tokens.weight", (c.vocab_size, width)
            yield f"{at}.enorm.weight", (width,)
            yield f"{at}.hnorm.weight", (width,)
            yield f"{at}.eh_proj.weight", (width, 2 * width)
        yield f"{at}.input_layernorm.weight", (width,)
        yield from _latent(c, f"{at}.self_attn") if c.latent else _grouped(c, f"{at}.self_attn")
        yield f"{at}.post_attention_layernorm.weight", (width,)
        if i < c.first_k_dense_replace:
            yield from _swiglu(f"{at}.mlp", width, c.intermediate_size, c.mlp_bias)
        else:
            yield from _sparse(c, f"{at}.mlp")
        if i == c.num_hidden_layers:
            yield f"{at}.shared_head.norm.weight", (width,)
            yield f"{at}.shared_head.head.weight", (c.vocab_size, width)
    yield "model.norm.weight", (width,)
    if not c.tie_word_embeddings:
        yield HEAD, (c.vocab_size, width)


def _latent(c: ModelConfig, at: str) -> Iterator[tuple[str, Shape]]:
    width, queries = c.hidden_size, c.num_attention_heads * c.qk_head_dim
    if c.q_lora_rank is None:
        yield f"{at}.q_proj.weight", (queries, width)
    else:
        yield f"{at}.q_a_proj.weight", (c.q_lora_rank, width)
        yield f"{at}.q_a_layernorm.weight", (c.q_lora_rank,)
        yield f"{at}.q_b_proj.weight", (queries, c.q_lora_rank)
    yield f"{at}.kv_a_proj_with_mqa.weight", (c.cache_width, width)
    yield f"{at}.kv_a_layernorm.weight", (c.kv_lora_rank,)
    up = c.num_attention_heads * (c.qk_nope_head_dim + c.v_head_dim)
    yield f"{at}.kv_b_proj.weight", (up, c.kv_lora_rank)
    yield f"{at}.o_proj.weight", (width, c.num_attention_heads * c.v_head_dim)


def _grouped(c: ModelConfig, at: str) -> Iterator[tuple[str, Shape]]:
    width = c.hidden_size
    queries, keys = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
    for name, rows in (("q", queries), ("k", keys), ("v", keys)):
        yield f"{at}.{name}_proj.weight", (rows, width)
        if c.qkv_bias:
            yield f"{at}.{name}_proj.bias", (rows,)
    yield f"{at}.o_proj.weight", (width, queries)
    if c.attention_bias:
        yield f"{at}.o_proj.bias", (width,)
    if c.qk_norm:
        yield f"{at}.q_norm.weight", (c.head_dim,)
        yield f"{at}.k_norm.weight", (c.head_dim,)


def _sparse(c: ModelConfig, at: str) -> Iterator[tuple[str, Shape]]:
    yield f"{at}.gate.weight", (c.n_routed_experts, c.hidden_size)
    if c.topk_method == "noaux_tc":
        yield f"{at}.gate.e_score_correction_bias", (c.n_routed_experts,)
    wide = c.n_shared_experts * c.moe_intermediate_size
    yield from _swiglu(f"{at}.shared_experts", c.hidden_size, wide)
    for e in range(c.n_routed_experts):
        yield from _swiglu(f"{at}.experts.{e}", c.hidden_size, c.moe_intermediate_size)


def _swiglu(at: str, width: int, inner: int, bias: bool = False) -> Iterator[tuple[str, Shape]]:
    for name, shape in (("gate", (inner, width)), ("up", (inner, width)), ("down", (width, inner))):
        yield f"{at}.{name}_proj.weight", shape
        if bias:
            yield f"{at}.{name}_proj.bias", shape[:1]


def fitted(config: ModelConfig, fp8: Fp8Format | None, checkpoint: Checkpoint) -> ModelConfig:
    """Check the checkpoint's tensors, names, shapes and dtypes, against the config's.

    Returns the config, without its prediction block where the files hold none of it, as those that
    transformers writes. The block's copies of embedding and head may be missing. Passed over are a
    block that config.json does not name, a tied head, and the rotary frequencies of old Llama
    files. HubError names the first tensor that is missing, unexpected, or of another shape or
    dtype.
    """
    held = checkpoint.entries
    ahead = f"model.layers.{config.num_hidden_layers}."
    if config.num_nextn_predict_layers and not any(name.startswith(ahead) for name in held):
        config = config.without_prediction()
    wanted = layout(config)
    for name, shape in wanted.items():
        if name not in held:
            if is_copy(name):
                continue
            raise HubError(
                f"{checkpoint.folder} lacks the tensor {name} {shape} that config.json asks for: "
                "fetch the files again, or the config.json that belongs to them"
            )
        shard, entry = held[name]
        _check(shard, name, entry, shape, _PLAIN + ("F8_E4M3",) * in_fp8(name))
        if entry.dtype == "F8_E4M3":
            _check_scale(checkpoint, name, shape, fp8)
    unnamed = ahead + "eh_proj.weight" in held and not config.num_nextn_predict_layers
    for name, (shard, entry) in held.items():
        if name in wanted or name.endswith(".rotary_emb.inv_freq"):
            continue
        if unnamed and name.startswith(ahead):
            continue
        if config.tie_word_embeddings and name == HEAD:
            _check(shard, name, entry, wanted[EMBEDDING], _PLAIN)
            continue
        weight = name.removesuffix(SCALE)
        scaled = weight in wanted and weight in held and held[weight][1].dtype == "F8_E4M3"
        if weight == name or not scaled:
            raise HubError(
                f"{shard.path} holds the tensor {shown(name)}, which a {config.model_type} of this "
                "config.json does not have: fetch the config.json that belongs to it"
            )
    return config


_PLAIN = ("F32", "F16", "BF16", "F64")


def _check(shard: Shard, name: str, entry: Entry, shape: Shape, dtypes: tuple[str, ...]) -> None:
    if entry.shape != shape:
        raise HubError(
            f"{shard.path} holds {name} as {entry.shape}, and config.json asks for {shape}: fetch "
            "the config.json that belongs to it"
        )
    if entry.dtype not in dtypes:
        raise HubError(
            f"{shard.path} holds {name} in {entry.dtype}, and {' or '.join(dtypes)} is read: "
            "convert the checkpoint to one of them"
        )


def _check_scale(checkpoint: Checkpoint, name: str, shape: Shape, fp8: Fp8Format | None) -> None:
    held = checkpoint.entries
    if fp8 is None:
        raise HubError(
            f"{held[name][0].path} holds {name} in F8_E4M3, and config.json has no "
            "quantization_config: fetch the config.json that belongs to it"
        )
    if name + SCALE not in held:
        raise HubError(
            f"{checkpoint.folder} lacks {name + SCALE}, the scales of an FP8 weight: fetch the "
            "files again"
        )
    shard, entry = held[name + SCALE]
    _check(shard, name + SCALE, entry, scale_shape(shape, fp8.block), ("F32", "BF16", "F8_E8M0"))
