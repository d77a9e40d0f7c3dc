"""Keys as they stand in the table: `<namespace>:<what Django made of the key>`, readable where they can be.

The namespace (LOCATION) has no ":" of its own, so one cache is one range of the primary key.
"""

from __future__ import annotations

import hashlib
import re
from urllib.parse import quote

LIMIT = 1000  # bytes; a btree page takes 2,704
_HEAD = 800
_MARK = "#sha256:"


def namespace(location: str) -> str:
    """LOCATION as the first part of every key of that cache."""
    return quote(location or "default", safe=" !#$&'()*+,/;=?@[]") + ":"


def stored(key: str) -> bytes:
    """`key` itself, or its readable head and a hash where PostgreSQL cannot hold or index it."""
    if len(key) <= LIMIT and key.isascii() and "\0" not in key and _MARK not in key:
        return key.encode()
    return _stored_unusual(key)


def _stored_unusual(key: str) -> bytes:
    raw = key.encode("utf-8", "surrogatepass")
    if len(raw) <= LIMIT and b"\0" not in raw and _MARK.encode() not in raw and _is_valid(raw):
        return raw
    head = raw[:_HEAD].decode("utf-8", "ignore").replace("\0", "?").replace(_MARK, "?")
    return f"{head}{_MARK}{hashlib.sha256(raw).hexdigest()}".encode()


def _is_valid(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def following(prefix: str) -> bytes:
    """A key after all that start with `prefix`."""
    return f"{prefix}\U0010ffff".encode()


def as_regex(pattern: str) -> str:
    """A glob (`*`, `?`, `[abc]`, `[^a-z]`, backslash escapes) as a POSIX regular expression."""
    parts = [_translate(token) for token in re.findall(r"\\.|\[\^?\]?[^\]]*\]|.", pattern, re.DOTALL)]
    return f"^{''.join(parts)}$"


def _translate(token: str) -> str:
    if token == "*":  # noqa: S105 - a piece of a pattern
        return ".*"
    if token == "?":  # noqa: S105 - a piece of a pattern
        return "."
    if len(token) > 1 and token[0] == "[":
        return _translate_set(token[1:-1])
    return _literal(token[-1])


def _translate_set(inside: str) -> str:
    negated = inside.startswith("^")
    members = inside[1:] if negated else inside
    escaped = re.sub(r"([\\\[\]^])", r"\\\1", re.sub(r"\\(.)", r"\1", members))
    return f"[{'^' if negated else ''}{escaped}]"


def _literal(character: str) -> str:
    return character if character.isalnum() or not character.isascii() else f"\\{character}"


def escape_glob(text: str) -> str:
    return re.sub(r"([\\*?\[\]])", r"\\\1", text)


def literal_prefix(pattern: str) -> str:
    """The part of a glob before its first special character: where its keys begin."""
    prefix = re.match(r"[^\\*?\[]*", pattern)
    return prefix.group() if prefix else ""
