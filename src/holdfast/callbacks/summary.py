"""Show what a module consists of when fit begins. Changes nothing of it; only an example of its input runs through."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from holdfast.callbacks.callback import Callback
from holdfast.errors import ConfigError

if TYPE_CHECKING:
    from holdfast.callbacks.layer_sizes import Size
    from holdfast.training.module import LightningModule
    from holdfast.training.trainer import Trainer

_HEADINGS = ("layer", "type", "parameters", "trainable", "MB", "in", "out")
_UNSIZED = 5  # so many of them where no sizes are known
_NO_SIZES: Mapping[str, tuple[Size, Size]] = MappingProxyType({})
_NUMBERS_FROM = 2  # the columns from here on are aligned to the right
_GAP = 2


@dataclass(frozen=True)
class Layer:
    """One module as the summary counts it, with everything below it; what is shared within it counts once.

    Args:
        name: As in ``named_modules``; empty for the whole.
        kind: The class.
        parameters: How many numbers its parameters hold.
        trainable: How many of those ask for gradients.
        bytes: Of parameters and buffers.
        lazy: Whether some parameters have no shape yet; they count as nothing.
        in_size: Of what it is given, where an example has run through it; else ``"?"``.
        out_size: Of what it returns, likewise.
    """

    name: str
    kind: str
    parameters: int
    trainable: int
    bytes: int
    lazy: bool
    in_size: Size = "?"
    out_size: Size = "?"

    def cells(self) -> tuple[str, ...]:
        """One text for each heading."""
        unknown = " + lazy" if self.lazy else ""
        return (
            self.name,
            self.kind,
            f"{self.parameters:,}{unknown}",
            f"{self.trainable:,}",
            f"{self.bytes / 1e6:,.1f}",
            str(self.in_size),
            str(self.out_size),
        )


class ModelSummary(Callback):
    """Print a table of the module's layers to stdout when fit begins, on rank 0.

    An ``example_input_array`` of the module (what ``forward`` takes: one argument, a tuple or a dict of several) runs
    through it once on each rank, in evaluation mode, and the table has the sizes of what goes into each layer and comes
    out of it. With FSDP, where no rank holds a whole layer, there are none.

    Args:
        max_depth: How deep to go: 1 shows the layers of the module itself, -1 all of them, 0 shows nothing.

    Raises:
        ConfigError: The depth is none.
    """

    def __init__(self, max_depth: int = 1) -> None:
        if max_depth < -1:
            raise ConfigError(f"ModelSummary: max_depth is a whole number of -1 or more, not {max_depth!r}.")
        self.max_depth = max_depth

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print it."""
        if not self.max_depth:
            return
        seen, example = _NO_SIZES, getattr(pl_module, "example_input_array", None)
        if example is not None and not trainer.strategy.spread:
            from holdfast.callbacks.layer_sizes import sizes

            seen = sizes(pl_module, example, trainer.strategy.precision)
        if trainer.is_global_zero:
            show(layers(pl_module, max_depth=self.max_depth, seen=seen))


def layers(module: nn.Module, *, max_depth: int, seen: Mapping[str, tuple[Size, Size]] = _NO_SIZES) -> list[Layer]:
    """The layers of a module, in their order; the last one is the module itself.

    Args:
        module: The module.
        max_depth: How deep to go; -1 for all.
        seen: The sizes of what goes in and comes out, by the layer's name, as far as they are known.
    """
    found = [
        _layer(name, layer, *seen.get(name, ()))
        for name, layer in module.named_modules()
        if name and (max_depth == -1 or name.count(".") < max_depth)
    ]
    own = list(module.parameters(recurse=False))
    if own:
        found.append(_counted("its own", "", own, module.buffers(recurse=False)))
    return [*found, _layer("", module, *seen.get("", ()))]


def show(found: Sequence[Layer]) -> None:
    """Print layers, the last of which is the whole: a table on a terminal, aligned lines elsewhere."""
    *rows, total = texts(found)
    total[0] = "all"
    if sys.stdout.isatty():
        _print_table(rows, total)
    else:
        print("\n".join(_lines([[*_HEADINGS[: len(total)]], *rows, total])))


def texts(found: Sequence[Layer]) -> list[list[str]]:
    """The cells of layers; sizes only where some are known."""
    columns = None if any(layer.in_size != "?" for layer in found) else _UNSIZED
    return [[*layer.cells()[:columns]] for layer in found]


def _layer(name: str, layer: nn.Module, *sizes: Size) -> Layer:
    return _counted(name, type(layer).__name__, list(layer.parameters()), layer.buffers(), *sizes)


def _counted(
    name: str, kind: str, parameters: Sequence[nn.Parameter], buffers: Iterable[Tensor], *sizes: Size
) -> Layer:
    shaped = _shaped(parameters)
    return Layer(
        name,
        kind,
        sum(p.numel() for p in shaped),
        sum(p.numel() for p in shaped if p.requires_grad),
        sum(t.numel() * t.element_size() for t in (*shaped, *_shaped(buffers))),
        len(shaped) < len(parameters),
        *sizes,
    )


def _shaped(tensors: Iterable[Tensor]) -> list[Tensor]:
    return [tensor for tensor in tensors if not is_lazy(tensor)]


def _lines(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        (" " * _GAP)
        .join(
            cell.rjust(width) if column >= _NUMBERS_FROM else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        .rstrip()
        for row in rows
    ]


def _print_table(rows: Sequence[Sequence[str]], total: Sequence[str]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False)
    for column, heading in enumerate(_HEADINGS[: len(total)]):
        table.add_column(heading, overflow="fold", justify="right" if column >= _NUMBERS_FROM else "left")
    for row in rows:
        table.add_row(*row)
    table.add_section()
    table.add_row(*total, style="bold")
    Console(markup=False, highlight=False, emoji=False).print(table)
