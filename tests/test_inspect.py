"""The page of `benthic inspect`: legible at every width, safe whatever a folder says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benthic.config import load
from benthic.folder import RunFolder
from benthic.hub.config import presets
from benthic.hub.files import HubError
from benthic.inspect import show
from tests.cost.test_inspection import FP8, LLAMA, V3, put_checkpoint, put_config, shard
from tests.small import benthic

WIDTHS = [60, 80, 200]


@pytest.fixture
def page(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> "Page":
    return Page(capsys, monkeypatch)


class Page:
    """`page(source)`: the lines that `show` prints at a width, and its code."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.capsys, self.monkeypatch = capsys, monkeypatch

    def __call__(
        self, source: str | Path, *, width: int = 100, code: int = 0, context: int | None = None
    ) -> list[str]:
        self.monkeypatch.setenv("COLUMNS", str(width))
        assert show(str(source), context=context) == code
        out, err = self.capsys.readouterr()
        assert err == "" and "\u2026" not in out  # nothing is cut short
        assert all(char.isprintable() or char == "\n" for char in out)
        lines = [line.rstrip() for line in out.splitlines()]
        assert max(map(len, lines)) <= width
        return lines


def fact(lines: list[str], name: str) -> str:
    """What follows a name at the start of the first such line."""
    found = next(line for line in lines if line.split("  ")[0] == name)
    return found.removeprefix(name).strip()


def cells(lines: list[str], name: str) -> list[str]:
    return [cell.strip() for cell in fact(lines, name).split("  ") if cell.strip()]


def test_the_first_line_answers_and_the_rest_is_exact(page: Page) -> None:
    lines = page("deepseek-r1", width=200)
    assert lines[0] == (
        "deepseek-r1, a preset: DeepSeek-V3's architecture with 671B parameters, "
        "37.6B of them active a token, FP8."
    )
    assert fact(lines, "family") == "deepseek_v3, DeepseekV3ForCausalLM"
    assert fact(lines, "layers") == "61, 7,168 wide: 3 dense, 58 of experts; a prediction block"
    assert fact(lines, "attention") == (
        "latent, 128 heads; caches 512 + 64 numbers a layer; softmax scale 0.1352"
    )
    assert fact(lines, "experts") == (
        "8 of 256 a token, from 4 of 8 groups, 1 shared; 2,048 wide, sigmoid scores"
    )
    assert fact(lines, "context") == (
        "163,840 tokens, stretched 40 times from 4,096 by YaRN; rotary base 10,000"
    )
    assert fact(lines, "cache") == (
        "68.6 KiB a token in bf16: 274 MiB for 4,096, 10.7 GiB for all 163,840"
    )
    assert cells(lines, "total") == ["671,026,419,200"]
    assert cells(lines, "active a token") == ["37,552,297,472", "5.6%"]
    assert cells(lines, "with prediction block") == ["682,636,487,424"]
    assert cells(lines, "91,991 in all") == ["684,531,386,000", "641 GiB"]
    assert cells(lines, "weights") == ["1,272 GiB", "641 GiB"]
    assert cells(lines, "H200") == ["141 GiB", "needs 11", "needs 6"]
    assert cells(lines, "8 x H200") == ["1,128 GiB", "needs 2", "fits"]
    assert not [line for line in lines if line.startswith("RTX")]  # dozens would be needed


def test_a_dense_model_is_shown_as_such(page: Page) -> None:
    lines = page("llama-3.1-8b")
    assert lines[0].endswith("Llama's architecture with 8.03B parameters, bf16.")
    assert not [line for line in lines if line.startswith(("experts", "active", "routers"))]
    assert fact(lines, "context").endswith(
        "8 times from 8,192 by Llama 3's bands; rotary base 500,000"
    )
    assert cells(lines, "RTX 3060") == ["12 GiB", "needs 2", "fits"]
    assert cells(lines, "RTX 4090, L4") == ["24 GiB", "fits", "fits"]
    assert not [line for line in lines if line.startswith("A100")]  # larger ones hold it too


@pytest.mark.parametrize("name", presets())
def test_every_preset_is_legible(page: Page, name: str) -> None:
    assert page(name, width=60)[0].startswith(f"{name}, a preset: ")


@pytest.mark.parametrize("width", WIDTHS)
def test_a_sound_checkpoint_is_legible(page: Page, tmp_path: Path, width: int) -> None:
    folder = put_checkpoint(tmp_path, V3, FP8)
    for name in ("tokenizer.json", "chat_template.jinja"):
        (folder / name).touch()
    lines = page(folder, width=width)
    assert " ".join(lines[:6]).count("in 3 files.") == 1
    assert fact(lines, "tokenizer") == "tokenizer.json; a chat template"
    assert "Counted by the headers of 3 files." in lines


