//! SSHSIG framing (OpenSSH PROTOCOL.sshsig) through the `ssh-key` crate. Not SSH user authentication: that has another frame.

use ssh_key::{HashAlg, LineEnding, SshSig};

use super::ssh;
use crate::key::{KeyError, PublicKey, Signature};
use crate::name::Namespace;
use crate::profile::FrameError;

/// SHA-512, the default of `ssh-keygen -Y sign`.
const HASH: HashAlg = HashAlg::Sha512;

/// The most bytes of an armoured signature: key, signature and a name of 64 bytes in base64 are some 500.
pub(super) const MAX_ARMOURED: usize = 1024;

/// The blob that is signed: magic, namespace, empty reserved field, hash algorithm, hash of the content.
pub(super) fn message(namespace: &Namespace, content: &[u8]) -> Result<Vec<u8>, FrameError> {
    SshSig::signed_data(namespace.as_str(), HASH, content).map_err(|_| FrameError::Encoding)
}

/// The armoured signature file that `ssh-keygen -Y verify` reads.
pub(super) fn armour(
    namespace: &Namespace,
    key: &PublicKey,
    signature: &Signature,
) -> Result<Vec<u8>, KeyError> {
    let sshsig = SshSig::new(
        key.to_ssh_key_data()?,
        namespace.as_str(),
        HASH,
        ssh::signature(signature)?,
    )
    .map_err(|_| KeyError::Encoding)?;
    sshsig
        .to_pem(LineEnding::LF)
        .map(String::into_bytes)
        .map_err(|_| KeyError::Encoding)
}
