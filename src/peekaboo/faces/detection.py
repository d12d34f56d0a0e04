"""Face detection for recall: MediaPipe at several scales and both ways up, dlib beside it, a face mesh to confirm."""

import os
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from peekaboo.faces.alignment import crop

# Corners of both eyes, as they appear from left to right in an upright image.
EYE_CORNERS = [33, 263]
# Side of the face mesh's input, and how much wider than the face it is (MediaPipe's own value).
MESH_SIDE, MESH_MARGIN = 192, 1.5
# dlib's pyramid starts at 80 px: frames are brought near this longer side, enlarged at most twice.
HOG_SIDE, HOG_ENLARGE = 640, 2.0
# Tiles overlap by half. Small ones and upside-down views see faces in things more often; those score below this and
# real ones above.
EXTRA_CONFIDENCE = 0.75
# A chin and a bald crown look like a face the other way up. Against the upright the upside-down has to score this much
# higher: of rendered heads and real adults 1 % of the upright and 4 % of the upside-down come out wrong with it.
UPRIGHT_ADVANTAGE = 0.06
# Inside a face that scores higher, what shares this much of its own area with it is a part of it; less is enough for
# what would be a face the other way up, for no face lies so on another.
PART, TURNED_PART = 0.6, 0.4
# The mesh alone takes a few things for faces; with a score from here on, or with dlib, it confirms.
SURE = 0.75
SAME_FACE = 0.3
# Detectors' boxes begin at the brows, the landmarks' a tenth of the height above; which side that is may be unknown.
UNMESHED_GROWTH = 0.1
# The mesh must lie where the detector saw the face: offset and difference in size at most this share or factor.
MESH_OFFSET, MESH_RATIO = 0.5, 1.8
MESH_GRAPH = """
input_stream: "image" input_stream: "roi" input_side_packet: "with_attention" output_stream: "landmarks"
executor { name: "" type: "ApplicationThreadExecutor" }
node {
  calculator: "FaceLandmarkCpu"
  input_stream: "IMAGE:image" input_stream: "ROI:roi" input_side_packet: "WITH_ATTENTION:with_attention"
  output_stream: "LANDMARKS:landmarks"
}
"""


@dataclass(frozen=True, eq=False)
class Detection:
    """One face in one frame, in its pixels; the box is that of the landmarks where the mesh found them."""

    box: np.ndarray  # [4] x0, y0, x1, y1
    score: float  # 0 to 1, the highest of the detectors that found it
    sure: bool  # the mesh agrees and the score is high, or two detectors agree
    landmarks: np.ndarray | None = None  # [478, 3], z in the scale of x


def package_versions() -> dict[str, str]:
    """Detectors by name, with the version of the package that holds their weights."""
    return {
        "mediapipe face detection (full and short range)": f"mediapipe {version('mediapipe')}",
        "dlib frontal face detector (HOG)": f"dlib-bin {version('dlib-bin')}",
        "mediapipe face mesh (478 landmarks)": f"mediapipe {version('mediapipe')}",
    }


