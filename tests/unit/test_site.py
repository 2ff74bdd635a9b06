"""Places in FLUX: every way to write one, what SAE names tell, and one sentence for each mistake."""

from __future__ import annotations

import re

import pytest

from sae.places.depth import Depth
from sae.places.site import Site, parse_location, resolve_site, site_from_name

FLUX = Depth(double=19, single=38)

# design.md section 3: location, stream asked -> kind, point, stream
ROWS = [
    ("transformer_blocks.4", "text", "double", "block", "text"),
    ("transformer_blocks.4", "image", "double", "block", "image"),
    ("transformer_blocks.4.attn", "image", "double", "attn", "image"),
    ("transformer_blocks.4.attn", "text", "double", "attn", "text"),
    ("transformer_blocks.4.ff", "image", "double", "mlp", "image"),
    ("transformer_blocks.4.ff_context", "text", "double", "mlp", "text"),
    ("transformer_blocks.4.input", "text", "double", "input", "text"),
    ("transformer_blocks.4.update", "image", "double", "update", "image"),
    ("single_transformer_blocks.4", "joint", "single", "block", "joint"),
    ("single_transformer_blocks.4.input", "joint", "single", "input", "joint"),
    ("single_transformer_blocks.4", "text", "single", "block", "text"),
    ("single_transformer_blocks.4", "image", "single", "block", "image"),
    ("single_transformer_blocks.4.attn", "joint", "single", "attn", "joint"),
    ("single_transformer_blocks.4.attn", "text", "single", "attn", "text"),
    ("single_transformer_blocks.4.attn", "image", "single", "attn", "image"),
    ("single_transformer_blocks.4.update", "joint", "single", "update", "joint"),
]


@pytest.mark.parametrize(("location", "stream", "kind", "point", "expected"), ROWS)
def test_every_row_of_the_table(location, stream, kind, point, expected):
    site = parse_location(location, stream)
    assert site == Site(kind, (4,), point, expected)
    assert site.location == location
    assert str(site) == f"{location} ({stream})"
    assert parse_location(site.location, site.stream) == site


@pytest.mark.parametrize(
    ("location", "same", "stream"),
    [
        ("double_blocks.7", "transformer_blocks.7", "image"),
        ("double_blocks.7.img_attn", "transformer_blocks.7.attn", "image"),
        ("double_blocks.7.txt_attn", "transformer_blocks.7.attn", "text"),
        ("double_blocks.7.img_attn.proj", "transformer_blocks.7.attn", "image"),
        ("double_blocks.7.txt_attn.proj", "transformer_blocks.7.attn", "text"),
        ("double_blocks.7.input", "transformer_blocks.7.input", "image"),
        ("double_blocks.7.img_mlp", "transformer_blocks.7.ff", "image"),
        ("double_blocks.7.txt_mlp", "transformer_blocks.7.ff_context", "text"),
        ("single_blocks.7", "single_transformer_blocks.7", "joint"),
        ("single_blocks.7.attn", "single_transformer_blocks.7.attn", "joint"),
        ("  transformer_blocks.7 ", "transformer_blocks.7", "image"),
    ],
)
def test_comfyui_names_are_synonyms(location, same, stream):
    site = parse_location(location)
    assert site == parse_location(same, stream)
    assert (site.location, site.stream) == (same, stream)


@pytest.mark.parametrize(
    ("written", "blocks", "shown"),
    [
        ("0-37", tuple(range(38)), "0-37"),
        ("0,5,9", (0, 5, 9), "0,5,9"),
        ("3", (3,), "3"),
        ("0-2,7,9-10", (0, 1, 2, 7, 9, 10), "0-2,7,9-10"),
        ("0 - 2, 7", (0, 1, 2, 7), "0-2,7"),
        ("4,4,3-5", (4, 3, 5), "4,3,5"),
        ("6-6", (6,), "6"),
    ],
)
def test_ranges_and_lists(written, blocks, shown):
    site = parse_location(f"single_transformer_blocks.{written}.attn", "text")
    assert site.blocks == blocks
    assert site.location == f"single_transformer_blocks.{shown}.attn"


