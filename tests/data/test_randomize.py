import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from clouds.data.randomize import randomize_colors
from clouds.data.transforms import Augmentation, augment, generated_views


@given(height=st.integers(1, 20), width=st.integers(1, 20), seed=st.integers(0, 999))
def test_shape_stays_and_the_generator_decides_alone(height: int, width: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    before = image.copy()
    first, second = (randomize_colors(image, np.random.default_rng(seed)) for _ in range(2))
    assert first.shape == image.shape
    assert first.dtype == np.uint8
    assert (first == second).all()
    assert (image == before).all()


def test_colours_go_far_beyond_the_published_distortion() -> None:
    """Mean colours of one grey picture over many draws: the published distortion moves a channel by at most 32 levels
    and then scales it by 0.5 to 1.5, all channels alike; randomized channels part from each other."""
    grey = np.full((8, 8, 3), 128, np.uint8)
    apart = []
    for settings in (Augmentation(crop=(8, 8)), Augmentation(crop=(8, 8), changes=(randomize_colors,))):
        means = [generated_views(grey, np.random.default_rng(i), settings)[1].mean((0, 1)) for i in range(100)]
        apart.append(np.mean([np.ptp(mean) for mean in means]))
    assert apart[0] < 1
    assert apart[1] > 20


def test_the_teachers_view_and_labels_are_left_alone() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (8, 8, 3), np.uint8)
    labels = rng.integers(0, 19, (8, 8), np.uint8)
    settings = Augmentation(crop=(8, 8), scale=(1, 1), flip=False, changes=(randomize_colors,))
    assert (generated_views(image, np.random.default_rng(1), settings)[0] == image).all()
    assert (augment(image, labels, np.random.default_rng(1), settings)[1] == labels).all()
