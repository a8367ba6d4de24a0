"""People at the HTTP forms, simulated: they see what a person sees and send what one sends.

Standard library and httpx only; no rows, no reward scores, no model names.
"""

from __future__ import annotations

import random
import time
from html.parser import HTMLParser
from typing import NamedTuple

import httpx

from demo.annotators import SimulatedAnnotator
from reward.preferences import Criterion

BLOCKS = {"p", "li", "br", "pre", "tr", "h1", "h2", "h3", "blockquote"}
VOID = {"br", "hr", "img", "input", "link", "meta"}
WHICH_ARE_SAFE = {
    (True, True): "both", (True, False): "left", (False, True): "right", (False, False): "neither",
}  # fmt: skip


class FormRefused(RuntimeError):
    """The platform did not accept what was sent."""


class ShownComparison(NamedTuple):
    """What stands on the judging page."""

    address: str  # where the judgement is sent
    prompt: str
    left: str
    right: str


class Visitor:
    """Someone signed in, with a browser's cookies."""

    def __init__(self, url: str, username: str, password: str) -> None:
        self.http = httpx.Client(base_url=url, follow_redirects=True, timeout=120, trust_env=False)
        self.http.get("/sign-in")
        page = self.post("/sign-in", {"username": username, "password": password})
        if page.url.path == "/sign-in":
            raise FormRefused(f"{username} could not sign in")

    def get(self, path: str) -> httpx.Response:
        return self.http.get(path).raise_for_status()

    def post(self, path: str, fields: dict[str, str]) -> httpx.Response:
        """Send a form. Raises FormRefused with the page's own sentence."""
        token = self.http.cookies.get("csrftoken") or ""
        page = self.http.post(path, data={**fields, "csrfmiddlewaretoken": token})
        if page.is_error:
            sentence = text_of(page.text, "main")
            raise FormRefused(f"{path} answered {page.status_code}: {sentence}")
        return page


def judge_batch(
    visitor: Visitor, criterion: Criterion, annotator: SimulatedAnnotator, rng: random.Random
) -> int:
    """Judge until the platform has nothing more for this annotator; returns how many."""
    judged = 0
    while (shown := read_comparison(visitor.get(f"/annotate/{criterion}").text)) is not None:
        started = time.monotonic()
        verdict = annotator.judge(criterion, shown.prompt, shown.left, shown.right, rng)
        fields = {
            "preference": f"{verdict.side}_{verdict.strength}",
            "active_seconds": f"{time.monotonic() - started:.1f}",
        }
        if criterion is Criterion.SAFETY:
            fields["safe"] = WHICH_ARE_SAFE[bool(verdict.left_safe), bool(verdict.right_safe)]
        visitor.post(shown.address, fields)
        judged += 1
    return judged


def read_comparison(page: str) -> ShownComparison | None:
    """The comparison on a judging page, or None where the page has none to judge."""
    reader = _PageReader()
    reader.feed(page)
    if reader.address is None:
        return None
    return ShownComparison(
        reader.address, reader.text("prompt"), reader.text("left"), reader.text("right")
    )


def text_of(page: str, tag: str) -> str:
    """The text inside the first element with this tag, in one line."""
    reader = _PageReader(also=tag)
    reader.feed(page)
    return " ".join(reader.text(tag).split())


class _PageReader(HTMLParser):
    """Collects the text of the elements marked ``data-part``, and the judgement form's address."""

    def __init__(self, also: str = "") -> None:
        super().__init__()
        self.address: str | None = None
        self._also = also
        self._open: list[str | None] = []
        self._parts: dict[str, list[str]] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "form" and found.get("id") == "judgement":
            self.address = found.get("action")
        if tag in BLOCKS:
            self.handle_data("\n")
        if tag not in VOID:
            self._open.append(found.get("data-part") or (tag if tag == self._also else None))

    def handle_endtag(self, tag: str) -> None:
        if self._open and tag not in VOID:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        part = next((name for name in reversed(self._open) if name), None)
        if part is not None:
            self._parts.setdefault(part, []).append(data)

    def text(self, part: str) -> str:
        return "".join(self._parts.get(part, [])).strip()
