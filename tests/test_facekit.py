"""The face model read from files of its published form, against the arrays that it was written from."""

from pathlib import Path

import numpy as np
import pytest

from peekaboo.synth import facekit, head

MODEL = Path(__file__).parents[2] / "shared" / "data" / "ict_facekit.npz"


def write_obj(path: Path, points: np.ndarray, polygons: list[list[int]] = ()) -> None:
    """A mesh as the publisher has it: texture coordinates after each corner, counted from 1."""
    lines = ["mtllib ICTFaceModelMaterial.mtl", *(f"v {x:.7f} {y:.7f} {z:.7f}" for x, y, z in points), "vt 0.5 0.5"]
    lines += ["f " + " ".join(f"{corner + 1}/1" for corner in polygon) for polygon in polygons]
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> tuple[Path, dict[str, np.ndarray]]:
    """A folder with the model's neutral head, five identity modes and three shapes as OBJ files, and their arrays."""
    if not MODEL.exists():
        pytest.skip(f"needs the ICT-FaceKit arrays, {MODEL}")
    with np.load(MODEL) as file:
        model = {name: file[name] for name in file.files}
    folder, triangles = tmp_path_factory.mktemp("FaceXModel"), model["triangles"].tolist()
    polygons = []
    while triangles:
        polygon = triangles.pop(0)
        # Two triangles that begin alike were a quadrangle.
        if triangles and triangles[0][:2] == polygon[::2]:
            polygon.append(triangles.pop(0)[2])
        polygons.append(polygon)
    assert {len(polygon) for polygon in polygons} == {3, 4}
    neutral = model["neutral"].astype(np.float64)
    write_obj(folder / "generic_neutral_mesh.obj", neutral, polygons)
    model["identity"] = model["identity"][:5]
    for n, mode in enumerate(model["identity"]):
        write_obj(folder / f"identity{n:03}.obj", neutral + mode)
    chosen = [list(model["expression_names"]).index(name) for name in ("browDown_L", "jawOpen", "mouthSmile_R")]
    for name in ("expression", "expression_names"):
        model[name] = model[name][chosen]
    for name, shape in zip(model["expression_names"], model["expression"], strict=True):
        write_obj(folder / f"{name}.obj", neutral + shape)
    return folder, model


def test_arrays_are_those_of_the_model(published, tmp_path):
    folder, model = published
    facekit.main(["--folder", str(folder), "--output", str(tmp_path / "found.npz")])
    with np.load(tmp_path / "found.npz") as found:
        for name in ("triangles", "expression_names", "landmarks68"):
            np.testing.assert_array_equal(found[name], model[name])
        for name in ("neutral", "identity", "expression"):
            np.testing.assert_allclose(found[name], model[name], atol=2e-3)
        ranges = [
            dict(zip(file["part_names"], zip(file["part_start"], file["part_stop"], strict=True), strict=True))
            for file in (found, model)
        ]
    assert all(ranges[1][name] == part for name, part in ranges[0].items())
    assert {*head._PARTS} <= ranges[0].keys()


def test_another_mesh_is_refused(published, tmp_path):
    with pytest.raises(FileNotFoundError):
        facekit.arrays(tmp_path)
    write_obj(tmp_path / "generic_neutral_mesh.obj", np.zeros((8, 3)))
    with pytest.raises(ValueError, match=r"generic_neutral_mesh.obj: expected 26719 vertices, found 8"):
        facekit.arrays(tmp_path)
    (tmp_path / "generic_neutral_mesh.obj").write_bytes((published[0] / "generic_neutral_mesh.obj").read_bytes())
    with pytest.raises(ValueError, match=r"expected identity000\.obj"):
        facekit.arrays(tmp_path)
