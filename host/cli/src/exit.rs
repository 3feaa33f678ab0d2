//! How a command ends: an exit code that scripts may rely on, and a failure with what to do about it. Prints nothing.

use std::error::Error;
use std::process::ExitCode;

use crate::interruption::Signal;

/// The exit codes. Documented in the help; never renumbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Done,
    /// It failed.
    Failed,
    /// The command line is wrong.
    Usage,
    /// A rule stands against it.
    Denied,
    /// An approval was missing.
    NeedsApproval,
    /// The audit log cannot be written, so nothing may be done.
    AuditUnavailable,
    /// Something was changed or damaged.
    Integrity,
    /// A signal stopped it.
    Stopped(Signal),
}

impl Exit {
    /// The number.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Denied => 3,
            Self::NeedsApproval => 4,
            Self::AuditUnavailable => 5,
            Self::Integrity => 6,
            Self::Stopped(signal) => signal.code(),
        }
    }

    /// The name in JSON.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Usage => "usage",
            Self::Denied => "denied",
            Self::NeedsApproval => "needs-approval",
            Self::AuditUnavailable => "audit-unavailable",
            Self::Integrity => "integrity",
            Self::Stopped(_) => "stopped",
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Why a command failed, as it is shown.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    /// What was wrong and what was expected.
    pub(crate) message: String,
    /// Why, from the nearest cause to the farthest.
    pub(crate) causes: Vec<String>,
    /// What to type or do.
    pub(crate) help: Vec<String>,
}

impl Failure {
    /// A failure with this text.
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
            causes: Vec::new(),
            help: Vec::new(),
        }
    }

    /// Something did not work.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }

    /// The command line is wrong.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// This error with the errors behind it.
    pub(crate) fn of(exit: Exit, error: &dyn Error) -> Self {
        Self::new(exit, error.to_string()).because(error.source())
    }

    /// Adds what stands behind the failure.
    pub(crate) fn because(mut self, mut source: Option<&dyn Error>) -> Self {
        while let Some(error) = source {
            let text = error.to_string();
            // Some errors repeat their cause in their own text.
            if !self.message.contains(&text) && self.causes.last() != Some(&text) {
                self.causes.push(text);
            }
            source = error.source();
        }
        self
    }

    /// Adds what to type or do.
    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help.push(help.into());
        self
    }

    /// As it is written with `--json`.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        serde_json::json!({ "error": {
            "kind": self.exit.name(),
            "exit": self.exit.code(),
            "message": self.message,
            "causes": self.causes,
            "help": self.help,
        }})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open it")]
    struct Outer(#[source] std::io::Error);

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open it: {0}")]
    struct Repeating(#[source] std::io::Error);

    #[test]
    fn causes_are_listed_once() {
        let failure = Failure::of(Exit::Failed, &Outer(std::io::Error::other("gone")));
        assert_eq!(
            (failure.message.as_str(), failure.causes),
            ("cannot open it", vec!["gone".to_owned()])
        );
        let failure = Failure::of(Exit::Failed, &Repeating(std::io::Error::other("gone")));
        assert!(failure.causes.is_empty());
    }
}
