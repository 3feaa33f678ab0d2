"""Asks libraries that are not ours what they make of proofs. Reads cases as JSON from stdin, writes verdicts in their order.

A verdict is {"accepted": bool, "why": text, "claims": object or null}. Nothing here knows how the proofs were made.
"""

import base64
import datetime
import hashlib
import json
import sys

import jwt
from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from http_message_signatures import HTTPMessageVerifier, HTTPSignatureKeyResolver, algorithms
from joserfc import jwk as jose_jwk
from joserfc import jws as jose_jws


class Message:
    def __init__(self, case):
        self.method = case["method"]
        self.url = case["url"]
        self.headers = dict(case["headers"])


class OneKey(HTTPSignatureKeyResolver):
    def __init__(self, case):
        self.keyid = case["keyid"]
        self.key = load_pem_public_key(case["pem"].encode())

    def resolve_public_key(self, key_id):
        if key_id != self.keyid:
            raise ValueError("another key id")
        return self.key

    def resolve_private_key(self, key_id):
        raise ValueError("no private keys here")


def http_signature(case):
    algorithm = {
        "ed25519": algorithms.ED25519,
        "p256": algorithms.ECDSA_P256_SHA256,
    }[case["algorithm"]]
    verifier = HTTPMessageVerifier(signature_algorithm=algorithm, key_resolver=OneKey(case))
    body = None if case["body"] is None else case["body"].encode()
    results = verifier.verify(
        Message(case),
        max_age=datetime.timedelta(seconds=300),
        expect_tag=case["tag"],
        require_components=case["components"],
        body=body,
    )
    assert len(results) == 1
    parameters = results[0].parameters
    assert parameters["expires"] - parameters["created"] <= 300
    assert set(parameters) == {"created", "expires", "nonce", "alg", "keyid", "tag"}, parameters
    return None


def decoded(part):
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


def dpop(case):
    """The checks of RFC 9449 section 4.3, in its order."""
    proof = case["proof"]
    header = decoded(proof.split(".")[0])
    assert header["typ"] == "dpop+jwt"
    assert header["alg"] in ("ES256", "EdDSA")
    assert not {"d", "p", "q", "k"} & set(header["jwk"]), "a private key"
    key = jose_jwk.import_key(header["jwk"])
    assert not key.is_private
    verified = jose_jws.deserialize_compact(proof, key, algorithms=["ES256", "EdDSA"])
    claims = json.loads(verified.payload)
    assert {"jti", "htm", "htu", "iat"} <= set(claims)
    assert claims["htm"] == case["method"]
    assert claims["htu"] == case["url"]
    assert claims.get("nonce") == case["nonce"]
    assert abs(claims["iat"] - datetime.datetime.now(datetime.timezone.utc).timestamp()) < 60
    assert len(claims["jti"]) >= 16
    if case["token"] is not None:
        digest = base64.urlsafe_b64encode(hashlib.sha256(case["token"].encode()).digest())
        assert claims["ath"] == digest.decode().rstrip("=")
    # What a bound access token says in cnf.jkt (RFC 9449 section 6.1).
    assert key.thumbprint() == case["keyid"]
    # A second library's verdict over the same bytes.
    jwt.decode(proof, jwt.PyJWK(header["jwk"], algorithm=header["alg"]).key, algorithms=[header["alg"]])
    return claims


def token(case):
    """PyJWT, and joserfc over the same bytes."""
    algorithm = case["alg"]
    key = load_pem_public_key(case["pem"].encode())
    options = {"require": case["require"], "verify_aud": case["audience"] is not None}
    claims = jwt.decode(
        case["token"], key, algorithms=[algorithm], audience=case["audience"], issuer=case["issuer"], options=options
    )
    assert decoded(case["token"].split(".")[0])["typ"] == case["typ"]
    jose_jws.deserialize_compact(case["token"], jose_jwk.import_key(case["jwk"]), algorithms=[algorithm])
    assert claims["exp"] - claims["iat"] <= 600
    return claims


def jwks(case):
    """PyJWT picks the key by its id, and so does joserfc."""
    kid = jwt.get_unverified_header(case["token"])["kid"]
    key = jwt.PyJWKSet.from_dict(case["jwks"])[kid].key
    claims = jwt.decode(case["token"], key, algorithms=[case["alg"]], audience=case["audience"])
    keys = jose_jwk.KeySet.import_key_set(case["jwks"])
    jose_jws.deserialize_compact(case["token"], keys, algorithms=[case["alg"]])
    return claims


def aws(case):
    """botocore signs the fields that are said to be signed, and must come to the same signature."""
    fields = {name.lower(): value for name, value in case["headers"]}
    assert len(fields) == len(case["headers"])
    scheme, _, rest = fields.pop("authorization").partition(" ")
    assert scheme == "AWS4-HMAC-SHA256"
    said = dict(part.split("=", 1) for part in rest.split(", "))
    stamp = fields["x-amz-date"]
    scope = [case["key_id"], stamp[:8], case["region"], case["service"], "aws4_request"]
    assert said["Credential"] == "/".join(scope), said
    names = said["SignedHeaders"].split(";")
    # What a proxy may change is the one field that is not signed.
    assert set(fields) - set(names) == {"accept-encoding"}, set(fields) - set(names)
    assert {"host", "x-amz-date", "x-amz-content-sha256"} <= set(names)
    # botocore takes the digest as it is said, so that it is computed here.
    assert fields["x-amz-content-sha256"] == hashlib.sha256(case["body"].encode()).hexdigest(), "payload"
    request = AWSRequest(
        method=case["method"],
        url=f"https://{case['authority']}{case['target']}",
        headers={name: fields[name] for name in names},
        data=case["body"],
    )
    request.context["timestamp"] = stamp
    signer = (S3SigV4Auth if case["service"] == "s3" else SigV4Auth)(
        Credentials(case["key_id"], case["secret"]), case["service"], case["region"]
    )
    canonical = signer.canonical_request(request)
    signature = signer.signature(signer.string_to_sign(request, canonical), request)
    assert signature == said["Signature"], "signature"
    return {"canonical": canonical}


KINDS = {"aws-sigv4": aws, "http-signature": http_signature, "dpop": dpop, "token": token, "jwks": jwks}


def judge(case):
    try:
        claims = KINDS[case["kind"]](case)
    # A verifier may refuse with any exception: what counts is that it refuses, and the test shows why.
    except Exception as error:  # noqa: BLE001
        return {"accepted": False, "why": f"{type(error).__name__}: {error}", "claims": None}
    return {"accepted": True, "why": "", "claims": claims}


if __name__ == "__main__":
    json.dump([judge(case) for case in json.load(sys.stdin)], sys.stdout)
