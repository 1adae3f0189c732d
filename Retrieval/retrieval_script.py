"""What small_set.py and Large_set.py share: their flags, one search in its directions, the files that tell of it."""

import logging
from pathlib import Path

import numpy as np

from common import cli
from common.arms import add_arm_flag, named_arm
from common.datasets import get_dataset
from common.files import UserError, sha256
from common.layout import DEFAULT_SEED, Layout
from common.randomness import numpy_generator
from common.records import working
from common.released import ReleasedTree
from Evaluation_Metrics.results import write_rows
from Retrieval.galleries import METHODS, checkpoint_path, clips_of, decode_embeddings, distractors_of, fmri_path, join
from Retrieval.page import build_page, draw_ranks, draw_top_k
from Retrieval.retrieval import KS, Gallery, accuracy_of, chance_ranks, score

log = logging.getLogger(__name__)

DIRECTIONS = {"video from fMRI": "the clip that the fMRI belongs to", "fMRI from video": "the fMRI that belongs to the clip"}
N_SHOWN = 5  # retrieved entries that the page shows
FILES = ("ranks.csv", "ranks.png", "top_k.png", "gallery.html")

# ---------------------------------------------------------------------------------------------- flags


def get_retrieval_parser(doc, target):
    """Parser of both scripts; `target` is the default of --target."""
    parser = cli.make_parser(doc)
    group = cli.add_data_flags(parser, subject=True)
    add_arm_flag(group)
    group.add_argument("--released_root", type=Path, help="the authors' folder Mind_Animator_data, for its test fMRI and weights")
    group = parser.add_argument_group("decoder")
    group.add_argument("--method", choices=list(METHODS), default="contrastive", help="decoder: the paper's, or one of its baselines")
    group.add_argument("--solver", choices=["gradient", "ridge"], default="gradient", help="solver that linear_mse was fitted with")
    group.add_argument(
        "--retrieval_model_path", type=Path, help="retrieval decoder, ours (.safetensors) or released (.pth); {} stands for the subject "
        "(default: the one trained here)",
    )  # fmt: skip
    group.add_argument("--ckpt", type=_epoch, metavar="{N,best,last}", help="epoch of the checkpoint (default: the data set's)")
    group.add_argument(
        "--allow_unfinished", action="store_true", changes_result=False, help="use of the checkpoint of an unfinished training"
    )
    group = parser.add_argument_group("retrieval")
    group.add_argument("--target", choices=["text", "image"], default=target, help="CLIP features of the captions or of the middle frames")
    group.add_argument("--k", type=cli.one_or_more, nargs="+", default=list(KS), help="ranks up to which a clip counts as found")
    group.add_argument(
        "--ties", choices=["released", "average"], default="released",
        help="rank of entries that are equally similar, such as equal captions: the first of them, or their mean",
    )  # fmt: skip
    group.add_argument("--out", type=Path, changes_result=False, help="folder for the results (default: retrieval/sub{ID}/{name})")
    return parser


def _epoch(text):
    return int(text) if str(text).isdigit() else text


def result_name(args, gallery, default_target):
    """Folder of a result: the gallery, and what is not the default."""
    parts = [
        gallery,
        "released" if args.released_root else "",
        "" if args.method == "contrastive" else args.method,
        "ridge" if args.solver == "ridge" else "",
        "" if named_arm(args) == "full" else named_arm(args),
        "" if args.target == default_target else args.target,
        "" if args.ties == "released" else args.ties,
        "" if args.seed == DEFAULT_SEED else f"seed{args.seed}",
    ]
    return "_".join(filter(None, parts))


# ---------------------------------------------------------------------------------------------- the search


