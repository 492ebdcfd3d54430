"""Which checkpoints of a callback a tracker has not been given yet. Uploads nothing itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from holdfast.errors import ConfigError

if TYPE_CHECKING:
    from holdfast.callbacks.model_checkpoint import ModelCheckpoint

LogModel = Literal["all"] | bool

_TOLD = ("monitor", "mode", "save_last", "save_top_k", "save_weights_only", "every_n_train_steps", "every_n_epochs")


@dataclass(frozen=True)
class Upload:
    """A checkpoint to give away.

    Args:
        path: The file.
        metadata: What it is, in plain values.
        aliases: ``latest``, and ``best`` where it is that.
    """

    path: Path
    metadata: dict[str, Any]
    aliases: list[str]


class Uploads:
    """The checkpoints that one logger gives away, each once, whatever names it has.

    Args:
        log_model: ``"all"`` as soon as each is durable, True those that are there at the end, False none.

    Raises:
        ConfigError: It is none of those.
    """

    def __init__(self, log_model: LogModel) -> None:
        if log_model not in (True, False, "all"):
            raise ConfigError(f"log_model is False, True or 'all', not {log_model!r}.")
        self._log_model = log_model
        self._sent: set[tuple[int, int, int]] = set()
        self._waiting: dict[int, ModelCheckpoint] = {}

    def now(self, callback: ModelCheckpoint) -> Iterator[Upload]:
        """A checkpoint is durable: what to give away at once."""
        if self._log_model == "all" or (self._log_model is True and callback.save_top_k == -1):
            yield from self._new(callback)
        elif self._log_model is True:
            self._waiting[id(callback)] = callback

    def at_the_end(self) -> Iterator[Upload]:
        """What to give away when the run is over, of all callbacks."""
        for callback in self._waiting.values():
            yield from self._new(callback)
        self._waiting.clear()

    def _new(self, callback: ModelCheckpoint) -> Iterator[Upload]:
        best, last = callback.best_model_path, callback.last_model_path
        scores = dict(callback.best_k_models)
        # The oldest first, so that ``latest`` ends up with the newest.
        for path in map(Path, dict.fromkeys(filter(None, (*scores, best, last)))):
            stat = path.stat()
            same = (stat.st_dev, stat.st_ino, stat.st_mtime_ns)  # other names of one file are no other files
            if same in self._sent:
                continue
            score = scores.get(str(path))
            told = {name: getattr(callback, name) for name in _TOLD}
            metadata = {
                "score": None if score is None else score.item(),
                "original_filename": path.name,
                type(callback).__name__: told,
            }
            yield Upload(path, metadata, ["latest", "best"] if str(path) == best else ["latest"])
            self._sent.add(same)
