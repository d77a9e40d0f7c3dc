"""Keys as they are in the table: `<namespace>:<what Django made of the key>`, readable where possible. Also globs.

The namespace (LOCATION) contains no ":", so one cache is one range of the primary key.
"""

import hashlib
import re
from collections.abc import Iterable
from urllib.parse import quote

from django.core.exceptions import ImproperlyConfigured

LIMIT = 1000  # bytes; a btree page takes 2,704
_HEAD = 800
_MARK = "#sha256:"


def namespace(location: str | None) -> str:
    """LOCATION as the first part of every key of that cache. Raises ImproperlyConfigured."""
    if location is not None and not isinstance(location, str):
        raise ImproperlyConfigured(f'LOCATION must be text such as "answers", got {location!r}.')
    return quote(location or "default", safe=" !#$&'()*+,/;=?@[]") + ":"


def stored(key: str) -> bytes:
    """`key` itself, or its readable head and a hash where PostgreSQL cannot hold or index it."""
    if len(key) <= LIMIT and key.isascii() and "\0" not in key and _MARK not in key:
        return key.encode()
    raw = key.encode("utf-8", "surrogatepass")
    if len(raw) <= LIMIT and _MARK not in key and _UNSTORABLE.search(key) is None:
        return raw
    head = raw[:_HEAD].decode("utf-8", "ignore").replace("\0", "?").replace(_MARK, "?")
    return f"{head}{_MARK}{hashlib.sha256(raw).hexdigest()}".encode()


def tag_names(tags: Iterable[str]) -> tuple[str, ...]:
    """The tags as given. TypeError for a single text, or each of its letters would be a tag."""
    if isinstance(tags, str):
        raise TypeError(f"tags must be a list of texts, got {tags!r}. Give [{tags!r}].")
    names = tuple(tags)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"A tag must be a text, got {name!r}.")
    return names


def following(prefix: str) -> bytes:
    """A key after all that start with `prefix`."""
    return f"{prefix}\U0010ffff".encode()


def span(prefix: str) -> tuple[bytes, bytes]:
    """The first key that may start with `prefix`, and one after all that do; an empty range if none can."""
    return (prefix.encode(), following(prefix)) if _UNSTORABLE.search(prefix) is None else (b"", b"")


# NUL and lone surrogates are in no stored key.
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
# Possessive, or a class without its "]" would be tried again from each of its characters.
_TOKEN = re.compile(r"\\.|\[\^?(?:\\.|[^]]-.|[^]])*+]?|.", re.DOTALL)
_MEMBER = re.compile(r"\\.|[^]]-.|[^]]", re.DOTALL)
_NEVER = "(?!)"


def as_regex(pattern: str) -> str:
    """A glob (`*`, `?`, `[abc]`, `[^a-z]`, backslash escapes) as a POSIX regular expression.

    Every text is a glob: a class without "]", an empty class, and a range from z to a are read as Redis reads them.
    """
    return f"^{''.join(map(_translate, _TOKEN.findall(pattern)))}$"


def _translate(token: str) -> str:
    if token == "*":  # noqa: S105 - a piece of a pattern
        return ".*"
    if token == "?":  # noqa: S105 - a piece of a pattern
        return "."
    if token[0] == "[":
        return _translate_class(token[1:])
    return _NEVER if _UNSTORABLE.match(token[-1]) else _literal(token[-1])


def _translate_class(inside: str) -> str:
    negated = inside.startswith("^")
    members = "".join(map(_translate_member, _MEMBER.findall(inside[negated:])))
    if not members:
        return "." if negated else _NEVER
    return f"[{'^' if negated else ''}{members}]"


def _translate_member(member: str) -> str:
    """A range, also of one character. Its ends are moved to characters that a key can hold."""
    is_range = len(member) == len("a-z")
    low, high = sorted(member[::2]) if is_range else (member[-1], member[-1])
    low = "\ue000" if "\ud800" <= low <= "\udfff" else max(low, "\x01")
    high = "\ud7ff" if "\ud800" <= high <= "\udfff" else high
    return f"{_literal(low)}-{_literal(high)}" if low <= high else ""


def _literal(character: str) -> str:
    return character if character.isalnum() or not character.isascii() else f"\\{character}"


def matching(namespace: str, pattern: str) -> tuple[bytes, bytes, bytes]:
    """The range of the stored keys whose made key may match a glob, and the regular expression that tells."""
    start = namespace + literal_prefix(pattern)
    return start.encode(), following(start), as_regex(escape_glob(namespace) + pattern).encode()


def escape_glob(text: str) -> str:
    return re.sub(r"([\\*?\[\]])", r"\\\1", text)


def literal_prefix(pattern: str) -> str:
    """The part of a glob before its first special or unstorable character: all its keys begin so."""
    prefix = re.match("[^\\\\*?\\[\0\ud800-\udfff]*", pattern)
    return prefix.group() if prefix else ""
