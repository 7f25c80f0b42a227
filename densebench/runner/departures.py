"""What sets a config apart from its preset: the settings that a result's label has to name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from densebench.core.config import score_fields
from densebench.core.errors import UsageError

if TYPE_CHECKING:
    from densebench.datasets.dataset import DatasetInfo
    from densebench.model_zoo.backbone import BackboneInfo
    from densebench.protocols.protocol import Protocol


def departures(
    protocol: Protocol[Any], preset: str, asked: Any, backbone: BackboneInfo, data: DatasetInfo
) -> dict[str, Any]:
    """Return the fewest settings, {field: value} by name, that lead from a preset to the config `asked`.

    `asked` is not yet resolved. What resolves to the preset's own value for this backbone and data does not depart from
    it, and what follows from another setting is not named beside it. Values are those that were asked for ("all"
    layers), so that a label is the same for models of other depths. Fields that cannot change a score do not count.
    """

    def resolved(settings: dict[str, Any]) -> dict[str, Any] | None:
        try:
            return score_fields(protocol.resolve(protocol.configure(preset, settings), backbone, data))
        except UsageError:  # settings that do not go without the one that is tried to be left out
            return None

    own = score_fields(protocol.configure(preset))
    found = {name: value for name, value in sorted(score_fields(asked).items()) if value != own[name]}
    whole = resolved(found)
    for name in list(found):
        rest = {other: value for other, value in found.items() if other != name}
        if whole is not None and resolved(rest) == whole:
            found = rest
    return found
