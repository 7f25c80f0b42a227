"""Things found in rooms: table, chair, lamp, bottle, plant.

Table and chair are solids (boards in space, turned by a yaw), the others are flat cut-outs like the creatures.
"""

from __future__ import annotations

from densebench.datasets.scenes.sketch import Dice, Sketch, direction


def table(d: Dice) -> Sketch:
    """A slab on four legs, seen from any side."""
    s = Sketch(yaw=d(-45, 45))
    hu, hw, tall, slab = d(0.45, 0.8), d(0.32, 0.5), d(0.5, 0.8), d(0.05, 0.1)
    leg, inset = d(0.03, 0.06), d(0.04, 0.12)
    spread = d(-0.04, 0.08)
    corners = [(sx * (hu - inset), sz * (hw - inset)) for sx, sz in ((-1, 1), (1, 1), (1, -1), (-1, -1))]
    for u, w in corners:
        s.post(1, u, w, (0.0, tall - slab), leg, 1.0 if w < 0 else 0.75, (spread * u / hu, spread * w / hw))
    s.level = 1
    s.box(0, hu, (tall - slab, tall), hw)
    plan = [(sx, sz, s.turned(sx, sz)) for sx, sz in ((-hu, hw), (hu, hw), (hu, -hw), (-hu, -hw))]
    order = [
        min(plan, key=lambda p: p[2][0]),
        min(plan, key=lambda p: p[2][1]),
        max(plan, key=lambda p: p[2][0]),
        max(plan, key=lambda p: p[2][1]),
    ]
    for u, w, _ in order:
        s.key3(0, u * 0.97, tall, w * 0.97)
    for u, w, _ in order[:3]:
        su, sw = (1 if u > 0 else -1), (1 if w > 0 else -1)
        s.key3(1, su * (hu - inset) * (1 + spread / hu), 0.03, sw * (hw - inset) * (1 + spread / hw))
    return s


def chair(d: Dice) -> Sketch:
    """Seat, back and four legs; the viewer may stand anywhere but straight behind."""
    s = Sketch(yaw=d(-110, 110))
    hu, hw, seat, back = d(0.2, 0.28), d(0.2, 0.27), d(0.38, 0.5), d(0.4, 0.62)
    leg, slab, tilt = d(0.022, 0.036), d(0.04, 0.08), d(0.02, 0.16)
    for u, w in ((-hu, hw), (hu, hw), (hu, -hw), (-hu, -hw)):
        s.post(2, u * 0.9, w * 0.9, (0.0, seat - slab), leg, 0.95 if w < 0 else 0.8, (0.15 * u, 0.15 * w))
    s.level = 1
    s.box(0, hu, (seat - slab, seat), hw)
    top, z0, z1 = seat + back, hw, hw + tilt
    if d.chance(0.5):
        s.board(1, ((-hu, seat, z0), (hu, seat, z0), (hu, top, z1), (-hu, top, z1)), 1.05)
    else:
        low, zl = seat + 0.4 * back, hw + 0.4 * tilt
        for u in (-0.8 * hu, 0.8 * hu):
            s.post(1, u, zl, (seat, low + 0.02), leg, 0.9, (0, z0 - zl))
        s.board(1, ((-hu, low, zl), (hu, low, zl), (hu, top, z1), (-hu, top, z1)), 1.05)
    for u in (-hu, hu):
        s.key3(1, u * 0.92, top - 0.04, z1)
    for u in (-hu, hu):
        s.key3(0, u * 0.95, seat, -hw * 0.95)
    for u in (-hu, hu):
        s.key3(2, u * 1.05, 0.03, -hw * 1.05)
    return s


