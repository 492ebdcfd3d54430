"""What the policies of checkpoint callbacks are called: a name each in all folders of a run, in the next run too."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from typing import Any

from holdfast.callbacks.model_checkpoint import ModelCheckpoint

Rules = Mapping[str, list[Any]]


def names_of(callbacks: Sequence[tuple[ModelCheckpoint, str]], before: Callable[[str], Rules]) -> list[str]:
    """A name for each callback.

    Of several alike, who has the rules of before has the name of before, in whatever order; then who finds one in its
    folder. So one callback more or less, in this folder or another, takes nobody's checkpoints away.

    Args:
        callbacks: All of a run, each with its folder.
        before: What the newest run of a folder kept, by policy.
    """
    alike: dict[str, list[int]] = {}
    for number, (callback, _) in enumerate(callbacks):
        alike.setdefault(_kind(callback), []).append(number)
    named: dict[int, str] = {}
    for kind, those in alike.items():
        known = {root: _of_kind(kind, before(root)) for root in dict.fromkeys(callbacks[i][1] for i in those)}
        given: set[str] = set()
        for same in (True, False):
            for i in (i for i in those if i not in named):
                callback, root = callbacks[i]
                rules = callback.which().to_json()
                free = (n for n, of in known[root].items() if n not in given and (not same or of == rules))
                if (own := next(free, None)) is not None:
                    named[i] = own
                    given.add(own)
        free = (name for name in _numbered(kind) if name not in given)
        named.update((i, next(free)) for i in those if i not in named)
    return [named[i] for i in range(len(callbacks))]


def _kind(callback: ModelCheckpoint) -> str:
    return " ".join(filter(None, (type(callback).__name__, callback.monitor)))


def _of_kind(kind: str, rules: Rules) -> Rules:
    """Those of a kind, by their number."""
    numbers = {name: 1 if name == kind else name.removeprefix(f"{kind} ") for name in rules}
    own = {name: int(number) for name, number in numbers.items() if str(number).isascii() and str(number).isdigit()}
    return {name: rules[name] for name in sorted(own, key=lambda name: own[name])}


def _numbered(kind: str) -> Iterator[str]:
    yield kind
    yield from (f"{kind} {number}" for number in count(2))
