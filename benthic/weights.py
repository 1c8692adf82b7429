"""Weights by path: a run's folder, or a checkpoint in the Hub's layout, opened alike.

A training may start from either (`starting_from`, `start`): shape and tokenizer come with the
weights, whose digest tells a resume that they are still the same. Left out: optimizer state, which
only a run's own folder continues.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import processors

from benthic.config import Recipe, load
from benthic.cost.network.flops import parameters
from benthic.data.hub_tokenizer import HubTokenizer, byte_tokenizer
from benthic.data.tasks.running_total import FIELD
from benthic.data.template import R1_TEMPLATE
from benthic.data.tokenizer import BOS, SPECIALS
from benthic.data.vocabulary import HubVocabulary, Vocabulary, hub_vocabulary, vocabulary_of
from benthic.folder import FolderError, RunFolder
from benthic.hub.config import Fp8Format
from benthic.hub.files import CONFIG_LIMIT, TOKENIZERS, check_folder, model_name, read_json
from benthic.hub.layout import layout
from benthic.model.checkpoint import (
    Source,
    fill,
    model_of,
    open_source,
)
from benthic.model.config import ModelConfig
from benthic.model.memory import MemoryNeeded, check_memory
from benthic.model.transformer import LanguageModel
from benthic.train import checkpoint, loop

# Bytes a parameter takes in training: weight, gradient and two moments in fp32, and, while a
# checkpoint is written, what goes into its file.
TRAINING_BYTES = 16 + 12
_TWIN_BYTES = 8  # of the copy in fp64 that reinforcement may sample from
_SAMPLING = ("pad_token_id", "do_sample", "temperature", "top_k", "top_p", "repetition_penalty")
_CONTENT = "{{ message['content'] }}"
_PADDED = f"{{{{ message['content'] ~ '{' ' * FIELD}'[message['content']|length:] }}}}"
# R1-Zero's plain text, as `Vocabulary.prompt` has it where there are no tokens for the roles.
_PLAIN_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{ message['content'] ~ '\\n' }}"
    "{% elif message['role'] == 'user' %}"
    f"{{{{ 'User: ' }}}}{_CONTENT}{{{{ '\\n' }}}}"
    "{% else %}"
    "{{ 'Assistant: ' ~ message['content'].split('</think>')[-1] }}{{ eos_token }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}"
)


@dataclass(frozen=True)
class Weights:
    """A model that can be talked to, trained on or exported."""

    path: Path
    model: LanguageModel
    vocabulary: Vocabulary
    state: str
    """'reinforced', 'pretrained only' or 'imported'"""
    recipe: Recipe | None = None
    """a run's; none for an imported checkpoint"""
    fp8: Fp8Format | None = None
    """how the checkpoint stores FP8, where it does"""

    @property
    def tokenizer(self) -> HubTokenizer:
        """As the Hub has it; a run's chat template asks as the run was trained and measured."""
        vocabulary = self.vocabulary
        if isinstance(vocabulary, HubVocabulary):
            hub = vocabulary.hub
        else:
            table = byte_tokenizer(SPECIALS, self.model.config.vocab_size)
            bos = SPECIALS[BOS - 256]
            table.tokenizer.post_processor = processors.TemplateProcessing(
                single=[bos, "$A"], pair=[bos, "$A", "$B:1"], special_tokens=[(bos, BOS)]
            )
            hub = replace(table, adds_bos=True)
        if self.recipe is None:
            return hub
        template = R1_TEMPLATE if vocabulary.roles else _PLAIN_TEMPLATE
        if vocabulary.bos is None:
            template = template.removeprefix("{{ bos_token }}")
        if not self.recipe.data.tasks:
            template = _padding(template)
        return replace(hub, chat_template=template)


def _padding(template: str) -> str:
    """The template with questions in running totals' field, which the model counts places in."""
    before, user, after = template.partition("message['role'] == 'user'")
    return before + user + after.replace(_CONTENT, _PADDED, 1)


