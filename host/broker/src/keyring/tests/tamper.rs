//! Attacks on the keyring's bytes: bit flips, rows deleted, swapped, added and rolled back, and a search for seeds in the clear.

use std::collections::BTreeMap;

use claviger_core::audit::SecretSource;
use claviger_core::http::InjectionKind;
use rusqlite::Connection;

use super::secrets::{VALUE, new_secret};
use super::*;

/// What a keyring says, in full.
type Content = (
    Vec<Arc<KeyRecord>>,
    Vec<Arc<SecretRecord>>,
    BTreeMap<String, Vec<u8>>,
    KeyringInfo,
);

fn content(keyring: &Keyring) -> Result<Content, KeyringError> {
    let mut materials = BTreeMap::new();
    for record in keyring.keys() {
        materials.insert(
            record.key.to_string(),
            keyring.material(&record.key)?.expose().to_vec(),
        );
    }
    for record in keyring.secrets() {
        if record.state == KeyState::Retired {
            assert!(keyring.secret_material(&record.secret).is_err());
            continue;
        }
        let value = keyring.secret_material(&record.secret)?.expose().to_vec();
        materials.insert(format!("secret {}", record.secret), value);
    }
    Ok((keyring.keys(), keyring.secrets(), materials, keyring.info()))
}

async fn reopened(folder: &Path) -> Result<Content, KeyringError> {
    content(&opened(folder).await?)
}

async fn with_keys(folder: &Path) -> Content {
    let keyring = created(folder).await;
    for name in ["first", "second", "third"] {
        add(&keyring, name).await;
    }
    for (name, kind) in [
        ("github", InjectionKind::Bearer),
        ("hooks", InjectionKind::WebhookHmac),
    ] {
        let value = format!("{VALUE}-{name}");
        keyring
            .insert_secret(new_secret(name, kind, &value), now())
            .unwrap();
    }
    keyring.set_vkey("log+1234+abcd").unwrap();
    content(&keyring).unwrap()
}

pub(super) fn restore(folder: &Path, bytes: &[u8]) {
    for suffix in ["-wal", "-shm", "-journal"] {
        folder::remove_if_there(&folder.join(format!("{DATABASE}{suffix}"))).unwrap();
    }
    // Not made anew: its mode stays.
    std::fs::write(folder.join(DATABASE), bytes).unwrap();
}

#[tokio::test]
async fn a_flipped_bit_gives_the_same_keyring_or_an_error_and_never_another() {
    /// A prime, so that the places wander through the pages; each place has another bit.
    const STRIDE: usize = 29;
    let (_outer, folder) = place();
    let truth = with_keys(&folder).await;
    let bytes = std::fs::read(folder.join(DATABASE)).unwrap();
    assert!(
        !folder.join("keyring.db-wal").exists(),
        "everything is in the one file"
    );
    let (mut refused, mut same) = (0, 0);
    for (count, at) in (0..bytes.len()).step_by(STRIDE).enumerate() {
        let mut changed = bytes.clone();
        changed[at] ^= 1 << (count % 8);
        restore(&folder, &changed);
        match reopened(&folder).await {
            Ok(content) => {
                assert_eq!(content, truth, "byte {at}");
                same += 1;
            }
            Err(KeyringError::Integrity { .. } | KeyringError::Format { .. } | KeyringError::Root(_)) => {
                refused += 1;
            }
            Err(KeyringError::OtherRoot { .. }) => refused += 1,
            Err(other) => panic!("byte {at}: {other:?}"),
        }
        // Reading without the root key proves nothing, but must not fall over either.
        let _shown = Keyring::list_public(&folder).map(|list| list.len());
        let _info = Keyring::peek(&folder).map(|info| info.generation);
    }
    // Free space in pages may change unseen; what is in use may not.
    assert!(refused > 20 && same > 20, "{refused} refused, {same} the same");
    restore(&folder, &bytes);
    assert_eq!(reopened(&folder).await.unwrap(), truth, "the control");
}

