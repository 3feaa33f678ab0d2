//! `claviger key import`: takes in a private key that was made elsewhere. Shows its public side alone, as every command does.

use claviger_broker::import::MAX_FILE;
use claviger_broker::operator::Command as Order;
use claviger_core::Secret;
use claviger_core::custody::CustodyKind;

use super::{made, purpose};
use crate::args::KeyImport;
use crate::command::secret::read_value;
use crate::context::Context;
use crate::decrypt::decrypt;
use crate::exit::{Exit, Failure};
use crate::passphrase::Source;

/// What an operator accepts with an imported key.
const WEAKER: &str = "an imported key is weaker than one made here: whoever made it, its file and its backups may have it still, and no TPM \
                      can say that it never was elsewhere";

pub(super) fn run(cx: &Context, args: KeyImport) -> Result<Exit, Failure> {
    let profile = purpose::profile(&args.purpose)?;
    if !args.accept_imported {
        return Err(Failure::usage(WEAKER).help(
            "make one with `claviger key create` and have the old one replaced wherever it is trusted; or say `--accept-imported`",
        ));
    }
    let mut file = read_value(cx, &args.value, MAX_FILE, "private key")?;
    let mut file = Secret::take(&mut file).map_err(|error| Failure::of(Exit::Failed, &error))?;
    let passphrase = match (args.key_passphrase_file, args.key_passphrase_fd) {
        (Some(path), _) => Some(Source::File(path)),
        (None, Some(number)) => Some(Source::Descriptor(number)),
        (None, None) => None,
    };
    if let Some(source) = passphrase {
        file = decrypt(&file, &source.read(&cx.out)?)?;
    }
    let command = Order::ImportKey {
        name: args.name,
        profile,
        format: args.format.into(),
        custody: args.custody.map(CustodyKind::from),
    };
    let exit = made(cx, command, Some(file))?;
    cx.out.note(&format!("{WEAKER}; remove the file and its copies"));
    Ok(exit)
}
