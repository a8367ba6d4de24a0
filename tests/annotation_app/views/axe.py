"""What axe-core finds on a page, and whether it fits its window."""

from __future__ import annotations

from axe_playwright_python.sync_playwright import Axe

WCAG_AA = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}
PHONE = {"width": 390, "height": 844}


def violations(page) -> list:
    """The rules that the page breaks, each with the elements that break it."""
    found = Axe().run(page, options=WCAG_AA).response["violations"]
    return [(v["id"], [n["target"] for n in v["nodes"]]) for v in found]


def fits(page) -> bool:
    """Whether nothing sticks out sideways."""
    return page.evaluate("document.documentElement.scrollWidth <= innerWidth")
