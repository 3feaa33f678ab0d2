//! What remains of a profile under a grant, attacked. Not the frames: `tests` has them.

use super::git::GitNarrowing;
use super::ssh_auth::SshAuthNarrowing;
use super::test_keys::Pair;
use super::tests::{every_profile, jws, labeled, sshsig};
use super::*;

#[test]
fn a_grant_only_narrows() {
    let none = Narrowing::default;
    let namespace = |text: &str| Narrowing {
        namespace: Some(text.parse().unwrap()),
        ..none()
    };
    let audience = |text: &str| Narrowing {
        audience: Some(text.parse().unwrap()),
        ..none()
    };
    let subject = |text: &str| Narrowing {
        subject: Some(text.parse().unwrap()),
        ..none()
    };
    let ttl = |ttl| Narrowing {
        ttl: Some(ttl),
        ..none()
    };
    let label = |text: &str| Narrowing {
        label: Some(text.parse().unwrap()),
        ..none()
    };

    let foreign = "does not apply";
    for (profile, narrowing, expected) in [
        (sshsig(&["file"]), none(), Ok("file")),
        (sshsig(&["file", "mail"]), namespace("mail"), Ok("mail")),
        (
            sshsig(&["file", "mail"]),
            none(),
            Err("several values of `namespace` (`file`, `mail`)"),
        ),
        (
            sshsig(&["file"]),
            namespace("mail"),
            Err("not made for namespace `mail`"),
        ),
        // As older versions made them.
        (sshsig(&["file", "git"]), namespace("file"), Ok("file")),
        (sshsig(&["file", "git"]), namespace("git"), Err("profile `git`")),
        (sshsig(&["git"]), none(), Err("profile `git`")),
        (sshsig(&["file"]), namespace("FILE"), Err("not made for")),
        (sshsig(&[]), none(), Err("no namespace")),
        (sshsig(&["file"]), audience("a"), Err(foreign)),
        (sshsig(&["file"]), subject("a"), Err(foreign)),
        (sshsig(&["file"]), ttl(1), Err(foreign)),
        (sshsig(&["file"]), label("a"), Err(foreign)),
        (jws(&["a"]), none(), Ok("a 600")),
        (jws(&["a", "b"]), audience("b"), Ok("b 600")),
        (jws(&["a"]), ttl(1), Ok("a 1")),
        (jws(&["a"]), ttl(600), Ok("a 600")),
        (jws(&["a"]), subject("s"), Ok("a 600 s")),
        (jws(&["a", "b"]), none(), Err("several values of `audience`")),
        (jws(&["a"]), audience("b"), Err("not made for audience `b`")),
        (jws(&["a"]), ttl(601), Err("tokens of 1 to 600 seconds, not 601")),
        (jws(&["a"]), ttl(0), Err("not 0")),
        (jws(&[]), none(), Err("no audience")),
        (jws(&["a"]), namespace("file"), Err(foreign)),
        (jws(&["a"]), label("a"), Err(foreign)),
        (labeled(), none(), Ok("acme/build")),
        (labeled(), label("acme/build"), Ok("acme/build")),
        (
            labeled(),
            label("acme/other"),
            Err("not made for label `acme/other`"),
        ),
        (labeled(), namespace("file"), Err(foreign)),
        (labeled(), audience("a"), Err(foreign)),
        (labeled(), subject("a"), Err(foreign)),
        (labeled(), ttl(1), Err(foreign)),
    ] {
        let told = profile.narrow(&narrowing).map(|rule| match rule {
            SigningRule::Sshsig { namespace } => namespace.to_string(),
            SigningRule::Jws {
                audience,
                ttl,
                subject,
                ..
            } => format!(
                "{audience} {ttl} {}",
                subject.map_or(String::new(), |s| s.to_string())
            )
            .trim()
            .to_owned(),
            SigningRule::Labeled { label } => label.to_string(),
            SigningRule::Git(_) | SigningRule::SshAuth(_) => unreachable!("they have tables of their own"),
        });
        match (told.map_err(|error| error.to_string()), expected) {
            (Ok(rule), Ok(expected)) => assert_eq!(rule, expected),
            (Err(error), Err(expected)) => assert!(error.contains(expected), "{error}"),
            (told, expected) => panic!("{profile:?} {narrowing:?}: {told:?}, not {expected:?}"),
        }
    }
}

#[test]
fn no_new_key_with_profile_sshsig_is_for_git() {
    for namespaces in [&["git"][..], &["file", "git"]] {
        let profile = sshsig(namespaces);
        assert_eq!(profile.validate_new(), Err(ProfileError::GitNamespace));
        assert_eq!(profile.validate(), Ok(()), "a keyring that has one opens");
    }
    for namespaces in [&["GIT"][..], &["file", "git@acme"]] {
        assert_eq!(sshsig(namespaces).validate_new(), Ok(()), "the control");
    }
    for (profile, _) in every_profile(&Pair::both()[0]) {
        assert_eq!(profile.validate_new(), Ok(()));
    }
}

#[test]
fn a_field_belongs_to_one_profile() {
    let given = Narrowing {
        namespace: Some("file".parse().unwrap()),
        audience: Some("https://api.example.com".parse().unwrap()),
        subject: Some("s".parse().unwrap()),
        ttl: Some(1),
        label: Some("acme/build".parse().unwrap()),
        git: GitNarrowing {
            object: Some(git::GitObject::Tag),
            mail: Some("bot@acme.example".parse().unwrap()),
            tag: Some("v*".parse().unwrap()),
        },
        ssh: SshAuthNarrowing {
            user: Some("deploy".parse().unwrap()),
            host_keys: BTreeSet::from([HostKeyId::of(b"key")]),
        },
    };
    let every = every_profile(&Pair::both()[0]);
    let mut refused = 0;
    for (field, owner) in given.given() {
        // The one field, through what a manifest's grant becomes.
        let mut only = Narrowing::default();
        match field {
            "namespace" => only.namespace.clone_from(&given.namespace),
            "audience" => only.audience.clone_from(&given.audience),
            "subject" => only.subject.clone_from(&given.subject),
            "ttl" => only.ttl = given.ttl,
            "label" => only.label.clone_from(&given.label),
            "object" => only.git.object = given.git.object,
            "mail" => only.git.mail.clone_from(&given.git.mail),
            "tag" => only.git.tag.clone_from(&given.git.tag),
            "user" => only.ssh.user.clone_from(&given.ssh.user),
            "host-keys" => only.ssh.host_keys.clone_from(&given.ssh.host_keys),
            other => panic!("{other}"),
        }
        for (profile, _) in &every {
            let foreign = Err(ProfileError::Foreign {
                profile: profile.kind(),
                field,
            });
            let narrowed = profile.narrow(&only);
            assert_eq!(
                narrowed == foreign,
                profile.kind() != owner,
                "{field}: {narrowed:?}"
            );
            refused += usize::from(narrowed == foreign);
        }
    }
    assert_eq!(refused, 10 * (every.len() - 1), "the control");
}
