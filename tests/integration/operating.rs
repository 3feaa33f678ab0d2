//! docs/operating.md, as its reader types it: every command of its console blocks, in order, on a fresh keyring.

use std::fs;
use std::process::Command;

use crate::cli_scene::{Scene, binary, finish};

/// The lines that begin with `$ ` in blocks marked `console`.
fn commands(text: &str) -> Vec<&str> {
    let mut console = false;
    let mut commands = Vec::new();
    for line in text.lines() {
        match line.trim_start().strip_prefix("```") {
            Some(mark) => console = mark == "console",
            None if console => commands.extend(line.trim_start().strip_prefix("$ ")),
            None => {}
        }
    }
    commands
}

#[test]
fn only_console_blocks_are_read() {
    let text = "$ no\n```\n$ no\n```\n```console\n$ claviger a\nsaid\n  $ claviger b\n```\n$ no\n";
    assert_eq!(commands(text), ["claviger a", "claviger b"]);
}

#[test]
fn every_command_of_the_operating_manual_works_in_its_order() {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operating.md")).unwrap();
    let commands = commands(&text);
    assert!(commands.len() > 10, "{commands:?}");
    let scene = Scene::bare();
    if !commands[0].starts_with("claviger init") {
        scene.run(&["init", "--custody", "swtpm"]).expect(0);
    }
    for line in commands {
        // A shell reads it, as a reader's does; the command is the one that was built.
        let mut command = Command::new("sh");
        let script = format!("claviger() {{ \"$CLAVIGER_BUILT\" \"$@\"; }}\n{line}");
        command.args(["-euc", &script]);
        scene.prepare(&mut command);
        command.env("CLAVIGER_BUILT", binary());
        finish(command).expect(0);
    }
}
