//! Keyrings of earlier formats: read as they are, taken over whole or not at all, and never when they were changed.

use claviger_core::audit::{SecretRef, SecretSource};
use claviger_core::http::InjectionKind;
use rusqlite::Connection;

use super::secrets::{VALUE, new_secret};
use super::*;
use crate::keyring::secret_row::SecretRow;

const OLD_KEYS: &str = "CREATE TABLE keys (
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    state TEXT NOT NULL,
    profile TEXT NOT NULL,
    algorithm TEXT NOT NULL,
    custody TEXT NOT NULL,
    assurance TEXT NOT NULL,
    public BLOB NOT NULL,
    created TEXT NOT NULL,
    updated TEXT NOT NULL,
    nonce BLOB NOT NULL,
    material BLOB NOT NULL,
    PRIMARY KEY (name, version)
) STRICT, WITHOUT ROWID";
const OLD_SECRETS: &str = "CREATE TABLE secrets (
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    state TEXT NOT NULL,
    kind TEXT NOT NULL,
    origin TEXT NOT NULL,
    assurance TEXT NOT NULL,
    created TEXT NOT NULL,
    updated TEXT NOT NULL,
    expires TEXT,
    rotate_every INTEGER,
    nonce BLOB NOT NULL,
    material BLOB NOT NULL,
    PRIMARY KEY (name, version)
) STRICT, WITHOUT ROWID";

/// Makes the file what an earlier release wrote: 3, without the columns of a life, or 2, without secrets.
fn make_old(folder: &Path, keyring: Keyring, format: u32) {
    let (meta, keys, secrets) = {
        let file = keyring.file();
        let rows = file.store.rows().unwrap();
        let mut list = List::default();
        let (mut keys, mut secrets) = (Vec::new(), Vec::new());
        for row in &rows.keys {
            let material = file.envelope.open(row).unwrap();
            let mut old = Row {
                life: None,
                ..row.clone()
            };
            file.envelope.seal(&mut old, &material).unwrap();
            list.keys.push(Listed {
                key: row.record().unwrap().key,
                digest: old.digest(),
            });
            keys.push(old);
        }
        for row in &rows.secrets {
            let mut old = SecretRow {
                life: None,
                ..row.clone()
            };
            if row.has_value() {
                let value = file.open_secret(row).unwrap();
                let sealed = file.envelope.seal_secret(&old.associated(), &value).unwrap();
                (old.nonce, old.material) = (sealed.nonce, sealed.material);
            }
            list.put_secret(&row.record().unwrap().secret, old.digest());
            secrets.push(old);
        }
        let mut meta = file.meta.clone();
        meta.format = format;
        meta.list = if format == 2 {
            assert!(list.secrets.is_empty());
            serde_json::to_string(&list.keys).unwrap()
        } else {
            list.written().unwrap()
        };
        file.envelope.authenticate(&mut meta).unwrap();
        (meta, keys, secrets)
    };
    drop(keyring);
    let connection = Connection::open(folder.join(DATABASE)).unwrap();
    connection
        .execute_batch(&format!("DROP TABLE secrets; DROP TABLE keys; {OLD_KEYS};"))
        .unwrap();
    for row in keys {
        connection
            .execute(
                "INSERT INTO keys VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
                rusqlite::params![
                    row.name,
                    row.version,
                    row.state,
                    row.profile,
                    row.algorithm,
                    row.custody,
                    row.assurance,
                    row.public,
                    row.created,
                    row.updated,
                    row.nonce,
                    row.material
                ],
            )
            .unwrap();
    }
    if format > 2 {
        connection.execute_batch(OLD_SECRETS).unwrap();
    }
    for row in secrets {
        connection
            .execute(
                "INSERT INTO secrets VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
                rusqlite::params![
                    row.name,
                    row.version,
                    row.state,
                    row.kind,
                    row.origin,
                    row.assurance,
                    row.created,
                    row.updated,
                    row.expires,
                    row.rotate_every,
                    row.nonce,
                    row.material
                ],
            )
            .unwrap();
    }
    connection
        .execute_batch(&format!("PRAGMA user_version = {format}; VACUUM;"))
        .unwrap();
    connection
        .execute(
            "UPDATE meta SET list = ?1, mac = ?2",
            rusqlite::params![meta.list, meta.mac],
        )
        .unwrap();
}

fn at(name: &str, version: u32) -> SecretRef {
    SecretRef {
        name: name.parse().unwrap(),
        version: KeyVersion(version),
    }
}

