"""The peak of one training step on one device in eager PyTorch, by walking through the step.

A step is written down as the operations that `transformers` or Benthic run, each with the tensors
that it makes, those that autograd keeps for it, and what it needs in passing. `_Tape.peak` then
plays forward and backward: a tensor dies with its last use or, if it was kept, when backward has
passed the operation; gradients of activations live until they are used, those of parameters stay.

Where eager differs from fused training (`benthic.cost.memory`): no master weights (all of a
parameter's state has its dtype); RMSNorm keeps its input, in fp32, and the normed values apart from
their product with the weight; SiLU's output is kept beside its input; logits live three times over
in fp32 while the loss is differentiated; attention whose values are narrower than its keys leaves
the fused kernel, as eager attention has no other way, and keeps the square of scores; experts gather
tokens, weigh and scatter them in copies; the optimizer takes temporaries. Counted is what tensors
hold: not Python, libraries, threads' stacks or the allocator's holes, hundreds of megabytes.
Left out: autocast, checkpointing, experts in a loop, sliding windows, dropout but for learned
positions (GPT-2).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from benthic.cost.catalog import CostError
from benthic.cost.shape import Shape

Implementation = Literal["transformers", "benthic"]
Attention = Literal["sdpa", "eager"]
_SHORT = 256  # positions up to which Benthic's attention takes plain products on a CPU
_SIZES = {"fp32": 4, "bf16": 2}
_MOST = 10**8


@dataclass(frozen=True)
class Peak:
    """Bytes at the step's peak, and `moment`: forward, backward or optimizer. `activations` is
    what autograd keeps at the end of forward, gradients and weights not counted."""

    total: float
    moment: str
    weights: float
    optimizer: float
    activations: float


@dataclass(eq=False)
class _Tensor:
    size: float
    storage: "_Tensor | None" = None  # of which this is a view
    grad: bool = True

    @property
    def home(self) -> "_Tensor":
        return self.storage or self


@dataclass(eq=False)
class _Gradient:
    size: float
    owners: int = 1


@dataclass(eq=False)
class _Op:
    inputs: Sequence[_Tensor]
    outs: Sequence[_Tensor]
    saves: Sequence[_Tensor]
    weights: Sequence[int]
    keeps: float  # bytes made in forward and kept for backward alone
    forward: float  # bytes in passing
    backward: float
    passes: bool  # hands its gradient on without a copy


@dataclass(frozen=True)
class _Weight:
    rows: int
    columns: int
    count: int
    projection: bool  # of those that Muon takes

    @property
    def elements(self) -> int:
        return self.rows * self.columns * self.count


@dataclass
class _Tape:
    """One step's operations; sizes in bytes."""

    ops: list[_Op] = field(default_factory=list)
    weights: list[_Weight] = field(default_factory=list)

    def weight(
        self, rows: int, columns: int = 1, count: int = 1, *, projection: bool = False
    ) -> int:
        self.weights.append(_Weight(rows, columns, count, projection))
        return len(self.weights) - 1

    def op(
        self,
        inputs: Sequence[_Tensor],
        *sizes: float,
        saves: Sequence[_Tensor] = (),
        weights: Sequence[int] = (),
        keeps: float = 0.0,
        forward: float = 0.0,
        backward: float = 0.0,
    ) -> list[_Tensor]:
        """An operation that makes tensors of `sizes`."""
        outs = [_Tensor(size) for size in sizes]
        self.ops.append(_Op(inputs, outs, saves, weights, keeps, forward, backward, False))
        return outs

    def one(self, inputs: Sequence[_Tensor], size: float, **how: object) -> _Tensor:
        (out,) = self.op(inputs, size, **how)  # type: ignore[arg-type]
        return out

    def add(self, one: _Tensor, other: _Tensor) -> _Tensor:
        out = _Tensor(one.size)
        self.ops.append(_Op([one, other], [out], (), (), 0.0, 0.0, 0.0, True))
        return out

    def split(self, x: _Tensor, *sizes: float) -> list[_Tensor]:
        """Views of parts of `x`; backward joins their gradients in a new tensor."""
        outs = [_Tensor(size, x.home) for size in sizes]
        self.ops.append(_Op([x], outs, (), (), 0.0, 0.0, 0.0, False))
        return outs

    def peak(self, static: float, weight_bytes: int, held: _Tensor | None) -> tuple[float, ...]:
        """Greatest bytes in forward and in backward, bytes kept between them, bytes at the end."""
        last = {t.home: i for i, op in enumerate(self.ops) for t in (*op.inputs, *op.saves)}
        kept: dict[_Tensor, int] = {held: 1} if held else {}
        now = top = static
        for i, op in enumerate(self.ops):
            now += op.keeps + sum(t.size for t in op.outs if t.storage is None)
            top = max(top, now + op.forward)
            for t in op.saves:
                kept[t.home] = kept.get(t.home, 0) + 1
            for t in {t.home for t in (*op.inputs, *op.outs, *op.saves)}:
                if last.get(t, i) == i and t not in kept:
                    now -= t.size
        forward, between = top, now
        grads: dict[_Tensor, _Gradient] = {self.ops[-1].outs[0]: _Gradient(0.0)}
        done: set[int] = set()
        for op in reversed(self.ops):
            outs = [grads.pop(t) for t in op.outs if t in grads]
            wanted = [t for t in op.inputs if t.grad] if outs else []
            if op.passes:
                made = [outs[0] for _ in wanted]
                for g in made:
                    g.owners += 1
            else:
                made = [_Gradient(t.size) for t in wanted]
                now += sum(g.size for g in made)
            now += sum(self.weights[w].elements for w in op.weights) * weight_bytes
            top = max(top, now + op.backward)
            for w in op.weights:
                if w in done:  # a second gradient is added to the first, in place
                    now -= self.weights[w].elements * weight_bytes
                done.add(w)
            for t, g in zip(wanted, made, strict=True):
                old = grads.get(t)
                if old is None:
                    grads[t] = g
                    continue
                if old.owners > 1:  # somebody else still reads it: the sum is a new tensor
                    now += t.size
                    top = max(top, now)
                    grads[t] = _Gradient(t.size)
                    now -= _let_go(old)
                now -= _let_go(g)
            now -= sum(_let_go(g) for g in outs) + op.keeps
            for t in op.saves:
                kept[t.home] -= 1
                if not kept[t.home]:
                    now -= t.home.size
        rest = (w.elements for i, w in enumerate(self.weights) if i not in done)
        now += sum(rest) * weight_bytes  # biases, which no operation names
        return forward, max(top, now), between - static, now


