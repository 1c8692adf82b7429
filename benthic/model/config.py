"""The shape of a DeepSeek-V3 network. Field names are the keys of the Hub's `config.json`.

Never imports torch: `benthic.cost` counts FLOPs and parameters from this class alone. Left out so
far: YaRN, softmax gating, dense families. A key that asks for them is an error, not ignored.
"""

from dataclasses import asdict, dataclass
from typing import Any

# Keys of config.json that are fixed here: the one value that is supported.
_FIXED: dict[str, Any] = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "hidden_act": "silu",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "moe_layer_freq": 1,
    "rope_interleave": True,
    "rope_scaling": None,
    "tie_word_embeddings": False,
}


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A DeepSeek-V3 shape; units are elements unless said otherwise."""

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
    n_routed_experts: int = 256
    """routed experts a layer, E"""
    n_shared_experts: int = 1
    """experts that every token takes; their widths add up"""
    num_experts_per_tok: int = 8
    """routed experts a token takes, K"""
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
    rms_norm_eps: float = 1e-6
    """added to the mean square in every norm"""
    initializer_range: float = 0.006  # V3 section 4.2; the Hub's config.json says 0.02
    """standard deviation of the initial weights"""
    bos_token_id: int = 0
    eos_token_id: int = 1

    def __post_init__(self) -> None:
        for name in (
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "moe_intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "kv_lora_rank",
            "qk_nope_head_dim",
            "qk_rope_head_dim",
            "v_head_dim",
            "n_routed_experts",
            "n_shared_experts",
            "num_experts_per_tok",
            "n_group",
            "topk_group",
            "max_position_embeddings",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if self.q_lora_rank == 0:
            object.__setattr__(self, "q_lora_rank", None)
        if self.q_lora_rank is not None and self.q_lora_rank < 1:
            raise ValueError(f"q_lora_rank is {self.q_lora_rank}: give a width, or leave it out")
        if not 0 <= self.first_k_dense_replace <= self.num_hidden_layers:
            raise ValueError(
                f"first_k_dense_replace is {self.first_k_dense_replace}: "
                f"it must be between 0 and num_hidden_layers = {self.num_hidden_layers}"
            )
        if self.qk_rope_head_dim % 2:
            raise ValueError(
                f"qk_rope_head_dim is {self.qk_rope_head_dim}: it must be even, pairs are rotated"
            )
        if self.n_routed_experts % self.n_group:
            raise ValueError(
                f"n_routed_experts = {self.n_routed_experts} does not split into "
                f"n_group = {self.n_group} equal groups: choose a divisor"
            )
        if self.n_group > 1 and self.n_routed_experts // self.n_group < 2:
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
        for name, low, high in (
            ("rope_theta", 1.0, 1e12),
            ("rms_norm_eps", 0.0, 1.0),
            ("initializer_range", 0.0, 10.0),
            ("routed_scaling_factor", 0.0, 1e6),
        ):
            if not low <= getattr(self, name) <= high:
                raise ValueError(
                    f"{name} is {getattr(self, name)}: it must be between {low:g} and {high:g}"
                )
        for name in ("hidden_size", "moe_intermediate_size"):
            if getattr(self, name) % 4:
                raise ValueError(
                    f"{name} is {getattr(self, name)}: make it a multiple of 4, since grouped "
                    "matrix products want rows of whole 16 bytes"
                )

    @property
    def qk_head_dim(self) -> int:
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    @property
    def num_moe_layers(self) -> int:
        """Sparse blocks of the main model; a token takes K experts in each of them."""
        return self.num_hidden_layers - self.first_k_dense_replace

    def to_hub(self) -> dict[str, Any]:
        """The keys of a Hub `config.json`."""
        out = {**_FIXED, **asdict(self)}
        out["num_key_value_heads"] = self.num_attention_heads
        return out

    @classmethod
    def from_hub(cls, keys: dict[str, Any]) -> "ModelConfig":
        """Read a Hub `config.json`; `ValueError` names a key that this class does not support."""
        own = {}
        for key, value in keys.items():
            if key in cls.__dataclass_fields__:
                own[key] = value
            elif key == "num_key_value_heads":
                if value != keys.get("num_attention_heads"):
                    raise ValueError("num_key_value_heads must equal num_attention_heads in MLA")
            elif key in ("dtype", "torch_dtype", "transformers_version"):
                continue  # of the file, not of the shape
            elif key not in _FIXED:
                raise ValueError(f"config.json has the key '{key}', which is not supported yet")
            elif value != _FIXED[key]:
                raise ValueError(
                    f"config.json says {key} = {value!r}; only {_FIXED[key]!r} is supported yet"
                )
        return cls(**own)
