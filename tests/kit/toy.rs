//! A broker that allows what the manifest grants and remembers everything. For tests of the runtime; it has no budgets, no log on
//! disk and no profiles.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use claviger_core::admission::AdmissionId;
use claviger_core::audit::InstanceEnd;
use claviger_core::egress::{Answer, BodyStream, RequestHead, SendError};
use claviger_core::manifest::Manifest;
use claviger_core::profile::{MAX_BOX, MAX_PLAINTEXT, Plaintext, TAG};
use claviger_core::request::{GrantInfo, SignerInfo, SymmetricInfo};
use claviger_core::{
    Admission, BoxFuture, Broker, ComponentDigest, GrantAlias, InstanceId, NotAdmitted, Outcome, Refusal,
    Request,
};
use ed25519_dalek::{Signer as _, SigningKey};

/// What a toy broker remembers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// An instance began.
    Started(InstanceId),
    /// An instance asked; the request as its debug text.
    Asked(InstanceId, String),
    /// A request's future was dropped before its end.
    Abandoned(InstanceId),
    /// An instance wanted to send a request.
    Sent(InstanceId, RequestHead),
    /// An instance ended.
    Ended(InstanceId, InstanceEnd),
}

/// What a toy broker does with a request that it is asked to send.
type Sending =
    dyn Fn(RequestHead, Option<BodyStream>) -> BoxFuture<'static, Result<Answer, SendError>> + Send + Sync;

/// Signs with one software key whatever is granted. Two aliases are special: `never` waits for ever, `refused` is refused.
/// Sends as [`ToyBroker::sending`] says, and refuses before that was said.
pub struct ToyBroker {
    key: SigningKey,
    sending: Mutex<Option<Arc<Sending>>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    admissions: Vec<BTreeSet<GrantAlias>>,
    instances: BTreeMap<InstanceId, AdmissionId>,
    records: Vec<Record>,
    next: u64,
}

impl ToyBroker {
    /// A broker with a fixed key.
    #[must_use]
    pub fn new() -> Self {
        Self {
            key: SigningKey::from_bytes(&[7; 32]),
            sending: Mutex::default(),
            state: Mutex::default(),
        }
    }

