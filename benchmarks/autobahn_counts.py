"""Counts the results in reports of the Autobahn|Testsuite. Exits with 1 if a case has failed that must pass."""

import json
import sys
from collections import Counter
from pathlib import Path

ALLOWED = {"7.1.5"}
"""Cases that may fail; autobahn.sh gives the reasons."""

EXPECTED = 247
"""Cases of a run."""

GOOD = {"OK", "NON-STRICT", "INFORMATIONAL", "UNIMPLEMENTED"}


def is_good(path: Path) -> bool:
    """Print the counts of one report. Return whether no case has failed or is missing."""
    good = True
    for agent, cases in json.loads(path.read_text()).items():
        counts = Counter(case["behavior"] for case in cases.values())
        failed = sorted(
            number
            for number, case in cases.items()
            if case["behavior"] not in GOOD or case["behaviorClose"] not in GOOD
        )
        print(f"{agent}: {len(cases)} cases, {', '.join(f'{count} {name}' for name, count in counts.most_common())}")
        if failed:
            print(f"  failed: {' '.join(failed)}")
        good = good and len(cases) == EXPECTED and set(failed) <= ALLOWED
    return good


if __name__ == "__main__":
    verdicts = [is_good(Path(name)) for name in sys.argv[1:]]  # a list, so all are printed
    sys.exit(not all(verdicts))
