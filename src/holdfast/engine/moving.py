"""Bring a storage that was read to the device and the data type asked for: whole, so that what shares it still does.

Reads nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from holdfast.engine.statetree import TensorRef
from holdfast.errors import ConfigError, Incompatible

Location = torch.device | str | None | Callable[[torch.UntypedStorage, str], torch.UntypedStorage]
"""Where tensors go; ``CheckpointFile.whole`` says how."""


class Move:
    """Where one storage goes, and as what.

    Args:
        refs: All that is asked for of it; one at least.
        location: The device; None for the one that it was saved from; or what moves it.
        dtype: What floating-point elements become; None for what they are.
        checkpoint: What to call the file in an error.

    Raises:
        ConfigError: ``dtype`` is no floating-point data type.
        Incompatible: The storage is seen through several data types, and so cannot become another.
    """

    def __init__(
        self, refs: Sequence[TensorRef], location: Location, dtype: torch.dtype | None, *, checkpoint: str
    ) -> None:
        self._saved_from = refs[0].location
        self._location = location
        self._checkpoint = checkpoint
        self._dtype = _changed(refs, dtype, checkpoint)
        self._was = refs[0].dtype

    @property
    def stays(self) -> bool:
        """Whether tensors are given over the very memory that the storage is read into."""
        return self._dtype is None and (callable(self._location) or self._device == "cpu")

    def ref(self, ref: TensorRef) -> TensorRef:
        """A reference as it is after the move."""
        return ref if self._dtype is None else replace(ref, dtype=self._dtype)

    def made(self, storage: torch.UntypedStorage) -> torch.UntypedStorage:
        """The storage moved and converted; itself where it stays.

        Raises:
            Incompatible: This machine lacks the device.
        """
        if self._dtype is not None:
            count = storage.nbytes() // self._was.itemsize
            elements = torch.empty(0, dtype=self._was, device="cpu").set_(storage, 0, (count,), (1,))
            storage = elements.to(self._dtype).untyped_storage()
        if callable(self._location):
            return self._location(storage, self._saved_from)
        return storage if self._device == "cpu" else self._on_device(storage)

    @property
    def _device(self) -> str:
        return self._saved_from if self._location is None else str(self._location)

    def _on_device(self, storage: torch.UntypedStorage) -> torch.UntypedStorage:
        try:
            return torch.empty(0, dtype=torch.uint8, device="cpu").set_(storage).to(self._device).untyped_storage()
        except (RuntimeError, AssertionError) as error:  # PyTorch's two ways to say that there is no such device
            raise Incompatible(
                f"cannot be loaded to the device '{self._device}': {str(error).partition(chr(10))[0]}.",
                checkpoint=self._checkpoint,
                good="Nothing was loaded.",
                remedy="Load it with location='cpu'.",
            ) from error


def _changed(refs: Sequence[TensorRef], dtype: torch.dtype | None, checkpoint: str) -> torch.dtype | None:
    """The data type that a storage's elements are to become; None where they stay what they are."""
    if dtype is None:
        return None
    if not dtype.is_floating_point:
        raise ConfigError(f"dtype={dtype} is no floating-point data type, and only such tensors are converted.")
    saved = {ref.dtype for ref in refs}
    if saved == {dtype} or not any(one.is_floating_point for one in saved):
        return None
    if len(saved) > 1:
        names = " and ".join(sorted(str(one) for one in saved))
        raise Incompatible(
            f"holds a memory that is seen as {names} at once, and cannot be made {dtype}.",
            checkpoint=checkpoint,
            good="Nothing was loaded.",
            remedy="Load it without dtype=, and convert the tensors.",
        )
    return dtype
