"""A checkpoint that is a folder: written, listed, verified, read by us and by stock torch, evicted as one thing."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp

from faults import failing_at
from holdfast import Checkpointer
from holdfast.catalog import directories, resolve, runs
from holdfast.catalog.folder import Folder
from holdfast.catalog.sharded import INDEX, Index
from holdfast.catalog.verify import Verdict
from holdfast.engine.convert import to_folder
from holdfast.engine.directory import CheckpointDirectory, opened
from holdfast.engine.engine import Engine
from holdfast.engine.job import Captured
from holdfast.errors import Corrupt, SaveFailed
from holdfast.policy.plan import Policy
from holdfast.policy.values import Event, Moment, Progress, Score
from holdfast.policy.when import every
from holdfast.policy.where import Where
from holdfast.policy.which import best, last
from holdfast.store import LocalStore, MemoryStore
from sameness import same

NAME = "epoch=0-step=1.ckpt"


def model(step):
    """Tensors of several kinds and sizes; two names of one memory."""
    tied = torch.arange(6.0).reshape(2, 3) + step
    return {
        "wide": torch.arange(40_000.0).reshape(200, 200) * step,
        "tied": tied,
        "tied_too": tied,
        "none": torch.empty(0, 3),
        "scalar": torch.tensor(float(step), dtype=torch.bfloat16),
        "turned": torch.arange(12).reshape(3, 4).T,
        "extra": {"plain": [1, "two"]},
    }


def state(step):
    """A state as a trainer arranges it: an optimizer knows its parameters by number."""
    slots = {0: {"exp_avg": torch.full((200, 200), 0.5 * step), "step": torch.tensor(float(step))}}
    groups = [{"lr": 0.1, "params": [0]}]
    return {
        "epoch": 0,
        "state_dict": model(step),
        "optimizer_states": [{"state": slots, "param_groups": groups}],
        "callbacks": {"one": {"memory": torch.full((3,), 1.0 * step)}},
    }


class Home:
    """An engine of one process that saves folders."""

    divided = True

    def __init__(self, root, *, which=None, store=LocalStore):
        self.folder = Folder(store(root)) if store is LocalStore else Folder(store())
        self.folder.store.prepare()
        policies = (
            Policy("rules", every(steps=1) | every(epochs=1), which or last(3)),
            Policy("last", every(steps=1) | every(epochs=1), last(1), where=Where(None, alias="last")),
        )
        self.lines = []
        self.engine = Engine(
            self.folder, runs.begin(self.folder), policies, self.capture, report=self.lines.append, on_error="raise"
        )

    def capture(self, what):
        places = {"model": ("state_dict",), "optimizer": ("optimizer_states", 0), "callbacks": ("callbacks",)}
        weights = frozenset({"model.wide"})
        return Captured(
            state(self.step), places, groups={"optimizer": [["wide"]]}, weights=weights, divided=self.divided
        )

    def save(self, step, score=None):
        """Save one step; its record."""
        self.step = step
        metrics = {} if score is None else {"loss": Score(score, step)}
        self.engine.consider(Moment(frozenset({Event.BATCH_END}), Progress(steps=step, batches=step), metrics))
        return self.engine.settle()

    def failure(self, step):
        """How the save of a step failed; empty where it did not."""
        try:
            self.save(step)
        except SaveFailed as error:
            return str(error)
        return ""

    def names(self):
        """All names of checkpoints, by checkpoint."""
        return [list(record.names) for record in self.folder.scan().records]


@pytest.fixture
def home(tmp_path):
    """An engine that has saved step 1."""
    home = Home(tmp_path)
    home.save(1)
    yield home
    home.engine.close(clean=True)


def test_a_folder_is_read_back_bit_for_bit(home, tmp_path):
    """The whole dictionary, single parts and single tensors; keys keep their order."""
    with CheckpointDirectory(LocalStore(tmp_path), NAME, name=NAME) as found:
        assert same(found.whole(), state(1))
        assert same(found.part("model"), model(1))
        assert same(found.whole(keys=["epoch", "callbacks"]), {"epoch": 0, "callbacks": state(1)["callbacks"]})
        assert torch.equal(found.tensor("optimizer.state.wide.exp_avg"), torch.full((200, 200), 0.5))
        assert found.part("model", dtype=torch.float64)["wide"].dtype == torch.float64


def test_it_is_one_checkpoint_with_two_names(home, tmp_path):
    """The folder under its own name, and the alias as a relative link to it; verified whole through either."""
    assert home.names() == [[NAME, "last.ckpt"]]
    assert (tmp_path / "last.ckpt").readlink() == Path(NAME)
    files = {path.name for path in (tmp_path / NAME).iterdir()}
    assert files == {"state.ckpt", ".metadata", "__0_0.distcp", ".holdfast"}
    for name in (NAME, "last.ckpt"):
        assert directories.verify(home.folder.store, name)[0].verdict is Verdict.WHOLE
    assert home.folder.scan().records[0].bytes == sum(
        path.stat().st_size for path in (tmp_path / NAME).iterdir() if path.is_file()
    )
    assert "saved epoch=0-step=1.ckpt, last.ckpt" in home.lines[0]


def test_a_process_that_knows_nothing_lists_the_same(home, tmp_path):
    """Without the ledger too: the index is the witness."""
    known = home.folder.scan().records
    assert Folder(LocalStore(tmp_path)).scan().records == known
    shutil.copytree(tmp_path, copy := tmp_path.parent / "copy", symlinks=True)
    (copy / ".holdfast" / "ledger.jsonl").unlink()
    (found,) = Folder(LocalStore(copy)).scan().records
    assert (found.id, found.names, found.bytes) == (known[0].id, known[0].names, known[0].bytes)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled", "ignore:.*TypedStorage is deprecated")
def test_stock_torch_loads_it(home, tmp_path):
    """``torch.distributed.checkpoint.load`` into plain tensors, and its converter to one file of plain tensors."""
    wanted = {key: value for key, value in model(1).items() if isinstance(value, torch.Tensor)}
    into = {key: torch.zeros_like(value) for key, value in wanted.items()}
    slots = {"state": {"wide": {"exp_avg": torch.zeros(200, 200), "step": torch.tensor(0.0)}}}
    loaded = {"model": into, "optimizer": slots}
    dcp.load(loaded, checkpoint_id=str(tmp_path / NAME), no_dist=True)
    assert same(loaded["model"], wanted)
    assert same(slots["state"]["wide"], state(1)["optimizer_states"][0]["state"][0])

    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    dcp_to_torch_save(tmp_path / NAME, tmp_path / "stock.pt")
    stock = torch.load(tmp_path / "stock.pt", weights_only=True)
    assert same({key: stock["model"][key] for key in wanted}, wanted)
    rest = torch.load(tmp_path / NAME / "state.ckpt", weights_only=True)
    assert (rest["callbacks"]["one"]["memory"].tolist(), rest["state_dict"]["wide"]) == ([1.0] * 3, None)


def test_rules_rank_and_evict_folders(tmp_path):
    """What goes is gone with all its files; the alias moves on; nothing unfinished is left."""
    home = Home(tmp_path, which=best(1, "loss"))
    for step, score in ((1, 0.5), (2, 0.9), (3, 0.1)):
        home.save(step, score)
    home.engine.close(clean=True)
    assert home.names() == [["epoch=0-step=3.ckpt", "last.ckpt"]]
    assert {path.name for path in tmp_path.iterdir()} == {"epoch=0-step=3.ckpt", "last.ckpt", ".holdfast"}


def test_a_full_disk_fails_the_save_and_the_one_before_stands(home, tmp_path):
    """Wherever it hits: in a shard, in the rest, in the index; nothing of the failed save is left."""
    step, hits = 1, 0
    for call in range(1, 20):
        step += 1
        with failing_at(call, errno.ENOSPC, functions=("posix_fallocate",)):
            said = home.failure(step)
        if not said:
            break
        assert "No space left on device" in said
        hits += 1
        assert ["epoch=0-step=1.ckpt", "last.ckpt"] in home.names()
        assert home.folder.scan().leftovers == ()
    assert hits >= 3
    assert [f"epoch=0-step={step}.ckpt", "last.ckpt"] in home.names()
    for record in home.folder.scan().records:
        assert resolve.check(home.folder, record).verdict is Verdict.WHOLE


def flip(path: Path, at: int) -> None:
    """Change one byte of a read-only file."""
    path.chmod(0o644)
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)


def test_damage_names_file_and_tensor(home, tmp_path):
    """One flipped bit in a tensor's elements: verify and a read say whose they are and where."""
    index = directories.read_index(LocalStore(tmp_path), NAME)
    wide = next(t for t in index.tensors if t.path == "model.wide").chunks[0]
    flip(tmp_path / NAME / "__0_0.distcp", wide.offset + wide.start + 4711)
    found, _ = directories.verify(LocalStore(tmp_path), NAME)
    assert (found.verdict, found.damaged) == (Verdict.CORRUPT, ("model.wide",))
    assert "tensor model.wide in __0_0.distcp has CRC-32" in found.why
    with CheckpointDirectory(LocalStore(tmp_path), NAME, name=NAME) as checkpoint:
        with pytest.raises(Corrupt, match=r"tensor model\.wide in __0_0\.distcp has CRC-32"):
            checkpoint.part("model")
        assert same(checkpoint.part("callbacks"), state(1)["callbacks"])


