"""What Stable Diffusion's text encoder and CLIP make of captions and frames."""

import torch

N_TOKENS = 20  # of a prompt; the first is the start token


@torch.no_grad()
def encode_sd_text(text_encoder, tokenizer, captions, n_tokens=N_TOKENS):
    """Last hidden state of Stable Diffusion's text encoder, (B, n_tokens, D) float32 tensor on its device.

    Captions are padded or cut to n_tokens, start and end token included.
    """
    words = tokenizer(list(captions), padding="max_length", max_length=n_tokens, truncation=True, return_tensors="pt")
    mask = words.attention_mask.to(text_encoder.device) if getattr(text_encoder.config, "use_attention_mask", False) else None
    return text_encoder(words.input_ids.to(text_encoder.device), attention_mask=mask)[0].float()


@torch.no_grad()
def encode_clip_text(model, tokenizer, captions):
    """CLIP features of captions, (B, D) float32 tensor, not normalised."""
    return model.encode_text(tokenizer(list(captions)).to(_device(model))).float()


@torch.no_grad()
def encode_clip_images(model, pixels):
    """CLIP features of preprocessed images (B, 3, H, W), (B, D) float32 tensor, not normalised."""
    return model.encode_image(pixels.to(_device(model))).float()


def _device(model):
    return next(model.parameters()).device
