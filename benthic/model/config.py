"""The shape of a network: DeepSeek's V2 and V3, or a dense Llama or Qwen.

Field names are the keys of the Hub's `config.json`; `benthic.hub.config` reads and writes that
file. Never imports torch: counts and plans are made from this class alone. A field that a family
does not have is set to its empty value, so that two configs of one network are equal.
"""

import math
from dataclasses import dataclass, field, fields, replace
from typing import Literal

DENSE = ("llama", "qwen2", "qwen3")
# A shape beyond these is a mistake, or an attack on the memory: Kimi-K2 has 23,040 experts in all.
_WIDEST, _DEEPEST, _MOST_EXPERTS = 1 << 24, 4096, 1 << 18


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """How rotary frequencies are stretched beyond the trained length; units are positions.

    `yarn` is arXiv:2309.00071, `llama3` Llama 3.1's bands, `linear` divides all frequencies.
    """

    rope_type: Literal["default", "linear", "yarn", "llama3"] = "default"
    factor: float = 1.0
    """how many times longer the context becomes"""
    original_max_position_embeddings: int = 0
    """the trained length; 0 where the type needs none"""
    beta_fast: float = 32.0
    """yarn: turns over the trained length above which a frequency is left alone"""
    beta_slow: float = 1.0
    """yarn: turns below which it is divided by `factor`"""
    mscale: float = 0.0
    """yarn: of cosine and sine, over that of mscale_all_dim; 0: not given"""
    mscale_all_dim: float = 0.0
    """yarn: of queries and keys alike, squared in DeepSeek's softmax scale; 0: not given"""
    attention_factor: float = 0.0
    """yarn: of cosine and sine, in place of the one that the mscales give; 0: not given"""
    truncate: bool = True
    """yarn: whether the ramp starts and ends at whole pairs"""
    low_freq_factor: float = 1.0
    """llama3: wavelengths beyond trained length / this are stretched in full"""
    high_freq_factor: float = 4.0
    """llama3: wavelengths below trained length / this are left alone"""

    def __post_init__(self) -> None:
        if self.rope_type not in _ROPE_KEYS:
            raise ValueError(
                f"rope_scaling.rope_type is {self.rope_type!r}: choose from {', '.join(_ROPE_KEYS)}"
            )
        defaults = {f.name: f.default for f in fields(RopeScaling)}
        for name in defaults.keys() - _ROPE_KEYS[self.rope_type] - {"rope_type"}:
            object.__setattr__(self, name, defaults[name])
        for name, low, high in (
            ("factor", 1e-3, 1e6),
            ("beta_fast", 1e-6, 1e6),
            ("beta_slow", 1e-6, 1e6),
            ("mscale", 0.0, 100.0),
            ("mscale_all_dim", 0.0, 100.0),
            ("attention_factor", 0.0, 100.0),
            ("low_freq_factor", 1e-6, 1e6),
            ("high_freq_factor", 1e-6, 1e6),
        ):
            _check_between(f"rope_scaling.{name}", getattr(self, name), low, high)
        if self.rope_type in ("yarn", "llama3"):
            trained = self.original_max_position_embeddings
            _check_between("rope_scaling.original_max_position_embeddings", trained, 1, _WIDEST)
        if self.rope_type == "llama3" and self.high_freq_factor <= self.low_freq_factor:
            raise ValueError(
                f"rope_scaling.high_freq_factor = {self.high_freq_factor:g} must exceed "
                f"low_freq_factor = {self.low_freq_factor:g}"
            )

    @property
    def turn_factor(self) -> float:
        """Factor on cosine and sine: mscale over mscale_all_dim, 1 in DeepSeek's releases."""
        if self.rope_type != "yarn":
            return 1.0
        if self.attention_factor:
            return self.attention_factor
        if self.mscale and self.mscale_all_dim:
            return self._mscale(self.mscale) / self._mscale(self.mscale_all_dim)
        return self._mscale(1.0)

    @property
    def softmax_factor(self) -> float:
        """DeepSeek's factor on the softmax scale: once for the query, once for the key."""
        if not self.mscale_all_dim:
            return 1.0
        return self._mscale(self.mscale_all_dim) ** 2

    def _mscale(self, weight: float) -> float:
        return 1.0 if self.factor <= 1 else 0.1 * weight * math.log(self.factor) + 1.0


