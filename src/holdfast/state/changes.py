"""What differs between a checkpoint and the code that goes on from it, and which is taken. Changes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from holdfast.errors import ConfigError, Incompatible

Choice = Literal["restore", "new", "refuse"]
CHOICES: tuple[Choice, ...] = ("restore", "new", "refuse")

TITLES = {
    "lr": "learning rate",
    "optimizer": "optimizer",
    "scheduler": "scheduler",
    "batch_size": "batch size",
    "dataset": "samples in the dataset",
    "sampler": "sampler",
    "accumulate_grad_batches": "accumulate_grad_batches",
    "world_size": "processes",
    "precision": "precision",
    "device": "device",
    "threads": "threads of torch",
    "torch": "torch",
    "python": "Python",
    "holdfast": "Holdfast",
    "git": "git commit",
}
"""What is compared, and what people call it."""

RESTORABLE = ("lr", "optimizer", "scheduler")
"""What a checkpoint can give back; everything else is as it is now."""

_HARMLESS = ("git", "holdfast", "python")
"""What changes no number by itself."""


@dataclass(frozen=True)
class Difference:
    """One thing that is not as it was.

    Args:
        name: Which, a key of ``TITLES``.
        saved: As the checkpoint has it.
        now: As the code or the machine has it.
        taken: ``"restore"`` or ``"new"``.
    """

    name: str
    saved: Any
    now: Any
    taken: Choice

    @property
    def title(self) -> str:
        """What people call it."""
        return TITLES[self.name]

    @property
    def exact(self) -> bool:
        """Whether the numbers to come are those of the run that was never stopped, this apart."""
        return self.taken == "restore" or self.name in _HARMLESS

    def texts(self) -> tuple[str, str]:
        """Both values for people; of long ones only what differs."""
        return told(self.name, self.saved, self.now)

    def choice(self) -> str:
        """Which was taken, for people."""
        if self.taken == "restore":
            return "the checkpoint's"
        return "the new one" if self.name in RESTORABLE else "as it is now"


def check_choices(choices: Mapping[str, str] | None) -> dict[str, Choice]:
    """What a user chose, checked.

    Raises:
        ConfigError: Something is chosen that is not compared, or cannot be chosen.
    """
    if choices is None:
        return {}
    if not isinstance(choices, Mapping):
        raise ConfigError(f"on_resume is a dict such as {{'lr': 'restore'}}, not {choices!r}")
    problems = []
    for name, choice in choices.items():
        allowed = CHOICES if name in RESTORABLE else CHOICES[1:]
        if name not in TITLES:
            problems.append(f"on_resume: nothing is called {name!r}; there are {', '.join(TITLES)}")
        elif choice not in allowed:
            problems.append(f"on_resume[{name!r}] is {' or '.join(map(repr, allowed))}, not {choice!r}")
    if problems:
        raise ConfigError("; ".join(problems))
    return {name: choice for name, choice in choices.items() if choice in CHOICES}


def differences(
    saved: Mapping[str, Any],
    now: Mapping[str, Any],
    choices: Mapping[str, Choice],
    *,
    checkpoint: str,
    default: Choice = "new",
) -> tuple[Difference, ...]:
    """What differs, and what is taken of it.

    Args:
        saved: The checkpoint's fingerprint.
        now: That of the code and of this process.
        choices: What the user chose, by name.
        checkpoint: Its path, for the error.
        default: What is taken of what can be restored, where nobody chose.

    Raises:
        Incompatible: Something differs of which the user chose ``"refuse"``, or ``"restore"`` where that cannot be.
    """
    found, refused = [], []
    for name in TITLES:
        if name not in saved or name not in now or _same(saved[name], now[name]):
            continue
        choice = choices.get(name, default if name in RESTORABLE else "new")
        other = name in ("optimizer", "scheduler") and kinds(saved[name]) != kinds(now[name])
        if other and choice == "restore" and name in choices:
            choice = "refuse"
        difference = Difference(name, saved[name], now[name], "new" if choice == "refuse" or other else choice)
        found.append(difference)
        if choice == "refuse":
            before, after = difference.texts()
            refused.append(f"{difference.title} was {before} and is {after}")
    if refused:
        raise Incompatible(
            f"is of a run that differs where you chose that it must not: {'; '.join(refused)}.",
            checkpoint=checkpoint,
            good="Nothing was changed, neither in memory nor on disk.",
            remedy="Make it as it was, or choose 'new' in on_resume.",
        )
    return tuple(found)


def kept(saved: Mapping[str, Any], now: Mapping[str, Any], found: Sequence[Difference]) -> dict[str, Any]:
    """The fingerprint of the run that goes on: what was restored is what the next process compares with."""
    return {**now, **{d.name: saved[d.name] for d in found if d.taken == "restore"}}


def told(name: str, saved: Any, now: Any) -> tuple[str, str]:
    """Two values for people; of long ones only what differs."""
    if name == "lr":
        return _rates(saved), _rates(now)
    if name == "git":
        return str(saved)[:8], str(now)[:8]
    if name in ("optimizer", "scheduler"):
        return _owners(saved, now)
    return _text(saved), _text(now)


def kinds(owners: Any) -> list[Any]:
    """The types of several optimizers or schedulers."""
    return [one.get("type") for one in owners]


def _owners(saved: Any, now: Any) -> tuple[str, str]:
    before, after = [], []
    for index in range(max(len(saved), len(now))):
        here = saved[index] if index < len(saved) else {"type": "none"}
        there = now[index] if index < len(now) else {"type": "none"}
        if here.get("type") != there.get("type"):
            before.append(str(here.get("type")))
            after.append(str(there.get("type")))
            continue
        flat, other = _flat(here), _flat(there)
        names = [n for n in {**flat, **other} if not _same(flat.get(n), other.get(n))]
        if names:
            before.append(f"{here['type']}({', '.join(f'{n}={_text(flat.get(n))}' for n in names)})")
            after.append(f"{there['type']}({', '.join(f'{n}={_text(other.get(n))}' for n in names)})")
    return ", ".join(before), ", ".join(after)


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings with dotted names; the places of single groups and what merely holds settings are left out."""
    if isinstance(value, Mapping):
        found: dict[str, Any] = {}
        for name, one in value.items():
            found.update(_flat(one, prefix if name in ("settings", "groups") else f"{prefix}.{name}".strip(".")))
        return found
    if isinstance(value, list) and value and all(isinstance(one, Mapping) for one in value):
        found = {}
        for index, one in enumerate(value):
            found.update(_flat(one, prefix if len(value) == 1 else f"{prefix}.{index}".strip(".")))
        return found
    return {prefix: value}


def _rates(rates: Any) -> str:
    each = [rate for one in rates for rate in one]
    return _text(each[0]) if each and all(_same(rate, each[0]) for rate in each) else ", ".join(map(_text, each))


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _same(a: Any, b: Any) -> bool:
    """Equal, whichever of two kinds of sequence and of number a file has made of it; NaN is itself."""
    return a == b or repr(_listed(a)) == repr(_listed(b))


def _listed(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _listed(value[name]) for name in sorted(value)}
    return [_listed(one) for one in value] if isinstance(value, (list, tuple)) else value
