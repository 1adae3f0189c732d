"""How much faster is step 4 of the CC2017 preprocessing than the same vertex by vertex?

Writes a subject of random data of the real shape (18 x 2 + 5 x 10 series, 245 volumes, 59412 vertices: 5 GB), runs step 4
on it, and times the plain form (nibabel, np.polyfit, np.corrcoef, scipy's t-test in a loop) on enough vertices to
extrapolate. Files are in the page cache for both. One thread on both sides; step 4 also with --workers.

    python benchmarks/fmri_preparation.py
    python benchmarks/fmri_preparation.py --runs 2 1 --volumes 45 --workers 1

About 4 min at full size on two cores.
"""

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import stats
from threadpoolctl import threadpool_limits
from timing import compare, tell, timed
from tqdm import tqdm

from common import cli, fmri
from common.cortex import N_CORTEX
from common.datasets import CC2017
from common.layout import Layout
from common.workers import n_cores
from Data_preprocess import fmri_runs
from Data_preprocess.cifti import N_GRAYORDINATES, SPACES
from Data_preprocess.cifti_writing import write_series

N_SEGMENTS = 18


# ---------------------------------------------------------------------------------------------- the plain form


def plain_clean(run, vertices):
    """Detrend and z-score some vertices one after another, (T, len(vertices))."""
    moments = np.linspace(0, 1, len(run))
    columns = []
    for v in vertices:
        column = run[:, v] - np.polyval(np.polyfit(moments, run[:, v], 4), moments)
        columns.append((column - column.mean()) / column.std())
    return np.stack(columns, axis=1)


def plain_mask(segments, vertices):
    """Fisher z over segments and t-test, vertex after vertex."""
    p = []
    for v in vertices:
        z = [np.arctanh(np.corrcoef(rep1[:, v], rep2[:, v])[0, 1]) for rep1, rep2 in segments]
        p.append(stats.ttest_1samp(z, 0).pvalue)
    return np.array(p)


def plain_read(path):
    return nib.load(path).get_fdata()


# ---------------------------------------------------------------------------------------------- parts


def compare_arithmetic(volumes, n_vertices, n_plain):
    """One run and one mask, in double precision, both ways; prints the ratios, returns the seconds of the plain mask."""
    rng = np.random.default_rng(0)
    rep1, rep2 = (rng.normal(size=(n_vertices, volumes)).T + 100 for _ in range(2))
    vertices = rng.choice(n_vertices, n_plain, replace=False)
    expected, (clean, _, _) = compare(
        f"detrending and z-scores of a run of {volumes} x {n_vertices}",
        lambda: plain_clean(rep1, vertices), lambda: fmri_runs.clean_run(rep1), repeats=3, scale=n_vertices / n_plain,
    )  # fmt: skip
    print(f"  largest difference {np.abs(clean[:, vertices] - expected).max():.0e}")
    segments = [(rep1[shift:], rep2[: volumes - shift]) for shift in range(N_SEGMENTS)]  # 18 that differ, in the memory of one
    seconds, expected = timed(plain_mask, segments, vertices)
    expected, (_, p) = compare(
        f"mask over {N_SEGMENTS} segments",
        lambda: plain_mask(segments, vertices), lambda: fmri.repetition_reliability(segments), repeats=3, scale=n_vertices / n_plain,
    )  # fmt: skip
    print(f"  largest difference {np.abs(p[vertices] - expected).max():.0e}")
    return seconds * n_vertices / n_plain


def write_subject(root, n_runs, volumes, space):
    """Random series in the CC2017 tree -> list of paths."""
    other = None
    if space == "full":
        box = np.zeros((32, 32, 32), bool)
        box.ravel()[: N_GRAYORDINATES - N_CORTEX] = True
        other = nib.cifti2.BrainModelAxis.from_mask(box, name="thalamus_left", affine=np.eye(4))
    names = [name for split, n in zip(("train", "test"), n_runs, strict=True) for name in CC2017.runs(split)[:n]]
    paths = [CC2017.series_path(root, 1, name, rep) for name in names for rep in CC2017.repetitions(1, name)]
    for number, path in enumerate(tqdm(paths, desc="writing series", unit="file")):
        data = np.random.default_rng(number).standard_normal((SPACES[space], volumes), dtype=np.float32).T + 100
        write_series(path, data, CC2017.tr, other)
    return paths