_ROPE_KEYS: dict[str, set[str]] = {
    "default": set(),
    "linear": {"factor"},
    "yarn": {
        *("factor", "original_max_position_embeddings", "beta_fast", "beta_slow"),
        *("mscale", "mscale_all_dim", "attention_factor", "truncate"),
    },
    "llama3": {
        *("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
    },
}


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The defaults are DeepSeek-V3's; units are elements unless said otherwise."""

    model_type: Literal["deepseek_v3", "deepseek_v2", "llama", "qwen2", "qwen3"] = "deepseek_v3"
    """the family; kimi_k2 and Moonlight are deepseek_v3"""
    vocab_size: int = 129280
    """rows of the embedding and of the output head"""
    hidden_size: int = 7168
    """width of the residual stream, D"""
    intermediate_size: int = 18432
    """width of the dense feed-forward layers"""
    moe_intermediate_size: int = 2048
    """width of one expert, F"""
    num_hidden_layers: int = 61
    """transformer blocks, the multi-token-prediction block not counted"""
    first_k_dense_replace: int = 3
    """how many of the first blocks are dense instead of sparse"""
    num_attention_heads: int = 128
    """heads, H"""
    num_key_value_heads: int = 0
    """dense families: heads of keys and values, a divisor of H; 0: H"""
    head_dim: int = 0
    """dense families: width of a head; 0: hidden_size / H"""
    q_lora_rank: int | None = 1536
    """width of the query latent; none or 0: queries straight from the stream"""
    kv_lora_rank: int = 512
    """width of the joint key-value latent, L"""
    qk_nope_head_dim: int = 128
    """per head, the part of query and key without position"""
    qk_rope_head_dim: int = 64
    """the rotated part of query and key, R; its key is shared by all heads"""
    v_head_dim: int = 128
    """per head, the width of a value"""
    attention_bias: bool = False
    """llama and qwen3: biases on all four projections; qwen2 always has them on three"""
    mlp_bias: bool = False
    """llama: biases in the feed-forward layers"""
    n_routed_experts: int = 256
    """routed experts a layer, E"""
    n_shared_experts: int = 1
    """experts that every token takes; their widths add up"""
    num_experts_per_tok: int = 8
    """routed experts a token takes, K"""
    topk_method: Literal["noaux_tc", "greedy", "group_limited_greedy"] = "noaux_tc"
    """deepseek_v3: noaux_tc, sigmoid scores and a bias that selects; V2: softmax, the other two"""
    n_group: int = 8
    """groups the experts are split into for the selection"""
    topk_group: int = 4
    """groups a token may choose from"""
    norm_topk_prob: bool = True
    """whether the chosen experts' weights are scaled to sum to one"""
    routed_scaling_factor: float = 2.5
    """factor on the routed experts' sum"""
    num_nextn_predict_layers: int = 1
    """multi-token-prediction blocks: 0 or 1"""
    max_position_embeddings: int = 4096
    """longest sequence, tokens"""
    rope_theta: float = 10000.0
    """base of the rotary frequencies"""
    rope_scaling: RopeScaling = field(default_factory=RopeScaling)
    """how they are stretched for longer contexts"""
    rms_norm_eps: float = 1e-6
    """added to the mean square in every norm but the latents'"""
    latent_norm_eps: float = 1e-6  # of DeepSeek's modeling code, whatever rms_norm_eps says
    """the same in the norms of the two latents"""
    tie_word_embeddings: bool = False
    """whether the output head is the embedding"""
    initializer_range: float = 0.006  # V3 section 4.2; the Hub's config.json says 0.02
    """standard deviation of the initial weights"""
    bos_token_id: int = 0
    """-1: none"""
    eos_token_id: int = 1
    """-1: none"""

    def __post_init__(self) -> None:
        for name in (
            *("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads"),
            "max_position_embeddings",
        ):
            _check_between(name, getattr(self, name), 1, _WIDEST)
        _check_between("num_hidden_layers", self.num_hidden_layers, 1, _DEEPEST)
        for name, low, high in (
            ("rope_theta", 1.0, 1e12),
            ("rms_norm_eps", 0.0, 1.0),
            ("latent_norm_eps", 0.0, 1.0),
            ("initializer_range", 0.0, 10.0),
            *((mark, -1, _WIDEST) for mark in ("bos_token_id", "eos_token_id")),
        ):
            _check_between(name, getattr(self, name), low, high)
        if self.rope_scaling.rope_type == "yarn" and self.rope_theta == 1:
            raise ValueError("rope_theta is 1: yarn needs frequencies that differ, so a larger one")
        if self.hidden_size % 4:
            raise ValueError(_rows_of_16_bytes("hidden_size", self.hidden_size))
        if self.latent:
            self._check_latent()
            self._check_experts()
        else:
            self._check_grouped()

    def _set(self, **values: object) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def _check_grouped(self) -> None:
        """A dense family: everything of latents, experts and prediction is empty."""
        heads = self.num_attention_heads
        self._set(
            **dict.fromkeys((*_LATENT_WIDTHS, *_EXPERT_COUNTS), 0),
            q_lora_rank=None,
            n_group=1,
            topk_group=1,
            topk_method="greedy",
            norm_topk_prob=False,
            routed_scaling_factor=1.0,
            first_k_dense_replace=self.num_hidden_layers,
            num_nextn_predict_layers=0,
            latent_norm_eps=1e-6,
            num_key_value_heads=self.num_key_value_heads or heads,
        )
        if not self.head_dim:
            if self.hidden_size % heads:
                raise ValueError(
                    f"hidden_size = {self.hidden_size} does not split into num_attention_heads = "
                    f"{heads} equal heads: set head_dim"
                )
            self._set(head_dim=self.hidden_size // heads)
        _check_between("num_key_value_heads", self.num_key_value_heads, 1, heads)
        _check_between("head_dim", self.head_dim, 2, _WIDEST)
        if heads % self.num_key_value_heads:
            raise ValueError(
                f"num_key_value_heads = {self.num_key_value_heads} does not divide "
                f"num_attention_heads = {heads}: choose a divisor"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim is {self.head_dim}: it must be even, pairs are rotated")
        if self.model_type == "qwen2":
            self._set(attention_bias=False)
        if self.mlp_bias and self.model_type != "llama":
            raise ValueError(f"mlp_bias is set, which {self.model_type} does not have: unset it")

    def _check_latent(self) -> None:
        if self.q_lora_rank == 0:
            self._set(q_lora_rank=None)
        self._set(num_key_value_heads=0, head_dim=0)
        for name in _LATENT_WIDTHS:
            _check_between(name, getattr(self, name), 1, _WIDEST)
        if self.q_lora_rank is not None:
            _check_between("q_lora_rank", self.q_lora_rank, 1, _WIDEST)
        if self.qk_rope_head_dim % 2:
            raise ValueError(
                f"qk_rope_head_dim is {self.qk_rope_head_dim}: it must be even, pairs are rotated"
            )
        for name in ("attention_bias", "mlp_bias"):
            if getattr(self, name):
                raise ValueError(
                    f"{name} is set, which no released DeepSeek has and Benthic does not run: "
                    "unset it"
                )

    def _check_experts(self) -> None:
        for name in _EXPERT_COUNTS:
            _check_between(name, getattr(self, name), 1, _WIDEST)
        for name in ("n_routed_experts", "n_shared_experts", "n_group", "topk_group"):
            _check_between(name, getattr(self, name), 1, 1 << 16)
        if self.num_hidden_layers * self.n_routed_experts > _MOST_EXPERTS:
            raise ValueError(
                f"num_hidden_layers = {self.num_hidden_layers} with n_routed_experts = "
                f"{self.n_routed_experts} make more than {_MOST_EXPERTS} experts in all: lower one"
            )
        _check_between("routed_scaling_factor", self.routed_scaling_factor, 0.0, 1e6)
        if self.moe_intermediate_size % 4:
            raise ValueError(_rows_of_16_bytes("moe_intermediate_size", self.moe_intermediate_size))
        methods = ("noaux_tc",) if self.model_type == "deepseek_v3" else _V2_METHODS
        if self.topk_method not in methods:
            raise ValueError(
                f"topk_method is {self.topk_method!r}: deepseek_v3 selects by 'noaux_tc', "
                "deepseek_v2 by 'greedy' or 'group_limited_greedy'"
            )
        if self.model_type == "deepseek_v2":
            if self.norm_topk_prob:
                raise ValueError(
                    "norm_topk_prob is set with softmax scores, where programs disagree and no "
                    "release does so: set it to false"
                )
            if self.num_nextn_predict_layers:
                raise ValueError(
                    "num_nextn_predict_layers is set, which deepseek_v2 does not have: set it to 0"
                )
        if self.topk_method == "greedy":  # groups play no part
            self._set(n_group=1, topk_group=1)
        if not 0 <= self.first_k_dense_replace <= self.num_hidden_layers:
            raise ValueError(
                f"first_k_dense_replace is {self.first_k_dense_replace}: "
                f"it must be between 0 and num_hidden_layers = {self.num_hidden_layers}"
            )
        if self.n_routed_experts % self.n_group:
            raise ValueError(
                f"n_routed_experts = {self.n_routed_experts} does not split into "
                f"n_group = {self.n_group} equal groups: choose a divisor"
            )
        alone = self.n_routed_experts // self.n_group < 2
        if self.n_group > 1 and alone and self.topk_method == "noaux_tc":
            raise ValueError(
                f"n_group = {self.n_group} leaves one expert a group: its score is the sum of "
                "the best two (V3 section 2.1.2), so use fewer groups"
            )
        if self.topk_group > self.n_group:
            raise ValueError(f"topk_group = {self.topk_group} exceeds n_group = {self.n_group}")
        reachable = self.n_routed_experts // self.n_group * self.topk_group
        if self.num_experts_per_tok > reachable:
            raise ValueError(
                f"num_experts_per_tok = {self.num_experts_per_tok} exceeds the {reachable} experts "
                "that topk_group groups hold: lower it or raise topk_group"
            )
        if self.num_nextn_predict_layers not in (0, 1):
            raise ValueError(
                f"num_nextn_predict_layers is {self.num_nextn_predict_layers}: 0 or 1 is supported"
            )

    @property
    def latent(self) -> bool:
        """Whether attention is latent (DeepSeek) or grouped-query (dense families)."""
        return self.model_type not in DENSE

    @property
    def qkv_bias(self) -> bool:
        """Whether queries, keys and values have biases."""
        return self.attention_bias or self.model_type == "qwen2"

    @property
    def qk_norm(self) -> bool:
        """Whether each head's query and key is normed before it is rotated."""
        return self.model_type == "qwen3"

    @property
    def qk_head_dim(self) -> int:
        return self.qk_nope_head_dim + self.qk_rope_head_dim if self.latent else self.head_dim

    @property
    def rotary_dim(self) -> int:
        """How many elements of a query or key are rotated."""
        return self.qk_rope_head_dim if self.latent else self.head_dim

    @property
    def rotary_bytes(self) -> int:
        """Cosine and sine of every position, in fp32."""
        return 4 * self.max_position_embeddings * self.rotary_dim

    @property
    def softmax_scale(self) -> float:
        """Factor on the scores: width**-0.5, and YaRN's mscale squared in latent attention."""
        stretched = self.rope_scaling.softmax_factor if self.latent else 1.0
        return stretched / math.sqrt(self.qk_head_dim)

    @property
    def cache_width(self) -> int:
        """Elements that a token leaves in one layer's cache, C: L + R, or keys and values."""
        if self.latent:
            return self.kv_lora_rank + self.qk_rope_head_dim
        return 2 * self.num_key_value_heads * self.head_dim

    @property
    def num_moe_layers(self) -> int:
        """Sparse blocks of the main model; a token takes K experts in each of them."""
        return self.num_hidden_layers - self.first_k_dense_replace

    def without_prediction(self) -> "ModelConfig":
        """The same network without its multi-token-prediction block."""
        return replace(self, num_nextn_predict_layers=0)


_LATENT_WIDTHS = ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
_V2_METHODS = ("greedy", "group_limited_greedy")
_EXPERT_COUNTS = (
    *("moe_intermediate_size", "n_routed_experts", "n_shared_experts"),
    "num_experts_per_tok",
)


def _check_between(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        if value < low and low == 1:
            raise ValueError(f"{name} is {value}: it must be at least 1")
        raise ValueError(f"{name} is {value}: it must be between {low:g} and {high:g}")


def _rows_of_16_bytes(name: str, value: int) -> str:
    return (
        f"{name} is {value}: make it a multiple of 4, since grouped matrix products want rows of "
        "whole 16 bytes"
    )
