"""What the scripts that cut clips share: the listing of what they made."""

from common.files import read_json, write_json


def write_listing(layout, split, dataset, checksums):
    """Write clips.json: SHA-256 of every clip by name, frames per clip and frame rate."""
    content = {"frames": dataset.clip_frames, "fps": dataset.fps, "sha256": checksums}
    write_json(layout.clip(split, "any").with_name("clips.json"), content)


def clips_are_there(layout, split, expected):
    """True when every clip that was made is still on disk, and as many as expected were made; None expects any number."""
    listing = layout.clip(split, "any").with_name("clips.json")
    names = read_json(listing)["sha256"] if listing.exists() else {}
    return len(names) == (expected or len(names)) and all(layout.clip(split, name).exists() for name in names)
