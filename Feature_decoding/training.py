"""The training loop of all decoders, on accelerate: one process or many, resumable to the last bit.

What to read first: `Task`, which a training script subclasses, and `Trainer.fit`, which runs it. Everything random is
keyed by seed, epoch and clip (common.randomness), so that resuming has no state to restore but weights and optimiser.
Dropout alone is keyed by epoch and process: with dropout, two processes draw other units than one.
"""

import contextlib
import logging
import math
import time
from abc import ABC, abstractmethod
from functools import cached_property

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from common import cli
from common.files import UserError
from common.randomness import numpy_generator, seed_of
from Feature_decoding.loss_figure import draw_losses, open_tensorboard, write_scalars
from Feature_decoding.training_state import cut_log, load_state, read_log, save_state, set_finished
from models.checkpoints import save_checkpoint
from models.layers import blind
from models.precision import allow_tf32

log = logging.getLogger(__name__)

SLOW_SAVING = 1.0  # s


class Task(ABC):
    """What makes one decoder's training different from another's.

    Losses return a total and its unweighted terms, as those of models.losses do.
    """

    def prepare(self, device):  # noqa: B027
        """Load the models that augmentation needs; called once, before the first epoch."""

    def start_epoch(self, epoch):  # noqa: B027
        """Draw the augmentation of an epoch."""

    @abstractmethod
    def load(self, clips, epoch):
        """Tensors of some clips, rows in the order of `clips`: a dict that may be made in a worker process.

        `epoch` is None in validation: nothing is augmented then.
        """

    @abstractmethod
    def forward(self, model, batch):
        """Two dicts of tensors whose rows are clips: what the model makes of a batch, and what it should be."""

    @abstractmethod
    def loss(self, model, outputs, targets, epoch):
        """Training loss of a whole batch."""

    def validation_loss(self, model, outputs, targets):
        """Loss that chooses the best epoch; by default the training loss."""
        return self.loss(model, outputs, targets, None)

    def validate(self, model, batch):
        """Total and terms on a batch of validation clips; the model is in evaluation mode."""
        return self.validation_loss(model, *self.forward(model, batch))


# ---------------------------------------------------------------------------------------------- optimiser


def make_adam(model, lr, **options):
    """Adam over the trainable parameters, in one kernel; options as in torch.optim.Adam."""
    return torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=lr, fused=True, **options)


def exponential_lr(lr):
    """Learning rate that is multiplied by 0.999 after every epoch, as a function of step and epoch, both from 1."""
    return lambda step, epoch: lr * 0.999 ** (epoch - 1)


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


