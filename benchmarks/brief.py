"""What the comparisons with other programs share: models trained briefly, and greedy decoding
compared token by token.

A disagreement counts only where the top two logits lie further apart than twice the bound; nearer
ones are ties. After either the peer goes on from Benthic's token.
"""

import sysconfig
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from benthic.data.hub_tokenizer import HubTokenizer, train_bpe
from benthic.model.config import ModelConfig, RopeScaling
from benthic.model.transformer import LanguageModel, initialise, token_log_probs

BOUND = 2e-5  # of the logits' spread
NEW, PROMPTS = 64, 32
VOCABULARY = 4096
SPECIALS = ("<|bos|>", "<|eos|>")

YARN = RopeScaling(
    rope_type="yarn",
    factor=40.0,
    original_max_position_embeddings=64,
    mscale=1.0,
    mscale_all_dim=1.0,
)
LLAMA3 = RopeScaling(rope_type="llama3", factor=8.0, original_max_position_embeddings=64)
# Within the peers' limits: vLLM's latent attention on CPU wants 512 + 64, llama.cpp a query latent
# and rows that 32 divides.
_LATENT = {
    "moe_intermediate_size": 64,
    "first_k_dense_replace": 1,
    "q_lora_rank": 64,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 64,
    "qk_rope_head_dim": 64,
    "v_head_dim": 64,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
}
_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "bos_token_id": VOCABULARY - 2,
    "eos_token_id": VOCABULARY - 1,
    "initializer_range": 0.05,
}
_V2 = {
    "model_type": "deepseek_v2",
    "topk_method": "greedy",
    "norm_topk_prob": False,
    "num_nextn_predict_layers": 0,
    "n_shared_experts": 2,
    "routed_scaling_factor": 1.0,
}
FAMILIES: dict[str, ModelConfig] = {
    "deepseek_v3": ModelConfig(**_COMMON, **_LATENT, n_group=4, topk_group=2),
    "deepseek_v3, YaRN": ModelConfig(
        **_COMMON, **_LATENT, n_group=1, topk_group=1, rope_scaling=YARN
    ),
    "deepseek_v2": ModelConfig(**_COMMON, **_LATENT, **_V2),
    "llama": ModelConfig(**_COMMON, model_type="llama", num_key_value_heads=2, rope_scaling=LLAMA3),
    "qwen2": ModelConfig(
        **_COMMON, model_type="qwen2", num_key_value_heads=2, tie_word_embeddings=True
    ),
    "qwen3": ModelConfig(**_COMMON, model_type="qwen3", num_key_value_heads=2, head_dim=64),
}


def texts(count: int = 120) -> list[str]:
    """Sources of Python's standard library."""
    root = Path(sysconfig.get_paths()["stdlib"])
    return [p.read_text(errors="replace") for p in sorted(root.glob("*.py"))[:count]]


def tokenizer() -> HubTokenizer:
    return train_bpe(texts(), VOCABULARY, SPECIALS)


def stream(tokens: HubTokenizer) -> Tensor:
    return torch.tensor([i for text in texts(60) for i in tokens.encode(text)])


def trained(config: ModelConfig, ids: Tensor, *, steps: int = 100) -> LanguageModel:
    """A model after `steps` AdamW steps on 8 windows of 128 tokens; router biases at random."""
    model, generator = LanguageModel(config), torch.Generator().manual_seed(0)
    initialise(model, generator)
    for router in model.routers:
        if router.e_score_correction_bias is not None:
            router.e_score_correction_bias.normal_(0, 0.1, generator=generator)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    for _ in range(steps):
        starts = torch.randint(0, ids.numel() - 129, (8,), generator=generator).tolist()
        batch = torch.stack([ids[s : s + 129] for s in starts])
        loss = -token_log_probs(model, model(batch[:, :-1]), batch[:, 1:]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def prompts_of(ids: Tensor) -> list[list[int]]:
    """Windows of unequal length, far apart."""
    gap = ids.numel() // PROMPTS
    return [ids[i * gap : i * gap + 8 + i].tolist() for i in range(PROMPTS)]


@dataclass
class Verdict:
    """Tokens compared, ties, and disagreements beyond the bound with their gap over the spread."""

    tokens: int = 0
    ties: int = 0
    wrong: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        worst = f", largest gap {max(self.wrong):.1e} of the spread" if self.wrong else ""
        return f"{self.tokens} tokens, {self.ties} ties, {len(self.wrong)} disagreements{worst}"


@torch.inference_mode()
def greedy(model: LanguageModel, prompt: list[int], new: int) -> tuple[list[int], list[float]]:
    """Benthic's greedy tokens, and at each the gap of the top two over the logits' spread."""
    S, config = len(prompt) + new, model.config
    cache = torch.zeros(config.num_hidden_layers, 1, S, config.cache_width)
    logits = model.lm_head(model(torch.tensor([prompt]), cache=cache)[:, -1])
    tokens, gaps = [], []
    for at in range(len(prompt), S):
        top = logits[0].topk(2)
        gaps.append(((top.values[0] - top.values[1]) / (logits.max() - logits.min())).item())
        tokens.append(int(top.indices[0]))
        mask = torch.zeros(1, at + 1)
        logits = model.decode(top.indices[:1], torch.tensor([at]), cache, mask)
    return tokens, gaps


def compare(
    model: LanguageModel,
    prompts: list[list[int]],
    peer: Callable[[list[list[int]], int], list[list[int]]],
) -> Verdict:
    """Greedy tokens of `peer(prompts, new)` against Benthic's, `NEW` for each prompt."""
    ours = [greedy(model, prompt, NEW) for prompt in prompts]
    verdict, done = Verdict(), [0] * len(prompts)
    while open_ := [i for i, n in enumerate(done) if n < NEW]:
        fed = [prompts[i] + ours[i][0][: done[i]] for i in open_]
        theirs = peer(fed, NEW - min(done[i] for i in open_))
        for i, answer in zip(open_, theirs):
            tokens, gaps = ours[i]
            for token in answer[: NEW - done[i]]:
                at = done[i]
                verdict.tokens += 1
                done[i] += 1
                if token != tokens[at]:
                    if gaps[at] > 2 * BOUND:
                        verdict.wrong.append(gaps[at])
                    else:
                        verdict.ties += 1
                    break
    return verdict
