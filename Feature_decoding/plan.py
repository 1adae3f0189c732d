"""Flags that all training scripts have, and what they decide: folders, clips, epochs, which checkpoints stay."""

import contextlib
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from common import cli
from common.arms import add_arm_flag, fmri_files, given_columns, load_fmri, named_arm
from common.datasets import get_dataset
from common.files import UserError, atomic_path, card_path
from common.layout import Layout, arm_name
from common.model_sources import add_model_flags
from common.randomness import seed_of
from common.records import git_revision, versions, working
from models.checkpoints import TRAINING_STATE, statistics_path

log = logging.getLogger(__name__)

VALIDATION_SHARE = 320 / 4320  # the last 320 of CC2017's 4320 training clips


# ---------------------------------------------------------------------------------------------- flags


def get_training_parser(doc, *, epoch, lr, models=()):
    """Parser with the flags of every training script.

    Parameters
    ----------
    epoch, lr
        defaults; None for a script without --lr
    models : tuple of str
        which of --sd_path ("sd") and --clip_path ("clip") it needs
    """
    parser = cli.make_parser(doc)
    data = cli.add_data_flags(parser, subject=True, device=True)
    add_arm_flag(data)
    data.add_argument(
        "--n_val", type=cli.whole(1), help="number of validation clips, taken from the end of the training split (default: 320 of 4320)"
    )
    data.add_argument("--num_workers", type=cli.whole(0, 256), default=0, changes_result=False, help="processes that load batches ahead")
    if models:
        add_model_flags(parser, *models)
    group = parser.add_argument_group("optimisation")
    group.add_argument("--epoch", type=cli.one_or_more, default=epoch, help="number of epochs")
    group.add_argument("--batch_size", type=cli.one_or_more, default=64, help="clips in a batch, over all processes together")
    if lr is not None:
        group.add_argument("--lr", type=cli.real(above=0), default=lr, help="learning rate, multiplied by 0.999 after every epoch")
    group.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="precision of the forward pass; weights stay fp32")
    group.add_argument("--tf32", action="store_true", help="TensorFloat-32 in products of float32, on a GPU: faster, less precise")
    group.add_argument(
        "--accumulate", type=cli.one_or_more, default=1, changes_result=False,
        help="parts in which a batch is computed, one after another: less memory, the same gradients",
    )  # fmt: skip
    group = parser.add_argument_group("output")
    where = "checkpoints/sub{ID}/{arm}"
    group.add_argument("--model_dir", type=Path, changes_result=False, help=f"folder for the checkpoints (default: {where}/{{decoder}})")
    group.add_argument(
        "--figure_dir",
        type=Path,
        changes_result=False,
        help=f"folder for the loss figure (default: figures in --model_dir, or {where}/figures)",
    )
    group.add_argument(
        "--save_every",
        type=cli.whole(0),
        default=0,
        changes_result=False,
        help="epochs between kept checkpoints; 0 keeps those of the paper",
    )
    group.add_argument("--tensorboard", action="store_true", changes_result=False, help="losses for TensorBoard, in the checkpoint folder")
    group.add_argument("--resume", action="store_true", changes_result=False, help="no effect: an unfinished training always resumes")
    return parser


# ---------------------------------------------------------------------------------------------- the plan


@dataclass(frozen=True)
class Plan:
    """How one decoder is trained, and where."""

    decoder: str  # semantic, structure, CMG or retrieval
    folder: Path  # of the checkpoints
    figure: Path  # file of the loss figure
    title: str  # of the figure
    train_clips: np.ndarray  # rows of the training split to learn from
    val_clips: np.ndarray  # and to validate on
    epochs: int
    batch_size: int
    seed: int
    kept_epochs: tuple  # whose checkpoint stays
    save_every: int  # every so many epochs a checkpoint stays too; 0 for none
    device: str  # auto, cpu, cuda
    precision: str  # fp32, bf16
    tf32: bool  # products of float32 in TensorFloat-32, on a GPU
    accumulate: int  # parts in which a batch is computed
    num_workers: int  # processes that load batches ahead
    tensorboard: bool
    fmri_files: list  # paths, for the record
    statistics: Path | None  # what the fMRI was standardised with, copied beside the checkpoints
    given: np.ndarray | None  # (V,) bool, voxels that the decoder is given; None for all
    facts: dict  # what the JSON beside a checkpoint says of its origin

    @property
    def last(self):
        """The checkpoint that a finished training leaves."""
        return self.folder / "last.safetensors"

    @property
    def state(self):
        """What an unfinished training resumes from."""
        return self.folder / TRAINING_STATE

    def keeps(self, epoch):
        """True for an epoch whose checkpoint stays."""
        return epoch in self.kept_epochs or bool(self.save_every and epoch % self.save_every == 0)

    @contextlib.contextmanager
    def working(self, args, targets):
        """`common.records.working` on this training, which reads the files `targets` beside the fMRI; None when it has finished already."""
        old = [path for pattern in ("last.*", "best.*", "epoch_*", TRAINING_STATE) for path in self.folder.glob(pattern)]
        with working(self.folder, args, inputs=[*self.fmri_files, *targets], outputs=[self.last], clear=old) as record:
            if record is None:
                self.state.unlink(missing_ok=True)  # a kill at the very end may have left it
            elif self.statistics:
                copy_array(self.statistics, statistics_path(self.last))
            yield record


