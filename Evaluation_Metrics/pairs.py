"""Reconstructed clips with their ground truth."""

from common.files import UserError
from common.readers import AGAIN, PAIRED, format_clips


class Pairs:
    """Reconstructed clips with their ground truth; a UserError where clips are missing and that is not allowed, or the truth is not known.

    Parameters
    ----------
    pred : FolderClips or ArrayClips
    gt : FolderClips or ArrayClips, optional
        by default the left half of a side-by-side `pred`
    numbers : list of int, optional
        clips that should be there, those of the ground truth by default
    allow_missing : bool
        go on without clips that are not there

    Attributes
    ----------
    wanted, numbers, absent : list of int
        clips that should be there, that are there, ascending, and that are not
    """

    def __init__(self, pred, gt=None, numbers=None, allow_missing=False):
        self.pred, self.gt = pred, gt
        if gt is None and getattr(pred, "layout", None) not in PAIRED:
            raise UserError("the true clips are not known; name an .npy or a folder of them with --gt")
        truth = gt.numbers if gt is not None else range(1, max(pred.numbers) + 1)
        self.wanted = list(truth if numbers is None else numbers)
        there = set(pred.numbers)
        if strangers := sorted((there if numbers is None else set(numbers)) - set(truth)):
            if numbers is not None:
                raise UserError(
                    f"--clips {format_clips(strangers)}: the ground truth has clips {format_clips(truth)} only; check --gt and --clips"
                )
            raise UserError(
                f"{pred.path} has clips {format_clips(strangers)} besides the ground truth's {format_clips(truth)}; "
                "check that both are of the same test set, or choose with --clips"
            )
        self.numbers = [number for number in self.wanted if number in there]
        self.absent = [number for number in self.wanted if number not in there]
        if not self.numbers:
            raise UserError(f"{pred.path} has none of the clips {format_clips(self.wanted)}; check the path")
        if self.absent and not allow_missing:
            raise UserError(
                f"{pred.path} lacks {len(self.absent)} of the clips {format_clips(self.wanted)}: {format_clips(self.absent)}; "
                "write them, choose with --clips, or leave them out with --allow_missing"
            )

    def __len__(self):
        return len(self.numbers)

    def read(self, number):
        """Reconstruction and ground truth of one clip, two (F, H, W, 3) uint8 of one shape."""
        if self.gt is None:
            gt, pred = self.pred.read_both(number)
        else:
            pred, gt = self.pred.read(number), self.gt.read(number)
        if pred.shape != gt.shape:
            found, wanted = ("{} frames of {} x {}".format(*clip.shape) for clip in (pred, gt))
            raise UserError(
                f"{self.pred.path}: clip {number} has {found}, the ground truth {wanted}; choose another --protocol, or {AGAIN}"
            )
        return pred, gt

    def truth(self):
        """Reader of the ground truth."""
        return self.gt if self.gt is not None else self.pred.other_side()

    def __iter__(self):
        for number in self.numbers:
            yield number, *self.read(number)
