"""Cut the excerpts of HCP's four movies into clips of one second, frame-accurately.

A clip is 24 frames from a whole second on, as they are. Clips are numbered from 1 over the movies in order: 728 + 792 +
745 + 775 = 3040. The last 304 are the test clips; --test_clips names others.

Reads    {data_root}/**/7T_MOVIE{1_CC1,2_HO1,3_CC2,4_HO2}_v2.mp4     at any depth, symbolic links followed
Writes   stimuli_clips/{Train,Test}/clip_{i}.mp4     24 frames each, H.264; i from 1 over the whole data set
         stimuli_clips/{Train,Test}/SHA256SUMS
         split.json                                  only with --test_clips

    python Data_preprocess/HCP/step1_cut_video_clips.py --dataset HCP --data_root DATA --workers 4
    python Data_preprocess/HCP/step1_cut_video_clips.py --dataset phantom-hcp

0.05 core-seconds per frame of a megapixel: a core-hour for HCP's four movies.
"""

from common import cli
from common.datasets import HCPMovie
from common.layout import Layout
from Data_preprocess.cutting import add_cut_flags, cut_clips
from Data_preprocess.finding import Finder
from Data_preprocess.movies import check_rate, movie_info
from Data_preprocess.splits import make_step_parser, print_split, split_dataset, split_facts

AGAIN = "copy or download the movie again"


def find_movies(dataset, data_root):
    """Paths of the movies in order, list of Path; a UserError for one that is not there or of another frame rate."""
    finder, do = Finder(), "copy it there, or check --data_root with Data_preprocess/check_data.py"
    movies = [finder.one(dataset.movie_pattern(data_root, number), do) for number in range(1, len(dataset.movies) + 1)]
    for movie in movies:
        check_rate(movie, movie_info(movie), dataset.fps)
    return movies


def places(dataset, movies):
    """Movie and first frame of every clip, {number of the clip: (path, frame)}."""
    starts = [(movie, int(second) * dataset.fps) for n, movie in enumerate(movies, 1) for second in dataset.clip_start_seconds(n)]
    return dict(enumerate(starts, 1))


def get_parser():
    parser = make_step_parser(__doc__, "HCP", split=True)
    add_cut_flags(parser)
    return parser


def main(args):
    dataset, layout = split_dataset(args, HCPMovie), Layout.of(args)
    movies = find_movies(dataset, args.data_root)
    where = places(dataset, movies)
    for split in args.split:
        cuts = {}
        for number, name in zip(dataset.clip_numbers(split), dataset.clip_names(split), strict=True):
            movie, first = where[number]
            cuts.setdefault(movie, {})[layout.clip(split, name)] = first
        cut_clips(args, dataset, split, cuts, advice=AGAIN, facts=split_facts(dataset))
    of_movies = " + ".join(str(len(dataset.clip_start_seconds(n))) for n in range(1, len(movies) + 1))
    print(f"{dataset.name}: {of_movies} = {len(where)} clips of {', '.join(map(str, movies))}")
    print_split(dataset)


if __name__ == "__main__":
    cli.run(main, get_parser)
