"""Leave one checkpoint, under a name of its own, when an error ends a fit. The trainer's own rescue is not touched."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.callbacks.callback import Callback
from holdfast.errors import ConfigError, HoldfastError
from holdfast.log import logger
from holdfast.store import LocalStore

if TYPE_CHECKING:
    from holdfast.training.module import LightningModule
    from holdfast.training.trainer import Trainer

_EXTENSION = ".ckpt"


class OnExceptionCheckpoint(Callback):
    """Save when an exception ends a fit; the file goes when a fit ends without one.

    Go on with ``trainer.fit(model, ckpt_path=callback.ckpt_path)``. The trainer leaves a rescue checkpoint beside the
    others anyway: this callback is for those who want the file in a known place.

    Args:
        dirpath: The folder; made when it is needed.
        filename: The name in it, without the extension.

    Raises:
        ConfigError: The name is empty, or is none of a file in that folder.
    """

    def __init__(self, dirpath: str | os.PathLike[str], filename: str = "on_exception") -> None:
        if not filename or filename in (".", "..") or set(filename) & {"/", "\\", "\0"}:
            raise ConfigError(f"OnExceptionCheckpoint: filename is a name in dirpath, not {filename!r}.")
        self.dirpath = os.fspath(dirpath)
        self.filename = filename
        self._failed = False

    @property
    def ckpt_path(self) -> str:
        """Where the file is, if there is one."""
        return str(Path(self.dirpath) / (self.filename + _EXTENSION))

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Nothing has failed yet."""
        self._failed = False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save, unless the weights are half a step on; what goes wrong here is logged, and hides no error."""
        self._failed = True
        if trainer.config.fast_dev_run or trainer.loop is None:
            return
        if trainer.strategy.stepping:
            logger.error("'%s' was not saved: the error came in the middle of an optimizer's step", self.ckpt_path)
            return
        try:
            LocalStore(self.dirpath).prepare()
            trainer.save_checkpoint(self.ckpt_path)
        except HoldfastError as error:
            logger.error("'%s' was not saved: %s", self.ckpt_path, error)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """A fit that ended well needs it no more. Another stage proves nothing, and leaves it."""
        if stage == "fit" and not self._failed and not trainer.config.fast_dev_run:
            LocalStore(self.dirpath).remove(self.filename + _EXTENSION)
