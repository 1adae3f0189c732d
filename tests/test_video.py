"""Movies: frames by presentation time and upright in every form, resampling against a search over all timestamps; caption files."""

import hashlib
import struct
import zipfile
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from common import video
from common.files import UserError
from common.readers import open_clips
from Data_preprocess import movies


def numbered_frames(n, size=48):
    """Grey frames whose brightness says their number, up to 40 of them; coding moves it by less than half a step."""
    return np.stack([np.full((size, size, 3), 10 + 6 * k, np.uint8) for k in range(n)])


def number_of(frame):
    return int(round((float(np.mean(frame)) - 10) / 6))


def write_with_timestamps(path, frames, times, time_base, pix_fmt="yuv420p", movflags=None, codec="libx264", **options):
    """A movie whose frames bear the given timestamps (in units of time_base)."""
    with av.open(str(path), "w", options={"movflags": movflags} if movflags else {}) as container:
        stream = container.add_stream(codec, rate=30, options={"crf": "1", "bf": "0", **options})
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], pix_fmt
        stream.codec_context.time_base = time_base
        for frame, time in zip(frames, times, strict=True):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = time, time_base
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def nearest(times, end, fps):
    """For each k/fps before the movie's end the frame of the nearest timestamp, by trying all; ties: the earlier."""
    chosen, k = [], 0
    while Fraction(k) / fps < end:
        chosen.append(min(range(len(times)), key=lambda i: (abs(times[i] - Fraction(k) / fps), i)))  # noqa: B023
        k += 1
    return chosen


# ---------------------------------------------------------------------------------------------- resampling


@pytest.mark.parametrize("rate", [Fraction(25), Fraction(30000, 1001), Fraction(30), Fraction(24), Fraction(60)])
@pytest.mark.parametrize("late", [0, Fraction(7, 10)])
def test_resampling_takes_the_nearest_timestamp(tmp_path, rate, late):
    base = Fraction(1, 30000)
    ticks = [round((late + k / rate) / base) for k in range(40)]
    write_with_timestamps(tmp_path / "movie.mkv" if late else tmp_path / "movie.mp4", numbered_frames(40), ticks, base)
    path = next(tmp_path.iterdir())
    with av.open(str(path)) as container:
        seen = [frame.pts * frame.time_base for frame in container.decode(video=0)]
    assert not late or seen[0] > 0.6  # the file does start late
    times = [time - seen[0] for time in seen]
    got = [number_of(video.to_rgb(frame)) for frame in movies.resample(path, 30)]
    assert got[: len(got) - 2] == nearest(times, times[-1] + 1 / rate, 30)[: len(got) - 2]
    assert abs(len(got) - 40 * 30 / rate) <= 1.5
    assert got[0] == 0 and got[-1] == 39


def test_uneven_timestamps(tmp_path):
    ticks = [0, 10, 50, 60, 200, 210, 220, 400]  # ms
    write_with_timestamps(tmp_path / "movie.mp4", numbered_frames(8), ticks, Fraction(1, 1000))
    got = [number_of(video.to_rgb(frame)) for frame in movies.resample(tmp_path / "movie.mp4", 50)]
    assert got[:20] == nearest([Fraction(t, 1000) for t in ticks], Fraction(2, 5), 50)


def test_the_same_rate_keeps_every_frame(tmp_path):
    video.write_mp4(tmp_path / "movie.mp4", numbered_frames(40), 30)
    assert [number_of(video.to_rgb(frame)) for frame in movies.resample(tmp_path / "movie.mp4", 30)] == list(range(40))


# ---------------------------------------------------------------------------------------------- presentation time


def set_edit_list(path, *edits):
    """Give a movie of 30 frames a second an edit list of (seconds, first frame or None for a pause); the delay of B-frames is 2 frames."""
    content = bytearray(path.read_bytes())
    assert content.index(b"mdat") < content.index(b"moov")  # so the pictures stay where they are
    entries = [(round(1000 * seconds), -1 if first is None else 512 * (first + 2)) for seconds, first in edits]
    body = struct.pack(">II", 0, len(entries)) + b"".join(struct.pack(">IiI", *entry, 1 << 16) for entry in entries)
    elst = struct.pack(">I4s", 8 + len(body), b"elst") + body
    edts = struct.pack(">I4s", 8 + len(elst), b"edts") + elst
    at = content.index(b"edts") - 4
    old = int.from_bytes(content[at : at + 4])
    content[at : at + old] = edts
    for box in (b"moov", b"trak"):
        start = content.index(box) - 4
        content[start : start + 4] = (int.from_bytes(content[start : start + 4]) + len(edts) - old).to_bytes(4)
    path.write_bytes(content)


