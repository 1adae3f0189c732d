"""Make the videos of the phantom in Algonauts 2021's tree: 3 s of known content each.

The phantom's scenes, whose eight frames are shown to and fro at 10 (some at 30) frames a second. As in the real data
set, the last videos have no responses.

Writes   {data_root}/phantom-algonauts/AlgonautsVideos268_All_30fpsmax/{nnnn}_*.mp4     64 x 64, 3 s
         {data_root}/phantom-algonauts/phantom_truth.json          factors and caption of every video with responses

    python Data_preprocess/Phantom/step1_make_algonauts_videos.py --data_root data

10 core-seconds. The phantom is a made-up data set of known content, never a result about brains.
"""

import numpy as np

from common import cli
from common.datasets import get_dataset
from common.datasets.phantom_algonauts import PhantomAlgonauts
from common.video import write_mp4
from common.workers import add_workers_flag
from Data_preprocess.phantom_movies import add_phantom_flags, by_split, make_stimuli
from phantom import world

FOLDER = "AlgonautsVideos268_All_30fpsmax"
SECONDS, RATES = 3, (10, 10, 10, 30)
EXTRA = 4  # videos without responses
CRF = 8  # as the phantom's movies


def to_and_fro(n):
    """Which of the scene's eight frames each of n video frames shows."""
    there = np.arange(8)
    return np.resize(np.concatenate([there, there[-2:0:-1]]), n)


def make_video(job):
    """Write one video; the job is (path, Scene, frames per second)."""
    path, scene, rate = job
    write_mp4(path, world.render(scene, range(0, 64, 8))[to_and_fro(SECONDS * rate)], rate, crf=CRF)


def get_parser():
    parser = cli.make_parser(__doc__)
    add_workers_flag(add_phantom_flags(parser, PhantomAlgonauts), "videos")
    return parser


def main(args):
    dataset = get_dataset(args.dataset, PhantomAlgonauts)
    rng, n = np.random.default_rng([args.seed, 10]), dataset.n_train + dataset.n_test
    scenes = [world.random_scene(rng) for _ in range(n + EXTRA)]
    folder = dataset.tree(args.data_root) / FOLDER
    names = [f"{number:04d}_{'-'.join(map(str, rng.integers(0, 10, 8)))}" for number in range(1, len(scenes) + 1)]
    jobs = [(folder / f"{name}.mp4", scene, RATES[k % len(RATES)]) for k, (name, scene) in enumerate(zip(names, scenes, strict=True))]
    said = f"{len(jobs)} videos, {n} of them with responses"
    make_stimuli(args, dataset, by_split(dataset, scenes), jobs, make_video, "step1_make_videos", said)


if __name__ == "__main__":
    cli.run(main, get_parser)