RUN_STEP_4 = """
import sys
from dataclasses import replace
from common import cli, datasets
from Data_preprocess.CC2017 import step4_fMRI_preparation as step4
n_train, n_test, clips = map(int, sys.argv[1:4])
datasets.DATASETS["CC2017"] = replace(
    datasets.CC2017, n_train_runs=n_train, n_test_runs=n_test, clips_per_train_run=clips, clips_per_test_run=clips,
    n_train=n_train * clips, n_test=n_test * clips,
)
cli.run(step4.main, step4.get_parser, sys.argv[4:])
"""


def run_step_4(root, out, n_runs, volumes, space, workers):
    """Step 4 as a process of its own -> (seconds, GB of all its processes at most)."""
    size = [*n_runs, volumes - 5]
    flags = ["--data_root", root, "--out_root", out, "--space", space, "--workers", workers, "--no_figures"]
    flags += ["--roi", "V1"] if n_runs[0] < 3 else []  # no t-test worth the name
    command = [sys.executable, "-c", RUN_STEP_4, *size, *flags]
    seconds, _ = timed(lambda: subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    metrics = json.loads((Layout(out / "CC2017").fmri_report(1).parent / "metrics.json").read_text())
    return seconds, metrics["peak_memory_gb"] * (workers + 1 if workers > 1 else 1)


# ---------------------------------------------------------------------------------------------- script


def get_parser():
    parser = cli.make_parser(__doc__)
    group = parser.add_argument_group("size")
    group.add_argument("--runs", type=cli.one_or_more, nargs=2, default=[18, 5], metavar=("TRAIN", "TEST"), help="numbers of runs to write")
    group.add_argument("--volumes", type=cli.whole(11), default=245, help="volumes of a series")
    group.add_argument("--space", choices=list(SPACES), default="cortex", help="59412 vertices or 91282 grayordinates")
    group.add_argument("--plain_vertices", type=cli.one_or_more, default=1500, help="vertices that the plain form is timed on")
    group.add_argument("--workers", type=cli.processes, default=n_cores(), help="processes of step 4 when it is timed for the second time")
    group.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="folder for temporary files")
    return parser


def main(args):
    n_vertices = SPACES[args.space]
    with threadpool_limits(1), tempfile.TemporaryDirectory(dir=args.folder) as scratch:
        plain_of_mask = compare_arithmetic(args.volumes - 5, n_vertices, args.plain_vertices)
        root = Path(scratch)
        paths = write_subject(root, args.runs, args.volumes, args.space)
        reading, run = timed(plain_read, paths[0])
        vertices = np.random.default_rng(1).choice(n_vertices, args.plain_vertices, replace=False)
        arithmetic = timed(plain_clean, run[1 : args.volumes - 4], vertices)[0] * n_vertices / args.plain_vertices
        del run
        plain = len(paths) * (reading + arithmetic) + plain_of_mask * args.runs[0] / N_SEGMENTS
        print(
            f"{len(paths)} series of {args.volumes} x {n_vertices}: plain, a series {reading:.2f} s reading, {arithmetic:.1f} s arithmetic"
        )
        for workers in sorted({1, args.workers}):
            for path in paths:
                path.read_bytes()  # into the page cache
            runs = [run_step_4(root, root / f"out{workers}_{i}", args.runs, args.volumes, args.space, workers) for i in range(3)]
            tell(f"step 4, --workers {workers}", [plain] * len(runs), [seconds for seconds, _ in runs], extrapolated=True)
            print(f"  at most {max(memory for _, memory in runs):.1f} GB")
    print(f"this script: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GB")


if __name__ == "__main__":
    cli.run(main, get_parser)
