//! What the profile `git` promises, attacked with objects that git, or somebody else, could make. Whether git itself takes the
//! signatures is asked in `tests/`.

use std::collections::BTreeSet;

use super::*;
use crate::profile::test_keys::Pair;
use crate::profile::tests::{context, rule, set};
use crate::profile::{FrameError, Narrowing, Profile, SigningRule};

const TREE: &str = "4b825dc642cb6eb9a060e54bf8d69288fbee4904";
/// The host's time in these tests.
const NOW: i64 = 1_800_000_000;

fn profile(mails: &[&str], tags: &[&str]) -> Profile {
    Profile::Git {
        mails: set(mails),
        tags: set(tags),
    }
}

fn commit() -> String {
    format!(
        "tree {TREE}\nparent {TREE}\nauthor A Bot <bot@acme.example> 1700000000 +0100\n\
         committer A Bot <bot@acme.example> {NOW} +0000\n\nThe subject\n\nThe body: ümläut\n"
    )
}

fn tag() -> String {
    format!(
        "object {TREE}\ntype commit\ntag v1.2.3\ntagger A Bot <bot@acme.example> {NOW} +0000\n\nThe release\n"
    )
}

/// The profile, and a commit that it signs.
pub(in crate::profile) fn sample() -> (Profile, Vec<u8>) {
    (profile(&["*@acme.example"], &["v*"]), commit().into_bytes())
}

fn signs(rule: &SigningRule, content: &[u8]) -> Result<(), GitError> {
    let key = Pair::both()[0].public();
    match rule.frame(content, &context(&key)) {
        Ok(framed) => {
            assert!(framed.message().starts_with(b"SSHSIG\0\0\0\x03git\0\0\0\0"));
            Ok(())
        }
        Err(FrameError::Git(error)) => Err(error),
        Err(other) => panic!("{other}"),
    }
}

fn wide() -> SigningRule {
    rule(&profile(&["*@acme.example"], &["*"]))
}

#[test]
fn a_commit_and_a_tag_are_signed_as_ssh_keygen_would() {
    for pair in Pair::both() {
        let key = pair.public();
        for object in [commit(), tag()] {
            let framed = wide().frame(object.as_bytes(), &context(&key)).unwrap();
            let armoured = framed.finish(&pair.sign(framed.message())).unwrap();
            let parsed: ssh_key::SshSig = String::from_utf8(armoured).unwrap().parse().unwrap();
            let public: ssh_key::PublicKey = key.to_openssh("").unwrap().parse().unwrap();
            public.verify("git", object.as_bytes(), &parsed).unwrap();
            public.verify("file", object.as_bytes(), &parsed).unwrap_err();
            public
                .verify("git", object.replace("The", "the").as_bytes(), &parsed)
                .unwrap_err();
        }
    }
}

