"""Loggers: where the values that a run logs are kept."""

from holdfast.loggers.base import Logger
from holdfast.loggers.csv_logs import CSVLogger
from holdfast.loggers.dummy import DummyExperiment, DummyLogger, rank_zero_experiment
from holdfast.loggers.mlflow import MLFlowLogger
from holdfast.loggers.tensorboard import TensorBoardLogger
from holdfast.loggers.wandb import WandbLogger

__all__ = [
    "Logger",
    "CSVLogger",
    "TensorBoardLogger",
    "WandbLogger",
    "MLFlowLogger",
    "DummyLogger",
    "DummyExperiment",
    "rank_zero_experiment",
]
