"""What save_hyperparameters remembers, how it is made plain, and what comes back as itself."""

from __future__ import annotations

import copy
import inspect
import pickle
import threading
from argparse import Namespace
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum, IntFlag
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional, Union

import pytest
import torch
from torch import nn

from holdfast.errors import ConfigError
from holdfast.training.hparams import AttributeDict, HyperparametersMixin, checkpoint_entries, exact, plain

if TYPE_CHECKING:
    from nowhere import Unknown


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Rights(IntFlag):
    READ = 1
    WRITE = 2


class Size(str, Enum):
    SMALL = "s"


@dataclass
class Inner:
    colour: Colour = Colour.RED
    width: int = 1


@dataclass
class Outer:
    inner: Inner
    path: Path = Path("here")
    many: list[Colour] = field(default_factory=list)
    computed: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.computed = self.inner.width * 2


class Net(HyperparametersMixin, nn.Module):
    def __init__(self, width, depth=2, *rest, lr=0.1, **others):
        super().__init__()
        self.save_hyperparameters(ignore="rest")


def test_every_named_argument_is_remembered():
    """Positional, keyword-only, defaulted and free keyword arguments are hyperparameters by their own names."""
    net = Net(8, 3, lr=0.5, dropout=0.2)
    assert dict(net.hparams) == {"width": 8, "depth": 3, "lr": 0.5, "dropout": 0.2}
    assert checkpoint_entries(net) == {"hyper_parameters": dict(net.hparams), "hparams_name": "kwargs"}


def test_a_subclass_that_hands_arguments_on_is_seen_whole():
    """Called in a base's __init__, the arguments of the subclass count too, and win over the base's."""

    class Sub(Net):
        def __init__(self, depth, name="x", **others):
            super().__init__(4, depth + 1, **others)

    assert dict(Sub(5, lr=1.0, extra=True).hparams) == {
        "width": 4, "depth": 5, "lr": 1.0, "extra": True, "name": "x",
    }  # fmt: skip


def test_positional_arguments_that_are_handed_on_get_the_names_of_the_base():
    """A subclass of (*args, **kwargs) loses nothing where the base saves, and nobody is warned."""

    class Base(HyperparametersMixin):
        def __init__(self, width, depth):
            self.save_hyperparameters()

    class Sub(Base):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)

    assert dict(Sub(1, depth=2).hparams) == {"width": 1, "depth": 2}


def test_positional_arguments_without_a_name_are_warned_of():
    """What *args took cannot be given back by name; that is said, and nothing else is lost."""

    class Loose(HyperparametersMixin):
        def __init__(self, first, *rest):
            self.save_hyperparameters()

    with pytest.warns(UserWarning, match=r"\*rest of .*Loose.__init__ have no names"):
        loose = Loose(1, 2, 3)
    assert dict(loose.hparams) == {"first": 1}
    assert dict(Loose(1).hparams) == {"first": 1}


def test_what_builds_another_object_is_not_taken_for_this_one():
    """An object that is built inside another's __init__ remembers its own arguments alone."""

    class Part(HyperparametersMixin):
        def __init__(self, a):
            self.save_hyperparameters()

    class Whole(HyperparametersMixin):
        def __init__(self, b):
            self.part = Part(b + 1)
            self.save_hyperparameters()

    whole = Whole(1)
    assert dict(whole.hparams) == {"b": 1}
    assert dict(whole.part.hparams) == {"a": 2}


def test_a_method_that_init_calls_may_save():
    """The __init__ is found above the method that saves; a frame to begin at may be given."""

    class Net(HyperparametersMixin):
        def __init__(self, a, explicit=False):
            self.explicit = explicit
            self.begin(inspect.currentframe())

        def begin(self, frame):
            self.save_hyperparameters("a", frame=frame if self.explicit else None)

    assert dict(Net(7).hparams) == {"a": 7}
    assert dict(Net(7, explicit=True).hparams) == {"a": 7}


