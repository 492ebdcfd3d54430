"""Large tensors of optimizers are read in place; their step waits until they have been read, and nothing else does."""

from __future__ import annotations

import contextlib
import errno
import gc
import itertools
import linecache
import sys
import threading
import warnings
import weakref

import pytest
import torch
from torch import nn
from torch.optim.optimizer import _global_optimizer_pre_hooks

import lent
from holdfast import Checkpointer, OpaqueStateWarning, SaveFailed, SaveFailedWarning, StoreError, every, everything
from holdfast.catalog.manifest import RunRef
from holdfast.engine import fence, snapshot, statetree
from holdfast.engine.fence import Moved, Window
from holdfast.engine.job import Captured, prepare
from holdfast.engine.lending import LEAST, Lent, lendable
from holdfast.policy.values import Event, Moment, Progress
from holdfast.policy.what import full
from saving import difference

WAITED = 0.2
"""Seconds after which a thread that has not gone on is said to wait: otherwise it would be through in this time."""


@contextlib.contextmanager
def running(store, net, *optimizers, **options):
    """A run of these objects whose first step has been taken and saved."""
    names = ["optimizer", *(f"optimizer{i}" for i in range(1, len(optimizers)))]
    with lent.checkpointer(store, **options) as ckpt:
        ckpt.resume("fresh", model=net, **dict(zip(names, optimizers, strict=True)))
        yield ckpt


class Stepping(threading.Thread):
    """Something done on a thread of its own, which tells whether it waits."""

    def __init__(self, target):
        super().__init__(daemon=True)
        self._do, self._raised = target, None
        self.start()

    def run(self):
        """Do it."""
        try:
            self._do()
        except BaseException as error:
            self._raised = error

    @property
    def waits(self):
        """Whether it has not come to its end."""
        return not self.ends(WAITED)

    def ends(self, seconds=60):
        """Whether it comes to its end; raises what it raised."""
        self.join(seconds)
        if self._raised is not None:
            raise self._raised
        return not self.is_alive()


def test_training_goes_on_while_a_save_reads_and_the_step_waits_for_it():
    """Forward and backward run, micro-batch after micro-batch; the step waits; the file is the state at the save."""
    store, net = lent.HeldStore(), lent.model()
    optimizer = torch.optim.AdamW(net.parameters())
    with running(store, net, optimizer) as ckpt:
        lent.train(net, optimizer)
        then = lent.state_of(net, optimizer)
        store.hold()
        ckpt.step()
        assert store.reached.wait(60)
        optimizer.zero_grad()
        for _ in range(3):
            lent.backward(net)
        step = Stepping(optimizer.step)
        assert step.waits
        store.go.set()
        assert step.ends()
    assert difference(then, lent.on_disk(store)[1]) is None
    assert difference(then, lent.state_of(net, optimizer)) is not None, "the step was taken then"


def test_a_save_copies_no_byte_of_what_it_may_borrow():
    """Every large tensor of the optimizer is read where it is; all else is a copy."""
    net = lent.model()
    optimizer = torch.optim.AdamW(net.parameters())
    lent.train(net, optimizer)
    tree = statetree.take_apart({"model": net.state_dict(), "optimizer": optimizer.state_dict()})
    taken = snapshot.take(tree, lendable([optimizer], [net]))
    large = {key for key, storage in tree.storages.items() if storage.nbytes() >= LEAST}
    assert len(large) == 2 * 3
    in_place = {k for k, s in taken.tree.storages.items() if s.data_ptr() == tree.storages[k].data_ptr()}
    assert in_place == large
    taken.window.release()


def test_another_optimizers_step_does_not_wait():
    """Only a step that would change what is lent is held up."""
    store, net, other = lent.HeldStore(), lent.model(), lent.model(seed=1)
    optimizer, free = torch.optim.AdamW(net.parameters()), torch.optim.AdamW(other.parameters())
    with running(store, net, optimizer) as ckpt:
        lent.train(net, optimizer)
        store.hold()
        ckpt.step()
        lent.train(other, free)
        store.go.set()


