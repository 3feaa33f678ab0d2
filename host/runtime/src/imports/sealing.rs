//! `claviger:credentials/sealing`. Holds no key, and no text longer than the call.

use claviger_core::audit::StopLimit;
use claviger_core::profile::{MAX_BOX, MAX_PLAINTEXT, Plaintext};
use claviger_core::request::MAX_ALIAS_TEXT;
use claviger_core::{GrantAlias, Outcome, Request};
use wasmtime::component::Resource;

use super::wit::sealing::{Host, HostSealer, Refusal as WitRefusal, SealerInfo};
use super::{CredentialsView, WRONG_OUTCOME, cut, to_wit};
use crate::limits::{MAX_OPEN_SEALERS, Stop};

/// A grant that the agent opened. Opening it used nothing up and decided nothing for later.
#[derive(Debug)]
#[expect(unreachable_pub, reason = "the generated bindings re-export it")]
pub struct OpenSealer {
    grant: GrantAlias,
}

impl Host for CredentialsView<'_> {}

impl HostSealer for CredentialsView<'_> {
    async fn open(&mut self, grant: String) -> wasmtime::Result<Result<Resource<OpenSealer>, WitRefusal>> {
        if self.ctx.open_sealers >= MAX_OPEN_SEALERS {
            return Err(Stop(StopLimit::Handles).into());
        }
        let alias = cut(grant, MAX_ALIAS_TEXT);
        match self.ctx.perform(Request::OpenSealer { alias }).await {
            Ok(Outcome::SealerOpened { grant }) => {
                let sealer = self.table.push(OpenSealer { grant })?;
                self.ctx.open_sealers += 1;
                Ok(Ok(sealer))
            }
            Ok(_) => Ok(Err(WRONG_OUTCOME)),
            Err(refusal) => Ok(Err(to_wit(refusal))),
        }
    }

    async fn seal(
        &mut self,
        sealer: Resource<OpenSealer>,
        plaintext: Vec<u8>,
        context: Vec<u8>,
    ) -> wasmtime::Result<Result<Vec<u8>, WitRefusal>> {
        // What is over a bound goes to the broker, which refuses and logs it; the call's fuel stops what is much larger.
        let plaintext = Plaintext::new(plaintext);
        let grant = self.table.get(&sealer)?.grant.clone();
        let request = Request::Seal {
            grant,
            plaintext,
            context,
        };
        match self.ctx.perform(request).await {
            Ok(Outcome::Sealed { sealed }) if sealed.len() <= MAX_BOX => Ok(Ok(sealed)),
            Ok(_) => Ok(Err(WRONG_OUTCOME)),
            Err(refusal) => Ok(Err(to_wit(refusal))),
        }
    }

    async fn unseal(
        &mut self,
        sealer: Resource<OpenSealer>,
        sealed: Vec<u8>,
        context: Vec<u8>,
    ) -> wasmtime::Result<Result<Vec<u8>, WitRefusal>> {
        let grant = self.table.get(&sealer)?.grant.clone();
        let request = Request::Unseal {
            grant,
            sealed,
            context,
        };
        match self.ctx.perform(request).await {
            Ok(Outcome::Unsealed { plaintext }) if plaintext.as_bytes().len() <= MAX_PLAINTEXT => {
                Ok(Ok(plaintext.into_bytes()))
            }
            Ok(_) => Ok(Err(WRONG_OUTCOME)),
            Err(refusal) => Ok(Err(to_wit(refusal))),
        }
    }

    async fn info(
        &mut self,
        sealer: Resource<OpenSealer>,
    ) -> wasmtime::Result<Result<SealerInfo, WitRefusal>> {
        let grant = self.table.get(&sealer)?.grant.clone();
        match self.ctx.perform(Request::DescribeSealer { grant }).await {
            Ok(Outcome::Sealer(info)) => Ok(Ok(SealerInfo {
                algorithm: info.algorithm,
                key_id: info.key_id,
                version: info.version,
            })),
            Ok(_) => Ok(Err(WRONG_OUTCOME)),
            Err(refusal) => Ok(Err(to_wit(refusal))),
        }
    }

    async fn drop(&mut self, sealer: Resource<OpenSealer>) -> wasmtime::Result<()> {
        self.table.delete(sealer)?;
        self.ctx.open_sealers = self.ctx.open_sealers.saturating_sub(1);
        Ok(())
    }
}
