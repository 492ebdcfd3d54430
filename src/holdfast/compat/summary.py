"""A model's summary as an object that programs ask and print. Runs nothing through the model."""

from __future__ import annotations

from torch import nn

from holdfast.callbacks.summary import Layer, layers


class ModelSummary:
    """What a module consists of.

    Args:
        model: The module.
        max_depth: How deep to go: 1 shows its own layers, -1 all.
    """

    def __init__(self, model: nn.Module, max_depth: int = 1) -> None:
        self.max_depth = max_depth
        *self._layers, self._whole = layers(model, max_depth=max_depth)

    @property
    def layer_names(self) -> list[str]:
        """The layers' names."""
        return [layer.name for layer in self._layers]

    @property
    def layer_types(self) -> list[str]:
        """The layers' classes."""
        return [layer.kind for layer in self._layers]

    @property
    def param_nums(self) -> list[int]:
        """How many numbers the parameters of each layer hold."""
        return [layer.parameters for layer in self._layers]

    @property
    def total_parameters(self) -> int:
        """How many numbers all parameters hold."""
        return self._whole.parameters

    @property
    def trainable_parameters(self) -> int:
        """How many of those ask for gradients."""
        return self._whole.trainable

    @property
    def model_size(self) -> float:
        """Parameters and buffers, in MB of 1,000,000 bytes."""
        return self._whole.bytes / 1e6

    def __str__(self) -> str:
        rows: list[Layer] = [*self._layers, self._whole]
        return "\n".join("  ".join(row.cells()).strip() for row in rows)


def summarize(lightning_module: nn.Module, max_depth: int = 1) -> ModelSummary:
    """The summary of a module; see ``ModelSummary``."""
    return ModelSummary(lightning_module, max_depth)
