"""A compiled z-buffer rasteriser that draws the head model, aligned as FFHQ does or with a fixed camera."""

from dataclasses import dataclass

import numpy as np
from numba import njit

from peekaboo.synth import head as heads
from peekaboo.synth.head import PARAMETERS, PIVOT, HeadModel

CAMERA = 75.0  # cm from the pivot
FIELD = 37.0  # cm at the pivot's distance that the smaller side of a frame shows
_SRGB = np.round(255 * np.linspace(0, 1, 4097) ** (1 / 2.2)).astype(np.uint8)


@dataclass(frozen=True)
class Truth:
    """What is known of one drawn picture."""

    valence: float  # -1..1, formula in `head.affect`
    arousal: float  # -1..1
    expression: int  # index into EXPRESSIONS
    age: float  # 0 newborn .. 1 adult
    sex: int  # 1 where the sex parameter is positive
    rotation: np.ndarray  # float64 [3, 3], see `head.rotation`
    landmarks: np.ndarray  # float32 [68, 2] in pixels of the picture, the centre of the first pixel is (0, 0)
    gaze: np.ndarray  # float32 [2], degrees relative to the head: to its left, up


@njit(nogil=True, cache=True)
def _place(neutral, offset, infant, jacobian, youth, rotation, pivot, stiffness, shift):
    """Warp to the infant's head and turn each vertex about the pivot as far as it follows; the pivot is the origin."""
    out = np.empty_like(neutral)
    for i in range(len(neutral)):
        ox, oy, oz = offset[3 * i], offset[3 * i + 1], offset[3 * i + 2]
        x = neutral[i, 0] + ox - pivot[0]
        y = neutral[i, 1] + oy - pivot[1]
        z = neutral[i, 2] + oz - pivot[2]
        j = jacobian[i]
        x += youth * (infant[i, 0] + j[0, 0] * ox + j[0, 1] * oy + j[0, 2] * oz)
        y += youth * (infant[i, 1] + j[1, 0] * ox + j[1, 1] * oy + j[1, 2] * oz)
        z += youth * (infant[i, 2] + j[2, 0] * ox + j[2, 1] * oy + j[2, 2] * oz)
        s = stiffness[i]
        out[i, 0] = s * (rotation[0, 0] * x + rotation[0, 1] * y + rotation[0, 2] * z) + (1 - s) * x + shift[0]
        out[i, 1] = s * (rotation[1, 0] * x + rotation[1, 1] * y + rotation[1, 2] * z) + (1 - s) * y + shift[1]
        out[i, 2] = s * (rotation[2, 0] * x + rotation[2, 1] * y + rotation[2, 2] * z) + (1 - s) * z
    return out


@njit(nogil=True, cache=True)
def _normals(points, triangles):
    out = np.zeros_like(points)
    for t in range(len(triangles)):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        ux, uy, uz = points[b, 0] - points[a, 0], points[b, 1] - points[a, 1], points[b, 2] - points[a, 2]
        vx, vy, vz = points[c, 0] - points[a, 0], points[c, 1] - points[a, 1], points[c, 2] - points[a, 2]
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        for k in range(3):
            i = triangles[t, k]
            out[i, 0] += nx
            out[i, 1] += ny
            out[i, 2] += nz
    for i in range(len(points)):
        length = np.sqrt(out[i, 0] ** 2 + out[i, 1] ** 2 + out[i, 2] ** 2) + np.float32(1e-9)
        out[i] /= length
    return out


