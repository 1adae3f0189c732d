"""Where models come from: a folder or a hub id, by flag or by data set."""

import os

_HELP = {
    "sd": "Stable Diffusion in the diffusers layout, folder or hub id (default: the data set's, SD 1.5 or the phantom's own)",
    "clip": "CLIP, open_clip folder or name:weights, a tag or file; name-quickgelu:FILE for OpenAI's activation (default: the data set's, "
    "ViT-B-32:openai or the phantom's own)",
}


def add_model_flags(parser, *names):
    """Add --sd_path and --clip_path, those of `names` ("sd", "clip")."""
    group = parser.add_argument_group("models")
    for name in names:
        group.add_argument(f"--{name}_path", metavar="SOURCE", help=_HELP[name])


def model_path(args, name):
    """Source of a model, hub id, folder or file: what its flag names, or else the data set's default; None where neither says one.

    `name` is sd, clip, vifi, image_classifier, clip_classifier or caption_model.
    """
    from common.datasets import get_dataset

    given = getattr(args, f"{name}_path", None) or getattr(args, name, None) or get_dataset(args.dataset).models.get(name)
    return os.path.expanduser(str(given)) if given else None  # a shell leaves the ~ of --sd_path=~/sd
