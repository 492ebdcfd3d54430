"""Read hyperparameters from a .yaml or .csv file, as plain values. Builds no object that a file names."""

from __future__ import annotations

import ast
import csv
import os
from pathlib import Path
from typing import Any

from holdfast.errors import ConfigError


def read_hparams(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The hyperparameters in a file: a mapping in YAML, which may be nested, or a CSV of the columns key and value.

    A CSV's values are read as Python literals, and as text where they are none.

    Raises:
        ConfigError: There is no such file, or it is none of these; or PyYAML is missing.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise ConfigError(f"There is no hparams_file '{file}'.")
    if file.suffix in (".yaml", ".yml"):
        return _yaml(file)
    if file.suffix == ".csv":
        return _csv(file)
    raise ConfigError(f"hparams_file '{file}' is neither a .yaml nor a .csv file.")


def _yaml(file: Path) -> dict[str, Any]:
    try:
        import yaml
    except ImportError as error:
        raise ConfigError(f"Reading '{file}' needs PyYAML.", remedy="Install it: pip install pyyaml") from error

    class Loader(yaml.SafeLoader):
        """Plain values, and the tuples and complex numbers that Lightning's own files hold."""

    def items(loader: Any, node: Any) -> tuple[Any, ...]:
        return tuple(loader.construct_sequence(node, deep=True))

    Loader.add_constructor("tag:yaml.org,2002:python/tuple", items)
    Loader.add_constructor("tag:yaml.org,2002:python/complex", lambda loader, node: complex(node.value))
    try:
        values = yaml.load(file.read_text(encoding="utf-8"), Loader)  # noqa: S506  # it is the safe one
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"hparams_file '{file}' cannot be read: {error}", remedy="It may hold plain values only, without tags."
        ) from error
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(f"hparams_file '{file}' holds no mapping from names to values.")
    return values


def _csv(file: Path) -> dict[str, Any]:
    with file.open(newline="", encoding="utf-8") as text:
        rows = csv.DictReader(text)
        if rows.fieldnames is None or not {"key", "value"}.issubset(rows.fieldnames):
            raise ConfigError(f"hparams_file '{file}' has no columns named key and value.")
        return {row["key"]: _literal(row["value"]) for row in rows}


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