#[tokio::test]
async fn a_killed_host_leaves_a_whole_keyring_wherever_its_write_was_cut() {
    let (_outer, folder) = place();
    let keyring = created(&folder).await;
    let mut states = vec![content(&keyring).unwrap()];
    for name in ["first", "second", "third"] {
        add(&keyring, name).await;
        states.push(content(&keyring).unwrap());
    }
    keyring
        .set_state(&key_ref("second"), KeyState::Revoked, now())
        .unwrap();
    states.push(content(&keyring).unwrap());
    keyring
        .insert_secret(new_secret("refresh", InjectionKind::OauthRefresh, VALUE), now())
        .unwrap();
    states.push(content(&keyring).unwrap());
    // The old value with the old version, or the new one with the new version: never a token family without a living token.
    let replacement = SecretReplacement {
        name: "refresh".parse().unwrap(),
        of: None,
        expires: None,
        rotate_every: None,
        value: Secret::take(&mut b"the-second-refresh-token".to_vec()).unwrap(),
    };
    keyring
        .replace_secret(replacement, SecretSource::Server, now())
        .unwrap();
    states.push(content(&keyring).unwrap());
    let database = std::fs::read(folder.join(DATABASE)).unwrap();
    let log = std::fs::read(folder.join("keyring.db-wal")).unwrap();

    let (_copy_outer, copy) = place();
    drop(created(&copy).await);
    let mut seen = std::collections::BTreeSet::new();
    // A prime, so that the cuts fall at different places of the log's frames of 4120 bytes; and the whole log.
    for cut in (0..log.len()).step_by(397).chain([log.len()]) {
        restore(&copy, &database);
        std::fs::write(copy.join("keyring.db-wal"), &log[..cut]).unwrap();
        let listed = Keyring::list_public(&copy).unwrap();
        let found = reopened(&copy).await.unwrap();
        let state = states.iter().position(|state| *state == found);
        seen.insert(state.unwrap_or_else(|| panic!("cut at {cut}: a keyring that never was")));
        assert_eq!(listed.len(), found.0.len(), "cut at {cut}");
    }
    assert_eq!(
        seen.last(),
        Some(&(states.len() - 1)),
        "the whole log holds everything"
    );
    assert!(seen.len() > 2, "the cuts hit several states: {seen:?}");
}

