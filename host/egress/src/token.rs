//! Tokens from authorization servers. What comes back stays in the host.

use claviger_core::Permit;
use claviger_core::egress::{Fault, SendError, Token, TokenPlan};

use crate::HttpsClient;

/// Asks for a token.
pub(crate) async fn obtain(
    _client: &HttpsClient,
    _permit: &Permit,
    _plan: TokenPlan,
) -> Result<Token, SendError> {
    Err(Fault::Token.into())
}