def test_a_subclass_leaves_out_what_its_base_has_remembered():
    """The base's call comes first, and takes the subclass's arguments too."""

    class Base(HyperparametersMixin):
        def __init__(self, width=1):
            self.save_hyperparameters()

    class Sub(Base):
        def __init__(self, path=None, width=1):
            super().__init__(width=width)
            self.save_hyperparameters(ignore="path")

    made = Sub("here", width=3)
    assert made.hparams == made.hparams_initial == {"width": 3}


def test_names_select_and_ignore_leaves_out():
    """Names choose among the arguments; ignore takes one name or several, and names that nobody has."""

    class Net(HyperparametersMixin):
        def __init__(self, a, b, c, names=(), ignore=None):
            self.save_hyperparameters(*names, ignore=ignore)

    assert dict(Net(1, 2, 3, names=("a", "c")).hparams) == {"a": 1, "c": 3}
    assert dict(Net(1, 2, 3, ignore=["names", "ignore", "b", "none"]).hparams) == {"a": 1, "c": 3}
    with pytest.raises(ConfigError, match=r"'d': no argument of .*Net\.__init__\. Its arguments are: a, b, c"):
        Net(1, 2, 3, names=("a", "d"))


@pytest.mark.parametrize(
    ("given", "type_name"),
    [
        (Namespace(lr=0.1, width=4), "argparse.Namespace"),
        ({"lr": 0.1, "width": 4}, None),
        (AttributeDict(lr=0.1, width=4), None),
    ],
)
def test_one_object_may_be_all_hyperparameters(given, type_name):
    """A Namespace or a dict is spread out; its argument's name is kept, so that it can be given back as one."""

    class Net(HyperparametersMixin):
        def __init__(self, conf, other=1):
            self.save_hyperparameters(conf, ignore=["none"])

    net = Net(given)
    assert dict(net.hparams) == {"lr": 0.1, "width": 4}
    entries = checkpoint_entries(net)
    assert entries["hparams_name"] == "conf"
    assert entries.get("hparams_type") == type_name
    assert type(entries["hyper_parameters"]) is dict


def test_one_dataclass_may_be_all_hyperparameters():
    """Its fields are the hyperparameters; the values in them stay what they are in memory."""

    class Net(HyperparametersMixin):
        def __init__(self, conf: Inner):
            self.save_hyperparameters(conf, ignore=["width"])

    net = Net(Inner(Colour.BLUE, 3))
    assert dict(net.hparams) == {"colour": Colour.BLUE}
    assert checkpoint_entries(net) == {"hyper_parameters": {"colour": "blue"}, "hparams_name": "conf"}


@pytest.mark.parametrize("given", [(3,), ([1],), (None,), ("a", {"b": 1}), ({"b": 1}, {"c": 1}), (Inner,)])
def test_what_is_no_collection_of_hyperparameters_is_refused(given):
    """Numbers, lists, classes and mixtures of names and objects are refused in a sentence."""

    class Net(HyperparametersMixin):
        def __init__(self, a):
            self.save_hyperparameters(*given)

    with pytest.raises(ConfigError, match="takes names of arguments, or one"):
        Net(1)


def test_outside_of_init_there_is_nothing_to_collect():
    """Without an __init__ at work the call is an error that says so; an object may still be given."""
    net = Net(1)
    for names in ((), ("width",)):
        with pytest.raises(ConfigError, match="while no __init__ of Net was running"):
            net.save_hyperparameters(*names)
    net.save_hyperparameters({"later": 1})
    assert net.hparams.later == 1


def test_several_calls_add_up():
    """A base and a subclass may both save; loggers are told by the last of them."""

    class Base(HyperparametersMixin):
        def __init__(self, a):
            self.save_hyperparameters("a")

    class Sub(Base):
        def __init__(self, a, b):
            super().__init__(a)
            self.save_hyperparameters("b", logger=False)

    sub = Sub(1, 2)
    assert dict(sub.hparams) == {"a": 1, "b": 2}
    assert sub._log_hyperparams is False


