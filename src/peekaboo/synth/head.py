"""An infant head as a function of one vector of standard normals: geometry, colours and ground truth.

Built on the ICT-FaceKit light model (github.com/ICT-VGL/ICT-FaceKit, MIT licence) as arrays. Head coordinates: about
1 unit = 1 cm, x to the head's left, y up, z forward.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numba import njit
from scipy.interpolate import CubicSpline
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.special import expit, ndtr

_SIZES = {
    "shape": 40,  # identity modes of the face model, in order of falling size
    "form": 18,  # one entry each of FORMS
    "age": 1,
    "sex": 1,
    "skin": 3,  # melanin, yellow to pink, flush of cheeks, nose and ears
    "marks": 5,  # freckles, two patterns of moles, two of blotches
    "eyes": 2,  # lashes, shade under the eyes
    "iris": 2,  # blue over hazel to brown, brightness
    "hair": 5,  # amount, dark to light, brown to red, height of the hairline, streaks
    "brow": 5,  # strength, thickness, height, slant, arch
    "lips": 2,  # pale to red, light to dark
    "expression": 18,  # one entry an action, in the order of ACTIONS
    "gaze": 2,  # to the head's left, up
    "rotation": 3,  # yaw, pitch, roll
    "light": 8,  # azimuth, elevation, directed share, warm to cool, exposure, sky's hue, ground's hue, fill light
    "background": 7,  # lightness, yellow to blue, green to red, contrast, direction, waves, second hue
    "cloth": 4,  # lightness, hue, stripes, height of the neckline
    "headwear": 4,  # cap, headband (both absent in most samples), lightness, hue
    "camera": 1,  # near to far
    "framing": 3,  # shift right, shift down, scale
}


def _slices(sizes: dict[str, int]) -> dict[str, slice]:
    stops = np.cumsum(list(sizes.values()))
    return {name: slice(int(stop) - size, int(stop)) for (name, size), stop in zip(sizes.items(), stops, strict=True)}


PARAMETERS: dict[str, slice] = _slices(_SIZES)
N_PARAMETERS = sum(_SIZES.values())
IDENTITY = np.arange(PARAMETERS["lips"].stop)
STATE = np.arange(PARAMETERS["lips"].stop, N_PARAMETERS)

FORMS = (
    *("cranium_width", "cranium_height", "cheeks", "eye_size", "nose_size", "jaw_width"),
    *("face_width", "face_length", "eye_spacing", "eye_slant", "nose_width", "nose_length", "nose_bridge"),
    *("mouth_width", "lip_fullness", "chin", "ears", "brow_ridge"),
)

# The first six exclude one another, the rest add to them; a negative entry of a signed action drives its opposite.
ACTIONS = (
    *("smile", "cry", "distress", "surprise", "yawn", "open_mouth", "pucker", "blink"),
    *("brow", "lids", "jaw_side", "lopsided", "lip_press", "cheek_puff", "nose_sneer", "frown"),
    *("tongue", "dimple"),
)
SIGNED = ("brow", "lids", "jaw_side", "lopsided")
EXPRESSIONS = ("neutral", "smile", "cry", "distress", "surprise", "yawn", "open_mouth")
_COMPETING = 6


def _pattern(text: str) -> dict[str, float]:
    return {name: float(weight) for name, weight in (item.split("=") for item in text.split())}


_PATTERNS = {
    "smile": _pattern("mouthSmile=1.1 cheekSquint=.7 cheekRaiser=.5 jawOpen=.2 mouthUpperUp=.25 eyeSquint=.3"),
    "cry": _pattern(
        "jawOpen=.62 mouthStretch=.8 mouthLowerDown=.7 mouthUpperUp=.8 mouthFrown=.4 browDown=1 browInnerUp=.35 "
        "eyeSquint=1 eyeBlink=.75 noseSneer=.9 cheekRaiser=.9"
    ),
    "distress": _pattern(
        "browInnerUp=.9 browDown=.6 mouthFrown=1.2 mouthShrugLower=.9 mouthShrugUpper=.3 eyeSquint=.5 noseSneer=.3"
    ),
    "surprise": _pattern("browInnerUp=1.1 browOuterUp=1.1 eyeWide=1.3 jawOpen=.38 mouthFunnel=.45"),
    "yawn": _pattern("jawOpen=1.15 eyeBlink=.95 eyeSquint=.4 browInnerUp=.4 mouthFunnel=.25 noseSneer=.3"),
    "open_mouth": _pattern("jawOpen=.5 mouthLowerDown=.2"),
    "pucker": _pattern("mouthPucker=1 mouthFunnel=.3"),
    "blink": _pattern("eyeBlink=1"),
    "brow": _pattern("browInnerUp=.45 browOuterUp=.45"),
    "lids": _pattern("eyeWide=.7"),
    "jaw_side": _pattern("jawLeft=.35 mouthLeft=.3"),
    "lopsided": _pattern("smileLeft=.35"),
    "lip_press": _pattern("mouthPress=.5 mouthRollLower=.5 mouthRollUpper=.4"),
    "cheek_puff": _pattern("cheekPuff=.7"),
    "nose_sneer": _pattern("noseSneer=.7"),
    "frown": _pattern("mouthFrown=.6"),
    "tongue": _pattern("jawOpen=.5 mouthLowerDown=.45 tongueOut=1"),
    "dimple": _pattern("mouthDimple=1 mouthClose=.1 jawForward=.25"),
}
_OPPOSITES = {
    "brow": _pattern("browDown=.7"),
    "lids": _pattern("eyeSquint=.4 eyeBlink=.3"),
    "jaw_side": _pattern("jawRight=.35 mouthRight=.3"),
    "lopsided": _pattern("smileRight=.35"),
}
_UNPAIRED = (
    *(
        "jawForward",
        "jawLeft",
        "jawRight",
        "jawOpen",
        "mouthClose",
        "mouthFunnel",
        "mouthLeft",
        "mouthRight",
        "mouthPucker",
    ),
    *("mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper"),
)
_PAIRED = (
    *("browDown", "browInnerUp", "browOuterUp", "cheekPuff", "cheekRaiser", "cheekSquint", "eyeBlink", "eyeLookDown"),
    *("eyeLookUp", "eyeSquint", "eyeWide", "mouthDimple", "mouthFrown", "mouthLowerDown", "mouthPress", "mouthSmile"),
    *("mouthStretch", "mouthUpperUp", "noseSneer"),
)
# Rows of the shape basis that expression weights drive; the last are made from left and right shapes or here.
SHAPES = (*_UNPAIRED, *_PAIRED, "tongueOut", "eyesBack", "smileLeft", "smileRight", "lookLeft", "lookRight")

# Shapes that stand for an action unit, with the weight that counts as its full intensity.
_UNITS = {
    "AU1": _pattern("browInnerUp=1.1"),
    "AU2": _pattern("browOuterUp=1.1"),
    "AU4": _pattern("browDown=1"),
    "AU5": _pattern("eyeWide=1.3"),
    "AU6": _pattern("cheekRaiser=.9 cheekSquint=.9"),
    "AU7": _pattern("eyeSquint=1"),
    "AU9": _pattern("noseSneer=.9"),
    "AU10": _pattern("mouthUpperUp=.8"),
    "AU12": _pattern("mouthSmile=1.1"),
    "AU14": _pattern("mouthDimple=1"),
    "AU15": _pattern("mouthFrown=1.2"),
    "AU16": _pattern("mouthLowerDown=.8"),
    "AU17": _pattern("mouthShrugLower=.9"),
    "AU18": _pattern("mouthPucker=1"),
    "AU19": _pattern("tongueOut=1"),
    "AU20": _pattern("mouthStretch=.8"),
    "AU22": _pattern("mouthFunnel=.6"),
    "AU23": _pattern("mouthPress=.5"),
    "AU25": _pattern("jawOpen=.3 mouthLowerDown=.5 mouthUpperUp=.5"),
    "AU26": _pattern("jawOpen=.6"),
    "AU27": _pattern("jawOpen=1.15"),
    "AU28": _pattern("mouthRollLower=.5 mouthRollUpper=.5"),
    "AU29": _pattern("jawForward=.25"),
    "AU34": _pattern("cheekPuff=.7"),
    "AU43": _pattern("eyeBlink=1.22"),
}

# One standard deviation of yaw, pitch and roll; the largest gaze to a side and up or down.
ROTATION_DEGREES = np.array([18.0, 10.0, 7.0])
GAZE_DEGREES = np.array([24.0, 15.0])

_VALENCE = np.array([1.0, -1.0, -0.7, 0.15, 0.0, 0.1], np.float32)
_AROUSAL = np.array([0.55, 1.0, 0.4, 0.8, -0.6, 0.15], np.float32)

# The large modes carry the likeness of a sex and a people, the small ones that of a person: these are enlarged most.
_SHAPE_SCALE = np.concatenate([np.full(5, 1.55), np.linspace(1.85, 2.9, 35)]).astype(np.float32)

PIVOT = np.array([0.0, -4.0, -1.0], np.float32)
_PARTS = ("face", "head_and_neck", "mouth_socket", "gums_and_tongue", "teeth", "sclera_left", "sclera_right")

# sRGB stops from the lightest to the darkest skin, and from blue to nearly black irises.
_SKIN = np.array(
    [(250, 222, 208), (241, 203, 180), (226, 178, 148), (198, 144, 110), (158, 106, 76), (116, 74, 52), (78, 49, 37)]
)
_IRIS = np.array([(96, 140, 184), (112, 148, 160), (118, 136, 96), (132, 98, 52), (92, 56, 28), (44, 27, 18)])


_RIGID = _SIZES["shape"] + len(FORMS) + 1


@dataclass(frozen=True)
class HeadModel:
    """The arrays that one drawing needs; V vertices, F triangles, B rows of the shape basis. Made by `load`."""

    neutral: np.ndarray  # float32 [V, 3]
    basis: np.ndarray  # float32 [B, 3V]: shape modes, FORMS, sex, hair, cap, headband, then SHAPES
    infant: np.ndarray  # float32 [V, 3], offset of the infant's head from the neutral one
    jacobian: np.ndarray  # float32 [V, 3, 3] of that warp, less the unit matrix
    triangles: np.ndarray  # int32 [F, 3]; those from `eyes` on are eyeballs
    eyes: int
    kinds: np.ndarray  # uint8 [F]: 0 skin, 1 teeth, 2 inside of the mouth, 3 tongue, 4 eyeball
    masks: np.ndarray  # float32 [V, 14], see `MASKS`
    texture: np.ndarray  # float32 [T, T, 7], see `_texture`
    stiffness: np.ndarray  # float32 [V], 1 where a vertex turns with the head, 0 on the shoulders
    landmarks: np.ndarray  # int32 [68] vertices
    lid_gap: np.ndarray  # float32 [B], what each row adds to the distance of the lids, as a share of the neutral one
    eyeballs: tuple[slice, slice]  # vertices of the left and right eyeball
    eye_offset: np.ndarray  # float32 [2, 3], centre of each eyeball from the mean of its vertices
    light_reach: np.ndarray  # float32 [V], share of the surroundings that a vertex sees
    open_to: np.ndarray  # float32 [V, 9], whether a vertex sees a direction of the head, in `harmonics`


# Flush, lashes, under-eye and hairy: shares in 0..1. The rest in cm, of the neutral head: depth inside the lips, place
# along (0 inner end .. 1) and above the brow's middle line, height above the hairline, the neckline, the cap's rim and
# the headband's middle line; last the place in the texture, in pixels.
MASKS = (
    *("flush", "lashes", "under_eye", "hairy", "lips", "brow_along", "brow_above", "hair", "cloth"),
    *("cap", "band", "column", "row", "folds"),
)
TEXTURE = 768
_TEXEL = TEXTURE / (2 * np.pi)  # texture pixels a radian


def sample(rng: np.random.Generator, n: int) -> np.ndarray:
    """Return n parameter vectors, float32 [n, P], every entry standard normal."""
    return rng.standard_normal((n, N_PARAMETERS), dtype=np.float32)


def adulthood(parameters: np.ndarray) -> float:
    """Return the age in 0..1 (0 newborn, about 0.2 the average sample, 1 adult)."""
    return float(expit(1.15 * parameters[PARAMETERS["age"]][0] - 1.3))


def masculinity(parameters: np.ndarray) -> float:
    """Return the sex direction in -1 (girl) to 1 (boy), steep around 0 so that few samples are undecided."""
    return float(np.tanh(2.0 * parameters[PARAMETERS["sex"]][0]))


def _positive(x: np.ndarray | float) -> np.ndarray:
    return np.logaddexp(0.0, 6.0 * np.asarray(x, np.float64)) / 6.0


def actions(parameters: np.ndarray) -> np.ndarray:
    """Return the weight of every action of ACTIONS, float32 [18]: 0 to about 1, signed ones -1 to 1.

    Each weight grows smoothly with its own entry; the six competing actions are scaled down by each other's squares.
    """
    raw = parameters[PARAMETERS["expression"]].astype(np.float64)
    weights = np.zeros(len(ACTIONS))
    strength = _positive(raw[:_COMPETING] - 0.6)
    squares = strength**2
    weights[:_COMPETING] = (1 - np.exp(-1.7 * strength)) * squares / (squares.sum() + 0.04)
    for i, name in enumerate(ACTIONS[_COMPETING:], _COMPETING):
        if name in SIGNED:
            weights[i] = np.tanh(0.7 * raw[i])
        else:
            weights[i] = 1 - np.exp(-2.5 * _positive(raw[i] - 0.9))
    # A wide or crying mouth can't be pursed or pressed as well.
    weights[[ACTIONS.index(name) for name in ("pucker", "lip_press", "tongue", "dimple")]] *= (
        1 - weights[:_COMPETING].sum()
    )
    return weights.astype(np.float32)


def gaze(parameters: np.ndarray) -> np.ndarray:
    """Return the gaze relative to the head in degrees, float32 [2]: to the head's left, up."""
    return (GAZE_DEGREES * np.tanh(0.5 * parameters[PARAMETERS["gaze"]])).astype(np.float32)


