"""Make the phantom's movies: 2 s scenes with known content, in the tree of CC2017.

Writes   {data_root}/phantom/CC2017_Purdue/Stimuli/video_fmri_dataset/stimuli/{seg1..18,test1..2}.mp4     64 x 64, 30 fps
         {data_root}/phantom/phantom_truth.json          factors and caption of every scene, in clip order

    python Data_preprocess/Phantom/step1_make_stimuli.py --data_root data
    python Data_preprocess/Phantom/step1_make_stimuli.py --data_root held_out --hold_out star:up circle:left

Half a minute. The phantom is a made-up data set of known content, never a result about brains.
"""

import argparse

import numpy as np

from common import cli
from common.datasets import Phantom, get_dataset
from common.video import write_mp4
from common.workers import add_workers_flag
from Data_preprocess.phantom_movies import add_phantom_flags, make_stimuli
from phantom import world

CRF = 8  # finer than step 1 of the preprocessing cuts clips, so that coding them twice costs little


def combination(text):
    """Type of --hold_out: a shape and a direction, such as 'star:up'."""
    shape, _, direction = text.partition(":")
    if shape not in world.SHAPES or direction not in world.DIRECTIONS:
        shapes, directions = ", ".join(world.SHAPES), ", ".join(world.DIRECTIONS)
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no shape:direction; use one of {shapes}, a colon, and one of {directions}")
    return shape, direction


def draw_scenes(dataset, seed, without=()):
    """Random scenes of both splits, {split: list of Scene} in clip order; those for training have none of the (shape, direction) `without`."""
    scenes = {}
    for number, split in enumerate(("train", "test")):
        rng, scenes[split] = np.random.default_rng([seed, number]), []
        while len(scenes[split]) < len(dataset.clip_names(split)):
            scene = world.random_scene(rng)
            if split == "test" or (scene.shape, scene.direction) not in without:
                scenes[split].append(scene)
    return scenes


def make_movie(job):
    """Write one movie; the job is (path, list of Scene)."""
    path, scenes = job
    frames = np.concatenate([world.render(scene, range(world.SCENE_FRAMES)) for scene in scenes])
    write_mp4(path, frames, world.FPS, crf=CRF)


def get_parser():
    parser = cli.make_parser(__doc__)
    group = add_phantom_flags(parser, Phantom)
    group.add_argument(
        "--hold_out", nargs="+", type=combination, default=[], metavar="SHAPE:DIRECTION", help="combinations that training scenes lack"
    )
    add_workers_flag(group, "movies")
    return parser


def main(args):
    dataset = get_dataset(args.dataset, Phantom)
    scenes, jobs, said = draw_scenes(dataset, args.seed, args.hold_out), [], []
    for split, of_split in scenes.items():
        runs, n = dataset.runs(split), dataset.clips_per_run(split)
        jobs += [(dataset.movie_path(args.data_root, run), of_split[k * n : (k + 1) * n]) for k, run in enumerate(runs)]
        said.append(f"{len(of_split)} {split} scenes in {len(runs)} movies")
    make_stimuli(args, dataset, scenes, jobs, make_movie, "step1_make_stimuli", ", ".join(said))


if __name__ == "__main__":
    cli.run(main, get_parser)