#[tokio::test]
async fn every_cell_of_every_row_is_authenticated() {
    let (_outer, folder) = place();
    let truth = with_keys(&folder).await;
    let bytes = std::fs::read(folder.join(DATABASE)).unwrap();
    let changes = [
        ("name", "'fir5t'"),
        ("version", "2"),
        ("state", "'disabled'"),
        ("profile", r#"'{"kind":"labeled","label":"tesu"}'"#),
        ("profile", r#"'{"kind":"labeled", "label":"test"}'"#),
        ("algorithm", "'p256'"),
        ("custody", "'tpm'"),
        ("assurance", "'hardware'"),
        ("public", "(SELECT public FROM keys WHERE name = 'second')"),
        ("created", "'2026-01-02T03:04:05.679Z'"),
        ("updated", "'2026-01-02T03:04:05.679Z'"),
        ("source", "'imported'"),
        ("rotate_every", "0"),
        ("rotate_every", "60"),
        ("rotate_uses", "1"),
        ("overlap", "0"),
        ("until", "'2026-01-02T03:04:05.679Z'"),
        ("deleted", "'2026-01-02T03:04:05.679Z'"),
        ("reason", "''"),
        ("reason", "'because'"),
        ("locked", "1"),
        ("hardware", "zeroblob(0)"),
        ("nonce", "(SELECT nonce FROM keys WHERE name = 'second')"),
        ("material", "(SELECT material FROM keys WHERE name = 'second')"),
        ("material", "zeroblob(48)"),
        ("material", "zeroblob(0)"),
        ("material", "zeroblob(16)"),
    ];
    for (column, value) in changes {
        restore(&folder, &bytes);
        run(
            &folder,
            &format!("UPDATE keys SET {column} = {value} WHERE name = 'first'"),
        );
        let refused = opened(&folder).await.unwrap_err();
        assert!(
            matches!(refused, KeyringError::Integrity { .. }),
            "{column} = {value}: {refused:?}"
        );
        assert!(
            refused.to_string().contains("key `fir"),
            "{column} = {value}: {refused}"
        );
    }
    for (column, value) in [
        ("name", "'githuc'"),
        ("version", "2"),
        ("state", "'disabled'"),
        ("kind", "'header'"),
        ("origin", "'https://evil.test'"),
        ("assurance", "'hardware'"),
        ("created", "'2026-01-02T03:04:05.679Z'"),
        ("updated", "'2026-01-02T03:04:05.679Z'"),
        ("expires", "'2030-01-02T03:04:05Z'"),
        ("rotate_every", "0"),
        ("source", "'server'"),
        ("overlap", "60"),
        ("until", "'2026-01-02T03:04:05.679Z'"),
        ("deleted", "'2026-01-02T03:04:05.679Z'"),
        ("reason", "'because'"),
        ("locked", "1"),
        ("nonce", "(SELECT nonce FROM secrets WHERE name = 'hooks')"),
        ("material", "(SELECT material FROM secrets WHERE name = 'hooks')"),
        ("material", "zeroblob(0)"),
    ] {
        restore(&folder, &bytes);
        run(
            &folder,
            &format!("UPDATE secrets SET {column} = {value} WHERE name = 'github'"),
        );
        let refused = opened(&folder).await.unwrap_err();
        assert!(
            matches!(&refused, KeyringError::Integrity { what } if what.contains("secret `githu")),
            "{column} = {value}: {refused:?}"
        );
    }
    for (column, value) in [
        ("created", "'2026-01-02T03:04:05.679Z'"),
        ("root_kind", "'tpm'"),
        ("root_settings", "'other settings'"),
        ("root_digest", "zeroblob(32)"),
        ("root_digest", "zeroblob(0)"),
        ("vkey", "'log+1234+abce'"),
        ("vkey", "NULL"),
        ("log_size", "log_size + 1"),
        ("generation", "generation + 1"),
        ("list", "'[]'"),
        ("mac", "zeroblob(32)"),
    ] {
        restore(&folder, &bytes);
        run(&folder, &format!("UPDATE meta SET {column} = {value}"));
        let refused = opened(&folder).await.unwrap_err();
        assert!(
            matches!(refused, KeyringError::Integrity { .. }),
            "{column} = {value}: {refused:?}"
        );
    }
    restore(&folder, &bytes);
    run(&folder, "UPDATE keys SET state = state");
    assert_eq!(reopened(&folder).await.unwrap(), truth, "the control");
}

#[tokio::test]
async fn a_changed_byte_of_the_sealed_root_key_is_damage_and_not_a_wrong_passphrase() {
    let (_outer, folder) = place();
    let truth = with_keys(&folder).await;
    let bytes = std::fs::read(folder.join(DATABASE)).unwrap();
    let sealed = opened(&folder).await.unwrap().file().meta.root.clone();
    let start = find(&bytes, &sealed).expect("the sealed root key is in the file in one piece");
    for at in 0..sealed.len() {
        let mut changed = bytes.clone();
        changed[start + at] ^= 1 << (at % 8);
        restore(&folder, &changed);
        for refused in [
            opened(&folder).await.map(drop).unwrap_err(),
            Keyring::peek(&folder).map(drop).unwrap_err(),
        ] {
            assert!(
                matches!(&refused, KeyringError::Integrity { what } if what.contains("sealed root key")),
                "byte {at}: {refused:?}"
            );
        }
    }
    // The other way round: nothing is damaged, and the passphrase is wrong.
    restore(&folder, &bytes);
    let refused = Keyring::open(&folder, &sealer("battery staple"))
        .await
        .unwrap_err();
    assert!(matches!(refused, KeyringError::Root(_)), "{refused:?}");
    assert_eq!(reopened(&folder).await.unwrap(), truth, "the control");
}

#[tokio::test]
async fn a_sealed_root_key_that_was_changed_together_with_its_digest_does_not_open() {
    let (_outer, folder) = place();
    drop(with_keys(&folder).await);
    let mut meta = opened(&folder).await.unwrap().file().meta.clone();
    let last = meta.root.len() - 1;
    meta.root[last] ^= 1;
    meta.root_digest = meta.digest_of_root().to_vec();
    let database = Connection::open(folder.join(DATABASE)).unwrap();
    database
        .execute(
            "UPDATE meta SET root = ?1, root_digest = ?2",
            rusqlite::params![meta.root, meta.root_digest],
        )
        .unwrap();
    drop(database);
    let refused = opened(&folder).await.unwrap_err();
    assert!(matches!(refused, KeyringError::Root(_)), "{refused:?}");
}

#[tokio::test]
async fn rows_cannot_be_deleted_added_swapped_or_rolled_back() {
    let swap = |columns: &[&str]| {
        let set = columns
            .iter()
            .map(|c| format!("{c} = (SELECT {c} FROM keys AS other WHERE other.name = iif(keys.name = 'first', 'second', 'first'))"))
            .collect::<Vec<_>>()
            .join(", ");
        format!("UPDATE keys SET {set} WHERE name IN ('first', 'second')")
    };
    let (_outer, folder) = place();
    let truth = with_keys(&folder).await;
    let bytes = std::fs::read(folder.join(DATABASE)).unwrap();
    for (sql, named) in [
        ("DELETE FROM keys WHERE name = 'second'".to_owned(), "`second@v1` is missing"),
        ("DELETE FROM keys".to_owned(), "`first@v1` is missing"),
        (
            "INSERT INTO keys SELECT 'copy', version, state, profile, algorithm, custody, assurance, public, created, \
             updated, source, rotate_every, rotate_uses, overlap, until, deleted, reason, locked, hardware, nonce, material FROM keys WHERE name = 'first'"
                .to_owned(),
            "`copy@v1` was not put there",
        ),
        (
            "INSERT INTO keys SELECT name, 2, state, profile, algorithm, custody, assurance, public, created, \
             updated, source, rotate_every, rotate_uses, overlap, until, deleted, reason, locked, hardware, nonce, material FROM keys WHERE name = 'first'"
                .to_owned(),
            "`first@v2` was not put there",
        ),
        (
            "DELETE FROM secrets WHERE name = 'hooks'".to_owned(),
            "secret `hooks@v1` is missing",
        ),
        (
            "INSERT INTO secrets SELECT 'copy', version, state, kind, origin, assurance, created, updated, expires, \
             rotate_every, source, overlap, until, deleted, reason, locked, nonce, material FROM secrets WHERE name = 'github'"
                .to_owned(),
            "secret `copy@v1` was not put there",
        ),
        (swap(&["nonce", "material"]), "`first@v1` was changed"),
        (swap(&["public", "nonce", "material"]), "`first@v1` was changed"),
        (
            "CREATE TRIGGER t AFTER INSERT ON keys BEGIN DELETE FROM keys; END".to_owned(),
            "tables are not a keyring's",
        ),
        ("CREATE VIEW v AS SELECT * FROM keys".to_owned(), "tables are not a keyring's"),
        ("CREATE INDEX i ON keys (state)".to_owned(), "tables are not a keyring's"),
        ("ALTER TABLE keys ADD COLUMN extra TEXT".to_owned(), "tables are not a keyring's"),
    ] {
        restore(&folder, &bytes);
        run(&folder, &sql);
        let refused = opened(&folder).await.unwrap_err();
        assert!(matches!(refused, KeyringError::Integrity { .. }), "{sql}: {refused:?}");
        assert!(refused.to_string().contains(named), "{sql}: {refused}");
    }
    restore(&folder, &bytes);
    assert_eq!(reopened(&folder).await.unwrap(), truth, "the control");

    // A revoked key is put back as it was when it was active.
    let keyring = opened(&folder).await.unwrap();
    keyring
        .set_state(&key_ref("first"), KeyState::Revoked, now())
        .unwrap();
    drop(keyring);
    let old = folder.join("old.db");
    std::fs::write(&old, &bytes).unwrap();
    let roll_back = |tables: &[&str]| {
        let database = Connection::open(folder.join(DATABASE)).unwrap();
        database
            .execute("ATTACH ?1 AS old", [old.to_str().unwrap()])
            .unwrap();
        for table in tables {
            let filter = if *table == "keys" {
                "WHERE name = 'first'"
            } else {
                ""
            };
            let sql = format!("REPLACE INTO main.{table} SELECT * FROM old.{table} {filter}");
            database.execute(&sql, []).unwrap();
        }
    };
    roll_back(&["keys"]);
    let refused = opened(&folder).await.unwrap_err();
    assert!(
        refused.to_string().contains("`first@v1` was changed"),
        "{refused}"
    );
    // What is promised in the module's words: a whole older copy opens, and its generation shows.
    roll_back(&["meta"]);
    assert_eq!(reopened(&folder).await.unwrap(), truth);
}

#[tokio::test]
async fn a_row_changed_while_the_keyring_is_open_is_not_used() {
    let (_outer, folder) = place();
    let keyring = created(&folder).await;
    add(&keyring, "first").await;
    add(&keyring, "second").await;
    assert!(keyring.material(&key_ref("first")).is_ok(), "the control");
    run(
        &folder,
        "UPDATE keys SET assurance = 'hardware' WHERE name = 'first'",
    );
    assert!(matches!(
        keyring.material(&key_ref("first")),
        Err(KeyringError::Integrity { .. })
    ));
    let refused = keyring.set_state(&key_ref("first"), KeyState::Disabled, now());
    assert!(
        matches!(refused, Err(KeyringError::Integrity { .. })),
        "{refused:?}"
    );
    run(&folder, "DELETE FROM keys WHERE name = 'second'");
    assert!(matches!(
        keyring.material(&key_ref("second")),
        Err(KeyringError::Integrity { .. })
    ));
    run(&folder, "UPDATE meta SET generation = generation + 1");
    let refused = keyring.insert(new_key(key_ref("third"), Algorithm::Ed25519).await, now());
    assert!(
        matches!(refused, Err(KeyringError::Integrity { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn an_older_row_of_the_same_key_is_not_used_while_the_keyring_is_open() {
    let (_outer, folder) = place();
    let keyring = created(&folder).await;
    add(&keyring, "first").await;
    let key = key_ref("first");
    let old = keyring.file().row(&key).unwrap();
    keyring.set_state(&key, KeyState::Disabled, now()).unwrap();
    assert!(keyring.material(&key).is_ok(), "the control");
    assert!(
        keyring.file().envelope.open(&old).is_ok(),
        "the old row is whole in itself"
    );
    let database = Connection::open(folder.join(DATABASE)).unwrap();
    database
        .execute(
            "UPDATE keys SET state = ?1, nonce = ?2, material = ?3, updated = ?4",
            rusqlite::params![old.state, old.nonce, old.material, old.updated],
        )
        .unwrap();
    assert!(matches!(
        keyring.material(&key),
        Err(KeyringError::Integrity { .. })
    ));
}

#[tokio::test]
async fn no_file_of_the_keyring_holds_a_seed_or_the_root_key() {
    let (_outer, folder) = place();
    let keyring = created(&folder).await;
    let mut secrets = vec![add(&keyring, "first").await, add(&keyring, "second").await];
    keyring
        .set_state(&key_ref("second"), KeyState::Disabled, now())
        .unwrap();
    keyring
        .insert_secret(new_secret("github", InjectionKind::Bearer, VALUE), now())
        .unwrap();
    secrets.push(VALUE.as_bytes().to_vec());
    secrets.push(keyring.root.expose().to_vec());
    secrets.push(PASSPHRASE.as_bytes().to_vec());
    secrets.push(keyring.subkey(Purpose::AuditLog, 32).unwrap().expose().to_vec());
    let sealed = keyring.file().meta.root.clone();
    let envelope = keyring.file().row(&key_ref("first")).unwrap().material;

    for open in [true, false] {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&folder).unwrap() {
            files.push(std::fs::read(entry.unwrap().path()).unwrap());
        }
        assert!(
            files.len() >= if open { 4 } else { 2 },
            "the database, its log and index, the lock"
        );
        for secret in &secrets {
            for form in forms(secret) {
                assert!(files.iter().all(|bytes| find(bytes, &form).is_none()));
            }
        }
        // The control: the search finds what is there.
        for present in [&sealed, &envelope] {
            assert!(files.iter().any(|bytes| find(bytes, present).is_some()));
        }
        if open {
            keyring
                .file()
                .store
                .connection()
                .execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")
                .unwrap();
        }
    }
}

/// A secret raw, in hexadecimal, reversed, in base64 at each alignment; and any 12 bytes of it.
fn forms(secret: &[u8]) -> Vec<Vec<u8>> {
    let mut forms = vec![
        hex::encode(secret).into_bytes(),
        hex::encode_upper(secret).into_bytes(),
        secret.iter().rev().copied().collect(),
    ];
    forms.extend(secret.windows(12).map(<[u8]>::to_vec));
    for skip in 0..3 {
        forms.push(base64(&secret[skip..skip + (secret.len() - skip) / 3 * 3]));
    }
    forms
}

/// RFC 4648 §4, for a length that is a multiple of three.
fn base64(bytes: &[u8]) -> Vec<u8> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let sextet = |three: &[u8], at: usize| {
        let bits = (u32::from(three[0]) << 16) | (u32::from(three[1]) << 8) | u32::from(three[2]);
        ALPHABET[usize::try_from((bits >> (18 - 6 * at)) & 63).unwrap()]
    };
    bytes
        .chunks_exact(3)
        .flat_map(|three| (0..4).map(move |at| sextet(three, at)))
        .collect()
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

pub(super) fn run(folder: &Path, sql: &str) {
    let database = Connection::open(folder.join(DATABASE)).unwrap();
    database.execute_batch(sql).unwrap();
}
