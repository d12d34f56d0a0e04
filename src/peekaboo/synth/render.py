"""A compiled z-buffer rasteriser that draws the head model, aligned as FFHQ does or with a fixed camera."""

from dataclasses import dataclass

import numpy as np
from numba import njit
from scipy.special import expit

from peekaboo.synth import head as heads
from peekaboo.synth.head import PARAMETERS, PIVOT, HeadModel

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
def _light(points, normals, reach, open_to, sun, light, ambient, sky, ground, fill, eyes, centres, axes):
    """Return float32 [V, 5]: RGB of the light that arrives, and the shine of the key light.

    Of eyeballs: the place about the gaze, the light and the place about the glint. `sun` [9] are the harmonics of the
    key light's direction in head axes.
    """
    out = np.empty((len(points), 5), np.float32)
    # Half way between the light and the camera, for shine.
    hx, hy, hz = light[0], light[1], light[2] + 1
    length = np.sqrt(hx * hx + hy * hy + hz * hz)
    hx, hy, hz = hx / length, hy / length, hz / length
    for i in range(len(points)):
        nx, ny, nz = normals[i, 0], normals[i, 1], normals[i, 2]
        facing = nx * light[0] + ny * light[1] + nz * light[2]
        if i >= eyes:
            side = 0 if i < (len(points) + eyes) // 2 else 1
            x, y, z = points[i, 0] - centres[side, 0], points[i, 1] - centres[side, 1], points[i, 2] - centres[side, 2]
            length = np.sqrt(x * x + y * y + z * z)
            open_sky = reach[i] * (0.75 + 0.25 * ny)
            out[i, 0] = (x * axes[0, 0] + y * axes[1, 0] + z * axes[2, 0]) / length
            out[i, 1] = (x * axes[0, 1] + y * axes[1, 1] + z * axes[2, 1]) / length
            out[i, 2] = 0.25 + 0.75 * (ambient * open_sky + (1 - ambient) * max(0.25 + 0.75 * facing, 0.0))
            out[i, 3] = x / length - hx
            out[i, 4] = y / length - hy
            continue
        shadow = 0.0
        for k in range(9):
            shadow += open_to[i, k] * sun[k]
        shadow = min(max(1.5 * shadow - 0.4, 0.0), 1.0)
        side_on = max(0.3 - 0.95 * nx * (1.0 if light[0] > 0 else -1.0), 0.0) * reach[i] * (1 - ambient)
        for k in range(3):
            # Light that wraps round edges, furthest in red, stands for light inside the skin.
            wrap = 0.35 if k == 0 else (0.2 if k == 1 else 0.15)
            direct = max((facing + wrap) / (1 + wrap), 0.0) * (0.2 + 0.45 * shadow + 0.35 * reach[i])
            around = reach[i] * (ground[k] + (sky[k] - ground[k]) * (0.5 + 0.5 * ny))
            out[i, k] = ambient * around + (1 - ambient) * 1.5 * direct + fill[k] * side_on
        out[i, 3] = max(nx * hx + ny * hy + nz * hz, 0.0) ** 16 * reach[i] * shadow * (1 - ambient) * 0.06
        out[i, 4] = 0.0
    return out


@njit(nogil=True, cache=True)
def _raster(place, triangles, height, width):
    """Return the triangle int32 [H, W] nearest to the camera at each pixel, -1 none, and its weights float32 [H, W, 2].

    place holds pixel x, y and a depth, larger nearer the camera.
    """
    nearest = np.full((height, width), -np.inf, np.float32)
    shown = np.full((height, width), -1, np.int32)
    weights = np.empty((height, width, 2), np.float32)
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
                if depth > nearest[row, column]:
                    nearest[row, column] = depth
                    shown[row, column] = t
                    weights[row, column, 0] = v
                    weights[row, column, 1] = w
    return shown, weights


@njit(nogil=True, cache=True, inline="always")
def _step(x, width):
    """Return 0 below 0 to 1 above 0, smooth over about `width`."""
    if x > 5 * width:
        return 1.0
    if x < -5 * width:
        return 0.0
    return 1 / (1 + np.exp(-x / width))


