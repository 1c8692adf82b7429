"""A command as it may be kept: what looks like a secret becomes ***.

Known by the name before it (--token, HF_TOKEN=, X-Api-Key:, ?sig=), by its place in an address
(https://user:password@host) or by its shape (hf_..., sk-..., AKIA..., a JSON web token). A secret
that only its position tells, like the third word of a program of one's own, cannot be seen.
"""

import re
import shlex
from collections.abc import Sequence

STARS = "***"
LONGEST = 4000
"""characters of a command that are kept"""

_ALWAYS = frozenset(
    ("password", "passwd", "passphrase", "pwd", "secret", "secrets", "credential", "credentials")
)
_OFTEN = frozenset(  # unless the value is a plain number
    (
        *("token", "auth", "authorization", "bearer", "apikey", "accesskey", "secretkey", "key"),
        *("signature", "sig", "cookie", "pat", "jwt"),
    )
)
_KEYS = frozenset(  # what makes a key of several words a secret: a sort-key is none
    ("api", "access", "secret", "private", "auth", "account", "encryption", "license", "ssh", "x")
)
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_USER = re.compile(r"(?i)((?<![a-z0-9+.-])[a-z][a-z0-9+.-]*://)([^\s/@:]*)(:[^\s/@]*)?@")
_PAIR = re.compile(
    r"(?P<name>(?<![\w.+-])[A-Za-z_+-][\w.+-]*)(?P<equals>\s*=\s*|:\s+)(?P<quote>[\"']?)(?P<value>[^\s\"'&;]+)"
)
_FLAG = re.compile(r"(?P<name>(?<!\S)--?[A-Za-z][\w.-]*)(?P<equals>\s+)(?P<value>[^\s\"'&;|-]\S*)")
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
            kept = _after(before, short) if before else mask_text(short)
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
    text = _PAIR.sub(_named, text)
    return _FLAG.sub(_named, text)


def _after(flag: str, word: str) -> str:
    """The word that follows a flag."""
    if flag in ("-u", "--user") and ":" in word and not word.startswith("-"):
        return f"{word.partition(':')[0]}:{STARS}"
    return STARS if not word.startswith("--") and _secret(flag, word) else mask_text(word)


def _userinfo(match: re.Match[str]) -> str:
    scheme, user, password = match.groups()
    if password is None and not scheme.lower().startswith("http"):
        return match.group()  # ssh://git@host
    return f"{scheme}{user}:{STARS}@" if password is not None else f"{scheme}{STARS}@"


def _named(match: re.Match[str]) -> str:
    found = match.groupdict()
    if not _secret(found["name"], found["value"]):
        return match.group()
    return f"{found['name']}{found['equals']}{found.get('quote') or ''}{STARS}"


def _secret(name: str, value: str) -> bool:
    """Whether what is called so is a secret: --hf-token is, --max-tokens and --sort-key are not."""
    words = [word.lower() for word in _WORD.findall(name)]
    if not words or words[-1] not in _ALWAYS | _OFTEN:
        return False
    if words[-1] == "key" and len(words) > 1 and not _KEYS & set(words[:-1]):
        return False
    return words[-1] in _ALWAYS or not re.fullmatch(r"[\d.,]{1,8}", value)
