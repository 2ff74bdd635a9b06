"""Which room of the house may import from which: from its own and from those of a lower level."""

import ast
from collections.abc import Iterator
from pathlib import PurePosixPath

import pytest

from project_files import python_files, relative

LEVELS = {
    "sae/version": 0,
    **dict.fromkeys(("sae/files", "sae/places"), 1),
    "sae/dictionary": 2,
    "sae/formats": 3,
    **dict.fromkeys(("sae/export", "sae/steering"), 4),
    **dict.fromkeys(("sae/known", "sae/embeddings"), 5),
    "sae/finding": 6,
    "sae/drawing": 7,
    "sae/hosts": 8,
    **dict.fromkeys(("sae/training", "sae/demo"), 9),
    "sae/commands": 10,
    **dict.fromkeys(("sae", "sae/__main__"), 11),
    "nodes/inputs": 12,
    "nodes/browser": 13,
    **dict.fromkeys(("nodes", "lab"), 14),
}
INNER_OF_NODES = {"inputs", "browser"}
TOP_OF_SAE = {"__init__.py", "__main__.py", "version.py"}
# Packages of hosts besides comfy*; "nodes", imported absolutely, is ComfyUI's own module, and "?" is one not told.
HOSTS = {"accelerate", "diffusers", "sae_lens", "transformers", "?"}
HOSTS |= {"execution", "folder_paths", "latent_preview", "node_helpers", "nodes", "server"}
# (file, what it imports): why it may
EXCEPTIONS = {
    ("sae/__init__.py", "package ?"): "the front door reads each of its names from its room when it is first used",
    ("sae/demo/try_it.py", "package diffusers"): "for the type checker only: what draws",
    (
        "sae/demo/shapes_model.py",
        "package diffusers",
    ): "the Shapes model is of diffusers' own class, imported when it is built",
    ("sae/demo/shipped_weights.py", "package diffusers"): "for the type checker only: what load_transformer returns",
    (
        "sae/places/site.py",
        "sae/files",
    ): "messages show what came from a file in one way, and site names do come from files",
    ("nodes/extension.py", "nodes"): "hands ComfyUI the list of the nodes",
    ("sae/steering/methods/__init__.py", "package ?"): "imports each file of its own folder",
}


