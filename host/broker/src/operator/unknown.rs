//! Words of warning about names that nothing is known of: a misspelt one would suspend nothing. Not a refusal: the agent may come yet.

use claviger_core::name::nearest;
use claviger_core::{AgentName, GrantAlias};

use crate::LocalBroker;

impl LocalBroker {
    /// A word of warning if the log never saw this grant: a misspelt name would suspend nothing.
    pub(super) fn unknown_grant(&self, agent: &AgentName, grant: &GrantAlias) -> Option<String> {
        let ledger = self.snapshot();
        let known = ledger
            .grants()
            .map(|(agent, grant, _)| format!("{agent} {grant}"))
            .collect::<Vec<_>>();
        let hint = unknown(&format!("{agent} {grant}"), &known)?;
        Some(format!(
            "the audit log knows no use of grant `{grant}` by agent `{agent}`{hint}"
        ))
    }

    pub(super) fn unknown_agent(&self, agent: &AgentName) -> Option<String> {
        let ledger = self.snapshot();
        let known: Vec<_> = self
            .running()
            .into_keys()
            .map(|agent| agent.to_string())
            .chain(ledger.grants().map(|(agent, _, _)| agent.to_string()))
            .collect();
        let hint = unknown(agent.as_str(), &known)?;
        Some(format!("the audit log knows no use by agent `{agent}`{hint}"))
    }
}

/// Which name may have been meant, if this one is not known.
fn unknown(asked: &str, known: &[String]) -> Option<String> {
    if known.iter().any(|one| one == asked) {
        return None;
    }
    let near = nearest(asked, known.iter().map(String::as_str));
    Some(near.map_or_else(String::new, |near| format!("; did you mean `{near}`?")))
}