@njit(nogil=True, cache=True)
def _shade(points, normals, masks, reach, colours, look, light, light_colour, ambient, eyes, centres, axes):
    """Return float32 [V, 5]: linear RGB; of eyeballs the place about the gaze, the light and the place about the glint.

    look: flush, hair amount, hairline shift, brow strength, brow half width.
    """
    out = np.empty((len(points), 5), np.float32)
    flush, amount, hairline, brow_strength, brow_width = look
    # Half way between the light and the camera, for shine.
    hx, hy, hz = light[0], light[1], light[2] + 1
    length = np.sqrt(hx * hx + hy * hy + hz * hz)
    hx, hy, hz = hx / length, hy / length, hz / length
    skin, lips, hair, brow, cloth, teeth = colours[0], colours[1], colours[2], colours[3], colours[5], colours[6]
    for i in range(len(points)):
        nx, ny, nz = normals[i, 0], normals[i, 1], normals[i, 2]
        facing = nx * light[0] + ny * light[1] + nz * light[2]
        open_sky = reach[i] * (0.75 + 0.25 * ny)
        if i >= eyes:
            side = 0 if i < (len(points) + eyes) // 2 else 1
            x, y, z = points[i, 0] - centres[side, 0], points[i, 1] - centres[side, 1], points[i, 2] - centres[side, 2]
            length = np.sqrt(x * x + y * y + z * z)
            out[i, 0] = (x * axes[0, 0] + y * axes[1, 0] + z * axes[2, 0]) / length
            out[i, 1] = (x * axes[0, 1] + y * axes[1, 1] + z * axes[2, 1]) / length
            out[i, 2] = 0.25 + 0.75 * (ambient * open_sky + (1 - ambient) * max(0.25 + 0.75 * facing, 0.0))
            out[i, 3] = x / length - hx
            out[i, 4] = y / length - hy
            continue
        m = masks[i]
        hairy = m[5] / (1 + np.exp(-(m[4] - hairline) / 0.7)) * min(1.0, 1.15 * amount + 0.1 * (1 - amount))
        browed = brow_strength / (1 + np.exp((m[3] - brow_width) / 0.1))
        shine = max(nx * hx + ny * hy + nz * hz, 0.0) ** 16 * reach[i] * (1 - ambient) * 0.06 * (1 - 0.6 * m[6])
        for k in range(3):
            colour = skin[k]
            # Blood shows as less green and blue.
            colour *= 1 - flush * m[1] * (0.0 if k == 0 else (0.55 if k == 1 else 0.45))
            colour += m[0] * (lips[k] - colour)
            colour += browed * (brow[k] - colour)
            colour += hairy * (hair[k] - colour)
            colour *= 1 - 0.75 * m[2]
            colour += m[6] * (cloth[k] - colour)
            if m[7] > 0:
                colour = teeth[k]
            if m[8] > 0:
                colour = 0.35 if k == 0 else 0.11
            # Light that wraps round edges, furthest in red, stands for light inside the skin.
            wrap = 0.35 if k == 0 else (0.2 if k == 1 else 0.15)
            direct = max((facing + wrap) / (1 + wrap), 0.0) * (0.35 + 0.65 * reach[i])
            lit = ambient * open_sky + (1 - ambient) * 1.5 * direct
            out[i, k] = colour * lit * light_colour[k] + shine * light_colour[k]
        out[i, 3] = 0.0
        out[i, 4] = 0.0
    return out


@njit(nogil=True, cache=True)
def _raster(image, place, triangles, values, eyes, iris, light_colour):
    """Draw triangles over `image` float32 [H, W, 3]; place holds pixel x, y and a depth, larger nearer the camera."""
    height, width = image.shape[:2]
    nearest = np.full((height, width), -np.inf, np.float32)
    for t in range(len(triangles)):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        ax, ay = place[a, 0], place[a, 1]
        bx, by = place[b, 0] - ax, place[b, 1] - ay
        cx, cy = place[c, 0] - ax, place[c, 1] - ay
        area = bx * cy - by * cx
        # Rows run downwards, so front faces have a negative area.
        if area >= -1e-9:
            continue
        left = max(int(np.ceil(ax + min(0.0, bx, cx))), 0)
        right = min(int(np.floor(ax + max(0.0, bx, cx))), width - 1)
        top = max(int(np.ceil(ay + min(0.0, by, cy))), 0)
        bottom = min(int(np.floor(ay + max(0.0, by, cy))), height - 1)
        for row in range(top, bottom + 1):
            for column in range(left, right + 1):
                x, y = column - ax, row - ay
                v = (x * cy - y * cx) / area
                w = (bx * y - by * x) / area
                u = 1 - v - w
                if v < 0 or w < 0 or u < 0:
                    continue
                depth = u * place[a, 2] + v * place[b, 2] + w * place[c, 2]
                if depth <= nearest[row, column]:
                    continue
                nearest[row, column] = depth
                if t < eyes:
                    for k in range(3):
                        image[row, column, k] = u * values[a, k] + v * values[b, k] + w * values[c, k]
                    continue
                qx = u * values[a, 0] + v * values[b, 0] + w * values[c, 0]
                qy = u * values[a, 1] + v * values[b, 1] + w * values[c, 1]
                bright = u * values[a, 2] + v * values[b, 2] + w * values[c, 2]
                gx = u * values[a, 3] + v * values[b, 3] + w * values[c, 3]
                gy = u * values[a, 4] + v * values[b, 4] + w * values[c, 4]
                r = np.sqrt(qx * qx + qy * qy)
                coloured = 1 / (1 + np.exp((r - 0.52) / 0.015))
                pupil = 1 / (1 + np.exp((r - 0.21) / 0.015))
                rim = 1 - 0.6 * np.exp(-(((r - 0.52) / 0.06) ** 2))
                glint = np.exp(-(gx * gx + gy * gy) / 0.02)
                for k in range(3):
                    white = 0.78 if k == 0 else 0.74
                    colour = white + coloured * (iris[k] * rim * (1 - 0.95 * pupil) - white)
                    image[row, column, k] = (colour * bright + 0.9 * glint) * light_colour[k]


