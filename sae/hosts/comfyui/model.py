"""What a MODEL of ComfyUI is: which one, its family, depth and width, whether an SAE fits, what may skip patches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from types import FunctionType
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher as Model
from torch import Tensor, nn

from ...dictionary.directions import Directions
from ...dictionary.owner import TrainedOn
from ...dictionary.sae_set import AnySae, Member, SaeSet, check_sites, members_at
from ...known.ranges import Setting, setting_of
from ...places.depth import Depth
from ...places.families import FAMILIES, Family
from ...places.region import PATCH
from ...places.site import Site
from ...steering.edits import Edit
from .unet_modules import attentions_in, left_out


def family_of(model: Model) -> Family:
    """The family's row; ValueError names what came where none is known, or where the model ignores patches."""
    network = model.get_model_object("diffusion_model")
    name = type(network).__name__
    if "nunchaku" in (type(network).__module__ + name).lower():
        raise ValueError("model: it is a nunchaku FLUX, which ignores patches; load FLUX with core's UNETLoader.")
    family = family_in(model.model, network)
    if family is None:
        known = ", ".join(family.name for family in FAMILIES if family.models)
        core, reason = _core_name(model.model), left_out(network)
        told = name if any(core in family.models for family in FAMILIES) else f"{name} ({core})"
        raise ValueError(f"model: it is a {told}{reason}, but steering knows {known} only; connect one of these.")
    return family


def family_in(base: Any, network: nn.Module) -> Family | None:
    """The family of core's model object and the network inside it.

    Classes of other packs count as the class of core that they come from; a class of core is no other.
    """
    name, config = _core_name(base), getattr(base, "model_config", None)
    configs = {found.__name__ for found in type(config).__mro__}
    whole = getattr(network, "_orig_mod", network)  # a compiled module keeps the plain one there
    classes = {found.__name__ for found in type(whole).__mro__}
    for family in FAMILIES:
        marked = hasattr(whole, family.marked_by or "forward") and (not family.config or family.config in configs)
        if name in family.models and family.network in classes and marked:
            return family
    return None


def _core_name(base: Any) -> str:
    """The class of core that a model object is, or comes from."""
    core = (found for found in type(base).__mro__ if found.__module__.split(".")[0] == "comfy")
    return next((found.__name__ for found in core), "")


def transformer_of(model: Model) -> nn.Module:
    """The network inside a MODEL; ValueError where its family is not known."""
    family_of(model)
    return model.get_model_object("diffusion_model")


def depth_of(model: Model) -> Depth:
    network = transformer_of(model)
    if family_of(model).is_unet:
        return Depth(attentions=attentions_in(network, model.model.model_config.unet_config))
    counts: dict[str, Any] = {stack.kind: len(getattr(network, stack.comfyui)) for stack in family_of(model).stacks}
    return Depth(**counts)


def width_of(model: Model, site: Site) -> int:
    """Width of the tokens at a place, as the model's family calls it."""
    if family_of(model).is_unet:
        return depth_of(model).width(site.kind, site.blocks)
    return network_width(model)


def network_width(model: Model) -> int:
    """Width of all blocks' tokens, in a network that has one for all."""
    return int(attrgetter(family_of(model).width)(transformer_of(model)))


def patch_of(family: Family, network: nn.Module) -> tuple[int, int]:
    """Frames, and latent cells each way, that a token covers; of a UNet those that a Moment counts in pairs."""
    if family.is_unet:
        return 1, PATCH
    patch = getattr(network, family.patch)
    return (1, int(patch)) if isinstance(patch, int) else (int(patch[0]), int(patch[-1]))


def check_fit(model: Model, sae: Directions | None, site: Site) -> Site:
    """The site as the model's family calls it; ValueError where model, SAE and site do not belong together."""
    family = family_of(model)
    if sae is not None:
        _check_family(family, sae)
    here = family.place(site, depth_of(model))
    width = width_of(model, here)
    if sae is not None and width != sae.d_in:
        where = f"at {here.location} this model has" if family.is_unet else "this model's blocks have"
        raise ValueError(
            f"sae: {sae.name} was trained on activations of width {sae.d_in}, but {where} width {width}; use an SAE "
            "that was trained on this model."
        )
    return here


