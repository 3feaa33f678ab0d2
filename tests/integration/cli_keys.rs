//! The command with keys that came from elsewhere, with what it gives of a key to others, and with a key behind an SSH agent's socket.

use std::fs;
use std::process::Command;

use claviger_core::PublicKey;
use kit::judge::{judge, root};
use kit::process::Process;
use serde_json::{Value, json};

use crate::cli_scene::{HEAD, Said, Scene, finish};

/// A private key that openssl made in `name`, and its public half as PEM.
fn private_key(scene: &Scene, name: &str, arguments: &[&str]) -> String {
    let mut command = Command::new("openssl");
    command.args(arguments).args(["-out", name]);
    scene.prepare(&mut command);
    finish(command).expect(0);
    let mut command = Command::new("openssl");
    command.args(["pkey", "-in", name, "-pubout"]);
    scene.prepare(&mut command);
    finish(command).expect(0).out
}

const ED25519: &[&str] = &["genpkey", "-algorithm", "ED25519"];

fn import(scene: &Scene, words: &str, stdin: Option<&str>) -> Said {
    let words: Vec<&str> = ["key", "import"].into_iter().chain(words.split(' ')).collect();
    let mut command = scene.opening(&words);
    if let Some(name) = stdin {
        command.stdin(fs::File::open(scene.path(name)).unwrap());
    }
    finish(command)
}

#[test]
fn an_imported_key_is_taken_when_the_operator_accepts_what_it_weakens_and_is_marked_everywhere() {
    let scene = Scene::new();
    let public = private_key(&scene, "old.pem", ED25519);
    let refused = import(
        &scene,
        "old --profile git --mail bot@acme.example",
        Some("old.pem"),
    )
    .expect(2);
    assert!(
        refused
            .says(&["may have it still", "--accept-imported"])
            .out
            .is_empty()
    );
    assert_eq!(
        scene.run(&["key", "list", "--json"]).expect(0).lines().len(),
        3,
        "nothing was taken"
    );

    let words = "old --profile git --mail bot@acme.example --accept-imported --json";
    let taken = import(&scene, words, Some("old.pem"))
        .expect(0)
        .says(&["remove the file"])
        .lines();
    assert_eq!(taken[0]["source"], "imported");
    let pem = scene
        .run(&["key", "public", "old", "--format", "pem"])
        .expect(0)
        .out;
    assert_eq!(
        pem.trim_end(),
        public.trim_end(),
        "it is the key that openssl made"
    );
    for shown in [&["key", "list"][..], &["key", "show", "old"]] {
        assert!(scene.run(shown).expect(0).out.contains("imported"), "{shown:?}");
    }
    assert!(
        !scene
            .run(&["key", "show", "release"])
            .expect(0)
            .out
            .contains("imported"),
        "the control"
    );
    let created = |event: &Value| event["event"] == "key-created" && event["source"] == "imported";
    assert_eq!(scene.events().iter().filter(|event| created(event)).count(), 1);

    // The same key under another name would have two purposes.
    let again = "new --profile labeled --label x --accept-imported --file old.pem";
    import(&scene, again, None)
        .expect(1)
        .says(&["has this key already, as `old@v1`"]);
    // Its private half is in no file of the keyring.
    let file = fs::read_to_string(scene.path("old.pem")).unwrap();
    let secret = &file.lines().nth(1).unwrap()[22..];
    for (path, (_, bytes)) in scene.files() {
        let found = bytes
            .windows(secret.len())
            .any(|window| window == secret.as_bytes());
        assert_eq!(found, path.ends_with("old.pem"), "{}", path.display());
    }
}