def shape_weights(parameters: np.ndarray) -> np.ndarray:
    """Return the weights of the rows of `HeadModel.basis`, float32 [B]."""
    action = actions(parameters)
    shapes = np.zeros(len(SHAPES))
    awake = 1.0
    for weight, name in zip(action, ACTIONS, strict=True):
        pattern = _OPPOSITES[name] if weight < 0 else _PATTERNS[name]
        for shape, amount in pattern.items():
            if shape == "eyeBlink":
                awake *= 1 - min(abs(weight) * amount, 1)
            else:
                shapes[SHAPES.index(shape)] += abs(weight) * amount
    shapes[SHAPES.index("eyeWide")] += 0.35 * (1 - adulthood(parameters))
    left, up = gaze(parameters)
    shapes[SHAPES.index("lookLeft")] += max(left, 0) / 30
    shapes[SHAPES.index("lookRight")] += max(-left, 0) / 30
    shapes[SHAPES.index("eyeLookUp")] += max(up, 0) / 25
    shapes[SHAPES.index("eyeLookDown")] += max(-up, 0) / 25
    # Squinting and looking down close part of the way; together with the blink the lids must meet, not cross.
    closed = 1 - awake
    shapes[SHAPES.index("eyeBlink")] = 1.22 * closed
    shapes[SHAPES.index("eyesBack")] = closed**2
    for shape in ("eyeSquint", "eyeWide", "eyeLookDown", "eyeLookUp"):
        shapes[SHAPES.index(shape)] *= awake
    shapes[SHAPES.index("jawOpen")] = min(shapes[SHAPES.index("jawOpen")], 1.2)
    cap, band = headwear(parameters)
    covered = 1 - (1 - 0.8 * cap) * (1 - 0.4 * band)
    return np.concatenate(
        [
            _SHAPE_SCALE * _limited(parameters[PARAMETERS["shape"]]),
            1.12 * _limited(parameters[PARAMETERS["form"]]),
            [masculinity(parameters)],
            [hair_amount(parameters) * (1 - covered)],
            [cap, band],
            shapes,
        ]
    ).astype(np.float32)


