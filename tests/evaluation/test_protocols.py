"""Protocols and benchmarks by name."""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from attrs import frozen
from PIL import Image

from clouds import ConfigError, DataError, LabelSpace, Report
from clouds.core.contract.labels import CITYSCAPES
from clouds.data.layouts import LAYOUTS
from clouds.evaluation.evaluate import evaluate
from clouds.evaluation.protocol_reports import ProtocolReports
from clouds.evaluation.protocols import BENCHMARKS, CLASS_SETS, PROTOCOLS, find_protocol


@frozen
class _Answer:
    labels: np.ndarray
    classes: int

    def scores(self) -> np.ndarray:
        return (self.labels[None] == np.arange(self.classes)[:, None, None]).astype(np.float32)


class _Red:
    """Predicts the train id that a picture's red channel holds, and notes what it was shown."""

    labels = CITYSCAPES

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def predict_many(
        self, images: Iterable[np.ndarray], *, batch_size: int = 8, short_side: int | None = None, window: int = 2048
    ) -> Iterator[_Answer]:
        for image in images:
            assert image.shape[0] * image.shape[1] <= window**2
            self.seen.append((image.shape[0], image.shape[1]))
            yield _Answer(np.minimum(image[..., 0], 18), 19)


def _folder(root: Path, label_map: np.ndarray, prediction: np.ndarray | None = None) -> str:
    picture = np.stack([label_map if prediction is None else prediction] * 3, axis=-1)
    for part, pixels in (("images", picture), ("labels", label_map)):
        (root / part / "val").mkdir(parents=True)
        Image.fromarray(pixels.astype(np.uint8)).save(root / part / "val" / "0.png")
    return f"folder:{root}"


def _cityscapes(root: Path, *, size: tuple[int, int] = (32, 64)) -> None:
    """One Cityscapes image of all classes, in stripes, with its labels."""
    train_ids = np.repeat(np.arange(19), 4)[: size[1]].astype(np.uint8)
    label_map = np.broadcast_to(np.pad(train_ids, (0, size[1] - len(train_ids)), mode="edge"), size)
    ids = np.array(CITYSCAPES.ids, np.uint8)[label_map]
    for part, ending, pixels in (
        ("leftImg8bit", "leftImg8bit", np.stack([label_map] * 3, -1)),
        ("gtFine", "gtFine_labelIds", ids),
    ):
        (root / part / "val" / "town").mkdir(parents=True)
        Image.fromarray(pixels).save(root / part / "val" / "town" / f"town_0_0_{ending}.png")


