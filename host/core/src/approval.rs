//! Approval of single uses: what is asked, of whom, and what counts as an answer. Not a queue and not a terminal: the broker holds what
//! waits, and whoever shows a question escapes it.

use std::fmt::{self, Debug};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::digest::{ComponentDigest, ContentDigest, ManifestDigest, RequestDigest};
use crate::future::BoxFuture;
use crate::http::Origin;
use crate::key::KeyRef;
use crate::name::{AgentName, GrantAlias, escape};
use crate::profile::SigningRule;
use crate::request::InstanceId;

/// How long a use waits for its approval if the manifest does not say: long enough to be called to a terminal.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5 * 60);
/// The shortest time that a use may wait for its approval: nobody reads faster.
pub const MIN_TIMEOUT: Duration = Duration::from_secs(1);
/// The longest time that a use may wait for its approval: what was asked an hour ago is not what is wanted now.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(60 * 60);
/// So many bytes of content are kept to be shown: some hundred lines. What is longer is cut, and its size and digest say so.
pub const MAX_SHOWN: usize = 32 * 1024;
/// The reason for a denial has at most this many characters.
pub const MAX_REASON: usize = 200;

/// That a grant's uses must be approved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Approval {
    /// Which of them.
    pub mode: ApprovalMode,
    /// How long one waits. [`MIN_TIMEOUT`] to [`MAX_TIMEOUT`].
    pub timeout: Duration,
}

/// Which uses of a grant must be approved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ApprovalMode {
    /// Every one, by itself.
    Each,
    /// The first of this grant by this component under this revision of the manifest; the others follow it.
    FirstUse,
}

impl ApprovalMode {
    /// As in a manifest.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Each => "each",
            Self::FirstUse => "first-use",
        }
    }
}

/// Names one question. Random, so that an answer to one of an earlier run is no answer to any of this.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApprovalId([u8; 8]);

/// A text names no question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected the 16 lower-case hexadecimal digits that `claviger approvals` shows")]
pub struct NotAnApprovalId;

impl ApprovalId {
    /// From random bytes.
    #[must_use]
    pub const fn new(random: [u8; 8]) -> Self {
        Self(random)
    }
}

impl fmt::Display for ApprovalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&hex::encode(self.0))
    }
}

impl Debug for ApprovalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ApprovalId {
    type Err = NotAnApprovalId;
    fn from_str(text: &str) -> Result<Self, NotAnApprovalId> {
        if text.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(NotAnApprovalId);
        }
        let mut bytes = [0; 8];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| NotAnApprovalId)?;
        Ok(Self(bytes))
    }
}

impl Serialize for ApprovalId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ApprovalId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// One use that waits for its approval, as it is put to whoever answers. In memory only, and only while it waits: it holds content.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Its name.
    pub id: ApprovalId,
    /// Who asks.
    pub instance: InstanceId,
    /// Under which name.
    pub agent: AgentName,
    /// Its code.
    pub component: ComponentDigest,
    /// The revision of the manifest that it runs under.
    pub manifest: ManifestDigest,
    /// The grant.
    pub grant: GrantAlias,
    /// What an approval would cover.
    pub mode: ApprovalMode,
    /// What an approval is bound to: all of the above but the id and the instance, and everything about the use.
    pub request: RequestDigest,
    /// When it was asked.
    pub asked: Timestamp,
    /// The first moment at which no answer counts any more.
    pub expires: Timestamp,
    /// What would be done.
    pub subject: Subject,
    /// What was approved last under this grant since the host started, to compare with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Arc<Subject>>,
}

impl Debug for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Question")
            .field("id", &self.id)
            .field("agent", &self.agent)
            .field("grant", &self.grant)
            .field("request", &self.request)
            .finish_non_exhaustive()
    }
}

