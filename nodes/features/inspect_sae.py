from __future__ import annotations

from typing import Any

import comfy.utils
import torch
from comfy_api.latest import io, ui

from ...sae.dictionary.autoencoder import SparseAutoencoder
from ...sae.dictionary.sae_set import AnySae, SaeSet
from ...sae.finding.inspection import (
    RIVAL_TOKENS,
    SelfTest,
    Verdict,
    describe,
    describe_set,
    judge,
    report,
    rival_sites,
)
from ...sae.hosts.comfyui.model import Model, depth_of, family_of, width_of
from ...sae.hosts.comfyui.sampling import Sampling, sample
from ...sae.hosts.comfyui.steering import observe
from ...sae.places.site import Site, resolve_site
from ..inputs.menu import FEATURES
from ..inputs.plain_inputs import steps_input
from ..inputs.sockets import Sae, location_input, one_sae, seed_input, stream_input

LATENT_SIDE = 32  # of the empty latent that is sampled when none is connected


class InspectSAE(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InspectSAE",
            display_name="Inspect SAE",
            category=FEATURES,
            description=(
                "Says what an SAE is: layout, architecture, width, features, site, statistics, fingerprint. With a "
                "model and a prompt it also tests whether the SAE fits this model and place."
            ),
            search_aliases=["sae info", "check sae", "sae self-test", "fingerprint"],
            inputs=[
                Sae.Input("sae", tooltip="The SAE to look at; of a set its SAEs are listed, and none is tested."),
                location_input(),
                stream_input(),
                seed_input("Seed of the noise of the test."),
                steps_input("Steps of the test's short sampling."),
                io.Model.Input("model", optional=True, tooltip="A model to test the SAE on; it stays as it is."),
                io.Conditioning.Input("positive", optional=True, tooltip="A prompt for the test."),
                io.Latent.Input("latent_image", optional=True, tooltip="Size of the test picture, else 256×256."),
            ],
            outputs=[io.String.Output(display_name="report", tooltip="The facts, and the verdict of the test.")],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        sae: AnySae,
        location: str,
        stream: str,
        seed: int,
        steps: int,
        model: Model | None = None,
        positive: Any = None,
        latent_image: dict[str, Any] | None = None,
    ) -> io.NodeOutput:
        if (model is None) != (positive is None):
            missing, given = ("positive", "model") if positive is None else ("model", "positive")
            raise ValueError(f"{missing}: the self-test needs it beside {given}; connect both or none.")
        progress = comfy.utils.ProgressBar(100)

        def on_bytes(done: int, total: int) -> None:
            progress.update_absolute(50 * done // max(total, 1), 100)

        if isinstance(sae, SaeSet) and model is None:
            text = report(describe_set(sae, on_bytes))
            return io.NodeOutput(text, ui=ui.PreviewText(text))
        sae = one_sae(sae)  # for the self-test
        facts = describe(sae, on_bytes)
        if model is None:
            text = report(facts)
        else:
            site = resolve_site(location, stream, sae.site)
            text = _tested(facts, model, sae, site, positive, latent_image, seed, steps, progress)
        return io.NodeOutput(text, ui=ui.PreviewText(text))


def _tested(
    facts: dict[str, str], model: Model, sae: SparseAutoencoder, site: Site, positive: Any,
    latent_image: dict[str, Any] | None, seed: int, steps: int, progress: comfy.utils.ProgressBar,
) -> str:  # fmt: skip
    """The report with a self-test at the site and, for comparison, at its rivals."""
    family, depth = family_of(model), depth_of(model)
    site = family.place(site, depth)
    width = width_of(model, site)
    if width != sae.d_in:
        sentence = f"This SAE does not fit this model: its width is {sae.d_in}, but the model's is {width}."
        return report(facts, None, Verdict(False, sentence))
    here = SelfTest(sae)
    nearby = [place for place in rival_sites(site, depth) if family.has(place, depth)]
    nearby = [place for place in nearby if width_of(model, place) == width]
    rivals = {place: SelfTest(sae, RIVAL_TOKENS) for place in nearby}
    unreached: list[str] = []
    observed = observe(model, site, here, sae, lambda reach: unreached.extend(reach.missed("read")))
    for place, test in rivals.items():
        observed = observe(observed, place, test, sae, lambda reach: None)
    latent = latent_image or {"samples": torch.zeros(1, 4, LATENT_SIDE, LATENT_SIDE)}

    def callback(step: int, denoised: Any, x: Any, total: int) -> None:
        progress.update_absolute(50 + 50 * (step + 1) // steps, 100)  # where Cancel is noticed

    sample(observed, positive, latent, Sampling(seed, steps), callback)
    if here.fit is None and unreached:
        return report(facts, None, Verdict(False, f"This SAE cannot be tested at {site}: {unreached[0]}"))
    return report(facts, here.fit, judge(sae, site, here.fit, {place: test.fit for place, test in rivals.items()}))


NODES = [InspectSAE]
