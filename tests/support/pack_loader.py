"""Imports the whole pack as a package under a made-up name, as ComfyUI does under the folder's name."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

from project_files import ROOT

PACK_NAME = "sae_steering_pack"


def load_pack(name: str = PACK_NAME) -> ModuleType:
    """The pack's root module; needs ComfyUI. Afterwards `from sae_steering_pack.sae.site import ...` works."""
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
