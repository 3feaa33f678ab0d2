"""Opens a backup with a library that is not ours, and reads it as docs/adr/0013-backup-format.md says, without any code of ours.

    backup.py keygen              prints an identity and its recipient, a line each
    backup.py open FILE IDENTITY  prints the content as JSON: the format, each frame, and whether the signature verifies
"""

import base64
import hashlib
import json
import struct
import sys

import pyrage
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


def number(data, at, form):
    return struct.unpack_from(form, data, at)[0], at + struct.calcsize(form)


def part(data, at):
    length, at = number(data, at, ">I")
    assert at + length <= len(data), "a frame ends behind the file"
    return data[at : at + length], at + length


def verifies(vkey, message, signature):
    # C2SP signed-note: a name, the key's hash, and the algorithm's byte with the key.
    encoded = base64.b64decode(vkey.split("+", 2)[2])
    assert encoded[0] == 1, "Ed25519"
    try:
        Ed25519PublicKey.from_public_bytes(encoded[1:]).verify(signature, message)
    except InvalidSignature:
        return False
    return True


def read(data):
    magic = b"claviger backup\0"
    assert data.startswith(magic), "another magic"
    form, at = number(data, len(magic), ">I")
    frames, chain = [], hashlib.sha256()
    while at < len(data):
        kind, at = number(data, at, ">B")
        head, at = part(data, at)
        value, at = part(data, at)
        frames.append({"kind": kind, "head": json.loads(head), "value": value.hex()})
        if kind != 4:
            digest = hashlib.sha256(value).digest()
            chain.update(hashlib.sha256(bytes([kind]) + struct.pack(">Q", len(head)) + head + digest).digest())
    signature = base64.b64decode(frames[-1]["head"]["signature"])
    message = b"claviger backup v1\0" + chain.digest()
    signed = verifies(frames[0]["head"]["vkey"], message, signature)
    return {"format": form, "frames": frames, "signed": signed}


def main():
    if sys.argv[1] == "keygen":
        identity = pyrage.x25519.Identity.generate()
        print(identity)
        print(identity.to_public())
        return
    with open(sys.argv[2], "rb") as file:
        sealed = file.read()
    with open(sys.argv[3], encoding="ascii") as file:
        lines = [line.strip() for line in file if line.startswith("AGE-SECRET-KEY-")]
    identities = [pyrage.x25519.Identity.from_str(line) for line in lines]
    print(json.dumps(read(pyrage.decrypt(sealed, identities))))


main()
