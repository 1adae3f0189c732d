"""Turn a folder of the authors' published checkpoints (.pth) into this project's format, and check each.

Kind and sizes of a model are found by the entries of its file, subject and epoch by the names of file and folders.
Each converted checkpoint is loaded again and must give the released model's output, to the bit, on a random input.

Reads    {released_root}/**/*.pth
Writes   {out_root}/{dataset}/checkpoints/sub{ID}/{arm}/{semantic,structure,CMG,CMG_patch,retrieval}/epoch_{n}.safetensors + .json
         ("released" in place of epoch_{n} where the name says no epoch)

    python Reconstruction/convert_released.py --released_root Mind_Animator_data/Model_checkpoints

A few seconds for each gigabyte; twice the largest file in memory.
"""

from pathlib import Path

import torch
from tqdm import tqdm

from common import cli
from common.datasets import get_dataset
from common.files import UserError, read_json, sha256
from common.layout import Layout
from common.records import Record, git_revision, versions
from models.checkpoints import load_checkpoint, record_path, save_checkpoint
from models.cmg import sparse_causal_mask
from models.released import find_released

FOLDERS = {
    "SemanticDecoder": "semantic",
    "StructureDecoder": "structure",
    "ConsistencyMotionGenerator": "CMG",
    "PatchCMG": "CMG_patch",
    "RetrievalDecoder": "retrieval",
}
WORDS = {"CC2017": "cc2017", "HCP": "hcp", "Algonauts2021": "algonauts"}  # in the authors' paths


def get_parser():
    parser = cli.make_parser(__doc__)
    data = cli.add_data_flags(parser)
    data.add_argument("--released_root", type=Path, required=True, help="folder that holds the .pth files, at any depth")
    data.add_argument("--subj_ID", type=int, help="subject of the files whose path names none")
    data.add_argument("--arm", default="released", help="folder below checkpoints/sub{ID}/")
    model = parser.add_argument_group("model")
    model.add_argument("--n_heads", type=int, help="attention heads of a CMG, which no entry shows (default: 4, patch CMG 8)")
    model.add_argument("--token_dim", type=int, default=768, help="width of a text token")
    return parser


# ---------------------------------------------------------------------------------------------- where each one goes


def of_dataset(released, args):
    """Those of the found checkpoints whose path speaks of no other data set; the others are named."""
    ours = []
    for item in released:
        path = item.path.relative_to(args.released_root).as_posix()
        named = [dataset for dataset, word in WORDS.items() if word in path.lower()]
        if named and args.dataset not in named:
            print(f"{path}: of {named[0]}, left out (--dataset {named[0]} converts it)")
        else:
            ours.append(item)
    return ours


def subject_number(item, args):
    """Subject of a checkpoint as the command line counts them; a UserError where there is none."""
    dataset = get_dataset(args.dataset)
    participants = getattr(dataset, "participants", ())
    subject = args.subj_ID if item.subject is None else item.subject
    if subject is None:
        raise UserError(item.path, "a subject in the name of file or folder (sub1)", "none", "--subj_ID N")
    subject = participants.index(subject) + 1 if subject in participants else subject
    dataset.check_subject(subject)
    return subject


def targets(released, args):
    """Map the path of every conversion to the checkpoint that goes there; a UserError where two would."""
    places = {}
    for item in released:
        name = "released" if item.epoch is None else f"epoch_{item.epoch}"
        folder = Layout.of(args).checkpoints(subject_number(item, args), args.arm, FOLDERS[item.kind])
        place = folder / f"{name}.safetensors"
        if place in places:
            raise UserError(item.path, f"one file for {place}", f"{places[place].path.name} as well", "move one of them out of the folder")
        places[place] = item
    return places


# ---------------------------------------------------------------------------------------------- one checkpoint


@torch.no_grad()
def probe(model, seed):
    """Output of a model on a seeded random input of its own size, as a list of tensors."""
    generator = torch.Generator().manual_seed(seed)
    fmri = torch.randn(2, model.in_dim, generator=generator)
    if hasattr(model, "generate"):
        shape = getattr(model, "frame_shape", None) or (model.d_model,)
        frames = torch.randn(2, 3, *shape, generator=generator)
        return [model(fmri, frames, sparse_causal_mask(3, 1.0))]
    output = model(fmri)
    return list(output) if isinstance(output, tuple) else [output]


def convert(item, place, args):
    """Convert one file and verify what was written; False when that is done already."""
    source = sha256(item.path)
    if not args.overwrite and place.exists() and record_path(place).exists():
        if read_json(record_path(place)).get("source_sha256") == source:
            return False
        raise UserError(place, f"a conversion of {item.path.name}, or nothing", "another checkpoint", "--overwrite, or another --arm")
    model = item.load()
    expected = probe(model, args.seed)
    if not all(output.isfinite().all() for output in expected):
        raise UserError(item.path, "a finite output on a random input", "NaN or infinity", "give another checkpoint")
    save_checkpoint(
        place, model, epoch=item.epoch, seed=None, dataset=args.dataset, subject=subject_number(item, args), arm=args.arm,
        source=item.path.name, source_sha256=source, git=git_revision(), versions=versions(),
    )  # fmt: skip
    del model  # a CMG is 1.3 GB
    loaded, _ = load_checkpoint(place)
    assert all(torch.equal(a, b) for a, b in zip(expected, probe(loaded, args.seed), strict=True)), f"{place} gives another output"
    return True


def main(args):
    released = of_dataset(find_released(args.released_root, args.n_heads, args.token_dim), args)
    places = targets(released, args)
    folder = Layout.of(args).root / "checkpoints" / f"converted_{args.arm}"
    record = Record(folder, args, [item.path for item in released], {"released_root", "subj_ID"}).start()
    made = 0
    for place, item in tqdm(places.items(), desc="checkpoints", unit="file"):
        new = convert(item, place, args)
        made += new
        sizes = ", ".join(f"{key}={value}" for key, value in item.arguments.items())
        tqdm.write(f"{item.path.relative_to(args.released_root)}: {item.kind}({sizes})")
        tqdm.write(f"  -> {place} ({'same output' if new else 'already done'})")
    record.finish(files=len(places), converted=made)
    print(f"{made} checkpoints converted and verified, {len(places) - made} already done")


if __name__ == "__main__":
    cli.run(main, get_parser)
