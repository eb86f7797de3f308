"""`memory://` through the suite of all stores."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from flinkray.checkpoint.memory_store import forget
from flinkray.checkpoint.store import open_store
from flinkray.testing.store_suite import ObjectStoreSuite, StoreLocation


class TestMemoryStore(ObjectStoreSuite):
    @pytest.fixture
    def location(self, tmp_path: Path) -> Iterator[StoreLocation]:
        yield StoreLocation(f"memory://{tmp_path.name}")
        forget(tmp_path.name)


def test_stores_of_one_root_share_their_objects_and_are_forgotten_together() -> None:
    open_store("memory://one", "app").put("a", b"x")
    open_store("memory://two", "app").put("a", b"y")
    assert open_store("memory://one/", "app").get("a") == b"x"
    forget("one")
    assert open_store("memory://one", "app").list("") == []
    assert open_store("memory://two", "app").get("a") == b"y"
    assert not open_store("memory://one", "app").shared
