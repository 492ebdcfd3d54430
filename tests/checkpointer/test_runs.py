"""Runs: what goes on, what begins, what is left alone, when processes, folders and rules come and go."""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager

import pytest
import torch

from checkpointer.loop import Gone, facts, kept, listing
from holdfast import Checkpointer, ConfigError, SaveFailed, best, every, everything, last, never
from holdfast.catalog import publish
from holdfast.catalog.folder import Folder
from holdfast.catalog.ledger import LEDGER
from holdfast.catalog.manifest import RunRef
from holdfast.catalog.runs import begin, is_alive
from holdfast.catalog.verify import Verdict
from holdfast.store import LocalStore


def go(folder, steps, source="auto", *, scores=None, gone=False, **rules):
    """Train a bare model up to ``steps``, with a validation at each step that has a score."""
    rules = {"when": every(steps=1), "which": everything(), **rules}
    model = torch.nn.Linear(2, 1)
    try:
        with Checkpointer(folder, **rules) as ckpt:
            start = ckpt.resume(source, model=model)
            for step in range(start.steps + 1, steps + 1):
                ckpt.step()
                if scores and step in scores:
                    ckpt.validated({"val_loss": scores[step]})
            if gone:
                raise Gone
    except Gone:
        pass
    return model


def contents(folder):
    """Every checkpoint file by name, with the inode and the bytes that it has."""
    return {path.name: (path.stat().st_ino, path.read_bytes()) for path in folder.glob("*.ckpt")}


def runs(folder):
    """The runs that began or went on there, as the ledger tells."""
    return [fact["run"] for fact in facts(folder, "run")]


def test_resuming_in_the_same_folder_continues_the_run(tmp_path):
    """The same id, the next attempt, the next place among its saves; rules go on over the checkpoints of both."""
    go(tmp_path, 3, gone=True, which=last(3))
    go(tmp_path, 5, gone=True, which=last(3))
    go(tmp_path, 6, which=last(3))
    first, second, third = runs(tmp_path)
    assert [run["attempt"] for run in (first, second, third)] == [1, 2, 3]
    assert first["id"] == second["id"] == third["id"]
    assert first["parent"] is None
    found = listing(tmp_path)
    assert [(r.sequence, r.progress.steps) for r in found.records] == [(4, 4), (5, 5), (6, 6)]
    assert [fact["name"] for fact in facts(tmp_path, "resumed")] == ["epoch=0-step=3.ckpt", "epoch=0-step=5.ckpt"]
    assert found.ended == {first["id"]}


def test_a_fresh_run_in_the_same_folder_leaves_the_old_ones_alone(tmp_path):
    """Names that are taken get a version; nothing of the old run is ranked, evicted, overwritten or resumed."""
    go(tmp_path, 3, which=best(2, "val_loss"), scores={1: 0.1, 2: 0.2}, when=every(steps=1))
    before = contents(tmp_path)
    old = listing(tmp_path)
    assert [r.names for r in old.records][-1] == ("last.ckpt",)
    go(tmp_path, 4, "fresh", which=best(1, "val_loss"), scores={1: 0.9, 2: 0.8, 3: 0.7, 4: 0.6})
    first, second = runs(tmp_path)
    assert second["id"] != first["id"]
    assert (second["parent"], second["attempt"], second["ordinal"]) == (None, 1, 2)
    found = listing(tmp_path)
    assert [r.id for r in found.of_run(first["id"])] == [r.id for r in old.records]
    # What had no name but the alias got one of its own before the alias moved.
    assert [r.names for r in found.of_run(first["id"])][-1] == ("epoch=0-step=3.ckpt",)
    assert [r.names for r in found.of_run(second["id"])] == [("epoch=0-step=4.ckpt", "last.ckpt")]
    after = contents(tmp_path)
    assert all(after[name] == before[name] for name in before if name != "last.ckpt")
    assert after["epoch=0-step=3.ckpt"] == before["last.ckpt"]
    with Checkpointer(tmp_path, when=never(), which=best(1, "val_loss")) as ckpt:
        assert ckpt.load("best") is not None
        assert ckpt.resume(model=torch.nn.Linear(2, 1)).steps == 4
    assert runs(tmp_path)[-1]["id"] == second["id"]


