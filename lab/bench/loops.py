"""What the loops over pictures gain where several are drawn in one batch: Shapes in ComfyUI, by ComfyUI's own Python.

`python -m lab.bench` runs it where COMFYUI_PATH names a ComfyUI whose .venv has a Python.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

FEATURES = (65, 73, 72)
STRENGTHS = [0.5, 1.0, 1.5]
STEPS = 4
PROMPT, WORDS = "red circle left big white", ["blue", "green", "square", "cross", "top", "right", "small", "black"]


def measure() -> None:
    import comfy.sd
    import torch

    from sae.demo.shipped_weights import TEXT_SAE, TRANSFORMER, load_sae
    from sae.dictionary.sae_set import Member
    from sae.finding.labelling import WordTally, mean_activations, tally_words
    from sae.hosts.comfyui import memory
    from sae.hosts.comfyui.drawing import Drawing, Listening
    from sae.hosts.comfyui.sampling import Sampling
    from sae.steering.calibration import alone, calibrate_features
    from sae.steering.edits import Edit
    from sae.steering.set_up import Wanted
    from sae.steering.sweep import draw_rows, plan, rows_of

    from .width import seconds

    model, sae, clip = comfy.sd.load_diffusion_model(str(TRANSFORMER)), load_sae(TEXT_SAE), _Words()
    if sae.site is None:
        raise ValueError(f"sae: {sae.name} does not tell its place.")
    latent, text = {"samples": torch.zeros(1, 16, 16, 16)}, clip.encode_from_tokens_scheduled(PROMPT)
    edits, members = [Edit(feature) for feature in FEATURES], [Member(sae, 0, sae.site)]
    draw = Drawing(model, text, latent, Sampling(0, STEPS))

    def calibration() -> object:
        return calibrate_features(draw, edits, "add", alone(sae, members[0].site, "add"))

    def labels() -> object:
        listen = Listening(model, clip, members, latent, Sampling(0, STEPS))
        tally = WordTally.new(WORDS, ["{} red circle", "{} orange triangle center"], sae.d_sae)
        return tally_words(tally, mean_activations(listen, members), batch=listen.most())

    def sweep() -> object:
        rows = rows_of(sae, [members], Wanted(edits, "add", 1.0, "token_norm", ()))
        return list(draw_rows(draw, rows, plan(len(rows), STRENGTHS, True)))

    def with_runs(most: int, loop: Callable[[], object]) -> object:
        memory.MOST_RUNS = most
        return loop()

    torch.set_num_threads(1)
    print(f"Loops over pictures of Shapes in ComfyUI, up to {memory.MOST_RUNS} in a batch against one at a time:")
    together = memory.MOST_RUNS
    for name, loop in (("calibration", calibration), ("labels", labels), ("sweep", sweep)):
        found = seconds({"one": partial(with_runs, 1, loop), "many": partial(with_runs, together, loop)}, rounds=2)
        ratio = found["many"] / found["one"]
        print(f"  {name:12} {found['one']:6.2f} s alone   {found['many']:6.2f} s together   {ratio:5.2f} ×", flush=True)


class _Words:
    """The text encoder of Shapes."""

    def tokenize(self, text: str) -> str:
        return text

    def encode_from_tokens_scheduled(self, text: str) -> Any:
        import torch

        from sae.demo.shapes import read_prompt
        from sae.demo.shapes_model import POOLED_WIDTH, embed_prompts

        return [[embed_prompts([read_prompt(text)]), {"pooled_output": torch.zeros(1, POOLED_WIDTH)}]]
