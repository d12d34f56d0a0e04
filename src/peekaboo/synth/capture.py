"""What lies between a drawn picture and a recorded one: things before the face, a room behind it, and the camera.

Pictures are uint8 RGB [height, width, 3]; pixel coordinates are x, y with the centre of the first pixel at (0, 0). What
is drawn before a face is made of rounded parts in coordinates of its own, one unit being the distance between the
face's eyes, x to the picture's right and y down.
"""

import itertools

import cv2
import numpy as np
from numba import njit

OCCLUDERS = ("pacifier", "hand", "toy", "bottle")

# Share of training crops that are left as drawn, and of the others that get each effect.
_UNTOUCHED, _OCCLUDED = 0.12, 0.34
_COARSE, _MOTION, _DEFOCUS, _NOISE, _JPEG = 0.3, 0.25, 0.35, 0.75, 0.6
# Strengths of a camera: the range that `captured` draws from, from mild to strong.
_RESOLUTION = (0.4, 0.9)  # share of the side that is left
_MOTION_LENGTH, _DEFOCUS_SIGMA = (0.015, 0.05), (0.003, 0.014)  # shares of the side
_NOISE_LEVEL = (0.8, 9.0)  # standard deviation at middle grey, of 255
_QUALITY = (25, 92)

_LIGHT = np.array([-0.4, -0.65, 0.65]) / np.linalg.norm([-0.4, -0.65, 0.65])
_BRIGHT = np.array(
    [(222, 66, 58), (244, 190, 56), (72, 148, 214), (96, 186, 108), (236, 132, 170), (150, 110, 196), (244, 240, 230)],
    np.float32,
)
_PALE = np.array([(238, 238, 232), (190, 220, 236), (244, 206, 210), (206, 232, 204), (248, 232, 186)], np.float32)


def _part(start: tuple, stop: tuple, radii: tuple, colour: np.ndarray, bulge: float = 1.0, gloss: float = 0.1) -> tuple:
    """One rounded part: a line from start to stop with a radius at each end, how far it bulges and how it shines."""
    return (*start, *stop, *radii, *colour, bulge, gloss)


def _ring(centre: tuple, radius: float, thickness: float, colour: np.ndarray, gloss: float = 0.3) -> list[tuple]:
    angles = np.linspace(0, 2 * np.pi, 13)
    points = np.stack([centre[0] + radius * np.cos(angles), centre[1] + radius * np.sin(angles)], 1).tolist()
    return [_part(a, b, (thickness, thickness), colour, gloss=gloss) for a, b in itertools.pairwise(points)]


def _pacifier(rng: np.random.Generator) -> list[tuple]:
    shield = rng.choice(_PALE if rng.random() < 0.5 else _BRIGHT)
    button = rng.choice(_BRIGHT)
    wide, high = rng.uniform(0.24, 0.34), rng.uniform(0.24, 0.3)
    parts = [_part((-wide, -0.03), (wide, -0.03), (high, high), shield, bulge=0.55, gloss=0.35)]
    for side in (-1, 1):
        hole = (side * (wide + 0.02), -0.03)
        parts.append(_part(hole, hole, (0.055, 0.055), 0.45 * shield, bulge=0.1, gloss=0))
    parts.append(_part((0, -0.02), (0, -0.02), (0.17, 0.17), 0.5 * (shield + button), gloss=0.4))
    parts.append(_part((0, -0.03), (0, -0.03), (0.13, 0.13), button, bulge=0.8, gloss=0.5))
    if rng.random() < 0.6:
        parts += _ring((0.0, 0.19), 0.2, 0.045, button, gloss=0.4)
    return parts


