//! The command while another one runs an agent: what an operator stops holds at the agent's next call, without a passphrase and without a
//! restart; and what reaches the running host besides, through its socket.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use crate::cli_scene::{GRANT, HEAD, Said, Scene, finish, until_it_speaks, wait};

const SOCKET: &str = "keyring/control.sock";
/// Speaks, and signs until it is refused.
const SIGNS: &str = "print-error 5000\nsign-until-refused release";

/// Waits until it is killed.
pub(crate) const WAITS: &str = "print-error 5000\nsleep 500000";
/// Nothing ends by itself while commands are given on a busy machine.
const LIMITS: &str = "[limits]\ndeadline = \"10 min\"\ncpu = \"5 min\"\n";

/// Starts a run, and waits until its agent runs.
pub(crate) fn running(scene: &Scene, script: &str) -> Child {
    scene.manifest("bot.toml", format!("{HEAD}{LIMITS}{GRANT}"));
    let mut child = scene
        .opening(&["run", "bot.toml", script])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    until_it_speaks(&mut child);
    child
}

pub(crate) fn ended(child: Child) -> Said {
    wait(child, "the run".to_owned())
}

pub(crate) fn kill(child: &Child, signal: &str) {
    let id = child.id().to_string();
    assert!(
        Command::new("kill")
            .args([signal, &id])
            .status()
            .unwrap()
            .success()
    );
}

