"""Making pseudo-labels of images without annotations, from a backbone's own features; `label_folder` reads them.

It follows section 3.2 of "DIP: Unsupervised Dense In-Context Post-training of Visual Representations": segments
per image, k-means of their mean features over all images, each patch to its nearest centroid, each segment to the
class that most of its patches have. DIP takes its segments from a diffusion model (DiffCut); those of the segmenter
`features` come from the backbone that the labels are made with.
"""

from __future__ import annotations

import hashlib
import io
import json
import shlex
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from densebench.core.environment import environment, pick_device
from densebench.core.errors import DensebenchError, FeatureError, UsageError
from densebench.core.paths import claim, write_atomically
from densebench.core.progress import Progress
from densebench.core.regular import parse_json, read_text
from densebench.core.resampling import RESAMPLING
from densebench.core.states import is_whole
from densebench.datasets.user.images import digest, load_images
from densebench.methods.data import TrainingImages
from densebench.methods.label_folder import ABOUT, PAIRS, PUBLISHED_CLASSES, read_map, write_map
from densebench.methods.names import SEGMENTERS, Segmenter
from densebench.model_zoo import load_model
from densebench.model_zoo.backbone import Backbone
from densebench.ops.clustering import KMeansInfo, kmeans
from densebench.ops.lloyd import assign
from densebench.ops.resize import nearest_index
from densebench.ops.search import search
from densebench.views.loading import explained, load

BLOCK = 32
"""Images that go through the backbone together, always the same ones: a resumed run repeats the numbers."""

IntMap = NDArray[np.integer[Any]]