def save_every_step(folder, seed, steps):
    """In a process of its own: a run with its own scores, beside another in the same folder."""
    scores = torch.rand(steps, generator=torch.Generator().manual_seed(seed)).tolist()
    with Checkpointer(folder, when=every(steps=1), which=best(2, "val_loss") | last(2)) as ckpt:
        print("ready", flush=True)
        assert input() == "go"
        ckpt.resume("fresh", model=torch.nn.Linear(2, 1))
        for score in scores:
            ckpt.step(metrics={"val_loss": score})
    print(json.dumps(scores), flush=True)


def test_two_live_processes_share_a_folder_without_harm(forks, tmp_path):
    """Both save at every step under the same names: each keeps what its own rules keep, and all of it is whole."""
    target, steps = "checkpointer.test_runs:save_every_step", 40
    with forks.start(target, str(tmp_path), 1, steps) as one, forks.start(target, str(tmp_path), 2, steps) as two:
        for child in (one, two):
            assert child.stdout.readline() == "ready\n"
        for child in (one, two):
            child.stdin.write("go\n")
        scores = [json.loads(child.stdout.readline()) for child in (one, two)]
        assert [child.wait() for child in (one, two)] == [0, 0]
    found = listing(tmp_path)
    assert found.strangers == found.leftovers == ()
    assert sorted(run.ordinal for run in found.runs.values()) == [1, 2]
    wanted = []
    for of_one in scores:
        top = sorted(range(steps), key=lambda i: of_one[i])[:2]
        wanted.append(sorted({i + 1 for i in top} | {steps - 1, steps}))
    assert sorted(sorted(r.progress.steps for r in found.of_run(run)) for run in found.runs) == sorted(wanted)
    assert found.by_name("last.ckpt").progress.steps == steps
    assert all(any(name != "last.ckpt" for name in r.names) for r in found.records)


def go_on(folder):
    """In a process of its own: one more step of what is newest in a folder."""
    with Checkpointer(folder, when=every(steps=1), which=everything()) as ckpt:
        ckpt.resume("auto", model=torch.nn.Linear(2, 1))
        ckpt.step()


@contextmanager
def running(folder):
    """A run with one step on disk, and the file of its lease."""
    with Checkpointer(folder, when=never(), which=last(1)) as ckpt:
        ckpt.resume("fresh", model=torch.nn.Linear(2, 1))
        ckpt.step()
        ckpt.save()
        (lease,) = (folder / ".holdfast").glob("*.lease")
        yield ckpt, lease


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_a_lease_that_is_lost_is_taken_again_and_said(forks, tmp_path, caplog, how):
    """Somebody tidies ``.holdfast/`` up: the run goes on, one warning says so, and who comes then is another run."""
    with running(tmp_path) as (ckpt, lease):
        if how == "replaced":
            lease.with_name("another").touch()
            lease.with_name("another").rename(lease)
        else:
            lease.unlink()
        for _ in range(2):
            ckpt.step()
            ckpt.save()
        with forks.start("checkpointer.test_runs:go_on", str(tmp_path)) as other:
            assert other.wait() == 0
    assert [r.message for r in caplog.records if r.message.startswith("the lease")] == [
        f"the lease of this run, '{lease}', was lost, and is taken again: nobody else had it"
    ]
    one, two = runs(tmp_path)
    assert two["id"] != one["id"]


def test_who_has_lost_the_run_to_another_process_saves_no_more_and_is_told(forks, tmp_path):
    """While its lease was lost another went on with it: nothing of what both have saved is touched."""
    with running(tmp_path) as (ckpt, lease):
        lease.unlink()
        with forks.start("checkpointer.test_runs:go_on", str(tmp_path)) as other:
            assert other.wait() == 0
        before = contents(tmp_path)
        ckpt.step()
        with pytest.raises(SaveFailed, match=r"another process has gone on with this run \(attempt 2\)"):
            ckpt.save()
        assert contents(tmp_path) == before
    found = listing(tmp_path)
    assert [r.progress.steps for r in found.records] == [1, 2]
    assert found.leftovers == ()


