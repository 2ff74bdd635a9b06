"""What ComfyUI asks the pack for when it loads it."""

from comfy_api.latest import ComfyExtension, io

from ..sae.hosts.comfyui.model_folder import register
from . import NODES
from .browser.routes import add_routes


class SaeSteeringExtension(ComfyExtension):
    async def on_load(self) -> None:
        register()
        from server import PromptServer

        server = getattr(PromptServer, "instance", None)
        if server is not None:  # none in a plain Python run
            add_routes(server.routes, server.app)

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return list(NODES)


async def comfy_entrypoint() -> SaeSteeringExtension:
    return SaeSteeringExtension()
