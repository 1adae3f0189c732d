"""What the brain-side score and the closeness audit see of clips: CLIP of the frames, motion energy, latents of the first frame."""

from pathlib import Path

import numpy as np
from tqdm import tqdm

from common.files import UserError
from common.readers import FolderClips
from Evaluation_Metrics.motion_energy import motion_energies
from Evaluation_Metrics.per_clip import BLOCK, BlockCache
from Evaluation_Metrics.towers import source_at_hand, source_sha256
from models.loading import load_sd_part

BANDS = {  # name -> what it is, and the flag that it needs
    "clip": ("CLIP image features, mean over the frames", "--clip_path"),
    "motion": ("motion energy, static and opponent, mean over the frames", None),
    "latents": ("latents of the first frame, pooled to 8 x 8", "--sd_path"),
}
POOLED = 8  # latents per side


def encode_latents(vae, first):
    """Latents of pictures (N, H, W, 3) uint8, pooled to 8 x 8: (N, C * 64) float32."""
    import torch

    parameter = next(vae.parameters())
    with torch.inference_mode():
        pictures = torch.from_numpy(np.ascontiguousarray(first)).to(parameter.device).permute(0, 3, 1, 2).to(parameter.dtype) / 127.5 - 1
        latents = vae.encode(pictures).latent_dist.mode() * vae.config.scaling_factor  # n c h w
        return torch.nn.functional.adaptive_avg_pool2d(latents, POOLED).flatten(1).float().cpu().numpy()


class ClipFeatures:
    """Features of clips by band (of BANDS); finished blocks lie in the cache. A UserError for a band whose model is not named.

    `towers` holds "clip" where that band is wanted, `sd_path` names Stable Diffusion for the latents, `fps` is the clips' frame rate.
    """

    def __init__(self, bands, towers, sd_path=None, device="cpu", cache=None, fps=3.75):
        lacking = {"clip": "clip" not in towers, "latents": sd_path is None}
        for band in bands:
            if lacking.get(band):
                raise UserError(f"{BANDS[band][1]} is needed for the band '{band}'; name a folder or a hub id, or leave it out of --bands")
        self.bands, self.towers, self.sd_path, self.device, self.fps = list(bands), towers, sd_path, device, fps
        self.cache, self._vae = BlockCache(cache), None

    @classmethod
    def of(cls, args, bands, towers, device, cache, fps):
        """As a script's flags say, else with the data set's own models."""
        return cls(bands, towers, source_at_hand(args, "sd_path", "sd"), device, cache, fps)

    def identity(self, band):
        """What tells a band from the same band by another model."""
        if band == "clip":
            return self.towers.identity("clip")
        if band == "latents":
            return [band, source_sha256(Path(self.sd_path) / "vae") or self.sd_path]
        return [band, self.fps]

    def _compute(self, band, clips):
        if band == "clip":
            return self.towers["clip"](clips)
        if band == "motion":
            return np.stack([np.concatenate([part.mean(0) for part in of_clip]) for of_clip in motion_energies(clips, self.fps)])
        self._vae = self._vae or load_sd_part(self.sd_path, "vae").to(self.device)
        return encode_latents(self._vae, clips[:, 0])

    def __call__(self, reader, numbers, desc):
        """Features of a reader's clips, {band: (N, D) float64}."""
        found = {band: [] for band in self.bands}
        blocks = [numbers[i : i + BLOCK] for i in range(0, len(numbers), BLOCK)]
        models = {band: self.identity(band) for band in self.bands}
        for block in tqdm(blocks, desc=desc, unit="block", leave=False):
            who, clips = reader.identity(block), None
            for band in self.bands:
                # CLIP's features of the frames are those that the evaluation keeps
                kind = "clip" if band == "clip" else f"bands_{band}"
                known = self.cache.load(kind, [models[band], who])
                if known is None:
                    clips = _read(reader, block) if clips is None else clips
                    known = {"features": self._compute(band, clips)}
                    self.cache.save(kind, [models[band], who], known)
                found[band].append(known["features"].mean(1) if band == "clip" else known["features"])
        features = {band: np.concatenate(parts).astype(np.float64) for band, parts in found.items()}
        for band, values in features.items():
            if bad := [numbers[i] for i in np.flatnonzero(~np.isfinite(values).all(1))]:
                raise UserError(f"{reader.path}: clip {bad[0]} has NaN in the band '{band}'; check the clip and the model")
        return features


def _read(reader, numbers):
    clips = [reader.read(number) for number in numbers]
    for number, clip in zip(numbers, clips, strict=True):
        if clip.shape != clips[0].shape:
            raise UserError(
                f"{reader.path}: clip {number} has shape {clip.shape}, clip {numbers[0]} {clips[0].shape}; score clips of one size"
            )
    return np.stack(clips)


def training_clips(place, dataset, form):
    """Reader of the training clips; a UserError where their frames are not there."""
    path = place.root / "stimuli_frames" / "Train"
    if not path.is_dir():
        raise UserError(f"file not found: {path}; run the step of the preprocessing that extracts frames, or check --out_root")
    return FolderClips(path, "ours", resize=True, names=dataset.clip_names("train"), **form)