def _limited(x: np.ndarray) -> np.ndarray:
    """Return x drawn in softly beyond two standard deviations, so that no face is torn."""
    return 2.0 * np.tanh(x / 2.0)


def action_units(parameters: np.ndarray) -> dict[str, float]:
    """Return intensities in 0..1 of FACS action units from the weights of the face model's shapes.

    Each unit is the largest weight of the shapes in `_UNITS` that stand for it, as the ARKit shapes correspond to FACS,
    divided by the weight at full intensity and limited to 0..1. AU12 adds the stronger one-sided smile. AU43 is how far
    the lids are closed by anything, AU45 the share of it that the action `blink` closes.
    """
    rows = shape_weights(parameters)[-len(SHAPES) :]
    weight = dict(zip(SHAPES, np.maximum(rows, 0), strict=True))
    units = {unit: float(min(max(weight[name] / full for name, full in of.items()), 1)) for unit, of in _UNITS.items()}
    units["AU12"] = min(units["AU12"] + max(float(weight["smileLeft"]), float(weight["smileRight"])), 1.0)
    units["AU45"] = float(actions(parameters)[ACTIONS.index("blink")])
    return units


def headwear(parameters: np.ndarray) -> tuple[float, float]:
    """Return the presence of a cap and of a headband in 0..1, each steep; about 15 % wear a cap, 9 % a headband."""
    cap, band = parameters[PARAMETERS["headwear"]][:2].astype(np.float64)
    cap = float(expit((cap - 1.04) / 0.05))
    return cap, float(expit((band - 1.28) / 0.05)) * (1 - cap)


def camera_distance(parameters: np.ndarray) -> float:
    """Return the camera's distance from the pivot in cm: 75 on average, 48 to 117 at the ends."""
    return float(75 * np.exp(0.45 * np.tanh(0.8 * float(parameters[PARAMETERS["camera"]][0]))))


def hair_amount(parameters: np.ndarray) -> float:
    """Return how much hair there is: 0 bald, 1 thick; older heads have more."""
    return float(expit(1.5 * parameters[PARAMETERS["hair"]][0] + 0.1 + 4 * (adulthood(parameters) - 0.2)))


def rotation(parameters: np.ndarray) -> np.ndarray:
    """Return the head's rotation, float64 [3, 3], from head to camera axes (x right, y up, z to the camera).

    R = Ry(yaw) Rx(pitch) Rz(roll); the standard deviations are 18, 10 and 7 degrees. Positive yaw turns the face to
    the image's right, positive pitch turns it down, positive roll tilts the head's top to the image's left.
    """
    yaw, pitch, roll = np.radians(ROTATION_DEGREES * parameters[PARAMETERS["rotation"]])
    ry = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    rx = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
    rz = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    return ry @ rx @ rz


def affect(parameters: np.ndarray) -> tuple[float, float, int]:
    """Return valence and arousal in [-1, 1] and the index of the dominant expression in EXPRESSIONS.

    From the weights that `actions` returns: valence = smile - cry - 0.7 distress + 0.15 surprise + 0.1 open_mouth;
    arousal = 0.55 smile + cry + 0.4 distress + 0.8 surprise - 0.6 yawn + 0.15 open_mouth; both limited to [-1, 1].
    The expression is the competing action of the largest weight if that is above 0.3, else neutral.
    """
    weights = actions(parameters)[:_COMPETING]
    valence, arousal = np.clip([_VALENCE @ weights, _AROUSAL @ weights], -1, 1)
    dominant = int(weights.argmax())
    return float(valence), float(arousal), dominant + 1 if weights[dominant] > 0.3 else 0


