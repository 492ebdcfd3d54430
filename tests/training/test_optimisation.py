"""The weights after a fit are those of a plain loop, bit for bit, whatever the optimisation."""

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau, StepLR

from fitting import Net, loader, net, trainer, weights
from holdfast import ConfigError
from holdfast.callbacks import ModelCheckpoint
from holdfast.state.optimizers import configured


def adam(module):
    return torch.optim.AdamW(module.parameters(), lr=0.01)


def scheduled(module):
    optimizer = adam(module)
    return [optimizer], [{"scheduler": StepLR(optimizer, 1, gamma=0.5), "interval": "step"}, StepLR(optimizer, 1)]


def test_clipping_schedulers_and_accumulation_are_those_of_a_plain_loop(tmp_path):
    """Five batches, two to a step, clipped, one scheduler by step and one by epoch: equal weights and rates."""
    ours = net(scheduled)
    trainer(tmp_path, max_epochs=3, accumulate_grad_batches=2, gradient_clip_val=0.5).fit(ours, loader(5), loader(2))

    plain = net(scheduled)
    (optimizer,), (by_step, by_epoch) = plain.configure_optimizers()
    by_step = by_step["scheduler"]
    for _ in range(3):
        for i, batch in enumerate(loader(5)):
            if i % 2 == 0:
                optimizer.zero_grad()
            (plain.loss(batch) / 2).backward()
            if i % 2 == 1 or i == 4:
                nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
                optimizer.step()
                by_step.step()
        by_epoch.step()

    assert torch.equal(weights(ours), weights(plain))
    assert ours.trainer.optimizers[0].param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]


def test_clipping_by_value(tmp_path):
    """``gradient_clip_algorithm="value"`` clamps each gradient."""
    ours = net()
    trainer(tmp_path, max_epochs=1, gradient_clip_val=0.01, gradient_clip_algorithm="value").fit(ours, loader())

    plain = net()
    optimizer = plain.configure_optimizers()
    for batch in loader():
        optimizer.zero_grad()
        plain.loss(batch).backward()
        nn.utils.clip_grad_value_(plain.parameters(), 0.01)
        optimizer.step()

    assert torch.equal(weights(ours), weights(plain))


class Again(torch.optim.SGD):
    """One of a user's own, that evaluates its closure twice."""

    def step(self, closure):
        with torch.enable_grad():
            closure()
        super().step()
        with torch.enable_grad():
            closure()
        return super().step()


@pytest.mark.parametrize("kind", [torch.optim.LBFGS, Again])
def test_an_optimizer_may_evaluate_its_closure_again(kind, tmp_path):
    """LBFGS, and any class that is not torch's own, gets the closure."""

    def configure(module):
        return kind(module.parameters(), lr=0.1)

    ours = net(configure)
    run = trainer(tmp_path, max_epochs=2)
    run.fit(ours, loader())

    plain = net(configure)
    optimizer = plain.configure_optimizers()
    for _ in range(2):
        for batch in loader():

            def closure(batch=batch):
                optimizer.zero_grad()
                loss = plain.loss(batch)
                loss.backward()
                return loss

            optimizer.step(closure)

    assert torch.equal(weights(ours), weights(plain))
    assert run.global_step == 8


def test_a_step_of_ones_own_gets_the_closure(tmp_path):
    """``optimizer_step`` may compute every closure and step every second time."""

    class Own(Net):
        def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure=None):
            if batch_idx % 2:
                optimizer.step(closure=optimizer_closure)
            else:
                optimizer_closure()

    ours = net(kind=Own)
    run = trainer(tmp_path, max_epochs=1)
    run.fit(ours, loader())

    plain = net()
    optimizer = plain.configure_optimizers()
    for i, batch in enumerate(loader()):
        optimizer.zero_grad()
        plain.loss(batch).backward()
        if i % 2:
            optimizer.step()

    assert torch.equal(weights(ours), weights(plain))
    assert run.global_step == 2


def test_a_batch_without_a_loss_adds_nothing_to_its_step(tmp_path):
    """With two batches to a step, the gradients of the other one are stepped with, and none of the step before."""

    class Choosy(Net):
        def training_step(self, batch, batch_idx):
            return None if batch_idx in (0, 3) else self.loss(batch)

    ours = net(kind=Choosy)
    run = trainer(tmp_path, max_epochs=1, accumulate_grad_batches=2)
    run.fit(ours, loader(4))

    plain = net()
    optimizer = plain.configure_optimizers()
    for i, batch in enumerate(loader(4)):
        if i in (1, 2):
            optimizer.zero_grad()
            (plain.loss(batch) / 2).backward()
            optimizer.step()

    assert torch.equal(weights(ours), weights(plain))
    assert run.global_step == 2