def test_an_optimizer_that_shares_the_memory_waits():
    """Whoever holds the parameter under another object changes what is lent as well."""
    store, net = lent.HeldStore(), lent.model()
    optimizer = torch.optim.AdamW(net.parameters())
    alias = nn.Parameter(net[0].weight.data)
    alias.grad = torch.ones_like(alias)
    second = torch.optim.SGD([alias], lr=0.1)
    with running(store, net, optimizer) as ckpt:
        lent.train(net, optimizer)
        then = lent.state_of(net, optimizer)
        store.hold()
        ckpt.step()
        step = Stepping(second.step)
        assert step.waits
        store.go.set()
        assert step.ends()
    assert difference(then, lent.on_disk(store)[1]) is None


class Plain(torch.optim.Optimizer):
    """An optimizer as users write them."""

    def __init__(self, params):
        super().__init__(params, {"lr": 0.1})

    @torch.no_grad()
    def step(self, closure=None):
        """One step."""
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(group["lr"] * p.grad)


def lbfgs(params):
    """It calls its closure itself."""
    optimizer = torch.optim.LBFGS(params, lr=0.01, max_iter=2)
    step = optimizer.step
    closure = lambda: sum(p.square().sum() for group in optimizer.param_groups for p in group["params"])  # noqa: E731
    return optimizer, lambda: step(closure)


def scaled(params):
    """Its step is taken by a scaler."""
    optimizer = torch.optim.AdamW(params)
    scaler = torch.amp.GradScaler("cpu", init_scale=1.0)

    def step():
        scaler.scale(torch.ones(())).item()
        scaler.step(optimizer)
        scaler.update()

    return optimizer, step


def scheduled(params):
    """A scheduler has wrapped its step."""
    optimizer = torch.optim.AdamW(params)
    torch.optim.lr_scheduler.StepLR(optimizer, 1)
    return optimizer, lambda: optimizer.step()


KINDS = {
    "one by one": lambda ps: _made(torch.optim.AdamW(ps, foreach=False)),
    "foreach": lambda ps: _made(torch.optim.AdamW(ps, foreach=True)),
    "fused": lambda ps: _made(torch.optim.AdamW(ps, fused=True)),
    "sgd with momentum": lambda ps: _made(torch.optim.SGD(ps, 0.1, momentum=0.9)),
    "one's own": lambda ps: _made(Plain(ps)),
    "lbfgs": lbfgs,
    "scaled": scaled,
    "scheduled": scheduled,
}


def _made(optimizer):
    return optimizer, optimizer.step


@pytest.mark.parametrize("kind", KINDS)
def test_steps_of_every_kind_wait(kind):
    """However an optimizer steps, it does so after the save has read what it owns."""
    store, net = lent.HeldStore(), lent.model()
    optimizer, step = KINDS[kind](list(net.parameters()))
    assert lendable([optimizer], [net])
    with running(store, net, optimizer) as ckpt:
        lent.backward(net)
        step()
        then = lent.state_of(net, optimizer)
        store.hold()
        ckpt.step()
        waiting = Stepping(step)
        assert waiting.waits
        store.go.set()
        assert waiting.ends()
    assert difference(then["model"], lent.on_disk(store)[1]["model"]) is None


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_step_waits_and_is_compiled_for_two_cases_only(backend):
    """Windows that open and close do not make torch compile the step again and again."""
    store, net = lent.HeldStore(), lent.model()
    optimizer = torch.optim.AdamW(net.parameters())
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        step = torch.compile(lambda: optimizer.step(), backend=backend)
        with running(store, net, optimizer) as ckpt:
            lent.backward(net)
            for _ in range(3):
                step()
                ckpt.step()
                ckpt.fence()
                step()
            hooks = dict(_global_optimizer_pre_hooks)
            graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
            ckpt._engine.settle()
            then = lent.state_of(net, optimizer)
            store.hold()
            ckpt.step()
            waiting = Stepping(step)
            assert waiting.waits
            store.go.set()
            assert waiting.ends()
            for _ in range(5):
                ckpt.step()
                step()
            assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= graphs + 1
            assert hooks == _global_optimizer_pre_hooks
    assert difference(then, lent.on_disk(store)[4]) is None


