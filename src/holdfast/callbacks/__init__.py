"""Callbacks: what is told of each event of a run. Each is loaded when it is first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast.callbacks.accumulation_scheduler import GradientAccumulationScheduler
    from holdfast.callbacks.callback import Callback
    from holdfast.callbacks.device_stats import DeviceStatsMonitor
    from holdfast.callbacks.early_stopping import EarlyStopping, EarlyStoppingReason
    from holdfast.callbacks.finetuning import BackboneFinetuning, BaseFinetuning
    from holdfast.callbacks.lambda_callback import LambdaCallback
    from holdfast.callbacks.lr_monitor import LearningRateMonitor
    from holdfast.callbacks.model_checkpoint import ModelCheckpoint
    from holdfast.callbacks.on_exception import OnExceptionCheckpoint
    from holdfast.callbacks.prediction_writer import BasePredictionWriter
    from holdfast.callbacks.progress import ProgressBar, RichProgressBar, RichProgressBarTheme, TQDMProgressBar
    from holdfast.callbacks.pruning import ModelPruning
    from holdfast.callbacks.spike_detection import SpikeDetection, TrainingSpikeException
    from holdfast.callbacks.stochastic_weight_averaging import StochasticWeightAveraging
    from holdfast.callbacks.summary import ModelSummary
    from holdfast.callbacks.throughput import ThroughputMonitor
    from holdfast.callbacks.timer import Timer
    from holdfast.callbacks.weight_averaging import EMAWeightAveraging, WeightAveraging

_HOME_OF = {
    "Callback": "callback",
    "ModelCheckpoint": "model_checkpoint",
    "EarlyStopping": "early_stopping",
    "EarlyStoppingReason": "early_stopping",
    "OnExceptionCheckpoint": "on_exception",
    "ModelSummary": "summary",
    "ProgressBar": "progress",
    "RichProgressBar": "progress",
    "RichProgressBarTheme": "progress",
    "TQDMProgressBar": "progress",
    "LearningRateMonitor": "lr_monitor",
    "Timer": "timer",
    "LambdaCallback": "lambda_callback",
    "GradientAccumulationScheduler": "accumulation_scheduler",
    "BasePredictionWriter": "prediction_writer",
    "WeightAveraging": "weight_averaging",
    "EMAWeightAveraging": "weight_averaging",
    "StochasticWeightAveraging": "stochastic_weight_averaging",
    "BaseFinetuning": "finetuning",
    "BackboneFinetuning": "finetuning",
    "ModelPruning": "pruning",
    "ThroughputMonitor": "throughput",
    "SpikeDetection": "spike_detection",
    "TrainingSpikeException": "spike_detection",
    "DeviceStatsMonitor": "device_stats",
}

__all__ = [
    "Callback",
    "ModelCheckpoint",
    "EarlyStopping",
    "EarlyStoppingReason",
    "OnExceptionCheckpoint",
    "ModelSummary",
    "ProgressBar",
    "RichProgressBar",
    "RichProgressBarTheme",
    "TQDMProgressBar",
    "LearningRateMonitor",
    "Timer",
    "LambdaCallback",
    "GradientAccumulationScheduler",
    "BasePredictionWriter",
    "WeightAveraging",
    "EMAWeightAveraging",
    "StochasticWeightAveraging",
    "BaseFinetuning",
    "BackboneFinetuning",
    "ModelPruning",
    "ThroughputMonitor",
    "SpikeDetection",
    "TrainingSpikeException",
    "DeviceStatsMonitor",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'holdfast.callbacks' has no attribute {name!r}")
    return getattr(import_module(f"holdfast.callbacks.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
