"""Inference with a cache of latents: prompts in; tokens, log-probabilities and expert ids out.

Prefill takes the expanded path, once for each distinct prompt; decoding takes the absorbed path,
one token a row and step. Finished rows leave the batch. The modules are the trainer's own, so the
two sides agree to rounding. Left out: paging, prefix reuse between calls, speculation.

Shapes: B rows, S cached position, C cache entry, M sparse layers, K experts a token.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benthic.cost.network.flops import causal_pairs, decode_flops, forward_flops
from benthic.engine import folded
from benthic.engine.sampler import SamplingParams, choose, uniforms
from benthic.model.config import ModelConfig
from benthic.model.moe import Routing
from benthic.model.transformer import LanguageModel


@dataclass(frozen=True)
class Samples:
    """Completions of B prompts, padded to the longest; S = longest prompt + completion.

    tokens int64 [B, S]: prompt, completion (its end included), then padding. log_probs fp32
    [B, S]: of the completion's tokens, at their places, zero elsewhere. experts int32
    [B, S, M, K]: taken by each token that was fed, -1 where none was (the last token, padding).
    """

    tokens: NDArray[np.int64]
    prompt_lengths: NDArray[np.int64]
    lengths: NDArray[np.int64]
    log_probs: NDArray[np.float32]
    experts: NDArray[np.int32]
    flops: int = 0
    """of matrix products: prefill of each distinct prompt, decoding of each completion"""

    def completion(self, row: int) -> list[int]:
        ids: list[int] = self.tokens[row, self.prompt_lengths[row] : self.lengths[row]].tolist()
        return ids


class Engine:
    """Generates from a model. `record_experts=False` leaves the routers' choices out: then M = 0.

    A completion ends at any id of `ends`, if none are given at the config's `eos_token_id`.
    """

    def __init__(
        self,
        model: LanguageModel,
        *,
        ends: Collection[int] | None = None,
        record_experts: bool = True,
    ) -> None:
        self.model = model
        config = model.config
        own = range(config.vocab_size)
        self.ends = frozenset([config.eos_token_id] if ends is None else ends).intersection(own)
        self._pad = min(self.ends, default=0)
        self._is_end = np.isin(own, list(self.ends))
        self.record_experts = record_experts
        self._folded: tuple[list[int], folded.Folded] | None = None

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        keys: Sequence[int] | None = None,
    ) -> Samples:
        """Complete every prompt; row b draws from `params.seed` and `keys[b]` (default: b) alone.

        ValueError if a prompt is empty or too long for the model.
        """
        samples = self._blank(prompts, params)
        keys = range(len(prompts)) if keys is None else keys
        for _ in self._grow(samples, prompts, params, keys):
            pass
        end = int(samples.lengths.max())
        starts, lengths = samples.prompt_lengths, samples.lengths
        return replace(
            samples,
            tokens=samples.tokens[:, :end],
            log_probs=samples.log_probs[:, :end],
            experts=samples.experts[:, :end],
            flops=_flops(self.model.config, {tuple(p) for p in prompts}, starts, lengths),
        )

    def stream(self, prompt: Sequence[int], params: SamplingParams) -> Iterator[int]:
        """Tokens of one completion as they come, its end included; raises as `sample` does."""
        for token in self._grow(self._blank([prompt], params), [prompt], params, [0]):
            yield int(token[0])

    def _blank(self, prompts: Sequence[Sequence[int]], params: SamplingParams) -> Samples:
        """The prompts, and room for as many new tokens as there may be."""
        self._check(prompts, params.max_new_tokens)
        config, B = self.model.config, len(prompts)
        start = np.array([len(p) for p in prompts], dtype=np.int64)
        S = int(start.max()) + params.max_new_tokens
        tokens = np.full((B, S), self._pad, dtype=np.int64)
        for row, prompt in enumerate(prompts):
            tokens[row, : len(prompt)] = prompt
        M = config.num_moe_layers if self.record_experts else 0
        return Samples(
            tokens=tokens,
            prompt_lengths=start,
            lengths=start.copy(),
            log_probs=np.zeros((B, S), dtype=np.float32),
            experts=np.full((B, S, M, config.num_experts_per_tok), -1, dtype=np.int32),
        )

    @torch.inference_mode()
    def _grow(
        self,
        samples: Samples,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        keys: Sequence[int],
    ) -> Iterator[NDArray[np.int64]]:
        """Write completions into `samples`; yields the new token of every row that goes on."""
        tokens, experts, lengths = samples.tokens, samples.experts, samples.lengths
        draws = self._draws(params, keys)
        rows, at = np.arange(len(prompts)), samples.prompt_lengths.copy()
        logits, cache, prefill_ids = self._prefill(prompts, tokens.shape[1])
        for row, ids in enumerate(prefill_ids):
            experts[row, : len(ids)] = ids
        decoder, position_S = self._decoder(), torch.arange(tokens.shape[1], device=logits.device)
        level = bool((at == at[0]).all())  # all rows stand at the same position
        for new in range(params.max_new_tokens):
            token, log_p = choose(logits, draws[:, new], params.temperature, params.top_p)
            chosen = token.cpu().numpy()
            tokens[rows, at] = chosen
            samples.log_probs[rows, at] = log_p.cpu().numpy()
            lengths[rows] = at + 1
            yield chosen
            going = ~self._is_end[chosen] | params.ignore_eos
            if not going.any() or new + 1 == params.max_new_tokens:
                return
            if not going.all():
                keep = torch.from_numpy(np.flatnonzero(going)).to(logits.device)
                rows, at = rows[going], at[going]
                token, draws, cache = token[keep], draws[keep], cache.index_select(1, keep)
            at_B = torch.from_numpy(at[:1] if level else at).to(logits.device)
            seen = int(at.max()) + 1
            mask = cache.new_zeros(len(at_B), seen)
            mask.masked_fill_(position_S[:seen] > at_B[:, None], -torch.inf)
            routing = Routing() if self.record_experts else None
            logits = decoder.decode(token, at_B, cache, mask, routing)
            if routing is not None and routing.ids:
                experts[rows, at] = routing.chosen().cpu().numpy()
            at = at + 1

    def _draws(self, params: SamplingParams, keys: Sequence[int]) -> Tensor:
        """Uniform numbers [B, max_new_tokens]; greedy decoding looks at none."""
        if params.temperature == 0:
            return torch.zeros(len(keys), params.max_new_tokens, device=self.model.cos.device)
        drawn = torch.from_numpy(uniforms(params.seed, list(keys), params.max_new_tokens))
        return drawn.to(self.model.cos.device)

    def _decoder(self) -> LanguageModel | folded.Folded:
        """The model as it decodes fastest, folded anew when a weight has been written to."""
        if not folded.pays(self.model):
            return self.model
        versions = [p._version for p in self.model.parameters()]
        if self._folded is None or self._folded[0] != versions:
            self._folded = versions, folded.Folded(self.model)
        return self._folded[1]

    def _prefill(
        self, prompts: Sequence[Sequence[int]], S: int
    ) -> tuple[Tensor, Tensor, list[NDArray[np.int64]]]:
        """Next-token logits [B, V], the cache [layers, B, S, C] and each prompt's expert ids."""
        config, device = self.model.config, self.model.cos.device
        distinct = {tuple(p): None for p in prompts}
        number = {p: i for i, p in enumerate(distinct)}
        P = max(len(p) for p in distinct)
        padded = torch.tensor([[*p, *[self._pad] * (P - len(p))] for p in distinct], device=device)
        like = self.model.model.embed_tokens.weight
        cache = like.new_zeros(config.num_hidden_layers, len(distinct), S, config.cache_width)
        routing = Routing()
        hidden = self.model(padded, routing=routing, cache=cache)
        last = torch.tensor([len(p) - 1 for p in distinct], device=device)
        logits = self.model.lm_head(hidden[torch.arange(len(distinct), device=device), last])
        row = torch.tensor([number[tuple(p)] for p in prompts], device=device)
        ids: list[NDArray[np.int64]] = []
        if self.record_experts and routing.ids:
            chosen = routing.chosen().cpu().numpy()
            ids = [chosen[number[tuple(p)], : len(p)] for p in prompts]
        if len(distinct) == len(prompts):
            return logits, cache, ids
        return logits[row], cache.index_select(1, row), ids

    def _check(self, prompts: Sequence[Sequence[int]], new: int) -> None:
        longest = self.model.config.max_position_embeddings
        for prompt in prompts:
            if not prompt:
                raise ValueError("a prompt is empty: give at least one token")
            if len(prompt) + new > longest:
                raise ValueError(
                    f"a prompt of {len(prompt)} tokens and {new} new ones exceed the model's "
                    f"{longest} positions: shorten the prompt or lower max_new_tokens"
                )


def _flops(
    config: ModelConfig,
    prompts: set[tuple[int, ...]],
    start: NDArray[np.int64],
    lengths: NDArray[np.int64],
) -> int:
    tokens, pairs = sum(len(p) for p in prompts), sum(causal_pairs(len(p)) for p in prompts)
    work = forward_flops(config, tokens=tokens, pairs=pairs)
    new = lengths - 1 - start  # the last token is not fed
    cached = zip(new.tolist(), start.tolist(), strict=True)
    pairs = sum(causal_pairs(n, cached=p) for n, p in cached)
    return work + decode_flops(config, tokens=int(new.sum()), pairs=pairs)
