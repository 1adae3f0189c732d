"""Captions from pictures: an image-to-text model of transformers, and the choice between the captions of two frames."""

from dataclasses import dataclass

import torch
from PIL import Image

from common.cli import one_line
from common.files import UserError
from common.randomness import numpy_generator

PROMPT = "Question: What does this image describe? Answer:"
MAX_NEW_TOKENS = 40
CLOSE = 0.05  # difference of cosines up to which two captions fit the clip equally well


@dataclass
class Captioner:
    """An image-to-text model with its processor."""

    model: torch.nn.Module
    processor: object

    @torch.no_grad()
    def __call__(self, frames, prompt=PROMPT):
        """Describe pictures, greedily.

        Parameters
        ----------
        frames : list of arrays, shape (H, W, 3), uint8
            RGB
        prompt : str

        Returns
        -------
        list of str
        """
        images = [Image.fromarray(frame) for frame in frames]
        inputs = self.processor(images=images, text=[prompt] * len(images), return_tensors="pt").to(self.model.device)
        inputs["pixel_values"] = inputs["pixel_values"].to(self.model.dtype)
        tokens = self.model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
        length = inputs["input_ids"].shape[1]
        # language models without an encoder hand the prompt back in front of the answer
        if torch.equal(tokens[:, :length], inputs["input_ids"]):
            tokens = tokens[:, length:]
        return [text.strip() for text in self.processor.batch_decode(tokens, skip_special_tokens=True)]


def load_captioner(source, revision=None, dtype=torch.float32, device="cpu"):
    """An image-to-text model, such as BLIP-2, for inference.

    Parameters
    ----------
    source : str or Path
        hub id or folder
    revision : str, optional
        branch, tag or commit on the hub
    dtype : torch.dtype
        of the weights
    device : torch.device

    Returns
    -------
    Captioner

    Raises
    ------
    UserError
        the model cannot be loaded
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(source, revision=revision)
        model = AutoModelForImageTextToText.from_pretrained(source, revision=revision, dtype=dtype)
    except Exception as error:  # transformers raises almost any kind for a missing or broken file
        raise UserError(
            f"--caption_model {source} cannot be loaded as an image-to-text model ({one_line(error)}); "
            "give a folder, a hub id, or ready captions"
        ) from None
    return Captioner(model.to(device).eval(), processor)


def choose_caption(captions, cosines, *key):
    """One caption for a clip from those of its first and last frame.

    Parameters
    ----------
    captions : pair of str
    cosines : pair of float
        CLIP cosine of each caption with the middle frame
    *key
        numbers and words (seed, split, clip) that fix the choice at random

    Returns
    -------
    str
        where the cosines differ by at most 0.05 one of the two at random, else both joined by ', and then '
    """
    if abs(cosines[0] - cosines[1]) <= CLOSE:
        return captions[int(numpy_generator(*key, "caption").integers(2))]
    return f"{captions[0]}, and then {captions[1]}"