@pytest.mark.parametrize(
    ("protocol", "kind", "size", "expected"),
    [
        ("slide-512-341", "cityscapes", (1024, 2048), (512, 1024)),
        ("slide-512-341", "bdd100k", (720, 1280), (720, 1280)),
        ("slide-512-341", "mapillary", (3000, 4000), (512, 683)),
        ("slide-512-341", "acdc-night", (1080, 1920), (540, 960)),
        ("slide-512-341", "folder", (2000, 1000), (1024, 512)),
        ("slide-1024-683", "cityscapes", (1024, 2048), (1024, 2048)),
        ("slide-1024-683", "bdd100k", (720, 1280), (1024, 1820)),
        ("slide-1024-683", "acdc-fog", (1080, 1920), (1080, 1920)),
        ("slide-2048x1024", "mapillary", (3000, 4000), (1024, 1365)),
        ("slide-2048x1024", "bdd100k", (720, 1280), (720, 1280)),
        ("whole-native", "mapillary", (3000, 4000), (3000, 4000)),
    ],
)
def test_network_sizes(protocol: str, kind: str, size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert PROTOCOLS[protocol].network_size(kind, *size) == expected


def test_what_the_network_sees(tmp_path: Path) -> None:
    spec, model = _folder(tmp_path / "town", np.zeros((90, 200))), _Red()
    report = evaluate(model, [spec], protocol="slide-512-341", batch_size=4)
    assert model.seen == [(461, 512)] * 3, "fit 1024 x 512: 461 x 1024, in windows at 0, 341 and 512"
    assert report.miou == 100
    assert np.sum(report.domains["town:val"].confusion) == 90 * 200, "scored at the size of the label"


def test_a_whole_image_is_never_cut(tmp_path: Path) -> None:
    spec, model = _folder(tmp_path / "town", np.zeros((3, 5000))), _Red()
    assert evaluate(model, [spec], protocol="whole-native").miou == 100
    assert model.seen == [(3, 5000)]


def test_published_is_clouds_1024(tmp_path: Path) -> None:
    spec = _folder(tmp_path / "town", np.zeros((2, 3)))
    old, new = (evaluate(_Red(), [spec], protocol=name) for name in ("published", "clouds-1024"))
    assert old.domains == new.domains
    assert find_protocol("published") is PROTOCOLS["clouds-1024"]


def test_means_over_16_and_13_classes(tmp_path: Path) -> None:
    """IoU per class counts every confusion; only the mean leaves classes out."""
    truth = np.arange(19).reshape(1, 19)
    prediction = truth.copy()
    prediction[0, [3, 9]] = 0  # wall and terrain are taken for road
    spec = _folder(tmp_path / "town", truth, prediction)
    full, sixteen, thirteen = (
        evaluate(_Red(), [spec], classes=name) for name in ("cityscapes-19", "synthia-16", "synthia-13")
    )
    road = 100 / 3
    assert full.miou == pytest.approx((16 * 100 + road) / 19)
    assert sixteen.miou == pytest.approx((14 * 100 + road) / 16)
    assert thirteen.miou == pytest.approx((12 * 100 + road) / 13)
    results = [report.domains["town:val"] for report in (full, sixteen, thirteen)]
    assert results[0].iou == results[1].iou == results[2].iou
    assert results[1].pixel_accuracy == pytest.approx(100 * 15 / 16)
    assert "; means over the 13 classes of synthia-13" in thirteen.to_text().splitlines()[0]
    assert json.loads(thirteen.to_json())["classes"] == "synthia-13"
    assert Report.from_json(thirteen.to_json()) == thirteen
    assert set(CLASS_SETS["synthia-16"]) - set(CLASS_SETS["synthia-13"]) == {"wall", "fence", "pole"}


@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_protocol_stands_beside_every_figure(tmp_path: Path, name: str) -> None:
    report = evaluate(_Red(), [_folder(tmp_path / "town", np.zeros((4, 4)))], protocol=name)
    words = f"protocol {name}: {PROTOCOLS[name]}"
    assert words in report.to_text().splitlines()[0]
    assert words in report.to_html()
    document = json.loads(report.to_json())
    assert (document["protocol"], document["settings"]) == (name, str(PROTOCOLS[name]))


def test_protocols_in_one_table(tmp_path: Path) -> None:
    spec = _folder(tmp_path / "town", np.zeros((4, 4)))
    reports = [evaluate(_Red(), [spec], protocol=name) for name in ("native", "slide-512-341")]
    table = ProtocolReports(reports)
    rows = [line.split() for line in table.to_text().splitlines()]
    assert ["protocol", "town:val", "mean"] in rows
    assert ["slide-512-341", "100.0", "100.0"] in rows
    assert set(json.loads(table.to_json())["protocols"]) == {"native", "slide-512-341"}
    page = table.to_html()
    assert all(
        f"protocol {name}: {PROTOCOLS[name]}" in text for name in ("native",) for text in (page, table.to_text())
    )
    assert "windows of 512 x 512 at stride 341" in page


def test_a_benchmark_names_sets_classes_and_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only = BENCHMARKS["synthia-to-cbm"].targets[:1]
    monkeypatch.setitem(
        BENCHMARKS,
        "small",
        BENCHMARKS["synthia-to-cbm"].__class__(
            **{
                **{
                    key: getattr(BENCHMARKS["synthia-to-cbm"], key)
                    for key in ("sources", "classes", "protocol", "source")
                },
                "name": "small",
                "targets": only,
            }
        ),
    )
    _cityscapes(tmp_path / "cityscapes", size=(32, 76))
    report = evaluate(_Red(), benchmark="small", data_root=tmp_path)
    assert (report.protocol, report.classes) == ("slide-2048x1024", "synthia-16")
    assert list(report.domains) == ["cityscapes:val"]
    own = evaluate(_Red(), benchmark="small", data_root=tmp_path, protocol="native", classes="synthia-13")
    assert (own.protocol, own.classes, own.miou) == ("native", "synthia-13", 100)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_benchmarks_fit_together(name: str) -> None:
    benchmark = BENCHMARKS[name]
    assert benchmark.protocol in PROTOCOLS
    assert benchmark.classes in CLASS_SETS
    for kind, _, split in benchmark.targets:
        assert split in (LAYOUTS[kind].splits or {})


def test_missing_sets_are_all_named(tmp_path: Path) -> None:
    (tmp_path / "bdd100k").mkdir()
    message = r"benchmark 'gta-to-cbm': no folder .*/cityscapes nor .*/mapillary; .*--data-root \(data_root=\)"
    with pytest.raises(DataError, match=message):
        evaluate(_Red(), benchmark="gta-to-cbm", data_root=tmp_path)


class _Never(_Red):
    def predict_many(self, images: object, **options: object) -> Iterator[_Answer]:
        raise AssertionError("nothing runs before the checks")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_labels_of_another_size_do_not_fit(tmp_path: Path, protocol: str) -> None:
    spec = _folder(tmp_path / "town", np.zeros((4, 4)))
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / "town" / "labels" / "val" / "0.png")
    message = rf"protocol '{protocol}' does not fit: .*0\.png is 4x4, but its label .*0\.png is 2x2"
    with pytest.raises(DataError, match=message):
        evaluate(_Never(), [spec], protocol=protocol)


class _Toy(_Never):
    labels = LabelSpace.from_names(["road", "sky"], name="toy")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda spec: evaluate(_Never(), [spec], protocol="slide-512-340"), "did you mean 'slide-512-341'"),
        (
            lambda spec: evaluate(_Never(), benchmark="gta-cbm"),
            "unknown benchmark 'gta-cbm'; did you mean 'gta-to-cbm'",
        ),
        (lambda spec: evaluate(_Never(), [spec], benchmark="gta-to-cbm"), "has its own datasets; omit it, or the list"),
        (
            lambda spec: evaluate(_Never(), [spec], classes="synthia"),
            "unknown class set 'synthia'; did you mean 'synthi",
        ),
        (lambda spec: evaluate(_Toy(), [spec], classes="synthia-13"), "label space 'toy' lacks sidewalk, building"),
        (
            lambda spec: evaluate(_Never(), [spec], protocol="slide-512-341", window=512),
            "window=512 contradicts protocol 'slide-512-341' .*choose protocol native",
        ),
        (lambda spec: evaluate(_Never(), [spec], protocol="whole-native", window=2048), "window=2048 contradicts"),
    ],
)
def test_bad_input(tmp_path: Path, call: Callable[[str], object], message: str) -> None:
    spec = _folder(tmp_path / "town", np.zeros((4, 4)))
    with pytest.raises(ConfigError, match=message):
        call(spec)
