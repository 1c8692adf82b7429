"""Chat templates: transformers' text, and nothing worse than a sentence from a hostile one."""

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benthic.data import template, tokenizer
from benthic.data.hub_tokenizer import byte_tokenizer, save_tokenizer
from benthic.data.template import R1_TEMPLATE, render
from benthic.data.tokenizer import SPECIALS, VOCABULARY
from benthic.hub.files import HubError

BOS, EOS, USER, ASSISTANT, *_ = SPECIALS
CHATML = """
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- for tool in tools %}
        {{- tool | tojson }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- elif messages[0].role != 'system' %}
    {{- '<|im_start|>system\\nYou help.<|im_end|>\\n' }}
{%- endif %}
{% for message in messages %}
    {% if message.role == "secret" %}{% continue %}{% endif %}
    {% set loud = namespace(text=message.content) %}
    {% if loop.last and message.role == 'user' %}
        {% set loud.text = loud.text.strip() ~ '!' %}
    {% endif %}
<|im_start|>{{ message.role + '\\n' + loud.text }}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
LLAMA = """
{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = strftime_now("%Y") %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = "" %}
{%- endif %}
<|start_header_id|>system<|end_header_id|>

Today: {{ date_string }}{% if documents is none and tools is none %} nothing{% endif %}

{{ system }}<|eot_id|>
{%- for message in messages %}
{% generation %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{% endgeneration %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
CHAT = [
    {"role": "system", "content": " Be brief. <b>'\u4e2d'</b>"},
    {"role": "user", "content": "2+2?\n"},
    {"role": "assistant", "content": "<think>carry</think>\n4"},
    {"role": "user", "content": " 3+3? "},
]
TOOL = {"type": "function", "function": {"name": "add", "description": "<sum> \u00e9"}}


def text(source: str, messages: list[dict[str, str]] | None = None, **extra: Any) -> str:
    return render(
        source,
        CHAT[1:2] if messages is None else messages,
        add_generation_prompt=True,
        bos_token=BOS,
        eos_token=EOS,
        **extra,
    )


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Any:
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("oracle")
    bytes_ = byte_tokenizer(SPECIALS, VOCABULARY)
    save_tokenizer(replace(bytes_, chat_template=R1_TEMPLATE), folder)
    return transformers.AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("source", [R1_TEMPLATE, CHATML, LLAMA], ids=["R1", "ChatML", "Llama"])
@pytest.mark.parametrize(
    ("messages", "extra"),
    [(CHAT, {"tools": [TOOL], "date_string": "26 Jul"}), (CHAT[1:], {}), (CHAT[1:2], {})],
    ids=["system and tools", "turns", "question"],
)
def test_text_is_transformers(
    source: str, messages: list[dict[str, str]], extra: dict[str, Any], oracle: Any
) -> None:
    theirs = oracle.apply_chat_template(
        messages,
        chat_template=source,
        add_generation_prompt=True,
        tokenize=False,
        **extra,
    )
    assert text(source, messages, **extra) == theirs


def test_no_prompt_is_added_unasked() -> None:
    done = render(R1_TEMPLATE, CHAT[1:3], add_generation_prompt=False, bos_token=BOS, eos_token=EOS)
    assert done == f"{BOS}{USER}2+2?\n{ASSISTANT}\n4{EOS}"


def test_r1s_form() -> None:
    system, question, answer, again = (message["content"] for message in CHAT)
    assert "carry" in answer
    assert text(R1_TEMPLATE, CHAT) == (
        f"{BOS}{system}{USER}{question}{ASSISTANT}\n4{EOS}{USER}{again}{ASSISTANT}"
    )


def test_a_question_is_benthics_prompt() -> None:
    """<bos> <User> question <Assistant>: the model writes `<think>` itself."""
    question = " 2+2? \u4e2d\n"
    asked = text(R1_TEMPLATE, [{"role": "user", "content": question}])
    ids = byte_tokenizer(SPECIALS, VOCABULARY).encode_with_specials(asked)
    begin, end = [tokenizer.BOS, tokenizer.USER], [tokenizer.ASSISTANT]
    assert ids == begin + tokenizer.encode(question) + end


def test_a_refusal_says_why() -> None:
    with pytest.raises(HubError, match=r"refuses these messages: 'a role is .*, not tool'"):
        text(R1_TEMPLATE, [{"role": "tool", "content": "4"}])
    with pytest.raises(HubError, match=r"refuses .*\\x1b\[31m") as refusal:
        text("{{ raise_exception('\x1b[31m' ~ 'x' * 9999) }}")
    assert len(str(refusal.value)) < 400


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{{ ''.__class__.__mro__ }}", "SecurityError"),
        ("{{ cycler.__init__.__globals__ }}", "SecurityError"),
        ("{{ '{0.__class__.__mro__}'.format(1) }}", "SecurityError"),
        ("{% include '/etc/passwd' %}", "no loader"),
        ("{{ 'a' * 10**10 }}", "MemoryError"),
        ("{{ '%099999999999d' % 1 }}", "fails"),
        ("{% for i in range(99999) %}aaaaaaaaaaaaaaaa{% endfor %}", "more than 1048576 characters"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        ("{% if 1 %}" * 9000, "fails"),
        ("{{ nothing.at.all }}", "UndefinedError"),
        ("{{ ", "TemplateSyntaxError"),
        (f"{{{{ {'(' * 60_000} }}}}", r"fails|ended with"),
        ("x" * (template.TEMPLATE_LIMIT + 1), "at most 262144 are read"),
    ],
)
def test_a_hostile_template_ends_in_a_sentence(source: str, words: str) -> None:
    with pytest.raises(HubError, match=words) as refusal:
        text(source)
    assert len(str(refusal.value)) < 500


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 10 ** (10 ** 10) }}",
    ],
)
def test_time_and_memory_are_bounded(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template, "SECONDS", 1.0)
    start = time.monotonic()
    with pytest.raises(HubError, match=r"stopped after 1 s|ended with|MemoryError"):
        text(source)
    assert time.monotonic() - start < 4