class TwoSided(Net):
    """Manual optimisation of two halves, as adversaries are trained."""

    def __init__(self, configure=None):
        super().__init__(configure)
        self.automatic_optimization = False
        self.asked = []

    def training_step(self, batch, batch_idx):
        for optimizer in self.optimizers():
            with self.toggled_optimizer(optimizer):
                self.asked.append([p.requires_grad for p in self.parameters()])
                loss = self.loss(batch)
                optimizer.zero_grad()
                self.manual_backward(loss)
                self.clip_gradients(optimizer, gradient_clip_val=0.5, gradient_clip_algorithm="norm")
                optimizer.step()
        for scheduler in self.lr_schedulers():
            scheduler.step()

    def configure_optimizers(self):
        halves = [self.layers[0], self.layers[2]]
        optimizers = [torch.optim.SGD(half.parameters(), lr=0.1, momentum=0.9) for half in halves]
        return optimizers, [LambdaLR(o, lambda step: 0.9**step) for o in optimizers]


def test_manual_optimisation_steps_two_optimizers(tmp_path):
    """Each half asks for gradients in its own turn only; ``global_step`` counts the steps of both."""
    ours = net(kind=TwoSided)
    run = trainer(tmp_path, max_epochs=2)
    run.fit(ours, loader())

    plain = net()
    optimizers, schedulers = TwoSided.configure_optimizers(plain)
    for _ in range(2):
        for batch in loader():
            for optimizer, half in zip(optimizers, (plain.layers[0], plain.layers[2]), strict=True):
                plain.zero_grad()
                plain.loss(batch).backward()
                nn.utils.clip_grad_norm_(half.parameters(), 0.5)
                optimizer.step()
            for scheduler in schedulers:
                scheduler.step()

    assert torch.equal(weights(ours), weights(plain))
    assert run.global_step == 16
    assert ours.asked[:2] == [[True, True, False, False], [False, False, True, True]]
    assert all(p.requires_grad for p in ours.parameters())


def test_the_optimizers_of_a_module_are_optimizers(tmp_path):
    """What ``optimizers()`` returns passes for the class that it wraps, and toggles by itself."""
    found = {}

    class Asking(TwoSided):
        def training_step(self, batch, batch_idx):
            first, _ = self.optimizers()
            found["is"] = isinstance(first, torch.optim.SGD)
            found["groups"] = first.param_groups is first.optimizer.param_groups
            with first.toggle_model():
                found["asked"] = [p.requires_grad for p in self.parameters()]

    trainer(tmp_path, max_epochs=1).fit(net(kind=Asking), loader(1))

    assert found == {"is": True, "groups": True, "asked": [True, True, False, False]}


SCHEDULES = {
    "epoch": ({}, [4, 8]),
    "every second epoch": ({"frequency": 2}, [8]),
    "step": ({"interval": "step"}, [1, 2, 3, 4, 5, 6, 7, 8]),
    "every third batch of an epoch": ({"interval": "step", "frequency": 3}, [3, 7]),
    "plateau by epoch": ({"monitor": "val_loss"}, [4, 8]),
    "plateau by step": ({"monitor": "train_loss", "interval": "step", "frequency": 2}, [2, 4, 6, 8]),
    "any that wants a metric": ({"monitor": "train_loss", "reduce_on_plateau": True, "plain": True}, [4, 8]),
}


@pytest.mark.parametrize("case", SCHEDULES)
def test_schedulers_step_when_they_are_due(case, tmp_path):
    """By epoch, by step, at a frequency, on a metric: the steps at which each is stepped, and with what."""
    options, expected = SCHEDULES[case]
    steps = []

    class Noting(Net):
        def lr_scheduler_step(self, scheduler, metric):
            steps.append((self.global_step, metric is not None))

    def configure(module):
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        plateau = "monitor" in options and "plain" not in options
        scheduler = ReduceLROnPlateau(optimizer) if plateau else StepLR(optimizer, 1)
        config = {k: v for k, v in options.items() if k != "plain"}
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, **config}}

    trainer(tmp_path, max_epochs=2).fit(net(configure, Noting), loader(4), loader(1))

    assert steps == [(step, "monitor" in options) for step in expected]


def test_a_plateau_reduces_the_rate(tmp_path):
    """``ReduceLROnPlateau`` with patience 0 reduces when the metric does not fall."""

    class Worse(Net):
        def validation_step(self, batch, batch_idx):
            self.log("val_loss", float(self.current_epoch))

    def configure(module):
        optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
        scheduler = ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
        return {"optimizer": optimizer, "lr_scheduler": scheduler, "monitor": "val_loss"}

    module = net(configure, Worse)
    trainer(tmp_path, max_epochs=3).fit(module, loader(1), loader(1))

    assert module.trainer.optimizers[0].param_groups[0]["lr"] == 0.25


def test_a_metric_that_a_scheduler_misses_is_named(tmp_path):
    """The error says what was logged; ``strict=False`` passes over it."""

    def configure(strict):
        def made(module):
            optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
            config = {"scheduler": ReduceLROnPlateau(optimizer), "monitor": "nothing", "strict": strict}
            return {"optimizer": optimizer, "lr_scheduler": config}

        return made

    with pytest.raises(ConfigError, match=r"'nothing', which was not logged\. Logged so far: train_loss"):
        trainer(tmp_path, max_epochs=1).fit(net(configure(True)), loader(1))
    trainer(tmp_path, max_epochs=1).fit(net(configure(False)), loader(1))


