//! The control socket of this broker, if it serves one, and what it shows there of itself. Not the socket, and not the commands: `operator`
//! has both.

use std::collections::BTreeMap;
use std::sync::{PoisonError, Weak};

use claviger_core::AgentName;

use super::{LocalBroker, read};
use crate::operator::{Control, ControlError};

impl LocalBroker {
    /// Serves the control socket in the keyring's folder from now on, so that an operator's commands reach this process while it has the
    /// keyring open: revocation, suspension, `claviger panic`, new keys and secrets. [`LocalBroker::close`] ends it.
    ///
    /// The socket is reached by this user's processes alone, and by no agent. Needs a tokio runtime with I/O and time around it, on which it
    /// is served.
    ///
    /// # Errors
    /// When it is served already, or cannot be made. The broker works without it.
    ///
    /// # Panics
    /// When the runtime has no I/O, as tokio has it.
    pub fn serve_control(&self) -> Result<(), ControlError> {
        let mut control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        if control.is_some() {
            return Err(ControlError::Serving);
        }
        *control = Some(Control::bind(self.keyring.folder(), Weak::clone(&self.me))?);
        Ok(())
    }

    pub(super) async fn stop_control(&self) {
        let control = self.control.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(control) = control {
            control.close().await;
        }
    }

    /// How many instances of each agent run.
    pub(crate) fn running(&self) -> BTreeMap<AgentName, u64> {
        let mut running: BTreeMap<AgentName, u64> = BTreeMap::new();
        for instance in read(&self.instances).values() {
            let count = running.entry(instance.admitted.agent.clone()).or_default();
            *count = count.saturating_add(1);
        }
        running
    }

    pub(crate) fn requests_under_way(&self) -> u64 {
        self.exchanges.count()
    }
}
