"""Recipes: frozen dataclasses <-> TOML, overrides, and errors that name the key and the remedy.

A recipe is everything a run is made of; the resolved one is kept in the run's folder. Never imports
torch.
"""

import difflib
import math
import tomllib
import types
import typing
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from benthic.model.config import ModelConfig

_TOKENS = 262  # ids that the byte vocabulary uses
_KINDS = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}


def _within(owner: object, **limits: tuple[float, float]) -> None:
    for name, (low, high) in limits.items():
        value = getattr(owner, name)
        if not low <= value <= high:
            raise ValueError(f"{name} is {value}: it must be between {low:g} and {high:g}")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    paths: tuple[str, ...] = ()
    """text files or folders; none: the Python standard library on this machine"""
    tasks: str = ""
    """JSONL file of problems (question, working, answer); empty: running totals modulo 10"""
    tokenizer: str = ""
    """a folder or tokenizer.json of the Hub; empty: bytes"""
    text_share: float = 0.25
    """share of the training rows, and so of the tokens, that is real text"""
    worked_share: float = 0.15
    """share of the problems that show their working"""
    sequence_length: int = 64
    """tokens a training row"""

    def __post_init__(self) -> None:
        _within(self, text_share=(0, 1), worked_share=(0, 1), sequence_length=(8, 1 << 20))


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    steps: int = 1000
    """optimizer steps"""
    rows: int = 64
    """rows a step, over all ranks"""
    micro_batches: int = 2
    """parts a step's rows are split into; the number of ranks must divide it"""
    learning_rate: float = 5e-3
    """peak, for Muon and AdamW alike"""
    warmup_steps: int = 20
    """steps of linear warm-up"""
    decay_share: float = 0.3
    """share of the steps, at the end, over which the rate falls linearly to zero"""
    weight_decay: float = 0.0
    """decoupled decay, per unit of learning rate"""
    clip: float = 1.0
    """largest global gradient norm"""
    bias_rate: float = 0.001
    """gamma of the router bias, per step"""
    bias_off_share: float = 0.05
    """share of the steps, at the end, with gamma 0"""
    balance_alpha: float = 1e-4
    """weight of the sequence-wise balance loss"""
    mtp_weight: float = 0.3
    """weight of the loss two tokens ahead until the decay"""
    mtp_weight_late: float = 0.1
    """the same during the decay"""
    checkpoint_every: int = 100
    """steps between checkpoints"""

    def __post_init__(self) -> None:
        _within(
            self,
            steps=(0, 1e9),
            rows=(1, 1e6),
            micro_batches=(1, 4096),
            learning_rate=(0, 1),
            warmup_steps=(0, 1e9),
            decay_share=(0, 1),
            weight_decay=(0, 10),
            clip=(1e-6, 1e6),
            bias_rate=(0, 1),
            bias_off_share=(0, 1),
            balance_alpha=(0, 1),
            mtp_weight=(0, 10),
            mtp_weight_late=(0, 10),
            checkpoint_every=(1, 1e9),
        )
        if self.rows % self.micro_batches:
            raise ValueError(
                f"rows = {self.rows} does not split into micro_batches = {self.micro_batches} "
                "equal parts: choose a divisor"
            )


