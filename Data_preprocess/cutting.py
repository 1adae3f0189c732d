"""Cutting movies into clips: what the first steps of all data sets share."""

from collections import deque

from common import cli, video
from common.files import SUMS, UserError, read_sums, sha256, write_sums
from common.records import working
from common.workers import add_workers_flag, run_jobs
from Data_preprocess.movies import movie_info, resample


def too_short(movie, needed, found, advice):
    """UserError for a movie that ends before its last clip; times in s."""
    return UserError(f"{movie} lasts {found:.2f} s, and its last clip ends at {needed:.2f} s; {advice}")


def check_lengths(movies, clip_frames, fps, advice):
    """Find missing, truncated and too short movies by their headers, before any work is done; arguments as of `cut_movie`'s job.

    Without `advice` on what to do about a movie that is too short, short movies pass.
    """
    for movie, clips in movies.items():
        info = movie_info(movie)
        needed = (max(clips.values()) + clip_frames) / fps
        if advice and info.n_frames and info.rate and info.n_frames / info.rate < needed - 0.5:  # nearer than that, only timestamps tell
            raise too_short(movie, needed, float(info.n_frames / info.rate), advice)


def cut_movie(job):
    """Cut one movie, decoding it once; clips that exist are kept. Returns {file name: SHA-256} of the clips that were cut.

    The job is (movie, {path of a clip: first frame}, frames of a clip, frames per second, CRF, advice of `check_lengths`).
    """
    movie, clips, clip_frames, fps, crf, advice = job
    ending, made = {}, {}
    for clip, first in clips.items():
        if not clip.exists():
            ending.setdefault(first + clip_frames, []).append(clip)
    recent, n = deque(maxlen=clip_frames), 0
    for n, frame in enumerate(resample(movie, fps) if ending else (), 1):
        recent.append(frame)
        for clip in ending.pop(n, ()):
            video.write_mp4(clip, recent, fps, crf)
            made[clip.name] = sha256(clip)
        if not ending:
            break
    if ending and advice:
        raise too_short(movie, max(ending) / fps, n / fps, advice)
    return made


def add_cut_flags(parser):
    """Add --crf and --workers; returns the group of --crf."""
    group = parser.add_argument_group("clips")
    group.add_argument("--crf", type=cli.whole(0, 51), default=12, help="constant rate factor of x264, from 0 (lossless) to 51")
    add_workers_flag(parser, "movies")
    return group


def cut_clips(args, dataset, split, movies, *, advice, inputs=(), table=None, facts=None):
    """Cut the clips of a split, all of one length and rate, and write their SHA256SUMS; or find them done.

    Every clip frame is the movie frame whose timestamp is nearest. A UserError for a movie that is missing, damaged or too short.

    Parameters
    ----------
    movies : dict
        path of a movie -> dict path of a clip -> first frame, counted at the data set's rate
    advice : str
        for a movie that ends before its last clip; "" leaves out the clips that a movie does not fill
    inputs : iterable of Path
        further files that the clips come from
    table : tuple, optional
        path, and function that writes a table of the clips there
    facts : dict, optional
        further settings that clips depend on
    """
    expected = [clip for of_movie in movies.values() for clip in of_movie]
    folder, frames, fps = expected[0].parent, dataset.clip_frames, dataset.fps
    outputs = [*([table[0]] if table else []), *clip_files(folder, expected, not advice)]
    with working(folder, args, inputs=[*inputs, *movies], outputs=outputs, facts=facts, clear=[folder]) as record:
        if record is None:
            return
        check_lengths(movies, frames, fps, advice)
        jobs = [(movie, clips, frames, fps, args.crf, advice) for movie, clips in movies.items()]
        cuts = run_jobs(cut_movie, jobs, args.workers, f"{dataset.name} {split} movies", "movie")
        clips = [clip for clip in expected if clip.exists()]
        keep_sums(folder, clips, cuts)
        if table:
            table[1](table[0])
        print(f"{dataset.name} {split}: {len(clips)} clips of {frames} frames made, {len(expected)} expected")
        record.finish(clips=len(clips), expected=len(expected))


def keep_sums(folder, paths, made):
    """Write the SHA256SUMS of a folder; `made`, a list of {path below it: SHA-256}, are those of new files."""
    new, known = {name: digest for of_job in made for name, digest in of_job.items()}, read_sums(folder)
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    # a file keeps its first checksum: a changed one is not taken for good by the same step again
    write_sums(folder, {name: new.get(name) or known.get(name) or sha256(path) for name, path in names.items()})


def clip_files(folder, expected, short=False):
    """Files that finished cutting leaves: SHA256SUMS and the expected clips.

    With `short` those that SHA256SUMS lists instead: some may have been left out.
    """
    return [folder / SUMS, *([folder / name for name in read_sums(folder)] if short else expected)]
