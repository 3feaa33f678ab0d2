//! Commits and tags that a real git takes, with the allowed signers that the keyring publishes, and those that it refuses. And keys that were
//! imported, from their file to the log.

use std::process::{Command, Stdio};

use claviger_core::profile::git::GitError;
use jiff::Timestamp;

use super::*;
use crate::import::ImportedKey;
use crate::keyring::published::allowed_signers;
use crate::keyring::{KeyRecord, KeySource};
use crate::local::{KeyImport, NewKeyError};

/// A repository with one commit that nobody signed.
struct Repository(TempDir);

impl Repository {
    fn new() -> Self {
        let repository = Self(TempDir::new().unwrap());
        repository.git(&["init", "-q"], "").unwrap();
        let tree = repository.git(&["write-tree"], "").unwrap();
        let commit = repository
            .git(&["commit-tree", &tree, "-m", "The subject"], "")
            .unwrap();
        repository.git(&["update-ref", "HEAD", &commit], "").unwrap();
        repository
    }

    /// What git says, if it succeeds; without a trailing line end.
    fn git(&self, arguments: &[&str], input: &str) -> Option<String> {
        use std::io::Write as _;
        let mut child = Command::new("git")
            .args(["-c", "gpg.format=ssh", "-c", "gpg.ssh.allowedSignersFile=allowed"])
            .args(arguments)
            .current_dir(self.0.path())
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("HOME", self.0.path())
            .envs(["AUTHOR", "COMMITTER"].map(|who| (format!("GIT_{who}_NAME"), "A Bot")))
            .envs(["AUTHOR", "COMMITTER"].map(|who| (format!("GIT_{who}_EMAIL"), "bot@acme.example")))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("git is missing: apt-get install git");
        drop(child.stdin.take().unwrap().write_all(input.as_bytes()));
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        output
            .status
            .success()
            .then(|| said.trim_end_matches('\n').to_owned())
    }

    /// The bytes that git has of an object.
    fn object(&self, kind: &str, name: &str) -> String {
        self.git(&["cat-file", kind, name], "").unwrap() + "\n"
    }

    /// Stores a commit with its signature where git keeps it, and says whether git takes it.
    fn verifies_commit(&self, commit: &str, signature: &str) -> bool {
        let (head, message) = commit.split_once("\n\n").unwrap();
        let signature = signature.trim_end().replace('\n', "\n ");
        let signed = format!("{head}\ngpgsig {signature}\n\n{message}");
        let id = self
            .git(&["hash-object", "-t", "commit", "-w", "--stdin"], &signed)
            .unwrap();
        self.git(&["verify-commit", &id], "").is_some()
    }

    /// As [`Self::verifies_commit`], for a tag.
    fn verifies_tag(&self, tag: &str, signature: &str) -> bool {
        let id = self
            .git(
                &["hash-object", "-t", "tag", "-w", "--stdin"],
                &format!("{tag}{signature}"),
            )
            .unwrap();
        self.git(&["verify-tag", &id], "").is_some()
    }
}

fn git_profile() -> Profile {
    Profile::Git {
        mails: [name("*@acme.example")].into(),
        tags: [name("v*")].into(),
    }
}

#[tokio::test]
async fn git_takes_the_commits_and_tags_that_were_signed_and_no_changed_ones() {
    let fixture = Fixture::new().await;
    // Git's own clock made the objects.
    let start: Timestamp = START.parse().unwrap();
    fixture.clock.advance(start.duration_until(Timestamp::now()));
    let mut grants = String::new();
    for (key, algorithm) in [("ed", Algorithm::Ed25519), ("nist", Algorithm::P256)] {
        let creation = KeyCreation {
            name: name(key),
            profile: git_profile(),
            algorithm,
            custody: CustodyKind::Software,
        };
        fixture.broker.create_key(creation).await.unwrap();
        grants.push_str(&format!(
            "[grants.{key}]\nsign = {{ key = \"{key}\", mail = \"bot@acme.example\" }}\n\
             [grants.{key}-tags]\nsign = {{ key = \"{key}\", object = \"tag\", tag = \"v1.*\" }}\n"
        ));
    }
    let who = fixture.start(&grants).await;
    for key in ["ed", "nist"] {
        let repository = Repository::new();
        let records = fixture.broker.keyring().keys();
        let versions: Vec<&KeyRecord> = records
            .iter()
            .map(AsRef::as_ref)
            .filter(|it| it.key.name.as_str() == key)
            .collect();
        std::fs::write(
            repository.0.path().join("allowed"),
            allowed_signers(&versions, &[]).unwrap(),
        )
        .unwrap();

        let commit = repository.object("commit", "HEAD");
        let signature = fixture.sign(who, key, commit.as_bytes()).await.unwrap();
        let signature = String::from_utf8(signature).unwrap();
        assert!(repository.verifies_commit(&commit, &signature), "{key}");
        assert!(!repository.verifies_commit(&commit.replace("subject", "Subject"), &signature));
        assert!(!repository.verifies_commit(&commit.replace("A Bot", "A Cat"), &signature));

        repository
            .git(&["tag", "-a", "v1.0", "-m", "The release"], "")
            .unwrap();
        let tag = repository.object("tag", "v1.0");
        let signature = fixture
            .sign(who, &format!("{key}-tags"), tag.as_bytes())
            .await
            .unwrap();
        let signature = String::from_utf8(signature).unwrap();
        assert!(repository.verifies_tag(&tag, &signature), "{key}");
        assert!(!repository.verifies_tag(&tag.replace("v1.0", "v1.1"), &signature));

        // What the grant does not sign, each as git would write it.
        let (grant, tags) = (key.to_owned(), format!("{key}-tags"));
        for (grant, object) in [
            (&grant, commit.replace("bot@", "eve@")),
            (&grant, commit.replace("committer", "gpgsig x\ncommitter")),
            (&grant, tag.replace("bot@", "eve@")),
            (&grant, tag.replace("tag v1.0", "tag w1.0")),
            (&tags, commit.clone()),
            (&tags, tag.replace("v1.0", "v2.0")),
            (&tags, format!("{tag}{signature}")),
            (&grant, "a release".to_owned()),
        ] {
            assert_eq!(
                fixture.sign(who, grant, object.as_bytes()).await,
                Err(Refusal::Invalid),
                "{object}"
            );
        }
    }
    let rules = fixture.rules().await;
    assert_eq!(
        (rules.len(), rules.iter().all(|rule| *rule == Rule::Content)),
        (16, true)
    );
    let details: Vec<_> = fixture
        .events()
        .await
        .into_iter()
        .filter_map(|event| match event {
            Event::Denied { detail, .. } => Some(detail),
            _ => None,
        })
        .collect();
    assert!(
        details.contains(&GitError::TagNotAllowed.to_string()),
        "{details:?}"
    );
}

