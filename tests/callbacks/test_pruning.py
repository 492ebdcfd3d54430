"""What is pruned stays pruned after a resume, and the files hold plain weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import holdfast as L
from holdfast.callbacks import ModelPruning
from holdfast.errors import ConfigError
from resuming import at_ends, differing
from sameness import same
from small_fits import Net, fit, read


class Decaying(Net):
    """Its optimizer moves what the masks hide too."""

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.05, weight_decay=0.5)


KINDS = {
    "global": lambda: ModelPruning("l1_unstructured", amount=0.3),
    "without lottery": lambda: ModelPruning("l1_unstructured", amount=4, use_lottery_ticket_hypothesis=False),
    "one by one, drawn": lambda: ModelPruning("random_unstructured", amount=0.3, use_global_unstructured=False),
    "rows": lambda: ModelPruning(
        "ln_structured", amount=0.1, use_global_unstructured=False, pruning_dim=0, pruning_norm=2,
        parameter_names=["weight"],
    ),
    "resampled": lambda: ModelPruning("l1_unstructured", amount=0.3, resample_parameters=True),
    "not permanent": lambda: ModelPruning("l1_unstructured", amount=0.3, make_pruning_permanent=False),
    "after validations": lambda: ModelPruning("l1_unstructured", amount=0.3, prune_on_train_epoch_end=False),
}  # fmt: skip


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_a_run_resumed_from_any_step_is_pruned_as_it_was(make, tmp_path):
    """Masks, what they hide, and the weights of the run's beginning, though a resume begins with others."""
    wrong, files = differing(tmp_path, make, net=Decaying)
    assert wrong == []
    assert files == 12


def test_files_hold_plain_weights_with_zeros_while_training_keeps_its_masks(tmp_path):
    """They load into the module as it was written; what the fit leaves is plain too."""
    trainer = fit(tmp_path, ModelPruning("l1_unstructured", amount=0.5), at_ends(tmp_path), max_epochs=1)
    state = read(tmp_path / "step=4.ckpt")["state_dict"]
    assert list(state) == list(Net().state_dict())
    total = sum(value.numel() for value in state.values())
    assert sum(int((value == 0).sum()) for value in state.values()) == round(total / 2)
    assert same(dict(Net.load_from_checkpoint(tmp_path / "step=4.ckpt").state_dict()), dict(state))
    assert same(dict(trainer.lightning_module.state_dict()), {name: state[name] for name in Net().state_dict()})


def test_pruning_that_is_not_permanent_is_saved_as_torch_has_it(tmp_path):
    """Weights and masks beside each other, in the file and in the module."""
    pruning = ModelPruning("l1_unstructured", make_pruning_permanent=False, parameter_names=["weight"])
    trainer = fit(tmp_path, pruning, at_ends(tmp_path), max_epochs=1)
    state = read(tmp_path / "step=4.ckpt")["state_dict"]
    assert {"layers.0.weight_orig", "layers.0.weight_mask"} < set(state)
    assert set(state) == set(trainer.lightning_module.state_dict())


