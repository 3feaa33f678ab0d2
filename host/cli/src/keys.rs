//! Keys as the keyring shows them without being opened. For showing: nothing here is authenticated.

use claviger_broker::keyring::{KeyRecord, Keyring};
use claviger_core::KeyName;
use claviger_core::key::{KeySpec, KeyVersion};
use claviger_core::name::nearest;

use crate::context::Context;
use crate::exit::Failure;

/// Every version of every key.
pub(crate) fn list(cx: &Context) -> Result<Vec<KeyRecord>, Failure> {
    Ok(Keyring::list_public(&cx.keyring()?)?)
}

/// The active version of a key, else its newest.
pub(crate) fn find<'a>(keys: &'a [KeyRecord], name: &KeyName) -> Result<&'a KeyRecord, Failure> {
    let versions = || keys.iter().filter(|record| record.key.name == *name);
    versions()
        .find(|record| record.is_in_use())
        .or_else(|| versions().max_by_key(|record| record.key.version))
        .ok_or_else(|| {
            let failure = Failure::failed(format!("the keyring has no key `{name}`"));
            match near(keys, name) {
                Some(near) => failure.help(format!("did you mean `{near}`?")),
                None => failure.help("`claviger key list` shows the keys there are"),
            }
        })
}

/// The version of a key that was named; of a bare name as [`find`]. Whatever its state: a public half is there to verify old signatures.
pub(crate) fn named<'a>(keys: &'a [KeyRecord], spec: &KeySpec) -> Result<&'a KeyRecord, Failure> {
    let found = find(keys, &spec.name)?;
    let Some(version) = spec.version else {
        return Ok(found);
    };
    let versions = keys.iter().filter(|record| record.key.name == spec.name);
    versions
        .clone()
        .find(|record| record.key.version == version)
        .ok_or_else(|| {
            let there = versions.map(|record| (record.key.version, record.standing()));
            Failure::failed(format!("there is no key `{spec}`")).help(those_there(there))
        })
}

/// So many versions are listed where another was asked for.
const LISTED: usize = 16;

/// Which versions of a credential there are, the newest last.
pub(crate) fn those_there<'a>(versions: impl Iterator<Item = (KeyVersion, &'a str)>) -> String {
    let mut versions: Vec<_> = versions.collect();
    versions.sort_unstable();
    let older = versions.len().saturating_sub(LISTED);
    let each: Vec<_> = versions
        .iter()
        .skip(older)
        .map(|(version, standing)| format!("{version} ({standing})"))
        .collect();
    let older = if older == 0 {
        String::new()
    } else {
        format!("{older} older ones, ")
    };
    format!("it has {older}{}", each.join(", "))
}

fn near<'a>(keys: &'a [KeyRecord], name: &KeyName) -> Option<&'a str> {
    nearest(name.as_str(), keys.iter().map(|record| record.key.name.as_str()))
}