def test_a_save_that_fails_lets_the_step_go():
    """The fence has an error path: nobody waits for a writer that has given up."""
    full = StoreError("write", "memory:", OSError(errno.ENOSPC, "No space left on device"))
    store, net = lent.HeldStore(error=full), lent.model()
    optimizer = torch.optim.AdamW(net.parameters())
    with running(store, net, optimizer) as ckpt:
        lent.train(net, optimizer)
        store.hold()
        ckpt.step()
        step = Stepping(optimizer.step)
        assert step.waits
        store.go.set()
        assert step.ends()
        with pytest.warns(SaveFailedWarning, match="No space left"):
            ckpt.epoch_end()


def test_a_save_that_cannot_begin_lets_the_step_go():
    """Where a user has made errors of warnings, a save may break off after it has borrowed."""
    net = lent.model()
    optimizer = torch.optim.AdamW(net.parameters())
    with lent.checkpointer(lent.HeldStore()) as ckpt:
        ckpt.resume("fresh", model=net, optimizer=optimizer, more={"not plain": object()})
        lent.train(net, optimizer)
        with pytest.raises(OpaqueStateWarning):
            ckpt.step()
    assert Stepping(lambda: lent.train(net, optimizer)).ends()


def test_a_file_that_cannot_be_written_at_all_lets_the_step_go():
    """Whoever writes a job by himself, as a save to a path does, has nothing to clean up."""
    full_disk = StoreError("write", "memory:", OSError(errno.ENOSPC, "No space left on device"))
    store, net = lent.HeldStore(error=full_disk), lent.model()
    optimizer = torch.optim.AdamW(net.parameters())
    lent.train(net, optimizer)
    root = {"state_dict": net.state_dict()}
    captured = Captured(root, {"model": ("state_dict",)}, lent=lendable([optimizer], [net]))
    moment = Moment(frozenset({Event.MANUAL}), Progress())
    job = prepare(captured, full, moment, run=RunRef("0" * 32), sequence=1, tallies={})
    store.go.set()
    store.armed = True
    with pytest.raises(StoreError):
        job.write(store, "a.ckpt", [])
    assert Stepping(lambda: lent.train(net, optimizer)).ends()


def test_after_fence_anything_may_change():
    """Even what no version tells of."""
    store, net = lent.HeldStore(at=2), lent.model()
    optimizer = torch.optim.AdamW(net.parameters())
    with running(store, net, optimizer, memory=1) as ckpt:
        lent.train(net, optimizer)
        then = lent.state_of(net, optimizer)
        store.hold()
        ckpt.step()
        assert store.reached.wait(60)

        def change():
            ckpt.fence()
            net[0].weight.data.zero_()

        changing = Stepping(change)
        assert changing.waits
        store.go.set()
        assert changing.ends()
    assert difference(then, lent.on_disk(store)[1]) is None


def test_a_save_is_published_while_training_is_busy_elsewhere():
    """It needs no call and no step: the writer sees by itself that training has gone on."""
    store, net = lent.HeldStore(), lent.model()
    optimizer = torch.optim.AdamW(net.parameters())
    with running(store, net, optimizer) as ckpt:
        lent.train(net, optimizer)
        ckpt.step()
        seen = threading.Event()

        def look():
            while not any(entry.name == "last.ckpt" for entry in store.list()):
                pass
            seen.set()

        Stepping(look)
        numbers = iter(range(10**9))
        while not seen.is_set():
            next(numbers)


def max_norm_table():
    """Forward renormalises the rows that it looks up."""
    table = nn.Embedding(500, 64, max_norm=1.0)
    return table, torch.optim.AdamW(table.parameters())


def max_norm_bag():
    """So does the one that sums them."""
    table = nn.EmbeddingBag(500, 64, max_norm=1.0)
    return table, torch.optim.AdamW(table.parameters())


def captured_graph():
    """A CUDA graph that holds the optimizer replays its step without asking anybody."""
    net = nn.Linear(lent.WIDTH, lent.WIDTH, bias=False)
    return net, torch.optim.Adam(net.parameters(), capturable=True)


def shared():
    """Another process may write to it."""
    net = nn.Linear(lent.WIDTH, lent.WIDTH, bias=False).share_memory()
    return net, torch.optim.AdamW(net.parameters())