class Looked(LocalStore):
    """A store of which somebody looks whether a run is alive, just when its lease is asked for."""

    looked = False

    def lock(self, name):
        if self.looked or not name.endswith(".lease"):
            return super().lock(name)
        self.looked = True
        looker = super().lock(name)
        try:
            return super().lock(name)
        finally:
            looker.release()


def test_who_looks_whether_a_run_is_alive_keeps_nobody_from_going_on_with_it(tmp_path):
    """Nor does another who looks take it for alive."""
    go(tmp_path, 1, gone=True)
    (source,) = listing(tmp_path).records
    assert not is_alive(Folder(Looked(tmp_path)), source.run)
    run = begin(Folder(Looked(tmp_path)), source=source)
    assert (run.ref.id, run.ref.attempt) == (source.run, 2)
    run.lease.release()


def test_a_run_that_begins_in_another_folder_is_itself_where_it_has_had_more_attempts(tmp_path):
    """Attempts are counted where a run goes on from: here it has had two, and goes on as its first of elsewhere."""
    for steps in (1, 2):
        go(tmp_path, steps)
    folder = Folder(LocalStore(tmp_path))
    run = begin(folder, lineage=RunRef(runs(tmp_path)[0]["id"], attempt=1))
    with folder.exclusive():
        run.keep(folder)
    run.end(folder, clean=True)
    assert [one["attempt"] for one in runs(tmp_path)] == [1, 2, 1]


def test_a_moved_folder_is_the_same_run(tmp_path):
    """Moved or copied, it goes on: same id, next attempt, same records; of a copied one the original is untouched."""
    go(tmp_path / "a", 3, which=best(1, "val_loss") | last(1), scores={1: 0.1, 2: 0.2, 3: 0.3})
    before = [(r.id, r.names, r.scores) for r in listing(tmp_path / "a").records]
    (tmp_path / "a").rename(tmp_path / "b")
    shutil.copytree(tmp_path / "b", tmp_path / "c")
    for place, attempt in (("b", 2), ("c", 2)):
        folder = tmp_path / place
        assert [(r.id, r.names, r.scores) for r in listing(folder).records] == before
        untouched = contents(tmp_path / "b")
        go(folder, 4, which=best(1, "val_loss") | last(1), scores={4: 0.4})
        assert [run["id"] for run in runs(folder)] == [runs(folder)[0]["id"]] * 2
        assert runs(folder)[-1]["attempt"] == attempt
        assert [r.progress.steps for r in listing(folder).records] == [1, 3, 4]
        if place == "c":
            assert contents(tmp_path / "b") == untouched


def test_a_changed_policy_sees_the_same_records(tmp_path):
    """Fewer to keep, another trigger: the best so far is remembered, and a worse one does not take its place."""
    scores = {1: 0.5, 2: 0.1, 3: 0.4}
    go(tmp_path, 3, which=best(2, "val_loss"), scores=scores)
    assert [r.progress.steps for r in listing(tmp_path).records] == [2, 3]
    go(tmp_path, 6, which=best(1, "val_loss"), when=every(steps=3), scores={6: 0.3})
    assert [(r.progress.steps, r.names) for r in listing(tmp_path).records] == [
        (2, ("epoch=0-step=2.ckpt",)),
        (3, ("epoch=0-step=3.ckpt",)),  # the one resumed from
        (6, ("last.ckpt",)),
    ]
    go(tmp_path, 12, which=best(1, "val_loss"), when=every(steps=3), scores={9: 0.05, 12: 0.2})
    assert [(r.progress.steps, r.names) for r in listing(tmp_path).records] == [
        (9, ("epoch=0-step=9.ckpt",)),
        (12, ("last.ckpt",)),
    ]


