"""Score a folder of reconstructed clips by every metric of a protocol, beside free baselines, in one command.

Each clip is decoded once. Metrics whose model is not named show a dash. A run that stops goes on where it was.

Reads    a folder or zip of reconstructed clips (--recons_dir), the true ones (--gt), the models of the flags
Writes   per_clip.csv, per_clip.npz     values of every clip
         metrics.json                   mean, std, standard error, number of clips, chance, for the method and baselines
         table.md, distributions.png    the same to look at
         baselines/{name}.npz           per-clip values of the baselines
         args.json                      what was run
         all below --out (default: metrics/sub{ID}/{name}, protocols other than the first in a folder of theirs)

    python Evaluation_Metrics/evaluate.py --dataset phantom --subj_ID 1
    python Evaluation_Metrics/evaluate.py --dataset phantom --subj_ID 1 --protocol correct --name control
    python Evaluation_Metrics/evaluate.py --recons_dir results.zip --layout side_by_side --out scores --baselines none

Without models about 2 s per clip of 8 frames of 512 x 512 and method on one core; half a minute in all on the phantom.
"""

import json
import logging
from pathlib import Path

import numpy as np

from common import cli
from common.datasets import get_dataset
from common.files import atomic_path, write_text
from common.pages.gallery import build_gallery
from common.layout import Layout, part
from common.readers import format_clips
from common.records import Record
from Evaluation_Metrics import EPE, PSNR, SSIM, CLIP_consist, VIFI_score, baselines, hue_pcc, n_way, per_clip
from Evaluation_Metrics.towers import KINDS, Towers, add_model_flags

log = logging.getLogger(__name__)

PROTOCOLS = json.loads((Path(__file__).parent / "protocols.json").read_text())
METRICS = {  # what a protocol's row may call
    "ssim": SSIM.metric,
    "psnr": PSNR.metric,
    "hue_pcc": hue_pcc.metric,
    "epe": EPE.metric,
    "clip_pcc": CLIP_consist.metric,
    "vifi_score": VIFI_score.metric,
    "n_way_frames": n_way.metric_of_frames,
    "n_way_clips": n_way.metric_of_clips,
}
LOWER_IS_BETTER = {"EPE", "angular-error"}


# ---------------------------------------------------------------------------------------------- protocol


def protocol_metrics(protocol):
    """Metrics of a protocol's row."""
    metrics = []
    for entry in PROTOCOLS[protocol]["metrics"]:
        options = {key: value for key, value in entry.items() if key != "metric"}
        metrics.append(METRICS[entry["metric"]](**options))
    return metrics


def protocol_form(protocol, dataset):
    """How a protocol reads clips: keywords of per_clip.open_pairs. No frame is larger than the data set's."""
    row = PROTOCOLS[protocol]
    form = {key: row[key] for key in ("layout", "borders", "n_frames", "size", "resize")}
    return form | {"size": min(row["size"], dataset.frame_size)}


def split_by_models(metrics, towers):
    """Metrics that can be computed, and why the others cannot: {column: reason}."""
    able, unable = [], {}
    for metric in metrics:
        absent = [KINDS[kind][0] for kind in dict(metric.needs) if kind not in towers]
        if absent:
            unable |= {column: "no " + ", ".join(f"--{flag}" for flag in absent) for column in metric.columns}
        else:
            able.append(metric)
    return able, unable


# ---------------------------------------------------------------------------------------------- what comes out


def save_per_clip(path, numbers, columns):
    """Write per-clip values as .npz: `clip` and one array per column."""
    with atomic_path(path) as temporary:
        np.savez(temporary, clip=np.array(numbers), **columns)