/// RFC 8410 §10.3.
const FILE: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";

fn import(key: &str, profile: Profile, custody: Option<CustodyKind>) -> KeyImport {
    let file = Secret::take(&mut FILE.as_bytes().to_vec()).unwrap();
    KeyImport {
        name: name(key),
        profile,
        custody,
        private: ImportedKey::read(&file, None).unwrap(),
    }
}

#[tokio::test]
async fn an_imported_key_is_marked_for_good_and_has_one_name() {
    let fixture = Fixture::new().await;
    let record = fixture
        .broker
        .import_key(import("old", git_profile(), None))
        .await
        .unwrap();
    assert_eq!(
        (record.source, record.custody),
        (KeySource::Imported, CustodyKind::Software)
    );
    for again in ["old", "new"] {
        let refused = fixture
            .broker
            .import_key(import(again, git_profile(), None))
            .await
            .unwrap_err();
        assert!(
            matches!(refused, NewKeyError::Exists(_) | NewKeyError::Known(_)),
            "{refused}"
        );
    }
    // Once purged, the name is free, and so is the key.
    let old = name("old");
    fixture
        .broker
        .delete_key(&old, std::time::Duration::ZERO)
        .await
        .unwrap();
    fixture.broker.purge_key(&old).await.unwrap();
    let again = fixture
        .broker
        .import_key(import("old", git_profile(), None))
        .await
        .unwrap();
    assert_eq!(again.key.version.0, 2);
    assert!(matches!(
        fixture
            .broker
            .import_key(import("tpm", git_profile(), Some(CustodyKind::Tpm)))
            .await,
        Err(NewKeyError::NoCustody(CustodyKind::Tpm))
    ));
    assert!(matches!(
        fixture
            .broker
            .import_key(import("app", Profile::Mtls {}, None))
            .await,
        Err(NewKeyError::Profile(_))
    ));
    let fixture = fixture.reopen().await;
    let record = fixture.broker.keyring().key(&name("old")).unwrap();
    assert_eq!(record.source, KeySource::Imported);
    let created: Vec<_> = fixture
        .events()
        .await
        .into_iter()
        .filter_map(|event| match event {
            Event::KeyCreated { key, source, .. } => Some((key.name.to_string(), source)),
            _ => None,
        })
        .collect();
    assert!(created.contains(&("old".to_owned(), Some("imported".to_owned()))));
    assert!(created.contains(&("release".to_owned(), None)), "the control");
}

#[tokio::test]
async fn an_imported_key_comes_in_through_an_operators_command() {
    use crate::operator::{Command, CommandError};
    let fixture = Fixture::new().await;
    let command = || Command::ImportKey {
        name: name("brought"),
        profile: git_profile(),
        format: None,
        custody: None,
    };
    assert!(matches!(
        fixture.broker.command(command(), None).await,
        Err(CommandError::ValueMissing)
    ));
    let file = |text: &str| Secret::take(&mut text.as_bytes().to_vec()).unwrap();
    assert!(matches!(
        fixture.broker.command(command(), Some(file("no key"))).await,
        Err(CommandError::Key(NewKeyError::Import(_)))
    ));
    fixture.broker.command(command(), Some(file(FILE))).await.unwrap();
    assert!(fixture.broker.keyring().key(&name("brought")).is_some());
}
