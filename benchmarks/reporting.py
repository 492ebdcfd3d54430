"""Turn raw results into goals and tables: for the terminal, for ``last.json`` and for the page. Measures nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import import_time
import stall
import step_cost
from measuring import SPREAD, told

MIB = 2**20
ASYNC, SYNC, BURNER = "Lightning async", "Lightning sync", "CPU burner, no save"


class Table(NamedTuple):
    """What is shown: a caption, the head, and rows of text."""

    caption: str
    head: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        """As a page has it."""
        lines = [self.head, ["---"] * len(self.head), *self.rows]
        return f"{self.caption}\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in lines)


class Goal(NamedTuple):
    """One line of what is to be shown.

    Attributes:
        what: What is measured.
        target: The goal, as text.
        measured: The last figure.
        met: Whether it is reached.
        floor: What nothing can do better than here.
        settings: How it was measured.
    """

    what: str
    target: str
    measured: str
    met: bool
    floor: str
    settings: str


def read(folder: Path) -> dict[str, Any]:
    """All results that there are, by the names of their files."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json")) if path.stem != "last"}


def report(results: dict[str, Any]) -> dict[str, Table]:
    """Every table that the results are enough for; the goals come first."""
    found = [*goals(results)]
    rows = [[g.what, g.target, f"{g.measured}{'' if g.met else ' (missed)'}", g.floor, g.settings] for g in found]
    tables = {"goals": Table("", ["", "goal", "measured", "floor", "settings"], rows)} if rows else {}
    for name, figures in results.items():
        if name.startswith("stall-"):
            tables[name] = stall_table(figures)
    if "write" in results:
        tables["save"] = series_table(results["write"], "save", "raw, four threads", "Durable save")
        tables["load"] = series_table(results["write"], "load", "torch.load", "Load from the page cache")
    if "aliases" in results:
        tables["aliases"] = alias_table(results["aliases"])
    if "step_cost" in results:
        tables["step"] = step_table(results["step_cost"])
    if "import_time" in results:
        tables["import"] = import_table(results["import_time"])
    return tables


def goals(results: dict[str, Any]) -> Iterator[Goal]:
    """The lines that the results are enough for."""
    for name in ("stall-300", "stall-1200"):
        if name in results:
            yield from stall_goals(results[name])
    if "write" in results:
        yield from write_goals(results["write"])
    if "memory" in results:
        one = results["memory"]
        yield goal(
            f"extra anonymous memory, a save of {one['bytes'] / 2**30:.1f} GiB",
            one["grown"] / MIB,
            one["goal"] / MIB,
            floor="one buffer",
            settings=f"default buffers; {one['looks']:,} looks",
            unit=" MiB",
        )
    if "write" in results:
        yield from load_goals(results["write"])
    if "aliases" in results:
        yield from alias_goals(results["aliases"])
    if "step_cost" in results:
        yield from step_goals(results["step_cost"])
    if "import_time" in results:
        yield from import_goals(results["import_time"])


def goal(
    what: str, measured: float, most: float, *, floor: str, settings: str, unit: str = "", digits: int = 3
) -> Goal:
    """A figure that is to be small."""
    digits = 1 if unit else digits
    return Goal(what, f"at most {most:.3g}{unit}", f"{measured:.{digits}f}{unit}", measured <= most, floor, settings)


def stall_goals(figures: dict[str, Any]) -> Iterator[Goal]:
    """What a save costs the training thread, for one size."""
    ours, arms = "Holdfast Trainer", figures["arms"]
    size = f"{figures['megabytes']:,.0f} MB"
    rounds = len(arms[ours]["above"]) if ours in arms else 0
    settings = f"batch {figures['batch']}, one core trains, {rounds} rounds"
    least = f"wait {stall.floor(ours, figures):.2f} s" if ours in arms else ""
    for what, other, key, most in (
        ("longest step above base", ASYNC, "above", 1 / 10),
        ("longest step above base", SYNC, "above", 1 / 15),
        ("training thread waits", ASYNC, "waited", 1 / 20),
        ("longest step above base", BURNER, "above", 1.1),
        ("longest step, whole", BURNER, "longest", 1.1),
    ):
        ratio = figures["ratios"].get(f"{ours} / {other}: {key}")
        if ratio is not None:
            wide = max(stall.spread(arms[name]) for name in (ours, other)) > SPREAD
            yield goal(
                f"{what}, {size}, times {other}",
                ratio,
                most,
                floor=least if other != BURNER else "1",
                settings=settings + ("; spread over twofold" if wide else ""),
            )


