"""A pickle with something of everything that a checkpoint's pickle may hold, for tests to cut and change."""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import Any

import torch

from holdfast.engine import pickling, unpickling
from holdfast.engine.statetree import take_apart
from holdfast.engine.unpickling import PickleError


def dumped(state: Any) -> tuple[Any, bytes]:
    """The tree of a state, and the pickle of it."""
    tree = take_apart(state)
    return tree.root, pickling.dumps(tree.root, lambda key: tree.storages[key].nbytes())


def readable(raw: bytes) -> bool:
    """Whether our reader makes a value of it; anything but a value or a PickleError fails the test."""
    try:
        unpickling.loads(raw)
    except PickleError:
        return False
    return True


MODEL = OrderedDict(w=torch.ones(3, 4), b=torch.zeros(2, dtype=torch.uint16))
MODEL._metadata = OrderedDict({"": {"version": 1}})
WORDS = [f"w{n}" for n in range(200)]
SAMPLE = dumped(
    {
        "state_dict": MODEL,
        "plain": [None, True, False, 1, 300, 70_000, 2**40, 2**100, 1.5, "text", b"bytes", (), (1,), (1, 2), (1, 2, 3)],
        "more": [{1, "a"}, Counter("ab"), 1 + 2j, torch.Size([1]), torch.device("cuda:1"), torch.float16, (1,) * 4],
        "few": [["one"], {"key": "value"}],
        "many": WORDS,
        "again": WORDS[-1:],
    }
)[1]
