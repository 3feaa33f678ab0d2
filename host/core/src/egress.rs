//! Outbound HTTP as a trait. Not a client: `claviger-egress` is.

use std::fmt::Debug;
use std::pin::Pin;

use bytes::Bytes;
use futures_core::Stream;
use serde::{Deserialize, Serialize};

use crate::future::BoxFuture;
use crate::permit::Permit;
use crate::refusal::Refusal;

/// A request without its body, as the agent wrote it; at most [`MAX_HEAD`] bytes in all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestHead {
    /// The method.
    pub method: String,
    /// The URL.
    pub url: String,
    /// Header fields in order.
    pub headers: Vec<(String, Vec<u8>)>,
}

/// A request head has at most this many bytes: what common servers accept.
pub const MAX_HEAD: usize = 16 * 1024;

/// A body: chunks until the end or a failure.
pub type BodyStream = Pin<Box<dyn Stream<Item = Result<Bytes, Refusal>> + Send>>;

/// An answer.
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Header fields in order.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body.
    pub body: BodyStream,
}

impl Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer")
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

/// Speaks HTTP to the outside.
pub trait Egress: Debug + Send + Sync {
    /// Sends one permitted request. Dropping the future or the answer's body closes the connection.
    ///
    /// # Errors
    /// When the request is not sent or the answer may not be returned.
    fn send<'a>(
        &'a self,
        permit: &'a Permit,
        head: RequestHead,
        body: BodyStream,
    ) -> BoxFuture<'a, Result<Answer, Refusal>>;
}
