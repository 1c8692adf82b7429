"""Muon and AdamW against PyTorch's own, and a state that goes on as if never stopped."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from benthic.model.config import ModelConfig
from benthic.model.transformer import LanguageModel
from benthic.train.optimizer import Optimizer, is_matrix, orthogonalise

Build = Callable[..., LanguageModel]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def give_gradients(module: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for p in module.parameters():
        p.grad = torch.randn(p.shape, generator=generator)


@given(
    rows=st.integers(1, 24),
    columns=st.integers(1, 24),
    scale=st.sampled_from([1e-4, 1.0, 1e4]),
    seed=st.integers(0, 1000),
)
def test_singular_values_come_near_one(rows: int, columns: int, scale: float, seed: int) -> None:
    """Whatever the matrix's scale, where its own singular values are within a factor of ten."""
    short = min(rows, columns)
    left, _ = torch.linalg.qr(noise(rows, short, seed=seed))
    right, _ = torch.linalg.qr(noise(columns, short, seed=seed + 1))
    values = torch.linspace(0.1, 1, short) * scale
    (out,) = orthogonalise((left * values @ right.T)[None])
    found = torch.linalg.svdvals(out)
    assert found.min() > 0.65 and found.max() < 1.25


@pytest.mark.parametrize("shape", [(6, 10), (10, 6), (7, 7)], ids=str)
def test_singular_vectors_stay(shape: tuple[int, int]) -> None:
    """U S' V^T: turned into the frame of the matrix's own vectors, the result is diagonal."""
    x = noise(*shape)
    left, _, right = torch.linalg.svd(x, full_matrices=False)
    turned = left.T @ orthogonalise(x[None])[0] @ right.T
    torch.testing.assert_close(turned, torch.diag(turned.diag()), atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", [(5, 6, 10), (5, 10, 6)], ids=str)
def test_stacked_matrices_go_one_by_one(shape: tuple[int, int, int]) -> None:
    x = noise(*shape) * torch.tensor([1.0, 1e-3, 10, 1, 5]).view(5, 1, 1)
    alone = torch.cat([orthogonalise(m[None]) for m in x])
    torch.testing.assert_close(orthogonalise(x), alone, atol=1e-5, rtol=1e-5)


class Mixed(nn.Module):
    """A matrix, a stack of two, and what AdamW takes, under names as in the model."""

    def __init__(self) -> None:
        super().__init__()
        self.o_proj = nn.Linear(6, 10, bias=False)
        self.up_proj = nn.Linear(10, 6, bias=False)
        self.down_proj = nn.Parameter(noise(2, 10, 6))
        self.norm = nn.Parameter(noise(5))
        self.head = nn.Linear(4, 7, bias=False)
        with torch.no_grad():
            for seed, p in enumerate(self.parameters()):
                p.copy_(noise(*p.shape, seed=seed))


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adamw_is_pytorchs_step_for_step(decay: float) -> None:
    ours, theirs = Mixed(), Mixed()
    optimizer = Optimizer(ours, weight_decay=decay)
    peer = torch.optim.AdamW(
        [theirs.norm, theirs.head.weight], betas=(0.9, 0.95), eps=1e-8, weight_decay=decay
    )
    for step in range(12):
        give_gradients(ours, step)
        give_gradients(theirs, step)
        peer.param_groups[0]["lr"] = lr = 0.01 * (step + 1)
        optimizer.step(lr)
        peer.step()
        torch.testing.assert_close(ours.norm, theirs.norm, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(ours.head.weight, theirs.head.weight, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_muon_is_pytorchs_within_its_bfloat16(decay: float) -> None:
    """Theirs orthogonalises in bfloat16, hence some percent; scaled to AdamW's size as ours is."""
    ours, theirs = Mixed(), Mixed()
    optimizer = Optimizer(ours, weight_decay=decay)
    peer = torch.optim.Muon(
        [theirs.o_proj.weight, theirs.up_proj.weight],
        momentum=0.95,
        weight_decay=decay,
        adjust_lr_fn="match_rms_adamw",
    )
    start = Mixed()
    for step in range(8):
        give_gradients(ours, step)
        give_gradients(theirs, step)
        peer.param_groups[0]["lr"] = 0.02
        optimizer.step(0.02)
        peer.step()
    for name in ("o_proj.weight", "up_proj.weight"):
        origin = start.get_parameter(name)
        mine, other = (m.get_parameter(name) - origin for m in (ours, theirs))
        assert (mine - other).norm() < 0.03 * other.norm()


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_muon_is_its_transcription(decay: float) -> None:
    """Jordan's recipe in fp64, a matrix at a time, stacked ones included."""
    module = Mixed()
    matrices = {n: p.detach().double() for n, p in module.named_parameters() if is_matrix(n)}
    momenta = {n: torch.zeros_like(p) for n, p in matrices.items()}
    optimizer = Optimizer(module, weight_decay=decay)
    for step in range(5):
        give_gradients(module, step)
        for name, p in module.named_parameters():
            if name not in matrices:
                continue
            assert p.grad is not None
            grad = p.grad.double()
            momenta[name] = 0.95 * momenta[name] + grad
            stack = (grad + 0.95 * momenta[name]).view(-1, *p.shape[-2:])
            turned = torch.stack([newton_schulz(m) for m in stack]).view_as(p)
            size = 0.2 * max(p.shape[-2:]) ** 0.5
            matrices[name] = matrices[name] * (1 - 0.02 * decay) - 0.02 * size * turned
        optimizer.step(0.02)
    for name, expected in matrices.items():
        found = module.get_parameter(name).double()
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def newton_schulz(matrix: Tensor) -> Tensor:
    x = matrix / matrix.norm()
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x - 4.7750 * a @ x + 2.0315 * a @ a @ x
    return x


def test_an_update_has_adamws_size() -> None:
    """Root mean square about 0.2 of the learning rate, for wide, tall and stacked ones."""
    module, before = Mixed(), Mixed()
    give_gradients(module, 0)
    Optimizer(module, weight_decay=0.0).step(0.01)
    for name, p in module.named_parameters():
        if is_matrix(name):
            moved = (p - before.get_parameter(name)).square().mean().sqrt().item()
            assert moved == pytest.approx(0.2 * 0.01, rel=0.2)


@pytest.mark.parametrize("rank", [None, 12])
def test_every_parameter_has_exactly_one_rule(tiny: ModelConfig, rank: int | None) -> None:
    """Projections and experts take Muon; embedding, head, norms and routers AdamW."""
    model = LanguageModel(replace(tiny, q_lora_rank=rank))
    state = Optimizer(model, weight_decay=0.0).state
    for name, p in model.named_parameters():
        kinds = {k.removeprefix(f"{name}.") for k in state if k.startswith(f"{name}.")}
        plain = p.ndim == 1 or any(
            w in name for w in ("embed_tokens", "lm_head", "mlp.gate.weight")
        )
        assert kinds == ({"mean", "square"} if plain else {"momentum"}), name
        assert all(state[f"{name}.{kind}"].shape == p.shape for kind in kinds)
    muon = sum(is_matrix(n) for n, _ in model.named_parameters())
    assert len(state) == 2 * len(list(model.parameters())) - muon


def test_every_parameter_moves(model: LanguageModel) -> None:
    before = {n: p.clone() for n, p in model.named_parameters()}
    give_gradients(model, 0)
    Optimizer(model, weight_decay=0.0).step(0.01)
    assert all((p != before[n]).float().mean() > 0.9 for n, p in model.named_parameters())


def test_no_gradient_counts_as_zero() -> None:
    """An expert that no token chose: its momentum decays, its weights stay finite."""
    module, other = Mixed(), Mixed()
    optimizers = [Optimizer(m, weight_decay=0.1) for m in (module, other)]
    for step in range(2):
        for m, optimizer in zip((module, other), optimizers, strict=True):
            give_gradients(m, step)
            m.head.weight.grad = None if m is module else torch.zeros(7, 4)
            m.down_proj.grad = None if m is module else torch.zeros(2, 10, 6)
            optimizer.step(0.01)
    for p, q in zip(module.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q) and p.isfinite().all()


def test_a_restored_state_goes_on_identically(tiny: ModelConfig, seeded: Build) -> None:
    one = seeded(tiny)
    first = Optimizer(one, weight_decay=0.1)
    for step in range(3):
        give_gradients(one, step)
        first.step(0.01)
    two = LanguageModel(tiny)
    two.load_state_dict(one.state_dict())
    second = Optimizer(two, weight_decay=0.1)
    second.load_state_dict({k: v.clone() for k, v in first.state_dict().items()}, first.steps)
    for step in range(3, 6):
        for model, optimizer in ((one, first), (two, second)):
            give_gradients(model, step)
            optimizer.step(0.01)
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), two.parameters(), strict=True))
    assert all(torch.equal(t, second.state[k]) for k, t in first.state.items())
