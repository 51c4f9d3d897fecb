#!/usr/bin/env python3
"""Checks a Custody ledger from its bytes alone, and against what others remember of it.

An independent second reader of the format: standard library only, no code shared with the engine, Ed25519 in plain
integers (RFC 8032). It gives the same exit codes as `custody ledger verify`:

    0  consistent, and outside memory is young enough
    4  tampered: bytes contradict evidence
    1  cannot verify: evidence cannot be read
    8  consistent, freshness unproven

    verify_ledger.py LEDGER [--since FILE]... [--mirror FOLDER]... [--max-age SECONDS] [--now SECONDS]
                            [--log HASH] [--root-key VKEY] [--format text|json]
    verify_ledger.py LEDGER --keep        print the current checkpoints, to be kept elsewhere for a later --since
    verify_ledger.py --check-proof FILE --root-key VKEY
                                          check a proof that stands alone: 0 good, 4 false, 1 no proof
"""

import argparse
import base64
import binascii
import hashlib
import json
import os
import re
import struct
import sys
import time

NOTICE, UNVERIFIABLE, TAMPERING = 0, 1, 2
GRADES = {NOTICE: "notice", UNVERIFIABLE: "cannot verify", TAMPERING: "tampered"}
SECTOR = 512
FRAME_HEAD = 104
MAX_FRAME = (1 << 20) + 5 * (1 << 16)
CONTROL_KINDS = {1, 2, 3, 4, 5, 12, 30, 50, 51}
KEY, HEADS, WRITER = 40, 41, 42
FIRST, FULL, RESTART, TORN, SYNC_FAILED, NO_SPACE = 1, 2, 3, 4, 5, 6
SECOND = 1_000_000_000
WRITER_NAME = re.compile(r"[a-z0-9_-]{1,16}\Z")


class Bad(Exception):
    """Bytes that are not what the format allows."""


class Unreadable(Exception):
    """A file that exists and cannot be read."""


# ---------------------------------------------------------------- hashes


def sha3(*parts):
    h = hashlib.sha3_256()
    for part in parts:
        h.update(part)
    return h.digest()


def leaf_hash(entry):
    return sha3(b"\x00", entry)


def root(leaves):
    """RFC 6962, by its recursive definition."""
    n = len(leaves)
    if n == 0:
        return sha3(b"")
    if n == 1:
        return leaves[0]
    k = 1 << ((n - 1).bit_length() - 1)
    return sha3(b"\x01", root(leaves[:k]), root(leaves[k:]))


def _crc_table():
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ 0x82F63B78 if crc & 1 else crc >> 1
        table.append(crc)
    return table


CRC_TABLE = _crc_table()


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = CRC_TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


# ---------------------------------------------------------------- Ed25519 (RFC 8032)

