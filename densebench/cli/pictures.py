"""`densebench pictures`: what features of models show, side by side."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import UseAppendAction, arg

from densebench.cli.options import DataRoot, Debug, Device, Names, Quiet
from densebench.core.config import split_settings
from densebench.core.lists import split_names
from densebench.core.text import say
from densebench.pictures.kinds import DEFAULT, KINDS
from densebench.runner.request import Models, Request

if TYPE_CHECKING:
    from densebench.pictures.asked import Asked


@dataclass(kw_only=True)
class Pictures:
    """Draw models side by side on the same images: features as colours, correlations, predictions, matches.

    Examples:
      densebench pictures --models pico,paka_pico --dataset scenes
      densebench pictures --models pico --dataset voc --data-root DIR --kind pca --images 2007_000033,2007_000042
    """

    models: Annotated[Models, arg(help="As `run --model` takes them; a column each.")]
    dataset: Annotated[str, arg(metavar="NAME", help="Whose validation images are shown.")]
    kind: Annotated[Names, arg(help=f"Any of {', '.join(KINDS)}, or all.")] = DEFAULT
    images: Annotated[str, arg(metavar="ID[,ID,...]", help="Which images are shown, a row each.")] = ""
    first: Annotated[int, arg(metavar="N", help="Without --images: the first N.")] = 4
    layer: Annotated[int | None, arg(metavar="L", help="Whose features are read; by default the last, -1.")] = None
    facet: Annotated[
        Literal["token", "key", "query", "value"] | None, arg(help="What is read of it; by default the tokens.")
    ] = None
    patch: Annotated[
        str, arg(metavar="ROW,COL", help="The patch asked about, in the first model's grid; by default the centre's.")
    ] = ""
    clusters: Annotated[
        Names, arg(help="Of clusters: how many, a picture each; classes stands for as many as there are.")
    ] = ""
    input_size: Annotated[int | None, arg(metavar="N", help="Side in pixels that images are squashed to.")] = None
    settings: Annotated[
        UseAppendAction[tuple[str, ...]],
        arg(name="set", metavar="PROTOCOL.FIELD=VALUE", help="Change a setting of a protocol; may be repeated."),
    ] = ()
    preset: Annotated[str, arg(metavar="NAME", help="A preset of the protocols; as for run.")] = ""
    limit: Annotated[
        int | None, arg(metavar="N", help="Read the first N images of each split only: memories and clusters.")
    ] = None
    results: Annotated[Path, arg(metavar="DIR", help="Of classwise-mi: the folder of results.")] = Path("results")
    data_root: DataRoot = None
    out: Annotated[Path, arg(metavar="DIR", help="Folder of the pictures.")] = Path("pictures")
    overwrite: Annotated[bool, arg(help="Replace pictures that are there.")] = False
    device: Device = "auto"
    batch_size: Annotated[int, arg(metavar="N", help="Images per forward pass.")] = 16
    quiet: Quiet = False
    debug: Debug = False

    def __call__(self) -> int:
        """Draw, and print the path of each picture; 1 where something that was named is not in one."""
        asked = self._asked()  # before torch is imported: a typo costs no time
        from densebench.core.progress import Progress
        from densebench.pictures.draw import draw

        drawn, complete = False, True
        for found in draw(asked, Progress(self.quiet)):
            if isinstance(found, Path):
                say(str(found))
                drawn = True
                continue
            complete = False
            say(f"not drawn: {found}", sys.stderr)
            if self.debug:
                print(found.trace, file=sys.stderr)
        return 0 if complete or (drawn and "all" in split_names(self.kind)) else 1

    def _asked(self) -> Asked:
        from densebench.pictures.asked import ask
        from densebench.pictures.options import Options, parse_patch

        options = Options(
            layer=self.layer,
            facet=self.facet,
            input_size=self.input_size,
            patch=parse_patch(self.patch),
            clusters=tuple(split_names(self.clusters)),
            preset=self.preset,
            results=self.results,
            settings=split_settings(list(self.settings)),
        )
        request = Request(
            model=self.models,
            dataset=(self.dataset,),
            settings=options.settings,
            preset=self.preset,
            data_root=self.data_root,
            limit=self.limit,
            device=self.device,
            batch_size=self.batch_size,
        )
        return ask(request, self.kind, self.images, self.first, options, self.out, self.overwrite)
