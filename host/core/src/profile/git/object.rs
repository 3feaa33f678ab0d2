//! Reads a commit or tag as git signs it: the object without its signature. Strict: what git itself does not write is refused, so that
//! every program reads the object as it was judged. Not a library for git objects: nothing is stored, and no other object is read.

use std::str::Split;

use super::pattern::{is_mail, is_tag_name};
use super::{GitObject, MAX_SKEW};

/// A commit has at most this many parents, as many as git's own octopus merges.
pub(super) const MAX_PARENTS: usize = 16;
/// The longest name of an author, committer or tagger, in bytes.
const MAX_NAME: usize = 256;
/// What a signature in an object starts with, as git looks for it at the beginning of lines. In the message of a tag, the rest would
/// be taken for its signature.
const SIGNATURES: [&str; 4] = [
    "-----BEGIN PGP SIGNATURE-----",
    "-----BEGIN PGP MESSAGE-----",
    "-----BEGIN SIGNED MESSAGE-----",
    "-----BEGIN SSH SIGNATURE-----",
];

/// What of an object decides whether it is signed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Object<'a> {
    Commit {
        author: Person<'a>,
        committer: Person<'a>,
    },
    Tag {
        name: &'a str,
        tagger: Person<'a>,
    },
}

impl Object<'_> {
    pub(super) const fn kind(&self) -> GitObject {
        match self {
            Self::Commit { .. } => GitObject::Commit,
            Self::Tag { .. } => GitObject::Tag,
        }
    }
}

/// Who, and when.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Person<'a> {
    pub(super) mail: &'a str,
    pub(super) time: i64,
}

/// Why content is not signed as a commit or tag. Quotes none of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GitError {
    /// Neither kind of object.
    #[error("expected a commit or a tag, as git passes it to a program that signs")]
    NotAnObject,
    /// Not text.
    #[error("the object is not UTF-8, or holds a NUL")]
    NotText,
    /// A line of its header is not the one that git writes there.
    #[error("the object's header has no proper `{0}` line where git writes it")]
    Header(&'static str),
    /// More in its header than git writes into one that is not signed: a signature, a merged tag, another encoding.
    #[error(
        "the object's header has more lines than those of a plain commit or tag, such as a signature, a merged tag or an encoding"
    )]
    Foreign,
    /// Too many parents.
    #[error("the commit has over {MAX_PARENTS} parents")]
    Parents,
    /// A signature is in the message.
    #[error("the object's message has a line that begins a signature")]
    Signed,
    /// The grant is not for such objects.
    #[error("the grant does not sign a {0}")]
    Kind(GitObject),
    /// Somebody else's address.
    #[error("the address of the {0} is not one that the grant signs for")]
    Mail(&'static str),
    /// Another tag.
    #[error("the tag's name is not one that the grant signs")]
    TagNotAllowed,
    /// At another time.
    #[error("the time of the committer or tagger is over {MAX_SKEW} s from the host's")]
    Time,
}

/// Reads an object.
pub(super) fn parse(content: &[u8]) -> Result<Object<'_>, GitError> {
    let text = std::str::from_utf8(content).map_err(|_| GitError::NotText)?;
    if text.contains('\0') {
        return Err(GitError::NotText);
    }
    let (head, message) = text.split_once("\n\n").ok_or(GitError::NotAnObject)?;
    if message
        .lines()
        .any(|line| SIGNATURES.iter().any(|start| line.starts_with(start)))
    {
        return Err(GitError::Signed);
    }
    let mut lines = Lines {
        rest: head.split('\n'),
        next: None,
        id: None,
    };
    let object = if head.starts_with("tree ") {
        commit(&mut lines)?
    } else if head.starts_with("object ") {
        tag(&mut lines)?
    } else {
        return Err(GitError::NotAnObject);
    };
    match lines.take() {
        None => Ok(object),
        Some(_) => Err(GitError::Foreign),
    }
}

fn commit<'a>(lines: &mut Lines<'a>) -> Result<Object<'a>, GitError> {
    lines.object_id("tree")?;
    let mut parents = 0;
    while lines.peek().is_some_and(|line| line.starts_with("parent ")) {
        lines.object_id("parent")?;
        parents += 1;
        if parents > MAX_PARENTS {
            return Err(GitError::Parents);
        }
    }
    Ok(Object::Commit {
        author: lines.person("author")?,
        committer: lines.person("committer")?,
    })
}

fn tag<'a>(lines: &mut Lines<'a>) -> Result<Object<'a>, GitError> {
    lines.object_id("object")?;
    // Of anything but a commit nobody tags a release.
    if lines.field("type")? != "commit" {
        return Err(GitError::Header("type commit"));
    }
    let name = lines.field("tag")?;
    if !is_tag_name(name) {
        return Err(GitError::Header("tag"));
    }
    Ok(Object::Tag {
        name,
        tagger: lines.person("tagger")?,
    })
}

/// The lines of a header.
struct Lines<'a> {
    rest: Split<'a, char>,
    // The one that was looked at and not taken.
    next: Option<&'a str>,
    // How long the first object's id is: all have the hash function of their repository.
    id: Option<usize>,
}

impl<'a> Lines<'a> {
    fn peek(&mut self) -> Option<&'a str> {
        if self.next.is_none() {
            self.next = self.rest.next();
        }
        self.next
    }

    fn take(&mut self) -> Option<&'a str> {
        self.peek();
        self.next.take()
    }

    fn field(&mut self, name: &'static str) -> Result<&'a str, GitError> {
        self.take()
            .and_then(|line| line.strip_prefix(name))
            .and_then(|line| line.strip_prefix(' '))
            .ok_or(GitError::Header(name))
    }

    /// SHA-1 or SHA-256 as git writes them.
    fn object_id(&mut self, name: &'static str) -> Result<(), GitError> {
        let id = self.field(name)?;
        let digits = id
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let length = *self.id.get_or_insert(id.len());
        if digits && matches!(length, 40 | 64) && id.len() == length {
            return Ok(());
        }
        Err(GitError::Header(name))
    }

    fn person(&mut self, name: &'static str) -> Result<Person<'a>, GitError> {
        person(self.field(name)?).ok_or(GitError::Header(name))
    }
}

/// `NAME <MAIL> SECONDS ZONE`, each part as git writes it after it has cleaned it.
fn person(line: &str) -> Option<Person<'_>> {
    let (name, rest) = line.split_once(" <")?;
    let (mail, rest) = rest.split_once("> ")?;
    let (seconds, zone) = rest.split_once(' ')?;
    let named = !name.is_empty()
        && name.len() <= MAX_NAME
        && name.trim() == name
        && !name.contains(|c: char| matches!(c, '<' | '>') || c.is_control());
    // Without a sign or leading zeros, and within what every program reads: twelve digits end in the year 33658.
    let time = (seconds.len() <= 12 && seconds.bytes().all(|b| b.is_ascii_digit()))
        .then(|| seconds.parse::<i64>().ok())
        .flatten()
        .filter(|time| time.to_string() == seconds)?;
    (named && is_mail(mail) && is_zone(zone)).then_some(Person { mail, time })
}

/// `+0000` to `±1459`.
fn is_zone(zone: &str) -> bool {
    let digits = zone.strip_prefix(['+', '-']);
    digits.is_some_and(|digits| {
        let number = |range| digits.get(range).and_then(|part: &str| part.parse::<u8>().ok());
        digits.len() == 4
            && digits.bytes().all(|b| b.is_ascii_digit())
            && number(0..2).is_some_and(|hours| hours <= 14)
            && number(2..4).is_some_and(|minutes| minutes <= 59)
    })
}
