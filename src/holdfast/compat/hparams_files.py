"""Hyperparameters in files, under the names that programs know. Builds no object that a file names."""

from __future__ import annotations

import csv
import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from holdfast.errors import ConfigError
from holdfast.log import warn
from holdfast.loggers.yaml_text import yaml_text
from holdfast.training.hparams import plain
from holdfast.training.hparams_file import read_hparams

_Path = str | os.PathLike[str]


def load_hparams_from_yaml(config_yaml: _Path, use_omegaconf: bool = True) -> dict[str, Any]:
    """The hyperparameters in a YAML file, as plain values; empty, with a warning, where there is no such file.

    Args:
        config_yaml: The file.
        use_omegaconf: Accepted; the values are plain either way.

    Raises:
        ConfigError: The file is there, and holds something else.
    """
    return _read(config_yaml)


def load_hparams_from_tags_csv(tags_csv: _Path) -> dict[str, Any]:
    """The hyperparameters in a CSV file of keys and values; empty, with a warning, where there is no such file.

    Raises:
        ConfigError: The file is there, and holds something else.
    """
    return _read(tags_csv)


def save_hparams_to_yaml(
    config_yaml: _Path, hparams: Mapping[str, Any] | Namespace, use_omegaconf: bool = True
) -> None:
    """Write hyperparameters as YAML; a value that has no plain form is left out, and named in the log.

    Args:
        config_yaml: The file, in a folder that exists.
        hparams: The values by name.
        use_omegaconf: Accepted; what is written is the same.

    Raises:
        ConfigError: There is no such folder.
    """
    _place(config_yaml).write_text(yaml_text(_values(hparams)), encoding="utf-8")


def save_hparams_to_tags_csv(tags_csv: _Path, hparams: Mapping[str, Any] | Namespace) -> None:
    """Write hyperparameters as a CSV of the columns key and value.

    Args:
        tags_csv: The file, in a folder that exists.
        hparams: The values by name.

    Raises:
        ConfigError: There is no such folder.
    """
    with _place(tags_csv).open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(("key", "value"))
        rows.writerows(plain(_values(hparams)).items())


def _read(path: _Path) -> dict[str, Any]:
    if not Path(path).is_file():
        warn(f"There is no hparams file '{path}'.", RuntimeWarning)
        return {}
    return read_hparams(path)


def _values(hparams: Mapping[str, Any] | Namespace) -> dict[str, Any]:
    return dict(vars(hparams) if isinstance(hparams, Namespace) else hparams)


def _place(path: _Path) -> Path:
    if not Path(path).parent.is_dir():
        raise ConfigError(f"'{path}' cannot be written: there is no folder '{Path(path).parent}'.")
    return Path(path)
