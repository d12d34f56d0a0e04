"""Judges by published networks: small ones run for real on the clips, the others on weights made by a formula."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from golden import Fixture
from people import seen
from scipy.spatial.transform import Rotation
from torch.nn import functional as F

from peekaboo import metrics
from peekaboo.judges import action_units, affect, crops, demographics, identity, pose, weights
from peekaboo.judges.judge import Face
from peekaboo.models import pickles
from peekaboo.nets import anycost, deca, emonet, irse
from peekaboo.stages import measure

ROOT = Path(__file__).parents[1]
MODELS = ROOT.parent / "shared" / "models"
CPU = torch.device("cpu")
NOWHERE = Face(np.array([40, 30, 90, 100], np.float32), np.full((478, 3), np.nan), np.full((2, 3), np.nan), 64)


def downloaded(name: str) -> Path:
    if not MODELS.is_dir():
        pytest.skip(f"no published networks: {MODELS} is absent")
    return MODELS / name


@pytest.fixture(scope="module")
def mobilefacenet_weights(tmp_path_factory):
    target = tmp_path_factory.mktemp("weights") / "mobilefacenet.safetensors"
    pickles.convert(downloaded("mobilefacenet.pt"), target, "mobilefacenet.MobileFaceNet", {})
    return target


@pytest.fixture(scope="module")
def by_formula(tmp_path_factory):
    """Writes the weights of a parity fixture as the file that a published network is converted to."""
    folder = tmp_path_factory.mktemp("formula")

    def write(fixture: str, name: str, kind: type, **constructor) -> Path:
        path = folder / f"{fixture}.safetensors"
        if not path.exists():
            state = Fixture(fixture).fill(kind, **constructor).state_dict()
            pickles.write(path, name, constructor, state)
        return path

    return write


def noise(seed: int, size: int, count: int = 2) -> list[np.ndarray]:
    """Random RGB pictures [size, size, 3] with detail of several sizes."""
    rng = np.random.default_rng(seed)
    scales = [s for s in (1, 4, 16) if size % s == 0]
    layers = [rng.integers(0, 256 // len(scales), (count, size // s, size // s, 3)) for s in scales]
    return list(sum(x.repeat(s, 1).repeat(s, 2) for x, s in zip(layers, scales, strict=True)).astype(np.uint8))


def images(pictures: list[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float()


# How faces are cut.


def test_similarity_is_found_again():
    turn = Rotation.from_euler("z", 25, degrees=True).as_matrix()[:2, :2]
    points = 10 * np.random.default_rng(0).normal(size=(5, 2))
    matrix = crops.similarity(points, 1.7 * points @ turn.T + [3, -4])
    assert np.allclose(matrix, np.concatenate([1.7 * turn, [[3], [-4]]], 1))


def test_arcface_crop_brings_the_five_points_to_their_places():
    # Every landmark away from the five points is left out of them.
    mesh = np.zeros((478, 3))
    turn = Rotation.from_euler("z", -12, degrees=True).as_matrix()[:2, :2]
    places = 1.4 * crops.ARCFACE @ turn.T + [40, 60]
    for indices, place in zip((crops.LEFT_EYE, crops.RIGHT_EYE), places[:2], strict=True):
        mesh[indices, :2] = place
    mesh[crops.NOSE_TIP, :2] = places[2]
    mesh[crops.MOUTH, :2] = places[3:]
    y, x = np.mgrid[:256, :256]
    spots = sum(255 * np.exp(-((x - px) ** 2 + (y - py) ** 2) / 18) for px, py in places)
    picture = np.repeat(spots.clip(0, 255).astype(np.uint8)[..., None], 3, -1)
    crop = crops.arcface(picture, mesh)[..., 0]
    assert all(crop[round(py), round(px)] > 230 for px, py in crops.ARCFACE)


def test_a_square_lies_around_its_box():
    y, x = np.mgrid[:120, :160]
    picture = np.stack([x, y, 0 * x], -1).astype(np.uint8)
    # Centre (70, 50), 40 pixels wide: from 50 to 90 and from 30 to 70, in pixels of two of the picture's.
    found = crops.square(picture, np.array([60, 40, 80, 60]), 40, 20)
    np.testing.assert_allclose(found[0, [0, -1], 0], [51, 89], atol=1)
    np.testing.assert_allclose(found[[0, -1], 0, 1], [31, 69], atol=1)


def test_box_of_68_landmarks_reaches_from_brows_to_chin():
    (_, (face,)), *_ = seen("adult_smile.mp4", [0])
    box, mesh = crops.box68(face.landmarks), face.landmarks
    assert box[3] == pytest.approx(mesh[152, 1])
    # The forehead is left out, the eyes and the mouth are not.
    assert face.box[1] + 20 < box[1] < mesh[[33, 263], 1].min()
    assert box[0] < mesh[33, 0] < mesh[263, 0] < box[2]
    assert crops.box68(NOWHERE.landmarks) is None


# Identity.


@pytest.fixture(scope="module")
def people():
    """Frame, face and name of the person for four people, two of them in one clip."""
    numbers = {"adult_smile.mp4": [0, 35, 70], "adult_yaw.mp4": [0, 40, 80], "two_faces.mp4": [0, 50, 100]}
    return [
        (frame, face, f"{clip} {k}")
        for clip, frames in numbers.items()
        for frame, faces in seen(clip, frames)
        for k, face in enumerate(faces)
    ]


def test_mobilefacenet_tells_people_apart_at_its_operating_point(people, mobilefacenet_weights):
    judge = identity.MobileFaceNet(mobilefacenet_weights, CPU)
    embeddings = judge([judge.prepare(frame, face) for frame, face, _ in people])["embedding"]
    names = np.array([name for *_, name in people])
    assert len(set(names)) == 4
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
    one, other = np.triu_indices(len(names), 1)
    values = judge.compare({"embedding": embeddings[one]}, {"embedding": embeddings[other]})
    same = names[one] == names[other]
    # The men of two_faces.mp4 are 40 pixels wide and lit alike: now and then they come near the operating point.
    clips = np.array([name.split()[0] for name in names])
    apart = clips[one] != clips[other]
    assert values["identity_cos"][same].min() > 0.5
    assert values["identity_cos"][~same].max() < 0.4
    assert values["identity_cos"][apart].max() < 0.25
    assert values["identity_distance"][same].max() < judge.operating_point < values["identity_distance"][apart].min()
    # A cosine c of unit vectors is a distance of the square root of 2 - 2 c.
    np.testing.assert_allclose(values["identity_distance"] ** 2, 2 - 2 * values["identity_cos"], atol=1e-6)
    assert judge.operating_point == pytest.approx(2 * np.sin(np.radians(70.36 / 2)))


def test_an_onnx_judge_sees_what_the_torch_one_sees(people, mobilefacenet_weights):
    # insightface's own network has the same input; MobileFaceNet stands in for it.
    onnx = identity.Insightface(downloaded("MobileFaceNet.onnx"), CPU)
    reference = identity.MobileFaceNet(mobilefacenet_weights, CPU)
    faces = [onnx.prepare(frame, face) for frame, face, _ in people[:3]]
    expected = reference([reference.prepare(frame, face) for frame, face, _ in people[:3]])["embedding"]
    np.testing.assert_allclose(onnx(faces)["embedding"], expected, atol=1e-4)
    assert onnx.operating_point == pytest.approx(1.2)
    assert onnx.prepare(people[0][0], NOWHERE) is None


def test_onnx_runs_on_the_cpu_where_it_cannot_on_the_card(monkeypatch):
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    opened = weights.session(downloaded("MobileFaceNet.onnx"), torch.device("cuda"), 112)
    assert opened.get_providers() == ["CPUExecutionProvider"]


def test_templates_have_unit_length_where_embeddings_do():
    embeddings = np.array([[1.0, 0], [0, 1]])
    np.testing.assert_allclose(identity.Recogniser().template(embeddings), np.sqrt([0.5, 0.5]))
    np.testing.assert_allclose(identity.Dlib().template(embeddings), [0.5, 0.5])


def test_arcface_reads_the_part_of_the_crop_that_steers(by_formula):
    path = by_formula("ir_se50", "irse.ArcFace", irse.ArcFace)
    judge, steering = identity.ArcFace(path, CPU), identity.Embedded(path, CPU)
    pictures = noise(0, 256)
    region = F.adaptive_avg_pool2d(images(pictures)[..., 35:223, 32:220] / 127.5 - 1, 112)
    expected = judge.network(region)
    np.testing.assert_allclose(judge(pictures)["embedding"], expected, atol=1e-5)
    np.testing.assert_allclose(steering(pictures[:1])["embedding"], expected[:1], atol=1e-5)
    assert (steering.name, steering.role, steering.real_faces) == ("ArcFace IR-SE50", "optimises", True)
    assert judge.operating_point**2 == pytest.approx(1.5)


# Affect, age and sex.


@pytest.mark.parametrize("count", [pytest.param(5, marks=pytest.mark.slow), 8])
def test_emonet_reads_a_crop_of_the_landmarks(count, by_formula):
    path = by_formula(f"emonet_{count}", "emonet.EmoNet", emonet.EmoNet, n_expression=count)
    judge = affect.EmoNet(path, CPU)
    (frame, (face,)), *_ = seen("adult_smile.mp4", [0])
    crop = judge.prepare(frame, face)
    assert crop.shape == (256, 256, 3)
    found = judge([crop])
    expected = judge.network(images([crop]) / 255)
    for name in ("valence", "arousal"):
        assert found[name][0] == pytest.approx(float(expected[name].clamp(-1, 1)), abs=1e-4)
    assert found["expression"][0] == judge.network.expressions[expected["expression"].argmax()]
    assert judge.name == f"EmoNet, {count} expressions"
    assert set(judge.compare(found, found)) == set(affect.COLUMNS)
    assert judge.prepare(frame, NOWHERE) is None


def test_anycost_gives_the_probabilities_of_its_attributes(by_formula):
    path = by_formula("anycost_attributes", "anycost.AttributePredictor", anycost.AttributePredictor)
    judge, pictures = demographics.AnyCost(path, CPU), noise(0, 256)
    found = judge(pictures)
    logits = judge.network(images(pictures) / 127.5 - 1)
    pairs = np.exp(logits.numpy().reshape(2, 40, 2).astype(np.float64))
    present = pairs[..., 1] / pairs.sum(2)
    # CelebA's attributes 20 and 39.
    np.testing.assert_allclose(found["sex"], present[:, 20], atol=1e-5)
    np.testing.assert_allclose(found["age"], 1 - present[:, 39], atol=1e-5)


def varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)


def field(number: int, value: bytes | str | int) -> bytes:
    """A field of a protocol buffer."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def averaging_network(side: int) -> bytes:
    """An ONNX network [B, 3, side, side] -> [B, 3] that gives the mean of each channel."""
    axes = field(1, "axes") + field(8, 2) + field(8, 3) + field(20, 7)
    flat = field(1, "keepdims") + field(3, 0) + field(20, 2)
    node = field(1, "in") + field(2, "out") + field(4, "ReduceMean") + field(5, axes) + field(5, flat)

    def tensor(name: str, sides: list[int]) -> bytes:
        shape = field(1, field(2, "B")) + b"".join(field(1, field(1, n)) for n in sides)
        return field(1, name) + field(2, field(1, field(1, 1) + field(2, shape)))

    graph = field(1, node) + field(2, "mean") + field(11, tensor("in", [3, side, side])) + field(12, tensor("out", [3]))
    return field(1, 8) + field(7, graph) + field(8, field(2, 13))


