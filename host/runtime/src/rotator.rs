//! A component that replaces a secret at whoever issues it, as the broker's rotation calls it: each step in a fresh instance. Decides
//! nothing: neither whether a step is due, nor what came of it.

use claviger_core::audit::{InstanceEnd, StopLimit};
use claviger_core::rotator::{RotationStep, RotatorError};
use claviger_core::{BoxFuture, SecretName};

use crate::agent::{Agent, Answer, RunInput};
use crate::output::OutputSink;

/// A rotator that was admitted, compiled and linked. Made by [`crate::Host::load_rotator`]; given to the broker's rotation.
#[derive(Debug)]
pub struct Rotator {
    agent: Agent,
    secret: SecretName,
    stderr: Option<OutputSink>,
}

impl Rotator {
    pub(crate) const fn new(agent: Agent, secret: SecretName) -> Self {
        Self {
            agent,
            secret,
            stderr: None,
        }
    }

    /// Hands on what it writes to stdout and stderr as it comes; by default it is dropped. The component chose it: whoever shows it,
    /// escapes it.
    #[must_use]
    pub fn output(mut self, sink: OutputSink) -> Self {
        self.stderr = Some(sink);
        self
    }

    /// The agent that it is, to say what the cache did and what was admitted.
    #[must_use]
    pub const fn agent(&self) -> &Agent {
        &self.agent
    }
}

impl claviger_core::rotator::Rotator for Rotator {
    fn secret(&self) -> &SecretName {
        &self.secret
    }

    fn step(&self, step: RotationStep) -> BoxFuture<'_, Result<(), RotatorError>> {
        Box::pin(async move {
            let input = match &self.stderr {
                Some(sink) => RunInput::default().stdout(sink.clone()).stderr(sink.clone()),
                None => RunInput::default(),
            };
            let report = self
                .agent
                .enter(input, Some(step))
                .await
                .map_err(|error| RotatorError::new(&error.to_string()))?;
            match (report.answer, report.end) {
                (Answer::Done(_), InstanceEnd::Finished) => Ok(()),
                (Answer::Failed(text), _) => Err(RotatorError::new(&text)),
                (_, end) => Err(RotatorError::new(&ended(&end))),
            }
        })
    }
}

fn ended(end: &InstanceEnd) -> String {
    match end {
        InstanceEnd::Stopped {
            limit: StopLimit::Deadline,
        } => "it ran longer than `deadline` in its manifest's `[limits]`".to_owned(),
        InstanceEnd::Stopped { limit } => format!("it was stopped at a limit: {limit:?}"),
        InstanceEnd::Trapped { trap } => format!("it trapped: {trap}"),
        InstanceEnd::Finished | InstanceEnd::Failed | InstanceEnd::Dropped => {
            "it ended without an answer".to_owned()
        }
    }
}
