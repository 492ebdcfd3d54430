"""What files are called: every name of the peer's pages, refusals, and that no name climbs out."""

from __future__ import annotations

import math
import posixpath
import string
from contextlib import suppress

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from holdfast.errors import ConfigError
from holdfast.policy.values import Progress
from holdfast.policy.where import Where

HERE = Progress(epoch=2, batch=3, steps=15)

# Characters that could matter to a path or to a template are more frequent than the rest.
texts = st.text(st.one_of(st.sampled_from("./\\\0~:!{}[] =-_a0"), st.characters()), max_size=12)
specs = st.one_of(
    st.sampled_from(["", "d", ".2f", "g", "02d", "/>9", ".>3", "c", "n", "s", "x", ",d", "%", "r", "{0}", "\0<4"]),
    st.text(string.printable, max_size=5),
)
numbers = st.one_of(st.floats(), st.integers(-(10**9), 10**9), st.sampled_from([46, 47, 92, 0, 46.0, 47.0]))


def peer_name(template: str, values: dict[str, float], **options: bool) -> str:
    """The name as the peer's ``format_checkpoint_name(values, filename)`` gives it: nothing else is known."""
    return Where(template, **options).name(Progress(), values, missing=0)


@pytest.mark.parametrize(
    ("template", "auto", "values", "name"),
    [
        # ModelCheckpoint API page (Lightning 1.5): the examples of the arguments
        ("{epoch}-{step}", True, {"epoch": 0, "step": 10}, "epoch=0-step=10.ckpt"),
        (
            "{epoch}-{val_loss:.2f}-{other_metric:.2f}",
            True,
            {"epoch": 2, "val_loss": 0.0212, "other_metric": 0.0293},
            "epoch=2-val_loss=0.02-other_metric=0.03.ckpt",
        ),
        (
            "checkpoint_{epoch:02d}-{acc:02d}",
            True,
            {"epoch": 1, "acc": 80},
            "checkpoint_epoch=01-acc=80.ckpt",
        ),
        (
            "checkpoint_{epoch:02d}-{acc:02d}",
            True,
            {"epoch": 1, "acc": 80.0},
            "checkpoint_epoch=01-acc=80.ckpt",
        ),
        (
            "sample-mnist-{epoch:02d}-{val_loss:.2f}",
            True,
            {"epoch": 2, "val_loss": 0.3212},
            "sample-mnist-epoch=02-val_loss=0.32.ckpt",
        ),
        (
            "sample-mnist-epoch{epoch:02d}-val_loss{val/loss:.2f}",
            False,
            {"epoch": 2, "val/loss": 0.3212},
            "sample-mnist-epoch02-val_loss0.32.ckpt",
        ),
        # the same page: format_checkpoint_name
        ("{epoch}", True, {"epoch": 0}, "epoch=0.ckpt"),
        ("{epoch:03d}", True, {"epoch": 5}, "epoch=005.ckpt"),
        ("{epoch}-{val_loss:.2f}", True, {"epoch": 2, "val_loss": 0.123456}, "epoch=2-val_loss=0.12.ckpt"),
        ("{epoch:d}", True, {"epoch": 2, "val_loss": 0.12}, "epoch=2.ckpt"),
        (
            "epoch={epoch}-validation_loss={val_loss:.2f}",
            False,
            {"epoch": 2, "val_loss": 0.123456},
            "epoch=2-validation_loss=0.12.ckpt",
        ),
        ("{missing:d}", True, {}, "missing=0.ckpt"),
        ("{step}", True, {"step": 0}, "step=0.ckpt"),
        # Customize checkpointing behavior (Lightning 2.x): the last K by a logged step
        (
            "sample-mnist-{epoch:02d}-{global_step}",
            True,
            {"epoch": 3, "global_step": 15.0},
            "sample-mnist-epoch=03-global_step=15.ckpt",
        ),
        # the peer's behaviour where its pages say nothing
        ("{val_loss}", True, {"val_loss": 0.5}, "val_loss=0.5.ckpt"),
        ("{missing:.2f}", True, {}, "missing=0.00.ckpt"),
        ("epoch={epoch}", True, {"epoch": 1}, "epoch=epoch=1.ckpt"),
        ("{epoch}-{val/loss:.2f}", True, {"epoch": 1, "val/loss": 0.5}, "epoch=1-val/loss=0.50.ckpt"),
        ("{v:.2f}", True, {"v": math.nan}, "v=nan.ckpt"),
        ("best", True, {}, "best.ckpt"),
        ("{epoch}{epoch:02d}", False, {"epoch": 1}, "101.ckpt"),
    ],
)
def test_names_are_those_of_the_peers_pages(template: str, auto: bool, values: dict[str, float], name: str) -> None:
    """Every file name that the pages print, or that their doctests give, letter by letter."""
    assert peer_name(template, values, auto_insert_metric_name=auto) == name


