import torch
from hypothesis import given
from hypothesis import strategies as st

from clouds.core.system.processes import Processes, join


@given(st.integers(0, 30), st.integers(1, 7))
def test_shares_make_up_the_whole(count: int, world: int) -> None:
    shares = [Processes(rank, world).share(range(count)) for rank in range(world)]
    assert sorted(item for share in shares for item in share) == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_alone_there_is_nothing_to_join() -> None:
    processes = join("cpu")
    assert processes == Processes.current() == Processes(0, 1)
    assert processes.main
    assert torch.equal(processes.sum(torch.arange(3)), torch.arange(3))
    assert processes.gather("a") == ["a"]
    processes.wait()
