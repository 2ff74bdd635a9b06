from __future__ import annotations

from comfy_api.latest import io

from ..sae.dictionary.sae_set import AnySae, saes_of
from ..sae.formats.sets import make_set
from .shared.sockets import CATEGORY, Sae

MOST = 8


class SAESet(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SAESet",
            display_name="SAE Set",
            category=CATEGORY,
            description=(
                "Several SAEs of one model, each at its own place, as one: features are found at all places in one run "
                "and steered by one node with one strength."
            ),
            search_aliases=["combine saes", "several places", "sae list", "merge saes"],
            inputs=[
                Sae.Input("sae_1", tooltip="An SAE whose place is known, or a set."),
                Sae.Input("sae_2", tooltip="An SAE of the same model at another place, or a set."),
                io.String.Input("name", default="my set", tooltip="What the set is called in tables and recipes."),
                *(
                    Sae.Input(f"sae_{number}", optional=True, tooltip="One more, at another place.")
                    for number in range(3, MOST + 1)
                ),
            ],
            outputs=[Sae.Output(display_name="sae", tooltip="The set; its features are numbered through.")],
        )

    @classmethod
    def execute(cls, sae_1: AnySae, sae_2: AnySae, name: str, **more: AnySae | None) -> io.NodeOutput:
        given = [sae_1, sae_2, *(sae for _, sae in sorted(more.items()) if sae is not None)]
        return io.NodeOutput(make_set([one for sae in given for one in saes_of(sae)], name.strip() or "a set"))


NODES = [SAESet]
