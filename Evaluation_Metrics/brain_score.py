"""Score reconstructions on the brain's side: do they drive a model of this brain as the true clips do?

A ridge regression learns from true training clips to training fMRI, on half of the training runs. It then predicts the test
fMRI from the true test clips (the upper line), from reconstructions, from these in another order and from the mean
clip (the lower lines). Scores are Pearson r with the measured test fMRI, divided by the root of the noise ceiling; and,
"of the clip alone", r of what neither the run's slow trend nor the volumes before and after tell (docs/beyond.md).

Reads    fMRI_in_fslr/sub{ID}/ (masked fMRI of both splits, mask, noise ceiling), stimuli_frames/Train, test_groundtruth.npy,
         recons/sub{ID}/{name}/results_recons; CLIP and Stable Diffusion's VAE
Writes   metrics/sub{ID}/brain_score/metrics.json   scores with intervals, differences, runs, penalties
                                    /areas.csv      per MMP area and condition, of the clip alone, and per band from the true clips
                                    /maps/*.npy     (59412,) of each condition, for plot_cortex.py

    python Evaluation_Metrics/brain_score.py --dataset phantom --subj_ID 1 --names oracle full control
    python Evaluation_Metrics/brain_score.py --subj_ID 1 --clip_path ViT-B-32:openai --sd_path stable-diffusion-v1-5/stable-diffusion-v1-5

On the phantom a minute on one core, the second time a third of it.
"""

import logging
from pathlib import Path

import numpy as np

from common import cli
from common.cortex import N_CORTEX, area_labels
from common.datasets import get_dataset
from common.files import UserError, load_array, load_mask, save_array
from common.layout import Layout, arm_name
from common.readers import format_clips, open_clips, parse_clips
from common.records import working
from Evaluation_Metrics.baselines import shuffled
from Evaluation_Metrics.clip_features import BANDS, ClipFeatures, training_clips
from Evaluation_Metrics.encoding import PENALTIES, fit_encoder, neighbours_and_trend, partial_out, predict
from Evaluation_Metrics.metric_script import frame_rate
from Evaluation_Metrics.protocols import protocol_form
from Evaluation_Metrics.results import write_dicts
from Evaluation_Metrics.towers import Towers, add_model_flags

log = logging.getLogger(__name__)

LEAST_CEILING = 0.05  # explainable share of one repetition's variance up to which a vertex does not count
LEAST_SHARE = 3  # clips for each number that is fitted in scores of the clip alone

# ---------------------------------------------------------------------------------------------- the score


def ceiling_of_average(ceiling, n_repetitions):
    """Explainable share of the variance of the mean over repetitions, from that of one repetition (Spearman-Brown)."""
    return n_repetitions * ceiling / (1 + (n_repetitions - 1) * ceiling)


def correlate(measured, predicted, counts=None):
    """Pearson r of each vertex over clips; 0 where a prediction is the same for all clips, which tells nothing of them.

    `measured` and `predicted` (N, V); with `counts` (B, N), how often each clip is drawn in each resample, (B, V) instead of (V,).
    """
    x, y = measured - measured.mean(0), predicted - predicted.mean(0)
    y[:, np.ptp(predicted, axis=0) <= 1e-9 * np.abs(predicted).max(0)] = 0  # rounding is no variance
    share = np.full((1, len(x)), 1 / len(x)) if counts is None else counts / counts.sum(1, keepdims=True)
    mean_x, mean_y = share @ x, share @ y
    variance = (share @ x**2 - mean_x**2) * (share @ y**2 - mean_y**2)
    r = np.divide(share @ (x * y) - mean_x * mean_y, np.sqrt(variance.clip(0)), out=np.zeros_like(mean_x), where=variance > 0)
    return r[0] if counts is None else r


def area_shares(labels, counted):
    """Which vertices a mean is taken over, (V, 1 + areas): all, then each MMP area of both sides; and their names.

    `labels` (V,) are names such as 'L_V1', '' for none; `counted` (V,) bool.
    """
    plain = np.array([label[2:] for label in labels])
    names = [name for name in dict.fromkeys(plain) if name and (counted & (plain == name)).any()]
    members = np.stack([counted, *(counted & (plain == name) for name in names)], axis=1).astype(float)
    return members / members.sum(0), ["all", *names]


