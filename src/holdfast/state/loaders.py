"""Choose how the place of a run in its data is kept, by what its loader lets one know. Reads no data itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch.utils.data import DataLoader, IterableDataset, IterDataPipe, MapDataPipe

from holdfast.state.feeds import Keeping, Rereading, keeps_state
from holdfast.state.indexed import Indexed, Streaming

_OWN = ("__iter__", "_get_iterator", "_index_sampler")


def feed(loader: Any) -> Keeping | Rereading | Indexed:
    """The feed of a loader.

    - With ``state_dict`` and ``load_state_dict`` it knows its place itself; likewise a dataset without indices that is
      iterated in this process.
    - A torch loader of a dataset with indices goes on at any of them.
    - A torch loader of another dataset, a subclass that iterates in a way of its own, and any other iterable is read
      again from its beginning.
    """
    if keeps_state(loader):
        return Keeping(loader)
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterDataPipe | MapDataPipe):
        return Rereading(loader)
    stream = isinstance(loader.dataset, IterableDataset)
    if stream and keeps_state(loader.dataset) and not loader.num_workers:
        return Keeping(loader)
    if any(getattr(type(loader), name) is not getattr(DataLoader, name) for name in _OWN):
        return Rereading(loader)
    return Streaming(loader) if stream else Indexed(loader)


def tell_epoch(loader: Any, epoch: int) -> None:
    """Tell the samplers of a loader that ask for it which epoch comes."""
    batches = getattr(loader, "batch_sampler", None)
    told: list[Any] = []
    for sampler in (getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None)):
        tell = getattr(sampler, "set_epoch", None)
        if callable(tell) and not any(sampler is one for one in told):
            told.append(sampler)
            tell(epoch)


class Place:
    """A loader to train on in a loop of somebody's own: counts the batches that it hands out.

    One that knows its place itself may be iterated without it; its state is its own then.

    Args:
        loader: The loader.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.loader = loader
        self._feed = feed(loader)
        self._epoch, self._done, self._over = -1, 0, True
        self._saved: dict[str, Any] | None = None

    def batches(self, epoch: int) -> Iterator[Any]:
        """The batches of an epoch; without those that were done, of the one that a loaded state stood in."""
        saved, self._saved = self._saved, None
        tell_epoch(self._feed.loader, epoch)
        done, all_done = 0, False
        if saved is not None:
            within, place = saved["epoch"] == epoch, saved["place"]
            all_done = within and place["over"]
            done = place["done"] if within and not all_done else 0
            self._feed.load_state_dict(place if within else {**place, "over": True})
        self._epoch, self._done, self._over = epoch, done, all_done
        if all_done:
            return
        for batch in self._feed.begin():
            self._done += 1
            yield batch
        self._over = True

    def state_dict(self) -> dict[str, Any]:
        """Where it is: in an epoch, after so many of its batches."""
        if self._saved is not None:
            return self._saved
        if self._epoch < 0 and keeps_state(self.loader):
            own: dict[str, Any] = self.loader.state_dict()  # type: ignore[attr-defined]
            return own
        return {"epoch": self._epoch, "place": self._feed.state_dict(self._done, over=self._over)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Stand there: the next ``batches`` goes on."""
        if keeps_state(self.loader) and set(state) != {"epoch", "place"}:
            self.loader.load_state_dict(state)  # type: ignore[attr-defined]
        else:
            self._saved = dict(state)

    def inexact(self) -> list[str]:
        """Why what is left of the epoch that it was told to stand in is not what would have come."""
        return [] if self._saved is None else self._feed.inexact(self._saved["place"])


def placed(objects: Mapping[str, Any]) -> dict[str, Any]:
    """The objects, with a ``Place`` for each of torch's loaders."""
    return {name: Place(one) if isinstance(one, DataLoader) else one for name, one in objects.items()}
