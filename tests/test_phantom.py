"""The whole chain on the phantom: every claim of the report with its bar, twice the same, resumed the same.

Ten minutes or more. MINDANIMATOR_PHANTOM_RUN names a folder with data/ and outputs/ of a
finished `make demo` to test instead of making a new one.
"""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

PROJECT = Path(__file__).parents[1]
CLAIMS = {"alignment", "mask", "semantics", "structure", "motion", "legible", "ceiling", "neighbours", "brain-side score", "bands"}

pytestmark = pytest.mark.slow


def command(folder, *flags):
    roots = ["--data_root", folder / "data", "--out_root", folder / "outputs"]
    return list(map(str, [sys.executable, "run_pipeline.py", "--dataset", "phantom", *roots, *flags]))


def run(folder, *flags):
    return subprocess.run(command(folder, *flags), cwd=PROJECT, capture_output=True, text=True)


def sha256_of_results(folder):
    """SHA-256 of every array, weight and frame below a folder."""
    kinds = (".npy", ".npz", ".safetensors", ".h5", ".mp4", ".gif", ".nii")
    files = [path for path in folder.rglob("*") if path.suffix in kinds and path.is_file()]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """Folder with data/ and outputs/ of a whole run."""
    if "MINDANIMATOR_PHANTOM_RUN" in os.environ:
        return Path(os.environ["MINDANIMATOR_PHANTOM_RUN"])
    folder = tmp_path_factory.mktemp("phantom")
    done = run(folder)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def test_every_claim_holds(chain):
    checks = json.loads((chain / "outputs/phantom/metrics/sub1/phantom_checks/metrics.json").read_text())["checks"]
    assert {check["claim"] for check in checks} >= CLAIMS
    lines = {  # a p has no standard error, hence no margin
        f"{check['claim']}: {check['statement']}: {check['value']:.3f} beside {check['control']:.3f}, {check['margin']} SE from the bar": check
        for check in checks
        if check["held"] is not None
    }
    print("\n".join(lines))
    assert [line for line, check in lines.items() if not check["held"]] == []


def test_report_says_phantom_and_shows_everything(chain):
    page = (chain / "outputs/phantom/report_sub1.html").read_text()
    assert "Phantom." in page and "Time and memory" in page and "4500 of 59412 vertices" in page
    for claim in CLAIMS:
        assert f">{claim}<" in page
    for address in [part.split('"')[0] for part in page.split('src="')[1:] + page.split('href="')[1:]]:
        there = address.partition("#")[0]
        assert address.startswith(("data:", "#")) or (chain / "outputs/phantom" / there).exists(), address


def test_tour_draws_its_pictures(chain, tmp_path):
    """examples/phantom_tour.py, as its page says to run it; what it denoises is what the chain reconstructed."""
    script = PROJECT / "examples/phantom_tour.py"
    names = re.findall(r"tour/(\w+\.\w+)\)", script.read_text())
    roots = ["--data_root", chain / "data", "--out_root", chain / "outputs", "--to", tmp_path]
    done = subprocess.run(list(map(str, [sys.executable, script, *roots])), cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names) and len(names) == 6
    assert all(min(Image.open(tmp_path / name).size) > 60 for name in names)
    assert float(re.search(r"in full: ([\d.]+) of 255", done.stdout)[1]) < 0.1  # alone and in a batch: other rounding


def test_second_run_changes_nothing(chain):
    before = {name: sha256_of_results(chain / name) for name in ("data", "outputs")}
    again = run(chain)
    assert again.returncode == 0, again.stderr[-2000:]
    assert {name: sha256_of_results(chain / name) for name in before} == before
    logs = {log.name: log.read_text() for log in (chain / "outputs/phantom/logs").rglob("*.log")}
    assert logs and [name for name, text in logs.items() if "already done" not in text] == []


def test_killed_run_equals_an_uninterrupted_one(chain, tmp_path):
    """The control arm with its clips, one decoder and its last reconstructions gone, killed while each is made again."""
    (tmp_path / "data").symlink_to(chain / "data")
    out = tmp_path / "outputs/phantom"
    shutil.copytree(chain / "outputs/phantom", out, ignore=shutil.ignore_patterns("full*", "oracle*", "released_recipe*"))
    for folder in ("stimuli_clips", "checkpoints/sub1/control/structure"):
        shutil.rmtree(out / folder)
    for path in (out / "recons/sub1/control").rglob("*"):
        number = re.search(r"\d+$", path.stem)
        if path.name in ("metrics.json", "SHA256SUMS") or (number and int(number[0]) > 112):  # the last batch of 8
            path.unlink()
    signs = (
        "stimuli_clips/Train/seg9_1.mp4",
        "checkpoints/sub1/control/structure/training_state.safetensors",  # after its first epoch
        "recons/sub1/control/results_recons/test113.npz",
    )
    flags = ("--stages", "preprocess,train,reconstruct", "--arms", "control")
    for sign in signs:
        with open(tmp_path / "killed.log", "w") as log:
            process = subprocess.Popen(command(tmp_path, *flags), cwd=PROJECT, stdout=log, stderr=log, start_new_session=True)
        while process.poll() is None and not (out / sign).exists():
            time.sleep(0.05)
        assert process.poll() is None, (tmp_path / "killed.log").read_text()[-2000:]
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    done = run(tmp_path, *flags)
    assert done.returncode == 0, done.stderr[-2000:]
    resumed, uninterrupted = (sha256_of_results(folder / "outputs") for folder in (tmp_path, chain))
    assert len(resumed) > 1000 and {name for name in uninterrupted if "/control/" in name} <= resumed.keys()
    assert {name: uninterrupted.get(name) for name in resumed} == resumed
