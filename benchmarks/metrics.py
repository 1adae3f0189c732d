"""Speed of the metrics against plain loops, side by side in one run.

Prints   SSIM and EPE of clips of 8 x 512 x 512: the pool of processes against one process that calls skimage and OpenCV
         n-way accuracy of 1200 clips: the closed form against the released sampling loop
         most clips that a whole evaluation holds in memory, and peak memory

    python benchmarks/metrics.py
    python benchmarks/metrics.py --n_clips 20

About 5 min on two cores with 100 clips. Uses 1.3 GB below --folder, deleted at the end.
"""

import argparse
import resource
import tempfile
from pathlib import Path

import cv2
import numpy as np
from skimage.metrics import structural_similarity
from timing import compare

from common import cli
from common.readers import ArrayClips
from common.workers import n_cores
from Evaluation_Metrics import EPE, SSIM, per_clip
from Evaluation_Metrics.n_way import n_way_accuracy, true_classes
from Evaluation_Metrics.pairs import Pairs
from Evaluation_Metrics.towers import Towers


def make_clips(path, n, seed):
    """Write n smooth drifting clips, (n, 8, 512, 512, 3) uint8."""
    rng = np.random.default_rng(seed)
    clips = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(n, 8, 512, 512, 3))
    for clip in clips:
        still = cv2.resize(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8), (560, 560), interpolation=cv2.INTER_CUBIC)
        dx, dy = rng.integers(0, 6, 2)
        for t in range(8):
            clip[t] = still[t * dy : t * dy + 512, t * dx : t * dx + 512]
    clips.flush()


def plain_ssim_and_epe(pred, gt):
    """The two metrics of one clip as the released scripts compute them: frame by frame, in one process."""
    ssim = np.mean([structural_similarity(p, g, data_range=255, channel_axis=-1) for p, g in zip(pred, gt, strict=True)])
    flows = []
    for clip in (pred, gt):
        grey = [cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) for frame in clip]
        flows.append([cv2.calcOpticalFlowFarneback(a, b, None, 0.5, 3, 15, 3, 5, 1.2, 0) for a, b in zip(grey[:-1], grey[1:], strict=True)])
    epe = np.mean([np.sqrt(((u - v) ** 2).sum(-1)).mean() for u, v in zip(*flows, strict=True)])
    return ssim, epe


def released_n_way(scores, true_ids, n_way, n_trials, rng):
    """The released loop: per clip and trial one draw, per true class one ranking."""
    accuracy = []
    for row, ids in zip(scores, true_ids, strict=True):
        others = [c for c in range(len(row)) if c not in ids]
        hits = 0
        for _ in range(n_trials):
            drawn = rng.choice(others, n_way - 1, replace=False)
            for i in ids:
                if np.argsort(row[[i, *drawn]])[-1] == 0:
                    hits += 1
                    break
        accuracy.append(hits / n_trials)
    return np.array(accuracy)


def main(args):
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        folder = Path(folder)
        for name, seed in (("pred", 0), ("gt", 1)):
            make_clips(folder / f"{name}.npy", args.n_clips, seed)
        pairs = Pairs(ArrayClips(folder / "pred.npy"), ArrayClips(folder / "gt.npy"))
        for _, pred, gt in pairs:  # warm the cache for both sides
            pred.sum(), gt.sum()
        values, (columns, _) = compare(
            f"SSIM and EPE of {args.n_clips} clips of 8 x 512 x 512, a pool of {args.workers} against one process",
            lambda: np.array([plain_ssim_and_epe(pred, gt) for _, pred, gt in pairs]),
            lambda: per_clip.score_pairs(pairs, [SSIM.metric(), EPE.metric()], Towers({}), workers=args.workers),
            repeats=3,
        )
        gap = max(np.abs(columns["SSIM"] - values[:, 0]).max(), np.abs(columns["EPE"] - values[:, 1]).max())
        print(f"  OpenCV on one thread in both, angular error besides in ours; largest difference of a value {gap:.1e}")
        in_memory = 2 * (per_clip.IN_FLIGHT + per_clip.BLOCK) + per_clip.BLOCK
        peak = [resource.getrusage(who).ru_maxrss / 2**20 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        print(f"  at most {in_memory} clips in memory, truth included; peak {peak[0]:.2f} GB here, {peak[1]:.2f} GB in a worker")

    rng = np.random.default_rng(0)
    scores, truth = rng.normal(size=(2, 1200, 400))
    scores += truth
    for n_way in (2, 50):
        sampled, exact = compare(
            f"{n_way}-way accuracy of 1200 clips, 400 classes, closed form against 100 trials",
            lambda n=n_way: released_n_way(scores[:300], true_classes(truth[:300]), n, 100, np.random.RandomState(0)),
            lambda n=n_way: n_way_accuracy(scores, true_classes(truth), n),
            repeats=3,
            scale=4,
        )
        print(f"  mean of the first 300 {sampled.mean():.4f} sampled, {exact[:300].mean():.4f} exact")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n_clips", type=cli.one_or_more, default=100, help="clips for SSIM and EPE")
    parser.add_argument("--workers", type=cli.processes, default=n_cores(), help="processes of the pool")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where the clips are made")
    main(parser.parse_args())
