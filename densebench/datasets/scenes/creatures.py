"""Things that live: person, horse, dog, elephant, bird. All look to the right; mirroring is the world's business.

Every builder draws random proportions and a random pose with the dice and returns a `Sketch` in metres. Part numbers
are the positions in `labels.PARTS_OF`; keypoints follow the order of `labels.KEYPOINTS`.
"""

from __future__ import annotations

from densebench.datasets.scenes.sketch import Dice, Sketch, direction

FAR = 0.72  # limbs on the far side lie in shade


def person(d: Dice) -> Sketch:
    """Head, torso, two jointed arms and legs; walking, standing or reaching."""
    s = Sketch()
    tall = d(1.5, 1.85)
    thigh, shin = 0.25 * tall, 0.25 * tall
    girth = d(0.85, 1.25)
    lean = direction(90 + d(-12, 6))
    swing = d(-32, 32)

    def leg(angle: float, tone: float) -> tuple[complex, complex]:
        knee = hip + thigh * direction(-90 + angle)
        foot = knee + shin * direction(-90 + angle - d(0, 28))
        toe = foot + complex(0.14, -0.02)
        s.tube(3, (hip, knee, foot, toe), (0.095 * girth, 0.075 * girth, 0.05, 0.04), tone)
        return knee, foot

    def arm(angle: float, tone: float) -> complex:
        elbow = shoulder + 0.17 * tall * direction(-90 + angle)
        hand = elbow + 0.17 * tall * direction(-90 + angle + d(5, 60))
        s.tube(2, (shoulder, elbow, hand), (0.06 * girth, 0.05, 0.045), tone)
        return hand

    hip = complex(0, thigh + shin)
    shoulder = hip + 0.29 * tall * lean
    neck = hip + 0.325 * tall * lean
    reach = d(-50, 50) if d.chance(0.6) else d(60, 160)
    far_hand = arm(-reach * 0.8, FAR)
    _, far_foot = leg(-swing, FAR)
    knee, near_foot = leg(swing, 0.92)
    s.tube(1, (hip + 0.02j, hip + 0.15 * tall * lean, shoulder - 0.02j), (0.125 * girth, 0.12 * girth, 0.14 * girth))
    head = neck + 0.085 * tall * (lean + 0.15)
    s.tube(0, (neck - 0.05j, head), (0.05, 0.05), 0.9)
    s.disc(0, head, 0.072 * tall, 0.09 * tall, direction(d(-12, 12)))
    s.poly(
        0, (head + complex(0.06, 0.035) * tall, head + complex(0.1, -0.012) * tall, head + complex(0.06, -0.03) * tall)
    )
    if d.chance(0.4):  # a hat
        brim = head + 0.045j * tall
        s.poly(
            0,
            (
                brim - 0.11 * tall,
                brim + 0.12 * tall,
                brim + (0.06 + 0.03j) * tall,
                brim + (0.05 + 0.08j) * tall,
                brim + (-0.06 + 0.08j) * tall,
                brim + (-0.06 + 0.03j) * tall,
            ),
            0.7,
        )
    near_hand = arm(reach, 1.08)
    s.key(0, head + 0.06j * tall)
    s.key(0, neck)
    s.key(2, near_hand)
    s.key(2, far_hand)
    s.key(1, hip + 0.04j)
    s.key(3, knee)
    s.key(3, near_foot)
    s.key(3, far_foot)
    return s


def _legs(
    s: Sketch,
    d: Dice,
    part: int,
    tops: tuple[complex, complex],
    length: float,
    radii: tuple[float, float, float],
    stride: float,
    tone: float,
) -> tuple[complex, complex]:
    """Draw a hind and a fore leg; returns where the two feet are."""
    feet = []
    for top, bend in zip(tops, (1.0, -1.0), strict=True):
        angle = d(-stride, stride)
        knee = top + 0.5 * length * direction(-90 + angle + 8 * bend)
        foot = knee + 0.5 * length * direction(-90 + angle - 12 * bend)
        s.tube(part, (top, knee, foot), radii, tone)
        feet.append(foot)
    return feet[0], feet[1]


