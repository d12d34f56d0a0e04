"""Make docs/demo.png after `make demo`: frames of the sample clip, the original above what each method made of it."""

from pathlib import Path

import cv2
import numpy as np

from peekaboo import media

METHODS = ("pti_traversal", "pti", "traversal", "blur", "pixelate", "mask")
FRAMES = (4, 24, 46, 62, 70, 84)
HOME = Path(__file__).parents[1]

if __name__ == "__main__":
    clips = [HOME / "results/infant/source", *(HOME / f"results/infant/{name}/anonymized.mp4" for name in METHODS)]
    rows = []
    for clip, name in zip(clips, ("original", *METHODS), strict=True):
        frames = [frame for n, frame in enumerate(media.frames(clip)) if n in FRAMES]
        row = cv2.resize(np.concatenate(frames, 1), None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)
        label = np.full((row.shape[0], 120, 3), 255, np.uint8)
        cv2.putText(label, name, (6, 80), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (40, 40, 40), 1, cv2.LINE_AA)
        rows.append(np.concatenate([label, row], 1))
    cv2.imwrite(str(HOME / "docs/demo.png"), np.concatenate(rows)[..., ::-1])
