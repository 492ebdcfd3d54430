"""The errors of Holdfast. Each says what happened, to what, what is still good, and what to do now.

HoldfastError
├── ConfigError          what was asked for contradicts itself or cannot work (also a ValueError)
├── CheckpointError      one checkpoint
│   ├── NotFound         there is none by that name (also a FileNotFoundError)
│   ├── Corrupt          its bytes are not the bytes that were saved
│   ├── Unreadable       its bytes are not to be had, so that nobody knows whether it is whole (also an OSError)
│   ├── Foreign          not written by Holdfast, and not readable as what was asked for
│   ├── Incompatible     it is whole, but does not fit the model, optimizer or object it is loaded into
│   └── SaveFailed       it was not published; what stood before still stands
├── StoreError           one operation on one path of a store (also an OSError)
└── RankError            one rank of a group did not do its part
"""

from __future__ import annotations


class HoldfastError(Exception):
    """The root of the tree: ``except HoldfastError`` catches whatever Holdfast raises on purpose.

    Args:
        what: What happened, and to what. One sentence.
        good: What is still good on disk; empty where nothing on disk is concerned.
        remedy: What to do now; empty where ``what`` says it already.
    """

    def __init__(self, what: str, *, good: str = "", remedy: str = "") -> None:
        super().__init__(" ".join(part for part in (what, good, remedy) if part))
        self.what = what
        self.good = good
        self.remedy = remedy

    def advise(self, remedy: str) -> None:
        """Say more of what to do now: who calls may know what else there is."""
        self.remedy = f"{self.remedy} {remedy}".lstrip()
        self.args = (" ".join(part for part in (self.what, self.good, self.remedy) if part),)


class ConfigError(HoldfastError, ValueError):
    """A combination of arguments that contradicts itself or cannot work; raised before anything is touched."""


class CheckpointError(HoldfastError):
    """Something is wrong with one checkpoint.

    Args:
        what: What happened; also kept alone, as ``happened``. The checkpoint's name and the rank are put before it.
        checkpoint: The name of the checkpoint as the user knows it: a path, or a name within its folder.
        rank: The rank that saw it; None where there is only one.
        good: What is still good on disk.
        remedy: What to do now.
    """

    def __init__(
        self, what: str, *, checkpoint: str, rank: int | None = None, good: str = "", remedy: str = ""
    ) -> None:
        on_rank = "" if rank is None else f" (rank {rank})"
        super().__init__(f"checkpoint '{checkpoint}'{on_rank} {what}", good=good, remedy=remedy)
        self.happened = what
        self.checkpoint = checkpoint
        self.rank = rank


class NotFound(CheckpointError, FileNotFoundError):
    """There is no checkpoint by that name, or none at all."""


class Corrupt(CheckpointError):
    """The bytes are not those that were saved: truncated, flipped, overwritten or made to deceive."""


class Unreadable(CheckpointError, OSError):
    """The bytes could not be read: permissions or a disk are in the way. It may be whole."""


class Foreign(CheckpointError):
    """A file that Holdfast did not write, asked for something that only our own files can give."""


class Incompatible(CheckpointError):
    """A whole and verified checkpoint that does not fit the objects it is to be loaded into."""


class SaveFailed(CheckpointError):
    """A save that did not end in a published checkpoint."""


class StoreError(HoldfastError, OSError):
    """One operation of a store failed; the operating system's error is its ``__cause__``.

    Args:
        operation: The verb of the store that failed, such as ``write`` or ``publish``.
        path: What it was done to.
        error: The operating system's own error; its ``errno`` is carried over.
        remedy: What to do now.
    """

    def __init__(self, operation: str, path: str, error: OSError, *, remedy: str = "") -> None:
        reason = error.strerror or str(error) or type(error).__name__
        super().__init__(f"cannot {operation} '{path}': {reason}.", remedy=remedy)
        self.operation = operation
        self.path = path
        self.errno = error.errno


class RankError(HoldfastError):
    """A rank failed, or did not answer within its deadline.

    Args:
        what: What happened.
        rank: The rank concerned.
        phase: What all ranks were doing, such as ``plan`` or ``commit``.
        good: What is still good on disk.
        remedy: What to do now.
    """

    def __init__(self, what: str, *, rank: int, phase: str, good: str = "", remedy: str = "") -> None:
        super().__init__(f"rank {rank}, {phase}: {what}", good=good, remedy=remedy)
        self.rank = rank
        self.phase = phase
