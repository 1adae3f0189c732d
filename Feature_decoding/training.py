"""The training loop of all decoders, on accelerate: one process or many, resumable to the last bit.

What to read first: `Task`, which a training script subclasses, and `fit`, which runs it. Everything random is keyed
by seed, epoch and clip (common.randomness), so that a resumed run has no state to restore but weights and optimiser.
"""

import json
import logging
import math
import shutil
import time
import zlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from common import cli
from common.arms import add_arm_flag, fmri_files, load_fmri
from common.datasets import get_dataset
from common.files import UserError, atomic_path, fingerprint, write_text
from common.layout import Layout
from common.model_sources import model_path
from common.randomness import numpy_generator, seed_of
from common.records import Record, git_revision, versions
from models.checkpoints import save_checkpoint

log = logging.getLogger(__name__)

VALIDATION_SHARE = 320 / 4320  # the last 320 of CC2017's 4320 training clips
_HOW = ("model_dir", "figure_dir", "save_every")  # flags that do not change the weights
_ANEW = "--overwrite to train anew"


# ---------------------------------------------------------------------------------------------- flags


def get_training_parser(doc, *, epoch, lr, models=("clip",)):
    """Parser with the flags of every training script.

    Parameters
    ----------
    doc : str, the script's docstring
    epoch : int, default number of epochs
    lr : float, default learning rate; None for a script without --lr
    models : which of --sd_path, --clip_path it needs
    """
    from common.model_sources import add_model_flags

    parser = cli.make_parser(doc)
    data = cli.add_data_flags(parser, subject=True, device=True)
    add_arm_flag(data)
    data.add_argument("--n_val", type=int, help="clips at the end of the training split that are validation (default: 320 of 4320)")
    data.add_argument("--num_workers", type=int, default=0, help="processes that load batches ahead")
    add_model_flags(parser, *models)
    group = parser.add_argument_group("optimisation")
    group.add_argument("--epoch", type=int, default=epoch, help="epochs to train")
    group.add_argument("--batch_size", type=int, default=64, help="clips of a batch, over all processes together")
    if lr is not None:
        group.add_argument("--lr", type=float, default=lr, help="learning rate, multiplied by 0.999 after every epoch")
    group.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="of the forward pass; weights stay fp32")
    group = parser.add_argument_group("output")
    group.add_argument("--model_dir", type=Path, help="folder of the checkpoints (default: checkpoints/sub{ID}/{arm}/{decoder})")
    group.add_argument("--figure_dir", type=Path, help="folder of the loss figure (default: figures/ beside it)")
    group.add_argument("--save_every", type=int, default=0, help="keep a checkpoint every n epochs; 0: those that reconstruction takes")
    group.add_argument("--tensorboard", action="store_true", help="also write the losses for TensorBoard, into the model folder")
    group.add_argument("--resume", action="store_true", help="accepted for old command lines: every run resumes")
    return parser


# ---------------------------------------------------------------------------------------------- one training