def test_insightface_reads_rgb_from_0_to_255(tmp_path):
    (tmp_path / "genderage.onnx").write_bytes(averaging_network(96))
    judge = demographics.Insightface(tmp_path / "genderage.onnx", CPU)
    frame = np.zeros((200, 200, 3), np.uint8) + np.array([2, 4, 50], np.uint8)
    crop = judge.prepare(frame, NOWHERE)
    assert crop.shape == (96, 96, 3)
    found = judge([crop, crop])
    # The stand-in's female is the mean of red, male that of green, its age that of blue.
    np.testing.assert_allclose(found["sex"], 1 / (1 + np.exp(-2)), atol=1e-6)
    np.testing.assert_allclose(found["age"], 50)
    assert set(judge.compare(found, found)) == set(demographics.COLUMNS)


def test_insightface_sees_one_and_a_half_boxes(tmp_path):
    (tmp_path / "genderage.onnx").write_bytes(averaging_network(96))
    judge = demographics.Insightface(tmp_path / "genderage.onnx", CPU)
    x = np.broadcast_to(np.arange(200, dtype=np.uint8)[:, None], (200, 200, 3))
    # The box is 50 x 70 around (65, 65): 105 pixels from 12.5 to 117.5.
    columns = judge.prepare(x, NOWHERE)[0, :, 0]
    np.testing.assert_allclose(columns[[0, -1]], [13, 117], atol=1)


