//! Requests from the broker over our client to servers of other people: OAuth by Authlib, proofs checked by libraries from PyPI, a client
//! certificate by OpenSSL. All on the loopback interface; the servers end with the test.

use std::io::{BufRead as _, BufReader};
use std::net::IpAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use claviger_broker::ManualClock;
use claviger_broker::audit::Durability;
use claviger_broker::keyring::{RootKind, RootSpec};
use claviger_broker::local::{KeyCreation, LocalBroker, Options, SecretCreation};
use claviger_core::custody::CustodyKind;
use claviger_core::egress::{BodyStream, Frame, RequestHead, SendError};
use claviger_core::http::InjectionKind;
use claviger_core::profile::{AssertionType, Profile};
use claviger_core::{Algorithm, BoxFuture, Broker as _, InstanceId, PublicKey, Secret};
use claviger_egress::{HttpsClient, Phases, Resolver};
use claviger_tpm::Tpm;
use jiff::{SignedDuration, Timestamp};
use kit::judge::{python, root};
use kit::vault::{PASSPHRASE, code, named, passphrase_root, pinned_manifest, sealer, swtpm, tpm_options};
use kit::verifiers::accepts;
use serde_json::{Value, json};
use tempfile::TempDir;

/// The servers' names are on the loopback interface.
#[derive(Debug)]
struct Loopback;

impl Resolver for Loopback {
    fn resolve<'a>(&'a self, _: &'a str) -> BoxFuture<'a, std::io::Result<Vec<IpAddr>>> {
        Box::pin(std::future::ready(Ok(vec![IpAddr::from([127, 0, 0, 1])])))
    }
}

/// `server.py`, and its folder.
struct Server {
    child: Child,
    folder: TempDir,
    port: u16,
}

impl Server {
    fn start() -> Self {
        let folder = TempDir::new().unwrap();
        let mut child = Command::new(python())
            .arg(root().join("tests/python/server.py"))
            .arg(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = child.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "the server does not start");
        let port = std::fs::read_to_string(folder.path().join("port")).unwrap();
        Self {
            child,
            folder,
            port: port.parse().unwrap(),
        }
    }

    fn file(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.file(name)).unwrap_or_default()
    }

    fn configure(&self, config: &Value) {
        std::fs::write(self.file("config.json"), config.to_string()).unwrap();
    }

    fn log(&self) -> Vec<Value> {
        let log = self.read("log.jsonl");
        log.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        drop(self.child.wait());
    }
}

/// A broker with our client, and the servers.
struct Scene {
    server: Server,
    broker: Arc<LocalBroker>,
    clock: Arc<ManualClock>,
    // Ends after the broker, its last user.
    _tpm: Option<Tpm>,
    _folder: TempDir,
}

