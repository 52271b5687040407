"""Counts of the Autobahn|Testsuite's reports; exits 1 if a case has failed that may not."""

import json
import sys
from collections import Counter
from pathlib import Path

ALLOWED = {"7.1.5"}
"""See autobahn.sh."""

EXPECTED = 247
"""Cases of a run."""

GOOD = {"OK", "NON-STRICT", "INFORMATIONAL", "UNIMPLEMENTED"}


def is_good(path: Path) -> bool:
    """Print the counts of one report; whether no case has failed or is missing."""
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
    verdicts = [is_good(Path(name)) for name in sys.argv[1:]]  # all are printed
    sys.exit(not all(verdicts))