B_FRAMES = {"bf": "2", "g": "12"}
OPEN_GOP = {"bf": "2", "x264-params": "keyint=12:open-gop=1:b-adapt=0:scenecut=0"}
ALL = list(range(40))
TIMELINES = {  # how a movie of 40 numbered frames is made, its edit list, the frames that a player shows, whether decord reads them
    "plain": ({}, (), ALL, True),
    "B-frames": (B_FRAMES, (), ALL, True),
    "in pieces": (B_FRAMES | {"movflags": "frag_keyframe+empty_moov"}, (), ALL, True),
    "starts late": (B_FRAMES | {"times": range(45, 85)}, (), ALL, True),
    "open groups": (OPEN_GOP, (), ALL, False),
    "uneven": ({"times": [*range(20), *range(20, 60, 2)]}, (), ALL, False),
    "10 bits": ({"pix_fmt": "yuv420p10le"}, (), ALL, False),
    "4:4:4": ({"pix_fmt": "yuv444p"}, (), ALL, False),
    "interlaced": ({"x264-params": "tff=1"}, (), ALL, False),  # whose colours it places otherwise
    "cut at the end": (B_FRAMES, [(0.5, 0)], ALL[:15], False),
    "cut in mid-group": (B_FRAMES, [(0.5, 7)], ALL[7:22], False),
    "a pause first": (B_FRAMES, [(0.5, None), (1.2, 0)], ALL[:36], False),
    "two parts": (B_FRAMES, [(0.2, 20), (1 / 3, 3)], [*ALL[20:26], *ALL[3:13]], False),
}


@pytest.mark.parametrize("name", TIMELINES)
def test_frames_are_those_that_a_player_shows(tmp_path, monkeypatch, name):
    """Of a path and of bytes, in a folder and in a zip, by decord where it is right; a frame past the end is an error."""
    made, edits, shown, by_decord = TIMELINES[name]
    path, frames = tmp_path / "clips/test1.mp4", numbered_frames(40)
    path.parent.mkdir()
    write_with_timestamps(path, frames, **{"times": ALL, "time_base": Fraction(1, 30), **made})
    if edits:
        set_edit_list(path, *edits)
    with zipfile.ZipFile(tmp_path / "clips.zip", "w") as archive:
        archive.write(path, "test1.mp4")
    whole = video.read_movie(path)[0]
    assert [number_of(frame) for frame in whole] == shown
    some = [0, len(shown) - 1, 9, 5, 5]
    opened = []
    if video.decord:
        reader = video.decord.VideoReader
        monkeypatch.setattr(video.decord, "VideoReader", lambda *args, **options: opened.append(1) or reader(*args, **options))
    for source in (path, path.read_bytes()):
        np.testing.assert_array_equal(video.read_frames(source, some), whole[some])
        np.testing.assert_array_equal(video.read_frames(source), whole)
        with pytest.raises(UserError, match=f"has {len(shown)} frames, and at least {len(shown) + 1} are needed"):
            video.read_frames(source, [len(shown)])
    assert len(opened) == (2 if by_decord and video.decord else 0)
    in_folder, in_zip = (open_clips(tmp_path / form, n_frames=8).read(1) for form in ("clips", "clips.zip"))
    np.testing.assert_array_equal(in_folder, in_zip)
    expected = [shown[round(t * len(shown) / 8 + 1e-6)] for t in range(8)]
    if name == "uneven":  # the 59 ticks by 8
        expected = [0, 7, 15, 21, 25, 28, 32, 36]
    if name != "two parts":  # FFmpeg leaves a gap of one frame between parts
        assert [number_of(frame) for frame in in_folder] == expected


TURNS = {  # display matrix a b c d, by which x, y go to a x + c y, b x + d y: where the corners 1 2 / 3 4 then are
    "upright": ((1, 0, 0, 1), "12 34"),
    "90 degrees": ((0, 1, -1, 0), "31 42"),
    "180 degrees": ((-1, 0, 0, -1), "43 21"),
    "270 degrees": ((0, -1, 1, 0), "24 13"),
    "mirrored": ((-1, 0, 0, 1), "21 43"),
    "upside down": ((1, 0, 0, -1), "34 12"),
    "mirrored, 270 degrees": ((0, 1, 1, 0), "13 24"),
    "mirrored, 90 degrees": ((0, -1, -1, 0), "42 31"),
}


