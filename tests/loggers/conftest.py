"""What tests of loggers share: trackers that write to a folder, and know no network."""

from __future__ import annotations

import pytest

from tracked import end_wandb


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """A folder for wandb, which is told to be offline; its run is ended afterwards."""
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "aside"))
    for name, value in {"MODE": "offline", "CONSOLE": "off", "SILENT": "true"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    yield tmp_path
    end_wandb()


@pytest.fixture
def mlruns(tmp_path, monkeypatch):
    """A folder for MLflow, which is allowed to keep all in it."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    import mlflow

    before = mlflow.get_tracking_uri()
    yield tmp_path / "mlruns"
    mlflow.set_tracking_uri(before)
