"""Exported GGUF files in llama.cpp: the same ids for text, the same tokens from greedy decoding.

Claims: text has the same ids in llama.cpp, in every vocabulary that is exported; of each family, a
model exported in fp32 yields the same greedy tokens wherever the best two logits are further apart
than twice the bound, 2e-5 of the logits' spread (largest minus smallest); and no logit differs by
more than the bound. Each model is trained briefly on a page of the Python standard library, so that
its logits are peaked, and goes on from there. Both sides are given Benthic's tokens, one at a time
behind a prompt, so that after a tie they go on together; the third side is Benthic in fp64, its
angles in fp64 too. Where llama.cpp is beyond the bound, the closest call of a router in that row is
decided the other way in fp64, and the distance measured again.

llama.cpp comes with the package llama-cpp-python, which is built for minutes and may live in a
virtual environment of its own. It runs on one thread, its cache in fp32, flash attention off.

    python benchmarks/llama_cpp.py --python PATH_TO_A_PYTHON_WITH_LLAMA_CPP
"""

import argparse
import copy
import inspect
import json
import random
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import regex
import torch
from brief import BOUND, FAMILIES, NEW, PROMPTS, SPECIALS, VOCABULARY, YARN, trained
from brief import texts as sources
from brief import tokenizer as brief_tokenizer
from machine import heading
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

from benthic.data.hub_tokenizer import HubTokenizer, byte_tokenizer, load_tokenizer
from benthic.data.tiktoken import BYTE_CHARS
from benthic.model.config import ModelConfig
from benthic.model.gguf import export_gguf
from benthic.model.gguf_vocabulary import SPLITTINGS
from benthic.model.moe import Router, Routing
from benthic.model.rope import frequency_reference
from benthic.model.transformer import LanguageModel

PROMPT, TOKENS, STEPS, STRINGS = 48, 8000, 150, 1000
V2_YARN = replace(YARN, factor=8.0, mscale=0.707, mscale_all_dim=0.707)
LITE = {  # where llama.cpp expects no query latent
    **{"q_lora_rank": None, "num_hidden_layers": 27, "hidden_size": 64, "kv_lora_rank": 64},
    **{"moe_intermediate_size": 32, "initializer_range": 0.1},
}
MODELS: dict[str, ModelConfig] = {
    **FAMILIES,
    "deepseek_v2, YaRN": replace(FAMILIES["deepseek_v2"], rope_scaling=V2_YARN),
    "deepseek_v2, 27 layers": replace(FAMILIES["deepseek_v2"], **LITE),
    "qwen3, YaRN": replace(FAMILIES["qwen3"], rope_scaling=replace(YARN, attention_factor=1.2)),
}


def llama_cpp_side() -> None:
    """Runs in the other Python: reads a job, writes ids of strings and logits of sequences."""
    import json
    import sys

    import llama_cpp
    import numpy as np

    with open(sys.argv[1]) as file:
        job = json.load(file)
    sequences = job["sequences"]
    model = llama_cpp.Llama(
        job["gguf"],
        vocab_only=not sequences,
        n_ctx=len(sequences[0]) if sequences else 8,
        n_threads=1,
        n_threads_batch=1,
        logits_all=True,
        type_k=0,  # fp32
        type_v=0,
        flash_attn=False,
        verbose=False,
    )
    ids = [
        [model.tokenize(s.encode(), add_bos=False, special=special) for s in job["strings"]]
        for special in (False, True)
    ]
    out = []
    for sequence in sequences:
        model.reset()
        model.eval(sequence[: job["prompt"]])
        for token in sequence[job["prompt"] : -1]:
            model.eval([token])
        out.append(np.array(model.scores[job["prompt"] - 1 : model.n_tokens], dtype=np.float32))
    np.save(job["out"], np.array(out, dtype=np.float32))
    print(json.dumps(ids))


