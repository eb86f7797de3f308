"""Making and naming ZeroMQ sockets: ipc in a private folder for slots of one host, tcp with CURVE for other hosts."""

from __future__ import annotations

import os
import stat
import tempfile
from dataclasses import dataclass

import zmq

from flinkray.errors import ConfigError, ResourceError
from flinkray.exchange.base import Endpoint

_MAX_UNIX_PATH = 107
"""Longest path of a unix socket on Linux, in bytes."""


@dataclass(frozen=True)
class CurveKeys:
    """Keys of one exchange. Peers learn the public key from its endpoint; there is no trust in it, frames carry the job's token."""

    public: bytes
    secret: bytes

    @classmethod
    def fresh(cls) -> CurveKeys:
        return cls(*zmq.curve_keypair())


def private_folder(folder: str, instance: str) -> str:
    """`folder`, made with mode 0700, or a fresh one of that kind under the temporary folder when its path is too long for a socket."""
    if len(os.fsencode(os.path.join(folder, socket_name(instance)))) > _MAX_UNIX_PATH:
        return tempfile.mkdtemp(prefix="flinkray-", dir="/tmp")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    status = os.stat(folder)
    if status.st_uid != os.getuid():
        raise ConfigError(f"folder {folder} for sockets belongs to user {status.st_uid}; set FLINKRAY_HOME to a folder of your own")
    if stat.S_IMODE(status.st_mode) & 0o077:
        os.chmod(folder, 0o700)
    return folder


def socket_name(instance: str) -> str:
    return f"x-{instance[:16]}.sock"


def bind_ipc(context: zmq.Context, folder: str, instance: str) -> tuple[zmq.Socket, str]:
    socket = _pull(context)
    address = f"ipc://{os.path.join(folder, socket_name(instance))}"
    _bind(socket, address)
    return socket, address


def bind_tcp(context: zmq.Context, host: str, keys: CurveKeys | None) -> tuple[zmq.Socket, str]:
    """Listen on a free port of `host`, an address of this node. With `keys` every connection is encrypted."""
    socket = _pull(context)
    if keys is not None:
        socket.curve_server = True
        socket.curve_publickey, socket.curve_secretkey = keys.public, keys.secret
    if ":" in host:
        socket.ipv6 = True
        host = f"[{host}]"
    _bind(socket, f"tcp://{host}:*")
    return socket, str(socket.get_string(zmq.LAST_ENDPOINT)).rstrip("\0")


def connect(context: zmq.Context, own_host: str, peer: Endpoint, keys: CurveKeys | None) -> zmq.Socket:
    """A PUSH socket to a peer; connecting goes on in the background."""
    socket = context.socket(zmq.PUSH)
    socket.hwm = 0
    socket.linger = 0
    if peer.ipc and peer.host == own_host:
        socket.connect(peer.ipc)
        return socket
    if not peer.tcp:
        raise ResourceError(f"slot {peer.instance} on host {peer.host} has no network address; host {own_host} cannot reach it")
    if peer.public_key:
        own = keys or CurveKeys.fresh()
        socket.curve_publickey, socket.curve_secretkey = own.public, own.secret
        socket.curve_serverkey = peer.public_key.encode()
    socket.ipv6 = "[" in peer.tcp
    socket.connect(peer.tcp)
    return socket


def _pull(context: zmq.Context) -> zmq.Socket:
    socket = context.socket(zmq.PULL)
    socket.hwm = 0
    socket.linger = 0
    return socket


def _bind(socket: zmq.Socket, address: str) -> None:
    try:
        socket.bind(address)
    except zmq.ZMQError as error:
        socket.close()
        raise ResourceError(f"cannot listen on {address}: {error}") from error
