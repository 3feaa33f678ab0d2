//! The credentials interfaces as host functions: bounds, WIT to [`claviger_core::Request`], and back. Makes no decisions: the
//! broker does.

use std::fmt;
use std::sync::Arc;

use claviger_core::audit::InstanceEnd;
use claviger_core::{Admission, Broker, InstanceId, Outcome, Refusal, Request};
use wasmtime::component::{HasData, Linker, ResourceTable};

pub(crate) mod attestation;
pub(crate) mod grants;
pub(crate) mod mac;
pub(crate) mod sealing;
pub(crate) mod signing;

pub(crate) use bindings::claviger::credentials as wit;

pub(crate) mod bindings {
    wasmtime::component::bindgen!({
        path: ["../../wit/credentials", "../../wit/agent"],
        world: "claviger:agent/agent",
        imports: { default: async | trappable },
        exports: { default: async },
        with: {
            "claviger:credentials/signing.signer": crate::imports::signing::OpenSigner,
            "claviger:credentials/sealing.sealer": crate::imports::sealing::OpenSealer,
            "claviger:credentials/mac.authenticator": crate::imports::mac::OpenAuthenticator,
        },
    });
}

/// The exports of a rotator. What it imports is what an agent imports.
pub(crate) mod rotation {
    wasmtime::component::bindgen!({
        path: ["../../wit/credentials", "../../wit/agent"],
        world: "claviger:agent/rotator",
        imports: { default: async | trappable },
        exports: { default: async },
        with: {
            "claviger:credentials/types": super::bindings::claviger::credentials::types,
            "claviger:credentials/signing": super::bindings::claviger::credentials::signing,
            "claviger:credentials/sealing": super::bindings::claviger::credentials::sealing,
            "claviger:credentials/mac": super::bindings::claviger::credentials::mac,
            "claviger:credentials/attestation": super::bindings::claviger::credentials::attestation,
            "claviger:credentials/grants": super::bindings::claviger::credentials::grants,
        },
    });
}

/// One instance at its broker: what the host functions need, kept in the store's data. Dropped, it ends the instance.
pub struct CredentialsCtx {
    broker: Arc<dyn Broker>,
    // Invariant: started at `broker`; `ended` says whether it was also ended there.
    instance: InstanceId,
    ended: bool,
    open_signers: usize,
    open_sealers: usize,
    open_authenticators: usize,
}

impl CredentialsCtx {
    /// Begins an instance of an admitted agent.
    ///
    /// # Errors
    /// The broker's refusal: the admission is not its own, or its log cannot be written.
    pub fn start(broker: Arc<dyn Broker>, admission: &Admission) -> Result<Self, Refusal> {
        let instance = broker.start(admission.id)?;
        Ok(Self {
            broker,
            instance,
            ended: false,
            open_signers: 0,
            open_sealers: 0,
            open_authenticators: 0,
        })
    }

    /// Which instance it is in the audit log.
    #[must_use]
    pub const fn instance(&self) -> InstanceId {
        self.instance
    }

    pub(crate) const fn broker(&self) -> &Arc<dyn Broker> {
        &self.broker
    }

    /// Ends the instance, saying how. Without this it ends as dropped. Ending twice does nothing.
    pub fn end(&mut self, how: InstanceEnd) {
        if !std::mem::replace(&mut self.ended, true) {
            self.broker.end(self.instance, how);
        }
    }

    async fn perform(&self, request: Request) -> Result<Outcome, Refusal> {
        self.broker.perform(self.instance, request).await
    }
}

impl Drop for CredentialsCtx {
    fn drop(&mut self) {
        self.end(InstanceEnd::Dropped);
    }
}

impl fmt::Debug for CredentialsCtx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CredentialsCtx({})", self.instance)
    }
}

/// What the host functions borrow of the store's data for one call.
#[derive(Debug)]
pub struct CredentialsView<'a> {
    /// The instance.
    pub ctx: &'a mut CredentialsCtx,
    /// Where open signers, sealers and authenticators are kept. Cap it: [`ResourceTable::set_max_capacity`].
    pub table: &'a mut ResourceTable,
}

