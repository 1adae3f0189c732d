"""Every layout read back, and every broken clip named."""

import io
import itertools
import pickle
import zipfile

import av
import numpy as np
import pytest
from PIL import Image

from common import video
from common.clip_frames import choose_frames, clip_times, split_grid
from common.datasets import get_dataset
from common.files import UserError
from common.readers import ArrayClips, FolderClips, detect_layout, format_clips, open_clips, parse_clips
from Evaluation_Metrics.pairs import Pairs


def few_colours(seed, n=3, frames=8, size=16):
    """Clips of four flat colours per frame, which a GIF keeps exactly."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, frames, 2, 2, 3), dtype=np.uint8).repeat(size // 2, axis=2).repeat(size // 2, axis=3)


def save_gif(path, frames):
    pictures = [Image.fromarray(frame) for frame in frames]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=120, loop=0)


def save_mp4(path, frames, fps=8):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "4"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode(None))


def grid(left, right, border=0):
    """Two clips side by side, with black borders around and between them."""
    width = 2 * left.shape[2] + 3 * border
    whole = np.zeros((len(left), left.shape[1] + 2 * border, width, 3), np.uint8)
    whole[:, border : border + left.shape[1], border : border + left.shape[2]] = left
    whole[:, border : border + left.shape[1], width - border - left.shape[2] : width - border] = right
    return whole


@pytest.fixture
def clips():
    return few_colours(0, n=11)


def all_of(reader):
    return np.stack([reader.read(number) for number in reader.numbers])


# ---------------------------------------------------------------------------------------------- layouts


def test_npz_png_and_gif(tmp_path, clips):
    """Eleven clips, so that the order by number differs from the order by name."""
    for i, clip in enumerate(clips, 1):
        for kind in ("npz", "png", "gif"):
            (tmp_path / kind).mkdir(exist_ok=True)
        np.savez(tmp_path / "npz" / f"test{i}.npz", frames=clip)
        save_gif(tmp_path / "npz" / f"test{i}.gif", clip[::-1])  # beside it, as our reconstruction writes it; not read
        (tmp_path / "png" / f"test{i}").mkdir()
        for t, frame in enumerate(clip):
            Image.fromarray(frame).save(tmp_path / "png" / f"test{i}" / f"{t}.png")
        save_gif(tmp_path / "gif" / f"test{i}.gif", clip)
    for folder, layout in (("npz", "ours"), ("png", "ours"), ("gif", "gif")):
        reader = FolderClips(tmp_path / folder, layout, n_frames=8, size=16)
        assert reader.numbers == list(range(1, 12))
        np.testing.assert_array_equal(all_of(reader), clips)
        assert detect_layout(tmp_path / folder) == layout
    (tmp_path / "npz" / "test4.npz").unlink()
    assert FolderClips(tmp_path / "npz", "ours").numbers == [1, 2, 3, *range(5, 12)]


@pytest.mark.parametrize("border", [0, 2])
def test_side_by_side(tmp_path, clips, border):
    truth = few_colours(1, n=11)
    for i, (left, right) in enumerate(zip(truth, clips, strict=True), 1):
        save_gif(tmp_path / f"test_and_gt{i}.gif", grid(left, right, border))
    right, left = (FolderClips(tmp_path, "side_by_side", side=side, size=16) for side in ("right", "left"))
    np.testing.assert_array_equal(all_of(right), clips)
    np.testing.assert_array_equal(all_of(left), truth)
    pairs = Pairs(right)
    for number, pred, gt in pairs:
        np.testing.assert_array_equal(pred, clips[number - 1])
        np.testing.assert_array_equal(gt, truth[number - 1])


def test_released_borders_are_kept_on_demand():
    left, right = np.full((1, 512, 512, 3), 10, np.uint8), np.full((1, 512, 512, 3), 20, np.uint8)
    whole = grid(left, right, 2)
    assert whole.shape == (1, 516, 1030, 3)  # the released grid
    a, b = split_grid(whole, borders=True)
    assert a.shape == b.shape == (1, 516, 515, 3)
    np.testing.assert_array_equal(np.concatenate([a, b], axis=2), whole)
    a, b = split_grid(whole)
    assert (a == 10).all() and (b == 20).all() and a.shape == b.shape == (1, 512, 512, 3)
    with pytest.raises(ValueError, match="side by side"):
        split_grid(whole[:, :, :1000])


def test_mindvideo_has_six_frames_and_the_truth_on_the_left(tmp_path):
    truth, recon = few_colours(0, frames=6), few_colours(1, frames=6)
    for i in range(3):
        save_gif(tmp_path / f"test{i + 1}.gif", grid(truth[i], recon[i]))
    for number, pred, gt in Pairs(FolderClips(tmp_path, "mindvideo", n_frames=6)):
        np.testing.assert_array_equal(pred, recon[number - 1])
        np.testing.assert_array_equal(gt, truth[number - 1])
    # against a ground truth of eight frames elsewhere: those nearest in time
    np.save(tmp_path / "gt.npy", few_colours(0, frames=8))
    pairs = Pairs(FolderClips(tmp_path, "mindvideo", n_frames=6), ArrayClips(tmp_path / "gt.npy", n_frames=6))
    np.testing.assert_array_equal(pairs.read(2)[1], few_colours(0, frames=8)[1][[0, 1, 3, 4, 5, 7]])


def test_mp4_by_number_and_by_the_data_sets_names(tmp_path):
    clips = few_colours(0, n=12, frames=16, size=64)
    names = [f"test{i}_{j}" for i in (1, 2) for j in range(1, 7)]
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for i, (clip, name) in enumerate(zip(clips, names, strict=True), 1):
        save_mp4(tmp_path / "a" / f"{i:04d}.mp4", clip)
        save_mp4(tmp_path / "b" / f"{name}.mp4", clip)
    for reader in (FolderClips(tmp_path / "a", "mp4", n_frames=8), FolderClips(tmp_path / "b", "mp4", n_frames=8, names=names)):
        assert reader.numbers == list(range(1, 13))
        error = np.abs(all_of(reader).astype(int) - clips[:, ::2])  # lossy; the wrong clip would be about 85 off
        assert error.mean() < 8
    with pytest.raises(UserError, match="one clip number"):
        FolderClips(tmp_path / "b", "mp4")


def test_zip_is_read_where_it_lies(tmp_path, clips):
    for i, clip in enumerate(clips, 1):
        save_gif(tmp_path / f"test{i}.gif", clip)
        np.savez(tmp_path / f"test{i}.npz", frames=clip)
        save_mp4(tmp_path / f"{i}.mp4", clip.repeat(2, axis=1).repeat(2, axis=2))
    path = tmp_path / "results.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in tmp_path.glob("*.*"):
            if file != path:
                archive.write(file, f"sub1/{file.name}")
                archive.writestr(f"__MACOSX/sub1/._{file.name}", b"junk")
    for file in tmp_path.glob("*.*"):
        if file != path:
            file.unlink()
    for layout in ("gif", "ours"):
        np.testing.assert_array_equal(all_of(FolderClips(path, layout)), clips)
    assert all_of(FolderClips(path, "mp4")).shape == (11, 8, 32, 32, 3)
    reader = pickle.loads(pickle.dumps(FolderClips(path, "gif")))
    np.testing.assert_array_equal(reader.read(11), clips[10])
    assert [file.name for file in tmp_path.iterdir()] == ["results.zip"]


ENTRIES = {  # names of a zip's entries as people have them
    "Windows": lambda name: f"recons\\\\{name}".replace("/", "\\\\"),
    "point": lambda name: f"./{name}",
    "upper case": str.upper,
    "absolute": lambda name: f"/{name}",
}


@pytest.mark.parametrize("form", ["mp4", "gif", "png", "npz"])
@pytest.mark.parametrize("kind", ENTRIES)
def test_names_in_zips(tmp_path, clips, kind, form):
    clips = clips.repeat(2, axis=2).repeat(2, axis=3) if form == "mp4" else clips
    for i, clip in enumerate(clips[:3], 1):
        write_clip(tmp_path / "a", f"test{i}", form, clip)
    zip_folder(tmp_path / "a", tmp_path / "a.ZIP", ENTRIES[kind])
    with zipfile.ZipFile(tmp_path / "a.ZIP", "a") as archive:
        archive.writestr(f"../test4.{form}", b"nothing that is read")
    reader = open_clips(tmp_path / "a.ZIP")
    assert reader.numbers == [1, 2, 3]
    np.testing.assert_array_equal(all_of(reader), all_of(open_clips(tmp_path / "a")))


def test_folders_below_symbolic_links(tmp_path, clips):
    for i, clip in enumerate(clips, 1):
        write_clip(tmp_path / f"elsewhere{i}", f"test{i}", "png", clip)
        (tmp_path / "recons" / f"sub{i}").mkdir(parents=True)
        (tmp_path / "recons" / f"sub{i}" / "link").symlink_to(tmp_path / f"elsewhere{i}")
        (tmp_path / "recons" / f"sub{i}" / "round").symlink_to(tmp_path / "recons")
    np.testing.assert_array_equal(all_of(open_clips(tmp_path / "recons")), clips)


def test_array_is_mapped_and_travels_light(tmp_path):
    big = np.zeros((50, 8, 32, 32, 3), np.uint8)
    big[7] = 3
    np.save(tmp_path / "gt.npy", big)
    reader = open_clips(tmp_path / "gt.npy", names=["a"])
    assert (reader.read(8) == 3).all() and reader.numbers[-1] == 50
    assert len(pickle.dumps(reader)) < 5000
    with pytest.raises(UserError, match="clips 1-50"):
        reader.read(51)


# ---------------------------------------------------------------------------------------------- form


def test_frames_nearest_in_time():
    """Against the definition: frame t of n stands for the time t / n of the clip."""
    for have, want in itertools.product(range(6, 61), (6, 8)):
        if have < want:
            continue
        chosen = choose_frames([1] * have, want)
        assert len(set(chosen)) == want
        for t, frame in enumerate(chosen):
            assert abs(frame / have - t / want) <= min(abs(f / have - t / want) for f in range(have)) + 1e-12
    assert choose_frames([1] * 5, 8) == [0, 1, 2, 3, 4]  # too few, which the reader names


@pytest.mark.parametrize(
    "name, have, want, chosen",
    [
        ("CC2017", 60, 8, [0, 8, 16, 24, 32, 40, 48, 56]),
        ("CC2017", 60, 6, [0, 8, 24, 32, 40, 56]),  # as from an array of these eight
        ("CC2017", 60, None, [0, 8, 16, 24, 32, 40, 48, 56]),
        ("CC2017", 6, None, [0, 1, 2, 3, 4, 5]),
        ("CC2017", 16, 8, [0, 2, 4, 6, 9, 11, 13, 15]),
        ("CC2017", 8, 8, [0, 1, 2, 3, 4, 5, 6, 7]),
        ("CC2017", 8, 6, [0, 1, 3, 4, 5, 7]),
        ("CC2017", 6, 6, [0, 1, 2, 3, 4, 5]),
        ("HCP", 24, 8, [0, 3, 6, 9, 12, 15, 18, 21]),
        ("Algonauts2021", 90, 8, [0, 1, 2, 3, 4, 5, 6, 7]),
        ("Algonauts2021", 8, 6, [0, 1, 3, 4, 5, 7]),
    ],
)
def test_frames_at_the_registrys_times(name, have, want, chosen):
    assert choose_frames([1] * have, want, clip_times(get_dataset(name))) == chosen


def zip_folder(folder, path, name=str):
    """Put all files of a folder into a zip; `name` makes an entry's name of a file's path."""
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.*")):
            archive.writestr(name(file.relative_to(folder).as_posix()), file.read_bytes())


@pytest.mark.parametrize("form", ["mp4", "gif", "png", "npz", "npy"])
def test_truth_is_the_same_whatever_its_form(tmp_path, form):
    """A clip of 60 frames gives the registry's eight, in a folder and in a zip, under its number and under the data set's name."""
    frames = few_colours(0, n=1, frames=60, size=64)[0]
    times, names = clip_times(get_dataset("CC2017")), get_dataset("CC2017").clip_names("test")
    for folder, stem in (("numbered", "test7"), ("named", names[6])):
        write_clip(tmp_path / folder, stem, form, frames)
        zip_folder(tmp_path / folder, tmp_path / f"{folder}.zip")
    for n in (6, 8):
        wanted = frames[::8][[0, 1, 3, 4, 5, 7] if n == 6 else slice(None)]
        for path in ("named", "numbered", "named.zip", "numbered.zip") if form != "npy" else ("numbered/test7.npy",):
            reader = open_clips(tmp_path / path, names=names, n_frames=n, times=times)
            assert reader.numbers == [1 if form == "npy" else 7]
            error = np.abs(reader.read(reader.numbers[0]).astype(int) - wanted)
            assert error.mean() < 8 if form == "mp4" else not error.any()  # lossy; another frame would be about 85 off


def write_clip(folder, stem, form, frames):
    folder.mkdir(exist_ok=True)
    if form == "png":
        (folder / stem).mkdir()
        for t, frame in enumerate(frames):
            Image.fromarray(frame).save(folder / stem / f"{t}.png")
    elif form == "npz":
        np.savez(folder / f"{stem}.npz", frames=frames)
    elif form == "npy":
        np.save(folder / f"{stem}.npy", frames[None])
    else:
        {"mp4": save_mp4, "gif": save_gif}[form](folder / f"{stem}.{form}", frames)


def test_gif_by_time(tmp_path):
    """A writer that merges equal frames keeps one of them and shows it longer; a still is one frame."""
    frames = few_colours(0, n=1, frames=9)[0]
    pictures = [Image.fromarray(frame) for frame in frames]

    def read(durations, n_frames=None):
        kept = len(durations) if isinstance(durations, list) else 1
        pictures[0].save(tmp_path / "test1.gif", save_all=True, append_images=pictures[1:kept], duration=durations, loop=0)
        clip = FolderClips(tmp_path, "gif", n_frames=n_frames).read(1)
        return [int(np.flatnonzero((frames == frame).all((1, 2, 3)))[0]) for frame in clip]

    assert read([960] + [120] * 8, 8) == [0, 0, 0, 0, 1, 3, 5, 7]
    assert read([120, 480, 120, 240], 8) == [0, 1, 1, 1, 1, 2, 3, 3]
    assert read([120, 480, 120, 240]) == [0, 1, 1, 1, 1, 2, 3, 3]
    assert read([30, 30, 40] * 3) == list(range(9))  # 30 frames a second, as GIF can say it
    assert read([960], 8) == read(960, 8) == [0] * 8
    with pytest.raises(UserError, match="one frame of 120 ms, not 8"):
        read([120], 8)
    with pytest.raises(UserError, match="has 4 frames, not 8"):
        read([120] * 4, 8)
    Image.fromarray(frames[0]).save(tmp_path / "test1.gif")  # no duration
    assert (FolderClips(tmp_path, "gif", n_frames=8).read(1) == frames[0]).all()
    save_gif(tmp_path / "test1.gif", frames)
    content = (tmp_path / "test1.gif").read_bytes()
    ends = [at for at in range(len(content)) if content[at : at + 2] == b"\0!"]  # where one frame ends and the next begins
    for cut in (content[:-1], content[: ends[4] + 1]):
        (tmp_path / "test1.gif").write_bytes(cut)
        with pytest.raises(UserError, match="cut off"):
            FolderClips(tmp_path, "gif", n_frames=4).read(1)


def test_size(tmp_path):
    clip = few_colours(0, n=1, size=64)[0]
    np.savez(tmp_path / "test1.npz", frames=clip)
    with pytest.raises(UserError, match="frames of 64 x 64, not 32 x 32"):
        FolderClips(tmp_path, "ours", size=32).read(1)
    small = FolderClips(tmp_path, "ours", size=32, resize=True).read(1)
    np.testing.assert_array_equal(small, clip.reshape(8, 32, 2, 32, 2, 3).mean((2, 4)))  # the area filter


def test_clip_numbers():
    assert parse_clips("1-3, 7,5-5") == [1, 2, 3, 5, 7]
    assert format_clips([7, 1, 2, 3, 5]) == "1-3,5,7"
    for wrong in ("0-4", "4-2", "a", "", "1,,2", "1-99999999999", "9" * 5000, f"1-{'9' * 5000}"):  # more than there is memory for
        with pytest.raises(UserError, match="is no clip number") as error:
            parse_clips(wrong)
        assert len(str(error.value)) < 250


# ---------------------------------------------------------------------------------------------- broken input


def test_broken_clips_are_named(tmp_path):
    clip = few_colours(0, n=1)[0]

    def refuse(words, layout="ours", **options):
        with pytest.raises(UserError) as caught:
            FolderClips(tmp_path, layout, **options).read(1)
        message = str(caught.value)
        assert "clip 1 (test1" in message and words in message and "\n" not in message

    np.savez(tmp_path / "test1.npz", frames=clip[:7])
    refuse("has 7 frames, not 8", n_frames=8)
    with_nan = clip.astype(np.float32)
    with_nan[3, 2, 2, 1] = np.nan
    np.savez(tmp_path / "test1.npz", frames=with_nan)
    refuse("NaN")
    np.savez(tmp_path / "test1.npz", frames=clip.astype(np.float32))
    refuse("float32")
    np.savez(tmp_path / "test1.npz", frames=clip[..., 0])
    refuse("shape (8, 16, 16)")
    np.savez(tmp_path / "test1.npz", video=clip)
    refuse("broken")
    rng = np.random.default_rng(0)
    save_gif(tmp_path / "test1.gif", rng.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8))
    whole = (tmp_path / "test1.gif").read_bytes()
    for share in (0.02, 0.3, 0.9):
        (tmp_path / "test1.gif").write_bytes(whole[: int(share * len(whole))])
        refuse("", "gif", n_frames=8)


def png(frame, **options):
    content = io.BytesIO()
    Image.fromarray(frame).save(content, "PNG", **options)
    return content.getvalue()


FRAME = few_colours(3, n=1)[0][0]
PICTURES = {  # what is changed among eight pictures: files to write, or None to delete; words of the refusal
    "another picture": ({"thumb.png": png(FRAME)}, "thumb.png is no frame among pictures such as 0.png"),
    "another ending": ({"8.jpg": png(FRAME)}, "8.jpg is no frame"),
    "one missing": ({"3.png": None}, "a picture is missing among 0.png ... 7.png"),
    "one twice": ({"03.png": png(FRAME)}, "a picture is missing"),
    "16 bits": ({"3.png": png(np.full((16, 16), 300, np.uint16))}, "more than 8 bits"),
    "several in one": ({"3.png": png(FRAME, save_all=True, append_images=[Image.fromarray(FRAME[::-1])])}, "2 pictures in one file"),
    "cut": ({"3.png": png(FRAME)[:-20]}, "broken"),
    "changed": ({"3.png": png(FRAME)[:-14] + b"x" + png(FRAME)[-13:]}, "checksum"),
    "no picture": ({"3.png": b"text"}, "no PNG file"),
    "another size": ({"3.png": png(FRAME[:8])}, "same shape"),
}


@pytest.mark.parametrize("change", PICTURES)
def test_pictures_that_are_no_clip(tmp_path, change):
    files, words = PICTURES[change]
    write_clip(tmp_path / "a", "test1", "png", few_colours(0, n=1)[0])
    (tmp_path / "a/overview.png").write_bytes(png(FRAME))  # beside the clips' folders: no frame of any
    assert FolderClips(tmp_path / "a", "ours").read(1).shape == (8, 16, 16, 3)
    for name, content in files.items():
        path = tmp_path / "a/test1" / name
        path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(UserError, match=f"clip 1 .*{words}"):
        FolderClips(tmp_path / "a", "ours").read(1)


def test_pictures_are_upright(tmp_path):
    """As EXIF says, which phones write instead of turning: 6 is a quarter turn, 2 mirrored."""
    frame = np.zeros((16, 16, 3), np.uint8)
    frame[:8, :8], frame[:8, 8:] = 200, 100
    (tmp_path / "test1").mkdir()
    for t, turn in enumerate((1, 6, 2)):
        exif = Image.Exif()
        exif[0x0112] = turn
        Image.fromarray(frame).save(tmp_path / "test1" / f"{t}.jpg", exif=exif, quality=100)
    corners = FolderClips(tmp_path, "ours").read(1)[:, 2::10, 2::10, 0].astype(int)
    assert np.abs(corners - [[[200, 100], [0, 0]], [[0, 200], [0, 100]], [[100, 200], [0, 0]]]).max() < 5


def npz_entry(header, data=b""):
    """An .npz whose array `frames` has such a header."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        text = f"{header}\n".encode()
        archive.writestr("frames.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data)
    return content.getvalue()


def header(shape, kind="|u1"):
    return f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}}}"