def set_display_matrix(path, a, b, c, d):
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 44
    content[at : at + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(content)


@pytest.mark.parametrize("turn", TURNS)
def test_movies_are_upright(tmp_path, turn):
    """Read by number, in a folder, in a zip, and cut."""
    matrix, corners = TURNS[turn]
    frame = np.zeros((48, 64, 3), np.uint8)
    frame[:24, :32], frame[:24, 32:], frame[24:, :32], frame[24:, 32:] = ((50 * k, 250 - 50 * k, 100) for k in (1, 2, 3, 4))
    (tmp_path / "clips").mkdir()
    path = tmp_path / "clips/1.mp4"
    video.write_mp4(path, [frame] * 8, 30, crf=1)
    lying = video.read_frames(path, [3])[0]
    set_display_matrix(path, *matrix)
    with zipfile.ZipFile(tmp_path / "clips.zip", "w") as archive:
        archive.write(path, "1.mp4")
    video.write_mp4(tmp_path / "cut.mp4", movies.resample(path, 30), 30, crf=1)
    clips = [open_clips(tmp_path / form).read(1)[3] for form in ("clips", "clips.zip")]
    for read in (*video.read_frames(path, [3]), *clips, video.read_frames(tmp_path / "cut.mp4", [3])[0]):
        height, width = read.shape[:2]
        means = [read[y, x].astype(float).mean((0, 1)) for y in (slice(4, height // 2 - 4), slice(height // 2 + 4, -4))
                 for x in (slice(4, width // 2 - 4), slice(width // 2 + 4, -4))]  # fmt: skip
        assert [round(red / 50) for red, _, _ in means] == [int(k) for k in corners.replace(" ", "")]
        assert max(abs(green + red - 250) for red, green, _ in means) < 10  # twice coded; neighbours differ by 50
    info = movies.movie_info(path)
    assert (info.height, info.width) == clips[0].shape[:2] == (lying.shape[:2] if matrix[0] else lying.shape[1::-1])


# ---------------------------------------------------------------------------------------------- reading and writing


def picture_frames(n=12, height=48, width=64):
    """Smooth moving colours."""
    y, x = np.mgrid[:height, :width]
    planes = [[128 + 100 * np.sin((x * a + y * b + 3 * k) / 15) for a, b in ((1, 0), (0, 1), (1, 1))] for k in range(n)]
    return np.stack([np.stack(plane, -1) for plane in planes]).astype(np.uint8)


def test_writing_and_reading(tmp_path):
    frames = picture_frames()
    assert video.write_mp4(tmp_path / "a.mp4", frames, 30) == 12
    info = movies.movie_info(tmp_path / "a.mp4")
    assert (info.rate, info.n_frames, info.width, info.height) == (30, 12, 64, 48)
    read = video.read_frames(tmp_path / "a.mp4")
    assert read.shape == frames.shape and read.dtype == np.uint8
    error = read.astype(float) - frames
    assert np.abs(error.mean(axis=(0, 1, 2))).max() < 1.5  # no colour cast
    assert 10 * np.log10(255**2 / np.mean(error**2)) > 33
    with av.open(str(tmp_path / "a.mp4")) as container:
        times = [frame.pts * frame.time_base for frame in container.decode(video=0)]
    assert times == [Fraction(k, 30) for k in range(12)]


@pytest.mark.parametrize("size", [(48, 64), (144, 176)])
def test_the_same_frames_give_the_same_bytes(tmp_path, size):
    rng, digests = np.random.default_rng(0), set()
    for _ in range(8):
        # memory that others have written to: nothing of it may reach the file
        used = [np.full(rng.integers(1000, 30000), rng.integers(256), np.uint8) for _ in range(200)]
        del used
        video.write_mp4(tmp_path / "a.mp4", picture_frames(12, *size), 30)
        digests.add(hashlib.sha256((tmp_path / "a.mp4").read_bytes()).hexdigest())
    assert len(digests) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"a.mp4"}


def test_odd_sizes_lose_a_row_and_a_column(tmp_path):
    video.write_mp4(tmp_path / "a.mp4", picture_frames()[:, :47, :61], 30)
    assert video.read_frames(tmp_path / "a.mp4").shape == (12, 46, 60, 3)


def test_a_movie_tagged_bt709_keeps_its_colours(tmp_path):
    """Frames pass through in BT.601; one that says BT.709 is converted, not relabelled."""
    frames = picture_frames()
    with av.open(str(tmp_path / "709.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"crf": "1", "colorprim": "bt709", "colormatrix": "bt709"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.colorspace = 1
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="yuv420p", dst_colorspace="ITU709")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    with av.open(str(tmp_path / "709.mp4")) as container:
        assert next(container.decode(video=0)).colorspace == 1
    video.write_mp4(tmp_path / "clip.mp4", movies.resample(tmp_path / "709.mp4", 30), 30)
    error = video.read_frames(tmp_path / "clip.mp4").astype(float) - frames
    assert np.abs(error.mean(axis=(0, 1, 2))).max() < 2


def test_stretching_averages_over_areas():
    frame = picture_frames(1, 96, 128)[0]
    expected = frame.reshape(32, 3, 32, 4, 3).mean(axis=(1, 3))
    assert np.abs(movies.stretch(frame, 32).astype(float) - expected).max() <= 1
    assert movies.stretch(frame, 112).shape == (112, 112, 3)
    wide = picture_frames(1, 20, 128)[0]  # one side shrinks, the other grows
    columns = wide.reshape(20, 64, 2, 3).mean(axis=2)
    grown = cv2.resize(columns, (64, 64), interpolation=cv2.INTER_LINEAR)
    assert np.abs(movies.stretch(wide, 64).astype(float) - grown).max() <= 1.5


# ---------------------------------------------------------------------------------------------- bad movies


def index_first(path):
    """Move an mp4's index in front of its pictures, as movies for the web have it."""
    with av.open(str(path)) as source, av.open(str(path) + ".mp4", "w", options={"movflags": "faststart"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    return (path.parent / (path.name + ".mp4")).read_bytes()


@pytest.mark.parametrize("part", [0.05, 0.5, 0.999])
@pytest.mark.parametrize("faststart", [False, True])
def test_a_truncated_movie_is_named(tmp_path, part, faststart):
    path = tmp_path / "movie.mp4"
    video.write_mp4(path, picture_frames(30), 30)
    content = index_first(path) if faststart else path.read_bytes()
    assert (content.index(b"moov") < content.index(b"mdat")) == faststart
    path.write_bytes(content[: int(len(content) * part)])
    for read in (video.read_frames, movies.movie_info, lambda path: list(movies.resample(path, 30))):
        with pytest.raises(UserError, match=r"movie\.mp4.*truncated") as error:
            read(path)
        assert "\n" not in str(error.value)


def write_tracks(path, *kinds, title="", n_frames=3):
    """A movie of any tracks."""
    with av.open(str(path), "w") as container:
        container.metadata["title"] = title
        tracks = [container.add_stream(kind, rate=44100 if kind == "aac" else 30) for kind in kinds]
        for track in tracks:
            if track.type == "video":
                track.width, track.height, track.pix_fmt = 48, 48, "yuv420p"
        for track in tracks:
            for k in range(n_frames):
                if track.type == "video":
                    frame = av.VideoFrame.from_ndarray(numbered_frames(3)[k], format="rgb24")
                else:
                    frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
                    frame.sample_rate, frame.pts = 44100, 1024 * k
                container.mux(track.encode(frame))
            container.mux(track.encode())


@pytest.mark.parametrize(
    "kinds, words",
    [(("libx264", "libx264"), "has 2 video tracks"), (("aac",), "no video track"), (("aac", "libx264"), None)],
)
def test_a_movie_has_one_video_track(tmp_path, monkeypatch, kinds, words):
    """A relative folder with a colon is no address."""
    monkeypatch.chdir(tmp_path)
    Path("run:1").mkdir()
    path = Path("run:1/1.mp4")
    write_tracks(f"file:{path}", *kinds)
    reads = (video.read_frames, lambda path: video.read_frames(path, [1]), movies.movie_info, lambda path: list(movies.resample(path, 30)))
    for read in (*reads, lambda path: open_clips(path.parent, "mp4").read(1)):
        if words is None:
            read(path)
        else:
            with pytest.raises(UserError, match=words):
                read(path)


def test_titles_in_other_encodings_and_unknown_codecs(tmp_path):
    path = tmp_path / "a.mp4"
    write_tracks(path, "libx264", title="Madrid")
    content = path.read_bytes()
    path.write_bytes(content.replace(b"Madrid", b"M\xe9xico"))
    assert len(video.read_frames(path)) == 3
    path.write_bytes(content.replace(b"avc1", b"xyz1"))
    with pytest.raises(UserError, match="unknown codec"):
        video.read_frames(path)
    set_display_matrix(path, 1, 1, -1, 1)
    path.write_bytes(path.read_bytes().replace(b"xyz1", b"avc1"))
    with pytest.raises(UserError, match="no multiple of 90 degrees"):
        video.read_frames(path)


@pytest.mark.parametrize("codec", ["libx264", "mpeg4", "mpeg2video"])
def test_a_movie_with_a_damaged_picture_is_named(tmp_path, codec):
    """Some decoders raise, others mend the picture and only mark it."""
    path, frames = tmp_path / "movie.mp4", np.random.default_rng(0).integers(0, 255, (20, 48, 64, 3), dtype=np.uint8)
    write_with_timestamps(path, frames, range(20), Fraction(1, 30), codec=codec)
    assert len(video.read_frames(path)) == 20
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 2000] = bytes(2000)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"movie\.mp4"):
        list(video.iterate_frames(path))
