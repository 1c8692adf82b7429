"""Weights by path: runs and checkpoints opened alike, and runs that start from either."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benthic.config import to_tree
from benthic.data.template import render
from benthic.data.tokenizer import SPECIALS
from benthic.data.vocabulary import BYTES, HubVocabulary, hub_vocabulary
from benthic.engine.engine import Engine
from benthic.engine.sampler import SamplingParams
from benthic.export import export
from benthic.folder import FolderError, RunFolder
from benthic.hub.files import HubError
from benthic.model.config import ModelConfig
from benthic.model.memory import MemoryNeeded
from benthic.model.transformer import LanguageModel
from benthic.train import checkpoint
from benthic.weights import Weights, digest, open_weights, start, starting_from
from tests.dense import hub_in, recipe_from, transformers_in
from tests.small import run_small, same, small, state_of, text_in, tokenizer_in

Build = Callable[..., LanguageModel]
FAMILIES = [("llama", {}), ("qwen2", {"tie_word_embeddings": True}), ("qwen3", {})]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="module")
def text(place: Path) -> Path:
    return text_in(place)


@pytest.fixture(scope="module")
def done(place: Path, text: Path) -> Iterator[RunFolder]:
    """A finished run on bytes; tests only look at it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTHIC_LEDGER", str(place / "ledger.sqlite"))
        yield run_small(small(text), place / "done")


@pytest.fixture(scope="module")
def exported(place: Path, done: RunFolder) -> Path:
    export(done.path, to="hf", dtype="fp32", out=place / "exported")
    return place / "exported"


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """A dense checkpoint, free to be altered."""
    return hub_in(tmp_path / "hub")


def test_a_run_is_opened_at_its_last_stage(done: RunFolder) -> None:
    weights = open_weights(done.path)
    assert weights.state == "reinforced" and weights.recipe == done.recipe()
    kept = {f"model.{k}": v for k, v in weights.model.state_dict().items()}
    state = {k: v for k, v in state_of(done.path, "rl").items() if k.startswith("model.")}
    assert same(kept, state)


def test_an_export_is_opened_as_the_run_it_was(done: RunFolder, exported: Path) -> None:
    run, hub = open_weights(done.path), open_weights(exported)
    assert hub.state == "imported" and hub.recipe is None
    assert same(run.model.state_dict(), hub.model.state_dict())
    assert run.model.config == hub.model.config
    assert hub.vocabulary.ends == run.vocabulary.ends


def test_narrow_weights_are_the_same_from_a_run_and_from_its_export(
    done: RunFolder, exported: Path
) -> None:
    """Router biases and rotary tables stay fp32 on both ways."""
    run, hub = (open_weights(p, dtype=torch.bfloat16).model for p in (done.path, exported))
    assert run.model.embed_tokens.weight.dtype == torch.bfloat16
    assert same(run.state_dict(), hub.state_dict())
    assert run.cos.dtype == hub.cos.dtype == torch.float32
    assert torch.equal(run.cos, hub.cos) and torch.equal(run.sin, hub.sin)
    bias = run.routers[0].e_score_correction_bias
    assert bias is not None and bias.dtype == torch.float32


