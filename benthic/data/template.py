"""Chat templates: a checkpoint's Jinja program, run where it can do no harm.

A template is code from a stranger. Jinja's sandbox keeps it from Python's insides, but not from
looping or from filling the memory, so each rendering is a process of its own (`python -m
benthic.data.template`, some 0.1 s) with bounds on time, memory and output; whatever happens there,
the caller gets text or a HubError. The environment is transformers': trimmed blocks, loop controls,
`raise_exception`, `strftime_now`, a plain `tojson`, and the `generation` tag, without its mask.

What a message spells is text to the template too: encoded with specials, `<think>` typed by a user
is the token. R1_TEMPLATE is DeepSeek-R1's form for Benthic's own byte vocabulary.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from benthic.data.tokenizer import ASSISTANT, END_THINK, SPECIALS, USER
from benthic.hub.files import HubError, shown

TEMPLATE_LIMIT = 256 << 10  # bytes; the longest in use have some 20 KiB
REQUEST_LIMIT = 4 << 20  # bytes of messages and variables as JSON
OUTPUT_LIMIT = 1 << 20  # characters
SECONDS = 5.0
MEMORY = 1 << 30  # bytes of address space
_ANSWER_LIMIT = 16 * OUTPUT_LIMIT  # bytes; a character outside the BMP takes 12 in JSON
_PASSED_ON = ("TZ", "SYSTEMROOT", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME")

_QUESTION, _ANSWER, _THOUGHT = (SPECIALS[i - 256] for i in (USER, ASSISTANT, END_THINK))
R1_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{ message['content'] }}"
    "{% endif %}{% endfor %}"
    "{% for message in messages %}{% if message['role'] == 'user' %}"
    f"{_QUESTION}{{{{ message['content'] }}}}"
    "{% elif message['role'] == 'assistant' %}"
    f"{_ANSWER}{{{{ message['content'].split('{_THOUGHT}')[-1] }}}}{{{{ eos_token }}}}"
    "{% elif message['role'] != 'system' %}"
    "{{ raise_exception('a role is system, user or assistant, not ' ~ message['role']) }}"
    "{% endif %}{% endfor %}"
    f"{{% if add_generation_prompt %}}{_ANSWER}{{% endif %}}"
)


def render(
    template: str,
    messages: list[dict[str, str]],
    *,
    add_generation_prompt: bool,
    bos_token: str,
    eos_token: str,
    **extra: Any,
) -> str:
    """The text that `template` makes of `messages` (`role`, `content`, whatever else it reads).

    `extra` are further variables of the template, such as `tools`; `tools` and `documents` are None
    where not given. Raises HubError where the template refuses, fails or exceeds a limit.
    """
    size = len(template.encode("utf-8", "replace"))
    if size > TEMPLATE_LIMIT:
        raise HubError(f"the chat template has {size} bytes, and at most {TEMPLATE_LIMIT} are read")
    variables: dict[str, Any] = {
        "messages": messages,
        "add_generation_prompt": add_generation_prompt,
        "bos_token": bos_token,
        "eos_token": eos_token,
        "tools": None,
        "documents": None,
    }
    variables.update(extra)
    try:
        request = json.dumps({"template": template, "variables": variables}).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise HubError(f"messages and variables must be plain JSON values: {error}") from None
    if len(request) > REQUEST_LIMIT + TEMPLATE_LIMIT:
        raise HubError(
            f"{len(messages)} messages make {len(request)} bytes, and a chat template takes at "
            f"most {REQUEST_LIMIT}: shorten them"
        )
    return _outcome(_run(request))


def _run(request: bytes) -> bytes:
    """The child's answer: files carry both, so that neither side waits for the other."""
    with (
        tempfile.TemporaryFile() as asked,
        tempfile.TemporaryFile() as answered,
        tempfile.TemporaryFile() as complaint,
    ):
        asked.write(request)
        asked.seek(0)
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        environment["PYTHONPATH"] = str(Path(__file__).parents[2])
        # -P: nothing is imported from the folder that the caller happens to stand in.
        command = [sys.executable, "-P", "-m", "benthic.data.template", str(math.ceil(SECONDS))]
        try:
            code = subprocess.run(
                command,
                stdin=asked,
                stdout=answered,
                stderr=complaint,
                env=environment,
                timeout=SECONDS,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            raise HubError(
                f"the chat template was stopped after {SECONDS:g} s: it may loop; give a template "
                "of your own"
            ) from None
        if code:
            reason = f"signal {-code}" if code < 0 else _last_line(complaint) or f"status {code}"
            raise HubError(
                f"the chat template's process ended with {reason}; it has {SECONDS:g} s and "
                f"{MEMORY >> 20} MiB: give a template of your own"
            )
        answered.seek(0)
        return answered.read(_ANSWER_LIMIT + 1)


def _last_line(file: BinaryIO) -> str:
    file.seek(max(0, file.seek(0, os.SEEK_END) - 300))
    lines = file.read().decode("utf-8", "replace").split("\n")
    return shown(next((line for line in reversed(lines) if line.strip()), ""))


def _outcome(answer: bytes) -> str:
    try:
        tree = json.loads(answer[: _ANSWER_LIMIT + 1])
    except (ValueError, RecursionError):
        tree = None
    match tree:
        case {"text": str(text)} if len(text) <= OUTPUT_LIMIT:
            return text
        case {"refused": str(why)}:
            raise HubError(f"the chat template refuses these messages: {shown(why)}")
        case {"failed": str(why)}:
            raise HubError(f"the chat template fails on these messages: {shown(why)}")
    raise HubError("the chat template left no answer that can be read: give one of your own")


def _confine(seconds: int) -> None:
    """Bound this process, once and for all: hard limits are not raised again."""
    try:
        import resource
    except ImportError:  # Windows
        return
    for what, limit in (
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, _ANSWER_LIMIT),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(what)
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        try:
            resource.setrlimit(what, (limit, limit))
        except (ValueError, OSError):  # macOS does not bound address space
            continue


def _expand(template: str, variables: dict[str, Any]) -> dict[str, str]:
    """The child's work; Jinja is imported here, for the parent needs none."""
    import jinja2
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Refusal(jinja2.TemplateError):
        """The template's own raise_exception."""

    class Generation(Extension):
        """`{% generation %}` marks what the assistant wrote; its text is its body's."""

        tags = {"generation"}  # noqa: RUF012 - as the library declares it

        def parse(self, parser: Any) -> jinja2.nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.Scope(body, lineno=line)

    def raise_exception(message: object) -> None:
        raise Refusal(str(message))

    def tojson(
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        return json.dumps(
            value,
            ensure_ascii=ensure_ascii,
            indent=indent,
            separators=separators,
            sort_keys=sort_keys,
        )

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    parts: list[str] = []
    room = OUTPUT_LIMIT
    try:
        for part in environment.from_string(template).generate(variables):
            room -= len(part)
            if room < 0:
                return {"failed": f"it writes more than {OUTPUT_LIMIT} characters"}
            parts.append(part)
    except Refusal as error:
        return {"refused": str(error)[:300]}
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {str(error)[:300]}"}
    return {"text": "".join(parts)}


def main() -> None:
    """Read a request, answer it, and be gone."""
    _confine(int(sys.argv[1]))
    request = json.load(sys.stdin)
    json.dump(_expand(**request), sys.stdout)


if __name__ == "__main__":
    main()
