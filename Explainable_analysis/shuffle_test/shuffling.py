"""What the frame-shuffle tests share: random orders, p, which clips are tested, and which reconstructions."""

import logging
from pathlib import Path

import numpy as np

from common import cli
from common.clip_frames import clip_times
from common.datasets import get_dataset
from common.files import UserError, missing, read_bytes
from common.layout import Layout, reconstruction_name
from common.readers import format_clips, open_clips, parse_clips
from common.records import working
from Evaluation_Metrics.baselines import AutoencodedClips
from Evaluation_Metrics.pairs import Pairs
from Evaluation_Metrics.results import read_per_clip
from Evaluation_Metrics.towers import add_model_flags, source_at_hand

log = logging.getLogger(__name__)

# clips whose semantics are right, chosen by the authors: (data set, subject) -> numbers
PAPER_CLIPS = {
    ("CC2017", 1): (
        22, 43, 47, 74, 75, 145, 191, 227, 228, 230, 249, 260, 262, 333, 335, 452, 453, 470, 487, 493, 509, 579, 661, 677, 682, 712, 733, 782,
        786, 804, 812, 813, 842, 874, 880, 889, 936, 961, 1008, 1009, 1019, 1074, 1152, 1170,
    ),
}  # fmt: skip
WITH, WITHOUT, CEILING, CONTROL = "with CMG", "without CMG", "noise ceiling", "control"

ROUNDING = 1e-6  # relative: features and flows are float32

# ---------------------------------------------------------------------------------------------- the test


def draw_permutations(n_frames, n, rng):
    """Random orders of the frames, (n, n_frames) int."""
    return np.stack([rng.permutation(n_frames) for _ in range(n)])


def p_value(others, value, lower_is_better, released=False):
    """Share of the scores of random orders, (K,), that are at least as good as that of the true one, up to rounding.

    Released it is r / K, which can be 0; else (r + 1) / (K + 1), since the true order is one of those possible.

    References
    ----------
    Phipson & Smyth 2010, Permutation p-values should never be zero.
    """
    better = others < value if lower_is_better else others > value
    as_good = int((better | np.isclose(others, value, rtol=ROUNDING, atol=0)).sum())
    return as_good / len(others) if released else (as_good + 1) / (len(others) + 1)


def shuffle_frames(score, n_frames, *, lower_is_better, seed, n_permutations, n_repeats, released=False):
    """The test, repeated with new orders; an order is the same for all clips.

    `score` gives the mean over clips, (K,), of orders (K, F). Returns the value of the true order, that of the reversed one, p of
    every repeat, their mean and standard deviation.
    """
    rng, order = np.random.default_rng(seed), np.arange(n_frames)
    value, backwards = score(np.stack([order, order[::-1]]))
    draws = (score(draw_permutations(n_frames, n_permutations, rng)) for _ in range(n_repeats))
    p = [p_value(shuffled, value, lower_is_better, released) for shuffled in draws]
    return {"value": float(value), "reversed": float(backwards), "p": p, "p_mean": float(np.mean(p)), "p_std": float(np.std(p))}


# ---------------------------------------------------------------------------------------------- flags


def get_shuffle_parser(doc, *kinds):
    """Parser of a test; `kinds` are the models that it needs."""
    parser = cli.make_parser(doc)
    cli.add_data_flags(parser, subject=True, device=not kinds)
    if kinds:
        add_model_flags(parser, *kinds)
    group = parser.add_argument_group("clips")
    group.add_argument("--recons_dir", type=Path, help="folder or zip of reconstructions; default: recons/sub{ID}/{name}/results_recons")
    group.add_argument(
        "--without_cmg", type=Path, help="reconstructions with a repeated first frame, in the same form; default: {name}_ablate_motion"
    )
    group.add_argument("--gt", type=Path, help="true clips, .npy, folder or zip; default: test_groundtruth.npy")
    group.add_argument("--name", help="name of one of a subject's reconstructions; default: full, of --seed")
    group.add_argument("--clips", nargs="+", metavar="1-40,52", help="clip numbers, or a text file of them; default: see above")
    group.add_argument(
        "--min_vifi", type=cli.real(-1, 1), default=0.6, help="VIFI-score above which a clip is tested, where it was evaluated"
    )
    group.add_argument("--sd_path", help="Stable Diffusion, whose VAE gives the noise ceiling; default: the data set's own, if any")
    group.add_argument("--workers", type=cli.processes, changes_result=False, help="number of processes; default: one per core")
    group = parser.add_argument_group("test")
    group.add_argument("--n_permutations", type=cli.one_or_more, default=100, help="number of random orders in a p")
    group.add_argument("--n_repeats", type=cli.one_or_more, default=5, help="number of times that p is computed")
    group.add_argument("--released_p", action="store_true", help="share of orders as released, which can be 0, not (r + 1) / (K + 1)")
    group.add_argument("--out", type=Path, changes_result=False, help="folder for the results; default: explain/sub{ID}/shuffle_test")
    return parser


# ---------------------------------------------------------------------------------------------- what is tested


def _words(word):
    """Words of a text file, separated by commas, blanks or lines; a word that is no file, alone."""
    return read_bytes(word, 2**20).decode("utf-8-sig", "replace").replace(",", " ").split() if Path(word).is_file() else [word]


