"""Captions from pictures: an image-to-text model of transformers, and the choice between the captions of two frames."""

import logging
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from common.files import UserError
from common.randomness import numpy_generator
from models.loading import library_words, load_helper, load_model

log = logging.getLogger(__name__)

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
        """Describe pictures, each (H, W, 3) uint8 RGB, greedily; list of str."""
        inputs = self._inputs(frames, prompt)
        tokens = self.model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
        length = inputs["input_ids"].shape[1]
        # language models without an encoder hand the prompt back in front of the answer
        if torch.equal(tokens[:, :length], inputs["input_ids"]):
            tokens = tokens[:, length:]
        return [text.strip() for text in self.processor.batch_decode(tokens, skip_special_tokens=True)]

    def _inputs(self, frames, prompt):
        images = [Image.fromarray(frame) for frame in frames]
        inputs = self.processor(images=images, text=[prompt] * len(images), return_tensors="pt").to(self.model.device)
        inputs["pixel_values"] = inputs["pixel_values"].to(self.model.dtype)
        return inputs

    @torch.no_grad()
    def first_logits(self, frame):
        """Logits of the first word about a picture, (vocabulary,)."""
        options = {"max_new_tokens": 1, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
        return self.model.generate(**self._inputs([frame], PROMPT), **options).logits[0][0]


def load_captioner(source, revision=None, dtype=torch.float32, device="cpu"):
    """An image-to-text model, such as BLIP-2, for inference, Captioner; `source` is a hub id, with a revision there, or a folder.

    A UserError for one that is not there, broken or not whole, or does not see the pictures.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    wanted = (source, "--caption_model", "an image-to-text model of transformers (folder or hub id), or ready captions")
    processor = load_helper(AutoProcessor, *wanted, revision=revision)
    model = load_model(AutoModelForImageTextToText, *wanted, dtype=dtype, revision=revision)
    _count_as_the_model(processor, model, source)
    captioner = Captioner(model.to(device), processor)
    _check_sees(captioner, source)
    return captioner


def _count_as_the_model(processor, model, source):
    """Let BLIP-2's processor leave as many places for a picture in the prompt as the model fills, at the token that it fills."""
    n, config = getattr(model.config, "num_query_tokens", None), model.config
    if n is None or not hasattr(processor, "num_query_tokens"):
        return
    if processor.num_query_tokens != n:  # None in the first versions
        log.info("%s: %d tokens a picture, as config.json says; the processor's files say %s", source, n, processor.num_query_tokens)
        processor.num_query_tokens = n
    token = processor.tokenizer.convert_tokens_to_ids(str(processor.image_token))
    if config.image_token_index is None:  # likewise
        config.image_token_index = token
    if config.image_token_index != token or token >= model.get_input_embeddings().num_embeddings:
        raise UserError(
            f"--caption_model {source}: the tokenizer's picture token is {token}, and the model's is {config.image_token_index} of "
            f"{model.get_input_embeddings().num_embeddings}; give processor and model of one version"
        )


def _check_sees(captioner, source):
    """Raise a UserError for a model whose answer does not depend on the picture."""
    try:
        logits = [captioner.first_logits(np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)) for seed in (0, 1)]
    except Exception as error:  # of processor and model that do not fit
        raise UserError(f"--caption_model {source} cannot describe a picture ({library_words(error)}); give another model") from None
    if not all(torch.isfinite(answer).any() for answer in logits):
        raise UserError(f"--caption_model {source} computes no numbers in this precision; use another --precision")
    if torch.equal(*logits):
        raise UserError(f"--caption_model {source} gives the same answer to every picture; give processor and model of one version")


def choose_caption(captions, cosines, *key):
    """One caption for a clip from those of its first and last frame.

    Where the CLIP cosines of the captions with the middle frame differ by at most 0.05 it is one of the two, at random by the key
    (seed, split, clip), else both joined by ', and then '.
    """
    if abs(cosines[0] - cosines[1]) <= CLOSE:
        return captions[int(numpy_generator(*key, "caption").integers(2))]
    return f"{captions[0]}, and then {captions[1]}"
