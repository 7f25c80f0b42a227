"""Does an adapter keep the backbone contract? `densebench check-model SPEC`, and `check` for tests of your own.

    assert not [finding for finding in check(MyBackbone()) if finding.outcome == "failed"]

The checks see what an adapter does, not what it should have done: wrong weights, channels in the order BGR, or a mean
and deviation of other weights give features that look like any others. `docs/adapters.md` says what each one finds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from densebench.core.errors import ModelError, UsageError
from densebench.model_zoo.backbone import Backbone, BackboneInfo
from densebench.model_zoo.conformance import geometry, numbers, reads, state
from densebench.model_zoo.conformance.probe import Failed, NotApplicable, Noted, Probe, said

Outcome = Literal["ok", "note", "failed", "not applicable"]
NO_SIZE: tuple[Outcome, str, str] = "not applicable", "no size works", ""

CHECKS: dict[str, Callable[[Probe], str]] = {
    check.__name__.replace("_", " "): check
    for check in (
        geometry.declaration,
        geometry.sizes,
        geometry.order,
        numbers.normalisation,
        state.eval_mode,
        numbers.determinism,
        numbers.batch,
        numbers.untouched,
        numbers.finite,
        numbers.half_precision,
        numbers.autocast,
        reads.layers,
        reads.final_norm,
        reads.facets,
        reads.one_pass,
        geometry.attention,
        geometry.class_token,
        state.gradients,
        state.weights,
        state.construction,
        state.copies,
        state.cost,
    )
}
"""Name to check, in the order in which they run: `sizes` settles on a size that works for those after it."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check found."""

    check: str
    outcome: Outcome
    """"note" is what may be meant so and does not fail."""
    found: str
    expected: str
    fix: str = ""
    """What to change, for what failed or is noted."""
    seconds: float = 0.0


def check(backbone: Backbone, size: tuple[int, int] | None = None, device: str = "cpu") -> list[Finding]:
    """Return one finding per check; arguments as in `findings`, without building the adapter again."""
    return list(findings(backbone, size, device))


def findings(
    backbone: Backbone,
    size: tuple[int, int] | None = None,
    device: str = "cpu",
    rebuild: Callable[[int], Backbone] | None = None,
) -> Iterator[Finding]:
    """Yield one finding per check, `len(CHECKS)` in all. The backbone is put into eval mode on `device`.

    Args:
        backbone: any adapter.
        size: height and width in pixels to look at it with; by default 4 x 6 patches, and the native size for some.
        device: as torch names it.
        rebuild: builds the same adapter under the random state given, as `load_model` does.

    Raises:
        UsageError: `size` is not a multiple of the patch.
        ModelError: the adapter declares no `info`.
    """
    info = getattr(backbone, "info", None)
    if not isinstance(info, BackboneInfo):
        raise ModelError(f"{type(backbone).__name__} declares no `info`; give it a BackboneInfo (docs/adapters.md).")
    patch = info.patch
    if size and (min(size) < patch or size[0] % patch or size[1] % patch):
        raise UsageError(f"--size {size[0]} {size[1]}: expected multiples of the patch of {patch} pixels.")
    probe = Probe(backbone.to(device).eval(), size, rebuild)
    for name, run in CHECKS.items():
        start = time.perf_counter()
        outcome, found, fix = _outcome(run, probe) if probe.usable else NO_SIZE
        yield Finding(
            check=name,
            outcome=outcome,
            found=found,
            expected=(run.__doc__ or "").splitlines()[0],
            fix=fix,
            seconds=round(time.perf_counter() - start, 3),
        )


def _outcome(run: Callable[[Probe], str], probe: Probe) -> tuple[Outcome, str, str]:
    try:
        return "ok", run(probe), ""
    except NotApplicable as why:
        return "not applicable", str(why), ""
    except Noted as note:
        return "note", note.found, note.fix
    except Failed as mistake:
        return "failed", mistake.found, mistake.fix
    except (
        Exception,
        SystemExit,
    ) as error:  # an adapter may raise anything; that is a finding, and the other checks go on
        return "failed", said(error, probe.backbone), ""


__all__ = ["CHECKS", "Finding", "Outcome", "check", "findings"]