/// Each change of the good commit, and why it is refused.
#[test]
fn a_commit_that_git_would_not_write_so_is_refused() {
    let good = commit();
    assert_eq!(signs(&wide(), good.as_bytes()), Ok(()), "the control");
    let head_end = "\n\nThe subject";
    let more = |line: &str| good.replace(head_end, &format!("\n{line}{head_end}"));
    let author = "author A Bot <bot@acme.example> 1700000000 +0100";
    let as_author = |line: &str| good.replace(author, line);
    for (what, bad, expected) in [
        ("nothing", String::new(), GitError::NotAnObject),
        (
            "a push certificate",
            "certificate version 0.1\npusher x\n\n".to_owned(),
            GitError::NotAnObject,
        ),
        ("a file", "hello\n\nworld".to_owned(), GitError::NotAnObject),
        (
            "another object",
            good.replace("tree ", "blob "),
            GitError::NotAnObject,
        ),
        (
            "with git's own header",
            format!("commit 200\0{good}"),
            GitError::NotText,
        ),
        ("a NUL in the message", format!("{good}\0"), GitError::NotText),
        (
            "no blank line",
            good.split("\n\n").next().unwrap().to_owned(),
            GitError::NotAnObject,
        ),
        (
            "a signature",
            more("gpgsig -----BEGIN SSH SIGNATURE-----\n x"),
            GitError::Foreign,
        ),
        (
            "a signature of SHA-256",
            more("gpgsig-sha256 x"),
            GitError::Foreign,
        ),
        ("a merged tag", more("mergetag object x"), GitError::Foreign),
        ("an encoding", more("encoding ISO-8859-1"), GitError::Foreign),
        ("a continued line", more(" x"), GitError::Foreign),
        (
            "another committer",
            more(&format!("committer A Bot <bot@acme.example> {NOW} +0000")),
            GitError::Foreign,
        ),
        (
            "a signature in the message",
            format!("{good}-----BEGIN SSH SIGNATURE-----\n"),
            GitError::Signed,
        ),
        (
            "one of PGP",
            format!("{good}-----BEGIN PGP SIGNATURE-----\n"),
            GitError::Signed,
        ),
        (
            "no tree",
            good.replace(&format!("tree {TREE}\n"), ""),
            GitError::NotAnObject,
        ),
        (
            "two trees",
            good.replace("parent", "tree"),
            GitError::Header("author"),
        ),
        (
            "capital digits",
            good.replacen('f', "F", 1),
            GitError::Header("tree"),
        ),
        (
            "a short id",
            good.replace(TREE, "4b825dc"),
            GitError::Header("tree"),
        ),
        (
            "ids of two hashes",
            good.replacen(
                &format!("parent {TREE}"),
                &format!("parent {}", "a".repeat(64)),
                1,
            ),
            GitError::Header("parent"),
        ),
        (
            "a space after an id",
            good.replacen(TREE, &format!("{TREE} "), 1),
            GitError::Header("tree"),
        ),
        (
            "no author",
            good.replace(&format!("{author}\n"), ""),
            GitError::Header("author"),
        ),
        (
            "the committer first",
            good.replace("author", "committer"),
            GitError::Header("author"),
        ),
        (
            "no name",
            as_author("author <bot@acme.example> 1700000000 +0100"),
            GitError::Header("author"),
        ),
        (
            "a padded name",
            as_author("author  A <bot@acme.example> 1700000000 +0100"),
            GitError::Header("author"),
        ),
        (
            "two addresses",
            as_author("author A <bot@acme.example> <x@evil.example> 1 +0000"),
            GitError::Header("author"),
        ),
        (
            "an address in the name",
            as_author("author A> <bot@acme.example> 1 +0000"),
            GitError::Header("author"),
        ),
        (
            "an escape in the name",
            as_author("author A\x1b[2J <bot@acme.example> 1 +0000"),
            GitError::Header("author"),
        ),
        (
            "a carriage return",
            as_author(&format!("{author}\r")),
            GitError::Header("author"),
        ),
        (
            "no address",
            as_author("author A <> 1 +0000"),
            GitError::Header("author"),
        ),
        (
            "a quoted address",
            as_author("author A <\"a b\"@acme.example> 1 +0000"),
            GitError::Header("author"),
        ),
        (
            "two signs",
            as_author("author A <a@b@acme.example> 1 +0000"),
            GitError::Header("author"),
        ),
        (
            "a star for an address",
            as_author("author A <*@acme.example> 1 +0000"),
            GitError::Header("author"),
        ),
        (
            "leading zeros",
            as_author("author A <bot@acme.example> 01 +0000"),
            GitError::Header("author"),
        ),
        (
            "a negative time",
            as_author("author A <bot@acme.example> -1 +0000"),
            GitError::Header("author"),
        ),
        (
            "no zone",
            as_author("author A <bot@acme.example> 1"),
            GitError::Header("author"),
        ),
        (
            "a zone of letters",
            as_author("author A <bot@acme.example> 1 UTC"),
            GitError::Header("author"),
        ),
        (
            "a zone that is none",
            as_author("author A <bot@acme.example> 1 +1560"),
            GitError::Header("author"),
        ),
        (
            "too many parents",
            good.replace(
                &format!("parent {TREE}\n"),
                &format!("parent {TREE}\n").repeat(17),
            ),
            GitError::Parents,
        ),
        (
            "another author",
            as_author("author A <bot@evil.example> 1 +0000"),
            GitError::Mail("author"),
        ),
        (
            "a longer domain",
            as_author("author A <bot@acme.example.evil> 1 +0000"),
            GitError::Mail("author"),
        ),
        (
            "a domain in the local part",
            as_author("author A <bot.acme.example@evil> 1 +0000"),
            GitError::Mail("author"),
        ),
        (
            "another case",
            as_author("author A <bot@ACME.example> 1 +0000"),
            GitError::Mail("author"),
        ),
        (
            "another committer's address",
            good.replace("committer A Bot <bot@", "committer A Bot <bot@x."),
            GitError::Mail("committer"),
        ),
        (
            "an early committer",
            good.replace(&NOW.to_string(), &(NOW - 601).to_string()),
            GitError::Time,
        ),
        (
            "a late committer",
            good.replace(&NOW.to_string(), &(NOW + 601).to_string()),
            GitError::Time,
        ),
    ] {
        assert_eq!(signs(&wide(), bad.as_bytes()), Err(expected), "{what}: {bad}");
    }
    let latin = commit()
        .into_bytes()
        .into_iter()
        .chain([0xE4])
        .collect::<Vec<_>>();
    assert_eq!(signs(&wide(), &latin), Err(GitError::NotText));
    for (what, fine) in [
        ("no parent", good.replace(&format!("parent {TREE}\n"), "")),
        (
            "sixteen parents",
            good.replace(
                &format!("parent {TREE}\n"),
                &format!("parent {TREE}\n").repeat(16),
            ),
        ),
        ("SHA-256", good.replace(TREE, &"ab".repeat(32))),
        (
            "an old author",
            as_author("author B C <1+x[bot]@acme.example> 0 -1200"),
        ),
        (
            "an empty message",
            good.split("\n\n").next().unwrap().to_owned() + "\n\n",
        ),
        (
            "a signature that is quoted",
            format!("{good}  -----BEGIN SSH SIGNATURE-----\n"),
        ),
        ("a message that begins with a blank line", more("")),
        (
            "a message that looks like a header",
            format!("{good}gpgsig x\n\ntree {TREE}\n"),
        ),
        (
            "a committer at the bound",
            good.replace(&NOW.to_string(), &(NOW - 600).to_string()),
        ),
    ] {
        assert_eq!(signs(&wide(), fine.as_bytes()), Ok(()), "{what}: {fine}");
    }
}

