"""Other infants whose faces a walk could lead to."""

import numpy as np

ALIKE = ("age", "sex")  # readings in which the other infant is like this one
NEAREST, FEWEST = 0.25, 12  # share of the faces that counts as like it in these, and how many of them are told


def others(found: dict[str, np.ndarray], cosines: np.ndarray, own: dict[str, np.ndarray]) -> np.ndarray:
    """Numbers `[FEWEST]`, the least alike first, of faces whose readings `[M]` are `found`, by name, and whose
    identities have these `cosines` `[M]` to the infant's, of which `own` are the readings `[N]`: of the faces that are
    about as old and of its sex those of the lowest cosines.
    """
    names = [name for name in ALIKE if name in found]
    off = np.zeros(len(cosines))
    for name in names:
        off += np.abs(found[name] - np.mean(own[name])) / np.std(found[name])
    alike = np.argsort(off, kind="stable")[: max(FEWEST, int(NEAREST * len(off)))]
    return alike[np.argsort(cosines[alike], kind="stable")][:FEWEST]
