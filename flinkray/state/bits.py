"""The few operations that every kernel is made of: bit mixing, raw loads, prefetch. All are inlined into their callers.

A change in this file invalidates every cached kernel (see `jit.py`); keep out of it what is not inlined everywhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]

from flinkray.state.jit import inlined, intrinsic, types

_M1 = np.uint64(0xFF51AFD7ED558CCD)
_M2 = np.uint64(0xC4CEB9FE1A85EC53)
_S33 = np.uint64(33)


@inlined
def mix64(x: np.uint64) -> np.uint64:
    """murmur3's finaliser: a bijection of 64 bits in which every input bit reaches every output bit."""
    x ^= x >> _S33
    x *= _M1
    x ^= x >> _S33
    x *= _M2
    return x ^ (x >> _S33)


_N1 = np.uint64(pow(int(_M1), -1, 1 << 64))
_N2 = np.uint64(pow(int(_M2), -1, 1 << 64))


@inlined
def unmix64(x: np.uint64) -> np.uint64:
    """The inverse of `mix64`."""
    x ^= x >> _S33
    x *= _N2
    x ^= x >> _S33
    x *= _N1
    return x ^ (x >> _S33)


def _at(builder: Any, address: Any, bits: int) -> Any:
    return builder.inttoptr(address, ir.IntType(bits).as_pointer())


@intrinsic
def load_i64(typing_context: Any, address: Any) -> Any:
    """The int64 at an address, aligned or not. The caller keeps what lies there alive."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(_at(builder, args[0], 64), align=1)

    return types.int64(types.int64), generate


@intrinsic
def load_u8(typing_context: Any, address: Any) -> Any:
    """The byte at an address."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(_at(builder, args[0], 8), align=1)

    return types.uint8(types.int64), generate


@intrinsic
def load_u32(typing_context: Any, address: Any) -> Any:
    """The uint32 at an address, aligned or not."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(_at(builder, args[0], 32), align=1)

    return types.uint32(types.int64), generate


@intrinsic
def store_i64(typing_context: Any, address: Any, value: Any) -> Any:
    """Eight bytes at an address, aligned or not. The caller keeps alive what lies there."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[1], _at(builder, args[0], 64), align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def store_u8(typing_context: Any, address: Any, value: Any) -> Any:
    """A byte at an address."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[1], _at(builder, args[0], 8), align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.uint8), generate


@inlined
def copy_bytes(source: int, target: int, length: int) -> None:
    """`length` bytes from one address to another, and none beyond them; short ones faster than a call would be."""
    if length < 8:
        for i in range(length):
            store_u8(target + i, load_u8(source + i))
        return
    at = 0
    while at + 8 < length:
        store_i64(target + at, load_i64(source + at))
        at += 8
    store_i64(target + length - 8, load_i64(source + length - 8))


@intrinsic
def prefetch(typing_context: Any, address: Any) -> Any:
    """Starts to load the cache line at an address, for reading and writing."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _at(builder, args[0], 8)
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, ir.IntType(32), ir.IntType(32), ir.IntType(32)])
        function = builder.module.declare_intrinsic("llvm.prefetch", [pointer.type], kind)
        one, three = ir.Constant(ir.IntType(32), 1), ir.Constant(ir.IntType(32), 3)
        builder.call(function, [pointer, one, three, one])
        return context.get_dummy_value()

    return types.void(types.int64), generate


@intrinsic
def mum(typing_context: Any, a: Any, b: Any) -> Any:
    """Both halves of the 128-bit product, folded by xor: the step of wyhash."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        wide = ir.IntType(128)
        product = builder.mul(builder.zext(args[0], wide), builder.zext(args[1], wide))
        high = builder.lshr(product, ir.Constant(wide, 64))
        return builder.trunc(builder.xor(product, high), ir.IntType(64))

    return types.uint64(types.uint64, types.uint64), generate


@intrinsic
def as_f64(typing_context: Any, word: Any) -> Any:
    """The double whose bits are these."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.DoubleType())

    return types.float64(types.int64), generate


@intrinsic
def as_i64(typing_context: Any, value: Any) -> Any:
    """The bits of a double."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(64))

    return types.int64(types.float64), generate


@inlined
def bit_at(bitmap: np.ndarray, index: int) -> bool:
    """A bit of an Arrow bitmap."""
    return (bitmap[np.uint64(index) >> np.uint64(3)] >> np.uint8(index & 7)) & np.uint8(1) != 0


@intrinsic
def count_trailing_zeros(typing_context: Any, word: Any) -> Any:
    """The place of the lowest bit that is set; 64 when none is."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), generate
