//! Approval of single uses: what is asked, of whom, and what counts as an answer. Not a queue and not a terminal: the broker holds what
//! waits, and whoever shows a question escapes it.

use std::fmt::{self, Debug};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::audit::Operation;
use crate::digest::{ComponentDigest, ManifestDigest, RequestDigest};
use crate::future::BoxFuture;
use crate::http::Origin;
use crate::name::{AgentName, GrantAlias, escape};
use crate::request::InstanceId;

mod content;
mod subject;

pub use content::{Content, MAX_SHOWN, escape_bytes};
pub use subject::{Salt, Subject};

/// How long a use waits for its approval if the manifest does not say: long enough to be called to a terminal.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5 * 60);
/// The shortest time that a use may wait for its approval: nobody reads faster.
pub const MIN_TIMEOUT: Duration = Duration::from_secs(1);
/// The longest time that a use may wait for its approval: what was asked an hour ago is not what is wanted now.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(60 * 60);
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
    /// The first of this grant by this component under this revision of the manifest; the others follow it. Of a grant with rights, the
    /// first of each right.
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
    /// What was approved last of this kind under this grant since the host started, to compare with. A text that was sealed is not kept.
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
    /// Under a grant with rights: of which right. An approval of a first use covers no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<Operation>,
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
}