def horse(d: Dice) -> Sketch:
    """Long legs, long neck, long head, hanging tail."""
    s = Sketch()
    leg, long, deep = d(0.72, 0.95), d(1.0, 1.35), d(0.44, 0.58)
    mid = leg + 0.45 * deep
    rump, chest = complex(-long / 2, mid), complex(long / 2, mid + d(-0.02, 0.06))
    tops = (rump + complex(0.0, -0.1 * deep), chest + complex(-0.04, -0.15 * deep))
    reach, radii = leg + 0.2 * deep, (0.15, 0.075, 0.05)
    _legs(s, d, 3, tops, reach, radii, 26, FAR)
    root = rump + complex(-0.42 * deep, 0.15 * deep)
    tip = root + complex(-d(0.08, 0.3), -d(0.4, 0.65))
    s.tube(4, (root + 0.06, root + complex(-0.09, -0.08), tip), (0.05, 0.08, 0.03), 0.85)
    s.tube(2, (rump, complex(0, mid - 0.03), chest), (0.52 * deep, 0.46 * deep, 0.5 * deep))
    hind, fore = _legs(s, d, 3, tops, reach, radii, 26, 0.95)
    rise = direction(d(25, 72))
    poll = chest + complex(0.04, 0.1) + d(0.55, 0.78) * rise
    s.tube(1, (chest + complex(-0.05, 0.06), poll), (0.24, 0.115))
    nose = poll + d(0.36, 0.46) * direction(d(-75, -25))
    s.poly(0, (poll + complex(-0.07, 0.02), poll + complex(-0.05, 0.2), poll + complex(0.05, 0.06)), 0.85)
    s.tube(0, (poll, (poll + nose) / 2, nose), (0.12, 0.105, 0.075), 1.05)
    s.key(0, nose)
    s.key(0, poll + complex(-0.045, 0.12))
    s.key(2, chest + complex(-0.12, 0.36 * deep))
    s.key(2, rump + complex(-0.1, 0.36 * deep))
    s.key(4, tip)
    s.key(3, fore)
    s.key(3, hind)
    s.key(2, complex(0, mid - 0.4 * deep))
    return s


def dog(d: Dice) -> Sketch:
    """Short legs, big round head with a snout and a hanging or pricked ear, tail up."""
    s = Sketch()
    grow = d(0.85, 1.3)
    leg, long, deep = d(0.24, 0.36) * grow, d(0.46, 0.66) * grow, d(0.21, 0.28) * grow
    mid = leg + 0.4 * deep
    rump, chest = complex(-long / 2, mid), complex(long / 2, mid + 0.03 * grow)
    tops = (rump + complex(0.02, -0.05) * grow, chest + complex(-0.02, -0.05) * grow)
    reach, radii = leg + 0.2 * deep, (0.085 * grow, 0.05 * grow, 0.042 * grow)
    _legs(s, d, 3, tops, reach, radii, 30, FAR)
    root = rump + complex(-0.3, 0.3) * deep
    tip = root + d(0.26, 0.38) * grow * direction(d(75, 140))
    s.tube(4, (root, (root + tip) / 2 + complex(-0.07, 0.0) * grow, tip), (0.045 * grow, 0.045 * grow, 0.025 * grow))
    s.tube(2, (rump, complex(0, mid - 0.02 * grow), chest), (0.47 * deep, 0.43 * deep, 0.56 * deep))
    hind, fore = _legs(s, d, 3, tops, reach, radii, 30, 0.94)
    head = chest + complex(d(0.08, 0.16), d(0.16, 0.26)) * grow
    s.tube(2, (chest + 0.02j, head), (0.11 * grow, 0.09 * grow))
    look = direction(d(-25, 12))
    nose = head + 0.23 * grow * look
    s.disc(0, head, 0.125 * grow, 0.115 * grow, look)
    s.tube(0, (head + 0.06 * grow * look, nose), (0.08 * grow, 0.052 * grow), 1.06)
    hinge = head + complex(-0.05, 0.05) * grow
    if d.chance(0.5):
        ear = hinge + complex(-0.07, -0.1) * grow
        s.tube(1, (hinge, ear), (0.045 * grow, 0.05 * grow), 0.78)
    else:
        ear = hinge + complex(-0.03, 0.13) * grow
        s.poly(1, (hinge + complex(-0.075, -0.01) * grow, ear + 0.04j * grow, hinge + complex(0.06, 0.02) * grow), 0.78)
    s.key(0, nose)
    s.key(1, (ear + hinge) / 2)
    s.key(2, chest + 0.4j * deep)
    s.key(2, rump + 0.35j * deep)
    s.key(4, tip)
    s.key(3, fore)
    s.key(3, hind)
    s.key(2, complex(0, mid - 0.38 * deep))
    return s