NPZ = {
    "huge header": (npz_entry(header((2**40, 64, 64, 3)), b"abc"), "cannot reshape"),
    "huge content": (npz_entry(header((8, 64, 64, 3)), bytes(2**20)), "GiB, and a clip has at most"),
    "objects": (npz_entry(header((8,), "|O")), "values of type object"),
    "another name": (npz_entry("").replace(b"frames", b"videos"), "no array 'frames' among videos.npy"),
    "text": (npz_entry(header((1,), "<U8"), bytes(32)), "values of type <U8"),
}


@pytest.mark.parametrize("kind", NPZ)
def test_npz_files_that_claim_what_they_do_not_hold(tmp_path, monkeypatch, kind):
    """In a folder and in a zip; without room being made, and no word of allow_pickle."""
    content, words = NPZ[kind]
    monkeypatch.setattr(video, "LARGEST", 2**19)
    (tmp_path / "a").mkdir()
    (tmp_path / "a/test1.npz").write_bytes(content)
    zip_folder(tmp_path / "a", tmp_path / "a.zip")
    for path in ("a", "a.zip"):
        with pytest.raises(UserError, match=words) as error:
            open_clips(tmp_path / path).read(1)
        assert "pickle" not in str(error.value)


@pytest.mark.parametrize("form", ["mp4", "gif", "merged", "png", "npz"])
def test_clips_have_a_largest_size(tmp_path, monkeypatch, form):
    frames = few_colours(0, n=1, size=64)[0]
    if form == "merged":  # a GIF of two frames, the first of which stands for seven
        first, last = (Image.fromarray(frame) for frame in frames[:2])
        (tmp_path / "a").mkdir()
        first.save(tmp_path / "a/test1.gif", save_all=True, append_images=[last], duration=[140, 20])
    else:
        write_clip(tmp_path / "a", "test1", form, frames)
    assert open_clips(tmp_path / "a").read(1).nbytes == 8 * 64 * 64 * 3
    monkeypatch.setattr(video, "LARGEST", 64 * 64 * 3 - 1 if form == "png" else 50_000)
    with pytest.raises(UserError, match="clip 1 .* GiB"):
        open_clips(tmp_path / "a").read(1)


