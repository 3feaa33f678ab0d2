//! `claviger:credentials/grants`. Keeps no list: every call asks the broker.

use claviger_core::proposal::{MAX_WISH_TEXT, MAX_WISHED_ROUTES, WishText};
use claviger_core::request::{GrantInfo as CoreInfo, MAX_ALIAS_TEXT};
use claviger_core::{Outcome, Request};

use super::wit::grants::{GrantInfo, Host, Refusal as WitRefusal, Wish, WishedRequests};
use super::{CredentialsView, WRONG_OUTCOME, cut, to_wit};

/// A list of grants is cut to this many, as promised in WIT; a manifest has no more.
const MAX_LISTED: usize = claviger_core::manifest::MAX_GRANTS;
/// A reason is cut to this many bytes here, more than the log takes, so that what is passed on is bounded.
const MAX_REASON_TEXT: usize = 4 * claviger_core::proposal::MAX_REASON;

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

    async fn request(
        &mut self,
        alias: String,
        wish: Wish,
        reason: String,
    ) -> wasmtime::Result<Result<(), WitRefusal>> {
        let request = Request::ProposeGrant {
            alias: cut(alias, MAX_ALIAS_TEXT),
            wish: wished(wish),
            reason: cut(reason, MAX_REASON_TEXT),
        };
        match self.ctx.perform(request).await {
            Ok(Outcome::Proposed) => Ok(Ok(())),
            Ok(_) => Ok(Err(WRONG_OUTCOME)),
            Err(refusal) => Ok(Err(to_wit(refusal))),
        }
    }
}

/// The texts, one byte longer than they may be at most: what is too long is refused and logged by the broker.
fn wished(wish: Wish) -> WishText {
    let text = |text| cut(text, MAX_WISH_TEXT + 1);
    match wish {
        Wish::Sign(key) => WishText::Sign { key: text(key) },
        Wish::Http(WishedRequests { origin, allow }) => WishText::Http {
            origin: text(origin),
            allow: allow.into_iter().take(MAX_WISHED_ROUTES + 1).map(text).collect(),
        },
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
