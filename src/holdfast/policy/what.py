"""Decide what of the state goes into a checkpoint. Knows names of parts and key paths, never the tensors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal, get_args

from holdfast.errors import ConfigError

Mode = Literal["full", "weights only", "trainable only"]

_PARTS_OF_WEIGHTS = ("model", "progress")


@dataclass(frozen=True)
class What:
    """What of the state is saved. Start from ``full``, ``weights_only`` or ``trainable_only``.

    Patterns are matched, with case, against the whole dotted key path of a tensor, such as
    ``model.backbone.0.weight``: ``*`` is any text, dots included, ``?`` one character, ``[ab]`` one of a set.

    Args:
        mode: ``full`` saves every part; ``weights only`` the model and the progress; ``trainable only`` the
            progress and, of the model, the tensors that are trained.
        include: Patterns, one of which must match; none means that everything is included.
        exclude: Patterns, none of which may match; they win over ``include``.

    Raises:
        ConfigError: The mode is unknown, or a pattern is empty or not a string.
    """

    mode: Mode = "full"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        problems = []
        if self.mode not in get_args(Mode):
            problems.append(f"mode= is one of {', '.join(map(repr, get_args(Mode)))}, not {self.mode!r}")
        problems += _pattern_problems("include", self.include)
        problems += _pattern_problems("exclude", self.exclude)
        if problems:
            raise ConfigError(f"What: {'; '.join(problems)}.")

    def including(self, *patterns: str) -> What:
        """The same, with ``patterns`` added to those of which one must match.

        Raises:
            ConfigError: A pattern is empty or not a string.
        """
        return replace(self, include=self.include + patterns)

    def excluding(self, *patterns: str) -> What:
        """The same, with ``patterns`` added to those of which none may match.

        Raises:
            ConfigError: A pattern is empty or not a string.
        """
        return replace(self, exclude=self.exclude + patterns)

    def wants_part(self, part: str) -> bool:
        """Whether anything of this part is saved. The mode alone decides: patterns are for tensors."""
        return self.mode == "full" or part in _PARTS_OF_WEIGHTS

    def wants(self, path: str, *, trainable: bool) -> bool:
        """Whether one tensor is saved.

        Args:
            path: Its dotted key path, which begins with the name of its part.
            trainable: Whether training changes it; False for frozen parameters, True for buffers.
        """
        if not self.wants_part(path.partition(".")[0]):
            return False
        if self.mode == "trainable only" and not trainable:
            return False
        if self.include and not _any_matches(self.include, path):
            return False
        return not _any_matches(self.exclude, path)

    def __str__(self) -> str:
        limits = [f"only {', '.join(self.include)}"] if self.include else []
        limits += [f"without {', '.join(self.exclude)}"] if self.exclude else []
        return f"{self.mode} ({'; '.join(limits)})" if limits else self.mode


def _any_matches(patterns: tuple[str, ...], path: str) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def _pattern_problems(name: str, patterns: object) -> list[str]:
    if not isinstance(patterns, tuple):
        return [f"{name}= is a tuple of patterns, not {patterns!r}"]
    return [
        f"{name}= holds {pattern!r}; a pattern is text such as 'model.backbone.*'"
        for pattern in patterns
        if not isinstance(pattern, str) or not pattern
    ]


full = What("full")
weights_only = What("weights only")
trainable_only = What("trainable only")
