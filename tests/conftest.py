"""What every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests import environment  # noqa: F401  (first: it names the settings and their folder)
from tests.chromium import ARGUMENTS, NO_CHROMIUM, find_chromium
from tests.reward.small_disks import NO_MOUNT

NO_BITSANDBYTES = "NO BITSANDBYTES, so nothing was trained over 4 bits"

# Tests run side by side: how long an example takes says nothing about the code.
settings.register_profile("tandem", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tandem")


def pytest_collection_modifyitems(items):
    """The few files in which the whole platform runs come first: side by side with the rest.

    Tests in a browser are marked: they need not run once more on the other database.
    """
    items.sort(key=lambda item: item.path.parent != Path(__file__).parent)
    for item in items:
        if "chromium" in item.fixturenames:
            item.add_marker("browser")


def pytest_terminal_summary(terminalreporter):
    """Say loudly, as the last word, what this machine left untested."""
    skipped = terminalreporter.stats.get("skipped", [])
    for why in (NO_CHROMIUM, NO_MOUNT, NO_BITSANDBYTES):
        if missed := [report for report in skipped if why in str(report.longrepr)]:
            terminalreporter.write_sep("!", f"{why}: {len(missed)} tests skipped", red=True)


@pytest.fixture(scope="session")
def chromium():
    """A real browser; in CI its absence is a failure, elsewhere a loud skip."""
    from playwright.sync_api import sync_playwright

    path = find_chromium()
    if path is None:
        pytest.fail(NO_CHROMIUM) if os.environ.get("CI") == "true" else pytest.skip(NO_CHROMIUM)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium):
    """A fresh browser window of desktop size; a script error or CSP violation fails the test."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on(
        "console",
        lambda m: errors.append(f"{m.text} {m.location}") if "Content Security" in m.text else None,
    )
    yield page
    context.close()
    assert errors == []
