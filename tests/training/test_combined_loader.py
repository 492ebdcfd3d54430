"""CombinedLoader: what it gives by itself, and what a trainer makes of it."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader

from holdfast import LightningModule, Trainer
from holdfast.errors import ConfigError
from holdfast.training.combined_loader import CombinedLoader

SHORT, LONG = DataLoader(range(2), batch_size=1), DataLoader(range(10, 15), batch_size=2)


def plain(batch):
    """A batch as lists."""
    if isinstance(batch, torch.Tensor):
        return batch.tolist()
    if isinstance(batch, dict):
        return {key: plain(value) for key, value in batch.items()}
    return [plain(value) for value in batch] if isinstance(batch, (list, tuple)) else batch


GIVES = {
    "min_size": [({"a": [0], "b": [10, 11]}, 0, 0), ({"a": [1], "b": [12, 13]}, 1, 0)],
    "max_size": [
        ({"a": [0], "b": [10, 11]}, 0, 0), ({"a": [1], "b": [12, 13]}, 1, 0), ({"a": None, "b": [14]}, 2, 0),
    ],
    "max_size_cycle": [
        ({"a": [0], "b": [10, 11]}, 0, 0), ({"a": [1], "b": [12, 13]}, 1, 0), ({"a": [0], "b": [14]}, 2, 0),
    ],
    "sequential": [([0], 0, 0), ([1], 1, 0), ([10, 11], 0, 1), ([12, 13], 1, 1), ([14], 2, 1)],
}  # fmt: skip


@pytest.mark.parametrize("mode", GIVES)
def test_it_gives_batches_with_their_index_and_their_loaders(mode):
    """As often as it is asked, and as many as it says."""
    loader = CombinedLoader({"a": SHORT, "b": LONG}, mode)
    for _ in range(2):
        assert [(plain(batch), number, index) for batch, number, index in loader] == GIVES[mode]
    assert len(loader) == len(GIVES[mode])


def test_batches_have_the_shape_of_what_was_given():
    """However deep."""
    loader = CombinedLoader([SHORT, {"x": (LONG, SHORT)}])
    assert plain(next(iter(loader))[0]) == [[0], {"x": [[10, 11], [0]]}]
    assert loader.flattened == [SHORT, LONG, SHORT]
    assert plain(next(iter(CombinedLoader(LONG)))[0]) == [10, 11]


class Seen(LightningModule):
    """Remembers what its steps were given."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append(plain(batch))
        return self.layer(torch.ones(1)).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Validated(Seen):
    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.seen.append((plain(batch), batch_idx, dataloader_idx))


QUIET = {
    "accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
    "enable_checkpointing": False,
}  # fmt: skip


@pytest.mark.parametrize("mode", ["min_size", "max_size", "max_size_cycle"])
def test_a_fit_trains_on_what_it_gives(mode):
    """A batch of each loader in every step, for as many steps as the mode says."""
    model = Seen()
    trainer = Trainer(max_epochs=2, **QUIET)
    trainer.fit(model, CombinedLoader({"a": SHORT, "b": LONG}, mode))
    assert model.seen == 2 * [batch for batch, _, _ in GIVES[mode]]
    assert trainer.num_training_batches == len(GIVES[mode])


@pytest.mark.parametrize("mode", ["max_size", "min_size"])
def test_a_fit_that_was_interrupted_goes_on_where_it_was(mode, tmp_path):
    """After the second batch of three, also where one of the loaders is over."""
    data = CombinedLoader({"a": DataLoader(range(2)), "b": DataLoader(range(5))}, mode)
    whole, parts = Seen(), Seen()
    Trainer(max_epochs=2, **QUIET).fit(whole, data)
    count = len(data)
    first = Trainer(max_steps=count + count - 1, **QUIET)
    first.fit(parts, data)
    first.save_checkpoint(tmp_path / "x.ckpt")
    again = Seen()
    Trainer(max_epochs=2, **QUIET).fit(again, data, ckpt_path=tmp_path / "x.ckpt")
    assert parts.seen + again.seen == whole.seen


def test_a_validation_reads_loaders_one_after_the_other_or_together():
    """In sequence the step is told which loader it is; side by side it gets a batch of each."""
    model = Validated()
    Trainer(**QUIET).validate(model, CombinedLoader({"a": SHORT, "b": LONG}, "sequential"), verbose=False)
    assert model.seen == GIVES["sequential"]
    model.seen.clear()
    Trainer(**QUIET).validate(model, CombinedLoader({"a": SHORT, "b": LONG}, "max_size"), verbose=False)
    assert model.seen == GIVES["max_size"]


def test_what_cannot_be_is_refused():
    """A mode that there is not, and training in sequence."""
    with pytest.raises(ConfigError, match="mode is one of 'min_size'"):
        CombinedLoader([SHORT], "longest")
    with pytest.raises(ConfigError, match="CombinedLoader with mode='sequential'"):
        Trainer(max_epochs=1, **QUIET).fit(Seen(), CombinedLoader([SHORT, LONG], "sequential"))
