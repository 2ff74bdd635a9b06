"""SAE Steering for ComfyUI: look inside FLUX with sparse autoencoders, and steer it by what is found there."""

from .nodes.extension import comfy_entrypoint

WEB_DIRECTORY = "./web"

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
