//! Private keys whose files are encrypted, made readable for an import: PKCS#8 with PBES2 (RFC 8018) and OpenSSH's own. What is not encrypted is
//! not read here, and nothing encrypts. In the command and not in the broker: what holds the keys parses none of this.

use claviger_core::Secret;
use pkcs8::pkcs5::EncryptionScheme;
use pkcs8::pkcs5::pbes2::Kdf;
use pkcs8::{EncryptedPrivateKeyInfo, LineEnding, SecretDocument};
use ssh_key::{PrivateKey, private};
use zeroize::Zeroizing;

use crate::exit::{Exit, Failure};

/// OpenSSL's default is 2048, and what is advised today is some 600,000. More than this takes a minute.
const MAX_ITERATIONS: u32 = 10_000_000;
/// Memory that scrypt may take, in bytes: what `openssl pkcs8 -scrypt` asks for is 16 MiB.
const MAX_SCRYPT: u64 = 256 * 1024 * 1024;
const MAX_PARALLEL: u16 = 16;
/// OpenSSH's default is 16 or 24, each of some 10 ms.
const MAX_ROUNDS: u32 = 1024;

/// The file with the private key in clear, as PEM.
pub(crate) fn decrypt(file: &Secret, passphrase: &Secret) -> Result<Secret, Failure> {
    let text = std::str::from_utf8(file.expose())
        .map_err(|_| Failure::failed("the private key is not text; expected PEM"))?
        .trim();
    let mut clear = if text.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") {
        pkcs8(text, passphrase)?
    } else if text.contains("-----BEGIN OPENSSH PRIVATE KEY-----") {
        openssh(text, passphrase)?
    } else {
        return Err(not_encrypted());
    };
    // Out of the wiping text, without a copy in between.
    let mut bytes = Zeroizing::new(std::mem::take(&mut *clear).into_bytes());
    Secret::take(&mut bytes).map_err(|error| Failure::of(Exit::Failed, &error))
}

fn pkcs8(text: &str, passphrase: &Secret) -> Result<Zeroizing<String>, Failure> {
    let (label, document) = SecretDocument::from_pem(text).map_err(|_| damaged())?;
    if label != "ENCRYPTED PRIVATE KEY" {
        return Err(Failure::failed(
            "there is more than one private key; expected one",
        ));
    }
    let info = EncryptedPrivateKeyInfo::try_from(document.as_bytes()).map_err(|_| damaged())?;
    let EncryptionScheme::Pbes2(parameters) = &info.encryption_algorithm else {
        return Err(
            Failure::failed("the private key is encrypted by a scheme that can be broken (PBES1)")
                .help("`openssl pkey -in FILE | claviger key import …` decrypts it"),
        );
    };
    match &parameters.kdf {
        Kdf::Pbkdf2(kdf) if kdf.iteration_count > MAX_ITERATIONS => return Err(too_costly()),
        Kdf::Scrypt(kdf)
            if kdf.parallelization > MAX_PARALLEL
                || kdf
                    .cost_parameter
                    .saturating_mul(u64::from(kdf.block_size))
                    .saturating_mul(128)
                    > MAX_SCRYPT =>
        {
            return Err(too_costly());
        }
        // The others of the crate, which may become more, are refused by it.
        _ => {}
    }
    let clear = info.decrypt(passphrase.expose()).map_err(|_| wrong())?;
    clear.to_pem("PRIVATE KEY", LineEnding::LF).map_err(|_| wrong())
}

fn openssh(text: &str, passphrase: &Secret) -> Result<Zeroizing<String>, Failure> {
    let key = PrivateKey::from_openssh(text).map_err(|_| damaged())?;
    if !key.is_encrypted() {
        return Err(not_encrypted());
    }
    if let ssh_key::Kdf::Bcrypt { rounds, .. } = key.kdf()
        && *rounds > MAX_ROUNDS
    {
        return Err(too_costly());
    }
    let clear = key.decrypt(passphrase.expose()).map_err(|_| wrong())?;
    if let private::KeypairData::Encrypted(_) = clear.key_data() {
        return Err(wrong());
    }
    clear.to_openssh(LineEnding::LF).map_err(|_| wrong())
}

fn not_encrypted() -> Failure {
    Failure::usage("a passphrase for the private key was given, and the private key is not encrypted")
        .help("leave out `--key-passphrase-file` and `--key-passphrase-fd`; the keyring's own is `--passphrase-file`")
}

fn damaged() -> Failure {
    Failure::failed("the encrypted private key is damaged, or there is more than one in the file")
}

fn wrong() -> Failure {
    Failure::failed("the private key does not decrypt: its passphrase is wrong, its file damaged, or its cipher one of old")
        .help("`openssl pkey -in FILE` and `ssh-keygen -y -f FILE` ask for the passphrase and say more")
}