# Pose.


def test_angles_of_networks_are_turns_about_the_axes_of_300w_lp():
    degrees = np.random.default_rng(0).uniform(-70, 70, (50, 3))
    yaw, pitch, roll = degrees.T
    expected = Rotation.from_euler("XYZ", -np.stack([pitch, yaw, roll], 1), degrees=True).as_matrix()
    np.testing.assert_allclose(pose.from_angles(degrees), expected, atol=1e-12)
    # One angle alone comes back with its sign.
    for k in range(3):
        alone = np.where(np.arange(3) == k, degrees, 0)
        np.testing.assert_allclose(pose.angles(pose.from_angles(alone)), alone, atol=1e-9)


def test_fsanet_follows_a_head_that_turns():
    pair = ",".join(str(downloaded(f"fsanet-{kind}-iter-688590.onnx")) for kind in ("1x1", "var"))
    judge = pose.FsaNet(pair, CPU)
    frames = seen("adult_yaw.mp4", list(range(0, 350, 25)))
    found = judge([judge.prepare(frame, face) for frame, (face,) in frames])["rotation"]
    meshed = pose.rotation(np.stack([face.landmarks for _, (face,) in frames]))
    yaw, reference = pose.angles(found)[:, 0], pose.angles(meshed)[:, 0]
    assert -30 < yaw.min() < -18
    assert 8 < yaw.max() < 20
    assert np.corrcoef(yaw, reference)[0, 1] > 0.97
    assert metrics.rotation_angle(found, meshed).mean() < 4
    columns = judge.compare({"rotation": found}, {"rotation": meshed})
    assert set(columns) == set(pose.COLUMNS)
    np.testing.assert_allclose(columns["yaw_original"], yaw)
    assert all(len(part) == 64 for part in judge.sha256.split(","))