@dataclass(frozen=True, kw_only=True)
class LabelConfig:
    """How pseudo-labels are made; what DIP's text leaves open is marked."""

    classes: int = PUBLISHED_CLASSES
    segmenter: str = "features"
    size: int
    """Side in pixels that images are squashed to, a multiple of the patch."""
    neighbours: int = 5
    """Images nearest to a query among which its positives are."""
    share: float = 0.05
    """A positive has a class in common with its query that covers more than this share of both images (open)."""
    iterations: int = 50
    """Of k-means (open)."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 2 <= self.classes <= 2**16:
            raise UsageError(f"--classes {self.classes}: expected 2 to {2**16}, what a PNG can hold.")
        if not 0 <= self.share < 1:
            raise UsageError(f"--share {self.share}: expected 0 or more and less than 1.")


@dataclass(frozen=True)
class LabelResult:
    """What `pseudolabel` left behind."""

    folder: Path
    about: dict[str, Any]

    def __str__(self) -> str:
        a = self.about
        return (
            f"{a['data']['images']} label maps of {a['data']['name']}/{a['data']['split']}: {a['segments']} segments, "
            f"{a['settings']['classes']} classes, {a['pairs']} pairs; {self.folder}"
        )


def pseudolabel(
    *,
    model: str,
    data: str,
    out: str | Path,
    split: str | None = None,
    limit: int | None = None,
    classes: int = PUBLISHED_CLASSES,
    segmenter: str = "features",
    size: int | None = None,
    share: float = 0.05,
    seed: int = 0,
    device: str = "auto",
    workers: int = 0,
    data_root: str | Path | None = None,
    weights: str | Path | None = None,
    quiet: bool = False,
) -> LabelResult:
    """Make pseudo-labels and pairs of the images of `data` in the folder `out`; an interrupted run goes on.

    Args:
        model: whose features make segments and classes.
        data: names, files of one's own, folders or several of these, see `datasets/user/images.py`; labels are
            never read.
        out: a folder that is new, or that the same settings have begun to fill.
        split: None = `unlabelled` where the dataset has one, else its train split, as for `densebench train`.
        limit: only the first so many images.
        classes: number of pseudo-classes.
        segmenter: a name in SEGMENTERS.
        size: side in pixels that images are squashed to; None = 224, or the multiple of the patch below.
        share: see LabelConfig.
        seed: of k-means.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        workers: processes that decode images; they change no result.
        data_root: where the dataset lives on this machine.
        weights: local weights for a `timm/NAME`.
        quiet: no progress.

    Raises UsageError for settings that cannot work or differ from those `out` was begun with.
    """
    backbone = load_model(model, weights)
    patch = backbone.info.patch
    side = 224 // patch * patch if size is None else size
    if side < patch or side % patch:
        raise UsageError(f"--size {side} is not a multiple of the patch size of {backbone.info.name}, {patch}.")
    config = LabelConfig(classes=classes, segmenter=segmenter, size=side, share=share, seed=seed)
    segment = SEGMENTERS[segmenter]
    dataset = load_images(data, split, data_root)
    images = TrainingImages(dataset, limit)
    unfit = next((id_ for id_ in dataset.ids if ":" in id_ or not id_.isprintable()), None)
    if unfit:
        raise UsageError(f"the image {unfit!r} cannot stand in a list of pairs: a colon, or a line break; rename it.")
    about = {
        "schema": 1,
        "complete": False,
        "command": _command(model, data, out, split, limit, config, size),
        "model": {"name": model, "weights_sha256": backbone.weights_digest()},
        "data": {
            "name": dataset.info.name,
            "split": dataset.split,
            "images": len(images),
            "of": len(dataset),
            "digest": digest(dataset),
            "version": getattr(dataset, "version", None),
        },
        "settings": asdict(config),
    }
    where = pick_device(device)
    with claim(Path(out), "making labels") as folder:
        begun = _begin(folder, about)
        if begun["complete"] and all((folder / f"{id_}.png").exists() for id_ in dataset.ids[: len(images)]):
            return LabelResult(folder, begun)
        maker = _Maker(backbone.to(where), images, folder, config, segment, workers, Progress(quiet))
        try:
            with explained():
                about |= {"complete": True, **maker.make(), "environment": environment(where)}
        except UsageError:  # with these settings it will not go on: leave the folder to others
            shutil.rmtree(maker.work, ignore_errors=True)
            (folder / ABOUT).unlink()
            raise
        write_atomically(folder / ABOUT, json.dumps(about, indent=2) + "\n")
        shutil.rmtree(maker.work)
    return LabelResult(folder, about)


def _begin(folder: Path, about: dict[str, Any]) -> dict[str, Any]:
    """Return what the folder says of itself, `about` where it is new; raises UsageError if it is of other settings."""
    path = folder / ABOUT
    if not path.exists():
        if next(folder.rglob("*.png"), None):  # they would be taken for finished maps
            raise UsageError(f"{folder} holds images but no {ABOUT}: not made here. Choose another --out.")
        write_atomically(path, json.dumps(about, indent=2) + "\n")
        return about
    now = _decisive(about)
    try:
        begun = parse_json(read_text(path))
        then = _decisive(begun)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UsageError(
            f"{path} is damaged ({error}). Remove {folder} and make the labels again, or choose another --out."
        ) from error
    changed = [f"{key} was {then.get(key)}, now {now[key]}" for key in now if now[key] != then.get(key)]
    if changed:
        raise UsageError(f"{folder} holds labels of other settings: {'; '.join(changed)}. Choose another --out.")
    return begun


def _decisive(about: dict[str, Any]) -> dict[str, Any]:
    """Return what labels depend on."""
    return {
        **about["settings"],
        "model": about["model"]["weights_sha256"],
        "data": about["data"]["digest"],
        "images": about["data"]["images"],
    }


class _Maker:
    """The stages of making: segments and their means, k-means, label maps, pairs. What a stage has written is kept."""

    def __init__(
        self,
        backbone: Backbone,
        images: TrainingImages,
        folder: Path,
        config: LabelConfig,
        segment: Segmenter,
        workers: int,
        progress: Progress,
    ) -> None:
        self.backbone, self.images, self.folder, self.config = backbone, images, folder, config
        self.segment, self.workers, self.progress = segment, workers, progress
        self.ids = images.dataset.ids[: len(images)]
        self.work = folder / ".work"
        self.blocks = [list(range(i, min(i + BLOCK, len(images)))) for i in range(0, len(images), BLOCK)]

    def make(self) -> dict[str, Any]:
        """Run all stages and return what the folder then says of its contents."""
        self._segments()
        means = [self._kept(block, "means") for block in self.blocks]
        centroids, info = self._cluster(torch.from_numpy(np.concatenate(means)))
        self._maps(centroids)
        frequent, digest = self._frequent()
        pairs = self._pairs(frequent)
        lines = "".join(f"{self.ids[q]}.png: {self.ids[p]}.png\n" for q, p in pairs)
        write_atomically(self.folder / PAIRS, lines)
        return {
            "segments": sum(len(m) for m in means),
            "kmeans": info._asdict(),
            "pairs": len(pairs),
            "maps_sha256": digest,
        }

    def _segments(self) -> None:
        """Segment each image and keep its map, its segments' mean features and its own."""
        todo = [block for block in self.blocks if not is_whole(self._shard(block))]
        for block, features, pixels, _ in self._features(todo, "segments"):
            values = features.cpu().numpy()
            maps, means = [], []
            for i, image in enumerate(pixels.permute(0, 2, 3, 1).numpy()):
                found = np.asarray(self.segment(values[i], image))
                if found.shape != values.shape[1:3]:
                    raise UsageError(
                        f"the segmenter {self.config.segmenter} returned {found.shape} for {self.ids[block[i]]}; "
                        f"expected a map {values.shape[1:3]}, one number per patch."
                    )
                numbers = np.unique(found, return_inverse=True)[1].ravel()
                rows = values[i].reshape(len(numbers), -1)
                sums = np.zeros((numbers.max() + 1, rows.shape[1]))
                np.add.at(sums, numbers, rows)
                maps.append(numbers.reshape(found.shape).astype(np.uint16))
                means.append((sums / np.bincount(numbers)[:, None]).astype(np.float32))
            buffer = io.BytesIO()
            np.savez(
                buffer, maps=np.stack(maps), means=np.concatenate(means), images=values.mean((1, 2), dtype=np.float64)
            )
            write_atomically(self._shard(block), buffer.getvalue())

    def _cluster(self, means: Tensor) -> tuple[Tensor, KMeansInfo]:
        k = self.config.classes
        if len(means) < k:
            raise UsageError(
                f"{len(self.images)} images have {len(means)} segments, too few for {k} classes. "
                "Give fewer --classes, or more images."
            )
        self.progress.say(f"k-means of {len(means)} segments into {k} classes")
        return kmeans(means, k, self.config.seed, n_iter=self.config.iterations, n_redo=1)

    def _maps(self, centroids: Tensor) -> None:
        """Write the label map of each image at the image's size; those that are there stay."""
        todo = [b for b in self.blocks if not all((self.folder / f"{self.ids[i]}.png").exists() for i in b)]
        k = len(centroids)
        for block, features, _, sizes in self._features(todo, "label maps"):
            nearest = assign(features.flatten(0, 2), centroids.to(features.device)).view(len(block), -1).cpu().numpy()
            segments = self._kept(block, "maps")
            for i, index in enumerate(block):
                path = self.folder / f"{self.ids[index]}.png"
                if path.exists():
                    continue
                numbers = segments[i].astype(np.int64).ravel()
                votes = np.bincount(numbers * k + nearest[i], minlength=(numbers.max() + 1) * k).reshape(-1, k)
                labels = votes.argmax(1)[segments[i]]
                rows, columns = (
                    nearest_index(n, wanted).numpy() for n, wanted in zip(labels.shape, sizes[i], strict=True)
                )
                write_map(path, labels[rows[:, None], columns])

    def _frequent(self) -> tuple[list[set[int]], str]:
        """Return the classes that cover more than the stated share of each image, and a digest of all maps."""
        digest = hashlib.sha256()
        found = []
        for id_ in self.progress.track(self.ids, "classes", len(self.ids)):
            path = self.folder / f"{id_}.png"
            labels = read_map(path)
            counts = torch.bincount(labels.flatten())
            found.append(set((counts > self.config.share * labels.numel()).nonzero().flatten().tolist()))
            digest.update(f"{id_}:".encode() + path.read_bytes())
        return found, digest.hexdigest()

    def _pairs(self, frequent: Sequence[set[int]]) -> list[tuple[int, int]]:
        """Return (query, positive): of the nearest images by mean feature, those that share a frequent class."""
        means = np.concatenate([self._kept(block, "images") for block in self.blocks])
        near = nearest_images(torch.from_numpy(means).float(), self.config.neighbours).tolist()
        return [(q, p) for q, row in enumerate(near) for p in row if frequent[q] & frequent[p]]

    def _shard(self, block: Sequence[int]) -> Path:
        return self.work / f"{block[0]:08}.npz"

    def _kept(self, block: Sequence[int], name: str) -> NDArray[Any]:
        with np.load(self._shard(block)) as shard:
            return shard[name]

    def _features(
        self, blocks: list[list[int]], label: str
    ) -> Iterator[tuple[list[int], Tensor, Tensor, list[tuple[int, int]]]]:
        """Yield (positions, features (B, h, w, D), pixels (B, 3, S, S), heights and widths of the images)."""
        info = self.backbone.info
        reader = _Squash(self.images, self.config.size, RESAMPLING[info.interpolation])
        workers = self.workers if len(blocks) > 1 else 0
        loader = load(reader, blocks, workers, list, ids=self.ids)
        for block, items in zip(blocks, self._progress(loader, label, blocks), strict=True):
            error = next((item for item in items if isinstance(item, DensebenchError)), None)
            if error:
                raise error
            pixels = torch.stack([item[0] for item in items])
            with torch.inference_mode():
                maps = self.backbone.dense(pixels.to(self.backbone.device).float() / 255).maps[0]
            if not maps.isfinite().all():
                bad = int((~maps.flatten(1).isfinite().all(1)).nonzero()[0])
                raise FeatureError(f"{info.name} returned features that are not finite for {self.ids[block[bad]]}.")
            yield block, maps.float().permute(0, 2, 3, 1), pixels, [item[1] for item in items]

    def _progress(self, loader: Iterable[Any], label: str, blocks: list[list[int]]) -> Iterator[list[Any]]:
        batches = (_SizedBatch(items) for items in loader)
        total = sum(map(len, blocks))
        return (batch.items for batch in self.progress.track(batches, label, total, size="items"))


