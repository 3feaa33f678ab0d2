//! `claviger:credentials/grants`. Keeps no list: every call asks the broker.

use claviger_core::request::GrantInfo as CoreInfo;
use claviger_core::{Outcome, Request};

use super::wit::grants::{GrantInfo, Host, Refusal as WitRefusal};
use super::{CredentialsView, WRONG_OUTCOME, to_wit};

/// A list of grants is cut to this many, as promised in WIT; a manifest has no more.
const MAX_LISTED: usize = claviger_core::manifest::MAX_GRANTS;

impl Host for CredentialsView<'_> {
    async fn list(&mut self) -> wasmtime::Result<Result<Vec<GrantInfo>, WitRefusal>> {
        match self.ctx.perform(Request::ListGrants).await {
            Ok(Outcome::Grants { grants }) => {
                Ok(Ok(grants.into_iter().take(MAX_LISTED).map(described).collect()))
            }
            Ok(_) => Ok(Err(WRONG_OUTCOME)),
            Err(refusal) => Ok(Err(to_wit(refusal))),
        }
    }
}

fn described(info: CoreInfo) -> GrantInfo {
    GrantInfo {
        alias: info.alias.as_str().to_owned(),
        capability: info.capability,
        uses_left: info.uses_left,
        expires: info.expires,
        refused: info.refused.map(to_wit),
    }
}
