"""Rules of the house that can be read off the source."""

import ast
import re

import pytest

from expected_nodes import NODE_IDS
from project_files import ROOT, TEXT_SUFFIXES, pack_files, parse, project_files, python_files, relative

MAX_FILE_LINES = 350
MAX_FUNCTION_LINES = 60
COMFYUI = {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "folder_paths", "latent_preview", "node_helpers"}
COMFYUI |= {"nodes", "server", "execution"}
NETWORK = {"requests", "httpx", "aiohttp", "urllib", "urllib3", "http", "socket", "ftplib", "huggingface_hub"}
LAZY = {"diffusers", "transformers", "accelerate", "matplotlib", "sae_lens"}
FORBIDDEN_CALLS = {"cuda", "autocast", "empty_cache", "print", "eval", "exec", "system", "popen"}
# Command lines talk to their user.
ALLOWED_CALLS = {
    "sae/__main__.py": {"print"},
    **{
        f"sae/commands/{name}.py": {"print"}
        for name in (
            "download",
            "evaluate",
            "inspect",
            "label",
            "publish",
            "train",
            "train_sae_lens",
        )
    },
}
FOREIGN_PATH = re.compile(r"/(home|root|Users|work)/|\b[A-Z]:\\\\?Users", re.ASCII)
# Widget types of ComfyUI's frontend: one of these would be replaced by core's own component.
CORE_WIDGETS = {
    "text",
    "textarea",
    "slider",
    "combo",
    "number",
    "int",
    "float",
    "boolean",
    "toggle",
    "string",
    "button",
}
CORE_WIDGETS |= {"image", "imagecompare", "color", "markdown", "chart", "gallery", "knob", "multiselect", "treeselect"}

every_pack_file = pytest.mark.parametrize("path", pack_files(), ids=relative)


def imports(tree):
    """(module, line) of every absolute import, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module, node.lineno


def imports_when_loaded(tree):
    """Import statements that run when the module is imported: those outside of functions and of TYPE_CHECKING."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if not typing_only and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from imports_when_loaded(node)


def top(module):
    return module.split(".")[0]


