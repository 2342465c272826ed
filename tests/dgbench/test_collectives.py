from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from dgbench.collectives import gathered_rows, global_sum, leave_at_exit, rank, world_size

PROCESSES = 2


def data() -> tuple[Tensor, Tensor]:
    """Inputs (22, 3) and environments (22,), of 13 and 9 samples."""
    inputs = torch.randn(22, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return inputs, torch.tensor([0] * 13 + [1] * 9)


def model() -> nn.Linear:
    linear = nn.Linear(3, 1).double()
    nn.init.constant_(linear.weight, 0.3)
    nn.init.constant_(linear.bias, -0.2)
    return linear


def objective(outputs: Tensor, environment: Tensor) -> Tensor:
    """Non-linear in the sums over samples: mean, variance and squares of environments' means."""
    members = torch.stack([environment == 0, environment == 1]).double()
    sums = global_sum(members @ outputs.squeeze(1).exp())
    means = sums / torch.tensor([13.0, 9.0], dtype=torch.float64)
    return means.mean() + 10 * means.var(unbiased=False) + means.square().sum().sqrt()


def mean_of_local_penalties(outputs: Tensor, environment: Tensor) -> Tensor:
    """What penalties are when each process computes its own."""
    values = outputs.squeeze(1).exp()
    means = torch.stack([values[environment == e].mean() for e in (0, 1)])
    return means.mean() + 10 * means.var(unbiased=False) + means.square().sum().sqrt()


def gradient(module: nn.Module, loss: Tensor) -> Tensor:
    module.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])


def worker(process: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=process,
        world_size=PROCESSES,
        timeout=timedelta(minutes=5),
    )
    inputs, environment = (part[process::PROCESSES] for part in data())
    wrapped = nn.parallel.DistributedDataParallel(model())
    exact = objective(wrapped(inputs), environment)
    found = {
        "place": torch.tensor([rank(), world_size()]),
        "sum": global_sum(torch.tensor([1.0, 10.0]) ** (process + 1)),
        "rows": gathered_rows(torch.arange(10).reshape(5, 2)[process::PROCESSES]),
        "few": gathered_rows(torch.ones(1, 3)[process::PROCESSES]),
        "value": exact.detach(),
        "gradient": gradient(wrapped, exact),
        "local": gradient(wrapped, mean_of_local_penalties(wrapped(inputs), environment)),
    }
    torch.save(found, Path(folder) / f"{process}.pt")
    # Nobody leaves while another still listens; how, is as in a training.
    dist.barrier()
    leave_at_exit()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    folder = tmp_path_factory.mktemp("processes")
    spawn(worker, (str(folder),), nprocs=PROCESSES)
    return [torch.load(folder / f"{process}.pt") for process in range(PROCESSES)]


def test_processes_know_their_place(found):
    assert [process["place"].tolist() for process in found] == [[0, 2], [1, 2]]


def test_the_value_is_the_sum_over_processes(found):
    for process in found:
        assert process["sum"].tolist() == [1.0 + 1.0, 10.0 + 100.0]


def test_rows_are_gathered_once_and_in_order(found):
    assert torch.equal(found[0]["rows"], torch.arange(10).reshape(5, 2))
    assert torch.equal(found[0]["few"], torch.ones(1, 3))


def test_the_averaged_gradient_is_that_of_the_global_objective(found):
    inputs, environment = data()
    alone = model()
    loss = objective(alone(inputs), environment)
    expected = gradient(alone, loss)
    for process in found:
        torch.testing.assert_close(process["value"], loss.detach(), rtol=1e-12, atol=0.0)
        torch.testing.assert_close(process["gradient"], expected, rtol=1e-12, atol=1e-12)


def test_penalties_of_each_process_alone_would_be_another_objective(found):
    for process in found:
        assert (process["local"] - process["gradient"]).abs().max() > 1e-3


def test_without_processes_a_sum_is_what_it_is_given():
    assert (rank(), world_size()) == (0, 1)
    local = torch.ones(3, requires_grad=True)
    assert global_sum(local) is local