def llama_cpp(
    python: str, gguf: Path, *, strings: Sequence[str] = (), sequences: Sequence[list[int]] = ()
) -> tuple[list[list[list[int]]], NDArray[np.float32]]:
    """Ids of each string, without and with control tokens; logits [rows, new, V]."""
    out, place = gguf.with_suffix(".npy"), gguf.with_suffix(".json")
    job = {"gguf": str(gguf), "strings": [*strings], "sequences": [*sequences]}
    place.write_text(json.dumps(job | {"prompt": PROMPT, "out": str(out)}))
    source = f"{inspect.getsource(llama_cpp_side)}\nllama_cpp_side()"
    command = [python, "-P", "-c", source, str(place)]  # -P: here, this file has its name
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"llama.cpp failed on {gguf.name}:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1]), np.load(out)


def strings_of(text: str, seed: int, count: int = STRINGS) -> list[str]:
    """Slices of text, runs of space, numbers, scripts, emoji, stray and unassigned characters."""
    draw = random.Random(seed)
    ranges = [(0x0, 0x1F), (0x20, 0x7E), (0x80, 0x9F), (0xA0, 0x17F), (0x300, 0x36F)]
    ranges += [(0x370, 0x52F), (0x590, 0x6FF), (0x900, 0x97F), (0xE00, 0xE7F), (0x1E00, 0x1FFF)]
    ranges += [(0x2000, 0x206F), (0x2190, 0x27BF), (0x3000, 0x30FF), (0x4E00, 0x9FFF)]
    ranges += [(0xAC00, 0xD7A3), (0xE000, 0xE010), (0xFF00, 0xFFEF), (0x10000, 0x104FF)]
    ranges += [(0x1F300, 0x1FAFF)]
    spaces = " \t\n\r\x0b\x0c\x85\u00a0\u2028\u3000"

    def letters(size: int) -> str:
        low, high = draw.choice(ranges)
        return "".join(chr(draw.randint(low, high)) for _ in range(size))

    parts: list[Callable[[], str]] = [
        lambda: text[(at := draw.randrange(len(text) - 80)) : at + draw.randint(1, 80)],
        lambda: "".join(draw.choices(spaces, k=draw.randint(1, 9))),
        lambda: " " * draw.randint(1, 12),
        lambda: str(draw.randrange(10 ** draw.randint(1, 12))),
        lambda: draw.choice(["'s", "'LL", "'Re", "don't", "\u2019s", "I'M", "'", "''"]),
        lambda: draw.choice([*SPECIALS, "<think", "<|im_end|>", "[PAD1]", "</s>"]),
        lambda: letters(draw.randint(1, 12)),
        lambda: letters(1),
    ]
    return ["".join(draw.choice(parts)() for _ in range(draw.randint(1, 8))) for _ in range(count)]


