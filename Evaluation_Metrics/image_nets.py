"""Networks of torchvision whose inner features metrics compare: AlexNet, Inception-v3, EfficientNet-B1, SwAV's ResNet-50; LPIPS."""

import warnings
from dataclasses import dataclass, field

import numpy as np
from einops import rearrange

from common.files import UserError, one_line

LEAST_SIDE = 31  # pixels of a frame of which AlexNet's second pooling leaves one
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of RGB in 0..1, ImageNet's


@dataclass(frozen=True)
class Net:
    """A network of torchvision (`name` of torchvision.models, `options`), the flag of its weights, and the size (pixels) of its input.

    `heads` are parts that are not needed or that torchvision's network lacks, `layers` {output: module that gives it}.
    """

    name: str
    flag: str
    size: int
    heads: tuple
    layers: dict = field(default_factory=lambda: {"features": "avgpool"})
    options: dict = field(default_factory=dict)


NETS = {
    "alexnet": Net("alexnet", "--alexnet_path", 224, ("classifier",), {"layer2": "features.4", "layer5": "features.11"}),
    "inception": Net(
        "inception_v3", "--inception_path", 342, ("fc", "AuxLogits"), options={"transform_input": True, "init_weights": False}
    ),
    "effnet": Net("efficientnet_b1", "--effnet_path", 255, ("classifier",)),
    "swav": Net("resnet50", "--swav_path", 224, ("fc", "projection_head", "prototypes")),
}


def read_weights(path, flag):
    """State dict of a file of weights, .safetensors or .pth."""
    from pathlib import Path

    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from models.checkpoints import read_released

    path = Path(path)
    if path.is_dir():
        raise UserError(f"{flag} {path} is a folder; give the file of weights itself")
    if path.suffix != ".safetensors":
        return read_released(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{flag} {path} is not a readable safetensors file ({one_line(error)}); download it again") from None


def load_net(kind, path):
    """A network of NETS without its heads, in evaluation mode, filled from its published weights, .pth or .safetensors.

    A UserError where these are missing, broken, or not this network's.
    """
    import torch
    import torchvision

    from models.checkpoints import empty_model, fill

    net = NETS[kind]
    model = empty_model(getattr(torchvision.models, net.name), net.options)
    for head in net.heads:
        if hasattr(model, head):
            setattr(model, head, torch.nn.Identity())
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.num_batches_tracked = torch.zeros(())
    state = {name: value for name, value in read_weights(path, net.flag).items() if name.partition(".")[0] not in net.heads}
    # a counter of the training, which some files have and some do not
    state |= {name: value for name, value in model.state_dict().items() if name.endswith("num_batches_tracked")}
    return fill(model, state, f"{net.flag} {path}").eval().requires_grad_(False)


class FrameNet:
    """A network of NETS as a model that metrics look through, `batch_size` frames per call; `source` is its file of weights."""

    def __init__(self, kind, source, device="cpu", batch_size=64):
        import torch

        self.net, self.model = NETS[kind], load_net(kind, source).to(device)
        self.torch, self.device, self.batch_size, self.seen = torch, device, batch_size, {}
        for output, layer in self.net.layers.items():
            self.model.get_submodule(layer).register_forward_hook(lambda _, __, value, output=output: self.seen.update({output: value}))

    def inputs(self, frames):
        """Frames (B, H, W, 3) uint8 as the network sees them, (B, 3, size, size)."""
        pixels = rearrange(self.torch.from_numpy(frames).to(self.device), "b h w c -> b c h w") / 255
        size = (self.net.size, self.net.size)
        pixels = self.torch.nn.functional.interpolate(pixels, size, mode="bilinear", antialias=True, align_corners=False)
        mean, std = (self.torch.tensor(values, device=self.device)[:, None, None] for values in (MEAN, STD))
        return (pixels - mean) / std

    def outputs(self, clips):
        """Features of every clip, the mean over its frames, {output: (N, D) float32}."""
        frames, found = rearrange(clips, "n f h w c -> (n f) h w c"), {output: [] for output in self.net.layers}
        with self.torch.inference_mode():
            for i in range(0, len(frames), self.batch_size):
                self.model(self.inputs(frames[i : i + self.batch_size]))
                for output, values in found.items():
                    values.append(self.seen.pop(output).flatten(1).float().cpu().numpy())
        per_frame = {output: rearrange(np.concatenate(values), "(n f) d -> n f d", n=len(clips)) for output, values in found.items()}
        return {output: values.mean(1, dtype=np.float64).astype(np.float32) for output, values in per_frame.items()}


class LpipsPairs:
    """LPIPS of reconstructed and true frames: AlexNet's features (`source`) weighed as people judge (package lpips, v0.1)."""

    def __init__(self, source, device="cpu", batch_size=64):
        import lpips
        import torch

        alexnet = load_net("alexnet", source)
        with warnings.catch_warnings(action="ignore"):  # it calls torchvision as one did years ago
            self.model = lpips.LPIPS(net="alex", version="0.1", pnet_rand=True, verbose=False)  # with the weights of its package
        for part in (self.model.net.slice1, self.model.net.slice2, self.model.net.slice3, self.model.net.slice4, self.model.net.slice5):
            for index in list(part._modules):
                part._modules[index] = alexnet.features[int(index)]
        self.model = self.model.to(device).eval().requires_grad_(False)
        self.torch, self.device, self.batch_size = torch, device, batch_size

    def of_pairs(self, pred, gt):
        """Mean over the frames of each clip, {"features": (N,) float64}; a UserError for frames that AlexNet's layers shrink to nothing."""
        if min(height_width := pred.shape[2:4]) < LEAST_SIDE:
            raise UserError(f"LPIPS needs frames of at least {LEAST_SIDE} x {LEAST_SIDE} pixels, got {height_width}; score other clips")
        sides, found = [rearrange(clips, "n f h w c -> (n f) h w c") for clips in (pred, gt)], []
        with self.torch.inference_mode():
            for i in range(0, len(sides[0]), self.batch_size):
                x, y = (self.torch.from_numpy(side[i : i + self.batch_size]).to(self.device).float() / 127.5 - 1 for side in sides)
                found.append(self.model(*(rearrange(part, "b h w c -> b c h w") for part in (x, y))).flatten().double().cpu().numpy())
        return {"features": np.concatenate(found).reshape(pred.shape[:2]).mean(1)}