def test_missing_files_are_named(page: Page, tmp_path: Path) -> None:
    text = " ".join(page(put_checkpoint(tmp_path / "some", V3, here=(1,))))
    assert "in 3 files, 2 missing." in text
    assert f"2 of 3 files missing: {shard(0)}, {shard(2)}." in text
    text = " ".join(page(put_checkpoint(tmp_path / "none", V3, here=())))
    assert "in 3 files, none of them here." in text


def test_a_config_alone_and_a_run_say_so(page: Page, tmp_path: Path) -> None:
    put_config(tmp_path / "bare", LLAMA)
    assert "there are no weights here." in " ".join(page(tmp_path / "bare"))
    assert "a config without weights" in " ".join(page(tmp_path / "bare" / "config.json"))
    RunFolder(tmp_path / "run").begin(load("laptop"), {})
    lines = page(tmp_path / "run")
    assert "a run of Benthic: DeepSeek-V3's architecture with 296k" in " ".join(lines)
    assert "Counted by the recipe." in lines and cells(lines, "with prediction block")


def test_what_is_wrong_is_said_and_is_the_code(page: Page, tmp_path: Path) -> None:
    folder = put_checkpoint(tmp_path, V3)
    put_config(folder, LLAMA)
    text = " ".join(" ".join(page(folder, code=1)).split())
    assert "wrong" in text and "lacks the tensor model.layers.0.self_attn.k_proj" in text


def test_of_many_wrongs_the_first_are_said(page: Page, tmp_path: Path) -> None:
    folder = put_checkpoint(tmp_path, V3)
    for i in range(3):
        (folder / shard(i)).write_bytes(b"no")
    for name in ("tokenizer.json", "model.safetensors"):
        (folder / name).symlink_to("/etc/passwd")
    assert sum(line.startswith("wrong") for line in page(folder, code=1)) == 4


@pytest.mark.parametrize("width", WIDTHS)
def test_a_strangers_words_steer_no_terminal(page: Page, tmp_path: Path, width: int) -> None:
    """Colours, markup, lines of their own, text from right to left: shown, never obeyed."""
    folder = tmp_path / "[bold]x[nope]\nfamily  forged\x1b[31m\u202e"
    put_checkpoint(folder, V3)
    (folder / "a\x1b]0;owned\x07\nfamily  forged[blink].py").touch()
    (
        folder / "b\ud800.pkl".encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape")
    ).touch()
    (folder / "tokenizer_config.json").write_text("[/red]")
    lines = page(folder, width=width, code=1)
    assert sum(line.startswith("family") for line in lines) == 1
    text = "".join(lines).replace(" ", "")
    assert "[bold]x[nope]" in text and "forged[blink].py" in text
    (folder / "config.json").write_text('{"model_type": "\\u001b[2J"}')
    with pytest.raises(HubError) as refusal:
        show(str(folder))
    assert str(refusal.value).isprintable()


def test_json_holds_the_same(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert show("llama-3.1-8b", context=8192, as_json=True) == 0
    tree = json.loads(capsys.readouterr().out)
    assert tree["parameters"]["total"] == 8_030_261_248
    assert (tree["context"], tree["cache_per_token"]) == (8192, 2 * 2 * 32 * 8 * 128)
    folder = put_checkpoint(tmp_path, V3, here=(0, 2))
    (folder / shard(0)).write_bytes(b"")
    assert show(str(folder), as_json=True) == 1
    tree = json.loads(capsys.readouterr().out)
    assert tree["stored"]["missing"] == [shard(1)] and len(tree["findings"]) == 1


def test_the_command_says_it_and_its_mistakes(tmp_path: Path) -> None:
    done = benthic("inspect", "qwen2.5-0.5b", "--context", "100")
    assert (done.returncode, done.stderr) == (0, "")
    assert (
        done.stdout.startswith("qwen2.5-0.5b, a preset: Qwen2's") and "cache of 100" in done.stdout
    )
    done = benthic("inspect", tmp_path / "nowhere")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("benthic: there is no file or folder")
    assert len(done.stderr.splitlines()) == 1


def test_it_loads_no_torch(tmp_path: Path) -> None:
    """Nor anything else that takes longer than the answer."""
    folder = put_checkpoint(tmp_path, V3, FP8)
    code = (
        "import sys\n"
        "from benthic.cli import main\n"
        f"sys.argv = ['benthic', 'inspect', {str(folder)!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'safetensors')))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
