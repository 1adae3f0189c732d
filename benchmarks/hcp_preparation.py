"""How long does step 5 of the HCP preprocessing take, beside reading its four series?

Writes a participant of random data of the real shape (921 + 918 + 915 + 901 volumes of 91282 grayordinates: 1.3 GB), reads the
series whole by nibabel, and runs step 5 on them as a process of its own. Files are in the page cache for both.

    python benchmarks/hcp_preparation.py
    python benchmarks/hcp_preparation.py --workers 1

About a minute.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np
from timing import tell, timed
from tqdm import tqdm

from common import cli
from common.cortex import N_CORTEX
from common.datasets import HCP
from common.layout import Layout
from common.workers import n_cores
from Data_preprocess.cifti import N_GRAYORDINATES
from Data_preprocess.cifti_writing import write_series

SUBJECT = HCP.subjects[0]


def write_participant(root):
    """Random series in HCP's tree -> list of paths."""
    box = np.zeros((32, 32, 32), bool)
    box.ravel()[: N_GRAYORDINATES - N_CORTEX] = True
    other, paths = nib.cifti2.BrainModelAxis.from_mask(box, name="thalamus_left", affine=np.eye(4)), []
    for number, (run, volumes) in enumerate(tqdm(list(zip(HCP.runs, HCP.run_volumes, strict=True)), desc="writing series", unit="run")):
        paths.append(root / str(SUBJECT) / "MNINonLinear/Results" / run / f"{run}{HCP.series[0]}.dtseries.nii")
        data = np.random.default_rng(number).standard_normal((N_GRAYORDINATES, volumes), dtype=np.float32).T + 100
        write_series(paths[-1], data, HCP.tr, other)
    return paths


def read_whole(paths):
    """Touch all values of all series; a plain file is mapped."""
    for path in paths:
        nib.load(path).get_fdata(dtype=np.float32, caching="unchanged").sum()


def run_step_5(root, out, workers):
    """Step 5 as a process of its own -> (seconds of its work, seconds with Python's start, GB of its largest process)."""
    flags = ["--data_root", root, "--out_root", out, "--subj_ID", SUBJECT, "--workers", workers, "--no_figures"]
    command = [sys.executable, cli.PROJECT / "Data_preprocess/HCP/step5_fMRI_preparation.py", *flags]
    start = time.perf_counter()
    subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    whole = time.perf_counter() - start
    metrics = json.loads((Layout(out / "HCP").fmri_report(SUBJECT).parent / "metrics.json").read_text())
    return metrics["seconds"], whole, metrics["peak_memory_gb"]


def get_parser():
    parser = cli.make_parser(__doc__)
    group = parser.add_argument_group("size")
    group.add_argument("--workers", type=cli.processes, default=n_cores(), help="processes of step 5")
    group.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="folder for temporary files")
    return parser


def main(args):
    with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
        root = Path(scratch)
        paths = write_participant(root / "data")
        runs = [(timed(read_whole, paths)[0], *run_step_5(root / "data", root / f"out{i}", args.workers)) for i in range(3)]
        reading, work, whole, memory = np.array(runs).T
        size = sum(path.stat().st_size for path in paths) / 1e9
        print(f"{len(paths)} series, {size:.2f} GB; 'plain' is reading them by nibabel, without any arithmetic")
        tell(f"step 5, --workers {args.workers}", reading, work)
        tell("  with Python's start", reading, whole)
        print(f"  at most {memory.max():.2f} GB a process")


if __name__ == "__main__":
    cli.run(main, get_parser)