def test_arrays_that_hold_no_clips(tmp_path):
    for shape in ((0, 8, 16, 16, 3), (2, 0, 16, 16, 3), (2, 8, 0, 0, 3)):
        np.save(tmp_path / "a.npy", np.zeros(shape, np.uint8))
        with pytest.raises(UserError, match="nothing in it"):
            open_clips(tmp_path / "a.npy")
    np.save(tmp_path / "a.npy", np.array([{}] * 3, dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="not a readable") as error:
        open_clips(tmp_path / "a.npy")
    assert "pickle" not in str(error.value)


def test_folders_that_hold_no_clips(tmp_path):
    with pytest.raises(UserError, match=r"no clip of layout gif \(called test1.gif\) among its 0 files; rename them"):
        FolderClips(tmp_path, "gif")
    (tmp_path / "clip_1.gif").write_bytes(b"")
    with pytest.raises(UserError, match="among its 1 files, such as clip_1.gif; rename"):
        FolderClips(tmp_path, "gif")
    (tmp_path / "test1700000000000.gif").write_bytes(b"")  # a time
    with pytest.raises(UserError, match="'1700000000000' does not hold one clip number"):
        FolderClips(tmp_path, "gif")
    (tmp_path / "test1700000000000.gif").unlink()
    for name, layout in (("clip_2.mp4", "mp4"), ("test1.npz", "ours"), ("test1.gif", "gif"), ("test_and_gt1.gif", "side_by_side")):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(UserError, match=f"these look like --layout {layout}$"):
            FolderClips(tmp_path, "mindvideo" if layout == "side_by_side" else "side_by_side" if layout in ("gif", "ours") else "gif")
        (tmp_path / name).unlink()
    (tmp_path / "a.zip").write_bytes(b"no zip")
    for read in (open_clips, lambda path: FolderClips(path, "gif")):
        with pytest.raises(UserError, match="not a readable zip"):
            read(tmp_path / "a.zip")
        with pytest.raises(UserError, match="file not found"):
            read(tmp_path / "absent")
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        save_gif(tmp_path / name / "test3.gif", few_colours(0, n=1)[0])
    for read in (open_clips, lambda path: FolderClips(path, "gif")):
        with pytest.raises(UserError, match="two files for clip 3"):
            read(tmp_path)


# ---------------------------------------------------------------------------------------------- pairs


def test_pairs_notice_gaps_and_other_orders(tmp_path, clips):
    np.save(tmp_path / "gt.npy", clips)
    recons = tmp_path / "recons"
    recons.mkdir()
    for i in (1, 2, 4, 5, 6, 7, 8, 9, 10, 11):
        np.savez(recons / f"test{i}.npz", frames=clips[i - 1])
    gt = ArrayClips(tmp_path / "gt.npy")
    with pytest.raises(UserError, match="lacks 1 of the clips 1-11: 3;"):
        Pairs(FolderClips(recons, "ours"), gt)
    some = Pairs(FolderClips(recons, "ours"), gt, allow_missing=True)
    assert some.absent == [3] and len(some) == 10
    assert Pairs(FolderClips(recons, "ours"), gt, numbers=[1, 2]).numbers == [1, 2]
    with pytest.raises(UserError, match="--clips"):
        Pairs(FolderClips(recons, "ours"), gt, numbers=[1, 12])
    np.savez(recons / "test12.npz", frames=clips[0])  # more reconstructions than truths
    with pytest.raises(UserError, match="has clips 12 besides"):
        Pairs(FolderClips(recons, "ours"), gt)
    (recons / "test12.npz").rename(recons / "test0.npz")  # counted from 0: every clip would meet its neighbour's truth
    with pytest.raises(UserError, match="counts its clips from 0"):
        Pairs(FolderClips(recons, "ours"), gt)
    (recons / "test0.npz").unlink()
    np.savez(recons / "test3.npz", frames=clips[2][:, :8, :8])
    with pytest.raises(UserError, match="clip 3 has 8 frames of 8 x 8, the ground truth 8 frames of 16 x 16"):
        Pairs(FolderClips(recons, "ours"), gt).read(3)
    with pytest.raises(UserError, match="--gt"):
        Pairs(FolderClips(recons, "ours"))