@njit(nogil=True, cache=True)
def _background(height, width, matrix, first, second, direction):
    """Return float32 [H, W, 3]: two colours with a soft border across `direction`, fixed to the camera's plane."""
    image = np.empty((height, width, 3), np.float32)
    for row in range(height):
        for column in range(width):
            x = matrix[0, 0] * column + matrix[0, 1] * row + matrix[0, 2]
            y = matrix[1, 0] * column + matrix[1, 1] * row + matrix[1, 2]
            share = 1 / (1 + np.exp(-(x * np.cos(direction) + y * np.sin(direction)) / 3.5))
            for k in range(3):
                image[row, column, k] = first[k] + share * (second[k] - first[k])
    return image


@njit(nogil=True, cache=True)
def _finish(image, factor, exposure, table):
    """Average factor x factor blocks of linear light, expose, compress highlights and return sRGB uint8."""
    height, width = image.shape[0] // factor, image.shape[1] // factor
    out = np.empty((height, width, 3), np.uint8)
    for row in range(height):
        for column in range(width):
            for k in range(3):
                total = 0.0
                for i in range(factor):
                    for j in range(factor):
                        value = image[row * factor + i, column * factor + j, k] * exposure
                        total += value * (1 + value * 0.25) / (1 + value * 0.55)
                out[row, column, k] = table[min(int(total / (factor * factor) * 4096 + 0.5), 4096)]
    return out