def members_in(model: Model, sae: AnySae, location: str, stream: str) -> list[Member]:
    """The places that `location` and `stream` mean, each with its SAE, as the model's family calls them.

    ValueError as `members_at` and `check_fit`, which is also asked of each member of a set, and for an SAE of
    embeddings.
    """
    if location.strip() in ("", "auto"):
        _check_level(sae)
    family, depth, members = family_of(model), depth_of(model), members_at(sae, location, stream)
    for member in members:
        _check_family(family, member.sae)
    check_sites(sae, members, family, depth)
    return [replace(member, site=check_fit(model, member.sae, member.site)) for member in members]


def _check_family(family: Family, sae: Directions) -> None:
    trained = trained_on(sae)
    if trained is not None and trained.family != family.name:
        raise ValueError(
            f"sae: {sae.name} was trained on {trained.family}, but this model is {family.name}; use an SAE that was "
            f"trained on {family.name}."
        )


def _check_level(sae: AnySae) -> None:
    if isinstance(sae, SaeSet) or sae.site is not None:
        return
    from ...embeddings.spot import home_of

    home = home_of(sae)
    if home is not None:
        raise ValueError(
            f"sae: {sae.name} is of embeddings ({home[0]}), which are no place in a model; use Top Embed Features and "
            "CLIP Embed Steer with it."
        )


def elsewhere_lines(model: Model, members: Sequence[Member]) -> list[str]:
    """A line for each SAE that is used at another place than its own, which it tells."""
    family, depth, lines = family_of(model), depth_of(model), []
    for member in members:
        own = member.sae.site
        here = family.place(own, depth) if own is not None and family.takes(own, depth) else own
        if here not in (None, member.site):
            lines.append(
                f"{member.sae.name} belongs to {here}, but is used at {member.site}; elsewhere its features may mean "
                "nothing."
            )
    return lines


def trained_on(sae: Directions | SaeSet) -> TrainedOn | None:
    """None for directions of which nothing is known."""
    return getattr(sae, "trained_on", None)


def family_lines(model: Model, sae: Directions | SaeSet) -> list[str]:
    """What is not known, or not the same, of the model that the SAE was trained on."""
    family, trained = family_of(model), trained_on(sae)
    if trained is None:
        return [f"Nothing tells on which family of models {sae.name} was trained; {family.name} is taken for granted."]
    if trained.identity and trained.identity != identity_of(model):
        return [
            f"{sae.name} was trained on another checkpoint of {family.name}; on a fine-tune or with a LoRA its "
            "features may fit less well: Inspect SAE measures it."
        ]
    return []


def host_warnings(model: Model) -> list[str]:
    """Known ways in which a MODEL may leave patches out."""
    found = foreign_forward(model)
    if step_caches(model):
        found.append("A step cache is active on this model; the steps that it skips are not steered.")
    return found


def foreign_forward(model: Model) -> list[str]:
    """A sentence where another node replaced the forward pass."""
    if _has_foreign_forward(model, transformer_of(model)):
        return ["Another node replaced this model's forward pass; it may leave steering out."]
    return []


def step_caches(model: Model) -> list[str]:
    """What looks like a step cache among the model's options."""
    return _caches(model.model_options.get("transformer_options", {}))


def step_skippers(options: Mapping[str, Any]) -> list[str]:
    """What may leave out steps of a run, by its `model_options`: step caches, and whoever calls the model instead."""
    found = options.get("transformer_options", {})
    wrappers = [str(key) for keyed in found.get("wrappers", {}).values() for key in keyed]
    caller = options.get("model_function_wrapper")
    others = [] if caller is None else [whose(caller)]
    return list(dict.fromkeys([*_caches(found), *(key for key in wrappers if _CACHE in key.lower()), *others]))


_CACHE = "cache"


def _caches(options: Mapping[str, Any]) -> list[str]:
    return [str(key) for key in options if _CACHE in str(key).lower()]


