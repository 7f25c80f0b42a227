"""Things found out of doors: house, tree, car, boat, bicycle; and clutter, which has no name.

The house is a solid (boards in space, turned by a yaw), the others are flat cut-outs like the creatures.
"""

from __future__ import annotations

from densebench.datasets.scenes.sketch import CIRCLE, Dice, Sketch, direction


def house(d: Dice) -> Sketch:
    """A block with a pitched roof; door and windows on the front, a window on the sides, sometimes a chimney."""
    s = Sketch(yaw=d(18, 58) * (1 if d.chance(0.5) else -1))
    hu, hw, wall, roof = d(1.0, 1.6), d(0.8, 1.3), d(1.2, 2.0), d(0.6, 1.3)
    eave = d(0.08, 0.25)
    gable_front = d.chance(0.5)
    top = wall + roof
    for side in (-1, 1):
        s.board(0, ((side * hu, 0, -hw), (side * hu, 0, hw), (side * hu, wall, hw), (side * hu, wall, -hw)), 0.82)
        if not gable_front:
            s.board(0, ((side * hu, wall, -hw), (side * hu, wall, hw), (side * hu, top, 0)), 0.82, attach=True)
        low, high = wall * d(0.3, 0.45), wall * d(0.68, 0.85)
        a, b = -hw * d(0.2, 0.6), hw * d(0.2, 0.6)
        x = side * (hu + 0.01)
        s.board(3, ((x, low, a), (x, low, b), (x, high, b), (x, high, a)), 0.6, attach=True)
    s.board(0, ((-hu, 0, -hw), (hu, 0, -hw), (hu, wall, -hw), (-hu, wall, -hw)))
    if gable_front:
        s.board(0, ((-hu, wall, -hw), (hu, wall, -hw), (0, top, -hw)), attach=True)
    side = 1 if d.chance(0.5) else -1
    door, half, tall = side * hu * d(0.35, 0.6), d(0.17, 0.25), wall * d(0.55, 0.72)
    y = -hw - 0.01
    s.board(
        2, ((door - half, 0, y), (door + half, 0, y), (door + half, tall, y), (door - half, tall, y)), 0.75, attach=True
    )
    pane, wide, low, high = -side * hu * d(0.35, 0.55), d(0.22, 0.38), wall * d(0.32, 0.45), wall * d(0.68, 0.85)
    s.board(
        3,
        ((pane - wide, low, y), (pane + wide, low, y), (pane + wide, high, y), (pane - wide, high, y)),
        0.6,
        attach=True,
    )
    s.level = 1
    drop = roof * eave / (hu if gable_front else hw)
    if d.chance(0.4):
        x, z = hu * d(-0.5, 0.5), hw * d(-0.3, 0.3)
        s.box(4, 0.14, (wall + 0.3 * roof, top + d(0.15, 0.45)), 0.14, x, z, 0.9)
    if gable_front:
        a, b = -hw - eave, hw + eave
        for sign in (-1, 1):
            u = sign * (hu + eave)
            s.board(1, ((u, wall - drop, a), (u, wall - drop, b), (0, top, b), (0, top, a)), 1.0)
        ridge = [(0.0, top, a), (0.0, top, b)]
    else:
        a, b = -hu - eave, hu + eave
        for sign in (1, -1):
            w = sign * (hw + eave)
            s.board(1, ((a, wall - drop, w), (b, wall - drop, w), (b, top, 0), (a, top, 0)), 1.0)
        ridge = [(a, top, 0.0), (b, top, 0.0)]
    s.key3(2, door, tall * 0.95, y)
    s.key3(2, door, 0.04, y)
    for point in sorted(ridge, key=lambda p: s.turned(p[0], p[2])[1]):  # the nearer end first
        s.key3(1, *point)
    s.key3(0, -hu, 0.03, -hw)
    s.key3(0, hu, 0.03, -hw)
    s.key3(3, pane, (low + high) / 2, y)
    return s