def elephant(d: Dice) -> Sketch:
    """Massive body on pillars, huge ear, trunk, tusk, thin tail."""
    s = Sketch()
    leg, long, deep = d(0.6, 0.8), d(1.0, 1.35), d(0.9, 1.1)
    mid = leg + 0.44 * deep
    rump, chest = complex(-long / 2, mid - 0.03), complex(long / 2, mid)
    tops = (rump + complex(-0.02, -0.2 * deep), chest + complex(-0.0, -0.2 * deep))
    reach, radii = leg + 0.22 * deep, (0.24, 0.165, 0.155)
    _legs(s, d, 4, tops, reach, radii, 14, FAR)
    root = rump + complex(-0.46 * deep, 0.05)
    tip = root + complex(-d(0.05, 0.2), -d(0.45, 0.65))
    s.tube(5, (root + 0.06, root + complex(-0.07, -0.1), tip), (0.05, 0.04, 0.05), 0.85)
    s.tube(3, (rump, complex(0, mid + 0.04), chest), (0.5 * deep, 0.53 * deep, 0.48 * deep))
    hind, fore = _legs(s, d, 4, tops, reach, radii, 14, 0.93)
    head = chest + complex(0.42, d(0.14, 0.3))
    s.disc(0, head, 0.36, 0.42, direction(-15))
    curl = d(-1.0, 1.6)
    start = head + complex(0.27, -0.1)
    mid_trunk = start + 0.42 * direction(-72 + 14 * curl)
    low = mid_trunk + 0.36 * direction(-80 + 48 * curl)
    end = low + 0.24 * direction(-60 + 80 * curl)
    s.poly(
        0,
        (
            head + complex(0.2, -0.22),
            head + complex(0.62, -0.36),
            head + complex(0.66, -0.28),
            head + complex(0.28, -0.12),
        ),
        1.35,
    )
    s.tube(2, (start + complex(-0.08, 0.12), start, mid_trunk, low, end), (0.14, 0.15, 0.11, 0.09, 0.07), 1.06)
    ear = head + complex(-0.22, -0.02)
    s.disc(1, ear, 0.28, d(0.38, 0.48), direction(d(-14, 14)), 0.82)
    s.key(2, end)
    s.key(1, ear + complex(-0.1, -0.25))
    s.key(0, head + complex(0.1, 0.3))
    s.key(3, rump + complex(-0.2, 0.36 * deep))
    s.key(5, tip)
    s.key(4, fore)
    s.key(4, hind)
    s.key(3, complex(0, mid - 0.4 * deep))
    return s


def bird(d: Dice) -> Sketch:
    """Egg body, round head, beak, fan tail; perched with a folded wing or flying with a raised one."""
    s = Sketch()
    grow = d(0.8, 1.3)
    flying = d.chance(0.5)
    lift = (d(0.35, 1.5) if flying else 0.19 * grow) + 0.17 * grow
    tilt = direction(d(-8, 20) if flying else d(10, 40))
    body = complex(0, lift)

    def at(u: float, v: float) -> complex:
        return body + grow * complex(u, v) * tilt

    s.poly(4, (at(-0.2, 0.06), at(-0.5, 0.1), at(-0.53, 0.0), at(-0.5, -0.08), at(-0.2, -0.05)), 0.85)
    if flying:
        s.poly(3, (at(0.1, 0.08), at(-0.02, 0.5), at(-0.16, 0.46), at(-0.16, 0.06)), FAR)
    else:
        for x in (-0.04, 0.07):
            hip = at(x, -0.08)
            foot = complex(hip.real, 0.015)
            s.tube(5, (hip, foot, foot + 0.07 * grow), (0.02 * grow, 0.016 * grow, 0.014 * grow), 0.8)
    s.disc(2, body, 0.25 * grow, 0.155 * grow, tilt)
    head = at(0.25, 0.13)
    s.poly(
        1,
        (head + complex(0.06, 0.05) * grow, head + complex(0.23, -0.01) * grow, head + complex(0.06, -0.06) * grow),
        1.2,
    )
    s.disc(0, head, 0.105 * grow)
    if flying:
        beat = direction(d(-35, 25))
        spread = [0.2 * 1j, -0.1 + 0.52j, -0.26 + 0.56j, -0.38 + 0.44j, -0.3 + 0.1j]
        wing = [at(0.14, 0.02), *(at(z.real + 0.08, z.imag) for z in (beat * p for p in spread)), at(-0.17, 0.0)]
        tip = at((beat * spread[2]).real + 0.08, (beat * spread[2]).imag)
    else:
        tip = at(-0.34, -0.02)
        wing = [at(0.12, 0.05), at(-0.04, 0.11), tip, at(-0.14, -0.09), at(0.06, -0.07)]
    s.poly(3, wing, 0.8)
    s.key(1, head + complex(0.18, 0.0) * grow)
    s.key(0, head + 0.06j * grow)
    s.key(2, at(0.16, -0.07))
    s.key(3, 0.85 * tip + 0.15 * at(0, 0))
    s.key(4, at(-0.47, 0.01))
    s.key(2, at(-0.2, 0.02))
    return s