def open_weights(
    path: Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    keep_fp8: bool = False,
) -> Weights:
    """A run's latest weights, or an imported checkpoint's in `dtype` (default: as stored).

    FolderError, HubError or ValueError, one sentence, if there is nothing sound to open, no such
    device, or no FP8 to keep.
    """
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise FolderError("device is 'cuda', but PyTorch sees no GPU here: use --device cpu")
    folder = RunFolder(path)
    source = None if folder.exists() else source_in(path)
    if keep_fp8 and not (source and source.fp8):
        raise FolderError(f"{path} holds no weights in FP8: leave --keep-fp8 out")
    if source is None:
        model, stage = load_run(folder)
        recipe = folder.recipe()
        vocabulary = vocabulary_of(recipe)
        folder.check_vocabulary(vocabulary.describe())
        state = "reinforced" if stage == "rl" else "pretrained only"
        return Weights(path, _moved(model, device, dtype), vocabulary, state, recipe)
    read = hub_vocabulary(path)
    if source.config.vocab_size < read.size:
        raise FolderError(
            f"the tokenizer in {path} has {read.size} ids and config.json says vocab_size = "
            f"{source.config.vocab_size}: fetch the tokenizer that belongs to the weights"
        )
    model = model_of(source, device=device, dtype=dtype, keep_fp8=keep_fp8)
    return Weights(path, model, read, "imported", fp8=source.fp8)


def sampling_of(path: Path) -> dict[str, float]:
    """What a checkpoint's generation_config.json says of sampling: do_sample, temperature, ..."""
    file = path / "generation_config.json"
    given = read_json(file, limit=CONFIG_LIMIT) if os.path.lexists(file) else {}
    return {k: given[k] for k in _SAMPLING if isinstance(given.get(k), int | float)}


def source_in(path: Path) -> Source:
    """The Hub checkpoint in a folder that is no run's; FolderError or HubError if it is none."""
    if not path.exists():
        raise FolderError(
            f"{path} does not exist: make a run with 'benthic run laptop', or name another folder"
        )
    check_folder(path)
    if not os.path.lexists(path / "config.json"):
        raise FolderError(
            f"{path} is neither a run's folder nor a checkpoint of the Hub (it holds no "
            "config.json): make a run with 'benthic run laptop', or name another"
        )
    return open_source(path)


def load_run(folder: RunFolder) -> tuple[LanguageModel, str]:
    """The run's latest weights and the stage they come from; FolderError if it has none."""
    recipe = folder.recipe()
    config = recipe.model
    for stage in ("rl", "pretrain"):
        if steps := checkpoint.steps_of(folder.checkpoints, stage):
            file = checkpoint.path_of(folder.checkpoints, stage, steps[-1]) / checkpoint.TENSORS
            read = 2 * file.stat().st_size if file.exists() else 0  # its bytes, and its tensors
            held = 4 * parameters(config)["total_with_mtp"] + config.rotary_bytes
            check_memory(held + read, torch.device("cpu"))
            model = LanguageModel(config)
            loop.restore(folder.checkpoints, stage, model)
            return model, stage
    if not recipe.pretrain.steps and not recipe.reason.steps:
        whole = recipe.init_from or "a run with more"
        raise FolderError(
            f"{folder.path} has no weights, since it trains for 0 steps: take {whole}"
        )
    raise FolderError(f"{folder.path} has no checkpoint yet: give 'benthic run' again to go on")