def _hand(rng: np.random.Generator, skin: np.ndarray) -> list[tuple]:
    """A fist or an open hand seen from its back, fingers up, with forearm and sleeve below."""
    sleeve = rng.choice(_BRIGHT if rng.random() < 0.5 else _PALE)
    lean = rng.uniform(-0.7, 0.7)
    rosy = skin * np.array([1.0, 0.9, 0.89], np.float32)
    wrist = (0.12 * lean, 0.75)
    parts = [
        _part((0, 0.4), (lean, 3.4), (0.36, 0.5), skin),
        _part((0.35 * lean + wrist[0], 1.5), (1.4 * lean, 4.5), (0.48, 0.72), sleeve, gloss=0),
        _part(
            (0.36 * lean + wrist[0] - 0.22, 1.3),
            (0.36 * lean + wrist[0] + 0.22, 1.3),
            (0.24, 0.24),
            0.9 * sleeve,
            gloss=0,
        ),
    ]
    if rng.random() < 0.5:
        parts.append(_part((-0.12, 0.12), (0.14, 0.15), (0.47, 0.44), skin, bulge=0.8))
        for i in range(4):
            x, top = -0.36 + 0.24 * i, (-0.24, -0.33, -0.31, -0.2)[i]
            parts.append(_part((x, top), (0.9 * x, 0.12), (0.15, 0.13), skin))
            parts.append(_part((x, top), (x, top + 0.04), (0.1, 0.1), 0.7 * skin + 0.3 * rosy, bulge=0.85, gloss=0))
        parts.append(_part((-0.46, 0.36), (-0.06, 0.2), (0.15, 0.13), skin))
        return parts
    parts.append(_part((-0.5, 0.3), (-0.82, -0.2), (0.16, 0.12), skin))
    spread = rng.uniform(0.5, 1.1)
    for i, length in enumerate((0.66, 0.8, 0.78, 0.58)):
        x = -0.36 + 0.24 * i
        angle = spread * (x + rng.uniform(-0.06, 0.06))
        reach = length * rng.uniform(0.85, 1.0)
        knuckle = (x, -0.2)
        middle = (x + 0.5 * reach * np.sin(angle), -0.2 - 0.5 * reach * np.cos(angle))
        tip = (middle[0] + 0.5 * reach * np.sin(1.2 * angle), middle[1] - 0.5 * reach * np.cos(1.2 * angle))
        parts += [_part(knuckle, middle, (0.15, 0.135), skin), _part(middle, tip, (0.135, 0.11), skin)]
        nail = (tip[0], tip[1] - 0.03)
        parts.append(_part(nail, nail, (0.055, 0.055), 0.5 * rosy + 0.5 * skin + 12, bulge=0.4, gloss=0.3))
    parts.append(_part((-0.1, 0.3), (0.1, 0.02), (0.47, 0.44), skin, bulge=0.45, gloss=0))
    return parts


def _toy(rng: np.random.Generator) -> list[tuple]:
    """A ball, a rattle, a stack of rings or a stuffed animal's head."""
    one, two, three = rng.choice(_BRIGHT, 3, replace=False)
    kind = rng.integers(4)
    if kind == 0:
        parts = [_part((0, 0), (0, 0), (0.8, 0.8), one, gloss=0.4)]
        return [*parts, _part((-0.5, -0.12), (0.5, -0.12), (0.16, 0.16), two, bulge=0.3, gloss=0.4)]
    if kind == 1:
        parts = [_part((0, 0.3), (0, 1.5), (0.13, 0.13), two, gloss=0.4), *_ring((0.0, 1.75), 0.28, 0.09, three)]
        parts.append(_part((0, -0.1), (0, -0.1), (0.6, 0.6), one, gloss=0.5))
        spots = [(0.28 * np.cos(a), -0.1 + 0.28 * np.sin(a)) for a in np.arange(5) * 2 * np.pi / 5]
        return parts + [_part(spot, spot, (0.11, 0.11), three, bulge=0.4) for spot in spots]
    if kind == 2:
        parts = []
        for i, colour in enumerate((one, two, three, one)):
            half, y = 0.75 - 0.14 * i, 0.55 - 0.36 * i
            parts.append(_part((-half + 0.2, y), (half - 0.2, y), (0.22, 0.22), colour, gloss=0.45))
        return [*parts, _part((0, -0.85), (0, -0.85), (0.25, 0.25), two, gloss=0.45)]
    fur = rng.choice(np.array([(176, 132, 92), (220, 208, 190), (150, 156, 168), (232, 190, 120)], np.float32))
    parts = []
    for side in (-1, 1):
        parts.append(_part((0.55 * side, -0.55), (0.55 * side, -0.55), (0.3, 0.3), fur, gloss=0))
        parts.append(_part((0.55 * side, -0.53), (0.55 * side, -0.53), (0.16, 0.16), 0.75 * fur, gloss=0))
    parts.append(_part((-0.1, 0), (0.1, 0.02), (0.75, 0.75), fur, gloss=0))
    parts.append(_part((-0.1, 0.26), (0.1, 0.26), (0.3, 0.3), np.minimum(1.15 * fur + 15, 255), gloss=0))
    dark = np.array((34, 28, 28), np.float32)
    parts.append(_part((-0.04, 0.14), (0.04, 0.14), (0.1, 0.1), dark, gloss=0.5))
    for side in (-1, 1):
        parts.append(_part((0.3 * side, -0.16), (0.3 * side, -0.16), (0.09, 0.09), dark, gloss=0.7))
    return parts


