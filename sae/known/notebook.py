"""What is known of a dictionary's features, in one place: names, ranges, pictures, statistics.

Each is kept by whose it is: names and ranges by the weights' SHA-256, pictures and statistics by the owner. What users
made comes before what lies beside the weights.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from ..dictionary.autoencoder import SparseAutoencoder
from ..dictionary.fingerprint import SET, Progress, fingerprint
from ..dictionary.owner import Owner
from ..dictionary.sae_set import AnySae, Member, SaeSet
from ..dictionary.statistics import SUFFIX as STATISTICS
from ..dictionary.statistics import FeatureStatistics, statistics_path, write_statistics
from ..files.quote import AllowedFolders, quoted
from ..files.recent import Newest, state_of_files
from ..steering.edits import Calibration, Edit, Method
from ..steering.methods import DEFAULT
from . import ranges
from .gallery import SUFFIX as GALLERY
from .gallery import Gallery, add_pictures, read_gallery
from .labels import Label, Labels, LabelStore, contrast_labels, shipped_labels
from .ranges import Calibrations, Measured, Setting, fitting, read_calibrations, update_calibrations

log = logging.getLogger(__name__)

FILES = 16  # label files and galleries that are kept
FIRST: Method = DEFAULT  # whose ranges come first where it is not known what a graph steers with


class Notebooks:
    """Hands out the notebook of each dictionary: names, ranges and pictures in `folder`, statistics in `measured`.

    What its notebooks have read is kept for the next one, as long as the files stay as they are.
    """

    def __init__(self, folder: Path, measured: Path) -> None:
        self.folder, self.measured = folder, measured
        self.kept_labels = Newest[tuple[Labels, list[str]]](FILES)
        self.kept_galleries = Newest[tuple[Gallery | None]](FILES)

    def of(self, sae: AnySae, progress: Progress | None = None) -> Notebook:
        """Of an SAE, or of a set, whose notebook is made of its members'. `progress` is that of the fingerprint."""
        if isinstance(sae, SaeSet):
            return SetNotebook(self, sae, progress)
        return Notebook(self, sae, progress)

    def of_fingerprint(self, mark: str) -> Notebook:
        """Of an SAE that only its fingerprint tells; of a set nothing is known, for nobody knows its members."""
        return SetNotebook(self, None, mark=mark) if is_set(mark) else Notebook(self, None, mark=mark)

    def labels_path(self, mark: str) -> Path:
        """The names that users gave; ValueError for what is no fingerprint."""
        return LabelStore(self.folder / "labels").path(mark)

    def statistics_path(self, name: str, owner: Owner | None = None) -> Path:
        """Where statistics are kept that were measured here, of the SAE `name`, which has no suffix, and this content.

        Without an owner, where version 0.1 wrote them. Raises ValueError for a name that leads out of the folder.
        """
        folder = self.measured.resolve()
        mark = "" if owner is None else f"-{owner.identity[:8]}"
        path = statistics_path(Path(f"{folder / name}{mark}.safetensors")).resolve()
        if not path.is_relative_to(folder) or "\0" in name:
            raise ValueError(
                f"sae: its name {quoted(name)} leads out of output/sae, so its statistics cannot be written there."
            )
        return path

    def statistics_files(self, name: str) -> list[Path]:
        """All files with statistics that were measured here of SAEs of this name, whatever their content."""
        path = self.statistics_path(name)
        named = path.name.removesuffix(STATISTICS)
        return [file for file in path.parent.glob(f"*{STATISTICS}") if file.name.startswith(named)]


class Pictures(NamedTuple):
    """Encoded pictures by a name, and of each feature that has some the name, how strongly and where it fires there."""

    encoded: dict[str, bytes]
    shown: dict[int, list[tuple[str, float, tuple[float, float] | None]]]


