"""An authorization server by Authlib and an API that insists on its tokens, on one port of the loopback interface, over TLS.

Started with a folder: writes `ca.pem`, `ca.key` and `port` there, reads `config.json` (clients and keys) at each request, and writes what
happened into `log.jsonl`, without credentials. Ends when its stdin does.
"""

import datetime
import json
import os
import pathlib
import secrets
import ssl
import sys
import threading

import judge
from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.oauth2.rfc6749 import ClientMixin, TokenMixin, grants
from authlib.oauth2.rfc6749.errors import InvalidGrantError
from authlib.oauth2.rfc6749.grants.base import BaseGrant, TokenEndpointMixin
from authlib.oauth2.rfc7523 import JWTBearerClientAssertion
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from flask import Flask, jsonify, request
from werkzeug.serving import WSGIRequestHandler, make_server

FOLDER = pathlib.Path(sys.argv[1])
HOSTS = ["as.test", "api.test"]
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"

app = Flask(__name__)
tokens = {}
refreshes = {}
used = set()
lock = threading.Lock()


def config():
    return json.loads((FOLDER / "config.json").read_text())


def log(**event):
    with lock, (FOLDER / "log.jsonl").open("a") as file:
        file.write(json.dumps(event) + "\n")


class Client(ClientMixin):
    def __init__(self, name, entry):
        self.name, self.entry = name, entry

    def get_client_id(self):
        return self.name

    def get_default_redirect_uri(self):
        return None

    def get_allowed_scope(self, scope):
        return scope or ""

    def check_redirect_uri(self, redirect_uri):
        return False

    def check_client_secret(self, client_secret):
        return secrets.compare_digest(self.entry["secret"], client_secret)

    def check_endpoint_auth_method(self, method, endpoint):
        return method == self.entry["method"]

    def check_response_type(self, response_type):
        return False

    def check_grant_type(self, grant_type):
        return grant_type == self.entry["grant"]


class Refresh(TokenMixin):
    def __init__(self, client, family):
        self.client, self.family = client, family

    def check_client(self, client):
        return client.get_client_id() == self.client

    def get_scope(self):
        return ""


def query_client(name):
    entry = config()["clients"].get(name)
    return Client(name, entry) if entry else None


def save_token(token, asked):
    tokens[token["access_token"]] = {"client": asked.client.get_client_id(), "jkt": None}
    if "refresh_token" in token:
        refreshes[token["refresh_token"]] = Refresh(asked.client.get_client_id(), "family")


class Rotating(grants.RefreshTokenGrant):
    TOKEN_ENDPOINT_AUTH_METHODS = ["client_secret_basic"]
    INCLUDE_NEW_REFRESH_TOKEN = True

    def authenticate_refresh_token(self, refresh_token):
        if refresh_token in used:
            # Whoever shows an old one may have stolen it: the family is over (RFC 9700 section 4.14.2).
            refreshes.clear()
            log(what="reuse")
            return None
        first = config().get("first_refresh")
        if refresh_token == first:
            return Refresh("refresher", "family")
        return refreshes.get(refresh_token)

    def authenticate_user(self, refresh_token):
        return "somebody"

    def revoke_old_credential(self, refresh_token):
        used.add(self.request.form["refresh_token"])
        refreshes.pop(self.request.form["refresh_token"], None)


class Exchange(BaseGrant, TokenEndpointMixin):
    GRANT_TYPE = EXCHANGE
    TOKEN_ENDPOINT_AUTH_METHODS = ["client_secret_post"]

    def validate_token_request(self):
        self.request.client = self.authenticate_token_endpoint_client()
        form = self.request.form
        if form["subject_token"] != config()["subject"] or not form["subject_token_type"].startswith("urn:ietf:"):
            raise InvalidGrantError()

    def create_token_response(self):
        token = self.generate_token(user=None, scope="", grant_type=self.GRANT_TYPE, include_refresh_token=False)
        token["issued_token_type"] = "urn:ietf:params:oauth:token-type:access_token"
        self.save_token(token)
        return 200, token, self.TOKEN_RESPONSE_HEADER


class Credentials(grants.ClientCredentialsGrant):
    TOKEN_ENDPOINT_AUTH_METHODS = ["client_secret_basic", "client_secret_post", "private_key_jwt"]


class Assertion(JWTBearerClientAssertion):
    CLIENT_AUTH_METHOD = "private_key_jwt"

    def get_audiences(self):
        return [f"https://as.test:{port()}/token"]

    def validate_jti(self, claims, jti):
        fresh = jti not in used
        used.add(jti)
        return fresh

    def resolve_client_public_key(self, client):
        return client.entry["jwk"]


def port():
    return int((FOLDER / "port").read_text())


app.config["OAUTH2_REFRESH_TOKEN_GENERATOR"] = True
server = AuthorizationServer(app, query_client=query_client, save_token=save_token)
for grant in (Credentials, Rotating, Exchange):
    server.register_grant(grant)
server.register_client_auth_method("private_key_jwt", Assertion())


