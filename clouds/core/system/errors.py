"""Every error that `clouds` raises on purpose: messages name the thing, the expected, the actual, and the remedy."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

_SHOWN = 40  # words of a list, in one message


class CloudsError(Exception):
    """Base class: catching it catches everything that `clouds` raises on purpose. Its message is one line."""

    def __str__(self) -> str:
        return super().__str__().replace("\n", "\\n")  # names of files and what libraries say may have several


class ComponentError(CloudsError):
    """A component's declaration is wrong: its name, kind, factory or signature."""


class UnknownComponentError(CloudsError):
    """No component of this kind has this name."""


class DuplicateComponentError(CloudsError):
    """Two distributions offer a component of the same kind and name, and that name was asked for."""


class PluginError(CloudsError):
    """A plugin is broken and the catalog is strict (`CLOUDS_STRICT_PLUGINS=1`)."""


class ConfigError(CloudsError):
    """A recipe, an option or a configuration file holds a wrong key or value."""


class DataError(CloudsError):
    """An image, a label map or a dataset folder cannot be used as it is."""


class WeightsError(CloudsError):
    """Weights are missing, truncated, or do not belong to the module they are loaded into."""


class NonFiniteError(CloudsError):
    """A number is not finite; the message names the images it came from, or the tensor that holds it."""


class TrainingError(CloudsError):
    """A step of training failed for a reason outside of `clouds`; the message says which checkpoint there is."""


class TrustError(CloudsError):
    """A saved pipeline's plan asks for more than networks from its own weights, and the caller has not consented.

    Attributes:
        kind: the part.
        fault: the part and its option, without the remedy, which differs from door to door.
    """

    def __init__(self, kind: str, fault: str, folder: str) -> None:
        self.kind, self.fault, self.folder = kind, fault, folder
        super().__init__(
            f"{fault}; if you trust whoever made it: clouds.load({folder!r}, trust=({kind!r},)), or pass the part "
            f"anew: ready={{{kind!r}: ...}}"
        )

    def __reduce__(self) -> tuple[type[TrustError], tuple[str, str, str]]:
        return type(self), (self.kind, self.fault, self.folder)  # as it travels between processes


class WorkerError(CloudsError):
    """Workers on a cluster died over and over, or the cluster is gone."""


class SlowDtypeWarning(UserWarning):
    """The CPU has no instructions for the dtype that was asked for, so it computes more slowly than with float32."""


class UntrainedHeadWarning(UserWarning):
    """The head still has its initial random weights, so its predictions mean nothing."""


class LeftOutWarning(UserWarning):
    """Files that lie in a dataset are not used; the message counts and names them."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `"; did you mean 'x'?"` for the nearest known word, or some of the known words when none is near."""
    words = sorted(set(known))
    near = get_close_matches(word, words, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]!r}?"
    more = [f"and {len(words) - _SHOWN} more"] if len(words) > _SHOWN else []
    return f"; known: {', '.join([*words[:_SHOWN], *more])}" if words else "; none is known"
