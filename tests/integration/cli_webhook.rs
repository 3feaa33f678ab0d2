//! A web service on loopback that is asked for approvals by `claviger run --approver`: what it is told, and which of its answers count.

use std::fs;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use base64ct::{Base64, Encoding as _};
use hkdf::hmac::{Hmac, Mac as _};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::cli_scene::{GRANT, HEAD, Said, Scene, finish};
use crate::requests_scene::pki::{Certified, Speaks, server_config};

const SECRET: &str = "hook-secret-5b1d3c";

/// What the service answers to what it is told: a status and JSON.
type Answer = fn(&Value) -> (u16, Value);

/// How the service signs its answers, from the body: the lines of three fields, or none.
type Signs = fn(&str) -> String;

struct Service {
    port: u16,
    authority: String,
    /// The head, the body, and the body as it came.
    told: Arc<Mutex<Vec<(String, Value, String)>>>,
    _runtime: Runtime,
}

fn certified() -> (String, Certified) {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate().unwrap();
    let pem = authority.self_signed(&authority_key).unwrap().pem();
    let key = KeyPair::generate().unwrap();
    let issuer = Issuer::from_params(&authority, &authority_key);
    let leaf = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let der = leaf.signed_by(&key, &issuer).unwrap().der().to_vec();
    (pem, Certified { der, key })
}

/// Dropped, it ends.
fn serve(answers: Vec<Answer>) -> Service {
    serve_signed(answers, |_| String::new())
}

fn serve_signed(answers: Vec<Answer>, signs: Signs) -> Service {
    let (authority, certified) = certified();
    let acceptor = TlsAcceptor::from(server_config(&certified, &Speaks::default()));
    let runtime = Runtime::new().unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let port = listener.local_addr().unwrap().port();
    let told = Arc::new(Mutex::new(Vec::new()));
    let keep = Arc::clone(&told);
    runtime.spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (acceptor, keep, answers) = (acceptor.clone(), Arc::clone(&keep), answers.clone());
            tokio::spawn(async move {
                if let Ok(mut tls) = acceptor.accept(tcp).await {
                    while let Some((head, said, raw)) = read(&mut tls).await {
                        let count = {
                            let mut told = keep.lock().unwrap();
                            told.push((head, said.clone(), raw));
                            told.len()
                        };
                        let answer = answers[(count - 1).min(answers.len() - 1)];
                        let (status, body) = answer(&said);
                        let body = body.to_string();
                        let length = body.len();
                        let signed = signs(&body);
                        let text =
                            format!("HTTP/1.1 {status} X\r\n{signed}content-length: {length}\r\n\r\n{body}");
                        tls.write_all(text.as_bytes()).await.unwrap();
                    }
                }
            });
        }
    });
    Service {
        port,
        authority,
        told,
        _runtime: runtime,
    }
}

/// One request: its head in lower case, and its body.
async fn read(tls: &mut TlsStream<TcpStream>) -> Option<(String, Value, String)> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8(bytes[..end].to_vec()).unwrap().to_lowercase();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))?;
            let body = bytes.get(end + 4..end + 4 + length.parse::<usize>().unwrap());
            if let Some(body) = body {
                let raw = String::from_utf8(body.to_vec()).unwrap();
                return Some((head, serde_json::from_str(&raw).unwrap(), raw));
            }
        }
        let mut buffer = [0; 4096];
        match tls.read(&mut buffer).await.ok()? {
            0 => return None,
            count => bytes.extend_from_slice(&buffer[..count]),
        }
    }
}

fn scene(timeout: &str) -> Scene {
    let scene = Scene::new();
    let limits = "\n[limits]\ndeadline = \"10 min\"\n";
    let approval = format!("approval = \"each\"\napproval-timeout = \"{timeout}\"\n");
    scene.manifest("bot.toml", format!("{HEAD}{limits}{GRANT}{approval}"));
    scene
}

fn run(scene: &Scene, service: &Service) -> Said {
    run_with(scene, service, "bearer")
}

