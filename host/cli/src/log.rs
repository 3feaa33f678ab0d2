//! The keyring's audit log, opened to read. Takes no lock and no key; proves nothing by itself: `audit verify` does.

use std::path::PathBuf;
use std::time::Duration;

use claviger_broker::audit::Reader;
use claviger_broker::keyring::{Keyring, KeyringError};
use claviger_broker::ledger::Ledger;
use claviger_broker::local::AUDIT_FOLDER;

use crate::context::Context;
use crate::exit::Failure;

/// How often a followed log is looked at.
pub(crate) const POLL: Duration = Duration::from_millis(250);

/// Where it is.
fn folder(cx: &Context) -> Result<PathBuf, Failure> {
    Ok(cx.keyring()?.join(AUDIT_FOLDER))
}

/// Its verifier key, as the keyring beside it says.
pub(crate) fn vkey(cx: &Context) -> Result<String, Failure> {
    Keyring::peek(&cx.keyring()?)?.vkey.ok_or_else(|| {
        Failure::failed("the keyring names no audit log").help("`claviger doctor` says what is wrong with it")
    })
}

/// Where it is, and that it is there: a keyring without its log was tampered with.
pub(crate) fn present(cx: &Context) -> Result<PathBuf, Failure> {
    let folder = folder(cx)?;
    if !folder.exists() {
        // Says how to make a keyring, if there is none.
        drop(Keyring::peek(&cx.keyring()?)?);
        if !folder.exists() {
            return Err(KeyringError::Integrity {
                what: "its audit log is gone".to_owned(),
            }
            .into());
        }
    }
    Ok(folder)
}

/// Opens the log to read.
pub(crate) fn open(cx: &Context) -> Result<Reader, Failure> {
    Ok(Reader::open(&present(cx)?)?)
}

/// What the log says of grants, keys and the time.
pub(crate) fn ledger(cx: &Context) -> Result<Ledger, Failure> {
    let mut ledger = Ledger::default();
    for entry in open(cx)?.entries(0) {
        let (index, entry) = entry?;
        ledger.apply(index, &entry);
    }
    Ok(ledger)
}
