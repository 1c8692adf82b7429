"""Multi-token prediction, depth one (V3 section 2.2): at position i, predict token i + 2.

h'_i = eh_proj [enorm(Emb(t_{i+1})) ; hnorm(h_i)], one transformer block, shared_head.norm, then the
main model's output head; embedding and head are the main model's. The released `eh_proj` takes the
embedding first, and h_i is taken after the main model's final norm, as transformers and vLLM read
DeepSeek's weights. Positions keep their numbers.
"""

import torch
from torch import Tensor, nn

from benthic.model.attention import LatentAttention, RMSNorm, attention_reference
from benthic.model.block import Block
from benthic.model.config import ModelConfig, RopeScaling
from benthic.model.moe import Routing, SparseMLP, experts_reference, select_reference
from benthic.model.rope import PLAIN


class PredictionHead(nn.Module):
    """Holds the norm before the shared output head, under the Hub's name."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class PredictionBlock(Block):
    """A block that looks one token further; sits at layer index `num_hidden_layers`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, sparse=True)
        width, eps = config.hidden_size, config.rms_norm_eps
        self.enorm = RMSNorm(width, eps)
        self.hnorm = RMSNorm(width, eps)
        self.eh_proj = nn.Linear(2 * width, width, bias=False)
        self.shared_head = PredictionHead(config)

    def look_ahead(
        self,
        hidden_BTD: Tensor,
        next_BTD: Tensor,
        cos_TR: Tensor,
        sin_TR: Tensor,
        mask: Tensor | None,
        routing: Routing | None,
    ) -> Tensor:
        """Main model's hidden states and the embeddings of the tokens after them to [B, T, D]."""
        x = self.eh_proj(torch.cat([self.enorm(next_BTD), self.hnorm(hidden_BTD)], dim=-1))
        x, _ = self(x, cos_TR, sin_TR, mask, routing)
        return self.shared_head.norm(x)


def look_ahead_reference(
    block: PredictionBlock,
    hidden_BTD: Tensor,
    next_BTD: Tensor,
    theta: float,
    scaling: RopeScaling = PLAIN,
) -> Tensor:
    """V3 eq. 21-23 read aloud, on the slow twins of attention, selection and experts."""
    m, moe, D = block, block.mlp, hidden_BTD.shape[-1]
    assert isinstance(m.self_attn, LatentAttention) and isinstance(moe, SparseMLP)
    left, right = m.eh_proj.weight.split(D, dim=1)  # of the embedding, of the hidden state
    x = m.enorm(next_BTD) @ left.T + m.hnorm(hidden_BTD) @ right.T
    x = x + attention_reference(m.self_attn, m.input_layernorm(x), theta, scaling)
    y_ND = m.post_attention_layernorm(x).flatten(0, 1)
    scores = moe.gate(y_ND)
    ids = torch.tensor([sorted(chosen) for chosen in select_reference(moe.gate, scores)])
    sparse = experts_reference(moe.experts, y_ND, ids, moe.gate.weigh(scores, ids))
    x = x + (sparse + moe.shared_experts(y_ND)).view_as(x)
    return m.shared_head.norm(x)
