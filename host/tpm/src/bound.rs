//! A secret that this TPM opens only when its machine was started as it was when the secret was sealed, or for whoever has the recovery
//! code. Not which secret: the settings of a keyring name its purpose, and everything else is sealed as `sealer.rs` does.
//!
//! ```text
//! u8 5   u16 registers, bit n is n   [u8; 32] value of each   u16 length   blob under the registers' policy   blob under the code
//! ```
//! The first blob's policy is `PolicyPCR(values) ∧ PolicyAuthValue`; its value is that of any sealed secret. The second has no policy, and
//! the code is in its value beside the purpose. Both are of the one secret, and neither opens in another TPM.

use std::sync::{Arc, Mutex, PoisonError};

use claviger_core::custody::{Assurance, CustodyError, RevocableMaterial, Sealer};
use claviger_core::{BoxFuture, Secret};
use sha2::{Digest as _, Sha256};
use tss_esapi::attributes::SessionAttributesBuilder;
use tss_esapi::constants::SessionType;
use tss_esapi::handles::{KeyHandle, SessionHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::session_handles::{AuthSession, PolicySession};
use tss_esapi::structures::{Digest, SensitiveData, SymmetricDefinition};
use tss_esapi::{Error, WrapperErrorKind};
use zeroize::Zeroizing;

use crate::actor::{Actor, Lane};
use crate::blob::{self, AUTH, Blob, BlobError, Kind};
use crate::code::raw;
use crate::device::{Created, Device, Failure};
use crate::link::Link;
use crate::recovery::RecoveryCode;
use crate::registers::{Registers, VALUE};
use crate::sealer::{TpmSealer, random_salt, sealed_blob, value};
use crate::template;

/// What the stored form begins with.
const BOUND: u8 = 5;
const DOMAIN: &[u8] = b"claviger recovery slot v1\0";
/// TPM_RC_POLICY_FAIL of session 1.
const POLICY_FAIL: u32 = 0x99D;

/// What is bound to how the machine starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Binding {
    pub(crate) registers: Registers,
    /// The one purpose that is.
    pub(crate) purpose: String,
}

/// Seals for that purpose under registers, and for others as ever.
#[derive(Debug)]
pub(crate) struct BoundSealer {
    plain: TpmSealer,
    actor: Arc<Actor>,
    binding: Binding,
    /// Opens instead of the registers, and makes the second blob where there is none yet.
    code: Option<Arc<RecoveryCode>>,
    /// The second blob of what was opened last. Sealing again keeps it: the code stays good, and nobody has to have it at hand.
    kept: Mutex<Option<Vec<u8>>>,
}

/// The stored form taken apart.
struct Parts<'a> {
    registers: Registers,
    values: &'a [u8],
    bound: Blob,
    recovery: &'a [u8],
}

impl BoundSealer {
    pub(crate) fn new(
        actor: Arc<Actor>,
        assurance: Assurance,
        binding: Binding,
        code: Option<Arc<RecoveryCode>>,
    ) -> Self {
        Self {
            plain: TpmSealer::new(Arc::clone(&actor), assurance),
            actor,
            binding,
            code,
            kept: Mutex::new(None),
        }
    }

    async fn seal_bound(&self, purpose: &str, secret: &Secret) -> Result<Vec<u8>, CustodyError> {
        let kept = self.kept().clone();
        let recovery = match (kept, &self.code) {
            (Some(kept), _) => kept,
            (None, Some(code)) => {
                let salt = random_salt()?;
                let auth = code_value(&salt, purpose, code);
                self.plain.seal_under(salt, auth, secret).await?
            }
            (None, None) => {
                return Err(CustodyError::Fault(
                    "there is no recovery code to seal for".to_owned(),
                ));
            }
        };
        let salt = random_salt()?;
        let auth = value(&salt, purpose);
        let registers = self.binding.registers;
        let data = copied(secret)?;
        let sealing = move |device: &mut Device| device.seal_bound(&auth, &data, registers);
        let (values, created) = self.actor.run(Lane::Host, sealing).await?;
        let bound = sealed_blob(&salt, &created)?;
        let length = u16::try_from(bound.len()).map_err(|_| fault("a blob is too long"))?;
        let mut bytes = vec![BOUND];
        bytes.extend_from_slice(&registers.bits().to_be_bytes());
        bytes.extend_from_slice(&values);
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(&bound);
        bytes.extend_from_slice(&recovery);
        // Whoever opens with the code would not notice that the registers do not.
        let again = self.unseal_by_registers(purpose, parts(&bytes)?).await?;
        if !again.equals(secret.expose()) {
            return Err(fault("the TPM opened something else than it sealed"));
        }
        Ok(bytes)
    }

