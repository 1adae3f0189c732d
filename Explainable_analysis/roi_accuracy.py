"""Compare areas: how well each decoder works on the voxels of some areas alone, and without them; beside it their noise ceiling.

Reads    checkpoints/sub{ID}/*/{semantic,structure,CMG,retrieval}/    of all areas that training was given with --roi or --without_roi,
                                                                  and of the full and the control arm
         fMRI_in_fslr/sub{ID}/, test fMRI, and activated_mask/{mask_correct,noise_ceiling}.npy, where they are
         features/Test_text_embeddings_CLIP_512.npy, Test_contents.npy
Writes   explain/sub{ID}/roi_accuracy/accuracy.csv, accuracy.md, accuracy.png, accuracy.svg, metrics.json
                                     /noise_ceiling.png, .svg, .html, noise_ceiling_flat.png, .svg    the map, where there is one

    python Feature_decoding/train_semantic_decoder.py --dataset phantom --roi V1 V2 V3 V4
    python Feature_decoding/train_semantic_decoder.py --dataset phantom --without_roi V1 V2 V3 V4
    python Explainable_analysis/roi_accuracy.py --dataset phantom

Accuracy is over test clips, with chance 1/2: semantic and retrieval, the share of other clips' captions whose CLIP features correlate
less with the decoded embedding than the own caption's; structure, likewise of the latents of first frames; CMG, the share of the
four clips of the most similar first frames whose fMRI continues the true first frame with a larger error than the own fMRI does.
Intervals of 95 % by bootstrap over clips: another training's chance is not in them, the control's distance from 1/2 shows it. Half
a minute for the phantom.
"""

import numpy as np
import torch

from common import cli
from common.arms import area_columns, load_fmri
from common.cortex import N_CORTEX
from common.datasets import get_dataset
from common.figures import panels, save_figure
from common.files import UserError, fingerprint, load_array, load_mask, read_json, sha256, write_text
from common.layout import DECODERS, Layout
from common.randomness import numpy_generator
from common.records import working
from Evaluation_Metrics.identification import two_way_identification
from Evaluation_Metrics.metric_script import is_current
from Evaluation_Metrics.results import write_rows
from Evaluation_Metrics.tables import table_lines
from Explainable_analysis.Cortical_visualization.drawing import draw_flat, draw_views, write_interactive
from models.checkpoints import record_path
from models.decoding import Decoders, decode_fmri, load_decoder

CHANCE = 0.5
N_OTHERS, BATCH = 4, 64  # clips whose fMRI is put in; clips at a time
N_BOOTSTRAPS = 1000
ONLY, WITHOUT = "only", "all but"
RECORD = {"arm?": (str, type(None)), "roi?": (list, type(None)), "without_roi?": (list, type(None))}
COLUMNS = ("decoder", "given", "areas", "voxels", "noise ceiling", "clips", "accuracy", "low", "high", "chance")

# ---------------------------------------------------------------------------------------------- accuracy


def most_alike(first, n):
    """The n other clips whose first latents (N, D) correlate best with each clip's, (N, n) int."""
    correlation = np.corrcoef(first)
    np.fill_diagonal(correlation, -np.inf)
    return np.argsort(-correlation, axis=1, kind="stable")[:, :n]


def own_fmri_share(model, fmri, contents, visibility):
    """Share of other clips whose fMRI continues a clip's true first frame with a larger error than its own, a tie 1/2, (N,).

    The others are the clips whose first frames are most alike, because fMRI that tells of other content would do worse
    whatever it tells of motion. `fmri` (N, V), `contents` (N, C, F, H, W) latents of the true frames.
    """
    n, n_frames = len(fmri), contents.shape[2]
    first = np.array(contents[:, :, 0], np.float32)
    partners = np.column_stack([np.arange(n), most_alike(first.reshape(n, -1), min(N_OTHERS, n - 1))])
    errors = np.empty(partners.shape)
    for start in range(0, n, BATCH):
        rows = np.arange(start, min(start + BATCH, n))
        true = torch.from_numpy(np.array(contents[rows], np.float32)).to(fmri.device)  # b c f h w
        decoders = Decoders(lambda _: (None, None), lambda _, first=true[:, :, 0]: first, model)
        for place in range(partners.shape[1]):
            made = decode_fmri(decoders, fmri[partners[rows, place]], n_frames, visibility=visibility).latents
            errors[rows, place] = ((made - true)[:, :, 1:] ** 2).flatten(1).mean(1).double().cpu()
    own, others = errors[:, :1], errors[:, 1:]
    return ((others > own) + (others == own) / 2).mean(1)


