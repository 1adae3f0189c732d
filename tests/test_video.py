"""Movies: resampling against a search over all timestamps, exact frames, whole files; caption files."""

import hashlib
import struct
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest

from common import video
from common.files import UserError
from Data_preprocess import movies


def numbered_frames(n, size=48):
    """Grey frames whose brightness says their number, up to 40 of them; coding moves it by less than half a step."""
    return np.stack([np.full((size, size, 3), 10 + 6 * k, np.uint8) for k in range(n)])


def number_of(frame):
    return int(round((float(np.mean(frame)) - 10) / 6))


def write_with_timestamps(path, frames, times, time_base):
    """A movie whose frames bear the given timestamps (in units of time_base)."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"crf": "1", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
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


@pytest.mark.parametrize("size", [(48, 64), (64, 64), (144, 176)])
def test_the_same_frames_give_the_same_bytes(tmp_path, size):
    rng, digests = np.random.default_rng(0), set()
    for _ in range(15):
        # memory that others have written to: nothing of it may reach the file
        used = [np.full(rng.integers(1000, 30000), rng.integers(256), np.uint8) for _ in range(200)]
        del used
        video.write_mp4(tmp_path / "a.mp4", picture_frames(12, *size), 30)
        digests.add(hashlib.sha256((tmp_path / "a.mp4").read_bytes()).hexdigest())
    assert len(digests) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"a.mp4"}


def test_decord_and_pyav_read_the_same(tmp_path, monkeypatch):
    video.write_mp4(tmp_path / "a.mp4", picture_frames(), 30)
    indices = [11, 0, 5, 5]
    with_decord = video.read_frames(tmp_path / "a.mp4", indices)
    monkeypatch.setattr(video, "decord", None)
    chosen, whole = video.read_frames(tmp_path / "a.mp4", indices), video.read_frames(tmp_path / "a.mp4")
    np.testing.assert_array_equal(whole[indices], chosen)
    # two builds of FFmpeg, whose conversions to RGB may round otherwise; neighbouring frames differ by 20 and more
    np.testing.assert_allclose(with_decord.astype(int), chosen.astype(int), atol=3)


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


def test_other_bad_movies(tmp_path):
    with pytest.raises(UserError, match="file not found"):
        video.read_frames(tmp_path / "none.mp4")
    (tmp_path / "text.mp4").write_text("this is no movie, only a text of some length")
    with pytest.raises(UserError, match=r"text\.mp4"):
        video.read_frames(tmp_path / "text.mp4")
    (tmp_path / "empty.mp4").write_bytes(b"")
    with pytest.raises(UserError, match=r"empty\.mp4"):
        video.read_frames(tmp_path / "empty.mp4")
    video.write_mp4(tmp_path / "short.mp4", picture_frames(12), 30)
    with pytest.raises(UserError, match="12 frames, and at least 57"):
        video.read_frames(tmp_path / "short.mp4", [0, 56])


def test_a_movie_with_a_damaged_picture_is_named(tmp_path):
    path = tmp_path / "movie.mp4"
    video.write_mp4(path, np.random.default_rng(0).integers(0, 255, (20, 48, 64, 3), dtype=np.uint8), 30)
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + 4
    size = struct.unpack(">I", content[start - 8 : start - 4])[0]
    content[start + size // 2 : start + size // 2 + 2000] = bytes(2000)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"movie\.mp4"):
        list(video.iterate_frames(path))
