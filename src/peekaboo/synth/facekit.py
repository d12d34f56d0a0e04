"""Brings the published ICT-FaceKit light (github.com/ICT-VGL/ICT-FaceKit, MIT licence) to the arrays that the renderer
reads: `python -m peekaboo.synth.facekit --folder ICT-FaceKit/FaceXModel --output ict_facekit.npz`.
"""

import argparse
from itertools import pairwise
from pathlib import Path

import numpy as np

from peekaboo import stagefile

# Last vertices of the model's parts, which follow each other, as its README has them.
PARTS = {
    "face": 9408,
    "head_and_neck": 11247,
    "mouth_socket": 13293,
    "eye_socket_left": 13677,
    "eye_socket_right": 14061,
    "gums_and_tongue": 17038,
    "teeth": 21450,
    "sclera_left": 22220,
    "iris_left": 23020,
    "sclera_right": 23790,
    "iris_right": 24590,
    "lacrimal_fluid_left": 24794,
    "lacrimal_fluid_right": 24998,
    "eye_blend_left": 25022,
    "eye_blend_right": 25046,
    "eye_occlusion_left": 25198,
    "eye_occlusion_right": 25350,
    "eyelashes_left": 26034,
    "eyelashes_right": 26718,
}
VERTICES = PARTS["eyelashes_right"] + 1
NEUTRAL, IDENTITY = "generic_neutral_mesh", "identity"
# Vertices of the 68 landmarks of Multi-PIE, as the model's README has them.
# fmt: off
LANDMARKS = (
    1225, 1888, 1052, 367, 1719, 1722, 2199, 1447, 966, 3661, 4390, 3927, 3924, 2608, 3272, 4088, 3443, 268, 493,
    1914, 2044, 1401, 3615, 4240, 4114, 2734, 2509, 978, 4527, 4942, 4857, 1140, 2075, 1147, 4269, 3360, 1507, 1542,
    1537, 1528, 1518, 1511, 3742, 3751, 3756, 3721, 3725, 3732, 5708, 5695, 2081, 0, 4275, 6200, 6213, 6346, 6461,
    5518, 5957, 5841, 5702, 5711, 5533, 6216, 6207, 6470, 5517, 5966,
)
# fmt: on


def vertices(path: Path) -> np.ndarray:
    """Places [V, 3] float64, in about centimetres, of a Wavefront OBJ file. Raises ValueError for another mesh."""
    lines = (line.split()[1:4] for line in path.read_text().splitlines() if line.startswith("v "))
    found = np.array(list(lines), np.float64)
    if found.shape != (VERTICES, 3):
        raise ValueError(
            f"{path.name}: expected {VERTICES} vertices, found {len(found)}; give FaceXModel of ICT-FaceKit light"
        )
    return found


def triangles(path: Path) -> np.ndarray:
    """Corners [F, 3] int32 of an OBJ file's polygons, those of more than three corners cut from their first one."""
    found = []
    for line in path.read_text().splitlines():
        if line.startswith("f "):
            corners = [int(corner.split("/")[0]) - 1 for corner in line.split()[1:]]
            found += [(corners[0], *pair) for pair in pairwise(corners[1:])]
    return np.array(found, np.int32)


def arrays(folder: Path) -> dict[str, np.ndarray]:
    """The face model: `neutral` [V, 3] float32, `triangles` [F, 3] int32, `identity` [modes, V, 3] and `expression`
    [shapes, V, 3] float16 as offsets from it, `expression_names`, `landmarks68`, and the parts' ranges of vertices.

    Raises FileNotFoundError or ValueError where the folder holds no such model.
    """
    neutral = vertices(folder / f"{NEUTRAL}.obj")
    paths = {path.stem: path for path in sorted(folder.glob("*.obj")) if path.stem != NEUTRAL}
    modes, shapes = ([name for name in paths if name.startswith(IDENTITY) == mode] for mode in (True, False))
    if not modes or not shapes:
        raise ValueError(
            f"{folder.name}: expected {IDENTITY}000.obj and on, jawOpen.obj and the like; found {len(paths)}"
        )
    identity, expression = (
        np.float16([vertices(paths[name]) - neutral for name in names]) for names in (modes, shapes)
    )
    stops = np.array(list(PARTS.values()), np.int32) + 1
    return {
        "neutral": neutral.astype(np.float32),
        "triangles": triangles(folder / f"{NEUTRAL}.obj"),
        "identity": identity,
        "expression": expression,
        "expression_names": np.array(shapes),
        "landmarks68": np.array(LANDMARKS, np.int32),
        "part_names": np.array(list(PARTS)),
        "part_start": np.append(np.int32(0), stops[:-1]),
        "part_stop": stops,
    }


def main(argv: list[str] | None = None) -> None:
    """Read the model's folder and write its arrays."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="FaceXModel of a copy of ICT-FaceKit")
    parser.add_argument("--output", required=True, help="ict_facekit.npz")
    args = parser.parse_args(argv)
    found = arrays(args.folder)
    with stagefile.replacing(args.output) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **found)


if __name__ == "__main__":
    main()