def cut_as(patterns: Sequence[str], whole: bool, texts: list[str], folder: Path) -> HubTokenizer:
    """A byte-level BPE trained on texts cut by these patterns, by way of a tokenizer.json."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=whole))
    cuts = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*cuts, to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([*SPECIALS])
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos_token": SPECIALS[0], "eos_token": SPECIALS[1]}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    return load_tokenizer(folder)


def read_again(tokenizer: HubTokenizer, patterns: Sequence[str], text: str) -> list[int]:
    """Ids by a third reading of the patterns, that of the package `regex`."""
    pieces = [text]
    for pattern in patterns:
        cut = regex.compile(f"(?V1)({pattern})")
        pieces = [part for piece in pieces for part in cut.split(piece) if part]
    spelled = ["".join(BYTE_CHARS[b] for b in piece.encode()) for piece in pieces]
    return [t.id for piece in spelled for t in tokenizer.plain.model.tokenize(piece)]


def compare_ids(
    name: str,
    tokenizer: HubTokenizer,
    patterns: Sequence[str],
    strings: list[str],
    python: str,
    folder: Path,
) -> None:
    """Print how many strings have other ids; where text differs, whom a third reading supports."""
    gguf = folder / f"{name}.gguf"
    narrow = ModelConfig(
        model_type="llama",
        vocab_size=tokenizer.size,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=1,
        max_position_embeddings=8,
    )
    export_gguf(LanguageModel(narrow), tokenizer, gguf, precision="f32")
    answer, _ = llama_cpp(python, gguf, strings=strings)
    plain, marked = (
        [(s, encode(s), ids) for s, ids in zip(strings, theirs, strict=True)]
        for encode, theirs in zip(
            (tokenizer.encode, tokenizer.encode_with_specials), answer, strict=True
        )
    )
    differ = [case for case in plain if case[1] != case[2]]
    print(
        f"{name:12} {len(strings)} strings, {sum(len(ours) for _, ours, _ in plain)} ids: "
        f"{len(differ)} strings differ; with control tokens "
        f"{sum(ours != theirs for _, ours, theirs in marked)}"
    )
    if differ:
        third = [read_again(tokenizer, patterns, s) for s, _, _ in differ]
        with_ours, with_theirs = (
            sum(ids == case[side] for ids, case in zip(third, differ, strict=True))
            for side in (1, 2)
        )
        print(
            f"{'':12} a third reading of them has benthic's ids {with_ours} times, llama.cpp's "
            f"{with_theirs} times; the shortest: {min((s for s, _, _ in differ), key=len)!a}"
        )


@torch.inference_mode()
def greedy(model: LanguageModel, prompts: Tensor) -> tuple[Tensor, Tensor]:
    """Sequences [rows, prompt + new] and the logits [rows, new, V] that chose, as served."""
    c = model.config
    rows, end = len(prompts), PROMPT + NEW
    cache = torch.zeros(c.num_hidden_layers, rows, end, c.cache_width)
    logits = [model.lm_head(model(prompts, cache=cache)[:, -1])]
    tokens = [prompts, logits[0].argmax(-1, keepdim=True)]
    for at in range(PROMPT, end - 1):
        mask = torch.zeros(1, at + 1)
        logits.append(model.decode(tokens[-1][:, 0], torch.tensor([at]), cache, mask))
        tokens.append(logits[-1].argmax(-1, keepdim=True))
    return torch.cat(tokens, dim=1), torch.stack(logits, dim=1)


def widened(model: LanguageModel) -> LanguageModel:
    """The same weights in fp64, angles computed in fp64."""
    c = model.config
    exact = copy.deepcopy(model).double()
    pairs = range(c.rotary_dim // 2)
    turns = [frequency_reference(i, c.rotary_dim, c.rope_theta, c.rope_scaling) for i in pairs]
    angle = torch.arange(c.max_position_embeddings).double()[:, None] * torch.tensor(turns).double()
    factor = c.rope_scaling.turn_factor
    exact.cos, exact.sin = angle.cos() * factor, angle.sin() * factor
    return exact


@torch.inference_mode()
def exact_logits(exact: LanguageModel, sequences: Tensor, experts: Tensor | None = None) -> Tensor:
    """Logits [rows, new, V] of whole sequences, if asked for with these experts."""
    hidden = exact(sequences[:, :-1], routing=Routing(replay=experts))
    return exact.lm_head(hidden[:, PROMPT - 1 :])


@torch.inference_mode()
def closest_calls(exact: LanguageModel, sequences: Tensor) -> tuple[Tensor, Tensor]:
    """Experts [rows, T, M, K] in which each row's closest call went the other way; the gaps."""
    seen: list[tuple[Router, Tensor]] = []
    hooks = [
        router.register_forward_hook(lambda router, _, scores: seen.append((router, scores)))
        for router in exact.routers
    ]
    routing = Routing()
    exact(sequences[:, :-1], routing=routing)
    experts, K = routing.chosen().clone(), exact.config.num_experts_per_tok
    runners_up, gaps = [], []
    for router, scores in seen:
        router.config = replace(exact.config, num_experts_per_tok=K + 1)
        order = router.select(scores)
        router.config = exact.config
        bias = router.e_score_correction_bias
        ranked = (scores if bias is None else scores + bias).gather(1, order)
        gaps.append((ranked[:, K - 1] - ranked[:, K]).view(experts.shape[:2]))
        runners_up.append(order.view(*experts.shape[:2], K + 1))
    for hook in hooks:
        hook.remove()
    gap, order = torch.stack(gaps, dim=-1), torch.stack(runners_up, dim=-2)
    for row in range(len(experts)):
        at, layer = divmod(int(gap[row].argmin()), len(seen))
        tied = order[row, at, layer]
        experts[row, at, layer] = torch.cat([tied[: K - 1], tied[K:]])
    return experts, gap.flatten(1).amin(1)


