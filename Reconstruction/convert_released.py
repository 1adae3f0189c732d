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
from common.datasets import DATASETS, get_dataset
from common.files import UserError, read_json, sha256
from common.layout import Layout
from common.records import git_revision, versions, working
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


def get_parser():
    parser = cli.make_parser(__doc__)
    data = cli.add_data_flags(parser)
    data.add_argument("--released_root", type=Path, required=True, changes_result=False, help="folder with the .pth files, at any depth")
    data.add_argument("--subj_ID", changes_result=False, help="participant of the files whose path names none")
    data.add_argument("--arm", default="released", help="name of the folder below checkpoints/sub{ID}/")
    model = parser.add_argument_group("model")
    model.add_argument(
        "--n_heads", type=cli.whole(1, 1024), help="number of attention heads in a CMG, which no entry shows (default: 4; patch CMG: 8)"
    )
    model.add_argument("--token_dim", type=cli.width, default=768, help="width of a text token")
    return parser


def of_dataset(released, root, dataset):
    """Those of the found checkpoints whose path speaks of no other data set; the others are named."""
    ours = []
    for item in released:
        path = item.path.relative_to(root).as_posix()
        named = [name for name, entry in DATASETS.items() if any(word in path.lower() for word in entry.released_names)]
        if named and dataset.name not in named:
            print(f"{path}: of {named[0]}, left out (--dataset {named[0]} converts it)")
        else:
            ours.append(item)
    return ours


def find_subject(item, dataset, default):
    """Participant of a checkpoint, by its path or else `default`; a UserError where there is none."""
    subject = default if item.subject is None else item.subject
    if subject is None:
        raise UserError(f"no folder or file name in {item.path} says the participant (sub1); give it as --subj_ID")
    named = [known for known in dataset.subjects if item.subject in dataset.released_numbers(known)]
    return named[0] if named else dataset.find_subject(subject)


def plan_targets(released, layout, subjects, arm):
    """Map the path of every conversion to the checkpoint that goes there; a UserError where two would."""
    places = {}
    for item, subject in zip(released, subjects, strict=True):
        name = "released" if item.epoch is None else f"epoch_{item.epoch}"
        place = layout.checkpoints(subject, arm, FOLDERS[item.kind]) / f"{name}.safetensors"
        if place in places:
            raise UserError(f"{item.path} and {places[place].path.name} would both become {place}; move one of them out of the folder")
        places[place] = item
    return places


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


def convert(item, place, seed, facts):
    """Convert one file to the checkpoint `place` and verify what was written.

    Parameters
    ----------
    item : models.released.Released
    seed : int
        of the input on which both are compared
    facts : dict
        what its JSON says of its origin
    """
    model = item.load()
    expected = probe(model, seed)
    if not all(output.isfinite().all() for output in expected):
        raise UserError(f"{item.path} gives NaN or infinity on a random input; give another checkpoint")
    save_checkpoint(place, model, epoch=item.epoch, finished=True, source=item.path.name, source_sha256=sha256(item.path), **facts)
    del model  # a CMG is 1.3 GB
    loaded, _ = load_checkpoint(place)
    assert all(torch.equal(a, b) for a, b in zip(expected, probe(loaded, seed), strict=True)), f"{place} gives another output"


def is_converted(item, place):
    """True when a checkpoint is there that was made from this file; a UserError when it was made from another."""
    if not (place.exists() and record_path(place).exists()):
        return False
    if read_json(record_path(place)).get("source_sha256") != sha256(item.path):
        raise UserError(f"{place} was not converted from {item.path.name}; use --overwrite to replace it, or another --arm")
    return True


def main(args):
    dataset, layout = get_dataset(args.dataset), Layout.of(args)
    released = of_dataset(find_released(args.released_root, args.n_heads, args.token_dim), args.released_root, dataset)
    subjects = [find_subject(item, dataset, args.subj_ID) for item in released]
    places = plan_targets(released, layout, subjects, args.arm)
    folder = layout.root / "checkpoints" / f"converted_{args.arm}"
    with working(folder, args, inputs=[item.path for item in released], outputs=places) as record:
        if record is None:
            return
        made = 0
        facts = {"dataset": args.dataset, "arm": args.arm, "seed": None, "git": git_revision(), "versions": versions()}
        for (place, item), subject in zip(tqdm(places.items(), desc="checkpoints", unit="file"), subjects, strict=True):
            new = args.overwrite or not is_converted(item, place)
            if new:
                convert(item, place, args.seed, facts | {"subject": subject})
            made += new
            sizes = ", ".join(f"{key}={value}" for key, value in item.arguments.items())
            tqdm.write(f"{item.path.relative_to(args.released_root)}: {item.kind}({sizes})")
            tqdm.write(f"  -> {place} ({'same output' if new else 'already done'})")
        record.finish(files=len(places), converted=made)
        print(f"{made} checkpoints converted and verified, {len(places) - made} already done")


if __name__ == "__main__":
    cli.run(main, get_parser)
