"""Transcoders: they read what goes into an MLP and write onto what comes out of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from layout_checks import IDS, close
from layouts import Case, D, F, K, draw, linear, top
from layouts_linear import diffract
from sae.export import TARGETS, export
from sae.finding.features import FeatureReader
from sae.finding.inspection import SelfTest
from sae.finding.recovery import prediction_recovered
from sae.formats import load
from sae.formats.sets import make_set, set_folders
from sae.hosts.diffusers import capture, steer
from sae.places.site import parse_location, site_from_name
from sae.steering.delta import Steering
from sae.steering.edits import Edit
from sae.steering.intervention import Intervention
from small_saes import dense_codes, dense_directions, small_sae

pytest.importorskip("diffusers.models.transformers.transformer_flux")

from small_flux import WIDTH, hook_count, inputs, predict, small_flux

IMAGE, TEXT = "transformer_blocks.1.ff.transcoder", "transformer_blocks.1.ff_context.transcoder"
every_stream = pytest.mark.parametrize(("location", "stream"), [(IMAGE, "image"), (TEXT, "text")])


# Files


def skip_transcoder(skip: bool = True) -> Case:
    """sparsify: nothing is taken off x; x̂ = f W_dec + b_dec + W_skip x."""
    t = linear("b_dec", "encoder.bias")
    rows = t.pop("decoder.weight").T.contiguous()
    state = {**t, "W_dec": rows, **({"W_skip": draw(D, D)} if skip else {})}
    config = {"d_in": D, "k": K, "num_latents": F, "transcode": True, "skip_connection": skip, "activation": "topk"}
    codes = lambda x: top((x @ t["encoder.weight"].T + t["encoder.bias"]).relu())  # noqa: E731
    return Case("layers.3.mlp/sae.safetensors", state, codes, rows, t["b_dec"], {"layers.3.mlp/cfg.json": config})


@pytest.mark.parametrize("skip", [True, False], ids=["skip", "plain"])
def test_sparsifys_transcoders_follow_their_formula(skip: bool, tmp_path: Path) -> None:
    case = skip_transcoder(skip)
    sae, x = load(case.write(tmp_path)), draw(20, D)
    f, _ = case.expected(x)
    close(sae.encode(x), f)
    close(sae.direction(IDS), case.rows[IDS])
    linear_part = x @ case.state["W_skip"].T if skip else 0
    close(sae.reconstruct(x), f @ case.rows + case.bias + linear_part)
    assert sae.transcoder and sae.origin.layout == "sparsify topk transcoder"


@pytest.mark.parametrize(
    ("name", "architecture", "site"),
    [
        ("transcoder_img_6.pt", "auto", "transformer_blocks.6.ff.transcoder (image)"),
        ("transcoder_txt_18.pt", "auto", "transformer_blocks.18.ff_context.transcoder (text)"),
        ("mine.pt", "diffract_transcoder", None),
    ],
)
def test_diffracts_transcoders_follow_their_formula(name: str, architecture: str, site: str, tmp_path: Path) -> None:
    case = diffract(name)
    sae = load(case.write(tmp_path), architecture=architecture)
    x = draw(20, D)
    f, back = case.expected(x)
    close(sae.encode(x, case.sigma), f)
    close(sae.reconstruct(x, case.sigma), back)
    assert sae.transcoder and sae.origin.layout == "DifFRACT transcoder"
    assert (None if sae.site is None else str(sae.site)) == site


def test_our_own_layout_keeps_a_transcoder_and_others_refuse_it(tmp_path: Path) -> None:
    case = skip_transcoder()
    sae = load(case.write(tmp_path)).at(parse_location(IMAGE))
    back = load(export(sae, tmp_path / "own", "sae_steering"))
    x = draw(7, D)
    assert back.transcoder and str(back.site) == f"{IMAGE} (image)"
    assert torch.equal(back.reconstruct(x), sae.reconstruct(x))
    for target in TARGETS[1:]:
        with pytest.raises(ValueError, match=r"it is a transcoder; use sae_steering|it holds"):
            export(sae, tmp_path / target, target)


@pytest.mark.parametrize(
    ("state", "config"),
    [
        (
            {
                "W_enc": torch.ones(2, D, F),
                "W_dec": torch.ones(F, 2, D),
                "b_enc": torch.ones(F),
                "b_dec": torch.ones(2, D),
            },
            {},
        ),
        (
            {"W_enc": torch.ones(D, F), "W_dec": torch.ones(F, D), "b_dec": torch.ones(D)},
            {"architecture": "crosscoder"},
        ),
        ({"encoder.weight": torch.ones(F, D), "b_dec": torch.ones(D)}, {"trainer": {"dict_class": "CrossCoder"}}),
    ],
)
def test_crosscoders_are_refused_by_name(state: dict[str, torch.Tensor], config: dict, tmp_path: Path) -> None:
    case = Case("sae.safetensors", state, lambda x: x, draw(F, D), draw(D), {"cfg.json": config, "config.json": config})
    with pytest.raises(ValueError, match="this is a crosscoder, which reads several layers or models at once"):
        load(case.write(tmp_path))


# Places


def test_the_place_has_a_location_and_a_name() -> None:
    for location, stream in ((IMAGE, "image"), (TEXT, "text")):
        site = parse_location(location)
        assert (site.point, site.stream, site.location) == ("transcoder", stream, location)
        assert site_from_name(f"folder/{site.name}/model") == site
    assert parse_location("double_blocks.1.txt_mlp.transcoder") == parse_location(TEXT)
    assert parse_location("transformer_blocks.0-15.ff.transcoder").blocks == tuple(range(16))


def at(location: str, method: str = "add", strength: float = 1.5, **given) -> Intervention:
    sae = small_sae("relu", WIDTH).at(parse_location(location))
    sae.transcoder = True
    steering = Steering(sae, [Edit(7, strength)], method, **{"unit": "raw", **given})
    return Intervention(steering, parse_location(location))


def test_what_reads_and_writes_one_tensor_is_refused_there() -> None:
    with pytest.raises(ValueError, match="is the place of a transcoder, which reads another tensor than it writes"):
        Intervention(Steering(small_sae("relu", WIDTH), [Edit(7)], "add"), parse_location(IMAGE))
    other = at(IMAGE)
    with pytest.raises(ValueError, match=r"is a transcoder, .* but transformer_blocks.1.ff .* is another point"):
        replace(other, site=parse_location("transformer_blocks.1.ff"))
    for method in ("surgery", "boost_if_active"):
        with pytest.raises(ValueError, match=f"method: '{method}' needs one and the same tensor"):
            at(IMAGE, method)
    sae = other.steering.sae
    with pytest.raises(ValueError, match="is another point"):
        FeatureReader(sae, parse_location("transformer_blocks.1"))
    with pytest.raises(ValueError, match="how well it reconstructs its input cannot be measured"):
        SelfTest(sae)
    with pytest.raises(ValueError, match="cannot be measured"):
        prediction_recovered(lambda taps: torch.zeros(1), sae, parse_location(IMAGE))


# In a model


def plain(model, stream, change):
    """`change(output, what went in)` on the module, by nothing but register_forward_hook."""
    block = model.transformer_blocks[1]
    module = block.ff if stream == "image" else block.ff_context
    return module.register_forward_hook(lambda module, args, output: change(output, args[0]))


DIRECTION = dense_directions("relu", WIDTH)
MEANS = {"mean": 2.0, "density": 0.5}
METHODS = {
    "add": ({}, lambda x, read: x + 1.5 * DIRECTION[7]),
    "add, of the norm": (
        {"unit": "token_norm"},
        lambda x, read: x + 1.5 * x.norm(dim=-1, keepdim=True) * DIRECTION[7] / DIRECTION[7].norm(),
    ),
    "set": ({}, lambda x, read: x + (1.5 - dense_codes("relu", read)[..., [7]]) * DIRECTION[7]),
    "scale": ({}, lambda x, read: x + 0.5 * dense_codes("relu", read)[..., [7]] * DIRECTION[7]),
    "project_out": (
        {}, lambda x, read: x - 1.5 * (x @ DIRECTION[7])[..., None] * DIRECTION[7] / DIRECTION[7].square().sum(),
    ),
}  # fmt: skip


@every_stream
@pytest.mark.parametrize("name", METHODS)
def test_steering_equals_a_plain_hook_that_reads_the_input(location: str, stream: str, name: str) -> None:
    model, batch = small_flux(), inputs(batch=2)
    before = predict(model, batch)
    given, change = METHODS[name]
    handle = plain(model, stream, change)
    wanted = predict(model, batch)
    handle.remove()
    with steer(model, [at(location, name.split(",")[0], **given)]) as record:
        torch.testing.assert_close(predict(model, batch), wanted, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(wanted, before, atol=1e-4) and hook_count(model) == 0
    assert record.summary().steps == 1 and torch.equal(predict(model, batch), before)


def test_swap_reads_the_input_and_changes_the_output() -> None:
    model, batch = small_flux(), inputs()
    sae = small_sae("relu", WIDTH).at(parse_location(IMAGE))
    sae.transcoder = True
    steering = Steering(sae, [Edit(7, **MEANS)], "swap", 1.0, replaces=[Edit(3, **MEANS)])

    def change(x, read):
        found = dense_codes("relu", read)[..., [3]]
        return x + found * (DIRECTION[7] - DIRECTION[3])

    handle = plain(model, "image", change)
    wanted = predict(model, batch)
    handle.remove()
    with steer(model, [Intervention(steering, parse_location(IMAGE))]):
        torch.testing.assert_close(predict(model, batch), wanted, rtol=1e-5, atol=1e-5)


@every_stream
def test_zero_strength_is_bit_identical(location: str, stream: str) -> None:
    model, batch = small_flux(), inputs()
    before = predict(model, batch)
    for method, strength in (("add", 0.0), ("scale", 1.0)):
        with steer(model, [at(location, method, strength)]):
            assert torch.equal(predict(model, batch), before)


@every_stream
def test_features_are_found_in_what_goes_in(location: str, stream: str) -> None:
    model, batch = small_flux(), inputs(reference=1)
    seen, found = [], []
    block = model.transformer_blocks[1]
    module = block.ff if stream == "image" else block.ff_context
    handle = module.register_forward_hook(lambda module, args, output: found.append(args[0].clone()))
    with capture(model, parse_location(location), lambda x, moment: seen.append(x.clone())):
        predict(model, batch)
    handle.remove()
    count = seen[0].shape[1]
    assert torch.equal(seen[0], found[0][:, :count]) and count == (12 if stream == "image" else 5)
    reader = FeatureReader(at(location).steering.sae, parse_location(location))
    with capture(model, parse_location(location), reader):
        predict(model, batch)
    codes = dense_codes("relu", seen[0][0])
    torch.testing.assert_close(reader.tally.mean, codes.mean(0), rtol=1e-5, atol=1e-5)
    if stream == "image":
        torch.testing.assert_close(reader.heat([7])[7], codes[:, 7].view(3, 4), rtol=1e-5, atol=1e-5)


def test_sets_of_transcoders_and_saes_side_by_side(tmp_path: Path) -> None:
    names = [f"transcoder_{stream}_{block}.pt" for block in (0, 1) for stream in ("img", "txt")]
    saes = [load(diffract(name).write(tmp_path)) for name in names]
    whole = make_set(saes, "transcoders")
    assert [str(member.site) for member in whole.members] == [
        f"transformer_blocks.{block}.{point}.transcoder ({stream})"
        for block in (0, 1)
        for point, stream in (("ff", "image"), ("ff_context", "text"))
    ]
    beside = load(diffract("sae_img_1.pt").write(tmp_path))
    assert len(make_set([*saes, beside], "both").members) == 5
    assert set_folders([f"d/{parse_location(IMAGE).name}/m.pt", f"d/{parse_location(TEXT).name}/m.pt"]) != {}


def test_a_skip_transcoder_without_its_matrix_is_told(tmp_path: Path) -> None:
    case = skip_transcoder()
    state = {key: value.contiguous() for key, value in case.state.items() if key != "W_skip"}
    path = case.write(tmp_path)
    save_file(state, path)
    with pytest.raises(ValueError, match="lacks the tensor 'W_skip'"):
        load(path)