fn too_costly() -> Failure {
    Failure::failed(
        "the private key asks for more work to be decrypted than any program gives it; it was left alone",
    )
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn secret(text: &str) -> Secret {
        Secret::take(&mut text.as_bytes().to_vec()).unwrap()
    }

    fn run(program: &str, folder: &std::path::Path, arguments: &str) -> String {
        let output = Command::new(program)
            .args(arguments.split(' '))
            .current_dir(folder)
            .output();
        let output = output
            .unwrap_or_else(|error| panic!("{program}: {error}; apt-get install openssl openssh-client"));
        assert!(output.status.success(), "{program} {arguments}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn what_openssl_and_ssh_keygen_encrypt_is_decrypted_by_its_passphrase_alone() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path();
        run("openssl", folder, "genpkey -algorithm ED25519 -out clear.pem");
        let clear = std::fs::read_to_string(folder.join("clear.pem")).unwrap();
        for how in [
            "-v2 aes-256-cbc",
            "-v2 aes-128-cbc -v2prf hmacWithSHA512",
            "-v2 aes-256-cbc -iter 100000",
            "-scrypt",
        ] {
            let text = run(
                "openssl",
                folder,
                &format!("pkcs8 -topk8 -in clear.pem -passout pass:horse {how}"),
            );
            let found = decrypt(&secret(&text), &secret("horse"))
                .unwrap_or_else(|error| panic!("{how}: {}", error.message));
            assert_eq!(found.expose(), clear.as_bytes(), "{how}");
            let refused = decrypt(&secret(&text), &secret("horsf")).map(drop).unwrap_err();
            assert!(
                refused.message.contains("passphrase is wrong"),
                "{}",
                refused.message
            );
            let changed = text.replacen("MI", "NI", 1);
            assert!(decrypt(&secret(&changed), &secret("horse")).is_err());
        }
        for kind in ["ed25519", "ecdsa -b 256", "rsa -b 2048"] {
            let name = kind.split(' ').next().unwrap();
            run(
                "ssh-keygen",
                folder,
                &format!("-q -t {kind} -N horse -C x -a 4 -f {name}"),
            );
            let text = std::fs::read_to_string(folder.join(name)).unwrap();
            let found = decrypt(&secret(&text), &secret("horse"))
                .unwrap_or_else(|error| panic!("{kind}: {}", error.message));
            let key = claviger_broker::import::ImportedKey::read(&found, None).unwrap();
            let line = std::fs::read_to_string(folder.join(format!("{name}.pub"))).unwrap();
            assert_eq!(key.public().to_openssh("x").unwrap(), line.trim_end());
            let refused = decrypt(&secret(&text), &secret("horsf")).map(drop).unwrap_err();
            assert!(
                refused.message.contains("passphrase is wrong"),
                "{}",
                refused.message
            );
        }
        for plain in [clear.as_str(), "no key", ""] {
            let Ok(file) = Secret::take(&mut plain.as_bytes().to_vec()) else {
                continue;
            };
            assert_eq!(
                decrypt(&file, &secret("horse")).map(drop).unwrap_err().exit,
                Exit::Usage
            );
        }
    }

    #[test]
    fn a_file_that_asks_for_too_much_work_is_left_alone() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path();
        run("openssl", folder, "genpkey -algorithm ED25519 -out clear.pem");
        let scrypt = run(
            "openssl",
            folder,
            "pkcs8 -topk8 -in clear.pem -passout pass:horse -scrypt",
        );
        assert!(decrypt(&secret(&scrypt), &secret("horse")).is_ok(), "the control");
        let (_, document) = SecretDocument::from_pem(&scrypt).unwrap();
        // N, r and p (RFC 7914 §7): no program writes these, a file may hold them.
        let asked: &[u8] = &[2, 2, 0x40, 0, 2, 1, 8, 2, 1, 1];
        let memory: &[u8] = &[2, 2, 0x7f, 0xff, 2, 1, 0x7f, 2, 1, 1];
        let lanes: &[u8] = &[2, 2, 0x40, 0, 2, 1, 8, 2, 1, 0x7f];
        for more in [memory, lanes] {
            let mut bytes = document.as_bytes().to_vec();
            let at = bytes.windows(asked.len()).position(|some| some == asked).unwrap();
            bytes[at..at + more.len()].copy_from_slice(more);
            let changed = SecretDocument::try_from(bytes)
                .unwrap()
                .to_pem("ENCRYPTED PRIVATE KEY", LineEnding::LF);
            let refused = decrypt(&secret(&changed.unwrap()), &secret("horse"))
                .map(drop)
                .unwrap_err();
            assert!(refused.message.contains("more work"), "{}", refused.message);
        }
        run("ssh-keygen", folder, "-q -t ed25519 -N horse -C x -a 4 -f key");
        let text = std::fs::read_to_string(folder.join("key")).unwrap();
        let key = PrivateKey::from_openssh(&text).unwrap();
        let (ssh_key::Kdf::Bcrypt { rounds, .. }, mut bytes) =
            (key.kdf().clone(), key.to_bytes().unwrap().to_vec())
        else {
            panic!("bcrypt");
        };
        let at = bytes
            .windows(4)
            .position(|four| four == rounds.to_be_bytes())
            .unwrap();
        assert_eq!(rounds, 4);
        // The salt's length precedes the rounds, and no four zero bytes and a four come before.
        let at = bytes[at + 1..]
            .windows(4)
            .position(|four| four == rounds.to_be_bytes())
            .map_or(at, |further| at + 1 + further);
        bytes[at..at + 4].copy_from_slice(&(MAX_ROUNDS + 1).to_be_bytes());
        if let Ok(key) = PrivateKey::from_bytes(&bytes) {
            let text = key.to_openssh(LineEnding::LF).unwrap();
            let refused = decrypt(&secret(&text), &secret("horse")).map(drop).unwrap_err();
            assert!(refused.message.contains("more work"), "{}", refused.message);
        } else {
            panic!("the rounds were not where they were looked for");
        }
    }
}