    /// What to do with requests from now on.
    pub fn sending<F, A>(&self, sending: F)
    where
        F: Fn(RequestHead, Option<BodyStream>) -> A + Send + Sync + 'static,
        A: Future<Output = Result<Answer, SendError>> + Send + 'static,
    {
        let sending = move |head, body| Box::pin(sending(head, body)) as BoxFuture<'static, _>;
        *self.sending.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(sending));
    }

    /// The heads of all requests, in order.
    #[must_use]
    pub fn heads(&self) -> Vec<RequestHead> {
        let head = |record| match record {
            Record::Sent(_, head) => Some(head),
            Record::Started(_) | Record::Asked(..) | Record::Abandoned(_) | Record::Ended(..) => None,
        };
        self.records().into_iter().filter_map(head).collect()
    }

    /// What happened up to now.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        self.state().records.clone()
    }

    /// How every instance ended, in order.
    #[must_use]
    pub fn ends(&self) -> Vec<InstanceEnd> {
        let end = |record| match record {
            Record::Ended(_, end) => Some(end),
            Record::Started(_) | Record::Asked(..) | Record::Abandoned(_) | Record::Sent(..) => None,
        };
        self.records().into_iter().filter_map(end).collect()
    }

    /// What the key makes of a content, in hexadecimal.
    #[must_use]
    pub fn signature(&self, content: &[u8]) -> String {
        self.key
            .sign(content)
            .to_bytes()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn decide(&self, who: InstanceId, request: Request) -> Result<Option<Outcome>, Refusal> {
        let mut state = self.state();
        state.records.push(Record::Asked(who, format!("{request:?}")));
        let admission = *state.instances.get(&who).ok_or(Refusal::Unavailable)?;
        let index = usize::try_from(admission.0).map_err(|_| Refusal::Unavailable)?;
        let granted = state.admissions.get(index).ok_or(Refusal::Unavailable)?;
        match request {
            Request::OpenSigner { alias } => {
                let grant = granted
                    .iter()
                    .find(|grant| grant.as_str() == alias)
                    .ok_or(Refusal::NotGranted)?;
                Ok(Some(Outcome::SignerOpened { grant: grant.clone() }))
            }
            Request::Sign { grant, .. } if grant.as_str() == "never" => Ok(None),
            Request::Sign { grant, .. } if grant.as_str() == "refused" => Err(Refusal::OverBudget),
            Request::Sign { content, .. } if content.len() > claviger_core::profile::MAX_SSHSIG_CONTENT => {
                Err(Refusal::Invalid)
            }
            Request::Sign { content, .. } => Ok(Some(Outcome::Signed {
                signature: self.key.sign(&content).to_bytes().to_vec(),
            })),
            Request::DescribeSigner { .. } => Ok(Some(Outcome::Signer(SignerInfo {
                profile: "labeled".to_owned(),
                algorithm: "ed25519".to_owned(),
                key_id: "toy".to_owned(),
                version: 1,
                public_key: "ssh-ed25519 toy".to_owned(),
            }))),
            Request::ListGrants => {
                let described = |alias: &GrantAlias| GrantInfo {
                    alias: alias.clone(),
                    capability: "sign".to_owned(),
                    uses_left: Some(3),
                    expires: None,
                    refused: None,
                };
                Ok(Some(Outcome::Grants {
                    grants: granted.iter().map(described).collect(),
                }))
            }
            Request::Attest { .. } => Err(Refusal::NotGranted),
            Request::OpenSealer { alias } => {
                let grant = opened(granted, &alias)?;
                Ok(Some(Outcome::SealerOpened { grant }))
            }
            Request::OpenAuthenticator { alias } => {
                let grant = opened(granted, &alias)?;
                Ok(Some(Outcome::AuthenticatorOpened { grant }))
            }
            Request::DescribeSealer { .. } => Ok(Some(Outcome::Sealer(symmetric("toy-cipher", None)))),
            Request::DescribeAuthenticator { .. } => {
                Ok(Some(Outcome::Authenticator(symmetric("toy-mac", Some("toy")))))
            }
            // More than any broker may give: the runtime must not pass it on.
            Request::Seal { grant, .. } if grant.as_str() == "lying" => Ok(Some(Outcome::Sealed {
                sealed: vec![0; MAX_BOX + 1],
            })),
            Request::Unseal { grant, .. } if grant.as_str() == "lying" => Ok(Some(Outcome::Unsealed {
                plaintext: Plaintext::new(vec![0; MAX_PLAINTEXT + 1]),
            })),
            Request::GenerateTag { grant, .. } if grant.as_str() == "lying" => Ok(Some(Outcome::Tag {
                tag: vec![0; TAG + 1],
            })),
            Request::VerifyTag { grant, .. } if grant.as_str() == "lying" => {
                Ok(Some(Outcome::Tag { tag: vec![0; TAG] }))
            }
            Request::Seal {
                plaintext, context, ..
            } => Ok(Some(Outcome::Sealed {
                sealed: turned(plaintext.as_bytes(), &context),
            })),
            Request::Unseal { sealed, context, .. } => Ok(Some(Outcome::Unsealed {
                plaintext: Plaintext::new(turned(&sealed, &context)),
            })),
            Request::GenerateTag { content, .. } => Ok(Some(Outcome::Tag {
                tag: toy_tag(&content),
            })),
            Request::VerifyTag { content, tag, .. } => Ok(Some(Outcome::Verified {
                valid: tag == toy_tag(&content),
            })),
            Request::ProposeGrant { wish, .. } => {
                claviger_core::proposal::Wish::parse(&wish).map_err(|_| Refusal::Invalid)?;
                Ok(Some(Outcome::Proposed))
            }
        }
    }
}

