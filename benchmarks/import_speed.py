"""Import of a sharded bf16 checkpoint against plain safetensors, warm page cache, CPU.

Claim: `import_hub`, which checks headers, config and every number, reads at 70 % of the speed at
least of a bare loop that opens every shard and clones every tensor; and its anonymous memory peaks
below the model, one shard, and 200 MB. The checkpoint is made here, with DeepSeek-V3's tensors at a
narrow width, and deleted afterwards. Each run is a fresh process; the two sides take turns. Both
leave out the prediction block's copies of embedding and head, which a model does not keep.

    python benchmarks/import_speed.py [--gigabytes 4] [--runs 7] [--folder FOLDER]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import torch
from machine import heading, spread
from safetensors import safe_open
from torch import Tensor

from benthic.hub.config import preset
from benthic.hub.layout import elements, is_copy, layout
from benthic.hub.safetensors import open_checkpoint
from benthic.model.checkpoint import empty_model, import_hub
from benthic.model.config import ModelConfig
from benthic.model.export import export_hub

SHARDS, SPARE, REACH = 8, 200e6, 0.7


def shape(gigabytes: float) -> ModelConfig:
    """DeepSeek-V3, narrower and with fewer experts, in as many layers as fill the size."""
    config = replace(
        preset("deepseek-v3")[0],
        **{"vocab_size": 32768, "hidden_size": 2048, "intermediate_size": 8192},
        **{"moe_intermediate_size": 1408, "n_routed_experts": 16, "n_group": 4, "topk_group": 2},
        **{"num_attention_heads": 16, "q_lora_rank": 512, "first_k_dense_replace": 1},
        **{"num_experts_per_tok": 4, "max_position_embeddings": 4096},
    )
    layers = 2
    while 2 * elements(layout(replace(config, num_hidden_layers=layers))) < gigabytes * 1e9:
        layers += 1
    return replace(config, num_hidden_layers=layers)


def make(folder: Path, config: ModelConfig) -> None:
    """Numbers repeat every 16 MB, which no reader can tell."""
    model = empty_model(config, device="cpu", dtype=torch.bfloat16)
    tile = torch.randn(1 << 23, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            for part in tensor.view(-1).split(len(tile)):
                part.copy_(tile[: len(part)])
    size = 2 * elements(layout(config))
    export_hub(model, folder, precision="bf16", shard_bytes=size // SHARDS)


def plain(folder: Path) -> dict[str, Tensor]:
    """What the format's own library does for those who ask for every tensor."""
    held: dict[str, Tensor] = {}
    for shard in sorted(folder.glob("*.safetensors")):
        with safe_open(shard, framework="pt", device="cpu") as file:
            for name in file.keys():  # noqa: SIM118
                if not is_copy(name):
                    held[name] = file.get_tensor(name).clone()
    return held


def anonymous() -> int:
    """Bytes of this process that belong to no file."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no RssAnon: this benchmark needs Linux")


def once(side: str, folder: Path, *, watch: bool) -> dict[str, float]:
    """One import in this process: seconds and, watched, the peak of anonymous memory above before.

    A watched run is not timed, for the watch takes its share of the interpreter.
    """
    torch.ones(1 << 20).bfloat16().float().aminmax()  # the pool of threads is there
    before = peak = anonymous()
    done = threading.Event()

    def sample() -> None:
        nonlocal peak
        while not done.wait(0.005):
            peak = max(peak, anonymous())

    watcher = threading.Thread(target=sample)
    if watch:
        watcher.start()
    began = time.perf_counter()
    held = import_hub(folder) if side == "ours" else plain(folder)
    seconds = time.perf_counter() - began
    if watch:
        done.set()
        watcher.join()
    peak = max(peak, anonymous())
    del held
    return {"seconds": seconds, "peak": peak - before}


def fresh(side: str, folder: Path, *, watch: bool = False) -> dict[str, float]:
    command = [sys.executable, __file__, "--folder", str(folder), "--once", side]
    out = subprocess.run(
        command + ["--watch"] * watch, check=True, capture_output=True, text=True
    ).stdout
    found: dict[str, float] = json.loads(out)
    return found


def compare(folder: Path, runs: int) -> None:
    checkpoint = open_checkpoint(folder)
    size = sum(e.nbytes for name, (_, e) in checkpoint.entries.items() if not is_copy(name))
    shard = max(shard.size for shard in checkpoint.shards)
    print(
        f"{size / 1e9:.2f} GB read of {len(checkpoint.shards)} shards with "
        f"{len(checkpoint.entries)} tensors, the largest shard {shard / 1e9:.2f} GB"
    )
    fresh("plain", folder)  # the cache is warm
    pairs = [
        (fresh("ours", folder)["seconds"], fresh("plain", folder)["seconds"]) for _ in range(runs)
    ]
    for name, times in zip(("benthic", "safetensors"), zip(*pairs, strict=True), strict=True):
        print(f"{name:11} {spread([size / t / 1e9 for t in times], ' GB/s')}")
    print(f"ratio of speeds {spread([p / o for o, p in pairs])} (reach: {REACH} at least)")
    model = sum(t.nbytes for t in import_hub(folder).state_dict().values())
    peak = fresh("ours", folder, watch=True)["peak"]
    limit = model + shard + SPARE
    print(
        f"peak of anonymous memory {peak / 1e9:.2f} GB, {(peak - model) / 1e6:.0f} MB above the "
        f"model's {model / 1e9:.2f} GB (reach: model, largest shard and 200 MB, "
        f"{limit / 1e9:.2f} GB at most); safetensors "
        f"{fresh('plain', folder, watch=True)['peak'] / 1e9:.2f} GB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="a checkpoint that is there; none: made")
    parser.add_argument("--once", choices=("ours", "plain"), help=argparse.SUPPRESS)
    parser.add_argument("--watch", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.once:
        print(json.dumps(once(given.once, given.folder, watch=given.watch)))
        return
    heading("safetensors")
    if given.folder:
        compare(given.folder, given.runs)
        return
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), shape(given.gigabytes))
        compare(Path(folder), given.runs)


if __name__ == "__main__":
    main()
