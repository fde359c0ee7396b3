"""Headless Chromium: the system's, or the one that Playwright has downloaded."""

import shutil
from pathlib import Path

NAMES_OF_CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def chromium(playwright):
    """A browser, to be closed. Raises FileNotFoundError, with the way out, where there is none."""
    found = [shutil.which(name) for name in NAMES_OF_CHROMIUM] + [playwright.chromium.executable_path]
    program = next((path for path in found if path and Path(path).exists()), None)
    if program is None:
        raise FileNotFoundError(
            "Way out of having no Chromium: apt-get install chromium, or python -m playwright install chromium"
        )
    return playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