def test_every_byte_of_every_file_counts(home, tmp_path):
    """A flipped bit anywhere, in gaps, headers, the plan for stock readers and the index, is seen."""
    files = ["__0_0.distcp", ".metadata", "state.ckpt", INDEX]
    for file in files:
        path = tmp_path / NAME / file
        before = path.read_bytes()
        for at in range(0, len(before), max(1, len(before) // 60)):
            flip(path, at)
            assert directories.verify(LocalStore(tmp_path), NAME)[0].verdict is Verdict.CORRUPT, f"{file} at {at}"
            path.write_bytes(before)
        path.write_bytes(before[:-1])
        assert directories.verify(LocalStore(tmp_path), NAME)[0].verdict is Verdict.CORRUPT
        path.write_bytes(before)
    assert directories.verify(LocalStore(tmp_path), NAME)[0].verdict is Verdict.WHOLE


def test_pain_46_a_stale_or_missing_shard_is_noticed(home, tmp_path):
    """An old shard among new ones, of the same name or another; one that is gone; an index that is gone."""
    home.save(2)
    old, new = tmp_path / NAME, tmp_path / "epoch=0-step=2.ckpt"
    shutil.copy(new / "__0_0.distcp", tmp_path / "kept")
    (new / "__0_0.distcp").unlink()
    found, _ = directories.verify(home.folder.store, new.name)
    assert "__0_0.distcp is missing" in found.why
    with (
        pytest.raises(Corrupt, match=r"__0_0\.distcp cannot be opened"),
        opened(home.folder.store, new.name, name="it") as checkpoint,
    ):
        checkpoint.part("model")
    shutil.copy(old / "__0_0.distcp", new / "__0_0.distcp")
    found, _ = directories.verify(home.folder.store, new.name)
    assert (found.verdict, "model.wide" in found.damaged) == (Verdict.CORRUPT, True)
    (new / "__0_0.distcp").unlink()
    shutil.copy(tmp_path / "kept", new / "__0_0.distcp")
    shutil.copy(tmp_path / "kept", new / "__7_0.distcp")
    assert "__7_0.distcp was not saved with it" in directories.verify(home.folder.store, new.name)[0].why
    (new / "__7_0.distcp").unlink()
    assert directories.verify(home.folder.store, new.name)[0].verdict is Verdict.WHOLE
    shutil.rmtree(new / ".holdfast")
    own, alias = home.folder.scan().strangers
    assert (own.name, alias.name, own.verdict) == (new.name, "last.ckpt", Verdict.CORRUPT)
    assert "manifest is missing" in own.why
    home.save(3)
    assert home.names() == [[NAME], ["epoch=0-step=3.ckpt", "last.ckpt"]]


def test_an_unfinished_folder_is_a_leftover_and_swept(home, tmp_path):
    """A folder without its final name is no checkpoint, whatever is in it, and the next attempt removes it."""
    home.engine.close(clean=False)
    left = tmp_path / f".late.ckpt~1-9.{home.engine.run.ref.id}.tmp"
    shutil.copytree(tmp_path / NAME, left)
    going = tmp_path / ".gone.ckpt.removed.tmp"
    shutil.copytree(tmp_path / NAME, going)
    listing = Folder(LocalStore(tmp_path)).scan()
    assert (len(listing.records), listing.strangers) == (1, ())
    assert set(listing.leftovers) == {left.name, going.name}
    Home(tmp_path).engine.close(clean=True)
    assert not left.exists()
    assert not going.exists()


def test_a_moved_folder_keeps_both_names(home, tmp_path):
    """The link is relative: a folder of checkpoints can be moved as a whole."""
    home.engine.close(clean=True)
    there = tmp_path.parent / "elsewhere"
    shutil.move(tmp_path, there)
    (record,) = Folder(LocalStore(there)).scan().records
    assert record.names == (NAME, "last.ckpt")
    tmp_path.mkdir()


def test_a_folder_in_the_way_of_the_alias_is_set_aside(tmp_path):
    """A real folder called last.ckpt, as a save by its path leaves it, is kept under its own name, not replaced."""
    home = Home(tmp_path)
    home.save(1)
    home.engine.close(clean=True)
    (tmp_path / "last.ckpt").unlink()
    (tmp_path / NAME).rename(tmp_path / "last.ckpt")
    again = Home(tmp_path)
    again.save(2)
    again.engine.close(clean=True)
    assert again.names() == [[NAME], ["epoch=0-step=2.ckpt", "last.ckpt"]]


def test_a_store_without_folders_says_so():
    """No half of a checkpoint is kept in a place that has no folders."""
    home = Home(None, store=MemoryStore)
    home.step = 1
    home.engine.consider(Moment(frozenset({Event.BATCH_END}), Progress(steps=1, batches=1)))
    with pytest.raises(Exception, match="MemoryStore keeps no folders"):
        home.engine.settle()
    home.engine.close(clean=False)


LIES = {
    "a chunk outside its file": lambda t: t[4][0].__setitem__(3, 2**40),
    "a chunk outside its tensor": lambda t: t[4][0].__setitem__(0, [1, 0]),
    "elements outside the chunk": lambda t: t[4][0].__setitem__(5, 2**30),
    "a chunk in the plan for stock readers": lambda t: t[4][0].__setitem__(2, 1),
    "half a tensor": lambda t: t[3].__setitem__(0, 400),
    "the same part twice": lambda t: t[4].append(t[4][0]),
    "an unknown data type": lambda t: t.__setitem__(2, "int3"),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_an_index_that_contradicts_itself_is_refused(home, tmp_path, lie):
    """However well it is checksummed: nothing outside is read, and no memory is asked for that no file fills."""
    path = tmp_path / NAME / INDEX
    data = json.loads(path.read_bytes())["index"]
    lie(next(row for row in data["tensors"] if row[0] == "model.wide"))
    from holdfast.catalog.checksums import crc32

    inner = json.dumps(data, sort_keys=True, separators=(",", ":")).encode()
    path.chmod(0o644)
    path.write_bytes(b'{"crc":"%08x","index":%s}\n' % (crc32(inner), inner))
    found, _ = directories.verify(LocalStore(tmp_path), NAME)
    assert (found.verdict, found.why[:31]) == (Verdict.CORRUPT, "its manifest cannot be used: a ") or (
        found.verdict is Verdict.CORRUPT and "cannot be used" in found.why
    )


def test_weights_that_are_not_finite_are_told(tmp_path):
    """In whichever shard they lie: the checkpoint says that it is sick, and the log which tensor is."""
    home = Home(tmp_path)
    home.save(1)
    home.step = float("nan")
    home.engine.consider(Moment(frozenset({Event.BATCH_END}), Progress(steps=2, batches=2)))
    assert home.engine.settle().healthy is False
    home.engine.close(clean=True)
    assert "NOT FINITE: model.wide" in home.lines[-1]


def test_an_index_is_what_it_was_written_as(home, tmp_path):
    """Bytes to index to bytes."""
    raw = (tmp_path / NAME / INDEX).read_bytes()
    assert Index.from_bytes(raw).to_bytes() == raw


@pytest.mark.parametrize("exchanges", [True, False], ids=["exchanged", "beside"])
def test_a_later_save_of_the_same_step_takes_the_place_of_the_folder(tmp_path, exchanges, monkeypatch):
    """At an epoch's end: by an exchange of names where the system can, else under the next free name; the old goes."""
    if not exchanges:
        monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: object())
    home = Home(tmp_path)
    home.save(1)
    before = home.folder.scan().records[0].id
    done = Progress(steps=1, batches=1, complete=True)
    home.engine.consider(Moment(frozenset({Event.TRAIN_EPOCH_END}), done))
    home.engine.settle(last=True)
    home.engine.close(clean=True)
    (record,) = home.folder.scan().records
    assert record.id != before
    assert record.names == (NAME if exchanges else "epoch=0-step=1-v1.ckpt", "last.ckpt")
    assert home.folder.scan().leftovers == ()
    assert resolve.check(home.folder, record).verdict is Verdict.WHOLE


def test_files_and_folders_follow_each_other_in_one_place(tmp_path):
    """A run that changes its mind: the alias is a link to a folder, then a file's second name, then a link again."""
    home = Home(tmp_path, which=last(1))
    for step, divided in ((1, True), (2, False), (3, True)):
        home.divided = divided
        home.save(step)
        assert home.names() == [[f"epoch=0-step={step}.ckpt", "last.ckpt"]]
        assert (tmp_path / "last.ckpt").is_symlink() is divided
        with opened(home.folder.store, "last.ckpt", name="last") as found:
            assert same(found.whole(), state(step))
    home.engine.close(clean=True)
    assert {path.name for path in tmp_path.iterdir()} == {"epoch=0-step=3.ckpt", "last.ckpt", ".holdfast"}


def test_a_plain_loop_goes_on_from_a_folder(tmp_path):
    """By its path, or as the newest of the folder: parts are read as from a file, and the run goes on with files."""
    net = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(net.parameters())
    with Checkpointer(tmp_path / "a", when=every(steps=1)) as ckpt:
        ckpt.resume(model=net, optimizer=optimizer)
        net(torch.ones(3)).sum().backward()
        optimizer.step()
        ckpt.step()
    place = LocalStore(tmp_path / "a")
    with opened(place, "last.ckpt", name="last") as file:
        to_folder(file, LocalStore(tmp_path / "b"), "start.ckpt", shards=2)
    again = torch.nn.Linear(3, 2)
    with Checkpointer(tmp_path / "c", when=every(steps=1)) as ckpt:
        progress = ckpt.resume(
            tmp_path / "b" / "start.ckpt", model=again, optimizer=torch.optim.Adam(again.parameters())
        )
        assert progress.steps == 1
        assert torch.equal(again.weight, net.weight)
        assert torch.equal(ckpt.load(tmp_path / "b" / "start.ckpt", parts=["model"])["model"]["weight"], net.weight)
        ckpt.step()
    with Checkpointer(tmp_path / "b", when=every(steps=1)) as ckpt:
        assert ckpt.resume("auto", model=again, optimizer=torch.optim.Adam(again.parameters())).steps == 1
