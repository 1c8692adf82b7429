"""A stranger's folder: what is sound is read as the format's library reads it, the rest refused."""

import json
import math
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import safetensors
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from benthic.hub import files
from benthic.hub.files import (
    CONFIG_LIMIT,
    DEPTH_LIMIT,
    INDEX,
    HubError,
    open_file,
    parse_object,
    read_index,
    read_json,
    resolve,
)
from benthic.hub.safetensors import (
    ELEMENTS_LIMIT,
    HEADER_LIMIT,
    SINGLE,
    WIDTHS,
    Checkpoint,
    Shard,
    open_checkpoint,
    open_shard,
    read_header,
)

EXAMPLES = 100
DTYPES = [
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32, torch.uint32),
    *(torch.int64, torch.uint64, torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu),
]
BASE = {
    "__metadata__": {"format": "pt"},
    "model.embed.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "model.empty": {"dtype": "I64", "shape": [0, 7], "data_offsets": [24, 24]},
    "model.norm.weight": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
    "scalar": {"dtype": "U8", "shape": [], "data_offsets": [32, 33]},
}
DATA = bytes(range(33))


def packed(header: Any, data: bytes = DATA, *, length: int | None = None) -> bytes:
    """A file of the format; `header` is JSON or its bytes, `length` a lie about them."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def changed(**edits: Any) -> bytes:
    """BASE with the fields of `scalar` replaced."""
    return packed(BASE | {"scalar": BASE["scalar"] | edits})


def put(folder: Path, content: bytes, name: str = SINGLE) -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def put_index(folder: Path, where: Any, **more: Any) -> None:
    put(folder, json.dumps({"weight_map": where, **more}).encode(), INDEX)


def two_shards(folder: Path) -> dict[str, str]:
    """Shards a (x, y) and b (z), and the index that fits."""
    one = {"dtype": "U8", "shape": [1]}
    first = {"x": one | {"data_offsets": [0, 1]}, "y": one | {"data_offsets": [1, 2]}}
    put(folder, packed(first, b"12"), "a.safetensors")
    put(folder, packed({"z": one | {"data_offsets": [0, 1]}}, b"3"), "b.safetensors")
    where = {"x": "a.safetensors", "y": "a.safetensors", "z": "b.safetensors"}
    put_index(folder, where)
    return where


def attempt(folder: Path) -> Checkpoint | None:
    """What opens is consistent and just what the format's library reads; else HubError."""
    checkpoint, refusal = None, ""
    try:
        checkpoint = open_checkpoint(folder)
    except HubError as error:
        refusal = str(error)
    assert refusal.isprintable()  # whatever the folder says, the terminal is safe
    if checkpoint is None:
        return None
    for shard in checkpoint.shards:
        check_consistent(shard)
        check_as_library(shard)
    assert len(checkpoint.entries) == sum(len(shard.entries) for shard in checkpoint.shards)
    return checkpoint


def check_consistent(shard: Shard) -> None:
    content = shard.path.read_bytes()
    reach = 8 + int.from_bytes(content[:8], "little")
    for entry in sorted(shard.entries.values(), key=lambda e: (e.start, e.end)):
        assert entry.start == reach
        assert entry.nbytes == entry.elements * WIDTHS[entry.dtype]
        reach = entry.end
    assert reach == shard.size == len(content)