@njit(nogil=True, cache=True)
def _paint(image, shown, weights, triangles, kinds, masks, lights, texture, colours, look, key):
    """Paint the surface shown at each pixel over `image` float32 [H, W, 3], linear light; look is made by `_look`."""
    (flush, lashes, under, freckles, mole0, mole1, blotch0, blotch1) = look[:8]
    (amount, hairline, streaky, brow_strength, brow_width, brow_height, brow_slant, brow_arch) = look[8:16]
    cap, band, neckline = look[16:19]
    skin, lips, hair, brow, iris = colours[0], colours[1], colours[2], colours[3], colours[4]
    cloth, teeth, striped, worn = colours[5], colours[6], colours[9], colours[10]
    full = min(1.0, 1.1 * amount + 0.04)
    height, width = shown.shape
    m = np.empty(14, np.float32)
    light = np.empty(5, np.float32)
    layer = np.empty(7, np.float32)
    for row in range(height):
        for column in range(width):
            t = shown[row, column]
            if t < 0:
                continue
            a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
            v, w = weights[row, column, 0], weights[row, column, 1]
            u = 1 - v - w
            for k in range(5):
                light[k] = u * lights[a, k] + v * lights[b, k] + w * lights[c, k]
            kind = kinds[t]
            if kind == 4:
                r = np.sqrt(light[0] * light[0] + light[1] * light[1])
                coloured = 1 / (1 + np.exp((r - 0.52) / 0.015))
                pupil = 1 / (1 + np.exp((r - 0.21) / 0.015))
                rim = 1 - 0.6 * np.exp(-(((r - 0.52) / 0.06) ** 2))
                glint = np.exp(-(light[3] * light[3] + light[4] * light[4]) / 0.02)
                for k in range(3):
                    white = 0.78 if k == 0 else 0.74
                    colour = white + coloured * (iris[k] * rim * (1 - 0.95 * pupil) - white)
                    image[row, column, k] = (colour * light[2] + 0.9 * glint) * key[k]
                continue
            if kind > 0:
                for k in range(3):
                    if kind == 1:
                        colour = teeth[k]
                    elif kind == 2:
                        colour = 0.35 if k == 0 else 0.11
                    else:
                        colour = 0.62 if k == 0 else (0.2 if k == 1 else 0.21)
                    image[row, column, k] = (colour * light[k] + light[3]) * key[k]
                continue
            for k in range(14):
                m[k] = u * masks[a, k] + v * masks[b, k] + w * masks[c, k]
            x, y = min(max(m[11], 0.0), texture.shape[1] - 2.0), min(max(m[12], 0.0), texture.shape[0] - 2.0)
            i, j = int(y), int(x)
            fy, fx = y - i, x - j
            for k in range(7):
                upper = texture[i, j, k] + fx * (texture[i, j + 1, k] - texture[i, j, k])
                lower = texture[i + 1, j, k] + fx * (texture[i + 1, j + 1, k] - texture[i + 1, j, k])
                layer[k] = upper + fy * (lower - upper)
            clothed = _step(m[8] + neckline, 0.03)
            capped = cap * _step(m[9], 0.04) * m[3]
            banded = band * _step(1.0 - abs(m[10]), 0.04) * m[3]
            covered = max(clothed, capped, banded)
            # Hair is thinner at its edge, where single strands end.
            haired = (
                full * m[3] * _step(m[7] - hairline + 0.9 * layer[5], 0.45) * (1 - 0.35 * (1 - amount) * (1 - layer[5]))
            )
            along = m[5]
            bend = brow_height + brow_slant * (along - 0.5) + brow_arch * (0.7 - 5.0 * (along - 0.6) * (along - 0.6))
            half = brow_width * (1.0 - 0.55 * along * along)
            browed = 0.0
            if -0.3 < along < 1.3 and abs(m[6]) < 2.5:
                ends = _step(along + 0.02, 0.035) * _step(1.0 - along, 0.06)
                browed = brow_strength * ends * _step(half - abs(m[6] - bend), 0.07)
            lipped = _step(m[4], 0.07)
            spots = 0.55 * freckles * _step(layer[0] - 1.0 + 0.85 * freckles, 0.05) * (layer[0] > 0.02)
            moles = min(mole0 * layer[1] + mole1 * layer[2], 1.0)
            patches = blotch0 * layer[3] + blotch1 * layer[4]
            shine = light[3] * (1 - 0.7 * covered) * (1 - 0.5 * haired)
            ribs = 1 + 0.13 * layer[6]
            wave = _step(np.sin(m[13] * 4.2), 0.12) * _step(m[13] + 20.0, 0.3)
            strands = np.exp(streaky * layer[5])
            for k in range(3):
                colour = skin[k]
                # Blood shows as less green and blue.
                blood = 0.0 if k == 0 else (0.55 if k == 1 else 0.45)
                colour *= 1 - flush * m[0] * blood
                colour *= np.exp(-max(patches, 0.0) * (0.0 if k == 0 else 0.24) - 0.09 * min(patches, 0.0))
                colour *= 1 - under * m[2] * (0.35 if k == 0 else (0.45 if k == 1 else 0.32))
                colour *= 1 - spots * (0.45 if k == 0 else (0.75 if k == 1 else 0.9))
                colour *= 1 - moles * (0.75 if k == 0 else 0.88)
                colour += lipped * (lips[k] - colour)
                colour += browed * (brow[k] - colour)
                colour += haired * (hair[k] * strands - colour)
                colour *= 1 - lashes * m[1]
                if covered > 0:
                    textile = cloth[k] + wave * (striped[k] - cloth[k])
                    # The neckband.
                    if m[8] + neckline < 0.55:
                        textile = striped[k]
                    if clothed < max(capped, banded):
                        textile = worn[k] * ribs * (0.8 if 1.55 < m[9] < 1.8 and capped > 0.5 else 1.0)
                    colour += covered * (textile - colour)
                image[row, column, k] = (colour * light[k] + shine) * key[k]