def linear(colour: np.ndarray) -> np.ndarray:
    """Return linear light in 0..1 of an sRGB colour in 0..255 (power 2.2)."""
    return (np.asarray(colour, np.float64) / 255) ** 2.2


def _between(stops: np.ndarray, where: float) -> np.ndarray:
    return CubicSpline(np.linspace(0, 1, len(stops)), linear(stops))(where)


def colours(parameters: np.ndarray) -> np.ndarray:
    """Return linear RGB, float32 [11, 3].

    Skin, lips, hair, brows, iris, cloth, teeth, two of the background, the cloth's stripes and the headwear.
    """
    part = {name: parameters[where].astype(np.float64) for name, where in PARAMETERS.items()}
    age, sex = adulthood(parameters), masculinity(parameters)
    melanin, pink, _ = part["skin"]
    skin = _between(_SKIN, float(ndtr(1.3 * melanin)))
    skin = skin * np.exp(pink * np.array([0.04, -0.06, -0.03]) + np.array([0.0, -0.01, -0.09]) * -min(pink, 0))
    redness = expit(1.8 * part["lips"][0] - 1.0 * sex)
    lips = skin * (np.array([0.95, 0.68, 0.66]) * (1 - redness) + np.array([0.85, 0.25, 0.29]) * redness)
    lips = lips * np.exp(-0.22 * part["lips"][1])
    light = expit(1.6 * part["hair"][1] - 0.9 - 1.1 * melanin)
    red = expit(1.4 * part["hair"][2] - 1.0)
    fair = (1 - red) * linear((206, 170, 118)) + red * linear((186, 100, 52))
    hair = (1 - light) * linear((34, 25, 22)) + light * fair
    brow = np.minimum(0.6 * hair + 0.03 * skin, 0.5 * skin)
    iris = _between(_IRIS, float(ndtr(1.4 * part["iris"][0]))) * np.exp(0.4 * part["iris"][1])
    cloth = _dyed(1.2 * part["cloth"][0], part["cloth"][1])
    stripes = np.clip(cloth, 0, 1) * np.exp(1.4 * np.tanh(0.7 * part["cloth"][2] * abs(part["cloth"][2])))
    worn = _dyed(1.2 * part["headwear"][2] + 0.3, part["headwear"][3] + 1.0)
    # Teeth come through with age; before, they are a pink ridge.
    grown = expit((age - 0.3) / 0.05)
    teeth = (1 - grown) * linear((196, 110, 108)) + grown * linear((240, 236, 226))
    lightness, blue, green, contrast, _, _, other = part["background"]
    tint = np.exp(np.array([-0.3, 0.0, 0.35]) * blue + np.array([0.3, -0.2, 0.1]) * green)
    back = expit(1.1 * lightness - 0.7) * tint
    second = (
        expit(1.1 * lightness - 0.7 + 1.1 * contrast) * tint ** (-0.3) * np.exp(np.array([0.4, 0.05, -0.4]) * other)
    )
    rows = np.array([skin, lips, hair, brow, iris, cloth, teeth, back, second, stripes, worn])
    return np.clip(rows, 0.002, 1.0).astype(np.float32)


def _dyed(lightness: float, hue: float) -> np.ndarray:
    """Return the linear RGB [3] of a textile."""
    return (0.04 + 0.76 * expit(lightness)) * (0.7 + 0.38 * np.sin(1.2 * hue + np.array([0.0, -2.1, 2.1])))


def _bump(points: np.ndarray, centre: tuple[float, float, float], radius: float) -> np.ndarray:
    return np.exp(-(((points - np.array(centre)) / radius) ** 2).sum(1))


def _both(points: np.ndarray, centre: tuple[float, float, float], radius: float) -> np.ndarray:
    return _bump(points, centre, radius) + _bump(points, (-centre[0], centre[1], centre[2]), radius)


def _eye_scaling(points: np.ndarray, amount: float) -> np.ndarray:
    """Return offsets that enlarge the eyes about their centres, evenly over the eyeball so that it stays round."""
    offset = np.zeros_like(points)
    for side in (-1, 1):
        away = points - np.array([3.1 * side, 3.55, 8.0])
        near = 1 / (1 + ((away**2).sum(1) / 2.8**2) ** 3)
        offset += amount * near[:, None] * away
    return offset


def _infant_offset(points: np.ndarray) -> np.ndarray:
    """Return the offset [n, 3] from the adult's to the newborn's head at points [n, 3] of the neutral head."""
    x, y, z = points.T
    offset = np.zeros_like(points)
    # Lower face and neck: shorter, chin narrower and further back.
    depth = np.logaddexp(0, 1.5 * (2.0 - y)) / 1.5
    offset[:, 1] += 9.0 * np.tanh(0.34 * depth / 9.0) + 2.2 * expit((-9.5 - y) / 0.8)
    chin = expit((-3.5 - y) / 1.5)
    neck = expit((-8.5 - y) / 0.8)
    offset[:, 0] += -(0.07 * chin + 0.10 * neck) * x
    offset[:, 2] += -0.8 * chin * expit((z - 4) / 2) - 0.14 * neck * (z + 3)
    # Cranium: larger, the forehead forward and full.
    skull = expit((y - 6.0) / 1.8)
    offset += (skull * np.array([[0.13], [0.2], [0.1]])).T * (points - np.array([0, 3.0, -1.0]))
    offset[:, 2] += 1.1 * _bump(points, (0, 9.0, 9.5), 4.5) - 0.5 * _both(points, (3.0, 6.0, 9.8), 1.8)
    # Cheeks: full; nose: small and flat.
    for side in (-1, 1):
        cheek = _bump(points, (4.6 * side, -2.8, 8.0), 3.1)
        offset += cheek[:, None] * np.array([0.85 * side, -0.2, 0.7])
    nose = _bump(points, (0, 1.0, 12.3), 2.8)[:, None]
    offset += nose * (np.array([0.74, 0.78, 0.5]) - 1) * (points - np.array([0, 1.2, 10.0]))
    # The mouth: narrow.
    offset[:, 0] -= 0.16 * _bump(points, (0, -3.4, 10.5), 3.2) * x
    return offset + _eye_scaling(points, 0.3)


