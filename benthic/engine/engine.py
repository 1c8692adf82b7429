"""Inference with a cache of latents: prompts in; tokens, log-probabilities and expert ids out.

Prefill takes the expanded path, once for each distinct prompt; decoding takes the absorbed path,
one token a row and step. Finished rows leave the batch. The modules are the trainer's own, so the
two sides agree to rounding. Left out: paging, prefix reuse between calls, speculation.

Shapes: B rows, S cached position, C cache entry, M sparse layers, K experts a token.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

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
    [B, S]: of the completion's tokens, at their places, zero elsewhere. experts int16
    [B, S, M, K]: taken by each token that was fed, -1 where none was (the last token, padding).
    """

    tokens: NDArray[np.int64]
    prompt_lengths: NDArray[np.int64]
    lengths: NDArray[np.int64]
    log_probs: NDArray[np.float32]
    experts: NDArray[np.int16]
    flops: int = 0
    """of matrix products: prefill of each distinct prompt, decoding of each completion"""

    def completion(self, row: int) -> list[int]:
        ids: list[int] = self.tokens[row, self.prompt_lengths[row] : self.lengths[row]].tolist()
        return ids


class Engine:
    """Generates from a model. `record_experts=False` leaves the routers' choices out.

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

    @torch.inference_mode()
    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        keys: Sequence[int] | None = None,
    ) -> Samples:
        """Complete every prompt; row b draws from `params.seed` and `keys[b]` (default: b) alone.

        ValueError if a prompt is empty or too long for the model.
        """
        self._check(prompts, params.max_new_tokens)
        B, config = len(prompts), self.model.config
        start = np.array([len(p) for p in prompts], dtype=np.int64)
        S = int(start.max()) + params.max_new_tokens
        tokens = np.full((B, S), self._pad, dtype=np.int64)
        for row, prompt in enumerate(prompts):
            tokens[row, : len(prompt)] = prompt
        log_probs = np.zeros((B, S), dtype=np.float32)
        experts = np.full(
            (B, S, config.num_moe_layers, config.num_experts_per_tok), -1, dtype=np.int16
        )
        draws = self._draws(params, range(B) if keys is None else keys)
        lengths = start.copy()
        rows, at = np.arange(B), start.copy()
        logits, cache, prefill_ids = self._prefill(prompts, S)
        if self.record_experts:
            for row, ids in enumerate(prefill_ids):
                experts[row, : len(ids)] = ids
        decoder, hidden = self._decoder(), _later(S, cache)
        level = bool((at == at[0]).all())  # all rows stand at the same position
        for new in range(params.max_new_tokens):
            token, log_p = choose(logits, draws[:, new], params.temperature)
            chosen = token.cpu().numpy()
            tokens[rows, at] = chosen
            log_probs[rows, at] = log_p.cpu().numpy()
            lengths[rows] = at + 1
            going = ~self._is_end[chosen] | params.ignore_eos
            if not going.any() or new + 1 == params.max_new_tokens:
                break
            if not going.all():
                keep = torch.from_numpy(np.flatnonzero(going)).to(logits.device)
                rows, at = rows[going], at[going]
                token, draws, cache = token[keep], draws[keep], cache.index_select(1, keep)
            at_B = torch.from_numpy(at[:1] if level else at).to(logits.device)
            last = int(at[0] if level else at.max())
            mask = (hidden[last : last + 1] if level else hidden[at_B])[:, : last + 1]
            routing = Routing() if self.record_experts else None
            logits = decoder.decode(token, at_B, cache, mask, routing)
            if routing is not None and routing.ids:
                experts[rows, at] = routing.chosen().cpu().numpy()
            at = at + 1
        end = int(lengths.max())
        return Samples(
            tokens[:, :end],
            start,
            lengths,
            log_probs[:, :end],
            experts[:, :end],
            _flops(config, {tuple(p) for p in prompts}, start, lengths),
        )

    @torch.inference_mode()
    def stream(self, prompt: Sequence[int], params: SamplingParams) -> Iterator[int]:
        """Tokens of one completion as they come, its end included."""
        self._check([prompt], params.max_new_tokens)
        S = len(prompt) + params.max_new_tokens
        draws = self._draws(params, [0])
        logits, cache, _ = self._prefill([prompt], S)
        decoder, hidden = self._decoder(), _later(S, cache)
        for new in range(params.max_new_tokens):
            with torch.inference_mode():
                token, _ = choose(logits, draws[:, new], params.temperature)
            yield int(token)
            ended = int(token) in self.ends and not params.ignore_eos
            if ended or new + 1 == params.max_new_tokens:
                return
            with torch.inference_mode():
                at = torch.tensor([len(prompt) + new], device=token.device)
                logits = decoder.decode(token, at, cache, hidden[at, : int(at) + 1])

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


def _later(S: int, like: Tensor) -> Tensor:
    """Additive mask [S, S]: row t hides the positions after t."""
    return like.new_full((S, S), -torch.inf).triu_(1)