def whose(patch: Any) -> str:
    """Module and name of a function or of an object's class."""
    named = patch if hasattr(patch, "__qualname__") else type(patch)
    return f"{named.__module__}.{named.__qualname__}"


def _has_foreign_forward(model: Model, transformer: nn.Module) -> bool:
    """Whether somebody replaced `forward_orig`: on the class, on the instance or by an object patch.

    Where an object patch is taken back, core leaves the class's own method on the instance.
    """
    own = getattr(type(transformer), "forward_orig", None)
    here = vars(transformer).get("forward_orig")
    replaced = here is not None and getattr(here, "__func__", here) is not own
    patched = any("forward_orig" in key for key in model.object_patches)
    return patched or replaced or not getattr(own, "__module__", "comfy.").startswith("comfy.")


SAMPLED = 64  # values of each weight
DIGITS = 16
_COMPILED = "._orig_mod"  # torch.compile's addition to the names of the weights


def identity_of(model: Model) -> str:
    """The network's class and 16 hexadecimal digits, such as `Flux-0123456789abcdef`; a tenth of a second for a FLUX.

    Hashed are name, shape and a few values of every weight as it was loaded, and the applied patches (LoRA, merges)
    with their strengths. A clone has the same identity, and so has the same file loaded again, in bf16 or fp32. Patches
    of a kind that cannot be looked into count as the same as long as ComfyUI runs.
    """
    digest = hashlib.sha256()
    for name, weight in sorted(model.model.named_parameters()):
        kept = model.backup.get(name)  # the weight itself has the LoRA of whichever clone was loaded last
        digest.update(name.replace(_COMPILED, "").encode())
        for piece in _of_tensor(weight if kept is None else kept.weight):
            digest.update(piece)
    for patches in (model.patches, model.weight_wrapper_patches, getattr(model, "injections", {})):
        for piece in _of_value(patches):
            digest.update(piece)
    network = getattr(model.model, "diffusion_model", model.model)  # a text encoder has none
    return f"{type(network).__name__}-{digest.hexdigest()[:DIGITS]}"


def setting_here(model: Model, site: Site, replaces: Sequence[Edit] | None = None) -> Setting:
    """As `setting_of`, for a MODEL."""
    return setting_of(site, identity_of(model), replaces)


def _of_tensor(tensor: Tensor) -> Iterator[bytes]:
    """Shape, and the beginning of the middle row in bf16, which the type that a weight was loaded in seldom changes."""
    if hasattr(tensor, "__tensor_flatten__"):  # quantised: a wrapper around its parts
        for name in tensor.__tensor_flatten__()[0]:
            yield from _of_tensor(getattr(tensor, name))
        return
    row = tensor.detach().as_subclass(Tensor)  # GGUF's own type tells another shape than it stores
    yield str(list(row.shape)).encode()
    while row.ndim > 1 and row.numel():
        row = row[len(row) // 2]
    yield row.reshape(-1)[:SAMPLED].to(torch.bfloat16).cpu().view(torch.uint8).numpy().tobytes()


def _of_value(value: Any) -> Iterator[bytes]:
    """A patch as ComfyUI keeps them: numbers, tensors, adapters with `weights`, in tuples, lists and mappings."""
    if isinstance(value, Tensor):
        yield from _of_tensor(value)
    elif value is None or isinstance(value, (bool, int, float, str)):
        yield f"{value!r};".encode()
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            yield f"{key}:".encode()
            yield from _of_value(value[key])
    elif isinstance(value, (tuple, list)):
        yield f"{len(value)}[".encode()
        for part in value:
            yield from _of_value(part)
    else:
        yield from _of_object(value)


def _of_object(value: Any) -> Iterator[bytes]:
    if isinstance(value, FunctionType) and not value.__closure__:
        yield f"{value.__module__}.{value.__qualname__};".encode()
        return
    yield f"{type(value).__name__};".encode()
    if hasattr(value, "weights"):  # an adapter: LoRA, LoHa, LoKr and their like
        yield from _of_value(value.weights)
    else:
        yield f"{id(value)};".encode()
