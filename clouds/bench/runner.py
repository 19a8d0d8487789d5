"""Measures all implementations of an operation in one run: time, memory, and utilisation of the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from attrs import evolve, field, frozen

from clouds.bench.ceilings import Ceilings
from clouds.bench.problems import PROBLEMS, KernelProblem, Size
from clouds.bench.timing import milliseconds, peak_memory
from clouds.kernels.backends import choose
from clouds.kernels.tuning import Choice, tune

FORWARD, BOTH = "forward", "forward+backward"
OURS, COMPILED = "clouds", "reference, compiled"


@frozen(kw_only=True)
class Measurement:
    """Result for one implementation and direction.

    Attributes:
        op: the operation.
        provider: "clouds" is the default, "clouds triton" and "clouds torch" the forms that it selects from on CUDA,
            "reference" the shortest form; others have their own names.
        direction: "forward", without gradients, or "forward+backward".
        dtype: dtype of the inputs.
        image, batch, queries: sizes.
        milliseconds: time of each run; empty if it failed.
        peak_memory: peak bytes of tensors beyond the inputs.
        rate: bytes or operations per second of the limiting work; None without measured ceilings, and for backward
            passes, whose minimum work is not defined.
        ceiling: the limiting work: "copied", "gathered" or "multiplied".
        share: minimum time at the ceiling divided by the median time; 0..1.
        error: why it failed.
    """

    op: str
    provider: str
    direction: str
    dtype: str
    image: tuple[int, int]
    batch: int
    queries: int
    milliseconds: tuple[float, ...] = field(factory=tuple, converter=tuple)
    peak_memory: int | None = None
    rate: float | None = None
    ceiling: str | None = None
    share: float | None = None
    error: str | None = None

    def percentile(self, share: float) -> float:
        """Milliseconds within which `share` (0..1) of the runs finished."""
        return torch.tensor(self.milliseconds, dtype=torch.float64).quantile(share).item()


def measure(
    op: str,
    size: Size,
    dtype: torch.dtype,
    device: torch.device,
    *,
    compiled: bool = False,
    others: bool = True,
    repeats: int = 20,
    ceilings: Ceilings | None = None,
    peers: Callable[[KernelProblem], Mapping[str, Callable[[], Any]]] | None = None,
) -> list[Measurement]:
    """Measure every implementation of an operation on this device, forward and, if defined, with backward pass.

    Args:
        op: a name of `PROBLEMS`.
        size: size of the problem.
        dtype: dtype of the inputs.
        device: device to measure.
        compiled: also measure `torch.compile` of the reference, which takes long.
        others: also measure other libraries that the operation supports, such as xformers.
        repeats: runs per implementation.
        ceilings: upper bounds of the device, for the shares.
        peers: further implementations by name, on the same inputs.

    Raises:
        ValueError: the operation is unknown.
    """
    if op not in PROBLEMS:
        raise ValueError(f"no benchmark of {op!r}; expected one of {', '.join(PROBLEMS)}")
    problem = PROBLEMS[op](size, dtype, device)
    forms = _forms(op, problem, device, compiled=compiled, others=others) | dict(peers(problem) if peers else {})
    facts = {"op": op, "dtype": str(dtype).removeprefix("torch."), "image": size.image, "batch": size.batch}
    facts |= {"queries": size.queries}
    work = _binding(problem, ceilings) if ceilings else {}
    made = measure_all({name: _without_gradients(form) for name, form in forms.items()}, device, repeats)
    found = [_measurement(name, FORWARD, one, facts, work) for name, one in made.items()]
    if problem.differentiable:
        made = measure_all({name: _with_gradients(form, problem) for name, form in forms.items()}, device, repeats)
        found += [_measurement(name, BOTH, one, facts, {}) for name, one in made.items()]
    return found


def fastest_launches(
    op: str, size: Size, dtype: torch.dtype, device: torch.device, *, repeats: int = 20
) -> dict[str, Choice]:
    """Launches of an operation's Triton kernels that are faster than the shipped ones, in the form of `tuning`."""
    problem = PROBLEMS[op](size, dtype, device)

    def run() -> Any:
        return problem.run("triton")

    def measure(run: Callable[[], object]) -> float:
        return torch.tensor(milliseconds({op: run}, device, repeats=repeats)[op]).median().item()

    found = tune(_without_gradients(run), measure)
    return found | tune(_with_gradients(run, problem), measure) if problem.differentiable else found


def _forms(
    op: str, problem: KernelProblem, device: torch.device, *, compiled: bool, others: bool
) -> dict[str, Callable[[], Any]]:
    named = {OURS: "auto"}
    if choose(op, "auto", device) == "triton":
        named |= {"clouds triton": "triton", "clouds torch": "torch"}
    named |= {"reference": "reference"} | {one: one for one in problem.backends if others}
    forms = {name: (lambda backend=backend: problem.run(backend)) for name, backend in named.items()}
    if compiled:
        torch._dynamo.reset()  # earlier operations count towards the recompile limit
        forms[COMPILED] = torch.compile(forms["reference"], dynamic=False)
    return forms


def _without_gradients(form: Callable[[], Any]) -> Callable[[], Any]:
    return torch.no_grad()(form)


def _with_gradients(form: Callable[[], Any], problem: KernelProblem) -> Callable[[], Any]:
    leaves = problem.leaves()

    def run() -> Any:
        for leaf in leaves:
            leaf.requires_grad_()
        try:
            outputs = form()
            return torch.autograd.grad(outputs, leaves, [torch.ones_like(output) for output in outputs])
        finally:
            for leaf in leaves:
                leaf.requires_grad_(False)

    return run


def measure_all(
    runs: Mapping[str, Callable[[], Any]], device: torch.device, repeats: int
) -> dict[str, tuple[list[float], int] | str]:
    """Milliseconds and peak memory of each implementation, or its error; the others still run."""
    made: dict[str, tuple[list[float], int] | str] = {}
    memory: dict[str, int] = {}
    for name, run in runs.items():
        try:
            run()
            memory[name] = peak_memory(run, device)
        except Exception as error:  # noqa: BLE001 - out of memory, a missing library, or any error of a library
            made[name] = reason(error)
    times = milliseconds({name: runs[name] for name in memory}, device, repeats=repeats)
    return {name: made.get(name) or (times[name], memory[name]) for name in runs}


def reason(error: Exception) -> str:
    """Describe an error in one line."""
    return ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])


def _measurement(
    provider: str,
    direction: str,
    made: tuple[list[float], int] | str,
    facts: Mapping[str, Any],
    work: Mapping[str, Any],
) -> Measurement:
    if isinstance(made, str):
        return Measurement(provider=provider, direction=direction, error=made, **facts)
    times, memory = made
    one = Measurement(provider=provider, direction=direction, milliseconds=times, peak_memory=memory, **facts)
    if not work:
        return one
    seconds = one.percentile(0.5) / 1000
    share = work["seconds"] / seconds
    return evolve(one, rate=work["amount"] / seconds, share=share, ceiling=work["ceiling"])


def _binding(problem: KernelProblem, ceilings: Ceilings) -> dict[str, Any]:
    """The work that takes longest at the device's ceilings."""
    names: Sequence[str] = ("copied", "gathered", "multiplied")
    seconds = {name: getattr(problem, name) / getattr(ceilings, name) for name in names}
    name = max(seconds, key=lambda name: seconds[name])
    return {"ceiling": name, "amount": getattr(problem, name), "seconds": seconds[name]}
