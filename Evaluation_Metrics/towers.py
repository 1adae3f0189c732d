"""The models that some metrics look through: CLIP, ViFi-CLIP, an image and a clip classifier.

Each is called with clips (N, F, H, W, 3) uint8 and returns numpy arrays, one row per clip.
"""

import importlib.util
from collections import OrderedDict
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from einops import rearrange
from PIL import Image

from common.cli import choose_device, one_line, one_or_more
from common.files import UserError, fingerprint, missing, sha256
from common.model_sources import model_path
from Evaluation_Metrics.image_nets import FrameNet, LpipsPairs
from models.loading import library_words, load_clip, load_helper, load_model, weights_file


def of_frames(clips, batch_size, see):
    """What `see` makes of batches of frames, tensors (B, D), for clips: (N, F, D) float32."""
    import torch

    frames = rearrange(clips, "n f h w c -> (n f) h w c")
    with torch.inference_mode():
        found = [see(frames[i : i + batch_size]).float().cpu().numpy() for i in range(0, len(frames), batch_size)]
    return rearrange(np.concatenate(found), "(n f) d -> n f d", n=len(clips))


# ---------------------------------------------------------------------------------------------- CLIP


class ClipTower:
    """Image side of an open_clip model, `batch_size` frames per call.

    `source` is an open_clip folder, "hf-hub:..." or name:weights such as "ViT-B-32:openai"; `flag` gave it, for an error.
    """

    def __init__(self, source, device="cpu", batch_size=64, flag="--clip_path"):
        import torch

        from models.encoders import encode_clip_images

        model, preprocess, _ = load_clip(str(source), flag)
        self.model, self.preprocess, self.encode = model.to(device), preprocess, encode_clip_images
        self.torch, self.batch_size = torch, batch_size

    def __call__(self, clips):
        """Features of every frame, (N, F, D) float32."""

        def see(frames):
            return self.encode(self.model, self.torch.stack([self.preprocess(Image.fromarray(frame)) for frame in frames]))

        return of_frames(clips, self.batch_size, see)


# ---------------------------------------------------------------------------------------------- ViFi-CLIP

PREFIX = "module.image_encoder."
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of RGB in 0..255; ViFi-CLIP's
HEAD_WIDTH = 64  # of CLIP's attention heads


