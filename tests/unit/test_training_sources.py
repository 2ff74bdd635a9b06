"""Sources of tokens: a model's at several sites, embeddings, shards on disk, a few calls again and again."""

import shutil
from collections import namedtuple

import pytest
import torch
from safetensors.torch import load_file

from numbered_source import IMAGE, TEXT, NumberedSource
from sae.demo.shapes_model import DRAWING_CALLS, SAMPLING_STEPS, run_shapes
from sae.places.site import parse_location
from sae.training.collect import Collection
from sae.training.embedding_source import EmbeddingSource, lines_of, pictures_in
from sae.training.shards import KeepingSource, ShardSource, ShardWriter, bytes_of
from sae.training.source import Chunk, ModelSource, RememberedSource, sift

WIDTHS = {TEXT: 16, IMAGE: 24}


# A model


class ShapesRuns:
    def __init__(self, transformer):
        self.about = {"model": "random"}
        self.transformer = transformer

    def observe(self, site, see):
        from sae.hosts.diffusers import capture

        return capture(self.transformer, site, see)

    def run(self, number, seed):
        return run_shapes(self.transformer, number, seed, pictures=4)


@pytest.fixture(scope="module")
def transformer():
    pytest.importorskip("diffusers")
    from sae.demo.shapes_model import build_transformer

    torch.manual_seed(0)
    return build_transformer().eval()


SITES = {
    "text": parse_location("transformer_blocks.0", "text"),
    "attn": parse_location("transformer_blocks.1.attn", "image"),
}


def test_tokens_of_several_sites_are_those_of_the_modules(transformer):
    """Plain hooks on the modules see, in the same run, every token that the source gives."""
    seen = {"text": [], "attn": [], "sigma": []}
    handles = [
        transformer.transformer_blocks[0].register_forward_hook(lambda m, a, out: seen["text"].append(out[0].detach())),
        transformer.transformer_blocks[1].attn.register_forward_hook(
            lambda m, a, out: seen["attn"].append(out[0].detach())
        ),
        transformer.register_forward_pre_hook(
            lambda m, a, kw: seen["sigma"].append(float(kw["timestep"][0])), with_kwargs=True
        ),
    ]
    source = ModelSource(ShapesRuns(transformer), SITES, {"attn": 0.25})
    chunks = source.training(0)
    for handle in handles:
        handle.remove()
    assert len(seen["sigma"]) == SAMPLING_STEPS
    text, attention = chunks["text"], chunks["attn"]
    assert text.tokens.shape == (SAMPLING_STEPS * 4 * 5, 128)
    assert attention.tokens.shape == (SAMPLING_STEPS * 4 * 64 // 4, 128)
    prompts = run_shapes(transformer, 0, 0, pictures=4)
    for chunk, name in ((text, "text"), (attention, "attn")):
        for step, sigma in enumerate(seen["sigma"]):
            rows = chunk.tokens[chunk.sigma == torch.tensor(sigma)]
            own = seen[name][step]  # (4, tokens, 128)
            distance = torch.cdist(rows, own.flatten(0, 1), compute_mode="donot_use_mm_for_euclid_dist")
            assert distance.amin(dim=1).max() == 0
            pictures = distance.argmin(dim=1) // own.shape[1]
            if name == "attn":  # text tokens of equal words are equal in all pictures
                assert chunk.prompt[chunk.sigma == torch.tensor(sigma)].tolist() == [prompts[p] for p in pictures]


def test_calls_are_the_same_whenever_they_are_asked_and_hooks_are_gone(transformer):
    sources = [ModelSource(ShapesRuns(transformer), SITES, {}, seed) for seed in (0, 0, 1)]
    later, again = sources[0].training(2), sources[1].training(2)
    for name in SITES:
        assert all(torch.equal(one, other) for one, other in zip(later[name], again[name], strict=True))
    others = [sources[0].held_out(2), sources[2].training(2), sources[0].training(5), sources[2].held_out(2)]
    for other in others:
        assert not (later["attn"].tokens[:, None, :3] == other["attn"].tokens[None, :, :3]).all(dim=-1).any()
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in transformer.modules()) == 0


