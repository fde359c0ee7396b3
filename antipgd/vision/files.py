"""Files that are whole or not there: tensors with a checksum, written to one side and moved into place."""

import hashlib
import io
import pickle

import torch

from antipgd.results import write_whole

KIND = b"antipgd-vision 1 "


class FileError(RuntimeError):
    """A file that is missing, cut off, changed, or of another kind."""


def write(path, content):
    """Write what ``torch.save`` can hold and ``weights_only`` can load. Raises OSError; the old file is then unchanged.

    A reader sees the old file or the new one, whatever moment the process or the machine ends in.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with buffer.getbuffer() as data:  # released at once: after an error a buffer with views cannot be cleared away
        write_whole(path, KIND + hashlib.sha256(data).hexdigest().encode() + b"\n", data)


def read(path):
    """What ``write`` wrote, with its tensors on the CPU. Raises FileError, which says what is wrong with the file."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise FileError(f"There is no {path}.") from None
    head, _, data = raw.partition(b"\n")
    if not head.startswith(KIND):
        raise FileError(f"{path} is empty or was not written by this version of the module.")
    if hashlib.sha256(data).hexdigest().encode() != head[len(KIND) :]:
        raise FileError(f"{path} is cut off or was changed after it was written: its checksum is another.")
    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise FileError(f"{path} holds something else than tensors and plain values: {error}") from None


def leftovers(path):
    """What writers of this path have left behind that were killed."""
    return path.parent.glob(f".{path.name}.*.tmp")