def markdown_table(title, columns, rows, chance):
    """The summaries as Markdown.

    Parameters
    ----------
    title : str
    columns : names
    rows : {method: {column: summary}}
    chance : {column: level}
    """

    def cell(summary):
        return f"{summary['mean']:.3f} ± {summary['std']:.3f}" if summary and summary["n"] else "–"

    names = [column + (" ↓" if column in LOWER_IS_BETTER else "") for column in columns]
    lines = [f"### {title}", "", "| " + " | ".join(["", *names]) + " |", "| --- " * (len(columns) + 1) + "|"]
    lines += ["| " + " | ".join([method, *(cell(row.get(column)) for column in columns)]) + " |" for method, row in rows.items()]
    if chance:
        lines.append("| " + " | ".join(["chance", *(f"{chance[c]:.3f}" if c in chance else "–" for c in columns)]) + " |")
    return "\n".join([*lines, "", "Mean ± standard deviation over clips."])


def draw_distributions(path, title, values, rows, chance):
    """Histogram of every metric over the clips, with the baselines' means and chance.

    Parameters
    ----------
    path : of the PNG
    title : str
    values : {column: (N,)} of the method
    rows : {method: {column: summary}}, the method first
    chance : {column: level}
    """
    from matplotlib.figure import Figure

    shown = {column: v[~np.isnan(v)] for column, v in values.items() if not np.isnan(v).all()}
    n_columns = min(4, len(shown))
    n_rows = -(-len(shown) // n_columns)
    fig = Figure(figsize=(3.6 * n_columns, 2.7 * n_rows + 0.6), layout="constrained")
    axes = np.atleast_1d(fig.subplots(n_rows, n_columns)).ravel()
    method, *others = rows
    for axis, (column, v) in zip(axes, shown.items(), strict=False):
        axis.hist(v, bins=min(30, max(5, len(v) // 4)), color="0.8")
        axis.axvline(v.mean(), color="black", linewidth=2, label=method)
        for colour, other in enumerate(others):
            if rows[other].get(column, {}).get("n"):
                axis.axvline(rows[other][column]["mean"], color=f"C{colour}", label=other)
        if column in chance:
            axis.axvline(chance[column], color="0.4", linestyle=":", label="chance")
        axis.set_title(column + (" (lower is better)" if column in LOWER_IS_BETTER else ""), fontsize=10)
        axis.set_yticks([])
    for axis in axes[len(shown) :]:
        axis.set_visible(False)
    handles = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    fig.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    fig.suptitle(title, fontsize=11)
    with atomic_path(path) as temporary:
        fig.savefig(temporary, dpi=110)


# ---------------------------------------------------------------------------------------------- script


def get_parser():
    parser = cli.make_parser(__doc__)
    cli.add_data_flags(parser, subject=True)
    per_clip.add_clip_flags(parser)
    add_model_flags(parser, *KINDS)
    parser.add_argument("--sd_path", help="Stable Diffusion, folder or hub id, whose VAE gives the ceiling; the phantom's own for its data")
    group = parser.add_argument_group("evaluation")
    group.add_argument("--protocol", choices=list(PROTOCOLS), default="paper", help="definitions, see docs and protocols.json")
    group.add_argument("--baselines", choices=["all", "none"], default="all", help="the free baselines beside the method")
    group.add_argument("--cache", type=Path, help="folder for finished blocks and features; default: metrics/cache, or cache below --out")
    return parser


def main(args):
    dataset, place = get_dataset(args.dataset), Layout.of(args)
    dataset.check_subject(args.subj_ID)
    form = protocol_form(args.protocol, dataset)
    pairs = per_clip.open_pairs(args, **form)
    towers = Towers.of(args, dataset.is_phantom)
    metrics, unable = split_by_models(protocol_metrics(args.protocol), towers)
    own = cli.PROJECT / "phantom" / "models" / "sd"
    sd_path = args.sd_path or (own if dataset.is_phantom and (own / "vae").is_dir() else None)

    out = args.out or place.metrics(args.subj_ID, args.name) / ("" if args.protocol == "paper" else args.protocol)
    cache = args.cache or (out / "cache" if args.out else place.root / "metrics" / "cache")
    identity = per_clip.run_identity(pairs, metrics, towers)
    record = Record(out, args, neutral=("batch_size", "cache"))
    if per_clip.is_done(record, args, identity):
        return
    record.start()

    title = f"{dataset.name} subject {args.subj_ID}, {args.name}, protocol {args.protocol}"
    print(f"{title}: {len(pairs)} clips; {PROTOCOLS[args.protocol]['about']}")
    options = {"cache": cache, "workers": args.workers, "allow_missing": args.allow_missing}
    columns, lost = per_clip.score_pairs(pairs, metrics, towers, desc=args.name, **options)
    values = {args.name: columns}
    made, absent = {}, {}
    if args.baselines == "all":
        scored = [number for number in pairs.wanted if number not in set(lost)]
        names = dataset.clip_names("train") if hasattr(dataset, "clip_names") else None
        training = baselines.training_clips(place.root / "stimuli_frames" / part("train"), names, form["n_frames"], form["size"])
        made, absent = baselines.make_baselines(pairs, scored, training, args.seed, sd_path, cli.choose_device(args.device))
        for name, reader in made.items():
            against = per_clip.Pairs(reader, pairs.truth(), numbers=scored)
            values[name], _ = per_clip.score_pairs(against, metrics, towers, desc=name, **options)
            save_per_clip(out / "baselines" / f"{name.replace(' ', '_')}.npz", scored, values[name])
            per_clip.write_csv(out / "baselines" / f"{name.replace(' ', '_')}.csv", scored, values[name])

    # -- tables
    names = [column for metric in protocol_metrics(args.protocol) for column in metric.columns]
    chance = {column: level for metric in protocol_metrics(args.protocol) for column, level in metric.chance.items()}
    rows = {method: {column: per_clip.summarise(v) for column, v in table.items()} for method, table in values.items()}
    undefined = {column: sorted(set(per_clip.gaps(pairs.wanted, v)) - set(lost)) for column, v in columns.items()}
    undefined = {column: numbers for column, numbers in undefined.items() if numbers}
    for column, numbers in undefined.items():
        print(f"{column}: undefined for {len(numbers)} clips, left out: {format_clips(numbers)}")
    for column in names:
        if column in unable:
            print(f"{column}: – ({unable[column]})")
        else:
            print(per_clip.describe(column, rows[args.name][column], len(pairs.wanted), chance.get(column)))
    for name, reason in absent.items():
        print(f"no baseline '{name}': {reason}")
    if lost:
        print(f"{len(lost)} of {len(pairs.wanted)} clips missing or unreadable: {format_clips(lost)}")
    table = markdown_table(title, names, rows, chance)
    print(f"\n{table}\n")

    save_per_clip(out / "per_clip.npz", pairs.wanted, columns)
    per_clip.write_csv(out / "per_clip.csv", pairs.wanted, columns)
    write_text(out / "table.md", table + "\n")
    draw_distributions(out / "distributions.png", title, columns, rows, chance)
    record.finish(
        identity=identity,
        title=title,
        protocol=args.protocol,
        dataset=dataset.name,
        phantom=dataset.is_phantom,
        subject=args.subj_ID,
        method=args.name,
        columns=names,
        reads={"recons": pairs.pred.path, "layout": pairs.pred.layout, "gt": pairs.truth().path, "form": form},
        rows=rows,
        chance=chance,
        clips={"wanted": len(pairs.wanted), "scored": len(pairs.wanted) - len(lost), "missing": lost},
        undefined=undefined,
        not_scored=unable,
        baselines_made_of={name: reader.path for name, reader in made.items()},
        baselines_not_made=absent,
    )
    recons = place.recons(args.subj_ID, args.name)
    if args.protocol == "paper" and (recons / "manifest.json").exists() and pairs.pred.path.parent == recons:
        build_gallery(recons, out)  # now with each clip's values
    print(f"wrote {out}")


if __name__ == "__main__":
    cli.run(main, get_parser)
