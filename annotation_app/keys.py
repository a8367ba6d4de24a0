"""The keys of the judging page: what each does, in the layouts a person may choose from."""

from __future__ import annotations

from annotation_app.forms import PREFERENCES
from annotation_app.models.choices import KeyLayout

SAFETY = ("safe_left", "safe_both", "safe_neither", "safe_right")
OTHERS = ("skip", "flag", "undo", "difference", "raw", "together", "unveil", "note")
FIXED = {"submit": "Enter", "help": "?", "look_left": "ArrowLeft", "look_right": "ArrowRight"}
ROWS = {
    KeyLayout.STANDARD: ("12345678", "qwer", "sfudmybn"),
    KeyLayout.AZERTY: ("12345678", "azer", "sfudmybn"),
    KeyLayout.HOME_ROW: ("asdfjkl;", "weio", "xgucmybn"),
    KeyLayout.LEFT_HAND: ("12345678", "qwer", "sfzdvcbx"),
}
NAMES = {
    "left_significantly_better": "Left significantly better … right significantly better",
    "safe_left": "Safe is: only left, both, neither, only right",
    "submit": "Submit", "skip": "Skip", "flag": "Flag", "undo": "Undo the last answer",
    "note": "Note: rate each response, give reasons, comment",
    "difference": "Word-level difference", "raw": "Raw text or rendered",
    "together": "Scroll both sides together", "unveil": "Show a hidden text",
    "look_left": "Go to the left, to the right response",
    "help": "These keys",
}  # fmt: skip


def layout(name: str) -> dict[str, str]:
    """Action → key, as ``KeyboardEvent.key`` names it."""
    if name == KeyLayout.NONE:
        return FIXED
    strengths, safety, others = ROWS[KeyLayout(name)]
    return {
        **dict(zip(PREFERENCES, strengths, strict=True)),
        **dict(zip(SAFETY, safety, strict=True)),
        **dict(zip(OTHERS, others, strict=True)),
        **FIXED,
    }


def described(name: str) -> list[tuple[str, str]]:
    """(what it does, keys) for the help; keys that belong together stand in one line."""
    keys = layout(name)
    together = {
        "left_significantly_better": PREFERENCES,
        "safe_left": SAFETY,
        "look_left": ("look_left", "look_right"),
    }
    return [
        (text, " ".join(shown(keys[a]) for a in together.get(action, (action,))))
        for action, text in NAMES.items()
        if action in keys
    ]


def shown(key: str) -> str:
    """A key as the page prints it."""
    return {"ArrowLeft": "←", "ArrowRight": "→"}.get(key, key.upper() if len(key) == 1 else key)