def starting_from(recipe: str, overrides: Sequence[str], path: Path) -> Recipe:
    """`load`, with shape and tokenizer of the run or checkpoint in `path` in place of its own.

    An override of `model` still counts (rope_theta, for longer contexts); one that changes the
    weights' shapes is refused by `start`. `data.tokenizer` may be given where the folder has none.
    """
    folder = RunFolder(path)
    if folder.exists():
        theirs = folder.recipe()
        model, own, complete = theirs.model, theirs.data.tokenizer, True
    else:
        model, own = source_in(path).config, str(path)
        complete = any(os.path.lexists(path / name) for name in TOKENIZERS)
        model = _marked(model, path) if complete else model
    about = f"{Path(recipe).stem} on the weights of {model_name(path)}"
    tree = {"model": asdict(model), "data": {"tokenizer": own}, "about": about}
    found = load(recipe, [*_overrides("", tree), *overrides])
    given = found.data.tokenizer
    if not complete and given:
        found = replace(found, model=_marked(found.model, Path(given)))
    elif complete and given != own:
        raise FolderError(
            f"data.tokenizer is {given or 'that of bytes'}, and the weights in {path} were trained "
            f"with {own or 'that of bytes'}: leave data.tokenizer out"
        )
    twin = _TWIN_BYTES if found.reason.steps and found.reason.precision == "fp64" else 0
    device = torch.device(found.device)
    if device.type == "cpu" or torch.cuda.is_available():
        count = parameters(found.model)["total_with_mtp"]
        try:
            tables = found.model.rotary_bytes
            check_memory((TRAINING_BYTES + twin) * count + tables, device)
        except MemoryNeeded as error:
            raise MemoryNeeded(f"in training, with gradients and moments, {error}") from error
    return replace(found, init_from=str(path))


def _marked(model: ModelConfig, tokenizer: Path) -> ModelConfig:
    """The shape with the tokenizer's begin and end."""
    read = hub_vocabulary(tokenizer)
    begin = model.bos_token_id if read.bos is None else read.bos
    return replace(model, bos_token_id=begin, eos_token_id=read.eos)


def _overrides(at: str, tree: dict[str, Any]) -> list[str]:
    """A part of a recipe as overrides; none is 0, as in one that is kept."""
    out: list[str] = []
    for key, value in tree.items():
        if isinstance(value, dict):
            out += _overrides(f"{at}{key}.", value)
        else:
            out.append(f"{at}{key}={json.dumps(0 if value is None else value, ensure_ascii=False)}")
    return out


def start(model: LanguageModel, path: Path) -> None:
    """Give a fresh model the weights of `path`, whose shape it must have."""
    folder = RunFolder(path)
    if folder.exists():
        found = load_run(folder)[0]
        _check_shape(path, found.config, model.config)
        model.load_state_dict(found.state_dict())
        return
    source = source_in(path)
    _check_shape(path, source.config, model.config)
    fill(model, source)


def _check_shape(path: Path, theirs: ModelConfig, ours: ModelConfig) -> None:
    held, wanted = layout(theirs), layout(ours)
    for name in [*wanted, *held]:
        if held.get(name) != wanted.get(name):
            there, here = (str(shapes.get(name, "none")) for shapes in (held, wanted))
            raise FolderError(
                f"{path} holds {name} as {there}, and the recipe's model has {here}: leave out "
                "what --set says of its shape, or start from other weights"
            )


def digest(model: LanguageModel) -> str:
    """Of all weights, so that a resume on others is noticed."""
    found = hashlib.blake2b(digest_size=16)
    for tensor in model.state_dict().values():
        found.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return found.hexdigest()


def check_start(folder: RunFolder, source: str, began_with: str) -> None:
    """Refuse to go on with a run, or to fork it, on other weights: `began_with` is their digest."""
    if folder.manifest().get("init_sha", "") != began_with:
        raise FolderError(
            f"{folder.path} began with other weights than {source} holds now: put "
            "them back, or begin another run with --name or --fresh"
        )


def _moved(
    model: LanguageModel, device: torch.device | str, dtype: torch.dtype | None
) -> LanguageModel:
    """`model.to`, with what importing keeps in fp32 kept so: router biases and rotary tables."""
    biases = [router.e_score_correction_bias for router in model.routers]
    model.to(device, dtype)
    for router, bias in zip(model.routers, biases, strict=True):
        router.e_score_correction_bias = None if bias is None else bias.to(device)
    cos, sin = model.tables()
    model.cos, model.sin = cos.to(device), sin.to(device)
    return model
