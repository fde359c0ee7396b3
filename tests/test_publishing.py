"""A rehearsal of publishing: the pages below a sub-path of a web server, old addresses, the workflows, a release."""

import functools
import json
import re
import shutil
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

import check_release
import redirects
from project import PROJECT, ROOT, copy_tree
from test_execution import build, one_page

TEXT = """
# Page

$$
w_{n+1} = w_n
$$ (eq-step)

By [](#eq-step), anticorrelated.
"""
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PINNED = re.compile(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The address of a small book with one old address, below a sub-path of a server."""
    working_copy = copy_tree(tmp_path_factory.mktemp("published") / "copy")
    one_page(working_copy, TEXT)
    told = build(working_copy)
    assert told.returncode == 0, told.stdout
    served = tmp_path_factory.mktemp("server")
    shutil.move(working_copy / "_build" / "html", served / "a-book")
    redirects.redirect(served / "a-book", {"old/place/first.html": "book/intro.html"})
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=served)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/a-book/"
        server.shutdown()


@pytest.fixture
def visit(browser, published):
    """A function that opens a page of the published book; at the end nothing has been asked of another place in vain."""
    page, asked, failed = browser.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("response", lambda response: response.status >= 400 and failed.append(response.url))

    def of(address):
        page.goto(published + address)
        return page

    yield of
    page.close()
    assert failed == []
    assert [url for url in asked if not url.startswith((published, "data:", "blob:"))] == []


def test_the_first_page_leads_into_the_book(visit, published):
    page = visit("")
    page.wait_for_url(f"{published}book/intro.html")
    page.wait_for_function("window.MathJax?.startup?.promise")
    page.evaluate("MathJax.startup.promise")
    assert page.locator("mjx-container").count() and not page.locator("mjx-merror").count()


def test_search_finds_a_word(visit):
    results = visit("search.html?q=anticorrelated").locator("#search-results li a")
    results.first.wait_for()
    assert "book/intro.html" in results.first.get_attribute("href")


def test_an_old_address_leads_to_the_new_page_and_to_the_place_in_it(visit, published):
    visit("old/place/first.html#eq-step").wait_for_url(f"{published}book/intro.html#eq-step")


@pytest.mark.parametrize("moved, words", [({"a.html": "a.html"}, "a page at the old"), ({"b.html": "c.html"}, "no page at")])
def test_an_old_address_that_cannot_be_is_refused(tmp_path, moved, words):
    (tmp_path / "a.html").write_text("")
    with pytest.raises(ValueError, match=words):
        redirects.redirect(tmp_path, moved)


def test_the_list_of_old_addresses_leads_to_pages_of_the_book():
    moved = yaml.safe_load((ROOT / "redirects.yml").read_text(encoding="utf-8"))
    assert all((ROOT / new).with_suffix(".ipynb").exists() for new in moved.values())


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_pins_its_actions_and_asks_for_little(path):
    text = path.read_text(encoding="utf-8")
    uses = re.findall(r"uses: (.+)", text)
    assert uses and all(PINNED.fullmatch(each) for each in uses)
    content = yaml.safe_load(text)
    assert content["permissions"] == {} and all("permissions" in job for job in content["jobs"].values())
    made = re.findall(r"run: make (\w+)", text)
    assert set(made) <= set(re.findall(r"\w+", re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]))
    for tool in re.findall(r"tools/\w+\.py", text):
        assert (ROOT / tool).exists(), tool


def told(program, *arguments):
    """How a program of this environment ends, and what it says."""
    command = [Path(sys.executable).with_name(program), *arguments]
    run = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return run.returncode, run.stdout


def test_the_workflows_are_safe():
    code, words = told("zizmor", "--offline", "--quiet", ROOT / ".github" / "workflows")
    assert code == 0, words


def test_github_understands_the_workflows(tmp_path):
    schema = ["--builtin-schema", "vendor.github-workflows"]
    code, words = told("check-jsonschema", *schema, *WORKFLOWS)
    assert code == 0, words
    (tmp_path / "wrong.yml").write_text(WORKFLOWS[0].read_text(encoding="utf-8").replace("steps:", "step:"), encoding="utf-8")
    code, words = told("check-jsonschema", *schema, tmp_path / "wrong.yml")
    assert code == 1 and "'step' was unexpected" in words


def test_the_oldest_python_is_the_one_that_is_tested():
    suite = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8"))["jobs"]["suite"]
    assert PROJECT["requires-python"] == f">={suite['strategy']['matrix']['python'][0]}"


def test_the_version_can_be_released():
    assert list(check_release.troubles(f"v{PROJECT['version']}")) == []


def test_a_release_that_does_not_fit_is_told_why(working_copy):
    cited, notebook = working_copy / "CITATION.cff", working_copy / "book" / "notation.ipynb"
    shutil.rmtree(working_copy / "book" / "results")
    cited.write_text(cited.read_text(encoding="utf-8").replace("version: 0", "version: 7"), encoding="utf-8")
    notebook.write_text(notebook.read_text(encoding="utf-8").replace("book@v0", "book@v7"), encoding="utf-8")
    told = "\n".join(check_release.troubles("v9", working_copy))
    for words in ("The tag is v9", "CITATION.cff names", "book/notation.ipynb installs", "no stored result"):
        assert words in told


def test_what_zenodo_archives_is_what_is_cited():
    archived = json.loads((ROOT / ".zenodo.json").read_text(encoding="utf-8"))
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (archived["title"], archived["license"]) == (cited["title"], cited["license"])
    assert [each["name"] for each in archived["creators"]] == [each["name"] for each in cited["authors"]]