fn run_with(scene: &Scene, service: &Service, kind: &str) -> Said {
    let origin = format!("https://localhost:{}", service.port);
    scene.write("ca.pem", &service.authority);
    scene.write("secret", SECRET);
    fs::set_permissions(
        scene.path("secret"),
        std::os::unix::fs::PermissionsExt::from_mode(0o600),
    )
    .unwrap();
    let add = [
        "secret", "add", "hook", "--kind", kind, "--origin", &origin, "--file", "secret",
    ];
    scene.open(&add).expect(0);
    let url = format!("{origin}/approve");
    let mut command: Command = scene.opening(&[
        "run",
        "bot.toml",
        "sign release v1.2.3",
        "--approver",
        &url,
        "--approver-secret",
        "hook",
        "--approver-authorities",
        "ca.pem",
        "--approver-network",
        "127.0.0.0/8",
        "--approver-network",
        "::1/128",
    ]);
    command.stdin(Stdio::null());
    finish(command).expect(0)
}

fn ends(scene: &Scene) -> Vec<Value> {
    let events = scene.events();
    let ends = events.iter().filter(|event| event["event"] == "approval-ended");
    ends.map(|event| event["end"].clone()).collect()
}

#[test]
fn a_web_service_approves_what_it_was_told_and_nothing_else_of_it_is_told() {
    let scene = scene("1 min");
    let service = serve(vec![|said| {
        (
            200,
            json!({ "id": said["id"], "request": said["request"], "approve": true }),
        )
    }]);
    let said = run(&scene, &service);
    assert!(said.out.starts_with("-----BEGIN SSH SIGNATURE-----"), "{said}");
    let told = service.told.lock().unwrap();
    let (head, body, raw) = &told[0];
    assert!(head.starts_with("post /approve http/1.1"), "{head}");
    assert!(
        head.contains(&format!("authorization: bearer {SECRET}")),
        "{head}"
    );
    assert_eq!(
        (body["agent"].as_str(), body["kind"].as_str()),
        (Some("bot"), Some("sign"))
    );
    assert!(body["summary"].as_str().unwrap().contains("  | v1.2.3"), "{body}");
    // Nor can what it was told be guessed by the log: a short text to be sealed may stand in it.
    let digest = hex::encode(Sha256::digest(raw));
    let events = scene.events();
    assert!(
        events
            .iter()
            .any(|event| event["request"]["purpose"] == "approval"),
        "the control"
    );
    assert!(!format!("{events:?}").contains(&digest));
    assert!(!body.to_string().contains(SECRET));
    let origin = format!("https://localhost:{}", service.port);
    assert_eq!(
        ends(&scene)[0]["by"],
        json!({ "who": "webhook", "origin": origin })
    );
    // Asking is on record before it is done, and is no use of the grant.
    let events = scene.events();
    let allowed: Vec<_> = events
        .iter()
        .filter(|event| event["event"] == "allowed")
        .collect();
    assert_eq!(allowed.len(), 2);
    assert_eq!(allowed[0]["request"]["purpose"], "approval");
    assert_eq!(
        (&allowed[0]["number"], &allowed[1]["number"]),
        (&json!(0), &json!(1))
    );
    assert!(!format!("{events:?}").contains(SECRET));
}

#[test]
fn an_answer_to_something_else_is_none_and_no_is_no() {
    let rows: [(Answer, &str); 4] = [
        (
            |said| {
                let reason = "not\u{1b}today";
                (
                    200,
                    json!({ "id": said["id"], "request": said["request"], "approve": false, "reason": reason }),
                )
            },
            "denied",
        ),
        (
            |said| (200, json!({ "id": said["id"], "approve": true })),
            "expired",
        ),
        (
            |said| {
                (
                    200,
                    json!({ "id": "0000000000000000", "request": said["request"], "approve": true }),
                )
            },
            "expired",
        ),
        (|_| (500, json!({ "approve": true })), "expired"),
    ];
    for (answer, how) in rows {
        let scene = scene("2 s");
        let service = serve(vec![answer]);
        let said = run(&scene, &service);
        assert_eq!(said.out, "refused NotApproved\n", "{said}");
        assert_eq!(ends(&scene)[0]["how"], how);
        assert_eq!(service.told.lock().unwrap().len(), 1, "not asked again");
    }
}