#[test]
fn a_file_that_is_no_key_for_us_is_refused_with_what_to_do() {
    let scene = Scene::new();
    private_key(
        &scene,
        "rsa.pem",
        &["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
    );
    private_key(
        &scene,
        "p256.pem",
        &[
            "genpkey",
            "-algorithm",
            "EC",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
        ],
    );
    let mut command = Command::new("openssl");
    command.args([
        "pkcs8",
        "-topk8",
        "-in",
        "p256.pem",
        "-out",
        "locked.pem",
        "-passout",
        "pass:x",
    ]);
    scene.prepare(&mut command);
    finish(command).expect(0);
    scene.write("junk", "no key");
    scene.write("long", "x".repeat(20_000));
    let with = |name: &str, more: &str| {
        format!("k --profile labeled --label x --accept-imported --file {name}{more}")
    };
    for (words, code, says) in [
        (with("rsa.pem", ""), 2, "not rsa2048"),
        (with("locked.pem", ""), 1, "--key-passphrase-file FILE"),
        (with("junk", ""), 1, "no private key is there"),
        (with("long", ""), 1, "at most 16384 bytes"),
        (
            with("p256.pem", " --format jwk"),
            1,
            "in the form `pkcs8`, not `jwk`",
        ),
        (with("p256.pem", " --custody tpm"), 1, "no `tpm` custody"),
        (with("none.pem", ""), 1, "cannot be read"),
    ] {
        let said = import(&scene, &words, None).expect(code).says(&[says]);
        assert!(said.out.is_empty(), "{said}");
    }
    // A value on the command line is no option.
    import(
        &scene,
        "k --profile labeled --label x --accept-imported --value x",
        None,
    )
    .expect(2);
    import(&scene, &with("p256.pem", ""), None).expect(0);
}

#[test]
fn a_jose_library_takes_tokens_by_the_published_set_of_keys() {
    let scene = Scene::new();
    scene.manifest(
        "bot.toml",
        format!("{HEAD}\n[grants.token]\nsign = {{ key = \"token\" }}\n"),
    );
    let token = scene.script("sign token {}").expect(0).out;
    let token = token.trim();
    let set = scene
        .run(&["key", "public", "token", "--format", "jwks"])
        .expect(0)
        .lines()
        .remove(0);
    assert_eq!(set["keys"].as_array().unwrap().len(), 1);
    assert!(set["keys"][0]["d"].is_null());
    let (head, rest) = token.split_at(token.len() - 10);
    let mut other = set.clone();
    other["keys"][0]["kid"] = json!("another");
    let case = |token: &str, jwks: &Value| json!({"kind": "jwks", "token": token, "jwks": jwks, "alg": "ES256", "audience": "api"});
    let verdicts = judge(&[
        case(token, &set),
        case(&format!("{head}AAAAAAAAAA"), &set),
        case(token, &other),
    ]);
    let accepted: Vec<_> = verdicts.iter().map(|verdict| verdict.accepted).collect();
    assert_eq!(accepted, [true, false, false], "{verdicts:?} {rest}");
}

#[test]
fn allowed_signers_name_who_signs_what_and_when() {
    let scene = Scene::new();
    let form = ["--format", "allowed-signers"];
    let of = |key: &str, more: &[&str]| scene.run(&[&["key", "public", key][..], &form, more].concat());
    let line = of("release", &["--principal", "bot@acme.example"]).expect(0).out;
    assert!(
        line.starts_with("bot@acme.example namespaces=\"file,mail\",valid-after=\"20"),
        "{line}"
    );
    scene.write("signers", &line);
    scene.write(
        "signature",
        scene
            .script("sign release the release")
            .expect(0)
            .out
            .replace('|', "\n"),
    );
    scene.write("content", "the release");
    for (name, namespace, code) in [
        ("bot@acme.example", "file", 0),
        ("eve@acme.example", "file", 255),
        ("bot@acme.example", "git", 255),
    ] {
        let mut command = Command::new("ssh-keygen");
        command.args([
            "-Y",
            "verify",
            "-f",
            "signers",
            "-I",
            name,
            "-n",
            namespace,
            "-s",
            "signature",
        ]);
        scene.prepare(&mut command);
        command.stdin(fs::File::open(scene.path("content")).unwrap());
        finish(command).expect(code);
    }
    of("release", &[]).expect(2).says(&["--principal"]);
    of("token", &["--principal", "x"])
        .expect(2)
        .says(&["`git` or `sshsig`"]);
    of("release", &["--principal", "a,b"]).expect(2);
    scene
        .run(&["key", "public", "release", "--principal", "x"])
        .expect(2);
}

#[test]
fn an_ssh_agent_lists_its_key_signs_no_bytes_and_ends_with_its_signal() {
    let scene = Scene::new();
    let login = [
        "key",
        "create",
        "login",
        "--profile",
        "ssh-auth",
        "--user",
        "deploy",
    ];
    scene.open(&login).expect(0);
    let host = format!("SHA256:{}", "A".repeat(43));
    let sign = format!("\n[grants.login]\nsign = {{ key = \"login\", host-keys = [\"{host}\"] }}\n");
    scene.manifest("bot.toml", format!("{HEAD}{sign}"));
    scene
        .open(&["ssh-agent", "bot.toml", "logn", "--socket", "agent.sock"])
        .expect(1)
        .says(&["did you mean `login`"]);

    let mut command = scene.opening(&["ssh-agent", "bot.toml", "login", "--socket", "agent.sock"]);
    let mut agent = Process::start(&mut command, "run `cargo build -p claviger-cli`");
    assert_eq!(agent.line().as_deref(), Some("agent.sock"), "{}", agent.id());
    let ask = |arguments: &[&str]| {
        let mut command = Command::new("ssh-add");
        command.args(arguments);
        scene.prepare(&mut command);
        command.env("SSH_AUTH_SOCK", scene.path("agent.sock"));
        finish(command)
    };
    let public = scene.run(&["key", "public", "login"]).expect(0).out;
    let listed = ask(&["-L"]).expect(0).out;
    assert_eq!(listed.split(' ').nth(1), public.split(' ').nth(1));
    scene.write("login.pub", &public);
    assert_ne!(ask(&["-T", "login.pub"]).code, 0, "random bytes are not signed");
    assert_eq!(scene.uses(), 0);
    let id = agent.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &id])
            .status()
            .unwrap()
            .success()
    );
    let (status, _) = agent.ended();
    assert_eq!(status.code(), Some(143), "{}", agent.errors());
    assert!(!scene.path("agent.sock").exists());
    assert_eq!(
        scene
            .events()
            .iter()
            .filter(|event| event["event"] == "denied")
            .count(),
        1
    );
}