@pytest.mark.parametrize(
    ("template", "scores", "name"),
    [
        ("{epoch}-{step}-{global_step}", {}, "2-15-15"),
        ("{epoch:03d}-{step:.1f}", {}, "002-15.0"),
        ("{epoch}-{step}", {"epoch": 7, "step": 9.0}, "7-9"),  # a score goes before the counter
        ("{global_step:05d}", {"global_step": 15.0}, "00015"),
        ("{step}", {"step": 1.5}, "1.5"),
        ("{step}", {"step": math.nan}, "nan"),
        ("{acc}", {"acc": 80.0}, "80.0"),
        ("{acc}", {"acc": True}, "1"),
        ("{acc:d}", {"acc": -0.0}, "0"),
        ("{acc:d}", {"acc": 1e20}, "100000000000000000000"),
        ("{acc:02d}", {"acc": 80.5}, "80.5"),
        ("{acc:06d}", {"acc": 80.5}, "0080.5"),
        ("{acc:05d}", {"acc": math.nan}, "nan"),
        ("{acc:d}", {"acc": -math.inf}, "-inf"),
        ("{acc:x}", {"acc": math.inf}, "inf"),
        ("{acc:x}", {"acc": 255.0}, "ff"),
        ("{acc:.1%}", {"acc": 0.805}, "80.5%"),
        ("{acc:+.1e}", {"acc": 12345.0}, "+1.2e+04"),
        ("{acc:,d}", {"acc": 1234567}, "1,234,567"),
        ("{acc:_>6.1f}", {"acc": 1.0}, "___1.0"),
        ("{a.b:.1f}", {"a.b": 1.0}, "1.0"),
        ("{a[0]}", {"a[0]": 2}, "2"),
        ("{val loss}", {"val loss": 0.5}, "0.5"),
        ("{a!b}", {"a!b": 3}, "3"),
        ("{acc.__class__}", {"acc.__class__": 4}, "4"),
        ("{{{acc}}}", {"acc": 5}, "{5}"),
        ("{{acc}}", {}, "{acc}"),
        ("runs/{epoch}/best", {}, "runs/2/best"),
    ],
)
def test_values_are_written_as_their_format_says(template: str, scores: dict[str, float], name: str) -> None:
    """Whole floats under whole formats, counters, special values, and names with any punctuation in them."""
    assert Where(template, auto_insert_metric_name=False).name(HERE, scores) == f"{name}.ckpt"


