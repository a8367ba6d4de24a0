"""What every test may use."""

from __future__ import annotations

import os

import pytest

from tests.chromium import ARGUMENTS, find_chromium


@pytest.fixture(scope="session")
def chromium():
    """A real browser; in CI its absence is a failure, elsewhere a loud skip."""
    from playwright.sync_api import sync_playwright

    path = find_chromium()
    if path is None:
        message = "NO CHROMIUM: this browser test did not run"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
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
    yield page
    context.close()
    assert errors == []
