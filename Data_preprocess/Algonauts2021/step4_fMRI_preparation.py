"""From the pickled responses of ROIs to the arrays that the decoders read: averaged repetitions, standardised rows.

The pickles are data of a third party: nothing but arrays of numbers is taken out of them, and nothing in them is run.
All voxels are kept, ROI by ROI in the order of the data set's entry; both splits are standardised by the mean and the
(population) standard deviation of the training rows. A voxel that is constant over these, or not finite, becomes 0.

Reads    {data_root}/**/mini_track/sub{nn}/{ROI}.pkl          at any depth: 'train', (1000 videos, 3 repetitions, voxels)
         {data_root}/**/full_track/sub{nn}/WB.pkl             instead, with --track full_track
Writes   fMRI_in_fslr/sub{s}/Train/masked{V}_trn_data.npy     (900, V) float32
         .../Test/masked{V}_test_data.npy                     (100, V) float32
         .../masked{V}_statistics.npy                         (4, V) float64: mean and std of the training rows, twice
         .../roi_columns.json                                 first column and end (excluded) of every ROI
         .../report.json

    python Data_preprocess/Algonauts2021/step4_fMRI_preparation.py --data_root DATA --subj_ID 1 2 3
    python Data_preprocess/Algonauts2021/step4_fMRI_preparation.py --data_root DATA --track full_track

5 core-seconds a subject; 10 and 1.5 GB for a whole brain of 18000 voxels.
"""

import numpy as np

from common import cli
from common.datasets import ALGONAUTS, Algonauts
from common.files import UserError, sha256, write_json
from common.layout import Layout
from common.records import working
from Data_preprocess import fmri_arrays
from Data_preprocess.finding import Finder
from Data_preprocess.fmri_runs import average_repetitions, correlate_all, summarise
from Data_preprocess.pickles import read_responses
from Data_preprocess.splits import make_step_parser, print_split, split_dataset, split_facts

MADE_BY = "Data_preprocess/Algonauts2021/step4_fMRI_preparation.py"
AGAIN = "copy or download it again, or check --data_root"


def find_responses(dataset, data_root, track, subject, finder):
    """Pickles of a subject, {ROI: Path}; a UserError that names all that are missing."""
    patterns = {roi: dataset.response_pattern(data_root, track, subject, roi) for roi in dataset.tracks[track]}
    found = {roi: finder.all(pattern) for roi, pattern in patterns.items()}
    lacking = [roi for roi, paths in found.items() if not paths]
    if lacking:
        there = [paths[0] for paths in found.values() if paths] or list(patterns.values())
        folder = str(there[0].parent).replace("**/", "")
        raise UserError(f"{folder} lacks {', '.join(f'{roi}.pkl' for roi in lacking)} of subject {subject}; {AGAIN}")
    return {roi: finder.one(pattern, AGAIN) for roi, pattern in patterns.items()}


def prepare_roi(path, shape, rows):
    """Averaged repetitions of one ROI, (videos, V) float64, and its maps, {name: (V,)}.

    The maps are not_finite, constant, correlation (over the training rows) and noise_ceiling (over the test rows); `rows` are
    those of the clips of each split.
    """
    responses = read_responses(path, shape)
    average, not_finite, constant = average_repetitions(responses, rows["train"])
    fmri_arrays.check_signal(path, not_finite, constant, "voxel")
    agreement = {"correlation": correlate_all(responses[rows["train"]]), "noise_ceiling": correlate_all(responses[rows["test"]])}
    return average, {"not_finite": not_finite, "constant": constant, **agreement}