def write_goals(figures: dict[str, Any]) -> Iterator[Goal]:
    """The durable write beside the disk and other formats."""
    took = {name: median(seconds) for name, seconds in figures["save"].items()}
    raw = min(seconds for name, seconds in took.items() if name.startswith("raw"))
    fast, slow = holdfast(took)
    size = f"{figures['mebibytes']:,} MiB"
    settings = f"{size} in {figures['tensors']} tensors, {len(figures['save']['raw'])} rounds"
    copied = f"disk {raw:.2f} s; with the copy {took['copied, four threads'] / raw:.2f} times"
    for name, least in ((slow, 0.75), (fast, 0.90)):
        share = raw / took[name]
        yield Goal(f"write, {name}: share of the disk's speed", f"at least {least:.0%}", f"{share:.0%}", share >= least,
                   copied, settings)  # fmt: skip
    dcp = min((name for name in took if name.startswith("dcp.save")), key=lambda name: took[name])
    for other, least in (("torch.save, fsync", 2.0), (dcp, 2.0), ("safetensors, fsync", 1.0)):
        times = took[other] / took[fast]
        yield Goal(f"write, times as fast as {other}", f"at least {least:.0f}", f"{times:.2f}", times >= least,
                   f"{took[other] / raw:.2f}", settings)  # fmt: skip


def load_goals(figures: dict[str, Any]) -> Iterator[Goal]:
    """The verified read."""
    took = {name: median(seconds) for name, seconds in figures["load"].items()}
    settings = f"{figures['mebibytes']:,} MiB, page cache, {len(figures['load']['torch.load'])} rounds"
    for name, most in zip(holdfast(took), (1.0, 1.5), strict=True):
        for which in (name, f"{name}, mapped"):
            least = f"not verified, mapped: {took['torch.load, mapped, not verified'] / took['torch.load']:.2f}"
            times = took[which] / took["torch.load"]
            yield goal(f"load, {which}, times torch.load", times, most, floor=least, settings=settings)
    opening = took["Holdfast, opening"] * 1e3
    yield goal("opening without reading", opening, 50, floor="one read", settings=settings, unit=" ms")


def holdfast(took: dict[str, float]) -> tuple[str, str]:
    """The names of ours with the fast checksum and with zlib's."""
    fast = next(name for name in took if name.startswith("Holdfast, ") and name != "Holdfast, zlib")
    return fast, "Holdfast, zlib"


def alias_goals(figures: dict[str, Any]) -> Iterator[Goal]:
    """What several rules for one step write."""
    ours = figures["trainers"]["holdfast"]
    once = figures["saves"] * ours["top-k"]["size"]
    theirs = figures["trainers"].get("lightning")
    for setting in ("top-k, save_last", "three callbacks", "three callbacks, three folders"):
        times = ours[setting]["written"] / once
        beside = f"; Lightning {theirs[setting]['written'] / once:.2f}" if theirs else ""
        yield goal(
            f"bytes written, {setting}, times one file a step",
            times,
            1.05,
            floor="1.00",
            settings=f"{figures['saves']} saves of {figures['megabytes']:.0f} MB{beside}",
        )


def above_plain(figures: dict[str, Any]) -> dict[str, dict[str, list[float]]]:
    """Milliseconds a step above the plain loop: of each trainer, in each setting, one a round."""
    return {
        name: {setting: [step_cost.above_raw(one, setting) for one in rounds] for setting in step_cost.SETTINGS}
        for name, rounds in figures["milliseconds"].items()
    }


def step_goals(figures: dict[str, Any]) -> Iterator[Goal]:
    """What a step of the trainer costs beside Lightning's."""
    above = above_plain(figures)
    for setting in step_cost.SETTINGS if "lightning" in above else ():
        ours, theirs = (median(above[name][setting]) for name in ("holdfast", "lightning"))
        yield goal(
            f"a step above the plain loop, {setting}, times Lightning",
            ours / theirs,
            0.1,
            floor="0",
            settings=f"{len(figures['milliseconds']['holdfast'])} rounds; {ours:.3f} beside {theirs:.3f} ms",
        )


