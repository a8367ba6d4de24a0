"""What of two answers is on the screen: in equal steps, so that speed is no cue."""

from __future__ import annotations

import re
from collections.abc import Iterable
from math import ceil

TICK_SECONDS = 0.05
CHARACTERS_PER_TICK = 20  # 400 in a second: faster than anybody reads, and a page in five seconds


class Pane:
    """What one model has said so far, and how much of it is shown.

    A model's name is never shown: as many characters are held back as a name may still need.
    """

    def __init__(self, names: Iterable[str]) -> None:
        known = sorted({name for name in names if name}, key=len, reverse=True)
        any_name = "|".join(map(re.escape, known)) or "(?!)"
        self.names = re.compile(rf"(?<!\w)(?:{any_name})(?!\w)", re.IGNORECASE)
        self.held_back = max(map(len, known), default=0) + 1
        self.text = ""
        self.shown = 0
        self.finish_reason = ""

    def hear(self, text: str) -> None:
        self.text += text

    def end(self, finish_reason: str) -> None:
        self.finish_reason = finish_reason

    @property
    def has_ended(self) -> bool:
        return bool(self.finish_reason)

    @property
    def is_over(self) -> bool:
        """Whether all of it is on the screen."""
        return self.has_ended and self.shown == len(self.text)

    @property
    def ready(self) -> int:
        """How many characters may be shown now."""
        safe = len(self.text) if self.has_ended else len(self.text) - self.held_back
        if (found := self._name()) is not None:
            safe = min(safe, found.start())
        return max(0, safe - self.shown)

    @property
    def fault(self) -> str:
        """Why nobody could judge this answer; empty as long as nothing speaks against it."""
        if self.has_ended and not self.text.strip():
            return "an empty answer"
        if self.finish_reason == "length":
            return "an answer that is cut off"
        found = self._name()
        if found is not None and (self.has_ended or found.end() < len(self.text)):
            return "an answer that names the model"
        return ""

    def _name(self) -> re.Match[str] | None:
        return self.names.search(self.text, max(0, self.shown - self.held_back))

    def show(self, most: int) -> str:
        """Put up to so many characters on the screen; returns them."""
        count = min(most, self.ready)
        shown = self.text[self.shown : self.shown + count]
        self.shown += count
        return shown


class Pace:
    """How fast both go on: as fast as the slower one comes, and never faster after its end."""

    def __init__(self) -> None:
        self.ticks = 0
        self.given = 0

    def release(self, left: Pane, right: Pane) -> tuple[str, str]:
        """What appears on either side at one tick: the same number of characters of both.

        Nothing before both have begun. A side that has ended gives what it still has, and the
        other one keeps the mean pace of the time when both were coming.
        """
        coming = [pane for pane in (left, right) if not pane.has_ended]
        most = min([self._most(left, right), *(pane.ready for pane in coming)])
        if not (left.is_over or right.is_over) and (self.given or most):
            self.ticks += 1
            self.given += most
        return left.show(most), right.show(most)

    def _most(self, left: Pane, right: Pane) -> int:
        if not (left.is_over or right.is_over) or not self.ticks:
            return CHARACTERS_PER_TICK
        slowest = CHARACTERS_PER_TICK // 4
        return max(slowest, min(CHARACTERS_PER_TICK, ceil(self.given / self.ticks)))
