"""Public SAEs of text encoders in their own layouts, and contrasts and names at a tap, through the nodes."""

from __future__ import annotations

import json
import shutil
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import folder_paths
import numpy
import pytest
import torch
from torch import Tensor

from sae_steering_pack.sae.dictionary.autoencoder import Architecture, SparseAutoencoder
from sae_steering_pack.sae.embeddings.hidden_states import STACKS, Stack
from sae_steering_pack.sae.hosts.comfyui.embeddings import word_positions
from sae_steering_pack.sae.hosts.comfyui.own_folders import notebooks
from sae_steering_pack.sae.steering.edits import Edit, FeatureList
from tiny_flux import run_node
from tiny_texts import PAD, KleinClip

KLEIN_4B, KLEIN_9B, LUMINA = STACKS[0], STACKS[1], STACKS[4]
FEATURES, K = 40, 4
EDIT = {"unit": "raw", "tokens": "all"}


@dataclass
class Public(ABC):
    """A checkpoint as it is published, with few features, and its encoding by hand."""

    name: str  # below models/sae
    stack: Stack
    layer: int  # of the hidden state that it steers
    weights: dict[str, Tensor]

    @abstractmethod
    def codes(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def write(self, path: Path) -> None: ...


def drawn(width: int) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(11)
    shapes = {"W_enc": (width, FEATURES), "W_dec": (FEATURES, width), "b_enc": (FEATURES,), "b_dec": (width,)}
    found = {name: torch.randn(shape, generator=random) * 0.1 for name, shape in shapes.items()}
    return found | {"threshold": torch.rand(FEATURES, generator=random)}


class BatchTopK(Public):
    """adamkarvonen/qwen3-8b-saes"""

    def codes(self, x: Tensor) -> Tensor:
        pre = ((x - self.weights["b_dec"]) @ self.weights["W_enc"] + self.weights["b_enc"]).relu()
        return pre * (pre > 0.5)

    def write(self, path: Path) -> None:
        w = self.weights
        linear = {"encoder.weight": w["W_enc"].T, "encoder.bias": w["b_enc"], "decoder.weight": w["W_dec"].T}
        numbers = {"b_dec": w["b_dec"], "k": torch.tensor(80, dtype=torch.int32), "threshold": torch.tensor(0.5)}
        torch.save({key: tensor.contiguous() for key, tensor in {**linear, **numbers}.items()}, path)
        trainer = {"dict_class": "BatchTopKSAE", "activation_dim": 4096, "dict_size": FEATURES, "k": 80, "layer": 18}
        path.with_name("config.json").write_text(json.dumps({"trainer": {**trainer, "lm_name": "Qwen/Qwen3-8B"}}))


class QwenScope(Public):
    def codes(self, x: Tensor) -> Tensor:
        pre = x @ self.weights["W_enc"] + self.weights["b_enc"]
        return torch.where(pre >= pre.sort(-1).values[..., -K, None], pre, 0.0)

    def write(self, path: Path) -> None:
        w = self.weights
        matrices = {"W_enc": w["W_enc"].T.contiguous(), "W_dec": w["W_dec"].T.contiguous()}
        torch.save({**matrices, "b_enc": w["b_enc"], "b_dec": w["b_dec"]}, path)


class GemmaScope(Public):
    def codes(self, x: Tensor) -> Tensor:
        pre = x @ self.weights["W_enc"] + self.weights["b_enc"]
        return pre * (pre > self.weights["threshold"])

    def write(self, path: Path) -> None:
        numpy.savez(path, **{name: tensor.numpy() for name, tensor in self.weights.items()})


FOLDER = "saes_Qwen_Qwen3-8B_batch_top_k/resid_post_layer_18/trainer_2"
SCOPE = f"SAE-Res-Qwen3-8B-Base-W64K-L0_{K}"
PUBLIC = [
    BatchTopK(f"qwen3-8b-saes/{FOLDER}/ae.pt", KLEIN_9B, 18, drawn(4096)),
    QwenScope(f"{SCOPE}/layer26.sae.pt", KLEIN_9B, 27, drawn(4096)),
    GemmaScope("gemma-scope-2b-pt-res/layer_24/width_16k/average_l0_73/params.npz", LUMINA, 25, drawn(2304)),
]


@pytest.fixture
def loaded(node_classes):
    """Loads a checkpoint by the node."""
    base = Path(folder_paths.models_dir) / "sae"
    made = []

    def load(public):
        path = base / public.name
        path.parent.mkdir(parents=True)
        made.append(base / public.name.split("/")[0])
        public.write(path)
        folder_paths.filename_list_cache.clear()
        assert public.name in node_classes["LoadSAE"].define_schema().inputs[0].options
        return run_node(node_classes["LoadSAE"], sae_name=public.name, location="auto", stream="auto").result[0]

    yield load
    for folder in made:
        shutil.rmtree(folder, ignore_errors=True)
    folder_paths.filename_list_cache.clear()


def text_of(stack):
    """A conditioning (1, tokens, all states side by side) and its hidden states (1, layers, tokens, width)."""
    states = torch.randn(1, len(stack.layers), 6, stack.width, generator=torch.Generator().manual_seed(5))
    return [[states.movedim(1, 2).flatten(2), {}]], states


@pytest.mark.parametrize("public", PUBLIC, ids=lambda public: type(public).__name__)
def test_each_public_layout_edits_its_tap_and_nothing_else(node_classes, loaded, public):
    sae = loaded(public)
    embed, states = text_of(public.stack)
    at = public.stack.layers.index(public.layer)
    codes = public.codes(states[:, at])  # (1, tokens, features)
    found = run_node(node_classes["TopEmbedFeatures"], embed=embed, sae=sae, count=3, rank_by="mean").result[0]
    assert [edit.feature for edit in found] == codes.mean((0, 1)).argsort(descending=True)[:3].tolist()
    feature = next(iter(found)).feature
    f, direction = codes[..., feature, None], public.weights["W_dec"][feature]
    assert (f > 0).any() and (f == 0).any(), "it fires on some tokens only"
    for method, strength, delta in (("scale", 0.0, -f * direction), ("set", 2.0, (2 - f) * direction)):
        features = FeatureList([Edit(feature)])
        given = {"embed": embed, "sae": sae, "method": method, "strength": strength, "features": features}
        output = run_node(node_classes["ClipEmbedSteer"], **given, **EDIT)
        changed = output.result[0][0][0].unflatten(-1, (-1, public.stack.width)).movedim(2, 1)
        assert torch.allclose(changed[:, at], states[:, at] + delta, atol=1e-5)
        others = [number for number in range(len(public.stack.layers)) if number != at]
        assert torch.equal(changed[:, others], states[:, others])
        assert f"hidden state {public.layer} of {public.stack.encoder}" in " ".join(output.ui["text"])


@pytest.mark.parametrize("public", PUBLIC, ids=lambda public: type(public).__name__)
def test_a_text_of_another_encoder_is_refused_with_the_taps(node_classes, loaded, public):
    sae, features = loaded(public), FeatureList([Edit(3)])
    other = LUMINA if public.stack is KLEIN_9B else KLEIN_9B
    given = {"sae": sae, "method": "add", "strength": 1.0, "features": features}
    with pytest.raises(
        ValueError, match=f"the hidden states? {', '.join(map(str, other.layers))} of {other.encoder[:5]}"
    ):
        run_node(node_classes["ClipEmbedSteer"], embed=text_of(other)[0], **given, **EDIT)


@pytest.fixture(scope="module")
def clip():
    return KleinClip(KLEIN_4B.width)


def row_of(clip, text):
    return [token for token, *_ in clip.tokenize(text)["qwen3_4b"][0]]


def test_words_are_counted_inside_the_template(clip):
    text = "a crimson parallelogram left"
    row = row_of(clip, text)
    places = word_positions(lambda part: clip.tokenize(part, return_word_ids=True), text, len(row))
    decode = clip.tokenizer.qwen3_4b.tokenizer.decode
    assert [decode([row[at] for at in places[word]]).strip() for word in (1, 2, 3, 4)] == text.split()
    left_out = 3  # as Krea 2 and Qwen-Image leave the template's begin out
    shifted = word_positions(lambda part: clip.tokenize(part, return_word_ids=True), text, len(row) - left_out)
    assert shifted == {word: [at - left_out for at in positions] for word, positions in places.items()}


def test_features_at_a_tap_are_named_by_words(node_classes, clip):
    words = ["red", "blue", "green"]
    states = {word: clip.states(row_of(clip, word)[3])[1] for word in words}  # three tokens of the template come before
    rows = torch.stack([states[word] - sum(states.values()) / 3 for word in ("green", "red", "blue")])
    tensors = {"encoder": rows, "decoder": rows, "output_bias": torch.zeros(KLEIN_4B.width)}
    inputs = {"encoder": clip, "words": ",".join(words), "contexts": "{}", "threshold": 0.5}
    for name, tap in (("resid_post_layer_17", "auto"), ("unnamed", "18")):
        sae = SparseAutoencoder.from_tensors(tensors, Architecture("relu"), name=name)
        run_node(node_classes["LabelEmbedFeatures"], sae=sae, tap=tap, **inputs)
        assert [notebooks().of(sae).labels[feature].name for feature in range(3)] == ["green", "red", "blue"]
    other = SparseAutoencoder.from_tensors(tensors, Architecture("relu"), name="unnamed")
    with pytest.raises(ValueError, match="tap: the name of unnamed tells no single layer"):
        run_node(node_classes["LabelEmbedFeatures"], sae=other, **inputs)


PAIRS = {"positive": ("a blue square", "one blue cross"), "negative": ("a red square", "one red cross")}
UNUSED = {"model": None, "latent_image": None, "seed": 1, "seeds": 2, "steps": 1, "location": "auto", "stream": "auto"}


def contrast(node_classes, clip, tap, **more):
    texts = {f"{side}_texts": "\n".join(lines) for side, lines in PAIRS.items()}
    return run_node(node_classes["ContrastDirection"], **{**UNUSED, "clip": clip, **texts, "tap": tap, **more})


@pytest.mark.parametrize(("tap", "columns"), [("18", slice(2560, 5120)), ("all", slice(0, 7680))])
def test_a_contrast_of_texts_is_the_difference_of_their_mean_tokens(node_classes, clip, tap, columns):
    sae, features, replaces, table = contrast(node_classes, clip, tap).result
    means = {}
    for side, texts in PAIRS.items():
        rows = [[clip.states(token).reshape(-1) for token in row_of(clip, text) if token != PAD] for text in texts]
        means[side] = torch.stack([torch.stack(row).double().mean(0)[columns] for row in rows])
    deltas = means["positive"] - means["negative"]
    step = deltas.mean(0)
    assert torch.allclose(sae.direction([0, 1]).double(), torch.stack([step, -step]), rtol=1e-4, atol=1e-6)
    floor = float((deltas - step).square().sum() / 2) ** 0.5
    assert sae.contrast.norm == pytest.approx(float(step.norm()), rel=1e-5)
    assert sae.contrast.floor == pytest.approx(floor, rel=1e-3, abs=1e-5)
    assert sae.contrast.positive == PAIRS["positive"] and sae.site is None
    assert ([edit.feature for edit in features], [edit.feature for edit in replaces]) == ([0], [1])
    assert table.splitlines()[2].startswith(sae.name.split("/")[-1])


@pytest.fixture
def written():
    yield
    shutil.rmtree(Path(folder_paths.get_output_directory()) / "sae", ignore_errors=True)
    folder_paths.filename_list_cache.clear()


def test_a_contrast_steers_its_tap_saved_or_not_and_swaps(node_classes, clip, written):
    sae, features, replaces, _ = contrast(node_classes, clip, "18").result
    name = run_node(node_classes["SaveDirections"], sae=sae, name="blue-for-red").result[0]
    assert name == "blue-for-red/token_embeddings-layer_17/model.safetensors"
    kept = run_node(node_classes["LoadSAE"], sae_name=name, location="auto", stream="auto").result[0]
    assert kept.owner == sae.owner and kept.contrast == sae.contrast
    embed = clip.encode_from_tokens_scheduled(clip.tokenize("a red square"))
    for dictionary in (sae, kept):
        given = {"embed": embed, "sae": dictionary, "features": features, "method": "add", "strength": 1.0}
        changed = run_node(node_classes["ClipEmbedSteer"], **given, **EDIT).result[0][0][0]
        delta = (changed - embed[0][0]).unflatten(-1, (3, 2560))
        assert torch.allclose(delta[:, :, 1], sae.direction([0])[0].expand_as(delta[:, :, 1]), atol=1e-5)
        assert torch.equal(
            changed.unflatten(-1, (3, 2560))[:, :, [0, 2]], embed[0][0].unflatten(-1, (3, 2560))[:, :, [0, 2]]
        )
    swap = {"embed": embed, "sae": sae, "features": features, "replaces": replaces, "method": "auto", "strength": 1.0}
    swapped = run_node(node_classes["ClipEmbedSteer"], **swap, unit="auto").result[0][0][0]
    word = row_of(clip, "a red square").index(row_of(clip, "a red")[4])
    moved = (swapped - embed[0][0])[0].norm(dim=-1)
    assert int(moved.argmax()) == word, "the word that the sides differ in moves most"


def test_what_a_contrast_of_texts_cannot_do_is_told(node_classes, clip):
    for tap, message in (
        ("17", "tap: 17 is none of the hidden states 9, 18, 27 of Qwen3-4B"),
        ("auto", "tap: 'auto' tells none, and this text is the hidden states 9, 18, 27 of Qwen3-4B .*, or all"),
    ):
        with pytest.raises(ValueError, match=message):
            contrast(node_classes, clip, tap)
    with pytest.raises(ValueError, match="positive_texts: it is empty"):
        contrast(node_classes, clip, "all", positive_texts="")
    same = [[torch.ones(1, 4, 7680), {}]]
    without = {"positive_texts": "", "negative_texts": ""}
    with pytest.raises(ValueError, match="there is no difference between them at token_embeddings-layer_8"):
        contrast(node_classes, None, "9", positive=same, negative=same, **without)
    other = [[torch.ones(1, 4, 2304), {}]]
    with pytest.raises(ValueError, match="their embeddings are 2304 and 7680 wide"):
        contrast(node_classes, None, "all", positive=same, negative=other, **without)
