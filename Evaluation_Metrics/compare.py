"""Compare two evaluated methods clip by clip.

Both must have been scored on the same subject against the same truth, by the same protocol and models.

Reads    two folders that evaluate.py wrote; their clips for the pictures
Writes   comparison.md, comparison.csv   per metric: means, paired difference with its 95 % bootstrap interval, released test
         differences.csv                 A - B of every clip
         gallery.html, strips/           the same to look at, and per metric the clips where they differ most, ground truth and both
         blind.html, blind_key.json      with --blind_page: a page for raters, and which side is whose, for preference.py
         all below --out

    python Evaluation_Metrics/compare.py outputs/phantom/metrics/sub1/full outputs/phantom/metrics/sub1/control
    python Evaluation_Metrics/compare.py scores_A scores_B --out A_against_B --metrics SSIM EPE --n_clips 6
    python Evaluation_Metrics/compare.py scores_A scores_B --out A_against_B --blind_page

A few seconds.
"""

from pathlib import Path

import numpy as np

from common import cli
from common.clip_frames import clip_times
from common.datasets import DATASETS
from common.files import MissingFile, UserError, missing, write_text
from common.readers import format_clips, open_clips
from Evaluation_Metrics.blind_page import build_blind_page
from Evaluation_Metrics.bootstrap_with_wilcoxon import bootstrap_wilcoxon, paired_interval, stars
from Evaluation_Metrics.comparison_page import build_comparison, who_is_who
from Evaluation_Metrics.gallery import about, note_of, read_manifest, subject_pages
from Evaluation_Metrics.results import LOWER_IS_BETTER, UNRANKED, align, differing, read_result, write_csv, write_dicts
from Evaluation_Metrics.samples import spread_of
from Evaluation_Metrics.tables import table_lines

NEVER = ("data set", "phantom", "protocol", "version of the protocol")  # results that differ in one of these don't compare at all


# ---------------------------------------------------------------------------------------------- may they be compared?


def check_comparable(a, b, folders, allow_differences):
    """In what the results (metrics.json) a and b differ, in words, "" for nothing; a UserError where they don't compare.

    `folders` are theirs, for the error line; with `allow_differences` other subjects, truths and models are no error.
    """
    found = differing(a, b, ignore=("clips",))
    refused = [what for what in found if what in NEVER or not allow_differences]
    if refused:
        described = "; ".join(f"{what} {found[what][0]} and {found[what][1]}" for what in refused)
        hint = "score both alike" if any(what in NEVER for what in refused) else "score both alike, or say --allow_differences"
        raise UserError(f"{folders[0]} and {folders[1]} were not scored alike ({described}); {hint}")
    return "; ".join(f"other {what}: A {x}, B {y}" for what, (x, y) in found.items())


def common_clips(results, folders):
    """Clips that both results have, their values, and a note on those that are left out, "" for none."""
    clips, pairs = align(*(result[1:] for result in results))
    every = [format_clips(result[1]) for result in results]
    if not len(clips):
        raise UserError(f"{folders[0]} has clips {every[0]}, {folders[1]} clips {every[1]}, none in common; score the same clips")
    alone = [len(result[1]) - len(clips) for result in results]
    note = f"{len(clips)} clips in common; {alone[0]} in A alone, {alone[1]} in B alone are left out" if any(alone) else ""
    return clips, pairs, note


# ---------------------------------------------------------------------------------------------- the numbers


def compare_columns(pairs, seed):
    """Paired comparison of every column of `pairs` {column: (values of A, values of B)}.

    Returns
    -------
    list of dict
        metric, clips, a, b, difference, low, high, p, better ("A", "B" or None when the interval holds 0, of one clip, or neither direction is better)
    """
    table = []
    for column, (x, y) in pairs.items():
        both = ~(np.isnan(x) | np.isnan(y))
        if not both.any():
            continue
        x, y = x[both], y[both]
        mean, low, high = paired_interval(x, y, rng=np.random.default_rng(seed))
        p = bootstrap_wilcoxon(x, y, rng=np.random.RandomState(seed))[1] if len(x) > 1 and np.any(x != y) else None
        a_leads = (mean > 0) != (column in LOWER_IS_BETTER)
        better = None if len(x) < 2 or low <= 0 <= high or column in UNRANKED else "A" if a_leads else "B"
        entry = {"metric": column, "clips": int(both.sum()), "a": x.mean(), "b": y.mean()}
        table.append(entry | {"difference": mean, "low": low, "high": high, "p": p, "better": better})
    return table


def words_of_samples(facts, column):
    """Standard deviation between the samples of a clip, of those of A and B that have several."""
    spread = {name: spread_of(of, column) for name, of in zip("AB", facts, strict=True)}
    return ", ".join(f"{name} {value:.4f}" for name, value in spread.items() if value is not None)


def markdown(title, names, table, *remarks):
    """The comparison as Markdown; `remarks` stand once, above the table."""
    heads = ["metric", "clips", "A", "B", "A - B", "95 % interval", "better", "released test p"]
    with_notes, with_samples = (any(row.get(key) for row in table) for key in ("note", "between_samples"))
    heads += ["std between samples"] * with_samples + ["note"] * with_notes
    rows = []
    for row in table:
        metric = row["metric"] + (" ↓" if row["metric"] in LOWER_IS_BETTER else "")
        p = "–" if row["p"] is None else f"{row['p']:.2g} {stars(row['p']) if row['better'] else ''}".strip()
        interval = f"{row['low']:.4f} to {row['high']:.4f}"
        cells = [metric, row["clips"], f"{row['a']:.4f}", f"{row['b']:.4f}", f"{row['difference']:.4f}", interval, row["better"] or "–", p]
        rows.append(cells + [row["between_samples"] or "–"] * with_samples + [row["note"]] * with_notes)
    note = "Interval: paired bootstrap over clips. Released test: Wilcoxon on 100 bootstrap means of each; its p falls with their number. "
    note += "Stars (* p < 0.05, ** 0.01, *** 0.001) only where the interval excludes 0."
    above = [words for words in (who_is_who(names), *remarks) if words]
    return "\n\n".join([f"### {title}", *above, "\n".join(table_lines(heads, rows)), note])