@dataclass(frozen=True, kw_only=True)
class ReasonConfig:
    steps: int = 40
    """optimizer steps"""
    prompts: int = 32
    """problems a step, over all ranks"""
    group: int = 8
    """answers sampled for each problem"""
    micro_batches: int = 2
    """parts a step's problems are split into; the number of ranks must divide it"""
    max_new_tokens: int = 24
    """longest answer, tokens"""
    optimizer: typing.Literal["muon", "adamw"] = "adamw"
    """of the matrices; Muon's steps are full-sized whatever the gradient's noise"""
    learning_rate: float = 1e-4
    """peak"""
    warmup_steps: int = 3
    """steps of linear warm-up"""
    decay_share: float = 0.3
    """share of the steps, at the end, over which the rate falls linearly to zero"""
    weight_decay: float = 0.0
    """decoupled decay, per unit of learning rate"""
    clip: float = 1.0
    """largest global gradient norm"""
    clip_low: float = 0.2
    """the ratio's lower bound is 1 - clip_low"""
    clip_high: float = 0.28
    """the ratio's upper bound is 1 + clip_high (DAPO, arXiv:2503.14476)"""
    precision: typing.Literal["fp32", "fp64"] = "fp32"
    """of sampling and of the update's forward and backward; the weights stay fp32"""
    reward: typing.Literal["rule", "random"] = "rule"
    """'random' pays a fair coin instead of the right answer: a control"""
    gate_gap: float = 0.3
    """least accuracy of worked answers minus that of direct ones, before RL"""
    gate_share: float = 0.03
    """least share of worked answers, before RL"""
    checkpoint_every: int = 10
    """steps between checkpoints"""

    def __post_init__(self) -> None:
        _within(
            self,
            steps=(0, 1e9),
            prompts=(1, 1e6),
            group=(2, 1e5),
            micro_batches=(1, 4096),
            max_new_tokens=(1, 1 << 20),
            learning_rate=(0, 1),
            warmup_steps=(0, 1e9),
            decay_share=(0, 1),
            weight_decay=(0, 10),
            clip=(1e-6, 1e6),
            clip_low=(0, 1),
            clip_high=(0, 100),
            gate_gap=(-1, 1),
            gate_share=(0, 1),
            checkpoint_every=(1, 1e9),
        )
        if self.prompts % self.micro_batches:
            raise ValueError(
                f"prompts = {self.prompts} does not split into micro_batches = "
                f"{self.micro_batches} equal parts: choose a divisor"
            )


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    problems: int = 1000
    """held-out problems of the trained lengths, and answers sampled at temperature 1"""
    unseen: int = 250
    """held-out problems of each length never trained on"""
    text_bytes: int = 65536
    """bytes of held-out text scored, its document marks counted in"""

    def __post_init__(self) -> None:
        _within(self, problems=(1, 1e7), unseen=(0, 1e6), text_bytes=(256, 1e10))


@dataclass(frozen=True, kw_only=True)
class BillConfig:
    price_per_hour: float = 0.10
    """US dollars for one machine (or one GPU) and hour; left as it is, a GPU that the catalog
    knows takes its rent there"""
    price_source: str = "assumption: a rented two-core cloud machine; put in your own"
    watts: float = 0.0
    """draw of one machine (or one GPU) under load, where no counter can be read; 0: as the meter
    estimates, from the processor's time or the GPU's rating"""

    def __post_init__(self) -> None:
        _within(self, price_per_hour=(0, 1e6), watts=(0, 1e6))


@dataclass(frozen=True, kw_only=True)
class Recipe:
    about: str = ""
    """one sentence: what this recipe shows"""
    seed: int = 0
    """of the weights, the data order, the samples"""
    device: typing.Literal["cpu", "cuda"] = "cpu"
    """where the network runs"""
    init_from: str = ""
    """folder of a run or checkpoint whose weights training starts from; empty: random ones"""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    reason: ReasonConfig = field(default_factory=ReasonConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    bill: BillConfig = field(default_factory=BillConfig)

    def __post_init__(self) -> None:
        _within(self, seed=(0, 2**31))
        if self.data.sequence_length > self.model.max_position_embeddings:
            raise ValueError(
                f"data.sequence_length = {self.data.sequence_length} exceeds "
                f"model.max_position_embeddings = {self.model.max_position_embeddings}: "
                "raise the latter"
            )
        longest = self.data.sequence_length + self.reason.max_new_tokens
        if longest > self.model.max_position_embeddings:
            raise ValueError(
                f"data.sequence_length + reason.max_new_tokens = {longest} exceeds "
                f"model.max_position_embeddings = {self.model.max_position_embeddings}: "
                "raise the latter"
            )
        if not self.data.tokenizer and self.model.vocab_size < _TOKENS:
            raise ValueError(
                f"model.vocab_size is {self.model.vocab_size}: the tokenizer needs {_TOKENS}"
            )


def recipes() -> list[str]:
    """Names of the recipes that ship with Benthic."""
    folder = resources.files("benthic.recipes")
    return sorted(
        f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml")
    )


def load(source: str, overrides: typing.Sequence[str] = ()) -> Recipe:
    """A recipe by name or by path to a TOML file, with overrides like 'pretrain.steps=200'.

    ValueError names the key, the value and the remedy.
    """
    if source in recipes():
        text = resources.files("benthic.recipes").joinpath(f"{source}.toml").read_text()
    elif Path(source).is_file():
        try:
            text = Path(source).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"the recipe {source} cannot be read: {error}") from error
    else:
        raise ValueError(
            f"there is no recipe '{source}': choose from {', '.join(recipes())}, "
            "or give a TOML file"
        )
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"the recipe {source} is not valid TOML: {error}") from error
    for override in overrides:
        _override(tree, override)
    return from_tree(tree)


