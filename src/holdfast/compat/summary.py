"""A model's summary as an object that programs ask and print."""

from __future__ import annotations

from torch import nn

from holdfast.callbacks.layer_sizes import Size, sizes
from holdfast.callbacks.summary import layers, texts


class ModelSummary:
    """What a module consists of. Its ``example_input_array``, if it has one, runs through it: ``layer_sizes``.

    Args:
        model: The module.
        max_depth: How deep to go: 1 shows its own layers, -1 all.
    """

    def __init__(self, model: nn.Module, max_depth: int = 1) -> None:
        self.max_depth = max_depth
        example = getattr(model, "example_input_array", None)
        seen = {} if example is None else sizes(model, example)
        *self._layers, self._whole = layers(model, max_depth=max_depth, seen=seen)

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
    def in_sizes(self) -> list[Size]:
        """The shape of what each layer is given, several as a list; ``"?"`` where it is not known."""
        return [layer.in_size for layer in self._layers]

    @property
    def out_sizes(self) -> list[Size]:
        """The same of what it returns."""
        return [layer.out_size for layer in self._layers]

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
        return "\n".join("  ".join(row).strip() for row in texts([*self._layers, self._whole]))


def summarize(lightning_module: nn.Module, max_depth: int = 1) -> ModelSummary:
    """The summary of a module; see ``ModelSummary``."""
    return ModelSummary(lightning_module, max_depth)
