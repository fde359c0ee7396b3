"""What several test files share: a copy of the working tree, and a browser."""

import shutil
import subprocess
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[1]
NAMES_OF_CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture
def working_copy(tmp_path):
    """A folder with everything git has or would take: tracked files, and new ones that it does not ignore."""
    return copy_tree(tmp_path / "copy")


def copy_tree(folder):
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():  # not what is deleted, but not yet from git
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)
    return folder


@pytest.fixture(scope="module")  # not the session: its event loop would stand in the way of other files' own
def browser():
    """Headless Chromium. Fails where there is none: pages that nobody looked at are not tested."""
    with sync_playwright() as playwright:
        found = [shutil.which(name) for name in NAMES_OF_CHROMIUM] + [playwright.chromium.executable_path]
        program = next((path for path in found if path and Path(path).exists()), None)
        if program is None:
            pytest.fail("These tests need Chromium. Way out: apt-get install chromium, or python -m playwright install chromium")
        chromium = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield chromium
        chromium.close()