def test_weights_go_back_to_those_of_the_beginning(tmp_path):
    """Each time anew: the first ticket does not become the beginning of the second."""
    L.seed_everything(1)
    first = Net().layers[0].weight.detach().clone()
    found = []

    class Looks(L.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            layer = pl_module.layers[0]
            if hasattr(layer, "weight_orig"):
                found.append(torch.equal(layer.weight_orig, first))

    fit(tmp_path, ModelPruning("l1_unstructured", amount=0.2), Looks(), max_epochs=4)
    assert found == [True, True, True]


def test_amount_and_whether_to_prune_may_be_functions_of_the_epoch(tmp_path):
    """Called at each epoch's end."""
    shares = []

    class Looks(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            mask = getattr(pl_module.layers[0], "weight_mask", None)
            if batch_idx == 0:
                shares.append(0 if mask is None else int((mask == 0).sum()))

    pruning = ModelPruning(
        "l1_unstructured", parameter_names=["weight"], use_global_unstructured=False,
        use_lottery_ticket_hypothesis=False, amount=lambda epoch: epoch + 1, apply_pruning=lambda epoch: epoch != 1,
    )  # fmt: skip
    fit(tmp_path, pruning, Looks(), max_epochs=4)
    assert shares == [0, 1, 1, 4]


def test_only_the_parameters_that_were_asked_for_are_pruned(tmp_path):
    """By pairs, and less what a subclass filters."""

    class Mine(ModelPruning):
        def filter_parameters_to_prune(self, parameters_to_prune=()):
            return [pair for pair in parameters_to_prune if pair[1] == "bias"]

    net = Net()
    pairs = [(net.layers[0], "weight"), (net.layers[0], "bias")]
    pruning = Mine("l1_unstructured", pairs, make_pruning_permanent=False)
    fit(tmp_path, pruning, net=net, max_epochs=1)
    assert [n for n in net.state_dict() if n.endswith("_mask")] == ["layers.0.bias_mask"]


def test_a_method_of_ones_own_prunes(tmp_path):
    """The class, and all parameters at once."""

    class Odd(prune.BasePruningMethod):
        PRUNING_TYPE = "unstructured"

        def compute_mask(self, t, default_mask):
            mask = default_mask.clone()
            mask.view(-1)[1::2] = 0
            return mask

    pruning = ModelPruning(Odd, parameter_names=["bias"], use_lottery_ticket_hypothesis=False)
    trainer = fit(tmp_path, pruning, max_epochs=1)
    assert trainer.lightning_module.layers[0].bias[1::2].tolist() == [0] * 4


def test_it_says_how_much_is_pruned(tmp_path, caplog):
    """In all, and of each parameter."""
    pruning = ModelPruning("l1_unstructured", amount=0.5, parameter_names=["weight"], verbose=2)
    fit(tmp_path, pruning, max_epochs=1)
    assert "pruned 20 of 40 weights (50.00%), 20 more" in caplog.text
    assert "layers.0.weight: " in caplog.text


def test_a_mid_epoch_file_in_a_window_of_accumulation_keeps_its_gradients(tmp_path):
    """They are those of the masked parameters."""

    def make():
        return ModelPruning("l1_unstructured", amount=0.3)

    def each_batch(folder):
        from datetime import timedelta

        return L.callbacks.ModelCheckpoint(folder, "{step}", train_time_interval=timedelta(0), save_top_k=-1)

    wrong, files = differing(tmp_path, make, net=Decaying, saver=each_batch, accumulate_grad_batches=3)
    assert wrong == []
    assert files > 6, "some are in the middle of a step"


REFUSED = {
    "name": ({"pruning_fn": "least"}, "pruning_fn"),
    "thing": ({"pruning_fn": 3}, "pruning_fn"),
    "dimension": ({"pruning_fn": "random_structured", "use_global_unstructured": False}, "pruning_dim"),
    "norm": ({"pruning_fn": "ln_structured", "use_global_unstructured": False, "pruning_dim": 0}, "pruning_norm"),
    "global rows": ({"pruning_fn": "random_structured", "pruning_dim": 0}, "use_global_unstructured=False"),
    "own, local": ({"pruning_fn": prune.Identity, "use_global_unstructured": False}, "use_global_unstructured=True"),
    "parameters": ({"pruning_fn": "l1_unstructured", "parameter_names": ["scale"]}, "parameter_names"),
    "amount": ({"pruning_fn": "l1_unstructured", "amount": "half"}, "amount"),
    "verbose": ({"pruning_fn": "l1_unstructured", "verbose": 3}, "verbose"),
}


@pytest.mark.parametrize(("options", "named"), REFUSED.values(), ids=REFUSED)
def test_arguments_that_make_no_sense_are_refused(options, named):
    """By name, before anything runs."""
    with pytest.raises(ConfigError, match=named):
        ModelPruning(**options)


def test_parameters_of_another_module_are_refused(tmp_path):
    """When the fit begins."""
    with pytest.raises(ConfigError, match="Linear is no part"):
        fit(tmp_path, ModelPruning("l1_unstructured", [(nn.Linear(2, 2), "weight")]))


def test_a_module_that_was_pruned_goes_on_from_its_own_files(tmp_path):
    """Its parameters are in the order in which it was written, by which its optimizers know them."""

    def weights_alone():
        return ModelPruning("l1_unstructured", parameter_names=["weight"])

    trainer = fit(tmp_path, weights_alone(), at_ends(tmp_path), max_epochs=2)
    net = trainer.lightning_module
    assert list(net.state_dict()) == list(Net().state_dict())
    whole = fit(tmp_path / "b", weights_alone(), max_epochs=3)
    again = fit(tmp_path / "c", weights_alone(), net=net, ckpt_path=tmp_path / "step=8.ckpt", max_epochs=3)
    assert same(dict(again.lightning_module.state_dict()), dict(whole.lightning_module.state_dict()))