class Notebook:
    """What is known of the features of one SAE. What is broken is told in the log, once, and tells nothing else."""

    def __init__(
        self, kept: Notebooks, sae: SparseAutoencoder | None, progress: Progress | None = None, mark: str = ""
    ) -> None:  # fmt: skip
        self._kept, self._sae, self._progress, self._mark = kept, sae, progress, mark
        self._store = LabelStore(kept.folder / "labels")
        self._told: set[str] = set()

    @cached_property
    def fingerprint(self) -> str:
        return self._mark if self._sae is None else fingerprint(self._sae, self._progress)

    @property
    def warnings(self) -> list[str]:
        """What went wrong when `read_labels`, `update` or `add` was asked for."""
        return self._store.warnings

    @property
    def labels(self) -> Labels:
        """Names: the user's over those beside the SAE, those over what its contrast calls them."""
        found, warnings = self._labels()
        self._tell(*warnings)
        return found

    @property
    def names(self) -> dict[int, str]:
        return {feature: label.name for feature, label in self.labels.items()}

    def read_labels(self) -> Labels:
        """As `labels`, but what went wrong is left in `warnings`, for somebody else to tell."""
        found, warnings = self._labels()
        self._store.warnings += warnings
        return found

    def _labels(self) -> tuple[Labels, list[str]]:
        key = (self.fingerprint, self.state_of_labels())
        found = self._kept.kept_labels.get(key, self._read_labels)
        return self._read_labels() if found[1] else found  # what could not be read may be readable by now

    def _read_labels(self) -> tuple[Labels, list[str]]:
        store = LabelStore(self._store.folder)
        if self._sae is None:
            return store.labels(self.fingerprint), store.warnings
        labels = store.labels(self.fingerprint, shipped_labels(self._sae))
        return contrast_labels(self._sae) | labels, store.warnings

    def state_of_labels(self) -> tuple[object, ...]:
        """What changes when a file of names does; ValueError where the fingerprint is none."""
        shipped = None if self._sae is None else shipped_labels(self._sae)
        return state_of_files([self._store.path(self.fingerprint), *([shipped.path] if shipped else [])])

    def update(self, changes: Mapping[int, Label | None]) -> Labels:
        """Sets names in the user's file, and removes those that are None; what the file holds now."""
        return self._store.update(self.fingerprint, changes)

    def add(self, found: Labels) -> Labels:
        """Writes names that a tool found, but never over one that somebody gave; what it wrote."""
        return self._store.add(self.fingerprint, found, None if self._sae is None else shipped_labels(self._sae))

    @property
    def ranges_path(self) -> Path:
        """Where the ranges of an SAE's features are kept, beside its names."""
        labels = self._store.path(self.fingerprint)
        return labels.with_name(labels.stem + ranges.SUFFIX)

    @property
    def ranges(self) -> list[Measured]:
        """The ranges that are kept."""
        path = self.ranges_path
        if not path.is_file():
            return []
        try:
            return read_calibrations(path, self.fingerprint)
        except ValueError as error:
            self._tell(str(error))
            return []

    def offered(
        self, setting: Setting, first: Method = FIRST, only: Sequence[int] | None = None
    ) -> tuple[Calibrations, list[str]]:
        """The ranges that fit, of the method `first` before others, and what to tell of them; `only` those features."""
        known = [measured for measured in self.ranges if only is None or measured.feature in only]
        found, told = fitting(known, setting)
        return {method: found[method] for method in sorted(found, key=lambda method: method != first)}, told

    def misfits(self, edits: Iterable[Edit], setting: Setting) -> list[str]:
        """Warnings of edits whose range is kept here, but was measured in another setting."""
        return ranges.misfits(self.ranges, edits, setting)

    def keep_ranges(self, new: Mapping[int, Calibration], setting: Setting) -> str:
        """Writes ranges over those of the same feature, method and setting; what became of a broken file."""
        return update_calibrations(self.ranges_path, self.fingerprint, new, setting)

    @property
    def gallery_path(self) -> Path:
        """Where pictures are kept that were made here."""
        return self._kept.folder / "galleries" / f"{self._known.owner.identity}{GALLERY}"

    @property
    def gallery(self) -> Gallery | None:
        """The pictures that were made here, else those beside the SAE, if there are any."""
        files = self._galleries()
        key = (self._known.owner.identity, state_of_files([path for path, _ in files]))
        return self._kept.kept_galleries.get(key, lambda: (self._read_gallery(files),))[0]

    def _galleries(self) -> list[tuple[Path, AllowedFolders]]:
        """Where they may be, the first that is there counting, and where each may lead as a link."""
        made, origin = (self.gallery_path, AllowedFolders()), self._known.origin
        if origin is None:
            return [made]
        weights = origin.files[0]
        return [made, (weights.with_name(weights.stem + GALLERY), AllowedFolders(origin.within))]

    def _read_gallery(self, files: Iterable[tuple[Path, AllowedFolders]]) -> Gallery | None:
        for path, allowed in files:
            if path.is_file():
                try:
                    allowed.check(path, path.name)
                    return read_gallery(path, self._known.owner)
                except ValueError as error:
                    self._tell(str(error))
        return None

    def pictures(self, features: Iterable[int]) -> Pictures:
        """Those on which these features fire most, by their numbers in the gallery."""
        gallery = self.gallery
        if gallery is None:
            return Pictures({}, {})
        shown = {feature: gallery.of(feature) for feature in features if feature < gallery.d_sae}
        numbers = sorted({one.picture for each in shown.values() for one in each})
        rows = {
            feature: [(str(one.picture), one.strength, one.spot) for one in each]
            for feature, each in shown.items()
            if each
        }
        return Pictures({str(number): gallery.pictures[number] for number in numbers}, rows)

    def add_pictures(
        self, pictures: Sequence[bytes], prompts: Sequence[str], strength: Tensor, spot: Tensor
    ) -> Gallery:  # fmt: skip
        """As `Gallery.add`, to those that were made here; what there is now."""
        sae = self._known
        return add_pictures(self.gallery_path, sae.owner, sae.d_sae, pictures, prompts, strength, spot)

    def keep_statistics(self, statistics: FeatureStatistics) -> Path:
        """Writes what was measured of every feature; where it is."""
        sae = self._known
        path = self._kept.statistics_path(sae.name, sae.owner)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_statistics(statistics, path, sae.owner)
        return path

    @property
    def measured_statistics(self) -> Path | None:
        """The file that was measured on this very SAE; else of version 0.1 that of its name, with a warning."""
        sae = self._known
        measured, old = self._kept.statistics_path(sae.name, sae.owner), self._kept.statistics_path(sae.name)
        if measured.is_file():
            return measured
        if not old.is_file():
            return None
        log.warning(
            "LoadSAE: %s does not say on which weights it was measured; if %s was trained anew since, measure again "
            "with TopActivatingFeatures.", old.name, sae.name,
        )  # fmt: skip
        return old

    @property
    def _known(self) -> SparseAutoencoder:
        if self._sae is None:
            raise ValueError(f"fingerprint: of {self.fingerprint[:16]}… only names and ranges are known here.")
        return self._sae

    def _tell(self, *warnings: str) -> None:
        for warning in warnings:
            if warning not in self._told:
                self._told.add(warning)
                log.warning("%s", warning)