def test_rules_that_rank_by_something_new_let_nothing_go_until_it_is_measured(tmp_path):
    """A misspelt metric is found at the first validation, and twice misspelt as well: the best are there still."""
    go(tmp_path, 3, which=best(2, "val_loss") | last(1), scores={1: 0.1, 2: 0.2, 3: 0.3})
    before = {inode for inode, _ in contents(tmp_path).values()}
    for misspelt in ("val_los", "vall_loss"):
        with pytest.raises(ConfigError, match=misspelt):
            go(tmp_path, 9, "epoch=0-step=2.ckpt", which=best(2, misspelt) | last(1), scores={9: 0.4})
        assert before <= {inode for inode, _ in contents(tmp_path).values()}
    with Checkpointer(tmp_path, when=every(steps=1), which=best(1, "accuracy", "max") | last(1)) as ckpt:
        ckpt.resume(model=torch.nn.Linear(2, 1))
        ckpt.step()
        ckpt.validated({"accuracy": 0.5})
        for _ in range(3):
            ckpt.step()
    found = listing(tmp_path).records
    assert [r.scores for r in found] == [{"accuracy": 0.5}, {}], "and what is let go is not kept for ever"


def test_resuming_from_another_folder_starts_a_run_with_a_parent(tmp_path):
    """A new id with the checkpoint as parent; the other folder is only read, and is none of this run's business."""
    model = go(tmp_path / "a", 3)
    before, source = contents(tmp_path / "a"), listing(tmp_path / "a").records[1]
    ledger = (tmp_path / "a" / LEDGER).read_bytes()
    other = go(tmp_path / "b", 6, tmp_path / "a" / source.names[0], which=last(1))
    assert (contents(tmp_path / "a"), (tmp_path / "a" / LEDGER).read_bytes()) == (before, ledger)
    (run,) = runs(tmp_path / "b")
    assert (run["parent"], run["attempt"], run["ordinal"]) == (source.id, 1, 1)
    assert run["id"] != source.run
    assert kept(tmp_path / "b") == [("epoch=0-step=6.ckpt", "last.ckpt")]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    assert [fact["id"] for fact in facts(tmp_path / "b", "resumed")] == [source.id]


def test_a_file_of_somebody_else_at_last_gets_a_name_of_its_own(tmp_path):
    """A foreign `last.ckpt` is not overwritten: before the name moves, the file is linked under a free one."""
    tmp_path.joinpath("last-v1.ckpt").write_bytes(b"taken")
    torch.save({"weights": torch.ones(3)}, tmp_path / "last.ckpt")
    theirs = (tmp_path / "last.ckpt").read_bytes()
    go(tmp_path, 2)
    assert (tmp_path / "last-v2.ckpt").read_bytes() == theirs
    assert (tmp_path / "last-v1.ckpt").read_bytes() == b"taken"
    found = listing(tmp_path)
    assert found.by_name("last.ckpt").progress.steps == 2
    assert [(s.name, s.verdict) for s in found.strangers] == [
        ("last-v1.ckpt", Verdict.FOREIGN),
        ("last-v2.ckpt", Verdict.FOREIGN),
    ]


def test_the_only_name_of_another_lineage_is_not_taken_from_it(tmp_path):
    """Two runs that keep nothing but `last.ckpt`: each time one takes the name, the other gets one of its own."""
    only_last = {"which": best(1, "val_loss"), "when": every(steps=1)}
    go(tmp_path, 1, **only_last)
    old = contents(tmp_path)["last.ckpt"]
    with Checkpointer(tmp_path, **only_last) as one, Checkpointer(tmp_path, **only_last) as two:
        one.resume(model=torch.nn.Linear(2, 1))
        two.resume("fresh", model=torch.nn.Linear(2, 1))
        for _ in range(2):
            two.step()
            two.load("last")
            one.step()
            one.load("last")
            found = listing(tmp_path)
            assert {r.run for r in found.records} == set(found.runs)
    assert contents(tmp_path)["epoch=0-step=1.ckpt"] == old
    assert {r.progress.steps for r in listing(tmp_path).of_run(two_run(tmp_path))} == {2}


def two_run(folder):
    """The id of the run that began second."""
    return next(run["id"] for run in runs(folder) if run["ordinal"] == 2)


