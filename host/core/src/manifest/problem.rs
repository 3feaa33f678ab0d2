//! What is wrong or doubtful in a manifest, with its place. Not rendering: the command draws it.

use std::ops::Range;

/// How much it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The manifest is not loaded.
    Error,
    /// It is loaded, and the operator should know.
    Warning,
}

/// One problem of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// How much it matters.
    pub severity: Severity,
    /// A stable code such as `manifest::unknown-field`.
    pub code: &'static str,
    /// What is wrong and what was expected.
    pub message: String,
    /// Where, in bytes of the text.
    pub span: Range<usize>,
    /// What to show at the span.
    pub label: String,
    /// What to type instead.
    pub help: Option<String>,
}
