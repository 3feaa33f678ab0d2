//! `cargo xtask`: what a developer and the build machine type. Not the tasks themselves: the library has those.
#![forbid(unsafe_code)]
#![expect(clippy::print_stderr, reason = "the last line of a task that failed")]

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The tasks of this repository.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, about)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Install what the build and the tests need, if something is missing.
    Setup,
    /// Build the guest components into `target/guests`.
    Guests {
        /// Build nothing; fail if they are not built from the sources as they are.
        #[arg(long)]
        check: bool,
    },
    /// Run every check and every test, as the build machine does.
    Test,
    /// Build the command and play the story of a first agent with it, in a temporary folder.
    Demo {
        /// Leave the folder behind.
        #[arg(long)]
        keep: bool,
    },
    /// Check the rules of the source tree: arrows between crates, headers, sizes, the contract, links.
    Tidy,
    /// Measure the performance budgets and print them as a table of ratios.
    Bench {
        /// Print from the last measurements, without measuring.
        #[arg(long)]
        print: bool,
    },
}

fn main() -> ExitCode {
    let done = xtask::metadata::root().and_then(|root| match Arguments::parse().task {
        Task::Setup => xtask::setup::setup().and_then(|()| xtask::python::setup(&root)),
        Task::Guests { check: false } => xtask::guests::build(&root),
        Task::Guests { check: true } => Ok(xtask::guests::check_fresh(&root)?),
        Task::Test => xtask::test::test(&root),
        Task::Demo { keep } => xtask::demo::demo(&root, keep),
        Task::Tidy => xtask::tidy::tidy(&root),
        Task::Bench { print: false } => xtask::bench::bench(&root),
        Task::Bench { print: true } => xtask::bench::print(&root),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nxtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