def step_table(figures: dict[str, Any]) -> Table:
    """One row a setting."""
    above = above_plain(figures)
    raw = median(one["raw"] for rounds in figures["milliseconds"].values() for taken in rounds for one in taken)
    rows = []
    for setting, meaning in step_cost.SETTINGS.items():
        cells = [told(above[name][setting]).removesuffix(" *") for name in above]
        middle = [median(above[name][setting]) for name in above]
        rows.append([f"{setting}: {meaning}", *cells, f"{middle[0] / middle[-1]:.3f}"])
    return Table(
        f"Milliseconds a step above the plain loop, which takes {raw:.3f}; medians of "
        f"{len(figures['milliseconds']['holdfast'])} rounds (lowest to highest):",
        ["setting", *(name.capitalize() for name in above), "ratio"],
        rows,
    )


def import_goals(figures: dict[str, list[float]]) -> Iterator[Goal]:
    """What importing the trainer costs."""
    own, bare, both = (median(figures[what]) for what in ("own", import_time.TORCH, import_time.TRAINER))
    settings = f"{len(figures['own'])} rounds; {both:.2f} s beside {bare:.2f} s"
    yield goal("importing the trainer, own modules", own, 150, floor="0", settings=settings, unit=" ms")
    yield goal("importing the trainer, times import torch", both / bare, 1.15, floor="1", settings=settings)


def import_table(figures: dict[str, list[float]]) -> Table:
    """Three series."""
    rows = [["own modules, ms", told(figures["own"], digits=0).removesuffix(" *")]]
    rows += [[f"`{what}`, s", told(figures[what], digits=2)] for what in (import_time.TORCH, import_time.TRAINER)]
    return Table(f"Medians of {len(figures['own'])} (lowest to highest):", ["", ""], rows)


def stall_table(figures: dict[str, Any]) -> Table:
    """One row an arm."""
    rows = []
    for name, series in figures["arms"].items():
        mark = " *" if stall.spread(series) > SPREAD else ""
        cells = [told(series[what]).removesuffix(" *") for what in ("above", "waited")]
        rest = [f"{median(series[what]):.3f}" for what in ("safe", "durable", "lost")]
        least = f"{stall.floor(name, figures):.3f}"
        rows.append([name, f"{median(series['base']):.3f}", cells[0] + mark, cells[1], least, *rest])
    rounds = max(len(series["above"]) for series in figures["arms"].values())
    speeds = f"disk {figures['disk'] / 1e9:.2f} GB/s, memory {figures['memory'] / 1e9:.2f} GB/s"
    load = figures["machine"]["load"][0]
    return Table(
        f"A save of {figures['megabytes']:,.0f} MB, in seconds; medians of {rounds} rounds (lowest to highest), "
        f"batch {figures['batch']}, {speeds}, load {load:.1f} afterwards:",
        ["", "base step", "longest, above base", "waits", "floor of the wait", "safe", "durable", "lost"],
        rows,
    )


def series_table(figures: dict[str, Any], which: str, base: str, what: str) -> Table:
    """One row a way to save or load."""
    taken = figures[which]
    middle = median(taken[base])
    rows = [[name, told(seconds), f"{median(seconds) / middle:.2f}"] for name, seconds in taken.items()]
    load = figures["machine"]["load"][0]
    return Table(
        f"{what}, {figures['mebibytes']:,} MiB in {figures['tensors']} tensors, medians of {len(taken[base])} rounds "
        f"(lowest to highest), load {load:.1f} afterwards:",
        ["", "seconds", f"times {base}"],
        rows,
    )


def alias_table(figures: dict[str, Any]) -> Table:
    """One row a trainer and setting."""
    rows = [
        [name, setting, f"{one['written'] / 1e6:.1f}", f"{one['written'] / figures['saves'] / one['size']:.2f}",
         str(one["files"])]
        for name, settings in figures["trainers"].items()
        for setting, one in settings.items()
    ]  # fmt: skip
    return Table(
        f"{figures['saves']} saves of {figures['megabytes']:.0f} MB:",
        ["", "setting", "MB written", "times one file a step", "files left"],
        rows,
    )


def fill_in(page: Path, tables: dict[str, Table]) -> None:
    """Put tables where the page has their marks; those that were not measured stay as they are."""
    text = page.read_text()
    for name, table in tables.items():
        begin, end = f"<!-- measured: {name} -->\n", f"\n<!-- end: {name} -->"
        if begin in text and end in text:
            before, rest = text.split(begin, 1)
            text = before + begin + table.markdown().strip() + end + rest.split(end, 1)[1]
    page.write_text(text)