    async fn unseal_bound(&self, purpose: &str, sealed: &[u8]) -> Result<Secret, CustodyError> {
        let parts = parts(sealed)?;
        let recovery = parts.recovery.to_vec();
        let secret = match &self.code {
            None => self.unseal_by_registers(purpose, parts).await?,
            Some(code) => {
                let salt = blob::decode(Kind::Sealed, &recovery).map_err(not_ours)?.value;
                let auth = code_value(&salt, purpose, code);
                let opened = self.plain.unseal_under(&recovery, auth).await;
                opened.map_err(|error| match error {
                    CustodyError::NotOurs(why) => CustodyError::NotOurs(format!(
                        "the recovery code is not this keyring's, or the keyring was changed: {why}"
                    )),
                    other => other,
                })?
            }
        };
        *self.kept() = Some(recovery);
        Ok(secret)
    }

    async fn unseal_by_registers(&self, purpose: &str, parts: Parts<'_>) -> Result<Secret, CustodyError> {
        let Parts {
            registers,
            values,
            bound,
            recovery: _,
        } = parts;
        let auth = value(&bound.value, purpose);
        let values = values.to_vec();
        self.actor
            .run(Lane::Host, move |device| {
                device.unseal_bound(&bound, &auth, registers, &values)
            })
            .await
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Option<Vec<u8>>> {
        // Replaced as a whole, so it is never half changed.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the stored form apart; its first blob has the policy that its values give.
fn parts(sealed: &[u8]) -> Result<Parts<'_>, CustodyError> {
    let form = || not_ours(BlobError::Form);
    let (head, rest) = sealed.split_first_chunk::<3>().ok_or_else(form)?;
    let [BOUND, high, low] = *head else {
        return Err(CustodyError::NotOurs(
            "this was not bound to the machine's start, and its settings say so".to_owned(),
        ));
    };
    let registers = Registers::from_bits(u16::from_be_bytes([high, low])).ok_or_else(form)?;
    let (values, rest) = rest
        .split_at_checked(VALUE * registers.count())
        .ok_or_else(form)?;
    let (length, rest) = rest.split_first_chunk::<2>().ok_or_else(form)?;
    let (bound, recovery) = rest
        .split_at_checked(usize::from(u16::from_be_bytes(*length)))
        .ok_or_else(form)?;
    let bound = blob::decode(Kind::Sealed, bound).map_err(not_ours)?;
    let template =
        template::sealed_data(Some(&registers.policy(values))).map_err(|error| fault(&error.to_string()))?;
    if !template::is_of(&bound.public, &template) {
        return Err(CustodyError::NotOurs(
            "the blob is not bound to the registers that stand before it".to_owned(),
        ));
    }
    Ok(Parts {
        registers,
        values,
        bound,
        recovery,
    })
}

/// Salt and code have fixed lengths, so no two sets of the three give the same input.
fn code_value(salt: &[u8; AUTH], purpose: &str, code: &RecoveryCode) -> Zeroizing<[u8; AUTH]> {
    let hash = Sha256::new()
        .chain_update(DOMAIN)
        .chain_update(salt)
        .chain_update(code.expose())
        .chain_update(purpose.as_bytes());
    Zeroizing::new(hash.finalize().into())
}

fn copied(secret: &Secret) -> Result<Secret, CustodyError> {
    Secret::fill_with(secret.len(), |bytes| {
        bytes.copy_from_slice(secret.expose());
        Ok::<(), CustodyError>(())
    })
}

fn not_ours(error: BlobError) -> CustodyError {
    CustodyError::NotOurs(error.to_string())
}

fn fault(text: &str) -> CustodyError {
    CustodyError::Fault(text.to_owned())
}

impl Sealer for BoundSealer {
    fn assurance(&self) -> Assurance {
        self.plain.assurance()
    }

    fn seal<'a>(
        &'a self,
        purpose: &'a str,
        secret: &'a Secret,
    ) -> BoxFuture<'a, Result<Vec<u8>, CustodyError>> {
        if purpose == self.binding.purpose {
            Box::pin(self.seal_bound(purpose, secret))
        } else {
            Sealer::seal(&self.plain, purpose, secret)
        }
    }

    fn unseal<'a>(
        &'a self,
        purpose: &'a str,
        sealed: &'a [u8],
    ) -> BoxFuture<'a, Result<Secret, CustodyError>> {
        if purpose == self.binding.purpose {
            Box::pin(self.unseal_bound(purpose, sealed))
        } else {
            Sealer::unseal(&self.plain, purpose, sealed)
        }
    }

    fn seal_revocable<'a>(
        &'a self,
        purpose: &'a str,
        secret: &'a Secret,
    ) -> BoxFuture<'a, Result<RevocableMaterial, CustodyError>> {
        Sealer::seal_revocable(&self.plain, purpose, secret)
    }

    fn revoke<'a>(&'a self, revocation: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>, CustodyError>> {
        Sealer::revoke(&self.plain, revocation)
    }
}

