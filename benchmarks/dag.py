"""How long the plan of many clips takes, all six methods, before and after extract has run for them.

Run `python benchmarks/dag.py [--clips 200]`; it prints jobs, and seconds by the clock and of processors. Listing the
jobs, which `snakemake -n` does as well, is not in the first figure.
"""

import argparse
import re
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from test_many import UNLISTED, plan, write_clips, write_extracted


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=200)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clips = write_clips(Path(folder), args.clips)
        for state in ("nothing made", "extracted"):
            if state == "extracted":
                write_extracted(Path(folder), clips)
            clock, processor, _ = plan(Path(folder), *UNLISTED)
            listed, _, output = plan(Path(folder))
            jobs = re.search(r"^total +(\d+)$", output, re.MULTILINE).group(1)
            print(
                f"{args.clips} clips, {state}: {jobs} jobs planned in {clock:.1f} s (processors {processor:.1f} s), "
                f"listed in {listed:.1f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
