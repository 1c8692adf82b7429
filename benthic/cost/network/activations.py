"""Bytes that autograd keeps between forward and backward, per token and layer.

With flash attention and fused norms and SwiGLU a layer keeps: the stream before each norm and the
norm's output (the products' input); queries, keys, values and attention's output; both halves of
the gate and their product. Latent attention adds each latent before and after its norm; experts
add a token's copies, one each way and chosen expert, and the routers' scores in fp32.
`selective` keeps no norm's output, no product of a gate and no keys, values or queries that come
from latents (V3 section 3.2.3), and of a token's copies those on the way in alone, as Megatron-Core
does, which weighs between the products; `full` keeps a layer's input alone, and computes one layer
at a time with all that `none` keeps.

`flash=False` is Megatron as it was in arXiv:2205.05198: scores, softmax and dropout's masks are
kept, 34 s b h + 5 a s^2 b bytes a layer, and `selective` gives up the scores alone.
`fused=False` is plain PyTorch: norms that compute in fp32, and the gate's activation apart.
"""

from typing import Literal

from benthic.cost.network.shape import Shape

Recompute = Literal["none", "selective", "full"]


def activation_bytes(
    shape: Shape,
    *,
    context: int,
    recompute: Recompute,
    bytes_per: float = 2.0,
    flash: bool = True,
    fused: bool = True,
) -> dict[str, dict[str, float]]:
    """Bytes a token by kind of layer, then by part; `bytes_per` is of a stored element.

    Kinds: `dense` and, where there are experts, `sparse`: one layer each; `head`: the last norm
    and the logits; `mtp`, where there are such blocks: one of them without its head.
    Parts: `stream` is as wide as the residual, so tensor parallelism splits it only with sequence
    parallelism; `attention`, `mlp`, `shared_experts` and `logits` it splits; `dispatch` (tokens'
    copies, with the routers' scores) and `experts` lie where the experts do, evenly on average.
    """
    hidden = shape.hidden
    lean = recompute == "selective" and flash
    norm = bytes_per * hidden if fused else 4.0 * hidden + bytes_per * hidden
    stream = shape.norms_per_layer * (bytes_per * hidden if lean else norm)
    stream += 0.0 if lean else 2 * bytes_per * hidden  # what the norms hand to the products
    stream += 0.0 if flash else 2.0 * hidden  # dropout's masks
    attention = bytes_per * _attention(shape, lean)
    if not (fused or lean):
        attention += 4.0 * _normed(shape)
    if flash:
        attention += 4.0 * shape.heads  # log-sum-exp, fp32
    elif recompute == "none":  # softmax, dropout's output, its mask
        attention += (2 * bytes_per + 1) * shape.heads * context
    gate = bytes_per * _gate(shape, lean, fused)
    feeds = {"dense": {"mlp": gate * shape.ffn}}
    if shape.experts:
        chosen = shape.experts_per_token  # a copy goes to each, and what comes out is weighed
        copies = 1 if recompute == "selective" else 2
        feeds["sparse"] = {
            "dispatch": copies * bytes_per * chosen * hidden + 4.0 * (shape.experts + 2 * chosen),
            "experts": gate * chosen * shape.expert_ffn,
            "shared_experts": gate * shape.shared_experts * shape.expert_ffn,
        }
    kinds = {
        kind: {"stream": stream, "attention": attention} | parts for kind, parts in feeds.items()
    }
    if recompute == "full":
        kinds = {kind: {"stream": bytes_per * hidden} for kind in feeds}
    # Plain PyTorch keeps logits as computed, in fp32, and their softmax; fused, the fp32 ones.
    logits = shape.vocab * (4.0 if fused else bytes_per + 8.0)
    head = {"stream": norm + bytes_per * hidden, "logits": logits}
    if not shape.mtp:
        return kinds | {"head": head}
    block = dict(kinds["sparse" if shape.experts else "dense"])
    block["stream"] += 2 * norm + 2 * bytes_per * hidden  # two norms, and the joint product's input
    return kinds | {"head": head, "mtp": block}


def _attention(shape: Shape, lean: bool) -> int:
    """Elements a token; a `lean` layer keeps latents before their norms and expands them again."""
    queries, values = shape.heads * shape.head_dim, shape.heads * shape.value_dim
    if not shape.latent:
        kept = queries + shape.kv_heads * (shape.head_dim + shape.value_dim) + values
        return kept + _normed(shape)
    if lean:
        direct = 0 if shape.q_rank else queries
        return _normed(shape) + shape.rope_dim + direct + values
    return 2 * _normed(shape) + 2 * queries + values + values


def _normed(shape: Shape) -> int:
    """Elements a token that attention norms inside: latents, or heads."""
    if shape.latent:
        return shape.q_rank + shape.kv_rank
    return shape.head_norms * (shape.heads + shape.kv_heads) * shape.head_dim


def _gate(shape: Shape, lean: bool, fused: bool) -> int:
    """Elements kept between the first and the last product, for each of its width."""
    if lean:
        return 1 + shape.gated
    return 2 + shape.gated + (shape.gated and not fused)
