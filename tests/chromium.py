"""Find a Chromium for the browser tests, or install one: ``python -m tests.chromium``.

With ``--summary`` it only says how the tests went, which is the last line of `make test`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

NO_CHROMIUM = "NO CHROMIUM, so no browser test ran"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def find_chromium() -> str | None:
    """A browser on PATH, else the one that Playwright has downloaded."""
    for name in NAMES:
        if found := shutil.which(name):
            return found
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if Path(path).is_file() else None


def install() -> None:
    """Debian's package as root, else Playwright's own download; failing is reported later."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    if os.geteuid() == 0 and shutil.which("apt-get"):
        print("Installing Debian's chromium for the browser tests …", flush=True)
        subprocess.run(["apt-get", "update", "-qq"], check=False, **quiet)
        install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium"]
        subprocess.run(install, check=False, **quiet)
    else:
        print("Installing Playwright's chromium for the browser tests …", flush=True)
        subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"], check=False)


def main() -> None:
    if "--summary" in sys.argv:
        print("Everything passed." if find_chromium() else f"The rest passed. {NO_CHROMIUM}.")
        return
    if find_chromium() is None:
        install()
    if find_chromium() is None:
        if os.environ.get("CI") == "true":
            sys.exit("CI needs Chromium for the browser tests, and none could be installed.")
        print(f"{NO_CHROMIUM}.", flush=True)


if __name__ == "__main__":
    main()
