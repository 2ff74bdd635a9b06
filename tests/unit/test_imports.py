"""What importing a node pulls in, which may only fall, and that a module's name tells which one is meant."""

import ast
from collections import Counter
from functools import cache
from pathlib import Path

from project_files import ROOT, python_files

# Files of the pack that each node's file pulls in when it is imported, itself among them. Empty `__init__` files do
# not count, nor do the two doors: `nodes/__init__.py`, which lists the nodes, and `sae/__init__.py`. Twelve are of the
# methods of steering, each of which is a file, since all of them are offered; up to four are of
# UNets.
CEILINGS = {
    "demo.shapes_demo": 88,
    "embeddings.clip_embed_steer": 85,
    "embeddings.embed_features": 102,
    "embeddings.label_embed_features": 106,
    "features.calibrate_strength": 78,
    "features.feature_browser": 54,
    "features.inspect_sae": 108,
    "features.label_features": 88,
    "features.load_sae": 85,
    "find.contrast_direction": 124,
    "find.contrast_pictures": 124,
    "find.feature_heatmap": 117,
    "find.inspect_model": 59,
    "find.top_activating_features": 86,
    "kandinsky.kandinsky_decode": 89,
    "kandinsky.kandinsky_embeddings": 86,
    "kandinsky.load_kandinsky": 59,
    "keep.recipe_nodes": 113,
    "keep.save_weights": 117,
    "steer.activation_steer": 76,
    "steer.before_and_after": 2,
    "steer.concept_steer": 128,
    "steer.feature_mixer": 57,
    "steer.paint_region": 7,
    "steer.steering_sweep": 82,
    "train.collect_activations": 142,
    "train.evaluate_sae": 159,
    "train.train_embed_sae": 151,
    "train.train_sae": 142,
}
MOST = 90  # of Activation Steer
ROOM = 4  # by which a number above may be too high before it has to be lowered
DOORS = {"nodes", "sae", "lab"}
COLLECTING = {"sae.steering.methods"}  # packages that import every file in them
# Names that several modules have: of each room's kernels. The list may only shrink.
SEVERAL = {"kernels"}


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_of(path): path for path in python_files("sae", "nodes", "lab")}


def loaded(body: list[ast.stmt]) -> list[ast.ImportFrom]:
    """The relative imports that run with the module: those outside of functions and of TYPE_CHECKING."""
    found = []
    for node in body:
        if isinstance(node, ast.ImportFrom) and node.level:
            found.append(node)
        elif isinstance(node, ast.If | ast.Try | ast.With | ast.ClassDef):
            if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
                found += loaded(node.body)
            found += loaded(getattr(node, "orelse", []))
    return found


@cache
def imports_of(module: str) -> frozenset[str]:
    path = FILES[module]
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    found = set()
    for node in loaded(ast.parse(path.read_text(encoding="utf-8")).body):
        base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])
        found |= {name if name in FILES else base for name in (f"{base}.{alias.name}" for alias in node.names)}
    if module in COLLECTING:
        found |= {name for name in FILES if name.startswith(f"{module}.")}
    parts = module.split(".")
    found |= {".".join(parts[:length]) for length in range(1, len(parts))}  # a package before what is in it
    return frozenset(found & set(FILES) - DOORS)


def pulled_in(module: str) -> set[str]:
    """Every module of the pack that is loaded with this one."""
    found, waiting = set(), [module]
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting += imports_of(one)
    return {one for one in found if FILES[one].read_text(encoding="utf-8").strip()}


NODES = sorted(name for name, path in FILES.items() if "\nNODES = [" in path.read_text(encoding="utf-8"))


def test_importing_activation_steer_pulls_in_few_files():
    found = pulled_in("nodes.steer.activation_steer")
    assert len(found) <= MOST, sorted(found)
    assert {
        "nodes.steer.steered_run",
        "sae.steering.delta",
        "sae.hosts.comfyui.steering",
        "sae.known.notebook",
    } <= found


def test_what_a_node_pulls_in_only_falls():
    """`now` is the table as it should be, where this fails because it fell."""
    now = {name.removeprefix("nodes."): len(pulled_in(name)) for name in NODES}
    assert now.keys() == CEILINGS.keys()
    assert {name: count for name, count in now.items() if count > CEILINGS[name]} == {}
    assert {name: count for name, count in now.items() if count < CEILINGS[name] - ROOM} == {}, now


def test_imports_are_followed_as_python_does():
    """Through packages, which come before what is in them; not into functions and what is for the type checker."""
    assert {"sae.formats", "sae.formats.own"} <= pulled_in("sae.formats.provenance")
    assert pulled_in("sae.version") == {"sae.version"}
    assert "sae.embeddings.spot" not in imports_of("sae.hosts.comfyui.model")  # inside of a function


def test_no_two_modules_have_one_name():
    names = Counter(path.stem for path in FILES.values() if path.stem not in ("__init__", "__main__"))
    assert {name for name, count in names.items() if count > 1} == SEVERAL
    assert len(SEVERAL) <= 6


def test_no_modules_import_each_other_in_a_circle():
    """Between packages and what is in them there is one always: the package is loaded first."""
    done, doing, circles = set(), [], []

    def visit(module):
        if module in doing:
            circles.append([*doing[doing.index(module) :], module])
        elif module not in done:
            doing.append(module)
            for other in sorted(imports_of(module)):
                if not module.startswith(f"{other}."):
                    visit(other)
            done.add(doing.pop())

    for module in FILES:
        visit(module)
    assert circles == []
