"""Refuse what a trainer or a fit cannot work with, all problems in one sentence. Touches nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from holdfast.errors import ConfigError
from holdfast.training.hooks import overrides

T = TypeVar("T")


class Together:
    """Makes several things and raises what was wrong with all of them as one error.

    Args:
        what: Whose arguments they are.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._problems: list[str] = []

    def make(self, make: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call ``make``. Where it raises ``ConfigError`` there is no value, and ``check`` raises."""
        try:
            return make(*args, **kwargs)
        except ConfigError as error:
            self._problems.append(str(error).removeprefix(f"{self._what}: ").rstrip("."))
            return None  # type: ignore[return-value]  # nobody uses it: check() raises

    @property
    def clean(self) -> bool:
        """Whether nothing was wrong so far."""
        return not self._problems

    def check(self) -> None:
        """Raises ``ConfigError`` with all problems, if there are any."""
        if self._problems:
            raise ConfigError(f"{self._what}: {'; '.join(self._problems)}.")


def refuse_what_is_missing(*, model_registry: Any) -> None:
    """Arguments that scripts pass and that this version cannot honour.

    Raises:
        ConfigError: All of them.
    """
    problems = []
    if model_registry is not None:
        problems.append(f"model_registry={model_registry!r}: this version has none")
    if problems:
        raise ConfigError("; ".join(problems))


def refuse_beside_barebones(**flags: Any) -> None:
    """Flags that ask for what ``barebones=True`` switches off.

    Raises:
        ConfigError: All of them.
    """
    wrong = [f"{name}={value!r}" for name, value in flags.items() if value not in (None, False) and value != 0]
    wrong += [f"{name}=True" for name, value in flags.items() if value is True and f"{name}=True" not in wrong]
    if wrong:
        raise ConfigError(f"Trainer: barebones=True switches off what {' and '.join(wrong)} asks for.")


def check_fit(model: Any, base: type, *, train: Any, val: Any, datamodule: Any, clip: Any, accumulate: int) -> None:
    """Whether a model can be fitted with these loaders.

    Raises:
        ConfigError: It lacks steps, or the arguments contradict each other.
    """
    name = type(model).__name__
    needs = [n for n in ("training_step", "configure_optimizers") if not overrides(model, n, base)]
    if train is None and datamodule is None and not overrides(model, "train_dataloader", base):
        needs.append("train_dataloader (or pass train_dataloaders= or datamodule=)")
    problems = [f"{name} cannot be fitted without {', '.join(needs)}"] if needs else []
    if datamodule is not None and (train is not None or val is not None):
        problems.append("fit() takes loaders or a datamodule, not both")
    if not model.automatic_optimization:
        if clip is not None:
            problems.append(
                "gradient_clip_val is for automatic optimisation; with manual optimisation call self.clip_gradients()"
            )
        if accumulate != 1:
            problems.append(
                "accumulate_grad_batches is for automatic optimisation; with manual optimisation step less often"
            )
    if problems:
        raise ConfigError(f"{'; '.join(problems)}.")


def check_optimizers(optimizers: list[Any], *, automatic: bool, scaled: bool) -> None:
    """Whether a loop can step these optimizers.

    Raises:
        ConfigError: There are several, and the optimisation is automatic; or one that no scaler can follow.
    """
    if automatic and len(optimizers) > 1:
        raise ConfigError(
            f"configure_optimizers returned {len(optimizers)} optimizers, and automatic optimisation steps one.",
            remedy="Set self.automatic_optimization = False in __init__ and step them in training_step.",
        )
    if scaled and any(type(o).__name__ == "LBFGS" for o in optimizers):
        raise ConfigError("LBFGS evaluates the loss several times a step, which precision='16-mixed' cannot scale.")
