//! `claviger run` with components that are hostile, broken or not components, and what agents may say and take.

use crate::cli_scene::{GRANT, HEAD, Scene, finish};

/// What would move a cursor, ring a bell or turn text round.
const HOSTILE: &str = "\u{1b}[2J\u{9b}31m\u{202e}\u{7}";

#[test]
fn an_import_without_a_grant_is_denied_and_named_with_the_line_that_grants_it() {
    let scene = Scene::new();
    scene.manifest("none.toml", HEAD);
    scene.open(&["run", "none.toml", "echo hi"]).expect(3).says(&[
        "imports what it was not granted",
        "claviger:credentials/signing@0.1.0",
        "[grants.<alias>]",
        "sign = { key =",
    ]);
    assert_eq!(scene.script("echo hi").expect(0).out, "hi\n");
}

#[test]
fn what_is_no_component_is_a_clear_error_and_leaves_nothing_behind() {
    let scene = Scene::new();
    let agent = scene.read("agent.wasm");
    let noise: Vec<u8> = (0..4096_u32)
        .map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0])
        .collect();
    let rows: [(&str, &[u8], &str); 6] = [
        ("a core module", b"\0asm\x01\0\0\0", "core module"),
        ("half", &agent[..agent.len() / 2], "cannot be compiled"),
        ("nothing", b"", "not WebAssembly"),
        ("noise", &noise, "not WebAssembly"),
        ("a program", b"\x7fELF\x02\x01\x01", "not WebAssembly"),
        ("text", b"(component)", "not WebAssembly"),
    ];
    let cached = || {
        scene
            .files()
            .into_keys()
            .filter(|path| path.starts_with("keyring/cache"))
            .count()
    };
    let before = cached();
    for (what, bytes, part) in rows {
        scene.write("bad.wasm", bytes);
        scene.manifest(
            "bad.toml",
            format!("{HEAD}{GRANT}").replace("agent.wasm", "bad.wasm"),
        );
        let said = scene
            .open(&["run", "bad.toml", "hi"])
            .expect(1)
            .says(&["error: ", part]);
        assert_eq!((said.out.as_str(), cached()), ("", before), "{what}");
        let last = scene.events().pop().unwrap();
        assert_eq!(last["event"], "host-stopped", "{what}");
        let logged: Vec<_> = scene
            .events()
            .into_iter()
            .filter(|event| event["event"] == "not-admitted")
            .collect();
        let reason = logged.last().unwrap()["reasons"][0].clone();
        assert!(reason.as_str().unwrap().contains(part), "{what}: {reason}");
    }
    let names: Vec<_> = scene
        .files()
        .into_keys()
        .filter(|path| !path.starts_with("keyring"))
        .collect();
    assert_eq!(names.len(), 5, "no temporary file: {names:?}");
    scene.run(&["audit", "verify"]).expect(0);
}

#[test]
fn a_cache_entry_that_was_not_made_here_is_replaced_and_said() {
    let scene = Scene::new();
    let entry = scene
        .files()
        .into_keys()
        .find(|path| path.starts_with("keyring/cache"))
        .unwrap();
    let entry = entry.to_str().unwrap();
    let good = scene.read(entry);
    let mut forged = good.clone();
    forged[good.len() / 2] ^= 1;
    for bad in [forged.as_slice(), &good[..good.len() - 1], &good[..16], b""] {
        scene.write(entry, bad);
        let said = scene
            .script("echo hi")
            .expect(0)
            .says(&["warning:", "was not made by this keyring and was replaced"]);
        assert_eq!(said.out, "hi\n");
        let again = scene.script("echo hi").expect(0);
        assert_eq!(again.out, "hi\n");
        // Whatever else it says: on a slow machine it says that it takes a while.
        let replaced = again.err.contains("was not made by this keyring");
        assert!(
            !replaced && !again.err.contains("compiled again"),
            "the new entry is used: {again}"
        );
    }
}

