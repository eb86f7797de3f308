"""Sampled stacks: what their time belongs to, and a flame graph of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

Stack = tuple[str, ...]
"""Frames as py-spy writes them, `function (file)`, the outermost first."""
Stacks = Counter[Stack]

_CATEGORIES: tuple[tuple[str, str], ...] = (
    # The first that fits a frame decides; frames are looked at from the innermost outwards.
    ("exchange", r"exchange/|runtime/(edge_writer|outbox)"),
    ("checkpoint", r"checkpoint/|state_writing|uploader|local_copies|job_storage|[. ]snapshot\b|^snapshot "),
    (
        "emit",
        r"connectors/(\w*sink|memory|output_folder|partitions|json_text)|operators/sink|^(Csv|Json|Parquet)FileWriter|\._?emit\w* \(flinkray/operators",
    ),
    ("decode", r"connectors/(parquet|csv|json|text|lines|schemas)|pyarrow/(parquet|csv|json)"),
    ("read", r"connectors/|operators/(source|splits|rate_limit)"),
    ("hash", r"state/(key_\w+|index_kernels|grouping|dense_grouping|hash)|\._(hashed|dense)?_?groups "),
    ("Python", r"nexmark/q\d+\.py|operators/(process|co_process|functions|batch_function|async|stage|calls)\w*"),
    ("compute", r"expressions/|operators/relational"),
    ("aggregate", r"state/|operators/"),
    ("runtime", r"flinkray/"),
)
OTHER = "other"
_WAITING = re.compile(
    r"^(Condition\.wait|Event\.wait|Queue\.get|Thread\.join|socket\.accept|Poller\.poll|select|EpollSelector\.select|Popen\.\w+"
    r"|_worker \(concurrent|Worker\.main_loop|JobManager\._next_event|JobManagerProcess\._next|\S*_watch_for_orphanage|GarbageCollectorThread\.run|_GatedReader\.read) ?"
)
"""Innermost frames of threads that wait; py-spy cannot tell everywhere that they do."""
_COLOURS = {
    "checkpoint": "#c39bd3",
    "emit": "#7fb3d5",
    "decode": "#f5b041",
    "read": "#f8c471",
    "hash": "#e74c3c",
    "exchange": "#48c9b0",
    "Python": "#5d6d7e",
    "compute": "#82e0aa",
    "aggregate": "#ec7063",
    "runtime": "#d5dbdb",
    OTHER: "#eeeeee",
}


def read_stacks(paths: Iterable[Path]) -> Stacks:
    """Collapsed stacks, `a;b;c 12` in each line, of all files together; without threads that wait."""
    stacks: Stacks = Counter()
    for path in paths:
        for line in path.read_text().splitlines():
            frames, _, count = line.rpartition(" ")
            stack = tuple(frames.split(";"))
            if frames and not _WAITING.match(stack[-1]):
                stacks[stack] += int(count)
    return stacks


def category(stack: Sequence[str]) -> str:
    """What the innermost frame that says something belongs to: time in a library belongs to who called it."""
    for frame in reversed(stack):
        for name, pattern in _CATEGORIES:
            if re.search(pattern, frame):
                return name
    return OTHER


def by_category(stacks: Stacks) -> Counter[str]:
    """Samples of each category."""
    found: Counter[str] = Counter()
    for stack, count in stacks.items():
        found[category(stack)] += count
    return found


@dataclass
class _Node:
    frame: str
    count: int = 0
    below: dict[str, _Node] = field(default_factory=dict)


WIDTH, ROW = 1400.0, 17


def flame_graph(stacks: Stacks, title: str) -> str:
    """An SVG: a box for each frame, as wide as its share, above what called it; colours are the categories."""
    root = _Node("all")
    for stack, count in stacks.items():
        node = root
        node.count += count
        for frame in stack:
            node = node.below.setdefault(frame, _Node(frame))
            node.count += count
    depth = max(len(stack) for stack in stacks) + 2
    height = depth * ROW + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH:.0f}" height="{height}" font-family="monospace" font-size="11">',
        f'<text x="4" y="14">{escape(title)}</text>',
    ]
    for number, (name, colour) in enumerate(_COLOURS.items()):
        parts.append(f'<rect x="{4 + 100 * number}" y="20" width="10" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{18 + 100 * number}" y="29">{name}</text>')
    _boxes(root, (), 0.0, WIDTH / root.count, height - ROW, root.count, parts)
    return "\n".join([*parts, "</svg>", ""])


def _boxes(node: _Node, path: Stack, x: float, scale: float, y: float, total: int, parts: list[str]) -> None:
    width = node.count * scale
    if width < 0.5:
        return
    text = escape(node.frame)
    shown = escape(node.frame[: int(width / 6.8)]) if width > 30 else ""
    parts.append(
        f'<g><title>{text}: {node.count} samples, {node.count / total:.1%}</title><rect x="{x:.1f}" y="{y:.0f}" width="{width:.1f}" '
        f'height="{ROW - 1}" fill="{_COLOURS[category(path)]}"/><text x="{x + 2:.1f}" y="{y + 12:.0f}">{shown}</text></g>'
    )
    for child in sorted(node.below.values(), key=lambda each: each.frame):
        _boxes(child, (*path, child.frame), x, scale, y - ROW, total, parts)
        x += child.count * scale
