"""Changes files of weights, in their structure and in their bytes; for fuzz_weights.py."""

import contextlib
import io
import json
import pickletools
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

NUMBERS = (b"0", b"-1", b"7", b"65536", b"4294967295", b"9999999999999", b"18446744073709551617", b"1e999", b"NaN")
VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1,
    2**31,
    2**63,
    10**30,
    1e308,
    float("nan"),
    "",
    "x" * 300,
    "../x",
    "\ud800",
    [],
    {},
    [[]],
)
CHUNKS = (b"(" * 3000, b"]" * 3000, b"\x80" * 30, b"\xff" * 30, b"\0" * 300, b"[" * 100_000, b"{" * 3000)


def damage(path: Path, rng: np.random.Generator) -> None:
    """Changes a file, or one file of a folder, in one to three ways."""
    sums = path / "SHA256SUMS"
    for _ in range(int(rng.integers(1, 4))):
        target = path
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.is_file())
            if not files:
                return
            target = files[int(rng.integers(len(files)))]
            if rng.random() < 0.1:
                target.unlink()
                continue
        target.write_bytes(changed(target.read_bytes(), rng))
    if sums.is_file() and rng.random() < 0.8:  # sums that fit, so that the damage is not seen by them
        from sscd_jax.weights.native import hash_file

        files = sorted(file for file in path.rglob("*") if file.is_file() and file != sums)
        sums.write_text("".join(f"{hash_file(file)}  {file.relative_to(path).as_posix()}\n" for file in files))


def changed(data: bytes, rng: np.random.Generator) -> bytes:
    """Changes bytes by their structure, where it is known, or anywhere."""
    if rng.random() < 0.7:
        with contextlib.suppress(Exception):  # an earlier change has destroyed the structure
            if data[:2] == b"PK":
                return changed_zip(data, rng)
            if data[:2] == b"\x80\x02":
                return changed_pickle(data, rng)
            if data[8:9] == b"{":
                length = int.from_bytes(data[:8], "little")
                header = changed_json(data[8 : 8 + length], rng)
                return len(header).to_bytes(8, "little") + header + data[8 + length :]
            if data[:1] in (b"{", b"["):
                return changed_json(data, rng)
            if data[:1] == b"\x08":
                return changed_graph(data, rng)
    return changed_bytes(data, rng)


def changed_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    """Changes, cuts off, removes, doubles or inserts bytes, mostly near the beginning or the end."""
    out = bytearray(data)
    if not out:
        return rng.bytes(8)
    at = int(min(rng.exponential(len(out) / 6), len(out) - 1))
    at = len(out) - 1 - at if rng.random() < 0.3 else at
    length = int(rng.integers(1, 32))
    kind = int(rng.integers(8))
    if kind == 0:
        out[at : at + length] = rng.bytes(length)
    elif kind == 1:
        out[at] ^= 1 << int(rng.integers(8))
    elif kind == 2:
        del out[at:]
    elif kind == 3:
        del out[at : at + length]
    elif kind == 4:
        out[at:at] = out[at : at + length]
    elif kind == 5:
        out[at:at] = CHUNKS[int(rng.integers(len(CHUNKS)))]
    elif kind == 6 and (numbers := list(re.finditer(rb"\d+", bytes(out[:100_000])))):
        number = numbers[int(rng.integers(len(numbers)))]
        out[number.start() : number.end()] = NUMBERS[int(rng.integers(len(NUMBERS)))]
    else:
        out[at] = int(rng.integers(256))
    return bytes(out)


def changed_zip(data: bytes, rng: np.random.Generator) -> bytes:
    """Changes the members of an archive, and writes them with checksums that fit."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    at = int(rng.integers(len(members)))
    small = [i for i, (name, _) in enumerate(members) if name.endswith(("data.pkl", "constants.pkl"))]
    if small and rng.random() < 0.6:
        at = small[int(rng.integers(len(small)))]
    name, content = members[at]
    other, _ = members[int(rng.integers(len(members)))]
    kind = int(rng.integers(8))
    if kind == 0:
        del members[at]
    elif kind == 1:
        members[at] = (other, content)
    elif kind == 2:
        members[at] = (changed_bytes(name.encode(), rng).decode("latin-1"), content)
    else:
        members[at] = (name, changed(content, rng))
    out = io.BytesIO()
    method = zipfile.ZIP_DEFLATED if rng.random() < 0.1 else zipfile.ZIP_STORED
    with zipfile.ZipFile(out, "w", method) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of two members of one name
        for name, content in members:
            archive.writestr(name, content)
    return out.getvalue()


def changed_pickle(data: bytes, rng: np.random.Generator) -> bytes:
    """Removes, doubles or moves operations of a pickle; what follows its end stays."""
    starts = [place for _, _, place in pickletools.genops(data) if place is not None]
    parts = [data[start:end] for start, end in zip(starts, [*starts[1:], len(data)], strict=True)]
    at, to = (int(rng.integers(len(parts))) for _ in range(2))
    kind = int(rng.integers(4))
    if kind == 0:
        del parts[at]
    elif kind == 1:
        parts.insert(to, parts[at])
    elif kind == 2:
        parts[at], parts[to] = parts[to], parts[at]
    else:
        del parts[at : at + int(rng.integers(1, 20))]
    return b"".join(parts)


def changed_json(data: bytes, rng: np.random.Generator) -> bytes:
    """Replaces or removes a value anywhere in JSON."""
    document = json.loads(data)
    places: list[tuple[Any, Any]] = []

    def collect(node: Any) -> None:
        for key in node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            places.append((node, key))
            collect(node[key])

    collect(document)
    if not places or rng.random() < 0.05:
        return json.dumps(VALUES[int(rng.integers(len(VALUES)))]).encode()
    node, key = places[int(rng.integers(len(places)))]
    if rng.random() < 0.2:
        del node[key]
    else:
        node[key] = VALUES[int(rng.integers(len(VALUES)))]
    if isinstance(node, dict) and rng.random() < 0.1:
        node["more"] = VALUES[int(rng.integers(len(VALUES)))]
    return json.dumps(document).encode()


def changed_graph(data: bytes, rng: np.random.Generator) -> bytes:
    """Changes a field anywhere in a graph of ONNX."""
    import onnx

    proto = onnx.load_from_string(data)
    message: Any = proto
    while True:
        fields = message.ListFields()
        descriptor, value = fields[int(rng.integers(len(fields)))]
        repeated = hasattr(value, "append") or hasattr(value, "add")
        at = int(rng.integers(len(value))) if repeated else 0
        inner = value[at] if repeated else value
        if hasattr(inner, "ListFields") and inner.ListFields() and rng.random() < 0.9:
            message = inner
            continue
        kind = int(rng.integers(4))
        if kind == 0 or hasattr(inner, "ListFields"):
            if repeated:
                del value[at]
            else:
                message.ClearField(descriptor.name)
        else:
            odd: Any = int(rng.choice([0, -1, 2**31 - 1, 7, 2**62]))
            if isinstance(inner, str | bytes):
                odd = changed_bytes(inner.encode() if isinstance(inner, str) else inner, rng)
                odd = odd.decode("latin-1") if isinstance(inner, str) else odd
            elif isinstance(inner, float):
                odd = float(rng.choice([0, -1, np.nan, np.inf, 1e30]))
            if repeated:
                value[at] = odd
            else:
                setattr(message, descriptor.name, odd)
        return proto.SerializeToString()
