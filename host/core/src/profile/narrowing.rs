//! What a grant takes of a key's profile, as it is written. Not whether it fits: the profile says that when it is narrowed.

use serde::{Deserialize, Serialize};

use super::git::GitNarrowing;
use super::ssh_auth::SshAuthNarrowing;
use crate::name::{Label, Namespace, Principal};

/// What a grant says to narrow a key's profile. Fields that do not belong to the profile are errors at admission.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Narrowing {
    /// `sshsig`: the one namespace.
    pub namespace: Option<Namespace>,
    /// `jws`: the one audience.
    pub audience: Option<Principal>,
    /// `jws`: the `sub` of every token; none if absent.
    pub subject: Option<Principal>,
    /// `jws`: the life of a token in seconds.
    pub ttl: Option<u32>,
    /// `labeled`: the label, repeated so that the manifest can be read alone.
    pub label: Option<Label>,
    /// `git`: which objects.
    #[serde(default)]
    pub git: GitNarrowing,
    /// `ssh-auth`: as whom, and where.
    #[serde(default)]
    pub ssh: SshAuthNarrowing,
}

impl Narrowing {
    /// Every field that the grant gives, with the one profile that it belongs to.
    pub fn given(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let Self {
            namespace,
            audience,
            subject,
            ttl,
            label,
            git: GitNarrowing { object, mail, tag },
            ssh: SshAuthNarrowing { user, host_keys },
        } = self;
        [
            ("namespace", "sshsig", namespace.is_some()),
            ("audience", "jws", audience.is_some()),
            ("subject", "jws", subject.is_some()),
            ("ttl", "jws", ttl.is_some()),
            ("label", "labeled", label.is_some()),
            ("object", "git", object.is_some()),
            ("mail", "git", mail.is_some()),
            ("tag", "git", tag.is_some()),
            ("user", "ssh-auth", user.is_some()),
            ("host-keys", "ssh-auth", !host_keys.is_empty()),
        ]
        .into_iter()
        .filter(|(_, _, given)| *given)
        .map(|(field, profile, _)| (field, profile))
    }
}
