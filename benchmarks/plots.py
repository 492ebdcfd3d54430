"""Draw the last results as PNG; needs matplotlib and nothing of ours, so it runs in the peers' environment.

python benchmarks/plots.py FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl

mpl.use("agg")
from matplotlib import pyplot as plt


def main() -> None:
    """One picture for each file of results that has one."""
    folder = Path(sys.argv[1])
    for path in sorted(folder.glob("stall-*.json")):
        figures = json.loads(path.read_text())
        arms = figures["arms"]
        title = f"A save of {figures['megabytes']:.0f} MB: what it costs the training thread"
        series = {
            "longest step, above base": {name: arm["above"] for name, arm in arms.items()},
            "waits": {name: arm["waited"] for name, arm in arms.items()},
        }
        bars(series, title, path.with_suffix(".png"))
    write = folder / "write.json"
    if write.exists():
        figures = json.loads(write.read_text())
        size = f"{figures['mebibytes']:,} MiB"
        bars({"durable save": figures["save"]}, f"A durable save of {size}", folder / "save.png")
        bars({"load": figures["load"]}, f"A load of {size} from the page cache", folder / "load.png")


def bars(series: dict[str, dict[str, list[float]]], title: str, path: Path) -> None:
    """Medians as bars, lowest to highest as lines."""
    names = list(next(iter(series.values())))
    picture, axes = plt.subplots(figsize=(9, 0.9 + 0.35 * len(names) * len(series)), layout="constrained")
    height = 0.8 / len(series)
    for number, (what, taken) in enumerate(series.items()):
        places = [place + number * height for place in range(len(names))]
        middles = [median(taken[name]) for name in names]
        axes.barh(places, middles, height, label=what, xerr=errors(taken, names, middles))
    axes.set_yticks([place + height * (len(series) - 1) / 2 for place in range(len(names))], names)
    axes.invert_yaxis()
    axes.set_xlabel("seconds; median, lowest to highest")
    axes.set_title(title)
    if len(series) > 1:
        axes.legend()
    picture.savefig(path, dpi=120)
    plt.close(picture)
    print(path)


def errors(taken: dict[str, list[float]], names: list[str], middles: list[float]) -> list[Any]:
    """How far the lowest and the highest are from the middle."""
    lows = [middle - min(taken[name]) for name, middle in zip(names, middles, strict=True)]
    highs = [max(taken[name]) - middle for name, middle in zip(names, middles, strict=True)]
    return [lows, highs]


if __name__ == "__main__":
    main()