@pytest.mark.parametrize("name", ["scores.real", "acc.__class__.__init__.__globals__", "acc[0]", "acc.numerator"])
def test_a_field_never_reaches_into_a_value(name: str) -> None:
    """Where only ``acc`` is known, ``acc.anything`` is an unknown name and not an attribute of a number."""
    with pytest.raises(ConfigError, match="not known at this step"):
        Where(f"{{{name}}}").name(HERE, {"acc": 1.0, "scores": 2.0})


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        ("", "a part of it is empty"),
        ("{", "character 0 is not closed"),
        ("a{epoch", "character 1 is not closed"),
        ("{epoch:{step}}", "character 0 is not closed"),
        ("epoch}", "character 5 closes nothing"),
        ("{epoch}}", "character 7 closes nothing"),
        ("{}", "names nothing"),
        ("{:.2f}", "names nothing"),
        ("{0}", "names nothing"),
        ("{1:d}", "names nothing"),
        ("{ }", "names nothing"),
        ("{acc!r}", "asks for a conversion"),
        ("{acc!s:.2f}", "asks for a conversion"),
        ("{acc:c}", "format 'c'"),
        ("{acc:n}", "format 'n'"),
        ("{acc:s}", "format 's'"),
        ("{acc:r}", "format 'r'"),
        ("{acc:.2d}", "format '.2d'"),
        ("{acc:/>5d}", "format '/>5d'"),
        ("{acc:\\>5d}", "format"),
        ("{acc:9999d}", "format '9999d'"),
        ("..", "'.' or '..'"),
        ("../{epoch}", "'.' or '..'"),
        ("a/../../{epoch}", "'.' or '..'"),
        ("./{epoch}", "'.' or '..'"),
        ("{../loss}", "'.' or '..'"),
        ("/tmp/{epoch}", "absolute"),
        ("{/loss}", "absolute"),
        ("a//b", "a part of it is empty"),
        ("a/", "a part of it is empty"),
        ("a\\b", "a backslash"),
        ("{a\\b}", "a backslash"),
        ("a\0b", "a NUL"),
        ("\ud800", "no file name can hold"),
        (".holdfast/{epoch}", "own notes"),
        (b"{epoch}", "is text"),
        (3, "is text"),
    ],
)
def test_a_template_that_cannot_work_is_refused_at_once(template: object, complaint: str) -> None:
    """Nothing is found out at the first save, hours later; an alias is held to the same."""
    for role in ("template", "alias"):
        with pytest.raises(ConfigError) as caught:
            Where(**{role: template})
        assert complaint in str(caught.value)
        assert role in str(caught.value)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"template": None}, "neither a template nor an alias"),
        ({"join": "/"}, "join= has a slash"),
        ({"equals": "/../"}, "equals= has a slash"),
        ({"extension": "/x"}, "extension= has a slash"),
        ({"extension": "\0"}, "extension= has a NUL"),
        ({"join": "\\"}, "join= has a backslash"),
        ({"extension": None}, "extension= is text"),
        ({"starting_version": -1}, "starting_version="),
        ({"starting_version": True}, "starting_version="),
        ({"starting_version": "1"}, "starting_version="),
    ],
)
def test_affixes_that_cannot_work_are_refused(options: dict[str, object], complaint: str) -> None:
    """What stands between the fields is no way out of the folder either."""
    with pytest.raises(ConfigError) as caught:
        Where(**options)
    assert complaint in str(caught.value)


def test_a_where_names_all_problems_at_once() -> None:
    """Nobody has to fix one mistake to hear of the next."""
    with pytest.raises(ConfigError) as caught:
        Where("../{0}-{acc:c}", alias="{", starting_version=-1, join="/")
    for complaint in ("names nothing", "format 'c'", "alias '{'", "starting_version=", "join= has a slash"):
        assert complaint in str(caught.value)


def test_a_field_that_is_not_known_is_named_with_what_is() -> None:
    """A typing error in a template can be seen from the message alone."""
    with pytest.raises(ConfigError) as caught:
        Where("{epoch}-{val_los:.2f}").name(HERE, {"val_loss": 0.5})
    assert "'val_los'" in caught.value.what
    for known in ("epoch", "step", "global_step", "val_loss"):
        assert repr(known) in caught.value.remedy


def test_what_is_missing_can_be_given_a_value() -> None:
    """``missing`` fills unknown fields only."""
    where = Where("{epoch}-{loss:.1f}-{acc:d}")
    assert where.name(HERE, {"loss": 0.5}, missing=0) == "epoch=2-loss=0.5-acc=0.ckpt"


@pytest.mark.parametrize("value", ["../../x", None, b"1", [1]])
def test_a_value_that_is_no_number_is_refused(value: object) -> None:
    """Text could carry a path; a score is a number."""
    with pytest.raises(ConfigError, match=r"\{acc\} of a file name is a number"):
        Where("{acc}").name(HERE, {"acc": value})


def test_a_number_with_a_format_of_its_own_is_written_as_a_plain_one() -> None:
    """A subclass of float does not get to choose the text."""

    class Sly(float):
        def __format__(self, spec: str) -> str:
            return "/../../x"

        __repr__ = __str__ = lambda self: "/../../x"

    assert Where("{acc}-{acc:.1f}-{acc:d}", auto_insert_metric_name=False).name(HERE, {"acc": Sly(1.5)}) == (
        "1.5-1.5-1.5.ckpt"
    )


