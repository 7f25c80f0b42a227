"""`densebench train` and what belongs to it: pseudo-labels, and what a run costs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, UseAppendAction, arg

from densebench.cli.options import DataRoot, Debug, Device, Quiet, Workers
from densebench.core.config import split_pair

Images = Annotated[
    str,
    arg(
        metavar="A[,B,...]",
        help="Images: datasets by name, FILE.toml or FILE.py:Class, each with its split (voc:train) or not; folders.",
    ),
]


@dataclass
class Train:
    """Make a zoo checkpoint: post-train a model on images without labels.

    Examples:
      densebench train paka --base pico --data scenes --name my_paka
      densebench train dino --base 'pico?random' --data photos --name mine --set epochs=1 --dry-run
    """

    method: Annotated[Positional[str], arg(metavar="METHOD", help="`densebench list methods` names them.")]
    base: Annotated[str, arg(help="The model to start from; '?random' after it for its random initialisation.")]
    name: Annotated[str, arg(help="The name the checkpoint has from then on.")]
    data: Images = "scenes"
    data_root: DataRoot = None
    preset: Annotated[
        str,
        arg(metavar="NAME", help="A named setting of the method; by default its first, on embedded data embedded."),
    ] = ""
    settings: Annotated[
        UseAppendAction[tuple[str, ...]],
        arg(name="set", metavar="FIELD=VALUE", help="Change one setting of the method; may be repeated."),
    ] = ()
    config: Annotated[
        Path | None, arg(metavar="FILE", help="TOML file with a table of settings per method; --set wins.")
    ] = None
    out: Annotated[Path | None, arg(metavar="DIR", help="Zoo folder to write to; default the user's zoo.")] = None
    resume: Annotated[bool, arg(help="Go on from the last state of a run that was interrupted.")] = False
    overwrite: Annotated[bool, arg(help="Start over where the name is taken.")] = False
    weights: Annotated[Path | None, arg(metavar="FILE", help="A safetensors file for a timm/NAME base.")] = None
    dry_run: Annotated[bool, arg(help="Print memory per image and the largest batch that fits; train nothing.")] = False
    device: Device = "auto"
    workers: Workers = 1
    debug: Debug = False

    def __call__(self) -> int:
        """Train, then print where the checkpoint is."""
        from densebench.core.config import read_tables
        from densebench.methods.settings import check_settings

        table = read_tables(self.config, "method").get(self.method, {}) if self.config else {}
        overrides: dict[str, Any] = {**table, **dict(split_pair(s) for s in self.settings)}
        _check_names(self.base, self.weights, self.method)
        check_settings(self.method, self.preset, overrides)
        if self.dry_run:
            return print_cost(
                self.method, self.base, self.data, overrides, self.device, self.data_root, self.weights, self.preset
            )
        from densebench.methods import train

        result = train(
            method=self.method,
            base=self.base,
            data=self.data,
            name=self.name,
            data_root=self.data_root,
            out=self.out,
            preset=self.preset,
            resume=self.resume,
            overwrite=self.overwrite,
            overrides=overrides,
            device=self.device,
            workers=self.workers,
            weights=self.weights,
        )
        print(result)
        return 0


@dataclass
class Pseudolabel:
    """Make pseudo-labels for DIP: segments of images, grouped into classes, and pairs of images that share one.

    Examples:
      densebench pseudolabel --model pico --data scenes --out labels
      densebench pseudolabel --model pico --data coco --data-root DIR --limit 1000 --classes 300 --out labels
    """

    model: Annotated[str, arg(help="Whose features make segments and classes: the model to be trained.")]
    out: Annotated[Path, arg(help="Folder of label maps; one that is partly filled is resumed.")]
    data: Images = "scenes"
    data_root: DataRoot = None
    split: Annotated[str | None, arg(metavar="NAME", help="By default unlabelled, or train where there is none.")] = (
        None
    )
    limit: Annotated[int | None, arg(metavar="N", help="Only the first N images.")] = None
    classes: Annotated[int, arg(metavar="N", help="Number of pseudo-classes.")] = 1000
    segmenter: Annotated[str, arg(help="How images are divided; see `densebench list segmenters`.")] = "features"
    size: Annotated[
        int | None, arg(metavar="N", help="Side in pixels that images are squashed to; by default some 224.")
    ] = None
    share: Annotated[float, arg(help="Images are a pair if a class covers more than this share of both.")] = 0.05
    seed: Annotated[int, arg(metavar="N", help="Of k-means and of the pairs that are drawn.")] = 0
    weights: Annotated[Path | None, arg(metavar="FILE", help="A safetensors file for a timm/NAME.")] = None
    device: Device = "auto"
    workers: Workers = 1
    quiet: Quiet = False
    debug: Debug = False

    def __call__(self) -> int:
        """Make labels and pairs, then print where they are."""
        _check_names(self.model, self.weights)
        from densebench.methods.pseudolabels import pseudolabel

        print(pseudolabel(**{key: value for key, value in asdict(self).items() if key != "debug"}))
        return 0


def _check_names(model: str, weights: Path | None, method: str = "") -> None:
    """Raise UsageError for names that nobody knows, before torch is imported: a typo costs no time."""
    from densebench.core.registry import unknown_name
    from densebench.methods import METHODS
    from densebench.model_zoo import parse_spec

    if method and method not in METHODS:
        raise unknown_name("method", method, METHODS.names())
    parse_spec(model, weights)


def print_cost(
    method: str,
    base: str,
    data: str,
    overrides: dict[str, Any],
    device: str,
    data_root: Path | None,
    weights: Path | None = None,
    preset: str = "",
    steps: int = 0,
) -> int:
    """Print what a training run needs, as a table."""
    from densebench.methods.launch import cost

    found, config = cost(
        method=method,
        base=base,
        data=data,
        preset=preset,
        overrides=overrides,
        device=device,
        data_root=data_root,
        weights=weights,
        steps=steps,
    )
    print("\n".join(found.lines(config)))
    return 0