@pytest.mark.parametrize("pays", [True, False], ids=["folded", "plain"])
def test_bf16_on_a_cpu_chooses_as_fp32_does(
    tiny: ModelConfig, seeded: Build, tmp_path: Path, pays: bool
) -> None:
    """Both ways to decode, prefill and one step, after prefixes that fp32 has written."""
    from benthic.model.checkpoint import import_hub
    from benthic.model.export import export_hub

    export_hub(seeded(tiny, std=0.15), tmp_path / "hub", precision="bf16")
    narrow = import_hub(tmp_path / "hub")
    wide = import_hub(tmp_path / "hub", dtype=torch.float32)
    assert narrow.model.embed_tokens.weight.dtype == torch.bfloat16
    params = SamplingParams(temperature=0, max_new_tokens=48, ignore_eos=True)
    whole = Engine(wide).sample([[5, 9, 200], [7], [256, 258, 1, 2]], params)
    prompts = [
        row[:stop].tolist()
        for row, end in zip(whole.tokens, whole.lengths, strict=True)
        for stop in range(4, int(end) - 2, 2)
    ]
    two = SamplingParams(temperature=0, max_new_tokens=2, ignore_eos=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benthic.engine.folded.pays", lambda model: pays)
        found = [Engine(model).sample(prompts, two) for model in (narrow, wide)]
    pairs = [(found[0].completion(i), found[1].completion(i)) for i in range(len(prompts))]
    first = [a[0] == b[0] for a, b in pairs]
    second = [a[1] == b[1] for a, b in pairs if a[0] == b[0]]
    assert sum(first) / len(first) > 0.9 and sum(second) / len(second) > 0.9


def test_every_weight_counts_for_the_digest(model: LanguageModel) -> None:
    whole = digest(model)
    seen = {whole}
    for tensor in model.state_dict().values():
        before = tensor.flatten()[-1].item()
        tensor.flatten()[-1] += 1
        seen.add(digest(model))
        tensor.flatten()[-1] = before
    assert digest(model) == whole and len(seen) == 1 + len(model.state_dict())


KINDS = {
    "bytes": None,
    "R1": {"layout": SPECIALS[2:]},
    "R1 without bos": {"layout": SPECIALS[2:], "bos": False},
    "plain": {},
    "plain without bos": {"bos": False},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("task", ["", "/tasks.jsonl"], ids=["totals", "file"])
def test_a_runs_template_asks_as_the_run_was_trained(
    tiny: ModelConfig, text: Path, tmp_path: Path, kind: str, task: str
) -> None:
    """What is typed becomes the prompt; running totals are counted in a field."""
    how = KINDS[kind]
    folder = tmp_path / "hub"
    v = BYTES if how is None else hub_vocabulary(tokenizer_in(folder, text, **how))  # type: ignore[arg-type]
    config = replace(tiny, vocab_size=max(264, v.size))
    recipe = replace(small(text), data=replace(small(text).data, tasks=task))
    hub = Weights(tmp_path, LanguageModel(config), v, "reinforced", recipe).tokenizer

    def asked(*said: str) -> list[int]:
        """Question, answer, question, ..."""
        roles = ["user", "assistant"] * len(said)
        messages = [{"role": r, "content": c} for r, c in zip(roles, said, strict=False)]
        text = render(
            hub.chat_template or "",
            messages,
            add_generation_prompt=True,
            bos_token=hub.piece(hub.bos or 0),
            eos_token=hub.piece(hub.eos or 0),
        )
        return hub.encode_with_specials(text)

    field = "314".ljust(16) if not task else "314"
    long = "a question that is longer than sixteen"
    assert asked("314") == v.prompt(field)
    again = v.prompt(long) if v.bos is None else v.prompt(long)[1:]
    told = [*v.encode("7"), v.eos]
    assert asked("314", "<think>12</think>7", long) == [*v.prompt(field), *told, *again]
    assert hub.adds_bos == (v.bos is not None)


def test_an_imported_checkpoint_keeps_its_own_template(tmp_path: Path) -> None:
    weights = open_weights(hub_in(tmp_path / "hub", template="{{ 'mine' }}"))
    assert weights.tokenizer.chat_template == "{{ 'mine' }}"
    assert isinstance(weights.vocabulary, HubVocabulary)
    assert weights.tokenizer is weights.vocabulary.hub


@pytest.mark.parametrize("of", ["run", "export"])
def test_a_run_starts_from_the_weights_of_another(
    done: RunFolder, exported: Path, text: Path, tmp_path: Path, of: str
) -> None:
    """Untrained, it measures what the other measured at its end."""
    source = done.path if of == "run" else exported
    recipe = starting_from(
        "laptop",
        [*_settings(done), "pretrain.steps=0", "reason.steps=0"],
        source,
    )
    assert recipe.init_from == str(source) and recipe.model == done.recipe().model
    assert recipe.data.tokenizer == ("" if of == "run" else str(exported))
    folder = run_small(recipe, tmp_path / "run")
    assert folder.results()["before"] == done.results()["after"]
    again = run_small(recipe, tmp_path / "run")  # is finished
    assert again.results() == folder.results()
    with pytest.raises(FolderError, match=f"trains for 0 steps: take {source}"):
        open_weights(folder.path)


def _settings(done: RunFolder) -> list[str]:
    """What `small` gives, the shape left out."""
    tree = to_tree(done.recipe())
    return [
        f"{section}.{key}={json.dumps(value)}"
        for section in ("data", "pretrain", "reason", "evaluate")
        for key, value in tree[section].items()
        if key != "tokenizer"
    ]


def test_a_run_that_trains_on_keeps_what_it_began_with(done: RunFolder, tmp_path: Path) -> None:
    recipe = starting_from("laptop", [*_settings(done), "pretrain.learning_rate=0"], done.path)
    folder = run_small(replace(recipe, reason=replace(recipe.reason, steps=0)), tmp_path / "run")
    began = {k: v for k, v in state_of(done.path, "rl").items() if k.startswith("model.")}
    ended = {k: v for k, v in state_of(folder.path, "pretrain").items() if k.startswith("model.")}
    for name, tensor in began.items():
        if "e_score_correction_bias" not in name:  # which moves by a rate of its own
            assert torch.equal(tensor, ended[name]), name


@pytest.mark.parametrize(("family", "changes"), FAMILIES, ids=[f for f, _ in FAMILIES])
def test_a_dense_checkpoint_is_pretrained_reinforced_and_exported(
    text: Path, tmp_path: Path, family: str, changes: dict[str, bool]
) -> None:
    """As transformers wrote it, and read again as Benthic does."""
    hub = transformers_in(tmp_path / family, family, text, **changes)
    recipe = recipe_from(hub, text, "pretrain.steps=2", "reason.steps=2")
    assert recipe.about == f"laptop on the weights of {family}"
    assert recipe.data.tokenizer == recipe.init_from == str(hub)
    folder = run_small(recipe, tmp_path / "run")
    assert set(folder.results()) == {"baseline", "before", "after", "gate"}
    began, ended = open_weights(hub).model, open_weights(folder.path)
    assert folder.manifest()["init_sha"] == digest(began)
    for name, tensor in ended.model.state_dict().items():
        assert not torch.equal(tensor, began.state_dict()[name]), name
    export(folder.path, to="hf", dtype="auto", out=tmp_path / "out")
    again = open_weights(tmp_path / "out")
    assert same(again.model.state_dict(), ended.model.state_dict())
    assert again.tokenizer.chat_template == ended.tokenizer.chat_template


def test_a_resume_on_other_weights_is_refused(text: Path, hub: Path, tmp_path: Path) -> None:
    """Until they are put back; the config's changes are the recipe's."""
    recipe = recipe_from(hub, text, "reason.steps=0", "pretrain.steps=2")
    folder = run_small(recipe, tmp_path / "run")
    results = folder.results()
    folder.keep("results", {"baseline": results["baseline"]})
    shutil.copytree(hub, tmp_path / "kept")
    hub_in(hub, seed=1)
    with pytest.raises(FolderError, match=r"began with other weights than .*hub.*--fresh"):
        run_small(recipe_from(hub, text, "reason.steps=0", "pretrain.steps=2"), folder.path)
    keys = json.loads((tmp_path / "kept" / "config.json").read_text())
    (hub / "config.json").write_text(json.dumps({**keys, "rope_theta": 500.0}))
    with pytest.raises(FolderError, match=r"another recipe \(model\.rope_theta: 10000\.0 there, 5"):
        run_small(recipe_from(hub, text, "reason.steps=0", "pretrain.steps=2"), folder.path)
    shutil.rmtree(hub)
    with pytest.raises(FolderError, match="hub does not exist"):
        recipe_from(hub, text)
    shutil.copytree(tmp_path / "kept", hub)
    run_small(recipe_from(hub, text, "reason.steps=0", "pretrain.steps=2"), folder.path)
    assert folder.results() == results


def test_a_fork_must_have_begun_with_the_same_weights(
    text: Path, hub: Path, tmp_path: Path
) -> None:
    changes = ("pretrain.steps=2", "reason.steps=0")
    recipe = recipe_from(hub, text, *changes)
    base = run_small(recipe, tmp_path / "base")
    fork = run_small(recipe, tmp_path / "fork", base=base)
    assert fork.results()["before"] == base.results()["before"]
    with pytest.raises(FolderError, match="with another 'init_from'"):
        run_small(replace(recipe, init_from=""), tmp_path / "other", base=base)
    hub_in(hub, seed=1)
    with pytest.raises(FolderError, match="began with other weights than"):
        run_small(recipe_from(hub, text, *changes), tmp_path / "other", base=base)


def test_a_run_cannot_start_from_itself(done: RunFolder) -> None:
    recipe = starting_from("laptop", _settings(done), done.path)
    for fresh in (False, True):
        with pytest.raises(FolderError, match=r"is what the run would start from.*--name"):
            run_small(recipe, done.path, fresh=fresh)
    assert checkpoint.steps_of(done.checkpoints, "rl")


def test_a_longer_context_is_the_users_and_a_shape_is_not(
    text: Path, hub: Path, tmp_path: Path, done: RunFolder
) -> None:
    zero = ("pretrain.steps=0", "reason.steps=0")
    longer = (
        "model.max_position_embeddings=512",
        "model.rope_theta=1e6",
        "data.sequence_length=400",
    )
    recipe = recipe_from(hub, text, *zero, *longer)
    assert recipe.model.rope_theta == 1e6
    run_small(recipe, tmp_path / "longer")
    for source, key, tensor in (
        (hub, "hidden_size=32", r"model\.embed_tokens\.weight as \(\d+, 16\)"),
        (hub, "num_hidden_layers=3", r"model\.layers\.2\.input_layernorm\.weight as none"),
        (done.path, "n_routed_experts=8", r"gate\.weight as \(4, 16\)"),
    ):
        wrong = recipe_from(source, text, *zero, f"model.{key}")
        with pytest.raises(FolderError, match=f"{tensor}, and the recipe's model has"):
            run_small(wrong, tmp_path / "wrong")
        assert not (tmp_path / "wrong" / "manifest.json").exists()


def test_rows_longer_than_the_recipes_own_shape_allows(text: Path, tmp_path: Path) -> None:
    """The laptop's shape has 256 positions; the checkpoint's are what counts."""
    hub = hub_in(tmp_path / "hub", max_position_embeddings=2048)
    recipe = recipe_from(hub, text, "data.sequence_length=1000")
    assert recipe.model.max_position_embeddings == 2048


def test_a_tokenizer_is_given_only_where_the_checkpoint_has_none(
    text: Path, hub: Path, tmp_path: Path, done: RunFolder
) -> None:
    other = tmp_path / "other"
    shutil.copytree(hub, other)
    for name in ("model.safetensors", "config.json"):
        (other / name).unlink()
    given = f"data.tokenizer={other}"
    for source in (hub, done.path):
        with pytest.raises(FolderError, match=r"data\.tokenizer is .*other.*leave data\.tokenizer"):
            recipe_from(source, text, given)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (hub / name).unlink()
    with pytest.raises(HubError, match="hub has no tokenizer"):
        recipe_from(hub, text)
    recipe = recipe_from(hub, text, given, "pretrain.steps=1", "reason.steps=1")
    v = hub_vocabulary(other)
    assert recipe.data.tokenizer == str(other)
    assert (recipe.model.bos_token_id, recipe.model.eos_token_id) == (v.bos, v.eos)
    assert "after" in run_small(recipe, tmp_path / "run").results()


@pytest.mark.parametrize("of", ["run", "hub"])
@pytest.mark.parametrize("use", ["open", "start from"])
def test_more_than_the_memory_is_one_sentence(
    done: RunFolder, hub: Path, text: Path, monkeypatch: pytest.MonkeyPatch, of: str, use: str
) -> None:
    monkeypatch.setattr("benthic.model.memory._free_memory", lambda: 512)
    source = done.path if of == "run" else hub
    with pytest.raises(
        MemoryNeeded, match=r"takes 0\.0 GiB and 0\.0 GiB of memory are free on"
    ) as e:
        open_weights(source) if use == "open" else recipe_from(source, text)
    assert str(e.value).startswith("in training,") == (use == "start from")


@pytest.mark.parametrize("use", ["open", "start from"])
def test_the_tables_of_a_long_context_are_counted(
    hub: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use: str
) -> None:
    """Of a small model they are nearly all: 2^24 positions, 8 numbers each, are half a GiB."""
    monkeypatch.setattr("benthic.model.memory._free_memory", lambda: 1 << 28)
    folder = tmp_path / "long"
    shutil.copytree(hub, folder)
    keys = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(keys | {"max_position_embeddings": 1 << 24}))
    with pytest.raises(MemoryNeeded, match=r"takes 0\.5 GiB and 0\.2 GiB of memory are free on"):
        open_weights(folder) if use == "open" else recipe_from(folder, text)


def test_a_gpu_that_is_not_there_is_one_sentence(hub: Path, text: Path, tmp_path: Path) -> None:
    """Which `benthic run` says when it joins its ranks."""
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert recipe_from(hub, text, "device=cuda").device == "cuda"


def test_start_fills_a_model_with_the_files_numbers(hub: Path) -> None:
    there = open_weights(hub).model
    fresh = LanguageModel(there.config)
    start(fresh, hub)
    assert same(fresh.state_dict(), there.state_dict())


def test_the_vocabulary_must_fit_the_weights(hub: Path) -> None:
    keys = json.loads((hub / "tokenizer.json").read_text())
    last = max(token["id"] for token in keys["added_tokens"])
    keys["added_tokens"].append(
        {**keys["added_tokens"][0], "id": last + 1, "content": "<|one more|>"}
    )
    (hub / "tokenizer.json").write_text(json.dumps(keys))
    with pytest.raises(FolderError, match=r"has 401 ids and config\.json says vocab_size = 400"):
        open_weights(hub)
