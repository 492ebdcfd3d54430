"""What the rules of a run say of its checkpoints: which is best, and what was promised to be kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from holdfast.catalog.folder import Listing
from holdfast.errors import ConfigError, NotFound
from holdfast.policy.values import Record
from holdfast.policy.which import Which


def best_of(listing: Listing, which: Which, root: str) -> Record:
    """The best of the newest run, by the first ranking rule of ``which``, or else of the run's own rules.

    Raises:
        NotFound: There is no checkpoint, no rule that ranks, or no score to rank by.
    """
    run = listing.newest_run()
    if run is None:
        raise NotFound("does not exist: the folder holds no checkpoint.", checkpoint=f"{root}/best")
    ranking = next((rules for rules in (which, *_own_rules(listing, run)) if rules.ranks()), None)
    if ranking is None:
        raise NotFound(
            "does not exist: no rule of this run ranks its checkpoints.",
            checkpoint=f"{root}/best",
            remedy="Say by what: which=best(1, METRIC).",
        )
    found = ranking.best_of([r for r in listing.of_run(run) if ranking.metrics[0] in r.scores and r.healthy])
    if found is None or ranking.metrics[0] not in found.scores:
        scored = sorted({name for r in listing.of_run(run) for name in r.scores})
        raise NotFound(
            f"does not exist: no checkpoint has a score for '{ranking.metrics[0]}'.",
            checkpoint=f"{root}/best",
            remedy=f"Their scores are for: {', '.join(scored) or 'nothing'}.",
        )
    return found


def promised(listing: Listing, run: str) -> dict[str, str]:
    """Checkpoints of a run that the rules they were saved under promised to keep for good: id to reason."""
    kept: dict[str, str] = {}
    own = listing.of_run(run)
    for record in own:
        said = listing.saved_under.get(record.id, {})
        for policy, rules in said.items():
            with suppress(ConfigError):  # rules of a later version
                alike = [r for r in own if policy in r.policies and listing.saved_under.get(r.id) == said]
                kept.update(Which.from_json(rules).for_good().keep(alike))
    return kept


def ranked_before(listing: Listing, run: str) -> set[str]:
    """Ids of a run's checkpoints that have a score by which the rules ranked that they were saved under."""
    ranked = set()
    for record in listing.of_run(run):
        for rules in listing.saved_under.get(record.id, {}).values():
            with suppress(ConfigError):  # rules of a later version
                if not record.scores.keys().isdisjoint(Which.from_json(rules).metrics):
                    ranked.add(record.id)
    return ranked


def _own_rules(listing: Listing, run: str) -> Iterator[Which]:
    """The rules by which a run said that it keeps; not those that only a later version understands."""
    for rules in listing.rules.get(run, {}).values():
        with suppress(ConfigError):
            yield Which.from_json(rules)
