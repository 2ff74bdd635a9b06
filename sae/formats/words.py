"""The words of a config: those that decide what an SAE computes, those that do not, and what becomes of all others.

A reader names the words that it reads or holds against the tensors, and those of its own project that change nothing in
the formula. A word that some project uses for the formula and that is in neither list is refused by name: reading on
would be reading otherwise than the file says. All others are told in one line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..files.quote import quoted, shown
from .checkpoint import Checkpoint

# What the projects call that which decides the codes, the reconstruction, or the place; without case and marks.
DECIDING = frozenset(
    """
    k topk topkk nactive usetopk batchtopk sampletopk activation activations activationfn activationfnstr
    activationfnkwargs activationfunction activationtype actfn actfnstr nonlinearity architecture arch saetype
    saearchitecture dictclass modeltype signed threshold thresholds jumprelu jumpreluthreshold topkthreshold
    normalizeactivations normalization normactivation normalizeinput normalizeinputs inputunitnorm inputnorm
    normalizedata layernorm unitnorm datasetaverageactivationnorm normscalingfactor normfactor inputscale outputscale
    applybdectoinput applydecoderbiastopreencoder subtractbdec usedecoderbias usepreencbias usebias useencbias
    useencoderbias reshapeactivations rescaleactsbydecodernorm sparsityincludedecodernorm decodernorm
    finetuningscalingfactor skipconnection transcode istranscoder transcoder crosscoder useglu usegluencoder groupmax
    gated activegroups residualthreshold maxiterations stoponduplicatesupport postactfn sample tied tiedweights
    tiedencoderdecoder affineconnection hookheadindex hookpointheadindex
    """.split()
)
# Of training, of the machine and of the data, in any project.
_IDLE = frozenset(
    """
    dtype device seed lr name notes description version date author citation commit lib transformersversion
    torchdtype architectures trainargs dataset datasetpath datasets prependbos contextsize ctxlen numtokens
    trainingtokens batchsize trainbatchsize steps epochs epoch licence license tags source url repo repository repoid
    homepage modelname modelclassname lmname basemodel model wandbproject hfrepo modelkwargs modelfrompretrainedkwargs
    saelensversion saelenstrainingversion neuronpediaid expansionfactor removebos l1coefficient
    l1coeff lpnorm auxkcoef auxk auxkalpha auxkcoeff deadstepsthreshold bandwidth normalizedecoder normalizesaedecoder
    bdecinitmethod noisestd noisescale useghostgrads ghostgrads mselossnormalization
    scalesparsitypenaltybydecodernorm checkpointpath frompretrainedpath streaming seqposslice excludespecialtokens
    verbose runname autocast initencoderasdecodertranspose multitopk
    """.split()
)
_IDLE_STARTS = tuple(
    """
    wandb lr adam eval neval log ncheckpoint checkpoint dataset dead featuresampling warmup store autocast compile
    llmcomp saecomp decoderheuristic decoderorth decoderinit jumpreluinit jumprelubandwidth jumprelusparsity
    jumprelutanh l0coeff l0warm l1warm aux context cached usecached token ntoken finetuningmethod
    finetuningtokens train nbatch nrestart optimizer scheduler resample sparsitywarm sparsitypenalty
    preactloss usesparse istokenized isdataset
    """.split()
)


@dataclass(frozen=True)
class Words:
    """`read` decide the formula, the place or the model and are read; `idle` are of the project and change nothing.

    With `strict` no other word may be there: where the absence of a word decides, an unknown one may be that word.
    """

    layout: str
    read: frozenset[str] = frozenset()
    idle: frozenset[str] = frozenset()
    also: frozenset[str] = field(default_factory=frozenset)  # read, by this kind of the layout alone

    def and_read(self, *more: str) -> Words:
        return Words(self.layout, self.read, self.idle, self.also | set(more))

    def check(
        self, checkpoint: Checkpoint, config: Mapping[str, Any] | None, where: str, strict: bool = False
    ) -> tuple[str, ...]:
        """A line about the words that were not looked at; ValueError for one that decides and is not known here."""
        unknown = [word for word in config or {} if word not in self.read | self.also | self.idle]
        unknown = [word for word in unknown if not _is_idle(_plain(word)) and not _is_off(word, (config or {})[word])]
        deciding = [word for word in unknown if strict or _plain(word) in DECIDING]
        if deciding:
            word = deciding[0]
            raise checkpoint.fail(
                f"{where} has {shown(word, 40)} = {quoted((config or {})[word], 60)}, which may change what is "
                f"computed and is not known of {self.layout}; give the config that was published with these "
                f"weights, or take the word out where it means nothing."
            )
        return (_line(unknown, where, self.layout),) if unknown else ()


def words(layout: str, read: str = "", idle: str = "") -> Words:
    return Words(layout, frozenset(read.split()), frozenset(idle.split()))


def notes_of(*lines: Iterable[str]) -> tuple[str, ...]:
    return tuple(line for some in lines for line in some)


def _line(unknown: list[str], where: str, layout: str) -> str:
    named = ", ".join(shown(word, 40) for word in unknown[:8]) + (f" and {len(unknown) - 8} more" * (len(unknown) > 8))
    return f"{where} has words that are not known of {layout} and were not looked at: {named}."


def _plain(word: str) -> str:
    return re.sub(r"[^a-z0-9]", "", word.lower())


def _is_idle(plain: str) -> bool:
    return plain in _IDLE or (plain not in DECIDING and plain.startswith(_IDLE_STARTS))


def _is_off(word: str, value: object) -> bool:
    """As configs say that something is not used; of a bias, that it is not is as telling as that it is."""
    if value is False:
        return not {"bias", "bdec"} & set(re.findall("bias|bdec", _plain(word)))
    return value is None or (isinstance(value, str) and value.lower() in ("", "none", "null"))
