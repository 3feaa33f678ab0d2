//! `claviger:credentials/signing`. Holds no key and no signature longer than the call.

use claviger_core::audit::StopLimit;
use claviger_core::profile::MAX_SIGNATURE;
use claviger_core::request::MAX_ALIAS_TEXT;
use claviger_core::{GrantAlias, Outcome, Request};
use wasmtime::component::Resource;

use super::wit::signing::{Host, HostSigner, Refusal as WitRefusal, SignerInfo};
use super::{CredentialsView, WRONG_OUTCOME, cut, to_wit};
use crate::limits::{MAX_OPEN_SIGNERS, Stop};

/// A grant that the agent opened. Opening it used nothing up and decided nothing for later.
#[derive(Debug)]
#[expect(unreachable_pub, reason = "the generated bindings re-export it")]
pub struct OpenSigner {
    grant: GrantAlias,
}

impl Host for CredentialsView<'_> {}

impl HostSigner for CredentialsView<'_> {
    async fn open(&mut self, grant: String) -> wasmtime::Result<Result<Resource<OpenSigner>, WitRefusal>> {
        if self.ctx.open_signers >= MAX_OPEN_SIGNERS {
            return Err(Stop(StopLimit::Handles).into());
        }
        let alias = cut(grant, MAX_ALIAS_TEXT);
        match self.ctx.perform(Request::OpenSigner { alias }).await {
            Ok(Outcome::SignerOpened { grant }) => {
                let signer = self.table.push(OpenSigner { grant })?;
                self.ctx.open_signers += 1;
                Ok(Ok(signer))
            }
            Ok(_) => Ok(Err(WRONG_OUTCOME)),
            Err(refusal) => Ok(Err(to_wit(refusal))),
        }
    }

    async fn sign(
        &mut self,
        signer: Resource<OpenSigner>,
        content: Vec<u8>,
    ) -> wasmtime::Result<Result<Vec<u8>, WitRefusal>> {
        // Content just over the bound goes to the broker, which refuses and logs it; the call's fuel stops what is larger.
        let grant = self.table.get(&signer)?.grant.clone();
        match self.ctx.perform(Request::Sign { grant, content }).await {
            // The profile frames nothing that a longer signature comes of: a broker that gives one is at fault.
            Ok(Outcome::Signed { signature }) if signature.len() <= MAX_SIGNATURE => Ok(Ok(signature)),
            Ok(_) => Ok(Err(WRONG_OUTCOME)),
            Err(refusal) => Ok(Err(to_wit(refusal))),
        }
    }

    async fn info(
        &mut self,
        signer: Resource<OpenSigner>,
    ) -> wasmtime::Result<Result<SignerInfo, WitRefusal>> {
        let grant = self.table.get(&signer)?.grant.clone();
        match self.ctx.perform(Request::DescribeSigner { grant }).await {
            Ok(Outcome::Signer(info)) => Ok(Ok(SignerInfo {
                profile: info.profile,
                algorithm: info.algorithm,
                key_id: info.key_id,
                version: info.version,
                public_key: info.public_key,
            })),
            Ok(_) => Ok(Err(WRONG_OUTCOME)),
            Err(refusal) => Ok(Err(to_wit(refusal))),
        }
    }

    async fn drop(&mut self, signer: Resource<OpenSigner>) -> wasmtime::Result<()> {
        self.table.delete(signer)?;
        self.ctx.open_signers = self.ctx.open_signers.saturating_sub(1);
        Ok(())
    }
}
