"""What nefia has to know of a tunnel's file (wg-quick(8), wg(8)); wg-quick itself reads all."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import IPv4Interface, IPv6Interface, ip_interface
from pathlib import Path
from typing import TypeAlias

from attrs import frozen

MAX_FILE_BYTES = 4 * 1024 * 1024
MAX_PEERS = 10_000

Interface: TypeAlias = IPv4Interface | IPv6Interface

FILE_NAME = re.compile(r"(?P<interface>[a-zA-Z0-9_=+.-]{1,15})\.conf")
"""Fifteen is the kernel's limit for the name of an interface."""

_OWN = (
    *("privatekey", "listenport", "fwmark", "address", "dns", "mtu", "table", "saveconfig"),
    *("preup", "postup", "predown", "postdown"),
)
_PEER = ("publickey", "presharedkey", "allowedips", "endpoint", "persistentkeepalive")
_KNOWN = {"[interface]": _OWN, "[peer]": _PEER}
_SECRETS = ("privatekey", "presharedkey")
_KEY = re.compile(r"[A-Za-z0-9+/]{43}=")
"""Base64 of 32 bytes."""
_WORD = re.compile("[a-z]{1,20}")
"""What is none may be a key that stands alone."""


@frozen(kw_only=True)
class HubPeer:
    """One [Peer]. `public_key` as in the file, base64."""

    public_key: str
    allowed_ips: tuple[Interface, ...] = ()
    has_endpoint: bool = False
    has_keepalive: bool = False


@frozen(kw_only=True)
class Hub:
    """The file of a tunnel. Hooks are lines of bash in which `%i` is the interface."""

    listen_port: int | None = None
    addresses: tuple[Interface, ...] = ()
    table: str = "auto"
    has_dns: bool = False
    saves_config: bool = False
    pre_down: tuple[str, ...] = ()
    post_down: tuple[str, ...] = ()
    peers: tuple[HubPeer, ...] = ()


def read_hub(path: Path) -> Hub:
    """Raises OSError, and ValueError with a sentence."""
    with path.open("rb") as file:
        content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise ValueError(f"is longer than {MAX_FILE_BYTES} bytes")
    return parse_hub(content.decode("utf-8", "replace"))


def parse_hub(text: str) -> Hub:
    """Raises ValueError with a sentence."""
    sections = list(_sections(text))
    for name, pairs in sections:
        _check(name, pairs)
    own = [pair for name, pairs in sections if name == "[interface]" for pair in pairs]
    peers = tuple(_peer(pairs) for name, pairs in sections if name == "[peer]")
    if len(peers) > MAX_PEERS:
        raise ValueError(f"has {len(peers)} peers; {MAX_PEERS} are the most")
    return Hub(
        listen_port=next((_port(value) for value in reversed(_all(own, "listenport"))), None),
        addresses=_networks(own, "address"),
        table=next(reversed(_all(own, "table")), "auto").lower(),
        has_dns=bool(_all(own, "dns")),
        saves_config="true" in _all(own, "saveconfig")[-1:],
        pre_down=tuple(_all(own, "predown")),
        post_down=tuple(_all(own, "postdown")),
        peers=peers,
    )


Pairs: TypeAlias = list[tuple[str, str]]


def _sections(text: str) -> Iterator[tuple[str, Pairs]]:
    """By wg-quick's own rules: `#` begins a comment anywhere, keys are case-insensitive."""
    name, pairs = "", Pairs()
    for line in text.splitlines():
        stripped = line.partition("#")[0].strip()
        if stripped.startswith("["):
            yield name, pairs
            name, pairs = stripped.lower(), []
        elif stripped:
            key, _, value = stripped.partition("=")
            pairs.append((key.strip().lower(), value.strip()))
    yield name, pairs


def _check(section: str, pairs: Pairs) -> None:
    """wg would show the line, or the key, that it does not understand, which may be a secret."""
    for name, value in pairs:
        if name not in _KNOWN.get(section, ()):
            what = f'"{name}"' if _WORD.fullmatch(name) else "a line"
            where = f"in {section[:20]}" if section else "before any section"
            raise ValueError(f"has {what} {where}, which neither wg nor wg-quick knows")
        if name in _SECRETS and not _KEY.fullmatch(value):
            raise ValueError(f"has a {name} that is no key: 44 characters of base64")


def _peer(pairs: Pairs) -> HubPeer:
    keepalive = _all(pairs, "persistentkeepalive")[-1:]
    return HubPeer(
        public_key=next(iter(_all(pairs, "publickey")), ""),
        allowed_ips=_networks(pairs, "allowedips"),
        has_endpoint=bool(_all(pairs, "endpoint")),
        has_keepalive=bool(keepalive) and keepalive[0].lower() not in ("off", "0"),
    )


def _all(pairs: Pairs, key: str) -> list[str]:
    return [value for name, value in pairs if name == key]


def _networks(pairs: Pairs, key: str) -> tuple[Interface, ...]:
    words = " ".join(_all(pairs, key)).replace(",", " ").split()
    return tuple(ip_interface(word) for word in words)


def _port(value: str) -> int:
    if not value.isdecimal() or not 1 <= int(value) <= 65535:
        raise ValueError(f'has "{value[:20]}" for a ListenPort; write one from 1 to 65535')
    return int(value)
