"""Trains the Shapes demo's SAEs: python -m lab.train.saes --transformer FILE --out FOLDER.

Collects activations at the wanted sites, trains one TopK SAE each, measures it on fresh activations, and writes it with
its statistics into a folder of its own. `evaluation.json` in the out folder keeps the numbers.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from sae.demo import shipped_weights
from sae.demo.shapes_model import build_transformer
from sae.finding.fit import Fit
from sae.places.site import Site, site_from_name
from sae.training.buffer import MixedBatches, MixingBuffer
from sae.training.card import evaluate
from sae.training.finished_sae import export_topk
from sae.training.topk import TopKConfig
from sae.training.trainer import Progress, TopKTrainer

from .shapes_tokens import collect_tokens

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel

log = logging.getLogger(__name__)

SHIPPED = {
    "text": (shipped_weights.TEXT_SAE,),
    "entering": (shipped_weights.ENTERING_SAE,),
    "image": (shipped_weights.IMAGE_SAE,),
    "attention": shipped_weights.ATTENTION_SET,
}
TRAINING_SEED, FRESH_SEED = 1, 2
SITES_HELP = f"{', '.join(SHIPPED)}: those that ship; or the name of a new SAE's folder, which tells its site"
FRESH_TOKENS = 16_000
BUFFER_TOKENS = 65_536
CHUNK = 4096
REPORT_EVERY = 250


def load_transformer(file: Path) -> FluxTransformer2DModel:
    """The Shapes transformer as the pack ships it, from a state dict, or from a checkpoint's averaged weights."""
    if file.suffix == ".safetensors":
        return shipped_weights.load_transformer(file).requires_grad_(False)
    state = torch.load(file, map_location="cpu", weights_only=True)
    transformer = build_transformer().eval().requires_grad_(False)
    if "average" not in state:
        transformer.load_state_dict(state)
        return transformer
    averaged = AveragedModel(transformer)
    averaged.load_state_dict(state["average"])
    return averaged.module


def train_sae(tokens: Tensor, fresh: Tensor, config: TopKConfig, folder: Path, site: Site, dtype: torch.dtype) -> Fit:
    """Trains on tokens (n, d_in) of a site, over and over; measures on fresh ones; writes the SAE into `folder`."""
    trainer = TopKTrainer(config)
    capacity = max(BUFFER_TOKENS, 2 * config.batch_tokens)
    buffer = MixingBuffer(config.d_in, config.batch_tokens, capacity, config.seed, tokens.dtype)
    model = trainer.fit(MixedBatches(_again(tokens), buffer), _report, REPORT_EVERY)
    measured, statistics = evaluate(model, fresh.split(CHUNK))
    export_topk(model, folder, statistics, dtype, site)
    return measured


def _again(tokens: Tensor) -> Iterator[Tensor]:
    while True:
        yield from tokens.split(CHUNK)


def _report(progress: Progress) -> None:
    log.info(
        "step %d of %d, explained variance %.3f, dead %.1f %%",
        progress.step,
        progress.steps,
        progress.explained_variance,
        100 * progress.dead_share,
    )


def _site(name: str) -> Site:
    site = site_from_name(name)
    if site is None:
        raise ValueError(f"--sites: the name {name!r} tells no site; write it like {shipped_weights.TEXT_SAE}.")
    return site


def _read_evaluations(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def run(given: argparse.Namespace) -> None:
    names = [name for asked in given.sites for name in SHIPPED.get(asked, (asked,))]
    sites = {name: _site(name) for name in names}
    transformer = load_transformer(given.transformer)
    tokens = collect_tokens(transformer, sites, given.tokens, TRAINING_SEED)
    fresh = collect_tokens(transformer, sites, FRESH_TOKENS, FRESH_SEED)
    results = given.out / "evaluation.json"
    given.out.mkdir(parents=True, exist_ok=True)
    for name in sites:
        config = TopKConfig(
            d_in=tokens[name].shape[1],
            d_sae=given.features,
            k=given.k,
            steps=given.steps,
            batch_tokens=given.batch,
            rate=given.rate,
            seed=given.seed,
        )
        log.info("%s", name)
        measured = train_sae(
            tokens[name], fresh[name], config, given.out / name, sites[name], getattr(torch, given.dtype)
        )
        log.info("%s: %s", name, measured)
        evaluations = _read_evaluations(results) | {name: measured._asdict()}
        results.write_text(json.dumps(evaluations, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transformer", type=Path, required=True, help="the pack's weights, or a training's")
    parser.add_argument("--out", type=Path, required=True, help="gets one folder for each site")
    parser.add_argument("--sites", nargs="+", default=list(SHIPPED), metavar="NAME", help=SITES_HELP)
    parser.add_argument("--tokens", type=int, default=60_000, help="collected for each site (256 bytes each)")
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--batch", type=int, default=1024, help="tokens a step")
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--k", type=int, default=16)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0, help="of the first weights and the tokens' order")
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32", help="of the written weights")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    run(given)


if __name__ == "__main__":
    main()
