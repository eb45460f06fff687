"""A data set in shards, as `mnv2 shards` writes any: of a folder, or streamed from S3, Google Cloud or the web."""

from collections.abc import Sequence
from pathlib import Path

from mnv2_tasks.datasets.reading.classes import BACKGROUND, check_choice, choose_classes
from mnv2_tasks.datasets.reading.places import default_cache
from mnv2_tasks.datasets.reading.shard_index import SideIndex, read_index
from mnv2_tasks.datasets.reading.shard_split import Classes, ShardSplit
from mnv2_tasks.datasets.reading.sides import no_train
from mnv2_tasks.errors import InputError

MIXED = 16  # shards at a time, where the cache has room for them


class Shards:
    """Shards and their index.

    Start-up and memory do not grow with the images: what is known of each lies in columns that are mapped from disk.
    No file is read by a way that could run what it holds.

    Args:
        root: the folder, or an address such as s3://bucket/folder; then `pip install 'mnv2_tasks[shards]'`.
        classes: names in the order of the class indices, others being left out; None: as they were written.
        cache: folder for what is fetched from an address; None: ~/.cache/mnv2_tasks/shards.
        cache_gb: of shards in it; what was unused longest goes first.
        window: how many shards training mixes at a time. None: of a folder all, which is the order that the plain files
            would have; of an address as many as half of the cache holds, at most 16.

    Raises InputError for an index or shards that are missing, cut short or of another program.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        classes: Sequence[str] | None = None,
        cache: str | Path | None = None,
        cache_gb: float = 20.0,
        window: int | None = None,
    ) -> None:
        if not isinstance(cache_gb, (int, float)) or not cache_gb > 0:
            raise InputError(f"data.cache_gb={cache_gb}: give how many GB of shards to keep, above 0")
        if window is not None and (type(window) is not int or window < 1):
            raise InputError(f"data.window={window}: give how many shards to mix at a time, or null")
        folder = Path(cache).expanduser() if cache else default_cache()
        self.index = read_index(root, cache=folder, most=int(cache_gb * 1e9))
        self.root = root
        self.window = window
        self.cache_gb = cache_gb
        self.provides = self.index.provides
        self._choice = check_choice(classes)
        if self._choice is not None:
            self.provides = dict.fromkeys(self.provides, self._chosen(self._choice))
            whole = self.index.provides
            if set(self.provides) != {"segmentation"} and whole.get("segmentation", ("",))[0] == BACKGROUND:
                self.provides["segmentation"] = (BACKGROUND, *self.provides["segmentation"])
        self._splits: dict[str, ShardSplit] = {}

    def split(self, name: str) -> ShardSplit | None:
        """The samples of "train", "val" or "test"; None where there are none."""
        if name == "train" and name not in self.index.sides:
            raise no_train(self.index.place.root, self.index.sides, fix="write its shards too")
        if name not in self.index.sides:
            return None
        if name not in self._splits:
            self._splits[name] = self._make(self.index.sides[name], self.index.provides)
        return self._splits[name]

    def _make(self, side: SideIndex, classes: Classes) -> ShardSplit:
        place, window = self.index.place, self.window
        largest = max(side.sizes)
        if place.remote:
            room = int(self.cache_gb * 1e9 / 2 / largest)
            if room < (window or 1):
                raise InputError(
                    f"data.cache_gb={self.cache_gb}: {window or 1} shards of {largest / 1e9:.2g} GB are read while as "
                    "many are fetched; give room for both, or write smaller shards with shard_mb"
                )
            window = window or min(room, MIXED)
        else:
            for file, size in zip(side.names, side.sizes, strict=True):
                place.path(file, size)
        split = ShardSplit(place, side, classes, window=window)
        if self._choice is None:
            return split
        kind = "detection" if "detection" in self.provides else next(iter(self.provides))
        return split.only(self.provides[kind])

    def _chosen(self, choice: Sequence[str]) -> tuple[str, ...]:
        kinds = self.index.provides
        first = next((kind for kind in ("detection", "multilabel") if kind in kinds), next(iter(kinds)))
        names = kinds[first]
        if first != "segmentation":
            return choose_classes(self.index.place.root, names, choice)
        chosen = choose_classes(self.index.place.root, (*dict.fromkeys((*names, BACKGROUND)),), choice)
        others = [name for name in names if name not in (*chosen, BACKGROUND)]
        return chosen if BACKGROUND in chosen or not (others or BACKGROUND in names) else (BACKGROUND, *chosen)
