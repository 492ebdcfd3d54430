"""What a run will have saved once the save that is being captured is durable. Pure: looks at no disk."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from holdfast.policy.plan import Plan
from holdfast.policy.values import Moment, Record


def expected(own: Iterable[Record], decided: Plan, moment: Moment, *, run: str, sequence: int) -> list[Record]:
    """The checkpoints of a run, oldest first, after a plan.

    Args:
        own: Those there are, oldest first.
        decided: The plan.
        moment: The step that it saves.
        run: The run's id.
        sequence: The place of its newest save.
    """
    amends = {amend.id: amend for amend in decided.amends}
    moved = {name for save in decided.saves for name in save.moves}
    moved |= {name for amend in decided.amends for name in amend.moves}
    found = []
    for record in own:
        if record.id in decided.evict:
            continue
        amend = amends.get(record.id)
        names = tuple(name for name in record.names if name not in moved and name not in decided.drops)
        if amend is not None:
            record = replace(
                record,
                policies=tuple(dict.fromkeys((*record.policies, *amend.policies))),
                scores={**record.scores, **amend.scores},
            )
            names = (*names, *amend.names)
        found.append(replace(record, names=names or record.names))
    for place, save in enumerate(decided.saves, start=1):
        found.append(
            Record(
                id=f"expected {place}",
                names=save.names,
                run=run,
                sequence=sequence + place,
                progress=moment.progress,
                scores={**moment.scores(), **save.scores},
                policies=save.policies,
                reason=save.reason,
                label=save.label,
                run_ordinal=found[-1].run_ordinal if found else 0,
                what=str(save.what),
            )
        )
    return found
