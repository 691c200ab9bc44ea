"""Who reads what, without a trainer."""

from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import Dataset

from maskfeat.data.schedule import PlaceSampler, ResumableLoader, places_of, sample_at


class Places(Dataset):
    def __getitem__(self, place):
        return place


@given(num_samples=st.integers(1, 50), seed=st.integers(0, 5), number=st.integers(0, 4))
@settings(max_examples=50, deadline=None)
def test_each_pass_holds_every_sample_once(num_samples: int, seed: int, number: int) -> None:
    start = number * num_samples
    order = [sample_at(start + i, num_samples, seed) for i in range(num_samples)]
    assert sorted(order) == list(range(num_samples))


def test_passes_differ_and_seeds_differ() -> None:
    orders = {
        (seed, number): tuple(sample_at(number * 30 + i, 30, seed) for i in range(30))
        for seed in range(3)
        for number in range(3)
    }
    assert len(set(orders.values())) == 9


@given(
    epoch=st.integers(0, 5),
    epoch_images=st.integers(0, 200),
    world_size=st.integers(1, 5),
    batch_size=st.integers(1, 8),
)
@settings(max_examples=100, deadline=None)
def test_ranks_share_an_epoch_equally_and_read_nothing_twice(
    epoch: int, epoch_images: int, world_size: int, batch_size: int
) -> None:
    parts = [
        places_of(epoch, epoch_images, rank, world_size, batch_size) for rank in range(world_size)
    ]
    assert len({len(part) for part in parts}) == 1
    assert len(parts[0]) % batch_size == 0
    together = sorted(place for part in parts for place in part)
    first = epoch * epoch_images
    assert together == list(range(first, first + len(together)))
    assert epoch_images - len(together) < batch_size * world_size


def test_a_global_step_reads_the_same_places_on_any_number_of_ranks() -> None:
    def steps(world_size: int) -> list[set[int]]:
        batch_size = 12 // world_size
        parts = [places_of(2, 40, rank, world_size, batch_size) for rank in range(world_size)]
        return [
            {p for part in parts for p in part[s * batch_size : (s + 1) * batch_size]}
            for s in range(3)
        ]

    assert steps(1) == steps(2) == steps(3) == steps(4)


def test_a_loader_goes_on_where_it_was_stopped_and_later_epochs_are_whole() -> None:
    def loader() -> ResumableLoader:
        places = PlaceSampler(epoch_images=20, batch_size=4, rank=0, world_size=1)
        return ResumableLoader(Places(), places, num_workers=0)

    whole = loader()
    whole.schedule.set_epoch(3)
    unbroken = [batch.tolist() for batch in whole]

    broken = loader()
    broken.schedule.set_epoch(3)
    batches = iter(broken)
    begun = [next(batches).tolist() for _ in range(2)]
    assert broken.num_given == 2
    resumed = loader()
    resumed.schedule.num_done = broken.num_given
    resumed.schedule.set_epoch(3)
    assert len(resumed) == 5  # the trainer counts whole epochs
    assert begun + [batch.tolist() for batch in resumed] == unbroken
    assert resumed.num_given == 5
    resumed.schedule.set_epoch(4)
    assert len(list(resumed)) == 5
