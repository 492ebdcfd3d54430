"""Decide where a checkpoint goes: the name of its file. Text only: no folder is looked at, nothing opened."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

from holdfast.errors import ConfigError
from holdfast.policy.values import Progress

COUNTERS = ("epoch", "step", "global_step")
"""The fields of a template that every checkpoint has; all others are metrics."""

_LONGEST_PART = 255  # bytes; the limit of the file systems in use
_OWN_FOLDER = ".holdfast"
_FORBIDDEN = {"\\": "a backslash", "\0": "a NUL"}

# Format specs are a closed list, so that no value can bring a separator into a name: a fill may not be one,
# and the types "c" (any character), "n" (depends on the locale of the rank) and "s" are not there.
_SPEC = re.compile(r"([^/\\\0]?[<>=^])?[-+ ]?#?0?[0-9]{0,3}[,_]?(\.[0-9]{1,3})?[bdoxXeEfFgG%]?", re.DOTALL)
_WHOLE_TYPES = "bdoxX"


@dataclass(frozen=True)
class _Field:
    """One ``{name:spec}`` of a template."""

    name: str
    spec: str


@dataclass(frozen=True)
class Where:
    """How the file of a checkpoint is called, relative to its folder.

    A template is text with fields: ``{name}`` or ``{name:spec}``. The name is everything up to the first
    colon: dots, slashes, spaces and brackets are part of it, and nothing is ever looked up inside a value.
    The spec is a numeric format spec of Python's. ``{{`` and ``}}`` are braces. Known names are ``epoch``,
    ``step`` and ``global_step`` (both are the optimizer steps), and every score.

    Args:
        template: The checkpoint's own name, without extension. None: it has no file but the alias.
        alias: A second name that moves on to the newest checkpoint, such as ``last``; a template too.
        auto_insert_metric_name: Whether each field is preceded by its name, as in ``epoch=3``.
        join: Put before the version of a name that was taken.
        equals: Put between an inserted name and its value.
        extension: Put at the end of every name.
        starting_version: The first number tried when a name is taken.
        version_counter: Whether a name that is taken gets a version. Otherwise the newest has it, and what had it
            before gets the version, if it stays.

    Raises:
        ConfigError: Something above cannot work, or could lead out of the folder. All problems are listed.
    """

    template: str | None = "{epoch}-{step}"
    alias: str | None = None
    auto_insert_metric_name: bool = True
    join: str = "-"
    equals: str = "="
    extension: str = ".ckpt"
    starting_version: int = 1
    version_counter: bool = True

    def __post_init__(self) -> None:
        problems = []
        for role in ("join", "equals", "extension"):
            problems += _affix_problems(role, getattr(self, role))
        version: object = self.starting_version
        if not isinstance(version, int) or isinstance(version, bool) or version < 0:
            problems.append(f"starting_version= is a whole number of at least 0, not {version!r}")
        if self.template is None and self.alias is None:
            problems.append("there is neither a template nor an alias, so a checkpoint would have no name")
        # A name is tried out whole, which needs affixes that work.
        affixes_work = not problems
        problems += self._template_problems("template", self.template, affixes_work)
        problems += self._template_problems("alias", self.alias, affixes_work)
        if problems:
            raise ConfigError(f"Where: {'; '.join(problems)}.")

    @property
    def fields(self) -> tuple[str, ...]:
        """The names that template and alias use, each once."""
        pieces = [piece for text in (self.template, self.alias) if text is not None for piece in _parse(text)]
        return tuple(dict.fromkeys(piece.name for piece in pieces if isinstance(piece, _Field)))

    def name(self, progress: Progress, scores: Mapping[str, float], *, missing: float | str | None = None) -> str:
        """The checkpoint's own file name, with extension, relative to its folder.

        Where a format is for whole numbers, a whole float (80.0) is written as one, NaN and infinities as
        ``nan`` and ``inf``, and with ``d`` any other float as it is (80.5). ``epoch``, ``step`` and
        ``global_step`` are written whole also where they were logged as floats; such a score goes before the
        counter.

        Args:
            progress: Gives ``epoch``, ``step`` and ``global_step``.
            scores: Gives the rest.
            missing: Stands in for what is in neither, a word whatever the format; None makes that an error.

        Raises:
            ConfigError: A field is not known or its format does not fit its value, a part of the name is
                longer than 255 bytes, or there is no template.
        """
        if self.template is None:
            raise ConfigError(
                f"There is no template, so the checkpoint has no name but its alias {self.alias!r}.",
                remedy="Give Where a template.",
            )
        return self._fill(self.template, progress, scores, missing)

    def alias_name(self, progress: Progress, scores: Mapping[str, float]) -> str | None:
        """The file name of the alias, with extension; None where there is no alias.

        Raises:
            ConfigError: As ``name`` does.
        """
        return None if self.alias is None else self._fill(self.alias, progress, scores, None)

    def versioned(self, name: str, taken: Collection[str]) -> str:
        """The first of ``name``, ``name-v1``, ``name-v2`` ... that is free; the extension stays at the end.

        Args:
            name: A name that this object gave.
            taken: The names in use, relative to the same folder.

        Raises:
            ConfigError: The version made the name longer than 255 bytes.
        """
        if name not in taken:
            return name
        extension = self.extension if name.endswith(self.extension) else ""
        stem = name.removesuffix(extension)
        numbered = (f"{stem}{self.join}v{number}{extension}" for number in count(self.starting_version))
        return _not_too_long(next(candidate for candidate in numbered if candidate not in taken))

    def _fill(self, template: str, progress: Progress, scores: Mapping[str, float], missing: float | str | None) -> str:
        counters = {"epoch": progress.epoch, "step": progress.steps, "global_step": progress.steps}
        known: dict[str, float] = {**counters, **scores}
        pieces = _parse(template)
        unknown = sorted({p.name for p in pieces if isinstance(p, _Field) and p.name not in known})
        if unknown and missing is None:
            raise ConfigError(
                f"The file name {template!r} needs {_quoted(unknown)}, not known at this step.",
                remedy=f"Known are {_quoted(known)}.",
            )

        def value_of(field: _Field) -> str:
            if field.name not in known and isinstance(missing, str):
                return missing
            return _format(field, known.get(field.name, missing))

        stem = self._join(pieces, value_of)
        return _not_too_long(stem + self.extension)

    def _join(self, pieces: Sequence[str | _Field], value_of: Callable[[_Field], str]) -> str:
        texts = []
        for piece in pieces:
            if isinstance(piece, str):
                texts.append(piece)
            elif self.auto_insert_metric_name:
                texts.append(f"{piece.name}{self.equals}{value_of(piece)}")
            else:
                texts.append(value_of(piece))
        return "".join(texts)

    def _template_problems(self, role: str, text: object, affixes_work: bool) -> list[str]:
        if text is None:
            return []
        if not isinstance(text, str):
            return [f"{role}= is text, not {text!r}"]
        if problems := _encoding_problems(role, text):
            return problems
        try:
            pieces = _parse(text)
        except ValueError as error:
            return [f"{role} {text!r}: {error}"]
        fields = [piece for piece in pieces if isinstance(piece, _Field)]
        problems = [problem for field in fields for problem in _field_problems(field)]
        if affixes_work:
            # A value has a letter or digit in it and no separator: what holds for one digit holds for all.
            problems += _path_problems(self._join(pieces, lambda _: "0"))
        return [f"{role} {text!r}: {problem}" for problem in problems]


def _parse(template: str) -> tuple[str | _Field, ...]:
    """Split into literal text and fields; ``ValueError`` where braces do not match."""
    pieces: list[str | _Field] = []
    position = 0
    while position < len(template):
        char = template[position]
        if template.startswith(("{{", "}}"), position):
            pieces.append(char)
            position += 2
        elif char == "{":
            end = template.find("}", position)
            inside = template[position + 1 : end]
            if end < 0 or "{" in inside:
                raise ValueError(f"the brace at character {position} is not closed")
            name, _, spec = inside.partition(":")
            pieces.append(_Field(name, spec))
            position = end + 1
        elif char == "}":
            raise ValueError(f"the brace at character {position} closes nothing; a brace itself is '}}}}'")
        else:
            pieces.append(char)
            position += 1
    return tuple(pieces)


def _field_problems(field: _Field) -> list[str]:
    problems = []
    if not field.name.strip() or field.name.isdecimal():
        problems.append(f"the field {{{field.name}}} names nothing; a field is named, such as {{epoch}}")
    if re.search(r"![rsa]\Z", field.name):
        problems.append(f"the field {{{field.name}}} asks for a conversion, which a number does not have")
    if not _spec_works(field.spec):
        problems.append(f"the field {{{field.name}}} has the format {field.spec!r}, which suits no number")
    return problems


def _spec_works(spec: str) -> bool:
    if not _SPEC.fullmatch(spec):
        return False
    try:
        format(1, spec)
    except ValueError:  # well formed, but contradictory, such as '.2d'
        return False
    return True


def _path_problems(path: str) -> list[str]:
    parts = path.split("/")
    problems = [f"it has {word} in it" for mark, word in _FORBIDDEN.items() if mark in path]
    if path.startswith("/"):
        problems.append("it is absolute; names are relative to the folder")
    elif "" in parts:
        problems.append("a part of it is empty")
    if ".." in parts or "." in parts:
        problems.append("it has a part '.' or '..', which could lead out of the folder")
    if _OWN_FOLDER in parts:
        problems.append(f"{_OWN_FOLDER!r} is the folder of Holdfast's own notes")
    return problems


def _affix_problems(role: str, text: object) -> list[str]:
    if not isinstance(text, str):
        return [f"{role}= is text, not {text!r}"]
    forbidden = {**_FORBIDDEN, "/": "a slash"}
    problems = [f"{role}= has {word} in it" for mark, word in forbidden.items() if mark in text]
    return problems + _encoding_problems(role, text)


def _encoding_problems(role: str, text: str) -> list[str]:
    try:
        text.encode()
    except UnicodeEncodeError:
        return [f"{role}= has characters in it that no file name can hold: {text!r}"]
    return []


def _format(field: _Field, value: object) -> str:
    if not isinstance(value, (int, float)):
        raise ConfigError(f"The field {{{field.name}}} of a file name is a number, not {value!r}.")
    # A subclass may format itself as it likes; a plain number cannot.
    number = int(value) if isinstance(value, int) else float(value)
    spec = field.spec
    whole_type = spec != "" and spec[-1] in _WHOLE_TYPES
    if isinstance(number, float) and whole_type and not math.isfinite(number):
        return str(number)
    if isinstance(number, float) and (whole_type or field.name in COUNTERS) and number.is_integer():
        number = int(number)
    elif isinstance(number, float) and spec.endswith("d"):
        # A save must not fail for a name, and rounding would tell an untruth: 80.5 stays 80.5.
        spec = spec.removesuffix("d")
    try:
        return format(number, spec)
    except (ValueError, OverflowError) as error:
        raise ConfigError(
            f"The field {{{field.name}:{field.spec}}} of a file name cannot hold {number!r}: {error}.",
            remedy="A format such as .2f fits every float.",
        ) from error


def _not_too_long(name: str) -> str:
    longest = max(name.split("/"), key=lambda part: len(part.encode()))
    if (length := len(longest.encode())) > _LONGEST_PART:
        raise ConfigError(
            f"The file name {longest!r} is {length} bytes long; file systems allow {_LONGEST_PART}.",
            remedy="Shorten the template, or format its fields with fewer digits.",
        )
    return name


def _quoted(names: Collection[str]) -> str:
    return ", ".join(map(repr, names))
