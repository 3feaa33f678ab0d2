//! Verifiers that are not ours: ssh-keygen and openssl, as programs. Not the rules of a profile: who calls says what was signed.

use std::process::{Command, Stdio};

use claviger_core::{Algorithm, PublicKey};
use tempfile::TempDir;

/// Runs a verifier on this input; what it printed, if it accepted.
///
/// # Panics
/// When it is not installed: the install line is shown.
#[must_use]
pub fn accepts(program: &str, arguments: &[&str], input: &[u8], package: &str) -> Option<String> {
    use std::io::Write as _;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}; apt-get install {package}"));
    // One that refuses early does not read to the end.
    drop(child.stdin.take().expect("piped").write_all(input));
    let output = child.wait_with_output().expect("an end");
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether `ssh-keygen -Y verify` takes an armoured signature over this content, with this key as the one allowed signer.
///
/// # Panics
/// When ssh-keygen is not installed.
#[must_use]
pub fn ssh_keygen(key: &PublicKey, namespace: &str, signature: &[u8], content: &[u8]) -> bool {
    let folder = TempDir::new().expect("a folder");
    let allowed = format!("bot {}\n", key.to_openssh("").expect("a line"));
    let (allowed, file) = (
        written(&folder, "allowed", allowed.as_bytes()),
        written(&folder, "sig", signature),
    );
    let arguments = [
        "-Y", "verify", "-f", &allowed, "-I", "bot", "-n", namespace, "-s", &file,
    ];
    accepts("ssh-keygen", &arguments, content, "openssh-client").is_some()
}

/// Whether `openssl` takes a raw signature over exactly this message.
///
/// # Panics
/// When openssl is not installed.
#[must_use]
pub fn openssl(key: &PublicKey, signature: &[u8], message: &[u8]) -> bool {
    let folder = TempDir::new().expect("a folder");
    let pem = written(&folder, "key.pem", key.to_pem().expect("a PEM").as_bytes());
    let message = written(&folder, "message", message);
    match key.algorithm() {
        Algorithm::Ed25519 => {
            let file = written(&folder, "sig", signature);
            let arguments = [
                "pkeyutl", "-verify", "-pubin", "-inkey", &pem, "-rawin", "-in", &message, "-sigfile", &file,
            ];
            accepts("openssl", &arguments, b"", "openssl").is_some()
        }
        Algorithm::Rsa2048 => {
            let file = written(&folder, "sig", signature);
            let arguments = ["dgst", "-sha256", "-verify", &pem, "-signature", &file, &message];
            accepts("openssl", &arguments, b"", "openssl").is_some()
        }
        Algorithm::P256 => {
            let Ok(signature) = p256::ecdsa::Signature::from_slice(signature) else {
                return false;
            };
            let file = written(&folder, "sig", signature.to_der().as_bytes());
            let arguments = ["dgst", "-sha256", "-verify", &pem, "-signature", &file, &message];
            accepts("openssl", &arguments, b"", "openssl").is_some()
        }
    }
}

/// The path of a new file with these bytes.
fn written(folder: &TempDir, name: &str, bytes: &[u8]) -> String {
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).expect("a file");
    path.to_str().expect("UTF-8").to_owned()
}
