"""`benthic export`: what others read is what Benthic computes, whole or not there."""

import errno
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from benthic.cost.bill.receipt import Receipt
from benthic.data.hub_tokenizer import save_tokenizer
from benthic.data.tasks.source import task_of
from benthic.data.template import R1_TEMPLATE
from benthic.engine.engine import Engine
from benthic.engine.sampler import SamplingParams
from benthic.export import Dtype, Target, export
from benthic.folder import FolderError, RunFolder
from benthic.hub.files import HubError
from benthic.hub.safetensors import SINGLE
from benthic.model.checkpoint import import_hub
from benthic.model.export import export_hub
from benthic.model.memory import MemoryNeeded
from benthic.model.transformer import LanguageModel, initialise
from benthic.run import HELD_OUT, receipt_of
from benthic.train import checkpoint
from benthic.weights import open_weights
from tests.dense import CHATML, hub_in
from tests.small import benthic, environment, run_small, same, small, text_in, tokenizer_in

PRECISIONS: tuple[Dtype, ...] = ("fp32", "bf16", "fp8")

# An export that dies while it writes.
VICTIM = """
import os, signal, sys
from pathlib import Path
from benthic import export
from benthic.model import export as writer

def die(*words):
    os.kill(os.getpid(), signal.SIGKILL)

writer.write_durably = die
export.export(Path(sys.argv[1]), to="hf", dtype="bf16", out=Path(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("export")


@pytest.fixture(scope="module")
def ledger(place: Path) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTHIC_LEDGER", str(place / "ledger.sqlite"))
        yield str(place / "ledger.sqlite")


@pytest.fixture(scope="module")
def done(place: Path, ledger: str) -> RunFolder:
    """A finished run; tests only look at it."""
    return run_small(small(text_in(place)), place / "done")


@pytest.fixture(scope="module")
def bill(done: RunFolder) -> Receipt:
    receipt = receipt_of(done)
    assert receipt is not None
    return receipt


@pytest.fixture(scope="module")
def made(place: Path, done: RunFolder, bill: Receipt) -> dict[str, Path]:
    """The run in every precision, by the name that it gets unasked."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for precision in PRECISIONS:
            with redirect_stdout(io.StringIO()):
                export(done.path, to="hf", dtype=precision, out=None)
    return {p: place / "exports" / f"done-{p}" for p in PRECISIONS}


@pytest.fixture(scope="module")
def transformers() -> Any:
    module = pytest.importorskip(
        "transformers", reason="the reader is transformers: install the extra 'dev'"
    )
    module.logging.set_verbosity_error()
    module.logging.disable_progress_bar()
    return module


@pytest.fixture(scope="module")
def hub(place: Path) -> Path:
    """A dense checkpoint in bf16 with a template and two ends; tests only look at it."""
    folder = hub_in(place / "hub", template=CHATML, precision="bf16")
    facts = folder / "generation_config.json"
    asked = {"temperature": 0.6, "top_p": 0.95, "do_sample": True, "top_k": "many"}
    facts.write_text(json.dumps({"eos_token_id": [_end(folder), 7], **asked}))
    marks = json.loads((folder / "tokenizer_config.json").read_text())
    marks["pad_token"] = marks["eos_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(marks))
    return folder


def _end(folder: Path) -> int:
    found = json.loads((folder / "config.json").read_text())["eos_token_id"]
    assert isinstance(found, int)
    return found


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_transformers_answers_as_benthic_does(
    transformers: Any, done: RunFolder, made: dict[str, Path], precision: str
) -> None:
    """The same ids in, by their tokenizer and the template; the same greedy ids out.

    What is stored in less is computed in fp32 on both sides, where rounding decides nothing.
    """
    if precision == "fp8":
        pytest.importorskip("accelerate", reason="transformers reads FP8 with accelerate")
    folder = made[precision]
    weights = open_weights(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).float()
    recipe, vocabulary = done.recipe(), open_weights(done.path).vocabulary
    problems = task_of(recipe, vocabulary).problems("held_out", 0, 6, HELD_OUT)
    prompts = [problem.prompt(vocabulary) for problem in problems]
    params = SamplingParams(temperature=0, max_new_tokens=recipe.reason.max_new_tokens)
    engine = Engine(weights.model.float(), ends=weights.vocabulary.ends)
    samples = engine.sample(prompts, params)
    for row, (problem, prompt) in enumerate(zip(problems, prompts, strict=True)):
        for question in (problem.question, problem.question.strip()):
            messages = [{"role": "user", "content": question}]
            asked = tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"
            )
            assert asked["input_ids"].tolist() == [prompt]
        told = model.generate(**asked, max_new_tokens=params.max_new_tokens, do_sample=False)
        assert told[0, len(prompt) :].tolist() == samples.completion(row)


