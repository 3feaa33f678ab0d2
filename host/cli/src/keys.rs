//! Keys as the keyring shows them without being opened. For showing: nothing here is authenticated.

use claviger_broker::keyring::{KeyRecord, Keyring};
use claviger_core::KeyName;
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

fn near<'a>(keys: &'a [KeyRecord], name: &KeyName) -> Option<&'a str> {
    nearest(name.as_str(), keys.iter().map(|record| record.key.name.as_str()))
}
