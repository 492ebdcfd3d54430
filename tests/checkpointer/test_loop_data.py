"""A loop of one's own goes on in its data: the loader is given to ``resume``, and iterated by ``batches``."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler
from torchdata.stateful_dataloader import StatefulDataLoader

from holdfast import Checkpointer, ConfigError, every
from loader_cases import Augmented, Numbers, Stream, plain, seeded

pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")

EPOCHS = 3
LOADERS = {
    "shuffled": lambda: DataLoader(Numbers(), 4, shuffle=True),
    "augmented": lambda: DataLoader(Augmented(), 4, shuffle=True),
    "by a generator": lambda: DataLoader(Numbers(), 4, shuffle=True, generator=seeded()),
    "batches": lambda: DataLoader(Numbers(), batch_sampler=BatchSampler(RandomSampler(range(23)), 4, drop_last=True)),
    "workers that stay": lambda: DataLoader(Augmented(), 4, shuffle=True, num_workers=1, persistent_workers=True),
    "stateful": lambda: StatefulDataLoader(Numbers(), 4, shuffle=True),
}


class Stopped(Exception):
    """The machine is gone."""


def train(folder, make, seed, *, stop_at=None, accumulate=1, limit=None, validates=False):
    """What a loop trains on, up to a number of steps; it draws between the batches, as dropout does."""
    random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
    loader, seen = make(), []
    model = torch.nn.Linear(1, 1)
    with Checkpointer(folder, when=every(steps=1)) as ckpt:
        start = ckpt.resume(model=model, loader=loader)
        for epoch in range(start.epochs, EPOCHS):
            for number, batch in enumerate(ckpt.batches(loader), 1):
                seen.append((epoch, plain(batch), torch.rand(()).item(), random.random()))
                if number % accumulate == 0:
                    ckpt.step()
                    if ckpt.progress.steps == stop_at:
                        raise Stopped
                if ckpt.progress.batch == limit:
                    break
            if validates:
                ckpt.validated({"loss": 1.0})
                if stop_at == -epoch:
                    raise Stopped
            ckpt.epoch_end()
    return seen


def gone_on(folder, make, stop_at, **options):
    with pytest.raises(Stopped):
        train(folder, make, 1, stop_at=stop_at, **options)
    return train(folder, make, 99, **options)


@pytest.mark.parametrize("kind", LOADERS)
def test_a_loop_goes_on_in_its_data(kind, tmp_path):
    """From the middle of an epoch, its last batch, and the one before."""
    whole = train(tmp_path / "whole", LOADERS[kind], 1)
    batches = len(LOADERS[kind]())
    for stop_at in (2, batches - 1, batches, batches + 2):
        rest = gone_on(tmp_path / str(stop_at), LOADERS[kind], stop_at)
        assert rest == whole[stop_at:], stop_at


def test_batches_are_counted_where_steps_are_not_batches(tmp_path):
    """Two batches a step."""
    whole = train(tmp_path / "whole", LOADERS["shuffled"], 1, accumulate=2)
    assert gone_on(tmp_path / "b", LOADERS["shuffled"], 2, accumulate=2) == whole[4:]
    assert gone_on(tmp_path / "c", LOADERS["shuffled"], 4, accumulate=2) == whole[8:]


def test_an_epoch_that_is_left_early_is_left(tmp_path):
    """The next one begins anew."""
    whole = train(tmp_path / "whole", LOADERS["by a generator"], 1, limit=4)
    assert len(whole) == EPOCHS * 4
    for stop_at in (3, 5):
        rest = gone_on(tmp_path / str(stop_at), LOADERS["by a generator"], stop_at, limit=4)
        assert rest == whole[stop_at:]


def test_an_epoch_whose_batches_are_done_has_none_left(tmp_path):
    """Saved by the validation after it, before its end was said: what follows is that end, not the epoch once more."""
    whole = train(tmp_path / "whole", LOADERS["shuffled"], 1, validates=True)
    rest = gone_on(tmp_path / "b", LOADERS["shuffled"], -1, validates=True)
    assert rest == whole[12:]


def test_two_loaders_go_on_side_by_side(tmp_path):
    """Each has its own place."""

    def train_two(folder, seed, stop_at=None):
        torch.manual_seed(seed)
        images, texts = LOADERS["shuffled"](), DataLoader(Numbers(18), 3, shuffle=True)
        seen = []
        with Checkpointer(folder, when=every(steps=1)) as ckpt:
            start = ckpt.resume(model=torch.nn.Linear(1, 1), images=images, texts=texts)
            for _ in range(start.epochs, EPOCHS):
                for image, text in zip(ckpt.batches(images), ckpt.batches(texts), strict=True):
                    seen.append((plain(image), plain(text)))
                    ckpt.step()
                    if ckpt.progress.steps == stop_at:
                        raise Stopped
                ckpt.epoch_end()
        return seen

    whole = train_two(tmp_path / "whole", 1)
    with pytest.raises(Stopped):
        train_two(tmp_path / "b", 1, stop_at=8)
    assert train_two(tmp_path / "b", 2) == whole[8:]


def test_a_stream_without_state_is_said_to_be_inexact(tmp_path):
    """Once, when its rest is asked for."""

    def make():
        return DataLoader(Stream(), 4)

    with pytest.raises(Stopped):
        train(tmp_path, make, 1, stop_at=3)
    with pytest.warns(UserWarning, match="Stream is an iterable dataset without state") as said:
        train(tmp_path, make, 2)
    assert len(said) == 1


class Kept(IterableDataset):
    """A stream with a state."""

    at = 0

    def __iter__(self):
        while self.at < 20:
            self.at += 1
            yield self.at
        self.at = 0

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


def test_a_dataset_with_a_state_goes_on(tmp_path):
    """Without reading again."""
    whole = train(tmp_path / "whole", lambda: DataLoader(Kept(), 4), 1)
    for stop_at in (2, 5, 6):
        assert gone_on(tmp_path / str(stop_at), lambda: DataLoader(Kept(), 4), stop_at) == whole[stop_at:]


def test_a_loader_that_resume_was_not_given_is_refused(tmp_path):
    """With what to write."""
    with Checkpointer(tmp_path, when=every(steps=1)) as ckpt:
        ckpt.resume(model=torch.nn.Linear(1, 1))
        with pytest.raises(ConfigError, match=r"DataLoader that resume\(\) was not.*resume\(model=model"):
            ckpt.batches(LOADERS["shuffled"]())


def test_a_loader_with_a_state_may_be_iterated_by_itself(tmp_path):
    """Its state is saved as it gives it, and given back."""

    def train_by_itself(seed, stop_at=None):
        torch.manual_seed(seed)
        loader, seen = LOADERS["stateful"](), []
        with Checkpointer(tmp_path / "b", when=every(steps=1)) as ckpt:
            ckpt.resume(model=torch.nn.Linear(1, 1), loader=loader)
            for batch in loader:
                seen.append(plain(batch))
                ckpt.step()
                if ckpt.progress.steps == stop_at:
                    raise Stopped
        return seen

    torch.manual_seed(1)
    whole = [plain(batch) for batch in LOADERS["stateful"]()]
    with pytest.raises(Stopped):
        train_by_itself(1, stop_at=2)
    assert train_by_itself(2) == whole[2:]