def test_their_tokenizer_begins_a_text_as_ours_does(
    transformers: Any, made: dict[str, Path]
) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(made["fp32"])
    v = open_weights(made["fp32"]).vocabulary
    assert tokenizer("def f():").input_ids == [v.bos, *v.encode("def f():")]


def test_the_cards_code_shows_the_answer_that_was_measured(
    transformers: Any, done: RunFolder, made: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    card = (made["fp32"] / "README.md").read_text()
    code = card.partition("```python\n")[2].partition("```")[0]
    monkeypatch.chdir(made["fp32"])
    out = io.StringIO()
    with redirect_stdout(out):
        exec(code, {})  # what the card says, in the folder that it lies in
    shown = done.results()["after"]["example"]
    vocabulary = open_weights(done.path).vocabulary
    begin = vocabulary.decode(vocabulary.prompt(shown["question"].ljust(16)), show_specials=True)
    assert out.getvalue().startswith(begin)
    assert shown["answer"] in out.getvalue().removeprefix(begin)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_card_holds_the_receipt(
    made: dict[str, Path], bill: Receipt, done: RunFolder, precision: str
) -> None:
    yaml = pytest.importorskip("yaml", reason="front matter is YAML: install the extra 'dev'")
    _, front, text = (made[precision] / "README.md").read_text().split("---\n", 2)
    facts = yaml.safe_load(front)
    assert facts["library_name"] == "transformers" and facts["tags"] == ["benthic"]
    rows = dict[str, list[str]]()
    for line in text.partition("## Bill")[2].splitlines():
        if line.startswith("| ") and not line.startswith("| |"):
            label, *figures = [cell.strip() for cell in line.strip("| ").split("|")]
            rows[label] = figures
    paid = {label: amount for label, amount in bill.bridge if amount.seconds}
    assert rows.keys() == {*paid, "**everything**"}
    for label, amount in [*paid.items(), ("**everything**", bill.everything)]:
        assert float(rows[label][0]) == pytest.approx(float(amount.seconds), abs=0.051)
        assert float(rows[label][1]) == pytest.approx(float(amount.dollars), abs=0.51e-6)
    assert all(f"Price: {price}." in text for price in bill.prices)
    after = done.results()["after"]
    assert f"| after reinforcement | {after['greedy_accuracy']:.1%} of 8 |" in text
    assert f"{done.manifest()['parameters']['active']:,} active a token" in text
    assert precision in text and ("accelerate" in text) == (precision == "fp8")


def test_a_card_without_bill_or_figures_says_so(tmp_path: Path, done: RunFolder, hub: Path) -> None:
    """On a machine whose ledger has no row of the run; of a checkpoint from elsewhere."""
    for path in (done.path, hub):
        export(path, to="hf", dtype="bf16", out=tmp_path / path.name)
        card = (tmp_path / path.name / "README.md").read_text()
        assert "ledger holds no row" in card and "**everything**" not in card
        assert ("## Measured" in card) == (path == done.path)
    assert "its licence is the original's" in card


def test_a_snapshot_of_the_cache_is_called_by_its_model(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = tmp_path / "models--maker--tiny" / "snapshots" / "0a1b2c"
    shutil.copytree(hub, snapshot)
    monkeypatch.chdir(tmp_path)
    export(snapshot, to="hf", dtype="auto", out=None)
    text = (tmp_path / "exports" / "tiny-bf16" / "README.md").read_text()
    assert "# tiny\n" in text and "the checkpoint `tiny`" in text


def test_a_name_is_no_markdown(hub: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a\n## b](c)`<d>"
    shutil.copytree(hub, folder)
    export(folder, to="hf", dtype="auto", out=tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    assert "# a_## b_(c)__d_\n" in text and "`a_## b_(c)__d_`" in text


def test_the_card_of_what_is_only_pretrained(tmp_path: Path, done: RunFolder) -> None:
    """No figures yet, and pretraining that another run paid for."""
    recipe = small(text_in(tmp_path), "reason.steps=0")
    folder = run_small(recipe, tmp_path / "run")
    (folder.path / "results.json").unlink()
    folder.keep("manifest", {**folder.manifest(), "base": "/a/b/other"})
    export(folder.path, to="hf", dtype="auto", out=tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "(pretrained only)" in card and "## Measured" not in card
    assert "The pretraining was the run `other`'s; its bill is not below." in card


@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_is_written_reads_back(done: RunFolder, made: dict[str, Path], precision: str) -> None:
    ours = open_weights(done.path).model
    read = open_weights(made[precision], dtype=torch.float32).model
    assert read.config == ours.config
    for name, tensor in ours.state_dict().items():
        there = read.state_dict()[name]
        if precision == "bf16" and "bias" not in name:
            tensor = tensor.bfloat16().float()
        if precision == "fp8" and "_proj" in name and "eh_proj" not in name:
            assert (there - tensor).abs().max() <= tensor.abs().max() / 16
        elif precision == "fp8" and "bias" not in name:
            assert torch.equal(there, tensor.bfloat16().float())
        else:
            assert torch.equal(there, tensor)


def test_an_imported_checkpoint_goes_out_as_it_came(
    made: dict[str, Path], hub: Path, tmp_path: Path
) -> None:
    """Precision, numbers, tokenizer, template and every end; `auto` is what is stored."""
    biased = hub_in(tmp_path / "biased", model_type="qwen2", precision="fp8")
    for name, source in [*made.items(), ("hub", hub), ("biased-again", biased)]:
        export(source, to="hf", dtype="auto", out=tmp_path / name)
        file = "model.safetensors"
        ours, theirs = load_file(tmp_path / name / file), load_file(source / file)
        assert ours.keys() == theirs.keys()
        for tensor in ours:
            assert same_bits(ours[tensor], theirs[tensor]), tensor
        again, before = open_weights(tmp_path / name), open_weights(source)
        assert again.vocabulary.ends == before.vocabulary.ends
        assert again.tokenizer.chat_template == before.tokenizer.chat_template
        assert again.vocabulary.bos == before.vocabulary.bos
    ends = json.loads((tmp_path / "hub" / "generation_config.json").read_text())
    assert ends["eos_token_id"] == sorted([7, _end(hub)]) and "_from_model_config" not in ends
    assert (ends["temperature"], ends["top_p"], ends["do_sample"]) == (0.6, 0.95, True)
    assert "top_k" not in ends
    marks = json.loads((tmp_path / "hub" / "tokenizer_config.json").read_text())
    assert marks["pad_token"] == marks["eos_token"] is not None
    assert marks["model_input_names"] == ["input_ids", "attention_mask"]


def test_fp8_that_a_model_cannot_keep_is_made_anew(tmp_path: Path) -> None:
    """One plain weight among the others: the rest come back as they were, nothing is lost."""
    from safetensors.torch import save_file

    folder = hub_in(tmp_path / "mixed", precision="fp8")
    held = load_file(folder / "model.safetensors")
    name = "model.layers.0.mlp.down_proj.weight"
    plain = held | {name: held[name].to(torch.bfloat16)}
    del plain[name + "_scale_inv"]
    save_file(plain, folder / "model.safetensors")
    export(folder, to="hf", dtype="auto", out=tmp_path / "out")
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert written.keys() == held.keys()
    for other in held.keys() - {name, name + "_scale_inv"}:
        assert torch.equal(written[other].view(torch.uint8), held[other].view(torch.uint8)), other


def test_half_precision_goes_out_whole(hub: Path, tmp_path: Path) -> None:
    """fp16 stays fp16, and fits fp32 and not bf16."""
    from safetensors.torch import save_file

    held = load_file(hub / "model.safetensors")
    (tmp_path / "half").mkdir()
    for name, data in contents(hub).items():
        (tmp_path / "half" / name).write_bytes(data)
    halves = {name: tensor.half() for name, tensor in held.items()}
    save_file(halves, tmp_path / "half" / "model.safetensors")
    export(tmp_path / "half", to="hf", dtype="auto", out=tmp_path / "out")
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert all(same_bits(written[name], halves[name]) for name in halves)
    export(tmp_path / "half", to="hf", dtype="fp32", out=tmp_path / "wide")
    wide = load_file(tmp_path / "wide" / "model.safetensors")
    assert all(torch.equal(wide[name], halves[name].float()) for name in halves)


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one.view(torch.uint8), other.view(torch.uint8))


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp8"])
def test_norms_and_routers_in_fp32_go_out_as_they_came(tmp_path: Path, precision: Dtype) -> None:
    """Beside narrower weights; and the model that holds them so answers as it should."""
    from safetensors.torch import save_file

    shape = small(text_in(tmp_path)).model
    folder, config = tmp_path / "mixed", replace(shape, vocab_size=400)
    tokenizer_in(folder, text_in(tmp_path))
    model = LanguageModel(config)
    initialise(model, torch.Generator().manual_seed(1))
    export_hub(model, folder, precision=precision)
    held = load_file(folder / SINGLE)
    generator = torch.Generator().manual_seed(0)
    for name, tensor in held.items():
        if name.endswith("norm.weight") or name.endswith("mlp.gate.weight"):
            held[name] = torch.empty(tensor.shape).normal_(1.0, 0.3, generator=generator)
    save_file(held, folder / SINGLE)
    export(folder, to="hf", dtype="auto", out=tmp_path / "out")
    written = load_file(tmp_path / "out" / SINGLE)
    assert written.keys() == held.keys()
    assert [name for name in held if not same_bits(written[name], held[name])] == []
    tokens = torch.arange(12)[None]
    logits = [
        model.lm_head(model(tokens)).float()
        for model in (import_hub(folder, keep_fp8=True), import_hub(folder, dtype=torch.float32))
    ]
    assert (logits[0] - logits[1]).abs().max() < 0.05 * (logits[1].max() - logits[1].min())


def test_a_wider_head_decides_for_all(hub: Path, tmp_path: Path) -> None:
    """Nothing is rounded that was stored: one dtype for what is multiplied, the widest."""
    from safetensors.torch import save_file

    shutil.copytree(hub, tmp_path / "mixed")
    held = load_file(hub / SINGLE)
    held["lm_head.weight"] = torch.randn(held["lm_head.weight"].shape)
    save_file(held, tmp_path / "mixed" / SINGLE)
    export(tmp_path / "mixed", to="hf", dtype="auto", out=tmp_path / "out")
    written = load_file(tmp_path / "out" / SINGLE)
    assert all(torch.equal(written[name].float(), held[name].float()) for name in held)


@pytest.mark.parametrize("to", ["hf", "gguf"])
def test_a_number_beyond_fp16_is_named(
    done: RunFolder, hub: Path, tmp_path: Path, to: Target
) -> None:
    pytest.importorskip("gguf", reason="install the extra 'gguf'")
    weights = open_weights(hub, dtype=torch.float32)
    with torch.no_grad():
        weights.model.lm_head.weight[3, 5] = 7e4
    export_hub(weights.model, tmp_path / "large")
    save_tokenizer(weights.tokenizer, tmp_path / "large")
    with pytest.raises(ValueError, match=r"(lm_head|output)\.weight .*float16"):
        export(tmp_path / "large", to=to, dtype="fp16", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_generation_ends_where_the_run_ends(made: dict[str, Path], done: RunFolder) -> None:
    facts = json.loads((made["fp32"] / "generation_config.json").read_text())
    (end,) = open_weights(done.path).vocabulary.ends
    assert facts == {"bos_token_id": 256, "eos_token_id": end}
    config = json.loads((made["fp32"] / "tokenizer_config.json").read_text())
    assert config["chat_template"] != R1_TEMPLATE  # questions stand in a field
    assert R1_TEMPLATE.partition("{%")[0] in config["chat_template"]


def test_an_export_can_be_talked_to_and_names_its_place(done: RunFolder, tmp_path: Path) -> None:
    """The command itself, out of a folder that is not there yet."""
    out = tmp_path / "new" / "deep" / "it's mine"
    written = benthic("export", done.path, "--dtype", "bf16", "--out", out, cwd=tmp_path)
    assert (written.returncode, written.stderr) == (0, "")
    assert str(out) in written.stdout and "README.md there says how" in written.stdout
    assert not [p for p in out.parent.iterdir() if p != out]
    said = benthic("chat", out, stdin="314159\n/text abc\n")
    assert (said.returncode, said.stderr) == (0, "")
    assert "imported. Ask, by its own chat template." in said.stdout
    assert said.stdout.count("tokens/s") == 2


def test_what_stands_there_is_left_alone(done: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("folder", "file", "link"):
        with pytest.raises(FolderError, match=rf"{name} exists already: choose another --out"):
            export(done.path, to="hf", dtype="fp32", out=tmp_path / name)
    assert (tmp_path / "file").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder", "link"]


@pytest.mark.parametrize(("to", "dtype"), [("hf", "q8_0"), ("gguf", "fp8")])
def test_a_dtype_of_the_other_target_is_refused(
    done: RunFolder, tmp_path: Path, to: Any, dtype: Any
) -> None:
    with pytest.raises(FolderError, match=f"--to {to} takes --dtype fp32, bf16, .*, not {dtype}"):
        export(done.path, to=to, dtype=dtype, out=tmp_path / "out")


def test_what_cannot_be_exported_is_said(done: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "pickles").mkdir()
    shape = small(text_in(tmp_path)).model
    from benthic.hub.config import to_hub

    (tmp_path / "pickles" / "config.json").write_text(json.dumps(to_hub(shape)))
    (tmp_path / "pickles" / "pytorch_model.bin").write_bytes(b"\x80\x04")
    subprocess.run(["cp", "-r", done.path, tmp_path / "begun"], check=True)
    for left in checkpoint.steps_of(tmp_path / "begun" / "checkpoints", "rl"):
        path = checkpoint.path_of(tmp_path / "begun" / "checkpoints", "rl", left)
        subprocess.run(["rm", "-r", path], check=True)
    assert open_weights(tmp_path / "begun").state == "pretrained only"
    subprocess.run(["rm", "-r", tmp_path / "begun" / "checkpoints"], check=True)
    for name, kind, said in (
        ("nowhere", FolderError, "nowhere does not exist"),
        ("empty", FolderError, "holds no config.json"),
        ("pickles", HubError, "pytorch_model.bin', and only safetensors are read"),
        ("begun", FolderError, "has no checkpoint yet"),
    ):
        with pytest.raises(kind, match=said):
            export(tmp_path / name, to="hf", dtype="auto", out=tmp_path / "out")
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("of", ["run", "hub"])
def test_more_than_the_memory_is_one_sentence(
    done: RunFolder, hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of: str
) -> None:
    monkeypatch.setattr("benthic.model.memory._free_memory", lambda: 1 << 10)
    with pytest.raises(MemoryNeeded, match=r"takes 0\.0 GiB and 0\.0 GiB of memory are free"):
        source = done.path if of == "run" else hub
        export(source, to="hf", dtype="auto", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


WRITES = (
    "benthic.export.export_hub",
    "benthic.export.save_tokenizer",
    "benthic.export.write_atomically",
    "benthic.model.export.write_durably",
    "benthic.model.export.os.fsync",
    "benthic.durable.Path.rename",
)


@pytest.mark.parametrize("where", WRITES)
@pytest.mark.parametrize(
    "fault", [OSError(errno.ENOSPC, "No space left on device"), KeyError()], ids=["full", "defect"]
)
def test_what_fails_leaves_nothing(
    done: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, fault: Exception
) -> None:
    def failing(*words: object, **options: object) -> None:
        raise fault

    monkeypatch.setattr(where, failing)
    full = isinstance(fault, OSError)
    with pytest.raises(FolderError if full else KeyError) as error:
        export(done.path, to="hf", dtype="fp32", out=tmp_path / "x" / "out")
    said = "out cannot be written (No space left on device): make room or choose another --out"
    assert not full or said in str(error.value)
    assert not list((tmp_path / "x").iterdir())


def test_a_full_disk_is_one_sentence_of_the_command(done: RunFolder, tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk."""
    import resource

    def full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000))

    failed = benthic("export", done.path, "--out", tmp_path / "out", preexec_fn=full)
    assert failed.returncode == 1
    (line,) = failed.stderr.splitlines()
    assert line.startswith(f"benthic: {tmp_path}/out cannot be written (File too large): make room")
    assert not (tmp_path / "out").exists() and not (tmp_path / ".partial-out").exists()


def test_a_kill_leaves_nothing_under_the_name_and_is_cleaned_up(
    done: RunFolder, tmp_path: Path
) -> None:
    out, partial = tmp_path / "out", tmp_path / ".partial-out"
    root = Path(__file__).parents[1]
    words = [sys.executable, "-c", VICTIM, str(done.path), str(out)]
    victim = subprocess.run(words, check=False, cwd=root, env=environment())
    assert victim.returncode == -signal.SIGKILL
    assert not out.exists() and (partial / "model.safetensors").exists()
    (partial / "stale").touch()
    export(done.path, to="hf", dtype="bf16", out=out)
    assert not partial.exists() and not (out / "stale").exists()
    assert open_weights(out).model.model.embed_tokens.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("to", ["hf", "gguf"])
def test_of_two_exports_to_one_name_the_second_is_refused(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: Target
) -> None:
    """The first is stopped in the middle of its files; what it goes on to write is its own."""
    out = tmp_path / "out"
    alone = tmp_path / "alone"
    pytest.importorskip("gguf", reason="install the extra 'gguf'")
    export(hub, to=to, dtype="bf16", out=alone)
    plain, refused = os.fsync, list[str]()

    def pause(handle: int) -> None:
        plain(handle)
        if not refused:
            refused.append("")
            with pytest.raises(FolderError) as error:
                export(hub, to=to, dtype="fp32", out=out)
            refused.append(str(error.value))

    monkeypatch.setattr(os, "fsync", pause)
    export(hub, to=to, dtype="bf16", out=out)
    assert refused[1] == (
        f"{out} cannot be written (another process is writing it): choose another --out, then give "
        "the same command again"
    )
    if to == "hf":
        assert (out / SINGLE).read_bytes() == (alone / SINGLE).read_bytes()
    else:
        assert out.read_bytes() == alone.read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_what_came_to_stand_there_meanwhile_is_left_alone(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr("benthic.export.save_tokenizer", lambda *_: out.write_text("mine"))
    with pytest.raises(FolderError, match="out exists already: choose another --out"):
        export(hub, to="hf", dtype="bf16", out=out)
    assert out.read_text() == "mine" and [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (PermissionError(errno.EACCES, "Permission denied"), "(Permission denied): choose another"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "exceeded): make room or choose another"),
    ],
)
def test_only_a_full_disk_asks_for_room(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: OSError, said: str
) -> None:
    def failing(*words: object, **options: object) -> None:
        raise fault

    monkeypatch.setattr("benthic.export.export_hub", failing)
    with pytest.raises(FolderError, match=re.escape(said)):
        export(hub, to="hf", dtype="bf16", out=tmp_path / "out")


def test_weights_survive_the_whole_way_round(made: dict[str, Path], tmp_path: Path) -> None:
    """Written, read, written: the same bytes in every file but the card."""
    export(made["fp32"], to="hf", dtype="fp32", out=tmp_path / "again")
    first, second = contents(made["fp32"]), contents(tmp_path / "again")
    assert first.keys() == second.keys()
    assert [n for n in first if first[n] != second[n]] == ["README.md"]
    assert same(open_weights(made["fp32"]).model.state_dict(), _state(tmp_path / "again"))


def _state(folder: Path) -> dict[str, torch.Tensor]:
    return dict(open_weights(folder).model.state_dict())
