"""Rank the visual areas by the importance of their vertices.

Reads    explain/sub{ID}/Cortical_visualization/{name}/importance.npy of step 1, and {name}_control where it is there
Writes   beside it: roi_ranking.csv, roi_ranking.png, .svg: V1 V2 V3 V4 V3A V3B MT MST TPOJ1 TPOJ2 of both sides, highest first

    python Explainable_analysis/Cortical_visualization/step3_roi_ranking.py --dataset phantom

Mean importance over an area's vertices that carry any; areas are looked up by name. A second.
"""

from common import cli
from common.datasets import get_dataset
from common.layout import Layout
from Evaluation_Metrics.results import write_rows
from Explainable_analysis.Cortical_visualization.drawing import draw_bars
from Explainable_analysis.Cortical_visualization.maps import AREAS, area_means, find_maps, is_newer, read_map


def rank_areas(path):
    """Mean importance of the 20 areas of a map's file, {name: float}."""
    means = area_means(read_map(path))
    return {f"{side}_{area}": means[f"{side}_{area}"] for area in AREAS for side in "LR"}


def get_parser():
    parser = cli.make_parser(__doc__)
    cli.add_data_flags(parser, subject=True)
    parser.add_argument_group("maps").add_argument("--names", nargs="+", help="maps to rank (default: all but controls)")
    return parser


def main(args):
    dataset = get_dataset(args.dataset)
    paths = find_maps(Layout.of(args).explain(args.subj_ID) / "Cortical_visualization", args.names)
    for name, path in paths.items():
        if name.endswith("_control") and not args.names:
            continue
        control_path = path.parents[1] / f"{name}_control" / "importance.npy"
        if not args.overwrite and is_newer(path.parent / "roi_ranking.svg", path, *[control_path] * control_path.exists()):
            print(f"{path.parent}: already done, --overwrite to redo")
            continue
        columns = {"importance": rank_areas(path)} | ({"control": rank_areas(control_path)} if control_path.exists() else {})
        means, control = columns["importance"], columns.get("control")
        order = sorted(means, key=lambda area: -means[area])
        rows = [[area, *(f"{values[area]:.6g}" for values in columns.values())] for area in order]
        write_rows(path.parent / "roi_ranking.csv", [["area", *columns], *rows])
        draw_bars(path.parent / "roi_ranking", means, f"{dataset.label}subject {args.subj_ID}: {name.replace('_', ', ')}", control)
        first = ", ".join(f"{area} {means[area]:.3f}" for area in order[:5])
        print(f"{dataset.label}{name}: {first}")


if __name__ == "__main__":
    cli.run(main, get_parser)
