"""Images into crops: the decode-once cache, the loader, and an order that a resumed run falls into at any step."""

from __future__ import annotations

import io
import os
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import BatchSampler, Dataset, Sampler

from densebench.core.errors import CorruptFileError, DensebenchError, StorageError, UsageError
from densebench.core.locks import lock
from densebench.core.paths import cache_dir, sweep, temporary_name, write_atomically
from densebench.core.states import is_whole
from densebench.datasets.dataset import DenseDataset
from densebench.methods.configs.train import TrainConfig
from densebench.methods.crops import CropConfig, Crops, crop, generator, stack
from densebench.views.loading import load

Report = Callable[[int, int], None]
"""Told (done, of how many) while a cache is being made."""


class Samples(Protocol):
    """What an epoch goes through: `TrainingImages`, or what a method makes of them (see `Method.samples`)."""

    @property
    def ids(self) -> Sequence[str]:
        """The image that each sample is made of, for messages."""
        ...

    def __len__(self) -> int:
        """Return the number of samples in an epoch."""
        ...

    def crops(self, index: int, config: CropConfig, rng: np.random.Generator) -> Crops:
        """Make one sample; everything random in it comes from `rng`. Raises DensebenchError for unreadable files."""
        ...


class TrainingImages:
    """The images of a dataset as (3, H, W) uint8 tensors, decoded at every call; each is a sample."""

    def __init__(self, dataset: DenseDataset, n: int | None = None) -> None:
        what = f"{dataset.info.name}, split {dataset.split},"
        if not len(dataset):
            raise UsageError(f"{what} holds no images.")
        if n is not None and not 1 <= n <= len(dataset):
            raise UsageError(f"images={n}: {what} holds {len(dataset)}; images=none takes all.")
        self.dataset = dataset
        self.n = n or len(dataset)

    @property
    def ids(self) -> Sequence[str]:
        """The id of each image."""
        return self.dataset.ids

    def __len__(self) -> int:
        return self.n

    def pil(self, index: int) -> Image.Image:
        """Decode one image; raises CorruptFileError that names it."""
        try:
            return self.dataset.image(index).convert("RGB")
        except (CorruptFileError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            id_, name = self.dataset.ids[index], self.dataset.info.name
            raise CorruptFileError(
                f"image {id_} of {name} cannot be read ({error.__cause__ or error}). Replace or remove the file, or "
                "train with --set skip_corrupt=true, which leaves such images out.",
                id_,
                index,
            ) from error

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(np.array(self.pil(index))).permute(2, 0, 1)

    def crops(self, index: int, config: CropConfig, rng: np.random.Generator) -> Crops:
        """Draw and cut all crops of one image."""
        return crop(self[index], config, rng)


class CachedImages(TrainingImages):
    """The same, read from one file of raw pixels in the cache folder that is made on first use.

    A table beside it holds the size of each image and a sum of its pixels, which every read checks: 3 GB/s on one
    core. What is damaged is decoded again.
    """

    def __init__(
        self, dataset: DenseDataset, n: int | None, side: int, workers: int = 0, report: Report | None = None
    ) -> None:
        super().__init__(dataset, n)
        self.side = side
        name = re.sub(r"[^\w.]+", "_", dataset.info.name).strip("._")[-60:]  # of a folder it is a path
        key = f"{name}-{dataset.split}-{dataset.digest()[:16]}-{self.n}-{side}"
        self.path = cache_dir() / "pixels" / f"{key}.bin"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with lock(self.path.with_name(f"{self.path.name}.lock")):
                found = self._table()
                if found is None:
                    self._fill(workers, report)
                    found = self._table()
            if found is None:
                raise OSError("what was written cannot be read")
        except OSError as error:
            raise StorageError(
                f"cannot write the image cache {self.path} ({error.strerror or error}). "
                "Free space, set DENSEBENCH_CACHE to another disk, or train with --set cache=none."
            ) from error
        self.shapes, self.sums = found  # (n, 2) height, width; (n,) CRC-32
        self.starts = _starts(self.shapes)
        self.pixels: NDArray[np.uint8] | None = None

    def __getitem__(self, index: int) -> Tensor:
        height, width = self.shapes[index]
        if not height:
            return super().__getitem__(index)  # says what is wrong with it
        if self.pixels is None:  # opened late, so that each loader worker maps the file itself
            self.pixels = np.memmap(self.path, np.uint8, mode="r")
        flat = np.array(self.pixels[self.starts[index] : self.starts[index + 1]])
        if zlib.crc32(flat.data) != self.sums[index]:
            flat = _Decode(self, self.side)[index].flatten()
            if not flat.size:
                return super().__getitem__(index)
        return torch.from_numpy(flat.reshape(height, width, 3)).permute(2, 0, 1)

    def _table(self) -> tuple[NDArray[np.int64], NDArray[np.uint32]] | None:
        """Return sizes and sums of all images; None where they or the pixels are not there, torn or damaged."""
        path = self.path.with_suffix(".npz")
        if not is_whole(path):
            return None
        with np.load(path) as table:
            shapes, sums = table["shapes"], table["sums"]
        whole = self.path.is_file() and self.path.stat().st_size == _starts(shapes)[-1]
        return (shapes, sums) if whole and len(shapes) == self.n else None

    def _fill(self, workers: int, report: Report | None) -> None:
        blocks = BatchSampler(range(self.n), 16, drop_last=False)
        loader = load(_Decode(self, self.side), blocks, workers, list, ids=self.ids)
        shapes: list[tuple[int, ...]] = []
        sums: list[int] = []
        sweep(self.path.parent)
        temporary = temporary_name(self.path)
        try:
            with open(temporary, "xb") as file:
                for batch in loader:
                    for pixels in batch:
                        file.write(pixels.tobytes())
                        shapes.append(pixels.shape[:2])
                        sums.append(zlib.crc32(pixels.tobytes()))
                    if report:
                        report(len(shapes), self.n)
                file.flush()
                os.fsync(file.fileno())
            table = io.BytesIO()
            np.savez(table, shapes=np.array(shapes, dtype=np.int64), sums=np.array(sums, dtype=np.uint32))
            temporary.replace(self.path)
            write_atomically(self.path.with_suffix(".npz"), table.getvalue())
        finally:
            temporary.unlink(missing_ok=True)


def _starts(shapes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where the pixels of each image begin, and the end of the last, for heights and widths (n, 2)."""
    return np.concatenate([[0], np.cumsum(shapes.prod(1) * 3)])


class _Decode(Dataset[Any]):
    """Decoded images whose longer side is at most `side`, (H, W, 3) uint8; (0, 0, 3) for one that cannot be read."""

    def __init__(self, images: TrainingImages, side: int) -> None:
        self.images, self.side = images, side

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        try:
            image = self.images.pil(index)
        except CorruptFileError:
            return np.zeros((0, 0, 3), dtype=np.uint8)
        scale = self.side / max(image.size)
        if scale < 1:
            size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
            image = image.resize(size, Image.Resampling.BILINEAR)
        return np.asarray(image)


class _Cut(Dataset[Any]):
    """Crops of (epoch, sample) and the ids left out on the way to them, or the error of reading an image.

    Errors cross process borders as values, unwrapped. With `skip_corrupt` the next sample that can be read stands in.
    """

    def __init__(self, samples: Samples, config: TrainConfig) -> None:
        self.samples, self.config = samples, config

    def __getitem__(self, at: tuple[int, int]) -> tuple[Crops, list[str]] | DensebenchError:
        left_out: list[str] = []
        rng = generator(self.config.seed, *at)
        while True:
            try:
                index = (at[1] + len(left_out)) % len(self.samples)
                return self.samples.crops(index, self.config, rng), left_out
            except CorruptFileError as error:
                left_out.append(error.path)
                if not self.config.skip_corrupt:
                    return error
                if len(left_out) == len(self.samples):
                    return CorruptFileError(
                        f"the images of all {len(left_out)} samples cannot be read (first: {left_out[0]}). "
                        "`densebench data check` with the dataset or folder says what is wrong with each."
                    )
            except DensebenchError as error:
                return error


class _Order(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, sample) from a step on: a new permutation per epoch, the incomplete batch left out.

    `share` = (i, n): the i-th of n equal parts of every batch.
    """

    def __init__(self, n: int, batch: int, epochs: int, seed: int, start: int, share: tuple[int, int] = (0, 1)) -> None:
        self.n, self.batch, self.epochs, self.seed, self.start = n, batch, epochs, seed, start
        part = batch // share[1]
        self.part = slice(part * share[0], part * (share[0] + 1))

    def __len__(self) -> int:
        return self.n // self.batch * self.epochs - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        per_epoch = self.n // self.batch
        for epoch in range(self.start // per_epoch, self.epochs):
            order = generator(self.seed, epoch).permutation(self.n)
            first = max(0, self.start - epoch * per_epoch)
            for i in range(first, per_epoch):
                yield [(epoch, int(s)) for s in order[i * self.batch : (i + 1) * self.batch][self.part]]


def _collate(samples: list[tuple[Crops, list[str]] | DensebenchError]) -> tuple[Crops, list[str]] | DensebenchError:
    error = next((s for s in samples if isinstance(s, DensebenchError)), None)
    good = [s for s in samples if not isinstance(s, DensebenchError)]
    return error or (stack([crops for crops, _ in good]), [id_ for _, ids in good for id_ in ids])


def batches(
    samples: Samples,
    config: TrainConfig,
    start: int,
    workers: int,
    pin: bool,
    share: tuple[int, int] = (0, 1),
    left_out: set[str] | None = None,
) -> Iterator[Crops]:
    """Yield the crops of one update after the other from step `start` on; the same for any number of workers.

    `share` = (i, n) yields the i-th of n equal parts of every batch. Ids of images that cannot be read are added to
    `left_out` with `skip_corrupt`; without, the error of the first is raised.
    """
    order = _Order(len(samples), config.batch, config.epochs, config.seed, start, share)
    for batch in load(_Cut(samples, config), order, workers, _collate, ids=samples.ids, pin_memory=pin):
        if isinstance(batch, DensebenchError):
            raise batch
        crops, ids = batch
        if left_out is not None:
            left_out.update(ids)
        yield crops
