//! A refresh token that a server has replaced: on disk and on the log before anything is done with what came with it, or an alert. Not
//! the request that it came from.

use claviger_core::audit::{Event, SecretSource};
use claviger_core::refusal::{Denial, Rule};
use claviger_core::{AgentName, GrantAlias, Refusal, Secret, SecretName};

use super::super::LocalBroker;
use super::super::send::Credentials;
use super::unavailable;
use crate::keyring::SecretReplacement;

/// Whose refresh token may be replaced.
#[derive(Clone, Copy)]
pub(super) struct Rotation<'a> {
    pub(super) agent: &'a AgentName,
    pub(super) alias: &'a GrantAlias,
    // None of a grant that asks without one: what is called a refresh token then is nobody's.
    pub(super) secret: Option<&'a SecretName>,
}

impl LocalBroker {
    /// Puts a refresh token on disk and on the log, if it is a new one. If that fails, an operator is told: the one that the keyring has
    /// may be dead.
    pub(super) async fn keep_refresh(
        &self,
        refresh: Secret,
        rotation: Rotation<'_>,
        credentials: &Credentials,
    ) -> Result<(), Denial> {
        let Some(name) = rotation.secret else {
            return Ok(());
        };
        let kept = self.replace_refresh(refresh, name, credentials).await;
        if let Err(denial) = &kept {
            let told = Denial::new(
                Refusal::Unavailable,
                Rule::Token,
                &format!(
                    "the server replaced the refresh token `{name}`, and the new one is lost: {}",
                    denial.detail
                ),
            );
            // A log that cannot be written refuses everything anyway.
            drop(
                self.append(Event::Alert {
                    agent: rotation.agent.clone(),
                    grant: rotation.alias.clone(),
                    rule: told.rule,
                    detail: told.detail,
                })
                .await,
            );
        }
        kept
    }

    async fn replace_refresh(
        &self,
        refresh: Secret,
        name: &SecretName,
        credentials: &Credentials,
    ) -> Result<(), Denial> {
        let current = credentials.secrets().into_iter().find(|one| one.name == *name);
        let record = current.as_ref().and_then(|one| self.keyring.secret_record(one));
        let (Some(current), Some(record)) = (current, record) else {
            return Err(unavailable("the refresh token is gone"));
        };
        // Not kept open, and whatever was stopped meanwhile: what the server replaced must not be lost.
        let known = self
            .keyring
            .secret_material(&current)
            .map_err(|error| unavailable(&error.to_string()))?;
        // A server that does not rotate says the same one again.
        if known.equals(refresh.expose()) {
            return Ok(());
        }
        let replacement = SecretReplacement {
            name: name.clone(),
            of: Some(current.clone()),
            // What an operator has set holds on.
            expires: record.expires,
            rotate_every: None,
            value: refresh,
        };
        let record = self
            .replace_secret_by(replacement, SecretSource::Server)
            .await
            .map_err(|error| unavailable(&error.to_string()))?;
        self.tokens.lineages.rotated(&current, &record.secret);
        Ok(())
    }
}
