"""Settings of the optimizer. Nothing here imports torch."""

from __future__ import annotations

from typing import Literal

from attrs import field, frozen

from clouds.core.system.config import within

MANY = 10**9  # more steps, or images in a batch, than any run has


@frozen(kw_only=True)
class GroupConfig:
    """Factors of the parameters that a pattern matches.

    Attributes:
        match: pattern of full parameter names, such as "backbone.*" or "*.bias"; `*` matches any characters.
        lr: factor of the learning rate.
        decay: factor of the weight decay; 0 switches it off.
    """

    match: str
    lr: float = field(default=1.0, validator=within(0, 1000, above=True))
    decay: float = field(default=1.0, validator=within(0, 1000))


@frozen(kw_only=True)
class OptimizerConfig:
    """The optimizer and its learning-rate schedule; `lr_factor` in `clouds.training.optimizer` has the formulas.

    Attributes:
        name: "adamw", or "sgd" with `momentum`, whose weight decay is part of the gradient.
        lr: learning rate.
        weight_decay: weight decay; norms and embeddings have none, biases have.
        decay_tokens: whether tokens, position embeddings and relative-position tables have weight decay.
        clip_norm: maximum norm of the full model's gradient; 0 switches clipping off.
        momentum: of "sgd".
        groups: factors by parameter name, a list of `{match, lr, decay}`. The first pattern that matches a parameter
            decides; its factors multiply what `lr`, `weight_decay` and `layer_decay` give.
        layer_decay: factor of the learning rate from each block of the backbone to the one before; 1 switches it off.
        schedule: learning rate over a phase.
        lr_warmup: first steps of each phase, in which the learning rate also rises linearly; not the phase `warmup`.
        power: of "poly".
        milestones: of "step": shares of the phase's steps after which the learning rate is multiplied by `gamma`; the
            defaults are Mask2Former's.
        gamma: of "step".
    """

    name: Literal["adamw", "sgd"] = "adamw"
    lr: float = field(default=1e-4, validator=within(0, 100, above=True))
    weight_decay: float = field(default=0.05, validator=within(0, 100))
    decay_tokens: bool = True
    clip_norm: float = field(default=0.01, validator=within(0, 1e9))
    momentum: float = field(default=0.9, validator=within(0, 0.9999))
    groups: tuple[GroupConfig, ...] = ()
    layer_decay: float = field(default=1.0, validator=within(0, 1, above=True))
    schedule: Literal["constant", "poly", "cosine", "step"] = "constant"
    lr_warmup: int = field(default=0, validator=within(0, MANY))
    power: float = field(default=0.9, validator=within(0, 100))
    milestones: tuple[float, ...] = field(default=(0.889, 0.963), validator=within(0, 1))
    gamma: float = field(default=0.1, validator=within(0, 1))