@torch.no_grad()
def accuracy_of(decoder, model, fmri, features, visibility):
    """Accuracy of a decoder on every test clip, (N,); `features` {"text": (N, D), "contents": (N, C, F, H, W)}."""
    if decoder == "CMG":
        return own_fmri_share(model, fmri, features["contents"], visibility)
    output = model(fmri)
    decoded = (output[0] if isinstance(output, tuple) else output).flatten(1).cpu().numpy()
    true = np.array(features["contents"][:, :, 0]).reshape(len(fmri), -1) if decoder == "structure" else features["text"]
    return two_way_identification(decoded, true)


def interval(values, rng):
    """Bounds of the 95 % percentile interval of the mean over clips."""
    return np.percentile(values[rng.integers(len(values), size=(N_BOOTSTRAPS, len(values)))].mean(1), [2.5, 97.5])


# ---------------------------------------------------------------------------------------------- what there is


def find_checkpoints(args, dataset, layout):
    """Finished checkpoints of this seed, list of (decoder, given, areas, path); the full and the control arm first."""
    found = []
    for decoder in DECODERS:
        epoch = str(args.ckpt or dataset.epochs.get((decoder, args.subj_ID), dataset.epochs[decoder]))
        name, parts = f"{decoder}/{f'epoch_{epoch}' if epoch.isdecimal() else epoch}.safetensors", []
        for path in sorted(layout.checkpoints(args.subj_ID, "any", decoder).parents[1].glob(f"*/{name}")):
            facts = read_json(record_path(path), RECORD)
            areas = facts.get("roi") or facts.get("without_roi") or []
            if facts.get("seed") == args.seed and (facts.get("arm") == "full" or (facts.get("arm") == "control" and not areas)):
                given = facts["arm"] if not areas else ONLY if facts.get("roi") else WITHOUT
                parts.append((decoder, given, " ".join(areas), path))
        if any(areas for _, _, areas, _ in parts):
            found += sorted(parts, key=lambda part: (part[2], part[1]))
    if not found:
        raise UserError(f"no decoder of subject {args.subj_ID} was trained on some areas; run one of the training scripts with --roi first")
    return found


def noise_ceiling(layout, subject):
    """Map of the noise ceiling (59412,) and the selected vertices; None where the preprocessing has made none."""
    path = layout.mask(subject).with_name("noise_ceiling.npy")
    if not path.exists():
        return None
    values = load_array(path, shape=(None,), finite=False)[:N_CORTEX]
    return np.maximum(values, 0), load_mask(layout.mask(subject), N_CORTEX)


def given_voxels(given, areas, columns, n):
    """Columns that a decoder was given, (V,) bool."""
    inside = np.isin(np.arange(n), np.concatenate([columns.get(name, []) for name in areas.split()])) if areas else np.ones(n, bool)
    return ~inside if given == WITHOUT else inside


# ---------------------------------------------------------------------------------------------- written


def write_tables(folder, title, rows):
    """Write accuracy.csv and accuracy.md."""
    cells = [[f"{cell:.4g}" if isinstance(cell, float) else cell for cell in (row[column] for column in COLUMNS)] for row in rows]
    write_rows(folder / "accuracy.csv", [COLUMNS, *cells])
    write_text(folder / "accuracy.md", "\n".join([title, "", *table_lines(COLUMNS, cells), ""]))


def draw_accuracy(path, title, rows):
    """A panel of bars for each decoder: its areas alone, and all but these; `path` without ending."""
    shown = list(dict.fromkeys(row["decoder"] for row in rows))
    areas = list(dict.fromkeys(row["areas"] for row in rows if row["areas"]))
    figure, axes = panels(len(shown), 3.6, 0.7 + 0.7 * len(areas), above=0.8, sharex=True, sharey=True)
    for axis, decoder in zip(axes, shown, strict=True):
        of = {(row["given"], row["areas"]): row for row in rows if row["decoder"] == decoder}
        for given, shift, colour in ((ONLY, -0.2, "#2457a6"), (WITHOUT, 0.2, "#d98c2b")):
            there = [(place + shift, of[given, name]) for place, name in enumerate(areas) if (given, name) in of]
            if there:
                places, values = zip(*((place, [row[key] for key in ("accuracy", "low", "high")]) for place, row in there), strict=True)
                values = np.array(values)
                errors = np.abs(values[:, 1:] - values[:, :1]).T
                axis.barh(places, values[:, 0] - CHANCE, 0.36, CHANCE, color=colour, label=f"{given} these", xerr=errors, capsize=2)
        for given, style, words in (("full", "-", "all voxels"), ("control", ":", "control: trained on permuted clips")):
            if (given, "") in of:
                axis.axvline(of[given, ""]["accuracy"], color="black", ls=style, label=words)
        axis.axvline(CHANCE, color="grey", lw=0.8)
        axis.set(title=decoder, yticks=range(len(areas)), yticklabels=areas, xlabel="accuracy, from chance 0.5")
    axis.invert_yaxis()
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    figure.suptitle(title)
    save_figure(figure, path, "png", "svg", dpi=130)