def make_report(report, track, files, columns, maps):
    """Content of report.json, beyond what all data sets' reports say."""
    whole = {key: np.concatenate([of_roi[key] for of_roi in maps.values()]) for key in next(iter(maps.values()))}
    bad = whole["not_finite"] | whole["constant"]
    agreement = {key: summarise(whole[key]) for key in ("correlation", "noise_ceiling")}
    rois = {
        roi: {
            "file": files[roi].as_posix(),
            "sha256": sha256(files[roi]),
            "columns": columns[roi],
            **{key: int(of_roi[key].sum()) for key in ("not_finite", "constant")},
            **{key: (summarise(of_roi[key]) or {}).get("mean") for key in ("correlation", "noise_ceiling")},
        }
        for roi, of_roi in maps.items()
    }
    return report | {
        "track": track,
        "test_norm": "train",
        "bad_vertices": {"in_any_series": int(bad.sum()), **{key: int(whole[key].sum()) for key in ("not_finite", "constant")}},
        "inter_repetition_correlation": {"all": agreement["correlation"], "selected": agreement["correlation"]},
        "noise_ceiling": {"what": "explainable variance of the mean of the test repetitions", "all": agreement["noise_ceiling"]},
        "rois": rois,
    }


def prepare(dataset, layout, subject, track, files, facts):
    """All of this step for one subject; returns the content of report.json."""
    rows = {split: np.array(dataset.clip_numbers(split)) - 1 for split in ("train", "test")}
    shape = (dataset.n_train + dataset.n_test, dataset.repetitions, None)
    averages, maps, columns, end = [], {}, {}, 0
    for roi, path in files.items():
        average, maps[roi] = prepare_roi(path, shape, rows)
        columns[roi] = [end, end := end + average.shape[1]]
        averages.append(average)
    responses, how = np.concatenate(averages, axis=1), f"all voxels of {', '.join(files)}"
    shapes = fmri_arrays.save_standardised(
        layout, dataset, subject, responses[rows["train"]], responses[rows["test"]], "train",
        n_vertices=end, made_by=MADE_BY, selection=how, track=track, roi_columns=columns, **facts,
    )  # fmt: skip
    report = fmri_arrays.describe_arrays(dataset, subject, shapes, n_vertices=end, selected=[end], how=how, what="voxels")
    report = make_report(report | facts, track, files, columns, maps)
    write_json(layout.roi_columns(subject), columns)
    write_json(layout.fmri_report(subject), report)
    return report


def print_summary(dataset, subject, report):
    widths = ", ".join(f"{roi} {entry['columns'][1] - entry['columns'][0]}" for roi, entry in report["rois"].items())
    print(f"{dataset.name} subject {subject}: {report['vertices']['all']} voxels: {widths}")
    fmri_arrays.print_arrays(report)
    bad, r = report["bad_vertices"], report["inter_repetition_correlation"]["all"]
    print(f"  {bad['constant']} voxels constant and {bad['not_finite']} not finite, set to 0")
    if r:
        print(f"  repetitions correlate with r = {r['mean']:.3f} on average")


def get_parser():
    parser = make_step_parser(__doc__, "Algonauts2021", subject="several")
    group = parser.add_argument_group("fMRI")
    group.add_argument("--track", choices=list(ALGONAUTS.tracks), default="mini_track", help="nine ROIs, or the whole brain")
    return parser


def main(args):
    dataset, layout, finder = split_dataset(args, Algonauts), Layout.of(args), Finder()
    for subject in args.subj_ID:
        files, facts = find_responses(dataset, args.data_root, args.track, subject, finder), split_facts(dataset)
        folder = layout.fmri_report(subject).parent
        outputs = [*fmri_arrays.row_paths(layout, subject, 0), layout.roi_columns(subject), layout.fmri_report(subject)]
        with working(folder, args, inputs=files.values(), outputs=outputs, facts=facts) as record:
            if record is None:
                continue
            report = prepare(dataset, layout, subject, args.track, files, facts)
            print_summary(dataset, subject, report)
            record.finish(**{key: report[key] for key in ("shapes", "expected", "inter_repetition_correlation")})
    print_split(dataset)


if __name__ == "__main__":
    cli.run(main, get_parser)
