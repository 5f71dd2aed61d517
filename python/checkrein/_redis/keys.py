"""Names of keys: a prefix, and the digest of an identity as the hash tag, which puts it in one Cluster slot."""

from __future__ import annotations

import hashlib
import re
from typing import Any, Final

_PLAIN: Final = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.:/@-")
DIGITS: Final = 32
"""Hexadecimal digits of an identity's digest."""
_REMEMBERED: Final = 1_024
_SHORT: Final = 1_024
"""Characters of identities that are worth remembering."""


class Names:
    """The keys of one prefix: `PREFIX:{DIGEST}:KIND` for each kind."""

    def __init__(self, prefix: str | bytes, *kinds: str) -> None:
        self._prefix = _quoted(prefix)
        self._kinds = kinds
        # One for each kind, of its exact shape: another's key must not even be named, it may be no text.
        self.patterns = tuple(f"{self._prefix}:{{{'[0-9a-f]' * DIGITS}}}:{kind}" for kind in kinds)
        ours = "|".join(kinds)
        self._ours = re.compile(f"{re.escape(self._prefix)}:\\{{([0-9a-f]{{{DIGITS}}})\\}}:(?:{ours})")
        self.known: dict[Any, tuple[bytes, ...]] = {}

    def beside(self, key: str | bytes) -> tuple[bytes, ...]:
        """All keys of the identity that a key the server named belongs to; none for a key that is not ours."""
        text = key.decode("utf-8", "replace") if isinstance(key, bytes) else key
        found = self._ours.fullmatch(text)
        return self.at(found[1]) if found else ()

    def of(self, identity: Any, *parts: Any) -> tuple[bytes, ...]:
        """The keys of an identity with these parts, one of each kind; TypeError for parts that have no text."""
        keys = self.at(digest(parts))
        if sum(len(part) for part in parts if isinstance(part, str)) <= _SHORT:
            if len(self.known) >= _REMEMBERED:
                self.known.clear()
            self.known[identity] = keys
        return keys

    def tag(self, keys: tuple[bytes, ...]) -> str:
        """The digest in these keys."""
        start = len(self._prefix) + 2
        return keys[0][start : start + DIGITS].decode()

    def at(self, tag: str) -> tuple[bytes, ...]:
        """The keys with a digest."""
        return tuple(f"{self._prefix}:{{{tag}}}:{kind}".encode() for kind in self._kinds)


def _quoted(prefix: str | bytes) -> str:
    """Write a prefix so that it is no pattern, no hash tag and no other prefix's beginning."""
    if isinstance(prefix, str):
        prefix = prefix.encode("utf-8", "surrogatepass")
    elif not isinstance(prefix, bytes):
        raise TypeError(f"prefix must be text, got {type(prefix).__name__}")
    return "".join(chr(byte) if byte in _PLAIN else f"%{byte:02X}" for byte in prefix)


def digest(parts: tuple[Any, ...]) -> str:
    """The digest of an identity: of each part with its kind and length, so that no two identities are written alike."""
    written = bytearray()
    for part in parts:
        if isinstance(part, str):
            kind, data = b"s", str.encode(part, "utf-8", "surrogatepass")
        elif isinstance(part, int):
            kind, data = b"i", b"%d" % part
        elif part is None:
            kind, data = b"n", b""
        else:
            raise TypeError(f"a key in Redis needs text, got {type(part).__name__}")
        written += b"%b%d:%b" % (kind, len(data), data)
    return hashlib.sha256(written).hexdigest()[:DIGITS]
