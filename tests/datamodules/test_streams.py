from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest
import torch

from datamodules.environments import EnvironmentData
from datamodules.errors import DataError
from datamodules.seeds import integers, permutation
from datamodules.streams import EnvironmentBatch, MainSplit, TrainingStream

FIELDS = ("inputs", "targets", "environment", "indices", "rows", "counts")


def make_environment(number: int, count: int) -> EnvironmentData:
    """Every third sample is held out; an input names its environment and sample."""
    samples = torch.arange(count)
    held_out = samples % 3 == 2
    return EnvironmentData(
        inputs=torch.stack([torch.full((count,), float(number)), samples.float()], dim=1),
        targets=(samples * 7 + number) % 5,
        sources=samples,
        main=samples[~held_out],
        holdout=samples[held_out],
    )


ENVIRONMENTS = {0: make_environment(0, 60), 2: make_environment(2, 30), 5: make_environment(5, 11)}


def make(environments: tuple[int, ...] = (0, 2, 5), **options: Any) -> TrainingStream:
    return TrainingStream(
        [MainSplit.of(index, ENVIRONMENTS[index]) for index in environments],
        **{"batch_size": 4, "seed": 3, "steps": 10, **options},
    )


def same(left: EnvironmentBatch, right: EnvironmentBatch) -> bool:
    return all(torch.equal(getattr(left, name), getattr(right, name)) for name in FIELDS)


def drawn(stream: TrainingStream, position: int, steps: int) -> list[int]:
    """The sample indices of one environment over the first steps."""
    batches = [stream.batch(step) for step in range(steps)]
    return [
        index
        for batch in batches
        for index in batch.indices[batch.environment == position].tolist()
    ]


@pytest.mark.parametrize("batch_size", [1, 4, 7, 200, "full"])
@pytest.mark.parametrize("sampling", ["permutation", "replacement"])
def test_batches_hold_what_they_say(batch_size: Any, sampling: Any) -> None:
    stream = make(batch_size=batch_size, sampling=sampling)

    for step in range(30):
        batch = stream.batch(step)
        sizes = [40, 20, 8] if batch_size == "full" else [batch_size] * 3
        assert batch.counts.tolist() == sizes
        assert batch.environment.tolist() == [e for e in range(3) for _ in range(sizes[e])]
        assert batch.rows.tolist() == [row for size in sizes for row in range(size)]
        for position, index in enumerate((0, 2, 5)):
            chosen = batch.environment == position
            data = ENVIRONMENTS[index]
            assert torch.equal(batch.inputs[chosen], data.inputs[batch.indices[chosen]])
            assert torch.equal(batch.targets[chosen], data.targets[batch.indices[chosen]])
        assert batch.inputs.dtype == torch.float32
        assert {getattr(batch, name).dtype for name in FIELDS[1:]} == {torch.int64}


@pytest.mark.parametrize("batch_size", [1, 4, 7, 200, "full"])
@pytest.mark.parametrize("sampling", ["permutation", "replacement"])
def test_held_out_samples_never_appear(batch_size: Any, sampling: Any) -> None:
    stream = make(batch_size=batch_size, sampling=sampling)

    for position, index in enumerate((0, 2, 5)):
        seen = set(drawn(stream, position, 200))
        assert seen == set(ENVIRONMENTS[index].main.tolist())
        assert not seen & set(ENVIRONMENTS[index].holdout.tolist())


def test_held_out_samples_are_not_even_there() -> None:
    inputs = make()._inputs

    assert isinstance(inputs, torch.Tensor)
    assert len(inputs) == sum(len(ENVIRONMENTS[index].main) for index in (0, 2, 5))
    assert (inputs[:, 1] % 3 != 2).all()