def test_the_checkpoint_resumed_from_stays_until_two_newer_ones_are_durable(tmp_path):
    """The rules keep one; the source goes only with the third save, when two others are on disk."""
    go(tmp_path, 3, which=last(1), gone=True)
    with Checkpointer(tmp_path, when=every(steps=1), which=last(1)) as ckpt:
        ckpt.resume(model=torch.nn.Linear(2, 1))
        seen = []
        for _ in range(4):
            ckpt.step()
            ckpt.load("last")
            seen.append([r.progress.steps for r in listing(tmp_path).records])
    assert seen == [[3, 4], [3, 5], [6], [7]]


def test_the_source_is_protected_where_it_has_no_name_but_last(tmp_path):
    """It gets a name of its own before `last.ckpt` moves on."""
    go(tmp_path, 3, which=best(1, "val_loss"), gone=True)
    assert kept(tmp_path) == [("last.ckpt",)]
    go(tmp_path, 4, which=best(1, "val_loss"), gone=True)
    assert kept(tmp_path) == [("epoch=0-step=3.ckpt",), ("last.ckpt",)]


def test_a_pinned_checkpoint_is_never_evicted(tmp_path):
    """The ledger's pin holds against every rule, until it is taken back."""
    go(tmp_path, 3, which=last(1), gone=True)
    folder = Folder(LocalStore(tmp_path))
    (record,) = folder.scan().records
    folder.ledger.write("pinned", id=record.id)
    go(tmp_path, 8, which=last(1), gone=True)
    assert [r.progress.steps for r in listing(tmp_path).records] == [3, 8]
    folder.ledger.write("unpinned", id=record.id)
    go(tmp_path, 12, which=last(1), gone=True)
    assert [r.progress.steps for r in listing(tmp_path).records] == [12]


def test_a_checkpoint_that_is_pinned_while_its_eviction_is_planned_stays(tmp_path):
    """Evictions are looked at once more when they come to be carried out."""
    go(tmp_path, 2, which=last(1), gone=True)
    go(tmp_path, 5, which=last(1), gone=True)
    (record,) = listing(tmp_path).records
    folder = Folder(LocalStore(tmp_path))
    folder.ledger.write("pinned", id=record.id)
    with folder.exclusive():
        assert publish.evict(folder, {record.id: "planned"}, record.run) == ()
    assert [r.id for r in listing(tmp_path).records] == [record.id]


def test_a_checkpoint_pinned_while_all_its_names_are_planned_away_gets_another(tmp_path, monkeypatch):
    """The later save of a step takes both names of the earlier one, which was pinned after the plan was made."""
    model, amend = torch.nn.Linear(2, 2), publish.amend
    with Checkpointer(tmp_path, when=every(steps=1) | every(epochs=1), which=last(3)) as ckpt:
        ckpt.resume(model=model)
        ckpt.step()
        ckpt.load()  # waits for the save
        (early,) = listing(tmp_path).records

        def pinned_first(folder, *args, **options):
            folder.ledger.write("pinned", id=early.id)
            return amend(folder, *args, **options)

        monkeypatch.setattr(publish, "amend", pinned_first)
        ckpt.epoch_end()
    assert [r.names for r in listing(tmp_path).records] == [
        ("epoch=0-step=1-v1.ckpt",),
        ("epoch=0-step=1.ckpt", "last.ckpt"),
    ]
    assert listing(tmp_path).records[0].id == early.id


@pytest.mark.parametrize("lost", [LEDGER, ".holdfast"])
def test_a_lost_ledger_loses_nothing_but_what_was_told_later(lost, tmp_path):
    """Records, order, runs, parents and attempts are in the checkpoints; the run goes on as it would have."""
    go(tmp_path / "origin", 1)
    folder = tmp_path / "a"
    rules = {"which": best(2, "val_loss") | last(2)}
    go(folder, 3, tmp_path / "origin" / "last.ckpt", scores={2: 0.5, 3: 0.3}, gone=True, **rules)
    go(folder, 5, scores={4: 0.4}, gone=True, **rules)
    before = listing(folder)
    (shutil.rmtree if (folder / lost).is_dir() else type(folder).unlink)(folder / lost)
    after = listing(folder)
    for kept_fields in ("id", "names", "run", "sequence", "progress", "parts", "reason", "run_ordinal"):
        assert [getattr(r, kept_fields) for r in after.records] == [getattr(r, kept_fields) for r in before.records]
    assert after.runs == before.runs
    go(folder, 6, gone=True, **rules)
    (run,) = runs(folder)
    (known,) = before.runs.values()
    assert (run["id"], run["parent"], run["attempt"]) == (known.id, known.parent, 3)
    assert listing(folder).records[-1].sequence == before.records[-1].sequence + 1


