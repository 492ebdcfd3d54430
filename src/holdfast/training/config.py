"""The trainer's arguments: checked all at once, before anything is touched, and resolved against the data."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import timedelta
from typing import TYPE_CHECKING

from holdfast.errors import ConfigError
from holdfast.training.durations import seconds
from holdfast.training.limits import FitLimits

if TYPE_CHECKING:
    from holdfast.training.data import Batches

NEVER = 2**62
_SHARES = ("limit_train_batches", "limit_val_batches", "limit_test_batches", "limit_predict_batches",
           "overfit_batches")  # fmt: skip


@dataclass(frozen=True)
class Config:
    """What a trainer was asked for; ``Trainer`` documents each.

    Raises:
        ConfigError: Arguments make no sense or contradict each other; all of it in one error.
    """

    max_epochs: int | None = None
    min_epochs: int | None = None
    max_steps: int = -1
    min_steps: int | None = None
    max_time: str | timedelta | dict[str, int] | None = None
    limit_train_batches: int | float | None = None
    limit_val_batches: int | float | None = None
    limit_test_batches: int | float | None = None
    limit_predict_batches: int | float | None = None
    overfit_batches: int | float = 0.0
    val_check_interval: int | float | str | timedelta | dict[str, int] | None = None
    check_val_every_n_epoch: int | None = 1
    num_sanity_val_steps: int | None = None
    log_every_n_steps: int = 50
    accumulate_grad_batches: int = 1
    gradient_clip_val: float | None = None
    gradient_clip_algorithm: str | None = None
    inference_mode: bool = True
    fast_dev_run: int | bool = False
    reload_every: int = 0
    detect_anomaly: bool = False
    barebones: bool = False
    save_memory: int | None = None

    def __post_init__(self) -> None:
        problems = [*_number_problems(self)]
        if self.gradient_clip_algorithm not in (None, "norm", "value"):
            problems.append(f"gradient_clip_algorithm is 'norm' or 'value', not {self.gradient_clip_algorithm!r}")
        interval = self.val_check_interval
        durations = {"max_time": self.max_time, "val_check_interval": interval}
        if isinstance(interval, (int, float)):
            del durations["val_check_interval"]
        for name, given in durations.items():
            try:
                if given is not None:
                    seconds(given)
            except ValueError as error:
                problems.append(f"{name}: {error}")
        if type(self.fast_dev_run) not in (bool, int) or self.fast_dev_run < 0:
            problems.append(f"fast_dev_run is True, False or a number of batches, not {self.fast_dev_run!r}")
        memory = self.save_memory
        if memory is not None and (type(memory) is not int or memory < 1):
            problems.append(f"save_memory is a number of bytes, not {memory!r}")
        clip = self.gradient_clip_val
        if clip is not None and (type(clip) not in (int, float) or clip < 0):
            problems.append(f"gradient_clip_val is a number of 0 or more, not {clip!r}")
        if isinstance(self.val_check_interval, int) and self.val_check_interval < 1:
            problems.append(f"val_check_interval is at least 1 batch, not {self.val_check_interval!r}")
        if isinstance(self.val_check_interval, float) and not 0 <= self.val_check_interval <= 1:
            problems.append(
                "val_check_interval is a share of an epoch up to 1.0 or a whole number of batches, "
                f"not {self.val_check_interval!r}"
            )
        if self.check_val_every_n_epoch is None and isinstance(self.val_check_interval, (float, type(None))):
            problems.append(
                "check_val_every_n_epoch=None counts batches over epochs: val_check_interval is a whole number then"
            )
        if problems:
            raise ConfigError(f"Trainer: {'; '.join(problems)}.")

    def limit(self, kind: str) -> int | float:
        """The limit of batches of a kind (train, val, test, predict)."""
        if self.fast_dev_run:
            return int(self.fast_dev_run)
        if self.overfit_batches and kind in ("train", "val"):
            return self.overfit_batches
        given = getattr(self, f"limit_{kind}_batches")
        return 1.0 if given is None else given

    @property
    def sanity_steps(self) -> int | None:
        """Batches of validation before training; None for all."""
        if self.fast_dev_run:
            return 0
        given = 2 if self.num_sanity_val_steps is None else self.num_sanity_val_steps
        return None if given == -1 else given

    @property
    def epochs(self) -> int | None:
        """Epochs at most; None for no limit."""
        if self.fast_dev_run:
            return 1
        if self.max_epochs is None and self.max_steps == -1 and self.max_time is None:
            return 1000
        return None if self.max_epochs == -1 else self.max_epochs

    @property
    def steps(self) -> int | None:
        """Optimizer steps at most; None for no limit."""
        if self.fast_dev_run:
            return int(self.fast_dev_run)
        return None if self.max_steps == -1 else self.max_steps

    def limits(self, batches: Batches) -> FitLimits:
        """What the loop needs to know, resolved against what it trains on."""
        every, after = self._validation(batches)
        in_epochs = 1 if self.fast_dev_run else self.check_val_every_n_epoch
        log_every = 1 if self.fast_dev_run else self.log_every_n_steps or NEVER
        return FitLimits(
            max_epochs=self.epochs,
            min_epochs=self.min_epochs or 0,
            max_steps=self.steps,
            min_steps=self.min_steps or 0,
            max_time=None if self.max_time is None else seconds(self.max_time),
            accumulate=self.accumulate_grad_batches,
            validate_every=every,
            by_run=in_epochs is None,
            validate_seconds=after,
            validate_epochs=in_epochs or 1,
            log_every=log_every,
            clip_value=self.gradient_clip_val,
            clip_algorithm=self.gradient_clip_algorithm,
        )

    def _validation(self, batches: Batches) -> tuple[int | None, float | None]:
        """Validate after so many batches (None: at the epoch's end), or so many seconds."""
        interval = self.val_check_interval
        if self.fast_dev_run or interval is None:
            return None, None
        if isinstance(interval, (str, timedelta, dict)):
            return None, seconds(interval)
        size = batches.size
        if isinstance(interval, int):
            if size is not None and interval > size and self.check_val_every_n_epoch is not None:
                raise ConfigError(
                    f"val_check_interval={interval} is more than the {size} batches of an epoch.",
                    remedy="Set check_val_every_n_epoch=None to count batches over epochs.",
                )
            return interval, None
        if interval == 1.0:
            return None, None
        if size is None:
            raise ConfigError(
                f"val_check_interval={interval} is a share of an epoch, and the loader has no length.",
                remedy="Give a whole number of batches.",
            )
        return max(int(size * interval), 1), None

    def epoch_end_counts(self, validates: bool, limits: FitLimits) -> bool:
        """Whether checkpoints by epoch count at the training epoch's end: not where validation has its own rhythm."""
        if not validates:
            return True
        if limits.validate_seconds is not None or limits.validate_epochs != 1 or limits.by_run:
            return False
        return limits.validate_every is None


def _number_problems(config: Config) -> list[str]:
    problems = []
    lowest = {
        "max_epochs": -1,
        "min_epochs": 0,
        "max_steps": -1,
        "min_steps": 0,
        "num_sanity_val_steps": -1,
        "log_every_n_steps": 0,
        "reload_every": 0,
        "accumulate_grad_batches": 1,
        "check_val_every_n_epoch": 1,
    }
    for field in fields(config):
        value = getattr(config, field.name)
        if value is None:
            continue
        if field.name in lowest and (type(value) is not int or value < lowest[field.name]):
            name = "reload_dataloaders_every_n_epochs" if field.name == "reload_every" else field.name
            problems.append(f"{name} is a whole number of at least {lowest[field.name]}, not {value!r}")
        if field.name in _SHARES and (
            type(value) not in (int, float) or value < 0 or (isinstance(value, float) and value > 1)
        ):
            problems.append(f"{field.name} is a number of batches or a share of 0.0 to 1.0, not {value!r}")
    return problems