def lamp(d: Dice) -> Sketch:
    """A standing lamp: foot, straight or bent pole, a shade that may tilt."""
    s = Sketch()
    tall, wide = d(0.9, 1.7), d(0.16, 0.26)
    bend = d(-0.22, 0.22) if d.chance(0.5) else 0.0
    head = complex(bend, tall)
    middle = complex(-bend * 0.4, tall * 0.55)
    s.poly(2, (-wide * 0.85 + 0j, wide * 0.85 + 0j, wide * 0.7 + 0.06j, 0.06 + 0.1j, -0.06 + 0.1j, -wide * 0.7 + 0.06j))
    s.tube(1, (0.06j, middle, head), (0.028, 0.024, 0.024), 0.9)
    turn = direction(d(-8, 8) - 40 * bend)
    high, lid = d(0.26, 0.42), wide * d(0.3, 0.75)
    low, top = head - turn * 0.5j * high, head + turn * 0.5j * high
    s.poly(0, (low - turn * wide, low - turn * 0.03j, low + turn * wide, top + turn * lid, top - turn * lid))
    s.key(0, top - turn * 0.03j)
    s.key(0, low - turn * wide * 0.9 + 0.03j)
    s.key(0, low + turn * wide * 0.9 + 0.03j)
    s.key(1, middle)
    s.key(2, 0.03j)
    return s


def bottle(d: Dice) -> Sketch:
    """A round-shouldered bottle with neck, cap and label."""
    s = Sketch()
    half, body, neck = d(0.055, 0.085), d(0.18, 0.27), d(0.07, 0.14)
    thin = half * d(0.3, 0.45)
    rise = d(0.03, 0.07)
    top = body + rise + neck
    s.poly(
        0,
        (
            -0.92 * half + 0j,
            0.92 * half + 0j,
            half + 0.015j,
            complex(half, body * 0.94),
            complex(half * 0.86, body + 0.4 * rise),
            complex(thin, body + rise),
            complex(-thin, body + rise),
            complex(-half * 0.86, body + 0.4 * rise),
            complex(-half, body * 0.94),
            -half + 0.015j,
        ),
    )
    s.poly(
        1,
        (
            complex(-thin, body + rise * 0.9),
            complex(thin, body + rise * 0.9),
            complex(thin * 0.9, top),
            complex(-thin * 0.9, top),
        ),
        0.95,
    )
    s.poly(
        2,
        (
            complex(-thin * 1.2, top - 0.005),
            complex(thin * 1.2, top - 0.005),
            complex(thin * 1.2, top + 0.035),
            complex(-thin * 1.2, top + 0.035),
        ),
        0.8,
    )
    low, high = body * d(0.18, 0.3), body * d(0.6, 0.8)
    s.poly(3, (complex(-half, low), complex(half, low), complex(half, high), complex(-half, high)), 1.15)
    s.key(2, complex(0, top + 0.015))
    s.key(1, complex(0, body + rise * 1.2))
    s.key(0, complex(-half * 0.88, body * 0.96))
    s.key(0, complex(half * 0.88, body * 0.96))
    s.key(0, complex(-half * 0.85, 0.012))
    s.key(0, complex(half * 0.85, 0.012))
    return s


def plant(d: Dice) -> Sketch:
    """A pot with a rim, stems and pointed leaves in a fan."""
    s = Sketch()
    half, pot, grow = d(0.13, 0.2), d(0.2, 0.34), d(0.4, 0.8)
    count = 5 + d.index(4)
    foot = complex(0, pot)
    best = foot
    for k in range(count):
        way = direction(90 + (k / (count - 1) - 0.5) * d(110, 170) + d(-8, 8))
        stalk = foot + grow * d(0.3, 0.6) * way
        tip = stalk + grow * d(0.4, 0.6) * way * direction(d(-25, 25))
        s.tube(1, (foot - 0.02j, stalk), (0.02, 0.014), 0.8)
        wide, core = (tip - stalk) * 1j * d(0.2, 0.34), 0.45 * tip + 0.55 * stalk
        s.poly(2, (stalk, core + wide, tip, core - wide), d(0.85, 1.12))
        best = core if core.imag > best.imag else best
    s.poly(0, (-0.68 * half + 0j, 0.68 * half + 0j, complex(0.95 * half, pot), complex(-0.95 * half, pot)))
    s.poly(
        0,
        (
            complex(-1.08 * half, pot * 0.84),
            complex(1.08 * half, pot * 0.84),
            complex(1.08 * half, pot),
            complex(-1.08 * half, pot),
        ),
        1.12,
    )
    s.key(0, complex(-half, pot * 0.93))
    s.key(0, complex(half, pot * 0.93))
    s.key(0, complex(0, 0.03))
    s.key(1, foot + 0.03j)
    s.key(2, best)
    return s