def read_vifi_checkpoint(path):
    """Entries of the image tower of a released ViFi-CLIP checkpoint, float32 tensors by open_clip's names.

    The .pth has `module.image_encoder.*` entries, bare or below "model"; a UserError where it is missing, broken, without them, or holds
    objects other than arrays and settings.
    """
    import torch

    path = Path(path)
    if not path.is_file():
        raise missing(path, "download k400_seed1_vifi_clip_base2novel.pth, or check --vifi_path")
    try:
        # the training settings that lie in the file become plain dictionaries: nothing of theirs is run
        with torch.serialization.safe_globals([(OrderedDict, "yacs.config.CfgNode")]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises almost any kind for a broken file
        raise UserError(f"{path} is not a checkpoint of arrays and settings alone ({library_words(error)}); download it again") from None
    content = content.get("model", content) if isinstance(content, dict) else {}
    content = {name: value for name, value in content.items() if isinstance(value, torch.Tensor)} if isinstance(content, dict) else {}
    state = {str(name).removeprefix(PREFIX): value.float() for name, value in content.items() if str(name).startswith(PREFIX)}
    if not state:
        entries = ", ".join(map(str, list(content)[:3])) or "none"
        raise UserError(f"{path} has no entries {PREFIX}* (but {entries}); give a ViFi-CLIP checkpoint")
    return state


def build_vifi_tower(state, path):
    """open_clip's vision transformer of the sizes that the entries of read_vifi_checkpoint have, filled with them.

    A UserError, which names `path`, where entries are missing, left over or of another shape.
    """
    from open_clip.transformer import QuickGELU, VisionTransformer

    from models.checkpoints import fill

    try:
        width, _, _, patch = state["conv1.weight"].shape
        tower = VisionTransformer(
            image_size=patch * round((len(state["positional_embedding"]) - 1) ** 0.5),
            patch_size=patch,
            width=width,
            layers=len({name.split(".")[2] for name in state if name.startswith("transformer.resblocks.")}),
            heads=max(1, width // HEAD_WIDTH),
            mlp_ratio=len(state["transformer.resblocks.0.mlp.c_fc.bias"]) / width,
            output_dim=state["proj"].shape[1],
            act_layer=QuickGELU,
        )
    except (KeyError, ValueError, RuntimeError, AttributeError) as error:
        raise UserError(
            f"{path} is not a whole CLIP image tower ({one_line(error)[:200]}); give the checkpoint as it was published"
        ) from None
    return fill(tower, state, path).eval()


def vifi_inputs(frames, size=224):
    """Frames (F, H, W, 3) uint8 RGB as ViFi-CLIP sees them, (F, 3, size, size) float32: to 512, to 256, the centre 224, standardised.

    For a tower of another input `size`, pixels, the steps before scale with it.
    """
    side, edge = size * 8 // 7, size // 14  # 256 and 16 for 224
    scaled = np.stack([cv2.resize(cv2.resize(frame, (512, 512)), (side, side)) for frame in frames])
    cut = scaled[:, edge : edge + size, edge : edge + size].astype(np.float32)
    return rearrange((cut - np.float32(MEAN)) / np.float32(STD), "f h w c -> f c h w")


class VifiTower:
    """Image tower of ViFi-CLIP, of a released checkpoint; `batch_size` frames per call."""

    def __init__(self, source, device="cpu", batch_size=64):
        import torch

        self.model = build_vifi_tower(read_vifi_checkpoint(source), source).to(device)
        self.torch, self.device, self.batch_size = torch, device, batch_size

    def __call__(self, clips):
        """Features of every frame, (N, F, D) float32."""

        def see(frames):
            return self.model(self.torch.from_numpy(vifi_inputs(frames, self.model.image_size[0])).to(self.device))

        return of_frames(clips, self.batch_size, see)


def load_vifi(source, device="cpu", batch_size=64):
    """The tower of a released checkpoint, or an open_clip folder that stands in for it (the phantom's CLIP)."""
    return ClipTower(source, device, batch_size, "--vifi_path") if Path(source).is_dir() else VifiTower(source, device, batch_size)


# ---------------------------------------------------------------------------------------------- classifiers


def _check_call(classifier, flag, source, shape):
    """Raise a UserError for a model that does not take what its own processor makes of pictures."""
    try:
        classifier(np.zeros(shape, np.uint8))
    except Exception as error:
        raise UserError(
            f"{flag} {source}: model and processor do not fit ({one_line(error)[:200]}); give the folder as it was published"
        ) from None


class _FrameModel:
    """An image model of transformers with its processor, folder or hub id, for frames; `batch_size` of them per call."""

    kind, flag, what, output = "", "", "", ""  # class of transformers, flag, words for an error, entry of the model's output

    def __init__(self, source, device="cpu", batch_size=64):
        import transformers

        given = (source, self.flag, self.what)
        self.processor = load_helper(transformers.AutoImageProcessor, *given)
        self.model = load_model(getattr(transformers, self.kind), *given).to(device)
        self.check(source)
        self.device, self.batch_size = device, batch_size
        _check_call(self, self.flag, source, (1, 1, 64, 64, 3))

    def check(self, source):
        """Raise a UserError for a model of another kind."""

    def __call__(self, clips):
        """Output of every frame, (N, F, D) float32."""

        def see(frames):
            inputs = self.processor(images=list(frames), return_tensors="pt")
            return self.model(pixel_values=inputs["pixel_values"].to(self.device))[self.output]

        return of_frames(clips, self.batch_size, see)


class ImageClassifier(_FrameModel):
    """An image classifier of transformers (ViT): scores of every frame."""

    kind, output = "AutoModelForImageClassification", "logits"
    flag, what = "--image_classifier", "an image classifier of transformers, a folder or hub id"


class ClipClassifier:
    """VideoMAE with a classification head, for clips of any number of frames from two; of an odd number the last does not count.

    Its position codes are computed, not learned, so that weights trained on 16 frames serve for 8 or 6. `batch_size` counts frames.
    """

    def __init__(self, source, device="cpu", batch_size=64):
        import torch
        from transformers import AutoImageProcessor

        self.given = (source, "--clip_classifier", "a VideoMAE classifier of transformers, a folder or hub id")
        self.processor = load_helper(AutoImageProcessor, *self.given)
        self.torch, self.source, self.device, self.batch_size = torch, source, device, batch_size
        self.models = {}

    def _model(self, n_frames):
        from transformers import VideoMAEForVideoClassification

        if n_frames not in self.models:
            self.models[n_frames] = load_model(VideoMAEForVideoClassification, *self.given, num_frames=n_frames).to(self.device)
            _check_call(self, "--clip_classifier", self.source, (1, n_frames, 64, 64, 3))
        return self.models[n_frames]

    def __call__(self, clips):
        """Scores of every clip, (N, M) float32."""
        return self.outputs(clips)["features"]

    def outputs(self, clips):
        """Scores of every clip, `features` (N, M), and the mean token that they are made from, `token` (N, D), float32."""
        if clips.shape[1] < 2:
            raise UserError(f"--clip_classifier sees clips of two frames or more, got {clips.shape[1]}; score other clips")
        clips = clips[:, : clips.shape[1] // 2 * 2]
        model, step, scores, tokens = self._model(clips.shape[1]), max(1, self.batch_size // clips.shape[1]), [], []
        hook = model.classifier.register_forward_pre_hook(lambda _, inputs: tokens.append(inputs[0].float().cpu().numpy()))
        with self.torch.inference_mode():
            for i in range(0, len(clips), step):
                inputs = self.processor([list(clip) for clip in clips[i : i + step]], return_tensors="pt")
                scores.append(model(pixel_values=inputs["pixel_values"].to(self.device)).logits.float().cpu().numpy())
        hook.remove()
        return {"features": np.concatenate(scores), "token": np.concatenate(tokens)}


class DinoTower(_FrameModel):
    """DINOv2 of transformers: class token of every frame."""

    kind, output = "AutoModel", "pooler_output"
    flag, what = "--dino_path", "DINOv2 of transformers, a folder or hub id"

    def check(self, source):
        if "dino" not in self.model.config.model_type:
            raise UserError(f"{self.flag} {source} is a model of the kind {self.model.config.model_type}; give {self.what}")


def load_dino(source, device="cpu", batch_size=64):
    """DINOv2, or an open_clip folder that stands in for it (the phantom's CLIP)."""
    is_clip = (Path(source) / "open_clip_config.json").exists()
    return ClipTower(source, device, batch_size, "--dino_path") if is_clip else DinoTower(source, device, batch_size)


# ---------------------------------------------------------------------------------------------- which of them are at hand

KINDS = {  # what a metric asks for: its flag, and its name among a data set's models
    "clip": ("clip_path", "clip"),
    "vifi": ("vifi_path", "vifi"),
    "image": ("image_classifier", "image_classifier"),
    "video": ("clip_classifier", "clip_classifier"),
    "clip_large": ("clip_large_path", "clip_large"),
    "dino": ("dino_path", "dino"),
    "alexnet": ("alexnet_path", "alexnet"),
    "inception": ("inception_path", "inception"),
    "effnet": ("effnet_path", "effnet"),
    "swav": ("swav_path", "swav"),
    "lpips": ("alexnet_path", "alexnet"),
}
STAND_INS = {"vifi": "ViFi-CLIP", "clip_large": "CLIP ViT-L/14", "dino": "DINOv2"}  # what the CLIP of a data set may stand in for
HELP = {
    "clip_path": "CLIP: open_clip folder or name:weights (ViT-B-32:openai in the paper)",
    "vifi_path": "ViFi-CLIP checkpoint for the VIFI-score (k400_seed1_vifi_clip_base2novel.pth in the paper)",
    "image_classifier": "classifier of frames, folder or hub id (google/vit-base-patch16-224 in the paper)",
    "clip_classifier": "classifier of clips, folder or hub id (MCG-NJU/videomae-base-finetuned-kinetics in the paper)",
    "clip_large_path": "larger CLIP for identification: open_clip folder or name:weights (ViT-L-14:openai)",
    "dino_path": "DINOv2 for temporal consistency, folder or hub id (facebook/dinov2-base)",
    "alexnet_path": "AlexNet for identification and LPIPS, torchvision's file (alexnet-owt-7be5be79.pth)",
    "inception_path": "Inception-v3 for identification, torchvision's file (inception_v3_google-0cc3c7bd.pth)",
    "effnet_path": "EfficientNet-B1 for the feature distance, torchvision's file (efficientnet_b1_rwightman-bac287d4.pth)",
    "swav_path": "SwAV's ResNet-50 for the feature distance, its authors' file (swav_800ep_pretrain.pth.tar)",
}


def add_model_flags(parser, *kinds):
    """Flags of the models that metrics of these kinds need."""
    group = parser.add_argument_group("models")
    for flag in dict.fromkeys(KINDS[kind][0] for kind in kinds):
        group.add_argument(f"--{flag}", metavar="MODEL", help=f"{HELP[flag]}; default: the data set's own, if it comes with one")
    group.add_argument("--batch_size", type=one_or_more, default=64, changes_result=False, help="frames per call of a model")
    group.add_argument("--device", default="auto", changes_result=False, help="computing device: auto, cpu or cuda")
    return group


def why_absent(kind):
    """Why there is no model of a kind, for a dash in a table."""
    if kind == "lpips" and not importlib.util.find_spec("lpips"):
        return "the package lpips is not installed (pip install --no-deps lpips==0.1.4)"
    return f"no --{KINDS[kind][0]}"


def source_at_hand(args, flag, name):
    """A model's source: what its flag names, or the data set's own when that lies on this disk; str or None."""
    source = model_path(args, name)
    return source if getattr(args, flag, None) or (source and Path(source).exists()) else None


def source_sha256(source):
    """SHA-256 of a model's file, or of the list of its folder's files with theirs; None for a hub id."""
    if file := weights_file(source):
        return sha256(file)
    path = Path(source)
    files = [file for file in sorted(path.rglob("*")) if file.is_file() and not file.name.startswith(".")]
    return fingerprint([[file.relative_to(path).as_posix(), sha256(file)] for file in files]) if files else None


class Towers:
    """The models that metrics look through, loaded when first asked for; `sources` {kind: folder, file or hub id, or None}."""

    LOADERS = {
        "clip": ClipTower, "vifi": load_vifi, "image": ImageClassifier, "video": ClipClassifier,
        "clip_large": partial(ClipTower, flag="--clip_large_path"), "dino": load_dino, "lpips": LpipsPairs,
    } | {kind: partial(FrameNet, kind) for kind in ("alexnet", "inception", "effnet", "swav")}  # fmt: skip

    def __init__(self, sources, device="cpu", batch_size=64):
        self.sources = {kind: str(source) for kind, source in sources.items() if source}
        self.device, self.batch_size, self._loaded = device, batch_size, {}

    @classmethod
    def of(cls, args):
        """As a script's flags say, else the data set's own."""
        sources = {kind: source_at_hand(args, flag, name) for kind, (flag, name) in KINDS.items()}
        if not importlib.util.find_spec("lpips"):
            del sources["lpips"]
        return cls(sources, getattr(args, "device", "cpu"), getattr(args, "batch_size", 64))

    def __contains__(self, kind):
        return kind in self.sources

    def __getitem__(self, kind):
        if kind not in self._loaded:
            self._loaded[kind] = self.LOADERS[kind](self.sources[kind], choose_device(self.device), self.batch_size)
        return self._loaded[kind]

    def twin(self, kind):
        """The kind whose model serves for this one: CLIP's where the same source stands in for ViFi-CLIP, DINOv2 or a larger CLIP."""
        return "clip" if kind in STAND_INS and self.sources.get("clip") == self.sources[kind] else kind

    def stand_ins(self, kinds):
        """Words for the models that CLIP stands in for, of those kinds; "" for none."""
        words = [STAND_INS[kind] for kind in kinds if kind in STAND_INS and kind in self and self.twin(kind) == "clip"]
        return f"The CLIP of --clip_path stands in for {', '.join(words)}." if words else ""

    def facts(self, kind):
        """Source of a model and, when it is on disk, its SHA-256."""
        return {"source": self.sources[kind], "sha256": source_sha256(self.sources[kind])}

    def identity(self, kind):
        """What tells one model from another."""
        facts = self.facts(kind)
        return [kind, facts["sha256"] or facts["source"]]
