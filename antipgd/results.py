"""Stored results of what takes minutes or hours: small JSON files with provenance, whole or not there at all.

>>> stored = load("fig-9")
>>> stored.values["test_loss w"]     # a tensor, here of shape (T, S, C), at the steps ``stored.steps``
"""

import ast
import functools
import hashlib
import importlib.util
import json
import math
import os
import platform
import secrets
import subprocess
from dataclasses import dataclass, fields
from datetime import datetime, timezone
from pathlib import Path

import numpy
import torch

FORMAT = 1
CHECKOUT = Path(__file__).parents[1]
ROOT = CHECKOUT if (CHECKOUT / "book").is_dir() else Path.cwd()  # the current folder for an installed module
FOLDER = ROOT / "book" / "results"
PACKAGED = Path(__file__).parent / "stored_results"  # where an installed package carries book/results
RENEW = "python -m antipgd.experiments {name}"


class ResultError(RuntimeError):
    """A stored result that is not there, or is not what was written."""


@dataclass(frozen=True)
class Result:
    """What a run found, and where it comes from.

    configuration: its settings, as JSON has them. seeds: a list of integers. steps: (T,), the recorded step numbers.
    values: tensors by name. provenance: the code's commit and digest, versions, device, time; see ``provenance``.
    """

    name: str
    configuration: dict
    seeds: list
    steps: torch.Tensor
    values: dict
    provenance: dict


def save(result, folder=FOLDER):
    """Write ``NAME.json`` into the folder, ``book/results`` by default, and return its path. Values keep six digits."""
    path = Path(folder) / f"{result.name}.json"
    values = {name: packed(value) for name, value in result.values.items()}
    write(path, {**vars(result), "steps": result.steps.tolist(), "values": values})
    return path


def load(name, folder=None, renew=RENEW):
    """The stored result of this name, from the folder; by default from ``book/results`` or the installed package.

    Raises ResultError, with the command ``renew``, for a file that is missing, cut off, foreign or changed by hand.
    """
    file = f"{name}.json"
    packaged = folder is None and not (FOLDER / file).exists() and (PACKAGED / file).exists()
    path = (PACKAGED if packaged else Path(folder or FOLDER)) / file
    try:
        content = read(path)
        if content.get("name") != name:
            raise ResultError(f"{path} is not the result {name}.")
    except ResultError as error:
        raise ResultError(f"{error} Make it anew: {renew.format(name=name)}") from None
    content["steps"] = torch.tensor(content["steps"])
    content["values"] = {key: unpacked(value) for key, value in content["values"].items()}
    return Result(**{field.name: content[field.name] for field in fields(Result)})


def write(path, content):
    """Write a dictionary, with format and checksum, as JSON. A reader sees the old file or the new one, never a part.

    A full disk or a kill leaves the old file. Raises OSError, and TypeError or ValueError for what JSON cannot hold.
    """
    entries = {"format": FORMAT, **content}
    entries["checksum"] = checksum(entries)
    lines = [f"{json.dumps(key)}: {json.dumps(value, separators=(',', ':'))}" for key, value in entries.items()]
    write_whole(path, ("{\n" + ",\n".join(lines) + "\n}\n").encode())


def write_whole(path, *parts):
    """Write these bytes, one part after the other. A reader sees the old file or the new one; raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")  # another name for each writer
    try:
        with open(unfinished, "xb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def read(path):
    """What ``write`` wrote, a dictionary. Raises ResultError where the file is anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ResultError(f"There is no {path}.") from None
    except ValueError:
        raise ResultError(f"{path} is cut off, or is no JSON.") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ResultError(f"{path} was not written by this version of the module.")
    if content.pop("checksum", "") != checksum(content):
        raise ResultError(f"{path} was changed after it was written: its checksum is another.")
    return content


def checksum(content):
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()


def packed(tensor):
    """A tensor as JSON: its shape and its values, with six digits; "nan" and "inf" are words, as JSON lacks them."""
    return {"shape": list(tensor.shape), "values": [short(value) for value in tensor.flatten().tolist()]}


def short(value):
    if not math.isfinite(value):
        return str(value)
    rounded = float(f"{value:.6g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e6 else rounded


def unpacked(content):
    """The tensor, in float64."""
    values = [float(value) for value in content["values"]]
    return torch.tensor(values, dtype=torch.float64).reshape(content["shape"])


def provenance(code, threads, seconds):
    """Where a result comes from. code: its ``digest``. threads: torch's in each of its jobs, the most; seconds: what the
    computation took, summed over its jobs."""
    return {
        "code": code,
        "commit": git("log", "-1", "--format=%H", "--", "antipgd"),
        "uncommitted changes of the module": bool(git("status", "--porcelain", "--", "antipgd")),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "device": f"CPU, {processor()}, {os.cpu_count()} cores",
        "threads": threads,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
    }


def git(*arguments):
    """What git says of the module's checkout; "" for an installed module."""
    try:
        return subprocess.run(["git", "-C", CHECKOUT, *arguments], capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:
        return ""


def processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


# --- Which code a result comes from -----------------------------------------------------------------------------


def digest(*objects):
    """A fingerprint of what these functions and classes compute: another one where their code changes in meaning.

    It covers their syntax trees and those of all in this package that they use. Comments, docstrings, layout and the
    words of errors do not count; a variable's name does.
    """
    return hashlib.sha256(json.dumps(sorted(used_code(*objects).items())).encode()).hexdigest()[:16]


def used_code(*objects):
    """The syntax trees, as nested lists, of these functions and classes and of all in this package that they use."""
    found, todo = {}, [(each.__module__, each.__name__) for each in objects]
    while todo:
        module, name = todo.pop()
        node = top_level(module).get(name)
        if isinstance(node, tuple):
            todo.append(node)
        elif node is not None and f"{module}.{name}" not in found:
            found[f"{module}.{name}"] = as_lists(node)
            for each in ast.walk(node):
                if isinstance(each, ast.Name):
                    todo.append((module, each.id))
                elif isinstance(each, ast.Attribute) and isinstance(each.value, ast.Name):
                    todo += attribute_of_module(module, each)
    return found


def attribute_of_module(module, node):
    """Of ``x.name``, where x is a module of this package: where that is, as a list of (module, name), else none."""
    origin = top_level(module).get(node.value.id)
    return [(".".join(origin), node.attr)] if isinstance(origin, tuple) and origin[0] == "antipgd" else []


@functools.cache
def top_level(module):
    """What a module has by name: syntax trees, and for what it imports from this package a tuple (module, name)."""
    names = {}
    for node in OnlyMeaning().visit(ast.parse(source(module))).body:
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "antipgd":
            names |= {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names[node.name] = node
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {each.id: node for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)}
    return names


def source(module):
    """The text of a module; "" where there is none of this name."""
    spec = importlib.util.find_spec(module)
    return Path(spec.origin).read_text(encoding="utf-8") if spec else ""


class OnlyMeaning(ast.NodeTransformer):
    """Takes out docstrings and what errors say."""

    def visit_Expr(self, node):
        return None if isinstance(node.value, ast.Constant) else self.generic_visit(node)

    def visit_Raise(self, node):
        return ast.Raise()


def as_lists(node):
    """A syntax tree without its empty fields, in which versions of Python differ."""
    if isinstance(node, list):
        return [as_lists(each) for each in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    full = [(name, value) for name, value in ast.iter_fields(node) if name != "kind" and value not in (None, [])]
    return [type(node).__name__, *([name, as_lists(value)] for name, value in full)]
