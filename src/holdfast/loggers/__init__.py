"""Loggers: where the values that a run logs are kept."""

from holdfast.loggers.base import Logger
from holdfast.loggers.csv_logs import CSVLogger

__all__ = ["Logger", "CSVLogger"]