@dataclass(frozen=True)
class _SizedBatch:
    """A batch whose length a progress bar can read."""

    items: list[Any]


class _Squash(Dataset[Any]):
    """Images squashed to a square, (3, S, S) uint8, with their own (height, width); or the error of reading one."""

    def __init__(self, images: TrainingImages, side: int, resampling: Image.Resampling) -> None:
        self.images, self.side, self.resampling = images, side, resampling

    def __getitem__(self, index: int) -> tuple[Tensor, tuple[int, int]] | DensebenchError:
        try:
            image = self.images.pil(index)
        except DensebenchError as error:
            return error
        pixels = np.array(image.resize((self.side, self.side), self.resampling))
        return torch.from_numpy(pixels).permute(2, 0, 1), (image.height, image.width)


def nearest_images(features: Tensor, k: int) -> Tensor:
    """Return the positions (N, k) of the other images most similar by cosine, nearest first; k < N, else N - 1."""
    unit = F.normalize(features, dim=1)
    k = min(k, len(unit) - 1)
    found = search(unit, unit, k + 1).indices
    own = found == torch.arange(len(unit))[:, None]
    own[~own.any(1), -1] = True  # an image with more twins than that need not find itself
    return found[~own].view(len(unit), k)


def _command(
    model: str, data: str, out: str | Path, split: str | None, limit: int | None, config: LabelConfig, size: int | None
) -> str:
    """Return the command line that makes these labels."""
    flags = {"model": model, "data": data, "out": out, "split": split, "limit": limit, "size": size}
    flags |= {key: getattr(config, key) for key in ("classes", "segmenter", "share", "seed")}
    words = [word for key, value in flags.items() if value is not None for word in (f"--{key}", str(value))]
    return shlex.join(["densebench", "pseudolabel", *words])
