//! `claviger completions` and `claviger man`: from the same definition as the help.

use std::path::Path;

use clap::CommandFactory as _;

use crate::args::Arguments;
use crate::context::Context;
use crate::exit::{Exit, Failure};

/// Writes the completions of a shell to stdout.
pub(crate) fn completions(cx: &Context, shell: clap_complete::Shell) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "claviger", &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    cx.out.value(
        &serde_json::json!({ "shell": shell.to_string(), "script": script }),
        |_| script.clone(),
    );
    Ok(Exit::Done)
}

/// Writes a page for each command that is not hidden.
pub(crate) fn man(cx: &Context, folder: &Path) -> Result<Exit, Failure> {
    std::fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(Arguments::command(), folder))
        .map_err(|error| {
            Failure::failed(format!("the manual cannot be written to `{}`", folder.display()))
                .because(Some(&error))
        })?;
    cx.out.value(&serde_json::json!({ "folder": folder }), |_| {
        format!("wrote the manual to {}", folder.display())
    });
    Ok(Exit::Done)
}
