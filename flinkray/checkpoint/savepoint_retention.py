"""Which automatic savepoints are kept: `keep 24 hourly, 7 daily`. Pure. Those that a person has named are never touched."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from flinkray.errors import ConfigError

AUTO_REQUEST = "auto-"
"""What the request of an automatic savepoint begins with; nobody else's does."""

_RULE = re.compile(r"(\d+)\s+(hourly|daily|weekly|monthly|newest)")
_BUCKETS = {"hourly": "%Y%m%d%H", "daily": "%Y%m%d", "weekly": "%G%V", "monthly": "%Y%m", "newest": ""}


@dataclass(frozen=True)
class Retention:
    rules: tuple[tuple[int, str], ...]
    """How many, and of what: the newest savepoint of each of so many hours, days, weeks or months (UTC) that have one, or simply the newest."""

    @classmethod
    def parse(cls, text: str) -> Retention:
        """`keep 24 hourly, 7 daily`. Raises ConfigError."""
        kept = text.strip().removeprefix("keep ")
        matches = [_RULE.fullmatch(part.strip()) for part in kept.split(",")]
        rules = tuple((int(match[1]), match[2]) for match in matches if match is not None)
        if not text.strip().startswith("keep ") or len(rules) != len(matches) or any(count < 1 for count, _ in rules):
            raise ConfigError(f"retention {text!r}: write it like 'keep 24 hourly, 7 daily' (hourly, daily, weekly, monthly or newest)")
        return cls(rules)

    def kept(self, made: Sequence[tuple[str, int]]) -> set[str]:
        """Of savepoints by name and time (microseconds since 1970): the names of those to keep; the newest of all always is."""
        newest_first = sorted(made, key=lambda one: (one[1], one[0]), reverse=True)
        names = {name for name, _ in newest_first[:1]}
        for count, of in self.rules:
            buckets: dict[str, str] = {}
            for position, (name, at_us) in enumerate(newest_first):
                bucket = datetime.fromtimestamp(at_us / 1e6, UTC).strftime(_BUCKETS[of]) or str(position)
                if bucket not in buckets and len(buckets) < count:
                    buckets[bucket] = name
            names.update(buckets.values())
        return names
