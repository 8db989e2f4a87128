"""Parts by name, from modules and from installed packages: found, bound, checked."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import networkx as nx
import numpy as np
import pytest
import torch
from annotated_types import Interval
from outside_parts import TEXTS, installed, module
from pydantic import AllowInfNan

from flower_kd import augmentation, dissimilarity, models, pooling, schedule, strategies, topology, wire
from flower_kd.catalog import REGISTRIES
from flower_kd.config import RunConfig
from flower_kd.data import DataSpec
from flower_kd.data.partition import partitioner_of
from flower_kd.errors import InputError
from flower_kd.parts.registry import Registry
from flower_kd.seeding import torch_seeded
from flower_kd.wire import compression


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[str]:
    with module(tmp_path, "outside_module") as name:
        yield name


def registry() -> Registry[Any]:
    """Return a registry of parts with all kinds of settings."""
    found: Registry[Any] = Registry("shape", given=("size", "seed"))

    @found.register("circle")
    def circle(
        size: int,
        *,
        seed: int = 0,
        radius: Annotated[float, Interval(gt=0, le=9)] = 1.0,
        corners: int | None = None,
        style: Literal["thin", "thick"] = "thin",
        far: Annotated[float, AllowInfNan(True)] = 1.0,
        shift: float = 0.0,
        untyped=3,
        anything=None,
    ) -> tuple:
        return size, radius, corners, style, far, untyped, anything

    @found.register("square")
    class Square:
        def __init__(self, *, side: float) -> None:
            self.side = side

        def __call__(self, size: int) -> float:
            return size * self.side

    @found.register("frame")
    class Frame(Square):
        def __init__(self, *, width: float = 1.0, **others: Any) -> None:
            super().__init__(**others)
            self.width = width

    @found.register("dot")
    @dataclass(frozen=True)
    class Dot:
        weight: Annotated[int, Interval(ge=1)] = 1

        def __call__(self, size: int) -> int:
            return size * self.weight

    return found


def test_functions_are_bound_and_classes_are_instantiated() -> None:
    shapes = registry()
    assert shapes.make("circle(radius=2)")(5) == (5, 2.0, None, "thin", 1.0, 3, None)
    assert type(shapes.make("circle(radius=2)")(5)[1]) is float
    assert shapes.make("square(side=2)")(5) == 10
    assert shapes.make("dot", weight=3)(5) == 15
    frame = shapes.make("frame(width=2, side=3)")
    assert (frame.width, frame.side) == (2, 3)
    assert list(shapes.settings("frame")) == ["width", "side"]
    assert shapes.make("circle(far=inf)")(1)[4] == float("inf")
    assert shapes.make("circle(anything=[1, two])")(1)[6] == [1, "two"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("circel", r"unknown shape 'circel', did you mean 'circle'\? \(allowed: circle, .*module:attribute\)"),
        (
            "circle(radios=2)",
            "unknown argument of shape 'circle' 'radios', did you mean 'radius'.*allowed: radius, corn",
        ),
        ("circle(radius=0)", "shape 'circle': radius = 0 must be above 0 and at most 9"),
        ("circle(radius=nan)", "radius = nan must be finite"),
        ("circle(shift=nan)", "shift = nan must be finite"),
        ("circle(shift=-inf)", "shift = -inf must be finite"),
        ("circle(radius=true)", "radius = True must be a number"),
        ("circle(radius=wide)", "radius = 'wide' must be a number"),
        ("circle(corners=2.0)", "corners = 2.0 must be a whole number or None"),
        ("circle(corners=true)", "corners = True must be a whole number or None"),
        ("circle(style=fat)", r"unknown style 'fat' \(allowed: thin, thick\)|style 'fat'.*allowed: thin, thick"),
        ("circle(untyped=x)", "untyped = 'x' must be a whole number"),
        ("circle(seed=2)", "shape 'circle': seed is supplied by flower-kd and cannot be set"),
        ("circle(size=2)", "shape 'circle': size is supplied by flower-kd and cannot be set"),
        ("square", "shape 'square' needs the argument side"),
        ("frame(width=2)", "shape 'frame' needs the argument side"),
        ("dot(weight=0)", "weight = 0 must be at least 1"),
        (
            "no_such_module_:x",
            "shape 'no_such_module_:x' cannot be imported: ModuleNotFoundError: No module named 'no_su",
        ),
        ("math:absent", "shape 'math:absent' cannot be imported: AttributeError: module 'math' has no attribute 'abs"),
        ("math:sqr", "module 'math' has no attribute 'sqr', did you mean 'sqrt'"),
        ("math.sqrt(x=1)", r"unknown shape 'math.sqrt', did you mean 'math:sqrt'\?"),
        ("no_such_module_.x", r"unknown shape 'no_such_module_.x' \(allowed"),
        ("math:pi", "shape 'math:pi' is of type float, which is not callable"),
        ("math:pi.real", "is of type float"),
    ],
)
def test_what_does_not_fit_is_one_sentence(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as refusal:
        registry().make(text)
    assert "\n" not in str(refusal.value)


def frames(size: int, *, width: int = 1) -> int:
    return size * width


class Frame:
    """As other libraries have them: settings by position too."""

    def __init__(self, size: int, width: int = 1, height: float = 2.0) -> None:
        self.size, self.width, self.height = size, width, height


def test_classes_of_other_libraries_take_all_their_arguments_and_no_keys() -> None:
    foreign: Registry[Any] = Registry("frame", given=("size",), foreign=True)
    foreign.register("class")(Frame)
    foreign.register("function")(frames)
    assert set(foreign.settings("class")) == {"width", "height"}
    assert foreign.bind("class(width=3, height=0.5)")(2).height == 0.5
    assert set(foreign.settings("function")) == {"width"}
    assert foreign.filled("class", {"width": 7}) == "class"
    with pytest.raises(InputError, match="size is supplied by flower-kd"):
        foreign.bind("class(size=3)")
    with pytest.raises(InputError, match=r"width = 0\.5 must be a whole number"):
        foreign.bind("class(width=0.5)")


def test_open_settings_are_filled_and_parentheses_win() -> None:
    values = {"radius": 4.0, "side": 2.5, "other": 1}
    assert registry().filled("circle", values) == "circle(radius=4.0)"
    assert registry().filled("circle(radius=1)", values) == "circle(radius=1)"
    assert registry().filled("frame(width=2)", values) == "frame(width=2, side=2.5)"
    assert registry().filled("dot", values) == "dot"


# -- each kind, from a module ------------------------------------------------------------------------------------------


def use(kind: str, text: str) -> Any:
    """Use a part of a kind as the Python interface does, and return something that its setting changes."""
    graph = nx.cycle_graph(4)
    match kind:
        case "dissimilarity":
            log_p, log_q = dissimilarity.soften(torch.tensor([[0.0, 1.0, 0.0], [2.0, 0.0, 0.0]]), 1.0)
            return dissimilarity.get(text, reduction="sum")(log_p[None], log_q[None]).item()
        case "topology":
            return sorted(topology.build(text, num_nodes=8).edges)
        case "pooling":
            teachers = pooling.get(text)(torch.tensor([[[0.0, 1.0]], [[2.0, 0.0]]]), np.ones((2, 2)), 1.0)
            return teachers[0].soft_labels.tolist()
        case "consensus":
            strategy = strategies.DDist(graph, consensus=text)
            return strategy.update(torch.ones(1), torch.ones(1), torch.zeros(1), torch.zeros(1)).item()
        case "wire":
            rows = torch.tensor([[0.123, 0.877]])
            codec = wire.get(text)
            return codec.decode(codec.encode(rows), (1, 2)).tolist()
        case "compression":
            update = {"w": np.array([0.5, -1.0], np.float32)}
            return compression.get(text).compress(update, {})[1]["w"].tolist()
        case "partition":
            return type(partitioner_of(DataSpec(partition=text, num_partitions=3), 0)).__name__
        case "model":
            return sum(weight.numel() for weight in models.build(text, 3, (1, 2, 2)).parameters())
        case "schedule":
            return schedule.factors(text, 12).round(3).tolist()
        case "augment":
            with torch_seeded(0):
                return int((augmentation.get(text)(torch.ones(1000, 1), torch.ones(1000, 2))[0] == 0).sum())
        case _:
            return strategies.build(text, graph, {"alpha": 0.3, "rho": 1.0}).strength


EXPECTED = {
    "dissimilarity": None,
    "topology": [(0, 1), (0, 3), (0, 5), (0, 7), (1, 2), (1, 4), (1, 6), (2, 3)],
    "pooling": [[pytest.approx(0.8808, rel=1e-3), pytest.approx(0.1192, rel=1e-3)]],
    "consensus": pytest.approx(0.8),
    "wire": [[pytest.approx(0.12), pytest.approx(0.88)]],
    "compression": [0.25, -0.5],
    "partition": "IidPartitioner",
    "model": 12,
    "schedule": [1.0, 0.868, 0.55, 0.232, 0.1, 0.232, 0.55, 0.868, 1.0, 0.868, 0.55, 0.232],
    "augment": pytest.approx(200, abs=40),
    "strategy": 0.5,
}


@pytest.mark.parametrize("kind", TEXTS)
def test_each_kind_by_module_and_attribute(kind: str, outside: str) -> None:
    good, wrong, words = TEXTS[kind]
    found = use(kind, f"{outside}:{good}")
    if kind == "topology":
        found = found[: len(EXPECTED[kind])]
    assert EXPECTED[kind] is None or found == EXPECTED[kind]
    plain = use(kind, f"{outside}:{good.split('(')[0]}")
    assert kind == "partition" or plain != use(kind, f"{outside}:{good}")
    with pytest.raises(InputError, match=words) as refusal:
        use(kind, f"{outside}:{wrong}")
    assert "\n" not in str(refusal.value)
    assert f"{outside}:{wrong.split('(')[0]}" in str(refusal.value)
    with pytest.raises(InputError, match=words):
        RunConfig.parse({kind: f"{outside}:{wrong}"})
    for text, reason in (
        (f"{outside}:NOT_CALLABLE", "which is not callable"),
        (f"{outside}:absent", "has no attribute"),
    ):
        with pytest.raises(InputError, match=reason):
            use(kind, text)
    with pytest.raises(InputError, match=r"'absent_module:x' cannot be imported: ModuleNotFoundError"):
        use(kind, "absent_module:x(a=1)")


def test_dissimilarities_from_outside_may_be_functions_or_modules(outside: str) -> None:
    log_p, log_q = dissimilarity.soften(torch.randn(2, 5, 3), 1.0)
    assert torch.allclose(
        dissimilarity.get(f"{outside}:powered")(log_p, log_q), dissimilarity.squared_error(log_p, log_q)
    )
    found = dissimilarity.get(f"{outside}:Scaled(factor=3)", reduction="none")(log_p, log_q)
    assert torch.allclose(found, 3 * dissimilarity.squared_error(log_p, log_q, reduction="none"))
    as_function = dissimilarity.get("flower_kd.dissimilarity:js", reduction="sum")(log_p, log_q)
    assert torch.equal(as_function, dissimilarity.get("js", reduction="sum")(log_p, log_q))


def test_a_strategy_must_be_one(outside: str) -> None:
    with pytest.raises(InputError, match=r"is not a subclass of flower_kd\.strategies\.GraphStrategy"):
        strategies.build(f"{outside}:evenly", nx.cycle_graph(4), {})


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        ("5", "returns an int, not a networkx graph"),
        ("nx.cycle_graph(3)", "vertices are not 0 to 3"),
        ("nx.empty_graph(4)", "is not connected"),
        ("1 / 0", "fails: ZeroDivisionError: division by zero"),
    ],
)
def test_a_graph_from_outside_is_checked(tmp_path: Path, returned: str, words: str) -> None:
    content = f"import networkx as nx\ndef graph(num_nodes, rng):\n    return {returned}\n"
    with module(tmp_path, "outside_graph", content), pytest.raises(InputError, match=words):
        topology.build("outside_graph:graph", 4)


def test_a_module_that_fails_is_named(tmp_path: Path) -> None:
    words = "pooling 'outside_broken:x' cannot be imported: KeyError: 'key'"
    with module(tmp_path, "outside_broken", "raise KeyError('key')"), pytest.raises(InputError, match=words):
        pooling.get("outside_broken:x")


def test_a_module_that_another_hides_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "statistics.py").write_text("def pool(*given): ...")
    with pytest.raises(
        InputError, match=r"no attribute 'pool'; it is .*/statistics\.py, which hides statistics\.py in"
    ):
        pooling.get("statistics:pool")


def test_a_part_that_exits_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "exiting").mkdir()
    (tmp_path / "exiting" / "__init__.py").write_text("raise SystemExit(3)")
    (tmp_path / "exiting" / "part.py").write_text("")
    with pytest.raises(InputError, match=r"model 'exiting.part:net' cannot be imported: SystemExit: 3"):
        models.parse("exiting.part:net")
    (tmp_path / "quitting.py").write_text("def part(*given, **settings): raise SystemExit(0)")
    with pytest.raises(InputError, match="topology 'quitting:part' fails: SystemExit: 0"):
        topology.build("quitting:part", num_nodes=4)
    with pytest.raises(InputError, match=r"model 'quitting:part' fails on .*: SystemExit: 0"):
        models.build("quitting:part", 2, (1, 2, 2))


def test_an_annotation_that_cannot_be_read(tmp_path: Path) -> None:
    content = "def pool(logits, weights, temperature, *, a: 'Nowhere' = 1):\n    return []\n"
    words = "cannot be used: the annotation 'Nowhere' of a cannot be read: NameError"
    with module(tmp_path, "outside_annotation", content), pytest.raises(InputError, match=words):
        pooling.get("outside_annotation:pool")


def test_an_annotation_for_type_checkers_only(tmp_path: Path) -> None:
    content = (
        "from __future__ import annotations\nimport networkx\n\n"
        "def path(num_nodes: int, rng: np.random.Generator, *, step: int = 1) -> nx.Graph:\n"
        "    return networkx.path_graph(num_nodes)\n"
    )
    with module(tmp_path, "outside_checked", content):
        assert topology.build("outside_checked:path(step=2)", 4).number_of_edges() == 3


def test_a_partial_object_has_the_annotations_of_its_function(tmp_path: Path) -> None:
    content = (
        "from __future__ import annotations\nimport networkx\nfrom functools import partial\nWhole = int\n\n"
        "def path(num_nodes, rng, *, step: Whole = 1):\n    return networkx.path_graph(num_nodes)\n\n"
        "twice = partial(path, step=2)\n"
    )
    with module(tmp_path, "outside_partial", content):
        assert topology.build("outside_partial:twice(step=3)", 4).number_of_edges() == 3
        with pytest.raises(InputError, match=r"step = 0.5 must be a whole number"):
            topology.build("outside_partial:twice(step=0.5)", 4)


# -- entry points ------------------------------------------------------------------------------------------------------


def test_installed_packages_give_parts_plain_names(tmp_path: Path, outside: str) -> None:
    points = f"[flower_kd.topologies]\nchords = {outside}:chords\nring = {outside}:chords\nabsent = no_module_:x\n"
    with installed(tmp_path / "site", "graphs-of-mine", points):
        assert topology.names()[-2:] == ["absent", "chords"]
        assert topology.build("chords(every=3)", 8).number_of_edges() == 16
        assert topology.build("ring", 8).number_of_edges() == 8  # flower-kd's own
        assert RunConfig.parse({"topology": "chords(every=3)"}).graph(8).number_of_edges() == 16
        with pytest.raises(InputError, match=r"topology 'absent' of package graphs-of-mine 1\.2 cannot be imported"):
            topology.build("absent", 8)
        with pytest.raises(InputError, match="'chord', did you mean 'chords'"):
            topology.build("chord", 8)
    with pytest.raises(InputError, match="unknown topology 'chords'"):
        topology.build("chords", 8)


def test_a_name_of_two_packages_is_refused_when_it_is_used(tmp_path: Path, outside: str) -> None:
    points = f"[flower_kd.poolings]\nfirst = {outside}:first\n"
    with installed(tmp_path / "a", "package-a", points), installed(tmp_path / "b", "package-b", points, "2.0"):
        assert "first" in pooling.names()
        with pytest.raises(InputError, match=r"in several installed packages, package-a 1\.2 and package-b 2\.0"):
            pooling.get("first")


def test_flower_kd_s_own_names_need_no_look_at_installed_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flower_kd.parts.registry._installed", lambda: pytest.fail("it looked"))
    assert topology.build("regular(degree=2)", 5).number_of_edges() == 5
    RunConfig.parse({})


@pytest.mark.parametrize("kind", REGISTRIES)
def test_every_part_of_flower_kd_declares_types_and_says_what_it_is(kind: str) -> None:
    from flower_kd.parts.registry import first_line

    for name in REGISTRIES[kind].own_names():
        assert first_line(REGISTRIES[kind].get(name)).endswith((".", ")", "`")), name
        for setting in REGISTRIES[kind].settings(name).values():
            assert setting.annotation is not Any, (name, setting)
