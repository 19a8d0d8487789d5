"""A plugin of clouds: one small component of every kind. Hooks name factories; a factory's signature is its options."""

from clouds import Component, Offer, hookimpl


def _one(kind, name, summary, **fields):
    factory = f"clouds_example:{name.replace('-', '_')}"
    return [Component(kind=kind, name=name, factory=factory, summary=summary, **fields)]


def _components():
    from clouds_example import components  # so that torch is only imported when a component is built

    return components


@hookimpl
def clouds_backbones():
    return _one("backbone", "squeezenet", "SqueezeNet 1.0, arXiv 1602.07360", provides=["res2", "res3", "res4", "res5"])


def squeezenet(*, weights: str | None = None):  # a safetensors file with torchvision's keys; None: random weights
    return _components().SqueezeNet(weights).freeze()


@hookimpl
def clouds_adapters():
    return _one("adapter", "channel-scale", "one factor for each channel of each block", needs="blocks")


def channel_scale(blocks):
    return _components().ChannelScale(blocks)


@hookimpl
def clouds_generators():
    return _one("generator", "flat-scenes", "road, sky and a house in flat colours, with exact labels")


def flat_scenes():
    return _components().FlatScenes()


@hookimpl
def clouds_refiners():
    return _one("refiner", "majority", "each pixel takes the most frequent label around it")


def majority(*, radius: int = 2):  # a window is 2 * radius + 1 pixels high and wide
    return _components().Majority(radius)


@hookimpl
def clouds_heads():
    return _one("head", "pixel-mlp", "two 1x1 convolutions", needs=["res2", "res3", "res4", "res5"])


def pixel_mlp(features, labels, *, hidden: int = 128):
    return _components().PixelMLP(sum(spec.channels for spec in features.values()), hidden, len(labels))


@hookimpl
def clouds_losses():
    return [Offer("sure-masks", "clouds_example:sure_masks", "mean entropy of P(pixel in mask)")]


def sure_masks(pipeline, *, weight: float = 0.1):
    return _components().SureMasks(weight)


@hookimpl
def clouds_prompters():
    return _one("prompter", "cities", "streets of some cities at some times of day")


def cities():
    return _components().Cities()


@hookimpl
def clouds_trackers():
    return [Offer("loss-table", "clouds_example.tracking:LossTable", "the loss of each step in loss.csv")]


@hookimpl
def clouds_datasets():
    return [Offer("split-first", "clouds_example.data:SPLIT_FIRST", "folders images and labels in each split")]
