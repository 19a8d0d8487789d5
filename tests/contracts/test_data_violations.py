"""The checks of generators, refiners and prompters fail on one broken clause, and say which."""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from attrs import evolve
from torch import Tensor, nn

from clouds import GeneratedImage, GenerationRequest, Generator, Prepared, Prompt, Prompter, Refiner, Targets
from clouds.testing import (
    ContractError,
    check_backbone,
    check_generator,
    check_head,
    check_prompter,
    check_refiner,
)


class Noise(Generator):
    def generate(self, requests: Iterable[GenerationRequest]) -> Iterator[GeneratedImage]:
        for request in requests:
            yield self.make(request)

    def make(self, request: GenerationRequest) -> GeneratedImage:
        image = np.random.default_rng(request.seed).integers(0, 256, (*request.size, 3), np.uint8)
        return GeneratedImage(request=request, image=image, labels=image[..., 0] // 64)


class Surplus(Noise):
    def generate(self, requests: Iterable[GenerationRequest]) -> Iterator[GeneratedImage]:
        yield self.make(GenerationRequest(prompt="", seed=0, size=(4, 4)))
        yield from super().generate(requests)


class Reversed(Noise):
    def generate(self, requests: Iterable[GenerationRequest]) -> Iterator[GeneratedImage]:
        return super().generate(reversed(list(requests)))


class SwappedSize(Noise):
    def make(self, request: GenerationRequest) -> GeneratedImage:
        made = super().make(request)
        return evolve(made, image=made.image.transpose(1, 0, 2))


class FloatLabels(Noise):
    def make(self, request: GenerationRequest) -> GeneratedImage:
        made = super().make(request)
        return evolve(made, labels=made.labels / 1.0)


class Tensors(Noise):
    def make(self, request: GenerationRequest) -> GeneratedImage:
        made = super().make(request)
        return evolve(made, image=torch.from_numpy(made.image))


class Moody(Noise):
    def make(self, request: GenerationRequest) -> GeneratedImage:
        return super().make(evolve(request, seed=random.getrandbits(32)))

    def generate(self, requests: Iterable[GenerationRequest]) -> Iterator[GeneratedImage]:
        for request in requests:
            yield evolve(self.make(request), request=request)


class Batched(Noise):
    def generate(self, requests: Iterable[GenerationRequest]) -> Iterator[GeneratedImage]:
        for index, request in enumerate(requests):
            yield evolve(self.make(evolve(request, seed=request.seed + index)), request=request)


class LabelsOfTheBatch(Noise):
    def generate(self, requests: Iterable[GenerationRequest]) -> Iterator[GeneratedImage]:
        asked = list(requests)
        for made in super().generate(asked):
            yield evolve(made, labels=None if len(asked) == 1 else made.labels)


class Seedless(Noise):
    def make(self, request: GenerationRequest) -> GeneratedImage:
        return evolve(super().make(evolve(request, seed=0)), request=request)


class Shade(Noise):
    """Keeps its contract: the source, darker, with its labels."""

    reads_source = True

    def make(self, request: GenerationRequest) -> GeneratedImage:
        image = super().make(request).image // 2 + request.source.image // 2
        return GeneratedImage(request=request, image=image, labels=request.source.labels, label_kind="inherited")


class SourceUnread(Shade):
    def make(self, request: GenerationRequest) -> GeneratedImage:
        return evolve(super().make(request), image=Noise().make(request).image)


class OtherLabels(Shade):
    def make(self, request: GenerationRequest) -> GeneratedImage:
        made = super().make(request)
        return evolve(made, labels=made.labels + 1)


class NothingToInherit(Noise):
    def make(self, request: GenerationRequest) -> GeneratedImage:
        return evolve(super().make(request), label_kind="inherited")


@pytest.mark.parametrize(
    ("generator", "message"),
    [
        (SourceUnread, r"requests that differ only in their source must give different pictures, as `reads_source`"),
        (OtherLabels, r"inherited labels must be those of the request's source, or 255; got others"),
        (NothingToInherit, r"inherited labels must be those of the request's source, or 255; got no source"),
        (Surplus, r"Surplus: no request must give no picture; got 1 -> loop over requests"),
        (Reversed, r"generate must yield one GeneratedImage per request, in order, with its request"),
        (SwappedSize, r"image of a request of size \(64, 96\) must be uint8 .*; got uint8 of shape \(96, 64, 3\)"),
        (FloatLabels, r"labels of a request of size \(64, 96\) must be uint8 .*; got float64"),
        (Tensors, r"image must be a numpy array; got Tensor"),
        (Moody, r"a request must give the same picture and labels when generated again, within 0 grey levels"),
        (Batched, r"a request must give the same picture and labels when generated alone, within 1 grey levels"),
        (LabelsOfTheBatch, r"when generated alone.* labels different"),
        (Seedless, r"requests that differ only in their seed must give different pictures"),
    ],
)
def test_each_clause_of_generators_is_checked(generator: type[Generator], message: str) -> None:
    check_generator(Noise())
    check_generator(Shade())
    with pytest.raises(ContractError, match=message):
        check_generator(generator())


class Keep(Refiner):
    def prepare(self, images: Sequence[Tensor]) -> list[Prepared]:
        return [Prepared(tensors={"grey": image.float().mean(0)}) for image in images]

    def refine(
        self, images: Sequence[Tensor], label_maps: Sequence[Tensor], *, rngs: Sequence[Any], prepared: Any = None
    ) -> list[Targets]:
        prepared = self.prepare(images) if prepared is None else prepared
        return [
            self.improve(one.tensors["grey"], label_map, rng)
            for one, label_map, rng in zip(prepared, label_maps, rngs, strict=True)
        ]

    def improve(self, grey: Tensor, label_map: Tensor, rng: np.random.Generator) -> Targets:
        rng.random()
        return Targets.from_label_map(label_map)


class Fewer(Keep):
    def refine(self, *args: Any, **options: Any) -> list[Targets]:
        return super().refine(*args, **options)[:-1]


class InPlace(Keep):
    def improve(self, grey: Tensor, label_map: Tensor, rng: np.random.Generator) -> Targets:
        return Targets.from_label_map(label_map.clamp_(max=18))


class Inventive(Keep):
    def improve(self, grey: Tensor, label_map: Tensor, rng: np.random.Generator) -> Targets:
        return Targets.from_label_map(label_map.where(grey < 100, 7))


class IgnoreIsAClass(Keep):
    def improve(self, grey: Tensor, label_map: Tensor, rng: np.random.Generator) -> Targets:
        return Targets.from_label_map(label_map, ignore=254)


class ByteMasks(Keep):
    def improve(self, grey: Tensor, label_map: Tensor, rng: np.random.Generator) -> Targets:
        targets = super().improve(grey, label_map, rng)
        return evolve(targets, masks=targets.masks.to(torch.uint8))


class Random(Keep):
    def improve(self, grey: Tensor, label_map: Tensor, rng: np.random.Generator) -> Targets:
        targets = super().improve(grey, label_map, rng)
        return evolve(targets, valid=torch.rand(label_map.shape) < 0.5)


class SharedRandomness(Keep):
    def refine(self, images: Any, label_maps: Any, *, rngs: Any, prepared: Any = None) -> list[Targets]:
        all_of_them = [rngs[0]] * len(rngs)
        return super().refine(images, label_maps, rngs=all_of_them, prepared=prepared)

    def improve(self, grey: Tensor, label_map: Tensor, rng: np.random.Generator) -> Targets:
        targets = super().improve(grey, label_map, rng)
        return evolve(targets, valid=torch.from_numpy(rng.random(label_map.shape) < 0.5))


class PreparesOne(Keep):
    def prepare(self, images: Sequence[Tensor]) -> Any:
        return super().prepare(images)[:1]

    def refine(self, images: Any, label_maps: Any, *, rngs: Any, prepared: Any = None) -> list[Targets]:
        return super().refine(images, label_maps, rngs=rngs, prepared=Keep.prepare(self, images))


class PreparedOtherwise(Keep):
    def refine(self, images: Any, label_maps: Any, *, rngs: Any, prepared: Any = None) -> list[Targets]:
        targets = super().refine(images, label_maps, rngs=rngs, prepared=prepared)
        return [one if prepared is None else evolve(one, valid=~one.valid) for one in targets]


@pytest.mark.parametrize(
    ("refiner", "message"),
    [
        (Fewer, r"Fewer: refine of 3 images must return a list of 3 clouds.Targets"),
        (InPlace, r"refine must leave images and label maps as they are"),
        (Inventive, r"refine must not name a class that its label map does not have .*; got classes \[7\]"),
        (IgnoreIsAClass, r"refine must not name a class that its label map does not have .*; got classes \[255\]"),
        (ByteMasks, r"targets of a 48 x 64 image must be .*'masks': \(torch.bool.*; got .*'masks': \(torch.uint8"),
        (Random, r"refine must give the same targets for the same seeds; got different valid"),
        (SharedRandomness, r"refine must give the same targets alone as in a batch; got different valid"),
        (PreparesOne, r"prepare of 3 images must return a list of 3 clouds.Prepared"),
        (PreparedOtherwise, r"refine must give the same targets with what `prepare` computed as without it"),
    ],
)
def test_each_clause_of_refiners_is_checked(refiner: type[Refiner], message: str) -> None:
    check_refiner(Keep())
    with pytest.raises(ContractError, match=message):
        check_refiner(refiner())


class Words(Prompter):
    def __init__(self, change: Callable[[list[str], int], Any] = lambda prompts, seed: prompts) -> None:
        self.change = change

    def prompts(self, n: int, *, seed: int) -> list[str]:
        return self.change([f"a photo of street {index}, {seed}" for index in range(n)], seed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda prompts, seed: prompts[:1], r"Words: prompts\(7, seed=3\) must be a list of 7 strings; got \['a photo"),
        (lambda prompts, seed: tuple(prompts), r"prompts\(0, seed=3\) must be a list of 0 strings; got \(\)"),
        (lambda prompts, seed: [" " for _ in prompts], r"a prompt must be one line of text.*; got \[' '\]"),
        (lambda prompts, seed: ["a\nb" for _ in prompts], r"a prompt must be one line of text"),
        (lambda prompts, seed: [b"a" for _ in prompts], r"a prompt must be one line of text"),
        (
            lambda prompts, seed: [str(random.getrandbits(64)) for _ in prompts],
            r"prompts\(1, seed=3\) must be the same on every call",
        ),
    ],
)
def test_each_clause_of_prompters_is_checked(change: Callable[[list[str], int], Any], message: str) -> None:
    check_prompter(Words())
    with pytest.raises(ContractError, match=message):
        check_prompter(Words(change))


def test_prompters_write_what_they_list() -> None:
    class Other(Words):
        def write(self, n: int, *, seed: int) -> list[Prompt]:
            return [Prompt("a road")] * n

    with pytest.raises(ContractError, match=r"write\(1, seed=3\) must have the texts of prompts\(1, seed=3\)"):
        check_prompter(Other())


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("check", "message"),
    [
        (check_backbone, r"Identity: the factory of a backbone must return a clouds.Backbone; got Identity -> derive"),
        (lambda value: check_head(value, {}), r"the factory of a head must return a clouds.Head; got Identity"),
        (check_generator, r"the factory of a generator must return a clouds.Generator; got Identity"),
        (check_refiner, r"the factory of a refiner must return a clouds.Refiner; got Identity"),
        (check_prompter, r"the factory of a prompter must return a clouds.Prompter; got Identity"),
    ],
)
def test_other_classes_are_refused(check: Callable[[Any], None], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        check(nn.Identity())
