"""Every reader's config with one word added, removed, renamed or changed: none is read otherwise than it says.

What is right after a mutation is written here by hand: `removed` has, for each word, either what it comes to without it
(the published default) or that it must be refused. A renamed or added word must be refused, or be told by its name.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from config_cases import (
    ADDED,
    largest,
    like_saelens,
    llama_scope,
    prisma_gated,
    qwen_scope,
    saev_header,
    signed,
    topk_sae,
)
from layouts import Case, D, F, K, draw
from layouts_language import gemma_scope
from layouts_linear import (
    dictionary,
    dictionary_gated,
    dictionary_new,
    diffract,
    eleuther,
    gytis,
    jayhsu,
    lucas,
    openai,
    sdxl_unbox,
)
from layouts_matrices import batch_topk, matryoshka, old, overcomplete, prisma, saedit, saev
from sae.formats import load

REFUSED, SAME = "refused", "same"
Words = tuple[str, ...]  # of a word of the config, and of those that it lies in


@dataclass(frozen=True)
class Base:
    """A checkpoint, and what its deciding words come to: without them, and changed (word, value, outcome)."""

    case: Case
    removed: dict[str, Any] = field(default_factory=dict)
    changed: tuple[tuple[str, Any, Any], ...] = ()
    known: Words = ()  # of the foreign words below: those that this layout reads or that its projects write


LENS = ("apply_b_dec_to_input",)

SAELENS = {"d_in": D, "d_sae": F}
RENY = {"features": D, "pages": F}


def reny(**config: Any) -> Case:
    state = dict(jayhsu().state)
    state.pop("stats_last_nonzero")
    names = {"pre_bias": "bias", "latent_bias": "encoder.bias"}
    state = {names.get(key, key): value for key, value in state.items()}
    pre = lambda x: (x - state["bias"]) @ state["encoder.weight"].T + state["encoder.bias"]  # noqa: E731
    rows, norms = state["decoder.weight"].T, state["decoder.weight"].norm(dim=0)
    if "k" in config:
        codes = lambda x: jayhsu_top(pre(x).relu(), config["k"])  # noqa: E731
    else:
        codes, rows = (lambda x: pre(x).relu() * norms), rows / norms[:, None]
    return Case("model.safetensors", state, codes, rows, state["bias"], {"config.json": {**RENY, **config}})


def jayhsu_top(pre: torch.Tensor, k: int) -> torch.Tensor:
    return pre * (pre >= pre.sort(-1).values[:, -k, None])


def k_changed(case: Case, name: str, k: int = 2) -> tuple[str, Any, Any]:
    """The k largest instead: of the codes that a larger k kept."""
    return name, k, replace(case, codes=lambda x: jayhsu_top(case.codes(x), k))


def topk_base(case: Case, **removed: Any) -> Base:
    return Base(case, {"k": REFUSED, **removed}, (k_changed(case, "k"), ("k", 10**6, REFUSED), ("k", "4", REFUSED)))


SIGNED, DL, SAEV = signed(), "trainer.", "cfg."
OLD = old("topk", activation_fn_str="topk", activation_fn_kwargs={"k": K}, normalize_activations=False)
RELU = like_saelens("relu", **SAELENS, architecture="standard")
BASES: dict[str, Base] = {
    "SAELens standard": Base(
        RELU, {"architecture": SAME, "d_in": SAME, "d_sae": SAME},
        (("architecture", "gated", REFUSED), ("architecture", "temporal", REFUSED), ("d_sae", 9, REFUSED)),
        known=LENS,
    ),
    "SAELens topk": Base(
        like_saelens(**SAELENS, architecture="topk", k=K),
        {"architecture": SAME, "k": REFUSED, "d_in": SAME},
        (("architecture", "standard", REFUSED), ("architecture", "jumprelu", REFUSED),
         ("k", 2, replace(like_saelens(k=2), codes=lambda x: jayhsu_top(like_saelens(k=K).codes(x), 2)))),
        known=(*LENS, "rescale_acts_by_decoder_norm"),
    ),
    "SAELens before 6": Base(
        OLD, {"activation_fn_str": SAME, "activation_fn_kwargs": REFUSED, "normalize_activations": SAME},
        (("activation_fn_str", "relu", REFUSED), ("activation_fn_str", "softmax", REFUSED),
         ("normalize_activations", True, REFUSED), ("finetuning_scaling_factor", True, REFUSED)),
        known=(*LENS, "rescale_acts_by_decoder_norm"),
    ),
    "SAELens tanh": Base(
        old("tanh", activation_fn_str="tanh-relu", activation_fn_kwargs={}),
        {"activation_fn_str": "relu, told", "activation_fn_kwargs": SAME},
        (("apply_b_dec_to_input", False, old("tanh", more={"subtract": False}, activation_fn_str="tanh-relu")),),
        known=LENS,
    ),
    "SAELens batchtopk": Base(
        batch_topk("batchtopk", True), {"architecture": REFUSED, "k": SAME, "normalize_activations": SAME},
        (("rescale_acts_by_decoder_norm", False, batch_topk("batchtopk", False)), ("architecture", "topk", REFUSED)),
        known=(*LENS, "k", "top_k", "rescale_acts_by_decoder_norm"),
    ),
    "sparsify signed": Base(
        SIGNED, {"signed": eleuther({"num_latents": F}), "d_in": SAME, "num_latents": SAME, "k": REFUSED},
        (("k", 2, replace(SIGNED, codes=lambda x: largest(SIGNED.codes(x), 2))), ("signed", "yes", REFUSED)),
        known=("input_unit_norm", "transcode"),
    ),
    "sparsify groupmax": Base(
        eleuther({"activation": "groupmax", "num_latents": F}), {"activation": eleuther({}), "k": REFUSED},
        (("activation", "softmax", REFUSED), ("k", 3, REFUSED)), known=("input_unit_norm", "transcode"),
    ),
    "SAeUron": Base(
        eleuther({"batch_topk": False, "input_unit_norm": True}, "layer_norm"),
        {"input_unit_norm": eleuther({}), "k": REFUSED, "batch_topk": SAME}, (("input_unit_norm", "yes", REFUSED),),
        known=("signed", "transcode"),
    ),
    "saev": Base(
        saev({"cls": "TopK", "params": {"top_k": 28}}, "topk"),
        {"cfg.activation": REFUSED, "cfg.d_model": SAME, "schema": REFUSED, "cfg": REFUSED},
        (("schema", 12, REFUSED), ("cfg.activation", {"cls": "Gelu"}, REFUSED), ("cfg.d_sae", 9, REFUSED),
         ("cfg.activation", {"cls": "Relu", "params": {}}, saev({"cls": "Relu"}, "relu"))),
    ),
    "saev of schema 1": Base(
        saev_header({"schema": 1, "cls": "TopK", "cfg": {"d_vit": D, "exp_factor": 3.2, "top_k": K}}),
        {"cls": REFUSED, "cfg.top_k": REFUSED, "cfg.d_vit": SAME}, (("cls", "Gelu", REFUSED),),
    ),
    "Llama Scope": Base(
        llama_scope(),
        {"act_fn": REFUSED, "jump_relu_threshold": REFUSED, "dataset_average_activation_norm": REFUSED,
         "norm_activation": llama_scope(norm_activation="inference"), "sparsity_include_decoder_norm": SAME,
         "apply_decoder_bias_to_pre_encoder": SAME, "use_decoder_bias": SAME, "use_glu_encoder": SAME, "top_k": SAME},
        (("act_fn", "relu", llama_scope(act_fn="relu")),
         ("jump_relu_threshold", 2.0, llama_scope(jump_relu_threshold=2.0)),
         ("norm_activation", "token-wise", llama_scope(norm_activation="token-wise")), ("d_sae", 3, REFUSED),
         ("sparsity_include_decoder_norm", False, llama_scope(sparsity_include_decoder_norm=False)),
         ("hook_point_out", "blocks.3.hook_mlp_out", REFUSED)),
        known=("k", "top_k"),
    ),
    "Qwen-Scope": Base(
        qwen_scope("mine", model_type="topk_sae", k=K, d_model=D), {"k": REFUSED, "model_type": SAME, "d_model": SAME},
        (k_changed(qwen_scope("mine"), "k"), ("model_type", "gated_sae", REFUSED)),
    ),
    "Gemma Scope 2": Base(
        gemma_scope(second=True), {"architecture": SAME, "type": SAME, "width": SAME, "affine_connection": SAME},
        (("type", "transcoder", REFUSED), ("affine_connection", True, REFUSED), ("architecture", "topk", REFUSED),
         ("hf_hook_point_out", "model.layers.12.mlp.output", REFUSED)),
    ),
    "Prisma": Base(
        prisma("topk", "layer_norm"),
        {"activation_fn_str": REFUSED, "activation_fn_kwargs": REFUSED, "layer_subtype": REFUSED, "architecture": SAME,
         "normalize_activations": prisma("topk"), "d_in": SAME},
        (("normalize_activations", "batch", REFUSED), ("architecture", "gated", REFUSED),
         ("activation_fn_kwargs", {"k": 2}, k_changed(prisma("topk", "layer_norm"), "k")[2]),
         ("activation_fn_kwargs", {"k": K, "dim": 0}, "dim, told")),
    ),
    "Prisma gated": Base(
        prisma_gated("prisma_gated_topk"), {"architecture": REFUSED, "activation_fn_kwargs": REFUSED},
        (("activation_fn_str", "tanh-relu", REFUSED),),
    ),
    "SAEdit": Base(
        saedit(True), {"input_unit_norm": saedit(False), "act_size": REFUSED, "dict_size": SAME},
        (("input_unit_norm", False, saedit(False)), ("input_unit_norm", 3, REFUSED), ("dict_size", 9, REFUSED)),
        known=("top_k", "sae_type"),
    ),
    "RE-N-Y TopK": topk_base(reny(k=K, sample=None), features=REFUSED, pages=REFUSED, sample=SAME),
    "RE-N-Y standard": Base(
        reny(), {"features": REFUSED, "pages": REFUSED},
        (("k", K, reny(k=K)), ("sample", "gumbel", REFUSED), ("kk", K, REFUSED)), known=("k",),
    ),
    "topk_sae": Base(
        topk_sae(), {"k": REFUSED, "model_type": REFUSED, "hidden_size": SAME, "latent_size": SAME},
        (k_changed(topk_sae(), "k"), ("model_type", "l1_sae", REFUSED), ("latent_size", 9, REFUSED),
         ("active_groups", 1, REFUSED)),
    ),
    "jayhsu": topk_base(jayhsu(), features=SAME, sample=SAME),
    "sdxl-unbox": topk_base(sdxl_unbox(), d_model=SAME, n_dirs_local=SAME),
    "lucas": Base(
        lucas({"use_topk": True, "topk_k": K}),
        {"config.use_topk": REFUSED, "config.topk_k": REFUSED, "config.normalize_data": SAME},
        (("config.use_topk", False, lucas({"use_topk": False})), ("config.normalize_data", True, REFUSED),
         ("config.hidden_dim", 9, REFUSED)),
    ),
    "OpenAI": Base(
        openai("TopK"), {"activation.k": SAME, "activation.postact_fn": SAME, "activation": REFUSED},
        (("activation.postact_fn", "Tanh", REFUSED), ("activation", "Softmax", REFUSED), ("activation.k", 3, REFUSED)),
    ),
    "overcomplete": Base(overcomplete("topk"), known=("k", "top_k")),
    "Gytis": Base(gytis()),
    "DifFRACT": Base(diffract()),
    "DifFRACT transcoder": Base(diffract("transcoder_img_6.pt")),
    **{
        f"dictionary_learning {name}": Base(
            case, {"trainer.dict_class": SAME if name == "matryoshka" else REFUSED, "trainer.activation_dim": SAME},
            (("trainer.dict_class", "Other", REFUSED), ("trainer.dict_size", 9, REFUSED),
             ("buffer.io", "in_and_out", REFUSED)),
            known=("normalize_activations", *(("k",) if name.endswith("TopK") else ())),
        )
        for name, case in {
            "AutoEncoder": dictionary("AutoEncoder", "bias"), "TopK": dictionary("AutoEncoderTopK", "b_dec"),
            "BatchTopK": dictionary("BatchTopKSAE", "b_dec", threshold=1.5), "new": dictionary_new(),
            "gated": dictionary_gated(), "matryoshka": matryoshka(),
        }.items()
    },
}  # fmt: skip


def config_of(case: Case) -> dict[str, Any] | None:
    """Where the words lie: beside the file, in its first line, or in the file itself."""
    if case.configs:
        return next(iter(case.configs.values()))
    return case.line


def with_config(case: Case, config: dict[str, Any]) -> Case:
    if case.configs:
        return replace(case, configs=dict.fromkeys(case.configs, config))
    return replace(case, line=config) if case.line is not None else replace(case, configs={"config.json": config})


def mutated(case: Case, name: str, change: Any) -> Case:
    """The case with one word changed in place; `change` gets the object that has the word, and the word."""
    in_file = (name.split(".")[0] in case.state and config_of(case) is None) or name.startswith("config.")
    whole = copy.deepcopy(dict(case.state) if in_file else config_of(case) or {})
    path = [name] if name in whole else name.split(".")
    place = whole
    for step in path[:-1]:
        place = place.setdefault(step, {})
    change(place, path[-1])
    return replace(case, state=whole) if in_file else with_config(case, whole)


def present(case: Case, name: str) -> bool:
    config = config_of(case) or {}
    outer, _, inner = name.rpartition(".")
    return name in case.state or inner in (config.get(outer, {}) if outer else config)


def cases(base: Base) -> Iterator[tuple[str, str, Case, Any]]:
    """(what was done, the word to be told, the case, what it must come to)"""
    for name, outcome in base.removed.items():
        yield f"{name} removed", name, mutated(base.case, name, lambda place, word: place.pop(word)), outcome
        for new in ("{}2", "my_{}"):
            word = new.format(name.split(".")[-1])

            def rename(place: dict[str, Any], old: str, word: str = word) -> None:
                place[word] = place.pop(old)

            yield (
                f"{name} renamed to {word}",
                word,
                mutated(base.case, name, rename),
                outcome if outcome == SAME else "told",
            )
    for name, value, outcome in base.changed:
        yield (
            f"{name} = {value!r}", name, mutated(base.case, name, lambda place, word, v=value: place.update({word: v})),
            outcome,
        )  # fmt: skip
    for word, value in ADDED.items():
        for prefix in {"trainer." if "trainer" in (config_of(base.case) or {}) else "", ""}:
            if word not in base.known:
                add = lambda place, key, v=value: place.setdefault(key, v)  # noqa: E731
                case = mutated(base.case, prefix + word, add)
                if not present(base.case, prefix + word):
                    yield f"{prefix}{word} added", word, case, "told"


def verdict(case: Case, word: str, outcome: Any, original: Case, folder: Path) -> str | None:
    """What is wrong with how a mutated checkpoint is read, or None."""
    try:
        sae = load(case.write(folder), architecture=case.architecture)
    except ValueError as error:
        sound = "\n" not in str(error) and len(str(error)) > 30
        if not sound or not (outcome in (REFUSED, "told") or isinstance(outcome, str)):
            return f"refused: {error}"
        return None
    if outcome == REFUSED:
        return f"read as {sae.origin.layout}, {sae.architecture}"
    if isinstance(outcome, str) and outcome.endswith("told"):
        short = word.split(".")[-1]
        told = any(short in note for note in sae.origin.notes) or (outcome != "told" and sae.origin.notes)
        return None if told else f"not told: {sae.origin.layout}, {sae.architecture}, {sae.origin.notes}"
    torch.manual_seed(21)
    x = draw(20, D, scale=2.0) + 0.5
    wanted, back = (original if outcome == SAME else outcome).expected(x)
    close = torch.allclose(sae.encode(x, case.sigma), wanted, atol=2e-5, rtol=2e-5)
    same = close and torch.allclose(sae.reconstruct(x, case.sigma), back, atol=5e-5, rtol=2e-5)
    return None if same else f"read as {sae.origin.layout}, {sae.architecture}"


@pytest.mark.parametrize("name", BASES)
def test_no_mutation_is_read_otherwise_than_it_says(name: str, tmp_path: Path) -> None:
    base = BASES[name]
    assert verdict(base.case, "", SAME, base.case, tmp_path / "original") is None
    wrong = {}
    for number, (done, word, case, outcome) in enumerate(cases(base)):
        fault = verdict(case, word, outcome, base.case, tmp_path / str(number))
        if fault is not None:
            wrong[done] = fault
    assert wrong == {}


def test_there_are_enough_of_them() -> None:
    counts = {name: len(list(cases(base))) for name, base in BASES.items()}
    assert sum(counts.values()) >= 300 and min(counts.values()) >= 10, counts
