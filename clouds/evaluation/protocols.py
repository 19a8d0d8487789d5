"""Evaluation protocols and benchmarks by name: the settings that make figures of two papers comparable.

Each setting is from a paper's released configuration, named in `Protocol.source`. Images are resized as mmsegmentation
does (`Resize`, `keep_ratio=True`). Windows, their order and the mean of overlapping scores are those of its
`EncoderDecoder.slide_inference`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from attrs import field, frozen

from clouds.core.contract.labels import CITYSCAPES, LabelSpace
from clouds.core.system.errors import ConfigError, DataError, did_you_mean

Size = tuple[int, int]  # (width, height), as papers write it


@frozen(kw_only=True)
class Protocol:
    """How an image becomes a label map that is scored.

    Attributes:
        name: name in calls and commands.
        source: paper or configuration that has these settings.
        fit: (width, height) into which images are resized, keeping their aspect ratio; None keeps their size.
        fit_of: `fit` of some dataset kinds.
        short_side: image and label are resized to this short side, and scored at that size.
        side: side of the sliding windows; None for protocols without them.
        stride: distance of neighbouring windows.
        whole: every image is segmented in one piece, whatever its size.
    """

    name: str
    source: str
    fit: Size | None = None
    fit_of: Mapping[str, Size] = field(factory=dict[str, Size])
    short_side: int | None = None
    side: int | None = None
    stride: int | None = None
    whole: bool = False

    def __str__(self) -> str:
        if self.short_side:
            return f"image and label resized to a short side of {self.short_side} pixels, scored at that size"
        if self.side is None:
            how = "whole, at its own size" if self.whole else "at its own size"
            return f"each image {how}, scored at the size of its label"
        kinds: dict[Size, list[str]] = {}
        for kind, size in self.fit_of.items():
            kinds.setdefault(size, []).append(kind)
        others = "".join(f"; {', '.join(names)}: {_words(size)}" for size, names in kinds.items())
        return (
            f"images resized to fit {_words(self.fit)}{f' ({others[2:]})' if others else ''}, windows of {self.side} x "
            f"{self.side} at stride {self.stride}, mean of overlapping scores, scored at the size of the label"
        )

    def network_size(self, kind: str, height: int, width: int, *, scale: float = 1.0) -> tuple[int, int]:
        """(height, width) to which an image of a dataset kind is resized, rounded half up as mmcv's `imrescale`.

        >>> PROTOCOLS["slide-512-341"].network_size("mapillary", 3000, 4000)
        (512, 683)
        """
        fit = self.fit_of.get(kind, self.fit)
        if fit is None:
            return height, width
        most, least = int(max(fit) * scale), int(min(fit) * scale)
        factor = min(most / max(height, width), least / min(height, width))
        return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))


@frozen(kw_only=True)
class Benchmark:
    """A setting of the literature: training sources, evaluated datasets, classes and protocol.

    Attributes:
        name: name in calls and commands.
        sources: dataset kinds to train on.
        targets: (dataset kind, folder below the root of all datasets, split) of each evaluated set.
        classes: name of the class set of the means.
        protocol: protocol of the papers.
        source: paper.
    """

    name: str
    sources: tuple[str, ...]
    targets: tuple[tuple[str, str, str], ...]
    classes: str
    protocol: str
    source: str

    def specs(self, root: str | Path) -> list[str]:
        """SPECs of the evaluated sets below a folder of datasets.

        Raises:
            DataError: a dataset's folder does not exist; the message lists all of them.
        """
        missing = dict.fromkeys(str(Path(root, folder)) for _, folder, _ in self.targets)
        missing = [folder for folder in missing if not Path(folder).is_dir()]
        if missing:
            raise DataError(
                f"benchmark {self.name!r}: no folder {' nor '.join(missing)}; put or link the datasets there, or give "
                "the folder that has them with --data-root (data_root=)"
            )
        return [f"{kind}:{Path(root, folder)}:{split}" for kind, folder, split in self.targets]


def _words(size: Size | None) -> str:
    return "" if size is None else f"{size[0]} x {size[1]}"


_ACDC = tuple(f"acdc-{condition}" for condition in ("fog", "night", "rain", "snow"))
_REIN = "Wei et al., Rein, CVPR 2024, and Yun et al., SoMA, CVPR 2025"

PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(name="native", source="this library: images as they are"),
        Protocol(
            name="clouds-1024",
            short_side=1024,
            source="Benigmim et al., CLOUDS, CVPR 2024: detectron2 test input of short side 1024",
        ),
        Protocol(
            name="slide-512-341",
            fit=(1024, 512),
            fit_of={"bdd100k": (1280, 720), **dict.fromkeys(_ACDC, (960, 540))},
            side=512,
            stride=341,
            source=f"{_REIN}: configurations 512x512 (their Mapillary labels are halved, which is not done here)",
        ),
        Protocol(
            name="slide-1024-683",
            fit=(2048, 1024),
            fit_of=dict.fromkeys(_ACDC, (1920, 1080)),
            side=1024,
            stride=683,
            source=f"{_REIN}: configurations 1024x1024 (their Mapillary labels are halved, which is not done here)",
        ),
        Protocol(
            name="slide-2048x1024",
            fit=(2048, 1024),
            fit_of={"bdd100k": (1280, 720)},
            side=512,
            stride=341,
            source="Pak et al., tqdm, ECCV 2024: test image of 2048x1024, windows of 512",
        ),
        Protocol(
            name="whole-native", whole=True, source="mmsegmentation, test_cfg mode 'whole', without a test-time resize"
        ),
    )
}
ALIASES = {"published": "clouds-1024"}

# Ros et al., SYNTHIA, CVPR 2016, lacks three of the 19 classes; means over 16, or over 13 without thin and rare ones
# (Tsai et al., AdaptSegNet, CVPR 2018).
_WITHOUT_3 = tuple(name for name in CITYSCAPES.names if name not in ("terrain", "truck", "train"))
CLASS_SETS = {
    "cityscapes-19": CITYSCAPES.names,
    "synthia-16": _WITHOUT_3,
    "synthia-13": tuple(name for name in _WITHOUT_3 if name not in ("wall", "fence", "pole")),
}

_CITYSCAPES, _BDD, _MAPILLARY = (
    ("cityscapes", "cityscapes", "val"),
    ("bdd100k", "bdd100k", "val"),
    ("mapillary", "mapillary", "val"),
)
BENCHMARKS = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark(
            name="gta-to-cbm",
            sources=("gta5",),
            targets=(_CITYSCAPES, _BDD, _MAPILLARY),
            classes="cityscapes-19",
            protocol="slide-512-341",
            source=_REIN,
        ),
        Benchmark(
            name="synthia-to-cbm",
            sources=("synthia",),
            targets=(_CITYSCAPES, _BDD, _MAPILLARY),
            classes="synthia-16",
            protocol="slide-2048x1024",
            source="Pak et al., tqdm, ECCV 2024",
        ),
        Benchmark(
            name="city-to-bm",
            sources=("cityscapes",),
            targets=(_BDD, _MAPILLARY),
            classes="cityscapes-19",
            protocol="slide-512-341",
            source=_REIN,
        ),
        Benchmark(
            name="city-to-acdc",
            sources=("cityscapes",),
            targets=tuple((kind, "acdc", "val") for kind in _ACDC),
            classes="cityscapes-19",
            protocol="slide-1024-683",
            source=_REIN,
        ),
        Benchmark(
            name="gta+syn+urbansyn-to-cbm",
            sources=("gta5", "synthia", "urbansyn"),
            targets=(_CITYSCAPES, _BDD, _MAPILLARY),
            classes="cityscapes-19",
            protocol="slide-512-341",
            source=_REIN,
        ),
    )
}


def find_protocol(name: str) -> Protocol:
    """The protocol of a name; "published" is another name of "clouds-1024". Raises `ConfigError` otherwise."""
    found = PROTOCOLS.get(ALIASES.get(name, name))
    if found is None:
        raise ConfigError(f"unknown evaluation protocol {name!r}{did_you_mean(name, (*PROTOCOLS, *ALIASES))}")
    return found


def find_benchmark(name: str) -> Benchmark:
    """The benchmark of a name. Raises `ConfigError` with the nearest name."""
    if name not in BENCHMARKS:
        raise ConfigError(f"unknown benchmark {name!r}{did_you_mean(name, BENCHMARKS)}")
    return BENCHMARKS[name]


def check_classes(name: str, label_space: LabelSpace) -> None:
    """Raise `ConfigError` unless `name` is a class set that the label space contains, or empty."""
    lacking = [one for one in _class_set(name) if one not in label_space.names]
    if lacking:
        raise ConfigError(
            f"class set {name!r}: label space {label_space.name!r} lacks {', '.join(lacking)}; evaluate a pipeline "
            "that predicts these classes, or choose another class set"
        )


def classes_of(name: str, names: Iterable[str]) -> list[str]:
    """The members of `names` over which the means of a class set are taken; all for the empty name."""
    chosen = _class_set(name)
    return [one for one in names if not name or one in chosen]


def _class_set(name: str) -> tuple[str, ...]:
    if name and name not in CLASS_SETS:
        raise ConfigError(f"unknown class set {name!r}{did_you_mean(name, CLASS_SETS)}")
    return CLASS_SETS[name] if name else ()