/// What would be done.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Subject {
    /// Content is signed.
    Sign {
        /// The key and its version.
        key: KeyRef,
        /// How it is framed.
        rule: SigningRule,
        /// What the agent passed.
        content: Content,
    },
    /// A request is sent.
    Send {
        /// The method.
        method: String,
        /// The whole URL, in the one accepted spelling; without what the host attaches.
        url: String,
        /// The header fields that the agent set. Values are escaped; fields of one name stay apart.
        headers: Vec<(String, String)>,
        /// What the host attaches: the kind of credential, or `none`.
        inject: String,
        /// The digest of method, URL, header fields and body as they would be sent.
        digest: ContentDigest,
        /// The body.
        body: Content,
    },
}

impl Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())
    }
}

impl Subject {
    /// `sign` or `send`.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Sign { .. } => "sign",
            Self::Send { .. } => "send",
        }
    }

    /// The content, or the body.
    #[must_use]
    pub const fn content(&self) -> &Content {
        match self {
            Self::Sign { content, .. } => content,
            Self::Send { body, .. } => body,
        }
    }

    /// What an approval of this by this agent under this grant is bound to.
    #[must_use]
    pub fn request(
        &self,
        agent: &AgentName,
        component: &ComponentDigest,
        manifest: &ManifestDigest,
        grant: &GrantAlias,
    ) -> RequestDigest {
        let who = [
            agent.as_str().as_bytes(),
            component.as_bytes(),
            manifest.as_bytes(),
            grant.as_str().as_bytes(),
            self.kind().as_bytes(),
        ];
        match self {
            Self::Sign { key, rule, content } => {
                let key = key.to_string();
                // A rule is names and numbers, which always have a JSON text.
                let rule = serde_json::to_vec(rule).unwrap_or_default();
                let what = [key.as_bytes(), &rule, content.digest.as_bytes()];
                RequestDigest::of_parts(who.into_iter().chain(what))
            }
            Self::Send {
                inject, digest, body, ..
            } => {
                let what = [inject.as_bytes(), digest.as_bytes(), body.digest.as_bytes()];
                RequestDigest::of_parts(who.into_iter().chain(what.map(|part| part as &[u8])))
            }
        }
    }
}

/// Content as it is kept to be shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// How many bytes it has.
    pub size: u64,
    /// The digest of all of it.
    pub digest: ContentDigest,
    /// Its first bytes, at most [`MAX_SHOWN`].
    #[serde(with = "base64_text")]
    pub start: Vec<u8>,
}

impl Content {
    /// Of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self {
            size: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            digest: ContentDigest::of(bytes),
            start: bytes.get(..MAX_SHOWN).unwrap_or(bytes).to_vec(),
        }
    }

    /// How many bytes are not shown.
    #[must_use]
    pub fn left_out(&self) -> u64 {
        self.size
            .saturating_sub(u64::try_from(self.start.len()).unwrap_or(u64::MAX))
    }

    /// The start as text, if it is one: UTF-8 without NUL, but for a character that was cut in two.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        let text = match std::str::from_utf8(&self.start) {
            Ok(text) => text,
            Err(error) if self.left_out() > 0 && error.error_len().is_none() => {
                let whole = self.start.get(..error.valid_up_to())?;
                std::str::from_utf8(whole).ok()?
            }
            Err(_) => return None,
        };
        (!text.contains('\0')).then_some(text)
    }
}

impl Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes {}", self.size, self.digest)
    }
}

