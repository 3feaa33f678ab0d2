//! What every command is given: where it writes, which keyring, how passphrases come. Opens nothing.

use std::path::PathBuf;

use crate::args::{Durability, Global};
use crate::exit::Failure;
use crate::output::Output;
use crate::passphrase::Source;

/// The global options, read once.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) out: Output,
    pub(crate) passphrase: Source,
    pub(crate) durability: Durability,
    keyring: Option<PathBuf>,
}

impl Context {
    pub(crate) fn new(global: Global) -> Self {
        let passphrase = match (global.passphrase_file, global.passphrase_fd) {
            (Some(file), _) => Source::File(file),
            (None, Some(number)) => Source::Descriptor(number),
            (None, None) => Source::Terminal,
        };
        Self {
            out: Output::new(global.json),
            passphrase,
            durability: global.durability,
            keyring: global.keyring,
        }
    }

    /// The keyring's folder, absolute.
    pub(crate) fn keyring(&self) -> Result<PathBuf, Failure> {
        let folder = match &self.keyring {
            Some(folder) if folder.as_os_str().is_empty() => {
                return Err(
                    Failure::usage("the keyring's folder is empty").help("give it with `--keyring DIR`")
                );
            }
            Some(folder) => folder.clone(),
            None => default_folder(|name| std::env::var_os(name).map(PathBuf::from)).ok_or_else(|| {
                Failure::usage("neither $XDG_DATA_HOME nor $HOME says where the keyring is")
                    .help("give it with `--keyring DIR`")
            })?,
        };
        std::path::absolute(&folder).map_err(|error| {
            Failure::failed("the keyring's folder cannot be made absolute").because(Some(&error))
        })
    }
}

/// A relative `XDG_DATA_HOME` is ignored, as the XDG Base Directory Specification asks.
fn default_folder(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let absolute = |name| variable(name).filter(|path| path.is_absolute());
    absolute("XDG_DATA_HOME")
        .or_else(|| Some(absolute("HOME")?.join(".local/share")))
        .map(|data| data.join("claviger"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keyring_is_where_the_xdg_specification_says() {
        let find = |pairs: &[(&str, &str)]| {
            default_folder(|name| {
                pairs
                    .iter()
                    .find(|(n, _)| *n == name)
                    .map(|(_, value)| value.into())
            })
        };
        assert_eq!(
            find(&[("XDG_DATA_HOME", "/d"), ("HOME", "/h")]),
            Some("/d/claviger".into())
        );
        assert_eq!(
            find(&[("XDG_DATA_HOME", "d"), ("HOME", "/h")]),
            Some("/h/.local/share/claviger".into())
        );
        assert_eq!(find(&[]), None);
    }
}