def _bottle(rng: np.random.Generator, skin: np.ndarray) -> list[tuple]:
    """A bottle with its teat at the origin, its foot up on the picture before it is turned, held by an adult or not."""
    collar, body = rng.choice(_BRIGHT), rng.choice(_PALE)
    milk = np.array((246, 242, 230), np.float32)
    level = -rng.uniform(1.6, 2.6)
    held = rng.random() < 0.7
    side, hand = rng.choice((-1, 1)), skin * rng.uniform(0.85, 1.08)
    parts = [_part((0.66 * side, -1.5), (0.66 * side, -2.4), (0.34, 0.36), hand)] if held else []
    if held:
        parts.append(_part((0.8 * side, -2.3), (2.2 * side, -4.8), (0.38, 0.55), hand))
    parts += [
        _part((0, 0.02), (0, -0.35), (0.1, 0.17), np.array((222, 196, 150), np.float32), gloss=0.4),
        _part((0, -0.95), (0, -2.75), (0.5, 0.52), 0.9 * body, gloss=0.5),
        _part((0, -0.95), (0, level), (0.45, 0.46), milk, bulge=0.9, gloss=0.5),
    ]
    for y in np.arange(-1.2, -2.6, -0.28):
        parts.append(_part((0.1, y), (0.28, y), (0.022, 0.022), 0.6 * body, bulge=0.1, gloss=0))
    parts.append(_part((-0.2, -0.5), (0.2, -0.5), (0.2, 0.2), collar, gloss=0.3))
    parts.append(_part((-0.26, -0.68), (0.26, -0.68), (0.2, 0.2), 0.9 * collar, gloss=0.3))
    if held:
        for i, reach in enumerate((0.2, 0.3, 0.28, 0.12)):
            y = -1.45 - 0.3 * i
            parts.append(_part((0.62 * side, y), (-reach * side, y + 0.06), (0.16, 0.14), hand))
    return parts


def occluder(kind: str, rng: np.random.Generator, skin: np.ndarray) -> np.ndarray:
    """Return the parts of a thing of OCCLUDERS, float32 [K, 11], of a look that the generator chooses.

    `skin` [3] is the RGB colour of hands. A row is: start x, y and stop x, y of a line, the radii at both, RGB colour,
    how far it bulges towards the camera (1 is round) and how much it shines; later rows lie before earlier ones.
    """
    if kind in ("hand", "bottle"):
        parts = {"hand": _hand, "bottle": _bottle}[kind](rng, np.asarray(skin, np.float32))
    else:
        parts = {"pacifier": _pacifier, "toy": _toy}[kind](rng)
    return np.array(parts, np.float32)