def part_of_more():
    """Who else writes to that memory is not known."""
    net = nn.Linear(lent.WIDTH, lent.WIDTH, bias=False)
    net.weight = nn.Parameter(torch.randn(2 * lent.WIDTH, lent.WIDTH)[lent.WIDTH :])
    return net, torch.optim.AdamW(net.parameters())


def without_hooks():
    """Its step, replaced on the object, tells nobody."""
    net = nn.Linear(lent.WIDTH, lent.WIDTH, bias=False)
    optimizer = torch.optim.AdamW(net.parameters())
    optimizer.step = lambda closure=None: None
    return net, optimizer


def in_no_group():
    """A target network, an average: whoever updates it does so by hand."""
    net = nn.Linear(lent.WIDTH, lent.WIDTH, bias=False)
    return net, torch.optim.AdamW([nn.Parameter(torch.zeros(1))])


def small():
    """Watching it would take longer than copying it."""
    net = nn.Linear(8, 8)
    return net, torch.optim.AdamW(net.parameters())


BLIND = (max_norm_table, max_norm_bag, captured_graph, shared, part_of_more, without_hooks, in_no_group, small)


@pytest.mark.parametrize("make", BLIND, ids=lambda make: make.__name__)
def test_what_may_change_without_a_step_is_copied(make):
    """Each blind spot of the fence that can be known beforehand."""
    net, optimizer = make()
    tree = statetree.take_apart({"model": net.state_dict()})
    taken = snapshot.take(tree, lendable([optimizer], [net]))
    assert taken.window is None
    assert [s.data_ptr() for s in taken.tree.storages.values()] != [s.data_ptr() for s in tree.storages.values()]


def test_buffers_and_gradients_and_learning_rates_are_copied():
    """Of an optimizer's own, too, only what belongs to a parameter is lent."""
    net = nn.BatchNorm1d(LEAST)
    optimizer = torch.optim.AdamW(net.parameters(), lr=torch.tensor(0.1))
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    state = {"model": net.state_dict(), "gradients": [p.grad for p in net.parameters()], "o": optimizer.state_dict()}
    tree = statetree.take_apart(state)
    taken = snapshot.take(tree, lendable([optimizer], [net]))
    paths = {ref.storage: ref.path for ref in tree.tensors}
    in_place = {paths[k] for k, s in taken.tree.storages.items() if s.data_ptr() == tree.storages[k].data_ptr()}
    assert in_place == {"model.weight", "model.bias"} | {
        f"o.state.{i}.{name}" for i in range(2) for name in ("exp_avg", "exp_avg_sq")
    }
    taken.window.release()


def test_what_was_made_for_a_save_is_neither_copied_nor_waited_for():
    """As what was gathered from other ranks: steps and fences go on, and the memory is free when all is written."""
    net, made = lent.model(), torch.ones(LEAST)
    optimizer = torch.optim.AdamW(net.parameters())
    tree = statetree.take_apart({"model": {"gathered": made, "small": torch.ones(2)}})
    taken = snapshot.take(tree, lendable([optimizer], [net]), [made])
    paths = {ref.path: ref.storage for ref in tree.tensors}
    in_place = {p for p, k in paths.items() if taken.tree.storages[k].data_ptr() == tree.storages[k].data_ptr()}
    assert in_place == {"model.gathered"}
    assert taken.window.read
    step = Stepping(lambda: (lent.train(net, optimizer), taken.window.fence()))
    assert step.ends()
    gone = weakref.ref(made)
    del made, tree
    taken.window.returned()
    taken.window.verdict()
    assert gone() is None


def test_a_change_of_what_was_made_for_a_save_is_noticed():
    """A hook that keeps a tensor and writes to it later tears no file; from then on it is copied."""
    made = torch.ones(LEAST)
    taken = snapshot.take(statetree.take_apart({"model": made}), [], [made])
    made.mul_(2)
    taken.window.returned()
    with pytest.raises(Moved) as caught:
        taken.window.verdict()
    assert caught.value.names == ("model",)
    assert snapshot.take(statetree.take_apart({"model": made}), [], [made], but=["model"]).window is None


