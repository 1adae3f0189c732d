"""Deep features of a UNet, computed at every few calls and reused in between."""

from functools import partial


class ReusedDeepFeatures:
    """While it is open, a UNet computes its deep blocks at every few calls only, the first of `every`; 1 leaves it as it is.

    A whole call keeps what enters the last up block. The calls after it compute the first down block and the last up block,
    whose skip connections are of this step, around what was kept. Another batch size makes a whole call.

    References
    ----------
    Ma et al. 2024, DeepCache: Accelerating Diffusion Models for Free; here the branch is a whole level.
    """

    def __init__(self, unet, every):
        self.every, self.calls, self.kept = every, 0, None
        unet = getattr(unet, "_orig_mod", unet)  # inside torch.compile's wrapper
        down, up = list(unet.down_blocks[1:]), list(unet.up_blocks[:-1])
        self.skipped = {block: len(block.resnets) + bool(block.downsamplers) for block in down}  # skip connections that it gives
        self.deep = [*down, unet.mid_block, *up]

    def __enter__(self):
        for block in self.deep if self.every > 1 else ():
            block.forward = partial(self._forward, block)  # of the instance: the class's is left as it is

    def __exit__(self, *error):
        for block in self.deep if self.every > 1 else ():
            del block.forward

    def _forward(self, block, hidden_states, *args, **kwargs):
        if block is self.deep[0]:
            self.whole = self.calls % self.every == 0 or len(self.kept) != len(hidden_states)
            self.calls = 1 if self.whole else self.calls + 1
        if self.whole:
            out = type(block).forward(block, hidden_states, *args, **kwargs)
            if block is self.deep[-1]:
                self.kept = out
            return out
        if block in self.skipped:
            return hidden_states, (hidden_states,) * self.skipped[block]  # which only skipped blocks take
        return self.kept
