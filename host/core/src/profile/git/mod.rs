//! What a key with the profile `git` signs: commits and tags, chosen by the mail addresses and the tag names in them. Not the parsing
//! of objects: `object` has it. Not a repository: nothing here knows whether the tree or the parents of a commit exist.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::ProfileError;

mod object;
mod pattern;
#[cfg(test)]
pub(super) mod tests;

pub use object::GitError;
pub use pattern::{MAX_MAIL, MAX_TAG, MailPattern, NotAPattern, TagPattern};

use object::{Object, parse};

/// A key has at most this many patterns of each kind: each is tried for each object.
pub const MAX_PATTERNS: usize = 32;
/// How far the time of a committer or tagger may be from the host's clock, in seconds. `git verify-commit` asks whether the key was
/// valid at the time that the object says: an agent that could choose it could sign for a time when another key, or none, was valid.
pub const MAX_SKEW: i64 = 600;

/// The namespace of git's signatures. Only this profile signs under it.
pub(super) const NAMESPACE: &str = "git";

/// What a grant may restrict the objects to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GitObject {
    /// Commits.
    Commit,
    /// Annotated tags of commits.
    Tag,
}

impl GitObject {
    /// The name in manifests.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::Tag => "tag",
        }
    }
}

impl fmt::Display for GitObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for GitObject {
    type Err = NotAPattern;
    fn from_str(text: &str) -> Result<Self, NotAPattern> {
        match text {
            "commit" => Ok(Self::Commit),
            "tag" => Ok(Self::Tag),
            _ => Err(NotAPattern("`commit` or `tag`")),
        }
    }
}

/// What one grant signs: the profile with every choice made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GitRule {
    /// Which kinds of objects.
    pub objects: BTreeSet<GitObject>,
    /// Every author, committer and tagger has one of these addresses.
    pub mails: BTreeSet<MailPattern>,
    /// Tags have one of these names.
    pub tags: BTreeSet<TagPattern>,
}

/// What a grant says to narrow a key with the profile `git`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GitNarrowing {
    /// The one kind of object.
    pub object: Option<GitObject>,
    /// The one address, or pattern of addresses.
    pub mail: Option<MailPattern>,
    /// The one name, or pattern of names.
    pub tag: Option<TagPattern>,
}

/// Checks a key's parameters.
pub(super) fn validate(
    mails: &BTreeSet<MailPattern>,
    tags: &BTreeSet<TagPattern>,
) -> Result<(), ProfileError> {
    if mails.is_empty() {
        return Err(ProfileError::Empty("mail"));
    }
    for (field, count) in [("mail", mails.len()), ("tag", tags.len())] {
        if count > MAX_PATTERNS {
            return Err(ProfileError::TooMany {
                field,
                allowed: MAX_PATTERNS,
            });
        }
    }
    Ok(())
}

/// What remains of the key's patterns.
pub(super) fn narrow(
    mails: &BTreeSet<MailPattern>,
    tags: &BTreeSet<TagPattern>,
    narrowing: &GitNarrowing,
) -> Result<GitRule, ProfileError> {
    let GitNarrowing { object, mail, tag } = narrowing;
    let mails = chosen("mail", mails, mail.as_ref(), |own, asked| {
        own.covers(asked.as_str())
    })?;
    let tags = chosen("tag", tags, tag.as_ref(), |own, asked| own.covers(asked.as_str()))?;
    let objects = match object {
        Some(GitObject::Commit) if tag.is_some() => return Err(ProfileError::TagOfCommits),
        Some(GitObject::Tag) if tags.is_empty() => return Err(ProfileError::Empty("tag")),
        Some(only) => BTreeSet::from([*only]),
        None if tags.is_empty() => BTreeSet::from([GitObject::Commit]),
        None => BTreeSet::from([GitObject::Commit, GitObject::Tag]),
    };
    Ok(GitRule { objects, mails, tags })
}

fn chosen<T: Ord + Clone + fmt::Display>(
    field: &'static str,
    own: &BTreeSet<T>,
    asked: Option<&T>,
    covers: impl Fn(&T, &T) -> bool,
) -> Result<BTreeSet<T>, ProfileError> {
    match asked {
        None => Ok(own.clone()),
        Some(asked) if own.iter().any(|own| covers(own, asked)) => Ok(BTreeSet::from([asked.clone()])),
        Some(asked) if own.is_empty() => Err(ProfileError::NotAmong {
            field,
            asked: asked.to_string(),
            allowed: "commits".to_owned(),
        }),
        Some(asked) => Err(ProfileError::NotAmong {
            field,
            asked: asked.to_string(),
            allowed: super::listed(own),
        }),
    }
}

impl GitRule {
    /// Checks an object as git would have it signed.
    pub(super) fn check(&self, content: &[u8], now: Timestamp) -> Result<(), GitError> {
        let object = parse(content)?;
        if !self.objects.contains(&object.kind()) {
            return Err(GitError::Kind(object.kind()));
        }
        let dated = match &object {
            Object::Commit { author, committer } => {
                self.check_mail("author", author.mail)?;
                self.check_mail("committer", committer.mail)?;
                committer
            }
            Object::Tag { name, tagger } => {
                self.check_mail("tagger", tagger.mail)?;
                if !self.tags.iter().any(|pattern| pattern.covers(name)) {
                    return Err(GitError::TagNotAllowed);
                }
                tagger
            }
        };
        if dated.time.abs_diff(now.as_second()) > MAX_SKEW.unsigned_abs() {
            return Err(GitError::Time);
        }
        Ok(())
    }

    fn check_mail(&self, who: &'static str, mail: &str) -> Result<(), GitError> {
        if self.mails.iter().any(|pattern| pattern.covers(mail)) {
            return Ok(());
        }
        Err(GitError::Mail(who))
    }
}