def test_the_clock_is_bounded_where_the_processor_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that waits, as on a disk, uses no processor time; so short a time is never enough."""
    monkeypatch.setattr(template, "SECONDS", 0.001)
    with pytest.raises(HubError, match=r"stopped after 0\.001 s"):
        text("x")


def test_the_processor_is_bounded_where_the_clock_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """A parent that is stopped itself cannot look at the clock; the child ends all the same."""
    pytest.importorskip("resource")
    run = subprocess.run

    def patient(command: list[str], **options: Any) -> Any:
        return run(command, **(options | {"timeout": 60}))

    monkeypatch.setattr(template, "SECONDS", 1.0)
    monkeypatch.setattr(template.subprocess, "run", patient)
    with pytest.raises(HubError, match="ended with signal"):
        text("{{ 10 ** (10 ** 10) }}")


def test_what_the_child_answers_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    long = '{"text": "' + "x" * (template.OUTPUT_LIMIT + 1) + '"}'
    for answer in ("", "[", "[]", '{"text": 3}', long, "[" * 100_000, '{"failed": null}'):
        monkeypatch.setattr(template, "_run", lambda _, answer=answer: answer.encode())
        with pytest.raises(HubError, match="no answer that can be read"):
            text("x")


def test_messages_are_bounded_and_plain() -> None:
    with pytest.raises(HubError, match="at most 4194304: shorten"):
        text("x", [{"role": "user", "content": "x" * (5 << 20)}])
    with pytest.raises(HubError, match="plain JSON"):
        text("x", thing=object())
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(HubError, match="plain JSON"):
        text("x", thing=loop)
    assert text("{{ messages[0].content }}", [{"role": "user", "content": "\ud800"}]) == "\ud800"


def test_nothing_is_imported_from_where_the_user_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Someone who stands in a checkpoint's folder must not run its Python."""
    for name in ("jinja2.py", "json.py", "benthic.py", "sitecustomize.py"):
        (tmp_path / name).write_text("raise SystemExit('run')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert text("{{ 1 + 1 }}") == "2"


def test_the_child_starts_light() -> None:
    code = "import sys, benthic.data.template, jinja2.sandbox, jinja2.ext; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    modules = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert "benthic.data.template" in modules
    assert not {"torch", "numpy", "tokenizers", "transformers", "safetensors"} & set(modules)
