"""Recipes: every refusal names the key and the remedy; what is written reads back equal."""

import re
import tomllib
from pathlib import Path

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from benthic.config import Recipe, differences, from_tree, load, recipes, to_tree

REFUSED = {
    "pretrain.step=5": ("pretrain.step'", "did you mean 'steps'"),
    "pretain.steps=5": ("'pretain'", "did you mean 'pretrain'"),
    "reason.zzz=5": ("reason.zzz'", "known keys: steps, prompts"),
    "pretrain=3": ("'pretrain'", "must be a section"),
    "seed.x=1": ("'seed'", "is a value, not a section"),
    "pretrain.steps": ("pretrain.steps", "section.key=value"),
    "=5": ("=5", "section.key=value"),
    "pretrain.steps=many": ("pretrain.steps'", "must be a whole number"),
    "pretrain.steps=1.5": ("pretrain.steps'", "must be a whole number"),
    "pretrain.steps=true": ("pretrain.steps'", "must be a whole number"),
    "pretrain.clip=high": ("pretrain.clip'", "must be a number"),
    "pretrain.clip=true": ("pretrain.clip'", "must be a number"),
    "model.norm_topk_prob=1": ("model.norm_topk_prob'", "must be true or false"),
    "about=3": ("'about'", "must be a string"),
    "data.paths=[1]": ("data.paths'", "must be a list of strings"),
    "data.paths=3": ("data.paths'", "must be a list of strings"),
    "reason.reward=both": ("reason.reward'", "'rule' or 'random'"),
    "device=tpu": ("'device'", "'cpu' or 'cuda'"),
    "pretrain.learning_rate=nan": ("pretrain.learning_rate'", "finite"),
    "pretrain.learning_rate=-inf": ("pretrain.learning_rate'", "finite"),
    "model.rope_theta=inf": ("model.rope_theta'", "finite"),
    f"bill.watts=1{400 * '0'}": ("bill.watts'", "finite"),
    "pretrain.steps=-1": ("pretrain.steps", "between 0 and 1e+09"),
    "pretrain.learning_rate=2": ("pretrain.learning_rate", "between 0 and 1"),
    "data.text_share=1.01": ("data.text_share", "between 0 and 1"),
    "reason.group=1": ("reason.group", "between 2 and 100000"),
    "seed=-1": ("seed", "between 0 and"),
    "pretrain.rows=5": ("pretrain.rows", "choose a divisor"),
    "reason.prompts=5": ("reason.prompts", "choose a divisor"),
    "model.n_group=3": ("model.n_routed_experts", "choose a divisor"),
    "model.hidden_size=0": ("model.hidden_size", "at least 1"),
    "model.q_lora_rank=-4": ("model.q_lora_rank", "at least 1"),
    "model.vocab_size=128": ("model.vocab_size", "262"),
    "data.sequence_length=512": ("data.sequence_length", "raise the latter"),
    "reason.max_new_tokens=200": ("reason.max_new_tokens", "raise the latter"),
}


@pytest.mark.parametrize("override", REFUSED)
def test_a_refusal_names_the_key_and_the_remedy(override: str) -> None:
    key, remedy = REFUSED[override]
    with pytest.raises(ValueError, match=re.escape(key)) as refusal:
        load("laptop", [override])
    assert remedy in str(refusal.value)


