"""The losses of a training, as a figure and for TensorBoard."""

from common.figures import panels, save_figure
from common.files import UserError

PARTS = ("train", "validation")


def draw_losses(entries, path, title):
    """Draw the losses over epochs, lines of log.jsonl, one panel for the total and for each term."""
    names = list(dict.fromkeys(name for entry in entries for part in PARTS for name in entry[part]))
    figure, axes = panels(len(names), 3.4, 2.8)
    for axis, name in zip(axes, names, strict=True):
        for part in PARTS:
            points = [(entry["epoch"], entry[part][name]) for entry in entries if name in entry[part]]
            if points:
                axis.plot(*zip(*points, strict=True), label=part)
        axis.set(title=name, xlabel="epoch", yscale="log")
        axis.legend(frameon=False)
    figure.suptitle(title)
    save_figure(figure, path, dpi=110)


def open_tensorboard(folder, epoch):
    """Writer of TensorBoard's events, which drops those after `epoch`; a UserError where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError("--tensorboard needs the package tensorboard; pip install -e .[tensorboard]") from None
    return SummaryWriter(folder / "tensorboard", purge_step=epoch + 1)


def write_scalars(board, entry):
    """Give one line of log.jsonl to TensorBoard."""
    for part in PARTS:
        for name, value in entry[part].items():
            board.add_scalar(f"{part}/{name}", value, entry["epoch"])
    board.add_scalar("lr", entry["lr"], entry["epoch"])
    board.flush()
