"""A network with two optimizers that it steps itself, as a GAN does."""

from __future__ import annotations

import torch

from small_fits import Net


class TwoOptimizers(Net):
    """Two steps a batch, one of each optimizer.

    Args:
        often: Steps of the first one before each of the second.
    """

    def __init__(self, often=1):
        super().__init__()
        self.automatic_optimization = False
        self.often = often

    def training_step(self, batch, batch_idx):
        first, second = self.optimizers()
        for optimizer in [*[first] * self.often, second]:
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch))
            optimizer.step()

    def configure_optimizers(self):
        return [torch.optim.SGD(self.layers[i].parameters(), lr=0.1) for i in (0, 3)]