/// Bytes that somebody else chose, as text on one line: what is UTF-8 as [`escape`] writes it, every other byte as `\x` and two digits.
#[must_use]
pub fn escape_bytes(bytes: &[u8]) -> String {
    let mut out = String::new();
    for chunk in bytes.utf8_chunks() {
        out.push_str(&escape(chunk.valid(), usize::MAX));
        for byte in chunk.invalid() {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out
}

/// An answer, bound to the question that it is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Which question.
    pub id: ApprovalId,
    /// What was asked, as [`Question::request`] had it.
    pub request: RequestDigest,
    /// Who answers.
    pub by: AnsweredBy,
    /// What.
    pub answer: Answer,
}

impl Verdict {
    /// An approval of this question.
    #[must_use]
    pub const fn approve(question: &Question, by: AnsweredBy) -> Self {
        Self {
            id: question.id,
            request: question.request,
            by,
            answer: Answer::Approve,
        }
    }

    /// A denial of this question. The reason is escaped and cut.
    #[must_use]
    pub fn deny(question: &Question, by: AnsweredBy, reason: &str) -> Self {
        Self {
            id: question.id,
            request: question.request,
            by,
            answer: Answer::Deny {
                reason: escape(reason, MAX_REASON),
            },
        }
    }

    /// Whether it is an answer to this very question.
    #[must_use]
    pub fn is_for(&self, question: &Question) -> bool {
        self.id == question.id && self.request == question.request
    }
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Answer {
    /// It may be done, once.
    Approve,
    /// It may not.
    Deny {
        /// Why, escaped; at most [`MAX_REASON`] characters and a mark where it was cut. For the log: the agent does not learn it.
        reason: String,
    },
}

/// Who answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "who", rename_all = "kebab-case")]
pub enum AnsweredBy {
    /// An operator with `claviger approve` or `deny`, or an embedder's call in their name.
    Operator {
        /// The user's number, by the operating system's word.
        uid: u32,
    },
    /// Whoever sits at the terminal of `claviger run --ask`.
    Terminal {
        /// The user's number.
        uid: u32,
    },
    /// A webhook.
    Webhook {
        /// Where.
        origin: Origin,
    },
}

/// A use that waits for its approval; nothing of its content but a digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalRequest {
    /// Names the question.
    pub id: ApprovalId,
    /// The instance.
    pub instance: InstanceId,
    /// The agent.
    pub agent: AgentName,
    /// Its code.
    pub component: ComponentDigest,
    /// The manifest's bytes.
    pub manifest: ManifestDigest,
    /// The grant.
    pub grant: GrantAlias,
    /// Which uses an approval covers.
    pub mode: ApprovalMode,
    /// What an approval is bound to.
    pub request: RequestDigest,
    /// The first moment at which no answer counts any more.
    pub expires: Timestamp,
}

/// What came of the wait for an approval.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "how", rename_all = "kebab-case")]
pub enum ApprovalEnd {
    /// It was approved.
    Approved {
        /// By whom.
        by: AnsweredBy,
    },
    /// It was denied.
    Denied {
        /// By whom.
        by: AnsweredBy,
        /// Why, escaped.
        reason: String,
    },
    /// Nobody answered in time.
    Expired,
    /// The agent, or the host, went away.
    Withdrawn,
}

/// Nobody could be asked, or whoever was asked gave no answer that counts. Another approver may still answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there is no answer")]
pub struct NoVerdict;

/// Puts questions to somebody who may approve. Several may be asked at once: the first answer counts.
///
/// # Security
/// The broker checks that a verdict is for the question that was put, and that it is not too late; whether it comes from whom it says,
/// the approver must know.
pub trait Approver: Debug + Send + Sync {
    /// Asks, and waits for the answer. The future is dropped when the use has an answer from elsewhere, expires or is withdrawn: then
    /// nobody is to be asked any more.
    ///
    /// # Errors
    /// When there will be no answer from here.
    fn ask(&self, question: Arc<Question>) -> BoxFuture<'_, Result<Verdict, NoVerdict>>;
}

/// Bytes as base64 in JSON.
mod base64_text {
    use base64ct::{Base64, Encoding as _};
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Base64::encode_string(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Base64::decode_vec(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_spelling() {
        let id = ApprovalId::new([0, 1, 2, 3, 4, 5, 6, 0xff]);
        assert_eq!(id.to_string(), "00010203040506ff");
        assert_eq!("00010203040506ff".parse(), Ok(id));
        for bad in [
            "",
            "00010203040506f",
            "00010203040506FF",
            "00010203040506ff0",
            "x001020304050607",
        ] {
            assert_eq!(bad.parse::<ApprovalId>(), Err(NotAnApprovalId), "{bad}");
        }
    }

    #[test]
    fn content_is_cut_between_bytes_and_still_counted_whole() {
        let long = "ä".repeat(MAX_SHOWN);
        let content = Content::of(format!("x{long}").as_bytes());
        assert_eq!(content.start.len(), MAX_SHOWN);
        assert_eq!(content.left_out(), MAX_SHOWN as u64 + 1);
        assert_eq!(
            content.text().unwrap().len(),
            MAX_SHOWN - 1,
            "half a character is left out"
        );
        assert_ne!(content.digest, Content::of(&content.start).digest);
        assert_eq!(Content::of(b"a\0b").text(), None);
        assert_eq!(Content::of(b"a\xff").text(), None);
        assert_eq!(Content::of(b"\xc3").text(), None, "cut by the agent, not by us");
        let json = serde_json::to_string(&content).unwrap();
        assert_eq!(serde_json::from_str::<Content>(&json).unwrap(), content);
    }

    #[test]
    fn bytes_are_shown_on_one_line_and_no_two_alike() {
        assert_eq!(escape_bytes(b"a\r\nb\xff\\x"), "a\\u{d}\\u{a}b\\xff\\\\x");
        assert_ne!(escape_bytes(b"\xff"), escape_bytes(b"\\xff"));
    }

    #[test]
    fn an_approval_is_bound_to_everything_about_a_use() {
        let name = |text: &str| text.parse::<AgentName>().unwrap();
        let (component, other) = (ComponentDigest::of(b"a"), ComponentDigest::of(b"b"));
        let (manifest, changed) = (ManifestDigest::of(b"a"), ManifestDigest::of(b"b"));
        let alias = |text: &str| text.parse::<GrantAlias>().unwrap();
        let sign = |key: &str, label: &str, content: &[u8]| Subject::Sign {
            key: KeyRef {
                name: key.parse().unwrap(),
                version: crate::key::KeyVersion(if key == "old" { 1 } else { 2 }),
            },
            rule: SigningRule::Labeled {
                label: label.parse().unwrap(),
            },
            content: Content::of(content),
        };
        let send = |inject: &str, head: &[u8], body: &[u8]| Subject::Send {
            method: "GET".to_owned(),
            url: "https://a.test/".to_owned(),
            headers: Vec::new(),
            inject: inject.to_owned(),
            digest: ContentDigest::of(head),
            body: Content::of(body),
        };
        let bot = name("bot");
        let all = [
            sign("key", "l", b"x").request(&bot, &component, &manifest, &alias("g")),
            sign("key", "l", b"x").request(&name("tob"), &component, &manifest, &alias("g")),
            sign("key", "l", b"x").request(&bot, &other, &manifest, &alias("g")),
            sign("key", "l", b"x").request(&bot, &component, &changed, &alias("g")),
            sign("key", "l", b"x").request(&bot, &component, &manifest, &alias("h")),
            sign("old", "l", b"x").request(&bot, &component, &manifest, &alias("g")),
            sign("key", "m", b"x").request(&bot, &component, &manifest, &alias("g")),
            sign("key", "l", b"y").request(&bot, &component, &manifest, &alias("g")),
            send("bearer", b"x", b"").request(&bot, &component, &manifest, &alias("g")),
            send("none", b"x", b"").request(&bot, &component, &manifest, &alias("g")),
            send("bearer", b"y", b"").request(&bot, &component, &manifest, &alias("g")),
            send("bearer", b"x", b"y").request(&bot, &component, &manifest, &alias("g")),
        ];
        let different: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(different.len(), all.len());
        let again = sign("key", "l", b"x").request(&bot, &component, &manifest, &alias("g"));
        assert_eq!(again, all[0], "the control");
    }
}
