"""Bad input is refused when a trainer is made or a fit starts, all of it in one error."""

import pytest
import torch

import holdfast
from fitting import Net, Unsized, loader, net, trainer
from holdfast import ConfigError
from holdfast.callbacks import ModelCheckpoint


def test_all_problems_come_in_one_error():
    """Numbers, devices, precision, callbacks, loggers and what this version lacks, together."""
    with pytest.raises(ConfigError) as caught:
        holdfast.Trainer(
            max_epochs=-3, accelerator="abacus", precision="8", callbacks=[3], logger="csv", strategy="dp", num_nodes=0,
            profiler=3,
        )  # fmt: skip

    for part in (
        "max_epochs",
        "abacus",
        "not int",
        "logger=",
        "strategy='dp'",
        "num_nodes",
        "profiler=",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_steps": -2}, "max_steps is a whole number of at least -1, not -2"),
        ({"max_epochs": 1.5}, "max_epochs is a whole number"),
        ({"max_time": "1 hour"}, "max_time: '1 hour' is not DD:HH:MM:SS"),
        ({"max_time": 3600}, "max_time: 3600 is not DD:HH:MM:SS, a timedelta or a dict"),
        ({"max_time": {"fortnights": 1}}, "max_time: {'fortnights': 1} is no duration"),
        ({"val_check_interval": [1]}, r"val_check_interval: \[1\] is not DD:HH:MM:SS"),
        ({"limit_train_batches": 1.5}, "limit_train_batches is a number of batches or a share"),
        ({"overfit_batches": -1}, "overfit_batches is a number of batches or a share"),
        ({"val_check_interval": 1.5}, "val_check_interval is a share of an epoch"),
        ({"val_check_interval": 0}, "val_check_interval is at least 1 batch"),
        ({"check_val_every_n_epoch": None}, "val_check_interval is a whole number then"),
        ({"accumulate_grad_batches": 0}, "accumulate_grad_batches is a whole number of at least 1"),
        ({"gradient_clip_val": "big"}, "gradient_clip_val is a number"),
        ({"gradient_clip_algorithm": "l1"}, "gradient_clip_algorithm is 'norm' or 'value'"),
        ({"save_memory": 0}, "save_memory is a number of bytes"),
        ({"fast_dev_run": -1}, "fast_dev_run is True, False or a number"),
        ({"reload_dataloaders_every_n_epochs": -1}, "reload_dataloaders_every_n_epochs is a whole number"),
        ({"callbacks": [ModelCheckpoint], "enable_checkpointing": True}, r"make one: ModelCheckpoint\(\)"),
        ({"callbacks": ModelCheckpoint()}, "enable_checkpointing=False contradicts"),
        ({"plugins": ["x"]}, r"plugins=\['x'\]: it takes a CheckpointIO and a SLURMEnvironment; "),
        ({"barebones": True, "fast_dev_run": True, "logger": True}, "barebones=True switches off what logger=True and"),
    ],
)
def test_arguments_that_cannot_work_are_named(options, says, tmp_path):
    """Each with what it should be."""
    with pytest.raises(ConfigError, match=says):
        trainer(tmp_path, **options)


def test_harmless_flags_are_accepted(tmp_path):
    """What scripts pass and what means nothing on one device."""
    run = trainer(
        tmp_path, max_epochs=1, strategy="auto", devices=1, num_nodes=1, use_distributed_sampler=False,
        sync_batchnorm=True, benchmark=False, deterministic=False, enable_autolog_hparams=False, profiler=None,
        plugins=None, precision=None, model_registry=None,
    )  # fmt: skip
    run.fit(net(), loader(1))

    assert run.precision == "32-true"
    assert (run.num_devices, run.num_nodes, run.world_size) == (1, 1, 1)


def manual(configure):
    module = net(configure)
    module.automatic_optimization = False
    return module


def two(module):
    return [torch.optim.SGD(module.layers[i].parameters(), lr=0.1) for i in (0, 2)]


@pytest.mark.parametrize(
    ("fit", "says"),
    [
        (lambda run: run().fit(3), "a LightningModule, not a int"),
        (
            lambda run: run().fit(holdfast.LightningModule()),
            "without training_step, configure_optimizers, train_dataloader",
        ),
        (lambda run: run().fit(net(), 3), "train dataloader is of type int, which cannot be iterated"),
        (lambda run: run().fit(net(), "data"), "train dataloader is of type str"),
        (lambda run: run().fit(net(), []), "train dataloader is empty"),
        (lambda run: run().fit(net(), loader(1), [loader(1), 3]), "val dataloader is of type int"),
        (lambda run: run().fit(net(), {"a": loader(1), "b": Unsized()}), "'b' has no length"),
        (lambda run: run(limit_train_batches=0.5).fit(net(), Unsized()), "has no length"),
        (lambda run: run(limit_train_batches=0.1).fit(net(), loader(4)), "is none at all"),
        (lambda run: run(val_check_interval=0.5).fit(net(), Unsized(), loader(1)), "has no length"),
        (lambda run: run(val_check_interval=9).fit(net(), loader(4), loader(1)), "more than the 4 batches of an epoch"),
        (lambda run: run().fit(net(), loader(1), datamodule=object()), "loaders or a datamodule, not both"),
        (lambda run: run().fit(net(two), loader(1)), "2 optimizers, and automatic optimisation steps one"),
        (
            lambda run: run(gradient_clip_val=1.0, accumulate_grad_batches=2).fit(manual(two), loader(1)),
            "gradient_clip_val .* accumulate_grad_batches",
        ),
    ],
)
def test_a_fit_that_cannot_work_is_refused_before_it_starts(fit, says, tmp_path):
    """No batch is trained on, and nothing is written."""
    with pytest.raises(ConfigError, match=says):
        fit(lambda **options: trainer(tmp_path, max_epochs=1, **options))
    assert list(tmp_path.iterdir()) == []


def test_a_loader_that_gives_nothing_is_named(tmp_path):
    """A generator is used up after one epoch."""
    batches = (batch for batch in loader(2))

    with pytest.raises(ConfigError, match=r"no batch in epoch 1\. .* a generator can be read only once"):
        trainer(tmp_path, max_epochs=2).fit(net(), batches)


def test_a_loss_that_is_none_is_named(tmp_path):
    """What ``training_step`` returned, and what it may return."""

    class Wrong(Net):
        def training_step(self, batch, batch_idx):
            return {"los": 1}

    with pytest.raises(ConfigError, match="returned dict without a loss tensor"):
        trainer(tmp_path, max_epochs=1).fit(net(kind=Wrong), loader(1))


def test_manual_backward_is_for_manual_optimisation(tmp_path):
    """Otherwise the gradients would be computed twice."""

    class Wrong(Net):
        def training_step(self, batch, batch_idx):
            self.manual_backward(self.loss(batch))

    with pytest.raises(ConfigError, match="automatic_optimization = False"):
        trainer(tmp_path, max_epochs=1).fit(net(kind=Wrong), loader(1))