class Mesh:
    """MediaPipe's landmark network with attention on a region given to it; a frame's result never depends on others."""

    def __init__(self) -> None:
        mediapipe = load_mediapipe()
        from google.protobuf import text_format
        from mediapipe.framework import calculator_pb2
        from mediapipe.framework.formats import rect_pb2
        from mediapipe.python import CalculatorGraph, packet_creator, packet_getter, resource_util

        self.creator, self.getter = packet_creator, packet_getter
        self.format = mediapipe.ImageFormat.SRGB
        self.whole = rect_pb2.NormalizedRect(x_center=0.5, y_center=0.5, width=1, height=1)
        self.found: list[Any] = []
        self.time = 0
        resource_util.set_resource_dir(str(Path(mediapipe.__file__).parents[1]))
        # FaceMesh would run its own detector first and miss covered faces; this is the part of it that comes after.
        self.graph = CalculatorGraph(graph_config=text_format.Parse(MESH_GRAPH, calculator_pb2.CalculatorGraphConfig()))
        self.graph.observe_output_stream("landmarks", lambda _, packet: self.found.append(packet), True)
        self.graph.start_run({"with_attention": packet_creator.create_bool(True)})

    def __call__(self, frame: np.ndarray, box: np.ndarray, roll: float) -> np.ndarray | None:
        """Landmarks [478, 3] float32, in frame pixels, of the face in `box` that is turned by `roll` radians clockwise.

        None if there is no face. Run twice: the first result places the region for the second, as MediaPipe does from
        frame to frame.
        """
        rough = self._once(frame, _centre(box), _side(box), roll)
        if rough is None:
            return None
        roll = roll_of(rough)
        turn = np.array([[np.cos(roll), np.sin(roll)], [-np.sin(roll), np.cos(roll)]])
        upright = rough[:, :2] @ turn.T
        low, high = upright.min(0), upright.max(0)
        fine = self._once(frame, (low + high) / 2 @ turn, float((high - low).max()), roll)
        if fine is None:
            return None
        found = box_of(fine)
        away = np.abs(_centre(found) - _centre(box)).max() / _side(box)
        ratio = _side(found) / _side(box)
        return fine if away <= MESH_OFFSET and 1 / MESH_RATIO <= ratio <= MESH_RATIO else None

    def _once(self, frame: np.ndarray, centre: np.ndarray, side: float, roll: float) -> np.ndarray | None:
        scale = MESH_SIDE / (MESH_MARGIN * side)
        linear = scale * np.array([[np.cos(roll), np.sin(roll)], [-np.sin(roll), np.cos(roll)]])
        offset = (MESH_SIDE - 1) / 2 - linear @ centre
        region = crop(frame, np.column_stack([linear, offset]), MESH_SIDE)
        self.found.clear()
        self.time += 1
        image = self.creator.create_image_frame(image_format=self.format, data=region)
        self.graph.add_packet_to_input_stream("image", image.at(self.time))
        self.graph.add_packet_to_input_stream("roi", self.creator.create_proto(self.whole).at(self.time))
        self.graph.wait_until_idle()
        if not self.found or self.found[0].is_empty():
            return None
        points = self.getter.get_proto(self.found[0]).landmark
        points = np.array([(p.x, p.y, p.z) for p in points]) * MESH_SIDE - [0.5, 0.5, 0]
        plane = (points[:, :2] - offset) @ np.linalg.inv(linear).T
        return np.column_stack([plane, points[:, 2] / scale]).astype(np.float32)


