"""Globs over the keys of one cache, as Redis reads them."""

import re

from pgonly_django.cache.entry import UNSTORABLE


def following(prefix: str) -> bytes:
    """Returns a key that sorts after all keys that begin with `prefix`."""
    return f"{prefix}\U0010ffff".encode()


def span(prefix: str) -> tuple[bytes, bytes]:
    """Returns the first key that may begin with `prefix`, and a key after all that do; an empty range if none can."""
    return (prefix.encode(), following(prefix)) if UNSTORABLE.search(prefix) is None else (b"", b"")


# The class is possessive: otherwise one without its "]" would be tried again from each of its characters.
_TOKEN = re.compile(r"\\.|\[\^?(?:\\.|[^]]-.|[^]])*+]?|.", re.DOTALL)
_MEMBER = re.compile(r"\\.|[^]]-.|[^]]", re.DOTALL)
_NEVER = "(?!)"


def as_regex(pattern: str) -> str:
    """Returns a glob (`*`, `?`, `[abc]`, `[^a-z]`, backslash escapes) as a POSIX regular expression. Every text is a
    glob: a class without "]", an empty class, and a range from z to a are read as Redis reads them. A glob with a
    character that no key has matches nothing.
    """
    if UNSTORABLE.search(pattern):
        return _NEVER
    return f"^{''.join(map(_translate, _TOKEN.findall(pattern)))}$"


def _translate(token: str) -> str:
    if token == "*":  # noqa: S105 - a piece of a pattern
        return ".*"
    if token == "?":  # noqa: S105 - a piece of a pattern
        return "."
    if token[0] != "[":
        return _literal(token[-1])
    negated = token.startswith("[^")
    members = "".join(map(_translate_member, _MEMBER.findall(token[1 + negated :])))
    if not members:
        return "." if negated else _NEVER
    return f"[{'^' if negated else ''}{members}]"


def _translate_member(member: str) -> str:
    """Translates a range, or one character."""
    is_range = len(member) == len("a-z")
    low, high = sorted(member[::2]) if is_range else (member[-1], member[-1])
    return f"{_literal(low)}-{_literal(high)}"


def _literal(character: str) -> str:
    return character if character.isalnum() or not character.isascii() else f"\\{character}"


def matching(namespace: str, pattern: str) -> tuple[bytes, bytes, bytes]:
    """Returns the range of the stored keys whose made key may match a glob, and the regular expression that decides."""
    start = namespace + literal_prefix(pattern)
    return start.encode(), following(start), as_regex(escape_glob(namespace) + pattern).encode()


def escape_glob(text: str) -> str:
    return re.sub(r"([\\*?\[\]])", r"\\\1", text)


def literal_prefix(pattern: str) -> str:
    """Returns the part of a glob before its first special or unstorable character, with which all its keys begin."""
    prefix = re.match("[^\\\\*?\\[\0\ud800-\udfff]*", pattern)
    return prefix.group() if prefix else ""