def test_a_second_process_resuming_while_the_first_lives_gets_a_run_of_its_own(forks, tmp_path):
    """The lease is taken: the second begins a new run, with the checkpoint that it came from as parent."""
    go(tmp_path, 2, gone=True)
    source = listing(tmp_path).records[-1]
    with Checkpointer(tmp_path, when=every(steps=1), which=everything()) as one:
        one.resume(model=torch.nn.Linear(2, 1))
        with forks.start("checkpointer.test_runs:go", str(tmp_path), 4) as second:
            assert second.wait() == 0
        one.step()
    first, again, other = runs(tmp_path)
    assert first["id"] == again["id"] != other["id"]
    assert (other["parent"], other["attempt"], other["ordinal"]) == (source.id, 1, 2)
    found = listing(tmp_path)
    assert [r.progress.steps for r in found.of_run(first["id"])] == [1, 2, 3]
    assert [r.progress.steps for r in found.of_run(other["id"])] == [3, 4]


def test_a_run_that_begins_beside_a_live_one_says_so(tmp_path, caplog):
    """It may be a job that was started twice. Of runs that are over nothing is said."""
    model = torch.nn.Linear(2, 1)
    with Checkpointer(tmp_path, when=never()) as one, Checkpointer(tmp_path, when=never()) as two:
        one.resume(model=model)
        assert "alive" not in caplog.text
        two.resume(model=model)
    (said,) = (message for message in caplog.messages if "alive" in message)
    assert f"'{tmp_path}/.holdfast/{runs(tmp_path)[0]['id']}.lease'" in said
    go(tmp_path, 1, gone=True)
    go(tmp_path, 2)
    assert caplog.text.count("alive") == 1


def test_going_on_with_an_older_run_makes_it_the_newest(tmp_path):
    """Resumed by path, the older run is what `auto`, `last` and `best` mean from then on, ledger or no ledger."""
    go(tmp_path, 2)
    go(tmp_path, 1, "fresh", filename="b-{step}")
    go(tmp_path, 3, "epoch=0-step=2.ckpt", gone=True)
    (tmp_path / LEDGER).unlink()
    with Checkpointer(tmp_path, when=never()) as ckpt:
        assert ckpt.resume(model=torch.nn.Linear(2, 1)).steps == 3
    assert runs(tmp_path)[-1]["attempt"] == 3


def test_last_goes_by_the_order_of_commits_not_by_steps_names_or_times(tmp_path):
    """A run that went back to an earlier step is newest at what it saved last."""
    go(tmp_path, 5)
    go(tmp_path, 3, "epoch=0-step=2.ckpt", gone=True, filename="a-{step}")
    with Checkpointer(tmp_path, when=never()) as ckpt:
        assert ckpt.resume("last", model=torch.nn.Linear(2, 1)).steps == 3


def test_what_was_kept_for_good_stays_under_rules_that_keep_less(tmp_path):
    """A folder kept with everything() is not thinned out because a later attempt asks for the last one alone."""
    model = torch.nn.Linear(1, 1)
    with Checkpointer(tmp_path, when=every(steps=1), which=everything()) as ckpt:
        ckpt.resume(model=model)
        for _ in range(3):
            ckpt.step()
    for _ in range(2):  # the promise outlasts the attempt after it as well
        with Checkpointer(tmp_path, when=every(steps=1), which=last(1)) as ckpt:
            ckpt.resume(model=model)
            for _ in range(3):
                ckpt.step()
    steps = [record.progress.steps for record in Folder(LocalStore(tmp_path)).scan().records]
    assert steps == [1, 2, 3, 9], "and what was saved under the later rules goes by those"