#[test]
fn what_an_agent_says_cannot_pass_for_ours_nor_drive_a_terminal() {
    let scene = Scene::new();
    let failed = scene.script(&format!("fail {HOSTILE}")).expect(1);
    let harmless = |text: &str| {
        !text
            .chars()
            .any(|c| HOSTILE.contains(c) && c.is_control() || c == '\u{202e}')
    };
    assert!(harmless(&failed.err), "{failed}");
    failed.says(&["error: agent `bot` failed: \\u{1b}[2J"]);
    let json = scene
        .open(&["run", "bot.toml", &format!("fail {HOSTILE}"), "--json"])
        .expect(1);
    assert!(harmless(&json.err), "{json}");
    assert!(
        json.lines()[0]["error"]
            .as_str()
            .unwrap()
            .starts_with(HOSTILE.chars().next().unwrap()),
        "data is as it is"
    );

    // Lines on stderr carry the agent's name.
    let printed = scene.script("print-error 5\nprint 3").expect(0);
    assert!(
        printed.err.contains("bot | eeeee\n") && printed.err.contains("bot | ooo\n"),
        "{printed}"
    );

    // To a pipe the answer goes as it is; a terminal gets it escaped.
    let piped = scene.script(&format!("echo {HOSTILE}")).expect(0);
    assert_eq!(piped.out, format!("{HOSTILE}\n"));
    scene.write("input", format!("echo {HOSTILE}"));
    let mut command = std::process::Command::new("script");
    let line = format!(
        "{} run bot.toml --input-file input --passphrase-file passphrase",
        crate::cli_scene::binary().display()
    );
    command.args(["-qec", &line, "/dev/null"]);
    scene.prepare(&mut command);
    let shown = finish(command).expect(0);
    assert!(
        shown.out.contains("\\u{1b}[2J") && harmless(&shown.out),
        "{shown}"
    );
}

#[test]
fn input_comes_from_an_argument_a_file_or_stdin() {
    let scene = Scene::new();
    scene.write("input", "echo from a file");
    assert_eq!(
        scene
            .open(&["run", "bot.toml", "--input-file", "input"])
            .expect(0)
            .out,
        "from a file\n"
    );
    assert_eq!(
        scene.open(&["run", "bot.toml", "echo from here"]).expect(0).out,
        "from here\n"
    );
    assert_eq!(scene.open(&["run", "bot.toml"]).expect(0).out, "\n");
    let from_stdin = |name: &str| {
        let mut command = scene.opening(&["run", "bot.toml", "--stdin"]);
        command.stdin(std::fs::File::open(scene.path(name)).unwrap());
        finish(command)
    };
    assert_eq!(from_stdin("input").expect(0).out, "from a file\n");
    scene.write("latin", b"echo \xe9");
    from_stdin("latin").expect(1).says(&["not UTF-8"]);
    scene.write("huge", vec![b'x'; (1 << 20) + 1]);
    from_stdin("huge").expect(1).says(&["at most 1048576 bytes"]);
    scene
        .open(&["run", "bot.toml", "--input-file", "huge"])
        .expect(1)
        .says(&["over 1048576 bytes"]);
    scene
        .open(&["run", "bot.toml", "--input-file", "none"])
        .expect(1)
        .says(&["No such file"]);
    scene.open(&["run", "bot.toml", "x", "--stdin"]).expect(2);
}

#[test]
fn an_agent_that_goes_too_far_is_stopped_with_the_limit_named() {
    let scene = Scene::new();
    let limits = "\n[limits]\nmemory = \"2 MiB\"\ndeadline = \"60 s\"\ncpu = \"1 s\"\noutput = \"10 KiB\"\n";
    scene.manifest("limits.toml", format!("{HEAD}{limits}{GRANT}"));
    scene.manifest(
        "short.toml",
        format!("{HEAD}{}{GRANT}", limits.replace("60 s", "1 s")),
    );
    for (manifest, command, part) in [
        ("limits.toml", "loop", "`cpu`"),
        ("short.toml", "sleep 600000", "`deadline`"),
        ("limits.toml", "alloc", "`memory`"),
        ("limits.toml", "print-forever", "`output`"),
        ("limits.toml", "recurse", "nested too deeply"),
        ("limits.toml", "open-many release 100000", "handles"),
        ("limits.toml", "trap", "trapped"),
        ("limits.toml", "exit 1", "exit code 1"),
        ("limits.toml", "nonsense", "has no command"),
    ] {
        scene.open(&["run", manifest, command]).expect(1).says(&[part]);
    }
    scene.run(&["audit", "verify"]).expect(0);
}