class SetNotebook(Notebook):
    """What is known of the features of a set, in its numbers: all of it is kept by its members."""

    def __init__(
        self, kept: Notebooks, sae: SaeSet | None, progress: Progress | None = None, mark: str = ""
    ) -> None:  # fmt: skip
        super().__init__(kept, None, progress, mark)
        self._set = sae
        self._members: list[tuple[Member, Notebook]] = []
        if sae is not None:
            self._members = [(member, Notebook(kept, member.sae, progress)) for member in sae.members]

    @cached_property
    def fingerprint(self) -> str:
        return self._mark if self._set is None else fingerprint(self._set, self._progress)

    @property
    def warnings(self) -> list[str]:
        return [warning for _, notebook in self._members for warning in notebook.warnings]

    @property
    def labels(self) -> Labels:
        return self._numbered((member, notebook.labels) for member, notebook in self._members)

    def read_labels(self) -> Labels:
        return self._numbered((member, notebook.read_labels()) for member, notebook in self._members)

    @staticmethod
    def _numbered(found: Iterable[tuple[Member, Labels]]) -> Labels:
        return {
            member.first + feature: label
            for member, labels in found
            for feature, label in labels.items()
            if member.first + feature in member
        }

    def state_of_labels(self) -> tuple[object, ...]:
        return tuple(state for _, notebook in self._members for state in notebook.state_of_labels())

    def update(self, changes: Mapping[int, Label | None]) -> Labels:
        """In the members' files; of those that changed what they hold now."""
        found: Labels = {}
        for member, notebook in self._members:
            own = {feature - member.first: label for feature, label in changes.items() if feature in member}
            if own:
                found |= {member.first + feature: label for feature, label in notebook.update(own).items()}
        return found

    def add(self, found: Labels) -> Labels:
        written: Labels = {}
        for member, notebook in self._members:
            own = {feature - member.first: label for feature, label in found.items() if feature in member}
            if own:
                written |= {member.first + feature: label for feature, label in notebook.add(own).items()}
        return written

    @property
    def ranges(self) -> list[Measured]:
        """None: a range holds for one SAE at one place."""
        return []

    def pictures(self, features: Iterable[int]) -> Pictures:
        """Each picture is named by its member's place in the set, and its number there."""
        found, wanted = Pictures({}, {}), list(features)
        for place, (member, notebook) in enumerate(self._members):
            own = [feature - member.first for feature in wanted if feature in member]
            encoded, shown = notebook.pictures(own) if own else Pictures({}, {})
            found.encoded.update({f"{place}-{name}": picture for name, picture in encoded.items()})
            for feature, rows in shown.items():
                found.shown[member.first + feature] = [(f"{place}-{name}", at, spot) for name, at, spot in rows]
        return found


def is_set(mark: str) -> bool:
    """Whether a fingerprint is a set's."""
    digits = mark.removeprefix(SET)
    return mark.startswith(SET) and len(digits) == 64 and not set(digits) - set("0123456789abcdef")