@pytest.mark.parametrize("override", REFUSED)
def test_a_refusal_is_one_line(override: str) -> None:
    with pytest.raises(ValueError, match=r"\A[^\n]+\Z"):
        load("laptop", [override])


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("pretrain.steps=7", "pretrain", "steps", 7),
        ("pretrain.learning_rate=1e-4", "pretrain", "learning_rate", 1e-4),
        ("pretrain.clip=2", "pretrain", "clip", 2.0),
        ("model.norm_topk_prob=false", "model", "norm_topk_prob", False),
        ("reason.reward=random", "reason", "reward", "random"),
        ('reason.reward="random"', "reason", "reward", "random"),
        ("bill.price_source=my own words", "bill", "price_source", "my own words"),
        ("bill.price_source=a=b", "bill", "price_source", "a=b"),
        ("data.paths=['a', 'b c']", "data", "paths", ("a", "b c")),
        ("data.paths=alone.txt", "data", "paths", ("alone.txt",)),
        (" pretrain.steps =7", "pretrain", "steps", 7),
    ],
)
def test_an_override_is_read_as_what_it_looks_like(
    override: str, section: str, key: str, value: object
) -> None:
    found = getattr(getattr(load("laptop", [override]), section), key)
    assert found == value and type(found) is type(value)


def test_the_last_override_holds() -> None:
    assert load("laptop", ["seed=1", "seed=2"]).seed == 2


def test_a_query_rank_of_zero_means_none() -> None:
    assert load("laptop", ["model.q_lora_rank=0"]).model.q_lora_rank is None


@pytest.mark.parametrize("name", recipes())
def test_a_shipped_recipe_loads_and_says_what_it_shows(name: str) -> None:
    assert load(name).about


def test_laptop_ships() -> None:
    assert "laptop" in recipes()


texts = st.text(max_size=20)
shares = st.floats(0, 1)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    about=texts,
    paths=st.lists(texts, max_size=3),
    share=shares,
    rate=st.floats(0, 1, allow_subnormal=False),
    rank=st.none() | st.integers(1, 64),
    reward=st.sampled_from(["rule", "random"]),
    norm=st.booleans(),
)
def test_a_recipe_survives_toml(
    seed: int,
    about: str,
    paths: list[str],
    share: float,
    rate: float,
    rank: int | None,
    reward: str,
    norm: bool,
) -> None:
    recipe = from_tree(
        {
            "seed": seed,
            "about": about,
            "model": {"q_lora_rank": rank or 0, "norm_topk_prob": norm},
            "data": {"paths": paths, "text_share": share},
            "pretrain": {"learning_rate": rate},
            "reason": {"reward": reward},
        }
    )
    again = from_tree(tomllib.loads(tomli_w.dumps(to_tree(recipe))))
    assert again == recipe
    assert (again.model.q_lora_rank, again.data.paths, again.seed) == (rank, tuple(paths), seed)


def test_the_defaults_are_a_recipe() -> None:
    assert from_tree({}) == Recipe()


def test_differences_name_the_keys_that_differ_and_no_other() -> None:
    here = to_tree(load("laptop", ["pretrain.steps=7", "seed=3"]))
    there = to_tree(load("laptop"))
    assert differences(there, here) == [
        "pretrain.steps: 800 there, 7 here",
        "seed: 0 there, 3 here",
    ]
    assert differences(here, here) == []


def test_a_key_on_one_side_only_is_a_difference() -> None:
    assert differences({"a": {"b": 1}}, {"a": {}}) == ["a.b: 1 there, None here"]


def test_a_recipe_file_is_read_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("seed = 5\n[pretrain]\nsteps = 9\n")
    assert (load(str(path)).seed, load(str(path)).pretrain.steps) == (5, 9)


@pytest.mark.parametrize(
    ("content", "words"), [(b"seed = = 5", "not valid TOML"), (b"\xff\xfe", "cannot be read")]
)
def test_a_recipe_file_that_will_not_do_is_named(
    tmp_path: Path, content: bytes, words: str
) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=words) as refusal:
        load(str(path))
    assert str(path) in str(refusal.value)


def test_an_unknown_recipe_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"no recipe 'lptop': choose from .*laptop"):
        load("lptop")


def test_another_tokenizer_needs_not_as_many_rows_as_bytes() -> None:
    """How many it needs is known when it is read."""
    recipe = load("laptop", ["model.vocab_size=128", "data.tokenizer=some/folder"])
    assert recipe.data.tokenizer == "some/folder"
