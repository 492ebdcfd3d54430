"""A run that goes on in a new process, seeded otherwise, trains on what it would have trained on: no sample twice."""

from __future__ import annotations

import re

import pytest
import torch
from torch.utils.data import DataLoader

import exact_fits
from exact_fits import EPOCHS, LOADERS, SAMPLES, START, Net, Rows, end_of, plain, run
from holdfast.callbacks import ModelCheckpoint
from sameness import same
from scale import sample

pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")


def begun(server, folder, kind, **options):
    """Where a run from the beginning ended, in a process of its own."""
    return in_child(server, folder, kind, 1, [""], options)[0]


def gone_on(server, folder, kind, steps, **options):
    """Where runs ended that went on at some steps, in a process of their own that was seeded otherwise."""
    names = [f"step={step}.ckpt" for step in steps]
    return dict(zip(steps, in_child(server, folder, kind, 99, names, options), strict=True))


def in_child(server, folder, kind, seed, checkpoints, options):
    out = folder / f"{seed}.pt"
    with server.start("exact_fits:main", str(folder), kind, seed, checkpoints, str(out), options) as child:
        assert child.wait() == 0
    return torch.load(out, weights_only=True)


def check(rest, whole, where):
    """The rest of a run against the whole of it."""
    for part in ("weights", "optimizer", "metrics"):
        assert same(rest[part], whole[part]), (where, part)
    assert rest["seen"] == whole["seen"][len(whole["seen"]) - len(rest["seen"]) :], where
    assert rest["validated"] == whole["validated"][len(whole["validated"]) - len(rest["validated"]) :], where


# In the middle of the first epoch, at the last batch of the second, in the middle of the last.
STOPS = (2, 10, 13)


@pytest.mark.torture
@pytest.mark.parametrize("kind", sample(list(LOADERS), 5))
def test_a_run_goes_on_in_its_data(kind, server, tmp_path):
    """Weights, optimizer, metrics, and the samples of every step; for every kind of loader."""
    whole = begun(server, tmp_path, kind)
    assert len(whole["seen"]) == EPOCHS * 5
    for step, rest in gone_on(server, tmp_path, kind, STOPS).items():
        assert len(rest["seen"]) == 15 - step
        check(rest, whole, step)
    (rest,) = in_child(server, tmp_path, kind, 99, [START], {})
    assert len(rest["seen"]) == 10
    check(rest, whole, START)


def samples(seen, epoch):
    return sorted(index for at, _, parts in seen if at == epoch for part in parts for index in part)


def test_pain_2_resuming_in_mid_epoch_replays_data(tmp_path):
    """Shuffled, seeded: of what is left, each sample comes once, and none that came before."""
    whole = end_of(run(tmp_path, "shuffled", 1))["seen"]
    for step in range(6, 10):
        rest = end_of(run(tmp_path, "shuffled", 2, f"step={step}.ckpt"))["seen"]
        before = [one for one in whole if one not in rest]
        assert samples(before + rest, 1) == list(range(SAMPLES))


def test_pain_22_resuming_reads_all_that_is_skipped(tmp_path):
    """Nothing that is done is read, and no more than what is left."""
    run(tmp_path, "shuffled", 1, limit_val_batches=0)
    exact_fits.READ.clear()
    run(tmp_path, "shuffled", 2, "step=13.ckpt", limit_val_batches=0)
    assert len(exact_fits.READ) == 2 * 4


def test_pain_23_the_order_is_wrong_after_the_first_epoch(tmp_path):
    """A sampler that is told its epoch is told the right one."""

    class Told(torch.utils.data.Sampler):
        epoch = None

        def set_epoch(self, epoch):
            self.epoch = epoch

        def __iter__(self):
            return iter([(index + self.epoch) % SAMPLES for index in range(SAMPLES)])

        def __len__(self):
            return SAMPLES

    def loader():
        return plain(shuffle=False, sampler=Told())

    whole = end_of(run(tmp_path, "", 1, loader=loader()))
    assert whole["seen"][5][2] == [[1, 2, 3, 4]]
    for step in (5, 7):
        check(end_of(run(tmp_path, "", 2, f"step={step}.ckpt", loader=loader())), whole, step)


def test_pain_24_the_state_of_a_stateful_loader_is_not_restored(server, tmp_path):
    """Given back before anything is iterated, whoever asks how many steps there are; what was read ahead is kept."""
    whole = begun(server, tmp_path, "stateful, workers")
    check(gone_on(server, tmp_path, "stateful, workers", [7])[7], whole, 7)


def test_pain_25_the_validation_after_resuming_runs_one_batch(tmp_path):
    """One that a signal or an error broke off runs whole, and so do all that follow."""

    class Breaking(Net):
        def validation_step(self, batch, batch_idx):
            super().validation_step(batch, batch_idx)
            if self.global_step == 8 and batch_idx == 1:
                raise RuntimeError("broken off")

    whole = end_of(run(tmp_path / "whole", "shuffled", 1))
    with pytest.raises(RuntimeError, match="broken off"):
        run(tmp_path / "b", "shuffled", 1, make=Breaking)
    rest = end_of(run(tmp_path / "b", "shuffled", 2, "step=8.ckpt"))
    assert rest["validated"][:4] == [(8, 0), (8, 1), (8, 2), (8, 3)]
    check(rest, whole, 8)