@dataclass
class Run:
    """Where one training reads and writes, and which clips it has.

    Parameters
    ----------
    args : parsed arguments
    decoder : semantic, structure, CMG or retrieval
    features : paths of what it reads beside the fMRI
    kept_epochs : further epochs whose checkpoint is kept
    """

    args: object
    decoder: str
    features: list
    kept_epochs: tuple = ()
    layout: Layout = field(init=False)

    def __post_init__(self):
        args = self.args
        self.layout, self.dataset = Layout.of(args), get_dataset(args.dataset)
        self.dataset.check_subject(args.subj_ID)
        self.model_dir = args.model_dir or self.layout.checkpoints(args.subj_ID, args.arm, self.decoder)
        self.figure_dir = args.figure_dir or self.model_dir.parent / "figures"
        n = self.dataset.n_train
        n_val = int(n * VALIDATION_SHARE + 1e-9) if args.n_val is None else args.n_val
        if not 0 < n_val < n:
            raise UserError("--n_val", f"1 to {n - 1} of the {n} training clips", n_val, "give another number")
        for flag in ("epoch", "batch_size"):
            if getattr(args, flag) < 1:
                raise UserError(f"--{flag}", "1 or more", getattr(args, flag), "give another number")
        self.train_clips, self.val_clips = np.split(np.arange(n), [n - n_val])
        inputs = fmri_files(self.layout, self.dataset, args.subj_ID, "train", args.arm, args.data_root)
        self.record = Record(self.model_dir, args, [*inputs, *self.features], _HOW)

    def is_done(self):
        return self.record.is_done()

    def load_fmri(self):
        """Training fMRI of the arm, (N, V) float32 tensor."""
        a = self.args
        clip = model_path(a, "clip") if a.arm == "oracle" else None
        fmri = load_fmri(self.layout, self.dataset, a.subj_ID, "train", a.arm, a.data_root, clip, a.seed)
        log.info("fmri train (%s): %d clips x %d vertices, %s", a.arm, *fmri.shape, fmri.dtype)
        return torch.from_numpy(fmri)

    def build(self, kind, **arguments):
        """A new model; its first weights depend on the seed alone."""
        torch.manual_seed(seed_of(self.args.seed, "weights"))
        model = kind(**arguments)
        log.info("%s: %d parameters", kind.__name__, sum(p.numel() for p in model.parameters()))
        return model

    def keeps(self, epoch):
        """True for an epoch whose checkpoint stays."""
        every = self.args.save_every
        return epoch in (self.dataset.epochs[self.decoder], *self.kept_epochs) or bool(every and epoch % every == 0)

    def facts(self):
        """What the JSON beside a checkpoint says of its origin."""
        a = self.args
        return {"decoder": self.decoder, "dataset": a.dataset, "subject": a.subj_ID, "arm": a.arm, "seed": a.seed,
                "git": git_revision(), "packages": versions()}  # fmt: skip


class Task:
    """What makes one decoder's training different from another's.

    Losses return a total and its unweighted terms, as those of models.losses do.
    """

    def prepare(self, device):
        """Load the models that augmentation needs; called once, before the first epoch."""

    def start_epoch(self, epoch):
        """Draw the augmentation of an epoch."""

    def load(self, clips, epoch):
        """Tensors of some clips, rows in the order of `clips`: a dict that may be made in a worker process.

        `epoch` is None in validation: nothing is augmented then.
        """
        raise NotImplementedError

    def forward(self, model, batch):
        """Two dicts of tensors whose rows are clips: what the model makes of a batch, and what it should be."""
        raise NotImplementedError

    def loss(self, model, outputs, targets, epoch):
        """Training loss of a whole batch."""
        raise NotImplementedError

    def validation_loss(self, model, outputs, targets):
        """Loss that chooses the best epoch; by default the training loss."""
        return self.loss(model, outputs, targets, None)

    def validate(self, model, batch):
        """Total and terms on a batch of validation clips; the model is in evaluation mode."""
        return self.validation_loss(model, *self.forward(model, batch))


def make_adam(model, lr, **options):
    """Adam over the trainable parameters, in one kernel; options as in torch.optim.Adam."""
    return torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=lr, fused=True, **options)


def exponential_lr(lr, factor=0.999):
    """Learning rate that is multiplied by `factor` after every epoch, as a function of step and epoch, both from 1."""
    return lambda step, epoch: lr * factor ** (epoch - 1)


def weighted_mean(values, counts):
    """Mean over batches of different sizes: values (batches, terms), counts (batches,)."""
    return (np.asarray(values) * np.asarray(counts)[:, None]).sum(0) / np.sum(counts)


# ---------------------------------------------------------------------------------------------- batches


class _Batches(Dataset):
    """Indexed by an array of clip numbers, it gives their whole batch."""

    def __init__(self, task, epoch):
        self.task, self.epoch = task, epoch

    def __getitem__(self, clips):
        return self.task.load(clips, self.epoch)


def shuffled_batches(clips, batch_size, seed, epoch):
    """Clip numbers in the order of an epoch, a list of arrays of `batch_size`; the last may be smaller."""
    order = numpy_generator(seed, "order", epoch).permutation(clips)
    return np.split(order, range(batch_size, len(order), batch_size))


def _to(batch, device):
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