def test_noise_levels_of_drawings_are_spread_evenly(transformer):
    levels = ModelSource(ShapesRuns(transformer), {"text": SITES["text"]}, {}).training(2)["text"].sigma.unique()
    assert sorted(int(level * DRAWING_CALLS) for level in levels.tolist()) == list(range(DRAWING_CALLS))


def test_bad_sites_and_shares_are_refused(transformer):
    with pytest.raises(ValueError, match="sites: there is none"):
        ModelSource(ShapesRuns(transformer), {}, {})
    with pytest.raises(ValueError, match=r"share: 1\.5 of a call's tokens"):
        ModelSource(ShapesRuns(transformer), SITES, {"text": 1.5})
    absent = {"far": parse_location("transformer_blocks.7", "text")}
    with pytest.raises(ValueError, match="names block 7, but this model's double blocks are 0 to 1"):
        ModelSource(ShapesRuns(transformer), absent, {}).training(0)


def test_outliers_are_ten_times_the_median():
    tokens = torch.ones(101, 4)
    tokens[5] *= 10.1
    tokens[6] *= 9.9
    chunk, outliers = sift(Chunk(tokens, torch.arange(101.0), torch.arange(101)), "here")
    assert outliers == 1 and len(chunk.tokens) == 100
    assert 5 not in chunk.prompt and 6 in chunk.prompt and torch.equal(chunk.sigma, chunk.prompt.float())


# Embeddings


def encode(items):
    encode.calls += 1
    return torch.tensor([[float(item), float(item) ** 2, 1.0] for item in items])


def test_embeddings_come_once_each_time_through_and_are_encoded_once():
    encode.calls = 0
    source = EmbeddingSource(range(40), encode, "image_embeds", {}, batch=8)
    passes = [torch.cat([source.training(5 * p + n)["image_embeds"].prompt for n in range(5)]).tolist() for p in (0, 1)]
    assert sorted(passes[0]) == sorted(passes[1]) and len(set(passes[0])) == 36
    assert passes[0] != passes[1]
    held_out = source.held_out(0)["image_embeds"]
    assert set(held_out.prompt.tolist()) == set(range(40)) - set(passes[0])
    assert torch.equal(held_out.tokens[:, 0], held_out.prompt.float()) and held_out.sigma.isnan().all()
    assert encode.calls == 6


def test_embeddings_of_many_tokens_are_flattened():
    source = EmbeddingSource(
        range(12), lambda items: torch.ones(len(items), 7, 3) * torch.tensor(items).view(-1, 1, 1), "x", {}, batch=4
    )
    chunk = source.training(0)["x"]
    assert chunk.tokens.shape == (28, 3)
    assert torch.equal(chunk.tokens[:, 0], chunk.prompt.float())


def test_missing_data_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="data: 3 came, but 10 or more are needed"):
        EmbeddingSource(range(3), encode, "x", {})
    with pytest.raises(ValueError, match="is no folder with pictures"):
        pictures_in(tmp_path)
    with pytest.raises(ValueError, match=r"prompts: .* cannot be read"):
        lines_of(tmp_path / "absent.txt")
    (tmp_path / "empty.txt").write_text("\n  \n")
    with pytest.raises(ValueError, match=r"prompts: empty\.txt has no prompts; give one a line"):
        lines_of(tmp_path / "empty.txt")
    (tmp_path / "two.txt").write_text("a cat\n\n a dog \n")
    assert lines_of(tmp_path / "two.txt") == ["a cat", "a dog"]


# Again and again


def test_remembered_tokens_come_again_and_are_not_collected_twice():
    inner = NumberedSource()
    source = RememberedSource(inner, 100, torch.float32)
    order = [source.training(number)[TEXT].prompt.unique().item() for number in range(5)]
    assert order == [0, 1, 0, 1, 0] and inner.asked == [0, 1]
    assert len(source.training(0)[TEXT].tokens) == 64 and len(source.training(1)[TEXT].tokens) == 36
    fresh = RememberedSource(NumberedSource(), 100, torch.float32)
    assert torch.equal(fresh.training(7)[IMAGE].tokens, source.training(1)[IMAGE].tokens)  # as after a kill
    with pytest.raises(ValueError, match="tokens: 0 cannot be trained on"):
        RememberedSource(NumberedSource(), 0)


# Shards


