"""What a dataset is made from: prompts, seeds, size and labelled source, independent of the number of images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from clouds.core.contract.plan import Part
from clouds.core.contract.records import GenerationRequest, Prompt
from clouds.core.system.errors import DataError
from clouds.synthesis.labelled_source import LabelledSource
from clouds.synthesis.manifest import MadeBy, Row

ATTEMPT = 2**32  # distance between the seeds of an image's attempts, so that images never share seeds


@frozen(kw_only=True)
class Order:
    """The request behind a dataset, independent of the number of images; see `generate_set`.

    Attributes:
        source: the labelled images that the generator starts from, or None.
        keep_labels: write label maps that the generator knows; inherited ones are always written.
        shared: values that all rows of this run share.
    """

    prompts: tuple[Prompt, ...]
    seed: int
    size: tuple[int, int]
    source: LabelledSource | None
    keep_labels: bool
    shared: dict[str, Any]

    @classmethod
    def of(
        cls,
        model: dict[str, Any],
        part: Part,
        prompts: Sequence[Prompt],
        *,
        seed: int,
        size: tuple[int, int],
        source: LabelledSource | None,
        keep_labels: bool,
    ) -> Order:
        """`model` is the result of the generator's `describe`."""
        model = dict(model)
        shared = {
            "generator": MadeBy.of(part),
            "steps": model.pop("steps", None),
            "guidance": model.pop("guidance", None),
            "model": model,
            "source": source and source.describe(),
            "size": size,
        }
        return cls(
            prompts=tuple(prompts),
            seed=seed,
            size=size,
            source=source,
            keep_labels=keep_labels or source is not None,
            shared=shared,
        )

    def prompt(self, index: int) -> Prompt:
        """The prompt of an image."""
        return self.prompts[index % len(self.prompts)]

    def request(self, index: int, attempt: int = 0) -> GenerationRequest:
        """The request of an image to the generator; reads its source.

        Raises:
            DataError: a file of the source cannot be read.
        """
        seed = self.seed + index + attempt * ATTEMPT
        source = self.source.draw(seed, self.size) if self.source else None
        return GenerationRequest(prompt=self.prompt(index).text, seed=seed, size=self.size, source=source)

    def name(self, index: int) -> str:
        """File name of an image and its label map."""
        return f"im_{index}_p{index % len(self.prompts)}.png"

    def attempt(self, seed: int, index: int) -> int:
        """The attempt at an image that has this seed."""
        return max(0, (seed - self.seed - index) // ATTEMPT)

    def check(self, row: Row, path: Path) -> None:
        """Raise `DataError` if the row belongs to another request."""
        which = row.index % len(self.prompts)
        asked: dict[str, Any] = {
            "file": f"images/{self.name(row.index)}",
            "prompt": self.prompt(row.index).text,
            "prompt_index": which,
            "seed": self.seed + row.index + self.attempt(row.seed, row.index) * ATTEMPT,
            **self.shared,
        }
        changes = [
            f"{name} {getattr(row, name)!r}, now {value!r}"
            for name, value in asked.items()
            if getattr(row, name) != value
        ]
        if changes:
            raise DataError(
                f"{path}: image {row.index} was made with {'; '.join(changes)}; "
                "give the same request to continue, or another folder"
            )
