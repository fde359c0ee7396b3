"""What several test files share: a copy of the working tree, and a browser."""

import shutil
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from project import copy_tree

NAMES_OF_CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture
def working_copy(tmp_path):
    """A copy of the project, to change."""
    return copy_tree(tmp_path / "copy")


@pytest.fixture(scope="module")  # not the session: its event loop would stand in the way of other files' own
def browser():
    """Headless Chromium. Fails where there is none: pages that nobody looked at are not tested."""
    with sync_playwright() as playwright:
        found = [shutil.which(name) for name in NAMES_OF_CHROMIUM] + [playwright.chromium.executable_path]
        program = next((path for path in found if path and Path(path).exists()), None)
        if program is None:
            pytest.fail(
                "Way out of having no Chromium: apt-get install chromium, or python -m playwright install chromium"
            )
        chromium = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield chromium
        chromium.close()
