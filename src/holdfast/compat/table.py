"""Which names programs find under which of Lightning's modules, and where they are from. Data; imports nothing.

A module has, for each home in Holdfast, the names that come from there; ``Theirs=ours`` is one that is called
otherwise there. Names and modules are those of Lightning 2.6; ``OLD`` has what they were called before.
"""

from __future__ import annotations

Names = dict[str, tuple[str, ...]]

ALIASES = {"pytorch_lightning": "lightning.pytorch", "lightning_fabric": "lightning.fabric"}
"""Packages that are another's under a name of their own."""

OLD = {
    "lightning.pytorch.callbacks.base": "lightning.pytorch.callbacks.callback",
    "lightning.pytorch.core.lightning": "lightning.pytorch.core.module",
    "lightning.pytorch.loggers.base": "lightning.pytorch.loggers.logger",
    "lightning.pytorch.profiler": "lightning.pytorch.profilers",
    "lightning.pytorch.utilities.distributed": "lightning.pytorch.utilities.rank_zero",
}
"""Modules of Lightning 1.x, and what they are called today; importing one warns."""

_MAIN: Names = {
    "holdfast": ("Callback", "LightningDataModule", "LightningModule", "Trainer", "seed_everything"),
    "holdfast.formats.lightning": ("__version__=LIGHTNING_VERSION",),
}
_CALLBACKS: Names = {
    "holdfast.callbacks": (
        "BackboneFinetuning", "BaseFinetuning", "BasePredictionWriter", "Callback", "DeviceStatsMonitor",
        "EMAWeightAveraging", "EarlyStopping", "GradientAccumulationScheduler", "LambdaCallback", "LearningRateMonitor",
        "ModelCheckpoint", "ModelPruning", "ModelSummary", "OnExceptionCheckpoint", "ProgressBar", "RichProgressBar",
        "RichModelSummary=ModelSummary", "SpikeDetection", "StochasticWeightAveraging",
        "TQDMProgressBar", "ThroughputMonitor", "Timer", "WeightAveraging",
    ),
}  # fmt: skip
_LOGGERS: Names = {"holdfast.loggers": ("CSVLogger", "Logger", "MLFlowLogger", "TensorBoardLogger", "WandbLogger")}
_IO: Names = {"holdfast.training.checkpoint_io": ("AsyncCheckpointIO", "CheckpointIO", "TorchCheckpointIO")}
_RANK_ZERO: Names = {
    "holdfast.compat.rank_zero": (
        "LightningDeprecationWarning", "WarningCache", "rank_prefixed_message", "rank_zero_debug",
        "rank_zero_deprecation", "rank_zero_info", "rank_zero_only", "rank_zero_warn",
    ),
}  # fmt: skip
_RANK_ZERO_MAIN: Names = {
    "holdfast.compat.rank_zero": ("rank_zero_deprecation", "rank_zero_info", "rank_zero_only", "rank_zero_warn"),
}
_PATHS: Names = {"holdfast.compat.types": ("_DEVICE", "_MAP_LOCATION_TYPE", "_PATH", "Optimizable")}
_SUMMARY: Names = {"holdfast.compat.summary": ("ModelSummary", "summarize")}
_DEMOS = (
    "BoringDataModule", "BoringDataModuleNoLen", "BoringModel", "DemoModel", "ManualOptimBoringModel",
    "RandomDataset", "RandomDictDataset", "RandomIterableDataset", "RandomIterableDatasetWithLen",
)  # fmt: skip


def _callback(*names: str) -> Names:
    return {"holdfast.callbacks": names}


