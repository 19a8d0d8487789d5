from functools import partial

import clouds
import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import avg_pool2d, binary_cross_entropy_with_logits, interpolate
from torchvision.models import squeezenet1_0


class SqueezeNet(clouds.Backbone):
    """Feature maps of SqueezeNet, resized to exact strides, because unpadded convolutions shrink them a little. Values
    reach some hundreds and differ by level and domain, so each pixel's channels are scaled to mean square 1."""

    def __init__(self, weights):
        specs = {f"res{i}": clouds.FeatureSpec(channels=256 if i == 2 else 512, stride=2**i) for i in range(2, 6)}
        super().__init__(features=specs, mean=(123, 117, 104), std=(1, 1, 1))
        net = squeezenet1_0(weights=None)
        if weights is not None:
            net.load_state_dict(load_file(weights))
        layers = net.features
        self.stages = nn.ModuleList([layers[:6], layers[6:11], layers[11:], nn.AvgPool2d(2, ceil_mode=True)])

    def forward(self, images):
        levels, x = {}, self.normalize(images)
        for (name, spec), stage in zip(self.features.items(), self.stages, strict=True):
            x = stage(x)
            level = interpolate(x, [side // spec.stride for side in images.shape[-2:]], mode="bilinear")
            levels[name] = level / (level.square().mean(1, keepdim=True) + 1).sqrt()
        return clouds.Features(**levels)


class ChannelScale(clouds.Adapter):
    def __init__(self, blocks):
        super().__init__()
        self.factors = nn.ParameterList([nn.Parameter(torch.ones(block.channels)) for block in blocks])

    def changes(self, blocks):
        return [(block.module, partial(self.scale, index)) for index, block in enumerate(blocks)]

    def scale(self, index, x, output):  # a map "b c h w", or tokens "b n c"
        factors = self.factors[index]
        return output * (factors[:, None, None] if output.ndim == 4 else factors)


class FlatScenes(clouds.Generator):
    def generate(self, requests):
        for request in requests:
            rng, (height, width) = np.random.default_rng(request.seed), request.size
            left = int(rng.uniform(0, 0.7) * width)
            labels = np.full(request.size, 10, np.uint8)  # Cityscapes: 10 is sky, 0 road, 2 building
            labels[height // 2 :] = 0
            labels[height // 4 : height // 2, left : left + width // 4] = 2
            colours = rng.integers(60, 240, (256, 3)) // (4 if "night" in request.prompt else 1)
            image = (colours[labels] + rng.integers(0, 10, (height, width, 1))).astype(np.uint8)
            yield clouds.GeneratedImage(request=request, image=image, labels=labels)


class Majority(clouds.Refiner):
    def __init__(self, radius):
        self.radius = radius

    def prepare(self, images):
        return [clouds.Prepared() for _ in images]

    def refine(self, images, label_maps, *, rngs, prepared=None):
        return [clouds.Targets.from_label_map(self.vote(label_map)) for label_map in label_maps]

    def vote(self, label_map):
        values = label_map.unique()  # 255, "ignore", votes like a class
        votes = (label_map == values[:, None, None]).float()
        return values[avg_pool2d(votes, 2 * self.radius + 1, stride=1, padding=self.radius).argmax(0)]


class PixelMLP(clouds.Head):
    def __init__(self, channels, hidden, classes):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.GELU(), nn.Conv2d(hidden, classes, 1))
        self.register_buffer("certain", 200 * torch.eye(classes, classes + 1))  # query i is class i

    def forward(self, features, classifier=None):
        size = features.res2.shape[-2:]
        masks = self.layers(torch.cat([interpolate(x, size, mode="bilinear") for x in features.levels().values()], 1))
        return clouds.HeadOutput(class_logits=self.certain.expand(len(masks), -1, -1), mask_logits=masks)

    def loss(self, output, targets, *, points=None, generator=None):
        logits = interpolate(output.mask_logits, targets[0].valid.shape, mode="bilinear")
        pairs = zip(torch.zeros_like(logits), targets, strict=True)
        wanted = torch.stack([empty.index_add(0, t.labels, t.masks.float()) for empty, t in pairs]).clamp(max=1)
        valid = torch.stack([target.valid for target in targets])[:, None]
        each = binary_cross_entropy_with_logits(logits, wanted, reduction="none") * valid
        return {"mask": each.sum() / valid.sum().clamp(min=1)}

    def loss_counts(
        self, targets
    ):  # "mask" averages over valid pixels, so a part of a batch weighs as its share of them
        return {"mask": float(sum(target.valid.sum() for target in targets))}

    def segment(self, output, valid_size, size, *, scores=False):
        probabilities = interpolate(output.mask_logits, scale_factor=4, mode="bilinear").sigmoid()
        answer = interpolate(probabilities[..., : valid_size[0], : valid_size[1]], size, mode="bilinear")[0]
        return answer if scores else answer.argmax(0).to(torch.uint8)


class SureMasks(clouds.LossTerm):
    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def forward(self, inputs):  # one value per image
        logits = inputs.output.mask_logits
        entropy = binary_cross_entropy_with_logits(logits, logits.sigmoid(), reduction="none")
        return self.weight * entropy.mean((1, 2, 3))


class Cities(clouds.Prompter):
    def prompts(self, n, *, seed):
        draw = np.random.default_rng(seed).choice
        return [f"A street in {draw(['Paris', 'Nairobi', 'Lima'])} {draw(['by day', 'at night'])}." for _ in range(n)]
