//! `claviger:credentials/mac`. Holds no key, and no content longer than the call.

use claviger_core::audit::StopLimit;
use claviger_core::profile::TAG;
use claviger_core::request::MAX_ALIAS_TEXT;
use claviger_core::{GrantAlias, Outcome, Request};
use wasmtime::component::Resource;

use super::wit::mac::{Host, HostAuthenticator, MacInfo, Refusal as WitRefusal};
use super::{CredentialsView, WRONG_OUTCOME, cut, to_wit};
use crate::limits::{MAX_OPEN_AUTHENTICATORS, Stop};

/// A grant that the agent opened. Opening it used nothing up and decided nothing for later.
#[derive(Debug)]
#[expect(unreachable_pub, reason = "the generated bindings re-export it")]
pub struct OpenAuthenticator {
    grant: GrantAlias,
}

impl Host for CredentialsView<'_> {}

impl HostAuthenticator for CredentialsView<'_> {
    async fn open(
        &mut self,
        grant: String,
    ) -> wasmtime::Result<Result<Resource<OpenAuthenticator>, WitRefusal>> {
        if self.ctx.open_authenticators >= MAX_OPEN_AUTHENTICATORS {
            return Err(Stop(StopLimit::Handles).into());
        }
        let alias = cut(grant, MAX_ALIAS_TEXT);
        match self.ctx.perform(Request::OpenAuthenticator { alias }).await {
            Ok(Outcome::AuthenticatorOpened { grant }) => {
                let authenticator = self.table.push(OpenAuthenticator { grant })?;
                self.ctx.open_authenticators += 1;
                Ok(Ok(authenticator))
            }
            Ok(_) => Ok(Err(WRONG_OUTCOME)),
            Err(refusal) => Ok(Err(to_wit(refusal))),
        }
    }

    async fn generate(
        &mut self,
        authenticator: Resource<OpenAuthenticator>,
        content: Vec<u8>,
    ) -> wasmtime::Result<Result<Vec<u8>, WitRefusal>> {
        // What is over the bound goes to the broker, which refuses and logs it; the call's fuel stops what is much larger.
        let grant = self.table.get(&authenticator)?.grant.clone();
        match self.ctx.perform(Request::GenerateTag { grant, content }).await {
            Ok(Outcome::Tag { tag }) if tag.len() == TAG => Ok(Ok(tag)),
            Ok(_) => Ok(Err(WRONG_OUTCOME)),
            Err(refusal) => Ok(Err(to_wit(refusal))),
        }
    }

    async fn verify(
        &mut self,
        authenticator: Resource<OpenAuthenticator>,
        content: Vec<u8>,
        tag: Vec<u8>,
    ) -> wasmtime::Result<Result<bool, WitRefusal>> {
        let grant = self.table.get(&authenticator)?.grant.clone();
        match self.ctx.perform(Request::VerifyTag { grant, content, tag }).await {
            Ok(Outcome::Verified { valid }) => Ok(Ok(valid)),
            Ok(_) => Ok(Err(WRONG_OUTCOME)),
            Err(refusal) => Ok(Err(to_wit(refusal))),
        }
    }

    async fn info(
        &mut self,
        authenticator: Resource<OpenAuthenticator>,
    ) -> wasmtime::Result<Result<MacInfo, WitRefusal>> {
        let grant = self.table.get(&authenticator)?.grant.clone();
        match self.ctx.perform(Request::DescribeAuthenticator { grant }).await {
            Ok(Outcome::Authenticator(info)) => Ok(Ok(MacInfo {
                algorithm: info.algorithm,
                key_id: info.key_id,
                version: info.version,
                label: info.label.unwrap_or_default(),
            })),
            Ok(_) => Ok(Err(WRONG_OUTCOME)),
            Err(refusal) => Ok(Err(to_wit(refusal))),
        }
    }

    async fn drop(&mut self, authenticator: Resource<OpenAuthenticator>) -> wasmtime::Result<()> {
        self.table.delete(authenticator)?;
        self.ctx.open_authenticators = self.ctx.open_authenticators.saturating_sub(1);
        Ok(())
    }
}