MODULES: dict[str, Names] = {
    "lightning": _MAIN,
    "lightning.pytorch": _MAIN,
    # Callbacks
    "lightning.pytorch.callbacks": _CALLBACKS,
    "lightning.pytorch.callbacks.callback": _callback("Callback"),
    "lightning.pytorch.callbacks.device_stats_monitor": _callback("DeviceStatsMonitor"),
    "lightning.pytorch.callbacks.early_stopping": _callback("EarlyStopping", "EarlyStoppingReason"),
    "lightning.pytorch.callbacks.finetuning": _callback("BackboneFinetuning", "BaseFinetuning"),
    "lightning.pytorch.callbacks.gradient_accumulation_scheduler": _callback("GradientAccumulationScheduler"),
    "lightning.pytorch.callbacks.lambda_function": _callback("LambdaCallback"),
    "lightning.pytorch.callbacks.lr_monitor": _callback("LearningRateMonitor"),
    "lightning.pytorch.callbacks.model_checkpoint": _callback("ModelCheckpoint"),
    "lightning.pytorch.callbacks.model_summary": _callback("ModelSummary"),
    "lightning.pytorch.callbacks.on_exception_checkpoint": _callback("OnExceptionCheckpoint"),
    "lightning.pytorch.callbacks.prediction_writer": _callback("BasePredictionWriter"),
    "lightning.pytorch.callbacks.progress": _callback("ProgressBar", "RichProgressBar", "TQDMProgressBar"),
    "lightning.pytorch.callbacks.progress.progress_bar": _callback("ProgressBar"),
    "lightning.pytorch.callbacks.progress.rich_progress": _callback("RichProgressBar", "RichProgressBarTheme"),
    "lightning.pytorch.callbacks.progress.tqdm_progress": _callback("TQDMProgressBar"),
    "lightning.pytorch.callbacks.pruning": _callback("ModelPruning"),
    "lightning.pytorch.callbacks.rich_model_summary": _callback("RichModelSummary=ModelSummary"),
    "lightning.pytorch.callbacks.spike": _callback("SpikeDetection"),
    "lightning.pytorch.callbacks.stochastic_weight_avg": _callback("StochasticWeightAveraging"),
    "lightning.pytorch.callbacks.throughput_monitor": _callback("ThroughputMonitor"),
    "lightning.pytorch.callbacks.timer": _callback("Timer"),
    "lightning.pytorch.callbacks.weight_averaging": _callback("EMAWeightAveraging", "WeightAveraging"),
    # The module and its data
    "lightning.pytorch.core": {"holdfast": ("LightningDataModule", "LightningModule")},
    "lightning.pytorch.core.datamodule": {"holdfast": ("LightningDataModule",)},
    "lightning.pytorch.core.module": {"holdfast": ("LightningModule",)},
    "lightning.pytorch.core.mixins": {"holdfast.training.hparams": ("HyperparametersMixin",)},
    "lightning.pytorch.core.mixins.hparams_mixin": {"holdfast.training.hparams": ("HyperparametersMixin",)},
    "lightning.pytorch.core.optimizer": {"holdfast.state.optimizers": ("LightningOptimizer=SteppedOptimizer",)},
    "lightning.pytorch.core.saving": {
        "holdfast.compat.hparams_files": (
            "load_hparams_from_tags_csv", "load_hparams_from_yaml", "save_hparams_to_tags_csv", "save_hparams_to_yaml",
        ),
    },
    "lightning.pytorch.demos": {"holdfast.compat.boring_classes": ("BoringDataModule", "BoringModel", "DemoModel")},
    "lightning.pytorch.demos.boring_classes": {"holdfast.compat.boring_classes": _DEMOS},
    # Loggers
    "lightning.pytorch.loggers": _LOGGERS,
    "lightning.pytorch.loggers.csv_logs": {"holdfast.loggers": ("CSVLogger",)},
    "lightning.pytorch.loggers.logger": {
        "holdfast.loggers": ("DummyExperiment", "DummyLogger", "Logger", "rank_zero_experiment"),
    },
    "lightning.pytorch.loggers.mlflow": {"holdfast.loggers": ("MLFlowLogger",)},
    "lightning.pytorch.loggers.tensorboard": {"holdfast.loggers": ("TensorBoardLogger",)},
    "lightning.pytorch.loggers.wandb": {"holdfast.loggers": ("WandbLogger",)},
    # Plugins
    "lightning.pytorch.plugins": _IO,
    "lightning.pytorch.plugins.environments": {"holdfast.state.slurm": ("SLURMEnvironment",)},
    "lightning.pytorch.plugins.io": _IO,
    "lightning.pytorch.plugins.io.async_plugin": {"holdfast.training.checkpoint_io": ("AsyncCheckpointIO",)},
    "lightning.pytorch.plugins.io.checkpoint_plugin": {"holdfast.training.checkpoint_io": ("CheckpointIO",)},
    "lightning.pytorch.plugins.io.torch_plugin": {"holdfast.training.checkpoint_io": ("TorchCheckpointIO",)},
    # Profilers
    "lightning.pytorch.profilers": {
        "holdfast.profilers": (
            "AdvancedProfiler", "PassThroughProfiler", "Profiler", "PyTorchProfiler", "SimpleProfiler",
        ),
    },
    "lightning.pytorch.profilers.advanced": {"holdfast.profilers": ("AdvancedProfiler",)},
    "lightning.pytorch.profilers.base": {"holdfast.profilers": ("PassThroughProfiler",)},
    "lightning.pytorch.profilers.profiler": {"holdfast.profilers": ("Profiler",)},
    "lightning.pytorch.profilers.pytorch": {"holdfast.profilers": ("PyTorchProfiler",)},
    "lightning.pytorch.profilers.simple": {"holdfast.profilers": ("SimpleProfiler",)},
    # Strategies
    "lightning.pytorch.strategies": {
        "holdfast.strategies": ("DDPStrategy", "FSDPStrategy", "SingleDeviceStrategy"),
        "holdfast.strategies.choose": ("ParallelStrategy", "Strategy=AnyStrategy"),
    },
    "lightning.pytorch.strategies.ddp": {"holdfast.strategies": ("DDPStrategy",)},
    "lightning.pytorch.strategies.fsdp": {"holdfast.strategies": ("FSDPStrategy",)},
    "lightning.pytorch.strategies.parallel": {"holdfast.strategies.choose": ("ParallelStrategy",)},
    "lightning.pytorch.strategies.strategy": {"holdfast.strategies.choose": ("Strategy=AnyStrategy",)},
    "lightning.pytorch.strategies.single_device": {"holdfast.strategies": ("SingleDeviceStrategy",)},
    # The trainer
    "lightning.pytorch.trainer": {"holdfast": ("Trainer", "seed_everything")},
    "lightning.pytorch.trainer.trainer": {"holdfast": ("Trainer",)},
    "lightning.pytorch.trainer.states": {
        "holdfast.training.states": ("RunningStage", "TrainerFn", "TrainerState", "TrainerStatus"),
    },
    # Utilities
    "lightning.pytorch.utilities": {
        **_RANK_ZERO_MAIN,
        "holdfast.training.combined_loader": ("CombinedLoader",),
        "holdfast.training.hparams": ("AttributeDict",),
        "holdfast.compat.tensors": ("grad_norm", "move_data_to_device"),
        "holdfast.compat.types": ("GradClipAlgorithmType", "LightningEnum"),
        "holdfast.compat.workers": ("suggested_max_num_workers",),
    },
    "lightning.pytorch.utilities.combined_loader": {"holdfast.training.combined_loader": ("CombinedLoader",)},
    "lightning.pytorch.utilities.enums": {"holdfast.compat.types": ("GradClipAlgorithmType", "LightningEnum")},
    "lightning.pytorch.utilities.exceptions": {
        "holdfast.errors": ("MisconfigurationException=ConfigError",),
        "holdfast.state.signals": ("SIGTERMException=Terminated",),
    },
    "lightning.pytorch.utilities.grads": {"holdfast.compat.tensors": ("grad_norm",)},
    "lightning.pytorch.utilities.memory": {
        "holdfast.compat.tensors": ("garbage_collection_cuda", "is_oom_error", "recursive_detach"),
    },
    "lightning.pytorch.utilities.migration": {"holdfast.compat.migrating": ("migrate_checkpoint", "pl_legacy_patch")},
    "lightning.pytorch.utilities.migration.utils": {
        "holdfast.compat.migrating": ("migrate_checkpoint", "pl_legacy_patch"),
    },
    "lightning.pytorch.utilities.model_helpers": {"holdfast.compat.overriding": ("is_overridden",)},
    "lightning.pytorch.utilities.model_summary": _SUMMARY,
    "lightning.pytorch.utilities.model_summary.model_summary": _SUMMARY,
    "lightning.pytorch.utilities.parsing": {"holdfast.training.hparams": ("AttributeDict",)},
    "lightning.pytorch.utilities.rank_zero": _RANK_ZERO,
    "lightning.pytorch.utilities.seed": {
        "holdfast": ("seed_everything",),
        "holdfast.compat.seeding": ("isolate_rng", "pl_worker_init_function", "reset_seed"),
    },
    "lightning.pytorch.utilities.types": {
        "holdfast.compat.types": (
            "EVAL_DATALOADERS", "LRSchedulerConfigType", "LRSchedulerPLType", "LRSchedulerTypeUnion",
            "OptimizerConfig", "OptimizerLRScheduler", "OptimizerLRSchedulerConfig", "STEP_OUTPUT", "TRAIN_DATALOADERS",
            "_EVALUATE_OUTPUT", "_METRIC", "_PREDICT_OUTPUT", "LRScheduler", "ReduceLROnPlateau",
        ),
        "holdfast.state.optimizers": ("LRSchedulerConfig=SchedulerConfig",),
    },
    "lightning.pytorch.utilities.warnings": {"holdfast.compat.rank_zero": ("PossibleUserWarning",)},
    # What programs use of Fabric's utilities, and nothing else of Fabric
    "lightning.fabric": {"holdfast": ("seed_everything",)},
    "lightning.fabric.plugins": {"holdfast.training.checkpoint_io": ("CheckpointIO", "TorchCheckpointIO")},
    "lightning.fabric.plugins.environments": {"holdfast.state.slurm": ("SLURMEnvironment",)},
    "lightning.fabric.plugins.io": {"holdfast.training.checkpoint_io": ("CheckpointIO", "TorchCheckpointIO")},
    "lightning.fabric.plugins.io.checkpoint_io": {"holdfast.training.checkpoint_io": ("CheckpointIO",)},
    "lightning.fabric.plugins.io.torch_io": {"holdfast.training.checkpoint_io": ("TorchCheckpointIO",)},
    "lightning.fabric.utilities": {
        **_RANK_ZERO_MAIN,
        "holdfast.training.hparams": ("AttributeDict",),
        "holdfast.compat.tensors": ("move_data_to_device",),
        "holdfast.compat.types": ("LightningEnum",),
    },
    "lightning.fabric.utilities.apply_func": {"holdfast.compat.tensors": ("move_data_to_device",)},
    "lightning.fabric.utilities.exceptions": {"holdfast.errors": ("MisconfigurationException=ConfigError",)},
    "lightning.fabric.utilities.rank_zero": _RANK_ZERO,
    "lightning.fabric.utilities.seed": {
        "holdfast": ("seed_everything",),
        "holdfast.compat.seeding": ("pl_worker_init_function", "reset_seed"),
    },
    "lightning.fabric.utilities.types": _PATHS,
    "lightning.fabric.utilities.warnings": {"holdfast.compat.rank_zero": ("PossibleUserWarning",)},
}  # fmt: skip