def renormalise(weight):
    """What a functional embedding with a norm does in forward."""
    nn.functional.embedding(torch.tensor([0, 1]), weight, max_norm=1e-3)


def load(weight):
    """A state put back in the middle of a run."""
    net = nn.Linear(lent.WIDTH, lent.WIDTH)
    holder = nn.Linear(lent.WIDTH, lent.WIDTH)
    holder.weight = weight
    holder.load_state_dict(net.state_dict())


def by_hand(weight):
    """A rule of one's own."""
    with torch.no_grad():
        weight.mul_(0.5)


def behind_the_version(weight):
    """A write that bumps no version, as old code clips weights and swaps averages in."""
    weight.data.clamp_(-1e-4, 1e-4)


def one_element(weight):
    """A change of so little that only the version tells of it."""
    with torch.no_grad():
        weight[3, 7] = 9


MOVES = (renormalise, load, by_hand, one_element, behind_the_version)


@pytest.mark.parametrize("at", [0, 1, 5])
@pytest.mark.parametrize("change", MOVES, ids=lambda change: change.__name__)
def test_a_save_found_moved_is_thrown_away_and_taken_again_by_copy(change, at):
    """It is said once; the next step is saved instead, with its own progress, and from a copy."""
    store, net = lent.HeldStore(at=at), lent.model()
    optimizer = torch.optim.AdamW(net.parameters())
    with running(store, net, optimizer, memory=1) as ckpt:
        lent.train(net, optimizer)
        store.hold()
        ckpt.step()
        assert store.reached.wait(60)
        change(net[0].weight)
        store.go.set()
        lent.train(net, optimizer)
        then = lent.state_of(net, optimizer)
        ckpt._engine._flight.wait()
        store.at = 0
        store.hold()
        with pytest.warns(SaveFailedWarning, match=r"model\.0\.weight.* changed while being read.*fence\(\)") as told:
            ckpt.step()
        assert len([w for w in told if w.category is SaveFailedWarning]) == 1
        by_hand(net[0].weight)  # it is not lent any more
        store.go.set()
        with torch.no_grad():
            net[0].weight.mul_(2)
        optimizer.zero_grad()
    found = lent.on_disk(store)
    assert set(found) == {2}
    assert difference(then, found[2]) is None


@pytest.mark.parametrize("count", [64 * 2**10, 64 * 2**10 + 1])
@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.bfloat16, torch.int32, torch.uint8], ids=str)
def test_a_write_to_the_whole_is_seen_in_every_kind_of_number(kind, count):
    """Though it bumps no version, and though half of each number stays as it was: 0.0 and 3.0 end alike."""
    tensor = torch.zeros(count, dtype=kind)
    window = Window({"w": Lent(tensor, tensor, tensor)})
    tensor.data.fill_(3)
    window.returned()
    with pytest.raises(Moved, match="w changed"):
        window.verdict()


def test_time_alone_does_not_show_that_training_stands_still(monkeypatch):
    """Where the process was paused, hours may have passed at the second look: it is looked at as often all the same."""
    tensor, made, looks = torch.zeros(LEAST), [], []

    class Looked(threading.Event):
        def wait(self, timeout=None):
            looks.append(timeout)
            return super().wait(0)

    training = threading.Thread(target=lambda: made.append(Window({"w": Lent(tensor, tensor, tensor)})))
    training.start()
    training.join()  # from now on it is seen to do the same
    monkeypatch.setattr("time.monotonic", itertools.count(step=3600.0).__next__)
    (window,) = made
    window._judged = Looked()
    window.returned()
    window.verdict()
    assert len(looks) == fence._LOOKS


