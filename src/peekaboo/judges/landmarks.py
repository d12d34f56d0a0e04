"""The judge of the face mesh: is a face there, and where are its 478 landmarks."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from peekaboo import metrics, stagefile
from peekaboo.judges import crops, pose
from peekaboo.judges.judge import Face

REGION = 256
# The region around a tracked box, in box sides: the mesh's detector expects a face that fills about half of a picture.
MARGIN = 2.0
CONFIDENCE = 0.5


class Mesh:
    """MediaPipe's short-range face detector and face mesh on the region around a tracked box, each frame by itself."""

    name = "mediapipe face mesh"
    trained_on = "photographs of real people"
    real_faces = True
    role = "optimises and measures"  # the walk holds the pose, mouth and eyes that it reads
    columns = (
        "detected_original",
        "detected_anonymized",
        "confidence_original",
        "confidence_anonymized",
        "landmark_nme",
        *pose.COLUMNS,
    )

    def __init__(self) -> None:
        import mediapipe

        solutions = mediapipe.solutions
        # Without the video mode's smoothing, a frame's result does not depend on the frames before it. A neighbour may
        # be in the region as well, so the mesh looks for more than one face.
        self.mesh = solutions.face_mesh.FaceMesh(
            static_image_mode=True, max_num_faces=3, refine_landmarks=True, min_detection_confidence=CONFIDENCE
        )
        self.detector = solutions.face_detection.FaceDetection(model_selection=0, min_detection_confidence=CONFIDENCE)
        folder = Path(find_spec("mediapipe").submodule_search_locations[0])
        self.sha256 = stagefile.checksum(folder / "modules/face_landmark/face_landmark_with_attention.tflite")

    def prepare(self, frame: np.ndarray, face: Face) -> np.ndarray:
        """Cut a square region [256, 256, 3], twice as wide as the box and centred on it."""
        side = MARGIN * float((face.box[2:] - face.box[:2]).max())
        return crops.square(frame, face.box, side, REGION)

    def __call__(self, inputs: list[np.ndarray]) -> dict[str, np.ndarray]:
        """Read regions [256, 256, 3]: landmarks [B, 478, 3] in region pixels (NaN: none), confidence [B] (0..1)."""
        found = [self._nearest(region) for region in inputs]
        return {
            "landmarks": np.stack([landmarks for landmarks, _ in found]),
            "confidence": np.array([confidence for _, confidence in found], np.float32),
        }

    def in_crops(self, aligned: np.ndarray) -> np.ndarray:
        """Landmarks [B, 478, 3] in FFHQ-aligned crops, uint8 RGB [B, S, S, 3], in pixels of crops whose side is REGION;
        NaN where there is no face.
        """
        # A crop shows as much around the face as the region around a tracked box.
        return self([cv2.resize(crop, (REGION, REGION)) for crop in aligned])["landmarks"]

    def _nearest(self, region: np.ndarray) -> tuple[np.ndarray, float]:
        """The landmarks and the detector's score of the face centred inside the tracked box, if there is one."""
        region = np.ascontiguousarray(region)
        detections = self.detector.process(region).detections or []
        boxes = [detection.location_data.relative_bounding_box for detection in detections]
        meshes = [
            np.array([(p.x, p.y, p.z) for p in mesh.landmark], np.float32)
            for mesh in self.mesh.process(region).multi_face_landmarks or []
        ]
        box = central([(b.xmin + b.width / 2, b.ymin + b.height / 2) for b in boxes])
        mesh = central([m[:, :2].mean(0) for m in meshes])
        if box is None or mesh is None:
            return np.full((478, 3), np.nan, np.float32), 0.0
        return meshes[mesh] * REGION, float(detections[box].score[0])

    def compare(self, original: dict[str, Any], anonymized: dict[str, Any]) -> dict[str, np.ndarray]:
        """Detection (0 or 1), confidence, normalised mean error, head angles and their geodesic angle (degrees)."""
        columns = {}
        for clip, values in (("original", original), ("anonymized", anonymized)):
            columns[f"detected_{clip}"] = np.isfinite(values["landmarks"]).all((1, 2)).astype(np.int64)
            columns[f"confidence_{clip}"] = values["confidence"]
        # Both regions are cut by one similarity transform, under which neither measure changes.
        columns["landmark_nme"] = metrics.landmark_error(original["landmarks"], anonymized["landmarks"])
        return columns | pose.compared(*(pose.rotation(values["landmarks"]) for values in (original, anonymized)))


def central(centres: list[tuple[float, float]]) -> int | None:
    """Index of the centre (0..1 in the region) nearest to the region's, or None when none lies in the tracked box."""
    offsets = [np.abs(np.asarray(centre) - 0.5).max() for centre in centres]
    nearest = int(np.argmin(offsets)) if offsets else None
    return nearest if nearest is not None and offsets[nearest] <= 0.5 / MARGIN else None
