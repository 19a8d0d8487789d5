"""Errors and warnings of `clouds`. Messages name the subject, the expected and actual value, and the remedy."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

_SHOWN = 40  # words listed in one message


class CloudsError(Exception):
    """Base class of all errors that `clouds` raises deliberately. The message is one line."""

    def __str__(self) -> str:
        return super().__str__().replace("\n", "\\n")  # file names and messages of libraries may contain line breaks


class ComponentError(CloudsError):
    """A component's declaration is invalid: its name, kind, factory or signature."""


class UnknownComponentError(CloudsError):
    """No component of this kind has this name."""


class DuplicateComponentError(CloudsError):
    """Two distributions offer the requested component."""


class PluginError(CloudsError):
    """A plugin is broken and the catalog is strict (`CLOUDS_STRICT_PLUGINS=1`)."""


class ConfigError(CloudsError):
    """A recipe, an option or a configuration file has an invalid key or value."""


class DataError(CloudsError):
    """An image, a label map or a dataset folder is unusable."""


class WeightsError(CloudsError):
    """Weights are missing, truncated, or do not fit their module."""


class NonFiniteError(CloudsError):
    """A value is NaN or infinite; the message names the images or the tensor."""


class TrainingError(CloudsError):
    """A training step failed for a reason outside `clouds`; the message names the last checkpoint."""


class TrustError(CloudsError):
    """A part of a saved pipeline accesses resources outside its folder without the caller's consent.

    Attributes:
        kind: kind of the part.
        fault: the part and its option, without the remedy, which depends on the interface.
    """

    def __init__(self, kind: str, fault: str, folder: str) -> None:
        self.kind, self.fault, self.folder = kind, fault, folder
        super().__init__(
            f"{fault}; if you trust whoever made it: clouds.load({folder!r}, trust=({kind!r},)), or pass the part "
            f"anew: ready={{{kind!r}: ...}}"
        )

    def __reduce__(self) -> tuple[type[TrustError], tuple[str, str, str]]:
        return type(self), (self.kind, self.fault, self.folder)  # for pickling between processes


class WorkerError(CloudsError):
    """Cluster workers died repeatedly, or the cluster is gone."""


class SlowDtypeWarning(UserWarning):
    """The CPU has no instructions for the requested dtype, which is therefore slower than float32."""


class UntrainedHeadWarning(UserWarning):
    """The head still has its random initial weights, so its predictions are meaningless."""


class ClassMasksWarning(UserWarning):
    """Instances or panoptic segments come from a head with one mask per class, which separates no instances."""


class LeftOutWarning(UserWarning):
    """Files of a dataset are not used; the message counts and names them."""


class SeenDomainWarning(UserWarning):
    """Pictures for self-training are those of a labelled set, so that its scores are not of an unseen domain."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `"; did you mean 'x'?"` for the nearest known word, or list known words if none is near."""
    words = sorted(set(known))
    near = get_close_matches(word, words, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]!r}?"
    more = [f"and {len(words) - _SHOWN} more"] if len(words) > _SHOWN else []
    return f"; known: {', '.join([*words[:_SHOWN], *more])}" if words else "; none is known"