def test_deca_turns_its_parameters_into_a_rotation(by_formula):
    judge = pose.Deca(by_formula("deca_e_flame", "deca.CoarseEncoder", deca.CoarseEncoder), CPU)
    (frame, (face,)), *_ = seen("adult_smile.mp4", [0])
    crop = judge.prepare(frame, face)
    assert crop.shape == (224, 224, 3)
    found = judge([crop])["rotation"]
    expected = Rotation.from_rotvec(judge.network(images([crop]) / 255)["pose"][:, :3].double().numpy()).as_matrix()
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert judge.prepare(frame, NOWHERE) is None


# Action units.


@pytest.fixture(scope="module")
def blendshapes():
    return action_units.Blendshapes(downloaded("face_landmarker_v2_with_blendshapes.task"), CPU)


def test_a_smile_is_seen_to_come(blendshapes):
    regions = [blendshapes.prepare(frame, face) for frame, (face,) in seen("adult_smile.mp4", [0, 35])]
    found = blendshapes([*regions, np.full((512, 512, 3), 128, np.uint8)])
    assert found["blendshapes"].shape == (3, 52)
    assert found["smile"][0] < 0.2
    assert found["smile"][1] > 0.6
    assert np.isnan(found["smile"][2])
    first, second = ({name: values[[k]] for name, values in found.items()} for k in (0, 1))
    changed = blendshapes.compare(first, second)
    assert set(changed) == set(blendshapes.columns)
    assert changed["smile_anonymized"] > changed["smile_original"]
    assert changed["action_units_mae"] > 0.03
    assert blendshapes.compare(first, first)["action_units_mae"] == 0
    nothing = {name: values[[2]] for name, values in found.items()}
    assert np.isnan(blendshapes.compare(first, nothing)["action_units_mae"])


def test_where_nobody_is_found_nothing_is_measured(blendshapes):
    grey = np.full((512, 512, 3), 128, np.uint8)
    found, other = blendshapes([grey]), blendshapes([grey])
    assert np.isnan(blendshapes.compare(found, other)["action_units_mae"]).all()


# Files that are not a judge's, and the registry.


def test_weights_of_another_network_are_named(mobilefacenet_weights, tmp_path):
    with pytest.raises(ValueError, match=r"mobilefacenet.safetensors: expected weights of EmoNet, found MobileFaceNet"):
        affect.EmoNet(mobilefacenet_weights, CPU)
    with pytest.raises(ValueError, match=r"MobileFaceNet.onnx: expected one input of 3 x 64 x 64"):
        pose.FsaNet(f"{downloaded('MobileFaceNet.onnx')},{downloaded('MobileFaceNet.onnx')}", CPU)
    with pytest.raises(ValueError, match="expected two files, separated by a comma, found 1"):
        pose.FsaNet(str(mobilefacenet_weights), CPU)
    (tmp_path / "some.onnx").write_bytes(b"no network")
    with pytest.raises(ValueError, match=r"some.onnx: expected an ONNX network"):
        identity.Insightface(tmp_path / "some.onnx", CPU)
    (tmp_path / "some.task").write_bytes(b"no task")
    with pytest.raises(ValueError, match=r"some.task: expected a Face Landmarker task"):
        action_units.Blendshapes(tmp_path / "some.task", CPU)


def test_every_judge_of_the_registry_is_there():
    registry = yaml.safe_load((ROOT / "resources" / "models.yaml").read_text(encoding="utf-8"))
    named = [(what, name) for entry in registry.values() for what, name in entry.get("judge", {}).items()]
    assert {what for what, _ in named} == set(measure.MEASURED)
    modules = {
        "identity": identity,
        "affect": affect,
        "demographics": demographics,
        "pose": pose,
        "action_units": action_units,
    }
    for what, name in named:
        assert re.fullmatch(rf"{what}\.\w+", name), name
        judge = getattr(modules[what], name.split(".")[1], None)
        assert judge is not None, f"{name} is not there"
        assert judge.role == "measures"
