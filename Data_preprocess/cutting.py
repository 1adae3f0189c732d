"""Cutting movies into clips: what the first steps of all data sets share."""

from collections import deque

from common import video
from common.files import SUMS, UserError, read_sums, sha256, write_sums
from common.workers import run_jobs
from Data_preprocess.movies import movie_info, resample


def too_short(movie, needed, found, advice):
    """UserError for a movie that ends before its last clip; times in s."""
    return UserError(f"{movie} lasts {found:.2f} s, and its last clip ends at {needed:.2f} s; {advice}")


def check_lengths(movies, clip_frames, fps, advice):
    """Find missing, truncated and too short movies by their headers, before any work is done.

    Parameters
    ----------
    movies : dict
        path of a movie -> dict path of a clip -> first frame
    clip_frames : int
        frames of a clip
    fps : int
        frames per second
    advice : str
        what to do about a movie that is too short; without it, short movies pass
    """
    for movie, clips in movies.items():
        info = movie_info(movie)
        needed = (max(clips.values()) + clip_frames) / fps
        if advice and info.n_frames and info.rate and info.n_frames / info.rate < needed - 0.5:  # nearer than that, only timestamps tell
            raise too_short(movie, needed, float(info.n_frames / info.rate), advice)


def cut_movie(job):
    """Cut one movie, decoding it once; clips that exist are kept.

    Parameters
    ----------
    job : tuple
        movie, dict path of a clip -> first frame, frames of a clip, frames per second, CRF, advice of `check_lengths`

    Returns
    -------
    dict
        file name of a clip -> SHA-256, of the clips that were cut
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


def cut_clips(movies, folder, *, clip_frames, fps, crf, advice, workers, what):
    """Cut movies into clips of one length and rate, and write their SHA256SUMS.

    Every clip frame is the movie frame whose timestamp is nearest.

    Parameters
    ----------
    movies : dict
        path of a movie -> dict path of a clip -> first frame, counted at the rate `fps`
    folder : Path
        of the clips
    clip_frames, fps, crf : int
        frames of a clip, frames per second, constant rate factor of x264
    advice : str
        for a movie that ends before its last clip; "" leaves out the clips that a movie does not fill
    workers : int
        movies cut at the same time
    what : str
        for the progress bar

    Returns
    -------
    int
        clips that are there

    Raises
    ------
    UserError
        a movie that is missing, damaged or too short
    """
    check_lengths(movies, clip_frames, fps, advice)
    jobs = [(movie, clips, clip_frames, fps, crf, advice) for movie, clips in movies.items()]
    made = {name: digest for cut in run_jobs(cut_movie, jobs, workers, what, "movie") for name, digest in cut.items()}
    clips = [clip for of_movie in movies.values() for clip in of_movie if clip.exists()]
    keep_sums(folder, clips, made)
    return len(clips)


def keep_sums(folder, clips, made):
    """Write the SHA256SUMS of clips.

    Parameters
    ----------
    folder : Path
    clips : list of Path
    made : dict
        file name -> SHA-256, of those that are new
    """
    known = read_sums(folder)  # a clip keeps its first checksum: a changed one is not taken for good by cutting again
    write_sums(folder, {clip.name: made.get(clip.name) or known.get(clip.name) or sha256(clip) for clip in clips})


def clip_files(folder, expected, short=False):
    """Files that finished cutting leaves: SHA256SUMS and the clips.

    Parameters
    ----------
    folder : Path
    expected : list of Path
        all clips of the data set
    short : bool
        take those that SHA256SUMS lists instead: some may have been left out
    """
    return [folder / SUMS, *([folder / name for name in read_sums(folder)] if short else expected)]