def test_the_initial_values_do_not_follow_changes():
    """Changes of hparams do not reach hparams_initial: it is a copy from the time of the call, and gives copies."""

    class Net(HyperparametersMixin):
        def __init__(self, layers):
            self.save_hyperparameters()

    net = Net([1, 2])
    net.hparams.layers.append(3)
    net.hparams.more = True
    net.hparams_initial.layers.append(4)
    assert dict(net.hparams_initial) == {"layers": [1, 2]}


def test_a_module_is_warned_of_and_kept_out_of_files():
    """A module among the arguments stays reachable, is no part of a checkpoint, and is not copied."""

    class Net(HyperparametersMixin, nn.Module):
        def __init__(self, backbone, lr=1):
            super().__init__()
            self.save_hyperparameters()

    backbone = nn.Linear(1, 1)
    with pytest.warns(UserWarning, match=r"backbone: a module is no hyperparameter.*ignore=\['backbone'\]") as caught:
        net = Net(backbone)
    assert caught[0].filename == __file__
    assert net.hparams.backbone is backbone
    assert dict(net.hparams_initial) == {"lr": 1}
    assert checkpoint_entries(net)["hyper_parameters"] == {"lr": 1}
    assert not list(net.parameters())


def test_an_argument_that_cannot_be_copied_is_named():
    """The error names the argument and how to leave it out."""
    with pytest.raises(ConfigError, match=r"'lock' cannot be copied.*ignore=\['lock'\]"):
        Net(1, lock=threading.Lock())


def test_arguments_of_a_dataclass_are_its_fields():
    """A dataclass that saves in __post_init__ remembers fields, made by factories too."""

    @dataclass
    class Net(HyperparametersMixin):
        width: int
        layers: list = field(default_factory=lambda: [1])

        def __post_init__(self):
            self.save_hyperparameters()

    assert dict(Net(3).hparams) == {"width": 3, "layers": [1]}


def test_without_any_call_there_are_none():
    """What nobody saved is empty, not missing, and a checkpoint has no keys for it."""

    class Net(HyperparametersMixin, nn.Module):
        pass

    assert dict(Net().hparams) == dict(Net().hparams_initial) == {}
    assert checkpoint_entries(Net()) == {}


def test_an_attribute_dict_is_a_dict():
    """Attributes are items; copies and pickles keep the kind; a missing one lists what there is."""
    values = AttributeDict(lr=0.1, depth=2)
    values.name = "x"
    del values.depth
    assert values == {"lr": 0.1, "name": "x"}
    for other in (values.copy(), copy.deepcopy(values), pickle.loads(pickle.dumps(values))):
        assert type(other) is AttributeDict
        assert other == values
    assert repr(values) == "lr   = 0.1\nname = 'x'"
    assert not hasattr(values, "depth")
    with pytest.raises(AttributeError, match=r"no hyperparameter 'depth'\. There is: lr, name"):
        values.depth  # noqa: B018
    with pytest.raises(AttributeError, match="no hyperparameter 'depth'"):
        del values.depth


def test_plain_values_are_what_a_file_can_hold():
    """Enums become their values and dataclasses dicts, wherever they are; what the engine encodes is left alone."""
    given = {
        "colour": Colour.RED,
        "rights": Rights.READ | Rights.WRITE,
        "size": Size.SMALL,
        "conf": Outer(Inner(Colour.BLUE), many=[Colour.RED]),
        "nested": {"by": {Colour.RED: (Colour.BLUE, {Colour.RED})}},
        "space": Namespace(colour=Colour.RED, wait=timedelta(1)),
        "kept": AttributeDict(path=Path("x"), dtype=torch.float16),
        "net": nn.Linear(1, 1),
    }
    made = plain(given)
    assert made == {
        "colour": "red",
        "rights": 3,
        "size": "s",
        "conf": {"inner": {"colour": "blue", "width": 1}, "path": Path("here"), "many": ["red"], "computed": 2},
        "nested": {"by": {"red": ("blue", {"red"})}},
        "space": Namespace(colour="red", wait=timedelta(1)),
        "kept": {"path": Path("x"), "dtype": torch.float16},
    }
    assert type(made["size"]) is str
    assert type(made["rights"]) is int
    assert type(made["kept"]) is dict
    assert given["nested"]["by"][Colour.RED][0] is Colour.BLUE