def forms():
    one, two = (torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1) for _ in range(2))
    first, second = StepLR(one, 1), ReduceLROnPlateau(two)
    by_step = {"scheduler": first, "interval": "step", "frequency": 2, "name": "rate"}
    return {
        "none": (None, 0, []),
        "one": (one, 1, []),
        "list": ([one, two], 2, []),
        "tuple": ((one, two), 2, []),
        "two lists": (([one], [first]), 1, [("epoch", 1, None)]),
        "two lists, none scheduled": (([one, two], []), 2, []),
        "lists with a dict": (([one], [by_step]), 1, [("step", 2, None)]),
        "dict": ({"optimizer": one}, 1, []),
        "dict with a scheduler": ({"optimizer": one, "lr_scheduler": first}, 1, [("epoch", 1, None)]),
        "dict without one": ({"optimizer": one, "lr_scheduler": None}, 1, []),
        "dict in a dict": ({"optimizer": one, "lr_scheduler": by_step}, 1, [("step", 2, None)]),
        "monitor outside": (
            {"optimizer": two, "lr_scheduler": second, "monitor": "loss"}, 1, [("epoch", 1, "loss")],
        ),
        "several dicts": (
            ({"optimizer": one, "lr_scheduler": first}, {"optimizer": two}), 2, [("epoch", 1, None)],
        ),
    }  # fmt: skip


@pytest.mark.parametrize("form", forms())
def test_optimizers_come_in_every_form(form):
    """Each form that users know gives the optimizers and when their schedulers step."""
    returned, count, schedules = forms()[form]
    optimizers, configs = configured(returned)

    assert len(optimizers) == count
    assert [(c.interval, c.frequency, c.monitor) for c in configs] == schedules


SGD = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        ("adam", "returned a str"),
        ([SGD, 3], "int where an optimizer belongs"),
        ({"optimiser": SGD}, "no optimizer under 'optimizer'"),
        ({"optimizer": SGD, "schedule": 1}, "not known: schedule"),
        ({"optimizer": SGD, "lr_scheduler": {"interval": "step"}}, "no 'scheduler'"),
        ({"optimizer": SGD, "lr_scheduler": {"scheduler": StepLR(SGD, 1), "interval": "batch"}}, "not every 1 'batch'"),
        ({"optimizer": SGD, "lr_scheduler": {"scheduler": StepLR(SGD, 1), "frequency": 0.5}}, "not every 0.5 'epoch'"),
        ({"optimizer": SGD, "lr_scheduler": ReduceLROnPlateau(SGD)}, "ReduceLROnPlateau needs a metric"),
        (([SGD], [SGD.zero_grad]), "where a scheduler belongs"),
    ],
)
def test_what_is_no_optimizer_is_refused(returned, says):
    """The error says what was returned."""
    with pytest.raises(ConfigError, match=says):
        configured(returned)


class Noting(torch.optim.SGD):
    """An optimizer with a ``zero_grad`` of its own."""

    cleared = 0

    def zero_grad(self, set_to_none=True):
        self.cleared += 1
        super().zero_grad(set_to_none)


def test_an_optimizers_own_way_to_clear_gradients_is_used(tmp_path):
    """Torch's own is passed over for what it does; one that somebody wrote is called before each backward pass."""
    ours = net(lambda module: Noting(module.parameters(), lr=0.1))
    trainer(tmp_path, max_epochs=1).fit(ours, loader(4))
    assert ours.trainer.optimizers[0].cleared == 4


def test_steps_are_counted_where_there_is_no_optimizer(tmp_path):
    """As if one had stepped: what goes by steps, limits and names of files among it, goes on."""
    saves = ModelCheckpoint(tmp_path / "files", every_n_train_steps=2, save_top_k=-1)
    ours = net(lambda module: None)
    runs = trainer(tmp_path, max_steps=5, accumulate_grad_batches=2, callbacks=[saves], enable_checkpointing=True)
    runs.fit(ours, loader(4))
    assert (runs.global_step, runs.current_epoch) == (5, 3)
    assert sorted(path.name for path in (tmp_path / "files").glob("*.ckpt")) == [
        "epoch=0-step=2.ckpt",
        "epoch=1-step=4.ckpt",
    ]
    assert torch.equal(weights(ours), weights(net()))


def test_gradients_that_nobody_clears_add_up(tmp_path):
    """A module whose ``optimizer_zero_grad`` does nothing goes on as a plain loop without ``zero_grad``."""

    class Piling(Net):
        def optimizer_zero_grad(self, epoch, batch_idx, optimizer):
            pass

    ours = net(kind=Piling)
    trainer(tmp_path, max_epochs=1).fit(ours, loader(3))

    plain = net()
    optimizer = plain.configure_optimizers()
    for batch in loader(3):
        plain.loss(batch).backward()
        optimizer.step()
    assert torch.equal(weights(ours), weights(plain))