@pytest.mark.parametrize(
    ("loader", "said"),
    [
        (lambda: plain(batch_size=2), "a batch of the DataLoader had 4 samples and has 2"),
        (lambda: plain(dataset=Rows(24)), "the dataset of the DataLoader had 20 samples and has 24"),
        (lambda: plain(shuffle=False), "its sampler was a RandomSampler and is a SequentialSampler"),
    ],
)
def test_pain_29_another_batch_size_or_dataset_is_silent(loader, said, tmp_path):
    """Each is said where it matters: in the middle of an epoch."""
    run(tmp_path, "shuffled", 1)
    with pytest.warns(UserWarning, match=f"^Going on is not exact: .*{re.escape(said)}"):
        run(tmp_path, "", 2, "step=7.ckpt", loader=loader())


@pytest.mark.parametrize("kind", ["stateful", "stateful, workers"])
@pytest.mark.parametrize("batches", [5, 3])
def test_fact_11_a_save_at_the_last_batch_loses_an_epoch(kind, batches, server, tmp_path):
    """Of a loader that keeps its own state; also where a limit cuts its epochs."""
    whole = begun(server, tmp_path, kind, limit_train_batches=batches)
    ends = [batches, 2 * batches]
    for step, rest in gone_on(server, tmp_path, kind, ends, limit_train_batches=batches).items():
        assert len(rest["seen"]) == EPOCHS * batches - step
        check(rest, whole, step)


def test_fact_13_a_loader_without_a_length_loses_a_batch(tmp_path):
    """One is read ahead of training; it is read again."""
    whole = end_of(run(tmp_path, "stream with a state", 1))
    rest = end_of(run(tmp_path, "stream with a state", 2, "step=3.ckpt"))
    assert rest["seen"][0] == (0, 3, [[12, 13, 14, 15]])
    check(rest, whole, 3)


def test_fact_16_a_stateful_loaders_checkpoint_crashes_a_plain_one(tmp_path):
    """It goes on as far into its epoch, and says that it is not what would have come."""
    run(tmp_path, "stateful", 1)
    with pytest.warns(UserWarning, match="does not hold the place of this DataLoader in its data"):
        trainer = run(tmp_path, "shuffled", 2, "step=7.ckpt", max_epochs=-1, max_steps=12)
    assert [(epoch, batch) for epoch, batch, _ in trainer.lightning_module.seen[:4]] == [(1, 2), (1, 3), (1, 4), (2, 0)]


def test_loaders_that_are_asked_for_anew_go_on(tmp_path):
    """Those of the epoch that is gone on in, asked for when the trainer knows which it is."""

    class Asking(Net):
        def train_dataloader(self):
            self.asked = [*getattr(self, "asked", []), self.current_epoch]
            return plain(dataset=Rows(SAMPLES + 4 * self.current_epoch))

        def val_dataloader(self):
            return DataLoader(Rows(8, noise=True), batch_size=2, shuffle=True)

    def fit(seed, name=""):
        import holdfast as L

        L.seed_everything(seed, verbose=False)
        saver = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
        trainer = L.Trainer(
            callbacks=[] if name else [saver], enable_checkpointing=not name, logger=False, max_epochs=3,
            enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
            reload_dataloaders_every_n_epochs=1, accelerator="cpu",
        )  # fmt: skip
        trainer.fit(Asking(), ckpt_path=tmp_path / name if name else None)
        return trainer

    whole = fit(1)
    assert whole.lightning_module.asked == [0, 1, 2]
    for step in (3, 5, 8, 11, 13):
        check(end_of(fit(2, f"step={step}.ckpt")), end_of(whole), step)


def test_overfitting_goes_on_with_the_same_batches(tmp_path):
    """Without shuffling, with whatever else the loader has."""
    options = {"overfit_batches": 2, "limit_val_batches": 0}
    whole = end_of(run(tmp_path, "augmented, workers that stay", 1, **options))
    assert {tuple(parts[0]) for _, _, parts in whole["seen"]} == {(0, 1, 2, 3), (4, 5, 6, 7)}
    for step in (1, 2, 3):
        rest = end_of(run(tmp_path, "augmented, workers that stay", 2, f"step={step}.ckpt", **options))
        check(rest, whole, step)


def test_a_second_fit_goes_on_in_the_data_of_the_first(tmp_path):
    """Broken off by an error in mid-epoch, and fitted again by the same trainer: as if there had been none."""
    nets = []

    class Stumbling(Net):
        def training_step(self, batch, batch_idx):
            if self.global_step == 7 and not nets:
                nets.append(self)
                raise RuntimeError("stumbled")
            return super().training_step(batch, batch_idx)

    whole = end_of(run(tmp_path / "a", "shuffled", 1))
    with pytest.raises(RuntimeError, match="stumbled"):
        run(tmp_path / "b", "shuffled", 1, make=Stumbling)
    (net,) = nets
    net.trainer.fit(net, plain(), DataLoader(Rows(8, noise=True), batch_size=2, shuffle=True))
    assert net.seen == whole["seen"]


def test_a_validation_whose_workers_stay_goes_on_too(tmp_path):
    """It runs whole; what its workers draw, and what making them takes from the global generator, is what it was."""

    def validation():
        return DataLoader(Rows(8, noise=True), batch_size=2, shuffle=True, num_workers=1, persistent_workers=True)

    whole = end_of(run(tmp_path, "augmented", 1, validation=validation()))
    for step in (2, 4, 8, 10):
        check(end_of(run(tmp_path, "augmented", 2, f"step={step}.ckpt", validation=validation())), whole, step)