def keep(folder, tokens=5120, calls=100, inner=None):
    inner = inner or NumberedSource()
    source = KeepingSource(inner, ShardWriter(folder, inner.sites, WIDTHS, tokens))
    for number in range(calls):
        source.training(number)
    return source


def test_shards_give_back_every_token_in_another_order(tmp_path):
    keep(tmp_path)
    source = ShardSource(tmp_path)
    count = len(list(tmp_path.glob("*.safetensors")))
    assert count == 20 and source.sites == NumberedSource().sites
    for name in (TEXT, IMAGE):
        read = [source.training(number)[name] for number in range(2 * (count - 1))]
        first, second = read[: count - 1], read[count - 1 :]
        given = torch.cat([NumberedSource().training(number)[name].tokens for number in range(76)])
        found = torch.cat([chunk.tokens for chunk in first]).float()
        assert torch.equal(found.sort(dim=0).values, given.bfloat16().float().sort(dim=0).values)
        again = torch.cat([chunk.tokens for chunk in second]).float()
        assert not torch.equal(found, again) and torch.equal(found.sort(dim=0).values, again.sort(dim=0).values)
        wanted = NumberedSource().training(int(first[0].prompt[0]))[name]
        place = (wanted.sigma == first[0].sigma[0]).nonzero().item()
        assert torch.equal(first[0].tokens[0], wanted.tokens[place].bfloat16())
    assert set(source.held_out(0)[TEXT].prompt.tolist()) == {76, 77, 78, 79}


def test_the_size_on_disk_is_told_beforehand(tmp_path):
    keep(tmp_path)
    size = sum(file.stat().st_size for file in tmp_path.glob("*.safetensors"))
    assert bytes_of(20 * 256, WIDTHS) == pytest.approx(size, rel=0.1)


def test_a_run_that_was_stopped_adds_to_its_shards(tmp_path):
    keep(tmp_path, calls=10)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    keep(tmp_path)
    tokens = [load_file(file)[f"{TEXT}.prompt"] for file in sorted(tmp_path.glob("*.safetensors"))]
    assert torch.cat(tokens).tolist() == [number for number in range(80) for _ in range(64)]


def test_too_little_room_is_told_before_anything_is_written(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10, 9, 1000))
    with pytest.raises(ValueError, match=r"keep: 5,120 tokens of each site need 0\.0 GB more .*; keep fewer"):
        keep(tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


def test_a_disk_that_fills_leaves_whole_shards(tmp_path):
    keep(tmp_path, calls=10)
    blocked = tmp_path / "shard-00002.safetensors"
    blocked.mkdir()
    (blocked / "x").touch()
    with pytest.raises(ValueError, match=r"keep: shard-00002.* cannot be written .*; the 2 shards before it are whole"):
        keep(tmp_path)
    assert len(ShardSource(tmp_path).training(0)[TEXT].tokens) == 256


def test_other_shards_and_broken_ones_are_refused(tmp_path):
    keep(tmp_path, calls=10)
    with pytest.raises(
        ValueError, match=r"^keep: .* has tokens with seed = 0, but these have 1; choose another folder"
    ):
        keep(tmp_path, inner=NumberedSource(seed=1))
    several = {"both": parse_location("transformer_blocks.0-1", "text")}
    with pytest.raises(ValueError, match=r"^location: one SAE is trained at one block"):
        Collection(ShapesRuns(None), several, 1024)
    with pytest.raises(ValueError, match=r"^sites: there is none"):
        Collection(ShapesRuns(None), {}, 1024)
    with pytest.raises(ValueError, match=r"keep: .* has tokens of other sites or widths"):
        ShardWriter(tmp_path, NumberedSource().sites, {TEXT: 16, IMAGE: 25}, 100)
    with pytest.raises(ValueError, match=r"index\.json: this index of shards cannot be read"):
        ShardSource(tmp_path / "absent")
    (tmp_path / "index.json").write_text('{"format": "other"}')
    with pytest.raises(ValueError, match="has no shards in the format"):
        ShardSource(tmp_path)


def test_a_broken_shard_is_one_sentence(tmp_path):
    keep(tmp_path, calls=10)
    file = tmp_path / "shard-00000.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"shard-00000\.safetensors: this shard is missing or broken"):
        ShardSource(tmp_path).training(0)