def skin_colour(image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Return the RGB colour, float32 [3], of the cheeks and the nose of a face with 68 landmarks."""
    cheeks = (landmarks[[2, 14, 2, 14]] + landmarks[[31, 35, 48, 54]]) / 2
    height, width = image.shape[:2]
    x, y = np.rint(np.concatenate([cheeks, landmarks[[29, 30]]])).astype(int).T
    return np.median(image[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)], 0).astype(np.float32)


def placement(kind: str, landmarks: np.ndarray, shift: tuple[float, float], turn: float, scale: float) -> np.ndarray:
    """Return the map float64 [2, 3] from the coordinates of a thing of OCCLUDERS to pixels, before a face [68, 2].

    `shift` is in eye distances from the mouth, to the picture's right and down for an upright face; `turn` in radians,
    clockwise; `scale` 1 is the size that suits an infant. A pacifier also turns away with the head.
    """
    eyes, mouth = landmarks[36:48].mean(0), landmarks[[48, 54]].mean(0)
    across = landmarks[42:48].mean(0) - landmarks[36:42].mean(0)
    down = mouth - eyes
    # Turned heads have their eyes, nodding ones eyes and mouth closer together.
    unit = max(np.hypot(*across), 0.9 * np.hypot(*down))
    upright = unit * down / np.hypot(*down)
    level = np.array([upright[1], -upright[0]])
    cosine, sine = scale * np.cos(turn), scale * np.sin(turn)
    matrix = np.stack([level * cosine + upright * sine, upright * cosine - level * sine], 1)
    centre = mouth + shift[0] * level + shift[1] * upright
    if kind == "pacifier":
        # The shield stands before the lips: the nose shows which way that is.
        out = landmarks[30] - landmarks[[31, 35]].mean(0)
        centre = centre + 0.5 * level * (out @ level) / unit**2
        matrix = np.stack([scale * across, matrix[:, 1]], 1)
    return np.concatenate([matrix, centre[:, None]], 1)


@njit(nogil=True, cache=True)
def _cover(image, opacity, parts, matrix, inverse, light, soft):
    """Draw the parts over image float32 [H, W, 3] and opacity float32 [H, W], in place."""
    height, width = opacity.shape
    unit = np.sqrt(abs(matrix[0, 0] * matrix[1, 1] - matrix[0, 1] * matrix[1, 0]))
    hx, hy, hz = light[0], light[1], light[2] + 1
    length = np.sqrt(hx * hx + hy * hy + hz * hz)
    hx, hy, hz = hx / length, hy / length, hz / length
    for p in range(len(parts)):
        ax, ay, bx, by, ra, rb = parts[p, 0], parts[p, 1], parts[p, 2], parts[p, 3], parts[p, 4], parts[p, 5]
        bulge, gloss = parts[p, 9], parts[p, 10]
        reach = 1.45 * max(ra, rb) + 1.5 * soft / unit
        left, right, top, bottom = 1e9, -1e9, 1e9, -1e9
        for x, y in ((ax, ay), (bx, by)):
            px = matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2]
            py = matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2]
            rx = reach * np.sqrt(matrix[0, 0] ** 2 + matrix[0, 1] ** 2)
            ry = reach * np.sqrt(matrix[1, 0] ** 2 + matrix[1, 1] ** 2)
            left, right = min(left, px - rx), max(right, px + rx)
            top, bottom = min(top, py - ry), max(bottom, py + ry)
        dx, dy = bx - ax, by - ay
        square = dx * dx + dy * dy + 1e-9
        for row in range(max(int(top), 0), min(int(bottom) + 2, height)):
            for column in range(max(int(left), 0), min(int(right) + 2, width)):
                x = inverse[0, 0] * column + inverse[0, 1] * row + inverse[0, 2]
                y = inverse[1, 0] * column + inverse[1, 1] * row + inverse[1, 2]
                t = min(max(((x - ax) * dx + (y - ay) * dy) / square, 0.0), 1.0)
                r = ra + t * (rb - ra)
                ox, oy = (x - ax - t * dx) / r, (y - ay - t * dy) / r
                d = np.sqrt(ox * ox + oy * oy)
                if d > 1.45 and (d - 1) * r * unit > soft:
                    continue
                cover = min(max((1 - d) * r * unit / soft + 0.5, 0.0), 1.0)
                # A contact shadow round the part, deepest at its rim.
                fade = max(1 - (max(d, 1.0) - 1) / 0.45, 0.0)
                dark = 1 - 0.38 * bulge * fade * fade * (1 - cover)
                flat = min(d, 1.0)
                nx = ox / max(d, 1e-6) * flat * bulge
                ny = oy / max(d, 1e-6) * flat * bulge
                # To the picture's axes, about the same scale in both.
                wx = (matrix[0, 0] * nx + matrix[0, 1] * ny) / unit
                wy = (matrix[1, 0] * nx + matrix[1, 1] * ny) / unit
                nz = np.sqrt(max(1 - flat * flat * min(bulge, 1.0), 0.0)) + 0.15
                size = np.sqrt(wx * wx + wy * wy + nz * nz)
                facing = (wx * light[0] + wy * light[1] + nz * light[2]) / size
                lit = 0.58 + 0.5 * max((facing + 0.3) / 1.3, 0.0)
                shine = 255 * gloss * max((wx * hx + wy * hy + nz * hz) / size, 0.0) ** 40
                for k in range(3):
                    under = image[row, column, k] * dark
                    image[row, column, k] = under + cover * (parts[p, 6 + k] * lit + shine - under)
                opacity[row, column] += cover * (1 - opacity[row, column])


def cover(image: np.ndarray, parts: np.ndarray, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Draw the parts [K, 11] of `occluder` over an image; matrix [2, 3] as `placement` returns it.

    Returns the picture and the opacity of what was drawn, float32 [height, width] in 0..1; the thing's shadow is in the
    picture and not in the opacity.
    """
    drawn = image.astype(np.float32)
    opacity = np.zeros(image.shape[:2], np.float32)
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]
    _cover(drawn, opacity, parts, matrix, inverse, _LIGHT, max(1.0, 0.006 * min(image.shape[:2])))
    return np.clip(drawn + 0.5, 0, 255).astype(np.uint8), opacity


