"""All ranks write, or the checkpoint does not exist: two phases over a mailbox, no collective, every wait bounded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from holdfast.engine.group import Group
from holdfast.errors import HoldfastError, RankError


def commit(
    group: Group,
    key: str,
    *,
    write: Callable[[], Any],
    publish: Callable[[Mapping[int, Any]], dict[str, Any]],
    deadline: float,
    spent: list[str],
) -> dict[str, Any]:
    """Write on every rank, then publish on rank 0. Runs on the writer thread of each rank.

    Args:
        group: The ranks.
        key: Tells this save from all others; the same on every rank.
        write: This rank's part. What it raises makes the save fail on all ranks, with that error; what it returns,
            plain, reaches rank 0.
        publish: Rank 0's commit, given what each rank's ``write`` returned; its plain result reaches every rank.
        deadline: Seconds that a rank waits for the others.
        spent: Keys of earlier saves whose posts still lie in the mailbox. Rank 0 clears them here, and leaves
            this one's key for the next call.

    Returns:
        What ``publish`` returned on rank 0.

    Raises:
        RankError: Another rank failed or did not answer within the deadline; its own words are in the sentence.
    """
    failure: Exception | None = None
    told: Any = None
    try:
        told = write()
    except Exception as error:  # any failure at all must reach the other ranks before it is raised here
        failure = _cause(group, key, error)
    group.mailbox.post(f"{key}/written", {"error": words(failure), "told": told})
    if group.rank != 0:
        if failure is not None:
            raise failure
        (answer,) = group.mailbox.collect(f"{key}/outcome", ranks=[0], deadline=2 * deadline, phase="commit").values()
        if answer["error"] is not None:
            raise RankError(answer["error"], rank=0, phase="commit")
        result: dict[str, Any] = answer["result"]
        return result
    try:
        if failure is not None:
            raise failure
        answers = group.mailbox.collect(f"{key}/written", deadline=deadline, phase="write")
        _clear(group, spent)
        for rank, answer in answers.items():
            if answer["error"] is not None:
                raise RankError(answer["error"], rank=rank, phase="write")
        result = publish({rank: answer["told"] for rank, answer in answers.items()})
    except Exception as error:
        group.mailbox.post(f"{key}/outcome", {"error": words(error), "result": None})
        raise
    finally:
        spent.append(key)
    group.mailbox.post(f"{key}/outcome", {"error": None, "result": result})
    return result


def withdraw(group: Group, key: str, error: Exception, spent: list[str]) -> None:
    """In place of ``commit``: say that this rank takes no part in a save, so that no other waits for it."""
    group.mailbox.post(f"{key}/written", {"error": words(error)})
    if group.rank == 0:
        group.mailbox.post(f"{key}/outcome", {"error": words(error), "result": None})
        spent.append(key)


def words(error: Exception | None) -> str | None:
    """What went wrong on this rank, as the others are to read it; None where nothing did."""
    if error is None:
        return None
    return str(error) if isinstance(error, HoldfastError) else f"{type(error).__name__}: {error}"


def what_and_remedy(error: Exception) -> tuple[str, str]:
    """What went wrong, and what to do now, as an error that is raised from this one says it."""
    if isinstance(error, HoldfastError):
        return error.what, error.remedy
    return f"{type(error).__name__}: {error}", ""


def _cause(group: Group, key: str, error: Exception) -> Exception:
    """Why this rank's part failed: another's may have before, and taken what both write to away. Waits for nobody."""
    for rank in range(group.size):
        with suppress(RankError):  # it has not said anything yet
            answer = group.mailbox.collect(f"{key}/written", ranks=[rank], deadline=0.0)[rank]
            if answer["error"] is not None:
                cause = RankError(answer["error"], rank=rank, phase="write")
                cause.__cause__ = error
                return cause
    return error


def _clear(group: Group, spent: list[str]) -> None:
    """All ranks have come to a later save, so nobody reads the posts of these any more."""
    for key in spent:
        group.mailbox.clear(f"{key}/written")
        group.mailbox.clear(f"{key}/outcome")
    spent.clear()
