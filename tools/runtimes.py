"""Measure what each chapter costs at the quick scale, into book/results/runtimes.json, for the cards of the pages.

    python tools/runtimes.py            # all chapters
    python tools/runtimes.py NAME ...   # these; what was measured of the others stays

One chapter at a time, with one thread, as the tests execute it. What is measured is processor time, which other work on
the machine does not lengthen, and memory at its peak; both with all processes that a chapter starts.
"""

import argparse
import asyncio
import os
from contextlib import suppress

import psutil

from antipgd import results
from cards import RUNTIMES
from notebooks import BOOK, execute, listed, read

KEPT = ("python", "torch", "numpy", "device", "threads", "date")  # of the provenance: what a run time depends on
PAUSE = 0.05  # seconds between two looks at the memory


async def peak(work):
    """The most memory, in bytes, that the processes which begin below this one hold together until the work is done."""
    others, most = set(psutil.Process().children(recursive=True)), 0
    task = asyncio.ensure_future(work)
    while not task.done():
        held = 0
        for process in set(psutil.Process().children(recursive=True)) - others:
            with suppress(psutil.NoSuchProcess):  # it has ended since
                held += process.memory_info().rss
        most = max(most, held)
        await asyncio.sleep(PAUSE)
    await task
    return most


def spent():
    """The processor time, in seconds, of all processes below this one that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def measured(name):
    """What one chapter costs, and where that was measured."""
    before = spent()
    most = asyncio.run(peak(execute(read(BOOK / f"{name}.md"), BOOK)))
    seconds = spent() - before
    origin = results.provenance("", 1, seconds)
    return {"seconds": origin["seconds"], "megabytes": round(most / 1e6), **{key: origin[key] for key in KEPT}}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="a chapter; all of them by default")
    names = parser.parse_args(arguments).names
    if unknown := set(names) - set(listed()):
        parser.error(f"no chapters: {', '.join(sorted(unknown))}")
    stored = results.read(RUNTIMES)["chapters"] if RUNTIMES.exists() else {}
    for name in names or listed():
        stored[name] = measured(name)
        print(f"{name}: {stored[name]['seconds']} s, {stored[name]['megabytes']} MB", flush=True)
        results.write(RUNTIMES, {"chapters": {each: stored[each] for each in listed() if each in stored}})


if __name__ == "__main__":
    main()
