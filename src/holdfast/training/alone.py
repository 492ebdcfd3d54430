"""Save one checkpoint that is a folder by its path, outside any rules: every rank its part, before training goes on."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from holdfast.catalog import directories
from holdfast.catalog.manifest import RunRef
from holdfast.engine.commit import commit, withdraw
from holdfast.engine.group import Group
from holdfast.engine.job import Captured
from holdfast.engine.sharded import prepare
from holdfast.errors import HoldfastError, SaveFailed
from holdfast.policy.values import Event, Moment, Progress, Score
from holdfast.policy.what import What
from holdfast.store import LocalStore

_DEADLINE = 600.0


def save_folder(
    captured: Captured,
    what: What,
    progress: Progress,
    metrics: Mapping[str, Score],
    path: Path,
    *,
    identity: tuple[RunRef, int] | None,
    group: Group,
    memory: int | None = None,
) -> None:
    """Write one folder, durably, and nothing beside it. Every rank calls it.

    Args:
        captured: The state, of which each rank has a part.
        what: What of it.
        progress: The counters.
        metrics: The metrics now.
        path: The folder; rank 0's counts.
        identity: The run and the place among its saves; None for a run of its own.
        group: The ranks.
        memory: Bytes of buffers that it may take; None for the default.

    Raises:
        SaveFailed: It was not saved, here or on another rank; what stood there stands.
    """
    path = path.expanduser().absolute()
    run, sequence = identity or (RunRef(secrets.token_hex(16)), 1)
    told = {"path": str(path), "run": vars(run), "sequence": sequence, "token": secrets.token_hex(8)}
    told = group.broadcast(told, phase="save_checkpoint()")
    path, run, key = Path(told["path"]), RunRef(**told["run"]), f"save_checkpoint/{told['token']}"
    store = LocalStore(path.parent)
    drafts: list[Any] = []
    try:
        try:
            job = prepare(
                captured, what, Moment(frozenset({Event.MANUAL}), progress, metrics), rank=group.rank,
                ordinal=told["token"], run=run, sequence=told["sequence"], tallies={}, reason="by hand",
            )  # fmt: skip
        except Exception as error:  # whatever it is, no rank is to wait for this one
            withdraw(group, key, error, [])
            raise

        def publish(written: Mapping[int, Any]) -> dict[str, Any]:
            job.complete(written)
            drafts[0].publish(path.name, replace=False)
            return {}

        commit(
            group,
            key,
            write=lambda: job.write(store, path.name, drafts, memory=memory),
            publish=publish,
            deadline=_DEADLINE,
            spent=[],
        )
    except HoldfastError as error:
        for draft in drafts:
            draft.discard()
        taken = directories.is_own_name(store, path.name) or store.stat(path.name) is not None
        raise SaveFailed(
            f"was not saved: {error.what}",
            checkpoint=str(path),
            rank=group.rank if group.size > 1 else None,
            good="What stood there stands." if taken else "",
            remedy=error.remedy or ("Give a name that is free: a folder takes no other's place." if taken else ""),
        ) from error
    group.barrier(phase="save_checkpoint()")
    if group.rank == 0:
        for phase in ("written", "outcome"):
            group.mailbox.clear(f"{key}/{phase}")
