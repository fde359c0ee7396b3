"""What several test files share: a copy of the working tree, and a browser."""

import pytest
from playwright.sync_api import sync_playwright

from browsers import chromium
from project import copy_tree


@pytest.fixture
def working_copy(tmp_path):
    """A copy of the project, to change."""
    return copy_tree(tmp_path / "copy")


@pytest.fixture(scope="module")  # not the session: its event loop would stand in the way of other files' own
def browser():
    """Headless Chromium. Fails where there is none: pages that nobody looked at are not tested."""
    with sync_playwright() as playwright, chromium(playwright) as program:
        yield program