#[test]
fn a_tag_that_git_would_not_write_so_is_refused() {
    let good = tag();
    assert_eq!(signs(&wide(), good.as_bytes()), Ok(()), "the control");
    let named = |name: &str| good.replace("tag v1.2.3", &format!("tag {name}"));
    for (what, bad, expected) in [
        (
            "of a tree",
            good.replace("type commit", "type tree"),
            GitError::Header("type commit"),
        ),
        (
            "of a tag",
            good.replace("type commit", "type tag"),
            GitError::Header("type commit"),
        ),
        (
            "without a tagger",
            good.split("\ntagger").next().unwrap().to_owned() + "\n\nx",
            GitError::Header("tagger"),
        ),
        (
            "of another tagger",
            good.replace("bot@", "eve@x."),
            GitError::Mail("tagger"),
        ),
        (
            "of another time",
            good.replace(&NOW.to_string(), "1"),
            GitError::Time,
        ),
        (
            "signed",
            format!("{good}-----BEGIN SSH SIGNATURE-----\nx\n"),
            GitError::Signed,
        ),
        (
            "signed in its header",
            good.replace("\n\n", "\ngpgsig x\n\n"),
            GitError::Foreign,
        ),
    ] {
        assert_eq!(signs(&wide(), bad.as_bytes()), Err(expected), "{what}: {bad}");
    }
    for name in [
        "",
        "-v1",
        ".v1",
        "v1.",
        "v1.lock",
        "a..b",
        "a//b",
        "/a",
        "a/",
        "a/.b",
        "@",
        "v 1",
        "v~1",
        "v^",
        "v:1",
        "v*",
        "v?",
        "v[1]",
        "v\\",
        "v\x7f",
        "ü",
        "a/b.lock/c",
        "@{1}",
    ] {
        assert_eq!(
            signs(&wide(), named(name).as_bytes()),
            Err(GitError::Header("tag")),
            "{name}"
        );
    }
    for name in [
        "v1",
        "release/2026-11",
        "pkg@1.0.0",
        "1.0+build.5",
        "a/b/c",
        &"v".repeat(MAX_TAG),
    ] {
        assert_eq!(signs(&wide(), named(name).as_bytes()), Ok(()), "{name}");
    }
    assert_eq!(
        signs(&wide(), named(&"v".repeat(MAX_TAG + 1)).as_bytes()),
        Err(GitError::Header("tag"))
    );
}

