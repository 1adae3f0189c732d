"""Compare two evaluated methods clip by clip.

Reads    two folders that evaluate.py wrote, of the same clips under the same protocol; their clips for the pictures
Writes   comparison.md, comparison.csv   per metric: means, paired difference with its 95 % bootstrap interval, released test
         differences.csv                 A - B of every clip
         gallery.html                    per metric the clips where they differ most, ground truth and both
         all below --out

    python Evaluation_Metrics/compare.py outputs/phantom/metrics/sub1/full outputs/phantom/metrics/sub1/control
    python Evaluation_Metrics/compare.py scores_A scores_B --out A_against_B --metrics SSIM EPE --n_clips 6

A few seconds.
"""

import csv
import io
from pathlib import Path

import numpy as np
from PIL import Image

from common import cli, pages
from common.files import UserError, atomic_path, load_npz, read_json, write_text
from common.readers import format_clips, open_clips, resize_frames
from Evaluation_Metrics.bootstrap_with_wilcoxon import bootstrap_wilcoxon, paired_interval, stars
from Evaluation_Metrics.evaluate import LOWER_IS_BETTER
from Evaluation_Metrics.per_clip import write_csv

STRIP_FRAME = 96  # pixels of a frame in the gallery


def read_result(folder):
    """metrics.json and per-clip values of an evaluation.

    Returns
    -------
    facts : dict
    clips : (N,) int
    columns : {name: (N,)}
    """
    folder = Path(folder)
    facts = read_json(folder / "metrics.json")
    path = folder / "per_clip.npz"
    if "protocol" not in facts or not path.exists():
        raise UserError(folder, "a folder that evaluate.py finished", "another one", "run Evaluation_Metrics/evaluate.py first")
    columns = load_npz(path, "run Evaluation_Metrics/evaluate.py again with --overwrite")
    return facts, columns.pop("clip"), columns


def align(a, b):
    """Values of two methods for the clips that both have.

    Parameters
    ----------
    a, b : (clips, columns) each

    Returns
    -------
    clips : (N,) int
    pairs : {column: (values of A, values of B)}
    """
    clips, rows_a, rows_b = np.intersect1d(a[0], b[0], return_indices=True)
    return clips, {column: (a[1][column][rows_a], b[1][column][rows_b]) for column in a[1] if column in b[1]}


def compare_columns(pairs, seed):
    """Paired comparison of every column.

    Parameters
    ----------
    pairs : {column: (values of A, values of B)}
    seed : int

    Returns
    -------
    list of dict: metric, clips, a, b, difference, low, high, p, better ("A", "B" or None when the interval holds 0)
    """
    table = []
    for column, (x, y) in pairs.items():
        both = ~(np.isnan(x) | np.isnan(y))
        if not both.any():
            continue
        x, y = x[both], y[both]
        mean, low, high = paired_interval(x, y, rng=np.random.default_rng(seed))
        p = bootstrap_wilcoxon(x, y, rng=np.random.RandomState(seed))[1] if np.any(x != y) else None
        a_leads = (mean > 0) != (column in LOWER_IS_BETTER)
        better = None if low <= 0 <= high else "A" if a_leads else "B"
        entry = {"metric": column, "clips": int(both.sum()), "a": x.mean(), "b": y.mean()}
        table.append(entry | {"difference": mean, "low": low, "high": high, "p": p, "better": better})
    return table


def markdown(title, names, table):
    """The comparison as Markdown."""
    lines = [f"### {title}", "", f"A: {names[0]}; B: {names[1]}", ""]
    lines += ["| metric | clips | A | B | A - B | 95 % interval | better | released test p |", "| --- " * 8 + "|"]
    for row in table:
        metric = row["metric"] + (" ↓" if row["metric"] in LOWER_IS_BETTER else "")
        p = "–" if row["p"] is None else f"{row['p']:.2g} {stars(row['p'])}"
        interval = f"{row['low']:.4f} to {row['high']:.4f}"
        cells = [metric, row["clips"], f"{row['a']:.4f}", f"{row['b']:.4f}", f"{row['difference']:.4f}", interval, row["better"] or "–", p]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    note = "Interval: paired bootstrap over clips. Released test: Wilcoxon on 100 bootstrap means of each; its p falls with their number."
    return "\n".join([*lines, "", note])


# ---------------------------------------------------------------------------------------------- gallery


def strip(clip):
    """A clip's frames in a row, small, as a PNG's bytes."""
    row = np.concatenate(list(resize_frames(clip, STRIP_FRAME)), axis=1)  # h (f w) c
    buffer = io.BytesIO()
    Image.fromarray(row).save(buffer, "png")
    return buffer.getvalue()