@njit(nogil=True, cache=True)
def _background(shown, matrix, first, second, direction, waves):
    """Return float32 [H, W, 3]: two colours in soft waves across `direction`, fixed to the camera's plane.

    Black where a triangle is shown.
    """
    height, width = shown.shape
    image = np.zeros((height, width, 3), np.float32)
    cosine, sine = np.cos(direction), np.sin(direction)
    for row in range(height):
        for column in range(width):
            if shown[row, column] >= 0:
                continue
            x = matrix[0, 0] * column + matrix[0, 1] * row + matrix[0, 2]
            y = matrix[1, 0] * column + matrix[1, 1] * row + matrix[1, 2]
            along, across = x * cosine + y * sine, y * cosine - x * sine
            share = 1 / (1 + np.exp(-(along + 4.0 * waves * np.sin(0.3 * across + 0.5)) / 3.5))
            ripple = 1 + 0.12 * waves * np.sin(0.45 * along + 0.2 * across)
            for k in range(3):
                image[row, column, k] = (first[k] + share * (second[k] - first[k])) * ripple
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


@njit(nogil=True, cache=True)
def _spread(image, shown, factor):
    """Give the samples of a pixel that show no head the mean colour of those that do, in place; return image."""
    for row in range(0, shown.shape[0], factor):
        for column in range(0, shown.shape[1], factor):
            seen = (shown[row : row + factor, column : column + factor] >= 0).sum()
            if seen == 0 or seen == factor * factor:
                continue
            for k in range(3):
                total = 0.0
                for i in range(row, row + factor):
                    for j in range(column, column + factor):
                        if shown[i, j] >= 0:
                            total += image[i, j, k]
                for i in range(row, row + factor):
                    for j in range(column, column + factor):
                        if shown[i, j] < 0:
                            image[i, j, k] = total / seen
    return image


def _over(image: np.ndarray, shown: np.ndarray, factor: int, background: np.ndarray) -> np.ndarray:
    """Return `background` uint8 [H, W, 3] with the drawn head over it, the head's rim mixed in linear light."""
    height, width = background.shape[:2]
    share = (shown >= 0).reshape(height, factor, width, factor).mean((1, 3))
    out = background.copy()
    out[share == 1] = image[share == 1]
    rim = (share > 0) & (share < 1)
    part = share[rim][:, None]
    mixed = part * heads.linear(image[rim]) + (1 - part) * heads.linear(background[rim])
    out[rim] = np.rint(255 * mixed ** (1 / 2.2)).astype(np.uint8)
    return out