def imported(path: str, source: str) -> Iterator[tuple[int, bool, str]]:
    """(line, whether relative, dotted name from the project's root) of every import, wherever it stands."""
    package = PurePosixPath(path).parent.parts
    for node in ast.walk(ast.parse(source, filename=path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, False, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            up = node.level - 1
            around = () if up < 0 else package[: len(package) - up] if up <= len(package) else ("outside",)
            for alias in node.names:
                yield node.lineno, node.level > 0, ".".join((*around, *filter(None, [node.module]), alias.name))
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            told = [argument.value for argument in node.args[:1] if isinstance(argument, ast.Constant)]
            yield node.lineno, False, str(told[0]) if told else "?"


def room(dotted: str) -> str:
    """The room of a module of the project, such as sae/steering for sae.steering.delta."""
    parts = dotted.split(".")
    inner = parts[0] == "sae" or (parts[0] == "nodes" and parts[1:] and parts[1] in INNER_OF_NODES)
    return "/".join(parts[:2] if inner else parts[:1])


def arrows(path: str, source: str) -> Iterator[tuple[int, str]]:
    """(line, target) of what the module at `path` imports: a room of the house, or a host's package."""
    absolutely = ("sae", "lab", "nodes") if path.startswith("lab/") else ("sae", "lab")
    for line, relatively, dotted in imported(path, source):
        top = dotted.split(".")[0]
        if relatively or top in absolutely:
            yield line, room(dotted)
        elif top in HOSTS or top.startswith("comfy"):
            yield line, f"package {top}"


def home(path: str) -> str:
    return room(path.removesuffix(".py").removesuffix("/__init__").replace("/", "."))


def allowed(own: str, target: str) -> bool:
    if target.startswith("package "):
        return own == "sae/hosts" or not own.startswith("sae")
    return target == own or LEVELS.get(target, max(LEVELS.values())) < LEVELS[own]


def faults(path: str, source: str) -> Iterator[tuple[str, str]]:
    """(where, what) of imports that the module at `path` (from the project's root) may not have, and a wrong place."""
    own = home(path)
    at_the_top = path.startswith("sae/") and path.count("/") == 1
    if own not in LEVELS or (at_the_top and path.split("/")[1] not in TOP_OF_SAE):
        yield path, "lies in no room of the house"
        return
    for line, target in arrows(path, source):
        if not allowed(own, target) and (path, target) not in EXCEPTIONS:
            yield f"{path}:{line}", target


FILES = {relative(path): path.read_text(encoding="utf-8") for path in python_files("sae", "nodes", "lab")}


def test_every_import_points_downwards() -> None:
    assert [fault for path, source in FILES.items() for fault in faults(path, source)] == []


def test_exceptions_are_still_needed() -> None:
    found = {(path, target) for path, source in FILES.items() for _, target in arrows(path, source)}
    assert set(EXCEPTIONS) <= found


def test_imports_are_seen_in_numbers() -> None:
    """The arrows are really read: every room but the lowest imports another."""
    found = {(home(path), target) for path, source in FILES.items() for _, target in arrows(path, source)}
    assert {own for own, target in found if own != target} >= set(LEVELS) - {
        "sae",
        "sae/version",
        "sae/files",
        "sae/places",
    }
    assert {home(path) for path in FILES} == set(LEVELS)


UPWARDS = [
    ("sae/places/moment.py", "from ..steering.delta import Steering", "sae/steering"),
    ("sae/places/moment.py", "from .. import steering", "sae/steering"),
    ("sae/steering/delta.py", "from ..known.labels import Label", "sae/known"),
    ("sae/steering/__init__.py", "from ..export import export", "sae/export"),
    ("sae/hosts/comfyui/model.py", "from ...demo.files import load_sae", "sae/demo"),
    ("sae/formats/reny.py", "def read():\n    from ..finding import fit", "sae/finding"),
    ("sae/formats/reny.py", "if TYPE_CHECKING:\n    from ..hosts.diffusers import steer", "sae/hosts"),
    ("sae/formats/reny.py", "import sae.training.topk", "sae/training"),
    ("sae/commands/inspect.py", "from ...nodes.load_sae import LoadSAE", "nodes"),
    ("sae/commands/inspect.py", "from ...nodes.inputs import sockets", "nodes/inputs"),
    ("sae/hosts/comfyui/model.py", "from ....lab import demo", "lab"),
    ("sae/hosts/comfyui/model.py", "from .....lab import demo", "outside"),
    ("sae/training/topk.py", "import lab.train.loop", "lab"),
    ("sae/finding/features.py", "import comfy.sample", "package comfy"),
    ("sae/finding/features.py", "import nodes", "package nodes"),
    ("sae/drawing/sheet.py", "x = importlib.import_module('diffusers.models')", "package diffusers"),
    ("sae/drawing/sheet.py", "x = __import__(name)", "package ?"),
    ("sae/finding/fit.py", "from .. import helper", "sae/helper"),
    ("nodes/inputs/sockets.py", "from ..load_sae import LoadSAE", "nodes"),
    ("nodes/features/load_sae.py", "from ...lab.demo import main", "lab"),
    ("nodes/features/load_sae.py", "from lab.demo import main", "lab"),
    ("lab/demo.py", "from nodes.features.load_sae import LoadSAE", "nodes"),
]


@pytest.mark.parametrize(("path", "source", "target"), UPWARDS)
def test_an_import_that_points_upwards_is_found(path: str, source: str, target: str) -> None:
    line = source.count("\n") + 1
    assert list(faults(path, source)) == [(f"{path}:{line}", target)]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        (
            "sae/steering/delta.py",
            "from .edits import Edit\nfrom ..places.site import Site\nfrom ..files import tensors",
        ),
        ("sae/files/tensors.py", "from ..version import VERSION\nimport torch\nimport json"),
        ("sae/hosts/comfyui/model.py", "import nodes\nimport comfy.utils\nfrom ...embeddings.spot import ALL"),
        ("sae/hosts/diffusers.py", "from diffusers import FluxTransformer2DModel"),
        ("sae/__main__.py", "from .commands import label"),
        (
            "nodes/browser/routes.py",
            "import nodes\nfrom server import PromptServer\nfrom ...sae.hosts.comfyui import model",
        ),
        ("nodes/features/load_sae.py", "from ..inputs.sockets import Sae\nfrom ...sae.commands import inspect"),
        ("lab/train/saes.py", "import diffusers\nfrom sae.training.topk import TopKConfig\nfrom ..judge import score"),
    ],
)
def test_imports_that_point_downwards_are_allowed(path: str, source: str) -> None:
    assert list(faults(path, source)) == []


@pytest.mark.parametrize("path", ["sae/helpers.py", "sae/steering.py", "sae/helpers/text.py", "tools/text.py"])
def test_a_module_in_no_room_is_found(path: str) -> None:
    assert list(faults(path, "")) == [(path, "lies in no room of the house")]
