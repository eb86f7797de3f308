"""The example jobs run as scripts, small, on the local runtime."""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs import enrichment, fraud


def test_fraud_finds_alerts_and_quiet_bids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "fraud"
    options = ["--rows", "20000", "--runtime", "local", "--out", str(out), "--storage", f"file://{tmp_path}/checkpoints"]
    monkeypatch.setattr(sys, "argv", ["fraud.py", *options, "--small", "3000", "--large", "300000"])
    fraud.main()
    assert "FINISHED: 20,000 bids" in capsys.readouterr().out
    alerts, quiet = pq.read_table(out / "alerts"), pq.read_table(out / "quiet")
    assert alerts.num_rows > 10
    assert quiet.num_rows > 10
    assert min(alerts["price"].to_pylist()) > 300_000


def test_enrichment_finds_the_auctions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "enriched"
    options = ["--rows", "9200", "--runtime", "local", "--out", str(out), "--storage", f"file://{tmp_path}/checkpoints"]
    monkeypatch.setattr(sys, "argv", ["enrichment.py", *options])
    enrichment.main()
    assert "9,200 bids in" in capsys.readouterr().out
    found = pq.read_table(out)
    assert found.num_rows == 9_200
    assert found["seller"].null_count < 9_200
