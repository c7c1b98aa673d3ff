"""The sweeps that `make test` leaves out have passed: its record has every one of them."""

import json

from conftest import WIDE
from tests.support.wide_record import FILE


def test_every_wide_test_passed_in_the_committed_record(request):
    passed = json.loads(FILE.read_text(encoding="utf-8"))["passed"]
    missing = sorted(set(request.config.stash[WIDE]) - set(passed))
    assert missing == [], "make test-wide writes a new record"
