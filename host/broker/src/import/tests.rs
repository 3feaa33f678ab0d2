//! Private keys in every form, good ones and those that somebody could bring by mistake or on purpose.

use std::process::{Command, Stdio};

use claviger_core::custody::Custody;
use claviger_core::{KeyRef, KeyVersion};

use super::*;
use crate::custody::SoftwareCustody;

/// RFC 8410 §10.3.
const RFC_8410: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";
/// RFC 8410 §10.3, with the public key.
const RFC_8410_BOTH: &str = "-----BEGIN PRIVATE KEY-----\nMHICAQEwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\noB8wHQYKKoZIhvcNAQkJFDEPDA1DdXJkbGUgQ2hhaXJzgSEAGb9ECWmEzf6FQbrB\nZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PRIVATE KEY-----\n";
/// RFC 8037 appendix A.1.
const RFC_8037: &str = r#"{"kty":"OKP","crv":"Ed25519","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
/// RFC 7515 appendix A.3.1.
const RFC_7515: &str = r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0","d":"jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI"}"#;
/// RFC 7517 appendix A.2.
const RFC_7517_RSA: &str = r#"{"kty":"RSA","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw","e":"AQAB","d":"X4cTteJY_gn4FYPsXB8rdXix5vwsg1FLN5E3EaG6RJoVH-HLLKD9M7dx5oo7GURknchnrRweUkC7hT5fJLM0WbFAKNLWY2vv7B6NqXSzUvxT0_YSfqijwp3RTzlBaCxWp4doFk5N2o8Gy_nHNKroADIkJ46pRUohsXywbReAdYaMwFs9tv8d_cPVY3i07a3t8MN6TNwm0dSawm9v47UiCl3Sk5ZiG7xojPLu4sbg1U2jx4IBTNBznbJSzFHK66jT8bgkuqsk0GjskDJk19Z4qwjwbsnn4j2WBii3RL-Us2lGVkY8fkFzme1z0HbIkfz0Y6mqnOYtqc0X4jfcKoAC8Q","p":"83i-7IvMGXoMXCskv73TKr8637FiO7Z27zv8oj6pbWUQyLPQBQxtPVnwD20R-60eTDmD2ujnMt5PoqMrm8RfmNhVWDtjjMmCMjOpSXicFHj7XOuVIYQyqVWlWEh6dN36GVZYk93N8Bc9vY41xy8B9RzzOGVQzXvNEvn7O0nVbfs"}"#;

fn read(text: &str) -> Result<ImportedKey, ImportError> {
    ImportedKey::read(&Secret::take(&mut text.as_bytes().to_vec()).unwrap(), None)
}

/// What a program writes.
fn made(program: &str, arguments: &[&str], input: &str) -> String {
    use std::io::Write as _;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}; apt-get install openssl openssh-client"));
    drop(child.stdin.take().unwrap().write_all(input.as_bytes()));
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What `ssh-keygen` writes, and the public line beside it.
fn ssh_keygen(arguments: &[&str]) -> (String, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    let path = path.to_str().unwrap();
    made(
        "ssh-keygen",
        &[&["-q", "-C", "somebody", "-f", path], arguments].concat(),
        "",
    );
    (
        std::fs::read_to_string(path).unwrap(),
        std::fs::read_to_string(format!("{path}.pub")).unwrap(),
    )
}

#[test]
fn the_keys_of_the_standards_are_read() {
    for (text, format, algorithm) in [
        (RFC_8410, KeyFormat::Pkcs8, Algorithm::Ed25519),
        (RFC_8410_BOTH, KeyFormat::Pkcs8, Algorithm::Ed25519),
        (RFC_8037, KeyFormat::Jwk, Algorithm::Ed25519),
        (RFC_7515, KeyFormat::Jwk, Algorithm::P256),
    ] {
        let key = read(text).unwrap();
        assert_eq!((key.format(), key.algorithm()), (format, algorithm));
        assert!(read(text.trim_end()).is_ok() && read(&format!("\n{text}\n\n")).is_ok());
    }
    assert_eq!(
        read(RFC_8037).unwrap().public().thumbprint(),
        "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
    );
    assert_eq!(
        read(RFC_8410).unwrap().public(),
        read(RFC_8410_BOTH).unwrap().public()
    );
}

