"""The page of a blind comparison: pairs of reconstructions beside the truth, which side is whose only in a key that stays behind."""

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

from common.files import fingerprint, write_json
from common.pages import render
from common.readers import resize_frames

QUESTIONS = {
    "content": "same content?",
    "motion": "same motion?",
    "quality": "better picture?",
    "overall": "overall closer?",
}
LARGEST, MILLISECONDS = 256, 125  # pixels of a movie on the page, and for how long a frame is shown


def as_address(clip):
    """A clip (F, H, W, 3) uint8 as an endless movie inside a page: a data: address of a lossless WebP, which no file's name gives away."""
    small = resize_frames(clip, LARGEST) if max(clip.shape[1:3]) > LARGEST else clip
    first, *others = [Image.fromarray(frame) for frame in small]
    content = io.BytesIO()
    first.save(content, "webp", save_all=True, append_images=others, duration=MILLISECONDS, loop=0, lossless=True)
    return "data:image/webp;base64," + base64.b64encode(content.getvalue()).decode()


def draw_order(clips, n_clips, seed):
    """Which of the clips (N,), at most n_clips, are shown in which order, and whether A stands left: list of (int, bool)."""
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(clips)[:n_clips]
    left = rng.permutation(np.arange(len(chosen)) % 2 == 0)  # each as often on either side
    return [(int(clip), bool(is_left)) for clip, is_left in zip(chosen, left, strict=True)]


def build_blind_page(out, names, clips, readers, *, n_clips, seed, note=""):
    """Write blind.html, to hand out, and blind_key.json, to keep; returns the page's path.

    `readers` {"truth", "A", "B": reader of clips}; `note` is what the page must say of the data.
    """
    order, items, size = draw_order(clips, n_clips, seed), [], 0
    key = {"names": dict(zip("AB", names, strict=True)), "seed": seed, "questions": list(QUESTIONS)}
    key["items"] = [{"item": i, "clip": clip, "left": "A" if left else "B"} for i, (clip, left) in enumerate(order, 1)]
    key["page"] = fingerprint([key, [reader.identity([clip for clip, _ in order]) for reader in readers.values()]])
    for i, (clip, left) in enumerate(order, 1):
        shown = {"truth": readers["truth"].read(clip), "left": readers["AB"[not left]].read(clip), "right": readers["AB"[left]].read(clip)}
        size = shown["truth"].shape[2]
        items.append({"item": i} | {side: as_address(frames) for side, frames in shown.items()})
    write_json(Path(out) / "blind_key.json", key)
    return render(
        "blind.html", Path(out) / "blind.html", title="Which is closer to the true movie?", note=note, small=size < LARGEST,
        page={"id": key["page"], "questions": list(QUESTIONS.items()), "items": items},
    )  # fmt: skip
