"""From arguments to a strategy: names, options, numbers of processes; and what is refused."""

from datetime import timedelta

import pytest
import torch

from holdfast import ConfigError
from holdfast.state.precision import Precision
from holdfast.strategies import DDPStrategy, FSDPStrategy, SingleDeviceStrategy
from holdfast.strategies.choose import NAMES, AnyStrategy, ParallelStrategy, chosen
from holdfast.strategies.ddp import DataParallel
from holdfast.strategies.fsdp import Sharded
from holdfast.strategies.launch import Forked, Script, Started
from holdfast.strategies.training import SingleDevice

RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "SLURM_PROCID", "PMI_RANK")


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch):
    for name in RANKS:
        monkeypatch.delenv(name, raising=False)


def choose(strategy="auto", *, devices="auto", nodes=1, precision="32-true", **options):
    return chosen(strategy, accelerator="cpu", devices=devices, num_nodes=nodes, precision=precision, **options)


@pytest.mark.parametrize(
    ("strategy", "devices", "kind", "size"),
    [
        ("auto", "auto", SingleDevice, 1),
        ("auto", 1, SingleDevice, 1),
        ("single_device", [0], SingleDevice, 1),
        ("auto", 3, DataParallel, 3),
        ("auto", "2", DataParallel, 2),
        ("ddp", 2, DataParallel, 2),
        ("ddp", 1, DataParallel, 1),
        ("ddp_spawn", [0, 1], DataParallel, 2),
        ("fsdp", 4, Sharded, 4),
        (DDPStrategy(find_unused_parameters=True), 2, DataParallel, 2),
        (FSDPStrategy(), 2, Sharded, 2),
        (SingleDeviceStrategy("meta"), 1, SingleDevice, 1),
    ],
)
def test_the_strategy_and_how_many_processes(strategy, devices, kind, size):
    """By name, by object, or by the number of devices alone."""
    found = choose(strategy, devices=devices)
    assert type(found) is kind
    assert found.world.size == size


@pytest.mark.parametrize(
    ("strategy", "launcher"),
    [("ddp", Script), ("ddp_spawn", Forked), ("ddp_fork", Forked), ("ddp_notebook", Forked), ("fsdp", Script)],
)
def test_how_the_processes_come_about(strategy, launcher):
    """By the script again, or as children."""
    assert type(choose(strategy, devices=2)._launcher) is launcher


def test_processes_that_a_launcher_has_started_are_taken(monkeypatch):
    """Under torchrun nothing is started, whatever the name, and ``auto`` is data parallel with its number."""
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    for strategy in ("auto", "ddp", "ddp_spawn"):
        found = choose(strategy)
        assert (type(found._launcher), found.world.rank, found.world.size) == (Started, 1, 2)


def test_numbers_that_contradict_the_launcher_are_refused(monkeypatch):
    """Four processes were started, and two were asked for."""
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ConfigError, match=r"has started 4 processes .* ask for 2"):
        choose("ddp", devices=2)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"strategy": "dp"}, "strategy='dp' is not one of"),
        ({"strategy": 3}, "not a int"),
        ({"strategy": "single_device", "devices": 2}, "one device"),
        ({"devices": 0}, "devices=0"),
        ({"devices": True}, "devices=True"),
        ({"devices": "two"}, "devices='two'"),
        ({"devices": [0, 0]}, "devices="),
        ({"nodes": 0}, "num_nodes"),
        ({"strategy": "ddp_spawn", "devices": 2, "nodes": 2}, "on this host alone"),
        ({"strategy": "fsdp", "devices": 2, "precision": "16-mixed"}, "bf16-mixed"),
    ],
)
def test_bad_input_is_refused_when_the_trainer_is_made(options, says):
    """Names, numbers, and what does not go together."""
    with pytest.raises(ConfigError, match=says):
        choose(**options)


def test_an_accelerator_that_is_not_there_is_refused():
    """No GPU here: asked for, it is an error; a number of one neither."""
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ConfigError, match="torch sees none"):
        chosen("auto", accelerator="gpu", devices=1, num_nodes=1, precision="32-true")


def test_what_an_accelerator_may_be_called():
    """None is ``"auto"``; the error for another one lists all that there are."""
    both = [
        chosen("auto", accelerator=name, devices=1, num_nodes=1, precision="32-true").device for name in ("auto", None)
    ]
    assert both[0] == both[1]
    with pytest.raises(ConfigError, match="accelerator is 'auto', 'cpu', 'gpu' or 'cuda', not 'tpu'"):
        chosen("auto", accelerator="tpu", devices=1, num_nodes=1, precision="32-true")


def test_options_reach_the_strategy():
    """Timeouts, backends and torch's own arguments."""
    found = choose(DDPStrategy(timeout=timedelta(seconds=7), process_group_backend="mpi", static_graph=True), devices=2)
    assert (found._timeout, found._backend, found._options) == (timedelta(seconds=7), "mpi", {"static_graph": True})
    with pytest.raises(ConfigError, match="start_method"):
        DDPStrategy(start_method="telepathy")


def test_every_name_makes_a_strategy():
    """No name in the table is only a name."""
    for name in NAMES:
        strategy = choose(name, devices=1)
        assert isinstance(strategy.precision, Precision)


@pytest.mark.parametrize(
    ("strategy", "asked"),
    [("single_device", SingleDeviceStrategy), ("ddp", DDPStrategy), ("ddp_spawn", DDPStrategy), ("fsdp", FSDPStrategy)],
)
def test_what_runs_is_an_instance_of_what_asks_for_it(strategy, asked):
    """So that programs can ask ``isinstance(trainer.strategy, DDPStrategy)``; and of no other."""
    found = choose(strategy, devices=1)
    kinds = (SingleDeviceStrategy, DDPStrategy, FSDPStrategy)
    assert [kind for kind in kinds if isinstance(found, kind)] == [asked]
    assert [kind for kind in kinds if isinstance(asked(), kind)] == [asked]
    several = asked is not SingleDeviceStrategy
    for one in (found, asked()):
        assert (isinstance(one, AnyStrategy), isinstance(one, ParallelStrategy)) == (True, several)
    assert not isinstance(object(), AnyStrategy)


def test_what_another_trainer_runs_on_is_not_taken():
    """It is bound to that trainer's run."""
    with pytest.raises(ConfigError, match="not what another Trainer runs on"):
        choose(choose("ddp", devices=2))
