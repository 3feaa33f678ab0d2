//! A row of the table: what a server does, and what it must lead to. Plays none.

use claviger_core::egress::Fault;

use super::Step;

/// What a row must lead to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Expect {
    /// This status and body, and no error.
    Answer(u16, &'static str),
    /// This fault, before the head or within the body.
    Fault(Fault),
}

/// One misbehaviour.
pub(crate) struct Row {
    pub(crate) name: String,
    /// What the server does, beginning with each connection.
    pub(crate) steps: Vec<Step>,
    pub(crate) expect: Expect,
}

/// The least that a row can be: read the request, write this, say goodbye.
pub(crate) fn row(name: impl Into<String>, answer: impl Into<Vec<u8>>, expect: Expect) -> Row {
    Row {
        name: name.into(),
        steps: vec![Step::Read, Step::Write(answer.into()), Step::Close],
        expect,
    }
}