impl Scene {
    async fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let options = Options::new(folder.path().join("keyring"), sealer(PASSPHRASE));
        Self::over(
            folder,
            options.durability(Durability::Process),
            passphrase_root(),
            None,
        )
        .await
    }

    async fn on_a_tpm() -> Self {
        let folder = TempDir::new().unwrap();
        let tpm = swtpm(folder.path());
        let root = RootSpec {
            kind: RootKind::Swtpm,
            settings: tpm.settings(folder.path()).unwrap(),
        };
        let options = tpm_options(&folder.path().join("keyring"), &tpm);
        Self::over(folder, options, root, Some(tpm)).await
    }

    async fn over(folder: TempDir, options: Options, root: RootSpec, tpm: Option<Tpm>) -> Self {
        let server = Server::start();
        let clock = Arc::new(ManualClock::at(Timestamp::now()));
        let client = HttpsClient::with(Arc::new(Loopback), Phases::default());
        let options = options.clock(Arc::clone(&clock) as _).egress(Arc::new(client));
        let broker = LocalBroker::create(options, root).await.unwrap();
        Self {
            server,
            broker,
            clock,
            _tpm: tpm,
            _folder: folder,
        }
    }

    fn origin(&self, host: &str) -> String {
        format!("https://{host}.test:{}", self.server.port)
    }

    async fn key(&self, name: &str, profile: Profile, algorithm: Algorithm) -> PublicKey {
        self.key_in(CustodyKind::Software, name, profile, algorithm).await
    }

    async fn key_in(
        &self,
        custody: CustodyKind,
        name: &str,
        profile: Profile,
        algorithm: Algorithm,
    ) -> PublicKey {
        let creation = KeyCreation {
            name: named(name),
            profile,
            algorithm,
            custody,
        };
        self.broker
            .create_key(creation)
            .await
            .unwrap()
            .public()
            .unwrap()
            .clone()
    }

    async fn secret(&self, name: &str, kind: InjectionKind, host: &str, value: &str) {
        let creation = SecretCreation {
            name: named(name),
            kind,
            origin: self.origin(host).parse().unwrap(),
            expires: None,
            rotate_every: None,
            value: Secret::take(&mut value.as_bytes().to_vec()).unwrap(),
        };
        self.broker.add_secret(creation).await.unwrap();
    }

    /// A grant for one route of the API, with this injection.
    fn grant(&self, alias: &str, route: &str, more: &str, inject: &str) -> String {
        format!(
            "[grants.{alias}]\n[grants.{alias}.http]\norigin = \"{}\"\nallow = [\"{route}\"]\nprivate-network = [\"127.0.0.0/8\"]\n\
             authorities = '''\n{}'''\n{more}\n[grants.{alias}.inject]\n{inject}\n",
            self.origin("api"),
            self.server.read("ca.pem"),
        )
    }

    /// The lines of an injection that obtains a token.
    fn oauth(&self, flow: &str, client: &str, auth: &str, more: &str) -> String {
        format!(
            "oauth2 = \"{flow}\"\ntoken-endpoint = \"{}/token\"\nclient-id = \"{client}\"\nauth = \"{auth}\"\n{more}",
            self.origin("as")
        )
    }

    async fn start(&self, grants: &str) -> InstanceId {
        let admission = self.broker.admit(&pinned_manifest(grants), code()).await;
        self.broker
            .start(admission.unwrap_or_else(|error| panic!("{error}")).id)
            .unwrap()
    }

    /// What the API answers: who it takes us for.
    async fn ask(
        &self,
        who: InstanceId,
        line: &str,
        body: Option<&'static str>,
    ) -> Result<(u16, Value), SendError> {
        let (method, path) = line.split_once(' ').unwrap();
        let mut headers = Vec::new();
        if let Some(body) = body {
            headers.push(("content-type".to_owned(), b"application/json".to_vec()));
            headers.push(("content-length".to_owned(), body.len().to_string().into_bytes()));
        }
        let head = RequestHead {
            method: method.to_owned(),
            url: format!("{}{path}", self.origin("api")),
            headers,
        };
        let body = body.map(|text| -> BodyStream { Box::pin(One(Some(text))) });
        let mut answer = self.broker.send(who, head, body).await?;
        let mut text = Vec::new();
        while let Some(frame) = std::future::poll_fn(|cx| answer.body.as_mut().poll_next(cx)).await {
            if let Frame::Data(bytes) = frame? {
                text.extend_from_slice(&bytes);
            }
        }
        Ok((
            answer.status,
            serde_json::from_slice(&text).unwrap_or(Value::Null),
        ))
    }

    #[track_caller]
    fn is(&self, answered: Result<(u16, Value), SendError>, client: &str, name: &str) {
        let (status, body) = answered.unwrap_or_else(|error| panic!("{error}: {:?}", self.server.log()));
        assert_eq!(status, 200, "{body}: {:?}", self.server.log());
        assert_eq!(body, json!({ "client": client, "name": name }));
    }
}

/// A body of one piece.
struct One(Option<&'static str>);

impl futures_core::Stream for One {
    type Item = Result<Frame, SendError>;
    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        std::task::Poll::Ready(self.0.take().map(|text| Ok(Frame::Data(text.as_bytes().into()))))
    }
}

const CLIENT_SECRET: &str = "canary-client-secret-1";

fn client(method: &str, grant: &str) -> Value {
    json!({ "method": method, "secret": CLIENT_SECRET, "grant": grant })
}

const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";

