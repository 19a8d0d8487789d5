"""Label spaces as users write them."""

from pathlib import Path

import pytest

from clouds import ConfigError, LabelSpace
from clouds.core.contract.label_table import label_document, label_entry, read_labels
from clouds.core.contract.labels import CITYSCAPES

TOML = """
names = ["background", "lesion"]
synonyms = [["skin"], ["lesion", "ulcer"]]
palette = [[0, 0, 0], [220, 20, 60]]
ids = [0, 255]
ignore = 254
things = ["lesion"]
"""


def test_every_form_gives_a_label_space(tmp_path: Path) -> None:
    path = tmp_path / "skin.toml"
    path.write_text(TOML, encoding="utf-8")
    wanted = LabelSpace.from_names(
        ["background", "lesion"],
        name="skin",
        synonyms=[["skin"], ["lesion", "ulcer"]],
        palette=[(0, 0, 0), (220, 20, 60)],
        ids=[0, 255],
        ignore=254,
        things=["lesion"],
    )
    assert (
        read_labels(path)
        == read_labels(str(path))
        == read_labels(label_document(path))
        == read_labels(wanted)
        == wanted
    )
    assert read_labels("cityscapes") is CITYSCAPES
    assert read_labels(label_entry(wanted)) == wanted
    assert label_entry(CITYSCAPES) == "cityscapes"
    assert read_labels(("a", "b")) == read_labels({"names": ["a", "b"]}) == LabelSpace.from_names(["a", "b"])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (5.5, "expected a label space's name, class names, their number, a table or a TOML file, got float"),
        ("citiscapes", "unknown label space 'citiscapes'; did you mean 'cityscapes'"),
        ("nowhere.toml", r"nowhere\.toml: no such file"),
        ({"name": "a"}, r"labels: required field missing @ \$\.names"),
        ({"names": ["a"], "colour": 1}, r"labels: .*colour"),
        ({"names": ["a", 1]}, r"labels: 1 is not of type str @ \$\.names\[1\]"),
        ({"names": "ab"}, r"labels: 'ab' is not of type tuple\[str, \.\.\.\] @ \$\.names"),
        ({"names": ["a"], "things": "a"}, r"labels: 'a' is not of type tuple\[str, \.\.\.\] @ \$\.things"),
        ({"names": ["a"], "synonyms": "a"}, r"'a' is not of type tuple\[tuple\[str, .* @ \$\.synonyms"),
        ({"names": ["a"], "synonyms": ["a"]}, r"'a' is not of type tuple\[str, \.\.\.\] @ \$\.synonyms\[0\]"),
        ({"names": ["a"], "palette": ["red"]}, r"'red' is not of type tuple\[int, int, int\] @ \$\.palette\[0\]"),
        ({"names": ["a"], "ids": "1"}, r"'1' is not of type tuple\[int, \.\.\.\] @ \$\.ids"),
        ({"names": ["a"], "palette": [[1, 2]]}, r"labels: .*palette"),
        ({"names": ["a"], "things": ["b"]}, "things has 'b', which is not a class"),
        ([], "has 0 classes"),
    ],
)
def test_errors_name_the_key(value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_labels(value)
