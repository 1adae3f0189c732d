"""Make the movies of the phantom in HCP's tree: the phantom's scenes, one a second, between grey screens.

Around every picture lies a black border, which the centre crop of the preprocessing takes away.

Writes   {data_root}/phantom-hcp/Stimuli/7T_MOVIE{1_PH1,2_PH2,3_PH3,4_PH4}_v2.mp4     78 x 78, 24 fps
         {data_root}/phantom-hcp/phantom_truth.json          factors and caption of every clip, in clip order

    python Data_preprocess/Phantom/step1_make_hcp_movies.py --data_root data

10 core-seconds. The phantom is a made-up data set of known content, never a result about brains.
"""

import numpy as np

from common import cli
from common.datasets import get_dataset
from common.datasets.phantom_hcp import PhantomHCP
from common.video import write_mp4
from common.workers import add_workers_flag
from Data_preprocess.phantom_movies import add_phantom_flags, by_split, make_stimuli
from phantom import world

REST = 60  # grey level between excerpts
CRF = 8  # as the phantom's other movies


def movie_frames(scenes, n_seconds, fps, size):
    """Frames of a movie, one after another, (size, size, 3) uint8; `scenes` by second, the other seconds are grey."""
    step, border = 8 / 3, (size - world.SIZE) // 2  # a clip's frames 0, 3, ... are the scene's 0, 8, ...
    for second in range(n_seconds):
        pictures = np.full((fps, world.SIZE, world.SIZE, 3), REST, np.uint8)
        if second in scenes:
            pictures = world.render(scenes[second], [step * k for k in range(fps)])
        yield from np.pad(pictures, ((0, 0), (border, border), (border, border), (0, 0)))


def make_movie(job):
    """Write one movie; the job is (path, scenes by second, seconds, frames per second, pixels)."""
    path, scenes, n_seconds, fps, size = job
    write_mp4(path, movie_frames(scenes, n_seconds, fps, size), fps, crf=CRF)


def get_parser():
    parser = cli.make_parser(__doc__)
    add_workers_flag(add_phantom_flags(parser, PhantomHCP), "movies")
    return parser


def main(args):
    dataset = get_dataset(args.dataset, PhantomHCP)
    rng, jobs, scenes = np.random.default_rng([args.seed, 20]), [], []
    for number, movie in enumerate(dataset.movies, 1):
        seconds = dataset.clip_start_seconds(number).tolist()
        of_movie = [world.random_scene(rng) for _ in seconds]
        path = dataset.tree(args.data_root) / "Stimuli" / f"{movie}.mp4"
        jobs.append((path, dict(zip(seconds, of_movie, strict=True)), dataset.run_volumes[number - 1], dataset.fps, dataset.uncropped_size))
        scenes += of_movie
    said = f"{len(scenes)} scenes in {len(jobs)} movies"
    make_stimuli(args, dataset, by_split(dataset, scenes), jobs, make_movie, "step1_make_movies", said)


if __name__ == "__main__":
    cli.run(main, get_parser)
