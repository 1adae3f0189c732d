"""Draw the maps of step 1 on the cortex: four inflated views, a flat map, an interactive page.

Reads    explain/sub{ID}/Cortical_visualization/{name}/importance.npy, of all maps or of --names
Writes   beside each: cortex.png, cortex.svg, flat.png, flat.svg, cortex.html (self-contained, opens from disk)

    python Explainable_analysis/Cortical_visualization/step2_draw_cortex.py --dataset phantom
    python Explainable_analysis/Cortical_visualization/step2_draw_cortex.py --dataset phantom --names CMG CMG_control

About 10 s a map.
"""

from common import cli
from common.datasets import get_dataset
from common.layout import Layout
from common.workers import run_jobs
from Explainable_analysis.Cortical_visualization.drawing import draw_flat, draw_views, write_interactive
from Explainable_analysis.Cortical_visualization.maps import find_maps, is_newer, read_map


def draw_all(job):
    """Draw one map: (file, title, note)."""
    path, title, note = job
    values, folder = read_map(path), path.parent
    values[values == 0] = float("nan")  # no decoder reads there
    draw_views(folder / "cortex", values, title, "importance", note=note)
    draw_flat(folder / "flat", values, title, "importance", note=note)
    write_interactive(folder / "cortex.html", values, f"{title}. {note}" if note else title)


def get_parser():
    parser = cli.make_parser(__doc__)
    cli.add_data_flags(parser, subject=True)
    group = parser.add_argument_group("maps")
    group.add_argument("--names", nargs="+", help="maps to draw (default: all)")
    group.add_argument("--workers", type=cli.processes, default=1, changes_result=False, help="number of maps drawn at the same time")
    return parser


def main(args):
    dataset = get_dataset(args.dataset)
    paths = find_maps(Layout.of(args).explain(args.subj_ID) / "Cortical_visualization", args.names)
    title = f"{dataset.label}subject {args.subj_ID}: {{}}"
    jobs = [(path, title.format(name.replace("_", ", ")), dataset.note) for name, path in paths.items()]
    if not args.overwrite:
        jobs = [job for job in jobs if not is_newer(job[0].parent / "cortex.html", job[0])]
    if not jobs:
        print(f"{next(iter(paths.values())).parents[1]}: already done, --overwrite to redo")
        return
    run_jobs(draw_all, jobs, args.workers, "maps", "map")
    print(f"wrote {len(jobs)} maps below {next(iter(paths.values())).parents[1]}")


if __name__ == "__main__":
    cli.run(main, get_parser)