def _body_offset(points: np.ndarray) -> np.ndarray:
    """Return the offset [n, 3] that draws the bust's lower edge out to a body that fills the picture's foot."""
    below = np.logaddexp(0, 3.0 * (-13.5 - points[:, 1])) / 3.0
    return np.stack([0.12 * below * points[:, 0], -1.6 * below, 0.1 * below], 1)


def _form_offsets(points: np.ndarray) -> np.ndarray:
    """Return the offsets [18, n, 3] of one standard deviation of each of FORMS."""
    x, y, z = points.T
    zero = np.zeros_like(x)
    skull = expit((y - 5.0) / 1.5)
    jaw = expit((-1.5 - y) / 1.5) * expit((y + 9.5) / 0.8)
    cheeks = sum(
        _bump(points, (4.8 * side, -2.0, 7.5), 3.0)[:, None] * np.array([0.75 * side, -0.15, 0.45]) for side in (-1, 1)
    )
    nose = _bump(points, (0, 0.8, 12.0), 2.4)[:, None]
    away = points - np.array([0, 1.2, 10.0])
    face = expit((z - 1.0) / 2.0)
    eyes = [1 / (1 + (((points - [3.1 * side, 3.55, 8.0]) ** 2).sum(1) / 2.8**2) ** 3) for side in (-1, 1)]
    spacing = sum(near * side for near, side in zip(eyes, (-1, 1), strict=True))
    spacing += 0.6 * np.tanh(x / 3) * _bump(points, (0, 6.0, 9.5), 3.0) * (1 - eyes[0] - eyes[1])
    slant = sum(near * side * (x - 3.1 * side) for near, side in zip(eyes, (-1, 1), strict=True))
    lower = np.logaddexp(0, 2.0 * (0.5 - y)) / 2.0 * expit((y + 10.5) / 0.8)
    wings = _bump(points, (0, -0.2, 11.5), 1.7)
    tip = _bump(points, (0, -0.2, 12.2), 1.9)
    bridge = _bump(points, (0, 2.9, 11.0), 1.7)
    mouth = np.exp(-((x / 3.6) ** 4) - ((y + 3.5) / 1.9) ** 2) * expit((z - 7.5) / 0.6)
    upper = np.exp(-((x / 2.2) ** 4) - ((y + 2.6) / 0.55) ** 2) * expit((z - 10.0) / 0.3)
    under = np.exp(-((x / 2.0) ** 4) - ((y + 4.3) / 0.6) ** 2) * expit((z - 9.8) / 0.3)
    chin = _bump(points, (0, -7.0, 9.8), 2.6)
    ears = expit((np.abs(x) - 7.3) / 0.35) * expit((3.4 - z) / 0.7) * expit((y + 3.5) / 0.8) * expit((7.0 - y) / 0.8)
    ridge = _both(points, (2.4, 5.6, 10.2), 1.6) + _bump(points, (0, 5.4, 10.5), 1.6)
    return np.stack(
        [
            np.stack([0.055 * skull * x, zero, -0.02 * skull * z], 1),
            np.stack([zero, 0.08 * skull * (y - 5.0), zero], 1),
            0.75 * cheeks,
            _eye_scaling(points, 0.085),
            0.15 * nose * away,
            np.stack([0.07 * jaw * x, zero, zero], 1),
            np.stack([0.05 * face * x * expit((y + 9.5) / 1.0), zero, zero], 1),
            np.stack([zero, -0.085 * lower, zero], 1),
            np.stack([0.2 * spacing, zero, zero], 1),
            np.stack([zero, 0.13 * slant, zero], 1),
            np.stack([0.22 * wings * x, zero, zero], 1),
            np.stack([zero, -0.36 * tip, 0.12 * tip], 1),
            np.stack([zero, zero, 0.42 * bridge], 1),
            np.stack([0.11 * mouth * x, zero, zero], 1),
            np.stack([zero, 0.13 * upper - 0.16 * under, 0.13 * (upper + under)], 1),
            np.stack([0.05 * chin * x, -0.3 * chin, 0.45 * chin], 1),
            np.stack([0.45 * ears * np.sign(x), 0.07 * ears * (y - 1.5), 0.12 * ears], 1),
            np.stack([zero, -0.12 * ridge, 0.35 * ridge], 1),
        ]
    )


def _sex_offset(points: np.ndarray) -> np.ndarray:
    """Return the offset [n, 3] of a fully male head: heavier jaw, chin and brow ridge, larger nose, smaller eyes."""
    x, y, z = points.T
    jaw = expit((-2.5 - y) / 1.2) * expit((y + 9.5) / 0.8)
    offset = np.stack([0.08 * jaw * x, -0.45 * jaw, 0.3 * jaw * expit((z - 6) / 2)], 1)
    offset[:, 2] += 0.7 * _both(points, (2.6, 5.8, 10.0), 2.0)
    offset += 0.15 * _bump(points, (0, 1.0, 12.0), 2.6)[:, None] * (points - np.array([0, 1.5, 10.0]))
    return offset + _eye_scaling(points, -0.05)


def _distance(points: np.ndarray, curve: np.ndarray) -> np.ndarray:
    return np.sqrt(((points[:, None] - curve[None]) ** 2).sum(2).min(1))


def _curve(points: np.ndarray, closed: bool = False) -> np.ndarray:
    if closed:
        points = np.concatenate([points, points[:1]])
    t = np.arange(len(points))
    return CubicSpline(t, points, bc_type="periodic" if closed else "natural")(np.linspace(0, t[-1], 12 * t[-1]))


def _inside(points: np.ndarray, polygon: np.ndarray) -> np.ndarray:
    a, b = polygon, np.roll(polygon, -1, 0)
    x, y = points[:, :1], points[:, 1:2]
    crossing = (a[:, 1] > y) != (b[:, 1] > y)
    slope = (b[:, 0] - a[:, 0]) / np.where(b[:, 1] == a[:, 1], 1e-9, b[:, 1] - a[:, 1])
    return (crossing & (x < slope * (y - a[:, 1]) + a[:, 0])).sum(1) % 2 == 1


