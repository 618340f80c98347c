#!/usr/bin/env python3
"""Prints what the JUnit files of a run say: how many tests passed, and each failure with its first lines."""

import glob
import os
import sys
import xml.etree.ElementTree as xml

passed, failed = [], []
for report in sorted(glob.glob(os.path.join(sys.argv[1], "junit_*.xml"))):
    for case in xml.parse(report).getroot().iter("testcase"):
        if case.find("skipped") is None:
            failure = case.find("failure")
            (passed if failure is None else failed).append((case.get("name"), float(case.get("time")), failure))
for name, seconds, failure in sorted(failed, key=lambda case: case[0]):
    words = " | ".join(line.strip() for line in (failure.text or "").splitlines() if line.strip())
    print(f"FAIL {name} ({seconds:.0f} s)\n     {words[:600]}")
print(f"{len(passed)} passed, {len(failed)} failed, {sum(case[1] for case in passed + failed):.0f} s of tests")