impl Device {
    /// Seals data under this authorisation value and what these registers hold now, and gives what that is.
    fn seal_bound(
        &mut self,
        auth: &[u8; AUTH],
        data: &Secret,
        registers: Registers,
    ) -> Result<(Vec<u8>, Created), CustodyError> {
        let values = self.run("read its registers", |link| registers.read(link))?;
        if values.iter().all(|byte| *byte == 0) {
            return Err(CustodyError::Unavailable(format!(
                "nothing was ever measured into {registers}, as in a software TPM that no firmware uses: binding to them would keep \
                 nobody out"
            )));
        }
        let template = template::sealed_data(Some(&registers.policy(&values)))
            .map_err(|error| fault(&error.to_string()))?;
        let created = self.seal_as(&template, auth, data)?;
        Ok((values, created))
    }

    /// Opens data that is bound to these values.
    fn unseal_bound(
        &mut self,
        blob: &Blob,
        auth: &[u8; AUTH],
        registers: Registers,
        values: &[u8],
    ) -> Result<Secret, CustodyError> {
        let changed = |now: &[u8]| registers.changed(values, now).map(otherwise);
        let now = self.run("read its registers", |link| registers.read(link))?;
        if let Some(error) = changed(&now) {
            return Err(error);
        }
        self.unseal_by(blob, auth, |link, handle| {
            let session = link.policy_session()?;
            let data = link.satisfy_and_unseal(session, registers, handle);
            let ended = link.end_session(session);
            match data {
                // They changed since they were read.
                Err(error) if raw(&error) == Some(POLICY_FAIL) => Err(Failure::Final(otherwise(registers))),
                other => {
                    let data = other?;
                    ended?;
                    Ok(data)
                }
            }
        })
    }
}

fn otherwise(changed: Registers) -> CustodyError {
    CustodyError::StartChanged(format!(
        "this machine was started otherwise than when the keyring was bound to it: {changed} changed{}",
        meanings(changed)
    ))
}

/// What the registers stand for (TCG PC Client Platform Firmware Profile §3.3.4), as an operator may know it.
fn meanings(changed: Registers) -> String {
    const MEANINGS: [(u16, &str); 5] = [
        (0b0000_0011, "0 and 1: the firmware and its settings"),
        (0b0000_1100, "2 and 3: other firmware, as of cards"),
        (0b0011_0000, "4 and 5: the boot loader and its settings"),
        (0b1000_0000, "7: Secure Boot and its keys"),
        (
            0b1111_1111_0100_0000,
            "6 and 8 to 15: what the maker or the operating system puts there",
        ),
    ];
    let of: Vec<&str> = MEANINGS
        .iter()
        .filter(|(bits, _)| bits & changed.bits() != 0)
        .map(|(_, text)| *text)
        .collect();
    format!(" ({})", of.join("; "))
}

impl Link {
    /// A policy session salted with the storage root key, which encrypts what is given back: also where others go without, for this is once
    /// at each start.
    fn policy_session(&mut self) -> Result<PolicySession, Error> {
        let root = self.root();
        let session = self.context().execute_without_session(|context| {
            context.start_auth_session(
                Some(root),
                None,
                None,
                SessionType::Policy,
                SymmetricDefinition::AES_128_CFB,
                HashingAlgorithm::Sha256,
            )
        })?;
        let session = session.ok_or(Error::WrapperError(WrapperErrorKind::WrongValueFromTpm))?;
        let (attributes, mask) = SessionAttributesBuilder::new()
            .with_continue_session(true)
            .with_encrypt(true)
            .build();
        self.context().tr_sess_set_attributes(session, attributes, mask)?;
        PolicySession::try_from(session)
    }

    fn satisfy_and_unseal(
        &mut self,
        session: PolicySession,
        registers: Registers,
        handle: KeyHandle,
    ) -> Result<SensitiveData, Error> {
        let selection = registers.selection()?;
        self.context().execute_without_session(|context| {
            // No digest: whatever they hold now. The object's policy says what they must.
            context.policy_pcr(session, Digest::default(), selection)?;
            context.policy_auth_value(session)
        })?;
        self.context()
            .execute_with_session(Some(AuthSession::from(session)), |context| {
                context.unseal(handle.into())
            })
    }

    fn end_session(&mut self, session: PolicySession) -> Result<(), Error> {
        let handle = SessionHandle::from(session);
        self.context()
            .execute_without_session(|context| context.flush_context(handle.into()))
    }
}