fn opened(granted: &BTreeSet<GrantAlias>, alias: &str) -> Result<GrantAlias, Refusal> {
    let grant = granted.iter().find(|grant| grant.as_str() == alias);
    grant.cloned().ok_or(Refusal::NotGranted)
}

fn symmetric(algorithm: &str, label: Option<&str>) -> SymmetricInfo {
    SymmetricInfo {
        algorithm: algorithm.to_owned(),
        key_id: "toy".to_owned(),
        version: 1,
        label: label.map(str::to_owned),
    }
}

/// Every byte turned by the length of the context: turned again, it is what it was. No cipher.
fn turned(text: &[u8], context: &[u8]) -> Vec<u8> {
    let by = u8::try_from(context.len()).unwrap_or(u8::MAX);
    text.iter().map(|byte| byte ^ by).collect()
}

/// As long as a tag. No MAC.
fn toy_tag(content: &[u8]) -> Vec<u8> {
    let mut tag = vec![0xA1; TAG];
    for (at, byte) in content.iter().enumerate() {
        tag[at % TAG] ^= byte;
    }
    tag
}

impl fmt::Debug for ToyBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ToyBroker")
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl Default for ToyBroker {
    fn default() -> Self {
        Self::new()
    }
}

impl Broker for ToyBroker {
    fn admit<'a>(
        &'a self,
        manifest: &'a Manifest,
        component: ComponentDigest,
    ) -> BoxFuture<'a, Result<Admission, NotAdmitted>> {
        let mut state = self.state();
        let id = AdmissionId(state.admissions.len() as u64);
        state.admissions.push(manifest.grants.keys().cloned().collect());
        let admission = Admission {
            id,
            agent: manifest.agent.name.clone(),
            component,
            manifest: manifest.digest,
            capabilities: manifest
                .grants
                .values()
                .map(|grant| grant.capability.kind())
                .collect(),
        };
        Box::pin(async move { Ok(admission) })
    }

    fn withdraw(&self, _: AdmissionId, _: Vec<String>) {}

    fn start(&self, admission: AdmissionId) -> Result<InstanceId, Refusal> {
        let mut state = self.state();
        state.next += 1;
        let who = InstanceId(state.next);
        state.instances.insert(who, admission);
        state.records.push(Record::Started(who));
        Ok(who)
    }

    fn end(&self, who: InstanceId, how: InstanceEnd) {
        let mut state = self.state();
        if state.instances.remove(&who).is_some() {
            state.records.push(Record::Ended(who, how));
        }
    }

    fn perform(&self, who: InstanceId, request: Request) -> BoxFuture<'_, Result<Outcome, Refusal>> {
        Box::pin(async move {
            match self.decide(who, request)? {
                Some(outcome) => Ok(outcome),
                None => {
                    let _abandoned = Abandoned { broker: self, who };
                    std::future::pending().await
                }
            }
        })
    }

    fn send(
        &self,
        who: InstanceId,
        head: RequestHead,
        body: Option<BodyStream>,
    ) -> BoxFuture<'_, Result<Answer, SendError>> {
        let sending = self
            .sending
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        Box::pin(async move {
            self.state().records.push(Record::Sent(who, head.clone()));
            let Some(sending) = sending else {
                return Err(SendError::Refused {
                    refusal: Refusal::NotGranted,
                    grant: None,
                });
            };
            let abandoned = Abandoned { broker: self, who };
            let answer = sending(head, body).await;
            std::mem::forget(abandoned);
            answer
        })
    }
}

/// Records that a request's future was dropped.
struct Abandoned<'a> {
    broker: &'a ToyBroker,
    who: InstanceId,
}

impl Drop for Abandoned<'_> {
    fn drop(&mut self) {
        self.broker.state().records.push(Record::Abandoned(self.who));
    }
}
