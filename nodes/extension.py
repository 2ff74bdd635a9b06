"""What ComfyUI asks the pack for when it loads it."""

from comfy_api.latest import ComfyExtension, io

from . import NODES
from .model_folder import register


class SaeSteeringExtension(ComfyExtension):
    async def on_load(self) -> None:
        register()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return list(NODES)


async def comfy_entrypoint() -> SaeSteeringExtension:
    return SaeSteeringExtension()
