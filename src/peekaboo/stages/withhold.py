"""Withhold: say why a clip has no result, and make sure that it has none."""

import argparse
from pathlib import Path

from peekaboo import stagefile


def main(argv: list[str] | None = None) -> None:
    """Run the stage; see `--help`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--extract", required=True, help="extract's report, with status withheld and the reason")
    parser.add_argument("--output", required=True, help="withheld.json in the clip's result folder")
    parser.add_argument("--report", required=True)
    args = parser.parse_args(argv)
    report = stagefile.StageReport("withhold")
    extract = stagefile.read_json(args.extract)
    if extract["status"] != "withheld":
        raise ValueError(
            f"extract's report has status {extract['status']!r}, expected 'withheld'; this clip has a result"
        )
    # An older result, of another file or other settings, must not be taken for this clip's.
    folder = Path(args.output).parent
    stale = sorted(folder.glob("*/anonymized.mp4"))
    for path in (*stale, *folder.glob("*/summary.json")):
        path.unlink()
    stagefile.write_json(args.output, {"clip": extract["clip"], "reason": extract["reason"]})
    report.write(args.report, extract["frames"], removed=len(stale), reason=extract["reason"])


if __name__ == "__main__":
    main()
