//! Signs a release: the archive and a note with its digest. Then it tries what nobody granted it, and says what came of that. Not
//! trusted by anyone: it never sees the key, and what it may do is in `manifest.toml`.

use std::fmt::Display;
use std::net::TcpStream;

use claviger_sdk::{Error, Refusal, Signer};
use sha2::{Digest as _, Sha256};

claviger_sdk::agent!(release);

/// Signs `/dist/<name>`, the folder that the manifest gives. The input is the archive's file name.
#[expect(clippy::needless_pass_by_value, reason = "the agent is given its input")]
fn release(input: String) -> Result<String, Error> {
    let name = input.trim();
    let archive = std::fs::read(format!("/dist/{name}"))?;
    let digest = hex::encode(Sha256::digest(&archive));
    let note = format!("# {name}\n\nSHA-256 `{digest}`, {} bytes.\n", archive.len());
    std::fs::write("/dist/RELEASE-NOTE.md", &note)?;

    let signer = Signer::open("sign-release")?;
    std::fs::write(format!("/dist/{name}.sig"), signer.sign(&archive)?)?;
    std::fs::write("/dist/RELEASE-NOTE.md.sig", signer.sign(&note)?)?;
    let signed = format!(
        "signed {name} and RELEASE-NOTE.md with key {}",
        signer.info()?.key_id
    );
    Ok([vec![signed], trespass(&signer)].concat().join("\n"))
}

/// What a malicious agent would do next. Each attempt gives one line.
fn trespass(signer: &Signer) -> Vec<String> {
    let again = || (0..1000).try_fold((), |(), _| signer.sign("again").map(drop));
    let attempts = [
        ("sign a commit", tried(sign_commit())),
        ("sign without end", tried(again())),
        ("read the environment", tried(std::env::var("HOME"))),
        ("read the password file", tried(std::fs::read("/etc/passwd"))),
        ("call home", tried(TcpStream::connect("127.0.0.1:80"))),
    ];
    attempts
        .map(|(what, outcome)| format!("{what}: {outcome}"))
        .to_vec()
}

/// Another credential of the operator's: no grant, no signature.
fn sign_commit() -> Result<Vec<u8>, Refusal> {
    Signer::open("sign-commits")?.sign("commit")
}

fn tried<T>(outcome: Result<T, impl Display>) -> String {
    match outcome {
        Ok(_) => "SUCCEEDED, and must not have".to_owned(),
        Err(why) => format!("refused, {why}"),
    }
}
