//! The `claviger` command: reads arguments, calls the crates that do the work, shows what they say. Decides nothing itself.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory as _, Parser as _};

use crate::args::{Arguments, Command};
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::output::Output;

mod args;
mod asking;
mod bound;
mod command;
mod context;
mod credentials;
mod decrypt;
mod diagnose;
mod entry;
mod errors;
mod exit;
mod file;
mod harden;
mod interruption;
mod keys;
mod log;
mod manifest;
mod operate;
mod output;
mod overview;
mod passphrase;
mod progress;
mod question;
mod unlock;
mod webhook;
mod words;

fn main() -> ExitCode {
    // Before anything else starts a thread. A libtss2 that cannot be quietened only says more on stderr.
    let _quiet = claviger_tpm::quiet_libtss2();
    harden::process();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return misuse(&error),
    };
    if let Command::Compile = arguments.command {
        return command::compile::run();
    }
    let cx = Context::new(arguments.global);
    let ended = dispatch(&cx, arguments.command).and_then(|exit| cx.out.finish().map(|()| exit));
    match ended {
        Ok(exit) => exit.into(),
        Err(failure) => {
            cx.out.failure(&failure);
            failure.exit.into()
        }
    }
}

/// Help goes to stdout, misuse to stderr: as JSON if it was asked for anywhere, since what is wrong may stand before it.
fn misuse(error: &clap::Error) -> ExitCode {
    let asks_for_json = || {
        std::env::args_os()
            .skip(1)
            .take_while(|arg| arg != "--")
            .any(|arg| arg == "--json")
    };
    let json = error.use_stderr() && asks_for_json();
    if json || error.kind() == ErrorKind::MissingSubcommand {
        Output::new(json).failure(&words(error));
        return Exit::Usage.into();
    }
    // A closed pipe needs no word.
    drop(error.print());
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Exit::Usage.code()))
}

/// What was misused, in words. Of a missing command clap would say the hidden ones, too.
fn words(error: &clap::Error) -> Failure {
    if let (ErrorKind::MissingSubcommand, Some(ContextValue::Strings(valid))) =
        (error.kind(), error.get(ContextKind::ValidSubcommand))
    {
        let hidden = |name: &str| {
            Arguments::command()
                .find_subcommand(name)
                .is_some_and(clap::Command::is_hide_set)
        };
        let shown: Vec<_> = valid
            .iter()
            .map(String::as_str)
            .filter(|name| !hidden(name))
            .collect();
        let failure = Failure::usage(format!(
            "a command is missing; expected one of {}",
            shown.join(", ")
        ))
        .help("`--help` after what you typed says what each does");
        return match error.get(ContextKind::Usage) {
            Some(ContextValue::StyledStr(usage)) => failure.help(usage.to_string()),
            Some(_) | None => failure,
        };
    }
    let text = error.render().to_string();
    Failure::usage(text.strip_prefix("error: ").unwrap_or(&text).trim_end())
}

fn dispatch(cx: &Context, command: Command) -> Result<Exit, Failure> {
    match command {
        Command::Init(args) => command::init::run(cx, &args),
        Command::New(args) => command::new::run(cx, &args),
        Command::Key(args) => command::key::run(cx, args),
        Command::Secret(args) => command::secret::run(cx, args),
        Command::Status => command::status::status(cx),
        Command::Rotate(args) => command::status::rotate(cx, &args),
        Command::Check(args) => command::check::run(cx, &args),
        Command::Pin(args) => command::pin::run(cx, &args),
        Command::Run(args) => command::run::run(cx, &args),
        Command::SshAgent(args) => command::ssh_agent::run(cx, &args),
        Command::Explain(args) => command::explain::run(cx, &args),
        Command::Approvals(args) => command::approvals::list(cx, &args),
        Command::Approve(args) => command::approvals::approve(cx, &args),
        Command::Deny(args) => command::approvals::deny(cx, &args),
        Command::Grant(args) => command::grant::run(cx, args),
        Command::Agent(args) => command::agent::run(cx, args),
        Command::Panic(args) => command::panic::run(cx, &args),
        Command::Audit(args) => command::audit::run(cx, &args),
        Command::Backup(args) => command::backup::run(cx, args),
        Command::Keyring(args) => command::keyring::run(cx, args),
        Command::Doctor => command::doctor::run(cx),
        Command::Completions { shell } => command::docs::completions(cx, shell),
        Command::Man { dir } => command::docs::man(cx, &dir),
        // `main` did that already, before anything else.
        Command::Compile => Err(Failure::usage("`__compile` is called by `claviger run` only")),
    }
}