class Detector:
    """All detectors together; their union is confirmed face by face by the mesh."""

    def __init__(self, confidence: float) -> None:
        solution = load_mediapipe().solutions.face_detection.FaceDetection
        import dlib

        self.full = solution(model_selection=1, min_detection_confidence=confidence)
        self.short = solution(model_selection=0, min_detection_confidence=confidence)
        self.hog = dlib.get_frontal_face_detector()
        self.mesh = Mesh()

    def __call__(self, frame: np.ndarray, sweep: bool) -> list[Detection]:
        """Find the faces of a frame, uint8 RGB [H, W, 3], best first; with `sweep` in tiles of half the side too, for
        small ones.
        """
        found = [*self._mediapipe(frame, sweep), *self._hog(frame)]
        found.sort(key=_rank)
        detections: list[Detection] = []
        for group in _groups(found):
            detection = self._confirm(frame, group)
            # Two groups may have been the same face all along, or a part of a face looked like one.
            if all(shared(detection.box, other.box) < _part(detection, other) for other in detections):
                detections.append(detection)
        return detections

    def _confirm(self, frame: np.ndarray, group: list["Raw"]) -> Detection:
        box = group[0][0]
        score = max(score for _, score, _, _ in group)
        sure = score >= SURE or any(kind == "dlib" for _, _, _, kind in group)
        tried: list[float] = []
        for candidate, _, roll, _ in group:
            if any(abs(np.angle(np.exp(1j * (roll - other)))) < 0.3 for other in tried):
                continue
            tried.append(roll)
            landmarks = self.mesh(frame, candidate, roll)
            if landmarks is not None:
                return Detection(box_of(landmarks), score, sure, landmarks)
        grow = UNMESHED_GROWTH * (box[2:] - box[:2])
        box = np.concatenate([box[:2] - grow, box[2:] + grow]).astype(np.float32)
        return Detection(box, score, len({kind for _, _, _, kind in group}) > 1)

    def _mediapipe(self, frame: np.ndarray, sweep: bool) -> list["Raw"]:
        height, width = frame.shape[:2]
        side = min(height, width)
        found = []
        whole = [(frame, (0, 0))] if height != width else []
        for tile, corner in whole + _tiles(frame, side):
            found += [*_run(self.full, tile, corner), *_run(self.short, tile, corner)]
        extra = []
        if sweep:
            for tile, corner in _tiles(frame, (side + 1) // 2):
                extra += _run(self.full, tile, corner)
        # Infants lie down too. The short range model finds faces turned by up to 120 degrees; this view has the rest.
        for tile, corner in _tiles(frame[::-1, ::-1], side):
            for box, score, roll, kind in _run(self.short, tile, corner):
                turned = np.array([width - 1, height - 1, width - 1, height - 1]) - box[[2, 3, 0, 1]]
                extra.append((turned, score, roll + np.pi, kind))
        return found + [face for face in extra if face[1] >= EXTRA_CONFIDENCE]

    def _hog(self, frame: np.ndarray) -> list["Raw"]:
        scale = min(HOG_ENLARGE, HOG_SIDE / max(frame.shape[:2]))
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        boxes, scores, _ = self.hog.run(cv2.resize(frame, None, fx=scale, fy=scale, interpolation=method), 0, 0.0)
        edges = [np.array([box.left(), box.top(), box.right(), box.bottom()]) / scale for box in boxes]
        # Margins of the classifier, 0 at its own threshold, brought to the scale of the others: 0.5 there, 0.88 at 1.
        return [(box, 1 / (1 + np.exp(-2 * s)), 0.0, "dlib") for box, s in zip(edges, scores, strict=True)]


# Box [4], score, roll in radians and detector.
Raw = tuple[np.ndarray, float, float, str]


def box_of(landmarks: np.ndarray) -> np.ndarray:
    """Bounding box [4] float32 of landmarks [478, 3]."""
    return np.concatenate([landmarks[:, :2].min(0), landmarks[:, :2].max(0)]).astype(np.float32)


def roll_of(landmarks: np.ndarray) -> float:
    """Angle in radians by which the line through the outer eye corners is turned, clockwise as seen in the image."""
    left, right = landmarks[EYE_CORNERS, :2].astype(np.float64)
    return float(np.arctan2(*(right - left)[::-1]))


def shared(part: np.ndarray, whole: np.ndarray) -> float:
    """Share of the area of one box [4] that lies in another."""
    extent = np.maximum(np.minimum(part[2:], whole[2:]) - np.maximum(part[:2], whole[:2]), 0)
    return float(np.prod(extent) / np.prod(part[2:] - part[:2]))


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes [4]."""
    both = np.prod(np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0))
    return float(both / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - both))


def _rank(face: Raw) -> float:
    """Sorts the best first."""
    _, score, roll, _ = face
    return -score - UPRIGHT_ADVANTAGE * (np.cos(roll) > 0)


def _part(first: Detection, second: Detection) -> float:
    """Share of the first's area within the second from which on they can't both be faces."""
    if first.landmarks is None or second.landmarks is None:
        return PART
    return TURNED_PART if np.cos(roll_of(first.landmarks) - roll_of(second.landmarks)) < 0 else PART


def _groups(found: list[Raw]) -> list[list[Raw]]:
    """Put together what is the same face; groups and members keep their order."""
    groups: list[list[Raw]] = []
    for face in found:
        same = (group for group in groups if overlap(face[0], group[0][0]) >= SAME_FACE)
        group = next(same, None)
        if group is None:
            groups.append([face])
        else:
            group.append(face)
    return groups


def _tiles(frame: np.ndarray, side: int) -> list[tuple[np.ndarray, tuple[int, int]]]:
    """Squares that cover the frame and overlap by half, each with its left upper corner."""
    height, width = frame.shape[:2]
    tops, lefts = (
        np.linspace(0, n - side, 1 + int(np.ceil((n - side) / (side / 2)))).astype(int) for n in (height, width)
    )
    return [(frame[y : y + side, x : x + side], (int(x), int(y))) for y in tops for x in lefts]


def _run(detector: Any, image: np.ndarray, corner: tuple[int, int] = (0, 0)) -> list[Raw]:
    """Apply a MediaPipe detector to a part of the frame."""
    height, width = image.shape[:2]
    found = []
    for detection in detector.process(np.ascontiguousarray(image)).detections or []:
        box = detection.location_data.relative_bounding_box
        left, right = detection.location_data.relative_keypoints[:2]
        edges = np.array([box.xmin, box.ymin, box.xmin + box.width, box.ymin + box.height])
        edges = edges * [width, height, width, height] - 0.5 + [*corner, *corner]
        roll = np.arctan2((right.y - left.y) * height, (right.x - left.x) * width)
        found.append((edges, float(detection.score[0]), float(roll), "mediapipe"))
    return found


def _centre(box: np.ndarray) -> np.ndarray:
    return (box[:2] + box[2:]).astype(np.float64) / 2


def _side(box: np.ndarray) -> float:
    return float(max(box[2] - box[0], box[3] - box[1]))


def load_mediapipe() -> Any:
    """Import MediaPipe with its start-up messages off and its models' folder known."""
    os.environ.setdefault("GLOG_minloglevel", "2")
    import mediapipe

    return mediapipe
