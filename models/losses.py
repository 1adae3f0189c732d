"""Training losses of the decoders.

Those under *totals* return the total, a 0-d tensor, and a dict of its unweighted terms, for logs and for the check that
they are finite.
"""

import torch
from torch.nn import functional as F


def clip_loss(logits):
    """Symmetric InfoNCE of logits (B, B): the mean of the cross-entropies over rows and over columns, the diagonal being right.

    References
    ----------
    Radford et al. 2021 (CLIP), figure 3.
    """
    if logits.ndim != 2 or logits.shape[0] != logits.shape[1]:
        raise ValueError(f"logits: expected a square (B, B), given shape {tuple(logits.shape)}")
    right = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2


def similarity_logits(embedding, target, logit_scale):
    """exp(logit_scale) * cosine of every embedding (B, D) with every target (B, D), as (B, B)."""
    return logit_scale.exp() * F.normalize(embedding, dim=-1) @ F.normalize(target, dim=-1).T


def contrastive_loss(embedding, text, image, logit_scale, alpha=0.5):
    """alpha * InfoNCE with the text features + (1 - alpha) * InfoNCE with the image features, all (B, D)."""
    to_text = clip_loss(similarity_logits(embedding, text, logit_scale))
    to_image = clip_loss(similarity_logits(embedding, image, logit_scale))
    return alpha * to_text + (1 - alpha) * to_image


def l1_norm(parameters):
    """Sum of |theta| over the trainable ones of `parameters`, in one fused reduction and not a kernel for each."""
    trained = [p for p in parameters if p.requires_grad]
    return torch.stack(torch._foreach_norm(trained, 1)).sum()


# ---------------------------------------------------------------------------------------------- totals


def semantic_loss(embedding, tokens, text, image, sd_tokens, logit_scale, k1=0.01, k2=0.5, alpha=0.5):
    """MSE(embedding, text) + k1 * contrastive + k2 * MSE(tokens, sd_tokens).

    Parameters
    ----------
    embedding, text, image : tensor, shape (B, D)
        decoded; CLIP features of caption and frame
    tokens, sd_tokens : tensor, shape (B, n, d)
        decoded; Stable Diffusion's text tokens without the start token
    logit_scale : 0-d tensor
    k1, k2 : float
        weights of the contrastive and of the token term
    alpha : float
        text against image in the contrastive term
    """
    terms = {
        "embedding": F.mse_loss(embedding, text),
        "contrastive": contrastive_loss(embedding, text, image, logit_scale, alpha),
        "tokens": F.mse_loss(tokens, sd_tokens),
    }
    return terms["embedding"] + k1 * terms["contrastive"] + k2 * terms["tokens"], terms


def structure_loss(latent, target, parameters, l1_weight, k=1.0):
    """k * MSE(latent, target) + l1_weight * sum|theta|.

    Parameters
    ----------
    latent, target : tensor, shape (B, C, H, W)
        decoded and true latent of the first frame; of the CMG all frames but the first, of any one shape
    parameters : iterable of parameters
    l1_weight : float
        of this epoch (models.schedules.compounding_decay)
    """
    terms = {"mse": F.mse_loss(latent, target), "l1": l1_norm(parameters)}
    return k * terms["mse"] + l1_weight * terms["l1"], terms


def retrieval_loss(embedding, text, image, logit_scale, alpha=0.5):
    """Contrastive + MSE(embedding, image); embedding (B, D), text and image (B, D) as in `semantic_loss`."""
    terms = {"contrastive": contrastive_loss(embedding, text, image, logit_scale, alpha), "embedding": F.mse_loss(embedding, image)}
    return terms["contrastive"] + terms["embedding"], terms


def embedding_loss(embedding, image):
    """MSE(embedding, image), both (B, D), and the same as a term: what the retrieval baselines learn."""
    terms = {"embedding": F.mse_loss(embedding, image)}
    return terms["embedding"], terms