@pytest.mark.parametrize("path", [p for p in project_files() if p.suffix in {".py", ".js", ".css"}], ids=relative)
def test_files_and_functions_are_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_FILE_LINES
    if path.suffix == ".py":
        functions = [node for node in ast.walk(parse(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        lengths = {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in functions}
        assert {name: length for name, length in lengths.items() if length > MAX_FUNCTION_LINES} == {}


def test_the_root_says_what_comfyui_asks_for_and_nothing_else():
    names = [node for node in parse(ROOT / "__init__.py").body if not isinstance(node, ast.Expr)]
    said = {ast.unparse(node).split(" = ")[0] for node in names}
    assert said == {"from .nodes.extension import comfy_entrypoint", "WEB_DIRECTORY", "__all__"}


@every_pack_file
def test_there_is_no_second_way_of_registering_nodes(path):
    assert "NODE_CLASS_MAPPINGS" not in path.read_text(encoding="utf-8")


def test_node_ids_are_literals_and_those_of_the_design():
    found = []
    for path in python_files("nodes"):
        for call in (node for node in ast.walk(parse(path)) if isinstance(node, ast.Call)):
            for keyword in call.keywords:
                if keyword.arg == "node_id":
                    assert isinstance(keyword.value, ast.Constant), f"{relative(path)}:{call.lineno}"
                    found.append(keyword.value.value)
    assert sorted(found) == sorted(NODE_IDS)


@every_pack_file
def test_only_hosts_and_nodes_know_comfyui(path):
    name = relative(path)
    found = [f"{name}:{line}: {module}" for module, line in imports(parse(path)) if top(module) in COMFYUI]
    allowed = name.startswith(("nodes/", "sae/hosts/comfyui"))
    assert allowed or found == []


@every_pack_file
def test_imports_inside_the_pack_are_relative(path):
    own = {"sae"}
    assert [f"{relative(path)}:{line}" for module, line in imports(parse(path)) if top(module) in own] == []


@every_pack_file
def test_nothing_private_or_heavy_is_imported_with_the_module(path):
    for node in imports_when_loaded(parse(path)):
        absolute = isinstance(node, ast.Import) or node.level == 0
        module = node.module or "" if isinstance(node, ast.ImportFrom) else node.names[0].name
        names = [*module.split("."), *(alias.name for alias in node.names)]
        if absolute and module != "__future__":
            assert not [name for name in names if name.startswith("_")], f"{relative(path)}:{node.lineno}"
        assert not absolute or top(module) not in {"comfy_extras", *LAZY}, f"{relative(path)}:{node.lineno}"


@every_pack_file
def test_no_network_no_subprocess(path):
    forbidden = NETWORK | {"subprocess", "multiprocessing", "pickle", "pip"}
    source = path.read_text(encoding="utf-8").splitlines()
    found = [line for module, line in imports(parse(path)) if top(module) in forbidden]
    # what torch.load raises; and the one command that downloads, when it is told to
    harmless = {"from pickle import UnpicklingError"}
    if relative(path) in (f"nodes/browser/{name}.py" for name in ("routes", "messages", "server_memory")):
        harmless.add("from aiohttp import web")  # the server's side: ComfyUI's own routes are made of it
    if relative(path) == "sae/commands/download.py":
        harmless.add("from huggingface_hub import hf_hub_download")
    if relative(path) == "sae/commands/hub_search.py":  # asks, where someone asked it to
        harmless |= {
            "from huggingface_hub import constants",
            "from huggingface_hub.utils import build_hf_headers, get_session",
        }
    if relative(path) == "sae/commands/publish.py":  # sends, after it has asked
        harmless.add("from huggingface_hub import HfApi")
    assert [f"{relative(path)}:{line}" for line in found if source[line - 1].strip() not in harmless] == []


@every_pack_file
def test_no_forbidden_calls(path):
    allowed = ALLOWED_CALLS.get(relative(path), set())
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert not re.fullmatch(r"cuda(:\d+)?", node.value), f"{relative(path)}:{node.lineno}"
        if isinstance(node, ast.Call):
            called = called_name(node)
            assert called not in FORBIDDEN_CALLS - allowed, f"{relative(path)}:{node.lineno}: {called}"


@every_pack_file
def test_pickles_cannot_run_code(path):
    """torch.load only as torch.load(path, weights_only=True, map_location="cpu")."""
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert given.get("weights_only") == "True", f"{relative(path)}:{node.lineno}"
            assert given.get("map_location") == "'cpu'", f"{relative(path)}:{node.lineno}"


def called_name(call):
    if isinstance(call.func, ast.Attribute):
        # model.eval() is torch's, and harmless
        return None if call.func.attr == "eval" else call.func.attr
    return call.func.id if isinstance(call.func, ast.Name) else None


def test_no_path_of_somebodys_machine():
    found = []
    for path in project_files():
        if path.suffix in TEXT_SUFFIXES and path.name != "test_source_rules.py":
            lines = path.read_text(encoding="utf-8").splitlines()
            found += [f"{relative(path)}:{i}" for i, line in enumerate(lines, 1) if FOREIGN_PATH.search(line)]
    assert found == []


def test_one_javascript_module_has_side_effects_and_its_names_are_prefixed():
    scripts = [path.read_text(encoding="utf-8") for path in project_files(ROOT / "web") if path.suffix == ".js"]
    registering = [text for text in scripts if "registerExtension(" in text]
    assert len(registering) == min(1, len(scripts))
    for text in registering:
        assert re.search(r"name:\s*[\"']sae-steering\.", text)
    for text in scripts:
        imported = re.findall(r"from\s+[\"']([^\"']+)", text)
        assert all(name.startswith("./") or re.search(r"/scripts/(app|api)\.js$", name) for name in imported)


def widget_types(script):
    """The type of each widget that is added, directly or through `addElement`; a name stands for its `const` here.

    `addElement` itself, which adds a number to the type that it is given, has none of its own.
    """
    calls = re.findall(r"addDOMWidget\(\s*[^,()]+,\s*([^,()]+?)\s*,", script)
    calls += re.findall(r"(?<!function )addElement\(\s*[^,()]+,\s*[^,()]+,\s*([^,()]+?)\s*,", script)
    for given in calls:
        if given == "`${type}.${++made}`":
            continue
        literal = (
            given if given[0] in "\"'" else re.findall(rf"^\s*const {given} = ([\"'][^\"']*[\"']);", script, re.M)[0]
        )
        yield literal[1:-1]


def test_our_widgets_have_types_that_core_does_not_have():
    scripts = [path.read_text(encoding="utf-8") for path in project_files(ROOT / "web") if path.suffix == ".js"]
    found = [kind for script in scripts for kind in widget_types(script)]
    assert len(found) == sum(script.count("addElement(") for script in scripts) - 1 >= 2
    assert sum(script.count("addDOMWidget(") for script in scripts) == 1
    assert not set(found) & CORE_WIDGETS


@pytest.mark.parametrize(
    "script",
    [
        'node.addDOMWidget(name, "slider", element, {})',
        'addElement(node, name, "slider", element, height)',
        'const TYPE = "slider"; // as core\nnode.addDOMWidget(\n  NAME,\n  TYPE,\n  panel.element,\n)',
    ],
)
def test_a_widget_of_cores_type_is_found(script):
    assert set(widget_types(script)) & CORE_WIDGETS == {"slider"}


@pytest.mark.parametrize("path", python_files("sae", "nodes", "lab"), ids=relative)
def test_no_name_of_a_module_is_bound_twice(path):
    """The second would win, in silence, for those above it too."""
    bound = []
    for node in parse(path).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            bound.append(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            bound += [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]
    assert sorted(bound) == sorted(set(bound))
