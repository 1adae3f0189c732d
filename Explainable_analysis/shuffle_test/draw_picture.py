"""Draw the frame-shuffle tests as bars, and gather their p for the tables.

Reads    explain/sub{ID}/shuffle_test/{EPE,CLIP-pcc}/metrics.json, those that there are
Writes   explain/sub{ID}/shuffle_test/shuffle_test.png, .pdf; metrics.json with p {metric: {bar: [mean, std]}} for paper_tables.py

    python Explainable_analysis/shuffle_test/draw_picture.py --dataset phantom --subj_ID 1

A second.
"""

from pathlib import Path

import numpy as np

from common import cli
from common.datasets import get_dataset
from common.figures import panels, save_figure
from common.files import UserError, missing, read_json, write_json
from common.layout import Layout
from Explainable_analysis.Cortical_visualization.maps import is_newer

METRICS = ("EPE", "CLIP-pcc")
SHARED = ("dataset", "phantom", "subject", "clips", "n_permutations", "n_repeats", "count", "seed")  # written with p
COLOURS = {"with CMG": "#2457a6", "without CMG": "#d98c2b", "noise ceiling": "#1a7f47", "control": "#8a929b"}


def draw(path, title, results):
    """One panel a metric, one bar a kind of reconstruction, the dashed line at 0.05."""
    figure, axes = panels(len(results), 3.4, 3.6)
    for axis, (metric, facts) in zip(axes, results.items(), strict=True):
        tests = facts["tests"]
        means, spread = ([test[key] for test in tests.values()] for key in ("p_mean", "p_std"))
        bars = axis.bar(list(tests), means, yerr=spread, capsize=3, color=[COLOURS[word] for word in tests])
        axis.bar_label(bars, [f"{mean:.3f}" for mean in means], padding=2, fontsize=8, zorder=3, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
        axis.axhline(0.05, color="black", ls="--", lw=1)
        axis.set(
            title=f"{metric}, {facts['clips']} clips", ylabel="p of the frames' order", ylim=(0, max(0.2, 1.15 * np.max(means) + 0.05))
        )
        axis.tick_params(axis="x", rotation=20)
    figure.suptitle(title, fontsize=10)
    save_figure(figure, path, "png", "pdf", dpi=130)


def get_parser():
    parser = cli.make_parser(__doc__)
    cli.add_data_flags(parser, subject=True)
    group = parser.add_argument_group("output")
    group.add_argument("--out", type=Path, changes_result=False, help="folder of the tests; default: explain/sub{ID}/shuffle_test")
    return parser


def main(args):
    dataset = get_dataset(args.dataset)
    folder = args.out or Layout.of(args).explain(args.subj_ID) / "shuffle_test"
    paths = {metric: folder / metric / "metrics.json" for metric in METRICS}
    there = {metric: path for metric, path in paths.items() if path.exists()}
    if not there:
        raise missing(paths["EPE"], "run shuffle_for_EPE.py first, or check --out_root")
    if not args.overwrite and is_newer(folder / "metrics.json", *there.values()):
        print(f"{folder}: already done, --overwrite to redo")
        return
    results = {metric: read_json(path) for metric, path in there.items()}
    facts = next(iter(results.values()))
    wanted = facts | {"dataset": dataset.name, "phantom": dataset.simulated, "subject": args.subj_ID}
    for metric, found in results.items():
        if unlike := [key for key in (*SHARED, "clip_numbers", "name") if found.get(key) != wanted.get(key)]:
            raise UserError(f"{there[metric]} is of other {', '.join(unlike)}; run both tests alike, or choose another --out")
    n, least = facts["n_permutations"], "0" if facts["count"].startswith("r / K") else f"{1 / (facts['n_permutations'] + 1):.4f}"
    title = (
        f"{dataset.label}subject {args.subj_ID}: frames shuffled, p ± standard deviation over {facts['n_repeats']} repeats\n"
        f"of {n} orders (p is {least} at least), seed {facts['seed']}"
    )
    draw(folder / "shuffle_test.png", title, results)
    p = {metric: {word: [test["p_mean"], test["p_std"]] for word, test in found["tests"].items()} for metric, found in results.items()}
    write_json(folder / "metrics.json", {**{key: facts[key] for key in SHARED}, "p": p})
    print(f"wrote {folder / 'shuffle_test.png'}")


if __name__ == "__main__":
    cli.run(main, get_parser)
