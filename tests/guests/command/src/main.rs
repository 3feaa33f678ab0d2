//! A plain command: copies stdin to stdout in capitals, and fails when told to. No agent of ours.

use std::io::Read as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut input = String::new();
    if let Err(error) = std::io::stdin().read_to_string(&mut input) {
        report(&error.to_string());
        return ExitCode::from(2);
    }
    if let Some(wanted) = input.strip_prefix("exit ") {
        report("leaving");
        std::process::exit(i32::from(wanted.trim() != "0"));
    }
    for (name, value) in std::env::vars() {
        say(&format!("{name}={value}"));
    }
    say(&std::env::args().collect::<Vec<_>>().join(" "));
    say(&input.to_uppercase());
    ExitCode::SUCCESS
}

#[expect(clippy::print_stdout, reason = "it is a command")]
fn say(text: &str) {
    println!("{text}");
}

#[expect(clippy::print_stderr, reason = "it is a command")]
fn report(text: &str) {
    eprintln!("{text}");
}