def pose(head: HeadModel, parameters: np.ndarray, shift: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """Return the vertices float32 [V, 3] relative to the pivot in camera axes (x right, y up, z to the camera), cm."""
    offset = heads.shape_weights(parameters) @ head.basis
    youth = np.float32(1.1 * (1 - heads.adulthood(parameters)))
    return _place(
        head.neutral,
        offset,
        head.infant,
        head.jacobian,
        youth,
        heads.rotation(parameters).astype(np.float32),
        PIVOT,
        head.stiffness,
        np.array(shift, np.float32),
    )


def _project(points: np.ndarray) -> np.ndarray:
    """Return float32 [V, 3]: x right and y down in cm in the pivot's plane, and a depth linear on the screen."""
    near = CAMERA / (CAMERA - points[:, 2])
    return np.stack([points[:, 0] * near, -points[:, 1] * near, near], 1)


def alignment(landmarks: np.ndarray, size: int) -> np.ndarray:
    """Return the FFHQ crop of 68 landmarks [68, 2]: float64 [2, 3], from their coordinates to pixels of the crop.

    The formula is that of github.com/NVlabs/ffhq-dataset (download_ffhq.py, recreate_aligned_images).
    """
    left, right = landmarks[36:42].mean(0), landmarks[42:48].mean(0)
    eyes = (left + right) / 2
    across = right - left
    down = (landmarks[48] + landmarks[54]) / 2 - eyes
    x = across - down[::-1] * [-1, 1]
    x *= max(2 * np.hypot(*across), 1.8 * np.hypot(*down)) / np.hypot(*x)
    y = x[::-1] * [-1, 1]
    corner = eyes + 0.1 * down - x - y
    matrix = np.linalg.inv(np.stack([2 * x, 2 * y], 1)) * size
    return np.concatenate([matrix, (-matrix @ corner - 0.5)[:, None]], 1)


def _draw(
    head: HeadModel,
    parameters: np.ndarray,
    points: np.ndarray,
    matrix: np.ndarray,
    size: tuple[int, int],
    supersample: int,
) -> np.ndarray:
    """Draw posed vertices on width x height; matrix [2, 3] maps the pivot's plane (cm, y down) to pixels."""
    width, height = size
    fine = supersample * matrix
    fine[:, 2] += (supersample - 1) / 2
    place = _project(points)
    place[:, :2] = place[:, :2] @ fine[:, :2].T + fine[:, 2]
    back = np.linalg.inv(np.vstack([fine, [0, 0, 1]]))
    colours = heads.colours(parameters)
    azimuth, elevation, directed, warmth, exposure = parameters[PARAMETERS["light"]]
    azimuth, elevation = 1.1 * np.tanh(0.7 * azimuth), 0.5 + 0.45 * np.tanh(elevation)
    light = np.array([np.sin(azimuth) * np.cos(elevation), np.sin(elevation), np.cos(azimuth) * np.cos(elevation)])
    ambient = 0.35 + 0.4 / (1 + np.exp(directed))
    light_colour = np.exp(0.09 * np.tanh(0.7 * warmth) * np.array([1.0, 0.0, -1.6]))
    level = 1.15 * np.exp(0.3 * np.tanh(0.7 * exposure))

    left, up = np.radians(heads.gaze(parameters))
    towards = np.array([np.sin(left) * np.cos(up), np.sin(up), np.cos(left) * np.cos(up)])
    towards = heads.rotation(parameters) @ towards
    side = np.cross([0.0, 1.0, 0.0], towards)
    side /= np.linalg.norm(side)
    axes = np.stack([side, np.cross(towards, side), towards], 1)
    turned = heads.rotation(parameters) @ head.eye_offset.T.astype(np.float64)
    centres = np.stack([points[ball].mean(0) for ball in head.eyeballs]) + turned.T

    weights = heads.actions(parameters)
    crying = weights[heads.ACTIONS.index("cry")] + 0.4 * weights[heads.ACTIONS.index("distress")]
    _, _, flush = parameters[PARAMETERS["skin"]]
    amount = heads.hair_amount(parameters)
    strength, thickness = parameters[PARAMETERS["brow"]]
    age, sex = heads.adulthood(parameters), heads.masculinity(parameters)
    look = np.array(
        [
            1.0 / (1 + np.exp(0.6 - 1.3 * flush - 1.5 * crying)),
            amount,
            1.1 * parameters[PARAMETERS["hair"]][3] + 0.5 * (1 - amount),
            0.95 / (1 + np.exp(-0.2 - 1.4 * strength - 2 * (age - 0.2) - 0.7 * sex)),
            0.34 + 0.12 * np.tanh(0.7 * thickness) + 0.05 * sex,
        ],
        np.float32,
    )
    values = _shade(
        points,
        _normals(points, head.triangles),
        head.masks,
        head.light_reach,
        colours,
        look,
        light.astype(np.float32),
        light_colour.astype(np.float32),
        np.float32(ambient),
        head.eyeballs[0].start,
        centres.astype(np.float32),
        axes.astype(np.float32),
    )
    direction = 1.2 * parameters[PARAMETERS["background"]][4] + 1.0
    image = _background(height * supersample, width * supersample, back[:2], colours[7], colours[8], direction)
    place = np.ascontiguousarray(place, np.float32)
    _raster(image, place, head.triangles, values, head.eyes, colours[4], light_colour.astype(np.float32))
    return _finish(image, supersample, np.float32(level), _SRGB)


def _truth(parameters: np.ndarray, landmarks: np.ndarray) -> Truth:
    valence, arousal, expression = heads.affect(parameters)
    return Truth(
        valence=valence,
        arousal=arousal,
        expression=expression,
        age=heads.adulthood(parameters),
        sex=int(parameters[PARAMETERS["sex"]][0] > 0),
        rotation=heads.rotation(parameters),
        landmarks=landmarks.astype(np.float32),
        gaze=heads.gaze(parameters),
    )


def aligned(head: HeadModel, parameters: np.ndarray, size: int = 64, supersample: int = 2) -> tuple[np.ndarray, Truth]:
    """Draw parameters [P] straight into the FFHQ-aligned crop: uint8 RGB [S, S, 3], never resampled, and its truth.

    The framing entries shift the crop by 1.5 % of its side and scale it by 3 % per standard deviation.
    """
    points = pose(head, parameters)
    marks = _project(points[head.landmarks])[:, :2].astype(np.float64)
    matrix = alignment(marks, size)
    right, down, scale = parameters[PARAMETERS["framing"]]
    centre = (size - 1) / 2
    factor = float(np.exp(0.03 * scale))
    matrix *= factor
    matrix[:, 2] += centre * (1 - factor) + 0.015 * size * np.array([right, down])
    image = _draw(head, parameters, points, matrix, (size, size), supersample)
    return image, _truth(parameters, marks @ matrix[:, :2].T + matrix[:, 2])


def frame(
    head: HeadModel, parameters: np.ndarray, width: int, height: int, supersample: int = 2
) -> tuple[np.ndarray, Truth]:
    """Draw parameters [P] with a fixed camera: uint8 RGB [height, width, 3] and its truth.

    The framing entries move the head by 1.5 cm and scale the picture by 8 % per standard deviation.
    """
    right, down, scale = parameters[PARAMETERS["framing"]]
    points = pose(head, parameters, (1.5 * right, -1.5 * down))
    # The rim of the bust goes below the picture's foot.
    points[head.stiffness < 1e-7, 1] -= 10
    factor = min(width, height) / FIELD * float(np.exp(0.08 * scale))
    matrix = factor * np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 4.0]])
    matrix[:, 2] += [(width - 1) / 2, (height - 1) / 2]
    marks = _project(points[head.landmarks])[:, :2].astype(np.float64)
    landmarks = marks @ matrix[:, :2].T + matrix[:, 2]
    return _draw(head, parameters, points, matrix, (width, height), supersample), _truth(parameters, landmarks)