def make_plan(args, decoder, further_epochs=(), name=None):
    """Plan of a command line; further_epochs are kept beside the one that reconstruction takes.

    `name` is that of the folder and the figure where it is not the decoder's. A UserError for as many validation clips as there
    are training clips.
    """
    dataset, layout = get_dataset(args.dataset), Layout.of(args)
    folder = args.model_dir or layout.checkpoints(args.subj_ID, arm_name(named_arm(args), args.seed), name or decoder)
    n = dataset.n_train
    n_val = int(n * VALIDATION_SHARE + 1e-9) if args.n_val is None else args.n_val
    if not 0 < n_val < n:
        raise UserError(f"--n_val {n_val} is out of range; use a number from 1 to {n - 1}, the training clips less one")
    train_clips, val_clips = np.split(np.arange(n), [n - n_val])
    statistics = layout.statistics(args.subj_ID, dataset.n_vertices)
    return Plan(
        decoder=decoder, folder=folder, figure=(args.figure_dir or (args.model_dir or folder.parent) / "figures") / f"{name or decoder}_loss.png",
        title=f"{args.dataset}, subject {args.subj_ID}, {named_arm(args)}: {name or decoder} decoder",
        train_clips=train_clips, val_clips=val_clips, epochs=args.epoch, batch_size=args.batch_size, seed=args.seed,
        kept_epochs=(dataset.epochs[decoder], *further_epochs), save_every=args.save_every,
        device=args.device, precision=args.precision, tf32=args.tf32, accumulate=args.accumulate, num_workers=args.num_workers, tensorboard=args.tensorboard,
        fmri_files=fmri_files(layout, dataset, args.subj_ID, "train", args.arm, args.data_root),
        statistics=statistics if args.arm != "oracle" and statistics.exists() else None, given=given_columns(args, layout),
        facts={
            "decoder": decoder, "dataset": args.dataset, "phantom": dataset.simulated, "subject": args.subj_ID, "arm": args.arm,
            "seed": args.seed, "git": git_revision(), "versions": versions(),
            **({"roi": args.roi, "without_roi": args.without_roi} if args.roi or args.without_roi else {}),
        },
    )  # fmt: skip


def copy_array(source, target):
    """Copy an array and its data card; the card first: a card alone is no array."""
    for old, new in ((card_path(source), card_path(target)), (source, target)):
        with atomic_path(new) as temporary:
            shutil.copyfile(old, temporary)


# ---------------------------------------------------------------------------------------------- what every training begins with


def load_training_fmri(args):
    """fMRI of the training clips in the arm, (N, V) float32 tensor; 0 where --roi or --without_roi takes voxels away."""
    dataset, layout = get_dataset(args.dataset), Layout.of(args)
    fmri = load_fmri(layout, dataset, args.subj_ID, "train", args.arm, args.data_root, args.seed)
    log.info("fmri train (%s): %d clips x %d vertices, %s", args.arm, *fmri.shape, fmri.dtype)
    given = given_columns(args, layout)
    if given is not None:
        if len(given) != fmri.shape[1]:
            raise UserError(f"the mask of subject {args.subj_ID} is of {len(given)} voxels, the fMRI has {fmri.shape[1]}; make both again")
        fmri[:, ~given] = 0
        log.info("%s: %d of %d voxels", named_arm(args), given.sum(), len(given))
    return torch.from_numpy(fmri)


def build_model(kind, seed, **arguments):
    """A new model of a class; its first weights depend on the seed alone."""
    torch.manual_seed(seed_of(seed, "weights"))
    model = kind(**arguments)
    log.info("%s: %d parameters", kind.__name__, sum(p.numel() for p in model.parameters()))
    return model
