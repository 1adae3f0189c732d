"""Make the phantom's movies: 2 s scenes with known content, in the tree of CC2017.

Writes   {data_root}/phantom/CC2017_Purdue/Stimuli/video_fmri_dataset/stimuli/{seg1..18,test1..2}.mp4     64 x 64, 30 fps
         {data_root}/phantom/phantom_truth.json          factors and caption of every scene, in clip order

    python Data_preprocess/Phantom/step1_make_stimuli.py --data_root data

Half a minute. The phantom is a made-up data set of known content, never a result about brains.
"""

import numpy as np

from common import cli
from common.datasets import Phantom, get_dataset
from common.files import write_json
from common.records import working
from common.video import write_mp4
from common.workers import add_workers_flag, remove_partial, run_jobs
from Data_preprocess.phantom_flags import add_phantom_flags
from phantom import world

CRF = 8  # finer than step 1 of the preprocessing cuts clips, so that coding them twice costs little


def draw_scenes(dataset, seed):
    """Random scenes: dict split -> dict run -> list of Scene."""
    scenes = {}
    for number, split in enumerate(("train", "test")):
        rng = np.random.default_rng([seed, number])
        scenes[split] = {run: [world.random_scene(rng) for _ in range(dataset.clips_per_run(split))] for run in dataset.runs(split)}
    return scenes


def truth(scenes):
    """Content of phantom_truth.json: per split a list of clips in order."""
    return {
        split: [
            {"clip": f"{run}_{j}", "caption": scene.caption, "scene": scene.to_json()}
            for run, of_run in runs.items()
            for j, scene in enumerate(of_run, 1)
        ]
        for split, runs in scenes.items()
    }


def make_movie(job):
    """Write one movie; the job is (path, list of Scene)."""
    path, scenes = job
    frames = np.concatenate([world.render(scene, range(world.SCENE_FRAMES)) for scene in scenes])
    write_mp4(path, frames, world.FPS, crf=CRF)


def get_parser():
    parser = cli.make_parser(__doc__)
    add_workers_flag(add_phantom_flags(parser, Phantom), "movies")
    return parser


def main(args):
    dataset = get_dataset(args.dataset, Phantom)
    scenes = draw_scenes(dataset, args.seed)
    movies = [(dataset.movie_path(args.data_root, run), of_run) for runs in scenes.values() for run, of_run in runs.items()]
    paths, truth_path = [path for path, _ in movies], dataset.truth_path(args.data_root)
    folder = truth_path.parent / "records" / "step1_make_stimuli"
    with working(folder, args, outputs=[*paths, truth_path], clear=paths) as record:
        if record is None:
            return
        write_json(truth_path, {"phantom": True, "seed": args.seed, **truth(scenes)})
        remove_partial(paths[0].parent)
        run_jobs(make_movie, [movie for movie in movies if not movie[0].exists()], args.workers, f"{dataset.name} movies", "movie")
        n_scenes = {split: sum(map(len, runs.values())) for split, runs in scenes.items()}
        movies_of = {"train": dataset.n_train_runs, "test": dataset.n_test_runs}
        print(f"{dataset.name}: {', '.join(f'{n} {split} scenes in {movies_of[split]} movies' for split, n in n_scenes.items())}")
        record.finish(**n_scenes)


if __name__ == "__main__":
    cli.run(main, get_parser)
