"""The command as a user gives it: exit codes, one sentence for each mistake, never a traceback."""

import io
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from benthic.cli import main
from benthic.folder import RunFolder
from benthic.train import checkpoint, parallel
from tests.dense import hub_in
from tests.small import SMALL, benthic, environment, run_small, settings, small, text_in

Done = subprocess.CompletedProcess[str]
# A vocabulary that spells the tags makes rows and answers longer.
LONGER = ("data.sequence_length=72", "reason.max_new_tokens=32")
FITTING = ("--init-from", "hub", "--set", LONGER[0], "--set", LONGER[1])


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_in(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def made(text: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished run; tests only look at it."""
    place = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTHIC_LEDGER", str(place / "ledger.sqlite"))
        return run_small(small(text), place / "made")


def here(*words: str | Path, place: Path | None = None, stdin: str = "") -> Done:
    """The same command in this process, which has PyTorch loaded already."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["benthic", *map(str, words)])
        patch.setattr(sys, "stdin", io.StringIO(stdin))
        patch.setenv("COLUMNS", "200")
        patch.setattr(parallel, "available_cores", lambda: 1)
        patch.chdir(place or Path.cwd())
        with pytest.raises(SystemExit) as end:
            main()
    return Done(words, int(end.value.code or 0), out.getvalue(), err.getvalue())


def sentence(done: Done, code: int = 1) -> str:
    """The one line of an error, after checking that it is one."""
    assert done.returncode == code, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("benthic: "), done.stderr
    assert "Traceback" not in done.stdout
    return lines[0]


def test_help_names_the_verbs() -> None:
    done = benthic("--help")
    assert (done.returncode, done.stderr) == (0, "")
    for verb in ("run", "chat", "inspect", "export", "doctor"):
        assert verb in done.stdout


def test_help_of_run_explains_its_options() -> None:
    done = benthic("run", "--help")
    assert done.returncode == 0
    for option in ("--data", "--tasks", "--set", "--base", "--init-from", "--name"):
        assert option in done.stdout


@pytest.mark.parametrize("words", [[], ["rnu"], ["run", "--dta", "x"]])
def test_a_mistyped_command_is_told_so(words: list[str]) -> None:
    done = benthic(*words)
    assert done.returncode == 2 and "Traceback" not in done.stderr + done.stdout


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["run", "laptp"], "there is no recipe 'laptp': choose from"),
        (["run", "--set", "pretrain.step=5"], "did you mean 'steps'?"),
        (["run", "--set", "pretrain.steps=five"], "must be a whole number"),
        (["run", "--set", "pretrain.steps"], "section.key=value"),
        (["run", "--base", "nowhere"], "is nowhere a run's folder?"),
        (["run", "--data", "nowhere.txt"], "nowhere.txt does not exist"),
        (["run", "--data", "empty"], "empty holds no text files"),
        (["run", "--data", "nothing.txt"], "holds 0 bytes of text"),
        (["run", "--data", "binary.txt"], "is not text"),
        (["run", "--tasks", "nowhere.jsonl"], "nowhere.jsonl cannot be read"),
        (["run", "--tasks", "bad.jsonl"], "bad.jsonl line 1 is not JSON"),
        (["run", "--out", "nothing.txt"], "nothing.txt/laptop cannot be written"),
        (["run", "--init-from", "nowhere"], "nowhere does not exist: make a run with"),
        (["run", "--init-from", "empty"], "empty is neither a run's folder nor a checkpoint"),
        (["run", "--init-from", "pickles"], "pytorch_model.bin', and only safetensors are read"),
        (["run", "--init-from", "bare"], "bare has no tokenizer: neither tokenizer.json nor"),
        (["run", "--init-from", "hub", "--set", "data.tokenizer=bare"], "leave data.tokenizer out"),
        (["run", *FITTING, "--set", "model.hidden_size=32"], "the recipe's model has"),
        (["run", "--init-from", "hub", "--set", "device=cuda"], "PyTorch sees no GPU here"),
        (["run", *FITTING, "--base", "nowhere"], "is nowhere a run's folder?"),
        (["run", "--init-from", "nothing.txt"], "nothing.txt is neither a run's folder"),
        (["export", "nowhere"], "nowhere does not exist: make a run with"),
        (["export", "empty"], "empty is neither a run's folder nor a checkpoint of the Hub"),
        (["export", "hub", "--out", "empty"], "empty exists already: choose another --out"),
        (["export", "hub", "--dtype", "q8_0"], "--to hf takes --dtype fp32, bf16, fp16, fp8, not"),
        (["export", "hub", "--to", "gguf", "--dtype", "fp8"], "--to gguf takes --dtype fp32"),
        (["export", "hub", "--out", "nothing.txt/out"], "cannot be written (Not a directory)"),
        (["export", "bare"], "bare has no tokenizer: neither tokenizer.json nor"),
        (["chat", "bare"], "bare has no tokenizer: neither tokenizer.json nor"),
        (["chat", "pickles"], "pytorch_model.bin', and only safetensors are read"),
        (["chat", "hub", "--temperature", "-1"], "temperature is -1.0: give a number from 0 to"),
        (["chat", "hub", "--seed", "-1"], "seed is -1: give a whole number from 0"),
        (["chat", "hub", "--top-p", "0"], "top_p is 0.0: give a number above 0 and up to 1"),
        (["chat", "hub", "--max-tokens", "0"], "max_new_tokens is 0: it must be at least 1"),
        (["chat", "hub", "--keep-fp8"], "hub holds no weights in FP8: leave --keep-fp8 out"),
        (["chat", "nowhere"], "nowhere does not exist: make a run with"),
        (["chat", "empty"], "empty is neither a run's folder nor a checkpoint of the Hub"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path: Path, text: Path, words: list[str], part: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "nothing.txt").touch()
    (tmp_path / "binary.txt").write_bytes(bytes(range(256)) * 100)
    (tmp_path / "bad.jsonl").write_text("{'question': 1}\n")
    for name in {"hub", "bare", "pickles"}.intersection(words):
        hub_in(tmp_path / name)
    if "pickles" in words:
        (tmp_path / "pickles" / "model.safetensors").rename(tmp_path / "pickles/pytorch_model.bin")
    if "bare" in words:
        (tmp_path / "bare" / "tokenizer.json").unlink()
    if words[0] == "run" and "--data" not in words:
        words = [*words, "--data", str(text)]
    assert part.replace(" nowhere a", f" {tmp_path}/nowhere a") in sentence(
        here(*words, place=tmp_path)
    )


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file nobody can read")
def test_unreadable_data_is_one_sentence(tmp_path: Path) -> None:
    done = benthic("run", "--data", "/proc/self/mem", cwd=tmp_path)
    assert "cannot be read (Input/output error): leave it out" in sentence(done)


def test_a_folder_of_another_recipe_is_one_sentence(made: RunFolder, text: Path) -> None:
    place = ["--out", made.path.parent, "--name", made.path.name, "--data", text]
    done = here("run", *place, *settings("seed=7"))
    assert "made with another recipe (seed: 0 there, 7 here)" in sentence(done)


def copy(made: RunFolder, place: Path) -> RunFolder:
    subprocess.run(["cp", "-r", str(made.path), str(place / "copy")], check=True)
    return RunFolder(place / "copy")


def test_a_truncated_checkpoint_is_one_sentence(
    made: RunFolder, text: Path, tmp_path: Path
) -> None:
    folder = copy(made, tmp_path)
    (folder.path / "results.json").unlink()
    last = checkpoint.path_of(folder.checkpoints, "pretrain", 6) / checkpoint.TENSORS
    os.truncate(last, last.stat().st_size // 2)
    done = benthic("run", "--out", tmp_path, "--name", "copy", "--data", text, *settings())
    said = sentence(done)
    assert f"{last.parent} is cut short or altered" in said and "delete that folder" in said


def test_ctrl_c_saves_and_ends_in_130_with_one_sentence(text: Path, tmp_path: Path) -> None:
    words = ["run", "--data", str(text), "--out", str(tmp_path), "--name", "run"]
    process = subprocess.Popen(
        [sys.executable, "-m", "benthic", *words, *settings("pretrain.steps=100000")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(PYTHONUNBUFFERED="1"),
    )
    try:
        log = tmp_path / "run" / "metrics.jsonl"
        while process.poll() is None and not (log.exists() and log.stat().st_size):
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    done = subprocess.CompletedProcess(words, process.returncode, out, err)
    assert "give the same command again, without --fresh, to go on" in sentence(done, 130)
    assert checkpoint.steps_of(tmp_path / "run" / "checkpoints", "pretrain")


def test_a_full_disk_is_one_sentence_and_the_command_goes_on_later(
    text: Path, tmp_path: Path
) -> None:
    """A limit on the size of files stands in for the disk: writing fails in the same place."""
    words = [
        "run",
        "--data",
        text,
        "--out",
        tmp_path,
        "--name",
        "run",
        *settings("reason.steps=0", "model.intermediate_size=2048"),
    ]
    limit = 200_000

    def full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    said = sentence(benthic(*words, preexec_fn=full))
    assert "cannot be written (File too large)" in said and "make room" in said
    assert not list((tmp_path / "run" / "checkpoints").iterdir())
    assert benthic(*words).returncode == 0


def test_a_no_go_has_an_exit_code_of_its_own(made: RunFolder, text: Path, tmp_path: Path) -> None:
    words = settings("reason.gate_gap=1", "reason.steps=1")
    done = here("run", "--data", text, "--out", tmp_path, "--base", made.path, *words)
    assert "insist with --force-rl" in sentence(done, 3)


def test_the_paths_of_a_user_may_hold_quotes_and_spaces(tmp_path: Path) -> None:
    place = tmp_path / """it's "my" \\ text \u00e9\U0001f40b"""
    place.mkdir()
    place = text_in(place)
    words = settings("pretrain.steps=1", "reason.steps=0")
    done = here("run", "--data", place, "--out", tmp_path, "--name", "run", *words)
    assert done.returncode == 0, done.stderr
    assert RunFolder(tmp_path / "run").recipe().data.paths == (str(place),)


def test_a_finished_run_says_so(made: RunFolder, text: Path) -> None:
    place = ["--out", made.path.parent, "--name", made.path.name, "--data", text]
    done = here("run", *place, *settings())
    assert done.returncode == 0 and "nothing is run again" in done.stdout


def test_a_mistake_is_one_sentence_in_a_process_of_its_own(tmp_path: Path) -> None:
    done = benthic("run", "--data", "nowhere.txt", cwd=tmp_path)
    assert f"{tmp_path}/nowhere.txt does not exist" in sentence(done)


def test_chat_reads_a_pipe(made: RunFolder) -> None:
    done = benthic("chat", made.path, stdin="314159\n271828\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("tokens/s") == 2


@pytest.mark.parametrize("temperature", ["0", "1"])
def test_chat_answers_every_question_that_is_piped_in(made: RunFolder, temperature: str) -> None:
    questions = (
        "314159\nnot digits\n" + "1" * 17 + "\n/text in the \n" + "/text " + "x" * 999 + "\n"
    )
    done = here("chat", made.path, "--temperature", temperature, stdin=questions)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("tokens/s") == 3
    assert done.stdout.count("give 1 to 16 digits") == 2


@pytest.mark.parametrize("stdin", ["", "\n", "\n314\n"])
def test_chat_ends_at_an_empty_line_or_the_end(made: RunFolder, stdin: str) -> None:
    done = here("chat", made.path, stdin=stdin)
    assert done.returncode == 0 and "tokens/s" not in done.stdout


def test_chat_without_a_checkpoint_is_one_sentence(made: RunFolder, tmp_path: Path) -> None:
    folder = copy(made, tmp_path)
    subprocess.run(["rm", "-r", str(folder.checkpoints)], check=True)
    assert "has no checkpoint yet" in sentence(here("chat", folder.path))


def test_the_doctor_finds_this_machine_well() -> None:
    done = benthic("doctor")
    assert (done.returncode, done.stderr) == (0, "")
    for thing in ("machine", "memory", "torch", "experts", "text", "ledger"):
        assert thing in done.stdout


def test_the_doctor_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("BENTHIC_LEDGER", str(tmp_path / "file" / "ledger.sqlite"))
    done = here("doctor")
    assert done.returncode == 1 and "cannot be made" in done.stdout


def test_ctrl_c_of_an_export_is_one_sentence_and_leaves_nothing(
    made: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopping(*words: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("benthic.export.save_tokenizer", stopping)
    done = here("export", made.path, "--out", tmp_path / "x" / "out")
    assert sentence(done, 130) == "benthic: stopped"
    assert not list((tmp_path / "x").iterdir())


@pytest.mark.parametrize("to", ["hf", "gguf"])
def test_an_export_says_where_it_lies_on_one_line(made: RunFolder, tmp_path: Path, to: str) -> None:
    """However narrow the terminal: a path that is cut up cannot be copied."""
    if to == "gguf":
        pytest.importorskip("gguf", reason="GGUF is written by gguf: install the extra 'gguf'")
    long = tmp_path / ("deep" * 20) / "it's [bold]mine"
    source = made.path if to == "hf" else hub_in(tmp_path / "hub")
    done = benthic("export", source, "--to", to, "--out", long, env=environment(COLUMNS="40"))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{long}: 0.") and long.exists()
    assert not list(long.parent.glob(".partial-*"))


def test_a_run_begins_with_a_checkpoint_and_goes_on(text: Path, tmp_path: Path) -> None:
    """The same command again finds the same recipe."""
    hub = hub_in(tmp_path / "hub")
    own = [setting for setting in SMALL if not setting.startswith("model.")]
    own += [*LONGER, "reason.steps=0", "pretrain.steps=1"]
    place = ["--out", tmp_path, "--name", "run", "--data", text]
    words = ["run", *place, *(word for setting in own for word in ("--set", setting))]
    assert here(*words, "--init-from", hub).returncode == 0
    assert "nothing is run again" in here(*words, "--init-from", hub).stdout
    assert "made with another recipe" in sentence(here(*words))
    said = here("chat", tmp_path / "run", stdin="314159\n")
    assert said.returncode == 0 and "pretrained only" in said.stdout
