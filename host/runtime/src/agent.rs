//! An agent that was loaded, and its runs. Each run has a store of its own: nothing is left of it for the next one.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use claviger_core::Admission;
use claviger_core::audit::{InstanceEnd, StopLimit};
use claviger_core::manifest::Manifest;
use claviger_core::rotator::RotationStep;
use wasmtime::Store;
use wasmtime_wasi::p2::bindings::CommandPre;

use crate::cache::CacheEvent;
use crate::error::RunError;
use crate::folders::OpenFolder;
use crate::host::{Admitted, Shared};
use crate::imports::CredentialsCtx;
use crate::imports::bindings::AgentPre;
use crate::imports::rotation::RotatorPre;
use crate::limits::{Ended, HOSTCALL_BYTES, MAX_ANSWER, MAX_HANDLES, MAX_INPUT, Metered, Stop, classify};
use crate::output::{Captured, OutputSink};
use crate::state::State;

/// A component that was admitted, compiled and linked. Made by [`crate::Host::load`]; run as often and as concurrently as wanted.
pub struct Agent {
    pub(crate) shared: Arc<Shared>,
    pub(crate) manifest: Manifest,
    pub(crate) admission: Admitted,
    pub(crate) entrance: Entrance,
    pub(crate) folders: Vec<OpenFolder>,
    pub(crate) cache: CacheEvent,
}

/// The linked component, by how it is called.
pub(crate) enum Entrance {
    Agent(AgentPre<State>),
    Command(CommandPre<State>),
    Rotator(RotatorPre<State>),
}

/// What one run is given.
#[derive(Debug, Clone, Default)]
pub struct RunInput {
    text: String,
    stdout: Option<OutputSink>,
    stderr: Option<OutputSink>,
}

impl RunInput {
    /// This text: the argument of `claviger:agent/run`, the stdin of a command. At most [`MAX_INPUT`] bytes.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            ..Self::default()
        }
    }

    /// Hands on stdout as it comes. It is kept for the report as well.
    #[must_use]
    pub fn stdout(mut self, sink: OutputSink) -> Self {
        self.stdout = Some(sink);
        self
    }

    /// Hands on stderr as it comes. It is kept for the report as well.
    #[must_use]
    pub fn stderr(mut self, sink: OutputSink) -> Self {
        self.stderr = Some(sink);
        self
    }
}

/// What came of a run. Every text in it was chosen by the agent: whoever shows it, escapes it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RunReport {
    /// What the agent said at its end.
    pub answer: Answer,
    /// What it wrote, up to the manifest's `output`.
    pub stdout: Vec<u8>,
    /// What it wrote, up to the manifest's `output`.
    pub stderr: Vec<u8>,
    /// How it ended; the same is on the audit log.
    pub end: InstanceEnd,
    /// Wall-clock time from instantiation to the end.
    pub elapsed: Duration,
}

/// What an agent said at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Answer {
    /// `claviger:agent/run` returned this.
    Done(String),
    /// `claviger:agent/run` returned this error.
    Failed(String),
    /// A command ended, or any agent exited, with this code.
    Exited(u8),
    /// Nothing: it was stopped or trapped.
    Absent,
}

impl Agent {
    /// Runs the agent once, in a fresh instance, within the manifest's limits. Waits first if the pool is full; that wait is not
    /// part of the deadline.
    ///
    /// Needs a tokio runtime with its time enabled. Dropping the future stops the agent where it waits or at its next tick and
    /// ends the instance as dropped; a use of a credential under way is settled as abandoned.
    ///
    /// # Errors
    /// Only when the run could not begin. An agent that traps or is stopped is a report, not an error.
    pub async fn run(&self, input: RunInput) -> Result<RunReport, RunError> {
        match self.entrance {
            Entrance::Agent(_) | Entrance::Command(_) => self.enter(input, None).await,
            Entrance::Rotator(_) => Err(RunError::Rotator),
        }
    }

