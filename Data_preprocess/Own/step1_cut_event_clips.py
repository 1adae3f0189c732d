"""Cut the clips that an event table names out of movies, or bring ready clips to one rate and length.

For a data set of your own, an OwnDataset of common/datasets (docs/own_data.md). Every clip is resampled by timestamp
to the registry's rate: each of its frames is the movie frame whose timestamp is nearest. A ready clip is a movie whose
clip starts at 0 s. Each movie is decoded once, also where clips overlap. Steps 2 and 3 are those of CC2017.

Reads    {data_root}/{data set}/events.csv and the movies that it names
Writes   stimuli_clips/{Train,Test}/{split}_{i}.mp4     clip_frames frames each, H.264; i from 1
         stimuli_clips/{Train,Test}/clips.csv           clip, movie, start and caption (empty where the table has none), in clip order
         stimuli_clips/{Train,Test}/SHA256SUMS

    python Data_preprocess/Own/step1_cut_event_clips.py --dataset mine --data_root DATA --workers 8

0.05 core-seconds per frame of a megapixel.
"""

import csv
import io
from functools import partial

from common import cli
from common.datasets import OwnDataset, get_dataset
from common.files import write_text
from common.layout import Layout
from Data_preprocess.cutting import add_cut_flags, cut_clips
from Data_preprocess.events import clips_of, read_events

TOO_SHORT = "copy the movie again, or correct the event table"


def write_table(path, names, clips):
    """Write clips.csv: the Event that each clip is."""
    table = io.StringIO()
    lines = [(name, clip.film, clip.start, clip.caption) for name, clip in zip(names, clips, strict=True)]
    csv.writer(table).writerows([("clip", "film", "start", "caption"), *lines])
    write_text(path, table.getvalue())


def get_parser():
    parser = cli.make_parser(__doc__)
    cli.add_data_flags(parser, split=True)
    add_cut_flags(parser)
    return parser


def main(args):
    dataset, layout = get_dataset(args.dataset, OwnDataset), Layout.of(args)
    events = read_events(dataset, args.data_root, timed=False)
    for split in args.split:
        names, clips, movies = dataset.clip_names(split), clips_of(events, split), {}
        for name, clip in zip(names, clips, strict=True):
            of_movie = movies.setdefault(dataset.film_path(args.data_root, clip.film), {})
            of_movie[layout.clip(split, name)] = clip.first
        table = layout.clip(split, "any").with_name("clips.csv"), partial(write_table, names=names, clips=clips)
        # an entry of one's own may be edited: what the clips depend on counts as a setting
        facts = {"clip_frames": dataset.clip_frames, "fps": dataset.fps}
        cut_clips(args, dataset, split, movies, advice=TOO_SHORT, inputs=[dataset.events_path(args.data_root)], table=table, facts=facts)


if __name__ == "__main__":
    cli.run(main, get_parser)