def from_tree(tree: dict[str, Any]) -> Recipe:
    """A recipe from nested dicts; ValueError names an unknown or ill-typed key."""
    recipe = _build(Recipe, tree, "")
    assert isinstance(recipe, Recipe)
    return recipe


def to_tree(recipe: Recipe) -> dict[str, Any]:
    """Nested dicts that TOML can hold."""
    return typing.cast(dict[str, Any], _plain(asdict(recipe)))


def differences(old: dict[str, Any], new: dict[str, Any], at: str = "") -> list[str]:
    """Keys whose values differ, each as 'a.b: old there, new here'."""
    out: list[str] = []
    for key in sorted(old.keys() | new.keys()):
        was, now = old.get(key), new.get(key)
        if isinstance(was, dict) and isinstance(now, dict):
            out += differences(was, now, f"{at}{key}.")
        elif was != now:
            out.append(f"{at}{key}: {was!r} there, {now!r} here")
    return out


def _override(tree: dict[str, Any], override: str) -> None:
    path, sign, text = override.partition("=")
    if not sign or not path.strip():
        raise ValueError(f"--set {override} is not of the form section.key=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    *sections, key = path.strip().split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise ValueError(f"--set {override}: '{section}' is a value, not a section")
    tree[key] = value


def _build(kind: type, tree: Any, at: str) -> Any:
    if not isinstance(tree, dict):
        raise ValueError(f"the recipe key '{at.rstrip('.')}' must be a section, not {tree!r}")
    hints = typing.get_type_hints(kind)
    known = {f.name: f for f in fields(kind)}
    values: dict[str, Any] = {}
    for key, value in tree.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(known)}"
            raise ValueError(f"the recipe has no key '{at}{key}': {hint}")
        hint_type = hints[key]
        if is_dataclass(hint_type):
            values[key] = _build(typing.cast(type, hint_type), value, f"{at}{key}.")
        else:
            values[key] = _convert(value, hint_type, f"{at}{key}")
    try:
        return kind(**values)
    except ValueError as error:
        raise ValueError(f"recipe {at}{error}" if at else f"recipe: {error}") from error


def _convert(value: Any, hint: Any, at: str) -> Any:
    """The value as the field's type; an int passes for a float, nothing else is bent."""
    origin = typing.get_origin(hint)
    if origin is tuple:
        if isinstance(value, str):
            value = [value]
        if isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value):
            return tuple(value)
        raise ValueError(f"the recipe key '{at}' must be a list of strings, not {value!r}")
    if origin is typing.Literal:
        if value in typing.get_args(hint):
            return value
        choices = " or ".join(repr(c) for c in typing.get_args(hint))
        raise ValueError(f"the recipe key '{at}' is {value!r}: it must be {choices}")
    if origin is types.UnionType:
        hint = next(t for t in typing.get_args(hint) if t is not type(None))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < 1 << 1000 else math.inf
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ValueError(f"the recipe key '{at}' must be {_KINDS[hint]}, not {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"the recipe key '{at}' is {value}: give a finite number")
    return value


def _plain(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {k: _plain(v) for k, v in tree.items()}
    if tree is None:
        return 0  # the one key that may be none, q_lora_rank, reads 0 so
    return list(tree) if isinstance(tree, tuple) else tree
