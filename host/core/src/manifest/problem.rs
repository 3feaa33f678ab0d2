//! What is wrong or doubtful in a manifest, with its place. Not rendering: the command draws it.

use std::fmt;
use std::ops::Range;

/// The codes of problems. Stable: scripts may match them.
pub mod code {
    /// Not TOML.
    pub const SYNTAX: &str = "manifest::syntax";
    /// A field that no version of this format has.
    pub const UNKNOWN_FIELD: &str = "manifest::unknown-field";
    /// A field that was given already.
    pub const DUPLICATE_FIELD: &str = "manifest::duplicate-field";
    /// A field that must be given.
    pub const MISSING_FIELD: &str = "manifest::missing-field";
    /// A value of another TOML type.
    pub const WRONG_TYPE: &str = "manifest::wrong-type";
    /// A value of the right type that is not acceptable.
    pub const WRONG_VALUE: &str = "manifest::wrong-value";
    /// Two values that contradict each other.
    pub const CONFLICT: &str = "manifest::conflict";
    /// Something this version does not serve.
    pub const UNSUPPORTED: &str = "manifest::unsupported";
    /// A credential that a grant needs is not there, not in use, or made for something else. Of the keyring, not of the text alone.
    pub const CREDENTIAL: &str = "manifest::credential";
    /// Warning: a grant that never ends.
    pub const NO_EXPIRY: &str = "manifest::no-expiry";
    /// Warning: a grant with neither `uses` nor `rate`.
    pub const UNLIMITED: &str = "manifest::unlimited";
    /// Warning: a use may wait for its approval until after its agent is stopped.
    pub const APPROVAL_TOO_SLOW: &str = "manifest::approval-too-slow";
    /// Warning: the component's bytes are not approved yet.
    pub const NOT_PINNED: &str = "manifest::not-pinned";
    /// Warning: a request that changes something, on paths that nobody listed.
    pub const BROAD_WRITE: &str = "manifest::broad-write";
    /// Warning: every path of an origin.
    pub const EVERY_PATH: &str = "manifest::every-path";
    /// Warning: an older version of TLS.
    pub const OLD_TLS: &str = "manifest::old-tls";
    /// Warning: a private network that is every address.
    pub const EVERY_NETWORK: &str = "manifest::every-network";
    /// Warning: private data, content that others write, and a way out, in one agent.
    pub const LETHAL_MIX: &str = "manifest::lethal-mix";
    /// Warning: a variable that looks like a credential.
    pub const SECRET_IN_ENV: &str = "manifest::secret-in-env";
}

/// How much it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The manifest is not loaded.
    Error,
    /// It is loaded, and the operator should know.
    Warning,
}

/// One problem of a manifest. Its texts are free of control characters.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// How much it matters.
    pub severity: Severity,
    /// A stable code such as `manifest::unknown-field`.
    pub code: &'static str,
    /// What is wrong and what was expected.
    pub message: String,
    /// Where, in bytes of the text; within it and on character boundaries. Empty where something is missing.
    pub span: Range<usize>,
    /// What to show at the span.
    pub label: String,
    /// What to type instead.
    pub help: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Problem {}

/// Problems as they are found.
#[derive(Debug, Default)]
pub(super) struct Report {
    problems: Vec<Problem>,
}

impl Report {
    /// Adds an error.
    pub(super) fn error(
        &mut self,
        code: &'static str,
        span: Range<usize>,
        message: String,
        label: impl Into<String>,
        help: Option<String>,
    ) {
        self.problems.push(Problem {
            severity: Severity::Error,
            code,
            message,
            span,
            label: label.into(),
            help,
        });
    }

    /// Adds a warning.
    pub(super) fn warning(
        &mut self,
        code: &'static str,
        span: Range<usize>,
        message: String,
        label: impl Into<String>,
        help: &str,
    ) {
        self.problems.push(Problem {
            severity: Severity::Warning,
            code,
            message,
            span,
            label: label.into(),
            help: Some(help.to_owned()),
        });
    }

    /// Whether there is an error among the problems.
    pub(super) fn has_errors(&self) -> bool {
        self.problems
            .iter()
            .any(|problem| problem.severity == Severity::Error)
    }

    /// Drops what may be a consequence of broken syntax: what is missing may stand in the broken part, and what stands on a
    /// broken line was not read as it was meant.
    pub(super) fn keep_certain(&mut self, text: &str, broken: &[Range<usize>]) {
        let ends: Vec<usize> = text.match_indices('\n').map(|(at, _)| at).collect();
        let line_of = |at: usize| ends.partition_point(|end| *end < at);
        let broken: Vec<_> = broken
            .iter()
            .map(|span| line_of(span.start)..=line_of(span.end))
            .collect();
        self.problems.retain(|problem| {
            let certain = match problem.code {
                code::SYNTAX | code::DUPLICATE_FIELD => return true,
                code::UNKNOWN_FIELD | code::WRONG_TYPE | code::WRONG_VALUE | code::UNSUPPORTED => true,
                _ => false,
            };
            let line = line_of(problem.span.start);
            certain && !problem.span.is_empty() && !broken.iter().any(|lines| lines.contains(&line))
        });
    }

    /// The problems in the order of the text, each within it.
    pub(super) fn finish(mut self, text: &str) -> Vec<Problem> {
        for problem in &mut self.problems {
            let start = text.floor_char_boundary(problem.span.start);
            let end = text.ceil_char_boundary(problem.span.end.max(start));
            problem.span = start..end;
        }
        self.problems
            .sort_by_key(|problem| (problem.span.start, problem.span.end));
        self.problems
    }
}