def pose(head: HeadModel, parameters: np.ndarray, shift: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """Return the vertices float32 [V, 3] relative to the pivot in camera axes (x right, y up, z to the camera), cm."""
    weights = heads.shape_weights(parameters)
    # However large the eyes of this identity are, the lids meet.
    blink = heads.SHAPES.index("eyeBlink") - len(heads.SHAPES)
    still = len(weights) - len(heads.SHAPES)
    weights[blink] *= np.clip(1 + head.lid_gap[:still] @ weights[:still], 0.7, 1.8)
    offset = weights @ head.basis
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


def _project(points: np.ndarray, distance: float) -> np.ndarray:
    """Return float32 [V, 3]: x right and y down in cm in the pivot's plane, and a depth linear on the screen."""
    near = distance / (distance - points[:, 2])
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


def _look(parameters: np.ndarray) -> np.ndarray:
    """Return the amounts, float32 [19], that `_paint` takes apart."""
    part = {name: parameters[where].astype(np.float64) for name, where in PARAMETERS.items()}
    weights = heads.actions(parameters)
    crying = weights[heads.ACTIONS.index("cry")] + 0.4 * weights[heads.ACTIONS.index("distress")]
    amount = heads.hair_amount(parameters)
    age, sex = heads.adulthood(parameters), heads.masculinity(parameters)
    freckles, moles, blotches = part["marks"][0], part["marks"][1:3], part["marks"][3:5]
    strength, thickness, raised, slant, arch = part["brow"]
    return np.array(
        [
            expit(1.3 * part["skin"][2] + 1.5 * crying - 0.6),
            0.8 * expit(0.9 + 1.5 * part["eyes"][0] - 0.5 * sex),
            expit(1.5 * part["eyes"][1] - 0.8),
            expit(2.0 * freckles - 1.3),
            *(0.85 * expit(4.0 * moles - 3.6)),
            *np.tanh(0.8 * blotches),
            amount,
            1.2 * part["hair"][3] + 0.5 * (1 - amount),
            0.15 + 0.4 * expit(part["hair"][4]),
            0.97 * expit(0.3 + 1.7 * strength + 2 * (age - 0.2) + 0.6 * sex),
            0.33 * np.exp(0.55 * np.tanh(0.8 * thickness)) + 0.05 * sex,
            0.28 * np.tanh(0.7 * raised),
            0.65 * np.tanh(0.7 * slant),
            0.45 * np.tanh(0.7 * arch),
            *heads.headwear(parameters),
            1.3 * np.tanh(0.7 * part["cloth"][3]) - 0.2,
        ],
        np.float32,
    )


def _draw(
    head: HeadModel,
    parameters: np.ndarray,
    points: np.ndarray,
    matrix: np.ndarray,
    size: tuple[int, int],
    supersample: int,
    background: np.ndarray | None = None,
) -> np.ndarray:
    """Draw posed vertices on width x height; matrix [2, 3] maps the pivot's plane (cm, y down) to pixels."""
    width, height = size
    fine = supersample * matrix
    fine[:, 2] += (supersample - 1) / 2
    place = _project(points, heads.camera_distance(parameters))
    place[:, :2] = place[:, :2] @ fine[:, :2].T + fine[:, 2]
    back = np.linalg.inv(np.vstack([fine, [0, 0, 1]]))
    colours = heads.colours(parameters)
    azimuth, elevation, directed, warmth, exposure, sky, ground, fill = parameters[PARAMETERS["light"]].astype(float)
    azimuth, elevation = 1.1 * np.tanh(0.7 * azimuth), 0.5 + 0.45 * np.tanh(elevation)
    light = np.array([np.sin(azimuth) * np.cos(elevation), np.sin(elevation), np.cos(azimuth) * np.cos(elevation)])
    ambient = 0.35 + 0.4 * expit(-directed)
    light_colour = np.exp(0.09 * np.tanh(0.7 * warmth) * np.array([1.0, 0.0, -1.6]))
    level = 1.15 * np.exp(0.3 * np.tanh(0.7 * exposure))
    above = np.exp(np.tanh(0.6 * sky) * np.array([0.16, 0.0, -0.24]))
    below = 0.55 * np.exp(np.tanh(0.6 * ground) * np.array([0.3, 0.0, -0.4]))
    second = 0.5 * expit(1.5 * fill - 1.5) * np.exp(-0.5 * np.tanh(0.6 * sky) * np.array([0.5, 0.0, -0.7]))
    turn = heads.rotation(parameters)
    sun = heads.harmonics((light @ turn)[None])[0]

    left, up = np.radians(heads.gaze(parameters))
    towards = turn @ np.array([np.sin(left) * np.cos(up), np.sin(up), np.cos(left) * np.cos(up)])
    side = np.cross([0.0, 1.0, 0.0], towards)
    side /= np.linalg.norm(side)
    axes = np.stack([side, np.cross(towards, side), towards], 1)
    centres = np.stack([points[ball].mean(0) for ball in head.eyeballs]) + (turn @ head.eye_offset.T).T

    values = _light(
        points,
        _normals(points, head.triangles),
        head.light_reach,
        head.open_to,
        sun.astype(np.float32),
        light.astype(np.float32),
        np.float32(ambient),
        above.astype(np.float32),
        below.astype(np.float32),
        second.astype(np.float32),
        head.eyeballs[0].start,
        centres.astype(np.float32),
        axes.astype(np.float32),
    )
    *_, direction, waves, _ = parameters[PARAMETERS["background"]].astype(float)
    place = np.ascontiguousarray(place, np.float32)
    shown, weights = _raster(place, head.triangles, height * supersample, width * supersample)
    image = _background(shown, back[:2], colours[7], colours[8], 1.2 * direction + 1.0, 1.2 * np.tanh(0.8 * waves))
    _paint(
        image,
        shown,
        weights,
        head.triangles,
        head.kinds,
        head.masks,
        values,
        head.texture,
        colours,
        _look(parameters),
        light_colour.astype(np.float32),
    )
    if background is None:
        return _finish(image, supersample, np.float32(level), _SRGB)
    # What is drawn of the rim must not hold the plain background.
    image = _finish(_spread(image, shown, supersample), supersample, np.float32(level), _SRGB)
    return _over(image, shown, supersample, background)


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


def _crop(parameters: np.ndarray, marks: np.ndarray, size: int) -> np.ndarray:
    """Return the FFHQ crop of landmarks [68, 2], moved by the framing entries: float64 [2, 3], as `alignment`'s."""
    matrix = alignment(marks, size)
    right, down, scale = parameters[PARAMETERS["framing"]]
    centre = (size - 1) / 2
    factor = float(np.exp(0.03 * scale))
    matrix *= factor
    matrix[:, 2] += centre * (1 - factor) + 0.015 * size * np.array([right, down])
    return matrix


def aligned(head: HeadModel, parameters: np.ndarray, size: int = 64, supersample: int = 2) -> tuple[np.ndarray, Truth]:
    """Draw parameters [P] straight into the FFHQ-aligned crop: uint8 RGB [S, S, 3], never resampled, and its truth.

    The framing entries shift the crop by 1.5 % of its side and scale it by 3 % per standard deviation.
    """
    points = pose(head, parameters)
    marks = _project(points[head.landmarks], heads.camera_distance(parameters))[:, :2].astype(np.float64)
    matrix = _crop(parameters, marks, size)
    image = _draw(head, parameters, points, matrix, (size, size), supersample)
    return image, _truth(parameters, marks @ matrix[:, :2].T + matrix[:, 2])


def description(head: HeadModel, parameters: np.ndarray) -> np.ndarray:
    """Say what the aligned crop of parameters [P] shows, as numbers that the picture depends on smoothly: float32 [D].

    Column and row of every vertex (shares of the crop's side) and its depth on the same scale, gamma-coded colours,
    amounts of everything painted on, weights of the actions, gaze, rotation matrix, and the parameters themselves.
    """
    points = pose(head, parameters)
    projected = _project(points, heads.camera_distance(parameters))
    matrix = _crop(parameters, projected[head.landmarks, :2].astype(np.float64), 1)
    places = projected[:, :2] @ matrix[:, :2].T + matrix[:, 2]
    depths = points[:, 2] * np.sqrt(np.linalg.det(matrix[:, :2]))
    return np.concatenate(
        [
            places.ravel(),
            depths,
            (heads.colours(parameters) ** (1 / 2.2)).ravel(),
            _look(parameters),
            heads.actions(parameters),
            heads.gaze(parameters),
            heads.rotation(parameters).ravel(),
            parameters,
        ]
    ).astype(np.float32)


def frame(
    head: HeadModel,
    parameters: np.ndarray,
    width: int,
    height: int,
    supersample: int = 2,
    background: np.ndarray | None = None,
) -> tuple[np.ndarray, Truth]:
    """Draw parameters [P] with a fixed camera: uint8 RGB [height, width, 3] and its truth.

    The framing entries move the head by 1.5 cm and scale the picture by 8 % per standard deviation. Where no head is,
    the picture shows `background`, uint8 RGB [height, width, 3], unchanged, in place of the parameters' own.

    Raises ValueError if the background is no such picture.
    """
    if background is not None and (background.shape != (height, width, 3) or background.dtype != np.uint8):
        found = f"{background.dtype} {list(background.shape)}"
        raise ValueError(f"frame: expected a background uint8 [{height}, {width}, 3], found {found}; resize it first")
    right, down, scale = parameters[PARAMETERS["framing"]]
    points = pose(head, parameters, (1.5 * right, -1.5 * down))
    # The rim of the bust goes below the picture's foot.
    points[head.stiffness < 1e-7, 1] -= 10
    factor = min(width, height) / FIELD * float(np.exp(0.08 * scale))
    matrix = factor * np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 4.0]])
    matrix[:, 2] += [(width - 1) / 2, (height - 1) / 2]
    marks = _project(points[head.landmarks], heads.camera_distance(parameters))[:, :2].astype(np.float64)
    landmarks = marks @ matrix[:, :2].T + matrix[:, 2]
    image = _draw(head, parameters, points, matrix, (width, height), supersample, background)
    return image, _truth(parameters, landmarks)