def _masks(points: np.ndarray, marks: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Return float32 [V, 14] in the order of MASKS."""
    x, y, z = points.T
    face = part == _PARTS.index("face")
    front = face & (z > 7.5)
    outer = _curve(marks[48:60], closed=True)
    depth = np.where(_inside(points[:, :2], outer[:, :2]), 1, -1) * _distance(points[:, :2], outer[:, :2])
    # Not the corners of the mouth's cheeks behind it.
    lips = np.where(face & (z > 6.0), depth, -2.0)
    flush = 0.9 * _both(points, (4.6, -1.2, 8.5), 2.6) + 0.6 * _bump(points, (0, 0.3, 12.8), 1.5)
    ears = expit((np.abs(x) - 7.4) / 0.2) * expit((3.0 - z) / 0.8) * expit((y + 3.5) / 0.6) * expit((7.0 - y) / 0.6)
    flush += 0.7 * ears + 0.3 * _bump(points, (0, -7.0, 10.0), 1.8)
    lids = np.concatenate([_curve(marks[36:40]), _curve(marks[42:46])])
    lower = np.concatenate([_curve(marks[[39, 40, 41, 36]]), _curve(marks[[45, 46, 47, 42]])])
    lashes = np.exp(-((_distance(points, lids) / 0.2) ** 2)) + 0.4 * np.exp(-((_distance(points, lower) / 0.16) ** 2))
    under = np.exp(-(((np.abs(x) - 3.0) / 1.3) ** 2) - (((y - 2.2) / 0.6) ** 2)) * front
    middle = (marks[17:22][::-1] * [-1, 1, 1] + marks[22:27]) / 2 + [0, 0.35, 0]
    line = CubicSpline(middle[:, 0], middle[:, 1], bc_type="natural")
    across = np.abs(x)
    start, stop = middle[0, 0] - 0.35, middle[-1, 0] + 0.3
    nearest = np.clip(across, start, stop)
    angle = np.degrees(np.arctan2(np.abs(x), z))
    hairline = np.interp(angle, [0, 30, 48, 62, 80, 100, 125, 180], [9.4, 9.2, 8.0, 6.2, 4.6, 5.2, 0.5, -4.5])
    rim = np.interp(angle, [0, 30, 60, 90, 120, 180], [8.4, 8.2, 7.2, 5.8, 3.0, -0.5])
    band = np.interp(angle, [0, 30, 60, 90, 120, 180], [9.4, 9.2, 8.2, 6.6, 3.8, 0.5])
    skin = np.isin(part, [0, 1])
    column, row = _texture_place(points)
    return np.stack(
        [
            flush * skin,
            np.minimum(lashes, 1) * front,
            under,
            skin * (1 - ears),
            lips,
            (across - start) / (stop - start),
            np.where(front, y - line(nearest), 9.0),
            np.where(skin, y - hairline, -30.0),
            np.where(skin, -12.6 - y - 0.10 * z, -30.0),
            np.where(skin & (ears < 0.5), y - rim, -30.0),
            np.where(skin & (ears < 0.5), y - band, -30.0),
            column,
            row,
            # Place along the stripes of the cloth.
            y - 0.35 * z,
        ],
        1,
    ).astype(np.float32)


def _texture_place(points: np.ndarray) -> np.ndarray:
    """Return [2, n], column and row in the texture: directions from the head's middle, equidistant about the front."""
    direction = points - np.array([0.0, 1.5, 0.0])
    direction = direction / np.linalg.norm(direction, axis=1, keepdims=True)
    angle = np.arccos(np.clip(direction[:, 2], -1, 1))
    turn = np.arctan2(direction[:, 1], direction[:, 0])
    centre = (TEXTURE - 1) / 2
    return np.stack([centre + _TEXEL * angle * np.cos(turn), centre - _TEXEL * angle * np.sin(turn)])


def _texture() -> np.ndarray:
    """Return float32 [T, T, 7] over directions of the head, from a fixed seed.

    Freckles (0..1, the fainter ones lower), two patterns of moles (0..1), two of blotches (-1..1), streaks along the
    hair (-1..1) and the ribs of knitted headwear (-1..1).
    """
    rng = np.random.default_rng(7)
    rows, columns = np.mgrid[:TEXTURE, :TEXTURE].astype(np.float64)
    x, y = (columns - (TEXTURE - 1) / 2) / _TEXEL, ((TEXTURE - 1) / 2 - rows) / _TEXEL
    out = np.zeros((TEXTURE, TEXTURE, 7), np.float32)

    def spot(layer: int, u: float, v: float, radius: float, strength: float) -> None:
        column, row, reach = (TEXTURE - 1) / 2 + _TEXEL * u, (TEXTURE - 1) / 2 - _TEXEL * v, 3 * radius * _TEXEL
        part = np.s_[
            max(int(row - reach), 0) : int(row + reach) + 2, max(int(column - reach), 0) : int(column + reach) + 2
        ]
        shape = strength * np.exp(-((((x[part] - u) ** 2 + (y[part] - v) ** 2) / radius**2) ** 2))
        out[part][..., layer] = np.maximum(out[part][..., layer], shape)

    # Freckles crowd on the nose and the cheeks.
    for u, v in rng.normal(0, 1, (420, 2)) * [0.42, 0.22] + [0, -0.08]:
        spot(0, u, v, rng.uniform(0.010, 0.020), rng.uniform(0.35, 1))
    for layer, places in (
        (1, [(0.33, -0.33), (-0.47, 0.02), (-0.16, -0.62)]),
        (2, [(-0.27, -0.31), (0.2, 0.5), (0.6, -0.12)]),
    ):
        for u, v in places:
            spot(layer, u, v, rng.uniform(0.018, 0.027), 1)
    for layer in (3, 4):
        noise = gaussian_filter(rng.standard_normal((TEXTURE, TEXTURE)), 14)
        out[..., layer] = np.tanh(1.2 * noise / noise.std())
    # About the crown, high at the back: hair grows away from it, ribs run towards it.
    angle = np.hypot(x, y)
    scale = np.sinc(angle / np.pi)
    direction = np.stack([x * scale, y * scale, np.cos(np.minimum(angle, np.pi))], 2)
    crown = np.array([0.0, 0.87, -0.5])
    down = np.array([0.0, 0.5, 0.87])
    turn = np.arctan2(direction[..., 0], direction @ down)
    away = np.arccos(np.clip(direction @ crown, -1, 1))
    grid = gaussian_filter(rng.standard_normal((96, 720)), (2.0, 0.8), mode="wrap")
    swirl = (turn + 0.35 * np.sin(3.1 * away) + np.pi) / (2 * np.pi) * 720
    streaks = map_coordinates(grid / grid.std(), [away / np.pi * 95, swirl], order=1, mode="wrap")
    out[..., 5] = np.tanh(0.8 * streaks)
    out[..., 6] = np.sin(52 * turn)
    return out


def harmonics(directions: np.ndarray) -> np.ndarray:
    """Return the nine real spherical harmonics up to order 2 (Ramamoorthi & Hanrahan 2001) of unit [n, 3]: [n, 9]."""
    x, y, z = directions.T
    rows = [np.full_like(x, 0.282095), 0.488603 * y, 0.488603 * z, 0.488603 * x]
    rows += [1.092548 * x * y, 1.092548 * y * z, 0.315392 * (3 * z**2 - 1), 1.092548 * x * z, 0.546274 * (x**2 - y**2)]
    return np.stack(rows, 1)


def _tongue_share(points: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Return in 0..1 [V] how far a vertex of the gums and the tongue belongs to the tongue."""
    x, y, z = points.T
    # Between the gums, whose arch closes towards the front.
    half = 1.45 + 0.28 * np.maximum(9.0 - z, 0) - 0.6 * np.maximum(z - 9.0, 0) ** 1.5
    inside = expit((half - np.abs(x)) / 0.04) * expit((y + 4.65) / 0.06) * expit((-2.9 - y) / 0.06)
    return (part == _PARTS.index("gums_and_tongue")) * inside * expit((9.87 - z) / 0.03) * expit((z - 5.0) / 0.6)


def _tongue_out(points: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Return the offset [V, 3] that puts the tongue out over the lower lip."""
    share = _tongue_share(points, part)
    forward = share * np.clip((points[:, 2] - 5.0) / 4.8, 0, 1)
    return np.stack(
        [-0.1 * forward * points[:, 0], 0.15 * forward + 0.35 * share, 4.2 * forward * (1 - 0.12 * points[:, 0] ** 2)],
        1,
    )


def _sphere(points: np.ndarray) -> tuple[np.ndarray, float]:
    """Return centre and radius of the sphere that fits points [n, 3] best."""
    system = np.concatenate([2 * points, np.ones((len(points), 1))], 1)
    solution = np.linalg.lstsq(system, (points**2).sum(1), rcond=None)[0]
    return solution[:3], float(np.sqrt(solution[3] + (solution[:3] ** 2).sum()))


def load(path: str | Path) -> HeadModel:
    """Read the face model's arrays (`ict_facekit.npz`) and prepare them for drawing.

    Raises FileNotFoundError if there is no such file and KeyError if it lacks one of the model's arrays.
    """
    with np.load(path) as file:
        data = {name: file[name] for name in file.files}
    parts = zip(data["part_names"], data["part_start"], data["part_stop"], strict=True)
    ranges = {str(name): (int(start), int(stop)) for name, start, stop in parts}
    used = np.concatenate([np.arange(*ranges[name]) for name in _PARTS])
    part = np.repeat(np.arange(len(_PARTS)), [ranges[name][1] - ranges[name][0] for name in _PARTS])
    number = np.full(len(data["neutral"]), -1)
    number[used] = np.arange(len(used))
    triangles = number[data["triangles"]]
    triangles = triangles[(triangles >= 0).all(1)]
    landmarks = number[data["landmarks68"]].astype(np.int32)
    neutral = data["neutral"][used].astype(np.float64)
    neutral += _body_offset(neutral)
    identity = data["identity"][: _SIZES["shape"], used].astype(np.float32)
    expression = data["expression"][:, used].astype(np.float32)
    named = {str(name): shape for name, shape in zip(data["expression_names"], expression, strict=True)}

    eyeballs = tuple(slice(int(np.searchsorted(part, p)), int(np.searchsorted(part, p, "right"))) for p in (5, 6))
    is_eye = part >= 5
    order = np.argsort(is_eye[triangles[:, 0]], kind="stable")
    triangles = triangles[order].astype(np.int32)

    # Thin lips must hide them.
    neutral[np.isin(part, [3, 4]), 2] -= 0.25
    masks = _masks(neutral, neutral[landmarks], part)
    normals = vertex_normals(neutral, triangles)
    share = {name: masks[:, i].astype(np.float64) for i, name in enumerate(MASKS)}
    tufts = _texture_place(neutral)
    texture = _texture()
    tufts = 1 + 0.5 * map_coordinates(texture[..., 5], tufts[::-1], order=1)
    hairy = share["hairy"] * expit(share["hair"] / 1.5) * tufts
    cap = share["hairy"] * expit(share["cap"] / 0.12) * (1 + 0.35 * expit((1.7 - share["cap"]) / 0.12))
    band = share["hairy"] * expit((1.0 - np.abs(share["band"])) / 0.12)
    rows = [*identity, *_form_offsets(neutral), 1.6 * _sex_offset(neutral), 0.7 * hairy[:, None] * normals]
    rows += [0.6 * cap[:, None] * normals, 0.4 * band[:, None] * normals]
    rows += [named[name] for name in _UNPAIRED]
    rows += [named[f"{name}_L"] + named[f"{name}_R"] for name in _PAIRED]
    rows += [_tongue_out(neutral, part), np.zeros_like(neutral), named["mouthSmile_L"], named["mouthSmile_R"]]
    rows += [named["eyeLookOut_L"] + named["eyeLookIn_R"], named["eyeLookIn_L"] + named["eyeLookOut_R"]]
    basis = np.stack(rows).astype(np.float32)
    # The eyeballs stay where they are: the iris is painted where they look.
    basis[-len(SHAPES) :, is_eye] = 0
    # Lids move straight, not round the eye: behind closed lids it draws back.
    basis[SHAPES.index("eyesBack") - len(SHAPES), is_eye, 2] = -0.9
    upper, lower = landmarks[[37, 38, 43, 44]], landmarks[[41, 40, 47, 46]]
    # They stay round: modes and forms shift them and scale them as a whole.
    for ball in eyeballs:
        basis[:_RIGID, ball] = _similar(neutral[ball], basis[:_RIGID, ball])

    steps = 1e-3 * np.eye(3)
    jacobian = np.stack([(_infant_offset(neutral + step) - _infant_offset(neutral - step)) / 2e-3 for step in steps], 2)
    infant = _infant_offset(neutral)
    # No teeth yet: the ridge lies behind the lips.
    infant[part == 3, 2] -= 0.8
    infant[part == 4, 2] -= 1.6
    offsets = np.stack([_sphere(neutral[ball])[0] - neutral[ball].mean(0) for ball in eyeballs])
    stiffness = expit((neutral[:, 1] + 9.0 + 0.25 * neutral[:, 2]) / 0.9)
    stiffness[part >= 2] = 1
    kinds = np.zeros(len(triangles), np.uint8)
    corner = part[triangles[:, 0]]
    kinds[corner == _PARTS.index("teeth")] = 1
    kinds[np.isin(corner, [2, 3])] = 2
    kinds[(_tongue_share(neutral, part)[triangles] > 0.5).any(1)] = 3
    kinds[corner >= 5] = 4
    reach, open_to = _light_reach(neutral + infant, triangles, named["eyeBlink_L"] + named["eyeBlink_R"])
    # The mouth was closed when its light was measured.
    mouth = np.isin(part, [2, 3, 4])
    inner = expit((neutral[mouth, 2] - 8.0) / 0.8)
    reach[mouth] = np.maximum(reach[mouth], 0.08 + 0.45 * inner)
    open_to[mouth] = 0
    open_to[mouth, 0] = (0.25 + 0.5 * inner) / 0.282095
    return HeadModel(
        neutral=neutral.astype(np.float32),
        basis=np.ascontiguousarray(basis.reshape(len(basis), -1)),
        infant=infant.astype(np.float32),
        jacobian=np.ascontiguousarray(jacobian.astype(np.float32)),
        triangles=np.ascontiguousarray(triangles),
        eyes=int((~is_eye[triangles[:, 0]]).sum()),
        kinds=kinds,
        masks=np.ascontiguousarray(masks),
        texture=texture,
        stiffness=stiffness.astype(np.float32),
        landmarks=landmarks,
        lid_gap=(basis[:, upper, 1] - basis[:, lower, 1]).mean(1) / (neutral[upper, 1] - neutral[lower, 1]).mean(),
        eyeballs=eyeballs,
        eye_offset=offsets.astype(np.float32),
        light_reach=reach,
        open_to=open_to,
    )


def thinned(head: HeadModel, count: int) -> HeadModel:
    """Return the model with `count` of its vertices alone, for `render.pose`: the landmarks, then each the farthest.

    It has nothing to draw. Raises ValueError if there are fewer than 68 vertices to keep.
    """
    if count < len(head.landmarks):
        raise ValueError(f"thinned: expected at least {len(head.landmarks)} vertices, the landmarks, found {count}")
    kept = list(head.landmarks)
    distance = np.linalg.norm(head.neutral[:, None] - head.neutral[kept], axis=2).min(1)
    # The body is drawn out far below the picture.
    distance[head.neutral[:, 1] < -16] = 0
    while len(kept) < count:
        kept.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(head.neutral - head.neutral[kept[-1]], axis=1))
    return dataclasses.replace(
        head,
        neutral=head.neutral[kept],
        basis=np.ascontiguousarray(head.basis.reshape(len(head.basis), -1, 3)[:, kept].reshape(len(head.basis), -1)),
        infant=head.infant[kept],
        jacobian=head.jacobian[kept],
        stiffness=head.stiffness[kept],
        landmarks=np.arange(len(head.landmarks), dtype=np.int32),
        triangles=np.empty((0, 3), np.int32),
    )


def _similar(points: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return the shift and scaling of points [n, 3] nearest to each of offsets [B, n, 3]."""
    away = points - points.mean(0)
    shift = offsets.mean(1, keepdims=True)
    scale = (offsets * away).sum((1, 2)) / (away**2).sum()
    return shift + scale[:, None, None] * away


def vertex_normals(points: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Return unit normals [V, 3] at points [V, 3], weighted by the area of the triangles [F, 3] around each."""
    a, b, c = (points[triangles[:, i]] for i in range(3))
    across = np.cross(b - a, c - a)
    total = np.stack(
        [np.bincount(triangles.ravel(), np.repeat(across[:, i], 3), minlength=len(points)) for i in range(3)], 1
    )
    return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-9)


@njit(nogil=True, cache=True)
def _depth_map(place, triangles, size):
    """Return float32 [size, size], the largest depth of triangles at place [V, 3] (pixel x, y, depth) at each pixel."""
    nearest = np.full((size, size), -np.inf, np.float32)
    for t in range(len(triangles)):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        ax, ay = place[a, 0], place[a, 1]
        bx, by = place[b, 0] - ax, place[b, 1] - ay
        cx, cy = place[c, 0] - ax, place[c, 1] - ay
        area = bx * cy - by * cx
        if abs(area) < 1e-9:
            continue
        left, right = max(int(np.ceil(ax + min(0.0, bx, cx))), 0), min(int(ax + max(0.0, bx, cx)), size - 1)
        top, bottom = max(int(np.ceil(ay + min(0.0, by, cy))), 0), min(int(ay + max(0.0, by, cy)), size - 1)
        for row in range(top, bottom + 1):
            for column in range(left, right + 1):
                x, y = column - ax, row - ay
                v = (x * cy - y * cx) / area
                w = (bx * y - by * x) / area
                if v >= 0 and w >= 0 and v + w <= 1:
                    depth = (1 - v - w) * place[a, 2] + v * place[b, 2] + w * place[c, 2]
                    nearest[row, column] = max(nearest[row, column], depth)
    return nearest


def _light_reach(points: np.ndarray, triangles: np.ndarray, blink: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return float32 [V], the cosine-weighted share of 96 directions that see each vertex, lids open or closed.

    And float32 [V, 9], the harmonics of whether a direction sees it, directions behind the surface left out.
    """
    golden = np.pi * (3 - np.sqrt(5))
    height = np.linspace(0.98, -0.98, 96)
    turn = golden * np.arange(96)
    directions = np.stack([np.sqrt(1 - height**2) * np.cos(turn), height, np.sqrt(1 - height**2) * np.sin(turn)], 1)
    best = np.zeros(len(points))
    free = np.zeros((2, len(points), len(directions)))
    size, scale = 192, 5.0
    for number, pose in enumerate((points, points + blink)):
        normals = vertex_normals(pose, triangles)
        seen = np.zeros(len(points))
        total = np.zeros(len(points))
        for i, direction in enumerate(directions):
            side = np.cross(direction, [0.1, 0.3, 0.94])
            side /= np.linalg.norm(side)
            view = pose @ np.stack([side, np.cross(direction, side), direction], 1)
            place = (view * scale).astype(np.float32)
            place[:, :2] += size / 2
            nearest = _depth_map(place, triangles, size)
            column, row = np.clip(np.rint(place[:, :2]).astype(int), 0, size - 1).T
            cosine = np.maximum(normals @ direction, 0)
            visible = place[:, 2] > nearest[row, column] - 0.45 * scale
            # Behind the surface the cosine sees to the dark.
            free[number, :, i] = visible | (normals @ direction < 0.05)
            seen += cosine * visible
            total += cosine
        best = np.maximum(best, seen / np.maximum(total, 1e-6))
    # A small ridge keeps the fit from ringing.
    basis = harmonics(directions)
    fit = np.linalg.solve(basis.T @ basis + 0.3 * np.eye(9), basis.T)
    return best.astype(np.float32), (free.max(0) @ fit.T).astype(np.float32)