def tree(d: Dice) -> Sketch:
    """A trunk that forks into a crown: a cluster of balls, one oval, or tiers like a fir."""
    s = Sketch()
    tall, bend = d(1.9, 3.2), d(-0.25, 0.25)
    kind = d.index(3)
    fork = complex(bend, tall * (d(0.18, 0.3) if kind == 2 else d(0.34, 0.5)))
    thick = tall * d(0.03, 0.055)
    s.tube(0, (0.02j, complex(bend * 0.2, fork.imag * 0.6), fork + 0.15j * tall), (thick * 1.3, thick, thick * 0.8))
    top = complex(bend * 1.4, tall)
    if kind == 0:
        radius = tall * d(0.2, 0.27)
        centre = (fork + top) / 2
        count = 4 + d.index(3)
        for k in range(count):
            spot = centre + radius * d(0.7, 1.0) * direction(360 * k / count + d(-20, 20))
            s.disc(1, spot, radius * d(0.6, 0.85), tone=d(0.86, 1.04))
        s.disc(1, centre, radius, tone=1.05)
        half, top = radius * 1.35, centre + 1.3j * radius
    elif kind == 1:
        centre, half = (fork + top) / 2, tall * d(0.16, 0.3)
        high = abs(top.imag - fork.imag) / 2 * 1.08
        s.disc(1, centre, half, high)
        s.disc(1, centre + complex(-0.35 * half, 0.3 * high), half * 0.5, high * 0.45, tone=1.12)
    else:
        half = tall * d(0.2, 0.32)
        tiers = 3
        for k in range(tiers):
            share = k / tiers
            low = fork + (top - fork) * share
            wide = half * (1 - 0.62 * share)
            tip = fork + (top - fork) * min(1.0, share + 0.56)
            s.poly(
                1,
                (low - wide, low + complex(-0.3 * wide, 0.04), low + complex(0.25 * wide, -0.03), low + wide, tip),
                0.9 + 0.08 * k,
            )
        centre = fork + 0.02j
    s.key(0, 0.05j)
    s.key(0, complex(bend * 0.2, fork.imag * 0.6))
    s.key(1, top - 0.05j * tall)
    s.key(1, centre - 0.8 * half + (0.03j * tall if kind == 2 else 0))
    s.key(1, centre + 0.8 * half + (0.03j * tall if kind == 2 else 0))
    return s


def car(d: Dice) -> Sketch:
    """Side view: low body, cabin with windows, two wheels; from hatchback to van."""
    s = Sketch()
    half, wheel = d(1.05, 1.5), d(0.24, 0.32)
    belt, roof = wheel * d(2.2, 2.8), d(1.0, 1.45)
    nose = d(0.65, 0.95) * belt
    front, back = half * d(0.5, 0.64), -half * d(0.5, 0.66)
    rear, hood = (-half * d(0.84, 0.97), half * d(0.45, 0.7)) if d.chance(0.5) else (-half * 0.72, half * d(0.3, 0.45))
    sill = wheel * 0.75
    lid_back, lid_front = rear + half * d(0.05, 0.3), hood - half * d(0.22, 0.42)
    s.poly(
        1, (complex(rear, belt - 0.05), complex(hood, belt - 0.05), complex(lid_front, roof), complex(lid_back, roof))
    )
    a, b = belt + 0.02, roof - 0.08 * roof
    mid = (lid_back + lid_front) / 2

    def pane(u0: float, u1: float, t0: float, t1: float) -> None:
        s.poly(2, (complex(u0, a), complex(u1, a), complex(t1, b), complex(t0, b)), 0.55)

    slope = (b - a) / max(0.2, roof - belt + 0.05)
    r0, h0 = rear + 0.1, hood - 0.1
    pane(r0, mid - 0.04, r0 + (lid_back - rear) * slope, mid - 0.04)
    pane(mid + 0.04, h0, mid + 0.04, h0 - (hood - lid_front) * slope)
    s.poly(
        0,
        (
            complex(-half, sill),
            complex(half, sill),
            complex(half * 1.03, nose * 0.8),
            complex(half * 0.97, nose),
            complex(hood, belt),
            complex(rear, belt),
            complex(-half * 0.98, belt * 0.97),
            complex(-half * 1.02, belt * 0.6),
        ),
    )
    s.poly(
        0,
        (
            complex(half * 0.88, nose * 0.72),
            complex(half * 1.02, nose * 0.7),
            complex(half * 0.98, nose * 0.95),
            complex(half * 0.88, nose * 0.92),
        ),
        1.4,
    )
    for u in (back, front):
        s.disc(3, complex(u, wheel), wheel, tone=0.6)
        s.disc(3, complex(u, wheel), wheel * 0.52, tone=1.15)
    s.key(3, complex(front, wheel))
    s.key(3, complex(back, wheel))
    s.key(0, complex(half * 0.98, nose * 0.6))
    s.key(0, complex(-half * 0.96, belt * 0.7))
    s.key(1, complex(lid_front - 0.03, roof - 0.04))
    s.key(1, complex(lid_back + 0.03, roof - 0.04))
    return s