def visibility(landmarks: np.ndarray, opacity: np.ndarray) -> float:
    """Return the share of the convex hull of landmarks [68, 2], within the picture, that nothing hides.

    `opacity` float32 [height, width] is what lies before the face; a face outside the picture has visibility 0.
    """
    hull = np.zeros(opacity.shape, np.uint8)
    cv2.fillConvexPoly(hull, cv2.convexHull(np.rint(landmarks).astype(np.int32)), 1)
    return float(1 - opacity[hull > 0].mean()) if hull.any() else 0.0


def _vignetted(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return image float [H, W, 3] as uint8, lit from one side and darker towards the corners."""
    height, width = image.shape[:2]
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    angle = rng.uniform(0, 2 * np.pi)
    light = 1 + rng.uniform(0, 0.2) * (x * np.cos(angle) + y * np.sin(angle)) - 0.08 * (x * x + y * y)
    return np.clip(np.rint(image * light[..., None]), 0, 255).astype(np.uint8)


def plain(width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """Return an empty wall, unevenly lit, as a background uint8 RGB [height, width, 3]."""
    colour = rng.uniform(70, 220) * (1 + rng.uniform(-0.12, 0.12, 3))
    uneven = cv2.resize(
        rng.normal(0, 5, (4, 4, 1)) + rng.normal(0, 1, (4, 4, 3)), (width, height), interpolation=cv2.INTER_CUBIC
    )
    return _vignetted(colour + uneven, rng)


def _shelves(image: np.ndarray, rng: np.random.Generator) -> None:
    """Draw boards with books and boxes on the wall, in place."""
    height, width = image.shape[:2]
    side = min(height, width)
    board = rng.uniform(90, 230) * np.array([1.0, 0.86, 0.68])
    for y in np.arange(rng.uniform(0.12, 0.25), 0.75, 0.26) * height:
        x, stop = rng.uniform(-0.1, 0.45) * width, rng.uniform(0.6, 1.1) * width
        cv2.rectangle(image, (int(x), int(y)), (int(stop), int(y + 0.025 * side)), board.tolist(), -1)
        while x < stop:
            wide, high = rng.uniform(0.02, 0.1) * side, rng.uniform(0.06, 0.19) * side
            if rng.random() < 0.75:
                colour = rng.choice(_BRIGHT) * rng.uniform(0.5, 1.0)
                cv2.rectangle(image, (int(x), int(y - high)), (int(x + wide), int(y) - 1), colour.tolist(), -1)
            x += wide + 1


def _window(image: np.ndarray, rng: np.random.Generator) -> None:
    """Draw a bright window with its frame, in place."""
    height, width = image.shape[:2]
    side = min(height, width)
    left, top = rng.uniform(-0.1, 0.7) * width, rng.uniform(-0.1, 0.15) * height
    wide, high = rng.uniform(0.3, 0.5) * side, rng.uniform(0.4, 0.6) * side
    sky = np.array([225, 236, 246]) * rng.uniform(0.85, 1.04)
    corners = [(int(left), int(top)), (int(left + wide), int(top + high))]
    cv2.rectangle(image, *corners, np.minimum(sky, 255).tolist(), -1)
    frame, thick = [float(rng.uniform(120, 235))] * 3, max(1, int(0.02 * side))
    cv2.rectangle(image, *corners, frame, thick)
    middle = int(left + wide / 2)
    cv2.line(image, (middle, int(top)), (middle, int(top + high)), frame, thick)


def _blanket(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the image with a patterned blanket or cushion over its lower part."""
    height, width = image.shape[:2]
    side = min(height, width)
    y, x = np.mgrid[:height, :width] / side
    angle, step = rng.uniform(-0.5, 0.5), rng.uniform(0.06, 0.16)
    u = (x * np.cos(angle) + y * np.sin(angle)) / step
    v = (y * np.cos(angle) - x * np.sin(angle)) / step
    pattern = (
        np.sin(2 * np.pi * u) > rng.uniform(-0.5, 0.5),
        (np.sin(np.pi * u) > 0) ^ (np.sin(np.pi * v) > 0),
        np.hypot(u - np.rint(u), v - np.rint(v)) < 0.3,
    )[rng.integers(3)]
    ground, figure = rng.choice(_PALE) * rng.uniform(0.6, 1.0), rng.choice(_BRIGHT) * rng.uniform(0.5, 1.0)
    cloth = np.where(pattern[..., None], figure, ground) * (0.85 + 0.15 * np.sin(9 * x + 4 * y + 6))[..., None]
    edge = rng.uniform(0.55, 0.8) * height / side + 0.04 * np.sin(5 * x + rng.uniform(0, 6))
    return np.where((y > edge)[..., None], cloth, image)


def playroom(width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """Return a cluttered room as a background uint8 RGB [height, width, 3].

    Shelves with books, a window, toys and a patterned blanket, each blurred by how far away it is.
    """
    side = min(width, height)
    image = np.empty((height, width, 3))
    image[:] = rng.uniform(110, 215) * (1 + rng.uniform(-0.12, 0.12, 3))
    if rng.random() < 0.6:
        _window(image, rng)
    if rng.random() < 0.8:
        _shelves(image, rng)
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.012, 0.03) * side)
    if rng.random() < 0.85:
        image = _blanket(image, rng)
    image = np.clip(image, 0, 255).astype(np.uint8)
    for _ in range(rng.integers(2, 5)):
        scale = rng.uniform(0.06, 0.1) * side
        # At the sides, where the head leaves room.
        x = width * (rng.uniform(0.02, 0.25) if rng.random() < 0.5 else rng.uniform(0.75, 0.98))
        matrix = np.array([[scale, 0, x], [0, scale, rng.uniform(0.62, 0.95) * height]])
        image, _ = cover(image, occluder("toy", rng, np.zeros(3)), matrix)
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.006, 0.014) * side)
    return _vignetted(0.92 * image, rng)