def _let_go(gradient: _Gradient) -> float:
    gradient.owners -= 1
    return 0.0 if gradient.owners else gradient.size


def single_device(
    shape: Shape,
    batch: int,
    seq: int,
    *,
    precision: Literal["fp32", "bf16"] = "fp32",
    optimizer: Literal["adamw", "muon"] = "adamw",
    implementation: Implementation = "transformers",
    attention: Attention = "sdpa",
    dropout: bool = False,
    hold_logits: bool = False,
) -> Peak:
    """Peak bytes of a training step after the first, on `batch` rows of `seq` tokens.

    `precision` is the dtype of weights, gradients, moments and activations alike. `transformers`:
    `model(input_ids=x, labels=x).loss.backward()` in training mode with the cache it makes, and
    torch's AdamW, one tensor at a time as on a CPU; `hold_logits` if the model's whole output is
    kept over backward. `benthic`: `train_step` on one part with document masks, in fp32; its
    AdamW, or Muon for matrices. Raises CostError for sizes and choices that cannot be.
    """
    _check(shape, batch, seq, precision, optimizer, implementation, attention, dropout)
    size = _SIZES[precision]
    step = _Step(shape, batch, seq, size, implementation == "benthic", attention, dropout)
    logits = step.whole()
    tape = step.tape
    weights = float(sum(w.elements for w in tape.weights) * size)
    matrices = [w for w in tape.weights if w.projection] if optimizer == "muon" else []
    state = 2 * weights - size * sum(w.elements for w in matrices)
    static = weights + state + step.tables()
    forward, backward, kept, end = tape.peak(static, size, logits if hold_logits else None)
    if implementation == "benthic":
        passing = _benthic_optimizer(tape.weights, matrices, size)
    else:  # the root of a second moment and its quotient, of the largest parameter
        passing = 2.0 * size * max(w.elements for w in tape.weights)
    moments = {"forward": forward, "backward": backward, "optimizer": end + passing}
    if backward == forward:
        del moments["backward"]
    moment = max(moments, key=lambda m: moments[m])
    return Peak(moments[moment], moment, weights, state, kept)


