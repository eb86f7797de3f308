"""Streaming inference: a neural network scores every bid, on workers of its own, exactly once and in order.

    python jobs/streaming_inference.py --out out/scores                                   # numpy on two CPU workers
    python jobs/streaming_inference.py --out out/scores --num-gpus 1 --hidden 4096        # torch on one GPU
    python jobs/streaming_inference.py --out out/scores --runtime local                   # threads, without Ray

Writes Parquet: auction, bidder, price, date_time, score, device. The network has made-up weights, the same in every worker. At the end the
scores are checked against numpy (a sample) and the rows against those that were generated (all of them); rows/s are printed.
A worker may be killed while it runs (`kill -9` of a process `ray::StageActor`): its batches are done again by another one.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import flinkray as fr
from flinkray.connectors.nexmark import nexmark_table

FEATURES = 16
SAMPLE = 2_000
SCORED = {
    "auction": "int64",
    "bidder": "int64",
    "price": "int64",
    "date_time": "timestamp",
    "score": "float32",
    "device": "string",
}


def features(auction: np.ndarray, bidder: np.ndarray, price: np.ndarray) -> np.ndarray:
    """Waves of several lengths over the bid's numbers: float32, a row of FEATURES for each bid."""
    inputs = np.stack([auction / 1000.0, bidder / 1000.0, np.log1p(price)], axis=1)
    lengths = np.linspace(0.1, 2.0, FEATURES)
    return np.sin(inputs.sum(axis=1, keepdims=True) * lengths).astype(np.float32)


def weights(hidden: int) -> list[np.ndarray]:
    """Of the layers FEATURES -> hidden -> hidden -> 1."""
    random = np.random.default_rng(7)
    shapes = [(FEATURES, hidden), (hidden, hidden), (hidden, 1)]
    return [(random.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32) for shape in shapes]


def forward(rows: np.ndarray, layers: list[np.ndarray]) -> np.ndarray:
    for layer in layers[:-1]:
        rows = np.maximum(rows @ layer, 0.0)
    return (rows @ layers[-1])[:, 0]


class Scorer:
    """Loaded once in each worker: to the GPU where torch and one are there, else numpy."""

    def __init__(self, hidden: int, on_gpu: bool) -> None:
        self.layers = weights(hidden)
        self.torch, self.device = None, "numpy"
        if on_gpu:
            import torch

            if not torch.cuda.is_available():
                raise RuntimeError("--num-gpus was given, but torch sees no CUDA device in this worker")
            self.torch, self.device = torch, torch.cuda.get_device_name()
            self.layers = [torch.from_numpy(layer).cuda() for layer in self.layers]

    def __call__(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        rows = features(*(batch.column(name).to_numpy() for name in ("auction", "bidder", "price")))
        if self.torch is None:
            scores = forward(rows, self.layers)
        else:
            with self.torch.inference_mode():
                hidden = self.torch.from_numpy(rows).cuda()
                for layer in self.layers[:-1]:
                    hidden = self.torch.relu(hidden @ layer)
                scores = (hidden @ self.layers[-1])[:, 0].cpu().numpy()
        kept = {name: batch.column(name) for name in ("auction", "bidder", "price", "date_time")}
        return {**kept, "score": pa.array(scores, pa.float32()), "device": pa.repeat(self.device, batch.num_rows)}


def scorer_of(hidden: int, on_gpu: bool) -> type:
    """A class to be made in each worker, with its arguments in it."""
    return type("Scorer", (Scorer,), {"__init__": lambda self: Scorer.__init__(self, hidden, on_gpu)})


def scores(bids: fr.DataStream, hidden: int, workers: int, num_gpus: float, batch_size: int) -> fr.DataStream:
    """Every bid with its score. `num_gpus`: of all workers together."""
    return bids.select("auction", "bidder", "price", "date_time").map_batches(
        scorer_of(hidden, num_gpus > 0),
        SCORED,
        concurrency=workers,
        num_gpus=num_gpus / workers,
        num_cpus=0.0 if num_gpus else 0.5,
        batch_size=batch_size,
        max_latency=None,
        uid="scores",
    )


def check(table: pa.Table, rows: int, seed: int, hidden: int) -> None:
    """Raises SystemExit where a row is missing, doubled or scored wrongly."""
    order = [(name, "ascending") for name in ("date_time", "auction", "bidder", "price")]
    names = [name for name, _ in order]
    got, expected = table.sort_by(order), nexmark_table("bid", rows, seed).select(names).sort_by(order)
    if not got.select(names).equals(expected.cast(got.select(names).schema)):
        sys.exit(f"WRONG: {got.num_rows} rows came out, and they are not the {rows} that were generated")
    sample = np.random.default_rng(0).choice(rows, min(SAMPLE, rows), replace=False)
    part = got.take(pa.array(sample))
    wanted = forward(features(*(part[name].to_numpy() for name in ("auction", "bidder", "price"))), weights(hidden))
    worst = float(np.abs(part["score"].to_numpy() - wanted).max())
    if worst > 1e-2:
        sys.exit(f"WRONG: a score is off by {worst:.4f}")
    print(f"checked: {rows:,} rows, each once; {len(sample):,} scores, off by {worst:.1e} at most")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="out/scores", help="directory for the answer, replaced (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=200_000, help="how many bids are generated (default: %(default)s)")
    parser.add_argument("--rate", type=float, help="bids/s at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hidden", type=int, default=64, help="width of the network (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--num-gpus", type=float, default=0.0, help="GPUs of all workers together (default: none, numpy)")
    parser.add_argument("--batch-size", type=int, default=4096)
    parser.add_argument("--runtime", choices=("ray", "local"), help="default: FLINKRAY_RUNTIME, else ray")
    parser.add_argument("--checkpoint-interval", default="1s")
    parser.add_argument("--storage", help="where checkpoints go, file:///path or s3://bucket/prefix")
    arguments = parser.parse_args()

    storage = {"storage": arguments.storage} if arguments.storage else {}
    env = fr.StreamEnvironment(
        name="streaming-inference",
        runtime=arguments.runtime,
        checkpointing=fr.Checkpointing(interval=arguments.checkpoint_interval, **storage),
        batch_rows=4 * arguments.batch_size,
    )
    bids = env.from_source(fr.sources.Nexmark("bid", rows=arguments.rows, rate=arguments.rate, seed=arguments.seed), uid="bids")
    scored = scores(bids, arguments.hidden, arguments.workers, arguments.num_gpus, arguments.batch_size)
    scored.sink_to(fr.sinks.Parquet(arguments.out, mode="overwrite"), uid="out")
    result = env.execute()
    table = pq.read_table(arguments.out)
    check(table, arguments.rows, arguments.seed, arguments.hidden)
    assert result.started_at is not None
    assert result.finished_at is not None
    seconds = (result.finished_at - (result.first_row_at or result.started_at)).total_seconds()
    devices = ", ".join(table["device"].unique().to_pylist())
    print(f"{result.status}: {result.records_in:,} rows on {devices}, {result.restarts} restarts")
    print(f"{result.records_in / max(seconds, 1e-9):,.0f} rows/s from the first scored row to the last commit, {seconds:.2f} s")


if __name__ == "__main__":
    main()