def boat(d: Dice) -> Sketch:
    """A hull with a pointed bow, a mast and one or two sails."""
    s = Sketch()
    half, deep = d(0.8, 1.3), d(0.28, 0.45)
    mast = complex(half * d(-0.15, 0.25), deep * 0.7)
    top = mast + complex(d(-0.08, 0.08), d(1.3, 2.1))
    s.tube(1, (mast, top), (0.045, 0.03), 0.85)
    boom = complex(mast.real - half * d(0.6, 0.95), deep + d(0.1, 0.25))
    foot = complex(mast.real - 0.05, deep + 0.12)
    peak = top - 0.08j - 0.03
    s.poly(2, (foot, boom, boom + (peak - boom) * 0.5 + complex(-0.14, 0.03), peak), 1.0)
    if d.chance(0.6):
        tack = complex(half * 0.9, deep + 0.12)
        s.poly(2, (complex(mast.real + 0.08, deep + 0.14), tack, peak + complex(0.08, -0.25)), 0.86)
    bow, stern = complex(half * 1.12, deep * 1.15), complex(-half, deep)
    s.poly(
        0,
        (
            stern,
            stern + complex(0.1, -deep),
            complex(half * 0.62, 0),
            complex(half * 0.88, deep * 0.4),
            bow,
            complex(0.2 * half, deep * 0.92),
        ),
    )
    s.poly(
        0,
        (
            stern + complex(0.02, -0.25 * deep),
            complex(half * 0.95, deep * 0.62),
            bow,
            complex(0.2 * half, deep * 0.92),
            stern,
        ),
        1.2,
    )
    s.key(0, bow - 0.06)
    s.key(0, stern + complex(0.07, -0.1))
    s.key(1, top - 0.03j)
    s.key(0, complex(mast.real, deep * 0.7))
    s.key(2, boom + complex(0.06, 0.03))
    return s


def bicycle(d: Dice) -> Sketch:
    """Two ringed wheels with a hub, a diamond frame, handlebar and saddle."""
    s = Sketch()
    wheel, base = d(0.3, 0.38), d(0.46, 0.56)
    thin = d(0.032, 0.045)
    back, front = complex(-base, wheel), complex(base, wheel)
    for hub in (back, front):
        s.ring(0, hub, wheel, wheel - 0.075, 0.75)
        s.disc(0, hub, 0.065, tone=1.1)
        turn = d.turn(45)
        for spoke in (turn, turn * 1j):
            s.tube(0, (hub - spoke * wheel * 0.85, hub + spoke * wheel * 0.85), (0.012, 0.012), 0.9)
    pedals = complex(-0.08, wheel * 0.9)
    seat = complex(-0.2 - d(0, 0.06), wheel + d(0.38, 0.52))
    head = complex(base * 0.68, wheel + d(0.36, 0.5))
    s.tube(1, (back, pedals, seat, back), (thin, thin, thin, thin))
    s.tube(1, (seat - 0.05j, head - 0.06j, pedals), (thin, thin, thin), 0.95)
    s.tube(1, (head, front), (thin, thin * 0.9), 1.05)
    crank = d(-60, 60)
    s.tube(1, (pedals - 0.13 * direction(crank), pedals + 0.13 * direction(crank)), (0.03, 0.03), 0.7)
    saddle = seat + 0.09j
    s.tube(1, (seat, saddle), (thin, thin))
    s.poly(
        3,
        (
            saddle + complex(-0.15, 0.05),
            saddle + complex(-0.14, -0.02),
            saddle + complex(0.15, 0.0),
            saddle + complex(0.16, 0.04),
        ),
        0.7,
    )
    grip = head + complex(d(0.02, 0.12), d(0.12, 0.22))
    s.tube(2, (head, grip, grip + complex(-0.14, 0.03)), (thin, thin, thin * 1.2), 0.8)
    for part, point in ((0, front), (0, back), (3, saddle), (2, grip), (1, pedals), (1, head - 0.04j)):
        s.key(part, point)
    return s


def clutter(d: Dice) -> Sketch:
    """A thing without a name: a jagged board, a blob or a block (class background)."""
    s = Sketch(yaw=d(-60, 60))
    size = d(0.25, 1.0)
    kind = d.index(3)
    if kind == 0:
        count = 4 + d.index(4)
        centre = complex(0, size * 0.5)
        s.poly(0, [centre + size * d(0.25, 0.6) * direction(360 * (k + d(0.1, 0.9)) / count) for k in range(count)])
    elif kind == 1:
        turn, squash = d.turn(60), d(0.35, 1.0)
        s.poly(
            0,
            [
                complex(0, size * 0.45) + size * 0.5 * d(0.8, 1.1) * complex(z.real, z.imag * squash) * turn
                for z in CIRCLE
            ],
        )
    else:
        s.box(0, size * d(0.15, 0.4), (0.0, size * d(0.4, 1.0)), size * d(0.15, 0.4))
    return s