#[test]
fn a_web_service_that_cannot_answer_yet_is_asked_again() {
    let scene = scene("1 min");
    let service = serve(vec![|_| (202, json!({})), |said| {
        (
            200,
            json!({ "id": said["id"], "request": said["request"], "approve": true }),
        )
    }]);
    let said = run(&scene, &service);
    assert!(said.out.starts_with("-----BEGIN"), "{said}");
    let told = service.told.lock().unwrap();
    assert_eq!(told[0].1["id"], told[1].1["id"], "the same question");
}

/// As Standard Webhooks says: over id, time and body.
fn signature(id: &str, time: &str, body: &str) -> String {
    let mut mac = <Hmac<Sha256> as hkdf::hmac::Mac>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(format!("{id}.{time}.{body}").as_bytes());
    format!("v1,{}", Base64::encode_string(&mac.finalize().into_bytes()))
}

fn fields(time: u64, body: &str) -> String {
    let time = time.to_string();
    let signed = signature("msg_answer", &time, body);
    format!("webhook-id: msg_answer\r\nwebhook-timestamp: {time}\r\nwebhook-signature: {signed}\r\n")
}

fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap().as_secs()
}

const APPROVES: Answer = |said| {
    let answer = json!({ "id": said["id"], "request": said["request"], "approve": true });
    (200, answer)
};

#[test]
fn a_service_with_a_signing_secret_is_asked_with_a_signature_and_believed_with_one() {
    let scene = scene("1 min");
    let service = serve_signed(vec![APPROVES], |body| fields(now(), body));
    let said = run_with(&scene, &service, "webhook-hmac");
    assert!(said.out.starts_with("-----BEGIN SSH SIGNATURE-----"), "{said}");
    let told = service.told.lock().unwrap();
    let (head, _, raw) = &told[0];
    assert!(
        !head.contains("authorization") && !head.contains(SECRET),
        "the secret itself is not sent: {head}"
    );
    let field = |name: &str| {
        let line = head
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{name}: ")));
        line.unwrap().to_owned()
    };
    // The head was kept in lower case, so is what it is compared with.
    let right = signature(&field("webhook-id"), &field("webhook-timestamp"), raw);
    assert_eq!(field("webhook-signature"), right.to_lowercase());
    assert_eq!(ends(&scene)[0]["by"]["who"], "webhook");
}

#[test]
fn an_answer_that_is_not_signed_with_the_secret_just_now_is_none() {
    let rows: [(Signs, &str); 4] = [
        (|_| String::new(), "is not signed"),
        (|body| fields(now(), &format!("{body} ")), "was changed"),
        (|body| fields(now() - 301, body), "more than 5 minutes"),
        (
            |body| fields(now(), body).replace("msg_answer", "msg_another"),
            "was changed",
        ),
    ];
    for (signs, why) in rows {
        let scene = scene("2 s");
        let service = serve_signed(vec![APPROVES], signs);
        let said = run_with(&scene, &service, "webhook-hmac");
        assert_eq!(said.out, "refused NotApproved\n", "{said}");
        assert!(said.err.contains(why), "{why}: {said}");
        assert_eq!(ends(&scene)[0]["how"], "expired");
    }
    // A question that is sent back as it was signed decides nothing.
    let scene = scene("2 s");
    let echo: Answer = |said| (200, said.clone());
    let service = serve_signed(vec![echo], |body| fields(now(), body));
    let said = run_with(&scene, &service, "webhook-hmac");
    assert_eq!(said.out, "refused NotApproved\n", "{said}");
}