def bootstrap_scores(measured, predictions, root_ceiling, shares, *, n_bootstraps, rng, batch=100):
    """Means of r over areas in resamples of the clips, the same for every condition: {condition: (n_bootstraps, A)}.

    `measured` and every one of `predictions` (N, V); `root_ceiling` (V,), which r is divided by; `shares` (V, A) of area_shares;
    `batch` resamples at a time.
    """
    n = len(measured)
    drawn = [rng.multinomial(n, np.full(n, 1 / n), size=min(batch, n_bootstraps - i)) for i in range(0, n_bootstraps, batch)]
    weighted = shares / root_ceiling[:, None]
    return {
        name: np.concatenate([correlate(measured, values, counts) @ weighted for counts in drawn]) for name, values in predictions.items()
    }


def interval(value, draws):
    """Estimate, bootstrap standard error and 95 % interval, dict."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return {"value": float(value), "se": float(draws.std(ddof=1)), "low": float(low), "high": float(high)}


# ---------------------------------------------------------------------------------------------- script


def get_parser():
    parser = cli.make_parser(__doc__)
    cli.add_data_flags(parser, subject=True)
    add_model_flags(parser, "clip").add_argument(
        "--sd_path", help="Stable Diffusion, folder or hub id, whose VAE gives the latents; default: the data set's own, if any"
    )
    group = parser.add_argument_group("brain-side score")
    group.add_argument("--names", nargs="+", default=["full"], help="names of the subject's reconstructions, each compared with the next")
    group.add_argument(
        "--clips", nargs="+", metavar="1-40,52", help="clips to score, numbers from 1; default: those that all reconstructions have"
    )
    group.add_argument(
        "--bands",
        nargs="+",
        choices=list(BANDS),
        default=list(BANDS),
        help="features that predict the fMRI, beside each other and one by one",
    )
    group.add_argument("--ridge", choices=["plain", "banded"], default="plain", help="one penalty a vertex, or one a vertex and band")
    group.add_argument("--half", choices=["odd", "even"], default="odd", help="training runs that the encoding model is fitted on")
    group.add_argument("--n_bootstraps", type=cli.whole(100), default=1000, help="number of resamples of the clips")
    group.add_argument(
        "--out", type=Path, changes_result=False, help="folder for the results; default: brain_score, beside the evaluations"
    )
    return parser


def load_measured(args, dataset, place):
    """Measured fMRI and what is known of its vertices.

    Returns
    -------
    runs : list of str
        that the model is fitted on
    rows, groups : arrays of int
        training clips of these runs, and their runs
    fmri : dict
        "train", of these rows, and "test" -> (N, V)
    mask : array, (59412,) bool
    ceiling : array, (V,)
        explainable share of one repetition's variance; 1 where it is not known
    """
    if not hasattr(dataset, "clips_per_run"):
        raise UserError(f"the brain-side score needs runs of the scanner, all with as many clips, which {dataset.name} does not have; leave it out")
    every, n = dataset.runs("train"), dataset.clips_per_run("train")
    runs = every[::2] if args.half == "odd" else every[1::2]
    if len(runs) < 2:
        raise UserError(f"{dataset.name} has {len(every)} training runs; the brain-side score needs two or more in each half")
    wanted = [every.index(run) for run in runs]
    rows = np.concatenate([np.arange(i * n, (i + 1) * n) for i in wanted])
    paths = {split: place.masked_fmri(args.subj_ID, split, dataset.n_vertices) for split in ("train", "test")}
    fmri = {
        split: load_array(path, shape=(dataset.n_clips(split), None), do="run step 4 of the preprocessing") for split, path in paths.items()
    }
    mask = load_mask(place.mask(args.subj_ID), N_CORTEX)
    if any(values.shape[1] != mask.sum() for values in fmri.values()):
        raise UserError(
            f"{paths['train']} has {fmri['train'].shape[1]} vertices, {place.mask(args.subj_ID)} selects {mask.sum()}; run step 4 again"
        )
    known = place.mask(args.subj_ID).with_name("noise_ceiling.npy")
    ceiling = load_array(known, shape=(N_CORTEX,), finite=False)[mask] if known.exists() else np.ones(mask.sum())
    fmri["train"] = fmri["train"][rows]
    return runs, rows, np.repeat(wanted, n), fmri, mask, ceiling


def standardise(train, others):
    """Features of unit variance over the training clips, {band: array}; a constant one becomes 0."""
    mean, std = {b: v.mean(0) for b, v in train.items()}, {b: v.std(0) for b, v in train.items()}
    return [{b: (v[b] - mean[b]) / np.where(std[b] > 1e-6 * np.abs(mean[b]), std[b], np.inf) for b in train} for v in (train, *others)]


def side_by_side(features):
    return np.concatenate(list(features.values()), axis=1)


def common_numbers(args, readers):
    """Numbers of the clips that all readers have."""
    numbers = sorted(set.intersection(*(set(reader.numbers) for reader in readers.values())))
    wanted = parse_clips(",".join(args.clips)) if args.clips else numbers
    if strange := sorted(set(wanted) - set(numbers)):
        raise UserError(f"--clips {format_clips(strange)}: not in all of {', '.join(args.names)} and the ground truth; choose other clips")
    if len(wanted) < 3:
        raise UserError(f"{len(wanted)} clips are too few for a correlation over clips; reconstruct more, or check --names and --clips")
    return wanted


def predict_all(args, features, fmri, groups, numbers):
    """Predictions of every condition, {name: (N, V)}, those of every band from the true clips, and the Encoder.

    `features` {"train", "true clips", names of reconstructions: {band: (N, D)}}.
    """
    names = list(features)
    features = dict(zip(names, standardise(features["train"], [features[name] for name in names[1:]]), strict=True))
    train, true = features["train"], features["true clips"]
    widths = [values.shape[1] for values in train.values()] if args.ridge == "banded" else None
    model = fit_encoder(side_by_side(train), fmri["train"], groups, widths, seed=args.seed)
    predictions = {name: predict(model, side_by_side(features[name])) for name in names[1:]}
    row = {number: i for i, number in enumerate(numbers)}
    other = shuffled(numbers, args.seed)
    predictions |= {f"{name}, clip-shuffled": predictions[name][[row[other[number]] for number in numbers]] for name in args.names}
    mean = np.broadcast_to(side_by_side(train).mean(0), (len(numbers), len(model.weights)))
    predictions["mean clip"] = predict(model, mean)
    by_band = {band: predict(fit_encoder(train[band], fmri["train"], groups, seed=args.seed), true[band]) for band in train}
    return predictions, by_band, model


def main(args):
    dataset, place, towers = get_dataset(args.dataset), Layout.of(args), Towers.of(args)
    form = {key: protocol_form("paper", dataset)[key] for key in ("n_frames", "size", "times")}
    folders = {name: place.recons(args.subj_ID, name) / "results_recons" for name in args.names}
    readers = {"true clips": open_clips(place.ground_truth, resize=True, **form)}
    readers |= {name: open_clips(folder, "ours", names=dataset.clip_names("test"), resize=True, **form) for name, folder in folders.items()}
    numbers = common_numbers(args, readers)
    runs, rows, groups, fmri, mask, ceiling = load_measured(args, dataset, place)
    out, device = args.out or place.metrics(args.subj_ID, arm_name("brain_score", args.seed)), cli.choose_device(args.device)
    inputs = [place.masked_fmri(args.subj_ID, split, dataset.n_vertices) for split in fmri] + [place.ground_truth]
    inputs += [path for folder in folders.values() if (path := folder.parent / "manifest.json").exists()]
    with working(out, args, inputs=inputs, outputs=[out / "areas.csv"]) as record:
        if record is None:
            return
        extract = ClipFeatures.of(args, args.bands, towers, device, place.root / "metrics" / "cache", frame_rate(dataset))
        features = {"train": extract(training_clips(place, dataset, form), [int(row) + 1 for row in rows], "training clips")}
        features |= {name: extract(reader, numbers, name) for name, reader in readers.items()}
        predictions, by_band, model = predict_all(args, features, fmri, groups, numbers)
        counted = (ceiling > LEAST_CEILING) & (np.ptp(fmri["test"][np.array(numbers) - 1], axis=0) > 0)
        if not counted.any():
            raise UserError(f"no vertex has a noise ceiling above {LEAST_CEILING}; check {place.mask(args.subj_ID).parent}")
        write_results(args, record, dataset, out, fmri["test"], predictions, by_band, model, mask, ceiling, counted, runs, numbers)


def resample(args, measured, predictions, root, shares):
    """Means over areas of r / root, {name: (areas,)}, and the same in resamples of the clips, {name: (resamples, areas)}."""
    value = {name: np.nan_to_num(correlate(measured, values) / root) @ shares for name, values in predictions.items()}
    rng = np.random.default_rng(args.seed)
    return value, bootstrap_scores(measured, predictions, root, shares, n_bootstraps=args.n_bootstraps, rng=rng)


def compare(names, value, draws):
    """Scores over all vertices of every condition, and paired differences of the true clips, the named reconstructions and their shuffles."""
    scores = {name: interval(value[name][0], draws[name][:, 0]) for name in value}
    pairs = [("true clips", names[0]), *zip(names, names[1:], strict=False), *((name, f"{name}, clip-shuffled") for name in names)]
    return scores, {f"{a} - {b}": interval(value[a][0] - value[b][0], draws[a][:, 0] - draws[b][:, 0]) for a, b in pairs}


def resample_alone(args, dataset, fmri, rows, predictions, shares):
    """As `resample`, of what the clips alone tell; two empty dicts where they are too few. `fmri` (T, V) of all test clips, `rows` those scored."""
    runs = np.repeat(np.arange(len(dataset.runs("test"))), dataset.clips_per_run("test"))
    trend, near = neighbours_and_trend(np.asarray(fmri, np.float64), runs, rows)
    if len(rows) < (least := LEAST_SHARE * (trend.shape[1] + len(near))):
        log.warning("%d clips are too few for scores of the clip alone, which need %d", len(rows), least)
        return {}, {}
    kept = {name: partial_out(values, trend, near) for name, values in predictions.items() if name != "mean clip"}
    return resample(args, partial_out(fmri[rows], trend, near), kept, np.ones(fmri.shape[1]), shares)


def compare_bands(bands, areas, value, draws):
    """How much better a band predicts an area than another, {area: {"clip - motion": interval}}."""
    pairs = [(a, b) for a in bands for b in bands if a != b]
    return {
        area: {f"{a} - {b}": interval(value[a][i] - value[b][i], draws[a][:, i] - draws[b][:, i]) for a, b in pairs}
        for i, area in enumerate(areas)
    }


def write_maps(out, mask, r):
    for name, values in r.items():
        on_cortex = np.full(N_CORTEX, np.nan)
        on_cortex[mask] = values
        path = out / "maps" / f"{name.replace(', ', '_').replace(' ', '_')}.npy"
        save_array(
            path, on_cortex, rows="cortical vertices, NaN outside the mask", units="r / sqrt(noise ceiling)", made_by="brain_score.py"
        )


def write_results(args, record, dataset, out, fmri, predictions, by_band, model, mask, ceiling, counted, runs, numbers):
    """Score, write and print; the arguments are those of `main`."""
    rows, root = np.array(numbers) - 1, np.sqrt(ceiling_of_average(np.where(counted, ceiling, 1), getattr(dataset, "test_repetitions", 1)))
    measured, (shares, areas) = fmri[rows], area_shares(area_labels()[mask], counted)
    value, draws = resample(args, measured, predictions, root, shares)
    of_bands, band_draws = resample(args, measured, by_band, root, shares)
    alone, alone_draws = resample_alone(args, dataset, fmri, rows, predictions, shares)
    scores, differences = compare(args.names, value, draws)
    alone_scores, alone_differences = compare(args.names, alone, alone_draws) if alone else ({}, {})
    tables = value | {f"{name}, alone": of for name, of in alone.items()} | {f"band {band}": of for band, of in of_bands.items()}
    write_dicts(
        out / "areas.csv",
        [
            {"area": area} | {name: float(of[i]) for name, of in tables.items()} | {"vertices": int((shares[:, i] > 0).sum())}
            for i, area in enumerate(areas)
        ],
    )
    every = predictions | {f"band {band}": values for band, values in by_band.items()}
    write_maps(out, mask, {name: np.where(counted, correlate(measured, values) / root, np.nan) for name, values in every.items()})
    for words, of_words in (("", scores | differences), (", of the clip alone", alone_scores | alone_differences)):
        for name, of in of_words.items():
            print(f"{dataset.label}{name}{words}: {of['value']:.4f}, 95 % interval {of['low']:.4f} to {of['high']:.4f} (se {of['se']:.4f})")
    print(
        f"{dataset.label}{int(counted.sum())} of {len(counted)} vertices, noise ceiling above {LEAST_CEILING}; fitted on {', '.join(runs)}"
    )
    edge = {
        band: float(np.isin(np.round(np.log10(p), 6), np.round(np.log10(PENALTIES[[0, -1]]), 6)).mean())
        for band, p in zip(args.bands, model.penalties, strict=False)
    }
    record.finish(
        phantom=dataset.simulated, subject=args.subj_ID, names=args.names, ridge=args.ridge, bands=args.bands, runs=runs, clips=len(numbers), clip_numbers=format_clips(numbers),
        vertices=int(counted.sum()), scores=scores, differences=differences, alone={"scores": alone_scores, "differences": alone_differences},
        of_bands={area: {band: float(of[i]) for band, of in of_bands.items()} for i, area in enumerate(areas)},
        band_differences=compare_bands(list(by_band), areas, of_bands, band_draws), share_at_edge=edge,
    )  # fmt: skip
    print(f"wrote {out}")


if __name__ == "__main__":
    cli.run(main, get_parser)
