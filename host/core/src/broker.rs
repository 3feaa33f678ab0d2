//! The seam between what runs agents and what holds credentials. Not an implementation: `claviger-broker` has the local one.

use std::fmt::Debug;

use crate::admission::{Admission, AdmissionId, NotAdmitted};
use crate::audit::InstanceEnd;
use crate::digest::ComponentDigest;
use crate::egress::{Answer, BodyStream, RequestHead, SendError};
use crate::future::BoxFuture;
use crate::manifest::Manifest;
use crate::refusal::Refusal;
use crate::request::{InstanceId, Outcome, Request};

/// Decides, logs and uses credentials. The worker's side holds one of these and nothing else.
pub trait Broker: Debug + Send + Sync {
    /// Admits these bytes under this manifest, or says every reason why not. Both are on the log before it returns.
    ///
    /// # Errors
    /// When the digest, a grant or the log stands against it.
    fn admit<'a>(
        &'a self,
        manifest: &'a Manifest,
        component: ComponentDigest,
    ) -> BoxFuture<'a, Result<Admission, NotAdmitted>>;

    /// Forgets an admission: its agent will not be started again; running instances go on. If it could not be loaded, `reasons`
    /// say why, and go, escaped and cut, on the log as those of an agent that was not admitted.
    fn withdraw(&self, admission: AdmissionId, reasons: Vec<String>);

    /// Begins an instance of an admitted agent. Requests are made in its name until [`Broker::end`].
    ///
    /// # Errors
    /// When the admission is not this broker's, or the log cannot be written.
    fn start(&self, admission: AdmissionId) -> Result<InstanceId, Refusal>;

    /// Ends an instance; what it still asks is refused. Ending twice does nothing.
    fn end(&self, who: InstanceId, how: InstanceEnd);

    /// Decides one request anew, logs it, and does it. Dropping the future before the result abandons it, which is logged.
    ///
    /// # Errors
    /// The refusal; its reason is on the log.
    fn perform(&self, who: InstanceId, request: Request) -> BoxFuture<'_, Result<Outcome, Refusal>>;

    /// Decides one HTTP request, logs it, attaches the credential and sends it. Dropping the future, or the answer's body before its end,
    /// abandons the exchange, which is logged. `body` is none for a request without one.
    ///
    /// # Errors
    /// The refusal, whose reason is on the log, or how the exchange failed.
    fn send(
        &self,
        who: InstanceId,
        head: RequestHead,
        body: Option<BodyStream>,
    ) -> BoxFuture<'_, Result<Answer, SendError>>;
}
