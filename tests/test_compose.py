from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy import ndimage

from peekaboo import media, stagefile
from peekaboo.faces import cover, matting
from peekaboo.judges.landmarks import Mesh
from peekaboo.stages import compose

WIDTH, HEIGHT, FRAMES, SIDE = 200, 160, 6, 32
# The subject: bridged without landmarks in frame 2, with interpolated ones in 3; without a crop in 4; absent from 5.
SUBJECT, BYSTANDER = (30, 30, 100, 120), (140, 60, 176, 104)
GENERATED = "pti"


def mesh(box) -> np.ndarray:
    """478 landmarks that fill the ellipse in a box, with the oval's top, chin and upper half where they belong."""
    x0, y0, x1, y1 = box
    rng = np.random.default_rng(0)
    angle, radius = rng.uniform(0, 2 * np.pi, 478), np.sqrt(rng.uniform(0, 1, 478))
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle), 0 * angle], axis=1)
    upper = np.linspace(np.pi, 2 * np.pi, len(cover.BROW_TO_BROW))
    points[cover.BROW_TO_BROW] = np.stack([np.cos(upper), np.sin(upper), 0 * upper], axis=1)
    points[cover.CHIN] = (0, 1, 0)
    half, centre = ((x1 - x0) / 2, (y1 - y0) / 2, 1), ((x0 + x1) / 2, (y0 + y1) / 2, 0)
    return (points * half + centre).astype(np.float32)


def aligning(box, side: int = SIDE, margin: float = 0.5) -> np.ndarray:
    """The transform to a square crop about a box, `margin` of the box wider at each side, a little turned."""
    centre = (np.array(box[:2]) + box[2:]) / 2
    scale = side / ((1 + 2 * margin) * max(box[2] - box[0], box[3] - box[1]))
    turn = cv2.getRotationMatrix2D(tuple(map(float, centre)), 7, scale)
    turn[:, 2] += (side - 1) / 2 - centre
    return turn.astype(np.float32)


@pytest.fixture
def project(tmp_path) -> Path:
    """A folder with a clip of noise, extract's file of two tracks and decode's crops of noise."""
    rng = np.random.default_rng(1)
    pts = np.array([0, 40, 75, 120, 161, 200])
    info = media.ClipInfo(
        WIDTH, HEIGHT, Fraction(1, 1000), pts, np.append(np.diff(pts), 33), Fraction(25), has_audio=False
    )
    with media.writer(tmp_path / "clip.mp4", info, lossless=True) as write:
        for _ in range(FRAMES):
            write(rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))
    present = np.ones((FRAMES, 2), bool)
    present[5, 0] = False
    meshed = present.copy()
    meshed[2:4, 0] = False
    boxes = np.tile(np.array([SUBJECT, BYSTANDER], np.float32), (FRAMES, 1, 1))
    landmarks = np.tile(np.stack([mesh(SUBJECT), mesh(BYSTANDER)]), (FRAMES, 1, 1, 1))
    aligned = present.copy()
    aligned[2, 0] = False
    boxes[~present], landmarks[~present], landmarks[2, 0] = np.nan, np.nan, np.nan
    transforms = np.tile(np.stack([aligning(SUBJECT), aligning(BYSTANDER)]), (FRAMES, 1, 1, 1))
    transforms[~aligned] = np.nan
    decoded = aligned.copy()
    decoded[4, 0] = False
    with stagefile.write(tmp_path / "extract.h5") as file:
        file.attrs.update(clip="P01", width=WIDTH, height=HEIGHT, resolution=SIDE)
        file.attrs["source"] = stagefile.checksum(tmp_path / "clip.mp4")
        arrays = {"pts": pts, "present": present, "meshed": meshed, "boxes": boxes, "landmarks": landmarks}
        arrays |= {"aligned": aligned, "transforms": transforms, "confidence": np.where(meshed, 0.9, 0)}
        arrays["confidence"][1, 0] = 0.7
        for name, array in arrays.items():
            file[name] = array
    with stagefile.write(tmp_path / "decode.h5") as file:
        file["decoded"] = decoded
        file["crops"] = rng.integers(0, 256, (FRAMES, 2, SIDE, SIDE, 3), dtype=np.uint8)
    return tmp_path


