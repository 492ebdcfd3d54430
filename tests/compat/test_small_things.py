"""The functions that are served and are Holdfast's nowhere else: they do what programs expect of those names."""

from __future__ import annotations

import logging
import os
import random
import warnings
from argparse import Namespace

import numpy as np
import pytest
import torch
from torch import nn

import holdfast
from holdfast.compat import hparams_files, migrating, rank_zero, seeding, tensors, types
from holdfast.compat.boring_classes import (
    BoringDataModule,
    BoringDataModuleNoLen,
    BoringModel,
    DemoModel,
    RandomIterableDatasetWithLen,
)
from holdfast.compat.overriding import is_overridden
from holdfast.compat.summary import summarize
from holdfast.compat.workers import suggested_max_num_workers
from holdfast.errors import ConfigError


@pytest.fixture
def rank(monkeypatch):
    """Sets this process's rank, as a launcher does or as a program does."""
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(rank_zero.rank_zero_only, "_set", None)

    def put(rank, by):
        if by == "launcher":
            monkeypatch.setenv("RANK", str(rank))
        else:
            rank_zero.rank_zero_only.rank = rank

    return put


@pytest.mark.parametrize("by", ["launcher", "program"])
def test_rank_zero_only_calls_on_the_first_rank_alone(rank, by):
    """The others get the default; and a program that asks which rank this is gets a number."""
    double = rank_zero.rank_zero_only(lambda x: 2 * x, default=-1)
    assert (double(3), rank_zero.rank_zero_only.rank) == (6, 0)
    rank(1, by)
    assert (double(3), rank_zero.rank_zero_only.rank) == (-1, 1)
    assert rank_zero.rank_zero_only(lambda x: 2 * x)(3) is None


def test_warnings_and_lines_come_from_the_line_that_asked(rank, caplog):
    """On the first rank; on others there is none."""
    with warnings.catch_warnings(record=True) as told, caplog.at_level(logging.DEBUG, logger="holdfast"):
        warnings.simplefilter("always")
        rank_zero.rank_zero_warn("careful", category=RuntimeWarning)
        rank_zero.rank_zero_deprecation("old")
        rank_zero.rank_zero_info("so %s", "far")
        rank_zero.rank_zero_debug("deep")
        rank(2, "program")
        rank_zero.rank_zero_warn("careful")
        rank_zero.rank_zero_info("so far")
    assert [(w.category, str(w.message), w.filename) for w in told] == [
        (RuntimeWarning, "careful", __file__),
        (rank_zero.LightningDeprecationWarning, "old", __file__),
    ]
    assert [(r.levelname, r.getMessage(), r.pathname) for r in caplog.records] == [
        ("INFO", "so far", __file__),
        ("DEBUG", "deep", __file__),
    ]


def test_a_warning_cache_says_each_message_once(rank, caplog):
    """Warnings, lines and what goes away."""
    cache = rank_zero.WarningCache()
    with warnings.catch_warnings(record=True) as told, caplog.at_level(logging.INFO, logger="holdfast"):
        warnings.simplefilter("always")
        for _ in range(2):
            cache.warn("w")
            cache.deprecation("d")
            cache.info("i")
    assert [(str(w.message), w.filename) for w in told] == [("w", __file__), ("d", __file__)]
    assert caplog.messages == ["i"]
    assert rank_zero.rank_prefixed_message("x", 3) == "[rank: 3] x"


def test_isolate_rng_and_reset_seed(monkeypatch):
    """Generators are put back; a seed that was given can be given again, and one that was not is none."""
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    state = torch.get_rng_state()
    seeding.reset_seed()
    assert torch.equal(torch.get_rng_state(), state)
    holdfast.seed_everything(5, verbose=False)
    drawn = (torch.rand(1), np.random.rand(), random.random())
    with seeding.isolate_rng(include_cuda=False):
        torch.rand(3)
    after = torch.rand(1)
    seeding.reset_seed()
    assert (torch.rand(1), np.random.rand(), random.random()) == drawn
    assert torch.equal(torch.rand(1), after)
    seeding.pl_worker_init_function(0)


def test_hyperparameters_in_files_come_back(tmp_path):
    """As YAML and as CSV, from a mapping and from a Namespace; a file that is not there is a warning."""
    values = {"lr": 0.1, "layers": [1, 2], "name": "small", "nested": {"a": None}}
    hparams_files.save_hparams_to_yaml(tmp_path / "h.yaml", Namespace(**values), use_omegaconf=False)
    hparams_files.save_hparams_to_tags_csv(tmp_path / "h.csv", values)
    assert hparams_files.load_hparams_from_yaml(tmp_path / "h.yaml", use_omegaconf=False) == values
    assert hparams_files.load_hparams_from_tags_csv(tmp_path / "h.csv") == values
    with pytest.warns(RuntimeWarning, match="There is no hparams file"):
        assert hparams_files.load_hparams_from_yaml(tmp_path / "none.yaml") == {}
    with pytest.raises(ConfigError, match="there is no folder"):
        hparams_files.save_hparams_to_yaml(tmp_path / "no" / "h.yaml", values)