# ---------------------------------------------------------------------------------------------- pages


def open_method(facts, path=None):
    """Readers of a method's clips and of the truth, as its evaluation read them; a UserError names what is gone."""
    reads, dataset = facts["reads"], DATASETS.get(facts["dataset"])
    recons, truth = Path(path or reads["recons"]), Path(reads["gt"])
    if gone := [place for place in (recons, truth) if not place.exists()]:
        raise missing(gone[0], "name the folders of the clips with --recons_dirs" if gone[0] == recons else "put the true clips back there")
    form = {key: reads["form"][key] for key in ("n_frames", "size")} | {"resize": True}
    form |= {"times": clip_times(dataset), "names": dataset.clip_names("test")} if dataset else {}
    pred = open_clips(recons, reads["layout"], **form)
    return pred, pred.other_side() if truth == recons else open_clips(truth, **form)


def made_from(folder):
    """Sentences on what a reconstruction of this project was made from; "" of others."""
    return " ".join(about(read_manifest(folder))) if (folder / "manifest.json").is_file() else ""


# ---------------------------------------------------------------------------------------------- script


def get_parser():
    parser = cli.make_parser(__doc__)
    group = parser.add_argument_group("comparison")
    group.add_argument("results", nargs=2, type=Path, metavar="FOLDER", help="A and B: folders that evaluate.py wrote")
    group.add_argument("--out", type=Path, help="folder for the results; default: compare_{B} in A")
    group.add_argument(
        "--allow_differences", action="store_true", help="comparison even of other subjects, truths or models, which every row then names"
    )
    group.add_argument("--metrics", nargs="+", help="metrics in the gallery; default: all")
    group.add_argument("--n_clips", type=cli.one_or_more, default=4, help="clips per metric in the gallery")
    group.add_argument(
        "--blind_page", action="store_true", help="page on which people judge pairs without knowing whose they are, besides the tables"
    )
    group.add_argument("--n_pairs", type=cli.one_or_more, default=40, help="clips on that page, at most")
    group.add_argument("--recons_dirs", nargs=2, type=Path, metavar=("A", "B"), help="folders of the clips, if they have moved")
    return parser


def main(args):
    results = [read_result(folder) for folder in args.results]
    facts = [result[0] for result in results]
    differ = check_comparable(*facts, args.results, args.allow_differences)
    clips, pairs, note = common_clips(results, args.results)
    if unknown := sorted(set(args.metrics or ()) - set(pairs)):
        raise UserError(f"--metrics {' '.join(unknown)}: no values of both; choose from {', '.join(pairs)}")
    table = compare_columns(pairs, args.seed)
    if not table:
        raise UserError(
            f"{args.results[0]} and {args.results[1]} have no metric with values of the same clips; score both by the same metrics"
        )
    table = [row | {"between_samples": words_of_samples(facts, row["metric"]), "note": differ} for row in table]

    names = [of["method"] for of in facts]
    names = names if names[0] != names[1] else [folder.as_posix() for folder in args.results]
    whose = f"{facts[0]['dataset']} subject {facts[0].get('subject', '–')}"
    title = f"{whose}: {names[0]} against {names[1]}, protocol {facts[0]['protocol']}"
    out = args.out or args.results[0] / f"compare_{args.results[1].name}"
    text = markdown(title, names, table, note, f"Seed {args.seed}.")
    table = [row | {"note": "; ".join(filter(None, [differ, note]))} for row in table]
    print(text)
    write_text(out / "comparison.md", text + "\n")
    write_dicts(out / "comparison.csv", table)
    write_csv(out / "differences.csv", clips, {column: a - b for column, (a, b) in pairs.items()})
    try:
        methods = [open_method(of, path) for of, path in zip(facts, args.recons_dirs or (None, None), strict=True)]
    except MissingFile as error:
        if args.blind_page:
            raise
        print(f"no gallery: {error}")
    else:
        shown = {column: values for column, values in pairs.items() if column in (args.metrics or pairs)}
        readers = {"truth": methods[0][1], "A": methods[0][0], "B": methods[1][0]}
        note = note_of(facts[0]) or note_of(facts[1])
        if args.blind_page:
            page = build_blind_page(out, names, clips, readers, n_clips=args.n_pairs, seed=args.seed, note=note)
            print(f"hand out {page}, keep blind_key.json, and give both to preference.py with the answers")
        pages = {page: label for method in methods for label, page in subject_pages(method[0].path.parent.parent)}
        build_comparison(
            out, title, names, table, clips, shown, readers, n_clips=args.n_clips, lower_is_better=LOWER_IS_BETTER, note=note,
            pages=[(label, page) for page, label in pages.items()], made=[made_from(method[0].path.parent) for method in methods],
        )  # fmt: skip
    print(f"wrote {out}")


if __name__ == "__main__":
    cli.run(main, get_parser)