def run(folder: Path, method: str, *options: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Run the stage losslessly; the output's frames, coverage and treatment."""
    crops = () if method in compose.COVERS else ("--crops", str(folder / "decode.h5"))
    places = {"clip": "clip.mp4", "faces": "extract.h5"}
    places |= {"output": "anonymized.mp4", "coverage": "compose.h5", "report": "compose.json"}
    arguments = [text for name, file in places.items() for text in (f"--{name}", str(folder / file))]
    compose.main([*arguments, "--method", method, "--lossless", *crops, *options])
    with stagefile.read(folder / "compose.h5") as file:
        return np.stack(list(media.frames(folder / "anonymized.mp4"))), file["covered"][:], file["treatment"][:]


def raw(folder: Path) -> np.ndarray:
    return np.stack(list(media.frames(folder / "clip.mp4")))


def within(box, growth: float = 1.0) -> np.ndarray:
    """Pixels in the ellipse of a box, by its equation."""
    (x0, y0, x1, y1), (y, x) = box, np.mgrid[:HEIGHT, :WIDTH]
    horizontal, vertical = growth * (x1 - x0) / 2, growth * (y1 - y0) / 2
    return ((x - (x0 + x1) / 2) / horizontal) ** 2 + ((y - (y0 + y1) / 2) / vertical) ** 2 <= 1


@pytest.mark.parametrize("method", [GENERATED, "blur", "pixelate", "mask"])
def test_no_raw_pixel_is_left_in_a_face_and_none_is_touched_far_from_it(project, method):
    output, covered, treatment = run(project, method)
    source = raw(project)
    changed = (output != source).any(axis=-1)
    for n in range(FRAMES):
        for track, box in enumerate((SUBJECT, BYSTANDER)):
            if (n, track) == (5, 0):
                continue
            # The whole box ellipse, the forehead above it and, where it is not certain, the area around.
            region = within(box) | within(np.array(box) - [0, 0.15 * (box[3] - box[1])] * 2)
            if n in (1, 2, 3) and track == 0:
                region = within(box, cover.BOX_GROWTH)
            assert changed[n][region].all()
        far = ~within(SUBJECT, 2.2) & ~within(BYSTANDER, 2.2)
        assert not changed[n][far].any()
    assert not changed[5][within(SUBJECT, 0.9) & ~within(BYSTANDER, 2.2)].any()
    assert np.isnan(covered[5, 0]) and treatment[5, 0] == compose.NONE
    assert (np.delete(covered.ravel(), 10) == 1).all()
    if method == GENERATED:
        assert treatment.tolist() == [[1, 1], [1, 1], [4, 1], [1, 1], [4, 1], [0, 1]]
    else:
        assert (np.delete(treatment.ravel(), 10) == compose.COVERS[method]).all()


def test_times_and_report(project):
    run(project, "mask")
    before, after = (media.probe(project / name) for name in ("clip.mp4", "anonymized.mp4"))
    assert before.times == after.times and before.duration == after.duration
    report = stagefile.read_json(project / "compose.json")
    assert report["segmentation"] == {}
    assert report["frames"] == FRAMES and report["lowest_coverage"] == 1 and report["treatments"]["mask"] == 11
    assert {p.name for p in project.iterdir()} == {
        "clip.mp4",
        "extract.h5",
        "decode.h5",
        "anonymized.mp4",
        "compose.h5",
        "compose.json",
    }


def test_same_input_same_bytes(project):
    run(project, GENERATED)
    first = [(project / name).read_bytes() for name in ("anonymized.mp4", "compose.h5")]
    assert list(stagefile.read_json(project / "compose.json")["segmentation"]) == [
        "mediapipe face mesh",
        "mediapipe selfie segmentation",
    ]
    run(project, GENERATED)
    assert first == [(project / name).read_bytes() for name in ("anonymized.mp4", "compose.h5")]


def test_what_is_undecoded_is_grey_and_what_is_decoded_shows_the_crop(project):
    with stagefile.read(project / "decode.h5") as file:
        contents = {name: file[name][:] for name in ("decoded", "crops")}
    contents["crops"][:, 0] = (250, 20, 90)
    with stagefile.write(project / "decode.h5") as file:
        for name, array in contents.items():
            file[name] = array
    output, _, _ = run(project, GENERATED)
    assert (output[0][within(SUBJECT)] == (250, 20, 90)).all()
    assert (output[2][within(SUBJECT, 1.25)] == cover.GREY).all()
    assert (output[4][within(SUBJECT)] == cover.GREY).all()


def test_bystanders_can_be_blurred(project):
    output, covered, treatment = run(project, GENERATED, "--bystanders", "blur")
    assert (treatment[:, 1] == compose.BLUR).all() and (treatment[:2, 0] == compose.CROP).all()
    assert (covered[:, 1] == 1).all()
    # Noise that is blurred is nearly flat, crops of noise are not.
    assert output[0][within(BYSTANDER)].std(axis=0).max() < 25 < output[0][within(SUBJECT)].std(axis=0).min()


def test_a_crop_in_which_no_face_is_found_stays_whole():
    crop = noise()[:SIDE, :SIDE]
    np.testing.assert_array_equal(compose.drawn_head(crop, Mesh()), matting.matted(crop))


def test_subject_view_shows_crops_alone(project):
    output, covered, treatment = run(project, GENERATED, "--compose", "crop")
    with stagefile.read(project / "decode.h5") as file:
        crops = file["crops"][:, 0]
    assert output.shape == (FRAMES, HEIGHT, HEIGHT, 3)
    for n in (0, 1, 3):
        np.testing.assert_array_equal(output[n], cv2.resize(crops[n], (HEIGHT, HEIGHT), interpolation=cv2.INTER_CUBIC))
        assert treatment[n, 0] == compose.CROP
    for n in (2, 4, 5):
        assert (output[n] == cover.GREY).all()
    # The other face is nowhere to be seen.
    assert (treatment[:, 1] == compose.MASK).all()
    assert (np.delete(covered.ravel(), 10) == 1).all()


def test_subject_view_without_a_generator_is_the_covered_crop(project):
    output, _, _ = run(project, "mask", "--compose", "crop")
    faces = [cv2.warpAffine(np.float32(within(SUBJECT)), aligning(SUBJECT, HEIGHT), (HEIGHT, HEIGHT)) > 0.99]
    assert output.shape == (FRAMES, HEIGHT, HEIGHT, 3)
    assert (output[0][faces[0]] == cover.GREY).all() and not (output[0] == cover.GREY).all()
    assert (output[5] == cover.GREY).all()


@pytest.mark.parametrize("side", [32, 256])
def test_crops_come_back_to_their_place(side):
    """A crop of a smooth picture, warped back, is that picture."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    picture = np.stack([x, y + 40, 200 - x / 2 - y / 3], axis=-1).astype(np.uint8)
    transform = aligning(SUBJECT, side)
    crop = cv2.warpAffine(picture, transform, (side, side), borderMode=cv2.BORDER_REPLICATE)
    back, distance = cover.warp_back(crop, transform, (slice(20, 130), slice(15, 115)))
    difference = np.abs(back.astype(int) - picture[20:130, 15:115])
    assert (distance > 3).sum() > 5000
    # A step in fixed point is 1/32 crop pixel, of which one is about 5 frame pixels here.
    assert difference[distance > 3].max() <= 3 and difference[distance > 3].mean() < 1


def test_a_shift_by_whole_pixels_comes_back_exactly():
    rng = np.random.default_rng(2)
    crop = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    shift = np.array([[1, 0, -20], [0, 1, -30]], np.float32)
    back, distance = cover.warp_back(crop, shift, (slice(25, 70), slice(10, 60)))
    np.testing.assert_array_equal(back[5 : 5 + SIDE, 10 : 10 + SIDE], crop)
    inside = np.zeros(back.shape[:2], bool)
    inside[5 : 5 + SIDE, 10 : 10 + SIDE] = True
    np.testing.assert_array_equal(distance >= 0, inside)


def face(box, **changes) -> compose.Face:
    return compose.Face(
        **{"box": np.float32(box), "landmarks": mesh(box), "transform": aligning(box), "certain": True, "crop": None}
        | changes
    )


def noise(seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def test_beyond_the_crop_stands_what_is_around_in_the_frame():
    """A crop that holds the left half of the face only, all of it a person, over a face in a room of another colour."""
    source = noise()
    source[~within(SUBJECT)] = 7
    frame = source.copy()
    middle = (SUBJECT[0] + SUBJECT[2]) // 2
    shift = np.array([[1, 0, -(middle - 63)], [0, 1, -20]], np.float32)
    crop = np.full((64, 64, 4), (90, 90, 90, 255), np.uint8)
    covered = compose.treat(frame, face(SUBJECT, transform=shift, crop=crop), compose.CROP)
    feather = int(np.ceil(1.3 * cover.FEATHER * 90))
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    region, inner = within(SUBJECT), np.minimum(middle - x, 20 + 63 - y)  # pixels to the crop's edge
    assert (frame[region & (inner >= feather)] == 90).all()
    assert (frame[region & (inner < 0)] == 7).all()
    # It fades out towards its edge.
    row = frame[20 + 32, middle - feather : middle + 1, 0].astype(int)
    assert (np.diff(row) <= 0).all() and np.ptp(row) == 90 - 7 and np.diff(row).min() > -25
    assert covered == 1 and (frame != source).any(axis=-1)[region].all()


def test_around_a_smaller_head_stands_what_is_around_in_the_frame():
    """A crop of a red head in a black room, put over a face in a white one."""
    disc = (np.hypot(*np.mgrid[-32:32, -32:32]) < 6).astype(np.uint8)
    crop = np.dstack([disc * np.uint8(250), 0 * disc, 0 * disc, disc * np.uint8(255)])
    found = []
    for hidden in (noise(), noise(5)):
        frame = np.where(within(SUBJECT)[..., None], hidden, 255).astype(np.uint8)
        covered = compose.treat(frame, face(SUBJECT, transform=aligning(SUBJECT, 64), crop=crop), compose.CROP)
        assert covered == 1
        found.append(frame)
    assert (found[0][within(SUBJECT, 0.15)] == (250, 0, 0)).all()
    ring = within(SUBJECT, 1.1) & ~within(SUBJECT, 0.8)
    assert found[0][ring].min() > 240
    # Nothing of the face that is covered has a part in it.
    np.testing.assert_array_equal(*found)


def heads(frame: np.ndarray, *treatments: int) -> tuple[np.ndarray, np.ndarray]:
    """`frame` with faces that overlap covered in turn, by crops of a red, a green and a blue head a third as wide as
    the face, and where heads are drawn.
    """
    drawn = np.zeros((HEIGHT, WIDTH), bool)
    disc = (np.hypot(*np.mgrid[-32:32, -32:32]) < 10).astype(np.uint8)[..., None]
    boxes = (50, 40, 90, 80), (70, 20, 130, 80), (40, 30, 110, 100)
    for box, colour, treatment in zip(boxes, np.uint8(np.eye(3) * 250), treatments, strict=False):
        crop = np.concatenate([np.broadcast_to(np.uint8(colour), (64, 64, 3)), disc * np.uint8(255)], -1)
        made = face(box, transform=aligning(box, 64), crop=crop)
        assert compose.treat(frame, made, treatment, drawn) == 1
    return frame, drawn


def test_beside_a_nearer_head_the_head_behind_it_is_still_seen():
    alone, drawn = heads(noise(), compose.CROP)
    assert (alone[drawn] == (250, 0, 0)).all() and drawn.sum() > 100
    both, shown = heads(noise(), compose.CROP, compose.CROP)
    red, green = ((both == colour).all(-1) for colour in ((250, 0, 0), (0, 250, 0)))
    # All of the nearer one, and what its cover alone would have taken of the other, less the edge.
    second = within((70, 20, 130, 80))
    inner = ndimage.binary_erosion(drawn & ~ndimage.binary_dilation(green, iterations=4), iterations=5)
    assert green.sum() > 900 and (inner & second).sum() > 30
    assert np.abs(both[inner].astype(int) - (250, 0, 0)).max() < 10
    assert not (shown & ~(red | green)).any()
    # Of the faces no more is left than what one's colours may have to do with those around the other.
    covered = within((50, 40, 90, 80)) | second
    other, _ = heads(np.where(covered[..., None], noise(5), noise()), compose.CROP, compose.CROP)
    assert np.abs(both.astype(int) - other)[covered].max() <= 2


def test_what_was_covered_otherwise_in_between_is_not_kept():
    frame, drawn = heads(noise(), compose.CROP, compose.MASK)
    assert not drawn[within((70, 20, 130, 80))].any() and drawn.any()
    assert (frame[within((70, 20, 130, 80))] == cover.GREY).all()


def sided() -> np.ndarray:
    """The subject's landmarks, with the oval's sides at its left and right and the nose tip in the middle."""
    points = mesh(SUBJECT)
    points[cover.SIDES, 1] = (SUBJECT[1] + SUBJECT[3]) / 2
    points[cover.SIDES, 0] = np.repeat([SUBJECT[0], SUBJECT[2]], 3)
    points[cover.NOSE, :2] = points[cover.SIDES, :2].mean(0)
    return points


@pytest.mark.parametrize("roll", [0, 30, -90, 180])
def test_ears_are_covered_beside_the_mesh_however_it_lies(roll):
    turn = np.radians(roll)
    points = sided()
    points[:, :2] = points[:, :2] @ [[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]
    across = [np.cos(turn), np.sin(turn)]
    for outline, share in ((cover.cover_outline, 0.12), (cover.head_outline, 0)):
        for side in (-1, 1):
            beyond = (side * outline(points, np.zeros(4), True) @ across).max() - (side * points[:, :2] @ across).max()
            assert beyond == pytest.approx(share * cover.size(points[:, :2]), abs=0.1)


@pytest.mark.parametrize("side", [-1, 1])
def test_of_a_turned_head_the_ear_behind_is_covered(side):
    points = sided()
    points[cover.NOSE, 0] += side * 10
    outline = cover.cover_outline(points, np.zeros(4), True)
    beyond = (-side * outline[:, 0]).max() - (-side * points[:, 0]).max()
    assert beyond == pytest.approx(0.12 * cover.size(points[:, :2]) + 0.4 * 10, abs=0.1)


def test_in_the_place_of_ears_stands_what_is_around_in_the_frame():
    """A crop that a person fills, put over a face in a room of another colour."""
    points = sided()
    frame = np.where(within(SUBJECT, 1.6)[..., None], noise(), 7).astype(np.uint8)
    crop = np.full((SIDE, SIDE, 4), (90, 90, 90, 255), np.uint8)
    made = compose.Face(np.float32(SUBJECT), points, aligning(SUBJECT, margin=1), True, crop)
    assert compose.treat(frame, made, compose.CROP) == 1
    assert (frame[within(SUBJECT)] == 90).all()
    size, middle = SUBJECT[3] - SUBJECT[1], (SUBJECT[1] + SUBJECT[3]) // 2
    shown = frame[middle, :, 0].astype(int)
    # Its edge fades as that of the cover does, which ends an ear further out.
    ear = round((cover.GROW + cover.FEATHER) * size) + 1
    assert (shown[SUBJECT[2] + ear : SUBJECT[2] + round(0.16 * size)] < 90).all()


@pytest.fixture
def one_thread():
    """By one thread OpenCV takes Intel's distances."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    yield
    cv2.setNumThreads(threads)


def test_the_soft_edge_goes_by_exact_distances_to_the_last_bit(one_thread):
    """Else what a walk sees, and then its way, would depend on where in memory a frame lies."""
    rng = np.random.default_rng(11)
    for _ in range(20):
        outline = cv2.convexHull(rng.uniform(60, 340, (8, 2)).astype(np.float32))[:, 0].astype(np.float64)
        where = slice(0, 400), slice(0, 400 + int(rng.integers(8)))
        distance = ndimage.distance_transform_edt(~cover.inside(outline, where)).astype(np.float32)
        size = float(np.ptp(outline, axis=0).max())
        x = np.clip(1 - (distance - cover.GROW * size) / (cover.FEATHER * size), 0, 1)
        np.testing.assert_array_equal(cover.alpha_over(outline, where, cover.FEATHER), x * x * (3 - 2 * x))


@pytest.mark.parametrize("treatment", [compose.CROP, compose.BLUR, compose.PIXELATE, compose.MASK])
@pytest.mark.parametrize("box", [(-40, -50, 30, 40), (150, 100, 240, 190), (-100, -100, 400, 400), (300, 20, 360, 90)])
def test_faces_across_the_edge_of_the_frame(treatment, box):
    frame, source = noise(), noise()
    crop = np.random.default_rng(4).integers(0, 256, (SIDE, SIDE, 4), dtype=np.uint8)
    assert compose.treat(frame, face(box, crop=crop), treatment) == 1
    assert (frame != source).any(axis=-1)[within(box)].all()


def test_the_nearer_face_lies_on_top(project):
    """Two overlapping faces: where both are, the larger one's crop shows."""
    with stagefile.read(project / "extract.h5") as file:
        contents, attributes = {name: file[name][:] for name in file}, dict(file.attrs)
    near = (90, 40, 130, 90)
    contents["boxes"][:, 1], contents["landmarks"][:, 1], contents["transforms"][:, 1] = (
        near,
        mesh(near),
        aligning(near),
    )
    with stagefile.write(project / "extract.h5") as file:
        file.attrs.update(attributes)
        for name, array in contents.items():
            file[name] = array
    with stagefile.write(project / "decode.h5") as file:
        file["decoded"] = contents["aligned"]
        file["crops"] = np.broadcast_to(
            np.array([(10, 200, 10), (200, 10, 200)], np.uint8)[None, :, None, None], (FRAMES, 2, SIDE, SIDE, 3)
        )
    output, covered, _ = run(project, GENERATED)
    both = within(SUBJECT) & within(near)
    assert both.any() and (output[0][both] == (10, 200, 10)).all()
    assert (output[0][within(near) & ~within(SUBJECT, 1.7)] == (200, 10, 200)).all()
    assert (covered[0] == 1).all()


def test_coverage_is_that_of_the_alpha_in_use(monkeypatch):
    """With the cover's right half taken away, half of the face counts as covered."""
    whole = cover.alpha_over

    def half(outline, where, feather):
        alpha = whole(outline, where, feather)
        alpha[:, alpha.shape[1] // 2 :] = 0.99
        return alpha

    monkeypatch.setattr(cover, "alpha_over", half)
    assert abs(compose.treat(noise(), face(SUBJECT, landmarks=sided()), compose.MASK) - 0.5) < 0.03


def test_blur_and_pixelate_leave_little():
    """A face keeps no detail finer than a fifth of it when blurred, and 8 blocks along it when pixelated."""
    stripes = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    stripes[:, np.arange(WIDTH) // 10 % 2 == 0] = 255
    # Far from the edge, which is repeated outwards.
    assert np.ptp(cover.blurred(stripes, 80)[:, 60:-60].astype(int)) < 6
    blocks = cover.pixelated(noise(), 80)
    colours = np.unique(blocks.reshape(-1, 3), axis=0)
    assert len(colours) <= WIDTH / 10 * HEIGHT / 10
    # Each is the mean of the pixels it stands for.
    np.testing.assert_allclose(blocks[5, 5], noise()[:10, :10].reshape(-1, 3).mean(axis=0), atol=1)


@pytest.mark.parametrize("method", [GENERATED, "blur"])
def test_a_crash_in_the_middle_leaves_no_clip_and_no_verdict(project, monkeypatch, method):
    run(project, method)
    (project / "summary.json").write_text('{"verdict": "pass"}')
    treat, calls = compose.treat, []

    def failing(*arguments):
        calls.append(1)
        if len(calls) == 6:
            raise RuntimeError("power cut")
        return treat(*arguments)

    monkeypatch.setattr(compose, "treat", failing)
    with pytest.raises(RuntimeError, match="power cut"):
        run(project, method)
    assert not [p for p in project.iterdir() if "anonymized" in p.name or p.name == "summary.json"]


def test_a_failing_report_leaves_no_clip(project, monkeypatch):
    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(stagefile, "write_json", full)
    with pytest.raises(OSError, match="No space"):
        run(project, "mask")
    assert not [p for p in project.iterdir() if "anonymized" in p.name]


def change(folder: Path, file: str, name: str, array: np.ndarray) -> None:
    with stagefile.h5py.File(folder / file, "a") as opened:
        del opened[name]
        opened[name] = array


def test_files_that_do_not_belong_together_are_refused(project):
    with stagefile.read(project / "extract.h5") as file:
        present, boxes = (file[name][:] for name in ("present", "boxes"))
    clip = (project / "clip.mp4").read_bytes()
    # Another recording by the same camera, as long.
    (project / "clip.mp4").write_bytes(clip[::-1])
    with pytest.raises(ValueError, match=r"P01: expected the clip that extract saw, .* extract anew"):
        run(project, "mask")
    (project / "clip.mp4").write_bytes(clip)
    change(project, "decode.h5", "crops", np.zeros((FRAMES, 2, 16, 16, 3), np.uint8))
    with pytest.raises(ValueError, match="run decode again"):
        run(project, GENERATED)
    change(project, "extract.h5", "boxes", np.full_like(boxes, np.nan))
    with pytest.raises(ValueError, match="frame 0, track 0: the face is present but has no box"):
        run(project, "mask")
    change(project, "extract.h5", "present", present[:, :0])
    with pytest.raises(ValueError, match="withheld"):
        run(project, "mask")
    assert not [p for p in project.iterdir() if "anonymized" in p.name]


def test_crops_go_with_generator_methods_alone(project, capsys):
    for method, crops in ((GENERATED, []), ("blur", ["--crops", str(project / "decode.h5")])):
        with pytest.raises(SystemExit):
            names = ("clip", "faces", "output", "coverage", "report")
            compose.main([*(t for n in names for t in (f"--{n}", "x")), "--method", method, *crops])
        assert "--crops" in capsys.readouterr().err