@pytest.mark.parametrize(
    ("location", "stream", "message"),
    [
        ("", "auto", "location: '' is not a place in FLUX"),
        ("steps.3", "auto", "location: 'steps.3' is not a place in FLUX or another known model"),
        ("unet.down_blocks.2", "auto", "is not a place in FLUX"),
        ("transformer_blocks", "auto", "is not a place in FLUX"),
        ("transformer_blocks.-1", "auto", "is not a place in FLUX"),
        ("transformer_blocks.3.", "auto", "is not a place in FLUX"),
        ("transformer_blocks.3-", "auto", "a block list that cannot be read; write 3, 0-5 or 0,2,7"),
        ("transformer_blocks.3,,4", "auto", "a block list that cannot be read"),
        ("transformer_blocks.9-2", "auto", "has the range 9-2 that runs backwards; write 2-9"),
        ("transformer_blocks.3.norm", "auto", "double blocks have no point 'norm'; they have .input, .update, .attn"),
        (
            "single_transformer_blocks.3.ff",
            "auto",
            "single blocks have no point 'ff'; they have .input, .update, .attn or none",
        ),
        ("transformer_blocks.3", "joint", "stream: double blocks such as transformer_blocks.3 keep image and text"),
        ("transformer_blocks.3.attn", "joint", "stream: double blocks"),
        ("transformer_blocks.3.ff", "text", "stream: transformer_blocks.3.ff carries the image stream, but 'text'"),
        ("transformer_blocks.3.ff_context", "image", "carries the text stream, but 'image' was asked; use text or"),
        ("double_blocks.3.txt_attn.proj", "image", "carries the text stream"),
        ("transformer_blocks.3", "0", "stream: '0' is not a stream; use auto, image, text or joint"),
        ("single_transformer_blocks.3", "query", "stream: 'query' is not a stream"),
    ],
)
def test_mistakes_get_one_sentence(location, stream, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        parse_location(location, stream)
    assert_one_sentence(str(caught.value))


def assert_one_sentence(text):
    assert re.match(r"(location|stream): ", text)
    assert text.endswith(".") and "\n" not in text and not re.search(r"\. [A-Z]", text)


@pytest.mark.parametrize(
    ("name", "location", "stream"),
    [
        # RE-N-Y counts by diffusers' tuple index: a block returns (text, image), its attention (image, text)
        ("cc3m-transformer_blocks.0-0", "transformer_blocks.0", "text"),
        ("cc3m-transformer_blocks.0-1", "transformer_blocks.0", "image"),
        ("cc3m-transformer_blocks.18-0/model.safetensors", "transformer_blocks.18", "text"),
        ("viccpoes/cc3m-transformer_blocks.18-1-k16/model.safetensors", "transformer_blocks.18", "image"),
        ("cc3m-transformer_blocks.0-1-k-16", "transformer_blocks.0", "image"),
        ("x-transformer_blocks.12.attn-0", "transformer_blocks.12.attn", "image"),
        ("x-transformer_blocks.12.attn-1", "transformer_blocks.12.attn", "text"),
        ("x-transformer_blocks.12.update-1", "transformer_blocks.12.update", "image"),
        ("shapes-transformer_blocks.0.input-text", "transformer_blocks.0.input", "text"),
        ("cc3m-single_transformer_blocks.9", "single_transformer_blocks.9", "joint"),
        ("cc3m-single_transformer_blocks.37.safetensors", "single_transformer_blocks.37", "joint"),
        ("flux/single_transformer_blocks.9_k16", "single_transformer_blocks.9", "joint"),
        ("single_transformer_blocks.9.attn", "single_transformer_blocks.9.attn", "joint"),
        ("shapes-single_transformer_blocks.3.attn-image", "single_transformer_blocks.3.attn", "image"),
        ("shapes-transformer_blocks.0.attn-image", "transformer_blocks.0.attn", "image"),
        ("shapes-transformer_blocks.1-text/model", "transformer_blocks.1", "text"),
        ("transformer_blocks.6.ff", "transformer_blocks.6.ff", "image"),
        ("transformer_blocks.6.ff_context/final", "transformer_blocks.6.ff_context", "text"),
        ("old-transformer_blocks.0-0/transformer_blocks.3-1", "transformer_blocks.3", "image"),
    ],
)
def test_names_tell_the_site(name, location, stream):
    assert site_from_name(name) == parse_location(location, stream)


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "blocks.9.hook_resid_post",
        "cc3m-transformer_blocks.0",  # a double block without its stream
        "cc3m-transformer_blocks.0.attn",
        "cc3m-transformer_blocks.0-16-k",  # 16 is no stream
        "cc3m-transformer_blocks.0-joint",
        "cc3m-single_transformer_blocks.3-1",  # one tensor or a tuple, by diffusers' version
        "single_transformer_blocks.12.proj_mlp",  # a place that is none of ours
        "single_transformer_blocks.9.norm-image",
        "single_transformer_blocks.3.ff",
        "transformer_blocks.18.norm1-1",
        "mytransformer_blocks.0-1",
    ],
)
def test_names_that_tell_too_little(name):
    assert site_from_name(name) is None