def test_a_format_that_does_not_fit_the_value_names_the_field() -> None:
    """Hexadecimal is for whole numbers; the message says which field and which value."""
    with pytest.raises(ConfigError, match=r"\{acc:x\}.*0\.5"):
        Where("{epoch}-{acc:x}").name(HERE, {"acc": 0.5})


def test_a_part_longer_than_file_systems_allow_is_refused() -> None:
    """255 bytes for a part, extension included, counted in UTF-8; folders do not add up."""
    assert len(Where("x" * 250).name(HERE, {})) == 255
    assert Where("x" * 250 + "/" + "y" * 250).name(HERE, {})
    for template in ("x" * 251, "é" * 126, "x" * 256 + "/y"):
        with pytest.raises(ConfigError, match="bytes long"):
            Where(template).name(HERE, {})
    with pytest.raises(ConfigError, match="bytes long"):
        Where("{acc:.2f}").name(HERE, {"acc": 1e300})
    with pytest.raises(ConfigError, match="bytes long"):
        Where(alias="x" * 251).alias_name(HERE, {})


@pytest.mark.parametrize(
    ("where", "alias"),
    [
        (Where(), None),
        (Where(alias="last"), "last.ckpt"),
        (Where(alias="{epoch}-last"), "epoch=2-last.ckpt"),
        (Where(alias="{epoch}-last", auto_insert_metric_name=False), "2-last.ckpt"),
        (Where(None, alias="last"), "last.ckpt"),
    ],
)
def test_the_alias_is_a_template_too(where: Where, alias: str | None) -> None:
    """As ``CHECKPOINT_NAME_LAST`` on the ModelCheckpoint API page (Lightning 1.5)."""
    assert where.alias_name(HERE, {}) == alias


def test_a_where_with_an_alias_only_has_no_name_of_its_own() -> None:
    """Asking for it is a mistake that says so."""
    with pytest.raises(ConfigError, match="no name but its alias 'last'"):
        Where(None, alias="last").name(HERE, {})


def test_fields_are_those_of_template_and_alias() -> None:
    """Each once, in the order of the text; formats and braces are no fields."""
    where = Where("{epoch}-{val/loss:.2f}-{{x}}-{epoch:d}", alias="{a.b}-last-{epoch}")
    assert where.fields == ("epoch", "val/loss", "a.b")
    assert Where(None, alias="last").fields == ()


def test_the_signs_between_fields_can_be_chosen() -> None:
    """As the class constants of ModelCheckpoint."""
    where = Where("{epoch}-{step}", alias="last", join="_", equals="", extension=".pt", starting_version=0)
    assert where.name(HERE, {}) == "epoch2-step15.pt"
    assert where.versioned("last.pt", {"last.pt"}) == "last_v0.pt"


@pytest.mark.parametrize(
    ("name", "taken", "free"),
    [
        ("a.ckpt", [], "a.ckpt"),
        ("a.ckpt", ["b.ckpt", "a-v1.ckpt"], "a.ckpt"),
        ("a.ckpt", ["a.ckpt"], "a-v1.ckpt"),
        ("a.ckpt", ["a.ckpt", "a-v1.ckpt"], "a-v2.ckpt"),
        ("a.ckpt", ["a.ckpt", "a-v2.ckpt"], "a-v1.ckpt"),
        ("val/loss=0.5.ckpt", ["val/loss=0.5.ckpt"], "val/loss=0.5-v1.ckpt"),
        ("a.ckpt.ckpt", ["a.ckpt.ckpt"], "a.ckpt-v1.ckpt"),
        ("hand.made", ["hand.made"], "hand.made-v1"),
    ],
)
def test_a_name_that_is_taken_gets_a_version(name: str, taken: list[str], free: str) -> None:
    """The version goes before the extension and is the first that is free."""
    assert Where().versioned(name, taken) == free
    assert Where().versioned(name, frozenset(taken)) == free


def test_a_version_cannot_make_a_name_too_long() -> None:
    """A name of exactly 255 bytes has no room for one, which is said before anything is written."""
    name = Where("x" * 250).name(HERE, {})
    with pytest.raises(ConfigError, match="bytes long"):
        Where("x" * 250).versioned(name, {name})