def most_different(values, n):
    """Indices of the clips where two methods differ most, largest first; clips without a value are left out."""
    gap = np.abs(values[0] - values[1])
    order = np.argsort(-np.nan_to_num(gap, nan=-1.0), kind="stable")
    return [int(i) for i in order[:n] if not np.isnan(gap[i])]


def open_method(facts, path):
    """Readers of a method's clips and of the truth, as its evaluation read them; None where they are gone."""
    reads = facts["reads"]
    form = {key: reads["form"][key] for key in ("n_frames", "size")} | {"resize": True}
    recons, truth = Path(path or reads["recons"]), Path(reads["gt"])
    if not recons.exists() or not truth.exists():
        return None
    pred = open_clips(recons, reads["layout"], **form)
    return pred, pred.other_side() if truth == recons else open_clips(truth, **form)


def gallery(title, names, clips, pairs, methods, n_clips, phantom):
    """A page with, per metric, the clips where the methods differ most."""
    sections = []
    for column, values in pairs.items():
        cards = []
        for i in most_different(values, n_clips):
            number = int(clips[i])
            rows = (("ground truth", methods[0][1]), (f"A, {names[0]}", methods[0][0]), (f"B, {names[1]}", methods[1][0]))
            pictures = [pages.figure(pages.embedded(strip(reader.read(number))), what, alt=what, width="100%") for what, reader in rows]
            words = pages.facts({"A": float(values[0][i]), "B": float(values[1][i]), "A - B": float(values[0][i] - values[1][i])})
            cards.append(pages.card(pages.tag("h3", f"Clip {number}"), *pictures, words))
        if cards:
            direction = " (lower is better)" if column in LOWER_IS_BETTER else ""
            sections.append(pages.section(f"{column}{direction}: clips that differ most", pages.grid(cards, least="30rem")))
    return pages.page(title, sections, subtitle=f"A: {names[0]}. B: {names[1]}.", phantom=phantom)


# ---------------------------------------------------------------------------------------------- script


def get_parser():
    parser = cli.make_parser(__doc__)
    group = parser.add_argument_group("comparison")
    group.add_argument("results", nargs=2, type=Path, metavar="FOLDER", help="A and B: folders that evaluate.py wrote")
    group.add_argument("--out", type=Path, help="folder for the results; default: compare_{B} in A")
    group.add_argument("--metrics", nargs="+", help="in the gallery; default: all")
    group.add_argument("--n_clips", type=int, default=4, help="clips per metric in the gallery")
    group.add_argument("--recons_dirs", nargs=2, type=Path, metavar=("A", "B"), help="where the clips are, if they have moved")
    return parser


def main(args):
    results = [read_result(folder) for folder in args.results]
    protocols = [facts["protocol"] for facts, _, _ in results]
    if protocols[0] != protocols[1]:
        raise UserError(args.results[1], f"protocol {protocols[0]}, as in {args.results[0]}", protocols[1], "score both by one protocol")
    names = [facts["method"] for facts, _, _ in results]
    names = names if names[0] != names[1] else [folder.as_posix() for folder in args.results]
    clips, pairs = align(*(result[1:] for result in results))
    if not len(clips):
        raise UserError(args.results[1], f"clips {format_clips(results[0][1])}", format_clips(results[1][1]), "score the same clips")
    alone = [len(result[1]) - len(clips) for result in results]
    if any(alone):
        print(f"{len(clips)} clips in common; {alone[0]} in A alone, {alone[1]} in B alone are left out")
    unknown = sorted(set(args.metrics or ()) - set(pairs))
    if unknown:
        raise UserError("--metrics", f"among {', '.join(pairs)}", ", ".join(unknown), "mend the flag")

    phantom = any(facts["phantom"] for facts, _, _ in results)
    title = f"{'Phantom: ' if phantom else ''}{names[0]} against {names[1]}, protocol {protocols[0]}"
    out = args.out or args.results[0] / f"compare_{args.results[1].name}"
    table = compare_columns(pairs, args.seed)
    text = markdown(title, names, table)
    print(text)
    write_text(out / "comparison.md", text + "\n")
    with atomic_path(out / "comparison.csv") as temporary, open(temporary, "w", newline="") as handle:
        writer = csv.DictWriter(handle, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    write_csv(out / "differences.csv", clips, {column: a - b for column, (a, b) in pairs.items()})
    methods = [open_method(result[0], path) for result, path in zip(results, args.recons_dirs or (None, None), strict=True)]
    if None in methods:
        print("no gallery: the clips are not where the evaluation read them; name them by --recons_dirs")
    else:
        shown = {column: values for column, values in pairs.items() if column in (args.metrics or pairs)}
        write_text(out / "gallery.html", gallery(title, names, clips, shown, methods, args.n_clips, phantom))
    print(f"wrote {out}")


if __name__ == "__main__":
    cli.run(main, get_parser)
