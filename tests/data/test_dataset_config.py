from pathlib import Path

import numpy as np
import pytest

from clouds import ConfigError, LabelSpace
from clouds.core.system.images import MAX_PIXELS
from clouds.data.config import read_dataset_config


def test_without_a_file_labels_are_train_ids(labels: LabelSpace) -> None:
    encoding, fold, max_pixels = read_dataset_config(None, labels)
    assert (encoding.name, encoding.colored, fold, max_pixels) == ("trainIds", False, None, MAX_PIXELS)


def test_everything_at_once(tmp_path: Path, labels: LabelSpace) -> None:
    path = tmp_path / "dataset.toml"
    path.write_text(
        'max_pixels = 12\n[labels]\nencoding = "ids"\n[labels.mapping]\n"0" = "ignore"\n"3" = 1\n[fold]\nsky = "car"\n',
        encoding="utf-8",
    )
    encoding, fold, max_pixels = read_dataset_config(path, labels)
    assert max_pixels == 12
    assert encoding.mapped == {0, 3}
    assert encoding.decode(np.array([[7, 0, 3]], np.uint8)).tolist() == [[0, 255, 1]]
    assert fold is not None
    assert fold[[0, 1, 2, 255]].tolist() == [0, 1, 1, 255]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = = 3", r"cannot be read as TOML: .*line 1"),
        ('[labels]\nencodin = "ids"', r"encodin.* \$\.labels"),
        ("[labels]\nencoding = 3", r"\$\.labels\.encoding"),
        ('[labels]\nencoding = "idz"', r"labels\.encoding: unknown encoding 'idz'; did you mean 'ids'"),
        ('[labels.mapping]\n"7" = 1.5', r"labels\.mapping\.7: 1\.5 is neither"),
        ('[labels.mapping]\n"7" = true', r"labels\.mapping\.7: True is neither"),
        ("fold = 3", r"\$\.fold"),
        ("max_pixels = 0", "max_pixels is 0; expected at least 1"),
        ('[fold]\nskyy = "car"', r"fold: 'skyy' is neither a class of label space 'toy'.*did you mean 'sky'"),
    ],
)
def test_errors_name_file_and_key(tmp_path: Path, labels: LabelSpace, text: str, message: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"wrong\.toml: .*{message}"):
        read_dataset_config(path, labels)


def test_missing_file(tmp_path: Path, labels: LabelSpace) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: no such file"):
        read_dataset_config(tmp_path / "none.toml", labels)