@given(st.sets(st.integers(0, 30)), st.integers(0, 3))
def test_a_versioned_name_is_free(versions: set[int], start: int) -> None:
    """Whatever is taken, the answer is not among it, and no lower version from the start on was free."""
    where = Where(starting_version=start)
    taken = {"a.ckpt"} | {f"a-v{version}.ckpt" for version in versions}
    free = where.versioned("a.ckpt", taken)
    assert free not in taken
    assert free == f"a-v{min(set(range(start, start + 32)) - versions)}.ckpt"


def stays_inside(name: str, separators: int) -> bool:
    """Whether a name leads to a file below its folder, through exactly that many folders."""
    below = posixpath.normpath(f"/root/{name}") == f"/root/{name}"
    return below and name.count("/") == separators and "\\" not in name and "\0" not in name


@given(texts, texts, specs, texts, numbers, st.booleans(), texts, texts)
@example("", "x", ".>3", "", 1, False, "=", ".ckpt")
@example("", "epoch", "c", "/x", 47, False, "=", ".ckpt")
@example("", "..", "", "", 1.0, True, "/", "")
@example("00", ";", "x", "00", 2.4948003869184e291, False, "", "000000")
def test_no_name_climbs_out_of_its_folder(
    before: str, metric: str, spec: str, after: str, value: float, auto: bool, equals: str, extension: str
) -> None:
    """Whatever template, metric and value are, the name is below the folder or is refused."""
    template = f"{before}{{{metric}{':' + spec if spec else ''}}}{after}"
    try:
        where = Where(template, alias=template, auto_insert_metric_name=auto, equals=equals, extension=extension)
    except ConfigError:
        return
    scores = dict.fromkeys(where.fields, value)
    try:
        names = [
            where.name(HERE, scores),
            where.alias_name(HERE, scores),
            where.name(HERE, {}, missing=value),
        ]
    except ConfigError:
        return
    # With 1 for a value there is no doubt where each slash comes from: the template and the inserted names.
    separators = where.name(HERE, dict.fromkeys(where.fields, 1)).count("/")
    for name in names:
        assert name is not None
        assert stays_inside(name, separators)
        with suppress(ConfigError):  # with a number it may be too long
            assert stays_inside(where.versioned(name, {name}), separators)


@given(
    st.text(st.characters(exclude_characters=":{}!\\\0", exclude_categories=["Cs"]), min_size=1, max_size=20),
    numbers,
)
def test_any_metric_can_be_in_a_name(metric: str, value: float) -> None:
    """Without its name inserted, a metric may be called anything that a field can spell."""
    assume(metric.strip() and not metric.isdecimal())
    name = Where("m={" + metric + ":.3g}", auto_insert_metric_name=False).name(HERE, {metric: value})
    assert name == f"m={value:.3g}.ckpt"


@given(
    st.floats(allow_nan=False, allow_infinity=False, min_value=-1e200, max_value=1e200),
    st.sampled_from(["d", ".2f", "g", ""]),
    st.sampled_from(["loss", "epoch", "global_step"]),
)
def test_every_finite_float_has_a_name_in_every_usual_format(value: float, spec: str, metric: str) -> None:
    """No save is lost to the value of a metric, and the name says that value."""
    name = Where("{" + metric + (":" + spec if spec else "") + "}").name(HERE, {metric: value})
    written = name.removeprefix(f"{metric}=").removesuffix(".ckpt")
    expected = {"d": value, "": value, "g": float(f"{value:g}"), ".2f": float(f"{value:.2f}")}[spec]
    assert float(written) == expected
    if spec == "d" and value.is_integer():
        assert int(written) == value


@given(st.integers(-(10**200), 10**200), st.sampled_from(["d", ""]))
def test_every_integer_is_written_exactly(value: int, spec: str) -> None:
    """Integers never pass through a float."""
    assert Where(f"{{n:{spec}}}").name(HERE, {"n": value}) == f"n={value}.ckpt"


def test_wheres_are_values() -> None:
    """Equal when they say the same, usable as keys."""
    assert Where() == Where("{epoch}-{step}")
    assert len({Where(), Where(alias="last"), Where("{epoch}-{step}")}) == 2
