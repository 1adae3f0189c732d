"""Project a decoder's weights, or its gradients, onto the cortex: which vertices does it read?

Reads    checkpoints/sub{ID}/{arm}/{semantic,structure,CMG}/, fMRI_in_fslr/sub{ID}/activated_mask/mask_correct.npy; the test fMRI
         for --map gradients
Writes   explain/sub{ID}/Cortical_visualization/{decoder}/importance.npy       (59412,) 0...1, 0 outside the mask
                                                         /importance.dscalar.nii, .dtseries.nii, .L.func.gii, .R.func.gii
                                                         /areas.csv    mean importance of the 360 MMP areas, metrics.json
         {decoder}_rms, _gradients, _control, _full_roi_V1 for what is not the default

    python Explainable_analysis/Cortical_visualization/step1_weight_projection.py --dataset phantom --decoder CMG
    python Explainable_analysis/Cortical_visualization/step1_weight_projection.py --dataset phantom --decoder CMG --control
    python Explainable_analysis/Cortical_visualization/step1_weight_projection.py --decoder semantic --subj_ID 2 --map rms

Maps: released, the size of the mean over outputs of the product of all weight matrices, norms and non-linearities ignored; rms,
their root mean square, since signed weights cancel in a mean; gradients, integrated gradients through the real network, averaged
over test clips. The rank correlation of the map with the two others is printed. A second; half a minute for gradients on a CPU.
"""

import numpy as np
import torch
from scipy.stats import spearmanr

from common import cli
from common.arms import add_area_flags, load_fmri, named_arm
from common.cortex import N_CORTEX
from common.datasets import get_dataset
from common.files import UserError, load_mask, save_array, sha256
from common.layout import Layout, arm_name
from common.records import working
from Explainable_analysis.Cortical_visualization.maps import onto_cortex, write_area_table, write_maps
from Explainable_analysis.Cortical_visualization.weight_projection import MAPS, PROJECTIONS, integrated_gradients
from models.decoding import load_decoder

CLIPS = 64  # test clips that gradients are averaged over
DECODERS = ("semantic", "structure", "CMG")


def map_name(decoder, kind, arm):
    """Folder of a map."""
    return "_".join([decoder, *[kind] * (kind != "released"), *[arm] * (arm != "full")])


def make_maps(model, fmri):
    """All maps of a decoder, {kind: (V,)}; without gradients where no fMRI is given."""
    project = next((function for kind, function in PROJECTIONS.items() if isinstance(model, kind)), None)
    if project is None:
        raise UserError(f"a {type(model).__name__} has no weight projection; use a semantic or structure decoder, or a CMG of whole frames")
    maps = {kind: project(model, kind) for kind in MAPS}
    return maps if fmri is None else maps | {"gradients": integrated_gradients(model, fmri)}


def get_parser():
    parser = cli.make_parser(__doc__)
    cli.add_data_flags(parser, subject=True)
    group = parser.add_argument_group("map")
    group.add_argument("--decoder", choices=DECODERS, required=True, help="decoder that is looked at")
    group.add_argument("--map", choices=[*MAPS, "gradients"], default="released", help="importance of a vertex, see above")
    group.add_argument("--control", action="store_true", help="decoder that was trained on permuted clips, to see what of a map is signal")
    add_area_flags(group)
    group.add_argument("--ckpt", metavar="{N,best,last}", help="epoch of the checkpoint (default: the data set's)")
    group.add_argument("--no_gradients", action="store_true", help="no comparison with gradients, which need the test fMRI")
    return parser


def main(args):
    dataset, layout, arm = get_dataset(args.dataset), Layout.of(args), named_arm(args, "control" if args.control else "full")
    epoch = str(args.ckpt or dataset.epochs[args.decoder])
    stem = f"epoch_{epoch}" if epoch.isdecimal() else epoch
    path = layout.checkpoints(args.subj_ID, arm_name(arm, args.seed), args.decoder) / f"{stem}.safetensors"
    model, _ = load_decoder(path, args.decoder, subject=args.subj_ID, dataset=dataset.name)
    mask_path = layout.mask(args.subj_ID)
    mask = load_mask(mask_path, N_CORTEX, "a map needs the cortical vertex of every voxel: give --vertices to the preprocessing")
    if mask.sum() != model.in_dim:
        raise UserError(f"{path} decodes {model.in_dim} vertices and {mask_path} selects {mask.sum()}; give a decoder of this mask")
    folder = layout.explain(args.subj_ID) / "Cortical_visualization" / map_name(args.decoder, args.map, arm)
    with working(folder, args, inputs=[path, mask_path], outputs=[folder / "importance.npy"]) as record:
        if record is None:
            return
        rows = None
        if args.map == "gradients" or not args.no_gradients:
            fmri = load_fmri(layout, dataset, args.subj_ID, "test", "full", args.data_root, args.seed)
            rows = torch.from_numpy(np.array(fmri[np.linspace(0, len(fmri) - 1, min(CLIPS, len(fmri))).astype(int)]))
        maps = make_maps(model, rows)
        importance = onto_cortex(maps[args.map], mask)
        agreement = {kind: float(spearmanr(maps[args.map], other).statistic) for kind, other in maps.items() if kind != args.map}
        for kind, rho in agreement.items():
            print(
                f"{dataset.label}{args.decoder} ({arm}): rank correlation of {args.map} with {kind} over {mask.sum()} vertices: {rho:.3f}"
            )
        write_maps(folder, "importance", importance)
        write_area_table(folder / "areas.csv", {"importance": importance})
        made_by = f"step1_weight_projection.py, {args.map} map of {path.name}"
        save_array(folder / "importance.npy", importance, rows="vertices of the cortex, fs_LR 32k", units="0 to 1", made_by=made_by)
        checkpoint = {"file": path.as_posix(), "sha256": sha256(path)}
        facts = {"dataset": dataset.name, "phantom": dataset.simulated, "subject": args.subj_ID, "decoder": args.decoder, "arm": arm}
        record.finish(**facts, map=args.map, vertices=int(mask.sum()), rank_correlation=agreement, checkpoint=checkpoint, seed=args.seed)
        print(f"wrote {folder}")


if __name__ == "__main__":
    cli.run(main, get_parser)