#[tokio::test(flavor = "multi_thread")]
async fn a_real_authorization_server_gives_tokens_by_every_flow_that_we_have() {
    let scene = Scene::new().await;
    let assertion = Profile::ClientAssertion {
        client_id: named("asserting"),
        audience: named(&format!("{}/token", scene.origin("as"))),
        typ: AssertionType::Explicit,
    };
    let public = scene.key("asserting", assertion, Algorithm::P256).await;
    scene.key("bound", Profile::Dpop {}, Algorithm::P256).await;
    scene.key("other", Profile::Dpop {}, Algorithm::P256).await;
    let mut asserting = client("private_key_jwt", "client_credentials");
    asserting["jwk"] = public.to_jwk();
    scene.server.configure(&json!({
        "clients": {
            "basic": client("client_secret_basic", "client_credentials"),
            "poster": client("client_secret_post", "client_credentials"),
            "refresher": client("client_secret_basic", "refresh_token"),
            "exchanger": client("client_secret_post", EXCHANGE),
            "asserting": asserting,
        },
        "first_refresh": "canary-first-refresh-token",
        "subject": "canary-subject-token-1",
    }));
    scene
        .secret("client", InjectionKind::OauthClient, "as", CLIENT_SECRET)
        .await;
    scene
        .secret("wrong", InjectionKind::OauthClient, "as", "canary-wrong-secret-1")
        .await;
    scene
        .secret(
            "refresh",
            InjectionKind::OauthRefresh,
            "as",
            "canary-first-refresh-token",
        )
        .await;
    scene
        .secret(
            "subject",
            InjectionKind::OauthSubject,
            "as",
            "canary-subject-token-1",
        )
        .await;
    let secret = "client-secret = \"client\"";
    let credentials = "client-credentials";
    let grants = [
        scene.grant("basic", "GET /repos/basic", "", &scene.oauth(credentials, "basic", "basic", secret)),
        scene.grant("post", "GET /repos/post", "", &scene.oauth(credentials, "poster", "post", secret)),
        scene.grant(
            "wrong",
            "GET /repos/wrong",
            "",
            &scene.oauth(credentials, "basic", "basic", "client-secret = \"wrong\""),
        ),
        scene.grant(
            "jwt",
            "GET /repos/jwt",
            "",
            &scene.oauth(credentials, "asserting", "private-key-jwt", "key = \"asserting\""),
        ),
        scene.grant(
            "refresh",
            "GET /repos/refresh",
            "",
            &scene.oauth("refresh-token", "refresher", "basic", &format!("{secret}\nrefresh-token = \"refresh\"")),
        ),
        scene.grant(
            "exchange",
            "GET /repos/exchange",
            "",
            &scene.oauth(
                "token-exchange",
                "exchanger",
                "post",
                &format!(
                    "{secret}\nsubject-token = \"subject\"\nsubject-token-type = \"urn:ietf:params:oauth:token-type:access_token\""
                ),
            ),
        ),
        scene.grant(
            "bound",
            "GET /bound",
            "",
            &format!("dpop = \"bound\"\n{}", scene.oauth(credentials, "basic", "basic", secret)),
        ),
    ];
    let who = scene.start(&grants.concat()).await;
    for (path, client) in [
        ("basic", "basic"),
        ("post", "poster"),
        ("jwt", "asserting"),
        ("refresh", "refresher"),
        ("exchange", "exchanger"),
    ] {
        let answered = scene.ask(who, &format!("GET /repos/{path}"), None).await;
        scene.is(answered, client, path);
    }
    for _ in 0..2 {
        scene.is(scene.ask(who, "GET /bound", None).await, "basic", "bound");
    }
    // What must fail: a wrong secret gives no token, and nothing is sent without one.
    let refused = scene.ask(who, "GET /repos/wrong", None).await;
    assert!(refused.is_err(), "{refused:?}");

    // Past the token's life: the rotated refresh token is the one that is shown, by a broker that kept it.
    for _ in 0..2 {
        scene.clock.advance(SignedDuration::from_hours(24 * 30));
        scene.is(
            scene.ask(who, "GET /repos/refresh", None).await,
            "refresher",
            "refresh",
        );
    }
    let log = scene.server.log();
    let asked = |grant: &str, status: u64| {
        log.iter()
            .filter(|event| event["grant"] == *grant && event["status"] == status)
            .count()
    };
    assert_eq!(asked("refresh_token", 200), 3, "{log:?}");
    assert_eq!(asked(EXCHANGE, 200), 1);
    assert_eq!(asked("client_credentials", 200), 4, "one for each grant: {log:?}");
    assert_eq!(asked("client_credentials", 401), 1);
    assert!(!log.iter().any(|event| event["what"] == "reuse"), "{log:?}");
    assert!(!log.iter().any(|event| event["what"] == "refused"), "{log:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn signed_requests_and_client_certificates_are_taken_by_servers_that_insist_on_them() {
    let scene = Scene::new().await;
    let profile = Profile::HttpSignature {
        tag: Some(named("acme/api")),
        max_lifetime: 60,
    };
    let public = scene.key("signer", profile.clone(), Algorithm::Ed25519).await;
    let other = scene.key("stranger", profile, Algorithm::Ed25519).await;
    scene.key("client", Profile::Mtls {}, Algorithm::P256).await;
    let signer = |key: &PublicKey| {
        json!({ "clients": {}, "signers": {
            "algorithm": "ed25519", "keyid": key.thumbprint(), "pem": key.to_pem().unwrap(),
        } })
    };
    scene.server.configure(&signer(&public));
    let certificate = certificate(&scene).await;
    let who = scene
        .start(
            &[
                scene.grant(
                    "signed",
                    "POST /signed",
                    "content-types = [\"application/json\"]\nquery = [\"n\"]",
                    "http-signature = \"signer\"",
                ),
                scene.grant(
                    "cert",
                    "GET /cert",
                    "",
                    &format!("mtls = \"client\"\ncertificate = '''\n{certificate}'''"),
                ),
            ]
            .concat(),
        )
        .await;
    for number in 0..3 {
        let answered = scene
            .ask(who, &format!("POST /signed?n={number}"), Some("{\"a\":1}"))
            .await;
        scene.is(answered, &public.thumbprint(), "signed");
        scene.is(scene.ask(who, "GET /cert", None).await, "release-bot", "cert");
    }
    // A server that knows another key refuses the same requests.
    scene.server.configure(&signer(&other));
    let (status, _) = scene
        .ask(who, "POST /signed?n=1", Some("{\"a\":1}"))
        .await
        .unwrap();
    assert_eq!(status, 403, "{:?}", scene.server.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_s_key_in_the_tpm_gets_one_token_for_its_installation() {
    let scene = Scene::on_a_tpm().await;
    let profile = Profile::GithubApp {
        app: named("Iv23liAcme"),
        origin: scene.origin("api").parse().unwrap(),
    };
    let public = scene
        .key_in(CustodyKind::Tpm, "app", profile, Algorithm::Rsa2048)
        .await;
    let configure = |issuer: &str| {
        scene.server.configure(&json!({ "app": {
            "issuer": issuer, "pem": public.to_pem().unwrap(), "jwk": public.to_jwk(),
            "wanted": { "repositories": ["site"], "permissions": { "contents": "read" } },
        }}));
    };
    let inject = "github-app = \"app\"\ninstallation = 42\nrepositories = [\"site\"]\npermissions = { contents = \"read\" }";
    let grants = [
        scene.grant("one", "GET /repos/one", "", inject),
        scene.grant("two", "GET /repos/two", "", inject),
    ];
    let who = scene.start(&grants.concat()).await;
    // Whoever knows another app refuses the token, and there is nothing to ask the API with.
    configure("Iv23liOther");
    scene.ask(who, "GET /repos/two", None).await.unwrap_err();
    let given = || {
        let log = scene.server.log();
        log.iter().filter(|event| event["what"] == "installation").count()
    };
    assert_eq!(given(), 0);
    configure("Iv23liAcme");
    for _ in 0..2 {
        scene.is(
            scene.ask(who, "GET /repos/one", None).await,
            "installation 42",
            "one",
        );
    }
    assert_eq!(given(), 1, "one token for both: {:?}", scene.server.log());
}

/// A certificate for the key `client` by the authority that the server trusts.
async fn certificate(scene: &Scene) -> String {
    let request = scene
        .broker
        .certificate_request(&named("client"), "CN=release-bot")
        .await
        .unwrap();
    let file = |name: &str| scene.server.file(name);
    std::fs::write(file("ext"), "extendedKeyUsage=clientAuth\n").unwrap();
    std::fs::write(file("bot.csr"), request).unwrap();
    accepts(
        "openssl",
        &[
            "x509",
            "-req",
            "-in",
            &file("bot.csr"),
            "-CA",
            &file("ca.pem"),
            "-CAkey",
            &file("ca.key"),
            "-CAcreateserial",
            "-extfile",
            &file("ext"),
            "-out",
            &file("bot.pem"),
        ],
        b"",
        "openssl",
    )
    .expect("an authority takes the request");
    assert!(Path::new(&file("bot.pem")).exists());
    scene.server.read("bot.pem")
}