def defocused(image: np.ndarray, sigma: float) -> np.ndarray:
    """Return the image as a lens out of focus records it: a Gaussian blur with `sigma` in pixels."""
    return cv2.GaussianBlur(image, (0, 0), sigma)


def smeared(image: np.ndarray, length: float, angle: float) -> np.ndarray:
    """Return the image with motion blur along a line of `length` pixels at `angle` (radians, clockwise from right)."""
    half = max(1, int(np.ceil(length / 2)))
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    along, beside = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    kernel = np.clip(length / 2 + 0.5 - np.abs(along), 0, 1) * np.clip(1 - np.abs(beside), 0, 1)
    return cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT_101)


def noisy(image: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Return the image with sensor noise: `level` is the standard deviation at middle grey, of 255.

    Its variance grows with the light, and half of it is common to the three channels.
    """
    height, width = image.shape[:2]
    noise = rng.standard_normal((height, width, 4), np.float32)
    grain = (noise[..., :3] + noise[..., 3:]) * np.float32(level / 2**0.5)
    spread = np.sqrt(0.25 + 1.5 * np.linspace(0, 1, 256)).astype(np.float32)
    grain *= spread[image]
    return np.clip(image + grain + 0.5, 0, 255).astype(np.uint8)


def compressed(image: np.ndarray, quality: int) -> np.ndarray:
    """Return the image after JPEG compression of a quality of 1 to 100, chroma at half the resolution."""
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])


def coarse(image: np.ndarray, share: float) -> np.ndarray:
    """Return the image as if it had been recorded with `share` of its pixels a side and enlarged."""
    height, width = image.shape[:2]
    small = cv2.resize(image, (round(share * width), round(share * height)), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def occluded(
    image: np.ndarray, landmarks: np.ndarray, kind: str, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a thing of OCCLUDERS somewhere before the face with 68 landmarks; return the picture and its opacity."""
    skin = skin_colour(image, landmarks)
    shift, turn, scale = (0.0, 0.0), 0.0, rng.uniform(0.85, 1.15)
    if kind == "pacifier":
        turn = rng.normal(0, 0.08)
    elif kind == "bottle":
        # Held from below or from a side, the teat in the mouth.
        turn = np.pi + rng.uniform(-1.2, 1.2)
    elif kind == "hand":
        shift = (rng.uniform(-1.1, 1.1), rng.uniform(-1.0, 0.7))
        turn = -0.5 * shift[0] + rng.normal(0, 0.25)
        # Now and then an adult's.
        scale *= 1.6 if rng.random() < 0.2 else 1.0
    else:
        shift, turn = (rng.uniform(-1.2, 1.2), rng.uniform(-0.3, 1.4)), rng.uniform(-0.8, 0.8)
    return cover(image, occluder(kind, rng, skin), placement(kind, landmarks, shift, turn, scale))


def captured(image: np.ndarray, landmarks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a drawn crop with 68 landmarks [68, 2] as it might have been recorded, mildly to strongly worse.

    Three in ten have something before the face, most blur, noise, compression or a low resolution, one in eight is as
    it was drawn. The crop is uint8 RGB of any size.
    """
    if rng.random() < _UNTOUCHED:
        return image.copy()
    side = min(image.shape[:2])
    if rng.random() < _OCCLUDED:
        image, _ = occluded(image, landmarks, OCCLUDERS[rng.integers(len(OCCLUDERS))], rng)
    # Squared: mild effects are the more frequent ones.
    strength = rng.random(5) ** 2
    chosen = rng.random(5) < (_COARSE, _MOTION, _DEFOCUS, _NOISE, _JPEG)
    share, length, sigma, level, quality = (
        low + strength * (high - low)
        for strength, (low, high) in zip(
            strength, (_RESOLUTION[::-1], _MOTION_LENGTH, _DEFOCUS_SIGMA, _NOISE_LEVEL, _QUALITY[::-1]), strict=True
        )
    )
    if chosen[0]:
        image = coarse(image, share)
    if chosen[1]:
        image = smeared(image, side * length, rng.uniform(0, np.pi))
    if chosen[2]:
        image = defocused(image, side * sigma)
    if chosen[3]:
        image = noisy(image, level, rng)
    return compressed(image, round(quality)) if chosen[4] else image.copy()
