"""What identifies an SAE's weights, or a set's, wherever the files have gone: SHA-256."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch

from .autoencoder import SparseAutoencoder
from .sae_set import AnySae, SaeSet

BLOCK_BYTES = 8 * 2**20
SET = "set-"  # begins the fingerprint of a set: files are kept for its members, never for the set
_KEPT = "fingerprint"  # under this name in the weights' handles

Progress = Callable[[int, int], None]  # bytes done, bytes in all; may raise to stop


def fingerprint(sae: AnySae, progress: Progress | None = None) -> str:
    """64 hexadecimal digits; of a set, `set-` and 64 from its members' fingerprints and sites.

    Of one weight file it is the SHA-256 of its bytes, which is also what `sha256sum` and the Hub's file pages show; of
    several shards the SHA-256 of their digests, in order. An SAE that was made in memory is hashed tensor by tensor.
    Raises ValueError when a file has gone.
    """
    if isinstance(sae, SaeSet):
        members = "\n".join(f"{fingerprint(member.sae, progress)} {member.site}" for member in sae.members)
        return SET + hashlib.sha256(members.encode()).hexdigest()
    if sae.origin is None:
        return _of_memory(sae)
    files = sae.origin.files
    try:
        state = tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files)
        known = sae.weights.handles.get(_KEPT)
        if known is None or known[0] != state:
            known = state, _of_files(files, sum(size for _, size, _ in state), progress)
            sae.weights.handles[_KEPT] = known
    except OSError as error:
        raise ValueError(
            f"{sae.name}: its weight file can no longer be read ({error.strerror}); load it again."
        ) from error
    return str(known[1])


def _of_files(files: tuple[Path, ...], total: int, progress: Progress | None) -> str:
    done = 0
    digests = []
    for path in files:
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                digest.update(block)
                done += len(block)
                if progress is not None:
                    progress(done, total)
        digests.append(digest.hexdigest())
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _of_memory(sae: SparseAutoencoder) -> str:
    digest = hashlib.sha256(str(sae.architecture).encode())
    for name, weight in sorted(sae.weights.tensors.items()):
        values = weight.whole().detach().cpu().contiguous()
        digest.update(f"{name} {list(values.shape)} {values.dtype}".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