def _benthic_optimizer(weights: list[_Weight], matrices: list[_Weight], size: int) -> float:
    """Temporaries: of Muon per group of equal matrices four copies (the step ahead, flat; an
    iterate, the next) and two squares each; of AdamW one copy of all that it takes."""
    groups: dict[tuple[int, int], int] = {}
    for w in matrices:
        groups[w.rows, w.columns] = groups.get((w.rows, w.columns), 0) + w.count
    most = max(
        (n * (4.0 * r * k + 2 * min(r, k) ** 2) for (r, k), n in groups.items()), default=0.0
    )
    elements = sum(w.elements for w in weights) - sum(w.elements for w in matrices)
    return size * max(most, float(elements))


class _Step:
    """Writes one step of a network down; N tokens, sizes in bytes."""

    def __init__(
        self,
        shape: Shape,
        batch: int,
        seq: int,
        size: int,
        benthic: bool,
        attention: Attention,
        dropout: bool,
    ) -> None:
        self.shape, self.batch, self.seq, self.size = shape, batch, seq, size
        self.benthic, self.attention, self.dropout = benthic, attention, dropout
        self.tokens = batch * seq
        self.tape = _Tape()
        self.mask = _Tensor(float(batch * seq * seq * 4), grad=False)

    def wide(self, elements: float) -> float:
        """Bytes of so many elements a token in the step's dtype."""
        return float(self.tokens * elements * self.size)

    def tables(self) -> float:
        """Bytes of tensors that live through the step: ids, labels, tables of rotations."""
        shape = self.shape
        turned = shape.rope_dim or shape.head_dim
        ids = 4 * 8.0 * self.tokens
        if shape.learned_positions:
            return ids
        if self.benthic:
            return ids + 4.0 * shape.max_positions * turned
        return ids + 2.0 * self.seq * turned * self.size

    def whole(self) -> _Tensor:
        """Embedding, blocks, head and loss; the main logits."""
        shape, tape = self.shape, self.tape
        table = tape.weight(shape.vocab, shape.hidden)
        row = self.wide(shape.hidden)
        if self.benthic:
            tape.ops.append(_Op([], [self.mask], (), (), 0.0, self.mask.size / 2, 0.0, False))
        x = tape.one([], row, weights=[table])
        if shape.learned_positions:
            places = tape.weight(shape.max_positions, shape.hidden)
            x = tape.add(x, tape.one([], row / self.batch, weights=[places]))
            x = self._drop(x)
        for i in range(shape.layers):
            after = i - shape.dense_layers + 1
            x = self.block(x, sparse=after > 0 and after % shape.moe_every == 0)
        if shape.vectors:
            tape.weight(shape.vectors)
        x = self.norm(x, shape.hidden)
        head = table if shape.tied else tape.weight(shape.vocab, shape.hidden)
        logits, loss = self.loss(x, head)
        for _ in range(shape.mtp if self.benthic else 0):
            ahead = tape.one([], row, weights=[table])
            normed = [self.norm(ahead, shape.hidden), self.norm(x, shape.hidden)]
            joint = tape.one(normed, 2 * row)
            joint = self.linear(joint, 2 * shape.hidden, shape.hidden)
            deep = self.norm(self.block(joint, sparse=True), shape.hidden)
            _, further = self.loss(deep, head)
            loss = tape.add(loss, further)
        return logits

    def block(self, x: _Tensor, *, sparse: bool) -> _Tensor:
        shape, tape = self.shape, self.tape
        normed = self.norm(x, shape.hidden)
        if shape.attention_vectors:
            tape.weight(shape.attention_vectors)
        mixed = self.latent(normed) if shape.latent else self.grouped(normed)
        x = tape.add(x, self._drop(mixed))
        normed = self.norm(x, shape.hidden)
        fed = self.experts(normed) if sparse else self.mlp(normed, shape.ffn)
        return tape.add(x, self._drop(fed))

    def norm(self, x: _Tensor, width: int, heads: int = 0) -> _Tensor:
        """Over the last `width`; of each head, its weight is among `attention_vectors`."""
        shape, count = self.shape, self.tokens * max(1, heads)
        vectors = [] if heads else [self.tape.weight(width) for _ in range(shape.norm_vectors)]
        out = count * width * self.size
        if shape.norm_vectors != 1:  # LayerNorm, fused
            return self.tape.one([x], out, saves=[x], weights=vectors, keeps=8 * count)
        values = count * width
        keeps = out + 4 * count
        if self.size < 4:  # the input once more, in fp32, which is kept in its stead
            keeps += 4 * values
        # Five fp32 temporaries when the normed values and the incoming gradient are gone.
        backward = values * (20 - 3 * self.size)
        saves = [x] if self.size == 4 else []
        return self.tape.one(
            [x],
            out,
            saves=saves,
            weights=vectors,
            keeps=keeps,
            forward=4 * values,
            backward=backward,
        )

    def linear(self, x: _Tensor, inner: int, outer: int) -> _Tensor:
        weight = self.tape.weight(outer, inner, projection=True)
        return self.tape.one([x], self.wide(outer), saves=[x], weights=[weight])

    def rope(self, x: _Tensor) -> _Tensor:
        """Keeps cosine and sine alone."""
        return self.tape.one([x], x.size, forward=1.5 * x.size, backward=2 * x.size)

    def copy(self, x: _Tensor, size: float | None = None) -> _Tensor:
        return self.tape.one([x], x.size if size is None else size)

    def grouped(self, x: _Tensor) -> _Tensor:
        shape, tape = self.shape, self.tape
        queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        values = shape.kv_heads * shape.value_dim
        if shape.learned_positions:  # GPT-2: one product, of which the cache copies a part
            joint = self.linear(x, shape.hidden, queries + keys + values)
            sizes = (self.wide(w) for w in (queries, keys, values))
            q, k, v = tape.split(joint, *sizes)
            return self.linear(
                self.attend(q, self.copy(k), self.copy(v)),
                shape.heads * shape.value_dim,
                shape.hidden,
            )
        q, k, v = (self.linear(x, shape.hidden, w) for w in (queries, keys, values))
        if shape.head_norms:
            q = self.norm(q, shape.head_dim, shape.heads)
            k = self.norm(k, shape.head_dim, shape.kv_heads)
        q, k = self.rope(q), self.rope(k)
        if self.benthic:  # entries of the cache, then a copy for each head
            entries = tape.one([k, v], k.size + v.size)
            k, v = tape.split(entries, k.size, v.size)
            times = shape.heads // shape.kv_heads
            if times > 1:
                k, v = self.copy(k, times * k.size), self.copy(v, times * v.size)
        else:
            k, v = self.copy(k), self.copy(v)
        return self.linear(self.attend(q, k, v), shape.heads * shape.value_dim, shape.hidden)

    def latent(self, x: _Tensor) -> _Tensor:
        shape, tape = self.shape, self.tape
        heads, nope = shape.heads, shape.head_dim - shape.rope_dim
        queries = heads * shape.head_dim
        if shape.q_rank:
            low = self.norm(self.linear(x, shape.hidden, shape.q_rank), shape.q_rank)
            q = self.linear(low, shape.q_rank, queries)
        else:
            q = self.linear(x, shape.hidden, queries)
        plain, turning = tape.split(q, self.wide(heads * nope), self.wide(heads * shape.rope_dim))
        joint = self.linear(x, shape.hidden, shape.kv_rank + shape.rope_dim)
        latent, key = tape.split(joint, self.wide(shape.kv_rank), self.wide(shape.rope_dim))
        latent, key = self.norm(latent, shape.kv_rank), self.rope(key)
        q = tape.one([plain, self.rope(turning)], self.wide(queries))
        if self.benthic:
            entry = tape.one([latent, key], latent.size + key.size)
            latent, key = tape.split(entry, latent.size, key.size)
        latent = self.copy(latent)  # into the cache, or out of the entry
        both = self.linear(latent, shape.kv_rank, heads * (nope + shape.value_dim))
        bare, v = tape.split(both, self.wide(heads * nope), self.wide(heads * shape.value_dim))
        k = tape.one([bare, key], self.wide(queries))
        return self.linear(self.attend(q, k, v), heads * shape.value_dim, shape.hidden)

    def attend(self, q: _Tensor, k: _Tensor, v: _Tensor) -> _Tensor:
        """Queries, keys and values to what the last product takes."""
        shape = self.shape
        out = self.wide(shape.heads * shape.value_dim)
        if self.benthic:
            if self.seq <= _SHORT:
                q, k, v = self.copy(q), self.copy(k), self.copy(v)
                return self.squares(q, k, v, out, scaled=False, mask=True)
            v = self.copy(v, q.size)  # as wide as the queries, whether or not it was
            mixed = self.fused(q, k, v, q.size, saves=[self.mask])
            return mixed if out == q.size else self.copy(mixed, out)
        if self.attention == "sdpa":
            if shape.head_dim == shape.value_dim and not self.dropout:
                return self.fused(q, k, v, out)
            k, v = self._repeat(k), self._repeat(v)
            if self.size < 4:  # the plain path computes in fp32
                q, k, v = (self.copy(t, 2 * t.size) for t in (q, k, v))
            q, k, v = self.copy(q), self.copy(k), self.copy(v) if shape.latent else v
            return self.squares(q, k, v, out, scaled=False, mask=False)
        k, v, q = self._repeat(k), self._repeat(v), self.copy(q)
        v = self.copy(v) if shape.latent else v
        return self.squares(q, k, v, out, scaled=True, mask=False)

    def fused(
        self, q: _Tensor, k: _Tensor, v: _Tensor, out: float, saves: Sequence[_Tensor] = ()
    ) -> _Tensor:
        """The fused kernel, which keeps its inputs, its output, and a number each row in fp32."""
        mixed = self.tape.one(
            [q, k, v], out, saves=[q, k, v, *saves], keeps=4.0 * self.tokens * self.shape.heads
        )
        self.tape.ops[-1].saves = [*self.tape.ops[-1].saves, mixed]
        return mixed

    def squares(
        self, q: _Tensor, k: _Tensor, v: _Tensor, out: float, *, scaled: bool, mask: bool
    ) -> _Tensor:
        """By plain products: scores, softmax, weighted sum."""
        tape = self.tape
        count = float(self.batch * self.shape.heads * self.seq * self.seq)
        precise = not scaled  # the dtype of scores: fp32 in kernels, the step's own in Python
        each = 4.0 if precise else float(self.size)
        seen = count * each if mask else 0.0
        scores = tape.one([q, k], count * each, saves=[q, k], forward=seen)
        if scaled:
            scores = self.copy(scores)  # times the scale
        scores = tape.add(scores, _Tensor(0.0, grad=False))
        if scaled and self.size < 4 and not self.shape.learned_positions:
            high = self.copy(scores, 4 * count)
            share = self._softmax(high)
            share = self.copy(share, count * self.size)
        else:
            share = self._softmax(scores)
        share = self._drop(share)
        mixed = tape.one([share, v], out * each / self.size, saves=[share, v])
        if precise and self.size < 4:
            mixed = self.copy(mixed, out)
        return self.copy(mixed)  # heads side by side

    def _softmax(self, scores: _Tensor) -> _Tensor:
        share = self.tape.one([scores], scores.size)
        self.tape.ops[-1].saves = [share]
        return share

    def _repeat(self, x: _Tensor) -> _Tensor:
        times = 1 if self.shape.latent else self.shape.heads // self.shape.kv_heads
        return self.copy(x, times * x.size) if times > 1 else x

    def mlp(self, x: _Tensor, inner: int) -> _Tensor:
        hidden = self.shape.hidden
        if self.shape.mlp_vectors and inner == self.shape.ffn:
            self.tape.weight(self.shape.mlp_vectors)
        if self.shape.gated:
            gate = self._silu(self.linear(x, hidden, inner))
            up = self.linear(x, hidden, inner)
            return self.linear(self._times(gate, up), inner, hidden)
        bare = self.linear(x, hidden, inner)
        if not self.shape.learned_positions:  # one operation
            return self.linear(self.tape.one([bare], bare.size, saves=[bare]), inner, hidden)
        # GPT-2's GELU in Python: half the input, tanh, one plus it, and the cube's input are kept.
        curve = self.tape.one(
            [bare],
            bare.size,
            saves=[bare],
            keeps=3 * bare.size,
            forward=bare.size,
            backward=bare.size,
        )
        return self.linear(curve, inner, hidden)

    def _silu(self, x: _Tensor) -> _Tensor:
        return self.tape.one([x], x.size, saves=[x])

    def _times(self, one: _Tensor, other: _Tensor) -> _Tensor:
        return self.tape.one([one, other], one.size, saves=[one, other])

    def experts(self, x: _Tensor) -> _Tensor:
        """Router, gathered tokens, grouped products, weighed and put back; shared experts."""
        shape, tape = self.shape, self.tape
        chosen, inner, hidden = shape.experts_per_token, shape.expert_ffn, shape.hidden
        scores = 4.0 * self.tokens * shape.experts
        router = tape.weight(shape.experts, hidden)
        high = 4.0 * self.tokens * hidden if self.size < 4 and shape.latent else 0.0
        hot = 8.0 * self.tokens * chosen * shape.experts if self.benthic else 0.0
        weigh = tape.one(
            [x],
            4.0 * self.tokens * chosen,
            saves=[x],
            weights=[router],
            keeps=2 * scores + high,
            forward=2 * scores + hot,
            backward=2 * scores + high,
        )
        ids = 3 * 8.0 * self.tokens * chosen
        pairs = self.wide(chosen * hidden)
        shared = shape.shared_experts * inner
        fed = self.mlp(x, shared) if shared and self.benthic else None
        spread = tape.one([x], pairs, keeps=ids, backward=0.0 if self.benthic else x.size)
        up = tape.weight((1 + shape.gated) * inner, hidden, shape.experts, projection=True)
        width = self.wide(chosen * inner)
        both = tape.one([spread], (1 + shape.gated) * width, saves=[spread], weights=[up])
        if shape.gated:
            first, second = tape.split(both, width, width)
            middle = self._times(self._silu(first), second)
        else:
            middle = self._silu(both)
        down = tape.weight(hidden, inner, shape.experts, projection=True)
        back = tape.one([middle], pairs, saves=[middle], weights=[down])
        row = self.wide(hidden)
        if self.benthic:  # rows back in order are kept, weighed and summed in one product
            ordered = tape.one([back, weigh], row, keeps=pairs, backward=pairs)
            out = ordered
        else:
            weighed = 4.0 * self.tokens * chosen * hidden  # the weights are fp32
            times = tape.one([back, weigh], weighed, saves=[back, weigh], backward=weighed)
            ordered = tape.one([times], weighed, backward=2 * weighed)
            out = tape.one([ordered], row)
            tape.ops[-1].passes = True
        if shape.router_vectors:
            tape.weight(shape.router_vectors)
        if shape.expert_vectors:
            tape.weight(shape.expert_vectors, 1, shape.experts)
        if shared and fed is None:
            fed = self.mlp(x, shared)
        return tape.add(out, fed) if fed else out

    def loss(self, x: _Tensor, head: int) -> tuple[_Tensor, _Tensor]:
        tape, vocab = self.tape, self.shape.vocab
        logits = tape.one([x], self.wide(vocab), saves=[x], weights=[head])
        precise = logits if self.size == 4 else self.copy(logits, 4.0 * self.tokens * vocab)
        log_p = tape.one([precise], 4.0 * self.tokens * vocab)
        tape.ops[-1].saves = [log_p]
        alive = [_Tensor(0.0, logits, grad=False), *([self.mask] if self.benthic else [])]
        loss = tape.one([log_p, *alive], 0.0)
        return logits, loss

    def _drop(self, x: _Tensor) -> _Tensor:
        """Dropout keeps its noise, in the input's dtype."""
        return self.tape.one([x], x.size, keeps=x.size) if self.dropout else x


def _check(
    shape: Shape,
    batch: int,
    seq: int,
    precision: str,
    optimizer: str,
    implementation: str,
    attention: str,
    dropout: bool,
) -> None:
    for name, value in (("the batch", batch), ("the sequence", seq)):
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _MOST:
            raise CostError(f"{name} is {value!r}: it must be a whole number from 1 to {_MOST}")
    for name, value, choices in (
        ("precision", precision, tuple(_SIZES)),
        ("optimizer", optimizer, ("adamw", "muon")),
        ("implementation", implementation, get_args(Implementation)),
        ("attention", attention, get_args(Attention)),
    ):
        if value not in choices:
            raise CostError(f"{name} is {value!r}: choose from {', '.join(choices)}")
    if shape.learned_positions and seq > shape.max_positions:
        raise CostError(
            f"a sequence of {seq} tokens exceeds the {shape.max_positions} learned positions of "
            f"{shape.name}: shorten it"
        )
    if implementation == "benthic" and (precision != "fp32" or dropout or attention != "sdpa"):
        raise CostError("Benthic trains in fp32 without dropout: leave those options out")
    if implementation != "benthic" and optimizer != "adamw":
        raise CostError(f"optimizer {optimizer!r} is Benthic's own: use adamw with transformers")