def _split(batch, n):
    """A batch, dict of tensors with rows, in at most n parts, list of such dicts."""
    rows = -(-len(next(iter(batch.values()))) // n)
    parts = [tensor.split(rows) for tensor in batch.values()]
    return [dict(zip(batch, part, strict=True)) for part in zip(*parts, strict=True)]


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


# ---------------------------------------------------------------------------------------------- losses of an epoch


def weighted_mean(values, counts):
    """Mean over batches of different sizes: values (batches, terms), counts (batches,)."""
    return (np.asarray(values) * np.asarray(counts)[:, None]).sum(0) / np.sum(counts)


def check_finite(values, names, where):
    """Raise a UserError that names the losses that are NaN or infinite: the terms, or else the total, which comes first."""
    broken = [name for name, value in zip(names[1:], values[1:], strict=True) if not math.isfinite(value)]
    if not broken and not math.isfinite(values[0]):
        broken = [names[0]]
    if broken:
        what = f"the loss {' and '.join(broken)} is {values[names.index(broken[0])]}"
        raise UserError(f"{where}: {what}; use a lower learning rate or check the features, the training will go on after the epoch before")


# ---------------------------------------------------------------------------------------------- the loop


class Trainer:
    """Trains a model, one of models.checkpoints.KINDS, and keeps its folder: checkpoints, log, figure.

    Parameters
    ----------
    record : common.records.Record
        started
    optimizer : torch.optim.Optimizer
        over the model's parameters
    learning_rate : function
        of the optimiser step and the epoch, both from 1
    """

    def __init__(self, plan, record, model, task, optimizer, learning_rate):
        self.plan, self.record, self.task, self.optimizer, self.learning_rate = plan, record, task, optimizer, learning_rate
        self.accelerator = Accelerator(cpu=cli.choose_device(plan.device).type == "cpu", mixed_precision="no")
        allow_tf32(plan.tf32)
        self.device = self.accelerator.device
        if plan.given is not None:  # what is blind to the other voxels can be given any fMRI of these vertices
            blind(model, ~plan.given)
        self.model = model.to(self.device)
        self.saved_at, self.saving_took = time.monotonic(), 0.0

    @property
    def is_main(self):
        return self.accelerator.is_main_process

    @cached_property
    def parallel(self):
        """The model as forward passes call it: over processes, when there are several."""
        return self.accelerator.prepare(self.model)

    def autocast(self):
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.plan.precision == "bf16")

    def gather(self, tensors, sizes):
        """Rows of all processes as float32; `sizes` are the numbers of rows that count."""
        if self.accelerator.num_processes == 1:
            return {name: tensor.float() for name, tensor in tensors.items()}
        return {name: _Gather.apply(tensor.float(), self.accelerator, sizes) for name, tensor in tensors.items()}

    def forward(self, parts, key):
        """Outputs and targets of a batch that is given in parts.

        Of several parts they are computed without what a backward pass needs, which `backward` computes part by part. `key`
        seeds dropout, for it to be the same both times.
        """
        if len(parts) == 1:
            with self.autocast():
                return self.task.forward(self.parallel, parts[0])
        found = []
        for i, part in enumerate(parts):
            torch.manual_seed(seed_of(*key, i))
            with torch.no_grad(), self.autocast():
                found.append(self.task.forward(self.model, part))
        outputs, targets = ({name: torch.cat([each[name] for each in side]) for name in side[0]} for side in zip(*found, strict=True))
        return {name: tensor.requires_grad_() for name, tensor in outputs.items()}, targets

    def backward(self, total, parts, outputs, key):
        """Backward pass from the loss of a batch.

        In parts, each is given the gradient of the whole batch's loss with respect to its own outputs: the gradients are
        those of the whole batch, whatever the loss compares with what.

        References
        ----------
        Gao et al. 2021, Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup.
        """
        if len(parts) == 1:
            self.accelerator.backward(total)
            return
        rows = len(next(iter(parts[0].values())))
        gradients = [g.split(rows) for g in torch.autograd.grad(total, list(outputs.values()), retain_graph=True)]
        for i, part in enumerate(parts):
            last = i == len(parts) - 1  # which brings what the loss takes of the weights themselves, and meets the other processes
            torch.manual_seed(seed_of(*key, i))
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.parallel):
                with self.autocast():
                    again, _ = self.task.forward(self.parallel, part)
                share = sum((again[name] * gradient[i]).sum() for name, gradient in zip(outputs, gradients, strict=True))
                self.accelerator.backward(total + share if last else share)

    def fit(self):
        """Train from the last whole epoch on; a UserError for a loss that is not finite, or a damaged training state."""
        plan, log_path = self.plan, self.plan.folder / "log.jsonl"
        self.accelerator.wait_for_everyone()  # each has started its record
        done, best = load_state(plan.state, self.model, self.optimizer)
        self.accelerator.wait_for_everyone()
        if self.is_main:
            cut_log(log_path, done)
            if done:
                log.info("%s: resumed after epoch %d", plan.folder, done)
        board = open_tensorboard(plan.folder, done) if plan.tensorboard and self.is_main else None
        if done < plan.epochs:
            self.task.prepare(self.device)
        for epoch in range(done + 1, plan.epochs + 1):
            began = time.time()
            losses, lr = self.train_epoch(epoch)
            checked = self.validate(epoch)
            improved = best is None or checked["total"] < best["loss"]
            best = {"epoch": epoch, "loss": checked["total"]} if improved else best
            if self.is_main:
                entry = {"epoch": epoch, "lr": lr, "train": losses, "validation": checked, "seconds": round(time.time() - began, 3)}
                self.end_epoch(entry, improved, best)
                if board:
                    write_scalars(board, entry)
        if self.is_main:
            self.finish(read_log(log_path), best)
        self.accelerator.wait_for_everyone()

    def train_epoch(self, epoch):
        """Train for an epoch; returns the mean losses by name and the last learning rate."""
        plan, rank, n_processes = self.plan, self.accelerator.process_index, self.accelerator.num_processes
        batches = shuffled_batches(plan.train_clips, plan.batch_size, plan.seed, epoch)
        shares = [np.array_split(batch, n_processes) for batch in batches]
        self.task.start_epoch(epoch)
        torch.manual_seed(seed_of(plan.seed, "dropout", epoch, rank))
        # a batch smaller than the number of processes: who has no clip computes one that is not counted
        own = [share[rank] if len(share[rank]) else share[0] for share in shares]
        loader = DataLoader(_Batches(self.task, epoch), batch_size=None, sampler=own, num_workers=plan.num_workers)
        what = f"{plan.decoder} epoch {epoch}/{plan.epochs}"
        bar = tqdm(loader, desc=what, unit="batch", leave=False, mininterval=1, disable=not self.is_main)
        self.parallel.train()
        rows = []
        for step, (batch, share) in enumerate(zip(bar, shares, strict=True), 1):
            lr = self.learning_rate((epoch - 1) * len(batches) + step, epoch)
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            parts, key = _split(_to(batch, self.device), plan.accumulate), (plan.seed, "dropout", epoch, rank, step)
            outputs, targets = self.forward(parts, key)
            sizes = [len(part) for part in share]
            total, terms = self.task.loss(self.model, self.gather(outputs, sizes), self.gather(targets, sizes), epoch)
            values, names = torch.stack([total, *terms.values()]).tolist(), ["total", *terms]
            check_finite(values, names, f"{plan.folder}, epoch {epoch}, step {step} of {len(batches)}")
            self.optimizer.zero_grad()
            self.backward(total, parts, outputs, key)
            self.optimizer.step()
            rows.append(values)
            bar.set_postfix({name: f"{value:.4g}" for name, value in zip(names, values, strict=True)}, refresh=False)
        return dict(zip(names, weighted_mean(rows, [len(batch) for batch in batches]).tolist(), strict=True)), lr

    @torch.no_grad()
    def validate(self, epoch):
        """Mean losses on the validation clips, by name. Every process computes them all, so that they agree."""
        clips, size = self.plan.val_clips, self.plan.batch_size
        self.model.eval()
        rows, counts = [], []
        for start in range(0, len(clips), size):
            chosen = clips[start : start + size]
            with self.autocast():
                total, terms = self.task.validate(self.model, _to(self.task.load(chosen, None), self.device))
            rows.append(torch.stack([total, *terms.values()]).tolist())
            counts.append(len(chosen))
        names, values = ["total", *terms], weighted_mean(rows, counts).tolist()
        check_finite(values, names, f"{self.plan.folder}, epoch {epoch}, validation")
        return dict(zip(names, values, strict=True))

    # -- what is written

    def save(self, name, epoch, finished):
        """Write a checkpoint; `finished` says whether its weights will stay."""
        facts = self.plan.facts | {"epoch": epoch, "of_epochs": self.plan.epochs, "finished": finished}
        save_checkpoint(self.plan.folder / f"{name}.safetensors", self.model, **facts)

    def end_epoch(self, entry, improved, best):
        """Log an epoch, keep its checkpoints, and write what training resumes from."""
        plan, epoch = self.plan, entry["epoch"]
        self.record.log(**entry)
        log.info(
            "%s epoch %d/%d: training loss %.4g, validation loss %.4g, %.1f s",
            plan.decoder, epoch, plan.epochs, entry["train"]["total"], entry["validation"]["total"], entry["seconds"],
        )  # fmt: skip
        if improved:
            self.save("best", epoch, finished=False)
        if plan.keeps(epoch):
            self.save(f"epoch_{epoch}", epoch, finished=True)
            draw_losses(read_log(plan.folder / "log.jsonl"), plan.figure, plan.title)
        if epoch == plan.epochs or self.state_is_due():
            began = time.monotonic()
            save_state(plan.state, self.model, self.optimizer, epoch, best)
            self.saved_at = time.monotonic()
            self.saving_took = self.saved_at - began

    def state_is_due(self):
        """Whether to write what training resumes from: after every epoch, or where that is slow, so that it takes a tenth of the time at most."""
        return self.saving_took < SLOW_SAVING or time.monotonic() - self.saved_at >= 10 * self.saving_took

    def finish(self, entries, best):
        """Write `last`, figure and metrics.json; the training state is not needed any more."""
        plan, final = self.plan, entries[-1]
        self.save("last", final["epoch"], finished=True)
        set_finished(plan.folder / "best.safetensors")
        draw_losses(entries, plan.figure, plan.title)
        self.record.finish(epochs=final["epoch"], best=best, train=final["train"], validation=final["validation"])
        plan.state.unlink()
        log.info("%s: %d epochs, best validation loss %.4g at epoch %d", plan.folder, final["epoch"], best["loss"], best["epoch"])