def check_as_library(shard: Shard) -> None:
    content = shard.path.read_bytes()
    read = dict(safetensors.deserialize(content))
    assert read.keys() == shard.entries.keys()
    for name, entry in shard.entries.items():
        assert read[name]["dtype"] == entry.dtype
        assert tuple(read[name]["shape"]) == entry.shape
        assert bytes(read[name]["data"]) == content[entry.start : entry.end]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that every example writes over."""
    return tmp_path_factory.mktemp("checkpoint")


clean = st.characters(exclude_categories=["C", "Z"])
names = st.text(clean, min_size=1, max_size=40).filter(lambda name: name != "__metadata__")
shapes = st.lists(st.integers(0, 4), max_size=4)


@settings(max_examples=EXAMPLES)
@given(
    # At least one: metadata alone the library writes as no JSON, and does not read back either.
    st.dictionaries(names, st.tuples(st.sampled_from(DTYPES), shapes), min_size=1, max_size=8),
    st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.just("\n\x00"))
    | st.none(),
)
def test_what_the_library_writes_is_read_alike(
    scratch: Path, made: dict[str, Any], metadata: dict[str, str] | None
) -> None:
    tensors = {name: torch.zeros(shape, dtype=dtype) for name, (dtype, shape) in made.items()}
    save_file(tensors, scratch / SINGLE, metadata=metadata)
    checkpoint = attempt(scratch)
    assert checkpoint is not None and checkpoint.entries.keys() == made.keys()
    assert checkpoint.shards[0].metadata == (metadata or {})
    for name, (shard, entry) in checkpoint.entries.items():
        assert entry.shape == tuple(made[name][1]) and entry.elements == tensors[name].numel()
        assert shard.size == (scratch / SINGLE).stat().st_size


def test_every_cut_is_refused(scratch: Path) -> None:
    whole = packed(BASE)
    rng, end = Random(0), len(whole) - len(DATA)
    cuts = {*range(0, end, 64), *range(17), *range(end - 8, len(whole)), *range(1, end, 7)}
    for cut in cuts | {rng.randrange(len(whole)) for _ in range(40)}:
        put(scratch, whole[:cut])
        with pytest.raises(HubError, match=str(scratch / SINGLE)):
            open_checkpoint(scratch)
    put(scratch, whole + b"\0")
    with pytest.raises(HubError, match=r"end at byte \d+ .*'scalar'"):
        open_checkpoint(scratch)
    put(scratch, whole)
    assert attempt(scratch) is not None


@settings(max_examples=3 * EXAMPLES)
@given(
    st.lists(
        st.tuples(
            st.floats(0, 1, exclude_max=True),
            st.sampled_from(b'0123456789-+.eE"[]{},:\\ \n\0\xffFIUBN') | st.integers(0, 255),
            st.sampled_from(["set", "insert", "delete"]),
        ),
        min_size=1,
        max_size=4,
    )
)
@example([(0.0, 0, "set")])
def test_bytes_at_random_are_refused_or_read_alike(scratch: Path, edits: list[Any]) -> None:
    content = bytearray(packed(BASE))
    for where, byte, kind in edits:
        at = int(where * len(content))
        content[at : at + (kind != "insert")] = b"" if kind == "delete" else bytes([byte])
    put(scratch, bytes(content))
    attempt(scratch)


@settings(max_examples=EXAMPLES)
@given(st.integers(0, 2**64 - 1) | st.integers(0, 600))
def test_a_length_that_lies_is_refused(scratch: Path, length: int) -> None:
    text = json.dumps(BASE).encode()
    put(scratch, packed(text, length=length))
    assert (attempt(scratch) is not None) == (length == len(text))


@settings(max_examples=2 * EXAMPLES)
@given(
    st.lists(st.tuples(st.sampled_from(sorted(WIDTHS)), shapes), min_size=1, max_size=5),
    st.sampled_from(["none", "order", "start", "end", "shape", "dtype", "drop", "data"]),
    st.integers(-2, 2),
    st.randoms(use_true_random=False),
)
def test_layouts_are_read_just_where_the_library_reads_them(
    scratch: Path, made: list[Any], fault: str, step: int, rng: Random
) -> None:
    reach, tree = 0, {}
    for i, (dtype, shape) in enumerate(made):
        end = reach + math.prod(shape) * WIDTHS[dtype]
        tree[f"t{i}"] = {"dtype": dtype, "shape": list(shape), "data_offsets": [reach, end]}
        reach = end
    name = rng.choice(list(tree))
    if fault == "order":
        tree = dict(rng.sample(list(tree.items()), len(tree)))
    elif fault in ("start", "end"):
        tree[name]["data_offsets"][fault == "end"] += step
    elif fault == "shape":
        tree[name]["shape"].append(abs(step))
    elif fault == "dtype":
        tree[name]["dtype"] = rng.choice(sorted(WIDTHS))
    elif fault == "drop":
        del tree[name]
    elif fault == "data":
        reach = max(0, reach + step)
    path = put(scratch, packed(tree, bytes(reach)))
    try:
        safetensors.deserialize(path.read_bytes())
        accepted = True
    except safetensors.SafetensorError:
        accepted = False
    assert (attempt(scratch) is not None) == accepted
    assert accepted or fault not in ("none", "order")


numbers = st.integers() | st.integers(-2, 40) | st.sampled_from([2**32, 2**63, 2**64, 10**120])
leaves = st.none() | st.booleans() | numbers | st.floats() | st.text(max_size=5)
trees = st.recursive(
    leaves,
    lambda t: st.lists(t, max_size=4) | st.dictionaries(st.text(max_size=5), t, max_size=4),
    max_leaves=6,
)
infos = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from([*WIDTHS, "F4", "C64", "f32"]) | trees,
        "shape": st.lists(numbers, max_size=9) | trees,
        "data_offsets": st.lists(numbers, max_size=3) | st.just([33, 33]) | trees,
    },
    optional={"more": leaves},
)


@settings(max_examples=EXAMPLES)
@given(
    st.dictionaries(
        st.sampled_from([*BASE, "", "new", "a\x1b"]) | st.text(), infos | trees, max_size=3
    ),
    st.binary(max_size=8),
)
def test_headers_of_any_structure_are_refused_or_read_alike(
    scratch: Path, tree: dict[str, Any], more: bytes
) -> None:
    put(scratch, packed(BASE | tree, DATA + more))
    attempt(scratch)


shard_names = st.sampled_from(["a.safetensors", "b.safetensors", "../a.safetensors", "c"])
maps = st.dictionaries(st.sampled_from(["x", "y", "z", "w"]), shard_names | leaves)


@settings(max_examples=2 * EXAMPLES)
@given(
    st.tuples(maps | trees, st.booleans()),
    st.dictionaries(st.sampled_from(["metadata", "weight_map"]), trees, max_size=1),
)
@example(({}, True), {})
def test_indexes_of_any_structure_are_refused_or_agree(
    scratch: Path, edits: tuple[Any, bool], more: dict[str, Any]
) -> None:
    folder = scratch / "sharded"
    folder.mkdir(exist_ok=True)
    right = two_shards(folder)
    where, merged = edits
    put_index(folder, right | where if merged and isinstance(where, dict) else where, **more)
    checkpoint = attempt(folder)
    if checkpoint is not None:
        index = read_index(folder)
        assert index is not None
        assert index.where == {n: name for n, name in right.items() if name in index.shards}
        assert {n: s.path.name for n, (s, _) in checkpoint.entries.items()} == index.where


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (changed(dtype="F4"), "'scalar' should have a dtype among .*BF16.*, and has 'F4'"),
        (changed(dtype=["U8"]), "a dtype among"),
        (changed(shape=2), "a shape of at most 8 numbers, and has 2"),
        (changed(shape=[1] * 9), "a shape of at most 8 numbers"),
        (changed(shape=[True]), r"integers from 0 on, and has \[True\]"),
        (changed(shape=[1.0]), r"integers from 0 on, and has \[1.0\]"),
        (changed(shape=[-1]), r"integers from 0 on, and has \[-1\]"),
        (changed(shape=[2]), r"2 bytes for U8 \[2\], and has 1"),
        (changed(shape=[0]), r"0 bytes for U8 \[0\], and has 1"),
        (changed(shape=[ELEMENTS_LIMIT, 2]), f"at most {ELEMENTS_LIMIT} elements"),
        (changed(shape=[0, 2**40, 2**40], data_offsets=[33, 33]), "elements"),
        (changed(data_offsets=[32]), "two integers as data_offsets"),
        (changed(data_offsets=[32, True]), "two integers as data_offsets"),
        (changed(data_offsets=[32, 33.0]), "two integers as data_offsets"),
        (changed(data_offsets=[33, 32]), r"in order between 0 and 33, and has \[33, 32\]"),
        (changed(data_offsets=[-1, 0]), "in order between 0 and 33"),
        (changed(data_offsets=[33, 34]), "in order between 0 and 33"),
        (changed(data_offsets=[31, 32]), "'scalar' should .* begin at 32, where 'model.norm"),
        (changed(more=1), "exactly dtype, shape and data_offsets"),
        (packed({"a": {"dtype": "U8", "shape": [0]}}, b""), "exactly dtype, shape and"),
        (packed({"a": 3}, b""), "'a' should have exactly .* and has 3"),
        (packed({}), "end at byte 10 with the header, and has 43 bytes"),
        (packed(b"[]", b""), r"begin with b'\[\]'"),
        (packed(b" {}", b""), r"begin with b' \{\}'"),
        (packed(b"", b""), "begin with b''"),
        (packed(b'{"a":1,"a":1}', b""), "key 'a' is there twice"),
        (packed(b'{"\xff":1}', b""), "utf-8"),
        (packed({"__metadata__": {"a": 1}}, b""), "strings to strings"),
        (packed({"__metadata__": None}, b""), "strings to strings"),
        (packed({"__metadata__": {"a": "\ud800"}}, b""), "surrogates"),
        (packed({"": 1}, b""), "1 to 512 characters"),
        (packed({"a" * 513: 1}, b""), "of 513"),
        (packed({"a\x1b[2J": 1}, b""), r"has 'a\\x1b\[2J'"),
        (packed({"\u202e": 1}, b""), "without controls"),
        (packed({"\u00e9\u202e": 1}, b""), "without controls"),
        (packed(b'{"a":{"dtype":"U8","shape":[-0],"data_offsets":[0,0]}}', b""), "-0"),
        (b"", "has 0 bytes in all"),
        (b"1234567", "has 7 bytes in all"),
        (packed({}, b"", length=3), "header of 3 bytes by its first 8, and has 10 bytes in all"),
        (packed({}, length=2**60), "header of 1152921504606846976 bytes"),
    ],
)
def test_a_header_at_fault_is_refused_in_a_sentence(
    tmp_path: Path, content: bytes, sentence: str
) -> None:
    path = put(tmp_path, content)
    with pytest.raises(HubError, match=sentence) as caught:
        read_header(path)
    assert str(caught.value).startswith(str(path)) and str(caught.value).isprintable()
    assert ": " in str(caught.value).removeprefix(str(path)) and len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("spans", "kind"),
    [([(0, 4), (2, 6)], "begin at 4"), ([(0, 4), (5, 9)], "begin at 4"), ([(1, 5)], "begin at 0")],
)
def test_overlaps_and_holes_are_refused(
    tmp_path: Path, spans: list[tuple[int, int]], kind: str
) -> None:
    tree = {str(i): {"dtype": "F32", "shape": [1], "data_offsets": s} for i, s in enumerate(spans)}
    with pytest.raises(HubError, match=kind):
        read_header(put(tmp_path, packed(tree, bytes(spans[-1][1]))))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"a":NaN}', "'NaN' is no finite number"),
        ('{"a":-Infinity}', "no finite number"),
        ('{"a":1e999}', "no finite number"),
        ('{"a":%s}' % ("1" * 101), "more than 100 digits"),
        ('{"a":%s}' % ("1" * 100_000), "more than 100 digits"),
        ('{"a":{"b":1,"c":2,"b":1}}', "key 'b' is there twice"),
        ('{"a":"\\ud800"}', "surrogates"),
        ("\ufeff{}", "BOM"),
        ("[1]", r"should hold a JSON object, and holds \[1\]"),
        ("{", "Expecting"),
        ("", "Expecting value"),
        ('{"a":' + "[" * DEPTH_LIMIT + "]" * DEPTH_LIMIT + "}", "more than 64 deep"),
        ('{"a":' + '["]",' * 100 + "0" + "]" * 100 + "}", "more than 64 deep"),
        ('{"a":' + '["\\\\\\"]",' * 100 + "0" + "]" * 100 + "}", "more than 64 deep"),
    ],
)
def test_json_at_fault_is_refused_in_a_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    path = put(tmp_path, text.encode(), "config.json")
    with pytest.raises(HubError, match=sentence) as caught:
        read_json(path, limit=CONFIG_LIMIT)
    assert str(caught.value).startswith(f"{path} ") and len(str(caught.value)) < 400


knotty = st.text('[]{}\\",:-01e\u00e9', max_size=99)
sound = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(-1, 1) | knotty,
    lambda t: st.lists(t) | st.dictionaries(knotty, t),
    max_leaves=10,
)


@settings(max_examples=EXAMPLES)
@given(st.dictionaries(knotty, sound, max_size=5), st.booleans())
def test_json_that_is_sound_is_read_as_it_is(tree: dict[str, Any], ascii_only: bool) -> None:
    text = json.dumps(tree, ensure_ascii=ascii_only).encode()
    assert parse_object(Path("x"), text) == tree


def test_the_end_of_the_parsers_stack_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "DEPTH_LIMIT", 10**6)
    with pytest.raises(HubError, match="no JSON that can be read"):
        parse_object(Path("x"), b'{"a":' + b"[" * 10**5 + b"]" * 10**5 + b"}")


def test_json_up_to_the_limits_is_read(tmp_path: Path) -> None:
    deep = '{"a":' + "[" * (DEPTH_LIMIT - 1) + "]" * (DEPTH_LIMIT - 1) + "}"
    assert read_json(put(tmp_path, deep.encode(), "deep.json"), limit=len(deep))
    with pytest.raises(HubError, match=f"has {len(deep)} bytes, and at most {len(deep) - 1}"):
        read_json(tmp_path / "deep.json", limit=len(deep) - 1)
    odd = {
        "max": 10**30,
        "eps": -0.5,
        "text": "-0, " + "[" * 100,
        "pair": "\U0001f600",
        "zero": -0.0,
    }
    assert read_json(put(tmp_path, json.dumps(odd).encode(), "odd.json"), limit=1000) == odd


def test_giants_cost_nothing(tmp_path: Path) -> None:
    sparse = put(tmp_path, b"{", "config.json")
    os.truncate(sparse, 2 * 2**30)
    giant = put(tmp_path, packed({}, length=HEADER_LIMIT + 1))
    os.truncate(giant, 2 * 2**30)
    deep = put(tmp_path, packed(b'{"a":' + b"[" * 2**20, b""), "deep.safetensors")
    tracemalloc.start()
    try:
        with pytest.raises(HubError, match="2147483648 bytes"):
            read_json(sparse, limit=CONFIG_LIMIT)
        with pytest.raises(HubError, match="split the checkpoint"):
            read_header(giant)
        with pytest.raises(HubError, match="2305843009213693952"):
            read_header(put(tmp_path, packed(b"{}", length=2**61), "lie.safetensors"))
        assert tracemalloc.get_traced_memory()[1] < 2**20
        with pytest.raises(HubError, match="more than 64 deep"):
            read_header(deep)
        assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
    finally:
        tracemalloc.stop()


def test_many_keys_of_which_one_is_doubled_take_no_ages() -> None:
    keys = ",".join(f'"{i}":0' for i in range(50_000))
    with pytest.raises(HubError, match="'49999' is there twice"):
        parse_object(Path("x"), f'{{{keys},"49999":0}}'.encode())


@pytest.mark.parametrize("kind", ["folder", "pipe", "link to a pipe", "link"])
def test_only_regular_files_are_opened(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / SINGLE
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to(put(tmp_path, packed(BASE), "other"))
        assert attempt(tmp_path) is not None
    else:
        os.mkfifo(tmp_path / "pipe")
        path.symlink_to("pipe")
    if kind != "link":
        for refuse in (resolve, lambda folder, name: open_checkpoint(folder)):
            with pytest.raises(HubError, match="no regular file"):
                refuse(tmp_path, SINGLE)
    # The file may become something else after `resolve` has looked at it.
    monkeypatch.setattr(files, "resolve", lambda folder, name: folder / name)
    with pytest.raises(HubError, match=r"no regular file|cannot be read"):
        open_file(path)


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="a file of Linux")
def test_a_file_that_fails_while_it_is_read_is_refused() -> None:
    with pytest.raises(HubError, match="check its disk"):
        read_json(Path("/proc/self/mem"), limit=CONFIG_LIMIT)


def test_a_device_is_refused() -> None:
    with pytest.raises(HubError, match="no regular file"):
        read_json(Path("/dev/zero"), limit=CONFIG_LIMIT)


def test_links_are_followed_inside_the_folder_and_into_its_cache(tmp_path: Path) -> None:
    cache = tmp_path / "models--a--b"
    folder = cache / "snapshots" / "0123"
    folder.mkdir(parents=True)
    (cache / "blobs").mkdir()
    blob = put(cache / "blobs", packed(BASE), "f00d")
    (folder / SINGLE).symlink_to("../../blobs/f00d")
    (folder / "again").symlink_to(SINGLE)
    assert resolve(folder, SINGLE) == resolve(folder, "again") == blob.resolve()
    (tmp_path / "main").symlink_to(folder)
    for way in (folder, tmp_path / "main"):
        checkpoint = attempt(way)
        assert checkpoint is not None and checkpoint.shards[0].path == way / SINGLE
    put(folder, b"{}", "own.json")
    (folder / "config.json").symlink_to("own.json")
    assert read_json(folder / "config.json", limit=9) == {}


def make_outside(root: Path, cache: Path, folder: Path) -> str:
    put(root, b"{}", "secret")
    return "../../../secret"


def make_hop(root: Path, cache: Path, folder: Path) -> str:
    (cache / "blobs" / "hop").symlink_to(put(root, b"{}", "secret"))
    return "../../blobs/hop"


def make_below(root: Path, cache: Path, folder: Path) -> str:
    (cache / "blobs" / "sub").mkdir()
    put(cache / "blobs" / "sub", b"{}", "f00d")
    return "../../blobs/sub/f00d"


def make_neighbour(root: Path, cache: Path, folder: Path) -> str:
    (root / "models--c--d" / "blobs").mkdir(parents=True)
    put(root / "models--c--d" / "blobs", b"{}", "f00d")
    return "../../../models--c--d/blobs/f00d"


def make_loop(root: Path, cache: Path, folder: Path) -> str:
    return "config.json"


def make_dangling(root: Path, cache: Path, folder: Path) -> str:
    return "../../blobs/none"


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (make_outside, r"is a link to '../../../secret', outside its folder"),
        (make_hop, "is a link to '../../blobs/hop', outside its folder"),
        (make_below, "outside its folder"),
        (make_neighbour, "outside its folder"),
        (make_loop, "cannot be read"),
        (make_dangling, r"a link to '../../blobs/none'\) is missing"),
    ],
)
def test_other_links_are_refused(
    tmp_path: Path, make: Callable[[Path, Path, Path], str], sentence: str
) -> None:
    cache = tmp_path / "models--a--b"
    folder = cache / "snapshots" / "0123"
    folder.mkdir(parents=True)
    (cache / "blobs").mkdir()
    (folder / "config.json").symlink_to(make(tmp_path, cache, folder))
    with pytest.raises(HubError, match=sentence):
        read_json(folder / "config.json", limit=CONFIG_LIMIT)


@pytest.mark.parametrize("home", ["mine/snapshots", "models--a--b/refs"])
def test_blobs_count_only_in_the_caches_layout(tmp_path: Path, home: str) -> None:
    folder = tmp_path / home / "0123"
    folder.mkdir(parents=True)
    blobs = folder.parent.parent / "blobs"
    blobs.mkdir()
    put(blobs, b"{}", "f00d")
    (folder / "config.json").symlink_to("../../blobs/f00d")
    with pytest.raises(HubError, match="outside its folder"):
        resolve(folder, "config.json")


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "/etc/passwd", "a/b", "..\\a", "a\\b", "c:a", "a\0", "a\n", "a\x1b[2J"),
        *("../a", "\ud800", "a" * 252 + "\u00e9\u00e9"),
    ],
)
def test_names_with_a_way_out_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(HubError, match="plain file name") as caught:
        resolve(tmp_path, name)
    assert str(caught.value).isprintable()
    put_index(tmp_path, {"x": f"{name}.safetensors" if name not in ("", ".") else f"{name}/"})
    with pytest.raises(HubError, match=r"plain file name|surrogates"):
        read_index(tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(HubError, match=r"config\.json is missing: fetch"):
        resolve(tmp_path, "config.json")
    with pytest.raises(HubError, match="cannot be read"):
        resolve(put(tmp_path, b"", "file"), "config.json")


def test_shards_open_by_their_index_even_beside_a_single_file(tmp_path: Path) -> None:
    where = two_shards(tmp_path)
    put_index(tmp_path, where, metadata={"total_size": 3})
    put(tmp_path, b"no checkpoint at all")
    checkpoint = attempt(tmp_path)
    assert checkpoint is not None
    assert [shard.path.name for shard in checkpoint.shards] == ["a.safetensors", "b.safetensors"]
    assert {n: shard.path.name for n, (shard, _) in checkpoint.entries.items()} == where
    index = read_index(tmp_path)
    assert index is not None and index.shards == ("a.safetensors", "b.safetensors")
    assert index.where == where and index.total_size == 3


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        ({"z": "a.safetensors"}, "a.safetensors lacks the tensor 'z', which .* puts there"),
        ({"y": "b.safetensors"}, r"a\.safetensors holds the tensor 'y', which .* b\.safetensors"),
        ({"y": None}, "a.safetensors holds the tensor 'y', which .* does not name"),
        ({"w": "b.safetensors"}, "b.safetensors lacks the tensor 'w', which .* puts there"),
        ({"w": "c.safetensors", "v": "d.safetensors"}, "lacks 2 of the 4 files .* c.safetensors"),
        ({"w": "b.bin"}, "'b.bin', and only .safetensors"),
        ({"w\n": "b.safetensors"}, "without controls"),
        ({"w": 3}, "under 'weight_map'"),
    ],
)
def test_index_and_headers_must_agree(tmp_path: Path, edit: dict[str, Any], sentence: str) -> None:
    where = two_shards(tmp_path) | edit
    if None in where.values():
        where = {name: shard for name, shard in where.items() if shard is not None}
    put_index(tmp_path, where)
    with pytest.raises(HubError, match=sentence):
        open_checkpoint(tmp_path)


def test_a_tensor_doubled_in_two_shards_is_refused(tmp_path: Path) -> None:
    two_shards(tmp_path)
    put(tmp_path, (tmp_path / "a.safetensors").read_bytes(), "b.safetensors")
    put_index(tmp_path, {"x": "a.safetensors", "y": "a.safetensors", "z": "b.safetensors"})
    with pytest.raises(HubError, match=r"b\.safetensors holds .* 'x', which .* puts in a\.safe"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("where", [None, {}, [], "a.safetensors"])
def test_an_index_without_a_map_is_refused(tmp_path: Path, where: Any) -> None:
    put_index(tmp_path, where)
    with pytest.raises(HubError, match="under 'weight_map'"):
        read_index(tmp_path)


@pytest.mark.parametrize(
    ("total", "read"), [(3, 3), (3.0, 3), (None, None), (-1, ""), ("3", ""), (True, ""), (0.5, "")]
)
def test_the_total_size_is_a_count_or_not_there(tmp_path: Path, total: Any, read: Any) -> None:
    put_index(tmp_path, {"x": "a.safetensors"}, metadata={"total_size": total})
    if read == "":
        with pytest.raises(HubError, match="count of bytes as 'total_size'"):
            read_index(tmp_path)
    else:
        index = read_index(tmp_path)
        assert index is not None and index.total_size == read


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("pytorch_model.bin", "'pytorch_model.bin', and only safetensors .* run code.*save_pre"),
        ("consolidated.00.pth", "pickles run code"),
        ("model.pt", "pickles run code"),
        ("model-q8.gguf", "only safetensors are read"),
        ("model-00001-of-00002.safetensors", "fetch the index"),
        ("README.md", "holds neither"),
    ],
)
def test_a_folder_without_safetensors_says_what_to_do(
    tmp_path: Path, name: str, sentence: str
) -> None:
    put(tmp_path, b"", name)
    assert read_index(tmp_path) is None
    with pytest.raises(HubError, match=sentence):
        open_checkpoint(tmp_path)


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none", put(tmp_path, b"", "file")):
        with pytest.raises(HubError, match="give a checkpoint's folder"):
            open_checkpoint(path)


def test_a_shard_that_changed_is_not_opened(tmp_path: Path) -> None:
    shard = read_header(put(tmp_path, packed(BASE)))
    with open_shard(shard) as file:
        file.seek(shard.entries["scalar"].start)
        assert file.read() == DATA[32:]
    put(tmp_path, packed(BASE) + b"\0")
    with pytest.raises(HubError, match=f"had {shard.size} bytes .* has {shard.size + 1} now"):
        open_shard(shard)