class Named:
    def __init__(
        self,
        a: Colour,
        b: Optional[Colour] = None,  # noqa: UP045 # the older spelling is the point
        c: Union[int, Colour] = 1,  # noqa: UP007
        d: str | Colour = "red",
        e: list[Colour] | None = None,
        f: dict[Colour, tuple[Colour, int]] | None = None,
        g: Outer | None = None,
        h: Unknown = None,
        i: Unknown = Colour.RED,
        j=Size.SMALL,
        k: Rights = Rights.READ,
        m: Any = None,
        n: set[Colour] | None = None,
        p: tuple[Colour, ...] = (),
    ):
        pass


@pytest.mark.parametrize(
    ("name", "stored", "value"),
    [
        ("a", "red", Colour.RED),
        ("b", "blue", Colour.BLUE),
        ("b", None, None),
        ("c", "blue", Colour.BLUE),
        ("c", 4, 4),
        ("d", "red", "red"),
        ("e", ["red", "blue"], [Colour.RED, Colour.BLUE]),
        ("f", {"red": ("blue", 2)}, {Colour.RED: (Colour.BLUE, 2)}),
        ("g", {"inner": {"colour": "blue", "width": 3}, "path": Path("y"), "many": ["red"], "computed": 9},
         Outer(Inner(Colour.BLUE, 3), Path("y"), [Colour.RED])),
        ("h", "red", "red"),
        ("i", "blue", Colour.BLUE),
        ("i", "not a colour", "not a colour"),
        ("j", "s", Size.SMALL),
        ("k", 3, Rights.READ | Rights.WRITE),
        ("m", "red", "red"),
        ("n", {"red"}, {Colour.RED}),
        ("p", ("red", "blue"), (Colour.RED, Colour.BLUE)),
        ("a", Colour.BLUE, Colour.BLUE),
        ("unknown", "red", "red"),
    ],
)  # fmt: skip
def test_a_type_comes_back_where_the_class_names_it(name, stored, value):
    """Annotation and default decide, as text too; what names no type, or cannot be resolved, stays plain."""
    made = exact(Named, {name: stored})[name]
    assert made == value
    assert type(made) is type(value)


@pytest.mark.parametrize("value", [Colour.BLUE, Outer(Inner(Colour.BLUE, 5), many=[Colour.RED])])
def test_plain_and_exact_are_each_others_inverse(value):
    """Where the class names the type, what was made plain is made whole again, computed fields too."""

    class Net:
        def __init__(self, it):
            pass

    Net.__init__.__annotations__["it"] = type(value)
    assert exact(Net, plain({"it": value})) == {"it": value}


def test_a_value_that_its_type_has_no_longer_is_named():
    """An Enum that has lost a member is an error with the argument's name, not a plain string in disguise."""
    for name, value in (("a", "green"), ("b", "green"), ("g", {"inner": {}, "gone": 1})):
        with pytest.raises(ConfigError, match=f"argument '{name}' of Named cannot be made from"):
            exact(Named, {name: value})


def test_types_are_found_through_bases_that_take_the_rest():
    """Where __init__ takes **kwargs, its bases' annotations count."""

    class Base:
        def __init__(self, colour: Colour, level: Rights = Rights.READ):
            pass

    class Sub(Base):
        def __init__(self, level: int, **others):
            super().__init__(**others)

    class Closed(Base):
        def __init__(self, level):
            super().__init__(Colour.RED)

    assert exact(Sub, {"colour": "red", "level": 1}) == {"colour": Colour.RED, "level": 1}
    assert exact(Closed, {"colour": "red"}) == {"colour": "red"}
