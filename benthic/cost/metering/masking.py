"""A command as it may be kept: what looks like a secret becomes ***.

Known by the name before it (--token, HF_TOKEN=, PGPASSWORD=, X-Api-Key:, "api_key":, ?sig=), by its
place in an address (https://user:password@host) or by its shape (hf_..., sk-..., AKIA..., a JSON
web token). In doubt it is masked: a --chunk-key is, a --sort-key is not. A secret that only its
position tells, like the third word of a program of one's own, cannot be seen.
"""

import re
import shlex
from collections.abc import Sequence

STARS = "***"
LONGEST = 4000
"""characters of a command that are kept"""

_ALWAYS = (  # endings of a name's last word: PGPASSWORD, --db-pass
    *("password", "passwd", "passphrase", "pass", "pwd", "secret", "secrets"),
    *("credential", "credentials"),
)
_HARMLESS = frozenset(("bypass", "compass", "trespass"))
_OFTEN = frozenset(  # last words, unless the value is a plain number
    ("auth", "authorization", "bearer", "key", "signature", "sig", "cookie", "pat", "jwt")
)
_JOINED = ("token", "apikey", "accesskey", "secretkey", "privatekey", "authkey")
_SAFE = frozenset(  # before key or token: names of columns, of an order, of what a tokenizer adds
    (
        *("sort", "group", "order", "join", "map", "index", "dict", "cache", "primary", "foreign"),
        *("partition", "public", "column", "field", "label", "text", "image", "audio", "prompt"),
        *("response", "chosen", "rejected", "input", "output", "target", "metric", "state"),
        *("pad", "eos", "bos", "unk", "sep", "cls", "mask", "stop", "special", "added", "extra"),
    )
)
_KINDS = ("api", "access", "secret", "private", "auth")
_HEADERS = ("authorization", "cookie")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_USER = re.compile(
    r"(?i)((?<![a-z0-9+.-])[a-z][a-z0-9+.-]*://)([^\s/:?#\"']*)"
    r"(:[^\s/\"']*(?=@)|:(?!\d{1,5}/)[^\s\"']*)?@"
)
_PAIR = re.compile(
    r"(?P<name>(?<![\w.+-])[A-Za-z_+-][\w.+-]*)"
    r"(?P<equals>[\\\"'\]]{0,3}\s*={1,2}\s*|\\?[\"']\s*:\s*|:\s+|:(?=[^\s/:]))"
)
_FLAG = re.compile(
    r"(?P<name>(?<![^\s\"'(\[,])--?[A-Za-z][\w.-]*)(?P<equals>[\"']\s*,\s*|\s+)(?!--|[|&;])"
)
_ENDS = r"(?=[\s,;&)}\]:|]|$)"  # what stands behind a quote that closes
_BARE = rf"(?:[^\s\"'&;\\]|\\(?![\"'])|[\"'](?!{_ENDS}))+"
_QUOTED = r"\\[\"'](?:(?!\\[\"']).)*(?:\\[\"']|$)|\"(?:\\.|[^\"\\])*(?:\"|$)|'[^']*(?:'|$)"
_VALUE = re.compile(rf"(?:{_QUOTED})(?:(?!{_ENDS}){_BARE})?|{_BARE}", re.DOTALL)
_REST = re.compile(r"[^\"'\\\n]+")
_NUMBER = re.compile(r"[\d.,]{1,8}[)}\]]*")
_SHAPE = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|sk-[\w-]{16,}|gh[pousr]_[A-Za-z0-9]{16,}|github_pat_\w{16,}"
    r"|glpat-[\w-]{16,}|xox[abprs]-[\w-]{10,}|A[KS]IA[A-Z0-9]{16}|AIza[\w-]{30,}|r8_\w{16,}"
    r"|nvapi-[\w-]{16,}|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*)"
)
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}")