def search(embeddings, gallery, n, *, ks, ties, seed, directions=tuple(DIRECTIONS)):
    """Rank a gallery (M, D) of CLIP features, the test clips' first, by what decoders made of the fMRI of its n test clips, {arm: (N, D)}.

    Returns
    -------
    dict
        direction -> {"ranks": {arm: (N,)}, "scores": {arm: dict}, "chance": {k: share}, "chance_ranks": (N,) sorted, "pool": M}
    """
    labels, found = np.arange(n), {}
    for direction in directions:
        forward = direction == "video from fMRI"
        entry = {"ranks": {}, "scores": {}}
        for arm, embedding in embeddings.items():
            place = Gallery(gallery if forward else embedding)
            strict, loose = place.rank(embedding if forward else gallery[:n], labels)
            of_clips = strict.astype(float) if ties == "released" else (strict + loose) / 2
            entry["ranks"][arm] = of_clips
            entry["scores"][arm] = score(of_clips, len(place), ks, numpy_generator(seed, "bootstrap", direction))
            if "pool" not in entry:
                by_chance = chance_ranks(place, labels, ties, numpy_generator(seed, "chance", direction))
                entry |= {"pool": len(place), "chance": accuracy_of(by_chance, len(place), ks), "chance_ranks": by_chance.ravel()}
        found[direction] = entry
    return found


def check_widths(embedding, path, gallery):
    if embedding.shape[1] != gallery.features.shape[1]:
        raise UserError(
            f"{path} decodes embeddings of width {embedding.shape[1]}, but {gallery.files[0]} has {gallery.features.shape[1]} features; "
            "give a decoder that was trained on features of the same CLIP"
        )


# ---------------------------------------------------------------------------------------------- files


def write_ranks(path, gallery, found, nearest, n):
    """Write ranks.csv, one line a test clip: its rank in each direction and arm, and what was retrieved first."""
    rows, cosines = nearest
    ranked = {f"rank, {direction}, {arm}": of_clips for direction, entry in found.items() for arm, of_clips in entry["ranks"].items()}
    first = [f"retrieved {place}" for place in range(1, rows.shape[1] + 1)]
    lines = [["clip", "name", "caption", *ranked, *first, "cosine of the first"]]
    for clip in range(n):
        of_clip = [f"{of_clips[clip]:g}" for of_clips in ranked.values()]
        names = [gallery.names[row] for row in rows[clip]]
        lines.append([clip + 1, gallery.names[clip], gallery.captions[clip], *of_clip, *names, f"{cosines[clip, 0]:.6f}"])
    write_rows(path, lines)


def print_scores(title, found, ties):
    print(title)
    for direction, entry in found.items():
        for arm, scores in entry["scores"].items():
            shares = ", ".join(
                f"top-{k} {100 * share:.2f} % [{100 * scores['accuracy_interval'][k][0]:.2f}, {100 * scores['accuracy_interval'][k][1]:.2f}] "
                f"(chance {100 * entry['chance'][k]:.2f} %)"
                for k, share in scores["accuracy"].items()
            )
            ranks = (
                f"rank: mean {scores['mean_rank']:.1f}, median {scores['median_rank']:g}, reciprocal {scores['mean_reciprocal_rank']:.4f}"
            )
            print(f"{direction}, {arm}, pool {entry['pool']}, ties {ties}: {shares}; {ranks}")


# ---------------------------------------------------------------------------------------------- the work