P = 2**255 - 19
Q = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
SQRT_M1 = pow(2, (P - 1) // 4, P)


def _add(a, b):
    x1, y1, z1, t1 = a
    x2, y2, z2, t2 = b
    e = (y1 - x1) * (y2 - x2) % P
    f = (y1 + x1) * (y2 + x2) % P
    g = 2 * t1 * t2 * D % P
    h = 2 * z1 * z2 % P
    e, f, g, h = f - e, h - g, h + g, f + e
    return e * f % P, g * h % P, f * g % P, e * h % P


def _times(scalar, point):
    result = (0, 1, 1, 0)
    while scalar:
        if scalar & 1:
            result = _add(result, point)
        point = _add(point, point)
        scalar >>= 1
    return result


def _same(a, b):
    return (a[0] * b[2] - b[0] * a[2]) % P == 0 and (a[1] * b[2] - b[1] * a[2]) % P == 0


def _point(data):
    """The point of a canonical encoding, else None."""
    y = int.from_bytes(data, "little")
    sign, y = y >> 255, y & ((1 << 255) - 1)
    if y >= P:
        return None
    x2 = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(x2, (P + 3) // 8, P)
    if (x * x - x2) % P:
        x = x * SQRT_M1 % P
    if (x * x - x2) % P or (x == 0 and sign):
        return None
    if x & 1 != sign:
        x = P - x
    return x, y, 1, x * y % P


BASE = _point((4 * pow(5, P - 2, P) % P).to_bytes(32, "little"))
NEUTRAL = (0, 1, 1, 0)


def ed25519_verify(public, message, signature):
    """Strict: canonical encodings, no points of small order, the equation without the cofactor."""
    if len(public) != 32 or len(signature) != 64:
        return False
    a, r = _point(public), _point(signature[:32])
    s = int.from_bytes(signature[32:], "little")
    if a is None or r is None or s >= Q:
        return False
    if _same(_times(8, a), NEUTRAL) or _same(_times(8, r), NEUTRAL):
        return False
    k = int.from_bytes(hashlib.sha512(signature[:32] + public + message).digest(), "little") % Q
    return _same(_times(s, BASE), _add(r, _times(k, a)))


# ---------------------------------------------------------------- deterministic CBOR


class Cbor:
    """Reads one value; refuses whatever is not its one encoding. Maps are dicts with unsigned keys."""

    def __init__(self, data):
        self.data, self.at = data, 0

    @classmethod
    def read(cls, data):
        reader = cls(data)
        value = reader.value(0)
        if reader.at != len(data):
            raise Bad(f"bytes follow the value at {reader.at}")
        return value

    def take(self, count):
        taken = self.data[self.at : self.at + count]
        if len(taken) != count:
            raise Bad(f"{count} bytes expected at {self.at}, fewer remain")
        self.at += count
        return taken

    def head(self):
        at = self.at
        first = self.take(1)[0]
        major, info = first >> 5, first & 31
        if info < 24:
            return major, info, info
        if info > 27:
            raise Bad(f"indefinite or reserved length at {at}")
        width = 1 << (info - 24)
        number = int.from_bytes(self.take(width), "big")
        if number < (24 if width == 1 else 1 << (4 * width)):
            raise Bad(f"a number at {at} is not in its shortest form")
        return major, info, number

    def value(self, depth):
        at = self.at
        if depth > 64:
            raise Bad(f"nested deeper than 64 at {at}")
        major, info, number = self.head()
        if major == 0:
            return number
        if major == 1:
            return -1 - number
        if major == 2:
            return bytes(self.take(number))
        if major == 3:
            try:
                return bytes(self.take(number)).decode("utf-8")
            except UnicodeDecodeError:
                raise Bad(f"text at {at} is not UTF-8") from None
        if major == 4:
            if number > len(self.data):
                raise Bad(f"an array at {at} is longer than the bytes")
            return [self.value(depth + 1) for _ in range(number)]
        if major == 5:
            if number > len(self.data):
                raise Bad(f"a map at {at} is longer than the bytes")
            out, last = {}, -1
            for _ in range(number):
                at = self.at
                major, _, key = self.head()
                if major != 0 or key <= last:
                    raise Bad(f"map keys are not ascending unsigned numbers at {at}")
                out[key] = self.value(depth + 1)
                last = key
            return out
        if major == 7 and info in (20, 21):
            return info == 21
        raise Bad(f"a tag, float or null at {at}")


def is_number(value, least=0):
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_hash(value):
    return isinstance(value, bytes) and len(value) == 32


def need(condition, why):
    if not condition:
        raise Bad(why)


# ---------------------------------------------------------------- notes and keys


def b64(text):
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (ValueError, binascii.Error):
        raise Bad("not base64") from None
    if base64.b64encode(data).decode() != text:
        raise Bad("not canonical base64")
    return data


class Vkey:
    def __init__(self, text):
        parts = text.split("+", 2)
        need(len(parts) == 3 and parts[0] and not re.search(r"\s", parts[0]), "a key is malformed")
        name, key_id, key = parts[0], parts[1], b64(parts[2])
        need(len(key) == 33 and key[0] == 1, "a key is not an Ed25519 key")
        digest = hashlib.sha256(name.encode() + b"\n" + key).digest()[:4]
        need(digest.hex() == key_id, "a key has another id")
        need(_point(key[1:]) is not None, "a key is not a point")
        self.name, self.id, self.public, self.text = name, digest, key[1:], text

    def verifies(self, text, signature):
        return ed25519_verify(self.public, text.encode(), signature)


class Note:
    def __init__(self, text):
        split = text.rfind("\n\n")
        need(split >= 0, "no signature")
        self.text, lines = text[: split + 1], text[split + 2 :]
        need(lines.endswith("\n"), "no signature")
        self.signatures = []
        for line in lines[:-1].split("\n"):
            need(line.startswith("\u2014 "), "a signature line is malformed")
            name, _, value = line[2:].partition(" ")
            value = b64(value)
            need(name and len(value) > 4, "a signature line is malformed")
            self.signatures.append((name, value[:4], value[4:]))
        keys = [signature[:2] for signature in self.signatures]
        need(len(set(keys)) == len(keys), "a key has signed twice")


class Checkpoint(Note):
    def __init__(self, text):
        super().__init__(text)
        lines = self.text.split("\n")
        need(len(lines) == 4 and lines[3] == "", "not three lines")
        self.origin, size, digest = lines[:3]
        need(self.origin and re.fullmatch(r"0|[1-9][0-9]*", size), "its size or origin is not in canonical form")
        self.size, self.root = int(size), b64(digest)
        need(self.size < 1 << 64 and len(self.root) == 32, "its root is not a hash")


def split_notes(text):
    """Concatenated notes: each begins where the signature lines of the one before end."""
    notes, note, signed = [], [], False
    for line in text.split("\n")[: -1 if text.endswith("\n") else None]:
        signature = line.startswith("\u2014 ")
        if signed and not signature:
            notes.append("".join(note))
            note, signed = [], False
            if not line:
                continue
        signed |= signature
        if note or line:
            note.append(line + "\n")
    if note:
        notes.append("".join(note))
    return notes


# ---------------------------------------------------------------- files


class Folder:
    def __init__(self, path):
        self.path = path

    def list(self, folder):
        try:
            return sorted(n for n in os.listdir(os.path.join(self.path, folder)) if not n.startswith("."))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as e:
            raise Unreadable(f"`{folder}` cannot be read: {e.strerror}") from None

    def read(self, path, length=-1):
        try:
            with open(os.path.join(self.path, path), "rb") as file:
                return file.read(length)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as e:
            raise Unreadable(f"`{path}` cannot be read: {e.strerror}") from None


# ---------------------------------------------------------------- segments and frames


class Newer(Exception):
    pass


class Header:
    def __init__(self, data):
        need(len(data) == SECTOR, "the file is shorter than a header")
        need(data[:8] == b"CSTDYSEG", "the header has no magic")
        need(struct.unpack_from(">I", data, 508)[0] == crc32c(data[:508]), "the header does not match its checksum")
        version, self.reason, length = struct.unpack_from(">HHI", data, 8)
        if version > 1:
            raise Newer(f"ledger format {version} is newer than this verifier reads (1)")
        need(version == 1, "the header names format 0")
        need(FIRST <= self.reason <= NO_SPACE, "the header names no known reason")
        name = data[48:64].rstrip(b"\0")
        need(length == SECTOR and b"\0" not in name and not any(data[152:508]), "the header has stray bytes")
        try:
            self.writer = name.decode("ascii")
        except UnicodeDecodeError:
            raise Bad("the header names no writer") from None
        self.log, self.salt, self.previous_hash = data[16:48], data[128:144], data[96:128]
        self.incarnation, self.number, self.first_seq, self.previous_length = struct.unpack_from(">QQQQ", data, 64)
        self.size = struct.unpack_from(">Q", data, 144)[0]
        self.hash = sha3(b"\x03", data)


class BadFrame(Exception):
    """`entries`: first seq and entries, where only the body is damaged and they can still be told apart."""

    def __init__(self, why, entries=None):
        super().__init__(why)
        self.entries = entries


def split_body(body, count):
    entries, at = [], 0
    for _ in range(count):
        if at + 2 > len(body):
            return None
        length = int.from_bytes(body[at : at + 2], "big")
        if at + 2 + length > len(body):
            return None
        entries.append(body[at + 2 : at + 2 + length])
        at += 2 + length
    return entries if at == len(body) else None


class Frame:
    def __init__(self, data, at, end, salt):
        """The frame at `at`; None-like `total` 0 where nothing but zeros is left."""
        self.total = 0
        if data[at : at + 4] != b"FRM1" or end - at < FRAME_HEAD:
            if any(data[at:end]):
                raise BadFrame("no frame begins here")
            return
        head = data[at : at + FRAME_HEAD]
        if struct.unpack_from(">I", head, 100)[0] != crc32c(salt + head[:100]):
            raise BadFrame("the frame's header does not match its checksum")
        total, first, count, length = struct.unpack_from(">IQII", head, 4)
        whole = -(-(FRAME_HEAD + length) // SECTOR) * SECTOR
        if total != whole or total > MAX_FRAME or at + total > end or count == 0:
            raise BadFrame("the frame's lengths do not fit")
        body = data[at + FRAME_HEAD : at + FRAME_HEAD + length]
        entries = split_body(body, count)
        if struct.unpack_from(">I", head, 96)[0] != crc32c(salt + body):
            raise BadFrame("the frame's body does not match its checksum", entries and (first, entries))
        if entries is None:
            raise BadFrame("the frame's entries do not fill its body")
        if any(data[at + FRAME_HEAD + length : at + total]):
            raise BadFrame("the frame's padding is not zero")
        self.total, self.first_seq, self.entries = total, first, entries
        self.previous, self.leaves_root, self.hash = head[32:64], head[64:96], sha3(b"\x02", head[:96])


def frame_follows(data, at, end, salt):
    for start in range(at + SECTOR, end, SECTOR):
        if data[start : start + 4] == b"FRM1":
            try:
                if Frame(data, start, end, salt).total:
                    return True
            except BadFrame:
                pass
    return False


# ---------------------------------------------------------------- entries


class Facts:
    def __init__(self, entry):
        value = Cbor.read(entry)
        need(isinstance(value, dict), "it is not a map")
        schema = value.get(0)
        need(is_number(schema), "it has no schema")
        need(schema == 1, f"schema {schema} is newer than this verifier reads (1)")
        self.kind, self.id, self.wall, self.control = (value.get(k) for k in (1, 2, 3, 5))
        need(is_number(self.kind), "it has no kind")
        need(isinstance(self.id, bytes) and len(self.id) == 16, "it has no id")
        need(is_number(self.wall, -(1 << 63)) and self.wall < 1 << 63, "it has no time")
        need(is_number(self.control), "it has no control position")
        payload, blob = value.get(12), value.get(14)
        need((payload is None) != (blob is None), "it has not exactly one of payload and blob")
        self.blobs = [] if payload is None else named_blobs(self.kind, payload)
        self.payload_blob = None if blob is None else read_blob(blob)
        self.key = self.heads = self.recovery = None
        self.close = False
        if self.kind == KEY:
            need(isinstance(payload, dict), "its payload is not a key")
            self.key = tuple(payload.get(k) for k in range(4))
            epoch, vkey, certificate, revoke = self.key
            fine = is_number(epoch) and isinstance(vkey, str) and isinstance(certificate, bytes)
            need(fine and (revoke is None or is_number(revoke)), "its payload is not a key")
        elif self.kind == HEADS:
            need(isinstance(payload, list), "its payload is not a list of heads")
            self.heads = []
            for head in payload:
                fine = isinstance(head, dict) and isinstance(head.get(0), str) and is_number(head.get(2))
                need(fine and is_hash(head.get(3)), "its payload is not a list of heads")
                self.heads.append((head[0], head[2], head[3]))
        elif self.kind == WRITER:
            need(isinstance(payload, list) and payload, "its payload is not an event of a writer")
            self.close = payload == [2]
            if payload[0] == 4:
                fine = len(payload) == 2 and isinstance(payload[1], list) and len(payload[1]) == 4
                need(fine and all(map(is_number, payload[1][:3])) and is_hash(payload[1][3]), "its recovery is malformed")
                self.recovery = tuple(payload[1])


def read_blob(value):
    fine = isinstance(value, dict) and is_hash(value.get(0)) and is_number(value.get(1))
    need(fine, "a blob's name is malformed")
    return value[0], value[1]


def named_blobs(kind, payload):
    """A bundle's files (kind 2), a source's file list (kind 1, case 1), a version's profile (kind 12) if it has one."""
    if kind == 2:
        need(isinstance(payload, dict) and 2 in payload, "its payload names no blob")
        return [read_blob(payload[2])]
    if kind == 1 and isinstance(payload, list) and len(payload) == 2 and payload[0] == 1:
        need(isinstance(payload[1], dict) and 5 in payload[1], "its payload names no blob")
        return [read_blob(payload[1][5])]
    if kind == 12 and isinstance(payload, dict) and 21 in payload:
        return [read_blob(payload[21])]
    return []


class Chain:
    def __init__(self, writer):
        self.writer, self.damaged, self.closed = writer, False, False
        self.leaves, self.walls, self.ids, self.control = [], [], [], {}
        self.keys, self.blobs, self.heads = [], [], []
        self.segments, self.signed, self.known = 0, None, {}

    def root(self, start, end):
        """The root over some entries; those of whole powers of two are worked out once."""
        length = end - start
        if length <= 1:
            return self.leaves[start] if length else sha3(b"")
        found = self.known.get((start, end))
        if found is None:
            middle = start + (1 << ((length - 1).bit_length() - 1))
            found = sha3(b"\x01", self.root(start, middle), self.root(middle, end))
            if length >= 64 and length & (length - 1) == 0:
                self.known[start, end] = found
        return found

    def push(self, entry, facts):
        seq = len(self.leaves)
        self.leaves.append(leaf_hash(entry))
        self.walls.append(facts.wall)
        self.ids.append(facts.id)
        if facts.kind in CONTROL_KINDS:
            self.control[seq] = facts.control
        self.closed = facts.close
        self.blobs += [(seq, blob, None) for blob in facts.blobs]
        if facts.payload_blob:
            self.blobs.append((seq, facts.payload_blob, facts.kind))
        if facts.key:
            self.keys.append((seq, facts.key))
        self.heads += [(seq, head) for head in facts.heads or []]


class Stop(Exception):
    """The walk of a chain met a contradiction, which is reported already."""


# ---------------------------------------------------------------- the check


class Check:
    def __init__(self, source, now, max_age):
        self.source, self.now, self.max_age = source, now, max_age
        self.findings, self.chains, self.age = [], [], None

    def find(self, grade, place, message):
        self.findings.append((grade, place, message))

    def tampered(self, place, message):
        self.find(TAMPERING, place, message)

    def stop(self, place, message, grade=TAMPERING):
        self.find(grade, place, message)
        raise Stop

    def read(self, path):
        try:
            return self.source.read(path)
        except Unreadable as e:
            self.find(UNVERIFIABLE, f"`{path}`", str(e))
            return None

    def list(self, folder):
        try:
            return self.source.list(folder)
        except Unreadable as e:
            self.find(UNVERIFIABLE, f"`{folder}`", str(e))
            return []

    def run(self, log, root_key, since, mirrors, anchors):
        if not self.genesis(log, root_key):
            return
        anchor = self.anchor()
        # The anchor before checkpoints, checkpoints before segments before control objects and blobs: a live ledger never seems to lack anything.
        writers = []
        for name in self.list("w"):
            if WRITER_NAME.match(name):
                writers.append(name)
            else:
                self.find(NOTICE, f"`w/{name}`", "not a writer's folder")
        notes, malformed = {}, set()
        for writer in writers:
            data = self.read(f"w/{writer}/checkpoint")
            if data is None:
                continue
            try:
                notes[writer] = Checkpoint(data.decode("utf-8"))
            except (Bad, UnicodeDecodeError) as e:
                malformed.add(writer)
                self.tampered(f"writer {writer}", f"the checkpoint is malformed: {e}")
        for writer in writers:
            chain = Chain(writer)
            self.chains.append(chain)
            before = len(self.findings)
            try:
                self.walk(chain, notes[writer].size if writer in notes else 0)
            except Stop:
                pass
            except Unreadable as e:
                self.find(UNVERIFIABLE, f"writer {writer}", str(e))
            chain.damaged = any(grade > NOTICE for grade, _, _ in self.findings[before:])
        for chain in self.chains:
            if chain.writer not in malformed:
                self.checkpoint(chain, notes.get(chain.writer))
        self.ids()
        self.control()
        self.blobs()
        self.heads()
        ages = [self.memory(name, split_notes(text)) for name, text in since]
        for mirror in mirrors:
            ages.append(self.mirror(mirror))
        ages += self.anchored(anchor, anchors)
        self.age = min((a for a in ages if a is not None), default=None)

    def genesis(self, log, root_key):
        data = self.read("genesis")
        if data is None:
            if not self.findings:
                self.find(UNVERIFIABLE, "`genesis`", "there is no genesis")
            return False
        try:
            value = Cbor.read(data)
            need(isinstance(value, dict) and is_number(value.get(0)), "names no format")
            need(value[0] == 1, f"ledger format {value[0]} is newer than this verifier reads (1)")
            self.origin, text = value.get(1), value.get(3)
            need(isinstance(self.origin, str) and isinstance(text, str), "names no origin or root key")
            self.root = Vkey(text)
        except Bad as e:
            self.find(UNVERIFIABLE, "`genesis`", str(e))
            return False
        self.log = sha3(data)
        if log is not None and log != self.log.hex():
            self.tampered("`genesis`", "the genesis is not that of the ledger that is trusted")
        if root_key is not None and root_key != text:
            self.tampered("`genesis`", "the genesis names another root key than the one that is trusted")
        return True

    def origin_of(self, writer):
        return f"{self.origin}/sha3-256/{writer}"

    # -------------------------------------------------- one chain

    def walk(self, chain, signed):
        writer, headers, ahead = chain.writer, [], False
        for name in self.list(f"w/{writer}/seg"):
            if not re.fullmatch(r"[0-9]{12}\.seg", name):
                self.find(NOTICE, f"`w/{writer}/seg/{name}`", "not a segment")
                continue
            number, path = int(name[:12]), f"w/{writer}/seg/{name}"
            place = f"writer {writer} segment {number} offset 0"
            data = self.source.read(path, SECTOR) or b""
            if len(data) == SECTOR and not any(data):
                ahead = True
                continue
            try:
                header = Header(data)
            except Newer as e:
                self.stop(place, str(e), UNVERIFIABLE)
            except Bad as e:
                self.stop(place, str(e))
            if number != len(headers) + 1 or ahead:
                self.stop(place, f"segment {len(headers) + 1} is missing")
            if header.log != self.log or header.writer != writer or header.number != number:
                self.stop(place, "the header is of another segment")
            headers.append((header, data, path))
        state = {"end": 0, "newest": bytes(32), "previous": bytes(32), "incarnation": 0, "left": []}
        for i, (header, start, path) in enumerate(headers):
            chain.segments += 1
            following = headers[i + 1][0] if i + 1 < len(headers) else None
            self.segment(chain, state, header, start, path, following, signed)
        self.tiles(chain, f"w/{writer}/tile")
        self.edge(chain, [header for header, _, _ in headers])

    def tiles(self, chain, base):
        """Tiles are copies of hashes: those that lie within the chain must be equal to it."""
        for level in filter(str.isdigit, self.list(base)):
            self.tiles_below(chain, f"{base}/{level}", int(level), 0)

    def tiles_below(self, chain, folder, level, above):
        for name in self.list(folder):
            path = f"{folder}/{name}"
            if re.fullmatch(r"x[0-9]{3}", name):
                self.tiles_below(chain, path, level, above * 1000 + int(name[1:]))
            elif re.fullmatch(r"[0-9]{3}\.p", name):
                for width in filter(re.compile(r"[1-9][0-9]{0,2}\Z").match, self.list(path)):
                    if int(width) < 256:
                        self.tile(chain, f"{path}/{width}", level, above * 1000 + int(name[:3]), int(width))
            elif re.fullmatch(r"[0-9]{3}", name):
                self.tile(chain, path, level, above * 1000 + int(name), 256)

    def tile(self, chain, path, level, number, width):
        each = 256**level
        first = number * 256 * each
        if first + width * each > len(chain.leaves):
            return  # written by a live writer after its segments were read, or about entries a crash took
        data = self.read(path)
        if data is None:
            return
        if len(data) != width * 32:
            self.tampered(f"`{path}`", "the tile does not have the length that its name says")
            return
        for i in range(width):
            at = first + i * each
            if chain.root(at, at + each) != data[i * 32 : i * 32 + 32]:
                place = f"writer {chain.writer} seq {at}" if level == 0 else f"`{path}`"
                message = "entry does not match its leaf" if level == 0 else f"hash {i} of the tile is not that of its entries"
                self.tampered(place, message)
                return

    def edge(self, chain, headers):
        """Where the next opening begins to read is as the chain says. A ledger may be without."""
        path = f"w/{chain.writer}/edge"
        data = self.read(path)
        if data is None:
            return
        try:
            edge = Cbor.read(data)
            need(isinstance(edge, dict), "it is not a map")
            at = next((h for h in headers if h.number == edge.get(1)), None)
            need(at is not None and at.first_seq <= len(chain.leaves), "it is of no segment")
            size, peaks, start, levels = at.first_seq, [], 0, []
            for bit in reversed(range(size.bit_length())):
                if size >> bit & 1:
                    peaks.append(chain.root(start, start + (1 << bit)))
                    start += 1 << bit
            level = 1
            while size >> 8 * level:
                count, each = size >> 8 * level, 1 << 8 * level
                held = range(count - count % 256, count)
                levels.append([chain.root(n * each, (n + 1) * each) for n in held])
                level += 1
            expected = {0: 1, 1: at.number, 2: size, 3: at.previous_hash, 4: peaks, 5: levels}
            key = next((key for seq, key in reversed(chain.keys) if seq < size), None)
            if key is not None:
                expected.update({6: key[0], 7: key[1]})
            need(edge == expected, "it says something else")
        except Bad:
            self.tampered(f"`{path}`", "not an edge of the chain")

    def segment(self, chain, state, header, start, path, following, signed):
        place = f"writer {chain.writer} segment {header.number} offset 0"
        follows = (
            header.first_seq == len(chain.leaves)
            and header.previous_length == state["end"]
            and header.previous_hash == state["newest"]
            and (header.reason == FIRST or chain.segments > 1)
            and (header.reason != FIRST or not chain.leaves)
            and header.incarnation >= state["incarnation"]
        )
        if not follows:
            self.stop(place, "the header does not continue the segment before")
        data = self.source.read(path) or b""
        if following is None:
            data = self.settled(path, data, header.salt)
        if len(data) != header.size or data[:SECTOR] != start:
            self.stop(place, f"the file has {len(data)} bytes, its header says {header.size}")
        limit = len(data) if following is None else following.previous_length
        if not SECTOR <= limit <= len(data):
            self.stop(place, "the next segment's header says that this one holds nothing")
        state.update(end=SECTOR, previous=header.hash, incarnation=header.incarnation)
        self.frames(chain, state, header, data, limit, following is None, signed)
        beyond = data[limit:]
        # A segment without frames or bytes behind them changes nothing about what an earlier one left.
        if following is None or (limit == SECTOR and not any(beyond)):
            return
        if following.reason in (TORN, SYNC_FAILED, NO_SPACE):
            state["left"].append((header.number, limit, beyond, following.reason == TORN))
        elif any(beyond):
            place = f"writer {chain.writer} segment {header.number} offset {limit}"
            self.stop(place, "bytes follow the last frame of a finished segment")

    def settled(self, path, data, salt):
        """A live writer may have been between two sectors: what looked unfinished is read again."""
        at = SECTOR
        while at < len(data):
            try:
                total = Frame(data, at, len(data), salt).total
            except BadFrame:
                again = self.source.read(path)
                return again if again is not None and len(again) == len(data) else data
            if not total:
                break
            at += total
        return data

    def frames(self, chain, state, header, data, limit, last, signed):
        while state["end"] < limit:
            at, seq = state["end"], len(chain.leaves)
            place = f"writer {chain.writer} segment {header.number} offset {at}"
            try:
                frame = Frame(data, at, limit, header.salt)
            except BadFrame as e:
                self.bad_frame(chain, place, header, data, at, limit, e, last and seq >= signed)
                return
            if not frame.total:
                if not last:
                    self.stop(place, "the segment lacks frames that the next one counts")
                return
            if chain.closed and at > SECTOR:
                self.stop(place, "a frame follows the entry that closed the writer")
            if frame.first_seq != seq:
                self.stop(place, f"the frame begins with seq {frame.first_seq}, expected {seq}")
            if frame.previous != state["previous"]:
                self.stop(place, "the frame does not continue the one before")
            if root([leaf_hash(e) for e in frame.entries]) != frame.leaves_root:
                self.mismatch(chain, frame.entries)
            recovery = None
            for i, entry in enumerate(frame.entries):
                here = f"writer {chain.writer} seq {seq + i}"
                try:
                    facts = Facts(entry)
                except Bad as e:
                    self.stop(here, f"entry is not canonical: {e}")
                if at == SECTOR and i == 0 and facts.kind != WRITER and header.reason != SYNC_FAILED:
                    self.stop(here, "a segment begins with another entry than its writer's")
                recovery = facts.recovery or recovery
                chain.push(entry, facts)
            self.torn(place, state["left"], recovery)
            if recovery is not None:
                self.quarantine(chain, recovery)
            state.update(left=[], end=at + frame.total, newest=frame.hash, previous=frame.hash)

    def torn(self, place, left, recovery):
        """What a torn segment held beyond its frames is what the next frame says was put aside. Where writing that frame
        failed, or the machine stopped meanwhile, several segments were left: the entry tells of one."""
        if recovery is None:
            if any(torn for _, _, _, torn in left):
                self.stop(place, "the segment follows a torn one without telling of it")
            return
        if not left:
            self.stop(place, "an entry tells of a torn tail, its segment does not")
        segment, offset, length, digest = recovery
        for number, at, beyond, _ in left:
            fine = (segment, offset) == (number, at) and length <= len(beyond)
            if fine and sha3(beyond[:length]) == digest and not any(beyond[length:]):
                return
        self.stop(place, "an entry tells of another torn tail than the segment before has")

    def quarantine(self, chain, recovery):
        """What an entry says was put aside is there."""
        segment, offset, _, digest = recovery
        path, before = f"w/{chain.writer}/quarantine/{segment:012}-{offset}", len(self.findings)
        data = self.read(path)
        if data is None and len(self.findings) == before:
            self.tampered(f"`{path}`", "the torn bytes that an entry tells of are missing")
        elif data is not None and sha3(data) != digest:
            self.tampered(f"`{path}`", "not the torn bytes that an entry tells of")

    def bad_frame(self, chain, place, header, data, at, limit, bad, may_be_torn):
        if chain.closed:
            self.stop(place, "bytes follow the entry that closed the writer")
        if may_be_torn and not frame_follows(data, at, limit, header.salt) and not any(data[at + MAX_FRAME : limit]):
            self.find(NOTICE, place, "a frame was being written: not durable, not counted")
            return
        if bad.entries and bad.entries[0] == len(chain.leaves):
            self.mismatch(chain, bad.entries[1])
        self.stop(place, str(bad))

    def mismatch(self, chain, entries):
        others = f", or one of the {len(entries) - 1} after it in its frame," if len(entries) > 1 else ""
        place = f"writer {chain.writer} seq {len(chain.leaves)}"
        self.stop(place, f"entry{others} does not match its leaf" if others else "entry does not match its leaf")

    # -------------------------------------------------- checkpoints and keys

    def checkpoint(self, chain, note):
        place, held = f"writer {chain.writer}", len(chain.leaves)
        if note is None:
            if held:
                grade = TAMPERING if chain.closed else UNVERIFIABLE
                self.find(grade, place, f"no checkpoint signs its {held} entries")
            return
        if note.origin != self.origin_of(chain.writer):
            self.tampered(place, f"the checkpoint is of `{note.origin}`")
            return
        chain.signed = note.size
        if chain.damaged:
            return
        if note.size > held:
            self.tampered(place, f"ledger holds {held} entries, its checkpoint says {note.size}")
        elif chain.root(0, note.size) != note.root:
            self.tampered(place, f"the root over {note.size} entries is not the one signed")
        else:
            try:
                self.signatures(chain, note)
            except Bad as e:
                self.tampered(place, str(e))

    def certified(self, chain, seq, key):
        epoch, text, certificate, _ = key
        try:
            vkey, note = Vkey(text), Note(certificate.decode("utf-8"))
        except (Bad, UnicodeDecodeError) as e:
            raise Bad(f"the key at seq {seq} is malformed: {e}") from None
        need(vkey.name == self.origin_of(chain.writer), f"the key at seq {seq} is not one of this writer")
        signed = len(note.signatures) == 1 and note.signatures[0][:2] == (self.root.name, self.root.id)
        signed = signed and self.root.verifies(note.text, note.signatures[0][2])
        need(signed, f"the key at seq {seq} is not certified by the root key")
        lines = note.text.split("\n")
        expected = ["custody-key/1", self.log.hex(), chain.writer, str(epoch), text]
        fine = len(lines) == 7 and lines[:5] == expected and re.fullmatch(r"-?[0-9]+", lines[5])
        need(fine, f"the key at seq {seq} has the certificate of another key")
        return epoch, vkey, int(lines[5])

    def signatures(self, chain, note):
        below = [(seq, key) for seq, key in chain.keys if seq < note.size]
        keys = [self.certified(chain, seq, key) for seq, key in below]
        need(all(a[0] < b[0] for a, b in zip(keys, keys[1:])), "a key does not begin a later epoch")
        revoked = {key[3] for _, key in below if key[3] is not None}
        valid = [key for key in keys if key[0] not in revoked]
        need(valid, "no key is committed below the checkpoint")
        current, known, signed = valid[-1], valid[-2:], False
        for name, key_id, signature in note.signatures:
            key = next((k for k in known if (k[1].name, k[1].id) == (name, key_id)), None)
            need(key, f"the checkpoint is signed by a key of `{name}` that may not sign it")
            need(key[1].verifies(note.text, signature), "the checkpoint does not match its signature")
            signed |= key is current
        need(signed, "the checkpoint lacks the signature of its key")
        late = note.size and chain.walls[note.size - 1] > current[2] + 3600 * SECOND
        need(not late, "the checkpoint covers entries from after its key expired")

    # -------------------------------------------------- what chains share

    def ids(self):
        seen = {}
        for chain in self.chains:
            for seq, entry_id in enumerate(chain.ids):
                other, first = seen.get(entry_id, (None, 0))
                seen[entry_id] = (chain, seq)
                if other is None:
                    continue
                # A control entry may be appended again, byte for byte, by whoever completed its claim.
                if other.leaves[first] != chain.leaves[seq] or seq not in chain.control:
                    self.tampered(f"writer {chain.writer} seq {seq}", f"entry has the id of {other.writer}/{first}")

    def control(self):
        appended, newest = {}, None
        for chain in self.chains:
            for seq, number in chain.control.items():
                leaf, place = chain.leaves[seq], f"writer {chain.writer} seq {seq}"
                if number in appended and appended[number][0] != leaf:
                    self.tampered(place, f"control number {number} is also that of {appended[number][1]}")
                appended[number] = (leaf, place)
            newest = max([newest] * (newest is not None) + chain.walls, default=newest)
        damaged, claimed = any(c.damaged for c in self.chains), set()
        for name in self.list("control"):
            path = f"control/{name}"
            if not re.fullmatch(r"[0-9]{20}", name):
                self.find(NOTICE, f"`{path}`", "not a control object")
                continue
            data, number = self.read(path), int(name)
            if data is None:
                continue
            claimed.add(number)
            if number in appended:
                if appended[number][0] != leaf_hash(data):
                    self.tampered(f"`{path}`", f"not the bytes of its entry, {appended[number][1]}")
            elif not damaged:
                self.unappended(path, number, data, max(appended, default=0), newest)
        for number, (_, place) in sorted(appended.items()):
            if number not in claimed:
                self.tampered(place, f"control number {number} has no object in `control/`")
        last = max(set(appended) | claimed, default=0)
        missing = next((n for n in range(1, last + 1) if n not in appended and n not in claimed), None)
        if missing is not None and not damaged:
            self.tampered("`control`", f"control number {missing} of {last} is missing")

    def unappended(self, path, number, data, last, newest):
        try:
            facts = Facts(data)
        except Bad as e:
            self.tampered(f"`{path}`", f"claimed entry is not canonical: {e}")
            return
        if facts.control != number or facts.kind not in CONTROL_KINDS:
            self.tampered(f"`{path}`", "claimed entry is not the one that its name says")
            return
        old = newest is not None and newest - facts.wall > 600 * SECOND and last > number
        self.find(TAMPERING if old else NOTICE, f"`{path}`", "claimed and not appended yet")

    def blobs(self):
        checked = set()
        for chain in self.chains:
            for seq, blob, payload_of in chain.blobs:
                place = f"writer {chain.writer} seq {seq}"
                data = self.blob(checked, place, blob)
                if data is None or payload_of is None:
                    continue
                try:
                    further = named_blobs(payload_of, Cbor.read(data))
                except Bad as e:
                    self.tampered(place, f"the entry's payload is not canonical: {e}")
                    continue
                for blob in further:
                    self.blob(checked, place, blob)

    def blob(self, checked, place, blob):
        digest, length = blob
        if digest in checked:
            return None
        checked.add(digest)
        path, before = f"blob/{digest.hex()}", len(self.findings)
        data = self.read(path)
        if data is None:
            if len(self.findings) == before:
                self.tampered(place, f"`{path}`, which the entry names, is missing")
            return None
        if sha3(data) != digest or len(data) != length:
            self.tampered(place, f"`{path}` does not have the bytes that the entry names")
            return None
        return data

    def heads(self):
        chains = {c.writer: c for c in self.chains}
        for chain in self.chains:
            for seq, (writer, size, digest) in chain.heads:
                place, other = f"writer {chain.writer} seq {seq}", chains.get(writer)
                if other is None:
                    self.tampered(place, f"writer {writer}, whose head the entry holds, is missing")
                elif not other.damaged and (size > len(other.leaves) or other.root(0, size) != digest):
                    self.tampered(f"writer {writer}", f"not a continuation of its head of size {size} in {place}")

    # -------------------------------------------------- outside memory

    def mirror(self, path):
        files = Folder(path)
        try:
            data = files.read("genesis")
            need(data is not None, "mirror has no genesis")
            need(sha3(data) == self.log, "mirror is of another ledger")
            notes = split_notes(keep(files))
            need(notes, "mirror holds no checkpoint")
        except (Bad, Unreadable, UnicodeDecodeError) as e:
            self.find(UNVERIFIABLE, f"`{path}`", str(e))
            return None
        return self.memory(path, notes)

    def memory(self, name, notes):
        """Its age in nanoseconds; None where it proves nothing."""
        if not notes:
            self.find(UNVERIFIABLE, f"`{name}`", "holds no checkpoint")
            return None
        covered = {}
        found = [self.kept(name, text) for text in notes]
        if None in found:
            return None
        for chain, size in found:
            covered[chain.writer] = max(size, covered.get(chain.writer, 0))
        return self.age_of(covered, name)

    def age_of(self, covered, name):
        """The age of a memory that covers so many entries of each writer."""
        size = [(c, covered.get(c.writer, 0)) for c in self.chains]
        newest = [max(c.walls[n - 1 : n]) for c, n in size if n]
        newest = max((w for w in newest), default=None)
        if newest is None:
            return None
        uncovered = [c.walls[n] for c, n in size if n < len(c.walls)]
        age = self.now - min([newest] + uncovered)
        if age < -60 * SECOND:
            self.find(NOTICE, f"`{name}`", "its newest entry is from the future; it proves no freshness")
            return None
        return max(age, 0)

    def kept(self, name, text):
        try:
            note = Checkpoint(text)
        except Bad as e:
            self.find(UNVERIFIABLE, f"`{name}`", f"a note in it is malformed: {e}")
            return None
        prefix = f"{self.origin}/sha3-256/"
        writer = note.origin[len(prefix) :] if note.origin.startswith(prefix) else ""
        if not WRITER_NAME.match(writer):
            self.find(UNVERIFIABLE, f"`{name}`", f"`{note.origin}` is not a writer of this ledger")
            return None
        place, chain = f"writer {writer}", next((c for c in self.chains if c.writer == writer), None)
        if chain is None:
            self.tampered(place, f"writer is missing; `{name}` holds its checkpoint of size {note.size}")
            return None
        if chain.damaged:
            return None
        held = len(chain.leaves)
        if note.size > held:
            self.tampered(place, f"ledger holds {held} entries, the checkpoint in `{name}` says {note.size}")
            return None
        if chain.root(0, note.size) != note.root:
            self.tampered(place, f"not a continuation of the checkpoint of size {note.size} in `{name}`")
            return None
        try:
            self.signatures(chain, note)
        except Bad as e:
            self.find(UNVERIFIABLE, f"`{name}`", f"checkpoint of writer {writer}: {e}")
            return None
        if chain.signed is not None and chain.signed < note.size:
            # The entries are those that were signed; what signed them here is gone.
            message = f"its checkpoint signs fewer entries than the one of size {note.size} in `{name}`"
            self.find(UNVERIFIABLE, place, message)
        return chain, note.size

    # -------------------------------------------------- the anchor

    def anchor(self):
        """None: there is none; False: a finding says why it cannot be used; else key, notes and leaf hashes."""
        for attempt in range(3):
            known, before = len(self.findings), self.peek("anchor/checkpoint")
            try:
                found = self.read_anchor()
            except Bad as e:
                self.tampered("`anchor`", str(e))
                found = False
            except Unreadable as e:
                self.find(UNVERIFIABLE, "`anchor`", str(e))
                found = False
            # Beside a process that adds to it, what it replaces is gone soon.
            if found is not False or attempt == 2 or self.peek("anchor/checkpoint") == before:
                return found
            del self.findings[known:]

    def peek(self, path):
        try:
            return self.source.read(path)
        except Unreadable:
            return None

    def read_anchor(self):
        read = self.source.read
        tiles = self.source.list("anchor/tile")
        key, note = read("anchor/key"), read("anchor/checkpoint")
        if key is None or note is None:
            # A process that was killed as it began leaves a key alone.
            need(note is None and not tiles, "its key or its checkpoint is missing")
            return None
        try:
            key, note = Note(key.decode("utf-8")), Checkpoint(note.decode("utf-8"))
        except UnicodeDecodeError:
            raise Bad("its key or its checkpoint is not text") from None
        need(len(key.signatures) == 1 and self.signs(self.root, key.text, key.signatures[0]), "the root did not sign its key")
        lines = key.text.split("\n")
        fine = len(lines) == 4 and lines[:2] == ["custody-anchor/1", self.log.hex()] and lines[3] == ""
        need(fine, "its key is certified for something else")
        key = Vkey(lines[2])
        need(key.name == note.origin == f"{self.origin}/anchor", "its key or its checkpoint is of another log")
        fine = len(note.signatures) == 1 and self.signs(key, note.text, note.signatures[0])
        need(fine, "its checkpoint is not signed by its key alone")
        notes = []
        while len(notes) < note.size:
            count = min(256, note.size - len(notes))
            path = anchor_tile("entries", len(notes) // 256, count)
            found = anchor_bundle(read(path))
            need(found is not None and len(found) == count, f"`{path}` is missing, or not the leaves that are counted")
            notes += found
        leaves = [sha2(b"\x00", n) for n in notes]
        need(root2(leaves) == note.root, f"the root over {note.size} checkpoints is not the one signed")
        # Tiles are what the leaves make them.
        level, hashes = 0, leaves
        while hashes:
            for first in range(0, len(hashes), 256):
                group = hashes[first : first + 256]
                path = anchor_tile(str(level), first // 256, len(group))
                need(read(path) == b"".join(group), f"`{path}` is missing, or not what the leaves make it")
            level, hashes = level + 1, [root2(hashes[n : n + 256]) for n in range(0, len(hashes) - 255, 256)]
        return key, notes, leaves

    @staticmethod
    def signs(key, text, line):
        return line[:2] == (key.name, key.id) and key.verifies(text, line[2])

    def anchored(self, anchor, kept):
        """The anchor against the chains and what others kept of it; the ages of those."""
        if anchor is False:
            return []
        if anchor is None:
            for name, _ in kept:
                self.tampered("`anchor`", f"there is none, and `{name}` is of one")
            return []
        key, notes, leaves = anchor
        sizes = [self.anchored_note(number, note) for number, note in enumerate(notes)]
        return [self.kept_anchor(key, leaves, sizes, name, text) for name, text in kept]

    def anchored_note(self, number, note):
        try:
            note = Checkpoint(note.decode("utf-8"))
        except (Bad, UnicodeDecodeError) as e:
            self.tampered("`anchor`", f"leaf {number} is no checkpoint: {e}")
            return None
        prefix = f"{self.origin}/sha3-256/"
        writer = note.origin[len(prefix) :] if note.origin.startswith(prefix) else ""
        chain = next((c for c in self.chains if c.writer == writer), None)
        if chain is None:
            self.tampered("`anchor`", f"leaf {number} is of `{note.origin}`, which is missing")
            return None
        if chain.damaged:
            return None
        if note.size > len(chain.leaves) or chain.root(0, note.size) != note.root:
            self.tampered(f"writer {writer}", f"not a continuation of its anchored checkpoint of size {note.size}")
            return None
        try:
            self.signatures(chain, note)
        except Bad as e:
            self.tampered("`anchor`", f"leaf {number}: {e}")
            return None
        return chain, note.size

    def kept_anchor(self, key, leaves, sizes, name, text):
        notes, most = split_notes(text), None
        if not notes:
            self.find(UNVERIFIABLE, f"`{name}`", "holds no checkpoint")
        for text in notes:
            try:
                note = Checkpoint(text)
                # Witnesses add lines of their own.
                need(note.origin == key.name, "not a checkpoint of this ledger's anchor")
                need(any(self.signs(key, note.text, line) for line in note.signatures), "not signed by the anchor's key")
            except Bad as e:
                self.find(UNVERIFIABLE, f"`{name}`", str(e))
                continue
            if note.size > len(leaves):
                self.tampered("`anchor`", f"holds {len(leaves)} checkpoints, the one in `{name}` says {note.size}")
            elif root2(leaves[: note.size]) != note.root:
                self.tampered("`anchor`", f"not a continuation of the checkpoint of size {note.size} in `{name}`")
            else:
                most = max(note.size, most or 0)
        if most is None or None in sizes[:most]:
            return None
        covered = {}
        for chain, size in sizes[:most]:
            covered[chain.writer] = max(size, covered.get(chain.writer, 0))
        return self.age_of(covered, name)

    # -------------------------------------------------- the answer

    def verdict(self):
        worst = max((grade for grade, _, _ in self.findings), default=NOTICE)
        if worst == TAMPERING:
            return 4
        if worst == UNVERIFIABLE:
            return 1
        return 0 if self.age is not None and self.age <= self.max_age else 8


def sha2(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def root2(leaves):
    """The RFC 6962 root with SHA-256."""
    if len(leaves) <= 1:
        return leaves[0] if leaves else sha2()
    middle = 1 << ((len(leaves) - 1).bit_length() - 1)
    return sha2(b"\x01", root2(leaves[:middle]), root2(leaves[middle:]))


def anchor_tile(of, number, count):
    path = f"{number % 1000:03}"
    while number >= 1000:
        number //= 1000
        path = f"x{number % 1000:03}/{path}"
    return f"anchor/tile/{of}/{path}" + (f".p/{count}" if count < 256 else "")


def anchor_bundle(data):
    """Leaves: a length in two bytes, then so many bytes, again and again; None: malformed."""
    at, leaves = 0, []
    while data is not None and at < len(data):
        end = at + 2 + int.from_bytes(data[at : at + 2], "big")
        if at + 2 > len(data) or end > len(data):
            return None
        leaves.append(data[at + 2 : end])
        at = end
    return None if data is None else leaves


def keep(source):
    notes = [source.read(f"w/{writer}/checkpoint") for writer in source.list("w")]
    return "".join(note.decode("utf-8") for note in notes if note is not None)


def render(check):
    entries = sum(len(c.leaves) for c in check.chains)
    code = check.verdict()
    if code in (0, 8):
        age = "" if check.age is None else f": outside memory is {check.age // SECOND} s old"
        yield f"consistent up to {entries} entries; {'fresh' if code == 0 else 'freshness unproven'}{age}"
    for grade, place, message in sorted(check.findings, key=lambda f: -f[0]):
        yield f"{GRADES[grade]}: {place}: {message}"
    for c in check.chains:
        signed = "unsigned" if c.signed is None else f"{c.signed} signed"
        closed = ", closed" if c.closed else ""
        yield f"writer {c.writer}: {len(c.leaves)} entries, {signed}, {c.segments} segments{closed}"


def as_json(check):
    return {
        "verdict": {0: "fresh", 4: "tampered", 1: "cannot_verify", 8: "freshness_unproven"}[check.verdict()],
        "findings": [{"grade": GRADES[g], "place": p, "message": m} for g, p, m in check.findings],
        "writers": [
            {"writer": c.writer, "size": len(c.leaves), "signed": c.signed, "segments": c.segments, "closed": c.closed}
            for c in check.chains
        ],
        "memory_age_seconds": None if check.age is None else check.age // SECOND,
    }


# ---------------------------------------------------------------- proofs that stand alone


class False_(Exception):
    """A proof that contradicts itself or the root key."""


def check_proof(data, root_key):
    """What a proof shows, in words."""
    root_key, proof = Vkey(root_key), Cbor.read(data)
    need(isinstance(proof, dict), "not a proof of a kind that is known here")
    if proof.get(0) == "custody-proof/1" and sorted(proof) == list(range(4)):
        return check_entry(proof, root_key)
    if proof.get(0) == "custody-consistency/1" and sorted(proof) == list(range(5)):
        return check_consistency(proof, root_key)
    raise Bad("not a proof of a kind that is known here")


def check_entry(proof, root_key):
    need(isinstance(proof[1], bytes) and isinstance(proof[2], list), "a part of the proof is missing")
    need(len(proof[2]) in (1, 2) and isinstance(proof[2][0], dict), "it has another number of hops than one or two")
    hop = proof[2][0]
    need(sorted(hop) == list(range(6)) and hop[0] == "sha3-256", "its hop is not over SHA3-256")
    fine = is_hash(hop[1]) and is_number(hop[2]) and is_number(hop[3]) and hashes(hop[4])
    need(fine, "a part of the proof is missing")
    note, facts = proof_note(hop[5]), Facts(proof[1])
    if leaf_hash(proof[1]) != hop[1]:
        raise False_("the entry does not match its leaf")
    if note.size != hop[3]:
        raise False_("the checkpoint is of another size")
    if included(hop[1], hop[2], hop[3], hop[4]) != note.root:
        raise False_("its hashes do not lead to the signed root")
    log, expires = proof_signed(note, proof[3], root_key)
    if facts.wall > expires + 3600 * SECOND:
        raise False_("the entry is from after the key expired")
    told = f"entry {hop[2]} of {hop[3]} in `{note.origin}` of ledger {log}"
    if len(proof[2]) == 1:
        return told
    return f"{told}, anchored among {check_anchored(proof[2][1], hop[5], note, proof[3], root_key, log)} checkpoints"


def check_anchored(hop, noted, note, certificates, root_key, log):
    """The hop from a note to a checkpoint of the anchor: of how many notes."""
    need(isinstance(hop, dict) and sorted(hop) == list(range(6)) and hop[0] == "sha-256", "its second hop is not over SHA-256")
    fine = is_hash(hop[1]) and is_number(hop[2]) and is_number(hop[3]) and hashes(hop[4])
    need(fine, "a part of the proof is missing")
    above = proof_note(hop[5])
    if sha2(b"\x00", noted) != hop[1]:
        raise False_("the checkpoint is not the leaf of the anchor")
    if above.size != hop[3]:
        raise False_("the anchor's checkpoint is of another size")
    if included(hop[1], hop[2], hop[3], hop[4], sha2) != above.root:
        raise False_("its hashes do not lead to the anchor's signed root")
    if above.origin != note.origin.partition("/sha3-256/")[0] + "/anchor":
        raise False_("the anchor is of another ledger")
    key = next(filter(None, (anchor_key(c, above.origin, root_key, log) for c in certificates)), None)
    if key is None:
        raise False_("the root does not vouch for the anchor's key")
    own = next((line for line in above.signatures if line[:2] == (key.name, key.id)), None)
    if own is None or not key.verifies(above.text, own[2]):
        raise False_("the anchor's checkpoint does not match its signature")
    return hop[3]


def anchor_key(certificate, origin, root_key, log):
    try:
        note = Note(certificate.decode("utf-8"))
        lines = note.text.split("\n")
        by_root = len(note.signatures) == 1 and note.signatures[0][:2] == (root_key.name, root_key.id)
        if not by_root or not root_key.verifies(note.text, note.signatures[0][2]):
            return None
        if len(lines) != 4 or lines[0] != "custody-anchor/1" or lines[1] != log or lines[3]:
            return None
        key = Vkey(lines[2])
    except (Bad, UnicodeDecodeError):
        return None
    return key if key.name == origin else None


def check_consistency(proof, root_key):
    older, newer = proof_note(proof[1]), proof_note(proof[2])
    need(hashes(proof[3]), "a part of the proof is missing")
    if older.origin != newer.origin:
        raise False_("the checkpoints are of different chains")
    log, _ = proof_signed(older, proof[4], root_key)
    if proof_signed(newer, proof[4], root_key)[0] != log:
        raise False_("the checkpoints are of different ledgers")
    if not continues(older, newer, proof[3]):
        raise False_(f"the checkpoint of size {newer.size} does not continue that of size {older.size}")
    return f"`{newer.origin}` of ledger {log}: {newer.size} entries continue {older.size}"


def hashes(value):
    return isinstance(value, list) and all(map(is_hash, value))


def proof_note(data):
    need(isinstance(data, bytes), "its checkpoint is not text")
    return Checkpoint(data.decode("utf-8"))


def proof_signed(note, certificates, root_key):
    """Log and expiry of the key; every signature is by a key that the root vouches for, and there is one at least."""
    need(isinstance(certificates, list) and all(isinstance(c, bytes) for c in certificates), "it has no key certificates")
    known, found = [proof_key(Note(c.decode("utf-8")), note.origin, root_key) for c in certificates], None
    for name, key_id, signature in note.signatures:
        by = next((k for k in known if k and (k[0].name, k[0].id) == (name, key_id)), None)
        if by is None:
            raise False_("a key signed that the root does not vouch for")
        if not by[0].verifies(note.text, signature):
            raise False_("the checkpoint does not match its signature")
        found = by[1:]
    if found is None:
        raise False_("nobody signed the checkpoint")
    return found


def proof_key(certificate, origin, root_key):
    """The key of a certificate for this tree, else None: the root did not sign it, or it is for another."""
    if len(certificate.signatures) != 1 or certificate.signatures[0][:2] != (root_key.name, root_key.id):
        return None
    if not root_key.verifies(certificate.text, certificate.signatures[0][2]):
        return None
    lines = certificate.text.split("\n")
    if len(lines) != 7 or lines[0] != "custody-key/1" or not re.fullmatch(r"[0-9]+", lines[3]):
        return None
    warehouse, _, of = origin.partition("/sha3-256/")
    if of != lines[2] or not WRITER_NAME.match(of) or root_key.name != f"{warehouse}/root":
        return None
    if not re.fullmatch(r"[0-9a-f]{64}", lines[1]) or not re.fullmatch(r"-?[0-9]+", lines[5]):
        return None
    key = Vkey(lines[4])
    return (key, lines[1], int(lines[5])) if key.name == origin else None


def included(leaf, index, size, path, digest=sha3):
    """The root that a path leads to from a leaf; None: wrong length."""
    if index >= size:
        return None
    if size == 1:
        return None if path else leaf
    if not path:
        return None
    middle, top = 1 << ((size - 1).bit_length() - 1), path[-1]
    left = index < middle
    below = included(leaf, index if left else index - middle, middle if left else size - middle, path[:-1], digest)
    if below is None:
        return None
    return digest(b"\x01", below, top) if left else digest(b"\x01", top, below)


def continues(older, newer, path):
    if older.size == newer.size:
        return not path and older.root == newer.root
    if older.size == 0:
        return not path and older.root == sha3(b"")
    found = older.size < newer.size and both_roots(older.size, newer.size, path, older.root)
    return found == (older.root, newer.root)


def both_roots(old, new, path, known):
    """Both roots over a subtree; `known` is the old root while the subtree begins where the old tree does."""
    if old == new:
        if known is not None:
            return None if path else (known, known)
        return (path[0], path[0]) if len(path) == 1 else None
    if not path:
        return None
    middle, top = 1 << ((new - 1).bit_length() - 1), path[-1]
    if old <= middle:
        below = both_roots(old, middle, path[:-1], known)
        return below and (below[0], sha3(b"\x01", below[1], top))
    below = both_roots(old - middle, new - middle, path[:-1], None)
    return below and (sha3(b"\x01", top, below[0]), sha3(b"\x01", top, below[1]))


def main_proof(path, root_key):
    try:
        with open(path, "rb") as file:
            print(check_proof(file.read(), root_key.strip()))
        return 0
    except False_ as e:
        print(f"false proof: {e}")
        return 4
    except (OSError, Bad, UnicodeDecodeError) as e:
        print(f"cannot check: {e}")
        return 1


def main():
    parser = argparse.ArgumentParser(description="Check a Custody ledger.", allow_abbrev=False)
    parser.add_argument("ledger", nargs="?", help="the folder that holds `genesis` and `w/`")
    parser.add_argument("--check-proof", metavar="FILE", help="check a proof that stands alone, with --root-key")
    parser.add_argument("--since", action="append", default=[], help="a file of kept checkpoints")
    parser.add_argument("--mirror", action="append", default=[], help="a copy of the ledger folder in other hands")
    parser.add_argument("--anchor", action="append", default=[], help="a checkpoint of the anchor that was kept elsewhere")
    parser.add_argument("--max-age", type=float, default=300, help="seconds that outside memory may be old")
    parser.add_argument("--now", type=float, default=None, help="seconds since 1970 that ages are counted from")
    parser.add_argument("--log", help="the log id to expect")
    parser.add_argument("--root-key", help="the root's verifier key to expect")
    parser.add_argument("--format", choices=["text", "json"], default="text")
    parser.add_argument("--keep", action="store_true", help="print the current checkpoints and stop")
    arguments = parser.parse_args()
    if arguments.check_proof is not None:
        if arguments.root_key is None:
            parser.error("--check-proof needs --root-key")
        return main_proof(arguments.check_proof, arguments.root_key)
    if arguments.ledger is None:
        parser.error("which ledger?")
    source = Folder(arguments.ledger)
    try:
        if arguments.keep:
            sys.stdout.write(keep(source))
            return 0
        since, anchors = [], []
        for paths, kept in [(arguments.since, since), (arguments.anchor, anchors)]:
            for path in paths:
                with open(path, encoding="utf-8", newline="\n") as file:
                    kept.append((path, file.read()))
    except (OSError, UnicodeDecodeError, Unreadable) as e:
        print(f"cannot verify: {e}", file=sys.stderr)
        return 1
    now = time.time_ns() if arguments.now is None else int(arguments.now * SECOND)
    check = Check(source, now, int(arguments.max_age * SECOND))
    check.run(arguments.log, arguments.root_key, since, arguments.mirror, anchors)
    if arguments.format == "json":
        print(json.dumps(as_json(check), indent=1))
    else:
        print("\n".join(render(check)))
    return check.verdict()


if __name__ == "__main__":
    sys.setrecursionlimit(10_000)
    sys.exit(main())