def choose_clips(args, dataset, place):
    """Numbers of the clips that are tested, and words that say how they were chosen."""
    if args.clips:
        return parse_clips(",".join(args.clips if len(args.clips) > 1 else _words(args.clips[0]))), "given"
    path = place.metrics(args.subj_ID, _names(args)[WITH]) / "per_clip.npz"
    if (dataset.name, args.subj_ID) in PAPER_CLIPS:
        chosen = PAPER_CLIPS[dataset.name, args.subj_ID]
        return list(chosen), f"the paper's {len(chosen)}"
    if not path.exists():
        raise missing(path, "name clips whose content was recognised with --clips, or run Evaluation_Metrics/evaluate.py first")
    numbers, columns = read_per_clip(path)
    if "VIFI-score" not in columns:
        raise UserError(f"{path} has no VIFI-score to choose clips by; name them with --clips, or evaluate with --vifi_path")
    chosen = np.asarray(numbers)[columns["VIFI-score"] > args.min_vifi]
    if len(chosen) < 2:
        raise UserError(f"{len(chosen)} clips have a VIFI-score above {args.min_vifi}; use a lower --min_vifi, or name clips with --clips")
    return [int(number) for number in chosen], f"VIFI-score > {args.min_vifi}"


def open_tested(args, dataset, place, numbers):
    """Pairs of every kind of reconstruction that there is, {words: Pairs}."""
    form = {"names": dataset.clip_names("test"), "n_frames": len(dataset.frame_indices), "times": clip_times(dataset)}
    gt = open_clips(args.gt or place.ground_truth, **form)
    recons = {name: place.recons(args.subj_ID, folder) / "results_recons" for name, folder in _names(args).items()}
    paths = {**recons, **{word: path for word, path in ((WITH, args.recons_dir), (WITHOUT, args.without_cmg)) if path}}
    if args.recons_dir:
        paths = {word: path for word, path in paths.items() if word == WITH or (word == WITHOUT and args.without_cmg)}
    there = {word: path for word, path in paths.items() if word == WITH or path.exists()}
    for word in paths.keys() - there.keys():
        log.info("%s: not reconstructed (%s)", word, paths[word])
    tested = {word: Pairs(open_clips(path, **form), gt, numbers) for word, path in there.items()}
    sd_path = source_at_hand(args, "sd_path", "sd")
    if sd_path:
        tested[CEILING] = Pairs(AutoencodedClips(gt, sd_path, cli.choose_device(args.device)), gt, numbers)
    log.info("clips: %s", format_clips(numbers))
    return tested


def _names(args):
    full = reconstruction_name("full", seed=args.seed)
    return {
        WITH: args.name or full,
        WITHOUT: reconstruction_name("full", "motion", args.seed) if args.name in (None, full) else f"{args.name}_ablate_motion",
        CONTROL: reconstruction_name("control", seed=args.seed),
    }


def facts_of(args, numbers, how):
    """What stands beside every p."""
    dataset = get_dataset(args.dataset)
    return {
        "dataset": dataset.name, "phantom": dataset.simulated, "subject": args.subj_ID, "name": _names(args)[WITH], "clips": len(numbers),
        "clip_numbers": numbers, "chosen": how, "n_permutations": args.n_permutations, "n_repeats": args.n_repeats, "seed": args.seed,
        "count": "r / K (released)" if args.released_p else "(r + 1) / (K + 1)",
    }  # fmt: skip


def repeats_of(args):
    """What the flags say of the test, keywords of shuffle_frames."""
    return {"seed": args.seed, "n_permutations": args.n_permutations, "n_repeats": args.n_repeats, "released": args.released_p}


def run_test(args, metric, test, *, lower_is_better, models=()):
    """Test every kind of reconstruction, print and write: the end of both scripts.

    `test` (pairs, words) gives a dict; `models` {kind: identity} are those that it looks through. Returns {words: dict}, empty where it
    was all done before.
    """
    dataset, place = get_dataset(args.dataset), Layout.of(args)
    numbers, how = choose_clips(args, dataset, place)
    tested = open_tested(args, dataset, place, numbers)
    identity = {word: pairs.pred.identity(numbers) for word, pairs in tested.items()} | dict(models)
    folder = (args.out or place.explain(args.subj_ID) / "shuffle_test") / metric
    with working(folder, args, facts={"tested": identity, "clip_numbers": numbers}) as record:
        if record is None:
            return {}
        tests, facts = {word: test(pairs, word) for word, pairs in tested.items()}, facts_of(args, numbers, how)
        print_tests(dataset, metric, facts, tests)
        record.finish(**facts, metric=metric, lower_is_better=lower_is_better, tests=tests)
    return tests


def print_tests(dataset, metric, facts, tests):
    print(f"{dataset.label}{metric}, {facts['clips']} clips ({facts['chosen']}), {facts['n_permutations']} orders, seed {facts['seed']}:")
    for word, test in tests.items():
        p = f"p {test['p_mean']:.3f} ± {test['p_std']:.3f} over {facts['n_repeats']} repeats"
        print(f"  {word}: {metric} {test['value']:.4f}, reversed {test['reversed']:.4f}; {p}")
