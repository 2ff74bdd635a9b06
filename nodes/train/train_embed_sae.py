from __future__ import annotations

from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io

from ...sae.commands.train_job import Job, done_before
from ...sae.files.small_json import digest_of
from ...sae.hosts.comfyui.embedding_encoders import encoder_identity, picture_encoder, text_encoder
from ...sae.hosts.comfyui.own_folders import named_folder
from ...sae.training.config import TopKConfig, TrainedAs
from ...sae.training.embedding_source import EmbeddingSource, pictures_in
from ..inputs.menu import TRAIN
from ..inputs.plain_inputs import expert_number, lines_in, lines_input
from ..kandinsky.load_kandinsky import KandinskyPriorModel
from .training_job import (
    architecture_input,
    expert_seed_input,
    host_of,
    job_folders,
    name_input,
    rate_input,
    trained,
    trained_outputs,
)

EXPANSION = 4  # features for each number of the width
MOST_K, K_SHARE = 32, 6  # k by itself: a sixth of the width, so that 64 numbers get 10
STEPS, BATCH = 2000, 1024


class TrainEmbedSAE(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TrainEmbedSAE",
            display_name="Train Embed SAE",
            category=TRAIN,
            description=(
                "Trains an SAE of CLIP embeddings, on a folder of your pictures or on texts, and puts it into "
                "models/sae. Cancel keeps what was done; queue it again to go on, to the same result."
            ),
            search_aliases=["train clip sae", "train sparse autoencoder", "kandinsky sae"],
            inputs=[
                io.MultiType.Input(
                    "encoder",
                    types=[io.ClipVision, io.Clip, KandinskyPriorModel],
                    tooltip="A CLIP VISION for pictures, a CLIP with a projection for texts, or the prior of Kandinsky "
                    "2.2 for either: the encoder whose embeddings you steer.",
                ),
                io.String.Input(
                    "folder",
                    default="",
                    tooltip="A folder of pictures inside ComfyUI's input folder.",
                ),
                lines_input("texts", "In place of pictures: a text a line."),
                name_input(),
                expert_number("d_sae", "Features; 0: 4 times the width.", 1_000_000),
                expert_number("k", "Features that are active at an embedding; 0: 32, fewer of narrow ones.", 4096),
                architecture_input(),
                expert_number("steps", "Steps of training, of 1,024 embeddings each.", 10_000_000, STEPS, 1),
                expert_seed_input("Seed of weights and order."),
                rate_input(),
            ],
            outputs=trained_outputs(),
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, folder: str, **given: Any) -> str:
        if not folder.strip():
            return ""
        return digest_of((str(file), file.stat().st_mtime_ns) for file in pictures_in(_folder(folder)))

    @classmethod
    def execute(
        cls,
        encoder: Any,
        folder: str,
        texts: str,
        name: str,
        d_sae: int = 0,
        k: int = 0,
        architecture: TrainedAs = "topk",
        steps: int = STEPS,
        seed: int = 0,
        rate: float = TopKConfig.rate,
    ) -> io.NodeOutput:
        source, host = _source(encoder, folder, lines_in(texts), seed), host_of(cls)
        features = d_sae or EXPANSION * source.width
        k = k or min(MOST_K, max(1, source.width // K_SHARE), features)
        config = TopKConfig(source.width, features, k, steps, BATCH, rate, architecture=architecture, seed=seed)
        folders = job_folders(name)
        job = Job(source.name, config, *folders, (source.about,), source.held_out_items)
        if done_before(job) is None:
            source.encode_all(host.encoded)
        return trained(job, source, name, cls)


def _source(encoder: Any, folder: str, texts: list[str], seed: int) -> EmbeddingSource:
    if bool(folder.strip()) == bool(texts):
        raise ValueError(
            f"folder, texts: {'both' if texts else 'neither'} came; give a folder of pictures, or texts, a text a line."
        )
    if texts:
        encode = text_encoder(encoder)
        about = {"encoder": encoder_identity(encoder, "text_encoder")}
        return EmbeddingSource(texts, encode, "text_embeds", about, seed=seed)
    files = pictures_in(_folder(folder))
    read = picture_encoder(encoder)
    return EmbeddingSource(
        files, read, "image_embeds", {"encoder": encoder_identity(encoder, "image_encoder")}, seed=seed
    )


def _folder(name: str) -> Path:
    return named_folder(name, "folder", Path(folder_paths.get_input_directory()))


NODES = [TrainEmbedSAE]