def test_grad_norm_is_of_each_parameter_and_of_all_together():
    """By the names that loggers know."""
    model = nn.Linear(2, 1)
    assert tensors.grad_norm(model, 2) == {}
    model.weight.grad, model.bias.grad = torch.tensor([[3.0, 4.0]]), torch.tensor([12.0])
    found = {name: value.item() for name, value in tensors.grad_norm(model, 2).items()}
    assert found == {"grad_2.0_norm/weight": 5, "grad_2.0_norm/bias": 12, "grad_2.0_norm_total": 13}
    assert tensors.grad_norm(model, "inf", ".")["grad_inf_norm.weight"] == 4
    with pytest.raises(ConfigError, match="above 0"):
        tensors.grad_norm(model, 0)


def test_nested_batches_are_moved_and_detached():
    """Tensors in whatever they are in; the rest is left alone."""
    batch = {"x": [torch.ones(1, requires_grad=True)], "n": ("a", 1)}
    moved = tensors.move_data_to_device(batch, "meta")
    assert moved["x"][0].device.type == "meta"
    assert moved["n"] == ("a", 1)
    assert not tensors.recursive_detach(batch, to_cpu=True)["x"][0].requires_grad
    tensors.garbage_collection_cuda()
    assert tensors.is_oom_error(MemoryError())
    assert tensors.is_oom_error(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: tried"))
    assert not tensors.is_oom_error(RuntimeError("shapes"))


def test_is_overridden_knows_modules_datamodules_and_callbacks():
    """And any class whose base is given."""

    class Own(BoringModel):
        def on_fit_start(self):
            pass

    assert is_overridden("on_fit_start", Own())
    assert not is_overridden("on_fit_end", Own())
    assert is_overridden("setup", BoringDataModule())
    assert not is_overridden("setup", holdfast.Callback())
    assert is_overridden("forward", nn.Linear(1, 1), nn.Module)
    assert not is_overridden("setup", None)
    with pytest.raises(ConfigError, match="a Linear is no module, datamodule or callback"):
        is_overridden("forward", nn.Linear(1, 1))


def test_a_summary_counts_and_prints():
    """Layers with their names, and the whole."""
    model = DemoModel(out_dim=4)
    model.l1.bias.requires_grad = False
    found = summarize(model)
    assert (found.total_parameters, found.trainable_parameters, found.model_size) == (132, 128, 132 * 4 / 1e6)
    assert (found.layer_names, found.layer_types, found.param_nums) == (["l1"], ["Linear"], [132])
    assert "l1  Linear  132" in str(found)


def test_a_summary_knows_sizes_where_there_is_an_example():
    """By layer, and in what is printed."""
    net = BoringModel()
    assert (summarize(net).in_sizes, summarize(net).out_sizes) == (["?"], ["?"])
    net.example_input_array = torch.ones(5, 32)
    found = summarize(net)
    assert (found.in_sizes, found.out_sizes) == ([[5, 32]], [[5, 2]])
    assert "[5, 32]  [5, 2]" in str(found)


def test_words_equal_their_text_in_any_case():
    """Enums that programs compare with strings."""
    assert types.GradClipAlgorithmType.NORM == "Norm"
    assert types.GradClipAlgorithmType.from_str("VALUE") is types.GradClipAlgorithmType.VALUE
    assert types.GradClipAlgorithmType.supported_type("norm")
    assert not types.GradClipAlgorithmType.supported_type("abs")
    assert types.GradClipAlgorithmType.supported_types() == ["value", "norm"]
    assert {types.GradClipAlgorithmType.NORM: 1}["norm"] == 1


def test_an_older_checkpoint_is_brought_to_the_form_of_today():
    """One of today is left as it is; another form is refused."""
    older = {"epoch": 1, "global_step": 4, "pytorch-lightning_version": "1.5.0", "state_dict": {}}
    migrated, told = migrating.migrate_checkpoint(older)
    assert migrated["pytorch-lightning_version"] == "2.6.6"
    assert list(told) == ["2.6.6"]
    assert migrating.migrate_checkpoint(migrated)[1] == {}
    with pytest.raises(ConfigError, match=r"not to 1\.0\.0"):
        migrating.migrate_checkpoint(older, "1.0.0")
    with migrating.pl_legacy_patch():
        pass


def test_the_demo_datasets_have_their_sizes():
    """An iterable one that says how many, too."""
    data = RandomIterableDatasetWithLen(size=3, count=4)
    assert len(data) == len(list(data)) == 4
    assert next(iter(data)).shape == (3,)


def test_a_datamodule_that_does_not_say_its_size_is_trained_on_whole(tmp_path):
    """64 batches for each stage, and no loader has a length."""
    data = BoringDataModuleNoLen()
    trainer = holdfast.Trainer(
        default_root_dir=tmp_path, max_epochs=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, enable_checkpointing=False, accelerator="cpu",
    )  # fmt: skip
    trainer.fit(BoringModel(), datamodule=data)
    assert trainer.global_step == 64
    with pytest.raises(TypeError, match="len"):
        len(data.train_dataloader())


def test_workers_are_suggested_by_the_share_of_a_rank(monkeypatch):
    """One processor of a rank's share is its own; there is always one worker."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)), raising=False)
    assert [suggested_max_num_workers(ranks) for ranks in (1, 2, 8, 16, 99)] == [15, 7, 1, 1, 1]
    with pytest.raises(ConfigError, match="local_world_size is 1 or more"):
        suggested_max_num_workers(0)
