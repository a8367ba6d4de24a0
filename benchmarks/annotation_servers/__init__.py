"""The annotation servers that ``benchmarks.annotators`` puts under the same load."""

from __future__ import annotations

from typing import NamedTuple


class Item(NamedTuple):
    """A comparison to judge: a request and two answers."""

    prompt: str
    a: str
    b: str