def compare_logits(
    name: str, model: LanguageModel, prompts: Tensor, gguf: Path, python: str
) -> None:
    """Print agreement of greedy tokens, and distances as shares of the spread."""
    sequences, ours = greedy(model, prompts)
    _, answer = llama_cpp(python, gguf, sequences=sequences.tolist())
    exact_model = widened(model)
    theirs, exact = torch.from_numpy(answer), exact_logits(exact_model, sequences)
    spread = exact.amax(-1) - exact.amin(-1)

    def distance(a: Tensor, b: Tensor) -> Tensor:
        return ((a.double() - b.double()).abs().amax(-1) / spread).amax(-1)

    best = ours.topk(2, dim=-1).values.double()
    tie = (best[..., 0] - best[..., 1]) <= 2 * BOUND * spread
    differ = ours.argmax(-1) != theirs.argmax(-1)
    apart = distance(ours, theirs)
    print(
        f"{name:23}{int((~tie).sum())} tokens compared ({sequences[:, PROMPT:].unique().numel()} "
        f"distinct), {int((differ & ~tie).sum())} disagreements, {int(tie.sum())} ties "
        f"({int((differ & tie).sum())} fell otherwise)"
    )
    print(
        f"{'':23}largest logit difference {apart.max():.1e} of the spread, bound {BOUND:.0e}; "
        f"from fp64: benthic {distance(ours, exact).max():.1e}, "
        f"llama.cpp {distance(theirs, exact).max():.1e}; spread {spread.min():.1f} to "
        f"{spread.max():.1f}"
    )
    beyond = (apart > BOUND).nonzero()[:, 0].tolist()
    if beyond and model.routers:
        experts, gaps = closest_calls(exact_model, sequences)
        swapped = exact_logits(exact_model, sequences, experts)
        for row in beyond:
            for side, logits in (("benthic", ours), ("llama.cpp", theirs)):
                before, after = distance(logits, exact)[row], distance(logits, swapped)[row]
                if after < before:
                    print(
                        f"{'':23}row {row}: two experts' scores are {gaps[row]:.1e} apart; with "
                        f"the other one, fp64 is {after:.1e} from {side}, not {before:.1e}"
                    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--python", required=True, help="a Python that has llama_cpp")
    python = parser.parse_args().python
    heading("gguf", "tokenizers", "regex")
    torch.set_num_threads(1)
    bpe, learnt = brief_tokenizer(), sources()
    texts = [*learnt[:60], *strings_of("".join(learnt), seed=1)]
    strings = strings_of("".join(learnt), seed=0)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        compare_ids("bytes", byte_tokenizer(SPECIALS, 264), [], strings, python, folder)
        compare_ids("trained", bpe, [], strings, python, folder)
        for patterns, whole, name in SPLITTINGS:
            tokenizer = cut_as(patterns, whole, texts, folder / name)
            compare_ids(name, tokenizer, patterns, strings, python, folder)
        ids = torch.tensor(bpe.encode("".join(learnt))[:TOKENS])
        prompts = ids.unfold(0, PROMPT, (TOKENS - PROMPT) // (PROMPTS - 1))
        for name, config in MODELS.items():
            model = trained(config, ids, steps=STEPS).eval()
            gguf = folder / "model.gguf"
            export_gguf(model, bpe, gguf, precision="f32")
            compare_logits(name, model, prompts, gguf, python)


if __name__ == "__main__":
    main()