def masked(command: Sequence[str]) -> str:
    """`command` as one line for a shell, secrets masked, cut to LONGEST characters."""
    words: list[str] = []
    before, length = "", 0
    for word in command:
        if length <= LONGEST:
            short = word[: LONGEST + 1]
            kept = _after(before, short) if before else _alone(short)
            words.append(kept if kept == STARS else shlex.quote(kept))
        length += len(word) + 1
        before = word if word.startswith("-") and "=" not in word else ""
    line = " ".join(words)
    if length <= LONGEST + 1 >= len(line):
        return line
    return f"{line[:LONGEST]}... ({length} characters)"


def mask_text(text: str) -> str:
    """`text` with all masked that looks like a secret, wherever it stands."""
    text = _USER.sub(_userinfo, text)
    text = _BEARER.sub(rf"\1 {STARS}", text)
    text = _SHAPE.sub(STARS, text)
    return _each(_FLAG, _each(_PAIR, text))


def _alone(word: str) -> str:
    """A word that is NAME=VALUE as a whole, blanks of the value included, or any other."""
    name, equals, value = word.partition("=")
    if equals and re.fullmatch(r"[+-]{0,2}[\w.+-]+", name) and _secret(name, value):
        return f"{name}={STARS}"
    return mask_text(word)


def _after(flag: str, word: str) -> str:
    """The word that follows a flag; that of sh -c is a script and no single value."""
    if flag in ("-u", "--user") and ":" in word and not word.startswith("-"):
        return f"{word.partition(':')[0]}:{STARS}"
    if not word.startswith("--") and _secret(flag, word):
        return STARS
    return mask_text(word) if flag.endswith("c") else _alone(word)


def _userinfo(match: re.Match[str]) -> str:
    scheme, user, password = match.groups()
    if password is None and not scheme.lower().startswith("http"):
        return match.group()  # ssh://git@host
    return f"{scheme}{user}:{STARS}@" if password is not None else f"{scheme}{STARS}@"


def _each(names: re.Pattern[str], text: str) -> str:
    """`text` with the secrets behind such names replaced; any other value is looked into."""
    parts, at, done = [], 0, 0
    while match := names.search(text, at):
        at = match.end()
        if found := _starred(match["name"], match["equals"], text, at):
            parts += [text[done:at], found[0]]
            at = done = found[1]
    return "".join([*parts, text[done:]])


def _starred(name: str, equals: str, text: str, at: int) -> tuple[str, int] | None:
    """What to write for the value that starts at `at`, and where it ends; None: as it stands."""
    rest = _REST.match(text, at)
    if rest and ":" in equals and name.lower().endswith(_HEADERS):  # a scheme and what it bears
        return f"{STARS} {STARS}" if " " in rest.group() else STARS, rest.end()
    match = _VALUE.match(text, at)
    if match is None:
        return None
    value, end = match.group(), match.end()
    user, colon, _ = value.partition(":")
    quote = next((q for q in ('\\"', "\\'", '"', "'") if value.startswith(q)), "")
    closed = quote if value.endswith(quote) and len(value) >= 2 * len(quote) else ""
    if name in ("-u", "--user") and colon:
        return f"{user}:{STARS}{closed}", end
    if not _secret(name, value[len(quote) : len(value) - len(closed)]):
        return None
    return f"{closed}{STARS}{closed}", end


def _secret(name: str, value: str) -> bool:
    """Whether what is called so is a secret: --hf-token is, --max-tokens and --sort-key are not."""
    words = [word.lower() for word in _WORD.findall(name)]
    while words and words[-1].isdigit():  # PASSWORD2
        words.pop()
    if not words:
        return False
    last, before = words[-1], words[-2] if len(words) > 1 else ""
    if (before or last.startswith(_KINDS)) and last.endswith(("keys", "tokens")):
        last = last[:-1]
    if last.endswith(_ALWAYS):
        return last not in _HARMLESS
    if (last not in _OFTEN and not last.endswith(_JOINED)) or before in _SAFE:
        return False
    return not _NUMBER.fullmatch(value)