/// A keyring with a key in each of two states and, if they fit the format, secrets of which one was replaced.
async fn filled(folder: &Path, format: u32) -> (Keyring, Vec<u8>) {
    let keyring = created(folder).await;
    let first = add(&keyring, "first").await;
    add(&keyring, "second").await;
    keyring
        .set_state(&key_ref("second"), KeyState::Revoked, now())
        .unwrap();
    if format > 2 {
        keyring
            .insert_secret(new_secret("github", InjectionKind::Bearer, VALUE), now())
            .unwrap();
        keyring
            .insert_secret(new_secret("refresh", InjectionKind::OauthRefresh, VALUE), now())
            .unwrap();
        let replacement = SecretReplacement {
            name: "refresh".parse().unwrap(),
            of: None,
            expires: None,
            rotate_every: None,
            value: Secret::take(&mut b"second-value".to_vec()).unwrap(),
        };
        keyring
            .replace_secret(replacement, SecretSource::Server, now())
            .unwrap();
    }
    keyring.set_vkey("log+1234+abcd").unwrap();
    (keyring, first)
}

fn check(keyring: &Keyring, format: u32, first: &[u8]) {
    assert_eq!(keyring.info().format, FORMAT);
    assert!(keyring.material(&key_ref("first")).unwrap().equals(first));
    assert!(keyring.material(&key_ref("second")).is_ok());
    if format > 2 {
        let value = keyring.secret_material(&at("github", 1)).unwrap();
        assert!(value.equals(VALUE.as_bytes()));
        let value = keyring.secret_material(&at("refresh", 2)).unwrap();
        assert!(value.equals(b"second-value"));
        assert!(keyring.secret_material(&at("refresh", 1)).is_err());
    }
}

#[tokio::test]
async fn a_keyring_of_an_earlier_format_is_read_and_taken_over_whole() {
    for format in [2, 3] {
        let (_outer, folder) = place();
        let (keyring, first) = filled(&folder, format).await;
        let before = (keyring.keys(), keyring.secrets(), keyring.info());
        make_old(&folder, keyring, format);
        let old = std::fs::read(folder.join(DATABASE)).unwrap();

        // Read as it is, without the root key, and left as it is.
        assert_eq!(Keyring::list_public(&folder).unwrap().len(), 2);
        let secrets = Keyring::list_public_secrets(&folder).unwrap();
        assert_eq!(secrets.len(), before.1.len());
        assert_eq!(Keyring::peek(&folder).unwrap().format, format);
        assert_eq!(std::fs::read(folder.join(DATABASE)).unwrap(), old);

        let keyring = opened(&folder).await.unwrap();
        assert_eq!(keyring.keys(), before.0);
        assert_eq!(keyring.secrets(), before.1);
        assert_eq!(keyring.info().generation, before.2.generation + 1);
        assert_eq!(keyring.info().vkey, before.2.vkey);
        check(&keyring, format, &first);
        keyring
            .insert_secret(new_secret("added", InjectionKind::Bearer, VALUE), now())
            .unwrap();
        let log = std::fs::read(folder.join("keyring.db-wal")).unwrap();
        let base = std::fs::read(folder.join(DATABASE)).unwrap();
        drop(keyring);
        let keyring = opened(&folder).await.unwrap();
        assert_eq!(keyring.secrets().len(), before.1.len() + 1);
        check(&keyring, format, &first);
        drop(keyring);

        // Killed anywhere on the way: the old keyring or the new one.
        let mut formats = std::collections::BTreeSet::new();
        for cut in (0..log.len()).step_by(997).chain([log.len()]) {
            tamper::restore(&folder, &base);
            std::fs::write(folder.join("keyring.db-wal"), &log[..cut]).unwrap();
            formats.insert(Keyring::peek(&folder).unwrap().format);
            let keyring = opened(&folder).await.unwrap();
            check(&keyring, format, &first);
        }
        assert_eq!(formats, [format, FORMAT].into(), "the cuts hit both");
    }
}

#[tokio::test]
async fn a_changed_old_keyring_is_not_taken_over() {
    for format in [2, 3] {
        let (_outer, folder) = place();
        let (keyring, _) = filled(&folder, format).await;
        make_old(&folder, keyring, format);
        let old = std::fs::read(folder.join(DATABASE)).unwrap();
        let mut changes = vec![
            "UPDATE keys SET state = 'disabled' WHERE name = 'first'",
            "UPDATE keys SET state = 'active' WHERE name = 'second'",
            "UPDATE meta SET generation = generation + 1",
            "PRAGMA user_version = 4",
            "PRAGMA user_version = 1",
            "DELETE FROM keys",
        ];
        changes.push(if format == 2 {
            "PRAGMA user_version = 3"
        } else {
            "PRAGMA user_version = 2"
        });
        if format > 2 {
            changes.push("UPDATE secrets SET origin = 'https://evil.test' WHERE name = 'github'");
            changes.push("DELETE FROM secrets WHERE name = 'refresh' AND version = 1");
        }
        for change in changes {
            tamper::restore(&folder, &old);
            tamper::run(&folder, change);
            assert!(opened(&folder).await.is_err(), "{format}: {change}");
        }
        tamper::restore(&folder, &old);
        assert!(opened(&folder).await.is_ok(), "the control");
        // A new file that claims to be an old one is not read as one.
        for claimed in [2, 3] {
            tamper::run(&folder, &format!("PRAGMA user_version = {claimed}"));
            assert!(opened(&folder).await.is_err());
        }
    }
}