@pytest.mark.parametrize("batch_size", [1, 3, 8, 20, 33, 100])
def test_every_pass_is_a_fresh_permutation(batch_size: int) -> None:
    main = ENVIRONMENTS[2].main.tolist()
    indices = drawn(make((0, 2), batch_size=batch_size), 1, 100 // batch_size + 2)
    passes = [indices[start : start + 20] for start in range(0, len(indices) - 19, 20)]

    assert len(passes) >= 5
    assert all(sorted(one) == main for one in passes)
    assert len({tuple(one) for one in passes}) == len(passes)


def test_permutation_batches_are_pieces_of_the_chain_of_permutations() -> None:
    main = ENVIRONMENTS[2].main
    chain = torch.cat(
        [
            main[torch.from_numpy(permutation(20, 3, "permutation", 2, number))]
            for number in range(9)
        ]
    )

    assert drawn(make((0, 2), batch_size=7), 1, 25) == chain[: 7 * 25].tolist()


def test_replacement_draws_every_row_on_its_own() -> None:
    main = ENVIRONMENTS[2].main
    chain = [main[integers(20, 20, 3, "replacement", 2, number)] for number in range(5)]
    stream = make((0, 2), batch_size=7, sampling="replacement")

    assert drawn(stream, 1, 14) == torch.cat(chain)[: 7 * 14].tolist()
    counts = Counter(drawn(stream, 1, 2000))
    assert len(set(drawn(stream, 1, 3)[:20])) < 20
    assert max(abs(count / 14_000 - 1 / 20) for count in counts.values()) < 5 * 0.00185


@pytest.mark.parametrize("sampling", ["permutation", "replacement"])
def test_a_batch_is_a_pure_function_of_its_step(sampling: Any) -> None:
    in_order = [batch for batch in make(sampling=sampling, batch_size=7)]
    stream = make(sampling=sampling, batch_size=7)
    torch.manual_seed(99)

    for step in (9, 0, 5, 5, 3, 8, 1):
        assert same(stream.batch(step), in_order[step])


def test_batches_depend_on_seed_and_step() -> None:
    assert not torch.equal(make(seed=3).batch(0).indices, make(seed=4).batch(0).indices)
    assert not torch.equal(make().batch(0).indices, make().batch(1).indices)


def test_an_environment_does_not_depend_on_its_companions() -> None:
    alone = drawn(make((2,)), 0, 20)

    assert drawn(make((0, 2)), 1, 20) == drawn(make((5, 2, 0)), 1, 20) == alone


def test_environments_of_equal_size_get_different_rows() -> None:
    data = ENVIRONMENTS[0]
    stream = TrainingStream(
        [MainSplit.of(0, data), MainSplit.of(1, data)], batch_size=40, seed=3, steps=1
    )

    assert drawn(stream, 0, 1) != drawn(stream, 1, 1)


@pytest.mark.parametrize("batch_size", [1, 2, 4, 127, "full"])
@pytest.mark.parametrize("sampling", ["permutation", "replacement"])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_share_the_global_batch(batch_size: Any, sampling: Any, world_size: int) -> None:
    options = {"batch_size": batch_size, "sampling": sampling}
    alone = make(**options)
    ranks = [make(**options, rank=rank, world_size=world_size) for rank in range(world_size)]

    for step in (0, 1, 13):
        whole = alone.batch(step)
        shards = [stream.batch(step) for stream in ranks]
        assert all(torch.equal(shard.counts, whole.counts) for shard in shards)
        for rank, shard in enumerate(shards):
            assert (shard.rows % world_size == rank).all()
        together = {name: torch.cat([getattr(s, name) for s in shards]) for name in FIELDS[:5]}
        order = (together["environment"] * 1000 + together["rows"]).argsort()
        for name in FIELDS[:5]:
            assert torch.equal(together[name][order], getattr(whole, name))


def test_a_rank_without_rows_gets_an_empty_batch() -> None:
    batch = make(batch_size=2, rank=2, world_size=3).batch(0)

    assert batch.inputs.shape == (0, 2)
    assert batch.counts.tolist() == [2, 2, 2]


def test_full_batches_share_their_tensors_and_keep_order() -> None:
    stream = make(batch_size="full")
    first, second = stream.batch(0), stream.batch(1)

    assert all(getattr(first, name) is getattr(second, name) for name in FIELDS)
    assert first.indices.tolist() == [
        index for number in (0, 2, 5) for index in ENVIRONMENTS[number].main.tolist()
    ]


def test_an_iteration_has_its_length_and_the_next_goes_on() -> None:
    stream = make(steps=6)
    first, second = list(stream), list(stream)

    assert len(stream) == len(first) == len(second) == 6
    for step, batch in enumerate(first + second):
        assert same(batch, make().batch(step))


@pytest.mark.parametrize("batch_size", [3, 7, 50, "full"])
@pytest.mark.parametrize("sampling", ["permutation", "replacement"])
@pytest.mark.parametrize("position", [0, 1, 4, 9])
def test_a_resumed_stream_goes_on_as_if_never_stopped(
    batch_size: Any, sampling: Any, position: int
) -> None:
    options = {"batch_size": batch_size, "sampling": sampling, "steps": 10}
    uninterrupted = list(make(**options))
    killed = make(**options)
    for _ in itertools.islice(killed, position):
        pass
    state = killed.state_dict()
    resumed = make(**options)
    resumed.load_state_dict(state)
    rest = list(resumed)

    assert state == {"position": position}
    assert len(rest) == 10 - position
    assert all(same(*pair) for pair in zip(rest, uninterrupted[position:], strict=True))


def test_state_counts_the_batch_in_use() -> None:
    stream = make()

    assert [stream.state_dict()["position"] for _ in stream] == list(range(1, 11))


def test_a_batch_stays_itself_where_nothing_moves() -> None:
    batch = make().batch(0)

    assert batch.to("cpu") is batch
    assert batch.to(torch.device("cpu"), non_blocking=True) is batch


def test_a_batch_moves_with_all_its_parts() -> None:
    moved = make().batch(0).to("meta", non_blocking=True)

    assert {getattr(moved, name).device.type for name in FIELDS} == {"meta"}


def test_a_stream_makes_its_batches_on_its_device() -> None:
    batch = make(device="meta", batch_size="full").batch(0)

    assert {getattr(batch, name).device.type for name in FIELDS} == {"meta"}


def test_nothing_to_train_on_is_refused() -> None:
    empty = EnvironmentData(
        inputs=torch.zeros(0, 2),
        targets=torch.zeros(0, dtype=torch.int64),
        sources=torch.zeros(0, dtype=torch.int64),
        main=torch.zeros(0, dtype=torch.int64),
        holdout=torch.zeros(0, dtype=torch.int64),
    )

    with pytest.raises(DataError, match="each needs one at least"):
        TrainingStream([MainSplit.of(0, empty)], batch_size=1, seed=0, steps=1)
    with pytest.raises(DataError, match="each needs one at least"):
        TrainingStream([], batch_size=1, seed=0, steps=1)
