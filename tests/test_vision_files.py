"""Files of tensors: whole or not there, and nothing but tensors and plain values comes out of them."""

import errno
import gc
import hashlib
import io
import os
import pickle
import sys
from functools import partial

import pytest
import torch

from antipgd.vision import files
from antipgd.vision.files import FileError

CONTENT = {"weights": torch.arange(6.0).view(2, 3), "history": [{"loss": 0.1}], "epoch": 3}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "state.pt"


def same(found):
    return torch.equal(found["weights"], CONTENT["weights"]) and found["history"] == [{"loss": 0.1}]


def test_what_was_written_is_read(path):
    files.write(path, CONTENT)
    assert same(files.read(path))
    assert [each.name for each in path.parent.iterdir()] == ["state.pt"]


def test_a_file_that_is_not_there(path):
    with pytest.raises(FileError, match="There is no .*state.pt"):
        files.read(path)


def test_a_file_that_is_cut_off_at_any_length_is_refused(path):
    files.write(path, CONTENT)
    content = path.read_bytes()
    for length in [*range(100), *range(100, len(content), 97), len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(FileError, match="cut off|empty or was not written by this version"):
            files.read(path)


def test_a_file_with_one_other_bit_anywhere_is_refused(path):
    files.write(path, CONTENT)
    content = path.read_bytes()
    for place in [*range(100), *range(100, len(content), 97), len(content) - 1]:
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(changed)
        with pytest.raises(FileError, match="its checksum is another|was not written by this version"):
            files.read(path)


class Bomb:
    """Unpickled without care, it runs what its author wants."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def sealed(path, data):
    """A file with the right checksum."""
    path.parent.mkdir()
    path.write_bytes(files.KIND + hashlib.sha256(data).hexdigest().encode() + b"\n" + data)


def saved_by_torch(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("packed", [saved_by_torch, partial(pickle.dumps, protocol=2)], ids=["torch", "pickle"])
def test_a_file_that_would_run_code_is_refused(path, tmp_path, packed):
    sealed(path, packed({"weights": Bomb(tmp_path / "exploded")}))
    with pytest.raises(FileError, match="something else than tensors and plain values"):
        files.read(path)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("data", [b"", b"no pickle at all"])
def test_a_file_with_a_checksum_and_nothing_of_use(path, data):
    sealed(path, data)
    with pytest.raises(FileError, match="state.pt holds something else"):
        files.read(path)


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(path, monkeypatch, call):
    files.write(path, CONTENT)
    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(OSError, match="No space left"):
            files.write(path, {"weights": torch.zeros(3)})
    assert same(files.read(path))
    assert [each.name for each in path.parent.iterdir()] == ["state.pt"]


def test_a_full_disk_leaves_nothing_behind_that_complains_later(path, monkeypatch):
    complaints = []
    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr(sys, "unraisablehook", complaints.append)
    try:
        files.write(path, CONTENT)
    except OSError as error:
        error.itself = error  # a cycle: the collector clears away what the error's frames hold
    gc.collect()
    assert complaints == []


def test_leftovers_are_those_of_this_file(path):
    files.write(path, CONTENT)
    for name in (".state.pt.00ff.tmp", ".other.pt.00ff.tmp", ".state.pt"):
        (path.parent / name).touch()
    assert [each.name for each in files.leftovers(path)] == [".state.pt.00ff.tmp"]
