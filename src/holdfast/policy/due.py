"""Who of the policies saves at a step, and who is armed: waits for the score that its rules rank by. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from holdfast.policy.values import Event, Moment, Request, Tally
from holdfast.policy.which import nothing

if TYPE_CHECKING:
    from holdfast.policy.plan import Policy


def due_at(
    moment: Moment, policies: Sequence[Policy], tallies: Mapping[str, Tally]
) -> tuple[dict[str, str], dict[str, Tally]]:
    """Who saves now and why, and what each remembers from now on.

    Args:
        moment: The step.
        policies: All that are registered.
        tallies: What each remembers.
    """
    remembered: dict[str, Tally] = {}
    due: dict[str, str] = {}
    scores = moment.scores()
    validated = Event.VALIDATION_END in moment.events
    # A clock is a trigger like any other; a signal or an error does not wait for a score.
    timed = [r for r in moment.requests if r.event is Event.BATCH_END]
    requests = [r for r in moment.requests if r.event not in (Event.MANUAL, Event.BATCH_END)]
    for policy in policies:
        tally = tallies.get(policy.name, Tally())
        asked = _asked(requests, policy)
        fires = policy.when.due(moment.events, moment.progress, tally) or _asked(timed, policy)
        reason = fires or (tally.armed if validated else None)
        if validated:
            tally = replace(tally, armed=None)
        elif fires and policy.which.ranks() and not any(m in scores for m in policy.which.metrics):
            tally = replace(tally, armed=fires)
            if policy.which.without_score() == nothing():
                reason = None
        remembered[policy.name] = replace(tally, fired=moment.progress) if fires else tally
        if why := asked or reason:
            due[policy.name] = why
    if moment.validation_follows and not requests and any(tally.armed for tally in remembered.values()):
        # One save serves the whole step: all wait for the validation that runs at this very step.
        remembered.update({name: replace(remembered[name], armed=why) for name, why in due.items()})
        return {}, remembered
    return due, remembered


def _asked(requests: Sequence[Request], policy: Policy) -> str | None:
    return next((r.reason for r in requests if r.policy in (None, policy.name)), None)