def proof_of(url, method, token):
    """The key that a DPoP proof is by, after the checks of RFC 9449; anything wrong is an exception."""
    proof = request.headers["DPoP"]
    keyid = judge.jose_jwk.import_key(judge.decoded(proof.split(".")[0])["jwk"]).thumbprint()
    case = {"proof": proof, "method": method, "url": url, "nonce": None, "token": token, "keyid": keyid}
    claims = judge.dpop(case)
    assert claims["jti"] not in used, "a proof is good once"
    used.add(claims["jti"])
    return keyid


@app.post("/token")
def token():
    response = server.create_token_response()
    body = response.get_json()
    log(what="token", grant=request.form.get("grant_type"), status=response.status_code, error=body.get("error"))
    if "DPoP" in request.headers and response.status_code == 200:
        tokens[body["access_token"]]["jkt"] = proof_of(f"https://as.test:{port()}/token", "POST", None)
        body["token_type"] = "DPoP"
        return jsonify(body)
    return response


@app.get("/repos/<name>")
def repos(name):
    scheme, _, value = request.headers.get("Authorization", "").partition(" ")
    known = tokens.get(value)
    if scheme != "Bearer" or not known or known["jkt"]:
        return jsonify(error="no"), 401
    return jsonify(client=known["client"], name=name)


@app.get("/bound")
def bound():
    scheme, _, value = request.headers.get("Authorization", "").partition(" ")
    known = tokens.get(value)
    if scheme != "DPoP" or not known:
        return jsonify(error="no"), 401
    url = f"https://api.test:{port()}/bound"
    if known["jkt"] != proof_of(url, "GET", value):
        return jsonify(error="another key"), 401
    return jsonify(client=known["client"], name="bound")


@app.post("/signed")
def signed():
    keys = config()["signers"]
    case = {
        "method": request.method,
        "url": f"https://api.test:{port()}{request.full_path.rstrip('?')}",
        "headers": dict(request.headers.items()),
        "body": request.get_data(as_text=True),
        "tag": "acme/api",
        "components": ["@method", "@authority", "@path", "@query", "content-digest"],
        **keys,
    }
    judge.http_signature(case)
    return jsonify(client=case["keyid"], name="signed")


@app.post("/app/installations/<int:number>/access_tokens")
def installation(number):
    """As GitHub does it: the app's own token in, the installation's out."""
    entry = config()["app"]
    scheme, _, value = request.headers["Authorization"].partition(" ")
    assert scheme == "Bearer"
    judge.token(
        {
            "token": value,
            "alg": "RS256",
            "audience": None,
            "issuer": entry["issuer"],
            "typ": "JWT",
            "require": ["iss", "exp", "iat"],
            "pem": entry["pem"],
            "jwk": entry["jwk"],
        }
    )
    assert request.get_json() == entry["wanted"], request.get_json()
    token = secrets.token_urlsafe(30)
    tokens[token] = {"client": f"installation {number}", "jkt": None}
    log(what="installation")
    expires = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=1)
    return jsonify(token=token, expires_at=expires.strftime("%Y-%m-%dT%H:%M:%SZ")), 201


@app.get("/cert")
def cert():
    pem = request.environ.get("SSL_CLIENT_CERT")
    if not pem:
        return jsonify(error="no certificate"), 401
    subject = x509.load_pem_x509_certificate(pem.encode()).subject
    return jsonify(client=subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value, name="cert")


@app.errorhandler(Exception)
def failed(error):
    log(what="refused", path=request.path, why=f"{type(error).__name__}: {error}")
    return jsonify(error="refused"), 403


def certificates():
    now = datetime.datetime.now(datetime.timezone.utc)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ca")])

    def builder(subject, public):
        made = x509.CertificateBuilder().subject_name(subject).issuer_name(ca_name).public_key(public)
        made = made.serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(hours=1))
        return made.not_valid_after(now + datetime.timedelta(days=1))

    ca = builder(ca_name, ca_key.public_key()).add_extension(x509.BasicConstraints(True, None), True)
    ca = ca.sign(ca_key, hashes.SHA256())
    names = x509.SubjectAlternativeName([x509.DNSName(host) for host in HOSTS])
    leaf = builder(x509.Name([]), key.public_key()).add_extension(names, True).sign(ca_key, hashes.SHA256())

    def private(key):
        return key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    pem = serialization.Encoding.PEM
    (FOLDER / "ca.pem").write_bytes(ca.public_bytes(pem))
    (FOLDER / "ca.key").write_bytes(private(ca_key))
    (FOLDER / "leaf.pem").write_bytes(leaf.public_bytes(pem))
    (FOLDER / "leaf.key").write_bytes(private(key))


def main():
    certificates()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(FOLDER / "leaf.pem", FOLDER / "leaf.key")
    context.load_verify_locations(FOLDER / "ca.pem")
    context.verify_mode = ssl.CERT_OPTIONAL
    WSGIRequestHandler.protocol_version = "HTTP/1.1"
    listening = make_server("127.0.0.1", 0, app, threaded=True, ssl_context=context)
    (FOLDER / "port").write_text(str(listening.server_port))
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    print("ready", flush=True)
    sys.stdin.read()
    os._exit(0)


main()