#[test]
fn a_grant_narrows_objects_addresses_and_tags_and_never_widens_them() {
    let key = profile(&["*@acme.example", "bot@partner.example"], &["v*", "release/*"]);
    let narrowed = |object: Option<&str>, mail: Option<&str>, tag: Option<&str>| {
        key.narrow(&Narrowing {
            git: GitNarrowing {
                object: object.map(|it| it.parse().unwrap()),
                mail: mail.map(|it| it.parse().unwrap()),
                tag: tag.map(|it| it.parse().unwrap()),
            },
            ..Narrowing::default()
        })
    };
    for (object, mail, tag, objects) in [
        (None, None, None, "commit tag"),
        (Some("commit"), None, None, "commit"),
        (Some("tag"), None, Some("v1.*"), "tag"),
        (None, Some("bot@acme.example"), None, "commit tag"),
        (None, Some("b*@acme.example"), Some("release/*/*"), "commit tag"),
    ] {
        let Ok(SigningRule::Git(rule)) = narrowed(object, mail, tag) else {
            panic!("{object:?} {mail:?} {tag:?}")
        };
        let found: Vec<_> = rule.objects.iter().map(|it| it.as_str()).collect();
        assert_eq!(found.join(" "), objects);
        assert_eq!(mail.is_some(), rule.mails.len() == 1);
    }
    for (object, mail, tag, why) in [
        (
            None,
            Some("bot@evil.example"),
            None,
            "not made for mail `bot@evil.example`",
        ),
        (None, Some("*@*"), None, "not made for mail `*@*`"),
        (None, Some("*@*.example"), None, "not made for mail"),
        (None, Some("*@partner.example"), None, "not made for mail"),
        (
            None,
            None,
            Some("*"),
            "not made for tag `*`, only for `release/*`, `v*`",
        ),
        (None, None, Some("*v1"), "not made for tag"),
        (Some("commit"), None, Some("v1"), "does not apply"),
    ] {
        let error = narrowed(object, mail, tag).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
    // A key without tags.
    let commits = profile(&["*@acme.example"], &[]);
    assert_eq!(
        signs(&rule(&commits), tag().as_bytes()),
        Err(GitError::Kind(GitObject::Tag))
    );
    assert_eq!(signs(&rule(&commits), commit().as_bytes()), Ok(()));
    for git in [
        GitNarrowing {
            tag: Some("v1".parse().unwrap()),
            ..GitNarrowing::default()
        },
        GitNarrowing {
            object: Some(GitObject::Tag),
            ..GitNarrowing::default()
        },
    ] {
        assert!(
            commits
                .narrow(&Narrowing {
                    git,
                    ..Narrowing::default()
                })
                .is_err()
        );
    }
    // What was narrowed holds.
    let only = narrowed(Some("tag"), Some("bot@acme.example"), Some("v2*")).unwrap();
    assert_eq!(
        signs(&only, commit().as_bytes()),
        Err(GitError::Kind(GitObject::Commit))
    );
    assert_eq!(signs(&only, tag().as_bytes()), Err(GitError::TagNotAllowed));
    assert_eq!(signs(&only, tag().replace("v1", "v2").as_bytes()), Ok(()));
    assert_eq!(
        signs(
            &only,
            tag().replace("v1", "v2").replace("bot@", "eve@").as_bytes()
        ),
        Err(GitError::Mail("tagger"))
    );
}

proptest::proptest! {
    /// Nothing makes the parser panic, and nothing but text is taken.
    #[test]
    fn any_bytes_are_judged(content in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200), at in 0_usize..250, to in proptest::prelude::any::<u8>()) {
        proptest::prop_assert!(signs(&wide(), &content).is_err());
        let mut changed = commit().into_bytes();
        let at = at % changed.len();
        changed[at] = to;
        if signs(&wide(), &changed).is_ok() {
            proptest::prop_assert!(std::str::from_utf8(&changed).is_ok());
        }
    }
}

#[test]
fn the_stored_rule_names_what_it_takes() {
    let (profile, _) = sample();
    let stored = serde_json::to_string(&profile).unwrap();
    assert_eq!(
        stored,
        r#"{"kind":"git","mails":["*@acme.example"],"tags":["v*"]}"#
    );
    let widened = stored.replace("v*", "v *");
    assert!(serde_json::from_str::<Profile>(&widened).is_err());
    assert_eq!(BTreeSet::from([GitObject::Commit, GitObject::Tag]).len(), 2);
}

#[test]
fn a_key_has_some_addresses_and_not_too_many() {
    let many: Vec<String> = (0..=MAX_PATTERNS).map(|n| format!("a{n}@b")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(
        profile(&many, &[]).validate(),
        Err(ProfileError::TooMany {
            field: "mail",
            allowed: MAX_PATTERNS
        })
    );
    assert_eq!(profile(&many[1..], &[]).validate(), Ok(()));
    assert_eq!(profile(&[], &["v*"]).validate(), Err(ProfileError::Empty("mail")));
}