#[test]
fn what_openssl_and_ssh_keygen_write_is_read_and_is_the_key_that_they_say() {
    let mut seen = 0;
    for arguments in [
        &["genpkey", "-algorithm", "ED25519"][..],
        &[
            "genpkey",
            "-algorithm",
            "EC",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
        ],
        &["ecparam", "-name", "prime256v1", "-genkey"],
        &["ecparam", "-name", "prime256v1", "-genkey", "-noout"],
    ] {
        let private = made("openssl", arguments, "");
        let public = made("openssl", &["pkey", "-pubout"], &private);
        let key = read(&private).unwrap();
        assert_eq!(key.public().to_pem().unwrap(), public, "{arguments:?}");
        assert_eq!(key.format() == KeyFormat::Sec1, arguments[0] == "ecparam");
        seen += 1;
    }
    for kind in [
        &["-t", "ed25519", "-N", ""][..],
        &["-t", "ecdsa", "-b", "256", "-N", ""],
    ] {
        let (private, public) = ssh_keygen(kind);
        let key = read(&private).unwrap();
        assert_eq!(key.format(), KeyFormat::Openssh);
        assert_eq!(key.public().to_openssh("somebody").unwrap(), public.trim_end());
        seen += 1;
    }
    assert_eq!(seen, 6, "the control");
}

