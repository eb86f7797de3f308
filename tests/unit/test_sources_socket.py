"""Lines from a TCP connection: cut as they come, to the end; and in a job."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Sequence

import pytest

import flinkray as fr
from flinkray.errors import ConfigError, SourceError

TIMEOUT_S = 60.0


class Server:
    """Sends the pieces to whoever connects, and closes the connection."""

    def __init__(self, pieces: Sequence[bytes], clients: int = 1) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.settimeout(TIMEOUT_S)
        self.port = self._listening.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, args=(pieces, clients), daemon=True)
        self._thread.start()

    def _serve(self, pieces: Sequence[bytes], clients: int) -> None:
        for _ in range(clients):
            client, _ = self._listening.accept()
            with client:
                for piece in pieces:
                    client.sendall(piece)

    def close(self) -> None:
        self._thread.join(TIMEOUT_S)
        self._listening.close()


def lines_of(port: int, max_rows: int) -> Iterator[list[str]]:
    source = fr.sources.Socket("127.0.0.1", port)
    (split,) = source.enumerator(None, None, 2).discover()
    reader, deadline, read = source.open_split(split, None), time.monotonic() + TIMEOUT_S, 0
    try:
        while (batch := reader.read(max_rows)) is not None:
            assert time.monotonic() < deadline
            assert batch.num_rows <= max_rows
            read += batch.num_rows
            assert reader.offset() == {"lines": read}
            if batch.num_rows:
                yield batch.column("line").to_pylist()
    finally:
        reader.close()


@pytest.mark.parametrize("max_rows", [1, 2, 1000])
@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([b"a\nb", b"c\r\n\nd"], ["a", "bc", "", "d"]),
        ([b"x\n"], ["x"]),
        ([], []),
        (["grün\n".encode()[:3], "grün\n".encode()[3:]], ["grün"]),
        ([b"%d\n" % n for n in range(3000)], [str(n) for n in range(3000)]),
    ],
    ids=["cut", "one", "none", "a letter in two pieces", "many"],
)
def test_lines_are_what_lies_between_newlines_however_they_come(pieces: list[bytes], expected: list[str], max_rows: int) -> None:
    server = Server(pieces)
    assert [line for lines in lines_of(server.port, max_rows) for line in lines] == expected
    server.close()


def test_what_is_no_text_and_nobody_there_are_errors() -> None:
    server = Server([b"fine\n\xff\xfe\n"])
    with pytest.raises(SourceError, match=r"after line 1: what came is no UTF-8") as caught:
        list(lines_of(server.port, 1))
    assert caught.value.permanent
    server.close()
    with pytest.raises(SourceError, match=r"cannot be connected to: .*; does something listen there\?") as caught:
        list(lines_of(server.port, 1))
    assert not caught.value.permanent
    for options in ({"port": 0}, {"port": 70_000}, {"port": 1, "rate": 0}):
        with pytest.raises(ConfigError, match="Socket: "):
            fr.sources.Socket("localhost", **options)


def test_a_job_counts_words_until_the_other_side_closes() -> None:
    server = Server([b"to be\n", b"or not\nto be"], clients=1)
    env = fr.StreamEnvironment("words", parallelism=2, runtime="local", checkpointing=fr.Checkpointing(storage="memory://words"))
    lines = env.from_source(fr.sources.Socket("127.0.0.1", server.port), uid="lines")
    words = lines.flat_map(lambda row: ({"word": word} for word in row["line"].split()), {"word": "string"})
    counts = words.key_by("word").aggregate(n=fr.agg.count(), emit="final")
    assert "Socket(127.0.0.1:" in counts.explain()
    counts.sink_to(fr.sinks.Memory("words-of-a-socket"), uid="out")
    job = env.execute_async()
    assert job.wait(TIMEOUT_S).status == "FINISHED"
    found = {row["word"]: row["n"] for row in fr.sinks.Memory.rows("words-of-a-socket").to_pylist()}
    assert found == {"to": 2, "be": 2, "or": 1, "not": 1}
    server.close()