def test_auto_is_the_saes_own_site():
    own = parse_location("transformer_blocks.3.attn", "text")
    assert resolve_site("auto", "auto", own) == own
    assert resolve_site("", "auto", own) == own
    assert resolve_site("auto", "image", own) == parse_location("transformer_blocks.3.attn", "image")
    single = parse_location("single_transformer_blocks.9")
    assert resolve_site("auto", "image", single) == parse_location("single_transformer_blocks.9", "image")


def test_auto_without_an_own_site_asks():
    with pytest.raises(
        ValueError, match=r"location: this SAE's file does not tell where .* give the location"
    ) as caught:
        resolve_site("auto", "image", None)
    assert_one_sentence(str(caught.value))


@pytest.mark.parametrize(
    ("own", "stream"), [("transformer_blocks.3", "joint"), ("transformer_blocks.3.ff", "text")], ids=["joint", "mlp"]
)
def test_a_stream_that_the_own_site_cannot_have(own, stream):
    with pytest.raises(ValueError, match="stream: ") as caught:
        resolve_site("auto", stream, parse_location(own))
    assert_one_sentence(str(caught.value))


@pytest.mark.parametrize(
    ("location", "stream", "own", "expected"),
    [
        # the same point elsewhere: the SAE's stream goes along
        ("transformer_blocks.0-5", "auto", ("transformer_blocks.3", "text"), ("transformer_blocks.0-5", "text")),
        ("single_blocks.1", "auto", ("single_blocks.3", "image"), ("single_blocks.1", "image")),
        # another point: the default there
        ("transformer_blocks.0.attn", "auto", ("transformer_blocks.3", "text"), ("transformer_blocks.0.attn", "image")),
        ("single_blocks.1", "auto", ("transformer_blocks.3", "text"), ("single_blocks.1", "joint")),
        # what the location says stays
        (
            "transformer_blocks.1.ff",
            "auto",
            ("transformer_blocks.3.ff_context", "text"),
            ("double_blocks.1.img_mlp", "image"),
        ),
        (
            "double_blocks.1.txt_attn.proj",
            "auto",
            ("transformer_blocks.3.attn", "image"),
            ("transformer_blocks.1.attn", "text"),
        ),
        ("transformer_blocks.3", "text", ("transformer_blocks.3", "image"), ("transformer_blocks.3", "text")),
        ("transformer_blocks.3", "auto", None, ("transformer_blocks.3", "image")),
        ("single_blocks.3", "text", None, ("single_blocks.3", "text")),
    ],
)
def test_an_asked_location_comes_before_the_own_one(location, stream, own, expected):
    own_site = None if own is None else parse_location(*own)
    assert resolve_site(location, stream, own_site) == parse_location(*expected)


def test_check_against_the_depth():
    parse_location("transformer_blocks.0-18").check(FLUX)
    parse_location("single_transformer_blocks.0-37").check(FLUX)
    for location, message in [
        ("transformer_blocks.19", "names block 19, but this model's double blocks are 0 to 18"),
        ("transformer_blocks.3,40,50", "names block 40"),
        ("single_transformer_blocks.30-38", "names block 38, but this model's single blocks are 0 to 37"),
    ]:
        with pytest.raises(ValueError, match=message) as caught:
            parse_location(location).check(FLUX)
        assert_one_sentence(str(caught.value))
    with pytest.raises(ValueError, match="this model's single blocks are none at all"):
        parse_location("single_blocks.0").check(Depth(2, 0))


@pytest.mark.parametrize(
    ("location", "depth", "late"),
    [
        ("single_transformer_blocks.0-37", FLUX, (36, 37)),  # a twentieth of 57 blocks
        ("single_transformer_blocks.37.attn", FLUX, (37,)),
        ("single_transformer_blocks.0-35", FLUX, ()),
        ("transformer_blocks.0-18", FLUX, ()),
        ("single_transformer_blocks.0-3", Depth(2, 4), (3,)),
        ("transformer_blocks.0-1", Depth(2, 0), (1,)),
    ],
)
def test_late_blocks(location, depth, late):
    assert parse_location(location).late_blocks(depth) == late
