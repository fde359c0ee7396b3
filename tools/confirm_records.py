"""Say of the stored records of the ResNet18 that they are the present code's, where it computes the same as before.

    python tools/confirm_records.py COMMIT    # the commit's code has the digest that the records have

To make them anew takes hours. So, where the code changed and its results did not, this runs small training runs of each kind with
the code of the commit and with the present one, and compares all weights and all that was measured, bit for bit.
"""

import argparse
import io
import json
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import replace
from pathlib import Path

from antipgd import results
from antipgd.vision import records
from notebooks import ROOT

# Each method, and each place and law of the noise, with its start and its end, at all places that are looked at.
RUNS = """
import hashlib, json, sys, tempfile
from dataclasses import replace
from pathlib import Path
from antipgd.vision import records
from antipgd.vision.settings import PRESETS
from antipgd.vision.train import Machine, train

few = {"train_images": 40, "large_batch": 20, "small_batch": 10, "micro_batch": 10, "eval_images": 40, "trace_images": 10}
when = {"epochs": 4, "noise_start": 1, "noise_stop": 3, "eval_every": 2, "trace_every": 4}
noisy = replace(PRESETS["tiny"], sigma=0.03, augment=True, **few, **when)
kinds = [replace(noisy, method=method) for method in ("pgd", "antipgd", "antisgd")]
kinds += [replace(noisy, **change) for change in ({"noise_on": "weights"}, {"noise_on": "scaled"}, {"law": "rademacher"})]
kinds += [replace(noisy, method=method, sigma=0.0) for method in ("gd", "sgd")]
kinds += [replace(noisy, method="sam", sigma=0.0, rho=0.05), replace(noisy, method="sgd", sigma=0.0, weight_decay=0.01)]
found = {}
for settings in kinds:
    with tempfile.TemporaryDirectory() as folder:
        run = train(settings, Machine("synthetic", Path(folder), "cpu", "float32", False, True, progress=False))
    weights = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in run.model.state_dict().values())).hexdigest()
    found[str(settings)] = [weights, run.history]
print(json.dumps({"code": records.code(), "runs": found}))
"""


def runs(tree):
    """What the package in this folder computes: the digest of its code, and of each kind of run the weights and the history."""
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tree)!r})\n{RUNS}"]
    return json.loads(subprocess.run(command, cwd=tree, check=True, stdout=subprocess.PIPE, text=True).stdout)


def confirmed(stored, before, now, commit):
    """The record with the present code's digest. Raises ResultError where it is not the old code's, or the runs differ."""
    if stored.provenance["code"] != before["code"]:
        raise results.ResultError(f"The record {stored.name} was not made by the code of {commit}, which has another digest.")
    different = [kind for kind, run in before["runs"].items() if now["runs"].get(kind) != run]
    if different:
        raise results.ResultError(f"The present code computes something else than that of {commit}, in {different[0]}.")
    earlier = stored.provenance.get("confirmed", {"made by code": before["code"], "same bits as the code of": []})
    confirmed = {**earlier, "same bits as the code of": [*earlier["same bits as the code of"], commit]}
    return replace(stored, provenance={**stored.provenance, "code": now["code"], "confirmed": confirmed})


def at(commit, folder):
    """The package as it was at this commit, in the folder."""
    archive = subprocess.run(["git", "archive", commit, "antipgd"], cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder, filter="data")
    return folder


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", help="before the code changed")
    commit = results.git("rev-parse", "--verify", "--quiet", f"{parser.parse_args().commit}^{{commit}}")
    if not commit:
        parser.error("there is no such commit here: git log tells them")
    stored = [records.load(name) for name in records.RECORDS if (results.FOLDER / f"{name}.json").exists()]
    stale = [record for record in stored if record.provenance["code"] != records.code()]
    if not stale:
        sys.exit("Nothing to do: all stored records are the present code's.")
    with tempfile.TemporaryDirectory() as folder:
        before, now = runs(at(commit, Path(folder))), runs(ROOT)
    try:
        renewed = [confirmed(record, before, now, commit) for record in stale]  # all, or none
    except results.ResultError as error:
        sys.exit(str(error))
    for record in renewed:
        print(results.save(record))


if __name__ == "__main__":
    main()