def retrieve(args, name, default_target, distractors=()):
    """Do what small_set.py and Large_set.py do; `distractors` are words of `distractors_of`."""
    if args.solver == "ridge" and args.method != "linear_mse":
        raise UserError(f"--solver ridge is for --method linear_mse, not {args.method}; leave it out")
    if args.released_root and (named_arm(args), args.method) != ("full", "contrastive"):
        raise UserError("--released_root has the weights of one method and arm; leave out --arm, --method and areas")
    dataset, layout = get_dataset(args.dataset), Layout.of(args)
    tree = ReleasedTree(args.released_root, dataset, args.subj_ID) if args.released_root else None
    out = args.out or layout.retrieval(args.subj_ID) / result_name(args, name, default_target)
    checkpoints = {args.arm: checkpoint_path(args, dataset, layout, args.arm, tree)}
    control = None if tree or args.retrieval_model_path or args.arm == "control" else checkpoint_path(args, dataset, layout, "control")
    if control and control.is_file():  # what clip-shuffled training reaches, beside it
        checkpoints["control"] = control
    own = clips_of(layout, dataset, "test", args.target)
    gallery = join([own, *(part for word in distractors for part in distractors_of(word, args.out_root, args.target))])
    reads = [*checkpoints.values(), *(fmri_path(args, dataset, layout, arm, tree) for arm in checkpoints), *gallery.files]
    facts = {"arms": list(checkpoints)}
    with working(out, args, inputs=dict.fromkeys(reads), outputs=[out / file for file in FILES], facts=facts) as record:
        if record is None:
            return
        if args.target == "text":
            gallery.tie_captions()
        decoded = {arm: decode_embeddings(args, dataset, layout, arm, path, tree) for arm, path in checkpoints.items()}
        embeddings = {arm: embedding for arm, (embedding, _) in decoded.items()}
        for arm, embedding in embeddings.items():
            check_widths(embedding, checkpoints[arm], gallery)
        ks = [k for k in sorted(set(args.k)) if k <= len(own)]
        if len(ks) < len(set(args.k)):
            log.info("left out: %s, more than the %d clips", ", ".join(f"k = {k}" for k in sorted(set(args.k) - set(ks))), len(own))
        directions = ("video from fMRI",) if distractors else tuple(DIRECTIONS)  # distractors have no fMRI
        found = search(embeddings, gallery.features, len(own), ks=ks, ties=args.ties, seed=args.seed, directions=directions)
        epochs = {arm: epoch for arm, (_, epoch) in decoded.items()}
        report(args, name, record, out, gallery, found, embeddings[args.arm], checkpoints, epochs, distractors)


def report(args, name, record, out, gallery, found, embedding, checkpoints, epochs, distractors):
    """Print and write what was found."""
    dataset, n = get_dataset(args.dataset), len(embedding)
    who = METHODS[args.method] + (", ridge" if args.solver == "ridge" else "")
    title = f"{dataset.name}, subject {args.subj_ID}: {name.replace('_', ' ')}, {args.target} target, {who}"
    print_scores(f"{title}: {n} test clips, {len(gallery)} in the gallery, seed {args.seed}", found, args.ties)
    repeated = gallery.n_repeated if args.target == "text" else 0
    if repeated:
        words = "the first of equal ones (released)" if args.ties == "released" else "the mean of equal ones"
        print(f"{repeated} of {len(gallery)} captions stand more than once; a rank is {words}")
    nearest = Gallery(gallery.features).nearest(embedding, min(N_SHOWN, len(gallery)))
    write_ranks(out / "ranks.csv", gallery, found, nearest, n)
    draw_ranks(out / "ranks.png", title, found)
    draw_top_k(out / "top_k.png", title, found)
    first = found["video from fMRI"]
    results = {direction: {"pool": entry["pool"], "chance": entry["chance"], "arms": entry["scores"]} for direction, entry in found.items()}
    facts = {"dataset": dataset.name, "phantom": dataset.simulated, "subject": args.subj_ID, "gallery": name, "target": args.target}
    facts |= {"method": who, "arm": args.arm, "ties": args.ties, "seed": args.seed, "clips": n, "pool": len(gallery)}
    facts |= {"repeated_captions": repeated, "distractors": list(distractors)}
    build_page(
        out / "gallery.html", title, dataset.note, facts, gallery, found, nearest,
        report=Layout.of(args).subject_report(args.subj_ID) if args.out is None else None,
    )  # fmt: skip
    models = {arm: {"file": path.as_posix(), "sha256": sha256(path), "epoch": epochs[arm]} for arm, path in checkpoints.items()}
    record.finish(**facts, accuracy=first["scores"][args.arm]["accuracy"], chance=first["chance"], directions=results, checkpoints=models)
    print(f"wrote {out}")
