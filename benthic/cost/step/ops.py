"""The operations of one training step in eager PyTorch, as `transformers` or Benthic runs them.

`Step.whole` writes a network's forward pass down on a `Tape`, operation by operation, with the
tensors that autograd keeps for each and what backward needs in passing; `benthic.cost.step.eager`
says what is counted and plays it. Read off both programs' modules: rotary embeddings keep cosine
and sine alone; the cache that `transformers` makes in training copies keys and values; products in
fp32 keep the input in fp32.
"""

from collections.abc import Sequence
from typing import Literal

from benthic.cost.network.shape import Shape
from benthic.cost.step.tape import Tape, Tensor

Attention = Literal["sdpa", "eager"]
Activation = Literal["", "silu", "gelu", "gelu_new", "relu"]
_SHORT = 256  # positions up to which Benthic's attention takes plain products on a CPU


class Step:
    """Writes one step of a network down; N tokens, sizes in bytes."""

    def __init__(
        self,
        shape: Shape,
        batch: int,
        seq: int,
        size: int,
        benthic: bool,
        attention: Attention,
        activation: Activation,
        dropout: bool,
    ) -> None:
        self.shape, self.batch, self.seq, self.size = shape, batch, seq, size
        self.benthic, self.attention, self.dropout = benthic, attention, dropout
        usual: Activation = "gelu_new" if shape.learned_positions else "gelu"
        self.activation = "silu" if shape.gated else activation or usual
        self.tokens = batch * seq
        self.tape = Tape()
        self.mask = Tensor(0.0)

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

    def whole(self) -> Tensor:
        """Embedding, blocks, head and loss; the main logits."""
        shape, tape = self.shape, self.tape
        table = tape.weight(shape.vocab, shape.hidden)
        row = self.wide(shape.hidden)
        if self.benthic:
            square = float(self.batch * self.seq * self.seq * 4)
            self.mask = tape.one([], square, forward=square / 2)
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

    def block(self, x: Tensor, *, sparse: bool) -> Tensor:
        shape, tape = self.shape, self.tape
        normed = self.norm(x, shape.hidden)
        if shape.attention_vectors:
            tape.weight(shape.attention_vectors)
        mixed = self.latent(normed) if shape.latent else self.grouped(normed)
        x = tape.add(x, self._drop(mixed))
        normed = self.norm(x, shape.hidden)
        fed = self.experts(normed) if sparse else self.mlp(normed, shape.ffn)
        return tape.add(x, self._drop(fed))

    def norm(self, x: Tensor, width: int, heads: int = 0) -> Tensor:
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

    def linear(self, x: Tensor, inner: int, outer: int) -> Tensor:
        weight = self.tape.weight(outer, inner, projection=True)
        return self.tape.one([x], self.wide(outer), saves=[x], weights=[weight])

    def rope(self, x: Tensor) -> Tensor:
        """Keeps cosine and sine alone."""
        return self.tape.one([x], x.size, forward=1.5 * x.size, backward=2 * x.size)

    def copy(self, x: Tensor, size: float | None = None) -> Tensor:
        return self.tape.one([x], x.size if size is None else size)

    def grouped(self, x: Tensor) -> Tensor:
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

    def latent(self, x: Tensor) -> Tensor:
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

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
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
        self, q: Tensor, k: Tensor, v: Tensor, out: float, saves: Sequence[Tensor] = ()
    ) -> Tensor:
        """The fused kernel, which keeps its inputs, its output, and a number each row in fp32."""
        mixed = self.tape.one(
            [q, k, v], out, saves=[q, k, v, *saves], keeps=4.0 * self.tokens * self.shape.heads
        )
        self.tape.ops[-1].saves = [*self.tape.ops[-1].saves, mixed]
        return mixed

    def squares(
        self, q: Tensor, k: Tensor, v: Tensor, out: float, *, scaled: bool, mask: bool
    ) -> Tensor:
        """By plain products: scores, softmax, weighted sum."""
        tape = self.tape
        count = float(self.batch * self.shape.heads * self.seq * self.seq)
        precise = not scaled  # the dtype of scores: fp32 in kernels, the step's own in Python
        each = 4.0 if precise else float(self.size)
        seen = count * each if mask else 0.0
        scores = tape.one([q, k], count * each, saves=[q, k], forward=seen)
        if scaled:
            scores = self.copy(scores)  # times the scale
        scores = tape.add(scores, Tensor(0.0, grad=False))
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

    def _softmax(self, scores: Tensor) -> Tensor:
        share = self.tape.one([scores], scores.size)
        self.tape.ops[-1].saves = [share]
        return share

    def _repeat(self, x: Tensor) -> Tensor:
        times = 1 if self.shape.latent else self.shape.heads // self.shape.kv_heads
        return self.copy(x, times * x.size) if times > 1 else x

    def mlp(self, x: Tensor, inner: int) -> Tensor:
        hidden = self.shape.hidden
        if self.shape.mlp_vectors and inner == self.shape.ffn:
            self.tape.weight(self.shape.mlp_vectors)
        if self.shape.gated:
            gate = self._silu(self.linear(x, hidden, inner))
            up = self.linear(x, hidden, inner)
            return self.linear(self._times(gate, up), inner, hidden)
        bare = self.linear(x, hidden, inner)
        if self.activation == "relu":  # keeps what comes out, as the next product does
            return self.linear(self.tape.one([bare], bare.size), inner, hidden)
        if self.activation != "gelu_new":
            return self.linear(self._silu(bare), inner, hidden)
        # GPT-2's GELU, written in Python, keeps its input, half of it, tanh, and one plus that.
        curve = self.tape.one(
            [bare],
            bare.size,
            saves=[bare],
            keeps=3 * bare.size,
            forward=bare.size,
            backward=bare.size,
        )
        return self.linear(curve, inner, hidden)

    def _silu(self, x: Tensor) -> Tensor:
        return self.tape.one([x], x.size, saves=[x])

    def _times(self, one: Tensor, other: Tensor) -> Tensor:
        return self.tape.one([one, other], one.size, saves=[one, other])

    def experts(self, x: Tensor) -> Tensor:
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
            passing = weighed if self.size == 4 else 2 * weighed  # products before the cast
            times = tape.one([back, weigh], weighed, saves=[back, weigh], backward=passing)
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

    def loss(self, x: Tensor, head: int) -> tuple[Tensor, Tensor]:
        tape, vocab = self.tape, self.shape.vocab
        logits = tape.one([x], self.wide(vocab), saves=[x], weights=[head])
        precise = logits if self.size == 4 else self.copy(logits, 4.0 * self.tokens * vocab)
        log_p = tape.one([precise], 4.0 * self.tokens * vocab)
        tape.ops[-1].saves = [log_p]
        alive = [Tensor(0.0, t, grad=False) for t in (logits, self.mask)]
        loss = tape.one([log_p, *alive], 0.0)
        return logits, loss

    def _drop(self, x: Tensor) -> Tensor:
        """Dropout keeps its noise, in the input's dtype."""
        return self.tape.one([x], x.size, keeps=x.size) if self.dropout else x