/// Feeds a command's stdin.
fn fed(scene: &Scene, arguments: &[&str], input: &str) -> Said {
    let mut child = scene
        .command(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Dropped: it sees the end.
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    wait(child, format!("{arguments:?}"))
}

#[test]
fn what_an_operator_stops_is_refused_to_a_running_agent_at_its_next_call() {
    for (command, refusal) in [
        (&["key", "revoke", "release"][..], "Revoked"),
        (&["key", "disable", "release"], "Revoked"),
        (&["grant", "suspend", "bot", "release"], "Suspended"),
        (&["agent", "suspend", "bot"], "Suspended"),
        (&["panic"], "Suspended"),
    ] {
        let scene = Scene::new();
        let child = running(&scene, SIGNS);
        let host = format!("the running host, process {}, did it", child.id());
        // Without a passphrase: `run` gives none.
        let said = scene.run(command).expect(0).says(&[&host]);
        assert!(!said.out.is_empty(), "{said}");
        let run = ended(child).expect(0);
        assert!(run.out.starts_with("printed 5000\nsigned "), "{command:?}: {run}");
        assert!(
            run.out.ends_with(&format!(", then {refusal}\n")),
            "{command:?}: {run}"
        );
        assert!(!scene.path(SOCKET).exists(), "it goes with the host");
        // On the log nothing is released after what stopped it.
        let events = scene.events();
        let stopped = events.iter().position(|event| {
            ["key-state-changed", "suspended", "agent-suspended", "panic"]
                .iter()
                .any(|kind| event["event"] == *kind)
        });
        let late = events[stopped.unwrap()..]
            .iter()
            .filter(|event| event["settlement"] == "released");
        assert_eq!(late.count(), 0, "{command:?}");
        scene.run(&["audit", "verify"]).expect(0);
    }
}

#[test]
fn a_panic_outlives_the_host_and_is_lifted_by_name() {
    let scene = Scene::new();
    let child = running(&scene, SIGNS);
    scene.run(&["panic"]).expect(0);
    ended(child).expect(0);
    for _ in 0..2 {
        let refused = scene
            .script("sign release x")
            .expect(0)
            .says(&["claviger panic --lift"]);
        assert_eq!(refused.out, "refused Suspended\n");
    }
    for (command, part) in [
        (&["grant", "list"][..], "stopped by panic"),
        (&["agent", "list"], "stopped by panic"),
    ] {
        let said = scene.run(command).expect(0);
        assert!(said.out.contains(part), "{said}");
    }
    let explained = scene.run(&["explain", "bot.toml", "release", "--json"]).expect(3);
    assert_eq!(explained.lines()[0]["denied_by"], "suspension");
    scene.open(&["panic", "--lift"]).expect(0);
    assert!(scene.script("sign release x").expect(0).out.contains("SIGNATURE"));
    scene
        .open(&["panic", "--lift"])
        .expect(1)
        .says(&["is not stopped"]);
}

#[test]
fn an_agent_is_suspended_as_a_whole_and_resumed() {
    let scene = Scene::new();
    let notes = "\n[grants.notes]\nsign = { key = \"notes\" }\n";
    scene.manifest("bot.toml", format!("{HEAD}{GRANT}{notes}"));
    let both = "sign release x\nsign notes x";
    scene.script(both).expect(0);
    scene.open(&["agent", "suspend", "bot"]).expect(0);
    let refused = scene.script(both).expect(0).says(&["claviger agent resume bot"]);
    assert_eq!(refused.out, "refused Suspended\nrefused Suspended\n");
    let listed = scene.run(&["agent", "list", "--json"]).expect(0).lines();
    assert_eq!(
        (&listed[0]["agent"], &listed[0]["suspended"]),
        (&"bot".into(), &true.into())
    );
    scene.open(&["agent", "resume", "bot"]).expect(0);
    assert!(!scene.script(both).expect(0).out.contains("refused"));
    scene
        .open(&["agent", "resume", "bot"])
        .expect(1)
        .says(&["is not suspended"]);
    scene
        .open(&["agent", "suspend", "bto"])
        .expect(0)
        .says(&["warning:", "did you mean `bot`"]);
}

#[test]
fn keys_and_secrets_are_made_and_changed_by_the_running_host() {
    let scene = Scene::new();
    let value = "canary-of-forty-characters-0123456789abcd";
    let child = running(&scene, WAITS);
    let host = format!("process {}", child.id());
    let add = "secret add github --kind bearer --origin https://api.invalid";
    let add: Vec<&str> = add.split(' ').collect();
    let mut said = vec![fed(&scene, &add, value)];
    scene.write("value", value.replace('4', "5"));
    for line in [
        "secret replace github --file value",
        "secret disable github --json",
        "secret enable github",
        "secret revoke github",
        "secret rm github",
        "key create fresh --profile labeled --label fresh",
        "key create certified --profile mtls",
        "key csr certified --subject CN=bot",
        "audit checkpoint",
        "audit accept-clock",
    ] {
        said.push(scene.run(&line.split(' ').collect::<Vec<_>>()));
    }
    // Wrong here is wrong there, with the same codes.
    for (line, code, part) in [
        ("key revoke none", 1, "no key"),
        ("key create fresh --profile labeled --label x", 1, "already"),
        ("grant resume bot release", 1, "is not suspended"),
        ("panic --lift", 1, "is not stopped"),
        ("key csr certified --subject x", 2, "subject"),
    ] {
        let refused = scene.run(&line.split(' ').collect::<Vec<_>>()).expect(code);
        assert!(refused.err.contains(part), "{refused}");
    }
    kill(&child, "-TERM");
    let run = ended(child).expect(143);
    for said in said {
        let said = said.expect(0).says(&[&host]);
        assert!(
            !said.out.is_empty() && !said.to_string().contains("canary"),
            "{said}"
        );
    }
    assert!(!run.to_string().contains("canary"));
    let secrets = scene.run(&["secret", "list", "--json"]).expect(0).lines();
    let states: Vec<_> = secrets.iter().map(|one| one["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["deleted", "deleted"]);
    // The control: what was made through the socket is a key like any other.
    let notes = "\n[grants.fresh]\nsign = { key = \"fresh\" }\n";
    scene.manifest("bot.toml", format!("{HEAD}{notes}"));
    scene.script("sign fresh x").expect(0);
    for entry in fs::read_dir(scene.path("keyring/audit")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let bytes = fs::read(&path).unwrap();
            let found = bytes.windows(6).any(|window| window == b"canary");
            assert!(!found, "{}", path.display());
        }
    }
}

#[test]
fn broken_input_on_the_socket_disturbs_nobody() {
    let scene = Scene::new();
    let child = running(&scene, SIGNS);
    let meta = fs::symlink_metadata(scene.path(SOCKET)).unwrap();
    assert!(meta.file_type().is_socket());
    assert_eq!(meta.permissions().mode() & 0o777, 0o600);
    let mut open = Vec::new();
    for bytes in [
        &b""[..],
        b"\xff\xff\xff\xff",
        b"\0\0\0\x02{}",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\0\0\x01",
        &[0; 100_000],
    ] {
        let mut peer = UnixStream::connect(scene.path(SOCKET)).unwrap();
        // It may be let go before everything is sent.
        drop(peer.write_all(bytes));
        open.push(peer);
    }
    scene.run(&["doctor"]).expect(0);
    scene.run(&["key", "revoke", "release"]).expect(0);
    let run = ended(child).expect(0);
    assert!(run.out.ends_with(", then Revoked\n"), "{run}");
    for mut peer in open {
        let mut said = Vec::new();
        drop(peer.read_to_end(&mut said));
        let text = String::from_utf8_lossy(&said);
        assert!(!text.contains("done"), "{text}");
    }
}

#[test]
fn a_host_that_was_killed_leaves_nothing_in_the_way() {
    let scene = Scene::new();
    let child = running(&scene, WAITS);
    kill(&child, "-KILL");
    ended(child);
    assert!(scene.path(SOCKET).exists(), "it had no time to remove it");
    // Nobody is there to ask: here, with the passphrase.
    let here = scene.open(&["grant", "suspend", "bot", "another"]).expect(0);
    assert!(!here.err.contains("the running host"), "{here}");
    let child = running(&scene, SIGNS);
    scene
        .run(&["panic"])
        .expect(0)
        .says(&[&format!("process {}", child.id())]);
    assert!(ended(child).expect(0).out.ends_with(", then Suspended\n"));
    assert!(!scene.path(SOCKET).exists());
}

#[test]
fn without_a_host_nothing_is_done_without_the_passphrase() {
    let scene = Scene::new();
    for command in [
        &["panic"][..],
        &["agent", "suspend", "bot"],
        &["key", "revoke", "release"],
    ] {
        scene.run(command).expect(1).says(&["--passphrase-file"]);
    }
    assert!(scene.script("sign release x").expect(0).out.contains("SIGNATURE"));
}

#[test]
fn no_agent_is_given_the_folder_with_the_socket() {
    let scene = Scene::new();
    fs::create_dir(scene.path("elsewhere")).unwrap();
    scene.write("elsewhere/file", "hello");
    let files = |host: &str| {
        let files = format!("[files]\n\"/d\" = {{ host = \"{host}\", access = \"read-write\" }}\n");
        scene.manifest("bot.toml", format!("{HEAD}{files}{GRANT}"));
        finish(scene.opening(&["run", "bot.toml", "list /d\nread /d/control.sock\nread /d/file"]))
    };
    for host in ["keyring", ".", "keyring/audit"] {
        files(host).expect(1).says(&["no agent may see"]);
    }
    // The control: another folder is given, and no path leads from it to a socket.
    std::os::unix::fs::symlink("../keyring/control.sock", scene.path("elsewhere/control.sock")).unwrap();
    let said = files("elsewhere").expect(0);
    assert!(said.out.contains("hello"), "{said}");
    let read = said.out.lines().nth(1).unwrap_or_default().to_owned();
    assert!(read.starts_with("error "), "{said}");
    // And there are no sockets for agents at all.
    assert!(
        scene
            .script("connect 127.0.0.1:9")
            .expect(0)
            .out
            .contains("error")
    );
}