    /// One run, or one step of a rotation.
    pub(crate) async fn enter(
        &self,
        input: RunInput,
        step: Option<RotationStep>,
    ) -> Result<RunReport, RunError> {
        if input.text.len() > MAX_INPUT {
            return Err(RunError::InputTooLarge(input.text.len()));
        }
        // Never closed, so an error is impossible; without a permit the pool itself would refuse.
        let _slot = self.shared.slots.acquire().await.ok();
        let credentials = CredentialsCtx::start(self.shared.broker.clone(), &self.admission.admission)
            .map_err(RunError::NotStarted)?;
        let began = Instant::now();
        let cap = usize::try_from(self.manifest.limits.output.0).unwrap_or(usize::MAX);
        let stdout = Captured::new(cap, input.stdout);
        let stderr = Captured::new(cap, input.stderr);
        let (argument, stdin) = match self.entrance {
            Entrance::Agent(_) => (input.text, String::new()),
            Entrance::Command(_) | Entrance::Rotator(_) => (String::new(), input.text),
        };
        let state = State::new(
            &self.manifest,
            &self.folders,
            credentials,
            stdin,
            stdout.clone(),
            stderr.clone(),
        )?;
        let mut store = self.store(state);
        let call = Metered::new(self.call(&mut store, &argument, step), self.manifest.limits.cpu);
        let returned = match tokio::time::timeout(self.manifest.limits.deadline, call).await {
            Ok(returned) => returned,
            Err(_elapsed) => Err(Stop(StopLimit::Deadline).into()),
        };
        let (answer, end) = concluded(returned);
        store.into_data().end(end.clone()).await;
        Ok(RunReport {
            answer,
            stdout: stdout.take(),
            stderr: stderr.take(),
            end,
            elapsed: began.elapsed(),
        })
    }

    /// What the broker admitted.
    #[must_use]
    pub const fn admission(&self) -> &Admission {
        &self.admission.admission
    }

    /// What the cache of compiled components did when this agent was loaded.
    #[must_use]
    pub const fn cache_event(&self) -> &CacheEvent {
        &self.cache
    }

    fn store(&self, state: State) -> Store<State> {
        let mut store = Store::new(&self.shared.engine.0, state);
        store.limiter(|state| &mut state.totals);
        store.set_hostcall_fuel(HOSTCALL_BYTES);
        store.set_max_component_handles(MAX_HANDLES);
        // Gives way at every tick: that is where the deadline, the processor time and a drop take effect.
        store.epoch_deadline_async_yield_and_update(1);
        store.set_epoch_deadline(1);
        store
    }

    async fn call(
        &self,
        store: &mut Store<State>,
        argument: &str,
        step: Option<RotationStep>,
    ) -> wasmtime::Result<Answer> {
        let cap = usize::try_from(self.manifest.limits.output.0).unwrap_or(usize::MAX);
        let cap = cap.min(MAX_ANSWER);
        match &self.entrance {
            Entrance::Rotator(linked) => {
                // Of a rotator nothing but steps is called.
                let Some(step) = step else {
                    return Ok(Answer::Absent);
                };
                let rotator = linked.instantiate_async(&mut *store).await?;
                let rotation = rotator.claviger_agent_rotation();
                let returned = match step {
                    RotationStep::Issue => rotation.call_issue(&mut *store).await?,
                    RotationStep::Probe => rotation.call_probe(&mut *store).await?,
                    RotationStep::Withdraw(id) => rotation.call_withdraw(&mut *store, id.as_str()).await?,
                };
                if returned.as_ref().map_or_else(String::len, |()| 0) > cap {
                    return Err(Stop(StopLimit::Output).into());
                }
                Ok(returned.map_or_else(Answer::Failed, |()| Answer::Done(String::new())))
            }
            Entrance::Agent(linked) => {
                let agent = linked.instantiate_async(&mut *store).await?;
                let returned = agent.claviger_agent_run().call_run(&mut *store, argument).await?;
                if returned.as_ref().map_or_else(String::len, String::len) > cap {
                    return Err(Stop(StopLimit::Output).into());
                }
                Ok(returned.map_or_else(Answer::Failed, Answer::Done))
            }
            Entrance::Command(linked) => {
                let command = linked.instantiate_async(&mut *store).await?;
                let returned = command.wasi_cli_run().call_run(&mut *store).await?;
                Ok(Answer::Exited(u8::from(returned.is_err())))
            }
        }
    }
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agent")
            .field("admission", &self.admission.admission)
            .field("cache", &self.cache)
            .finish_non_exhaustive()
    }
}

fn concluded(returned: wasmtime::Result<Answer>) -> (Answer, InstanceEnd) {
    match returned {
        Ok(answer) => {
            let end = match answer {
                Answer::Done(_) | Answer::Exited(0) => InstanceEnd::Finished,
                Answer::Failed(_) | Answer::Exited(_) | Answer::Absent => InstanceEnd::Failed,
            };
            (answer, end)
        }
        Err(error) => {
            let ended = classify(&error);
            let answer = match &ended {
                Ended::Exited(code) => Answer::Exited(*code),
                Ended::Stopped(_) | Ended::Trapped(_) => Answer::Absent,
            };
            (answer, ended.into())
        }
    }
}
