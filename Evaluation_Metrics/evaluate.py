"""Score a folder of reconstructed clips by every metric of a protocol, beside free baselines, in one command.

Each clip is decoded once. Metrics whose model is not at hand show a dash. Work that was stopped goes on where it was.

Reads    a folder or zip of reconstructed clips (--recons_dir), the true ones (--gt), the models of the flags
Writes   per_clip.csv, per_clip.npz     values of every clip
         metrics.json                   mean, std, standard error, number of clips, chance, for the method and baselines;
                                        what was scored: data set, subject, truth, models with their SHA-256, protocol, clips
         table.md, distributions.png    the same to look at
         baselines/{name}.npz           per-clip values of the baselines
         args.json                      arguments and versions
         all below --out (default: metrics/sub{ID}/{name}, protocols other than the first in a folder of theirs)

    python Evaluation_Metrics/evaluate.py --dataset phantom --subj_ID 1
    python Evaluation_Metrics/evaluate.py --dataset phantom --subj_ID 1 --protocol correct --name control
    python Evaluation_Metrics/evaluate.py --recons_dir results.zip --layout side_by_side --out scores --baselines none

Without models about 2 s per clip of 8 frames of 512 x 512 and method on one core; on the phantom a minute or two, half of it for
the baselines (--baselines none).
"""

import contextlib
from functools import partial
from pathlib import Path

import numpy as np

from common import cli
from common.datasets import get_dataset
from common.figures import panels, save_figure
from common.files import write_text
from common.layout import Layout, part
from common.readers import format_clips
from common.records import working
from Evaluation_Metrics import metric_script, results
from Evaluation_Metrics.baselines import score_baselines
from Evaluation_Metrics.gallery import build_gallery
from Evaluation_Metrics.per_clip import first_before_others, score_pairs, split_truth
from Evaluation_Metrics.protocols import PROTOCOLS, VERSION, protocol_form, protocol_metrics, split_by_needs
from Evaluation_Metrics.samples import mean_over_samples, open_samples, print_spread
from Evaluation_Metrics.tables import Row, Table, to_markdown
from Evaluation_Metrics.towers import KINDS, Towers, add_model_flags, source_at_hand

TRUE = "true clips"  # row of what the truth itself scores, where that is not trivial
FILES = ("per_clip.npz", "per_clip.csv", "table.md", "distributions.png")  # besides metrics.json

# ---------------------------------------------------------------------------------------------- what comes out


