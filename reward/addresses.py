"""Addresses of servers: they are shown and stored, so they hold no key. Standard library only."""

from __future__ import annotations

from urllib.parse import urlsplit


def refuse_odd_address(name: str, address: str, key_variable: str) -> None:
    """Raises ValueError for the setting ``name`` where its address is none, or holds a key, which
    is not shown then: ``key_variable`` names the environment variable for it."""
    if not {"@", "?", "#"}.isdisjoint(address):
        raise ValueError(f"{name} must hold no key: put it into {key_variable}")
    try:
        parts = urlsplit(address)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_address = False
    if not (is_address and address.isprintable()):
        raise ValueError(f"{name} is {address!r}, allowed is http:// or https:// and a host")
