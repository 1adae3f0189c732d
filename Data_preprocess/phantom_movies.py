"""What the scripts share that make a phantom's movies. They, and those of phantom_fmri.py, alone write into --data_root."""

from common import cli
from common.datasets import DATASETS
from common.files import write_json
from common.records import working
from common.workers import remove_partial, run_jobs


def add_phantom_flags(parser, kind):
    """Add --dataset, of the phantoms of a class, and --data_root; returns the group."""
    group, phantoms = parser.add_argument_group("data"), [name for name, entry in DATASETS.items() if isinstance(entry, kind)]
    group.add_argument("--dataset", choices=phantoms, default=phantoms[0], help="phantom to make, an entry of common/datasets")
    cli.add_data_root(group, "for")
    return group


def truth(dataset, scenes, seed):
    """Content of phantom_truth.json: per split a list of clips in order."""
    entries = {
        split: [
            {"clip": name, "caption": scene.caption, "scene": scene.to_json()}
            for name, scene in zip(dataset.clip_names(split), of_split, strict=True)
        ]
        for split, of_split in scenes.items()
    }
    return {"phantom": True, "seed": seed, **entries}


def by_split(dataset, scenes):
    """Scenes of clips numbered over the whole data set, {split: list of Scene}."""
    return {split: [scenes[number - 1] for number in dataset.clip_numbers(split)] for split in ("train", "test")}


def make_stimuli(args, dataset, scenes, jobs, make, name, said):
    """Write the truth of scenes {split: list of Scene, in clip order}, and the movies that are not there yet.

    The jobs are those of the movies of one folder, each with its path first; `name` is the script's; `said` tells what there is in
    the end.
    """
    paths, path = [job[0] for job in jobs], dataset.truth_path(args.data_root)
    folder = paths[0].parent
    with working(path.parent / "records" / name, args, outputs=[*paths, path], clear=[folder]) as record:
        if record is None:
            return
        write_json(path, truth(dataset, scenes, args.seed))
        remove_partial(folder)
        run_jobs(make, [job for job in jobs if not job[0].exists()], args.workers, f"{dataset.name} movies", "movie")
        print(f"{dataset.name}: {said}")
        record.finish(movies=len(paths), **{split: len(of_split) for split, of_split in scenes.items()})