/// The names that a way out of a private key would have.
const WAYS_OUT: [&str; 8] = [
    "export",
    "reveal",
    "private",
    "unwrap-key",
    "secret-key",
    "dump",
    "show-secret",
    "get-secret",
];

/// Every command with its subcommands, and its help.
fn help_of(scene: &Scene, command: &[&str], all: &mut Vec<(String, String)>) {
    let help = scene.run(&[command, &["--help"]].concat()).expect(0).out;
    let subcommands: Vec<String> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| line.starts_with("  "))
        .filter_map(|line| line.strip_prefix("  ")?.split(' ').next())
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect();
    all.push((command.join(" "), help));
    for name in subcommands {
        help_of(scene, &[command, &[name.as_str()]].concat(), all);
    }
}

#[test]
fn no_command_contract_or_library_gives_a_private_key_out() {
    // Commands and options, by their names.
    let scene = Scene::bare();
    let mut commands = Vec::new();
    help_of(&scene, &[], &mut commands);
    assert!(
        commands.iter().any(|(name, _)| name == "key public"),
        "the control: {commands:?}"
    );
    for (name, help) in &commands {
        let options = help
            .lines()
            .filter_map(|line| line.trim_start().strip_prefix("--"));
        let options = options.filter_map(|line| line.split([' ', '=', ',']).next());
        for word in name.split(' ').chain(options) {
            assert!(
                !WAYS_OUT.iter().any(|way| word.contains(way)),
                "`claviger {name}` has `{word}`"
            );
        }
    }
    // Interfaces and their functions, in the contract with agents.
    let mut named = 0;
    for package in ["agent", "credentials"] {
        for file in fs::read_dir(root().join("wit").join(package)).unwrap() {
            let text = fs::read_to_string(file.unwrap().path()).unwrap();
            for line in text.lines().map(str::trim).filter(|line| !line.starts_with("//")) {
                named += usize::from(line.contains("func("));
                // What an agent exports is not what it is given.
                let exported = ["export run;", "export rotation;"].contains(&line);
                assert!(
                    exported || !WAYS_OUT.iter().any(|way| line.contains(way)),
                    "{line}"
                );
            }
        }
    }
    assert!(named > 5, "the control: functions were read");
    // Public functions of the libraries that hold keys.
    let mut functions = 0;
    for package in ["core", "broker", "tpm", "runtime", "egress"] {
        let mut folders = vec![root().join("host").join(package).join("src")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let text = fs::read_to_string(&path).unwrap();
                for line in text.lines().map(str::trim_start) {
                    let line = ["pub fn ", "pub async fn ", "pub const fn "]
                        .iter()
                        .find_map(|start| line.strip_prefix(start));
                    let Some(name) = line.and_then(|line| line.split(['(', '<']).next()) else {
                        continue;
                    };
                    functions += 1;
                    let name = name.replace('_', "-");
                    assert!(
                        !WAYS_OUT.iter().any(|way| name.contains(way)),
                        "{} has {name}",
                        path.display()
                    );
                }
            }
        }
    }
    assert!(functions > 300, "the control: {functions} functions were read");
    // The one type that is public and has a private key inside gives out its public half alone.
    let _: fn(&claviger_broker::import::ImportedKey) -> &PublicKey =
        claviger_broker::import::ImportedKey::public;
}