#[test]
fn rsa_keys_are_read_in_every_form_as_modulus_and_prime() {
    let pkcs8 = made(
        "openssl",
        &["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
        "",
    );
    let pkcs1 = made("openssl", &["rsa", "-traditional"], &pkcs8);
    let (openssh, line) = ssh_keygen(&["-t", "rsa", "-b", "2048", "-N", ""]);
    for (text, format) in [(&pkcs8, KeyFormat::Pkcs8), (&pkcs1, KeyFormat::Pkcs1)] {
        let key = read(text).unwrap();
        assert_eq!((key.format(), key.algorithm()), (format, Algorithm::Rsa2048));
        assert_eq!(
            key.public().to_pem().unwrap(),
            made("openssl", &["pkey", "-pubout"], text)
        );
        let private = key.into_private();
        assert_eq!(private.len(), 256 + 128);
        let numbers = made("openssl", &["rsa", "-noout", "-text"], text);
        let digits: String = numbers.chars().filter(char::is_ascii_hexdigit).collect();
        assert!(digits.contains(&hex::encode(&private.expose()[256..])), "a prime");
    }
    let key = read(&openssh).unwrap();
    assert_eq!(key.format(), KeyFormat::Openssh);
    assert_eq!(key.public().to_openssh("somebody").unwrap(), line.trim_end());
    // RFC 7517 appendix A.2.
    let key = read(RFC_7517_RSA).unwrap();
    assert_eq!(
        (key.format(), key.algorithm()),
        (KeyFormat::Jwk, Algorithm::Rsa2048)
    );
    for (without, expected) in [
        ("\"p\"", ImportError::Rsa),
        ("\"n\"", ImportError::Rsa),
        ("\"d\"", ImportError::Public),
    ] {
        assert_eq!(
            read(&RFC_7517_RSA.replace(without, "\"z\"")).unwrap_err(),
            expected
        );
    }
    let many = RFC_7517_RSA.replace("{\"kty\"", "{\"oth\":[],\"kty\"");
    assert_eq!(read(&many).unwrap_err(), ImportError::Rsa);
}

#[tokio::test]
async fn no_rsa_key_is_taken_into_software() {
    let name = KeyRef {
        name: "imported".parse().unwrap(),
        version: KeyVersion::FIRST,
    };
    let key = read(RFC_7517_RSA).unwrap();
    let taken = Custody::import(&SoftwareCustody, &name, Algorithm::Rsa2048, key.into_private()).await;
    assert!(
        matches!(taken, Err(claviger_core::custody::CustodyError::Algorithm { .. })),
        "{taken:?}"
    );
}

#[tokio::test]
async fn an_imported_key_signs_what_its_public_half_verifies() {
    let name = KeyRef {
        name: "imported".parse().unwrap(),
        version: KeyVersion::FIRST,
    };
    for text in [RFC_8410, RFC_7515] {
        let key = read(text).unwrap();
        let (public, algorithm) = (key.public().clone(), key.algorithm());
        let taken = Custody::import(&SoftwareCustody, &name, algorithm, key.into_private())
            .await
            .unwrap();
        assert_eq!(taken.public, public);
        let open = Custody::open(&SoftwareCustody, &name, &public, taken.material)
            .await
            .unwrap();
        let message = crate::custody::permits::framed(&public, b"content");
        let permit = crate::custody::permits::permit(&name, &message).await;
        let signature = open.sign(&permit, &message).await.unwrap();
        public.verify(message.message(), &signature).unwrap();
    }
}

#[test]
fn what_cannot_be_imported_is_refused_with_what_to_do() {
    let (encrypted_ssh, public_ssh) = ssh_keygen(&["-t", "ed25519", "-N", "a passphrase"]);
    let (rsa_ssh, _) = ssh_keygen(&["-t", "rsa", "-b", "3072", "-N", ""]);
    let (p384_ssh, _) = ssh_keygen(&["-t", "ecdsa", "-b", "384", "-N", ""]);
    let encrypt = ["pkcs8", "-topk8", "-v2", "aes-256-cbc", "-passout", "pass:x"];
    let encrypted = made("openssl", &encrypt, RFC_8410);
    let p256 = made(
        "openssl",
        &["ecparam", "-name", "prime256v1", "-genkey", "-noout"],
        "",
    );
    let old_style = made("openssl", &["ec", "-aes256", "-passout", "pass:x"], &p256);
    let rsa = made(
        "openssl",
        &["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:3072"],
        "",
    );
    let exponent = made("openssl", &["genrsa", "-3", "2048"], "");
    let old_rsa = made("openssl", &["rsa", "-traditional"], &rsa);
    let k1 = made(
        "openssl",
        &["ecparam", "-name", "secp256k1", "-genkey", "-noout"],
        "",
    );
    let k1_pkcs8 = made(
        "openssl",
        &[
            "genpkey",
            "-algorithm",
            "EC",
            "-pkeyopt",
            "ec_paramgen_curve:secp256k1",
        ],
        "",
    );
    let x25519 = made("openssl", &["genpkey", "-algorithm", "X25519"], "");
    let public = made("openssl", &["pkey", "-pubout"], RFC_8410);
    let tss2 = "-----BEGIN TSS2 PRIVATE KEY-----\nMA==\n-----END TSS2 PRIVATE KEY-----\n";
    let rows: &[(&str, &str, ImportError)] = &[
        ("encrypted PKCS#8", &encrypted, ImportError::Encrypted),
        (
            "encrypted as OpenSSL did",
            &old_style,
            ImportError::EncryptedOldPem,
        ),
        ("encrypted OpenSSH", &encrypted_ssh, ImportError::Encrypted),
        ("RSA of 3072 bits", &rsa, ImportError::Rsa),
        ("RSA of 3072 bits in PKCS#1", &old_rsa, ImportError::Rsa),
        ("RSA of 3072 bits of OpenSSH", &rsa_ssh, ImportError::Rsa),
        ("RSA with another exponent", &exponent, ImportError::Rsa),
        ("secp256k1", &k1, ImportError::Algorithm),
        ("secp256k1 in PKCS#8", &k1_pkcs8, ImportError::Algorithm),
        ("X25519", &x25519, ImportError::Algorithm),
        ("P-384 of OpenSSH", &p384_ssh, ImportError::Algorithm),
        ("a key that a TPM wraps", tss2, ImportError::Tss2),
        ("a public key", &public, ImportError::Public),
        ("a public key of OpenSSH", &public_ssh, ImportError::Public),
        ("two keys", &format!("{RFC_8410}{p256}"), ImportError::Several),
        (
            "a certificate",
            "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n",
            ImportError::NotAKey,
        ),
        ("no key", "hello", ImportError::NotAKey),
        ("half a block", &RFC_8410[..60], ImportError::NotAKey),
        (
            "no base64",
            &RFC_8410.replace("MC4C", "M!4C"),
            ImportError::Damaged(KeyFormat::Pkcs8),
        ),
        (
            "a longer seed",
            &RFC_8410.replace("MC4C", "MC8C"),
            ImportError::Damaged(KeyFormat::Pkcs8),
        ),
        (
            "another's public key",
            &RFC_8410_BOTH
                .replace("GQAZv0", "GQAZv1")
                .replace("gSEAGb9E", "gSEAGb9F"),
            ImportError::Mismatch,
        ),
        ("JSON of no key", "{}", ImportError::Damaged(KeyFormat::Jwk)),
        (
            "a set",
            &format!("{{\"keys\":[{RFC_8037}]}}"),
            ImportError::Damaged(KeyFormat::Jwk),
        ),
        (
            "a public JWK",
            &RFC_8037.replace("\"d\":\"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A\",", ""),
            ImportError::Public,
        ),
        (
            "without its public half",
            &RFC_8037.replace(",\"x\":\"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\"", ""),
            ImportError::Damaged(KeyFormat::Jwk),
        ),
        (
            "with another's",
            &RFC_8037.replace("11qY", "11qZ"),
            ImportError::Mismatch,
        ),
        (
            "with padding",
            &RFC_8037.replace("cHURo", "cHURo="),
            ImportError::Damaged(KeyFormat::Jwk),
        ),
        (
            "another curve",
            &RFC_7515.replace("P-256", "secp256k1"),
            ImportError::Algorithm,
        ),
        (
            "a symmetric key",
            r#"{"kty":"oct","k":"AAAA"}"#,
            ImportError::Algorithm,
        ),
        (
            "RSA as JWK",
            r#"{"kty":"RSA","n":"AQAB","e":"AQAB","d":"AQAB"}"#,
            ImportError::Rsa,
        ),
        (
            "a member twice",
            &RFC_8037.replace("{\"kty\"", "{\"kty\":\"OKP\",\"kty\""),
            ImportError::Damaged(KeyFormat::Jwk),
        ),
        (
            "a scalar of zero",
            &RFC_7515.replace("jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI", &"A".repeat(43)),
            ImportError::Damaged(KeyFormat::Jwk),
        ),
    ];
    for (what, text, expected) in rows {
        match read(text) {
            Err(error) => assert_eq!(error, *expected, "{what}"),
            Ok(key) => panic!("{what}: {key:?}"),
        }
    }
    for (error, to_do) in [
        (
            ImportError::EncryptedOldPem,
            "openssl pkey -in FILE | claviger key import",
        ),
        (ImportError::Encrypted, "--key-passphrase-file FILE"),
        (ImportError::Tss2, "a keyring on that TPM"),
    ] {
        assert!(error.to_string().contains(to_do), "{error}");
    }
}

#[test]
fn a_file_is_of_the_form_that_was_said_and_not_too_long() {
    let file = |text: &[u8]| Secret::take(&mut text.to_vec()).unwrap();
    assert_eq!(
        ImportedKey::read(&file(RFC_8410.as_bytes()), Some(KeyFormat::Jwk)).unwrap_err(),
        ImportError::OtherFormat {
            expected: KeyFormat::Jwk,
            found: KeyFormat::Pkcs8
        }
    );
    assert!(ImportedKey::read(&file(RFC_8410.as_bytes()), Some(KeyFormat::Pkcs8)).is_ok());
    let long = format!("{RFC_8410}{}", " ".repeat(MAX_FILE));
    assert_eq!(
        ImportedKey::read(&file(long.as_bytes()), None).unwrap_err(),
        ImportError::TooLong(long.len())
    );
    assert_eq!(
        ImportedKey::read(&file(b"\xff\xfe"), None).unwrap_err(),
        ImportError::NotText
    );
    for format in [
        KeyFormat::Pkcs8,
        KeyFormat::Sec1,
        KeyFormat::Pkcs1,
        KeyFormat::Openssh,
        KeyFormat::Jwk,
        KeyFormat::Tss2,
    ] {
        assert_eq!(format.as_str().parse::<KeyFormat>().unwrap(), format);
    }
}

#[test]
fn an_imported_key_is_never_shown() {
    let shown = format!("{:?}", read(RFC_8037).unwrap());
    assert!(
        shown.contains("kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k") && !shown.contains("nWGx"),
        "{shown}"
    );
}

proptest::proptest! {
    /// Nothing makes the reader panic, whatever stands in the file.
    #[test]
    fn any_bytes_are_judged(mut content in proptest::collection::vec(proptest::prelude::any::<u8>(), 1..300), at in 0_usize..400, to in proptest::prelude::any::<u8>()) {
        drop(ImportedKey::read(&Secret::take(&mut content).unwrap(), None));
        for good in [RFC_8410_BOTH, RFC_7515] {
            let mut changed = good.as_bytes().to_vec();
            let at = at % changed.len();
            changed[at] = to;
            drop(ImportedKey::read(&Secret::take(&mut changed).unwrap(), None));
        }
    }
}
