"""Change the repository's address wherever it stands.

python tools/set_repository.py https://github.com/NAME/REPOSITORY
"""

import re
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
REPEATED = ("_config.yml", "pyproject.toml", "README.md", "CITATION.cff", "book/*.md", "book/*.ipynb")
ADDRESS = re.compile(r"https://[A-Za-z0-9.-]+(?:/[A-Za-z0-9._~-]+){2,}(?<!\.git)")


def address():
    """The repository's address: _config.yml holds it."""
    return yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]["url"]


def replace_everywhere(old, new):
    """Put the new address in place of the old one in all files that repeat it. Returns how many changed."""
    # Not where the old address is only the beginning of another one.
    pattern = re.compile(re.escape(old.encode()) + rb"(?![A-Za-z0-9_~-])")
    changed = 0
    for path in (path for name in REPEATED for path in sorted(ROOT.glob(name))):
        before = path.read_bytes()
        after = pattern.sub(lambda _: new.encode(), before)
        if after != before:
            path.write_bytes(after)
            changed += 1
    return changed


def main():
    if len(sys.argv) != 2 or not ADDRESS.fullmatch(sys.argv[1]):
        sys.exit("Give the repository's https address, such as https://github.com/NAME/REPOSITORY, without .git.")
    old, new = address(), sys.argv[1]
    print(f"{old} -> {new}: {replace_everywhere(old, new)} files changed")


if __name__ == "__main__":
    main()