def histogram_bins(values):
    """Edges of up to 30 bins; values that hardly differ stand in one of five bins around them."""
    low, high = values.min(), values.max()
    if high - low < 1e-6 * max(1, abs(low), abs(high)):
        return np.linspace(low - 0.5, high + 0.5, 6)
    return np.linspace(low, high, min(30, max(5, len(values) // 4)) + 1)


def draw_distributions(path, title, values, rows, chance):
    """Histogram of every metric over the clips, with the baselines' means and chance.

    `values` {column: (N,)} are the method's, `rows` {method: {column: summary}} with the method first, `chance` {column: level}.
    """
    shown = {column: v[np.isfinite(v)] for column, v in values.items() if np.isfinite(v).any()}
    fig, axes = panels(len(shown), 3.4, 2.2, above=0.8)
    method, *others = rows
    for axis, (column, v) in zip(axes, shown.items(), strict=True):
        axis.hist(v, bins=histogram_bins(v), color="0.8")
        axis.axvline(v.mean(), color="black", linewidth=2, label=method)
        for colour, other in enumerate(others):
            if rows[other].get(column, {}).get("n"):
                axis.axvline(rows[other][column]["mean"], color=f"C{colour}", label=other)
        if column in chance:
            axis.axvline(chance[column], color="0.4", linestyle=":", label="chance")
        axis.set_title(column + (" (lower is better)" if column in results.LOWER_IS_BETTER else ""), fontsize=10)
        axis.set_yticks([])
    handles = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    fig.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    fig.suptitle(title, fontsize=11)
    save_figure(fig, path, dpi=110)


def print_values(columns, summaries, n_wanted, levels, unable, absent, lost):
    """One line per column, then the baselines and the clips that are not there.

    `levels` {column: {words such as "chance": number}}; `unable` and `absent` {column or baseline: why there is none}.
    """
    for column in columns:
        if column in unable:
            print(f"{column}: – ({unable[column]})")
        else:
            print(results.describe(column, summaries[column], n_wanted, levels.get(column)))
    for name, reason in absent.items():
        print(f"no baseline '{name}': {reason}")
    if lost:
        print(f"{len(lost)} of {n_wanted} clips missing or unreadable: {format_clips(lost)}")


def print_share(n, dataset):
    """Warn of n clips that are not the whole test set of a data set."""
    if n < dataset.n_test:
        print(f"warning: {n} clips are scored; {dataset.name} has {dataset.n_test} test clips")


def write_table(path, title, columns, subject, rows, levels, notes):
    """The evaluation as a table, printed and written as Markdown.

    `rows` {method: {column: summary}}, `levels` {words such as "chance": {column: number}}; `notes` stand below.
    """
    lines = [Row.of(name, subject, row, ranked=False) for name, row in rows.items()]
    lines += [Row(words, values=level, ranked=False) for words, level in levels.items() if level]
    text = to_markdown(Table("table", title, columns, lines, list(notes)))
    print(f"\n{text}\n")
    write_text(path, text + "\n")


def summarise_all(every, seed):
    """Summaries of the values {method: {column: values}}; those of the first method with confidence intervals."""
    rows = {name: {column: results.summarise(v) for column, v in values.items()} for name, values in every.items()}
    method = next(iter(every))
    for column, interval in results.intervals(every[method], np.random.default_rng(seed)).items():
        rows[method][column] |= interval
    return rows


def save_values(out, wanted, own, of_truth, scored, free):
    """Values of the method and of the truth itself, of the clips that are wanted, and of the baselines, of those that are scored."""
    results.save_per_clip(out / "per_clip", wanted, own)
    for name, values in free.items():
        results.save_per_clip(out / "baselines" / name.replace(" ", "_"), scored, values)
    if of_truth:
        results.save_per_clip(out / "baselines" / TRUE.replace(" ", "_"), wanted, of_truth)


def show_values(recons, pairs, out):
    """Build the gallery of a reconstruction again, with each clip's values, where it is what was scored."""
    if (recons / "manifest.json").exists() and pairs.pred.path.parent == recons:
        build_gallery(recons, out)


# ---------------------------------------------------------------------------------------------- script


def get_parser():
    parser = cli.make_parser(__doc__)
    cli.add_data_flags(parser, subject=True)
    metric_script.add_clip_flags(parser)
    add_model_flags(parser, *KINDS)
    parser.add_argument(
        "--sd_path", help="Stable Diffusion, folder or hub id, whose VAE gives the ceiling; default: the data set's own, if any"
    )
    group = parser.add_argument_group("evaluation")
    group.add_argument(
        "--protocol", choices=list(PROTOCOLS), default="paper", help="definitions of the metrics, see docs and protocols.json"
    )
    group.add_argument(
        "--n_samples", type=cli.one_or_more, default=1, changes_result=False,
        help="samples of video_recons.py --n_samples, over which every metric is averaged; never the best of them",
    )  # fmt: skip
    group.add_argument("--baselines", choices=["all", "none"], default="all", help="free baselines beside the method")
    group.add_argument(
        "--cache",
        type=Path,
        changes_result=False,
        help="folder for finished blocks and features; default: metrics/cache, or cache below --out",
    )
    return parser


def describe_run(args, dataset, method):
    """What metrics.json says of whose clips were scored and how, dict."""
    return {
        "dataset": dataset.name, "phantom": dataset.simulated, "subject": args.subj_ID, "method": method, "protocol": args.protocol,
        "protocol_version": VERSION, "of_project": not (args.recons_dir or args.released_root),
    }  # fmt: skip


def main(args):
    dataset, place, towers = get_dataset(args.dataset), Layout.of(args), Towers.of(args)
    form, method = protocol_form(args.protocol, dataset), metric_script.method_name(args.name, args.recons_dir, args.released_root)
    reads = metric_script.clip_flags(args, **{key: form[key] for key in ("layout", "borders", "resize")})
    pairs = metric_script.open_pairs(dataset, place, args.subj_ID, **reads, n_frames=form["n_frames"], size=form["size"])
    samples = open_samples(pairs, args.n_samples, dataset, form, args.allow_missing)
    wanted = protocol_metrics(args.protocol, dataset)
    metrics, unable = split_by_needs(wanted, towers, len(pairs))
    out = args.out or place.metrics(args.subj_ID, args.name) / ("" if args.protocol == "paper" else args.protocol)
    cache = args.cache or (out / "cache" if args.out else place.root / "metrics" / "cache")
    identity = "".join(metric_script.what_decides(each, metrics, towers) for each in (pairs, *samples))
    with contextlib.ExitStack() as stack:
        with first_before_others() as first:
            files = [out / name for name in FILES]
            record = stack.enter_context(working(out, args, outputs=files, complete=metric_script.is_current(out, identity)))
            if record is None:
                return
            (out / "metrics.json").unlink(missing_ok=True)  # its values are about to be replaced
        title = f"{dataset.name} subject {args.subj_ID}, {method}, protocol {args.protocol}"
        if first:
            print(f"{title}: {len(pairs)} clips; {PROTOCOLS[args.protocol]['about']}")
        how = {"cache": cache, "workers": args.workers, "allow_missing": args.allow_missing}
        score = partial(score_pairs, metrics=metrics, towers=towers, **how)
        values, lost = score(pairs, desc=method)
        own, of_truth = split_truth(values)
        own, spread = mean_over_samples([own, *(split_truth(score(each, desc=each.pred.path.name)[0])[0] for each in samples)])
        scored = [number for number in pairs.wanted if number not in set(lost)]
        free, made_of, absent = {}, {}, {}
        if args.baselines == "all":
            baselines, made_of, absent = score_baselines(
                pairs, scored, score, frames=place.root / "stimuli_frames" / part("train"), names=dataset.clip_names("train"),
                form={key: form[key] for key in ("n_frames", "size", "times")}, seed=args.seed, sd_path=source_at_hand(args, "sd_path", "sd"),
                device=cli.choose_device(args.device),
            )  # fmt: skip
            free = {name: split_truth(values)[0] for name, values in baselines.items()}
        if not first:  # who has what the others have, and writes nothing
            return
        columns = [column for metric in wanted for column in metric.shown]
        chance, still = ({c: level for metric in wanted for c, level in getattr(metric, kind).items()} for kind in ("chance", "still"))
        every = {method: own, **free} | ({TRUE: of_truth} if of_truth else {})
        rows = summarise_all(every, args.seed)
        levels = metric_script.levels_of(wanted, {column: row["mean"] for column, row in rows.get(TRUE, {}).items()})
        print_values(columns, rows[method], len(pairs.wanted), levels, unable, absent, lost)
        print_spread(spread)
        print_share(len(scored), dataset)
        save_values(out, pairs.wanted, own, of_truth, scored, free)
        undefined, kinds = results.note_gaps(pairs.wanted, own, lost), metric_script.kinds_of(metrics)
        facts = describe_run(args, dataset, method) | results.scored_facts(pairs, lost, towers, kinds)
        facts |= {"seed": args.seed, "stand_ins": towers.stand_ins(kinds)}
        notes = [f"Mean ± standard deviation over clips. Seed {args.seed}.", facts["stand_ins"], results.made_by_phantom(facts)]
        write_table(out / "table.md", title, columns, args.subj_ID, rows, {"chance": chance, "a still": still}, filter(None, notes))
        record.finish(
            identity=identity, title=title, **facts, columns=columns,
            lower_is_better=sorted(results.LOWER_IS_BETTER & set(columns)), rows=rows, chance=chance, still=still, undefined=undefined, samples=spread,
            not_scored=unable, reads=results.reader_facts(pairs, form), baselines_made_of=made_of, baselines_not_made=absent,
        )  # fmt: skip
        draw_distributions(out / "distributions.png", title, own, rows, chance)
        if args.out is None and args.protocol == "paper":
            show_values(place.recons(args.subj_ID, args.name), pairs, out)
        print(f"wrote {out}")


if __name__ == "__main__":
    cli.run(main, get_parser)
