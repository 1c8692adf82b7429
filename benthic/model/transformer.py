"""The language model: embedding, blocks, final norm, output head. Module names are the Hub's.

Knows nothing of devices, parallelism or logging. Training calls `forward` on whole sequences; the
engine calls `forward` and `decode` on the same modules with a cache of what attention keeps.

Shapes: B batch, T position, S cached position, D hidden, C cache entry (latent and rotated key, or
keys and values), V vocabulary.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benthic.model.attention import RMSNorm
from benthic.model.block import Block
from benthic.model.config import ModelConfig
from benthic.model.moe import Experts, Router, Routing, SparseMLP
from benthic.model.mtp import PredictionBlock
from benthic.model.rope import rope_tables


class Decoder(nn.Module):
    """Embedding, blocks, final norm; layer `num_hidden_layers`, if there, predicts one further."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        layers: list[Block] = [
            Block(config, sparse=i >= config.first_k_dense_replace)
            for i in range(config.num_hidden_layers)
        ]
        layers += [PredictionBlock(config) for _ in range(config.num_nextn_predict_layers)]
        self.layers = nn.ModuleList(layers)
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class TiedHead(nn.Module):
    """An output head whose matrix is the embedding's, which alone holds it."""

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__()
        self._embedding = [embedding]  # in a list, so that it is not a child

    @property
    def weight(self) -> Tensor:
        return self._embedding[0].weight

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)


class LanguageModel(nn.Module):
    """DeepSeek-V2 or V3, or a dense Llama or Qwen, as the config says."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        self.lm_head = (
            TiedHead(self.model.embed_tokens)
            if config.tie_word_embeddings
            else nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        )
        cos, sin = self.tables()
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def tables(self) -> tuple[Tensor, Tensor]:
        """Cosine and sine of every position, fp32 [max_position_embeddings, R / 2]."""
        c = self.config
        return rope_tables(c.max_position_embeddings, c.rotary_dim, c.rope_theta, c.rope_scaling)

    @property
    def blocks(self) -> list[Block]:
        """The main model's blocks."""
        layers = [layer for layer in self.model.layers if isinstance(layer, Block)]
        return layers[: self.config.num_hidden_layers]

    @property
    def routers(self) -> list[Router]:
        """Routers in the order of a training forward, the prediction block's last."""
        mlps = [layer.mlp for layer in self.model.layers]
        return [mlp.gate for mlp in mlps if isinstance(mlp, SparseMLP)]

    def forward(
        self,
        tokens_BT: Tensor,
        *,
        mask: Tensor | None = None,
        routing: Routing | None = None,
        cache: Tensor | None = None,
    ) -> Tensor:
        """Normed hidden states [B, T, D]; `self.lm_head` turns them into logits.

        `mask` is additive and broadcasts to [B, H, T, T]; none means causal. A `cache`
        [layers, B, S, C] receives the entries of positions 0..T-1.
        """
        T = tokens_BT.shape[1]
        x = self.model.embed_tokens(tokens_BT)
        for i, block in enumerate(self.blocks):
            x, entries = block(x, self.cos[:T], self.sin[:T], mask, routing)
            if cache is not None:
                cache[i, :, :T] = entries
        return self.model.norm(x)

    def look_ahead(
        self,
        hidden_BTD: Tensor,
        next_BT: Tensor,
        *,
        mask: Tensor | None = None,
        routing: Routing | None = None,
    ) -> Tensor:
        """Hidden states [B, T, D] whose logits predict the token after `next_BT`."""
        T = next_BT.shape[1]
        block = self.model.layers[-1]
        assert isinstance(block, PredictionBlock)
        return block.look_ahead(
            hidden_BTD,
            self.model.embed_tokens(next_BT),
            self.cos[:T],
            self.sin[:T],
            mask,
            routing,
        )

    def decode(
        self,
        tokens_B: Tensor,
        at_B: Tensor,
        cache: Tensor,
        mask_BS: Tensor,
        routing: Routing | None = None,
    ) -> Tensor:
        """Logits [B, V] after one more token a row, at `at_B` of `cache` [layers, B, S, C].

        One element in `at_B` and one row in `mask_BS` stand for all rows. The cache is read as
        far as the mask reaches.
        """
        x = self.model.embed_tokens(tokens_B)
        at_B = at_B.expand(len(tokens_B))
        cos, sin, seen = self.cos[at_B], self.sin[at_B], mask_BS.shape[1]
        for i, block in enumerate(self.blocks):
            x = block.decode(x, cos, sin, cache[i, :, :seen], at_B, mask_BS, routing)
        return self.lm_head(self.model.norm(x))


def initialise(model: LanguageModel, generator: torch.Generator) -> None:
    """Matrices from N(0, initializer_range) (V3 section 4.2); norms at one, biases at zero."""
    std = model.config.initializer_range
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.Linear, nn.Embedding, Router)):
                module.weight.normal_(0.0, std, generator=generator)
                if isinstance(module, nn.Linear) and module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, Experts):
                module.gate_up_proj.normal_(0.0, std, generator=generator)
                module.down_proj.normal_(0.0, std, generator=generator)
            elif isinstance(module, RMSNorm):
                module.weight.fill_(1.0)


def document_mask(document_BT: Tensor) -> Tensor:
    """Additive [B, 1, T, T]: each token sees itself and what came before it in its own document."""
    same = document_BT[:, :, None] == document_BT[:, None, :]
    seen = same.tril_()[:, None]
    return torch.zeros(seen.shape, device=seen.device).masked_fill_(~seen, -torch.inf)


def token_log_probs(model: LanguageModel, hidden_BTD: Tensor, next_BT: Tensor) -> Tensor:
    """Log-probability [B, T] of each next token at temperature 1, in fp32 at least."""
    logits = model.lm_head(hidden_BTD)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    log_p = -F.cross_entropy(logits.flatten(0, 1), next_BT.flatten(), reduction="none")
    return log_p.view_as(next_BT)
