"""How long `benthic inspect` takes for DeepSeek-R1: 91,991 tensors in 163 files.

Claim: by the index, under a second for the whole process. The checkpoint is made up: R1's config
and an index alone, or with it 163 files of true headers and holes for weights (690 GB by name, 12
MB on a disk). Beside it, what a bare Python and `import torch` take. Every run is a process of its
own, the files in the system's cache. On a shared machine the processor's seconds tell more.

    python benchmarks/inspect_index.py [RUNS]
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from importlib import resources
from math import prod
from pathlib import Path

from machine import heading, spread

from benthic.hub.config import preset
from benthic.hub.files import INDEX
from benthic.hub.layout import SCALE, in_fp8, layout
from benthic.hub.safetensors import WIDTHS

SHARDS, RUNS = 163, 9


def entries() -> dict[str, tuple[str, tuple[int, ...]]]:
    """Every tensor of R1 with dtype and shape."""
    shapes = layout(*preset("deepseek-r1"))
    wide = (SCALE, "e_score_correction_bias")
    return {
        name: ("F8_E4M3" if in_fp8(name) else "F32" if name.endswith(wide) else "BF16", shape)
        for name, shape in shapes.items()
    }


def make(folder: Path, *, headers: bool) -> Path:
    """A checkpoint without weights: config, index and, with `headers`, files cut to their size."""
    tensors = entries()
    each = -(-len(tensors) // SHARDS)
    folder.mkdir()
    shipped = resources.files("benthic.hub").joinpath("presets", "deepseek-r1.json")
    (folder / "config.json").write_bytes(shipped.read_bytes())
    where = {}
    for i in range(SHARDS):
        shard = f"model-{i + 1:05d}-of-{SHARDS:06d}.safetensors"
        header, at = {}, 0
        for name in list(tensors)[i * each : (i + 1) * each]:
            dtype, shape = tensors[name]
            end = at + WIDTHS[dtype] * prod(shape)
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, end]}
            where[name], at = shard, end
        if headers:
            text = json.dumps(header).encode()
            with (folder / shard).open("wb") as file:
                file.write(len(text).to_bytes(8, "little") + text)
                file.truncate(8 + len(text) + at)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": where}, indent=2))
    return folder


def measure(*words: str) -> tuple[float, float]:
    """Seconds of the clock and of the processor."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(done.stderr or done.stdout)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    heading()
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else RUNS
    with tempfile.TemporaryDirectory() as scratch:
        index = make(Path(scratch) / "index", headers=False)
        files = make(Path(scratch) / "files", headers=True)
        commands = {
            "index alone": ("-m", "benthic", "inspect", str(index)),
            "index and headers": ("-m", "benthic", "inspect", str(files)),
            "a preset": ("-m", "benthic", "inspect", "deepseek-r1"),
            "python -c pass": ("-c", "pass"),
            "import torch": ("-c", "import torch"),
        }
        rounds = [{name: measure(*words) for name, words in commands.items()} for _ in range(runs)]
    print(f"{len(entries()):,} tensors in {SHARDS} files, {runs} runs each")
    for name in commands:
        clock, processor = (spread([times[name][i] for times in rounds], " s") for i in (0, 1))
        print(f"{name:17}  clock {clock}; processor {processor}")


if __name__ == "__main__":
    main()