/// Ties the view to the generated code.
struct Credentials;

impl HasData for Credentials {
    type Data<'a> = CredentialsView<'a>;
}

/// Adds every interface of `claviger:credentials` to a linker. Which of them an agent may use, and how, the broker decides at
/// every call; to not even link what is not granted, use [`add_granted_to_linker`].
///
/// # Errors
/// When the linker defines one of them already.
pub fn add_to_linker<T: Send + 'static>(
    linker: &mut Linker<T>,
    view: fn(&mut T) -> CredentialsView<'_>,
) -> wasmtime::Result<()> {
    wit::types::add_to_linker::<T, Credentials>(linker, view)?;
    wit::signing::add_to_linker::<T, Credentials>(linker, view)?;
    wit::sealing::add_to_linker::<T, Credentials>(linker, view)?;
    wit::mac::add_to_linker::<T, Credentials>(linker, view)?;
    wit::attestation::add_to_linker::<T, Credentials>(linker, view)?;
    wit::grants::add_to_linker::<T, Credentials>(linker, view)
}

/// Adds exactly the interfaces of the capabilities that were admitted: `signing` for a right to sign, `sealing` for one to seal or unseal,
/// `mac` for one to make or verify tags, `attestation` for one to
/// evidence, and `grants` when there is any right. An agent that imports another does not link.
///
/// # Errors
/// When the linker defines one of them already.
pub fn add_granted_to_linker<T: Send + 'static>(
    linker: &mut Linker<T>,
    admission: &Admission,
    view: fn(&mut T) -> CredentialsView<'_>,
) -> wasmtime::Result<()> {
    let linked = crate::interfaces::granted(admission);
    if linked.is_empty() {
        return Ok(());
    }
    wit::types::add_to_linker::<T, Credentials>(linker, view)?;
    if linked.contains(&crate::interfaces::SIGNING) {
        wit::signing::add_to_linker::<T, Credentials>(linker, view)?;
    }
    if linked.contains(&crate::interfaces::SEALING) {
        wit::sealing::add_to_linker::<T, Credentials>(linker, view)?;
    }
    if linked.contains(&crate::interfaces::MAC) {
        wit::mac::add_to_linker::<T, Credentials>(linker, view)?;
    }
    if linked.contains(&crate::interfaces::ATTESTATION) {
        wit::attestation::add_to_linker::<T, Credentials>(linker, view)?;
    }
    if linked.contains(&crate::interfaces::GRANTS) {
        wit::grants::add_to_linker::<T, Credentials>(linker, view)?;
    }
    Ok(())
}

impl wit::types::Host for CredentialsView<'_> {}

/// The closed set, case by case.
fn to_wit(refusal: Refusal) -> wit::types::Refusal {
    match refusal {
        Refusal::NotGranted => wit::types::Refusal::NotGranted,
        Refusal::Expired => wit::types::Refusal::Expired,
        Refusal::Revoked => wit::types::Refusal::Revoked,
        Refusal::Suspended => wit::types::Refusal::Suspended,
        Refusal::OverBudget => wit::types::Refusal::OverBudget,
        Refusal::Throttled => wit::types::Refusal::Throttled,
        Refusal::NotApproved => wit::types::Refusal::NotApproved,
        Refusal::Invalid => wit::types::Refusal::Invalid,
        Refusal::Unavailable => wit::types::Refusal::Unavailable,
    }
}

/// The longest start of a text that has at most `max` bytes and ends between characters.
fn cut(mut text: String, max: usize) -> String {
    text.truncate(text.floor_char_boundary(max));
    text
}

/// A broker that answers with something else than was asked for is broken: nothing of it is released.
const WRONG_OUTCOME: wit::types::Refusal = wit::types::Refusal::Unavailable;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_is_cut_between_characters() {
        assert_eq!(cut("äää".to_owned(), 3), "ä");
        assert_eq!(cut("abc".to_owned(), 3), "abc");
        assert_eq!(cut(String::new(), 3), "");
    }
}
