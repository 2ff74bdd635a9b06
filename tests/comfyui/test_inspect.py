"""InspectSAE over the HTTP API, on the Shapes demo: a right verdict at the right site, and not at another."""

import pytest


def graph(output, location, stream):
    return {
        "1": {"class_type": "LoadShapesDemo", "inputs": {}},
        "2": {"class_type": "ShapesPrompt", "inputs": {"text": "blue circle top big black"}},
        "3": {"class_type": "EmptyLatentImage", "inputs": {"width": 128, "height": 128, "batch_size": 1}},
        "4": {
            "class_type": "InspectSAE",
            "inputs": {
                "sae": ["1", output], "location": location, "stream": stream, "seed": 1, "steps": 4,
                "model": ["1", 0], "positive": ["2", 0], "latent_image": ["3", 0],
            },
        },
    }  # fmt: skip


@pytest.mark.parametrize(
    ("output", "location", "stream", "fits"),
    [
        (2, "auto", "auto", True),
        (2, "transformer_blocks.1", "text", False),
        (3, "auto", "auto", True),
        (3, "transformer_blocks.0.attn", "image", False),
        (4, "auto", "auto", True),
        (4, "transformer_blocks.0", "image", False),
    ],
)
def test_the_verdict_is_right(client, output, location, stream, fits):
    entry = client.run(graph(output, location, stream))
    verdict = entry["outputs"]["4"]["text"][0].splitlines()[-1]
    assert verdict.startswith("This SAE fits" if fits else "This SAE does not fit"), verdict
