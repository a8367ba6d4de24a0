"""From Enter to the next text painted, in Chromium, with a large batch behind the page.

``python -m benchmarks.judging_page --items 100000``: an annotator presses ``2`` and ``Enter`` over
and over, once with a second to read in between and once as fast as the page takes it. The time
counts from the key event to the frame after the one that painted the new comparison.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from benchmarks.annotation_servers.tandem import Tandem
from benchmarks.annotators import milliseconds, real_items
from tests.chromium import ARGUMENTS, find_chromium

WATCH = """() => {
  window.painted = [];
  let pressed = null;
  addEventListener("keydown", (event) => {
    if (event.key === "Enter") pressed = event.timeStamp;
  }, true);
  new MutationObserver(() => {
    const since = pressed;
    const push = () => window.painted.push(performance.now() - since);
    requestAnimationFrame(() => requestAnimationFrame(push));
  }).observe(document.getElementById("card"), { childList: true });
}"""


def answer(page: Page, count: int, think_milliseconds: int) -> list[float]:
    """Answer so many comparisons; returns the seconds from Enter to paint of each."""
    page.evaluate("() => { window.painted = []; }")
    for number in range(count):
        if think_milliseconds:
            page.wait_for_timeout(think_milliseconds)
        page.keyboard.press("2")
        page.keyboard.press("Enter")
        page.wait_for_function("n => window.painted.length > n", arg=number)
    return [found / 1000 for found in page.evaluate("() => window.painted")]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--answers", type=int, default=100)
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="judging-page-") as folder:
        server = Tandem(Path(folder))
        server.start(real_items(arguments.items), annotators=1)
        try:
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(
                    executable_path=find_chromium(), args=ARGUMENTS
                )
                context = browser.new_context(viewport={"width": 1280, "height": 900})
                url = f"http://127.0.0.1:{server.port}"
                context.add_cookies(
                    [{"name": "sessionid", "value": server.sessions[0], "url": url}]
                )
                page = context.new_page()
                page.goto(f"{url}/annotate/helpfulness")
                page.wait_for_timeout(1000)
                page.evaluate(WATCH)
                for think in (1000, 0):
                    print(f"{arguments.items} items, {think} ms to think, ms from Enter to paint:",
                          milliseconds(answer(page, arguments.answers, think)))  # fmt: skip
                browser.close()
        finally:
            server.stop()


if __name__ == "__main__":
    main()
