"""Refuse what a ``Checkpointer`` cannot work with, all problems in one sentence. Changes nothing."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any

from holdfast.errors import ConfigError
from holdfast.policy.what import What
from holdfast.policy.when import When
from holdfast.policy.which import Which
from holdfast.store import Store
from holdfast.strategies.single import require_state


def arguments(
    *, directory: Any, when: Any, which: Any, what: Any, filename: Any, alias: str, options: Mapping[str, Any]
) -> None:
    """Check what a ``Checkpointer`` is made of.

    Args:
        directory: A path or a store.
        when: When to save.
        which: Which checkpoints to keep.
        what: Which parts of the state.
        filename: The template of names; what is wrong inside it ``Where`` says.
        alias: The name that is not free.
        options: ``on_save_error``, ``when_busy`` and ``memory``.

    Raises:
        ConfigError: All that cannot work.
    """
    problems = []
    if not isinstance(directory, (str, os.PathLike, Store)):
        problems.append(f"directory= is a path or a store, not {directory!r}")
    if not isinstance(when, When):
        problems.append(f"when= takes every(...), at(...) or a union of them, not {when!r}")
    if not isinstance(which, Which):
        problems.append(f"which= takes best(...), last(...) or a union of them, not {which!r}")
    if not isinstance(what, What):
        problems.append(f"what= takes full, weights_only or trainable_only, not {what!r}")
    if filename == alias:
        problems.append(f"filename={alias!r} is the alias of the newest checkpoint, whatever its own name is")
    for name, choices in (("on_save_error", ("warn", "raise")), ("when_busy", ("wait", "skip"))):
        if options[name] not in choices:
            problems.append(f"{name}= is {' or '.join(map(repr, choices))}, not {options[name]!r}")
    memory = options["memory"]
    if memory is not None and (type(memory) is not int or memory < 1):
        problems.append(f"memory= is a number of bytes, not {options['memory']!r}")
    if problems:
        raise ConfigError(f"Checkpointer: {'; '.join(problems)}.")


def objects(given: Mapping[str, Any], fresh: Collection[str], reserved: Collection[str]) -> None:
    """Check what makes up a state.

    Args:
        given: The objects, by part name.
        fresh: Names among them.
        reserved: Names that they may not have.

    Raises:
        ConfigError: There are none, a name is reserved or unknown, or one has no state.
    """
    if not given:
        raise ConfigError(
            "resume() needs what makes up the state.", remedy="Call resume(model=model, optimizer=optimizer)."
        )
    taken = [name for name in given if name in reserved]
    if taken:
        raise ConfigError(f"The part names {', '.join(taken)} are Holdfast's own: choose others.")
    unknown = [fresh] if isinstance(fresh, str) else [name for name in fresh if name not in given]
    if unknown:
        raise ConfigError(
            f"fresh= is a list of names of objects, and there is none named {', '.join(map(repr, unknown))}.",
            remedy=f"The objects are {', '.join(given)}.",
        )
    require_state(given)


def numbers(metrics: Any) -> dict[str, float]:
    """Metrics as plain numbers.

    Raises:
        ConfigError: They are no mapping of names to numbers or one-element tensors.
    """
    if metrics is None:
        return {}
    if not isinstance(metrics, Mapping):
        raise ConfigError(f"Metrics are a mapping of names to numbers, not {metrics!r:.200}.")
    return {name: _number(name, value) for name, value in metrics.items()}


def measured(known: Collection[str], **needed: Collection[str]) -> None:
    """Check that what names and rules need has been measured. A misspelt metric would do nothing for days.

    Args:
        known: The metrics that were measured.
        needed: An argument's name to the metrics that it needs.

    Raises:
        ConfigError: One is missing.
    """
    problems = [
        f"{role}= needs {', '.join(map(repr, missing))}"
        for role, names in needed.items()
        if (missing := [name for name in names if name not in known])
    ]
    if problems:
        raise ConfigError(
            f"{' and '.join(problems)}, not measured by the end of the first validation.",
            good="What was saved stands.",
            remedy=f"Measured so far: {', '.join(map(repr, known)) or 'nothing'}.",
        )


def _number(name: object, value: Any) -> float:
    if not isinstance(name, str):
        raise ConfigError(f"The name of a metric is text, not {name!r}.")
    try:
        number = value.item() if hasattr(value, "item") else value
    except (RuntimeError, ValueError) as error:  # of a tensor or an array with more elements than one
        raise ConfigError(f"The metric {name!r} is not one number: {error}.") from error
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise ConfigError(f"The metric {name!r} is {value!r:.200}, not a number.")
    return number
