"""Draw any map of the cortex: four views, a flat map, an interactive page, area table, CIFTI and GIFTI.

Reads    FILE: .npy of 59412 (cortex), 64984 (both meshes) or 91282 values, or of a mask's vertices with --mask; .dscalar.nii,
         .dtseries.nii (first row) or .gii of one hemisphere
Writes   below --out: cortex.png, cortex.svg, flat.png, flat.svg, cortex.html, areas.csv, map.dscalar.nii, map.dtseries.nii,
         map.L.func.gii, map.R.func.gii

    python Explainable_analysis/Cortical_visualization/plot_cortex.py values.npy --out figures
    python Explainable_analysis/Cortical_visualization/plot_cortex.py weights.npy --mask mask_correct.npy --out figures --areas V1 MT

Colours are symmetric about 0 where both signs occur, else sequential. About 10 s.
"""

from pathlib import Path

from common import cli
from common.cortex import VISUAL_AREAS, area_labels
from common.files import UserError, missing
from Explainable_analysis.Cortical_visualization.drawing import draw_flat, draw_views, write_interactive
from Explainable_analysis.Cortical_visualization.maps import read_map, write_area_table, write_maps


def get_parser():
    parser = cli.make_parser(__doc__)
    group = parser.add_argument_group("map")
    group.add_argument("file", type=Path, metavar="FILE", help="map of the cortex")
    group.add_argument("--mask", type=Path, help="59412 zeros and ones: the vertices that the values belong to")
    group.add_argument("--areas", nargs="*", default=list(VISUAL_AREAS), help="MMP areas to outline (default: the visual areas)")
    group.add_argument("--threshold", type=cli.real(0), help="size below which values are left blank")
    group.add_argument("--title", default="", help="title of the figures (default: the file's name)")
    group.add_argument("--label", default="", help="title of the colour bar")
    group.add_argument("--out", type=Path, required=True, changes_result=False, help="folder for the figures")
    return parser


def main(args):
    if not args.file.is_file():
        raise missing(args.file, "give a map of the cortex")
    known = {label[2:] for label in area_labels() if label}
    if unknown := sorted(set(args.areas) - known):
        raise UserError(f"--areas {' '.join(unknown)}: no such MMP area; use names such as V1, MT, TPOJ1, without the side")
    values, title = read_map(args.file, args.mask), args.title or args.file.name
    write_maps(args.out, "map", values)
    write_area_table(args.out / "areas.csv", {"value": values})
    options = {"areas": args.areas, "threshold": args.threshold}
    draw_views(args.out / "cortex", values, title, args.label, **options)
    draw_flat(args.out / "flat", values, title, args.label, **options)
    write_interactive(args.out / "cortex.html", values, title, args.threshold)
    print(f"wrote {args.out}")


if __name__ == "__main__":
    cli.run(main, get_parser)
