"""A training step as a list of operations, and the memory that it takes at every moment.

An operation makes tensors, keeps some for backward and needs some in passing. `Tape.peak` plays
forward, then backward: a tensor dies with its last use or, if it was kept, when backward has passed
the operation; gradients of activations live until they are used, those of parameters stay. So
autograd's engine does it: operations in reverse, a gradient handed on where it is not changed, a
second one added in place unless somebody else still reads the first. Sizes are bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(eq=False)
class Tensor:
    size: float
    storage: "Tensor | None" = None  # of which this is a view
    grad: bool = True

    @property
    def home(self) -> "Tensor":
        return self.storage or self


@dataclass(eq=False)
class _Gradient:
    size: float
    owners: int = 1


@dataclass(eq=False)
class _Op:
    inputs: Sequence[Tensor]
    outs: Sequence[Tensor]
    saves: Sequence[Tensor]
    weights: Sequence[int]
    keeps: float  # bytes made in forward and kept for backward alone
    forward: float  # bytes in passing
    backward: float
    passes: bool  # hands its gradient on without a copy


@dataclass(frozen=True)
class Weight:
    rows: int
    columns: int
    count: int
    projection: bool  # of those that Muon takes

    @property
    def elements(self) -> int:
        return self.rows * self.columns * self.count


@dataclass
class Tape:
    """One step's operations; sizes in bytes."""

    ops: list[_Op] = field(default_factory=list)
    weights: list[Weight] = field(default_factory=list)

    def weight(
        self, rows: int, columns: int = 1, count: int = 1, *, projection: bool = False
    ) -> int:
        self.weights.append(Weight(rows, columns, count, projection))
        return len(self.weights) - 1

    def op(
        self,
        inputs: Sequence[Tensor],
        *sizes: float,
        saves: Sequence[Tensor] = (),
        weights: Sequence[int] = (),
        keeps: float = 0.0,
        forward: float = 0.0,
        backward: float = 0.0,
    ) -> list[Tensor]:
        """An operation that makes tensors of `sizes`."""
        outs = [Tensor(size) for size in sizes]
        self.ops.append(_Op(inputs, outs, saves, weights, keeps, forward, backward, False))
        return outs

    def one(self, inputs: Sequence[Tensor], size: float, **how: object) -> Tensor:
        (out,) = self.op(inputs, size, **how)  # type: ignore[arg-type]
        return out

    def add(self, one: Tensor, other: Tensor) -> Tensor:
        out = Tensor(one.size)
        self.ops.append(_Op([one, other], [out], (), (), 0.0, 0.0, 0.0, True))
        return out

    def split(self, x: Tensor, *sizes: float) -> list[Tensor]:
        """Views of parts of `x`; backward joins their gradients in a new tensor."""
        outs = [Tensor(size, x.home) for size in sizes]
        self.ops.append(_Op([x], outs, (), (), 0.0, 0.0, 0.0, False))
        return outs

    def peak(
        self, static: float, weight_bytes: int, held: Tensor | None, *, again: bool = False
    ) -> tuple[float, ...]:
        """Greatest bytes in forward and in backward, bytes kept between them, bytes at the end.

        `again`: gradients of parameters are there from an earlier part, and this part's are added.
        """
        last = {t.home: i for i, op in enumerate(self.ops) for t in (*op.inputs, *op.saves)}
        kept: dict[Tensor, int] = {held: 1} if held else {}
        gradients = sum(w.elements for w in self.weights) * weight_bytes if again else 0
        now = top = static + gradients
        for i, op in enumerate(self.ops):
            now += op.keeps + sum(t.size for t in op.outs if t.storage is None)
            top = max(top, now + op.forward)
            for t in op.saves:
                kept[t.home] = kept.get(t.home, 0) + 1
            for t in {t.home for t in (*op.inputs, *op.outs, *op.saves)}:
                if last.get(t, i) == i and t not in kept:
                    now -= t.size
        forward, between = top, now
        grads: dict[Tensor, _Gradient] = {self.ops[-1].outs[0]: _Gradient(0.0)}
        done = set(range(len(self.weights))) if again else set[int]()
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
        return forward, max(top, now), between - static - gradients, now


def _let_go(gradient: _Gradient) -> float:
    gradient.owners -= 1
    return 0.0 if gradient.owners else gradient.size
