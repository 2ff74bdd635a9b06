"""What the files of the tiny models and of their SAEs are called; read in every Python."""

# Those whose tiny models core's loader reads. Of the others it takes more as given: the width, or how many blocks.
IN_FILES = ("FLUX.1", "FLUX.2", "HunyuanVideo", "LongCat", "Wan 2", "Stable Diffusion 3", "Krea 2")


def file_name(family: str) -> str:
    return "tiny-" + family.lower().replace(" ", "-").replace(".", "-")