@pytest.mark.parametrize("told_by", ["the next step", "another call"])
def test_a_save_that_moved_is_made_good_at_the_next_step_though_no_rule_asks_for_it(told_by):
    """The rules want every third step; the third moved, so the fourth is saved; then the sixth again."""
    store, net = lent.HeldStore(), lent.model()
    optimizer = torch.optim.AdamW(net.parameters())
    with Checkpointer(store, when=every(steps=3), which=everything()) as ckpt:
        ckpt.resume("fresh", model=net, optimizer=optimizer)
        for step in range(1, 8):
            lent.train(net, optimizer)
            if step == 3:
                store.hold()
            if step == 4 and told_by == "the next step":
                with pytest.warns(SaveFailedWarning, match="changed while being read"):
                    ckpt.step()
                continue
            ckpt.step()
            if step == 3:
                by_hand(net[0].weight)
                store.go.set()
                ckpt._engine._flight.wait()
                if told_by == "another call":
                    with pytest.warns(SaveFailedWarning, match="changed while being read"):
                        ckpt._engine.settle()
    assert set(lent.on_disk(store)) == {4, 6, 7}


def test_no_garbage_is_collected_while_it_is_looked_where_training_is():
    """The list of threads is locked meanwhile: who frees a tensor then may wait for one that waits for the list."""
    lines, over = set(), threading.Event()

    def note(phase, info):
        frame = sys._getframe(1)
        lines.add(linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip())

    def step(deep):
        made = [{}]
        return made if deep == 0 else made + step(deep - 1)

    def train():
        while not over.is_set():
            step(9)

    threads = [threading.Thread(target=train) for _ in range(4)]
    for training in threads:
        training.start()
    often = gc.get_threshold()
    gc.callbacks.append(note)
    gc.set_threshold(1)
    try:
        for _ in range(40):
            fence._frame_of(training.ident)
        assert lines, "it is collected elsewhere"
        assert gc.isenabled()
        gc.disable()
        fence._frame_of(training.ident)
        assert not gc.isenabled(), "nobody who collects by himself is interfered with"
    finally:
        gc.enable()
        gc.set_threshold(*often)
        gc.callbacks.remove(note)
        over.set()
        for training in threads:
            training.join()
    assert not [line for line in lines if "_current_frames" in line]


def test_memory_that_was_exchanged_is_read_as_it_was():
    """A parameter that is given other memory moves nothing: what it had is still there."""
    store, net = lent.HeldStore(), lent.model()
    optimizer = torch.optim.AdamW(net.parameters())
    with running(store, net, optimizer) as ckpt:
        lent.train(net, optimizer)
        then = lent.state_of(net, optimizer)
        store.hold()
        ckpt.step()
        nn.utils.vector_to_parameters(torch.zeros(sum(p.numel() for p in net.parameters())), net.parameters())
        store.go.set()
    found = lent.on_disk(store)[1]
    assert difference(then["optimizer"], found["optimizer"]) is None
    assert difference(then["model"], found["model"]) is None


def test_a_save_by_hand_is_whole_when_it_returns():
    """It may borrow, for it waits; the state may change at once after it."""
    store, net = lent.HeldStore(), lent.model()
    optimizer = torch.optim.AdamW(net.parameters())
    with running(store, net, optimizer) as ckpt:
        lent.train(net, optimizer)
        then = lent.state_of(net, optimizer)
        ckpt.save()
        net[0].weight.data.zero_()
    found = lent.on_disk(store)
    assert difference(then, found[min(found)]) is None


def test_a_ticket_says_when_the_state_may_change():
    """Staged is not durable: the last byte is read before the disk has it."""
    store, net = lent.HeldStore(), lent.model()
    optimizer = torch.optim.AdamW(net.parameters())
    with running(store, net, optimizer) as ckpt:
        lent.train(net, optimizer)
        store.hold()
        ckpt.step()
        assert store.reached.wait(60)
        ticket = ckpt._engine._flight
        assert not ticket.staged
        store.go.set()
        ticket.fence()
        assert ticket.staged


def test_a_save_by_hand_that_fails_raises_though_it_had_borrowed():
    """The fence opens, the error is told, and nothing hangs."""
    full = StoreError("write", "memory:", OSError(errno.ENOSPC, "No space left on device"))
    store, net = lent.HeldStore(error=full), lent.model()
    optimizer = torch.optim.AdamW(net.parameters())
    with running(store, net, optimizer) as ckpt:
        lent.train(net, optimizer)
        store.go.set()
        store.armed = True
        with pytest.raises(SaveFailed, match="No space left"):
            ckpt.save()