class _Gather(torch.autograd.Function):
    """Rows of all processes, one under the other.

    Every process then computes the loss of the whole batch. DistributedDataParallel averages gradients over
    processes, so each one's gradient with respect to its own rows counts as often as there are processes.
    """

    @staticmethod
    def forward(ctx, rows, accelerator, sizes):
        ctx.start, ctx.n = sum(sizes[: accelerator.process_index]), sizes[accelerator.process_index]
        ctx.n_given, ctx.n_processes = len(rows), accelerator.num_processes
        padded = rows.new_zeros(max(sizes), *rows.shape[1:])  # shares may differ by one row
        padded[: ctx.n] = rows[: ctx.n]
        parts = accelerator.gather(padded).split(max(sizes))
        return torch.cat([part[:n] for part, n in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx, gradient):
        own = gradient.new_zeros(ctx.n_given, *gradient.shape[1:])
        own[: ctx.n] = gradient[ctx.start : ctx.start + ctx.n] * ctx.n_processes
        return own, None, None


# ---------------------------------------------------------------------------------------------- state on disk


def _fingerprint(tensors):
    """Checksum of tensors by name: which weights an optimiser's state belongs to."""
    value = 0
    for name, tensor in sorted(tensors.items()):
        value = zlib.crc32(tensor.detach().cpu().contiguous().numpy().reshape(-1).view(np.uint8), zlib.crc32(name.encode(), value))
    return f"{value:08x}"


def save_state(folder, epoch, model, optimizer, best, facts):
    """Write `last` and the optimiser's state that goes with it.

    The optimiser's comes first, under its epoch's name and with the fingerprint of the weights: whichever of the
    files a kill leaves unwritten, `load_state` finds a pair that belongs together.
    """
    state = {f"{i}.{name}": value.contiguous() for i, entry in optimizer.state_dict()["state"].items() for name, value in entry.items()}
    about = {"epoch": epoch, "weights": _fingerprint(model.state_dict()), "best": best, "state": _fingerprint(state)}
    about["checksum"] = fingerprint(about)
    new = folder / f"optimizer_{epoch}.safetensors"
    with atomic_path(new) as temporary:
        save_file(state, temporary, metadata={"about": json.dumps(about)})
    save_checkpoint(folder / "last.safetensors", model, epoch=epoch, **facts)
    shutil.copymode(folder / "last.safetensors", new)  # safetensors makes files that nobody else may read
    for old in set(folder.glob("optimizer_*.safetensors")) - {new}:
        old.unlink(missing_ok=True)


def load_state(folder, model, optimizer):
    """Put model and optimiser where `last` left them.

    Returns
    -------
    epoch : int, the last whole one; 0 when there is none
    best : {"epoch": int, "loss": float} or None

    Raises
    ------
    UserError : `last` is there but broken, or no optimiser's state belongs to it
    """
    path = folder / "last.safetensors"
    if not path.exists():
        return 0, None
    try:
        weights = load_file(path)
        mark = _fingerprint(weights)
        for state_path in folder.glob("optimizer_*.safetensors"):
            with safe_open(state_path, "pt") as file:
                about = json.loads(file.metadata()["about"])
            if about.pop("checksum") != fingerprint(about):
                raise ValueError(f"{state_path.name} is altered")
            if about["weights"] == mark:
                state = load_file(state_path)
                if about["state"] != _fingerprint(state):
                    raise ValueError(f"{state_path.name} is altered")
                model.load_state_dict(weights)
                _fill_optimizer(optimizer, state)
                return about["epoch"], about["best"]
    except (SafetensorError, RuntimeError, KeyError, ValueError) as error:
        raise UserError(path, "weights and optimiser of this training", f"'{str(error).splitlines()[0]}'", _ANEW) from None
    raise UserError(path, "an optimizer_*.safetensors beside it that belongs to these weights", "none", _ANEW)


def _fill_optimizer(optimizer, tensors):
    state = {}
    for name, tensor in tensors.items():
        index, _, entry = name.partition(".")
        state.setdefault(int(index), {})[entry] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def read_log(path):
    """Epochs of a log.jsonl, list of dict; a last line that was cut off is left out."""
    entries = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            entries.append(json.loads(line))
        except ValueError:
            break
    return entries


def cut_log(path, epoch):
    """Leave the epochs up to `epoch` in a log.jsonl: a kill may have come between a line and its checkpoint."""
    entries = [entry for entry in read_log(path) if entry["epoch"] <= epoch]
    write_text(path, "".join(json.dumps(entry) + "\n" for entry in entries))


# ---------------------------------------------------------------------------------------------- words and pictures


def check_finite(values, names, where):
    """Raise a UserError that names the first of the losses that is NaN or infinite; total first, then its terms."""
    broken = [name for name, value in zip(names[1:], values[1:], strict=True) if not math.isfinite(value)]
    if not math.isfinite(values[0]):
        broken = broken or [names[0]]
    if broken:
        found = f"{' and '.join(broken)} {values[names.index(broken[0])]}"
        raise UserError(where, "finite losses", found, "lower the learning rate or check the features; 'last' is of the epoch before")


def draw_losses(run):
    """Figure of the losses over epochs, the total and each term, as {figure_dir}/{decoder}_loss.png."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    entries = read_log(run.model_dir / "log.jsonl")
    names = list(dict.fromkeys(name for entry in entries for part in ("train", "validation") for name in entry[part]))
    figure, axes = plt.subplots(1, len(names), figsize=(3.4 * len(names), 3), squeeze=False, layout="constrained")
    for axis, name in zip(axes[0], names, strict=True):
        for part in ("train", "validation"):
            points = [(entry["epoch"], entry[part][name]) for entry in entries if name in entry[part]]
            if points:
                axis.plot(*zip(*points, strict=True), label=part)
        axis.set(title=name, xlabel="epoch", yscale="log")
        axis.legend(frameon=False)
    figure.suptitle(f"{run.args.dataset}, subject {run.args.subj_ID}, {run.args.arm}: {run.decoder} decoder")
    with atomic_path(run.figure_dir / f"{run.decoder}_loss.png") as temporary:
        figure.savefig(temporary, dpi=110)
    plt.close(figure)


def _tensorboard(folder, epoch):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError("--tensorboard", "the package tensorboard", "not installed", "pip install -e .[tensorboard]") from None
    return SummaryWriter(folder / "tensorboard", purge_step=epoch + 1)


def write_scalars(board, entry):
    """One epoch of the log for TensorBoard."""
    for part in ("train", "validation"):
        for name, value in entry[part].items():
            board.add_scalar(f"{part}/{name}", value, entry["epoch"])
    board.add_scalar("lr", entry["lr"], entry["epoch"])
    board.flush()


# ---------------------------------------------------------------------------------------------- the loop


class Trainer:
    """Trains a model and keeps its folder: checkpoints, log, figure.

    Parameters
    ----------
    run : Run
    model : one of models.checkpoints.KINDS
    task : Task
    optimizer : torch.optim.Optimizer over the model's parameters
    learning_rate : function of the optimiser step and the epoch, both from 1
    """

    def __init__(self, run, model, task, optimizer, learning_rate):
        from accelerate import Accelerator

        self.run, self.task, self.optimizer, self.learning_rate = run, task, optimizer, learning_rate
        self.accelerator = Accelerator(cpu=cli.choose_device(run.args.device).type == "cpu", mixed_precision="no")
        self.device = self.accelerator.device
        self.model = model.to(self.device)

    @property
    def is_main(self):
        return self.accelerator.is_main_process

    def autocast(self):
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.run.args.precision == "bf16")

    @cached_property
    def parallel(self):
        """The model as forward passes call it: over processes, when there are several."""
        return self.accelerator.prepare(self.model)

    def gather(self, tensors, sizes):
        if self.accelerator.num_processes == 1:
            return {name: tensor.float() for name, tensor in tensors.items()}
        return {name: _Gather.apply(tensor.float(), self.accelerator, sizes) for name, tensor in tensors.items()}

    def train_epoch(self, epoch):
        """Train for an epoch; returns the mean losses by name and the last learning rate."""
        args, rank, n_processes = self.run.args, self.accelerator.process_index, self.accelerator.num_processes
        batches = shuffled_batches(self.run.train_clips, args.batch_size, args.seed, epoch)
        shares = [np.array_split(batch, n_processes) for batch in batches]
        self.task.start_epoch(epoch)
        torch.manual_seed(seed_of(args.seed, "dropout", epoch, rank))
        # a batch smaller than the number of processes: who has no clip computes one that is not counted
        own = [share[rank] if len(share[rank]) else share[0] for share in shares]
        loader = DataLoader(_Batches(self.task, epoch), batch_size=None, sampler=own, num_workers=args.num_workers)
        what = f"{self.run.decoder} epoch {epoch}/{args.epoch}"
        bar = tqdm(loader, desc=what, unit="batch", leave=False, mininterval=1, disable=not self.is_main)
        self.parallel.train()
        rows = []
        for step, (batch, share) in enumerate(zip(bar, shares, strict=True), 1):
            lr = self.learning_rate((epoch - 1) * len(batches) + step, epoch)
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            with self.autocast():
                outputs, targets = self.task.forward(self.parallel, _to(batch, self.device))
            sizes = [len(part) for part in share]
            outputs, targets = self.gather(outputs, sizes), self.gather(targets, sizes)
            total, terms = self.task.loss(self.model, outputs, targets, epoch)
            values, names = torch.stack([total, *terms.values()]).tolist(), ["total", *terms]
            check_finite(values, names, f"{self.run.model_dir}: epoch {epoch}, step {step} of {len(batches)}")
            self.optimizer.zero_grad()
            self.accelerator.backward(total)
            self.optimizer.step()
            rows.append(values)
            bar.set_postfix({name: f"{value:.4g}" for name, value in zip(names, values, strict=True)}, refresh=False)
        return dict(zip(names, weighted_mean(rows, [len(batch) for batch in batches]).tolist(), strict=True)), lr

    @torch.no_grad()
    def validate(self, epoch):
        """Mean losses on the validation clips, by name. Every process computes them all, so that they agree."""
        clips, size = self.run.val_clips, self.run.args.batch_size
        self.model.eval()
        rows, counts = [], []
        for start in range(0, len(clips), size):
            chosen = clips[start : start + size]
            with self.autocast():
                total, terms = self.task.validate(self.model, _to(self.task.load(chosen, None), self.device))
            rows.append(torch.stack([total, *terms.values()]).tolist())
            counts.append(len(chosen))
        names, values = ["total", *terms], weighted_mean(rows, counts).tolist()
        check_finite(values, names, f"{self.run.model_dir}: epoch {epoch}, validation")
        return dict(zip(names, values, strict=True))

    def fit(self):
        """Train up to --epoch, from the last whole epoch on.

        Raises
        ------
        UserError : a loss that is not finite, or a folder of another training
        """
        run, folder = self.run, self.run.model_dir
        if self.is_main:
            start_folder(run)
        self.accelerator.wait_for_everyone()
        done, best = load_state(folder, self.model, self.optimizer)
        self.accelerator.wait_for_everyone()
        facts = run.facts()
        if self.is_main:
            cut_log(folder / "log.jsonl", done)
            if done:
                log.info("%s: going on after epoch %d", folder, done)
                save_state(folder, done, self.model, self.optimizer, best, facts)  # a kill may have left last.json behind
        board = _tensorboard(folder, done) if run.args.tensorboard and self.is_main else None
        if done < run.args.epoch:
            self.task.prepare(self.device)
        for epoch in range(done + 1, run.args.epoch + 1):
            began = time.time()
            losses, lr = self.train_epoch(epoch)
            checked = self.validate(epoch)
            improved = best is None or checked["total"] < best["loss"]
            best = {"epoch": epoch, "loss": checked["total"]} if improved else best
            if self.is_main:
                entry = {"epoch": epoch, "lr": lr, "train": losses, "validation": checked, "seconds": round(time.time() - began, 3)}
                run.record.log(**entry)
                for name in ["best"] * improved + [f"epoch_{epoch}"] * run.keeps(epoch):
                    save_checkpoint(folder / f"{name}.safetensors", self.model, epoch=epoch, **facts)
                save_state(folder, epoch, self.model, self.optimizer, best, facts)
                if run.keeps(epoch):
                    draw_losses(run)
                if board:
                    write_scalars(board, entry)
        if self.is_main:
            draw_losses(run)
            finish_folder(run, best)
        self.accelerator.wait_for_everyone()


def start_folder(run):
    """Start the record; with --overwrite the old checkpoints go."""
    run.record.start()
    if run.args.overwrite:
        for pattern in ("last.*", "best.*", "epoch_*", "optimizer_*"):
            for path in run.model_dir.glob(pattern):
                path.unlink()


def finish_folder(run, best):
    """Write metrics.json; the optimiser's state is not needed any more."""
    final = read_log(run.model_dir / "log.jsonl")[-1]
    run.record.finish(epochs=final["epoch"], best=best, train=final["train"], validation=final["validation"])
    for path in run.model_dir.glob("optimizer_*.safetensors"):
        path.unlink()
    log.info("%s: %d epochs, best validation loss %.4g at epoch %d", run.model_dir, final["epoch"], best["loss"], best["epoch"])
