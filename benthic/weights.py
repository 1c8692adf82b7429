"""Weights by path: a run's folder, or a checkpoint in the Hub's layout, opened alike."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from benthic.config import Recipe
from benthic.data.hub_tokenizer import HubTokenizer, byte_tokenizer
from benthic.data.template import R1_TEMPLATE
from benthic.data.tokenizer import SPECIALS
from benthic.data.vocabulary import HubVocabulary, Vocabulary, hub_vocabulary, vocabulary_of
from benthic.folder import FolderError, RunFolder
from benthic.hub.config import Fp8Format
from benthic.model.checkpoint import check_memory, empty_model, fill, open_source
from benthic.model.config import ModelConfig
from benthic.model.transformer import LanguageModel
from benthic.train import checkpoint, loop

# Bytes a parameter takes in training: weight, gradient and two moments, fp32.
TRAINING_BYTES = 16


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
        """As the Hub has it; bytes become a tokenizer without merges, with R1's template."""
        if isinstance(self.vocabulary, HubVocabulary):
            return self.vocabulary.hub
        table = byte_tokenizer(SPECIALS, self.model.config.vocab_size)
        return replace(table, adds_bos=True, chat_template=R1_TEMPLATE)


def open_weights(
    path: Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    keep_fp8: bool = False,
) -> Weights:
    """A run's latest weights, or an imported checkpoint's in `dtype` (default: as stored).

    FolderError, HubError or ValueError, one sentence, if there is nothing sound to open.
    """
    folder = RunFolder(path)
    if folder.exists():
        model, stage = load_run(folder)
        recipe = folder.recipe()
        vocabulary = vocabulary_of(recipe)
        folder.check_vocabulary(vocabulary.describe())
        state = "reinforced" if stage == "rl" else "pretrained only"
        return Weights(path, model.to(device, dtype), vocabulary, state, recipe)
    if not (path / "config.json").exists():
        raise FolderError(
            f"{path} is neither a run's folder nor a checkpoint of the Hub (it holds no "
            "config.json): make a run with 'benthic run laptop', or name another"
        )
    source = open_source(path)
    read = hub_vocabulary(path)
    if source.config.vocab_size < read.size:
        raise FolderError(
            f"the tokenizer in {path} has {read.size} ids and config.json says vocab_size = "
            f"{source.config.vocab_size}: fetch the tokenizer that belongs to the weights"
        )
    model = empty_model(
        source.config,
        device=device,
        dtype=dtype or source.dtype,
        fp8=source.fp8 if keep_fp8 else None,
    )
    fill(model, source)
    return Weights(path, model, read, "imported", fp8=source.fp8)


def load_run(folder: RunFolder) -> tuple[LanguageModel, str]:
    """The run's latest weights and the stage they come from; FolderError if it has none."""
    if not folder.exists():
        raise FolderError(
            f"{folder.path} is not a run's folder: make one with 'benthic run laptop', "
            "or name another"
        )
    model = LanguageModel(folder.recipe().model)
    for stage in ("rl", "pretrain"):
        if checkpoint.steps_of(folder.checkpoints, stage):
            loop.restore(folder.checkpoints, stage, model)
            return model, stage
    raise FolderError(f"{folder.path} has no checkpoint yet: give 'benthic run' again to go on")


def starting_from(recipe: Recipe, path: Path) -> Recipe:
    """The recipe with the checkpoint's shape and tokenizer in place of its own."""
    folder = RunFolder(path)
    if folder.exists():
        theirs = folder.recipe()
        data = replace(recipe.data, tokenizer=theirs.data.tokenizer)
        return replace(recipe, model=theirs.model, data=data, init_from=str(path))
    source = open_source(path)
    check_memory(TRAINING_BYTES * _size(source.config), torch.device(recipe.device))
    read = hub_vocabulary(path)
    begin = source.config.bos_token_id if read.bos is None else read.bos
    model = replace(source.config, bos_token_id=begin, eos_token_id=read.eos)
    data = replace(recipe.data, tokenizer=str(path))
    return replace(recipe, model=model, data=data, init_from=str(path))


def start(model: LanguageModel, path: Path) -> None:
    """Give a fresh model the weights of `path`, whose shape it must have."""
    folder = RunFolder(path)
    weights = load_run(folder)[0].state_dict() if folder.exists() else None
    try:
        if weights is not None:
            model.load_state_dict(weights)
        else:
            fill(model, open_source(path))
    except (RuntimeError, KeyError) as error:
        raise FolderError(
            f"{path} no longer holds the weights that this run began with (their shape differs): "
            "put them back, or start anew with --fresh"
        ) from error


def digest(model: LanguageModel) -> str:
    """Of all weights, so that a resume on others is noticed."""
    found = hashlib.blake2b(digest_size=16)
    for tensor in model.state_dict().values():
        found.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return found.hexdigest()


def _size(config: ModelConfig) -> int:
    from benthic.cost.flops import parameters

    return parameters(config)["total_with_mtp"]