def draw_ceiling(folder, dataset, subject, values):
    title, label = f"{dataset.label}subject {subject}: noise ceiling", "explainable share of variance"
    draw_views(folder / "noise_ceiling", values, title, label, note=dataset.note)
    draw_flat(folder / "noise_ceiling_flat", values, title, label, note=dataset.note)
    write_interactive(folder / "noise_ceiling.html", values, title)


# ---------------------------------------------------------------------------------------------- script


def get_parser():
    parser = cli.make_parser(__doc__)
    cli.add_data_flags(parser, subject=True, device=True)
    group = parser.add_argument_group("decoders")
    group.add_argument("--ckpt", metavar="{N,best,last}", help="epoch of all checkpoints (default: the data set's)")
    group.add_argument(
        "--visibility", choices=["released", "causal"], default="released", help="earlier frames that the CMG sees: the first alone, or all"
    )
    return parser


def main(args):
    dataset, layout = get_dataset(args.dataset), Layout.of(args)
    found, folder = find_checkpoints(args, dataset, layout), layout.explain(args.subj_ID) / "roi_accuracy"
    files = {"text": layout.text_embeddings_clip("test"), "contents": layout.contents("test")}
    inputs = [layout.masked_fmri(args.subj_ID, "test", dataset.n_vertices), *files.values(), *(path for *_, path in found)]
    identity = fingerprint([(path.as_posix(), path.exists() and sha256(path)) for path in inputs])
    args.overwrite |= not is_current(folder, identity)  # made again with every decoder that is added
    with working(folder, args, inputs=inputs, outputs=[folder / "accuracy.svg"]) as record:
        if record is None:
            return
        device = cli.choose_device(args.device)
        fmri = torch.from_numpy(load_fmri(layout, dataset, args.subj_ID, "test", "full", args.data_root, args.seed)).to(device)
        again = "run the feature extraction again"
        features = {name: load_array(path, mmap=True, do=again, shape=(len(fmri), *[None] * (1 if name == "text" else 4)))
                    for name, path in files.items()}  # fmt: skip
        (columns, n), ceiling, rows = area_columns(layout, args.subj_ID), noise_ceiling(layout, args.subj_ID), []
        for decoder, given, areas, path in found:
            model, _ = load_decoder(path, decoder, subject=args.subj_ID, dataset=dataset.name)
            if not model.arguments["in_dim"] == fmri.shape[1] == n:
                raise UserError(f"{path} decodes {model.arguments['in_dim']} voxels, not the {n} selected; train it again")
            values = accuracy_of(decoder, model.to(device), fmri, features, args.visibility)
            low, high = interval(values, numpy_generator(args.seed, "bootstrap")).tolist()
            voxels = given_voxels(given, areas, columns, n)
            of_voxels = float(np.nanmean(ceiling[0][ceiling[1]][voxels])) if ceiling else ""
            cells = (decoder, given, areas, int(voxels.sum()), of_voxels, len(values), float(values.mean()), low, high, CHANCE)
            rows.append(dict(zip(COLUMNS, cells, strict=True)))
            what = f"{decoder}, {given} {areas}".strip()
            print(f"{dataset.label}{what}: {values.mean():.3f} [{low:.3f}, {high:.3f}] of {len(values)} clips, {voxels.sum()} voxels")
        title = f"{dataset.label}subject {args.subj_ID}, seed {args.seed}: accuracy on {len(fmri)} test clips, chance 0.5"
        write_tables(folder, title, rows)
        if ceiling:
            draw_ceiling(folder, dataset, args.subj_ID, ceiling[0])
        draw_accuracy(folder / "accuracy", title, rows)
        record.finish(identity=identity, dataset=dataset.name, phantom=dataset.simulated, subject=args.subj_ID, seed=args.seed, rows=rows)
        print(f"wrote {folder}")


if __name__ == "__main__":
    cli.run(main, get_parser)
